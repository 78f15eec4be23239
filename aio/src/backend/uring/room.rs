//! Who may be in the kernel: room for completions, and the operations that wait for some.
//!
//! Operations on storage end by themselves, and soon: as many are let in as the completion queue has
//! room for. Those that wait for a peer may do so for ever, thousands of them, and must not keep storage
//! out meanwhile; they are always let in. At most half of the queue is kept free for them. If more
//! end at once, the kernel keeps what finds no room until the queue has been emptied.

use std::{collections::VecDeque, mem};

use crate::op::{Key, Op};

/// Most places of the completion queue that are kept free for kicks and cancellations.
const SPARE_MAX: usize = 64;

/// What an operation waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Storage,
    Peer,
}

impl Sort {
    pub(super) fn of(op: &Op) -> Self {
        if op.waits_for_peer() {
            Self::Peer
        } else {
            Self::Storage
        }
    }
}

/// The room of one ring.
#[derive(Debug)]
pub(super) struct Room {
    /// Places of the completion queue.
    entries: usize,
    /// Cancellations that may be in the kernel at once.
    pub(super) cancels_max: usize,
    storage: Lane,
    peers: Lane,
}

#[derive(Debug, Default)]
struct Lane {
    /// Completions to come of operations in the kernel.
    in_kernel: usize,
    /// Operations that found no room: they wait for it in order. Some may have ended meanwhile.
    backlog: VecDeque<Key>,
}

impl Room {
    pub(super) fn new(entries: usize) -> Self {
        Self {
            entries,
            cancels_max: (entries / 8).clamp(1, SPARE_MAX),
            storage: Lane::default(),
            peers: Lane::default(),
        }
    }

    /// Whether one more may be let in beside that many watches.
    ///
    /// A watch may complete more than once in a turn; when they are many, an overflow only ends
    /// and arms them again.
    pub(super) fn lets_in(&self, sort: Sort, watches: usize) -> bool {
        let others = (2 * watches + self.peers.in_kernel).min(self.entries / 2);
        let storage_max = self.entries.saturating_sub(self.cancels_max + 1 + others);
        sort == Sort::Peer || self.storage.in_kernel < storage_max.max(1)
    }

    /// So many more completions will come.
    pub(super) fn enter(&mut self, sort: Sort, completions: usize) {
        self.lane(sort).in_kernel += completions;
    }

    /// So many have come.
    pub(super) fn leave(&mut self, sort: Sort, completions: usize) {
        self.lane(sort).in_kernel -= completions;
    }

    /// Completions to come.
    pub(super) fn in_kernel(&self) -> usize {
        self.storage.in_kernel + self.peers.in_kernel
    }

    /// Has an operation wait behind those of its sort.
    pub(super) fn wait(&mut self, sort: Sort, key: Key) {
        self.lane(sort).backlog.push_back(key);
    }

    /// The one of its sort that has waited longest.
    pub(super) fn first(&self, sort: Sort) -> Option<Key> {
        match sort {
            Sort::Storage => self.storage.backlog.front().copied(),
            Sort::Peer => self.peers.backlog.front().copied(),
        }
    }

    /// That one waits no longer.
    pub(super) fn pop_first(&mut self, sort: Sort) {
        self.lane(sort).backlog.pop_front();
    }

    /// Whether anybody waits.
    pub(super) fn has_backlog(&self) -> bool {
        !self.storage.backlog.is_empty() || !self.peers.backlog.is_empty()
    }

    /// All that wait; they do so no longer.
    pub(super) fn take_backlog(&mut self) -> impl Iterator<Item = Key> + use<> {
        let storage = mem::take(&mut self.storage.backlog);
        storage
            .into_iter()
            .chain(mem::take(&mut self.peers.backlog))
    }

    fn lane(&mut self, sort: Sort) -> &mut Lane {
        match sort {
            Sort::Storage => &mut self.storage,
            Sort::Peer => &mut self.peers,
        }
    }
}
