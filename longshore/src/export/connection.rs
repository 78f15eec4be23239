//! [`Connection`]: one client after its handshake.
//!
//! ```text
//!            reading task               request tasks             sending task
//!   socket ──▶ inbox ──▶ slot, memory ──▶ gate ──▶ node ──▶ outbox ──▶ socket
//!                          │ full: stops reading      in order of completion
//! ```
//!
//! A slot and the memory for data are taken before a request begins, and given back when its reply
//! has been sent. So a client that does not read its replies stops being read itself, and holds no
//! more than that.

use std::{rc::Rc, sync::Arc};

use aio::{AioContext, IoBuf};
use block::BlockError;
use nbd::{Command, Errno, HeaderBytes, Request, Session};

use super::{
    error::{Asked, errno_of},
    exported::Using,
    inbox::Inbox,
    line::Line,
    memory::{Charge, PayloadMemory, Share},
    outbox::{Outbox, Outgoing, Slot, Slots},
    signal::until,
    status::{Context, chosen_contexts},
};

/// A client that announces more data than this in one request is left: it will not come.
const PAYLOAD_BYTES_MAX: u64 = 1 << 32;

/// One client that uses an export.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) cx: AioContext,
    pub(super) using: Using,
    pub(super) session: Session,
    /// The metadata contexts of the session.
    pub(super) contexts: Vec<Context>,
    pub(super) line: Arc<Line>,
    memory: Rc<PayloadMemory>,
    share: Rc<Share>,
    slots: Rc<Slots>,
    pub(super) outbox: Outbox,
}

impl Connection {
    /// Serves a client until it leaves or its line is closed, and every request has ended.
    pub(super) async fn serve(
        cx: AioContext,
        line: Arc<Line>,
        (using, session): (Using, Session),
        memory: Rc<PayloadMemory>,
        inbox: Inbox,
    ) {
        let Some(contexts) = chosen_contexts(using.link(), &session.contexts) else {
            return;
        };
        let connection = Rc::new(Self {
            using,
            session,
            contexts,
            memory,
            share: Rc::default(),
            slots: Slots::new(&line),
            outbox: Outbox::new(&line),
            line,
            cx: cx.clone(),
        });
        let sender = cx.spawn(connection.clone().send_replies());
        connection.read_requests(inbox).await;
        // Who says goodbye gets the replies to what was asked before.
        connection.slots.all_free().await;
        connection.outbox.complete();
        sender.await;
    }

    async fn read_requests(self: &Rc<Self>, mut inbox: Inbox) {
        while let Some(request) = self.next_request(&mut inbox).await {
            if request.command == Command::Disc {
                return;
            }
            let Some(slot) = self.admit().await else {
                return;
            };
            if self.begin(request, slot, &mut inbox).await.is_none() {
                return;
            }
        }
    }

    /// Receives the next header; `None` when the client has left, or makes no sense.
    async fn next_request(&self, inbox: &mut Inbox) -> Option<Request> {
        loop {
            match Request::decode(self.session.headers, inbox.bytes()) {
                Ok(Some((request, len))) => {
                    inbox.consume(len);
                    return Some(request);
                }
                Ok(None) => inbox.fill(&self.cx, &self.line).await?,
                Err(error) => {
                    tracing::debug!(%error, "a client breaks the protocol");
                    return None;
                }
            }
        }
    }

    /// Waits while the node is drained, too many requests are under way, or too much waits to be sent.
    async fn admit(&self) -> Option<Slot> {
        let gate = self.using.export().gate();
        let signals = [gate.opened(), self.line.changed(), self.memory.freed()];
        until(signals, || {
            if self.line.is_closed() {
                return Some(None);
            }
            if !gate.is_open() || self.share.is_behind() {
                return None;
            }
            self.slots.try_take().map(Some)
        })
        .await
    }

    /// Takes the data of a request off the socket and has the rest done by a task; `None` ends the connection.
    async fn begin(self: &Rc<Self>, request: Request, slot: Slot, inbox: &mut Inbox) -> Option<()> {
        let headers = self.session.headers;
        let payload_bytes = request.payload_bytes(headers);
        if payload_bytes > PAYLOAD_BYTES_MAX {
            return None;
        }
        inbox.expect_more_like(headers, payload_bytes);
        if request.command == Command::BlockStatus && payload_bytes > 0 {
            return self.begin_query(request, slot, inbox).await;
        }
        if let Err(errno) = request.check(&self.session.limits) {
            inbox.skip(&self.cx, &self.line, payload_bytes).await?;
            self.answer(&request, Err(errno), slot);
            return Some(());
        }
        match request.command {
            Command::Read if request.len_bytes > 0 => self.begin_read(request, slot).await,
            Command::Write if request.len_bytes > 0 => {
                self.receive_write(request, slot, inbox).await
            }
            _ => {
                let connection = self.clone();
                let task = async move { connection.carry_out(request, slot).await };
                drop(self.cx.spawn(task));
                Some(())
            }
        }
    }

