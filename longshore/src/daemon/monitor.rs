//! [`Monitors`]: one client after the other on each chardev that has a monitor, and all of them at once.
//!
//! ```text
//!   socket ──▶ reading task ──▶ requests ──▶ running task ──▶ outbox ──▶ sending task ──▶ socket
//!                                 │ full: stops reading          │ full: begins no request
//! ```
//!
//! Commands of one client run one after the other; those of different monitors side by side. A client that
//! does not read its replies stops being read itself; one that does not even read its events is sent away.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    os::fd::AsRawFd,
    rc::Rc,
};

use aio::{Fd, IoBuf, SendPart};
use nix::sys::socket::{Shutdown, shutdown};
use qmp::{Input, QmpError, Request, Session, Value, qapi_enum, qapi_struct, types::Style};
use serde::Serialize;

use super::{Daemon, chardev::Chardev, command::Command, events::Event, misc};
use crate::export::signal::{Signal, race, until};

/// Most requests of a client that wait for their turn.
const REQUESTS_MAX: usize = 64;

/// From so many bytes on that a client has not taken, none of its requests begins.
const OUT_BYTES_FULL: usize = 256 << 10;

/// A client that has not taken so many bytes is sent away.
const OUT_BYTES_MAX: usize = 32 << 20;

/// Bytes that are received at once, and as many of short messages are sent at once.
const CHUNK_BYTES: usize = 64 << 10;

/// Most bytes that are sent at once.
const SEND_BYTES_MAX: usize = 1 << 20;

/// Longest time that a client which has ended its side may take for the last replies.
const GOODBYE_NS_MAX: u64 = 5_000_000_000;

/// Most clients that have left while a command of theirs still runs; the next one waits for one of these.
const LEAVING_MAX: usize = 16;

qapi_enum! {
    /// What a monitor speaks.
    pub enum MonitorMode {
        /// For people; we have none.
        Readline,
        /// QMP.
        Control,
    }
}

qapi_struct! {
    /// A monitor as the command line gives it.
    pub struct MonitorOptions {
        /// A name, which nobody uses.
        id: Option<String>,
        /// What it speaks.
        mode: Option<MonitorMode>,
        /// Whether what it sends is laid out for people.
        pretty: Option<bool>,
        /// Where its clients come from.
        chardev: String,
    }
}

/// How what is sent is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// A line.
    Line,
    /// Many lines.
    Pretty,
}

/// The clients of all monitors.
#[derive(Debug, Default)]
pub(crate) struct Monitors {
    clients: RefCell<Vec<Rc<Client>>>,
}

/// The commands of this file.
pub(super) fn commands() -> Vec<Command> {
    vec![Command::new("monitor", monitor).line_only()]
}

/// `--monitor`.
async fn monitor(daemon: &Rc<Daemon>, options: MonitorOptions) -> Result<(), QmpError> {
    if options.mode == Some(MonitorMode::Readline) {
        return Err(QmpError::generic("only QMP is supported"));
    }
    let chardev = daemon.chardevs.find(&options.chardev);
    let chardev = chardev
        .ok_or_else(|| QmpError::generic(format!("chardev \"{}\" not found", options.chardev)))?;
    let layout = match options.pretty {
        Some(true) => Layout::Pretty,
        _ => Layout::Line,
    };
    start(daemon, chardev, layout)
}

/// Serves the clients of a chardev from now on.
pub(super) fn start(
    daemon: &Rc<Daemon>,
    chardev: Rc<Chardev>,
    layout: Layout,
) -> Result<(), QmpError> {
    chardev.take()?;
    drop(daemon.spawn(|daemon| serve(daemon, chardev, layout)));
    Ok(())
}

async fn serve(daemon: Rc<Daemon>, chardev: Rc<Chardev>, layout: Layout) {
    // Nobody is to see half of what the command line asks for.
    daemon.started().await;
    loop {
        let socket = chardev.next_client(&daemon.context).await;
        let client = Client::new(socket, layout);
        client.serve(&daemon).await;
    }
}

impl Monitors {
    /// Tells all clients of an event, but those that have not negotiated.
    ///
    /// `at` is the time by the wall clock: seconds and microseconds.
    pub(super) fn tell(&self, event: &Event, at: (u64, u32)) {
        let mut line = None;
        for client in self.clients.borrow().iter() {
            let listens = !client.has_ended_input.get();
            if listens && client.session.borrow().is_negotiated() {
                let line = line.get_or_insert_with(|| qmp::event(event.name(), &event.data(), at));
                client.send(line);
            }
        }
    }

