//! How much of a scratch node a copy may fill.

use std::{fmt, sync::PoisonError};

use aio::sync::{Mutex, MutexGuard};

use crate::{
    allocation::ByteRange,
    dirty_bitmap::DirtyBitmap,
    error::{BlockError, ErrorKind},
    wait::WaitList,
};

/// What happens to old data for which there is no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFull {
    /// It cannot be saved: what gives way, guest or snapshot, is for
    /// [`OnCbwError`](crate::nodes::copy_before_write::OnCbwError) to say.
    #[default]
    Refuse,
    /// Whoever saves it waits, and the guest that wants to overwrite it, until room is
    /// [given back](SpaceBudget) or the copy is given up.
    Wait,
}

/// A hard limit on the bytes that a copy keeps in its target, where that is scratch space.
///
/// Only data counts, in whole clusters: zeroes take no room. What is discarded through the snapshot is given back. Any
/// thread.
pub struct SpaceBudget {
    bytes_max: u64,
    on_full: OnFull,
    state: Mutex<State>,
    given_back: WaitList,
}

struct State {
    /// What is kept, or about to be.
    kept: DirtyBitmap,
    used_bytes: u64,
    peak_bytes: u64,
    is_over: bool,
}

/// Why bytes are not kept now.
enum Refused {
    /// For good: the copy was given up.
    Over,
    /// There is no room.
    Full,
}

impl SpaceBudget {
    /// Room for `bytes_max` bytes, in clusters of `cluster_bytes`, of a node of `len_bytes`.
    ///
    /// # Errors
    ///
    /// As [`DirtyBitmap::new`].
    pub(crate) fn new(
        (bytes_max, on_full): (u64, OnFull),
        len_bytes: u64,
        cluster_bytes: u64,
    ) -> Result<Self, BlockError> {
        let state = State {
            kept: DirtyBitmap::new(len_bytes, cluster_bytes)?,
            used_bytes: 0,
            peak_bytes: 0,
            is_over: false,
        };
        Ok(Self {
            bytes_max,
            on_full,
            state: Mutex::new(state),
            given_back: WaitList::default(),
        })
    }

    /// The limit in bytes.
    #[must_use]
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Bytes kept now.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.lock().used_bytes
    }

    /// Most bytes that were kept at one time.
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        self.lock().peak_bytes
    }

    /// Takes room for `range`, which are whole clusters. What has it already takes no more.
    pub(super) async fn take(&self, range: ByteRange) -> Result<(), BlockError> {
        let mut answer = self.try_take(range);
        if self.on_full == OnFull::Wait && matches!(answer, Err(Refused::Full)) {
            self.given_back
                .until(|| {
                    answer = self.try_take(range);
                    !matches!(answer, Err(Refused::Full))
                })
                .await;
        }
        answer.map_err(|refused| match refused {
            Refused::Over => super::given_up(),
            Refused::Full => {
                let text = format!(
                    "the {} bytes of scratch space for old data are used up",
                    self.bytes_max
                );
                BlockError::new(ErrorKind::NoSpace, text).at(range)
            }
        })
    }

    fn try_take(&self, range: ByteRange) -> Result<(), Refused> {
        let mut state = self.lock();
        if state.is_over {
            return Err(Refused::Over);
        }
        let new_bytes = clean_bytes(&state.kept, range);
        if state.used_bytes.saturating_add(new_bytes) > self.bytes_max {
            return Err(Refused::Full);
        }
        state.used_bytes += state.kept.set(range);
        state.peak_bytes = state.peak_bytes.max(state.used_bytes);
        Ok(())
    }

    /// The node does not keep `range`, whole clusters, any more.
    pub(super) fn give_back(&self, range: ByteRange) {
        {
            let mut state = self.lock();
            let freed = state.kept.clear(range);
            state.used_bytes = state.used_bytes.saturating_sub(freed);
        }
        self.given_back.wake_all();
    }

    /// Nobody waits for room any more.
    pub(super) fn close(&self) {
        self.lock().is_over = true;
        self.given_back.wake_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many bytes setting `range`, whole granules, would make dirty; the last granule counts whole.
fn clean_bytes(bitmap: &DirtyBitmap, range: ByteRange) -> u64 {
    let (mut at, mut bytes) = (range.start(), 0);
    while let Some(start) = bitmap.next_zero(at).filter(|start| *start < range.end()) {
        let end = bitmap.next_dirty(start).unwrap_or(range.end());
        let end = end.min(range.end());
        bytes += (end - start).next_multiple_of(bitmap.granularity_bytes());
        at = end;
    }
    bytes
}

impl fmt::Debug for SpaceBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpaceBudget")
            .field("bytes_max", &self.bytes_max)
            .field("used_bytes", &self.used_bytes())
            .finish_non_exhaustive()
    }
}
