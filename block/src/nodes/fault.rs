//! `fault`: a filter that fails, delays or holds chosen requests, for tests.
//!
//! [`FaultControl`] moves a node from outside, [`FaultOptions`] are given to it from the start.

mod control;
mod options;
mod script;

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use aio::{AioContext, IoBuf};

pub use self::control::{FaultAction, FaultControl, FaultOp, FaultRule, HeldRequest};
pub use self::options::{FaultEvent, FaultOptions, InjectError, SetState};
use self::script::Script;
use crate::{
    allocation::{ByteRange, Extent},
    error::{BlockError, ErrorKind},
    graph::child::Child,
    node_driver::{Access, Limits, Located, NodeDriver, RequestFlags, RequestFuture, Transferred},
};

/// A filter that passes everything through, but for the requests that the rules of its
/// [`FaultControl`] or of its [`FaultOptions`] catch.
#[derive(Debug)]
pub struct FaultNode {
    child: Child,
    control: FaultControl,
    options: FaultOptions,
    script: Mutex<Script>,
}

impl FaultNode {
    /// A filter over `child`, moved by `control`.
    #[must_use]
    pub fn new(child: Child, control: FaultControl) -> Self {
        let options = FaultOptions::default();
        Self {
            child,
            control,
            script: Mutex::new(Script::new(&options)),
            options,
        }
    }

    /// The same with `options`, which catch what `control` lets pass.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid): the limits are no multiples of the alignment, or that is no power of two.
    pub fn with_options(
        child: Child,
        control: FaultControl,
        options: FaultOptions,
    ) -> Result<Self, BlockError> {
        options.check(child.limits())?;
        Ok(Self {
            child,
            control,
            script: Mutex::new(Script::new(&options)),
            options,
        })
    }

    async fn meet(&self, cx: &AioContext, op: FaultOp, range: ByteRange) -> Result<(), BlockError> {
        self.control.meet(cx, op, range).await?;
        let failure = {
            let mut script = self.script();
            if script.is_empty() {
                return Ok(());
            }
            if let Some(event) = FaultEvent::of(op) {
                script.happens(event);
            }
            script.verdict(op, range)
        };
        let Some(failure) = failure else {
            return Ok(());
        };
        if !failure.immediately {
            cx.yield_now().await;
        }
        Err(injected(failure.errno).at(range))
    }

    fn written(&self) {
        self.script().happens(FaultEvent::Written);
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn injected(errno: i32) -> BlockError {
    BlockError::io("injected fault", io::Error::from_raw_os_error(errno))
}

/// The pieces of a range, of at most so many bytes; zero is no limit.
fn pieces(range: ByteRange, most: u32) -> impl Iterator<Item = ByteRange> {
    let step = if most == 0 { u64::MAX } else { u64::from(most) };
    let count = range.len().div_ceil(step);
    (0..count).map(move |index| {
        let start = range.start() + index * step;
        ByteRange::between(start, range.end().min(start.saturating_add(step)))
    })
}

/// The bytes of a data request; its end has been checked.
fn data_range(offset_bytes: u64, buf: &IoBuf) -> ByteRange {
    let len = u64::try_from(buf.len()).unwrap_or(u64::MAX);
    ByteRange::between(offset_bytes, offset_bytes.saturating_add(len))
}

impl NodeDriver for FaultNode {
    fn driver_name(&self) -> &'static str {
        "fault"
    }

    fn limits(&self) -> Limits {
        self.options.limits(self.child.limits())
    }

    fn read<'a>(
        &'a self,
        cx: &'a AioContext,
        offset_bytes: u64,
        buf: IoBuf,
    ) -> RequestFuture<'a, Transferred> {
        Box::pin(async move {
            let range = data_range(offset_bytes, &buf);
            match self.meet(cx, FaultOp::Read, range).await {
                Ok(()) => self.child.read(cx, offset_bytes, buf).await,
                Err(error) => (buf, Err(error)),
            }
        })
    }

    fn write<'a>(
        &'a self,
        cx: &'a AioContext,
        offset_bytes: u64,
        buf: IoBuf,
        flags: RequestFlags,
    ) -> RequestFuture<'a, Transferred> {
        Box::pin(async move {
            let range = data_range(offset_bytes, &buf);
            match self.meet(cx, FaultOp::Write, range).await {
                Ok(()) => {
                    let written = self.child.write(cx, offset_bytes, buf, flags).await;
                    self.written();
                    written
                }
                Err(error) => (buf, Err(error)),
            }
        })
    }

    fn write_zeroes<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
        flags: RequestFlags,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(async move {
            self.meet(cx, FaultOp::WriteZeroes, range).await?;
            if range.len() < u64::from(self.options.opt_write_zero) {
                let what = "too short a range to be zeroed";
                return Err(BlockError::new(ErrorKind::Unsupported, what));
            }
            for piece in pieces(range, self.options.max_write_zero) {
                self.child.write_zeroes(cx, piece, flags).await?;
            }
            self.written();
            Ok(())
        })
    }

    fn discard<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(async move {
            self.meet(cx, FaultOp::Discard, range).await?;
            if range.len() < u64::from(self.options.opt_discard) {
                return Ok(());
            }
            for piece in pieces(range, self.options.max_discard) {
                self.child.discard(cx, piece).await?;
            }
            Ok(())
        })
    }

    fn flush<'a>(&'a self, cx: &'a AioContext) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(async move {
            let nothing = ByteRange::between(0, 0);
            self.meet(cx, FaultOp::Flush, nothing).await?;
            self.child.flush(cx).await
        })
    }

    fn truncate<'a>(
        &'a self,
        cx: &'a AioContext,
        len_bytes: u64,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(self.child.truncate(cx, len_bytes))
    }

    fn extent<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
    ) -> RequestFuture<'a, Result<Extent, BlockError>> {
        Box::pin(async move {
            self.meet(cx, FaultOp::Extent, range).await?;
            self.child.extent(cx, range).await
        })
    }

    /// Nowhere: the rules are to see every request.
    fn locate(&self, _range: ByteRange, _access: Access) -> Located<'_> {
        Located::Nowhere
    }

    fn cancel_in_flight(&self) {
        self.child.node().cancel_in_flight();
    }
}

#[cfg(test)]
mod tests;
