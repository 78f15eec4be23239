//! Busy polling of a context, step by step.

use std::{cell::Cell, rc::Rc};

use super::{Mode, Woken};
use crate::{
    AioContext, Blocking, Config, Drained, EventNotifier, FdCallbacks, FdHandler, PollParams,
    backend::{Wait, conformance::on_each_with},
};

const LONG_NS: u64 = 60_000_000_000;

/// Polls for as long as it has ever proved worth while.
fn config() -> Config {
    Config {
        poll_max_ns: LONG_NS,
        ..Config::default()
    }
}

/// A handler with a poll callback, and what it was called for.
struct Probed {
    event: EventNotifier,
    /// What its poll callback says.
    ready: Rc<Cell<bool>>,
    found: Rc<Cell<u32>>,
    begun: Rc<Cell<u32>>,
    ended: Rc<Cell<u32>>,
    _handler: FdHandler,
}

fn add(count: &Rc<Cell<u32>>) -> impl Fn() + use<> {
    let count = count.clone();
    move || count.set(count.get() + 1)
}

impl Probed {
    fn new(cx: &AioContext) -> Self {
        let event = EventNotifier::new().unwrap();
        let ready = Rc::new(Cell::new(false));
        let (found, begun, ended) = <(Rc<Cell<u32>>, Rc<Cell<u32>>, Rc<Cell<u32>>)>::default();
        let (take, look, find) = (event.clone(), ready.clone(), add(&found));
        let callbacks = FdCallbacks::new("probed")
            .on_readable(move |_| {
                assert!(take.test_and_clear());
                Drained::Yes
            })
            .on_poll(move || look.take(), move |_| find())
            .on_poll_mode(add(&begun), add(&ended));
        let handler = cx.add_fd_handler(event.fd(), callbacks).unwrap();
        Self {
            event,
            ready,
            found,
            begun,
            ended,
            _handler: handler,
        }
    }

    /// Has it ready once, by its descriptor, so that it is on the list of those polled.
    fn join(&self, cx: &AioContext) {
        self.event.set();
        while !cx.poll(Blocking::Yes) {}
    }

    fn told(&self) -> (u32, u32) {
        (self.begun.get(), self.ended.get())
    }
}

/// A short wait that posts of other threads have ended.
fn short_wait(cx: &AioContext) {
    let woken = Woken {
        by_posts: true,
        by_kernel: false,
    };
    cx.learn_from_wait(woken, cx.now_ns().saturating_sub(5000));
}

#[test]
fn only_what_was_ready_is_adjusted_and_new_parameters_begin_anew() {
    on_each_with(config(), |cx| {
        let probed = Probed::new(cx);
        probed.join(cx);
        let learned_ns = cx.poll_budget_ns();
        assert!(learned_ns > 0);
        for _ in 0..3 {
            short_wait(cx);
        }
        assert!(
            cx.poll_budget_ns() >= learned_ns,
            "the handler keeps its time"
        );

        let params = PollParams {
            max_ns: LONG_NS / 2,
            grow: 3,
            shrink: 0,
        };
        cx.handle().set_poll_params(params);
        cx.take_poll_params();
        assert_eq!(cx.poll_budget_ns(), 0);
        short_wait(cx);
        short_wait(cx);
        assert_eq!(cx.poll_budget_ns(), 12_000);
    });
}

#[test]
fn a_handler_that_is_idle_for_long_is_told_and_looked_at_once_more() {
    on_each_with(config(), |cx| {
        let probed = Probed::new(cx);
        probed.join(cx);
        cx.begin_poll_mode();
        assert_eq!(probed.told(), (1, 0));

        cx.leave_idle_pollers(cx.now_ns());
        assert_eq!(probed.told(), (1, 0));
        probed.ready.set(true);
        cx.leave_idle_pollers(cx.now_ns() + 8_000_000_000);
        assert_eq!(probed.told(), (1, 1));
        assert_eq!(cx.poll_budget_ns(), 0);
        assert!(cx.poll(Blocking::No));
        assert_eq!(probed.found.get(), 1);
    });
}

#[test]
fn a_handler_that_is_first_ready_while_polling_is_on_is_told_that_it_has_begun() {
    on_each_with(config(), |cx| {
        let probed = Probed::new(cx);
        cx.begin_poll_mode();
        assert_eq!(probed.told(), (0, 0), "it is not on the list yet");
        probed.event.set();
        while cx.inner.handlers.borrow().ready() == 0 {
            cx.gather(Wait::Ns(1_000_000_000));
        }
        short_wait(cx);
        assert_eq!(probed.told(), (1, 0));
        short_wait(cx);
        cx.end_poll_mode();
        assert_eq!(probed.told(), (1, 1));
    });
}

#[test]
fn what_comes_between_polling_and_sleeping_is_seen() {
    on_each_with(config(), |cx| {
        let probed = Probed::new(cx);
        probed.join(cx);
        cx.begin_poll_mode();
        assert!(!cx.end_poll_mode());
        cx.begin_poll_mode();
        probed.ready.set(true);
        assert!(cx.end_poll_mode());
        assert_eq!(probed.told(), (2, 2));
        assert!(cx.poll(Blocking::No));
        assert_eq!(probed.found.get(), 1);
    });
}

#[test]
fn a_foreign_loop_ends_polling_for_good() {
    on_each_with(config(), |cx| {
        let probed = Probed::new(cx);
        probed.join(cx);
        let outside = cx.foreign_fd().unwrap();
        cx.begin_poll_mode();
        cx.prepare();
        assert!(cx.inner.busy_poll.borrow().mode == Mode::Off && probed.told() == (1, 1));
        assert!(cx.poll_budget_ns() > 0);
        assert!(!cx.busy_poll(Wait::Forever, cx.now_ns()));
        cx.check();
        drop(outside);
    });
}

#[test]
fn a_descriptor_without_a_poll_callback_does_not_wait_until_polling_ends() {
    let config = Config {
        poll_grow: 100_000_000,
        ..config()
    };
    on_each_with(config, |cx| {
        let (looks, plain) = <(Rc<Cell<u32>>, Rc<Cell<u32>>)>::default();
        let (event, other) = (EventNotifier::new().unwrap(), EventNotifier::new().unwrap());
        let (take, look) = (event.clone(), looks.clone());
        let callbacks = FdCallbacks::new("polled for long")
            .on_readable(move |_| {
                assert!(take.test_and_clear());
                Drained::Yes
            })
            .on_poll(
                move || {
                    look.set(look.get() + 1);
                    look.get() > 1_000_000
                },
                |_| panic!("the other descriptor waits for the end of polling"),
            );
        let polled = cx.add_fd_handler(event.fd(), callbacks).unwrap();
        let count = add(&plain);
        let handler = cx.add_event_notifier(&other, "plain", move |_| count());
        // Two short waits, and the loop polls for as long as it may.
        while cx.poll_budget_ns() < LONG_NS {
            event.set();
            while !cx.poll(Blocking::Yes) {}
        }
        looks.set(0);
        other.set();
        while plain.get() == 0 {
            cx.poll(Blocking::Yes);
        }
        drop((polled, handler));
    });
}
