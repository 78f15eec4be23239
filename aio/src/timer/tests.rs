//! Timers, sleeps and time limits on both backends (SEMANTICS: ).

use std::{
    cell::{Cell, RefCell},
    future::pending,
    os::fd::AsFd,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Elapsed, Timer};
use crate::{
    AioContext, Blocking, Clock, Config, Drained, EventNotifier, FdCallbacks, Handle, IoThread,
    ManualClock, TimerClock,
    backend::{
        Wait,
        conformance::{on_each, on_each_with},
    },
};

const HOUR_NS: u64 = 3_600_000_000_000;

/// The three clocks of a context, to be moved by hand.
struct Hands {
    now: ManualClock,
    wall: ManualClock,
    virt: ManualClock,
}

fn by_hand() -> (Config, Hands) {
    let ((clock, now), (wall_clock, wall)) = (Clock::manual(), Clock::manual());
    let virt = ManualClock::default();
    let config = Config {
        clock,
        wall_clock,
        virtual_clock: virt.clone(),
        ..Config::default()
    };
    (config, Hands { now, wall, virt })
}

/// Runs a test on each backend, with clocks that stand at zero.
fn on_each_by_hand(test: impl Fn(&AioContext, &Hands)) {
    let (config, hands) = by_hand();
    on_each_with(config, |cx| {
        for clock in [&hands.now, &hands.wall, &hands.virt] {
            clock.set_ns(0);
        }
        test(cx, &hands);
    });
}

/// What happened, in order.
type Log = Rc<RefCell<Vec<&'static str>>>;

fn logged(cx: &AioContext, name: &'static str, log: &Log) -> Timer {
    let log = log.clone();
    cx.timer(name, TimerClock::Loop, move |_| log.borrow_mut().push(name))
}

/// Whether no clock has a timer.
fn no_timer(cx: &AioContext) -> bool {
    cx.timers().with(|timers| timers.is_empty())
}

/// Turns the loop as long as there is something to do without waiting.
fn settle(cx: &AioContext) {
    while cx.poll(Blocking::No) {}
}

#[test]
fn timers_go_by_their_own_clock_and_the_loop_sleeps_for_the_nearest() {
    on_each_by_hand(|cx, hands| {
        let log = Log::default();
        let timers = [
            ("now", TimerClock::Loop, 30),
            ("wall", TimerClock::Wall, 20),
            ("virtual", TimerClock::Virtual, 10),
        ]
        .map(|(name, clock, ns)| {
            let log = log.clone();
            let timer = cx.timer(name, clock, move |_| log.borrow_mut().push(name));
            timer.arm_at_ns(ns);
            assert_eq!((timer.clock(), timer.deadline_ns()), (clock, Some(ns)));
            timer
        });
        settle(cx);
        assert_eq!(cx.timer_deadlines(), [30, 20, 10]);
        assert_eq!(cx.timer_timeout(), Wait::Forever, "nobody moves the clocks");

        hands.wall.set_ns(25);
        assert_eq!(cx.timer_timeout(), Wait::No);
        assert!(cx.poll(Blocking::Yes));
        hands.now.advance_ns(30);
        assert!(cx.poll(Blocking::Yes));
        hands.virt.set_ns(10);
        assert!(cx.poll(Blocking::Yes));
        assert_eq!(*log.borrow(), ["wall", "now", "virtual"]);
        assert!(timers.iter().all(|timer| !timer.is_armed()));
    });
}

#[test]
fn the_loop_sleeps_no_longer_than_the_nearest_of_the_clocks_that_run() {
    on_each(|cx| {
        let timer = |clock| cx.timer("test", clock, |_| {});
        let (now, wall) = (timer(TimerClock::Loop), timer(TimerClock::Wall));
        assert_eq!(cx.timer_timeout(), Wait::Forever, "no timer, no wake-up");

        now.arm_at_ns(cx.now_ns() + 2 * HOUR_NS);
        assert!(matches!(cx.timer_timeout(), Wait::Ns(ns) if ns > HOUR_NS));
        wall.arm_at_ns(cx.clock_now_ns(TimerClock::Wall) + HOUR_NS);
        assert!(matches!(cx.timer_timeout(), Wait::Ns(1..=HOUR_NS)));
        now.arm_at_ns(0);
        assert_eq!(cx.timer_timeout(), Wait::No);

        now.cancel();
        wall.cancel();
        assert_eq!(cx.timer_timeout(), Wait::Forever, "as if nothing had been");
    });
}

