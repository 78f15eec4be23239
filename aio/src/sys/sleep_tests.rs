//! What does not disturb a context that sleeps, and what its sleep costs.

// UNSAFETY: sends signals to a thread, and asks for its processor time.
#![expect(unsafe_code, reason = "nix has no safe way to handle a signal")]

use std::{
    cell::Cell,
    rc::Rc,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::{
    AioContext, Blocking, Config, EventNotifier, Handle, IoThread, TimerClock,
    backend::conformance::{each_backend, on_each},
};

static HANDLED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count(_signal: libc::c_int) {
    HANDLED.fetch_add(1, Ordering::Relaxed);
}

/// Has `handler`, which does nothing that a signal handler may not do, called for `signal`.
fn handle_signal(signal: Signal, handler: extern "C" fn(libc::c_int)) {
    // No SA_RESTART: system calls end with EINTR.
    let action = SigAction::new(
        SigHandler::Handler(handler),
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: the handlers here count, or write to an eventfd.
    unsafe { sigaction(signal, &action) }.unwrap();
}

/// Has the calling thread handle `SIGUSR2`, and names it.
fn interruptible() -> libc::pthread_t {
    handle_signal(Signal::SIGUSR2, count);
    // SAFETY: names the calling thread.
    unsafe { libc::pthread_self() }
}

fn until_asleep(handle: &Handle) {
    let state = handle.shared().wake_state();
    while state.asleep_until_ns(TimerClock::Loop).is_none() {
        thread::yield_now();
    }
}

/// Sends `SIGUSR2` to the thread `target` while it sleeps, and waits until it has been handled.
fn interrupt(handle: &Handle, target: libc::pthread_t) {
    until_asleep(handle);
    // It is about to sleep; mostly it does so by then.
    thread::park_timeout(Duration::from_micros(200));
    let before = HANDLED.load(Ordering::Relaxed);
    // SAFETY: the thread lives, and has a handler for the signal.
    assert_eq!(unsafe { libc::pthread_kill(target, libc::SIGUSR2) }, 0);
    while HANDLED.load(Ordering::Relaxed) == before {
        thread::yield_now();
    }
}

#[test]
fn a_signal_handler_does_not_end_a_sleep_that_a_bare_notify_ends_without_progress() {
    let sleeper = interruptible();
    on_each(|cx| {
        let notified = AtomicBool::new(false);
        let (handle, turns) = (cx.handle().clone(), cx.stats().turns);
        thread::scope(|scope| {
            let _interrupter = scope.spawn(|| {
                (0..30).for_each(|_| interrupt(&handle, sleeper));
                until_asleep(&handle);
                notified.store(true, Ordering::Relaxed);
                handle.notify();
            });
            let mut progress = Vec::new();
            while !notified.load(Ordering::Relaxed) {
                progress.push(cx.poll(Blocking::Yes));
            }
            assert_eq!(progress, [false], "one turn, and no progress");
        });
        assert_eq!(cx.stats().turns, turns + 1);
    });
}

#[test]
fn a_sleep_for_a_timer_goes_on_after_a_signal_handler() {
    let sleeper = interruptible();
    on_each(|cx| {
        let (handle, done) = (cx.handle().clone(), AtomicBool::new(false));
        let timer = cx.timer("ends the sleep", TimerClock::Loop, |_| ());
        thread::scope(|scope| {
            let _interrupter = scope.spawn(|| {
                interrupt(&handle, sleeper);
                interrupt(&handle, sleeper);
                done.store(true, Ordering::Relaxed);
            });
            while !done.load(Ordering::Relaxed) {
                let deadline_ns = cx.now_ns() + 20_000_000;
                timer.arm_at_ns(deadline_ns);
                assert!(cx.poll(Blocking::Yes));
                assert!(cx.now_ns() >= deadline_ns);
            }
        });
    });
}

static EVENT: OnceLock<EventNotifier> = OnceLock::new();

extern "C" fn set_event(_signal: libc::c_int) {
    EVENT.get().unwrap().set();
}

#[test]
fn a_signal_handler_may_set_an_event() {
    let event = EVENT.get_or_init(|| EventNotifier::new().unwrap());
    handle_signal(Signal::SIGUSR1, set_event);
    on_each(|cx| {
        let calls = Rc::new(Cell::new(0));
        let count = calls.clone();
        let handler = cx
            .add_event_notifier(event, "set by a signal", move |_| {
                count.set(count.get() + 1);
            })
            .unwrap();
        for round in 1..=3 {
            // SAFETY: the signal has a handler.
            assert_eq!(unsafe { libc::raise(libc::SIGUSR1) }, 0);
            while calls.get() < round {
                cx.poll(Blocking::Yes);
            }
        }
        assert_eq!(calls.get(), 3);
        drop(handler);
    });
}

/// Turns of the loop, and nanoseconds of processor time of its thread.
fn spent(cx: &AioContext) -> (u64, u64) {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is one timespec, borrowed for the call.
    let told = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(told, 0);
    let (s, ns) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    (cx.stats().turns, s.unwrap() * 1_000_000_000 + ns.unwrap())
}

#[test]
fn a_context_that_has_nothing_to_do_costs_no_processor_time() {
    for backend in each_backend() {
        let thread = IoThread::start(Config {
            backend: Some(backend),
            ..Config::for_io_thread("idle")
        })
        .unwrap();
        // Calls in quick succession teach it to poll before it sleeps.
        for _ in 0..1000 {
            thread.handle().call(|_| ()).wait();
        }
        let before = thread.handle().call(spent).wait();
        thread::park_timeout(Duration::from_millis(200));
        let after = thread.handle().call(spent).wait();

        assert!(after.0 - before.0 < 10, "{before:?} {after:?}");
        assert!(after.1 - before.1 < 5_000_000, "{before:?} {after:?}");
    }
}