    async fn take_memory(&self, want_bytes: u64) -> Option<(IoBuf, Charge)> {
        self.memory.take(&self.line, &self.share, want_bytes).await
    }

    async fn begin_read(self: &Rc<Self>, request: Request, slot: Slot) -> Option<()> {
        let (buf, mut charge) = self.take_memory(request.len_bytes).await?;
        if len_of(&buf) < request.len_bytes {
            self.outbox.push(Outgoing::LongRead {
                request,
                buf,
                charge,
                slot,
            });
            return Some(());
        }
        let connection = self.clone();
        let task = async move {
            let (buf, read) = connection.read_node(request.offset_bytes, buf).await;
            match read {
                Ok(()) => {
                    let header = connection.session.replies.read_data(&request);
                    charge.ready();
                    connection.outbox.push(Outgoing::Reply {
                        header: connection.reply_header(&request, header),
                        data: Some((buf, charge)),
                        slot,
                    });
                }
                Err(errno) => connection.answer(&request, Err(errno), slot),
            }
        };
        drop(self.cx.spawn(task));
        Some(())
    }

    /// Receives the data of a write. All but the last piece are written before the next one is
    /// received; few clients send more than one.
    async fn receive_write(
        self: &Rc<Self>,
        request: Request,
        slot: Slot,
        inbox: &mut Inbox,
    ) -> Option<()> {
        let (mut offset_bytes, mut left_bytes) = (request.offset_bytes, request.len_bytes);
        loop {
            let (buf, charge) = self.take_memory(left_bytes).await?;
            let (buf, staged) = inbox.receive(&self.cx, &self.line, buf).await?;
            let staged = u64::try_from(staged).expect("a length of memory");
            self.using.export().counters.bounced(staged);
            let len_bytes = len_of(&buf);
            left_bytes -= len_bytes;
            if left_bytes == 0 {
                let last = (offset_bytes, buf, charge);
                let task = self.clone().finish_write(request, last, slot);
                drop(self.cx.spawn(task));
                return Some(());
            }
            let written = self.write_node(offset_bytes, buf, request.flags).await;
            if written.is_err() {
                inbox.skip(&self.cx, &self.line, left_bytes).await?;
                self.answer(&request, written, slot);
                return Some(());
            }
            offset_bytes += len_bytes;
        }
    }

    /// Writes the last piece of a write, and answers it.
    async fn finish_write(
        self: Rc<Self>,
        request: Request,
        (offset_bytes, buf, charge): (u64, IoBuf, Charge),
        slot: Slot,
    ) {
        let written = self.write_node(offset_bytes, buf, request.flags).await;
        drop(charge);
        self.answer(&request, written, slot);
    }

    /// Replies to a request that has no data to send.
    pub(super) fn answer(&self, request: &Request, result: Result<(), Errno>, slot: Slot) {
        let style = self.session.replies;
        let header = match result {
            Ok(()) => style.done(request, self.session.headers),
            // The node's own words name nodes and files, which are not for clients.
            Err(errno) => {
                let error = style.error(request.cookie, errno, &errno.to_string());
                self.reply_header(request, error)
            }
        };
        let data = None;
        self.outbox.push(Outgoing::Reply { header, data, slot });
    }

    /// A header of a reply to `request` as this client wants headers.
    pub(super) fn reply_header(&self, request: &Request, header: HeaderBytes) -> HeaderBytes {
        self.session.headers.reply_header(request, header)
    }

    /// Sends whole messages as the reply to a request.
    pub(super) fn answer_with(&self, bytes: Vec<u8>, slot: Slot) {
        self.outbox.push(Outgoing::Messages { bytes, slot });
    }

    /// Counts and logs an error of the node, and says what the client is told.
    pub(super) fn failed(&self, error: &BlockError, asked: Asked) -> Errno {
        self.using.export().counters.failed();
        let errno = errno_of(error, asked);
        tracing::debug!(%error, ?errno, export = self.using.export().name(), "a request failed");
        errno
    }

    /// Whether nobody waits for answers any more.
    pub(super) fn is_closed(&self) -> bool {
        self.line.is_closed()
    }
}

/// Bytes in use of a buffer.
pub(super) fn len_of(buf: &IoBuf) -> u64 {
    u64::try_from(buf.len()).expect("a length of memory")
}
