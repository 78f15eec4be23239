//! A disk as a node driver.

use std::sync::Arc;

use aio::{AioContext, IoBuf};
use block::{
    Access, BlockError, ByteRange, ErrorKind, Extent, Limits, Located, NodeDriver, RequestFlags,
    RequestFuture, Transferred, fixed_length,
};

use super::{Disk, Op, Zeroes};

/// The node driver of a [`Disk`].
#[derive(Clone, Debug)]
pub(crate) struct SimDisk(pub(crate) Arc<Disk>);

impl NodeDriver for SimDisk {
    fn driver_name(&self) -> &'static str {
        "sim-disk"
    }

    fn limits(&self) -> Limits {
        self.0.options.limits
    }

    fn read<'a>(
        &'a self,
        _cx: &'a AioContext,
        offset_bytes: u64,
        buf: IoBuf,
    ) -> RequestFuture<'a, Transferred> {
        let flags = RequestFlags::default();
        Box::pin(self.0.transfer(Op::Read, offset_bytes, buf, flags))
    }

    fn write<'a>(
        &'a self,
        _cx: &'a AioContext,
        offset_bytes: u64,
        buf: IoBuf,
        flags: RequestFlags,
    ) -> RequestFuture<'a, Transferred> {
        Box::pin(self.0.transfer(Op::Write, offset_bytes, buf, flags))
    }

    fn write_zeroes<'a>(
        &'a self,
        _cx: &'a AioContext,
        range: ByteRange,
        flags: RequestFlags,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(async move {
            if self.0.options.zeroes == Zeroes::Unsupported {
                let text = "this disk has no way to write zeroes";
                return Err(BlockError::new(ErrorKind::Unsupported, text));
            }
            self.0.ask(Op::Zeroes, range, flags).await.map(drop)
        })
    }

    fn discard<'a>(
        &'a self,
        _cx: &'a AioContext,
        range: ByteRange,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        let flags = RequestFlags::default();
        Box::pin(async move { self.0.ask(Op::Discard, range, flags).await.map(drop) })
    }

    fn flush<'a>(&'a self, _cx: &'a AioContext) -> RequestFuture<'a, Result<(), BlockError>> {
        let (nothing, flags) = (ByteRange::between(0, 0), RequestFlags::default());
        Box::pin(async move { self.0.ask(Op::Flush, nothing, flags).await.map(drop) })
    }

    fn extent<'a>(
        &'a self,
        _cx: &'a AioContext,
        range: ByteRange,
    ) -> RequestFuture<'a, Result<Extent, BlockError>> {
        let flags = RequestFlags::default();
        Box::pin(async move {
            let done = self.0.ask(Op::Extent, range, flags).await?;
            Ok(done.extent.expect("an extent was looked up"))
        })
    }

    fn truncate<'a>(
        &'a self,
        _cx: &'a AioContext,
        _len_bytes: u64,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        fixed_length("a simulated disk keeps its length")
    }

    fn locate(&self, _range: ByteRange, _access: Access) -> Located<'_> {
        Located::Nowhere
    }

    fn cancel_in_flight(&self) {
        self.0.cancel_stuck();
    }
}
