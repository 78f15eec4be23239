//! [`Inbox`]: what a client has sent and nobody has taken yet.

use std::ops::Range;

use aio::{AioContext, IoBuf};
use nbd::HeaderMode;

use super::line::Line;

/// Room for many small requests at once.
const STAGING_BYTES: usize = 64 << 10;
/// From here on it pays to receive the header of a write alone, and the data where it belongs.
const LARGE_WRITE_BYTES: u64 = 32 << 10;

/// A staging buffer before a socket: headers pass through it, and of the data as little as possible.
///
/// A request's header can only be received together with what follows. After a large write the
/// inbox expects another one and asks for a header's bytes only; after anything else it asks for
/// all there is. So small requests come many at a time, and the data of large ones is not copied.
#[derive(Debug)]
pub(super) struct Inbox {
    /// Absent while the kernel has it.
    buf: Option<IoBuf>,
    filled: Range<usize>,
    /// How far the buffer is filled next.
    room: usize,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self {
            buf: Some(IoBuf::heap(STAGING_BYTES)),
            filled: 0..0,
            room: STAGING_BYTES,
        }
    }

    /// What is there.
    pub(super) fn bytes(&self) -> &[u8] {
        self.buf
            .as_ref()
            .map_or(&[], |buf| &buf[self.filled.clone()])
    }

    /// Takes the first `len` bytes off.
    pub(super) fn consume(&mut self, len: usize) {
        self.filled.start += len;
        debug_assert!(
            self.filled.start <= self.filled.end,
            "took what is not there"
        );
    }

    /// Waits for at least one byte more; `None` when no more will come.
    ///
    /// What is there already is less than a header.
    pub(super) async fn fill(&mut self, cx: &AioContext, line: &Line) -> Option<()> {
        let mut buf = self.buf.take()?;
        buf.copy_within(self.filled.clone(), 0);
        self.filled = 0..self.filled.len();
        let range = self.filled.end..self.room;
        let (buf, received) = cx.recv(line.socket(), buf, range).await;
        self.buf = Some(buf);
        match received {
            Ok(0) => None,
            Ok(len) => {
                self.filled.end += len;
                Some(())
            }
            Err(error) => {
                tracing::debug!(%error, "a client is gone");
                None
            }
        }
    }

    /// Fills `buf` with what comes next; returns with it how many bytes had to be copied.
    pub(super) async fn receive(
        &mut self,
        cx: &AioContext,
        line: &Line,
        mut buf: IoBuf,
    ) -> Option<(IoBuf, usize)> {
        let staged = self.bytes().len().min(buf.len());
        buf[..staged].copy_from_slice(&self.bytes()[..staged]);
        self.consume(staged);
        let len = buf.len();
        let (buf, received) = cx.recv_exact(line.socket(), buf, staged..len).await;
        match received {
            Ok(()) => Some((buf, staged)),
            Err(error) => {
                tracing::debug!(%error, "a client is gone in the middle of a write");
                None
            }
        }
    }

    /// Drops the next `len_bytes`, in small pieces; `None` when fewer come.
    pub(super) async fn skip(
        &mut self,
        cx: &AioContext,
        line: &Line,
        len_bytes: u64,
    ) -> Option<()> {
        let mut left = len_bytes;
        self.room = STAGING_BYTES;
        loop {
            let have = self.bytes().len();
            let now = usize::try_from(left).map_or(have, |left| left.min(have));
            self.consume(now);
            left -= u64::try_from(now).expect("a length of memory");
            if left == 0 {
                return Some(());
            }
            self.fill(cx, line).await?;
        }
    }

    /// Learns from a request whose data had `payload_bytes`, for those that follow.
    pub(super) fn expect_more_like(&mut self, headers: HeaderMode, payload_bytes: u64) {
        self.room = if payload_bytes >= LARGE_WRITE_BYTES {
            headers.request_bytes()
        } else {
            STAGING_BYTES
        };
    }
}
