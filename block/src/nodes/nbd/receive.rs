//! [`Receiver`]: the task that reads replies, and believes none of them unchecked.

use std::{io, sync::Arc};

use aio::{AioContext, Fd};
use nbd::{
    BASE_ALLOCATION, BlockStatus, ChunkBody, ChunkEnd, Command, Errno, ErrorReport, ProtocolError,
    Reply, ReplyStyle, Request,
};

use super::{calls::Ending, connection::Connection, inbox::Inbox};
use crate::allocation::ByteRange;

/// The receiving end of a connection.
pub(super) struct Receiver {
    connection: Arc<Connection>,
    inbox: Inbox,
}

impl From<io::Error> for Ending {
    fn from(error: io::Error) -> Self {
        Self::Lost(match error.kind() {
            io::ErrorKind::UnexpectedEof => "the server closed it".to_owned(),
            _ => error.to_string(),
        })
    }
}

impl From<ProtocolError> for Ending {
    fn from(error: ProtocolError) -> Self {
        Self::Broken(error)
    }
}

impl Receiver {
    pub(super) fn new(connection: Arc<Connection>, socket: &Fd) -> Self {
        let inbox = Inbox::new(socket);
        Self { connection, inbox }
    }

    /// Takes replies until the connection ends, and ends it when it cannot go on.
    pub(super) async fn run(mut self, cx: AioContext) {
        loop {
            if let Err(ending) = self.reply(&cx).await {
                return self.connection.cut(ending);
            }
        }
    }

    async fn reply(&mut self, cx: &AioContext) -> Result<(), Ending> {
        let style = self.connection.session().replies;
        let (reply, len) = loop {
            if let Some(whole) = Reply::decode(style, self.inbox.bytes())? {
                break whole;
            }
            self.inbox.fill(cx).await?;
        };
        self.inbox.consume(len);
        let cookie = reply.cookie();
        let request = self.connection.lock().request(cookie)?;
        let end = match reply {
            Reply::Simple { result, .. } => {
                self.simple(cx, &request, result).await?;
                ChunkEnd::Done
            }
            Reply::Chunk { end, body, .. } => {
                self.chunk(cx, &request, body).await?;
                end
            }
        };
        if end == ChunkEnd::Done {
            let aftermath = self.connection.lock().end(cookie)?;
            aftermath.settle();
        }
        Ok(())
    }

    async fn simple(
        &mut self,
        cx: &AioContext,
        request: &Request,
        result: Result<(), Errno>,
    ) -> Result<(), Ending> {
        if let Err(errno) = result {
            let mut calls = self.connection.lock();
            calls.refuse(request.cookie, errno, String::new())?;
            return Ok(());
        }
        if request.command != Command::Read {
            return Ok(());
        }
        if self.connection.session().replies == ReplyStyle::Structured {
            let what = "data without the chunks that were agreed on";
            return Err(ProtocolError::BadReply(what).into());
        }
        let (offset, len) = (request.offset_bytes, request.len_bytes);
        self.data(cx, request, offset, len).await
    }

    async fn chunk(
        &mut self,
        cx: &AioContext,
        request: &Request,
        body: ChunkBody,
    ) -> Result<(), Ending> {
        let cookie = request.cookie;
        match body {
            ChunkBody::None => {}
            ChunkBody::Data {
                offset_bytes,
                len_bytes,
            } => {
                let len_bytes = u64::from(len_bytes);
                self.data(cx, request, offset_bytes, len_bytes).await?;
            }
            ChunkBody::Hole {
                offset_bytes,
                len_bytes,
            } => self.hole(request, offset_bytes, u64::from(len_bytes))?,
            ChunkBody::Error {
                shape,
                payload_bytes,
            } => {
                let payload = self.inbox.take(cx, in_memory(payload_bytes)).await?;
                let report = ErrorReport::decode(shape, &payload)?;
                let mut calls = self.connection.lock();
                calls.refuse(cookie, report.errno, report.text)?;
            }
            ChunkBody::BlockStatus { payload_bytes } => {
                let payload = self.inbox.take(cx, in_memory(payload_bytes)).await?;
                self.status(request, &payload)?;
            }
        }
        Ok(())
    }

    /// Receives data of a read to where it belongs.
    async fn data(
        &mut self,
        cx: &AioContext,
        request: &Request,
        offset_bytes: u64,
        len_bytes: u64,
    ) -> Result<(), Ending> {
        let (range, place) = place_of(request, offset_bytes, len_bytes)?;
        let buf = self.connection.lock().lend(request.cookie, range)?;
        let (buf, received) = self.inbox.receive(cx, buf, place).await;
        let staged = received.as_ref().map_or(0, |staged| *staged);
        let mut calls = self.connection.lock();
        let aftermath = calls.give_back(request.cookie, buf, staged);
        drop(calls);
        aftermath.settle();
        received?;
        Ok(())
    }

    fn hole(
        &self,
        request: &Request,
        offset_bytes: u64,
        len_bytes: u64,
    ) -> Result<(), ProtocolError> {
        let (range, place) = place_of(request, offset_bytes, len_bytes)?;
        let mut buf = self.connection.lock().lend(request.cookie, range)?;
        buf[place].fill(0);
        let aftermath = self.connection.lock().give_back(request.cookie, buf, 0);
        aftermath.settle();
        Ok(())
    }

    fn status(&self, request: &Request, payload: &[u8]) -> Result<(), ProtocolError> {
        let status = BlockStatus::decode(payload)?;
        let known = self.connection.session().contexts.iter();
        let is_ours = known
            .filter(|context| context.name == BASE_ALLOCATION)
            .any(|context| context.id == status.context_id);
        let first = status.extents.first().filter(|_| is_ours);
        let first = first.ok_or(ProtocolError::BadReply("a block status of something else"))?;
        if request.command != Command::BlockStatus {
            return Err(ProtocolError::BadReply("a block status nobody asked for"));
        }
        let mut calls = self.connection.lock();
        calls.tell_extent(request.cookie, *first)
    }
}

/// The bytes of the export that came, and where in the buffer of the request they belong.
fn place_of(
    request: &Request,
    offset_bytes: u64,
    len_bytes: u64,
) -> Result<(ByteRange, std::ops::Range<usize>), ProtocolError> {
    let outside = ProtocolError::BadReply("data that nobody asked for");
    if request.command != Command::Read || !request.covers(offset_bytes, len_bytes) {
        return Err(outside);
    }
    let range = ByteRange::new(offset_bytes, len_bytes).ok_or(outside)?;
    let start = usize::try_from(offset_bytes - request.offset_bytes).map_err(|_| outside)?;
    let len = usize::try_from(len_bytes).map_err(|_| outside)?;
    Ok((range, start..start + len))
}

fn in_memory(len_bytes: u32) -> usize {
    usize::try_from(len_bytes).expect("a length of 32 bits fits")
}