#[test]
fn a_timer_is_never_early_and_the_loop_does_not_turn_for_nothing() {
    on_each(|cx| {
        for (nth, clock) in [TimerClock::Loop, TimerClock::Wall].into_iter().enumerate() {
            let fired_ns = Rc::new(Cell::new(0));
            let fired = fired_ns.clone();
            let note = move |cx: &AioContext| fired.set(cx.clock_now_ns(clock));
            let timer = cx.timer("test", clock, note);
            settle(cx);
            let turns = cx.stats().turns;
            // Not a whole number of anything.
            let deadline_ns = cx.clock_now_ns(clock) + 1_234_567 + u64::try_from(nth).unwrap();
            timer.arm_at_ns(deadline_ns);
            while fired_ns.get() == 0 {
                cx.poll(Blocking::Yes);
            }
            assert!(fired_ns.get() >= deadline_ns);
            let turns = cx.stats().turns - turns;
            assert!(turns <= 3, "{turns} turns");
        }
    });
}

#[test]
fn a_crowd_of_timers_makes_no_turn_without_an_expiry() {
    on_each(|cx| {
        let fired = Rc::new(Cell::new(0));
        let start_ns = cx.now_ns();
        // So many that the wheel does not know the first of them, over some of its slots.
        let timers: Vec<_> = (0..400)
            .map(|nth| {
                let fired = fired.clone();
                let count = move |_: &AioContext| fired.set(fired.get() + 1);
                let timer = cx.timer("one of many", TimerClock::Loop, count);
                timer.arm_at_ns(start_ns + 30_000_000 + nth * 20_000);
                timer
            })
            .collect();
        settle(cx);
        while fired.get() < timers.len() {
            let before = fired.get();
            assert!(cx.poll(Blocking::Yes));
            assert!(fired.get() > before);
        }
    });
}

#[test]
fn a_wall_clock_that_jumps_delays_or_hastens_its_timers() {
    on_each_by_hand(|cx, hands| {
        let fired = Rc::new(Cell::new(0));
        let count = fired.clone();
        let timer = cx.timer("test", TimerClock::Wall, move |_| {
            count.set(count.get() + 1);
        });
        hands.wall.set_ns(HOUR_NS);
        timer.arm_at_ns(HOUR_NS + 10);
        settle(cx);

        hands.wall.set_ns(5);
        settle(cx);
        assert_eq!(
            cx.timer_timeout(),
            Wait::Forever,
            "it waits for its time again"
        );
        hands.wall.set_ns(HOUR_NS + 9);
        settle(cx);
        assert_eq!(fired.get(), 0);
        hands.wall.set_ns(2 * HOUR_NS);
        settle(cx);
        assert_eq!(fired.get(), 1);
        hands.wall.set_ns(0);
        timer.arm_at_ns(1);
        settle(cx);
        assert_eq!(fired.get(), 1);
        hands.wall.advance_ns(1);
        settle(cx);
        assert_eq!(fired.get(), 2);
    });
}

#[test]
fn equal_deadlines_expire_in_the_order_of_arming_and_earlier_ones_before() {
    on_each_by_hand(|cx, hands| {
        let log = Log::default();
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| logged(cx, name, &log));
        a.arm_at_ns(100);
        b.arm_at_ns(100);
        c.arm_at_ns(99);
        d.arm_at_ns(100);
        a.arm_at_ns(100);
        // These leave what is sooner as it is.
        b.arm_earlier_ns(100);
        b.arm_earlier_ns(101);
        hands.now.set_ns(100);
        settle(cx);
        assert_eq!(*log.borrow(), ["c", "b", "d", "a"]);
    });
}

#[test]
fn arming_earlier_never_delays_and_cancelling_ends_it() {
    on_each_by_hand(|cx, hands| {
        let log = Log::default();
        let timer = logged(cx, "fired", &log);
        timer.arm_earlier_ns(100);
        timer.arm_earlier_ns(50);
        timer.arm_earlier_ns(70);
        assert_eq!(timer.deadline_ns(), Some(50));
        timer.arm_at_ns(60);
        assert_eq!(timer.deadline_ns(), Some(60));
        hands.now.set_ns(59);
        settle(cx);
        assert!(timer.is_armed());
        timer.cancel();
        timer.cancel();
        hands.now.set_ns(200);
        settle(cx);
        assert!(log.borrow().is_empty() && !timer.is_armed());
        timer.arm_at_ns(u64::MAX);
        assert!(timer.is_armed(), "the end of time is a time");
    });
}

