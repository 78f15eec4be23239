//! `throttle`: a filter that lets requests begin only as fast as the limits of its group allow.
//!
//! A [`ThrottleGroup`] has leaky buckets for bytes and requests; all nodes of the group pour into them, and
//! take turns where they meet. Reads and writes have queues of their own. Flushes and queries pass.

mod bucket;
mod group;

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use aio::{
    AioContext, IoBuf, Sleep,
    sync::{Mutex, MutexGuard},
};

use self::{
    bucket::{Direction, Load},
    group::{Member, Place, Ticket, Turns},
};
use crate::{
    allocation::{ByteRange, Extent},
    error::{BlockError, ErrorKind},
    graph::child::Child,
    node_driver::{Access, Limits, Located, NodeDriver, RequestFlags, RequestFuture, Transferred},
};

/// Most that a limit or a burst may be.
const RATE_MAX: u64 = 1_000_000_000_000_000;

/// How much may pass in a second. All zero: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThrottleLimit {
    /// Bytes or requests a second, over time; zero is no limit.
    pub per_s: u64,
    /// Bytes or requests a second while a burst lasts; zero: a tenth of a second's worth may come at once.
    pub burst_per_s: u64,
    /// For how many seconds a burst may last; zero counts as one.
    pub burst_s: u64,
}

impl ThrottleLimit {
    /// A limit with short bursts only.
    #[must_use]
    pub fn per_s(per_s: u64) -> Self {
        Self {
            per_s,
            ..Self::default()
        }
    }

    fn check(self) -> Result<(), &'static str> {
        if self.per_s > RATE_MAX || self.burst_per_s > RATE_MAX {
            return Err("bps/iops/max values must be within [0, 1000000000000000]");
        }
        if self.burst_per_s > 0 && self.per_s == 0 {
            return Err("bps_max/iops_max require corresponding bps/iops values");
        }
        if self.burst_per_s > 0 && self.burst_per_s < self.per_s {
            return Err("bps_max/iops_max cannot be lower than bps/iops");
        }
        if self.burst_s > 1 && self.burst_per_s == 0 {
            return Err("burst length set without burst rate");
        }
        if self.burst_per_s.saturating_mul(self.burst_s) > RATE_MAX {
            return Err("burst length too high for this burst rate");
        }
        Ok(())
    }
}

/// The limits of a group: of reads and writes together, or of each by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThrottleLimits {
    /// `bps-total`: bytes of reads and writes.
    pub bytes_total: ThrottleLimit,
    /// `bps-read`: bytes of reads.
    pub bytes_read: ThrottleLimit,
    /// `bps-write`: bytes of writes, of writes of zeroes and of discards.
    pub bytes_write: ThrottleLimit,
    /// `iops-total`: reads and writes.
    pub requests_total: ThrottleLimit,
    /// `iops-read`: reads.
    pub requests_read: ThrottleLimit,
    /// `iops-write`: writes, writes of zeroes and discards.
    pub requests_write: ThrottleLimit,
    /// `iops-size`: a longer request counts as so many of this length; zero: as one.
    pub request_bytes: u64,
}

impl ThrottleLimits {
    /// Whether these limits make sense.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`], with what is wrong.
    pub fn check(&self) -> Result<(), BlockError> {
        self.checked()
            .map_err(|what| BlockError::new(ErrorKind::Invalid, what))
    }

    fn checked(&self) -> Result<(), &'static str> {
        let bytes = [self.bytes_total, self.bytes_read, self.bytes_write];
        let requests = [self.requests_total, self.requests_read, self.requests_write];
        for [total, read, write] in [bytes, requests] {
            let parts = [read, write];
            if total.per_s > 0 && parts.iter().any(|part| part.per_s > 0) {
                return Err(
                    "bps/iops/max total values and read/write values cannot be used at the same time",
                );
            }
            for limit in [total, read, write] {
                limit.check()?;
            }
        }
        let has_request_limit = requests.iter().any(|limit| limit.per_s > 0);
        if self.request_bytes > 0 && !has_request_limit {
            return Err("iops size requires an iops value to be set");
        }
        Ok(())
    }
}

/// What shares limits. Cheap to clone; any thread.
#[derive(Clone, Debug)]
pub struct ThrottleGroup {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    members: AtomicU64,
}

#[derive(Debug)]
struct State {
    limits: ThrottleLimits,
    turns: Turns,
}

