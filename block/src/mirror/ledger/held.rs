//! What a mirror's ledger gives out: each is taken back when it is dropped, whatever came of it.

use std::sync::Arc;

use aio::sync::atomic::Ordering;

use super::{Ledger, wake};
use crate::allocation::ByteRange;

/// A guest request whose range is dirty as soon as this is dropped.
#[must_use = "the range is marked when this is dropped"]
pub(crate) struct Tracked<'a> {
    pub(super) ledger: &'a Ledger,
    pub(super) range: ByteRange,
}

impl Drop for Tracked<'_> {
    fn drop(&mut self) {
        let woken = {
            let mut state = self.ledger.lock();
            let before = state.dirty.count_bytes();
            let woken = state.mark(self.range);
            state.dirtied_bytes += state.dirty.count_bytes() - before;
            woken
        };
        self.ledger.tracked.fetch_sub(1, Ordering::AcqRel);
        wake(woken);
    }
}

/// An entry of the list. Dropping it takes it out and makes dirty what is still owed.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) ledger: Arc<Ledger>,
    pub(super) ticket: u64,
    pub(super) owed: Option<ByteRange>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.ledger.land(self.ticket, self.owed);
    }
}

/// A range that a guest writes on both sides, which are equal there once it is [done](Taken::done). Dropping it makes
/// all its granules dirty.
#[derive(Debug)]
#[must_use = "the range is dirty unless it is done"]
pub(crate) struct Taken {
    pub(super) place: Place,
    pub(super) range: ByteRange,
    pub(super) needs_target: bool,
}

impl Taken {
    /// What the guest writes.
    pub(in crate::mirror) fn range(&self) -> ByteRange {
        self.range
    }

    /// Whether the target has to be written, too; if not, all of the range is copied later.
    pub(in crate::mirror) fn needs_target(&self) -> bool {
        self.needs_target
    }

    /// Both sides have the bytes, or the source has and they are copied later.
    pub(in crate::mirror) fn done(mut self) {
        self.place.owed = None;
    }
}

/// An area of whole granules that its holder alone copies. Dropping it gives the area back, to be copied again.
#[derive(Debug)]
#[must_use = "a dropped claim is given back"]
pub struct Claim {
    pub(super) place: Place,
    pub(super) range: ByteRange,
}

impl Claim {
    /// What is claimed; never empty.
    #[must_use]
    pub fn range(&self) -> ByteRange {
        self.range
    }

    /// Waits until nobody who came earlier is at any of it. Returns whether the copy is still wanted.
    pub(in crate::mirror) async fn turn(&self) -> bool {
        let ledger = &self.place.ledger;
        ledger.turn(self.place.ticket).await;
        !ledger.is_given_up()
    }

    /// Gives back all but the first `len_bytes` bytes, a number of whole granules.
    pub(in crate::mirror) fn keep(&mut self, len_bytes: u64) {
        let kept_to = self.range.end().min(self.range.start() + len_bytes);
        let kept = ByteRange::between(self.range.start(), kept_to);
        let rest = ByteRange::between(kept.end(), self.range.end());
        if rest.is_empty() {
            return;
        }
        let ledger = &self.place.ledger;
        let woken = {
            let mut state = ledger.lock();
            let mut entries = state.entries.iter_mut();
            let entry = entries.find(|entry| entry.ticket == self.place.ticket);
            entry.expect("a claim is listed until it ends").range = kept;
            // It is the best place to go on, too.
            state.cursor_bytes = rest.start();
            state.landings += 1;
            state.mark(rest)
        };
        (self.range, self.place.owed) = (kept, Some(kept));
        wake(woken);
        ledger.turns.wake_all();
    }

    /// All of it is equal.
    pub(in crate::mirror) fn finish(mut self) {
        self.place.owed = None;
    }
}
