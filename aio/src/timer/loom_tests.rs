//! Models of arming a timer from another thread, run by `RUSTFLAGS="--cfg loom" cargo test -p aio --release loom_`.

use loom::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering, fence},
    },
    thread,
};

use crate::{
    clock::{CLOCKS, TimerClock},
    inbox::{Inbox, Node},
    wake::{NO_DEADLINES, WakeState, loom_tests::Kick},
};

const CHANGED: u32 = 1;

/// What the two sides ask of the wake-up protocol, so that the shipped one and its mutants run the same model.
trait Protocol: Send + Sync + 'static {
    fn new() -> Self;
    fn announce_sleep(&self, until_ns: u64);
    fn end_sleep(&self);
    /// Asked by whoever has armed the timer; `listed` if that put its node on the list.
    fn must_kick_before(&self, deadline_ns: u64, listed: bool) -> bool;
}

impl Protocol for WakeState {
    fn new() -> Self {
        WakeState::new()
    }
    fn announce_sleep(&self, until_ns: u64) {
        let mut deadlines: [u64; CLOCKS] = NO_DEADLINES;
        deadlines[TimerClock::Wall.index()] = until_ns;
        WakeState::announce_sleep(self, deadlines);
    }
    fn end_sleep(&self) {
        WakeState::end_sleep(self);
    }
    fn must_kick_before(&self, deadline_ns: u64, _: bool) -> bool {
        WakeState::must_kick_before(self, TimerClock::Wall, deadline_ns)
    }
}

/// The home thread sleeps until 10 and then until 100; another thread arms a timer for 200 and then
/// for 50. The home thread must learn of the latter before it is 100. That it wakes at 100 is not in
/// the model, so that it sleeps for ever if it sleeps too long, which loom reports as a panic.
fn model<P: Protocol>() {
    crate::explore::explore(3, || {
        let protocol = Arc::new(P::new());
        let inbox = Arc::new(Inbox::new());
        let kick = Arc::new(Kick::new());
        let node = std::sync::Arc::new(Node::new(AtomicU64::new(u64::MAX)));
        let setter = {
            let (protocol, inbox, kick) = (protocol.clone(), inbox.clone(), kick.clone());
            thread::spawn(move || {
                for deadline_ns in [200, 50] {
                    node.what.swap(deadline_ns, Ordering::AcqRel);
                    let listed = inbox.raise(&node, CHANGED);
                    if protocol.must_kick_before(deadline_ns, listed) {
                        kick.kick();
                    }
                }
            })
        };
        let mut until_ns = 10;
        loop {
            let learnt = inbox.take().fold(u64::MAX, |_, listed| {
                listed.begin(CHANGED).0.what.load(Ordering::Acquire)
            });
            if learnt <= 50 {
                break;
            }
            protocol.announce_sleep(until_ns);
            if inbox.is_empty() && until_ns > 10 {
                kick.sleep();
            }
            protocol.end_sleep();
            until_ns = 100;
        }
        setter.join().unwrap();
    });
}

#[test]
fn loom_a_timer_armed_elsewhere_is_not_slept_past() {
    model::<WakeState>();
}

/// Defines a protocol with one known mistake; the model must fail under it.
struct Mutant<const WHICH: u8> {
    notify_me: AtomicBool,
    sleep_until_ns: AtomicU64,
}

const SETTER_WITHOUT_FENCE: u8 = 0;
const SLEEPER_WITHOUT_FENCE: u8 = 1;
const PUBLISHED_TOO_LATE: u8 = 2;
const KICK_ONLY_IF_NOT_LISTED: u8 = 3;

impl<const WHICH: u8> Protocol for Mutant<WHICH> {
    fn new() -> Self {
        Self {
            notify_me: AtomicBool::new(false),
            sleep_until_ns: AtomicU64::new(u64::MAX),
        }
    }
    fn announce_sleep(&self, until_ns: u64) {
        if WHICH != PUBLISHED_TOO_LATE {
            self.sleep_until_ns.store(until_ns, Ordering::Relaxed);
        }
        self.notify_me.store(true, Ordering::Relaxed);
        if WHICH != SLEEPER_WITHOUT_FENCE {
            fence(Ordering::SeqCst);
        }
        if WHICH == PUBLISHED_TOO_LATE {
            self.sleep_until_ns.store(until_ns, Ordering::Relaxed);
        }
    }
    fn end_sleep(&self) {
        self.notify_me.store(false, Ordering::Relaxed);
    }
    fn must_kick_before(&self, deadline_ns: u64, listed: bool) -> bool {
        if WHICH == KICK_ONLY_IF_NOT_LISTED && !listed {
            return false;
        }
        if WHICH != SETTER_WITHOUT_FENCE {
            fence(Ordering::SeqCst);
        }
        deadline_ns < self.sleep_until_ns.load(Ordering::Relaxed)
            && self.notify_me.load(Ordering::Relaxed)
            && self
                .notify_me
                .compare_exchange(true, false, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }
}

const NO_MISTAKE: u8 = 4;

#[test]
fn loom_a_copy_without_a_mistake_passes() {
    model::<Mutant<NO_MISTAKE>>();
}

#[test]
#[should_panic]
fn loom_mutant_setter_without_fence_is_found() {
    model::<Mutant<SETTER_WITHOUT_FENCE>>();
}

#[test]
#[should_panic]
fn loom_mutant_sleeper_without_fence_is_found() {
    model::<Mutant<SLEEPER_WITHOUT_FENCE>>();
}

#[test]
#[should_panic]
fn loom_mutant_deadline_published_after_the_announcement_is_found() {
    model::<Mutant<PUBLISHED_TOO_LATE>>();
}

#[test]
#[should_panic]
fn loom_mutant_kick_only_if_the_list_was_empty_is_found() {
    model::<Mutant<KICK_ONLY_IF_NOT_LISTED>>();
}