impl ThrottleGroup {
    /// A group with these limits.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`]: they make no sense.
    pub fn new(limits: ThrottleLimits) -> Result<Self, BlockError> {
        limits.check()?;
        let turns = Turns::new(&limits);
        let shared = Shared {
            state: Mutex::new(State { limits, turns }),
            members: AtomicU64::new(0),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// The limits now.
    #[must_use]
    pub fn limits(&self) -> ThrottleLimits {
        self.shared.lock().limits
    }

    /// Sets other limits, which hold from now on, also for what waits.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`]: they make no sense; the old ones stay.
    pub fn set_limits(&self, limits: ThrottleLimits) -> Result<(), BlockError> {
        limits.check()?;
        let mut state = self.shared.lock();
        state.limits = limits;
        let woken = state.turns.set_limits(&limits);
        drop(state);
        woken.wake();
        Ok(())
    }

    /// Whether anything else than this handle keeps the group: a node that belongs to it.
    #[must_use]
    pub fn is_used(&self) -> bool {
        Arc::strong_count(&self.shared) > 1
    }

    /// How many requests wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.lock().turns.len()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A filter whose requests begin as fast as its group allows.
///
/// A drain of this node lets go at once what it holds back; that counts all the same, so that what comes
/// afterwards makes up for it.
#[derive(Debug)]
pub struct ThrottleNode {
    child: Child,
    group: ThrottleGroup,
    member: Member,
}

impl ThrottleNode {
    /// A filter over `child` that belongs to `group`.
    #[must_use]
    pub fn new(child: Child, group: &ThrottleGroup) -> Self {
        let member = Member(group.shared.members.fetch_add(1, Ordering::Relaxed));
        Self {
            child,
            group: group.clone(),
            member,
        }
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> &ThrottleGroup {
        &self.group
    }

    /// Waits until a request of that size may begin.
    async fn admit(&self, cx: &AioContext, direction: Direction, bytes: u64) {
        let load = Load { direction, bytes };
        let shared = &*self.group.shared;
        let ticket = shared.lock().turns.join(self.member, load);
        let mut waiting = Waiting {
            shared,
            ticket,
            sleep: None,
        };
        poll_fn(|task| waiting.poll(cx, task)).await;
    }
}

/// A request that waits for its turn. Dropping it gives the place up.
struct Waiting<'a> {
    shared: &'a Shared,
    ticket: Ticket,
    sleep: Option<Sleep>,
}

impl Waiting<'_> {
    fn poll(&mut self, cx: &AioContext, task: &mut Context<'_>) -> Poll<()> {
        loop {
            let mut state = self.shared.lock();
            let place = state.turns.look(cx.now_ns(), self.ticket);
            let unused = state.turns.wait(self.ticket, task.waker());
            drop(state);
            drop(unused);
            let start_ns = match place {
                Place::Go => return Poll::Ready(()),
                Place::Queued | Place::Turn => return Poll::Pending,
                Place::At(start_ns) => start_ns,
            };
            let sleep = match &mut self.sleep {
                Some(sleep) if sleep.deadline_ns() == start_ns => sleep,
                other => other.insert(cx.sleep_until_ns(start_ns)),
            };
            if Pin::new(sleep).poll(task).is_pending() {
                return Poll::Pending;
            }
            self.sleep = None;
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let woken = self.shared.lock().turns.leave(self.ticket);
        woken.wake();
    }
}

fn len_of(buf: &IoBuf) -> u64 {
    u64::try_from(buf.len()).expect("a length of memory")
}

impl NodeDriver for ThrottleNode {
    fn driver_name(&self) -> &'static str {
        "throttle"
    }

    fn limits(&self) -> Limits {
        self.child.limits()
    }

    fn read<'a>(
        &'a self,
        cx: &'a AioContext,
        offset_bytes: u64,
        buf: IoBuf,
    ) -> RequestFuture<'a, Transferred> {
        Box::pin(async move {
            self.admit(cx, Direction::Read, len_of(&buf)).await;
            self.child.read(cx, offset_bytes, buf).await
        })
    }

    fn write<'a>(
        &'a self,
        cx: &'a AioContext,
        offset_bytes: u64,
        buf: IoBuf,
        flags: RequestFlags,
    ) -> RequestFuture<'a, Transferred> {
        Box::pin(async move {
            self.admit(cx, Direction::Write, len_of(&buf)).await;
            self.child.write(cx, offset_bytes, buf, flags).await
        })
    }

    fn write_zeroes<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
        flags: RequestFlags,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(async move {
            self.admit(cx, Direction::Write, range.len()).await;
            self.child.write_zeroes(cx, range, flags).await
        })
    }

    fn discard<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(async move {
            self.admit(cx, Direction::Write, range.len()).await;
            self.child.discard(cx, range).await
        })
    }

    fn flush<'a>(&'a self, cx: &'a AioContext) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(self.child.flush(cx))
    }

    fn truncate<'a>(
        &'a self,
        cx: &'a AioContext,
        len_bytes: u64,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(self.child.truncate(cx, len_bytes))
    }

    fn extent<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
    ) -> RequestFuture<'a, Result<Extent, BlockError>> {
        Box::pin(self.child.extent(cx, range))
    }

    /// Nowhere: what passes is to be counted.
    fn locate(&self, _range: ByteRange, _access: Access) -> Located<'_> {
        Located::Nowhere
    }

    fn cancel_in_flight(&self) {
        self.child.node().cancel_in_flight();
    }

    fn drain_begin(&self) {
        let woken = self.group.shared.lock().turns.drain(self.member);
        woken.wake();
    }

    fn drain_end(&self) {
        self.group.shared.lock().turns.end_drain(self.member);
    }
}

#[cfg(test)]
mod tests;
