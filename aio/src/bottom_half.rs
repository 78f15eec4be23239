//! Bottom halves: callbacks that run on the home thread in a later turn of the loop.
//!
//! Scheduling is one atomic operation and one lock-free push, on any thread. A pending bottom half
//! is in the inbox once, however often it was scheduled:
//!
//! ```text
//!   schedule: SCHEDULED set; PENDING was clear -> set, push
//!   cancel:   SCHEDULED cleared, stays in the inbox, is skipped when reached
//!   delete:   DELETED set; PENDING was clear -> set, push, so that the loop frees the callback
//! ```

use std::{
    fmt, mem,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use slab::Slab;

use crate::{
    context::AioContext,
    handle::{Post, Shared},
};

const PENDING: u8 = 1;
const SCHEDULED: u8 = 2;
const DELETED: u8 = 4;

/// The part of a bottom half that any thread may touch.
pub(crate) struct BottomHalfShared {
    context: Arc<Shared>,
    index: usize,
    flags: AtomicU8,
}

/// What the home thread is to do with a bottom half it took from the inbox.
pub(crate) enum Turn {
    Run,
    Skip,
    Free,
}

impl BottomHalfShared {
    fn raise(self: &Arc<Self>, flag: u8) {
        // Release: what was written before is visible to the callback.
        let before = self.flags.fetch_or(flag | PENDING, Ordering::AcqRel);
        if before & PENDING == 0 {
            self.context.post(Post::BottomHalf(self.clone()));
        }
    }

    /// Takes the flags of a bottom half that has left the inbox. Home thread only.
    pub(crate) fn take(&self) -> Turn {
        let before = self
            .flags
            .fetch_and(!(PENDING | SCHEDULED), Ordering::AcqRel);
        match before {
            flags if flags & DELETED != 0 => Turn::Free,
            flags if flags & SCHEDULED != 0 => Turn::Run,
            _ => Turn::Skip,
        }
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// Has the callback run in a later turn of the loop.
    pub(crate) fn schedule(self: &Arc<Self>) {
        self.raise(SCHEDULED);
    }
}

/// A callback that can be scheduled again and again, from any thread; made by [`AioContext::bottom_half`].
///
/// Dropping it deletes the bottom half: the callback is not called any more once the drop has
/// happened on the home thread, and is freed there.
pub struct BottomHalf {
    name: &'static str,
    shared: Arc<BottomHalfShared>,
}

impl BottomHalf {
    /// Has the callback run in the next turn of the loop. Scheduling it again before that is one
    /// run; scheduling it from its own callback is one more.
    pub fn schedule(&self) {
        self.shared.schedule();
    }

    /// Takes a scheduled run back, unless the home thread has begun it.
    pub fn cancel(&self) {
        self.shared.flags.fetch_and(!SCHEDULED, Ordering::AcqRel);
    }
}

impl Drop for BottomHalf {
    fn drop(&mut self) {
        self.shared.raise(DELETED);
    }
}

impl fmt::Debug for BottomHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BottomHalf")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

pub(crate) type Callback = Box<dyn FnMut(&AioContext)>;

/// One bottom half as its home thread keeps it.
enum Slot {
    Idle(Callback),
    /// The callback is being called; a nested turn of the loop may ask for more meanwhile.
    Running {
        again: bool,
        deleted: bool,
    },
}

/// The callbacks of a context's bottom halves.
#[derive(Default)]
pub(crate) struct BottomHalfTable {
    slots: Slab<Slot>,
}

/// What is left to do when a callback has returned.
pub(crate) enum AfterRun {
    Nothing,
    /// It was scheduled by a nested turn of the loop: schedule it once more.
    Again,
    /// It was deleted: drop it.
    Drop(Callback),
}

impl BottomHalfTable {
    pub(crate) fn insert(
        &mut self,
        context: &Arc<Shared>,
        name: &'static str,
        callback: Callback,
    ) -> BottomHalf {
        let index = self.slots.insert(Slot::Idle(callback));
        let shared = BottomHalfShared {
            context: context.clone(),
            index,
            flags: AtomicU8::new(0),
        };
        BottomHalf {
            name,
            shared: Arc::new(shared),
        }
    }

    /// Takes a callback out to be called; `None`, and remembered, while it is running further out.
    pub(crate) fn start(&mut self, index: usize) -> Option<Callback> {
        let slot = self.slots.get_mut(index)?;
        if let Slot::Running { again, .. } = slot {
            *again = true;
            return None;
        }
        match mem::replace(
            slot,
            Slot::Running {
                again: false,
                deleted: false,
            },
        ) {
            Slot::Idle(callback) => Some(callback),
            Slot::Running { .. } => unreachable!("looked at just now"),
        }
    }

    /// Puts a callback back that has returned.
    pub(crate) fn finish(&mut self, index: usize, callback: Callback) -> AfterRun {
        let slot = self
            .slots
            .get_mut(index)
            .expect("a running bottom half keeps its slot");
        match mem::replace(slot, Slot::Idle(callback)) {
            Slot::Running {
                deleted: false,
                again: false,
            } => AfterRun::Nothing,
            Slot::Running {
                deleted: false,
                again: true,
            } => AfterRun::Again,
            Slot::Running { deleted: true, .. } | Slot::Idle(_) => match self.slots.remove(index) {
                Slot::Idle(callback) => AfterRun::Drop(callback),
                Slot::Running { .. } => unreachable!("made idle just now"),
            },
        }
    }

    /// Removes a deleted bottom half; the caller drops the callback.
    pub(crate) fn remove(&mut self, index: usize) -> Option<Callback> {
        if let Some(Slot::Running { deleted, .. }) = self.slots.get_mut(index) {
            *deleted = true;
            return None;
        }
        match self.slots.try_remove(index)? {
            Slot::Idle(callback) => Some(callback),
            Slot::Running { .. } => unreachable!("looked at just now"),
        }
    }

    /// Takes every callback out, for the caller to drop.
    pub(crate) fn take_all(&mut self) -> Vec<Callback> {
        let slots = mem::take(&mut self.slots).into_iter();
        slots
            .filter_map(|(_, slot)| {
                if let Slot::Idle(callback) = slot {
                    Some(callback)
                } else {
                    None
                }
            })
            .collect()
    }
}

impl fmt::Debug for BottomHalfTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BottomHalfTable")
            .field("bottom_halves", &self.slots.len())
            .finish_non_exhaustive()
    }
}