#[test]
fn a_timer_that_arms_itself_for_now_runs_once_a_turn() {
    on_each_by_hand(|cx, hands| {
        hands.now.set_ns(1000);
        let runs = Rc::new(Cell::new(0));
        let slot: Rc<RefCell<Option<Timer>>> = Rc::default();
        let timer = {
            let (runs, slot) = (runs.clone(), slot.clone());
            cx.timer("again", TimerClock::Loop, move |_| {
                let slot = slot.borrow();
                let timer = slot.as_ref().unwrap();
                assert!(!timer.is_armed(), "off the list before its callback");
                runs.set(runs.get() + 1);
                timer.arm_at_ns(runs.get() % 2 * 1000);
            })
        };
        timer.arm_at_ns(0);
        slot.replace(Some(timer));
        for turn in 1..=5 {
            assert_eq!(cx.timer_timeout(), Wait::No);
            assert!(cx.poll(Blocking::No));
            assert_eq!(runs.get(), turn);
        }
        let timer = slot.take();
        drop(timer);
        settle(cx);
        assert_eq!(runs.get(), 5);
    });
}

#[test]
fn a_nested_turn_goes_on_with_the_pass_and_nothing_runs_twice() {
    on_each_by_hand(|cx, hands| {
        let log = Log::default();
        let nested = {
            let log = log.clone();
            cx.timer("nested", TimerClock::Loop, move |cx| {
                log.borrow_mut().push("begin");
                cx.poll(Blocking::No);
                log.borrow_mut().push("end");
            })
        };
        let woken = log.clone();
        let sleep = cx.sleep_until_ns(10);
        let _task = cx.spawn(async move {
            sleep.await;
            woken.borrow_mut().push("slept");
        });
        settle(cx);
        nested.arm_at_ns(1);
        let [a, b] = ["a", "b"].map(|name| logged(cx, name, &log));
        a.arm_at_ns(2);
        b.arm_at_ns(3);
        hands.now.set_ns(10);
        settle(cx);
        assert_eq!(*log.borrow(), ["begin", "a", "b", "end", "slept"]);
    });
}

#[test]
fn a_timer_that_comes_due_while_its_callback_runs_is_called_after_it() {
    on_each_by_hand(|cx, hands| {
        let (runs, within) = (Rc::new(Cell::new(0)), Cell::new(false));
        let slot: Rc<RefCell<Option<Timer>>> = Rc::default();
        let (count, own) = (runs.clone(), slot.clone());
        let nest = move |cx: &AioContext| {
            assert!(!within.replace(true), "never within itself");
            count.set(count.get() + 1);
            for _ in count.get()..3 {
                own.borrow().as_ref().unwrap().arm_at_ns(0);
                cx.poll(Blocking::No);
            }
            within.set(false);
        };
        let timer = cx.timer("nested", TimerClock::Loop, nest);
        timer.arm_at_ns(5);
        slot.replace(Some(timer));
        hands.now.set_ns(5);
        for turn in 1..=3 {
            assert_eq!(cx.timer_timeout(), Wait::No);
            assert!(cx.poll(Blocking::No));
            assert_eq!(runs.get(), turn);
        }
        slot.take();
        settle(cx);
        assert!(no_timer(cx));
    });
}

#[test]
fn a_timer_due_in_the_same_pass_can_still_be_cancelled_dropped_or_put_off() {
    on_each_by_hand(|cx, hands| {
        let log = Log::default();
        let [a, b, c] = ["a", "b", "c"].map(|name| logged(cx, name, &log));
        for (timer, ns) in [(&a, 2), (&b, 3), (&c, 4)] {
            timer.arm_at_ns(ns);
        }
        let c = Rc::new(c);
        let mut others = Some((a, b, c.clone()));
        let first = cx.timer("first", TimerClock::Loop, move |_| {
            let (a, b, c) = others.take().unwrap();
            a.cancel();
            drop(b);
            c.arm_at_ns(50);
        });
        first.arm_at_ns(1);
        hands.now.set_ns(10);
        settle(cx);
        assert!(log.borrow().is_empty());
        hands.now.set_ns(50);
        settle(cx);
        assert_eq!(*log.borrow(), ["c"]);
    });
}

