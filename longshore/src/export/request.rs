//! What requests do to the node: the way from a connection through the export's gate, and back with an errno.

use std::rc::Rc;

use aio::IoBuf;
use block::{ByteRange, RequestFlags};
use nbd::{Command, CommandFlags, Errno, Request};

use super::{
    connection::{Connection, len_of},
    error::Asked,
    gate::Inside,
    outbox::Slot,
};

/// Longest range that is zeroed or discarded in one go, so that a drain need not wait for gigabytes.
const STRIDE_BYTES: u64 = 64 << 20;

impl Connection {
    /// Reads into all of `buf`.
    pub(super) async fn read_node(
        &self,
        offset_bytes: u64,
        buf: IoBuf,
    ) -> (IoBuf, Result<(), Errno>) {
        let _inside = match self.enter().await {
            Ok(inside) => inside,
            Err(errno) => return (buf, Err(errno)),
        };
        let child = self.using.child();
        let (buf, read) = child.read(&self.cx, offset_bytes, buf).await;
        let read = match read {
            Ok(way) => {
                self.using.export().counters.read(len_of(&buf), way);
                Ok(())
            }
            Err(error) => Err(self.failed(&error, Asked::Plainly)),
        };
        (buf, read)
    }

    /// Writes all of `buf`.
    pub(super) async fn write_node(
        &self,
        offset_bytes: u64,
        buf: IoBuf,
        flags: CommandFlags,
    ) -> Result<(), Errno> {
        let _inside = self.enter().await?;
        let flags = RequestFlags {
            fua: self.is_durable(flags),
            ..RequestFlags::default()
        };
        let child = self.using.child();
        let (buf, written) = child.write(&self.cx, offset_bytes, buf, flags).await;
        match written {
            Ok(way) => {
                self.using.export().counters.wrote(len_of(&buf), way);
                Ok(())
            }
            Err(error) => Err(self.failed(&error, Asked::Plainly)),
        }
    }

    /// Does a request that has no data, and answers it.
    pub(super) async fn carry_out(self: Rc<Self>, request: Request, slot: Slot) {
        let result = match request.command {
            Command::Flush => self.flush().await,
            Command::Trim => self.discard(&request).await,
            Command::WriteZeroes => self.write_zeroes(&request).await,
            Command::BlockStatus => return self.tell_status(request, None, slot).await,
            // Of no length; the check lets no others through.
            Command::Read | Command::Write => Ok(()),
            Command::Cache | Command::Disc | Command::Unknown(_) => Err(Errno::Inval),
        };
        self.answer(&request, result, slot);
    }

    /// Whether what a request changes is to be durable when it is answered.
    fn is_durable(&self, flags: CommandFlags) -> bool {
        flags.contains(CommandFlags::FUA) || self.using.export().is_writethrough()
    }

    /// Goes in through the export's gate, unless the client is gone before it opens.
    pub(super) async fn enter(&self) -> Result<Inside, Errno> {
        let gate = self.using.export().gate();
        let inside = gate.enter(|| self.is_closed()).await;
        inside.ok_or(Errno::Shutdown)
    }

    async fn flush(&self) -> Result<(), Errno> {
        let _inside = self.enter().await?;
        let flushed = self.using.child().flush(&self.cx).await;
        flushed.map_err(|error| self.failed(&error, Asked::Plainly))?;
        self.using.export().counters.flushed();
        Ok(())
    }

    async fn discard(&self, request: &Request) -> Result<(), Errno> {
        for range in strides(request) {
            let _inside = self.enter().await?;
            let discarded = self.using.child().discard(&self.cx, range).await;
            discarded.map_err(|error| self.failed(&error, Asked::Plainly))?;
        }
        self.using.export().counters.discarded();
        if self.is_durable(request.flags) {
            self.flush().await?;
        }
        Ok(())
    }

    async fn write_zeroes(&self, request: &Request) -> Result<(), Errno> {
        let flags = RequestFlags {
            fua: self.is_durable(request.flags),
            may_unmap: !request.flags.contains(CommandFlags::NO_HOLE),
            no_fallback: request.flags.contains(CommandFlags::FAST_ZERO),
            unchanged: false,
            serialising: false,
        };
        let asked = if flags.no_fallback {
            Asked::FastOnly
        } else {
            Asked::Plainly
        };
        for range in strides(request) {
            let _inside = self.enter().await?;
            let child = self.using.child();
            let zeroed = child.write_zeroes(&self.cx, range, flags).await;
            zeroed.map_err(|error| self.failed(&error, asked))?;
        }
        let counters = &self.using.export().counters;
        counters.wrote(request.len_bytes, block::Way::Direct);
        Ok(())
    }
}

/// A request's range, cut at multiples of [`STRIDE_BYTES`] so that the cuts are aligned.
fn strides(request: &Request) -> impl Iterator<Item = ByteRange> {
    let end = request.offset_bytes + request.len_bytes;
    let mut at = request.offset_bytes;
    std::iter::from_fn(move || {
        let cut = (at / STRIDE_BYTES + 1).saturating_mul(STRIDE_BYTES);
        let stride = ByteRange::between(at, cut.min(end));
        at = stride.end();
        (!stride.is_empty()).then_some(stride)
    })
}

#[cfg(test)]
mod tests {
    use nbd::{Command, CommandFlags, Request};

    use super::{STRIDE_BYTES, strides};

    fn cut(offset_bytes: u64, len_bytes: u64) -> Vec<(u64, u64)> {
        let request = Request {
            cookie: 0,
            command: Command::WriteZeroes,
            flags: CommandFlags::NONE,
            offset_bytes,
            len_bytes,
        };
        strides(&request)
            .map(|range| (range.start(), range.len()))
            .collect()
    }

    #[test]
    fn long_ranges_are_cut_at_aligned_places() {
        assert_eq!(cut(5, 10), [(5, 10)]);
        assert_eq!(cut(5, 0), []);
        assert_eq!(
            cut(STRIDE_BYTES, STRIDE_BYTES),
            [(STRIDE_BYTES, STRIDE_BYTES)]
        );
        let head = STRIDE_BYTES - 5;
        let want = [
            (5, head),
            (STRIDE_BYTES, STRIDE_BYTES),
            (2 * STRIDE_BYTES, 7),
        ];
        assert_eq!(cut(5, head + STRIDE_BYTES + 7), want);
        assert_eq!(cut(u64::MAX - 3, 3), [(u64::MAX - 3, 3)]);
    }
}
