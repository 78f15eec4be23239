//! The bookkeeping of a mirror: which granules differ, what is being made equal, and who waits for whom. No I/O.
//!
//! ```text
//!            claim, or the turn of a guest that covers it         finish, done
//!   dirty ───────────────────────────────────────────▶ in flight ─────────────▶ clean
//!     ▲                                                    │                      │
//!     └────────────────────────────────────────────────────┘ error, dropped       │
//!     └───────────────────────────────────────────────────────────────────────────┘ a guest changed it
//! ```
//!
//! A granule leaves "dirty" *before* anybody looks at the source, and only when all of it is about to be made equal.
//! Whatever touches both sides is in one list, with a ticket, and waits for all *earlier* ones that share a byte
//! with it. Waiting follows the tickets, so there is no cycle and nobody is overtaken.

use std::{
    mem,
    sync::{Arc, PoisonError},
    task::Waker,
};

use aio::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};

use crate::{
    allocation::ByteRange, copy::TargetContent, dirty_bitmap::DirtyBitmap, error::BlockError,
    wait::WaitList,
};

pub use held::Claim;
use held::Place;
pub(crate) use held::{Taken, Tracked};

/// The state of every granule. Its lock is held for look-ups only, never over an `await`.
#[derive(Debug)]
pub(super) struct Ledger {
    len_bytes: u64,
    granularity_bytes: u64,
    state: Mutex<State>,
    /// Wait for their turn, or for something to land.
    turns: WaitList,
    /// Guest requests that mark what they change when they end.
    tracked: AtomicU64,
}

#[derive(Debug)]
struct State {
    dirty: DirtyBitmap,
    /// Set: the target reads as zero there. Only if that was known of all of it once.
    target_zero: Option<DirtyBitmap>,
    /// Where the background copy goes on; it starts over at the end.
    cursor_bytes: u64,
    /// By ticket. Short: one entry per request that is at both sides now, or waits for its turn.
    entries: Vec<Entry>,
    next_ticket: u64,
    /// Entries that have ended or shrunk so far.
    landings: u64,
    is_given_up: bool,
    dirtied_bytes: u64,
    alarm: Alarm,
}

/// Who is told that there is something to copy.
#[derive(Debug, Default)]
struct Alarm {
    waker: Option<Waker>,
    /// The copy has looked and found nothing.
    is_set: bool,
}

#[derive(Debug)]
struct Entry {
    ticket: u64,
    range: ByteRange,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The background copy, of whole granules.
    Copy,
    /// A guest that writes both sides.
    Guest,
    /// The same, and what it overwrites was dirty: until it is done the target lacks what others were told was written.
    GuestOverDirty,
}

/// How much there is to do, all at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    /// Bytes that differ and that nobody is at, in whole granules.
    pub(super) dirty_bytes: u64,
    /// Bytes that are being made equal.
    pub(super) in_flight_bytes: u64,
    /// Bytes that guests have made dirty so far, each time they did.
    pub(super) dirtied_bytes: u64,
}

impl Ledger {
    /// Nothing is dirty.
    pub(super) fn new(
        len_bytes: u64,
        granularity_bytes: u64,
        target_content: TargetContent,
    ) -> Result<Self, BlockError> {
        let target_zero = match target_content {
            TargetContent::Unknown => None,
            TargetContent::Zero => {
                let mut zero = DirtyBitmap::new(len_bytes, granularity_bytes)?;
                zero.set(ByteRange::between(0, len_bytes));
                Some(zero)
            }
        };
        let state = State {
            dirty: DirtyBitmap::new(len_bytes, granularity_bytes)?,
            target_zero,
            cursor_bytes: 0,
            entries: Vec::new(),
            next_ticket: 0,
            landings: 0,
            is_given_up: false,
            dirtied_bytes: 0,
            alarm: Alarm::default(),
        };
        Ok(Self {
            len_bytes,
            granularity_bytes,
            state: Mutex::new(state),
            turns: WaitList::default(),
            tracked: AtomicU64::new(0),
        })
    }

    pub(super) fn granularity_bytes(&self) -> u64 {
        self.granularity_bytes
    }

    /// Makes all that shares a granule with `range` dirty. For what is to be copied from the start.
    pub(super) fn mark(&self, range: ByteRange) {
        let woken = self.lock().mark(range);
        wake(woken);
    }

    /// Makes dirty what is dirty in `bitmap`.
    pub(super) fn mark_all(&self, bitmap: &DirtyBitmap) -> Result<(), BlockError> {
        let woken = {
            let mut state = self.lock();
            state.dirty.merge(bitmap)?;
            state.ring()
        };
        wake(woken);
        Ok(())
    }

    /// What is not known to be equal: dirty, or in flight.
    pub(super) fn not_copied(&self) -> DirtyBitmap {
        let state = self.lock();
        let mut all = state.dirty.clone();
        for entry in &state.entries {
            all.set(entry.range);
        }
        all
    }

