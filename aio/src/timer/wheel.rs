//! A hierarchical timing wheel: timers in slots by how far off they are, sorted finer as they come closer.
//!
//! This is scheme 7 of G. Varghese and T. Lauck, "Hashed and Hierarchical Timing Wheels: Data
//! Structures for the Efficient Implementation of a Timer Facility" (SOSP 1987), with two changes.
//! A timer keeps its exact deadline, so a slot only says where to look. And a slot is named by the
//! digits of the deadline, not by a distance:
//!
//! ```text
//!   deadline_ns = | d7 | d6 | d5 | d4 | d3 | d2 | d1 | d0 | 16 bits within a tick |    6 bits each
//!   level       = the highest digit in which the deadline's tick and `base` differ
//!   slot        = that digit of the deadline's tick
//! ```
//!
//! `base` is the tick that the wheel has come to. Every timer of a level is due before every timer
//! of a higher level, and lower slots are due before higher ones, so the first occupied slot holds
//! the next deadline, and two bitmaps find it. When `base` enters a slot, its timers scatter over
//! the lower levels: at most seven moves in the life of a timer. Equal deadlines are always in the
//! same slot, in the order in which they were armed, and scattering keeps that order.

use std::{fmt, mem};

/// A tick is so many binary digits of nanoseconds: 65.5 microseconds.
const TICK_SHIFT: u32 = 16;
const DIGIT_BITS: u32 = 6;
const SLOTS: u32 = 1 << DIGIT_BITS;
/// Eight digits of six bits, and sixteen bits within a tick: all of 64 bits.
const LEVELS: u32 = 8;

/// The list of timers that were due at the last look; the lists before it are the slots.
const DUE: u16 = 512;
/// Where a node that holds no timer is.
const NOWHERE: u16 = 513;
const NIL: u32 = u32::MAX;

/// A slot with more timers than this is not searched for its earliest deadline, where that can be helped.
const CROWDED: usize = 64;

/// Names an armed timer. Once the timer is gone it names nothing, whatever takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WheelKey {
    index: u32,
    generation: u32,
}

/// One timer, or the place for one.
struct Node<T> {
    deadline_ns: u64,
    generation: u32,
    place: u16,
    payload: T,
}

/// The neighbours of a node in its list.
///
/// Apart from the nodes, so that those of very many timers stay in the cache: what removing a timer
/// costs is mostly waiting for its neighbours.
#[derive(Clone, Copy)]
struct Links {
    prev: u32,
    /// The next free node if this one is free.
    next: u32,
}

impl<T> Node<T> {
    fn is(&self, key: WheelKey) -> bool {
        self.generation == key.generation && self.place != NOWHERE
    }
}

#[derive(Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
}

const EMPTY: List = List {
    head: NIL,
    tail: NIL,
};

/// What is known of the earliest deadline.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// Nothing is due before this, and there is no use in looking closer.
    Known(u64),
    /// Nothing is due before this: it was the earliest deadline until that timer was removed.
    AtLeast(u64),
    Unknown,
}

/// Timers by deadline, in nanoseconds of one clock. A free node holds `T`'s default.
///
/// Arming and removing take constant time. A pass takes out what is due: [`Self::collect`] once,
/// then [`Self::pop_due`] until it gives nothing; timers armed in between wait for the next pass.
pub(crate) struct Wheel<T> {
    nodes: Vec<Node<T>>,
    /// As many as nodes.
    links: Vec<Links>,
    free: u32,
    lists: Box<[List]>,
    /// Which slots of a level have timers.
    occupied: [u64; LEVELS as usize],
    /// Which levels have timers.
    levels: u32,
    base: u64,
    /// Timers in slots.
    waiting: usize,
    next: Next,
    /// Empty between calls; kept for its memory.
    scratch: Vec<(u64, u32)>,
}

impl<T: Default> Wheel<T> {
    pub(crate) fn new() -> Self {
        Self {
            nodes: Vec::new(),
            links: Vec::new(),
            free: NIL,
            lists: vec![EMPTY; usize::from(DUE) + 1].into_boxed_slice(),
            occupied: [0; LEVELS as usize],
            levels: 0,
            base: 0,
            waiting: 0,
            next: Next::Unknown,
            scratch: Vec::new(),
        }
    }

