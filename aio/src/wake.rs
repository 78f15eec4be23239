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
//! are legal, lost ones are not. `cargo xtask ci` runs the models below under loom, each with the
//! protocol's known mistakes as mutants that must fail.

use crate::sync::atomic::{AtomicBool, Ordering, fence};

/// Who sleeps, who must be kicked.
#[derive(Debug)]
pub(crate) struct WakeState {
    /// The home thread sleeps, or is about to and will look for work once more.
    notify_me: AtomicBool,
    /// Somebody asked for a turn of the loop without leaving work.
    notified: AtomicBool,
}

impl WakeState {
    pub(crate) fn new() -> Self {
        Self {
            notify_me: AtomicBool::new(false),
            notified: AtomicBool::new(false),
        }
    }

    /// Whether the caller, who has just made work visible, must kick the home thread. Any thread.
    #[must_use]
    pub(crate) fn must_kick(&self) -> bool {
        fence(Ordering::SeqCst);
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

    /// Announces that the home thread will sleep unless it finds work when it looks next.
    pub(crate) fn announce_sleep(&self) {
        self.notify_me.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The home thread is awake again, and will look for work before it announces another sleep.
    pub(crate) fn end_sleep(&self) {
        self.notify_me.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[cfg(loom)]
mod loom_tests;