    /// Waits until all clients have taken what they were sent.
    pub(super) async fn all_sent(&self) {
        let clients = self.clients.borrow().clone();
        for client in clients {
            client.all_sent().await;
        }
    }

    /// Sends all clients away.
    pub(super) fn close_all(&self) {
        for client in self.clients.take() {
            client.close();
        }
    }

    fn leave(&self, client: &Rc<Client>) {
        let mut clients = self.clients.borrow_mut();
        clients.retain(|other| !Rc::ptr_eq(other, client));
    }

    fn leaving(&self) -> usize {
        let clients = self.clients.borrow();
        clients
            .iter()
            .filter(|client| client.has_ended_input.get())
            .count()
    }
}

/// One client of a monitor.
#[derive(Debug)]
struct Client {
    socket: Fd,
    layout: Layout,
    session: RefCell<Session>,
    /// What was asked and is not answered.
    requests: RefCell<VecDeque<Input>>,
    /// What is to be sent; its first part may be on its way.
    out: RefCell<VecDeque<Vec<u8>>>,
    out_bytes: Cell<usize>,
    /// A request is being answered.
    is_busy: Cell<bool>,
    /// The client says nothing more.
    has_ended_input: Cell<bool>,
    is_closed: Cell<bool>,
    /// Raised when any of these changes.
    changed: Signal,
}

impl Client {
    fn new(socket: Fd, layout: Layout) -> Rc<Self> {
        let (session, greeting) = Session::new(&misc::version());
        let client = Rc::new(Self {
            socket,
            layout,
            session: RefCell::new(session),
            requests: RefCell::default(),
            out: RefCell::default(),
            out_bytes: Cell::new(0),
            is_busy: Cell::new(false),
            has_ended_input: Cell::new(false),
            is_closed: Cell::new(false),
            changed: Signal::default(),
        });
        client.send(&greeting);
        client
    }

    /// Serves the client until it says nothing more; what it has asked for before is answered beside the next one.
    async fn serve(self: Rc<Self>, daemon: &Rc<Daemon>) {
        daemon.monitors.clients.borrow_mut().push(self.clone());
        let sender = daemon.spawn(|daemon| self.clone().send_all(daemon));
        let runner = daemon.spawn(|daemon| self.clone().run_all(daemon));
        self.read_all(daemon).await;
        self.has_ended_input.set(true);
        self.changed.raise();
        let client = self.clone();
        let leaving = daemon.spawn(|daemon| async move {
            runner.await;
            let last = daemon.context.timeout_ns(GOODBYE_NS_MAX, client.all_sent());
            // Whoever takes that long does not want it.
            let _ = last.await;
            client.close();
            sender.await;
            daemon.monitors.leave(&client);
        });
        if daemon.monitors.leaving() > LEAVING_MAX {
            leaving.await;
        }
    }

    async fn read_all(self: &Rc<Self>, daemon: &Rc<Daemon>) {
        let mut buf = IoBuf::heap(CHUNK_BYTES);
        while !self.is_closed.get() {
            let has_all = self.take_requests(daemon);
            self.changed.raise();
            if !has_all {
                until([&self.changed], || self.may_take().then_some(())).await;
                continue;
            }
            let receive = daemon.context.recv(&self.socket, buf, 0..CHUNK_BYTES);
            let Some((back, received)) = race(receive, self.closed()).await else {
                return;
            };
            buf = back;
            match received {
                Ok(0) | Err(_) => return,
                Ok(count) => self.session.borrow_mut().feed(&buf[..count]),
            }
        }
    }

    /// Queues what has arrived and is whole; whether there was room for all of it.
    fn take_requests(self: &Rc<Self>, daemon: &Rc<Daemon>) -> bool {
        while self.requests.borrow().len() < REQUESTS_MAX {
            let next = self.session.borrow_mut().next();
            match next {
                None => return true,
                Some(Input::Command(request)) if request.oob => {
                    self.answer_at_once(daemon, request);
                }
                Some(input) => self.requests.borrow_mut().push_back(input),
            }
        }
        false
    }

    /// Whether there is room for more requests, or no use for it.
    fn may_take(&self) -> bool {
        self.is_closed.get() || self.requests.borrow().len() < REQUESTS_MAX
    }

    /// Answers what overtakes the other requests.
    fn answer_at_once(self: &Rc<Self>, daemon: &Rc<Daemon>, request: Request) {
        match daemon.commands.of_client(&request.name) {
            Ok(command) if !command.is_oob() => {
                let refused = Err(QmpError::no_oob(&request.name));
                self.send(&qmp::reply(request.id.as_ref(), refused));
            }
            Ok(_) | Err(_) => {
                let client = self.clone();
                drop(daemon.spawn(|daemon| async move {
                    let line = answer(&daemon, request).await;
                    client.send(&line);
                }));
            }
        }
    }