    /// Whether no timer is armed or due.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting == 0 && self.list(DUE).head == NIL
    }

    /// Arms a timer. A deadline in the past is due in the next pass.
    pub(crate) fn insert(&mut self, deadline_ns: u64, payload: T) -> WheelKey {
        self.next = match self.next {
            _ if self.waiting == 0 => Next::Known(deadline_ns),
            Next::Known(ns) if deadline_ns < ns => Next::Known(deadline_ns),
            Next::AtLeast(ns) if deadline_ns <= ns => Next::Known(deadline_ns),
            unchanged => unchanged,
        };
        let index = self.allocate(deadline_ns, payload);
        let place = self.place_of(deadline_ns);
        self.link(place, index);
        WheelKey {
            index,
            generation: self.node(index).generation,
        }
    }

    /// What an armed timer carries, if it is still there.
    pub(crate) fn get_mut(&mut self, key: WheelKey) -> Option<&mut T> {
        let node = self.nodes.get_mut(key.index as usize)?;
        node.is(key).then_some(&mut node.payload)
    }

    /// Disarms a timer; returns what it carried if it was still there.
    pub(crate) fn remove(&mut self, key: WheelKey) -> Option<T> {
        let node = self.nodes.get(key.index as usize)?;
        if !node.is(key) {
            return None;
        }
        if node.place != DUE
            && let Next::Known(ns) = self.next
            && node.deadline_ns == ns
        {
            self.next = Next::AtLeast(ns);
        }
        self.unlink(key.index);
        Some(self.release(key.index))
    }

    /// A time before which nothing is due, zero if something is due already; nothing if no timer is armed.
    ///
    /// It is the earliest deadline, unless more than [`CROWDED`] timers are in the way of finding
    /// that. Whoever waits for such a time and then calls [`Self::collect`] finds nothing due, but
    /// the timers better sorted: at most once for each level of the wheel and `CROWDED` timers. The
    /// time is always later than that of the last pass unless a timer has been armed since.
    pub(crate) fn next_ns(&mut self) -> Option<u64> {
        if self.list(DUE).head != NIL {
            return Some(0);
        }
        let (level, slot) = self.first()?;
        let removed_ns = match self.next {
            Next::Known(ns) => return Some(ns),
            Next::AtLeast(ns) => Some(ns),
            Next::Unknown => None,
        };
        let start_ns = self.start_of(level, slot) << TICK_SHIFT;
        let (search_max, otherwise_ns) = match (level, removed_ns) {
            // The start of this slot may be now: waiting for it would be no wait.
            (0, None) => (usize::MAX, 0),
            (0, Some(removed_ns)) => (CROWDED, removed_ns),
            (_, removed_ns) => (CROWDED, removed_ns.unwrap_or(0).max(start_ns)),
        };
        let earliest = self.earliest(place(level, slot), search_max);
        let next_ns = earliest.unwrap_or(otherwise_ns);
        self.next = Next::Known(next_ns);
        Some(next_ns)
    }

    /// Begins a pass: sets aside the timers due at `now_ns`, by deadline, and equal ones as they were armed.
    pub(crate) fn collect(&mut self, now_ns: u64) {
        let now = now_ns >> TICK_SHIFT;
        if now < self.base {
            self.step_back(now);
        }
        let nothing_due = match self.next {
            Next::Known(ns) | Next::AtLeast(ns) => now_ns < ns,
            Next::Unknown => false,
        };
        if !nothing_due {
            self.next = Next::Unknown;
        }
        while let Some((level, slot)) = self.first() {
            let start = self.start_of(level, slot);
            let last = start | ((1 << (DIGIT_BITS * level)) - 1);
            if start > now {
                break;
            }
            if nothing_due {
                // Leaves `base` where it is: nothing needs to be sorted finer yet.
                return;
            }
            if last < now {
                self.take_due(place(level, slot), now_ns);
            } else if level == 0 {
                self.take_due(place(level, slot), now_ns);
                break;
            } else {
                self.base = start;
                self.scatter(place(level, slot));
            }
        }
        self.base = now;
    }

    /// Takes out one of the timers that the last [`Self::collect`] has set aside.
    pub(crate) fn pop_due(&mut self) -> Option<T> {
        let index = self.list(DUE).head;
        if index == NIL {
            return None;
        }
        self.unlink(index);
        Some(self.release(index))
    }

    /// The slot for a deadline.
    fn place_of(&self, deadline_ns: u64) -> u16 {
        // What is past goes where it is looked for next.
        let tick = (deadline_ns >> TICK_SHIFT).max(self.base);
        let level = ((tick ^ self.base) | 1).ilog2() / DIGIT_BITS;
        let slot = (tick >> (DIGIT_BITS * level)) & u64::from(SLOTS - 1);
        place(level, slot)
    }

    /// The first occupied slot, and its level.
    fn first(&self) -> Option<(u32, u64)> {
        let level = self.levels.trailing_zeros();
        let occupied = self.occupied.get(level as usize)?;
        Some((level, u64::from(occupied.trailing_zeros())))
    }

    /// The first tick of an occupied slot.
    fn start_of(&self, level: u32, slot: u64) -> u64 {
        let above = DIGIT_BITS * (level + 1);
        (self.base >> above << above) | (slot << (DIGIT_BITS * level))
    }

    /// The earliest deadline of a list, unless it has more than `search_max` timers.
    fn earliest(&self, place: u16, search_max: usize) -> Option<u64> {
        let (mut index, mut earliest_ns, mut seen) = (self.list(place).head, u64::MAX, 0);
        while index != NIL {
            if seen == search_max {
                return None;
            }
            earliest_ns = earliest_ns.min(self.node(index).deadline_ns);
            index = self.link_of(index).next;
            seen += 1;
        }
        Some(earliest_ns)
    }

    /// Moves what is due in one slot to the due list.
    fn take_due(&mut self, place: u16, now_ns: u64) {
        let mut taken = mem::take(&mut self.scratch);
        let mut index = self.list(place).head;
        while index != NIL {
            let deadline_ns = self.node(index).deadline_ns;
            if deadline_ns <= now_ns {
                taken.push((deadline_ns, index));
            }
            index = self.link_of(index).next;
        }
        // A stable sort: equal deadlines stay in the order in which they were armed.
        taken.sort_by_key(|&(deadline_ns, _)| deadline_ns);
        for (_, index) in taken.drain(..) {
            self.unlink(index);
            self.link(DUE, index);
        }
        self.scratch = taken;
    }

    /// Sorts the timers of a slot that `base` has entered into lower levels.
    fn scatter(&mut self, place: u16) {
        let mut index = self.list(place).head;
        while index != NIL {
            let next = self.link_of(index).next;
            self.unlink(index);
            self.link(self.place_of(self.node(index).deadline_ns), index);
            index = next;
        }
    }

    /// The clock went back: sorts every timer anew.
    fn step_back(&mut self, now: u64) {
        let mut all = mem::take(&mut self.scratch);
        while let Some((level, slot)) = self.first() {
            let index = self.list(place(level, slot)).head;
            all.push((self.node(index).deadline_ns, index));
            self.unlink(index);
        }
        self.base = now;
        for (deadline_ns, index) in all.drain(..) {
            self.link(self.place_of(deadline_ns), index);
        }
        self.scratch = all;
    }

    fn node(&self, index: u32) -> &Node<T> {
        &self.nodes[index as usize]
    }

    fn link_of(&self, index: u32) -> Links {
        self.links[index as usize]
    }

    fn list(&self, place: u16) -> List {
        self.lists[usize::from(place)]
    }

    fn allocate(&mut self, deadline_ns: u64, payload: T) -> u32 {
        let index = self.free;
        if let Some(node) = self.nodes.get_mut(index as usize) {
            self.free = self.links[index as usize].next;
            (node.deadline_ns, node.payload) = (deadline_ns, payload);
            return index;
        }
        let index = u32::try_from(self.nodes.len()).unwrap_or(NIL);
        assert!(index < NIL, "a wheel has fewer than 2^32 - 1 timers");
        self.nodes.push(Node {
            deadline_ns,
            generation: 0,
            place: NOWHERE,
            payload,
        });
        self.links.push(Links {
            prev: NIL,
            next: NIL,
        });
        index
    }

    /// Gives an unlinked node back.
    fn release(&mut self, index: u32) -> T {
        let node = &mut self.nodes[index as usize];
        let payload = mem::take(&mut node.payload);
        // A node that has run out of generations is never used again, so that no key comes twice.
        if let Some(generation) = node.generation.checked_add(1) {
            node.generation = generation;
            self.links[index as usize].next = self.free;
            self.free = index;
        }
        payload
    }

    /// Puts a node at the end of a list.
    fn link(&mut self, place: u16, index: u32) {
        let list = &mut self.lists[usize::from(place)];
        let tail = mem::replace(&mut list.tail, index);
        if tail == NIL {
            list.head = index;
        } else {
            self.links[tail as usize].next = index;
        }
        self.links[index as usize] = Links {
            prev: tail,
            next: NIL,
        };
        self.nodes[index as usize].place = place;
        if place != DUE {
            self.waiting += 1;
            let level = place >> DIGIT_BITS;
            self.occupied[usize::from(level)] |= 1 << (u32::from(place) % SLOTS);
            self.levels |= 1 << level;
        }
    }

    /// Takes a node out of its list.
    fn unlink(&mut self, index: u32) {
        let node = &mut self.nodes[index as usize];
        let place = mem::replace(&mut node.place, NOWHERE);
        let Links { prev, next } = self.link_of(index);
        let list = &mut self.lists[usize::from(place)];
        match prev {
            NIL => list.head = next,
            prev => self.links[prev as usize].next = next,
        }
        match next {
            NIL => list.tail = prev,
            next => self.links[next as usize].prev = prev,
        }
        if place == DUE {
            return;
        }
        self.waiting -= 1;
        if list.head == NIL {
            let level = place >> DIGIT_BITS;
            let occupied = &mut self.occupied[usize::from(level)];
            *occupied &= !(1 << (u32::from(place) % SLOTS));
            if *occupied == 0 {
                self.levels &= !(1 << level);
            }
        }
    }
}

/// Numbers the slots of all levels.
fn place(level: u32, slot: u64) -> u16 {
    u16::try_from(u64::from(level * SLOTS) + slot).expect("eight levels of 64 slots")
}

impl<T> fmt::Debug for Wheel<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wheel")
            .field("waiting", &self.waiting)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
