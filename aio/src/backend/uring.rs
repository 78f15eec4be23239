//! `io_uring`: one ring for disk, sockets, readiness and wake-ups.
//!
//! Ownership: an operation stays in its slot of the request table, and with it all that the kernel
//! may touch, until its last completion has arrived. Closing a ring does *not* stop operations in
//! flight, so the end of this backend waits for them first.

// UNSAFETY: submission entries carry raw pointers into what the operations own. This module alone
// ties the life of that memory to the completions.
#![expect(
    unsafe_code,
    reason = "pushes submission entries that point into owned operations"
)]

mod entry;
mod kernel;
mod message;
mod outside;
mod registered;
mod result;
mod ring;
mod room;
mod setup;
mod sleep;
mod watches;

use std::{
    collections::VecDeque,
    io,
    mem::{self, ManuallyDrop},
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    sync::Arc,
    time::{Duration, Instant},
};

use io_uring::{opcode, squeue, types};

use crate::{
    backend::{Backend, BackendKind, BackendStats, Closed, Events, Submitted, Wait},
    buf::PoolShared,
    fd::Fd,
    op::{Key, Op, Outcome, WatchKey, ZeroCopy},
    request::{Place, RequestTable, Slot},
    shared::Shared,
    sys,
};
use entry::{may_be_fixed, opcode_of, poll_entry, raw_fd};
pub(crate) use kernel::KernelRing;
pub(crate) use message::{MessageHeader, Slices};
use registered::{Files, Registered, refused};
use result::completions_of;
use ring::{Cqe, Ring};
use room::{Room, Sort};
pub(crate) use setup::{Entries, probe, why_not};
use sleep::Kick;
use watches::{Arrived, Told, Watches};

/// How long a ring that is closed waits for the kernel to finish what is in flight.
const DRAIN_MAX: Duration = Duration::from_secs(30);

/// User data of the read that waits on the context's eventfd, and of cancellations.
const KICK: u64 = u64::MAX;
const CANCEL: u64 = u64::MAX - 1;
/// Marks the user data of a watch. That of an operation has neither of the two highest bits.
const WATCH: u64 = 1 << 62;
const KINDS: u64 = 3 << 62;

/// One ring and what it knows of what is in the kernel.
#[derive(Debug)]
pub(crate) struct Uring<R: Ring> {
    ring: R,
    shared: Arc<Shared>,
    pool: Arc<PoolShared>,
    room: Room,
    /// Cancellations in the kernel.
    cancelling: usize,
    /// Completions between the ring and the table, empty between turns: kept for its memory.
    cqes: Vec<Cqe>,
    /// User data of what is to be cancelled.
    cancels: VecDeque<u64>,
    /// Operations that ended without the kernel.
    done: Vec<(Key, Outcome)>,
    watches: Watches,
    /// The eventfd's count lands here.
    kick_count: ManuallyDrop<Box<[u8; 8]>>,
    kick: Kick,
    /// A poll has completed for which the ring may have used up its signal.
    signal_spent: bool,
    /// Slabs of the pool that the kernel knows, or the reason why it is told of no more.
    slabs: Registered,
    files: Files,
    /// Operations that gather before the kernel is told of them.
    max_batch: usize,
    stats: BackendStats,
}

impl<R: Ring> Uring<R> {
    pub(crate) fn new(mut ring: R, shared: Arc<Shared>, pool: Arc<PoolShared>) -> io::Result<Self> {
        let table = u32::try_from(pool.slabs_max()).map_err(io::Error::other)?;
        let slabs = match ring.register_buffers(table) {
            Ok(()) => Registered::Slabs(0),
            Err(error) => refused(&error),
        };
        let entries = usize::try_from(ring.cq_entries()).map_err(io::Error::other)?;
        Ok(Self {
            ring,
            shared,
            pool,
            room: Room::new(entries),
            cancelling: 0,
            cqes: Vec::new(),
            cancels: VecDeque::new(),
            done: Vec::new(),
            watches: Watches::default(),
            kick_count: ManuallyDrop::new(Box::new([0; 8])),
            kick: Kick::Idle,
            signal_spent: false,
            slabs,
            files: Files::new(),
            max_batch: usize::MAX,
            stats: BackendStats::default(),
        })
    }

