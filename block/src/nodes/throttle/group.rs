//! [`Turns`]: whose request goes next in a group, without any clock or task.
//!
//! Reads queue behind reads and writes behind writes. In each queue members take turns, request by request;
//! whoever has the turn pours his request into the buckets and waits until it fits, and hands the turn on.
//!
//! ```text
//!   member a:  a1 a2 a3 ┐
//!   member b:  b1       ├──▶ a1 b1 c1 a2 c2 a3 ──▶ turn ──▶ buckets ──▶ child
//!   member c:  c1 c2    ┘
//! ```

use std::{
    collections::{BTreeMap, VecDeque},
    task::Waker,
};

use super::{
    ThrottleLimits,
    bucket::{Buckets, Direction, Load},
};

/// A time in the past, where nobody has a clock: the buckets leak later.
const UNKNOWN_NS: u64 = 0;

/// One that shares the limits of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Member(pub(super) u64);

/// A request that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// How far a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Behind others.
    Queued,
    /// It has the turn and has not asked the buckets.
    Turn,
    /// It has the turn and begins then.
    At(u64),
    /// It begins.
    Go,
}

#[derive(Debug)]
struct Waiter {
    member: Member,
    load: Load,
    place: Place,
    waker: Option<Waker>,
}

#[derive(Debug, Default)]
struct Queue {
    /// Who has the turn.
    turn: Option<Ticket>,
    /// Members with requests behind that, in the order of their turns.
    ring: VecDeque<(Member, VecDeque<Ticket>)>,
}

/// The requests of a group that wait, and what lets them go.
#[derive(Debug)]
pub(super) struct Turns {
    buckets: Buckets,
    next_ticket: u64,
    waiters: BTreeMap<Ticket, Waiter>,
    reads: Queue,
    writes: Queue,
    /// Members that nothing may be held back of, and how often that was said.
    drained: BTreeMap<Member, u32>,
}

/// Those who must look again, to be woken without the lock.
#[derive(Debug, Default)]
#[must_use = "whoever has the turn must be told"]
pub(super) struct Woken(Vec<Waker>);

impl Woken {
    pub(super) fn wake(self) {
        for waker in self.0 {
            waker.wake();
        }
    }
}

impl Turns {
    pub(super) fn new(limits: &ThrottleLimits) -> Self {
        Self {
            buckets: Buckets::new(limits),
            next_ticket: 0,
            waiters: BTreeMap::new(),
            reads: Queue::default(),
            writes: Queue::default(),
            drained: BTreeMap::new(),
        }
    }

    /// Requests that wait.
    pub(super) fn len(&self) -> usize {
        self.waiters.len()
    }

    fn queue(&mut self, direction: Direction) -> &mut Queue {
        match direction {
            Direction::Read => &mut self.reads,
            Direction::Write => &mut self.writes,
        }
    }

