//! [`Threshold`]: an offset beyond which the first write to a node is told of.

use std::{
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Where no write comes to.
const NOWHERE: u64 = u64::MAX;

/// The threshold of a node, if it has one. Any thread.
pub(super) struct Threshold {
    /// What writes look at: the offset of the watch, or [`NOWHERE`].
    offset_bytes: AtomicU64,
    watch: Mutex<Option<Watch>>,
}

struct Watch {
    offset_bytes: u64,
    tell: Box<dyn FnOnce(u64) + Send>,
}

impl Default for Threshold {
    fn default() -> Self {
        Self {
            offset_bytes: AtomicU64::new(NOWHERE),
            watch: Mutex::default(),
        }
    }
}

impl Threshold {
    /// The offset, if a write beyond it is to be told of.
    pub(super) fn offset_bytes(&self) -> Option<u64> {
        self.watch().as_ref().map(|watch| watch.offset_bytes)
    }

    /// From now on there is this threshold and no other.
    pub(super) fn set(&self, offset_bytes: u64, tell: Box<dyn FnOnce(u64) + Send>) {
        self.replace(Some(Watch { offset_bytes, tell }));
    }

    /// From now on there is none.
    pub(super) fn clear(&self) {
        self.replace(None);
    }

    /// A write begins that ends at `end_bytes`.
    pub(super) fn write_to(&self, end_bytes: u64) {
        if end_bytes > self.offset_bytes.load(Relaxed) {
            self.passed(end_bytes);
        }
    }

    #[cold]
    fn passed(&self, end_bytes: u64) {
        let mut watch = self.watch();
        // Another write may have been first, and the threshold another one since.
        let passed = watch.take_if(|watch| end_bytes > watch.offset_bytes);
        let Some(passed) = passed else {
            return;
        };
        self.offset_bytes.store(NOWHERE, Relaxed);
        drop(watch);
        (passed.tell)(end_bytes - passed.offset_bytes);
    }

    fn replace(&self, new: Option<Watch>) {
        let mut watch = self.watch();
        let offset_bytes = new.as_ref().map_or(NOWHERE, |new| new.offset_bytes);
        let old = std::mem::replace(&mut *watch, new);
        self.offset_bytes.store(offset_bytes, Relaxed);
        drop(watch);
        // What it would have told may take locks when it goes.
        drop(old);
    }

    fn watch(&self) -> MutexGuard<'_, Option<Watch>> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let offset_bytes = self.offset_bytes();
        f.debug_struct("Threshold")
            .field("offset_bytes", &offset_bytes)
            .finish_non_exhaustive()
    }
}
