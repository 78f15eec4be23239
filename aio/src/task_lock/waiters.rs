//! Who waits for a lock, in the order of arrival.

use std::{collections::VecDeque, mem, task::Waker};

/// One who waits, and what for.
#[derive(Debug)]
struct Waiter<T> {
    ticket: u64,
    wanted: T,
    waker: Waker,
}

/// Those that wait, the first in front. Who is not in it any more, and did not leave, was served.
#[derive(Debug)]
pub(super) struct Waiters<T> {
    next_ticket: u64,
    waiting: VecDeque<Waiter<T>>,
}

impl<T: Copy> Waiters<T> {
    pub(super) fn new() -> Self {
        Self {
            next_ticket: 0,
            waiting: VecDeque::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The ticket of whoever comes next: all that have come have lower ones.
    pub(super) fn next_ticket(&self) -> u64 {
        self.next_ticket
    }

    /// Puts `waker` at the end, and returns its ticket.
    pub(super) fn enter(&mut self, wanted: T, waker: Waker) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.waiting.push_back(Waiter {
            ticket,
            wanted,
            waker,
        });
        ticket
    }

    /// Has `waker` called for this ticket from now on, and returns the one before it, which is to
    /// be dropped unlocked; `None` if the ticket has been served.
    pub(super) fn renew(&mut self, ticket: u64, waker: &Waker) -> Option<Waker> {
        let at = self.find(ticket)?;
        Some(mem::replace(&mut self.waiting[at].waker, waker.clone()))
    }

    /// Takes a ticket out; `None` if it has been served.
    pub(super) fn leave(&mut self, ticket: u64) -> Option<Waker> {
        let at = self.find(ticket)?;
        self.waiting.remove(at).map(|waiter| waiter.waker)
    }

    /// Serves whoever is in front, if `fits` says so.
    pub(super) fn serve_if(&mut self, fits: impl FnOnce(T) -> bool) -> Option<(T, Waker)> {
        let waiter = self.waiting.pop_front_if(|waiter| fits(waiter.wanted))?;
        Some((waiter.wanted, waiter.waker))
    }

    /// Tickets only grow towards the end.
    fn find(&self, ticket: u64) -> Option<usize> {
        self.waiting
            .binary_search_by_key(&ticket, |waiter| waiter.ticket)
            .ok()
    }
}

/// Wakers of those that were served, to be called in this order once the queue is unlocked.
///
/// One is the usual number, and costs no allocation.
#[derive(Debug, Default)]
#[must_use = "who was served must be woken"]
pub(super) struct Served {
    first: Option<Waker>,
    more: Vec<Waker>,
}

impl Served {
    pub(super) fn push(&mut self, waker: Waker) {
        if self.first.is_none() {
            self.first = Some(waker);
        } else {
            self.more.push(waker);
        }
    }

    pub(super) fn wake(self) {
        self.first
            .into_iter()
            .chain(self.more)
            .for_each(Waker::wake);
    }
}
