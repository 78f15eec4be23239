//! `null-co`: takes everything, stores nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use aio::{AioContext, IoBuf};

use crate::{
    allocation::{AllocationStatus, ByteRange, Extent},
    error::BlockError,
    node_driver::{
        Access, Limits, Located, NodeDriver, RequestFlags, RequestFuture, Transferred, Way,
    },
};

/// Largest read or write; nothing here needs a smaller one.
const TRANSFER_BYTES_MAX: u32 = 1 << 30;

/// What a [`NullNode`] pretends to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NullOptions {
    /// Length in bytes, to begin with.
    pub len_bytes: u64,
    /// Time that each request but an extent query takes, in nanoseconds.
    pub latency_ns: u64,
    /// Reads fill the buffer with zeroes. Without it they leave the buffer as it was.
    pub read_zeroes: bool,
}

/// A node that takes everything and stores nothing, for measurements.
#[derive(Debug)]
pub struct NullNode {
    options: NullOptions,
    len_bytes: AtomicU64,
}

impl NullNode {
    /// A null node as described.
    #[must_use]
    pub fn new(options: NullOptions) -> Self {
        Self {
            options,
            len_bytes: AtomicU64::new(options.len_bytes),
        }
    }

    async fn pass_time(&self, cx: &AioContext) {
        if self.options.latency_ns > 0 {
            cx.sleep_ns(self.options.latency_ns).await;
        }
    }
}

impl NodeDriver for NullNode {
    fn driver_name(&self) -> &'static str {
        "null-co"
    }

    fn limits(&self) -> Limits {
        Limits {
            len_bytes: self.len_bytes.load(Ordering::Relaxed),
            request_align_bytes: 1,
            transfer_bytes_max: TRANSFER_BYTES_MAX,
            cluster_bytes: None,
            read_only: false,
        }
    }

    fn read<'a>(
        &'a self,
        cx: &'a AioContext,
        _offset_bytes: u64,
        mut buf: IoBuf,
    ) -> RequestFuture<'a, Transferred> {
        Box::pin(async move {
            self.pass_time(cx).await;
            if self.options.read_zeroes {
                buf.fill(0);
                return (buf, Ok(Way::Buffered));
            }
            (buf, Ok(Way::Direct))
        })
    }

    fn write<'a>(
        &'a self,
        cx: &'a AioContext,
        _offset_bytes: u64,
        buf: IoBuf,
        _flags: RequestFlags,
    ) -> RequestFuture<'a, Transferred> {
        Box::pin(async move {
            self.pass_time(cx).await;
            (buf, Ok(Way::Direct))
        })
    }

    fn write_zeroes<'a>(
        &'a self,
        cx: &'a AioContext,
        _range: ByteRange,
        _flags: RequestFlags,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(async move {
            self.pass_time(cx).await;
            Ok(())
        })
    }

    fn discard<'a>(
        &'a self,
        cx: &'a AioContext,
        _range: ByteRange,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(async move {
            self.pass_time(cx).await;
            Ok(())
        })
    }

    fn flush<'a>(&'a self, cx: &'a AioContext) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(async move {
            self.pass_time(cx).await;
            Ok(())
        })
    }

    fn truncate<'a>(
        &'a self,
        _cx: &'a AioContext,
        len_bytes: u64,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(async move {
            self.len_bytes.store(len_bytes, Ordering::Relaxed);
            Ok(())
        })
    }

    fn extent<'a>(
        &'a self,
        _cx: &'a AioContext,
        range: ByteRange,
    ) -> RequestFuture<'a, Result<Extent, BlockError>> {
        Box::pin(async move {
            Ok(Extent {
                len_bytes: range.len(),
                status: if self.options.read_zeroes {
                    AllocationStatus::Zero
                } else {
                    AllocationStatus::Data
                },
            })
        })
    }

    fn locate(&self, _range: ByteRange, _access: Access) -> Located<'_> {
        Located::Nowhere
    }

    fn cancel_in_flight(&self) {}
}