#[test]
fn a_dropped_timer_gives_its_callback_back_also_from_within() {
    on_each_by_hand(|cx, hands| {
        let held = Rc::new(());
        let slot: Rc<RefCell<Option<Timer>>> = Rc::default();
        let timer = {
            let (held, slot) = (held.clone(), slot.clone());
            cx.timer("drops itself", TimerClock::Loop, move |cx| {
                let _held = &held;
                slot.take();
                cx.poll(Blocking::No);
            })
        };
        timer.arm_at_ns(1);
        slot.replace(Some(timer));
        let unused = {
            let held = held.clone();
            let never = move |_: &AioContext| panic!("dropped before, held {held:?}");
            cx.timer("dropped while armed", TimerClock::Virtual, never)
        };
        unused.arm_at_ns(1);
        drop(unused);
        assert_eq!(cx.timer_deadlines(), [1, u64::MAX, u64::MAX]);
        hands.now.set_ns(1);
        settle(cx);
        assert_eq!(Rc::strong_count(&held), 1);
        assert!(no_timer(cx));
    });
}

#[test]
fn a_timer_dropped_on_another_thread_is_deleted_here() {
    on_each_by_hand(|cx, hands| {
        let held = Rc::new(());
        let in_callback = held.clone();
        let never = move |_: &AioContext| panic!("dropped before, held {in_callback:?}");
        let timer = cx.timer("dropped elsewhere", TimerClock::Loop, never);
        timer.arm_at_ns(10);
        thread::spawn(move || drop(timer)).join().unwrap();
        settle(cx);
        assert!(no_timer(cx));
        hands.now.set_ns(10);
        settle(cx);
        assert_eq!(Rc::strong_count(&held), 1);
        assert!(no_timer(cx));
    });
}

#[test]
fn closing_a_context_gives_back_its_timers() {
    let held = Rc::new(());
    let mut left = None;
    let cx = AioContext::new(Config::default()).unwrap();
    let timer = {
        let held = held.clone();
        cx.timer("left", TimerClock::Loop, move |_| drop(held.clone()))
    };
    timer.arm_at_ns(HOUR_NS);
    left.replace(timer);
    cx.close();
    assert_eq!(Rc::strong_count(&held), 1);
    left.unwrap().arm_at_ns(0);
}

/// Waits until the context's home thread sleeps until `until_ns` of `clock`.
fn until_asleep(handle: &Handle, clock: TimerClock, until_ns: u64) {
    let began_ns = Clock::Monotonic.now_ns();
    while handle.shared.wake_state().asleep_until_ns(clock) != Some(until_ns) {
        assert!(Clock::Monotonic.now_ns() - began_ns < 30_000_000_000);
        thread::yield_now();
    }
}

/// A timer of another thread's context, and what it sends each time it is called.
fn timer_elsewhere(thread: &IoThread, clock: TimerClock) -> (Timer, mpsc::Receiver<u64>) {
    let (sender, calls) = mpsc::channel();
    let make = move |cx: AioContext| async move {
        cx.timer("elsewhere", clock, move |cx| {
            sender.send(cx.clock_now_ns(clock)).unwrap();
        })
    };
    (thread.handle().spawn(make).wait(), calls)
}

/// Longer than any test may take: what ends a test that would hang.
const TOO_LONG: Duration = Duration::from_secs(30);

fn on_each_thread(config: &Config, test: impl Fn(&IoThread)) {
    on_each(|cx| {
        let config = Config {
            backend: Some(cx.backend()),
            ..config.clone()
        };
        test(&IoThread::start(config).unwrap());
    });
}

#[test]
fn arming_on_another_thread_ends_a_sleep_only_if_that_would_be_too_long() {
    let (config, hands) = by_hand();
    on_each_thread(&config, |thread| {
        for clock in [&hands.now, &hands.wall, &hands.virt] {
            clock.set_ns(0);
        }
        let handle = thread.handle();
        for clock in TimerClock::ALL {
            let (first, first_calls) = timer_elsewhere(thread, clock);
            let (second, calls) = timer_elsewhere(thread, clock);
            until_asleep(handle, clock, u64::MAX);
            first.arm_at_ns(100);
            until_asleep(handle, clock, 100);
            let kicks = handle.shared.kicks();
            second.arm_at_ns(100);
            second.arm_at_ns(300);
            second.cancel();
            second.arm_earlier_ns(200);
            second.arm_earlier_ns(250);
            assert_eq!(handle.shared.kicks(), kicks, "it wakes in time for these");
            second.arm_earlier_ns(50);
            until_asleep(handle, clock, 50);
            let hand = match clock {
                TimerClock::Loop => &hands.now,
                TimerClock::Wall => &hands.wall,
                TimerClock::Virtual => &hands.virt,
            };
            hand.set_ns(50);
            assert_eq!(calls.recv_timeout(TOO_LONG), Ok(50));
            hand.set_ns(100);
            assert_eq!(first_calls.recv_timeout(TOO_LONG), Ok(100));
        }
    });
}

