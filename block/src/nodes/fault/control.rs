//! [`FaultControl`]: rules by which a test catches requests, and lets them go again.

use std::{
    collections::BTreeMap,
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use aio::AioContext;

use super::injected;
use crate::{allocation::ByteRange, error::BlockError};

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultOp {
    /// Read of data.
    Read,
    /// Write of data.
    Write,
    /// Write of zeroes.
    WriteZeroes,
    /// Discard.
    Discard,
    /// Flush.
    Flush,
    /// Extent query.
    Extent,
}

/// What happens to a request before the child sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultAction {
    /// It fails with this error number and never reaches the child.
    Fail {
        /// As in `errno.h`.
        errno: i32,
    },
    /// It waits that long by the context's clock.
    Delay {
        /// Nanoseconds.
        ns: u64,
    },
    /// It waits until [`FaultControl::release`] or [`FaultControl::fail`].
    Hold,
}

/// Which requests meet a fault. Each request meets the first rule that fits and is not used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultRule {
    /// Kind of request.
    pub op: FaultOp,
    /// Only requests that share a byte with this range; a flush has no range and always fits.
    pub within: Option<ByteRange>,
    /// How many fitting requests to let pass first: `n - 1` makes it the n-th.
    pub skip: u64,
    /// How many fitting requests to catch after that; `None` means all.
    pub times: Option<u64>,
    /// What happens to them.
    pub action: FaultAction,
}

impl FaultRule {
    /// Every request of the kind.
    #[must_use]
    pub fn every(op: FaultOp, action: FaultAction) -> Self {
        Self {
            op,
            within: None,
            skip: 0,
            times: None,
            action,
        }
    }

    /// The `n`-th request of the kind, counted from one.
    #[must_use]
    pub fn nth(op: FaultOp, n: u64, action: FaultAction) -> Self {
        Self {
            skip: n.saturating_sub(1),
            times: Some(1),
            ..Self::every(op, action)
        }
    }

    /// The same rule for requests that share a byte with `range`.
    #[must_use]
    pub fn within(self, range: ByteRange) -> Self {
        Self {
            within: Some(range),
            ..self
        }
    }
}

/// A request that is being held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldRequest {
    /// Names it among those of one filter.
    pub id: u64,
    /// Kind of request.
    pub op: FaultOp,
    /// The bytes it is for; empty for a flush.
    pub range: ByteRange,
}

/// The strings by which a test moves a [`FaultNode`](super::FaultNode). Any thread; clones move the same node.
#[derive(Clone, Default)]
pub struct FaultControl {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    rules: Vec<FaultRule>,
    held: BTreeMap<u64, Held>,
    next_id: u64,
    seen: Vec<(FaultOp, ByteRange)>,
    watchers: Vec<Waker>,
}

struct Held {
    request: HeldRequest,
    /// `Some` once it may go on, with the error number it fails with.
    verdict: Option<Result<(), i32>>,
    waker: Option<Waker>,
}

impl FaultControl {
    /// A control without rules, for [`FaultNode::new`](super::FaultNode::new).
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a rule behind those that exist.
    pub fn add(&self, rule: FaultRule) {
        self.lock().rules.push(rule);
    }

    /// Removes all rules. Held requests stay held.
    pub fn clear(&self) {
        self.lock().rules.clear();
    }

    /// Every request that arrived so far, with its bytes, in order.
    #[must_use]
    pub fn seen(&self) -> Vec<(FaultOp, ByteRange)> {
        self.lock().seen.clone()
    }

    /// The requests held now, oldest first.
    #[must_use]
    pub fn held(&self) -> Vec<HeldRequest> {
        self.lock().waiting().collect()
    }

    /// Waits until at least `count` requests are held, and lists them. Dropping the future leaves nothing behind.
    pub async fn wait_held(&self, count: usize) -> Vec<HeldRequest> {
        poll_fn(|cx| {
            let mut state = self.lock();
            let held: Vec<_> = state.waiting().collect();
            if held.len() >= count {
                return Poll::Ready(held);
            }
            state.watchers.push(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Lets a held request go on to the child. Nothing happens when it is no longer held.
    pub fn release(&self, id: u64) {
        self.decide(id, Ok(()));
    }

    /// Makes a held request fail. Nothing happens when it is no longer held.
    pub fn fail(&self, id: u64, errno: i32) {
        self.decide(id, Err(errno));
    }

    /// Removes all rules and lets all held requests go on.
    pub fn release_all(&self) {
        self.clear();
        for request in self.held() {
            self.release(request.id);
        }
    }

    fn decide(&self, id: u64, verdict: Result<(), i32>) {
        let waker = match self.lock().held.get_mut(&id) {
            Some(held) => {
                held.verdict.get_or_insert(verdict);
                held.waker.take()
            }
            None => None,
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn meet(
        &self,
        cx: &AioContext,
        op: FaultOp,
        range: ByteRange,
    ) -> Result<(), BlockError> {
        let action = self.lock().arrive(op, range);
        let verdict = match action {
            None => Ok(()),
            Some(FaultAction::Fail { errno }) => Err(errno),
            Some(FaultAction::Delay { ns }) => {
                cx.sleep_ns(ns).await;
                Ok(())
            }
            Some(FaultAction::Hold) => self.hold(op, range).await,
        };
        verdict.map_err(|errno| injected(errno).at(range))
    }

    fn hold(&self, op: FaultOp, range: ByteRange) -> Hold {
        let mut state = self.lock();
        let id = state.next_id;
        state.next_id += 1;
        let held = Held {
            request: HeldRequest { id, op, range },
            verdict: None,
            waker: None,
        };
        state.held.insert(id, held);
        let watchers = std::mem::take(&mut state.watchers);
        drop(state);
        for watcher in watchers {
            watcher.wake();
        }
        Hold {
            control: self.clone(),
            id,
        }
    }
}

impl State {
    fn arrive(&mut self, op: FaultOp, range: ByteRange) -> Option<FaultAction> {
        self.seen.push((op, range));
        for rule in &mut self.rules {
            let fits = rule.op == op
                && rule.times != Some(0)
                && (range.is_empty() || rule.within.is_none_or(|within| within.overlaps(range)));
            if !fits {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            rule.times = rule.times.map(|times| times - 1);
            return Some(rule.action);
        }
        None
    }

    fn waiting(&self) -> impl Iterator<Item = HeldRequest> {
        self.held
            .values()
            .filter(|held| held.verdict.is_none())
            .map(|held| held.request)
    }
}

impl fmt::Debug for FaultControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("FaultControl")
            .field("rules", &state.rules)
            .field("held", &state.waiting().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// A request that waits for its verdict; dropping it takes it off the list.
struct Hold {
    control: FaultControl,
    id: u64,
}

impl Future for Hold {
    type Output = Result<(), i32>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.control.lock();
        let held = state
            .held
            .get_mut(&self.id)
            .expect("listed until it is dropped");
        if let Some(verdict) = held.verdict {
            return Poll::Ready(verdict);
        }
        held.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.control.lock().held.remove(&self.id);
    }
}
