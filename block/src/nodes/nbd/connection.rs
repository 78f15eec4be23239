//! [`Connection`]: one connection to a server, on one context; requests come from any.
//!
//! ```text
//!   who asks            sending task          receiving task
//!   call() ──▶ calls ──▶ header, data ──▶ ... ──▶ reply, data into the buffer ──▶ who asked
//! ```
//!
//! Both tasks are on the context that the connection was started on. Whatever ends the connection shuts
//! the socket down, which brings everything back that the kernel has; then all calls end.

use std::{
    future::Future,
    os::fd::AsRawFd,
    pin::Pin,
    sync::{Arc, PoisonError},
    task::{Context, Poll},
};

use aio::{
    AioContext, Fd, Handle, IoBuf, SendPart,
    sync::{Mutex, MutexGuard},
};
use nbd::{ClientSession, Command, CommandFlags, Request};
use nix::sys::socket::{Shutdown, shutdown};

use super::{
    calls::{Calls, Ending, Life, Returned},
    receive::Receiver,
};
use crate::wait::WaitList;

/// From so many bytes of data on, a message is sent: what waits behind it is sent with the next one.
const MESSAGE_BYTES: usize = 256 << 10;

/// A socket on which client and server have agreed.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) socket: Fd,
    pub(super) session: ClientSession,
}

/// One connection. Any thread.
#[derive(Debug)]
pub(super) struct Connection {
    home: Handle,
    socket: Fd,
    session: ClientSession,
    calls: Mutex<Calls>,
    /// The sender waits for something to do.
    changed: WaitList,
}

impl Connection {
    /// A connection that will live on `cx`; it does nothing until it is [started](Self::start) there.
    pub(super) fn new(cx: &AioContext, opened: Opened) -> Arc<Self> {
        Arc::new(Self {
            home: cx.handle().clone(),
            socket: opened.socket,
            session: opened.session,
            calls: Mutex::new(Calls::new()),
            changed: WaitList::default(),
        })
    }

    /// Starts the tasks, on the context it was made for.
    pub(super) fn start(self: &Arc<Self>, cx: &AioContext) {
        let life = AtHome(self.clone());
        drop(cx.spawn(life.run(cx.clone())));
    }

    pub(super) fn home(&self) -> &Handle {
        &self.home
    }

    pub(super) fn session(&self) -> &ClientSession {
        &self.session
    }

    /// Whether it takes requests.
    pub(super) fn is_open(&self) -> bool {
        *self.lock().life() == Life::Open
    }

    /// Requests that have not been answered.
    pub(super) fn load(&self) -> usize {
        self.lock().len()
    }

    /// Has the server do what `request` says, with the data of a write, or with room for that of a read.
    ///
    /// The cookie is chosen here. Dropping the future abandons the result, and the request if it has
    /// not been sent.
    pub(super) async fn call(&self, request: Request, buf: Option<IoBuf>) -> Returned {
        let added = self.lock().add(request, buf);
        match added {
            Ok(cookie) => {
                let waiting = Waiting {
                    connection: self,
                    cookie,
                };
                self.changed.wake_all();
                waiting.await
            }
            Err(returned) => returned,
        }
    }

    /// Ends the connection. What is in flight fails as soon as the kernel has given it back.
    pub(super) fn cut(&self, ending: Ending) {
        self.lock().end_life(ending);
        self.hang_up();
    }

    /// Ends the connection with a good-bye, or without if something is in flight.
    pub(super) fn leave(&self) {
        let mut calls = self.lock();
        calls.leave();
        let says_goodbye = *calls.life() == Life::Leaving;
        drop(calls);
        if says_goodbye {
            self.changed.wake_all();
        } else {
            self.hang_up();
        }
    }

    fn hang_up(&self) {
        // Valid while `self.socket` lives; a peer that has gone is no error here.
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
        self.changed.wake_all();
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send_all(&self, cx: &AioContext) {
        loop {
            self.changed.until(|| self.lock().needs_sender()).await;
            let life = self.lock().life().clone();
            match life {
                Life::Open => self.send_some(cx).await,
                Life::Leaving => {
                    let goodbye = Request {
                        cookie: 0,
                        command: Command::Disc,
                        flags: CommandFlags::NONE,
                        offset_bytes: 0,
                        len_bytes: 0,
                    };
                    let parts = vec![self.header(&goodbye)];
                    drop(cx.send(&self.socket, parts).await);
                    self.cut(Ending::Cancelled);
                }
                Life::Over(_) => return,
            }
        }
    }

    /// Sends what waits, up to a message's worth.
    async fn send_some(&self, cx: &AioContext) {
        let mut parts = Vec::new();
        let mut lent = Vec::new();
        let mut len = 0;
        while len < MESSAGE_BYTES {
            let Some((request, data)) = self.lock().next_unsent() else {
                break;
            };
            parts.push(self.header(&request));
            if let Some(data) = data {
                len += data.len();
                lent.push(request.cookie);
                parts.push(SendPart::whole(data));
            }
        }
        let (parts, sent) = cx.send(&self.socket, parts).await;
        let bufs = parts.into_iter().filter_map(|part| match part {
            SendPart::Buf { buf, .. } => Some(buf),
            SendPart::Header { .. } => None,
        });
        for (cookie, buf) in lent.into_iter().zip(bufs) {
            let aftermath = self.lock().give_back(cookie, buf, 0);
            aftermath.settle();
        }
        if let Err(error) = sent {
            self.cut(Ending::Lost(error.to_string()));
        }
    }

    fn header(&self, request: &Request) -> SendPart {
        let header = request.encode(self.session.headers);
        SendPart::header(&header)
    }
}

/// The life of a connection on its context. Dropped at the end, or with the context.
struct AtHome(Arc<Connection>);

impl AtHome {
    async fn run(self, cx: AioContext) {
        let receiver = Receiver::new(self.0.clone(), &self.0.socket);
        let receiving = cx.spawn(receiver.run(cx.clone()));
        self.0.send_all(&cx).await;
        receiving.await;
    }
}

impl Drop for AtHome {
    fn drop(&mut self) {
        self.0.cut(Ending::Homeless);
        let all = self.0.lock().end_all();
        for aftermath in all {
            aftermath.settle();
        }
    }
}

/// A call that waits for its end.
struct Waiting<'a> {
    connection: &'a Connection,
    cookie: u64,
}

impl Future for Waiting<'_> {
    type Output = Returned;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Returned> {
        let (polled, unused) = self.connection.lock().poll(self.cookie, cx.waker());
        drop(unused);
        polled
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let aftermath = self.connection.lock().abandon(self.cookie);
        aftermath.settle();
    }
}
