//! `SimDisk`: a node whose storage forgets, fails, stalls and reorders as the seed says.
//!
//! Requests are queued when they are made and end when the world lets them: at a moment of virtual time
//! that was drawn. What a write changes, or a read sees, happens at the beginning, at the end, or half
//! and half. A request goes on when nobody waits for it any more, as in a kernel.

mod faults;
mod node;
mod store;

use std::{
    collections::BTreeMap,
    fmt, io, mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use aio::{IoBuf, ManualClock};
use block::{BlockError, ByteRange, Extent, Limits, RequestFlags, Transferred, Way};

use crate::{
    chance::Chance,
    trace::{self, Event},
};

pub(crate) use faults::{Faults, FlushFault};
pub(crate) use node::SimDisk;
use store::Store;

/// Kinds of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    Read,
    Write,
    Zeroes,
    Discard,
    Flush,
    Extent,
}

/// What a disk is like, apart from its faults.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DiskOptions {
    pub(crate) limits: Limits,
    /// The time that half of the requests take less than, without transfer.
    pub(crate) latency_ns: u64,
    /// How far latencies scatter, in sixteenths of a doubling.
    pub(crate) scatter_x16: u64,
    /// Bytes that are transferred in a microsecond.
    pub(crate) bytes_per_us: u64,
    pub(crate) discards: Discards,
    pub(crate) zeroes: Zeroes,
    pub(crate) stuck: Stuck,
}

/// What a discard does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Discards {
    Nothing,
    Zero,
}

/// Whether there is a way to write zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zeroes {
    Unsupported,
    Supported,
}

/// For how long a request is stuck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stuck {
    UntilHealed,
    /// Or until somebody gives up what is in flight.
    UntilCancelled,
}

/// When a request takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Early,
    Late,
    /// Its first half early, the rest late.
    Split,
}

/// A disk of the world. The node driver [`SimDisk`] is the way in.
pub(crate) struct Disk {
    pub(crate) number: usize,
    options: DiskOptions,
    clock: ManualClock,
    state: Mutex<State>,
}

struct State {
    store: Store,
    faults: Faults,
    chance: Chance,
    pending: BTreeMap<u64, Request>,
    done: BTreeMap<u64, Done>,
    next_id: u64,
}

struct Request {
    op: Op,
    range: ByteRange,
    buf: Option<IoBuf>,
    flags: RequestFlags,
    effect: Effect,
    /// The end of time while it is stuck.
    due_ns: u64,
    /// What had been completed before it began, which is what a flush is about.
    begun: u64,
    extent: Option<Extent>,
    is_cancelled: bool,
    waiter: Waiter,
}

/// Who waits for a request.
enum Waiter {
    NotYet,
    Waits(Waker),
    /// Nobody any more.
    Gone,
}

/// What comes back.
struct Done {
    buf: Option<IoBuf>,
    extent: Option<Extent>,
    errno: Option<i32>,
}

