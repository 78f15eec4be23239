//! Write zeroes and discard of a file node: the cheapest call that works here, remembered per node.

use std::{
    io,
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering},
};

use aio::{AioContext, FallocateMode, IoBuf, sys};

use super::FileNode;
use crate::{
    allocation::ByteRange,
    error::{BlockError, ErrorKind},
    node_driver::RequestFlags,
};

/// Size of the buffer of zero bytes where nothing cheaper works.
const ZERO_BUFFER_BYTES: u64 = 1 << 20;

/// Calls that this file's file system or device refused once; they are not tried again.
#[derive(Debug, Default)]
pub(super) struct Refused {
    punch: AtomicBool,
    zero_range: AtomicBool,
    discard: AtomicBool,
    holes: AtomicBool,
}

impl Refused {
    pub(super) fn has_no_holes(&self) -> bool {
        self.holes.load(Ordering::Relaxed)
    }

    pub(super) fn holes(&self) {
        self.holes.store(true, Ordering::Relaxed);
    }
}

/// Whether the system says that it has no such call here, rather than that the call failed.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV | libc::ENOTTY)
    )
}

/// Whether the call may work with another range or at another time: a device takes whole blocks
/// only, and none while somebody else has claimed it.
fn is_refusal_of_range(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EBUSY))
}

impl FileNode {
    pub(super) async fn zero(
        &self,
        cx: &AioContext,
        range: ByteRange,
        flags: RequestFlags,
    ) -> Result<(), BlockError> {
        if flags.may_unmap
            && self
                .try_fallocate(cx, FallocateMode::PunchHole, range)
                .await?
        {
            return Ok(());
        }
        // A device without a command for it has the kernel write the zeroes, which is the slow way.
        let may_be_slow = self.is_block_device() && flags.no_fallback;
        if !may_be_slow
            && self
                .try_fallocate(cx, FallocateMode::ZeroRange, range)
                .await?
        {
            return Ok(());
        }
        if flags.no_fallback {
            let text = "there is no faster way to write zeroes here than to write them";
            return Err(BlockError::new(ErrorKind::Unsupported, text));
        }
        self.write_zero_bytes(cx, range).await
    }

    pub(super) async fn let_go(&self, cx: &AioContext, range: ByteRange) -> Result<(), BlockError> {
        if !self.is_block_device() {
            self.try_fallocate(cx, FallocateMode::PunchHole, range)
                .await?;
            return Ok(());
        }
        if self.refused.discard.load(Ordering::Relaxed) {
            return Ok(());
        }
        let file = self.plain();
        let result = cx
            .blocking(move || sys::discard_device(file.as_fd(), range.start(), range.len()))
            .await;
        match result {
            Ok(()) => Ok(()),
            Err(error) if is_refusal(&error) => {
                self.refused.discard.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(error) if is_refusal_of_range(&error) => Ok(()),
            Err(source) => Err(self.failed("cannot discard on", source)),
        }
    }

    /// `false` when this call does not exist here, and another way must be taken.
    async fn try_fallocate(
        &self,
        cx: &AioContext,
        mode: FallocateMode,
        range: ByteRange,
    ) -> Result<bool, BlockError> {
        let refused = match mode {
            FallocateMode::PunchHole => &self.refused.punch,
            _ => &self.refused.zero_range,
        };
        if refused.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let result = cx
            .fallocate(&self.plain(), mode, range.start(), range.len())
            .await;
        match result {
            Ok(()) => Ok(true),
            Err(error) if is_refusal(&error) => {
                refused.store(true, Ordering::Relaxed);
                Ok(false)
            }
            Err(error) if is_refusal_of_range(&error) => Ok(false),
            Err(source) => Err(self.failed("cannot write zeroes to", source)),
        }
    }

    /// Not from the context's pool: whoever asks may hold pooled buffers itself and would wait for its own.
    async fn write_zero_bytes(&self, cx: &AioContext, range: ByteRange) -> Result<(), BlockError> {
        let len = |bytes: u64| usize::try_from(bytes).expect("a buffer's length fits memory");
        let mut zeroes = IoBuf::heap(len(range.len().min(ZERO_BUFFER_BYTES)));
        let mut at = range.start();
        while at < range.end() {
            let step = (range.end() - at).min(ZERO_BUFFER_BYTES);
            zeroes.set_len(len(step));
            let (buf_back, result) = self.write_whole(cx, at, zeroes).await;
            result?;
            zeroes = buf_back;
            at += step;
        }
        Ok(())
    }
}

#[cfg(test)]
impl Refused {
    /// Pretends that the system has none of the calls.
    pub(super) fn refuse_all(&self) {
        for call in [&self.punch, &self.zero_range, &self.discard] {
            call.store(true, Ordering::Relaxed);
        }
    }
}