#[test]
fn a_timer_is_not_lost_while_another_thread_has_not_told_of_arming_it_yet() {
    on_each_by_hand(|cx, hands| {
        let log = Log::default();
        let timer = logged(cx, "fired", &log);
        timer.post().wanted_ns.store(50, Ordering::Release);
        timer.arm_earlier_ns(60);
        assert_eq!(cx.timer_deadlines()[0], 50);
        hands.now.set_ns(60);
        settle(cx);
        assert_eq!(*log.borrow(), ["fired"]);
    });
}

#[test]
fn what_another_thread_wants_counts_at_the_deadline_even_if_it_has_not_told_of_it_yet() {
    on_each_by_hand(|cx, hands| {
        let log = Log::default();
        let [later, cancelled] = ["later", "cancelled"].map(|name| logged(cx, name, &log));
        later.arm_at_ns(50);
        cancelled.arm_at_ns(50);
        later.post().wanted_ns.store(80, Ordering::Release);
        cancelled
            .post()
            .wanted_ns
            .store(u64::MAX, Ordering::Release);
        hands.now.set_ns(79);
        settle(cx);
        assert!(log.borrow().is_empty());
        assert_eq!(cx.timer_deadlines()[0], 80);
        hands.now.set_ns(80);
        settle(cx);
        assert_eq!(*log.borrow(), ["later"]);
    });
}

#[test]
fn a_timer_armed_by_a_poll_callback_is_slept_for() {
    let config = Config {
        poll_max_ns: 60_000_000_000,
        ..Config::default()
    };
    on_each_with(config, |cx| {
        let fired = Rc::new(Cell::new(false));
        let count = fired.clone();
        let timer = cx.timer("late", TimerClock::Loop, move |_| count.set(true));
        let too_late = cx.timer("too late", TimerClock::Loop, |_| panic!("overslept"));
        let event = EventNotifier::new().unwrap();
        let (seen, context) = (event.clone(), cx.clone());
        let arm = move || timer.arm_at_ns(context.now_ns() + 100_000);
        let callbacks = FdCallbacks::new("arms")
            .on_readable(move |_| {
                assert!(seen.test_and_clear());
                Drained::Yes
            })
            .on_poll(|| false, |_| {})
            .on_poll_mode(|| {}, arm);
        let handler = cx.add_fd_handler(event.fd(), callbacks).unwrap();
        too_late.arm_at_ns(cx.now_ns() + 30_000_000_000);
        // Readiness twice, so that the loop polls before it sleeps.
        while !fired.get() {
            event.set();
            cx.poll(Blocking::Yes);
            cx.poll(Blocking::Yes);
            cx.poll(Blocking::Yes);
        }
        drop(handler);
    });
}

#[test]
fn a_loop_of_somebody_else_is_told_of_timers_it_would_sleep_past() {
    on_each_by_hand(|cx, hands| {
        let fd = cx.foreign_fd().unwrap();
        let is_readable = || {
            let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::ZERO).unwrap() > 0
        };
        let log = Log::default();
        let [first, second] = ["first", "second"].map(|name| logged(cx, name, &log));
        let prepare = || {
            while cx.prepare().is_some() || is_readable() {
                cx.check();
                cx.dispatch();
            }
        };
        prepare();
        first.arm_at_ns(100);
        assert!(is_readable(), "it slept for ever");
        second.arm_at_ns(100);
        let task = cx.spawn(cx.sleep_ns(200));
        prepare();
        second.arm_earlier_ns(150);
        second.cancel();
        assert!(!is_readable());
        second.arm_earlier_ns(50);
        assert!(is_readable(), "it slept until 100");
        hands.now.set_ns(200);
        while cx.check() {
            cx.dispatch();
        }
        assert_eq!(*log.borrow(), ["second", "first"]);
        assert!(task.is_finished());
    });
}