impl Disk {
    pub(crate) fn new(
        number: usize,
        options: DiskOptions,
        clock: &ManualClock,
        mut chance: Chance,
    ) -> Arc<Self> {
        let state = State {
            store: Store::new(options.limits.len_bytes),
            faults: Faults::none(chance.fork()),
            chance,
            pending: BTreeMap::new(),
            done: BTreeMap::new(),
            next_id: 0,
        };
        Arc::new(Self {
            number,
            options,
            clock: clock.clone(),
            state: Mutex::new(state),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// Ends all faults, but for what can never be undone. What was stuck goes on.
    pub(crate) fn heal(&self) {
        let now_ns = self.clock.now_ns();
        let mut state = self.lock();
        state.faults.heal();
        let stuck = state.pending.values_mut();
        for request in stuck.filter(|request| request.due_ns == u64::MAX) {
            request.due_ns = now_ns + 1;
        }
    }

    /// Has what is stuck fail soon, if this is a disk behind a peer that can be given up.
    fn cancel_stuck(&self) {
        if self.options.stuck == Stuck::UntilHealed {
            return;
        }
        let now_ns = self.clock.now_ns();
        let mut state = self.lock();
        for request in state.pending.values_mut() {
            if request.due_ns == u64::MAX {
                request.due_ns = now_ns + 1000;
                request.is_cancelled = true;
            }
        }
    }

    /// Whether flushes fail for good.
    pub(crate) fn is_broken(&self) -> bool {
        self.lock().faults.is_broken
    }

    /// What is there without asking: the content as it was before the world began.
    pub(crate) fn fill(&self, range: ByteRange, bytes: &[u8]) {
        self.lock().store.fill(range, bytes);
    }

    /// The content as readers see it.
    pub(crate) fn content(&self) -> Vec<u8> {
        self.lock().store.content().to_vec()
    }

    /// What would be left if power failed now, and everything were lost that can be lost.
    pub(crate) fn durable(&self) -> Vec<u8> {
        self.lock().store.durable(|_| store::Fate::Lost)
    }

    /// What is left after power has failed: of what was not flushed, whatever chance leaves.
    pub(crate) fn after_power_loss(&self) -> Vec<u8> {
        let mut state = self.lock();
        let mut chance = state.chance.fork();
        let kept_of_8 = *chance.pick(&[0, 4, 8, 7]);
        state.store.durable(|sectors| {
            if chance.below(8) >= kept_of_8 {
                store::Fate::Lost
            } else if sectors > 1 && chance.one_in(4) {
                store::Fate::Torn(chance.fork())
            } else {
                store::Fate::Kept
            }
        })
    }

    /// When the next request ends, if none comes in between.
    pub(crate) fn next_due_ns(&self) -> Option<u64> {
        let state = self.lock();
        let due = state.pending.values().map(|request| request.due_ns).min();
        due.filter(|&due_ns| due_ns != u64::MAX)
    }

    /// Ends one of the requests that are due; returns whether there was one.
    pub(crate) fn complete_one(&self) -> bool {
        let now_ns = self.clock.now_ns();
        let mut state = self.lock();
        let due = state.pending.iter();
        let due: Vec<u64> = due
            .filter(|(_, request)| request.due_ns <= now_ns)
            .map(|(id, _)| *id)
            .collect();
        if due.is_empty() {
            return false;
        }
        let id = *state.chance.pick(&due);
        let waker = state.complete(id, self.number, self.options);
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    fn submit(&self, op: Op, range: ByteRange, buf: Option<IoBuf>, flags: RequestFlags) -> u64 {
        let mut state = self.lock();
        let id = state.next_id;
        state.next_id += 1;
        let at = (range.start(), range.len());
        let disk = self.number;
        trace::note(Event::Submit { disk, id, op, at });
        let due_ns = match state.faults.is_stuck() {
            true => u64::MAX,
            false => self.clock.now_ns() + state.latency_ns(op, range, self.options),
        };
        let effect = match state.faults.capacity_blocks {
            // What does not fit changes nothing.
            Some(_) => Effect::Late,
            None => *state
                .chance
                .pick(&[Effect::Early, Effect::Late, Effect::Split]),
        };
        let mut request = Request {
            op,
            range,
            buf,
            flags,
            effect,
            due_ns,
            begun: state.store.completions(),
            extent: None,
            is_cancelled: false,
            waiter: Waiter::NotYet,
        };
        let early = match effect {
            Effect::Early => range,
            Effect::Late => ByteRange::between(range.start(), range.start()),
            Effect::Split => ByteRange::between(range.start(), middle(range)),
        };
        state.apply(id, &mut request, early, self.options);
        state.pending.insert(id, request);
        id
    }

    /// A request without a buffer.
    async fn ask(&self, op: Op, range: ByteRange, flags: RequestFlags) -> Result<Done, BlockError> {
        let id = self.submit(op, range, None, flags);
        let done = Ticket { disk: self, id }.await;
        match done.errno {
            Some(errno) => Err(error(op, errno)),
            None => Ok(done),
        }
    }

    /// A request with one.
    async fn transfer(
        &self,
        op: Op,
        offset_bytes: u64,
        buf: IoBuf,
        flags: RequestFlags,
    ) -> Transferred {
        let len_bytes = u64::try_from(buf.len()).expect("a buffer in memory");
        let range = ByteRange::between(offset_bytes, offset_bytes + len_bytes);
        self.check(range);
        let id = self.submit(op, range, Some(buf), flags);
        let done = Ticket { disk: self, id }.await;
        let buf = done.buf.expect("a transfer brings its buffer back");
        match done.errno {
            Some(errno) => (buf, Err(error(op, errno))),
            None => (buf, Ok(Way::Direct)),
        }
    }

    /// The caller has seen to it that requests are as the limits say.
    fn check(&self, range: ByteRange) {
        let limits = self.options.limits;
        let align = u64::from(limits.request_align_bytes);
        let is_aligned = |at: u64| at.is_multiple_of(align);
        let fits = !range.is_empty()
            && range.end() <= limits.len_bytes
            && is_aligned(range.start())
            && (is_aligned(range.end()) || range.end() == limits.len_bytes)
            && range.len() <= u64::from(limits.transfer_bytes_max);
        if !fits {
            let text = format!("disk {} was asked for {range}: {limits:?}", self.number);
            trace::violated("D9", text);
        }
    }
}

/// Waits for a request. The request goes on when this is dropped.
struct Ticket<'a> {
    disk: &'a Disk,
    id: u64,
}

impl Future for Ticket<'_> {
    type Output = Done;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Done> {
        let mut state = self.disk.lock();
        if let Some(done) = state.done.remove(&self.id) {
            return Poll::Ready(done);
        }
        if let Some(request) = state.pending.get_mut(&self.id) {
            request.waiter = Waiter::Waits(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut state = self.disk.lock();
        let done = state.done.remove(&self.id);
        let waiter = match state.pending.get_mut(&self.id) {
            Some(request) => mem::replace(&mut request.waiter, Waiter::Gone),
            None => Waiter::Gone,
        };
        drop(state);
        // Buffers and wakers end without the lock.
        drop((done, waiter));
    }
}

impl State {
    fn latency_ns(&mut self, op: Op, range: ByteRange, options: DiskOptions) -> u64 {
        let moved = match op {
            Op::Read | Op::Write => range.len(),
            Op::Zeroes | Op::Discard | Op::Flush | Op::Extent => 0,
        };
        let transfer_ns = moved * 1000 / options.bytes_per_us;
        let latency_ns = options.latency_ns;
        let drawn = self.chance.log_normal(latency_ns, options.scatter_x16);
        1000 + drawn + transfer_ns + self.faults.spike_ns()
    }

    /// Has `part` of a request take effect.
    fn apply(&mut self, id: u64, request: &mut Request, part: ByteRange, options: DiskOptions) {
        if part.is_empty() {
            return;
        }
        let start = request.range.start();
        let span = |range: ByteRange| {
            let at = |offset: u64| usize::try_from(offset - start).expect("within a request");
            at(range.start())..at(range.end())
        };
        let fua = request.flags.fua;
        match (request.op, &mut request.buf) {
            (Op::Read, Some(buf)) => self.store.read(part, &mut buf[span(part)]),
            (Op::Write, Some(buf)) => self.store.write((id, fua), part, &buf[span(part)]),
            (Op::Zeroes, _) => self
                .store
                .zero((id, fua), part, store::Holes::of(request.flags)),
            (Op::Discard, _) if options.discards == Discards::Zero => {
                self.store.zero((id, fua), part, store::Holes::Punch);
            }
            (Op::Extent, _) => request.extent = Some(self.store.extent(request.range)),
            _ => {}
        }
    }

    /// Ends a request; returns who waits for it.
    fn complete(&mut self, id: u64, disk: usize, options: DiskOptions) -> Option<Waker> {
        let mut request = self.pending.remove(&id)?;
        let mut errno = self.faults.errno(request.op, request.range);
        if request.is_cancelled {
            errno = Some(libc::ENOTCONN);
        }
        let is_new = self.store.new_blocks(request.range);
        if errno.is_none() && request.op == Op::Write && !self.faults.have_room(is_new) {
            errno = Some(libc::ENOSPC);
        }
        let late = match request.effect {
            Effect::Early => ByteRange::between(request.range.end(), request.range.end()),
            Effect::Late => request.range,
            Effect::Split => ByteRange::between(middle(request.range), request.range.end()),
        };
        if errno.is_none() {
            self.apply(id, &mut request, late, options);
        }
        if request.op == Op::Flush {
            errno = self.flush(request.begun, errno);
        }
        self.store.complete(id, errno);
        trace::note(Event::Done { disk, id, errno });
        let done = Done {
            buf: request.buf,
            extent: request.extent,
            errno,
        };
        match request.waiter {
            Waiter::Gone => None,
            Waiter::NotYet => {
                self.done.insert(id, done);
                None
            }
            Waiter::Waits(waker) => {
                self.done.insert(id, done);
                Some(waker)
            }
        }
    }

    fn flush(&mut self, begun: u64, errno: Option<i32>) -> Option<i32> {
        match (errno, self.faults.flush_fault()) {
            (None, FlushFault::None) => {
                self.store.flush(begun);
                None
            }
            (_, FlushFault::Drops) => {
                self.store.drop_unflushed();
                Some(libc::EIO)
            }
            (errno, FlushFault::None | FlushFault::Once) => errno.or(Some(libc::EIO)),
        }
    }
}

fn middle(range: ByteRange) -> u64 {
    let half = range.start() + range.len() / 2;
    (half - half % store::SECTOR_BYTES).max(range.start())
}

fn error(op: Op, errno: i32) -> BlockError {
    let source = io::Error::from_raw_os_error(errno);
    BlockError::io(format!("the disk failed to {op:?}"), source)
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}
