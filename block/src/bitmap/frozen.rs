//! Bitmaps that somebody uses: an export shows one, or a job works on its content.

use super::{Bitmap, BitmapUse};
use crate::{
    allocation::ByteRange,
    dirty_bitmap::{DirtyBitmap, Run},
    error::BlockError,
};

/// Keeps a bitmap busy until it is dropped; see [`Bitmap::mark_busy`]. Any thread.
#[derive(Debug)]
#[must_use = "the bitmap is free again once this is dropped"]
pub struct BusyGuard {
    bitmap: Bitmap,
}

impl BusyGuard {
    pub(super) fn new(bitmap: &Bitmap) -> Result<Self, BlockError> {
        bitmap.change(BitmapUse::Read, |state| {
            state.begin_use();
            Ok(())
        })?;
        Ok(Self {
            bitmap: bitmap.clone(),
        })
    }

    /// The bitmap that is busy.
    #[must_use]
    pub fn bitmap(&self) -> &Bitmap {
        &self.bitmap
    }

    /// What of `range` is dirty now and what is not: at most `most` runs, one behind the other from its start on. The
    /// last may reach past its end; there are none where the bitmap has no bits.
    #[must_use]
    pub fn runs(&self, range: ByteRange, most: usize) -> Vec<Run> {
        self.bitmap.always(|state| {
            let mut at = range.start();
            let next = || {
                let run = state
                    .content()
                    .status_run(at)
                    .filter(|_| at < range.end())?;
                at = run.range.end();
                Some(run)
            };
            std::iter::from_fn(next).take(most).collect()
        })
    }

    /// A copy of the content, now.
    ///
    /// # Errors
    ///
    /// [`NoSpace`](crate::ErrorKind::NoSpace): there is no memory for one more bitmap.
    pub fn snapshot(&self) -> Result<DirtyBitmap, BlockError> {
        self.bitmap.always(|state| state.content().try_clone())
    }
}

impl Drop for BusyGuard {
    fn drop(&mut self) {
        self.bitmap.always(super::State::end_use);
    }
}

/// A bitmap whose content a job works on, while changes are recorded beside it; see [`Bitmap::freeze`].
///
/// One of its methods says how it ends; dropping it [reclaims](Self::reclaim). Any thread.
#[derive(Debug)]
#[must_use = "the bitmap is as it was once this is dropped"]
pub struct Frozen {
    bitmap: Bitmap,
}

impl Frozen {
    pub(super) fn new(bitmap: &Bitmap) -> Result<Self, BlockError> {
        bitmap.change(BitmapUse::Read, super::State::freeze)?;
        Ok(Self {
            bitmap: bitmap.clone(),
        })
    }

    /// The bitmap that is frozen.
    #[must_use]
    pub fn bitmap(&self) -> &Bitmap {
        &self.bitmap
    }

    /// A copy of the frozen content.
    ///
    /// # Errors
    ///
    /// [`NoSpace`](crate::ErrorKind::NoSpace): there is no memory for one more bitmap.
    pub fn snapshot(&self) -> Result<DirtyBitmap, BlockError> {
        self.bitmap.always(|state| state.content().try_clone())
    }

    /// The job has dealt with the content: only what was recorded beside it remains.
    pub fn abdicate(self) {
        self.bitmap.always(super::State::abdicate);
    }

    /// The job has failed, or was not to touch the bitmap: what was recorded beside the content is added to it.
    pub fn reclaim(self) {
        drop(self);
    }

    /// The job has dealt with part of the content: what it has `not_copied` remains, and what was recorded beside.
    ///
    /// The granularities may differ. If `not_copied` is of another length, everything remains.
    pub fn reclaim_with(self, not_copied: &DirtyBitmap) {
        self.bitmap.always(|state| state.abdicate_but(not_copied));
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // Does nothing once another end was chosen.
        self.bitmap.always(super::State::reclaim);
    }
}