#[test]
fn a_real_sleep_of_another_thread_ends_for_a_timer_armed_here() {
    on_each_thread(&Config::default(), |thread| {
        for clock in [TimerClock::Loop, TimerClock::Wall] {
            let (far, _calls) = timer_elsewhere(thread, clock);
            let (near, calls) = timer_elsewhere(thread, clock);
            let now_ns = || match clock {
                TimerClock::Wall => Clock::Wall.now_ns(),
                _ => Clock::Monotonic.now_ns(),
            };
            far.arm_at_ns(now_ns() + HOUR_NS);
            until_asleep(thread.handle(), clock, far.deadline_ns().unwrap());
            let deadline_ns = now_ns() + 1_000_000;
            near.arm_at_ns(deadline_ns);
            assert!(calls.recv_timeout(TOO_LONG).unwrap() >= deadline_ns);
        }
    });
}

#[test]
fn cancelling_on_another_thread_does_not_wait_for_a_running_callback() {
    on_each(|cx| {
        let (running, is_running) = mpsc::channel();
        let (cancelled, is_cancelled) = mpsc::channel();
        let called = Rc::new(Cell::new(false));
        let timer = {
            let called = called.clone();
            cx.timer("waits", TimerClock::Loop, move |_| {
                running.send(()).unwrap();
                // Would never come if the other thread waited for this callback.
                is_cancelled.recv_timeout(TOO_LONG).unwrap();
                assert!(!called.replace(true));
            })
        };
        timer.arm_at_ns(0);
        let other = thread::spawn(move || {
            is_running.recv_timeout(TOO_LONG).unwrap();
            timer.cancel();
            timer.arm_at_ns(0);
            drop(timer);
            cancelled.send(()).unwrap();
        });
        while !called.get() {
            cx.poll(Blocking::Yes);
        }
        other.join().unwrap();
        settle(cx);
    });
}

