//! Bottom halves: callbacks that run on the home thread in a later turn of the loop.
//!
//! A bottom half has one word of bits. Scheduling sets one and queues the bottom half unless it is
//! queued already, so that it is queued once however often it was scheduled; nothing is allocated.
//! Other threads queue it on the context's [inbox](crate::inbox), the home thread in a plain queue:
//!
//! ```text
//!   schedule: SCHEDULED (or IDLE) set; not queued -> queue
//!   cancel:   both cleared; it stays queued, and is skipped when reached
//!   delete:   DELETED set; not queued -> queue, so that the loop frees the callback
//! ```

use std::{cell::Cell, fmt, mem, rc::Rc, sync::Arc};

use slab::Slab;

use crate::{
    context::AioContext,
    inbox::Node,
    shared::{Due, Posted, Shared, What},
};

/// Run in the next turn.
const SCHEDULED: u32 = 1;
/// Run in the next turn, but do not hurry for it.
const IDLE: u32 = 2;
/// Free, and never run again.
const DELETED: u32 = 4;
/// In the home thread's queue.
const QUEUED: u32 = 8;
/// In the home thread's queue of idle ones.
const QUEUED_IDLE: u32 = 16;

/// Names a bottom half: its place in the table, and the generation that tells it from earlier ones there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BottomHalfKey {
    index: usize,
    generation: u64,
}

/// What the home thread is to do with a bottom half whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Run,
    /// Run it; that is no progress of the loop.
    RunIdle,
    Skip,
    Free,
}

/// What is left of the bits when a bottom half's turn begins.
pub(crate) const TURN: u32 = SCHEDULED | IDLE | QUEUED;

/// The same for one that was in the queue of idle ones.
const TURN_IDLE: u32 = SCHEDULED | IDLE | QUEUED_IDLE;

impl Turn {
    /// What `bits`, taken at the beginning of the turn, ask for.
    pub(crate) fn of(bits: u32) -> Self {
        match bits {
            bits if bits & DELETED != 0 => Self::Free,
            bits if bits & SCHEDULED != 0 => Self::Run,
            bits if bits & IDLE != 0 => Self::RunIdle,
            _ => Self::Skip,
        }
    }
}

/// The bottom half that a node posts.
pub(crate) fn key_of(node: &Node<Posted>) -> BottomHalfKey {
    match node.what.what {
        What::BottomHalf(key) => key,
        _ => unreachable!("a bottom half's node is one of a bottom half"),
    }
}

fn raise(node: &Arc<Node<Posted>>, bits: u32) {
    let (shared, key) = (&node.what.shared, key_of(node));
    let queued = if bits & IDLE == 0 {
        QUEUED
    } else {
        QUEUED_IDLE
    };
    let at_home = shared.at_home(|local| {
        if node.set(bits | queued) & queued == 0 {
            match queued {
                QUEUED => local.due.push_back(Due::Local(key)),
                _ => local.idle.push_back(key),
            }
        }
    });
    if at_home.is_none() {
        shared.raise(node, bits);
    }
}

/// A callback that can be scheduled again and again, from any thread; made by [`AioContext::bottom_half`].
///
/// Every method may be called on any thread, never blocks and allocates nothing; but not in a signal
/// handler, which can [set an event](crate::EventNotifier::set) instead. Dropping the value
/// deletes the bottom half: the callback is not called any more once the drop has happened on the
/// home thread, and is freed there, in a later turn. It may be dropped from within its own callback.
pub struct BottomHalf {
    name: &'static str,
    node: Arc<Node<Posted>>,
}

impl BottomHalf {
    /// Has the callback run in the next turn of the loop. Scheduling it again before that is one
    /// run; scheduling it from its own callback is one more.
    ///
    /// What was written before is visible to the callback.
    pub fn schedule(&self) {
        raise(&self.node, SCHEDULED);
    }

    /// Has the callback run in a later turn, at the latest in about 10 ms; a run does not count as
    /// progress of the loop.
    pub fn schedule_idle(&self) {
        raise(&self.node, IDLE);
    }

    /// Takes a scheduled run back, unless the home thread has begun it. It does not wait for one that has.
    pub fn cancel(&self) {
        self.node.clear(SCHEDULED | IDLE);
    }

    /// The name given at its making.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }
}

impl Drop for BottomHalf {
    fn drop(&mut self) {
        raise(&self.node, DELETED);
    }
}

impl fmt::Debug for BottomHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BottomHalf")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Tells whether a callback of a group is running, further out on the stack; clones are one guard.
/// For the home thread, where the callbacks run.
///
/// Devices use it: a nested turn of the loop may call back into a device that is in the middle of
/// something, and the device then sees that here. The loop calls the callback all the same.
#[derive(Clone, Debug, Default)]
pub struct ReentrancyGuard {
    engaged: Rc<Cell<bool>>,
}

impl ReentrancyGuard {
    /// Whether a guarded callback is running.
    #[must_use]
    pub fn is_engaged(&self) -> bool {
        self.engaged.get()
    }
}

pub(crate) type Callback = Box<dyn FnMut(&AioContext)>;

/// Wraps `callback` so that `guard` is engaged while it runs.
pub(crate) fn guarded(
    name: &'static str,
    guard: ReentrancyGuard,
    mut callback: impl FnMut(&AioContext) + 'static,
) -> Callback {
    Box::new(move |context| {
        let before = guard.engaged.replace(true);
        if before {
            tracing::debug!(
                bottom_half = name,
                "entered again while its guard is engaged"
            );
        }
        callback(context);
        guard.engaged.set(before);
    })
}

