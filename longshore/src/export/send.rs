//! The sending task of a connection: replies that are ready together leave together.

use std::rc::Rc;

use aio::{IoBuf, SendPart};
use nbd::{
    ChunkEnd, CommandFlags, Errno, HeaderBytes, ReplyStyle, Request, data_chunk, simple_reply,
};

use super::{
    connection::{Connection, len_of},
    memory::Charge,
    outbox::{Outgoing, Slot, put_bytes},
};

/// Replies that leave in one message, and what is given back once they have left.
#[derive(Default)]
struct Batch {
    parts: Vec<SendPart>,
    held: Vec<(Option<Charge>, Slot)>,
}

impl Connection {
    /// Sends replies as they become ready, to the end of the connection.
    pub(super) async fn send_replies(self: Rc<Self>) {
        let mut batch = Batch::default();
        while let Some(ready) = self.outbox.take().await {
            for outgoing in ready {
                batch = self.put(batch, outgoing).await;
            }
            batch = self.send_batch(batch).await;
        }
    }

    async fn put(&self, mut batch: Batch, outgoing: Outgoing) -> Batch {
        match outgoing {
            Outgoing::Reply { header, data, slot } => {
                put_bytes(&mut batch.parts, &header);
                let (buf, charge) = data.unzip();
                batch.parts.extend(buf.map(SendPart::whole));
                batch.held.push((charge, slot));
            }
            Outgoing::Messages { bytes, slot } => {
                put_bytes(&mut batch.parts, &bytes);
                batch.held.push((None, slot));
            }
            Outgoing::LongRead {
                request,
                buf,
                charge,
                slot,
            } => {
                batch = self.send_batch(batch).await;
                self.send_long_read(&request, buf).await;
                drop((charge, slot));
            }
        }
        batch
    }

    async fn send_batch(&self, batch: Batch) -> Batch {
        let Batch { parts, mut held } = batch;
        let mut parts = self.send(parts).await;
        // The buffers first: what is charged for them is then really free.
        parts.clear();
        held.clear();
        Batch { parts, held }
    }

    /// Sends `parts` and gives them back. A failure closes the line.
    async fn send(&self, parts: Vec<SendPart>) -> Vec<SendPart> {
        if parts.is_empty() || self.is_closed() {
            return parts;
        }
        let (parts, sent) = self.cx.send(self.line.socket(), parts).await;
        if let Err(error) = sent {
            tracing::debug!(%error, "a client is gone");
            self.line.close();
        }
        parts
    }

    /// Reads and sends a request that is longer than `buf`, piece by piece.
    ///
    /// Structured replies can tell an error behind any piece. A reply that is one run of bytes can tell
    /// it before the first piece; later it can only end the connection.
    async fn send_long_read(&self, request: &Request, mut buf: IoBuf) {
        let piece_len = buf.len();
        let end = request.offset_bytes + request.len_bytes;
        let mut at = request.offset_bytes;
        while at < end && !self.is_closed() {
            let len = usize::try_from(end - at).map_or(piece_len, |left| left.min(piece_len));
            buf.set_len(len);
            let read;
            (buf, read) = self.read_node(at, buf).await;
            if let Err(errno) = read {
                return self.give_up_long_read(request, at, errno).await;
            }
            let next = at + len_of(&buf);
            let mut parts = Vec::new();
            if let Some(header) = self.piece_header(request, at, next) {
                put_bytes(&mut parts, &header);
            }
            parts.push(SendPart::whole(buf));
            buf = match self.send(parts).await.pop() {
                Some(SendPart::Buf { buf, .. }) => buf,
                Some(SendPart::Header { .. }) | None => unreachable!("the data is the last part"),
            };
            at = next;
        }
    }

    /// Whether each piece of a long read has a header of its own.
    fn is_chunked(&self, request: &Request) -> bool {
        let unfragmented = request.flags.contains(CommandFlags::DF);
        self.session.replies == ReplyStyle::Structured && !unfragmented
    }

    /// What stands before the piece of a long read from `at` to `next`.
    fn piece_header(&self, request: &Request, at: u64, next: u64) -> Option<HeaderBytes> {
        if self.is_chunked(request) {
            let len = u32::try_from(next - at).expect("a buffer is far shorter than 4 GiB");
            let is_last = next == request.offset_bytes + request.len_bytes;
            let end = if is_last {
                ChunkEnd::Done
            } else {
                ChunkEnd::More
            };
            let header = data_chunk(request.cookie, at, len, end);
            return Some(self.reply_header(request, header));
        }
        let is_first = at == request.offset_bytes;
        is_first.then(|| match self.session.replies {
            ReplyStyle::Simple => simple_reply(request.cookie, Ok(())),
            ReplyStyle::Structured => {
                let header = self.session.replies.read_data(request);
                self.reply_header(request, header)
            }
        })
    }

    async fn give_up_long_read(&self, request: &Request, at: u64, errno: Errno) {
        if !self.is_chunked(request) && at > request.offset_bytes {
            return self.line.close();
        }
        let style = self.session.replies;
        let header = style.error(request.cookie, errno, &errno.to_string());
        let mut parts = Vec::new();
        put_bytes(&mut parts, &self.reply_header(request, header));
        drop(self.send(parts).await);
    }
}
