//! The bookkeeping of a copy: which clusters are to copy, in flight or copied. No I/O.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use crate::{allocation::ByteRange, dirty_bitmap::DirtyBitmap, error::BlockError};

/// The state of every cluster. Its lock is held for look-ups only, never over an `await`.
#[derive(Debug)]
pub(super) struct Ledger {
    len_bytes: u64,
    cluster_bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    to_copy: DirtyBitmap,
    /// Nothing before this offset is to copy, which keeps searches short.
    first_to_copy_bytes: u64,
    /// Short: one entry per request that copies now.
    in_flight: Vec<InFlight>,
    next_id: u64,
}

#[derive(Debug)]
struct InFlight {
    id: u64,
    range: ByteRange,
    waiters: Vec<Waker>,
}

/// What someone who needs a range copied has to do next.
pub(super) enum Step {
    /// Copy this.
    Copy(Claim),
    /// Wait for somebody else, and ask again.
    Wait(Landed),
    /// Nothing: all of it is copied.
    Done,
}

impl Ledger {
    /// Everything is to copy.
    pub(super) fn new(len_bytes: u64, cluster_bytes: u64) -> Result<Self, BlockError> {
        let mut to_copy = DirtyBitmap::new(len_bytes, cluster_bytes)?;
        to_copy.set(ByteRange::between(0, len_bytes));
        Ok(Self {
            len_bytes,
            cluster_bytes,
            state: Mutex::new(State {
                to_copy,
                first_to_copy_bytes: 0,
                in_flight: Vec::new(),
                next_id: 0,
            }),
        })
    }

    pub(super) fn cluster_bytes(&self) -> u64 {
        self.cluster_bytes
    }

    pub(super) fn is_complete(&self) -> bool {
        let state = self.lock();
        state.to_copy.is_clean() && state.in_flight.is_empty()
    }

    /// Moves the first area to copy in `limit` to "in flight".
    pub(super) fn claim(self: &Arc<Self>, limit: ByteRange, max_len_bytes: u64) -> Option<Claim> {
        let limit = self.whole_clusters(limit);
        self.claim_in(&mut self.lock(), limit, max_len_bytes)
    }

    /// Both questions under one lock: what is neither to copy nor in flight is copied.
    pub(super) fn next_step(self: &Arc<Self>, range: ByteRange) -> Step {
        let range = self.whole_clusters(range);
        let mut state = self.lock();
        if let Some(claim) = self.claim_in(&mut state, range, range.len()) {
            return Step::Copy(claim);
        }
        match self.landed_in(&state, range) {
            Some(landed) => Step::Wait(landed),
            None => Step::Done,
        }
    }

    /// How to wait for something in flight in `range`, if anything is.
    pub(super) fn landed(self: &Arc<Self>, range: ByteRange) -> Option<Landed> {
        self.landed_in(&self.lock(), range)
    }

    /// Whether [`Ledger::next_step`] would not be [`Step::Done`].
    pub(super) fn has_uncopied(&self, range: ByteRange) -> bool {
        let range = self.whole_clusters(range);
        let state = self.lock();
        state.first_in(range).is_some() || state.overlapping(range).is_some()
    }

    fn whole_clusters(&self, range: ByteRange) -> ByteRange {
        range.widened(self.cluster_bytes, self.len_bytes)
    }

    fn claim_in(
        self: &Arc<Self>,
        state: &mut State,
        limit: ByteRange,
        max_len_bytes: u64,
    ) -> Option<Claim> {
        let clusters = (max_len_bytes / self.cluster_bytes).max(1);
        let range = state.take_first(limit, clusters * self.cluster_bytes)?;
        let id = state.next_id;
        state.next_id += 1;
        let waiters = Vec::new();
        state.in_flight.push(InFlight { id, range, waiters });
        Some(Claim {
            ledger: self.clone(),
            id,
            range,
            data_bytes_max: u64::MAX,
            is_copied: false,
        })
    }