/// One bottom half as its home thread keeps it.
struct Slot {
    generation: u64,
    name: &'static str,
    node: Arc<Node<Posted>>,
    state: State,
}

enum State {
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
    generation: u64,
}

/// What is left to do when a callback has returned.
pub(crate) enum AfterRun {
    Nothing,
    /// It was scheduled by a nested turn of the loop: schedule it once more.
    Again(Arc<Node<Posted>>),
    /// It was deleted: drop it.
    Drop(Callback),
}

impl AfterRun {
    /// Does it, outside of any borrow: dropping a callback may drop handles of other bottom halves.
    pub(crate) fn finish(self) {
        match self {
            Self::Nothing => {}
            Self::Again(node) => raise(&node, SCHEDULED),
            Self::Drop(callback) => drop(callback),
        }
    }
}

impl BottomHalfTable {
    pub(crate) fn insert(
        &mut self,
        shared: &Arc<Shared>,
        name: &'static str,
        callback: Callback,
    ) -> BottomHalf {
        self.generation += 1;
        let generation = self.generation;
        let entry = self.slots.vacant_entry();
        let key = BottomHalfKey {
            index: entry.key(),
            generation,
        };
        let node = Arc::new(Node::new(Posted {
            shared: shared.clone(),
            what: What::BottomHalf(key),
        }));
        entry.insert(Slot {
            generation,
            name,
            node: node.clone(),
            state: State::Idle(callback),
        });
        BottomHalf { name, node }
    }

    fn slot(&mut self, key: BottomHalfKey) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(key.index)?;
        (slot.generation == key.generation).then_some(slot)
    }

    /// Begins the turn of a bottom half from the home thread's queue.
    pub(crate) fn begin(&mut self, key: BottomHalfKey) -> Turn {
        let bits = self.slot(key).map(|slot| slot.node.clear(TURN));
        bits.map_or(Turn::Skip, Turn::of)
    }

    /// Begins the turn of a bottom half from the home thread's queue of idle ones.
    pub(crate) fn begin_idle(&mut self, key: BottomHalfKey) -> Turn {
        let bits = self.slot(key).map(|slot| slot.node.clear(TURN_IDLE));
        bits.map_or(Turn::Skip, Turn::of)
    }

    /// Takes a callback out to be called; `None`, and remembered, while it is running further out.
    pub(crate) fn start(&mut self, key: BottomHalfKey) -> Option<Callback> {
        let slot = self.slot(key)?;
        if let State::Running { again, .. } = &mut slot.state {
            *again = true;
            return None;
        }
        let running = State::Running {
            again: false,
            deleted: false,
        };
        match mem::replace(&mut slot.state, running) {
            State::Idle(callback) => Some(callback),
            State::Running { .. } => unreachable!("looked at just now"),
        }
    }

    /// Puts a callback back that has returned.
    pub(crate) fn finish(&mut self, key: BottomHalfKey, callback: Callback) -> AfterRun {
        let Some(slot) = self.slot(key) else {
            // The context was closed from within the callback.
            return AfterRun::Drop(callback);
        };
        match slot.state {
            State::Running { deleted: true, .. } => {
                self.slots.remove(key.index);
                AfterRun::Drop(callback)
            }
            State::Running { again, .. } => {
                slot.state = State::Idle(callback);
                if again {
                    AfterRun::Again(slot.node.clone())
                } else {
                    AfterRun::Nothing
                }
            }
            State::Idle(_) => unreachable!("a running bottom half is marked as running"),
        }
    }

    /// Removes a deleted bottom half; the caller drops the callback.
    pub(crate) fn remove(&mut self, key: BottomHalfKey) -> Option<Callback> {
        let slot = self.slot(key)?;
        if let State::Running { deleted, .. } = &mut slot.state {
            *deleted = true;
            return None;
        }
        match self.slots.remove(key.index).state {
            State::Idle(callback) => Some(callback),
            State::Running { .. } => unreachable!("looked at just now"),
        }
    }

    /// Takes every callback out, for the caller to drop, and what [`not_deleted`] asks afterwards.
    pub(crate) fn take_all(&mut self) -> (Vec<Callback>, Vec<Remains>) {
        let mut callbacks = Vec::new();
        let mut remains = Vec::new();
        for (_, slot) in mem::take(&mut self.slots) {
            remains.push(Remains {
                name: slot.name,
                node: slot.node,
            });
            if let State::Idle(callback) = slot.state {
                callbacks.push(callback);
            }
        }
        (callbacks, remains)
    }
}

/// A bottom half whose context has been closed.
pub(crate) struct Remains {
    name: &'static str,
    node: Arc<Node<Posted>>,
}

/// The names of those that nobody has deleted.
pub(crate) fn not_deleted(remains: Vec<Remains>) -> Vec<&'static str> {
    let leaked = |bottom_half: &Remains| bottom_half.node.bits() & DELETED == 0;
    let leaked = remains.into_iter().filter(leaked);
    leaked.map(|bottom_half| bottom_half.name).collect()
}

impl fmt::Debug for BottomHalfTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.slots.iter().map(|(_, slot)| slot.name).collect();
        f.debug_struct("BottomHalfTable")
            .field("bottom_halves", &names)
            .finish_non_exhaustive()
    }
}
