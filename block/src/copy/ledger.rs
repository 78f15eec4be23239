//! The bookkeeping of a copy: which clusters are to copy, in flight or copied. No I/O.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use crate::{
    allocation::ByteRange,
    dirty_bitmap::DirtyBitmap,
    error::{BlockError, ErrorKind},
};

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
    /// Reads of the snapshot from the source, each with those that wait to change what it reads.
    frozen: Vec<InFlight>,
    next_id: u64,
    copied_bytes: u64,
}

/// How far a copy is, in bytes, all from one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyProgress {
    /// Copied, zeroed or skipped for good.
    pub done_bytes: u64,
    /// To copy or in flight.
    pub remaining_bytes: u64,
}

/// How a claim ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClaimEnd {
    /// Back to be copied.
    GivenBack,
    Copied,
    /// Not to be copied at all.
    Dropped,
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
    /// The clusters of `set`, which is of the same length, are to copy; without one, all are.
    pub(super) fn new(
        len_bytes: u64,
        cluster_bytes: u64,
        set: Option<&DirtyBitmap>,
    ) -> Result<Self, BlockError> {
        let mut to_copy = DirtyBitmap::new(len_bytes, cluster_bytes)?;
        match set {
            None => to_copy.set(ByteRange::between(0, len_bytes)),
            Some(set) => set_areas(&mut to_copy, set)?,
        };
        Ok(Self {
            len_bytes,
            cluster_bytes,
            state: Mutex::new(State {
                to_copy,
                first_to_copy_bytes: 0,
                in_flight: Vec::new(),
                frozen: Vec::new(),
                next_id: 0,
                copied_bytes: 0,
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

    pub(super) fn progress(&self) -> CopyProgress {
        let state = self.lock();
        let flying: u64 = state.in_flight.iter().map(|entry| entry.range.len()).sum();
        // The last cluster counts whole in the bitmap.
        let cut = self.len_bytes.next_multiple_of(self.cluster_bytes) - self.len_bytes;
        let has_last = cut > 0 && state.to_copy.is_dirty(self.len_bytes - 1);
        let to_copy = state.to_copy.count_bytes() - if has_last { cut } else { 0 };
        CopyProgress {
            done_bytes: state.copied_bytes,
            remaining_bytes: to_copy + flying,
        }
    }

    /// What is to copy or in flight, as one bitmap.
    pub(super) fn uncopied(&self) -> Result<DirtyBitmap, BlockError> {
        let state = self.lock();
        let mut uncopied = state.to_copy.try_clone()?;
        for entry in &state.in_flight {
            uncopied.set(entry.range);
        }
        Ok(uncopied)
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

    /// Where the snapshot has the bytes that `range` begins with, and how far that goes, at most to its end.
    pub(super) fn locate(self: &Arc<Self>, range: ByteRange) -> Whereabouts {
        let clusters = self.whole_clusters(range);
        let mut state = self.lock();
        let old_until = state.uncopied_until(clusters);
        if old_until > range.start() {
            let range = ByteRange::between(range.start(), old_until.min(range.end()));
            let id = state.next_id;
            state.next_id += 1;
            let waiters = Vec::new();
            state.frozen.push(InFlight { id, range, waiters });
            let ledger = self.clone();
            return Whereabouts::Source(FrozenRead { ledger, id, range });
        }
        let new_until = state.copied_until(clusters).min(range.end());
        Whereabouts::Target(ByteRange::between(range.start(), new_until))
    }

    /// How to wait for a read of the snapshot from the source in `range`, if there is one.
    pub(super) fn thawed(self: &Arc<Self>, range: ByteRange) -> Option<Landed> {
        let state = self.lock();
        let mut frozen = state.frozen.iter();
        let id = frozen.find(|entry| entry.range.overlaps(range))?.id;
        Some(Landed {
            ledger: self.clone(),
            id,
            range,
        })
    }

    /// Nothing in `range`, whole clusters, is to copy any more; what is in flight is the caller's to wait for.
    pub(super) fn forget(&self, range: ByteRange) {
        self.lock().to_copy.clear(range);
    }

    /// Whether [`Ledger::next_step`] would not be [`Step::Done`], or somebody reads the snapshot there.
    pub(super) fn has_uncopied(&self, range: ByteRange) -> bool {
        let range = self.whole_clusters(range);
        let state = self.lock();
        state.first_in(range).is_some()
            || state.overlapping(range).is_some()
            || state.frozen.iter().any(|entry| entry.range.overlaps(range))
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
            end: ClaimEnd::GivenBack,
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

/// Sets all that is dirty in `set`, rounded outward.
fn set_areas(bits: &mut DirtyBitmap, set: &DirtyBitmap) -> Result<u64, BlockError> {
    if set.len_bytes() != bits.len_bytes() {
        let text = "the set of a copy is as long as its source";
        return Err(BlockError::new(ErrorKind::Invalid, text));
    }
    let mut at = 0;
    let mut changed = 0;
    while let Some(area) = set.next_dirty_area(at, u64::MAX) {
        changed += bits.set(area);
        at = area.end();
    }
    Ok(changed)
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

    /// Where the clusters that `range` begins with, and that are to copy or in flight, end.
    fn uncopied_until(&self, range: ByteRange) -> u64 {
        let mut until = range.start();
        while until < range.end() {
            let here =
                |entry: &&InFlight| (entry.range.start()..entry.range.end()).contains(&until);
            if self.to_copy.is_dirty(until) {
                until = self.to_copy.next_zero(until).unwrap_or(range.end());
            } else if let Some(entry) = self.in_flight.iter().find(here) {
                until = entry.range.end();
            } else {
                break;
            }
        }
        until.min(range.end())
    }

    /// Where the clusters that `range` begins with, and that are copied, end.
    fn copied_until(&self, range: ByteRange) -> u64 {
        let to_copy = self.to_copy.next_dirty(range.start());
        let in_flight = self.in_flight.iter().map(|entry| entry.range.start());
        let later = in_flight.filter(|start| *start >= range.start());
        later
            .chain(to_copy)
            .min()
            .unwrap_or(range.end())
            .min(range.end())
    }

    fn entry(&mut self, id: u64) -> Option<&mut InFlight> {
        let mut all = self.in_flight.iter_mut().chain(&mut self.frozen);
        all.find(|entry| entry.id == id)
    }

    /// Takes an entry off the list, and its waiters, to be woken without the lock.
    fn land(&mut self, id: u64) -> Vec<Waker> {
        let index = self.in_flight.iter().position(|entry| entry.id == id);
        let index = index.expect("a claim is listed until it ends");
        self.in_flight.swap_remove(index).waiters
    }
}

/// Where the snapshot has some bytes.
pub(super) enum Whereabouts {
    /// In the source, which nobody changes there until this is dropped.
    Source(FrozenRead),
    /// In the target.
    Target(ByteRange),
}

/// Keeps guests from changing a range of the source until it is dropped.
pub(super) struct FrozenRead {
    ledger: Arc<Ledger>,
    id: u64,
    range: ByteRange,
}

impl FrozenRead {
    pub(super) fn range(&self) -> ByteRange {
        self.range
    }
}

impl Drop for FrozenRead {
    fn drop(&mut self) {
        let mut state = self.ledger.lock();
        let index = state.frozen.iter().position(|entry| entry.id == self.id);
        let index = index.expect("a frozen read is listed until it ends");
        let waiters = state.frozen.swap_remove(index).waiters;
        drop(state);
        wake_all(waiters);
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
    end: ClaimEnd,
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
        self.end = ClaimEnd::Copied;
    }

    /// None of it is to be copied after all.
    pub(super) fn leave_out(mut self) {
        self.end = ClaimEnd::Dropped;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.ledger.lock();
        match self.end {
            ClaimEnd::GivenBack => state.give_back(self.range),
            ClaimEnd::Copied => state.copied_bytes += self.range.len(),
            ClaimEnd::Dropped => {}
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