    fn landed_in(self: &Arc<Self>, state: &State, range: ByteRange) -> Option<Landed> {
        let id = state.overlapping(range)?;
        Some(Landed {
            ledger: self.clone(),
            id,
            range,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Start of the first area to copy in `limit`.
    fn first_in(&self, limit: ByteRange) -> Option<u64> {
        let from = limit.start().max(self.first_to_copy_bytes);
        if from >= limit.end() || self.to_copy.is_clean() {
            return None;
        }
        self.to_copy
            .next_dirty(from)
            .filter(|start| *start < limit.end())
    }

    /// Takes the first area to copy in `limit`, which has whole clusters, off the bitmap.
    fn take_first(&mut self, limit: ByteRange, max_len_bytes: u64) -> Option<ByteRange> {
        let start = self.first_in(limit)?;
        let max_len = max_len_bytes.min(limit.end() - start);
        let area = self.to_copy.next_dirty_area(start, max_len)?;
        assert!(
            self.overlapping(area).is_none(),
            "{area} are to copy and in flight at once"
        );
        self.to_copy.clear(area);
        if limit.start() <= self.first_to_copy_bytes {
            self.first_to_copy_bytes = area.end();
        }
        Some(area)
    }

    fn give_back(&mut self, range: ByteRange) {
        self.to_copy.set(range);
        self.first_to_copy_bytes = self.first_to_copy_bytes.min(range.start());
    }

    /// Something in flight that shares a byte with `range`.
    fn overlapping(&self, range: ByteRange) -> Option<u64> {
        let mut in_flight = self.in_flight.iter();
        in_flight
            .find(|entry| entry.range.overlaps(range))
            .map(|entry| entry.id)
    }

    fn entry(&mut self, id: u64) -> Option<&mut InFlight> {
        self.in_flight.iter_mut().find(|entry| entry.id == id)
    }

    /// Takes an entry off the list, and its waiters, to be woken without the lock.
    fn land(&mut self, id: u64) -> Vec<Waker> {
        let index = self.in_flight.iter().position(|entry| entry.id == id);
        let index = index.expect("a claim is listed until it ends");
        self.in_flight.swap_remove(index).waiters
    }
}

/// An area that its holder alone may copy. Dropping it gives the area back, to be copied again.
#[derive(Debug)]
#[must_use = "a dropped claim is given back"]
pub struct Claim {
    ledger: Arc<Ledger>,
    id: u64,
    range: ByteRange,
    data_bytes_max: u64,
    is_copied: bool,
}

impl Claim {
    /// What is claimed; never empty.
    #[must_use]
    pub fn range(&self) -> ByteRange {
        self.range
    }

    /// The same claim, of which at most `bytes` (but at least one cluster) are copied if they turn out to be data.
    ///
    /// So a claim may be large for the sake of zeroes, which cost nothing, and yet move data in small pieces.
    pub fn with_data_max(mut self, bytes: u64) -> Self {
        self.data_bytes_max = bytes;
        self
    }

    /// Most bytes to copy if they are data.
    pub(super) fn data_bytes_max(&self) -> u64 {
        self.data_bytes_max
    }

    /// Gives back all but the first `len_bytes` bytes, a number of whole clusters.
    pub(super) fn keep(&mut self, len_bytes: u64) {
        let kept = ByteRange::between(
            self.range.start(),
            self.range.end().min(self.range.start() + len_bytes),
        );
        let rest = ByteRange::between(kept.end(), self.range.end());
        if rest.is_empty() {
            return;
        }
        let mut state = self.ledger.lock();
        state.give_back(rest);
        let entry = state
            .entry(self.id)
            .expect("a claim is listed until it ends");
        entry.range = kept;
        let waiters = std::mem::take(&mut entry.waiters);
        drop(state);
        self.range = kept;
        wake_all(waiters);
    }

    /// All of it is copied.
    pub(super) fn finish(mut self) {
        self.is_copied = true;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.ledger.lock();
        if !self.is_copied {
            state.give_back(self.range);
        }
        let waiters = state.land(self.id);
        drop(state);
        wake_all(waiters);
    }
}

fn wake_all(waiters: Vec<Waker>) {
    for waiter in waiters {
        waiter.wake();
    }
}

/// Waits until something in flight has ended or no longer touches a range.
pub(super) struct Landed {
    ledger: Arc<Ledger>,
    id: u64,
    range: ByteRange,
}

impl Future for Landed {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.ledger.lock();
        match state.entry(self.id) {
            Some(entry) if entry.range.overlaps(self.range) => {
                if !entry
                    .waiters
                    .iter()
                    .any(|known| known.will_wake(cx.waker()))
                {
                    entry.waiters.push(cx.waker().clone());
                }
                Poll::Pending
            }
            Some(_) | None => Poll::Ready(()),
        }
    }
}
