//! The sleep and wake-up protocol between a context's home thread and those that post work to it.
//!
//! A poster makes its work visible (a push to the inbox) and then asks [`WakeState::must_kick`];
//! only when the home thread sleeps, or is about to, does the answer cost a system call. The home
//! thread announces its sleep, looks for work *once more*, and only then sleeps:
//!
//! ```text
//!   poster                          home thread
//!   ------                          -----------
//!   push work                       notify_me = true
//!   fence(SeqCst)                   fence(SeqCst)
//!   notify_me? -> clear, kick       work? -> do not sleep
//!                                   sleep until kicked or timed out
//!                                   notify_me = false
//! ```
//!
//! The two fences order each side's write before its read, so that at least one side sees the
//! other (Dekker's argument). Whichever poster clears `notify_me` pays for the one kick; those
//! that follow find it clear, because the home thread is already bound to wake. Spurious wake-ups
//! are legal, lost ones are not.
//!
//! Whoever arms a timer need not end a sleep that ends in time by itself. So the home thread publishes
//! with its announcement when it wakes by itself, by each clock, and such a poster
//! ([`WakeState::must_kick_before`]) leaves its work without a kick if that is soon enough. By the
//! argument above, either the home thread finds the work, or the poster sees the deadlines of this
//! sleep or of a later one, before which the home thread has looked again:
//!
//! ```text
//!   poster                          home thread
//!   ------                          -----------
//!   push timer                      sleep_until = earliest deadlines
//!   fence(SeqCst)                   notify_me = true
//!   notify_me, and                  fence(SeqCst)
//!   deadline < sleep_until?         work? -> do not sleep
//!     -> clear, kick
//! ```
//!
//! `cargo xtask ci` runs the models below under loom, each with the
//! protocol's known mistakes as mutants that must fail.

use crate::{
    clock::{CLOCKS, TimerClock},
    sync::atomic::{AtomicBool, AtomicU64, Ordering, fence},
};

/// Who sleeps, who must be kicked.
#[derive(Debug)]
pub(crate) struct WakeState {
    /// The home thread sleeps, or is about to and will look for work once more.
    notify_me: AtomicBool,
    /// Somebody asked for a turn of the loop without leaving work.
    notified: AtomicBool,
    /// When the home thread wakes by itself at the latest, by each clock; means something while it sleeps.
    sleep_until_ns: [AtomicU64; CLOCKS],
}

/// The deadlines of a sleep that does not end by itself.
pub(crate) const NO_DEADLINES: [u64; CLOCKS] = [u64::MAX; CLOCKS];

impl WakeState {
    pub(crate) fn new() -> Self {
        Self {
            notify_me: AtomicBool::new(false),
            notified: AtomicBool::new(false),
            sleep_until_ns: NO_DEADLINES.map(AtomicU64::new),
        }
    }

    /// Whether the caller, who has just made work visible, must kick the home thread. Any thread.
    #[must_use]
    pub(crate) fn must_kick(&self) -> bool {
        fence(Ordering::SeqCst);
        self.end_of_sleep_is_mine()
    }

    /// The same for a caller who needs the home thread only when `clock` has come to `deadline_ns`.
    #[must_use]
    pub(crate) fn must_kick_before(&self, clock: TimerClock, deadline_ns: u64) -> bool {
        fence(Ordering::SeqCst);
        deadline_ns < self.sleep_until_ns[clock.index()].load(Ordering::Relaxed)
            && self.end_of_sleep_is_mine()
    }

    fn end_of_sleep_is_mine(&self) -> bool {
        self.notify_me.load(Ordering::Relaxed)
            && self
                .notify_me
                .compare_exchange(true, false, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }

    /// Leaves word that a turn of the loop is wanted; ask [`Self::must_kick`] next. Any thread.
    pub(crate) fn set_notified(&self) {
        self.notified.store(true, Ordering::Release);
    }

    /// Whether there is word to take; a hint, for those who look before they sleep.
    pub(crate) fn is_notified(&self) -> bool {
        self.notified.load(Ordering::Relaxed)
    }

    /// Takes the word left by [`Self::set_notified`]. Home thread only.
    pub(crate) fn take_notified(&self) -> bool {
        self.notified.load(Ordering::Relaxed) && self.notified.swap(false, Ordering::AcqRel)
    }

    /// Announces that the home thread will sleep unless it finds work when it looks next, and wake by
    /// itself before any clock has passed its time of `until_ns`.
    pub(crate) fn announce_sleep(&self, until_ns: [u64; CLOCKS]) {
        for (published_ns, until_ns) in self.sleep_until_ns.iter().zip(until_ns) {
            published_ns.store(until_ns, Ordering::Relaxed);
        }
        self.notify_me.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// If the home thread sleeps, or is about to: when it wakes by itself at the latest.
    #[cfg(test)]
    #[cfg(not(loom))]
    pub(crate) fn asleep_until_ns(&self, clock: TimerClock) -> Option<u64> {
        let asleep = self.notify_me.load(Ordering::Acquire);
        asleep.then(|| self.sleep_until_ns[clock.index()].load(Ordering::Relaxed))
    }

    /// The home thread is awake again, and will look for work before it announces another sleep.
    pub(crate) fn end_sleep(&self) {
        self.notify_me.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[cfg(loom)]
pub(crate) mod loom_tests;