    /// Takes a request in. Its place is to be looked at at once.
    pub(super) fn join(&mut self, member: Member, load: Load) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let place = if self.drained.contains_key(&member) {
            self.buckets.pour(UNKNOWN_NS, load);
            Place::Go
        } else {
            self.line_up(ticket, member, load)
        };
        let waiter = Waiter {
            member,
            load,
            place,
            waker: None,
        };
        self.waiters.insert(ticket, waiter);
        ticket
    }

    fn line_up(&mut self, ticket: Ticket, member: Member, load: Load) -> Place {
        let queue = self.queue(load.direction);
        if queue.turn.is_none() {
            queue.turn = Some(ticket);
            return Place::Turn;
        }
        match queue.ring.iter_mut().find(|(other, _)| *other == member) {
            Some((_, tickets)) => tickets.push_back(ticket),
            None => queue.ring.push_back((member, VecDeque::from([ticket]))),
        }
        Place::Queued
    }

    /// Where a request is now. At [`Place::Go`] it is to [leave](Self::leave).
    pub(super) fn look(&mut self, now_ns: u64, ticket: Ticket) -> Place {
        let waiter = self.waiters.get_mut(&ticket);
        let waiter = waiter.expect("it stays until it leaves");
        if waiter.place == Place::Turn {
            let wait_ns = self.buckets.pour(now_ns, waiter.load);
            waiter.place = Place::At(now_ns.saturating_add(wait_ns));
        }
        if let Place::At(start_ns) = waiter.place
            && start_ns <= now_ns
        {
            waiter.place = Place::Go;
        }
        waiter.place
    }

    /// Remembers whom to wake when the place changes.
    ///
    /// The one before is returned, to be dropped without the lock.
    pub(super) fn wait(&mut self, ticket: Ticket, waker: &Waker) -> Option<Waker> {
        let waiter = self.waiters.get_mut(&ticket);
        waiter.and_then(|waiter| waiter.waker.replace(waker.clone()))
    }

    /// Takes a request out, which begins or is not made any more.
    pub(super) fn leave(&mut self, ticket: Ticket) -> Woken {
        let Some(waiter) = self.waiters.remove(&ticket) else {
            return Woken::default();
        };
        if matches!(waiter.place, Place::At(_)) {
            self.buckets.take_back(waiter.load);
        }
        let mut woken = Woken(waiter.waker.into_iter().collect());
        let queue = self.queue(waiter.load.direction);
        if queue.turn == Some(ticket) {
            self.hand_on(waiter.load.direction, &mut woken);
        } else {
            queue.forget(ticket);
        }
        woken
    }

    fn hand_on(&mut self, direction: Direction, woken: &mut Woken) {
        let queue = self.queue(direction);
        let next = queue.next();
        queue.turn = next;
        if let Some(waiter) = next.and_then(|next| self.waiters.get_mut(&next)) {
            waiter.place = Place::Turn;
            woken.0.extend(waiter.waker.take());
        }
    }

    /// Lets all requests of a member go, and holds none back until the end of that.
    pub(super) fn drain(&mut self, member: Member) -> Woken {
        *self.drained.entry(member).or_default() += 1;
        let theirs = |waiter: &Waiter| waiter.member == member && waiter.place != Place::Go;
        let held = self.waiters.iter().filter(|(_, waiter)| theirs(waiter));
        let held: Vec<Ticket> = held.map(|(ticket, _)| *ticket).collect();
        let mut woken = Woken::default();
        for ticket in held {
            let waiter = self.waiters.get_mut(&ticket).expect("just seen");
            let load = waiter.load;
            // What goes early still counts.
            if !matches!(waiter.place, Place::At(_)) {
                self.buckets.pour(UNKNOWN_NS, load);
            }
            waiter.place = Place::Go;
            woken.0.extend(waiter.waker.take());
            let queue = self.queue(load.direction);
            if queue.turn == Some(ticket) {
                self.hand_on(load.direction, &mut woken);
            } else {
                queue.forget(ticket);
            }
        }
        woken
    }

    /// Ends one [`drain`](Self::drain).
    pub(super) fn end_drain(&mut self, member: Member) {
        if let Some(count) = self.drained.get_mut(&member) {
            *count -= 1;
            if *count == 0 {
                self.drained.remove(&member);
            }
        }
    }

    /// Sets other limits. The buckets begin empty, and who has the turn asks them again.
    pub(super) fn set_limits(&mut self, limits: &ThrottleLimits) -> Woken {
        self.buckets = Buckets::new(limits);
        let mut woken = Woken::default();
        for turn in [self.reads.turn, self.writes.turn] {
            if let Some(waiter) = turn.and_then(|turn| self.waiters.get_mut(&turn)) {
                waiter.place = Place::Turn;
                woken.0.extend(waiter.waker.take());
            }
        }
        woken
    }
}

impl Queue {
    /// Takes the next request out; its member goes to the end.
    fn next(&mut self) -> Option<Ticket> {
        let (member, mut tickets) = self.ring.pop_front()?;
        let next = tickets.pop_front();
        if !tickets.is_empty() {
            self.ring.push_back((member, tickets));
        }
        next
    }

    fn forget(&mut self, ticket: Ticket) {
        for (_, tickets) in &mut self.ring {
            tickets.retain(|other| *other != ticket);
        }
        self.ring.retain(|(_, tickets)| !tickets.is_empty());
    }
}