    /// Answers the requests, one after the other, until there will be no more.
    async fn run_all(self: Rc<Self>, daemon: Rc<Daemon>) {
        while let Some(input) = self.next_request(&daemon).await {
            self.is_busy.set(true);
            // There is room for another one.
            self.changed.raise();
            let line = match input {
                Input::Reply(line) => line,
                Input::Command(request) => answer(&daemon, request).await,
            };
            // What a command has caused is told before its reply.
            daemon.deliver_events();
            self.send(&line);
            self.is_busy.set(false);
            self.changed.raise();
        }
    }

    /// The next request; `None` if none is to be answered any more.
    async fn next_request(&self, daemon: &Daemon) -> Option<Input> {
        until([&self.changed, &daemon.changed], || {
            if self.is_closed.get() || daemon.is_ending() {
                return Some(None);
            }
            if self.out_bytes.get() >= OUT_BYTES_FULL {
                return None;
            }
            match self.requests.borrow_mut().pop_front() {
                None if !self.has_ended_input.get() => None,
                next => Some(next),
            }
        })
        .await
    }

    /// Leaves a line for the client. Never waits.
    fn send(&self, line: &[u8]) {
        if self.is_closed.get() {
            return;
        }
        let bytes = match self.layout {
            Layout::Line => line.to_vec(),
            Layout::Pretty => pretty(line),
        };
        self.out_bytes.set(self.out_bytes.get() + bytes.len());
        self.out.borrow_mut().push_back(bytes);
        if self.out_bytes.get() > OUT_BYTES_MAX {
            tracing::warn!(
                "a client of a monitor does not read what it is sent; it is disconnected"
            );
            self.close();
        }
        self.changed.raise();
    }

    async fn send_all(self: Rc<Self>, daemon: Rc<Daemon>) {
        while let Some(chunk) = self.next_chunk().await {
            let mut buf = IoBuf::heap(chunk.len());
            buf.copy_from_slice(&chunk);
            let send = daemon
                .context
                .send(&self.socket, vec![SendPart::whole(buf)]);
            let sent = race(send, self.closed()).await;
            self.out_bytes
                .set(self.out_bytes.get().saturating_sub(chunk.len()));
            self.changed.raise();
            if !matches!(sent, Some((_, Ok(())))) {
                self.close();
            }
        }
    }

    /// The next bytes to send; `None` at the end.
    async fn next_chunk(&self) -> Option<Vec<u8>> {
        until([&self.changed], || {
            if self.is_closed.get() {
                return Some(None);
            }
            let mut out = self.out.borrow_mut();
            let mut chunk = out.pop_front()?;
            while let Some(next) = out.pop_front_if(|next| chunk.len() + next.len() <= CHUNK_BYTES)
            {
                chunk.extend_from_slice(&next);
            }
            if chunk.len() > SEND_BYTES_MAX {
                out.push_front(chunk.split_off(SEND_BYTES_MAX));
            }
            Some(Some(chunk))
        })
        .await
    }

    /// Waits until the client has all its answers and what it was told before.
    async fn all_sent(&self) {
        until([&self.changed], || {
            let has_sent = self.out_bytes.get() == 0 && !self.is_busy.get();
            (has_sent || self.is_closed.get()).then_some(())
        })
        .await;
    }

    async fn closed(&self) {
        until([&self.changed], || self.is_closed.get().then_some(())).await;
    }

    /// Sends the client away.
    fn close(&self) {
        if self.is_closed.replace(true) {
            return;
        }
        self.out.take();
        self.requests.take();
        // A client that has gone is no error here.
        if let Err(error) = shutdown(self.socket.as_raw_fd(), Shutdown::Both) {
            tracing::trace!(%error, "the client was gone already");
        }
        self.changed.raise();
    }
}

/// Runs a command and puts its reply into words.
async fn answer(daemon: &Rc<Daemon>, request: Request) -> Vec<u8> {
    let Request {
        name,
        arguments,
        id,
        ..
    } = request;
    let result = match daemon.commands.of_client(&name) {
        Ok(command) => {
            let arguments = Value::Object(arguments);
            command.run(daemon, Style::Json, arguments).await
        }
        Err(error) => Err(error),
    };
    qmp::reply(id.as_ref(), result)
}

/// The same message over many lines.
fn pretty(line: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let layout = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut writer = serde_json::Serializer::with_formatter(&mut bytes, layout);
    let message: Result<Value, _> = serde_json::from_slice(line);
    let written = message.and_then(|message| message.serialize(&mut writer));
    if written.is_err() {
        return line.to_vec();
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}
