//! [`Inbox`]: what a server has sent and nobody has taken yet.

use std::{io, ops::Range};

use aio::{AioContext, Fd, IoBuf};

/// Room for many small replies at once.
const STAGING_BYTES: usize = 64 << 10;
/// Longest header of a reply whose data is worth receiving where it belongs: that of a chunk of data.
const HEADER_BYTES: usize = 28;
/// From here on it pays to receive a header alone, and the data where it belongs.
const LARGE_BYTES: usize = 32 << 10;

/// A staging buffer before a socket: headers pass through it, and of the data as little as possible.
///
/// A header can only be received together with what follows. After a long piece of data the inbox
/// expects another one and asks for the bytes of a header only; after a short one it asks for all there is.
#[derive(Debug)]
pub(super) struct Inbox {
    socket: Fd,
    /// Absent while the kernel has it.
    buf: Option<IoBuf>,
    filled: Range<usize>,
    /// How far the buffer is filled next.
    room: usize,
}

impl Inbox {
    pub(super) fn new(socket: &Fd) -> Self {
        Self {
            socket: socket.clone(),
            buf: Some(IoBuf::heap(STAGING_BYTES)),
            filled: 0..0,
            room: HEADER_BYTES,
        }
    }

    /// What is there.
    pub(super) fn bytes(&self) -> &[u8] {
        let buf = self.buf.as_ref();
        buf.map_or(&[], |buf| &buf[self.filled.clone()])
    }

    /// Takes the first `len` bytes off.
    pub(super) fn consume(&mut self, len: usize) {
        self.filled.start += len;
        debug_assert!(
            self.filled.start <= self.filled.end,
            "took what is not there"
        );
    }

    /// Waits for at least one byte more. What is there already is less than a header.
    pub(super) async fn fill(&mut self, cx: &AioContext) -> io::Result<()> {
        let mut buf = self.buf.take().expect("the kernel has it in here only");
        buf.copy_within(self.filled.clone(), 0);
        self.filled = 0..self.filled.len();
        let room = if self.filled.end < self.room {
            self.room
        } else {
            STAGING_BYTES
        };
        let (buf, received) = cx.recv(&self.socket, buf, self.filled.end..room).await;
        self.buf = Some(buf);
        self.filled.end += more_than_none(received)?;
        Ok(())
    }

    /// Takes the next `len` bytes, of which the caller has made sure that they are not many.
    pub(super) async fn take(&mut self, cx: &AioContext, len: usize) -> io::Result<Vec<u8>> {
        let mut taken = Vec::with_capacity(len);
        loop {
            let have = self.bytes();
            let now = have.len().min(len - taken.len());
            taken.extend_from_slice(&have[..now]);
            self.consume(now);
            if taken.len() == len {
                return Ok(taken);
            }
            self.room = STAGING_BYTES;
            self.fill(cx).await?;
        }
    }

    /// Fills the bytes `range` of `buf` with what comes next; tells how many had to be copied.
    pub(super) async fn receive(
        &mut self,
        cx: &AioContext,
        mut buf: IoBuf,
        range: Range<usize>,
    ) -> (IoBuf, io::Result<usize>) {
        let staged = self.bytes().len().min(range.len());
        let direct = range.start + staged;
        buf[range.start..direct].copy_from_slice(&self.bytes()[..staged]);
        self.consume(staged);
        self.room = if range.len() >= LARGE_BYTES {
            HEADER_BYTES
        } else {
            STAGING_BYTES
        };
        let (buf, received) = cx.recv_exact(&self.socket, buf, direct..range.end).await;
        (buf, received.map(|()| staged))
    }
}

fn more_than_none(received: io::Result<usize>) -> io::Result<usize> {
    match received {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        received => received,
    }
}
