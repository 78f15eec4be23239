//! Models of the wake-up protocol, run by `RUSTFLAGS="--cfg loom" cargo test -p aio --release loom_`.

use loom::{
    sync::{
        Arc, Notify,
        atomic::{AtomicBool, AtomicUsize, Ordering, fence},
    },
    thread,
};

use super::{NO_DEADLINES, WakeState};

/// Stands for the eventfd: a kick is remembered until the sleeper takes it.
///
/// loom's `Notify` also wakes without a cause now and then, as a kernel may.
pub(crate) struct Kick(Notify);

impl Kick {
    pub(crate) fn new() -> Self {
        Self(Notify::new())
    }

    pub(crate) fn kick(&self) {
        self.0.notify();
    }

    pub(crate) fn sleep(&self) {
        self.0.wait();
    }
}

/// The protocol's two sides, so that the shipped one and its mutants run the same model.
trait Protocol: Send + Sync + 'static {
    fn new() -> Self;
    fn must_kick(&self) -> bool;
    fn announce_sleep(&self);
    fn end_sleep(&self);
}

impl Protocol for WakeState {
    fn new() -> Self {
        WakeState::new()
    }
    fn must_kick(&self) -> bool {
        WakeState::must_kick(self)
    }
    fn announce_sleep(&self) {
        WakeState::announce_sleep(self, NO_DEADLINES);
    }
    fn end_sleep(&self) {
        WakeState::end_sleep(self);
    }
}

/// Two posters leave one piece of work each; the home thread sleeps whenever it finds none.
/// A lost wake-up is a deadlock, which loom reports as a panic.
fn model<P: Protocol>(posters: usize) {
    crate::explore::explore(3, move || {
        let state = Arc::new(P::new());
        let inbox = Arc::new(AtomicUsize::new(0));
        let kick = Arc::new(Kick::new());
        let threads: Vec<_> = (0..posters)
            .map(|_| {
                let (state, inbox, kick) = (state.clone(), inbox.clone(), kick.clone());
                thread::spawn(move || {
                    inbox.fetch_add(1, Ordering::Release);
                    if state.must_kick() {
                        kick.kick();
                    }
                })
            })
            .collect();
        let mut taken = 0;
        while taken < posters {
            taken += inbox.swap(0, Ordering::Acquire);
            if taken == posters {
                break;
            }
            state.announce_sleep();
            if inbox.load(Ordering::Relaxed) == 0 {
                kick.sleep();
            }
            state.end_sleep();
        }
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn loom_no_wake_up_is_lost() {
    model::<WakeState>(2);
}

#[test]
fn loom_a_bare_notify_is_not_lost() {
    crate::explore::explore(3, || {
        let state = Arc::new(WakeState::new());
        let kick = Arc::new(Kick::new());
        let poster = {
            let (state, kick) = (state.clone(), kick.clone());
            thread::spawn(move || {
                state.set_notified();
                if state.must_kick() {
                    kick.kick();
                }
            })
        };
        while !state.take_notified() {
            state.announce_sleep(NO_DEADLINES);
            if state.take_notified() {
                break;
            }
            kick.sleep();
            state.end_sleep();
        }
        poster.join().unwrap();
    });
}

/// Defines a protocol with one known mistake; the model must fail under it.
struct Mutant<const WHICH: u8> {
    notify_me: AtomicBool,
}

const POSTER_WITHOUT_FENCE: u8 = 0;
const SLEEPER_WITHOUT_FENCE: u8 = 1;
const ANNOUNCE_TOO_LATE: u8 = 2;

impl<const WHICH: u8> Protocol for Mutant<WHICH> {
    fn new() -> Self {
        Self {
            notify_me: AtomicBool::new(false),
        }
    }
    fn must_kick(&self) -> bool {
        if WHICH != POSTER_WITHOUT_FENCE {
            fence(Ordering::SeqCst);
        }
        self.notify_me.load(Ordering::Relaxed)
            && self
                .notify_me
                .compare_exchange(true, false, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }
    fn announce_sleep(&self) {
        if WHICH == ANNOUNCE_TOO_LATE {
            return;
        }
        self.notify_me.store(true, Ordering::Relaxed);
        if WHICH != SLEEPER_WITHOUT_FENCE {
            fence(Ordering::SeqCst);
        }
    }
    fn end_sleep(&self) {
        self.notify_me.store(false, Ordering::Relaxed);
    }
}

#[test]
#[should_panic]
fn loom_mutant_poster_without_fence_is_found() {
    model::<Mutant<POSTER_WITHOUT_FENCE>>(1);
}

#[test]
#[should_panic]
fn loom_mutant_sleeper_without_fence_is_found() {
    model::<Mutant<SLEEPER_WITHOUT_FENCE>>(1);
}

#[test]
#[should_panic]
fn loom_mutant_sleep_without_announcement_is_found() {
    model::<Mutant<ANNOUNCE_TOO_LATE>>(1);
}
