//! Requests that change overlapping bytes of one node, kept apart where one of them is serialising.
//!
//! Most requests are plain: they only count themselves, in a [`Gate`], and never meet anybody. A
//! serialising request (read-modify-write at an unaligned edge) closes that gate, so that newcomers
//! get into a list, and waits for the uncounted past to leave. In the list a request waits for every
//! *earlier* one that overlaps it, if either of the two is serialising. Waiting follows the tickets,
//! so there is no cycle and nobody is overtaken; a request takes one range, once.

use std::sync::PoisonError;

use aio::sync::{Mutex, MutexGuard};

use crate::{
    allocation::ByteRange,
    gate::{Gate, RequestGuard},
    wait::WaitList,
};

pub(crate) mod align;
pub(crate) mod carried;
#[cfg(all(test, loom))]
mod models;
#[cfg(test)]
mod tests;

/// Keeps serialising requests away from all that overlap them.
#[derive(Debug, Default)]
pub(crate) struct RangeLock {
    /// Plain requests that never looked at the list; closed once per serialising request.
    unlisted: Gate,
    listed: Mutex<Listed>,
    left: WaitList,
}

#[derive(Debug, Default)]
struct Listed {
    next_ticket: u64,
    requests: Vec<Request>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Serialising,
}

#[derive(Debug)]
struct Request {
    ticket: u64,
    range: ByteRange,
    kind: Kind,
}

impl Request {
    /// Whether this request, being in the list, holds up `later`.
    fn precedes(&self, later: &Self) -> bool {
        let apart = self.kind == Kind::Serialising || later.kind == Kind::Serialising;
        apart && self.ticket < later.ticket && self.range.overlaps(later.range)
    }
}

impl Listed {
    fn is_held_up(&self, ticket: u64) -> bool {
        let Some(own) = self.requests.iter().find(|r| r.ticket == ticket) else {
            return false;
        };
        self.requests.iter().any(|other| other.precedes(own))
    }
}

impl RangeLock {
    /// Waits until no serialising request that came earlier overlaps `range`.
    ///
    /// With none about, this is one atomic step. Dropping the future gives the place up.
    pub(crate) async fn pass(&self, range: ByteRange) -> Passage<'_> {
        if let Some(guard) = RequestGuard::try_enter(&self.unlisted) {
            return Passage::Unlisted(guard);
        }
        let passage = self.list(range, Kind::Plain);
        self.turn(passage.ticket).await;
        Passage::Listed(passage)
    }

    /// Passes if nobody is serialising, whatever range.
    pub(crate) fn try_pass(&self) -> Option<Passage<'_>> {
        RequestGuard::try_enter(&self.unlisted).map(Passage::Unlisted)
    }

    /// Waits until nothing that came earlier overlaps `range`, and holds up all that comes later and does.
    ///
    /// Dropping the future gives the place up.
    pub(crate) async fn serialise(&self, range: ByteRange) -> Passage<'_> {
        // Whoever is not counted by the gate by now will be in the list.
        self.unlisted.close();
        let passage = self.list(range, Kind::Serialising);
        self.unlisted.wait_empty().await;
        self.turn(passage.ticket).await;
        Passage::Listed(passage)
    }

    fn list(&self, range: ByteRange, kind: Kind) -> ListedRequest<'_> {
        let mut listed = self.lock();
        let ticket = listed.next_ticket;
        listed.next_ticket += 1;
        listed.requests.push(Request {
            ticket,
            range,
            kind,
        });
        ListedRequest {
            lock: self,
            ticket,
            kind,
        }
    }

    async fn turn(&self, ticket: u64) {
        self.left.until(|| !self.lock().is_held_up(ticket)).await;
    }

    fn lock(&self) -> MutexGuard<'_, Listed> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to change a range; dropping it lets others pass.
#[derive(Debug)]
#[must_use = "the range is free again once this is dropped"]
pub(crate) enum Passage<'a> {
    /// Nobody was serialising: counted, and not in the list.
    #[expect(dead_code, reason = "held for its drop")]
    Unlisted(RequestGuard<&'a Gate>),
    /// In the list, because somebody is serialising.
    #[expect(dead_code, reason = "held for its drop")]
    Listed(ListedRequest<'a>),
}

/// One entry of the list; dropping it takes it out.
#[derive(Debug)]
pub(crate) struct ListedRequest<'a> {
    lock: &'a RangeLock,
    ticket: u64,
    kind: Kind,
}

impl Drop for ListedRequest<'_> {
    fn drop(&mut self) {
        self.lock
            .lock()
            .requests
            .retain(|request| request.ticket != self.ticket);
        if self.kind == Kind::Serialising {
            self.lock.unlisted.open();
        }
        self.lock.left.wake_all();
    }
}
