//! A node's entrance: counts the requests inside, and can be closed.
//!
//! One atomic holds both counts, so that "is it open" and "I am in" are one step:
//!
//! ```text
//!   bit 63            32 31              0
//!      [ times closed   | requests inside ]
//! ```
//!
//! [`Gate::close`], then [`Gate::wait_empty`]: nobody is inside and nobody gets in until the last
//! [`Gate::open`]. Entering is one `fetch_add`, leaving one `fetch_sub`. A request that finds the
//! gate closed has counted itself for a moment; it takes that back before it waits, and whoever
//! takes the count of a closed gate to zero wakes those who wait for that. `gate/models.rs` checks it.

use std::{borrow::Borrow, fmt};

use aio::sync::atomic::{AtomicU64, Ordering};

use crate::wait::WaitList;

#[cfg(all(test, loom))]
mod models;
#[cfg(test)]
mod tests;

const CLOSED_ONCE: u64 = 1 << 32;
const INSIDE: u64 = CLOSED_ONCE - 1;

/// Admission to a node: requests inside, and how often it is closed.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: AtomicU64,
    /// Wait for the gate to open.
    outside: WaitList,
    /// Wait for the last request inside to leave.
    quiescing: WaitList,
}

impl Gate {
    /// Enters if the gate is open; each success is followed by one [`Gate::leave`].
    pub(crate) fn try_enter(&self) -> bool {
        let before = self.state.fetch_add(1, Ordering::AcqRel);
        if before < CLOSED_ONCE {
            return true;
        }
        self.leave();
        false
    }

    /// One request less inside.
    pub(crate) fn leave(&self) {
        let before = self.state.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before & INSIDE > 0, "left more often than entered");
        if before >= CLOSED_ONCE && before & INSIDE == 1 {
            self.quiescing.wake_all();
        }
    }

    /// Closes the gate once more; each close needs its own [`Gate::open`].
    pub(crate) fn close(&self) {
        self.state.fetch_add(CLOSED_ONCE, Ordering::AcqRel);
    }

    /// Takes one close back; the last one lets everybody in who waits.
    pub(crate) fn open(&self) {
        let before = self.state.fetch_sub(CLOSED_ONCE, Ordering::AcqRel);
        assert!(before >= CLOSED_ONCE, "opened more often than closed");
        if before < 2 * CLOSED_ONCE {
            self.outside.wake_all();
        }
    }

    /// Waits until nobody is inside. The caller has closed the gate, else the answer is stale at once.
    pub(crate) async fn wait_empty(&self) {
        self.quiescing.until(|| self.inside() == 0).await;
    }

    /// Makes those who wait outside ask again whether they still want to get in here.
    pub(crate) fn ask_again(&self) {
        self.outside.wake_all();
    }

    /// Whether the gate is closed at least once.
    pub(crate) fn is_closed(&self) -> bool {
        self.state.load(Ordering::Acquire) >= CLOSED_ONCE
    }

    /// Requests inside, counting those that are just finding out that the gate is closed.
    pub(crate) fn inside(&self) -> u64 {
        self.state.load(Ordering::Acquire) & INSIDE
    }
}

/// One request inside a gate; dropping it leaves.
///
/// The holder is whatever keeps the gate alive: a reference, or a node.
pub(crate) struct RequestGuard<H: Borrow<Gate>> {
    holder: H,
}

impl<H: Borrow<Gate>> RequestGuard<H> {
    /// Enters if the gate is open.
    pub(crate) fn try_enter(holder: H) -> Option<Self> {
        holder.borrow().try_enter().then(|| Self { holder })
    }

    /// Waits for the gate to open and enters.
    #[cfg(test)]
    pub(crate) async fn enter(holder: H) -> Self {
        match Self::enter_if(holder, || true).await {
            Some(guard) => guard,
            None => unreachable!("it is always wanted"),
        }
    }

    /// Waits for the gate to open and enters, as long as `wanted` holds; `None` when it does not.
    ///
    /// `wanted` is asked again once inside: whoever changes the answer does so while the gate is
    /// closed and empty and calls [`Gate::ask_again`] afterwards, so a guard means that the answer
    /// stays "yes" until the guard drops. Dropping the future leaves nothing behind.
    pub(crate) async fn enter_if(holder: H, wanted: impl Fn() -> bool) -> Option<Self> {
        loop {
            let gate = holder.borrow();
            if gate.try_enter() {
                let guard = Self { holder };
                return wanted().then_some(guard);
            }
            gate.outside.until(|| !gate.is_closed() || !wanted()).await;
            if !wanted() {
                return None;
            }
        }
    }

    /// What keeps the gate alive.
    pub(crate) fn holder(&self) -> &H {
        &self.holder
    }
}

impl<H: Borrow<Gate>> Drop for RequestGuard<H> {
    fn drop(&mut self) {
        self.holder.borrow().leave();
    }
}

impl<H: Borrow<Gate> + fmt::Debug> fmt::Debug for RequestGuard<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RequestGuard").field(&self.holder).finish()
    }
}