    pub(super) fn load(&self) -> Load {
        let state = self.lock();
        let busy = state.entries.iter().filter(|entry| entry.kind.is_owed());
        Load {
            dirty_bytes: state.dirty_bytes(),
            in_flight_bytes: busy.map(|entry| entry.range.len()).sum(),
            dirtied_bytes: state.dirtied_bytes,
        }
    }

    /// Whether nothing is dirty, and nothing that was is in flight.
    pub(super) fn is_synced(&self) -> bool {
        let state = self.lock();
        state.dirty.is_clean() && !state.entries.iter().any(|entry| entry.kind.is_owed())
    }

    /// Guest requests under way that will make dirty what they touch.
    pub(super) fn tracked(&self) -> u64 {
        self.tracked.load(Ordering::Acquire)
    }

    /// Whom to wake when something becomes dirty after [`Ledger::claim`] has found nothing.
    pub(super) fn set_alarm(&self, waker: Waker) {
        let old = self.lock().alarm.waker.replace(waker);
        drop(old);
    }

    /// Sets the alarm if nothing is dirty; returns whether it did.
    pub(super) fn arm(&self) -> bool {
        let mut state = self.lock();
        let is_clean = state.dirty.is_clean();
        state.alarm.is_set |= is_clean;
        is_clean
    }

    /// Wakes whom the alarm would wake.
    pub(super) fn ring(&self) {
        let waker = self.lock().alarm.waker.clone();
        wake(waker);
    }

    /// Nobody waits here any more: guests get no turn, copies neither.
    pub(super) fn give_up(&self) {
        self.lock().is_given_up = true;
        self.turns.wake_all();
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.lock().is_given_up
    }

    pub(super) async fn given_up(&self) {
        self.turns.until(|| self.lock().is_given_up).await;
    }