    /// Hands the operation to the kernel, or a poll for what it waits for, if there is room.
    fn push(&mut self, key: Key, request: &mut Slot) -> bool {
        let sort = Sort::of(request.op());
        if !self.room.lets_in(sort, self.watches.len()) {
            return false;
        }
        let polls = request.place == Place::ToPoll;
        let op = request.op();
        let raw = types::Fd(raw_fd(op));
        let mut fixed = None;
        let (entry, place) = if polls {
            (poll_entry(raw, op.waits_for()), Place::Polled)
        } else {
            if may_be_fixed(op) {
                fixed = self.files.begin_use(op.fd());
            }
            let entry = match fixed {
                Some(place) => self
                    .entry(op, types::Fd(RawFd::from(place)))
                    .flags(squeue::Flags::FIXED_FILE),
                None => self.entry(op, raw),
            };
            (entry, Place::Kernel)
        };
        if !self.push_entry(&entry.user_data(key.to_bits())) {
            if let Some(place) = fixed {
                self.files.used(&mut self.ring, place);
            }
            return false;
        }
        request.place = place;
        request.fixed_file = fixed;
        self.room.enter(sort, completions_of(request));
        if self.max_batch < usize::MAX && self.ring.unsubmitted() >= self.max_batch {
            self.enter(0, None);
        }
        true
    }

    /// Puts an entry into the submission queue, making room by submitting what is there.
    fn push_entry(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: all an entry points to is owned by a slot of the request table, or is
        // `kick_count`; both outlive the completion.
        if unsafe { self.ring.push(entry) } {
            return true;
        }
        self.enter(0, None);
        // SAFETY: as above.
        unsafe { self.ring.push(entry) }
    }

    /// Moves what waits for room into the submission queue, as far as there is some.
    fn refill(&mut self, requests: &mut RequestTable) {
        if self.kick == Kick::Idle {
            let fd = types::Fd(self.shared.event().as_raw_fd());
            let start = self.kick_count.as_mut_ptr();
            let entry = opcode::Read::new(fd, start, 8).build().user_data(KICK);
            if self.push_entry(&entry) {
                self.kick = Kick::Armed;
            }
        }
        self.push_cancels();
        while let Some((key, fd, events)) = self.watches.next_to_arm() {
            let flags = u32::from(events.cast_unsigned());
            let entry = opcode::PollAdd::new(types::Fd(fd), flags).multi(true);
            if !self.push_entry(&entry.build().user_data(WATCH | key.to_bits())) {
                return;
            }
            self.watches.armed();
        }
        for sort in [Sort::Storage, Sort::Peer] {
            while let Some(key) = self.room.first(sort)
                && requests
                    .in_flight(key)
                    .is_none_or(|request| self.push(key, request))
            {
                self.room.pop_first(sort);
            }
        }
    }

    /// Whether something is still to be said to the kernel after [`Self::refill`], which found no room
    /// in the submission queue because the kernel would not take what was there.
    ///
    /// What waits for completions of others is not meant: those end the sleep.
    fn lacks_entries(&self) -> bool {
        self.kick == Kick::Idle
            || self.watches.has_plans()
            || !self.cancels.is_empty() && self.cancelling < self.room.cancels_max
            || [Sort::Storage, Sort::Peer].into_iter().any(|sort| {
                let waits = self.room.first(sort).is_some();
                waits && self.room.lets_in(sort, self.watches.len())
            })
    }

    /// Submits cancellations, which go behind what they cancel and before what is submitted next.
    fn push_cancels(&mut self) {
        while self.cancelling < self.room.cancels_max
            && let Some(&user_data) = self.cancels.front()
        {
            let entry = opcode::AsyncCancel::new(user_data).build();
            if !self.push_entry(&entry.user_data(CANCEL)) {
                return;
            }
            self.cancels.pop_front();
            self.cancelling += 1;
        }
    }

    /// Moves arrived completions out of the ring. Runs nobody's code.
    fn reap(&mut self, requests: &mut RequestTable, events: &mut Events) {
        self.stats.cq_overflows += u64::from(self.ring.is_overflown());
        let mut cqes = mem::take(&mut self.cqes);
        self.ring.reap(&mut cqes);
        for cqe in cqes.drain(..) {
            let key = Key::from_bits(cqe.user_data);
            match cqe.user_data {
                KICK => self.kick_arrived(),
                CANCEL => self.cancelling = self.cancelling.saturating_sub(1),
                bits if bits & KINDS == WATCH => match self.watches.arrived(key, cqe) {
                    Arrived::Expected => {}
                    Arrived::Stale => self.stats.stale_completions += 1,
                },
                _ => self.finish(key, cqe, requests, events),
            }
        }
        self.cqes = cqes;
    }
}

impl<R: Ring> Backend for Uring<R> {
    fn kind(&self) -> BackendKind {
        BackendKind::IoUring
    }

    fn describe(&self) -> String {
        let setup = self.ring.describe();
        let buffers = match self.slabs {
            Registered::Slabs(_) => "registered buffers",
            Registered::Refused => "buffers not registered",
        };
        format!("io_uring ({setup}, {buffers})")
    }

    fn stats(&self) -> BackendStats {
        self.stats
    }