#[test]
fn timers_armed_again_and_again_from_many_threads_all_fire() {
    let rounds = |nth: u64, timer: &Timer, calls: &mpsc::Receiver<u64>| {
        for round in 0..500 {
            timer.arm_at_ns(Clock::Monotonic.now_ns() + HOUR_NS);
            timer.arm_earlier_ns(Clock::Monotonic.now_ns() + HOUR_NS / 2);
            if round % 3 == nth {
                timer.cancel();
            }
            let soon_ns = Clock::Monotonic.now_ns() + round % 7 * 10_000;
            timer.arm_earlier_ns(soon_ns);
            assert!(calls.recv_timeout(TOO_LONG).unwrap() >= soon_ns);
            assert!(!timer.is_armed() && calls.try_recv().is_err());
        }
    };
    on_each_thread(&Config::default(), |thread| {
        let timers = [(); 3].map(|()| timer_elsewhere(thread, TimerClock::Loop));
        let threads: Vec<_> = (0..)
            .zip(timers)
            .map(|(nth, (timer, calls))| thread::spawn(move || rounds(nth, &timer, &calls)))
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn what_was_written_before_arming_is_seen_by_the_callback() {
    on_each_thread(&Config::default(), |thread| {
        let written = Arc::new(AtomicU64::new(0));
        let (sender, seen) = mpsc::channel();
        let reader = written.clone();
        let make = move |cx: AioContext| async move {
            cx.timer("reads", TimerClock::Loop, move |_| {
                sender.send(reader.load(Ordering::Relaxed)).unwrap();
            })
        };
        let timer = thread.handle().spawn(make).wait();
        for round in 1..500 {
            written.store(round, Ordering::Relaxed);
            timer.arm_at_ns(0);
            assert_eq!(seen.recv_timeout(TOO_LONG), Ok(round));
        }
    });
}

#[test]
fn a_wakeable_sleep_ends_early_when_it_is_woken_and_waking_it_twice_is_harmless() {
    on_each_by_hand(|cx, hands| {
        let (sleep, waker) = cx.wakeable_sleep_ns(1000);
        let sleeper = cx.spawn(sleep);
        settle(cx);
        assert_eq!(cx.timer_deadlines()[0], 1000);
        waker.wake();
        waker.wake();
        cx.block_on(sleeper);
        waker.clone().wake();
        assert!(no_timer(cx));

        let (mut sleep, waker) = cx.wakeable_sleep_ns(1000);
        cx.block_on(async {
            let limit = cx.timeout_ns(0, &mut sleep);
            assert_eq!(limit.await, Err(Elapsed));
            assert!(!no_timer(cx));
            waker.wake();
            (&mut sleep).await;
            assert!(no_timer(cx), "it has ended, though it lives on");
        });

        let (sleep, waker) = cx.wakeable_sleep_ns(1000);
        let sleeper = cx.spawn(sleep);
        settle(cx);
        hands.now.advance_ns(999);
        settle(cx);
        assert!(!sleeper.is_finished());
        hands.now.advance_ns(1);
        settle(cx);
        assert!(sleeper.is_finished());
        waker.wake();
    });
}

#[test]
fn a_wakeable_sleep_can_be_woken_from_another_thread() {
    on_each_thread(&Config::default(), |thread| {
        let (sender, wakers) = mpsc::channel();
        let sleeper = thread.handle().spawn(move |cx| async move {
            let (sleep, waker) = cx.wakeable_sleep_ns(HOUR_NS);
            sender.send((waker, sleep.deadline_ns())).unwrap();
            sleep.await;
        });
        let (waker, until_ns) = wakers.recv_timeout(TOO_LONG).unwrap();
        until_asleep(thread.handle(), TimerClock::Loop, until_ns);
        waker.wake();
        sleeper.wait();
    });
}

#[test]
fn a_time_limit_gives_the_result_or_drops_the_future() {
    on_each_by_hand(|cx, hands| {
        let in_time = cx.timeout_ns(100, async { 7 });
        assert_eq!(cx.block_on(in_time), Ok(7));

        let held = Rc::new(());
        let hold = held.clone();
        let limited = cx.timeout_ns(100, async move {
            let _hold = hold;
            pending::<()>().await;
        });
        let limited = cx.spawn(limited);
        settle(cx);
        hands.now.advance_ns(99);
        settle(cx);
        assert!(!limited.is_finished() && Rc::strong_count(&held) == 2);
        hands.now.advance_ns(1);
        assert_eq!(cx.block_on(limited), Err(Elapsed));
        assert_eq!(Rc::strong_count(&held), 1);

        // What is ready when the time is over is not thrown away.
        let (now, sleep) = (cx.now_ns(), cx.sleep_ns(50));
        let limited = cx.spawn(cx.timeout_ns(50, sleep));
        settle(cx);
        hands.now.advance_ns(50);
        assert_eq!(cx.block_on(limited), Ok(()));
        assert_eq!(cx.now_ns(), now + 50);
        assert!(no_timer(cx));
    });
}

#[test]
fn an_operation_of_its_own_runs_on_after_its_time_limit_and_frees_its_state() {
    on_each_by_hand(|cx, hands| {
        let (done, held) = (Rc::new(Cell::new(false)), Rc::new(()));
        let operation = {
            let (cx, done, held) = (cx.clone(), done.clone(), held.clone());
            async move {
                cx.sleep_until_ns(1000).await;
                done.set(true);
                drop(held);
            }
        };
        let limited = cx.timeout_ns(10, cx.spawn(operation));
        let limited = cx.spawn(limited);
        settle(cx);
        hands.now.set_ns(10);
        assert_eq!(cx.block_on(limited), Err(Elapsed));
        assert!(!done.get() && Rc::strong_count(&held) == 2);
        hands.now.set_ns(1000);
        settle(cx);
        assert!(done.get() && Rc::strong_count(&held) == 1);
    });
}

#[test]
fn a_clock_that_jumps_from_timer_to_timer_passes_none() {
    on_each_by_hand(|cx, hands| {
        assert_eq!(cx.next_timer_ns(TimerClock::Loop), None);
        let deadlines = [5, 70_000, 70_001, 3_000_000_000, u64::MAX / 2];
        let sleeps = deadlines.map(|deadline_ns| {
            let (cx, sleep) = (cx.clone(), cx.sleep_until_ns(deadline_ns));
            cx.clone().spawn(async move {
                sleep.await;
                cx.now_ns()
            })
        });
        settle(cx);

        while let Some(next_ns) = cx.next_timer_ns(TimerClock::Loop) {
            assert!(next_ns > hands.now.now_ns(), "time would stand still");
            hands.now.set_ns(next_ns);
            settle(cx);
        }
        for (sleep, deadline_ns) in sleeps.into_iter().zip(deadlines) {
            assert_eq!(cx.block_on(sleep), deadline_ns);
        }
    });
}