    /// Counts a guest request that is to mark `range` when it ends, however it does: when the answer is dropped.
    pub(super) fn track(&self, range: ByteRange) -> Tracked<'_> {
        self.tracked.fetch_add(1, Ordering::AcqRel);
        Tracked {
            ledger: self,
            range,
        }
    }

    /// Waits for the turn of a guest request that writes `range` on both sides; `None` when nobody wants that any more.
    ///
    /// Granules that it covers wholly are clean from then on, the others as they were. Dropping the future gives the
    /// place up.
    pub(super) async fn take(self: &Arc<Self>, range: ByteRange) -> Option<Taken> {
        let ticket = self.lock().enlist(range, Kind::Guest);
        let mut place = Place {
            ledger: self.clone(),
            ticket,
            owed: None,
        };
        self.turn(ticket).await;
        let needs_target = self.lock().begin(ticket, range)?;
        place.owed = Some(range);
        Some(Taken {
            place,
            range,
            needs_target,
        })
    }

    /// Takes the next dirty area of at most `max_len_bytes`, but at least one granule, for the background copy.
    ///
    /// Never what is being copied; what guests are at it may be, so [`Claim::turn`] comes first.
    pub(super) fn claim(self: &Arc<Self>, max_len_bytes: u64) -> Option<Claim> {
        let granules = (max_len_bytes / self.granularity_bytes).max(1);
        let mut state = self.lock();
        if state.is_given_up {
            return None;
        }
        let Some(range) = state.next_area(granules * self.granularity_bytes) else {
            state.alarm.is_set = true;
            return None;
        };
        state.dirty.clear(range);
        state.cursor_bytes = range.end();
        let ticket = state.enlist(range, Kind::Copy);
        drop(state);
        let place = Place {
            ledger: self.clone(),
            ticket,
            owed: Some(range),
        };
        Some(Claim { place, range })
    }

    /// Waits until something that is in flight now has ended; if nothing is, it is ready at once.
    pub(super) fn landed(self: &Arc<Self>) -> impl Future<Output = ()> + Send + use<> {
        let state = self.lock();
        let (seen, is_idle) = (state.landings, state.entries.is_empty());
        drop(state);
        let ledger = self.clone();
        async move {
            let has_landed = || is_idle || ledger.lock().landings != seen;
            ledger.turns.until(has_landed).await;
        }
    }

    /// Whether the target is known to read as zero in all of `range`.
    pub(super) fn is_target_zero(&self, range: ByteRange) -> bool {
        let range = self.outer(range);
        let state = self.lock();
        let zero = state.target_zero.as_ref();
        zero.is_some_and(|zero| {
            zero.next_zero(range.start())
                .is_none_or(|at| at >= range.end())
        })
    }

    /// The target is about to get data in `range`.
    pub(super) fn target_changes(&self, range: ByteRange) {
        let range = self.outer(range);
        if let Some(zero) = &mut self.lock().target_zero {
            zero.clear(range);
        }
    }

    /// The target has got zeroes in `range`.
    pub(super) fn target_zeroed(&self, range: ByteRange) {
        let range = self.inner(range);
        if let Some(zero) = &mut self.lock().target_zero {
            zero.set(range);
        }
    }

    /// The granules that share a byte with `range`.
    fn outer(&self, range: ByteRange) -> ByteRange {
        range.widened(self.granularity_bytes, self.len_bytes)
    }

    /// The granules that `range` covers wholly; the last one of the disk may be short.
    fn inner(&self, range: ByteRange) -> ByteRange {
        inner(range, self.granularity_bytes, self.len_bytes)
    }

    async fn turn(&self, ticket: u64) {
        self.turns.until(|| self.lock().is_turn_of(ticket)).await;
    }

    /// Takes an entry off the list, and makes `owed` dirty again.
    fn land(&self, ticket: u64, owed: Option<ByteRange>) {
        let woken = {
            let mut state = self.lock();
            let woken = owed.and_then(|range| state.mark(range));
            state.entries.retain(|entry| entry.ticket != ticket);
            state.landings += 1;
            woken
        };
        wake(woken);
        self.turns.wake_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn inner(range: ByteRange, unit_bytes: u64, len_bytes: u64) -> ByteRange {
    let start = range
        .start()
        .div_ceil(unit_bytes)
        .saturating_mul(unit_bytes);
    let end = match range.end() == len_bytes {
        true => len_bytes,
        false => range.end() / unit_bytes * unit_bytes,
    };
    ByteRange::between(start.min(end), end)
}

impl Kind {
    /// Whether the target lacks something as long as the entry is there.
    fn is_owed(self) -> bool {
        match self {
            Self::Copy | Self::GuestOverDirty => true,
            Self::Guest => false,
        }
    }
}

impl State {
    /// Returns whom to wake, unlocked.
    fn mark(&mut self, range: ByteRange) -> Option<Waker> {
        self.dirty.set(range);
        self.ring()
    }

    /// Who waits for something dirty, once.
    fn ring(&mut self) -> Option<Waker> {
        let rings = mem::take(&mut self.alarm.is_set);
        rings.then(|| self.alarm.waker.clone()).flatten()
    }

    fn dirty_bytes(&self) -> u64 {
        let (len, unit) = (self.dirty.len_bytes(), self.dirty.granularity_bytes());
        let last = len.saturating_sub(1);
        let beyond_end = match self.dirty.is_dirty(last) {
            true => len.div_ceil(unit) * unit - len,
            false => 0,
        };
        self.dirty.count_bytes() - beyond_end
    }

    fn enlist(&mut self, range: ByteRange, kind: Kind) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.entries.push(Entry {
            ticket,
            range,
            kind,
        });
        ticket
    }

    /// Whether no earlier entry shares a byte with this one, or turns do not matter any more.
    fn is_turn_of(&self, ticket: u64) -> bool {
        let own = self.entries.iter().position(|entry| entry.ticket == ticket);
        let Some(own) = own.filter(|_| !self.is_given_up) else {
            return true;
        };
        let (earlier, later) = self.entries.split_at(own);
        !earlier
            .iter()
            .any(|entry| entry.range.overlaps(later[0].range))
    }

    /// The turn of a guest has come; returns whether its bytes must go to the target, too: they need not where
    /// every granule is dirty anyway.
    fn begin(&mut self, ticket: u64, range: ByteRange) -> Option<bool> {
        if self.is_given_up {
            return None;
        }
        let (unit, len) = (self.dirty.granularity_bytes(), self.dirty.len_bytes());
        if self.dirty.clear(inner(range, unit, len)) > 0 {
            let mut entries = self.entries.iter_mut();
            if let Some(entry) = entries.find(|entry| entry.ticket == ticket) {
                entry.kind = Kind::GuestOverDirty;
            }
        }
        let outer = range.widened(unit, len);
        let clean = self.dirty.next_zero(outer.start());
        Some(clean.is_some_and(|at| at < outer.end()))
    }

    /// The next dirty area that is not being copied, from the cursor on and then from the start.
    fn next_area(&self, max_len_bytes: u64) -> Option<ByteRange> {
        let (cursor, len) = (self.cursor_bytes, self.dirty.len_bytes());
        let behind = self.next_area_in(ByteRange::between(cursor, len), max_len_bytes);
        behind.or_else(|| self.next_area_in(ByteRange::between(0, cursor), max_len_bytes))
    }

    fn next_area_in(&self, limit: ByteRange, max_len_bytes: u64) -> Option<ByteRange> {
        let copies = || {
            let copies = self.entries.iter().filter(|entry| entry.kind == Kind::Copy);
            copies.map(|entry| entry.range)
        };
        let mut from_bytes = limit.start();
        loop {
            let start = self.dirty.next_dirty(from_bytes);
            let start = start.filter(|start| *start < limit.end())?;
            let is_here = |copy: &ByteRange| copy.start() <= start && start < copy.end();
            if let Some(under_way) = copies().find(is_here) {
                from_bytes = under_way.end();
                continue;
            }
            let beyond = copies().map(ByteRange::start).filter(|at| *at > start);
            let end = beyond.chain([limit.end()]).min()?;
            let max_len_bytes = max_len_bytes.min(end - start);
            return self.dirty.next_dirty_area(start, max_len_bytes);
        }
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

mod held;
#[cfg(all(test, loom))]
mod models;
#[cfg(test)]
mod tests;