    fn submit(&mut self, key: Key, request: &mut Slot) -> Submitted {
        let op = request.op();
        match op {
            Op::Write { file, .. } if file.writes_block() => return Submitted::ForWorker,
            // What is needed for these was looked at when the ring was made.
            Op::Read { .. } | Op::Write { .. } | Op::Recv { .. } => {}
            Op::Send { message, .. } => {
                if !self.ring.supports(opcode::SendMsgZc::CODE) {
                    message.zero_copy = ZeroCopy::No;
                }
            }
            op => {
                if !opcode_of(op).is_some_and(|code| self.ring.supports(code)) {
                    return Submitted::ForWorker;
                }
            }
        }
        let sort = Sort::of(request.op());
        let first = self.room.first(sort).is_none() && self.cancels.is_empty();
        if !first || !self.push(key, request) {
            self.room.wait(sort, key);
        }
        Submitted::Taken
    }

    fn cancel(&mut self, key: Key, request: &mut Slot) {
        match request.place {
            Place::Queued | Place::ToPoll => {
                request.place = Place::Ended;
                self.done.push((key, Err(libc::ECANCELED)));
            }
            Place::Kernel | Place::Polled => {
                if request.op().waits_for_peer() {
                    self.cancels.push_back(key.to_bits());
                    self.push_cancels();
                }
            }
            Place::Worker | Place::Ended => {}
        }
    }

    fn register_file(&mut self, fd: &Fd) -> Option<u16> {
        self.files.register(&mut self.ring, fd)
    }

    fn unregister_file(&mut self, fd: &Fd, place: u16) {
        self.files.unregister(&mut self.ring, fd, place);
    }

    fn set_max_batch(&mut self, requests: u32) {
        self.max_batch = match usize::try_from(requests) {
            Ok(0) | Err(_) => usize::MAX,
            Ok(requests) => requests,
        };
    }

    fn watch(&mut self, fd: &Fd, events: i16) -> io::Result<WatchKey> {
        sys::check_pollable(fd.as_fd())?;
        self.watches.insert(fd.clone(), events)
    }

    fn unwatch(&mut self, key: WatchKey) {
        let told = self.watches.end(key.0);
        if told == Told::Must {
            self.cancels.push_back(WATCH | key.0.to_bits());
            self.push_cancels();
        }
    }

    fn recheck(&mut self, key: WatchKey) {
        self.watches.recheck(key.0);
    }

    fn foreign_fd(&mut self) -> io::Result<OwnedFd> {
        self.go_outside()
    }

    fn has_news(&mut self) -> bool {
        !self.done.is_empty()
            || self.watches.has_news()
            || self.ring.has_completions()
            || self.ring.needs_enter()
    }

    fn is_busy(&mut self) -> bool {
        self.kick != Kick::Armed
            || self.room.has_backlog()
            || !self.cancels.is_empty()
            || self.watches.has_plans()
            || self.has_news()
    }

    fn wait(&mut self, wait: Wait, requests: &mut RequestTable, events: &mut Events) {
        self.refill(requests);
        let ready = self.watches.run_rechecks();
        let has_news = ready || !self.done.is_empty() || self.ring.has_completions();
        let wait = if has_news || self.lacks_entries() {
            Wait::No
        } else {
            wait
        };
        self.enter_for(wait);
        self.reap(requests, events);
        while mem::take(&mut self.signal_spent) {
            self.signal_again();
            self.reap(requests, events);
        }
        events.completions.append(&mut self.done);
        self.watches.report(&mut events.ready);
    }

    fn close(&mut self, requests: &mut RequestTable, events: &mut Events) -> Closed {
        let give_up = Instant::now() + DRAIN_MAX;
        self.end_backlog(requests);
        // The kernel cancels only what it has been told of.
        self.enter(0, None);
        if let Err(error) = self.ring.cancel_all() {
            tracing::trace!(%error, "nothing was left to cancel");
        }
        if self.kick_is_armed() {
            self.shared.event().signal();
        }
        self.reap(requests, events);
        while (self.room.in_kernel() > 0 || self.kick_is_armed()) && Instant::now() < give_up {
            // Never `refill` here: the kick must not be armed again.
            self.enter(1, Some(100_000_000));
            self.reap(requests, events);
            self.end_backlog(requests);
        }
        events.completions.append(&mut self.done);
        if self.room.in_kernel() > 0 || self.kick_is_armed() {
            tracing::error!(
                in_flight = self.room.in_kernel(),
                "the kernel does not finish; its memory is leaked"
            );
            return Closed::Stuck;
        }
        // SAFETY: dropped once: a closed backend is not used any more. The kernel does not write to it.
        unsafe { ManuallyDrop::drop(&mut self.kick_count) };
        Closed::Clean
    }
}

impl<R: Ring> Uring<R> {
    /// Ends the operations that the kernel does not have.
    fn end_backlog(&mut self, requests: &mut RequestTable) {
        for key in self.room.take_backlog() {
            if let Some(request) = requests.in_flight(key) {
                request.place = Place::Ended;
                self.done.push((key, Err(libc::ECANCELED)));
            }
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
pub(crate) mod fake;
#[cfg(test)]
#[cfg(not(loom))]
mod fake_tests;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
