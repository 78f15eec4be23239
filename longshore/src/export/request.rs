//! What requests do to the node: the way from a connection through the export's gate, and back with an errno.

use std::rc::Rc;

use aio::IoBuf;
use block::{AllocationStatus, ByteRange, RequestFlags};
use nbd::{
    ChunkEnd, Command, CommandFlags, Errno, MAX_STATUS_EXTENTS, Request, STATE_HOLE, STATE_ZERO,
    StatusExtent, block_status_chunk,
};

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
            fua: flags.contains(CommandFlags::FUA),
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
            Command::BlockStatus => match self.block_status(&request).await {
                Ok(bytes) => return self.answer_with(bytes, slot),
                Err(errno) => Err(errno),
            },
            // Of no length; the check lets no others through.
            Command::Read | Command::Write => Ok(()),
            Command::Cache | Command::Disc | Command::Unknown(_) => Err(Errno::Inval),
        };
        self.answer(&request, result, slot);
    }

    /// Goes in through the export's gate, unless the client is gone before it opens.
    async fn enter(&self) -> Result<Inside, Errno> {
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
        if request.flags.contains(CommandFlags::FUA) {
            self.flush().await?;
        }
        Ok(())
    }

    async fn write_zeroes(&self, request: &Request) -> Result<(), Errno> {
        let flags = RequestFlags {
            fua: request.flags.contains(CommandFlags::FUA),
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

    /// The whole reply: one chunk for each context, of which `base:allocation` is the only kind.
    async fn block_status(&self, request: &Request) -> Result<Vec<u8>, Errno> {
        let extents = self.extents(request).await?;
        let mut bytes = Vec::new();
        let mut contexts = self.session.contexts.iter().peekable();
        while let Some(context) = contexts.next() {
            let end = match contexts.peek() {
                Some(_) => ChunkEnd::More,
                None => ChunkEnd::Done,
            };
            block_status_chunk(&mut bytes, request, context.id, &extents, end);
        }
        Ok(bytes)
    }

    /// What lies at the start of the request's range: as many extents as a reply holds, neighbours
    /// of one kind made one.
    async fn extents(&self, request: &Request) -> Result<Vec<StatusExtent>, Errno> {
        let mut extents: Vec<StatusExtent> = Vec::new();
        let mut at = request.offset_bytes;
        let end = request.offset_bytes + request.len_bytes;
        for _ in 0..MAX_STATUS_EXTENTS {
            let _inside = self.enter().await?;
            let range = ByteRange::between(at, end);
            let extent = match self.using.child().extent(&self.cx, range).await {
                Ok(extent) => extent,
                // What is known so far is an answer.
                Err(_) if !extents.is_empty() => break,
                Err(error) => return Err(self.failed(&error, Asked::Plainly)),
            };
            let flags = state_of(extent.status);
            match extents.last_mut() {
                Some(last) if last.flags == flags => last.len_bytes += extent.len_bytes,
                Some(_) if request.flags.contains(CommandFlags::REQ_ONE) => break,
                _ => extents.push(StatusExtent {
                    len_bytes: extent.len_bytes,
                    flags,
                }),
            }
            at += extent.len_bytes;
            if at >= end {
                break;
            }
        }
        Ok(extents)
    }
}

/// A status in the words of `base:allocation`, in which "data" is always right.
fn state_of(status: AllocationStatus) -> u32 {
    match status {
        AllocationStatus::Zero => STATE_HOLE | STATE_ZERO,
        AllocationStatus::Data | AllocationStatus::Unallocated => 0,
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
