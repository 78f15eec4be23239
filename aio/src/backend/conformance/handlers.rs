//! Handlers of descriptors, on each backend.

use std::{
    cell::{Cell, RefCell},
    io::{Read, Write},
    os::unix::net::UnixStream,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{on_each, on_each_with, scratch};
use crate::{
    AioContext, Blocking, Config, Drained, EventNotifier, Fd, FdCallbacks, FdHandler, IoBuf,
};

/// A connected pair: ours for the context, and the peer's end.
fn pair() -> (Fd, UnixStream, UnixStream) {
    let (ours, peer) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (Fd::from(ours.try_clone().unwrap()), ours, peer)
}

/// Turns the loop until nothing is left to do.
fn settle(cx: &AioContext) {
    while cx.poll(Blocking::No) {}
}

/// Counts, and says how often so far.
#[derive(Clone, Default)]
struct Count(Rc<Cell<usize>>);

impl Count {
    fn add(&self) {
        self.0.set(self.0.get() + 1);
    }
    fn get(&self) -> usize {
        self.0.get()
    }
}

#[test]
fn a_handler_that_leaves_data_unread_is_called_again() {
    on_each(|cx| {
        let (fd, mut ours, mut peer) = pair();
        let seen = Rc::new(RefCell::new(Vec::new()));
        let into = seen.clone();
        let callbacks = FdCallbacks::new("one byte at a time").on_readable(move |_| {
            let mut byte = [0];
            ours.read_exact(&mut byte).unwrap();
            into.borrow_mut().push(byte[0]);
        });
        let handler = cx.add_fd_handler(&fd, callbacks).unwrap();
        peer.write_all(b"level").unwrap();
        while seen.borrow().len() < 5 {
            cx.poll(Blocking::Yes);
        }
        settle(cx);

        assert_eq!(*seen.borrow(), b"level");
        drop(handler);
    });
}

#[test]
fn a_handler_that_drains_its_descriptor_is_called_for_what_comes_later() {
    on_each(|cx| {
        let (fd, mut ours, mut peer) = pair();
        let (calls, bytes) = (Count::default(), Count::default());
        let (call, byte) = (calls.clone(), bytes.clone());
        let callbacks = FdCallbacks::new("all there is").on_readable(move |_| {
            call.add();
            let mut buf = [0; 64];
            while let Ok(count) = ours.read(&mut buf) {
                (0..count).for_each(|_| byte.add());
            }
            Drained::Yes
        });
        let handler = cx.add_fd_handler(&fd, callbacks).unwrap();
        for round in 1..=50 {
            peer.write_all(b"abc").unwrap();
            while bytes.get() < round * 3 {
                cx.poll(Blocking::Yes);
            }
        }

        assert!(calls.get() >= 50);
        drop(handler);
    });
}

#[test]
fn a_handler_removed_at_home_is_not_called_even_for_what_has_happened() {
    on_each(|cx| {
        let events = [EventNotifier::new().unwrap(), EventNotifier::new().unwrap()];
        let calls = Count::default();
        let others: Rc<RefCell<Vec<Option<FdHandler>>>> = Rc::default();
        for (at, event) in events.iter().enumerate() {
            let (call, others_too) = (calls.clone(), others.clone());
            let handler = cx.add_event_notifier(event, "removes the other", move |_| {
                call.add();
                let other = others_too.borrow_mut()[1 - at].take();
                drop(other);
            });
            others.borrow_mut().push(Some(handler.unwrap()));
        }
        events.iter().for_each(EventNotifier::set);
        while calls.get() == 0 {
            cx.poll(Blocking::Yes);
        }
        settle(cx);

        assert_eq!(
            calls.get(),
            1,
            "the first of two ready handlers removed the second"
        );
        others.borrow_mut().clear();
    });
}

#[test]
fn a_handler_may_remove_itself_and_is_freed() {
    on_each(|cx| {
        let event = EventNotifier::new().unwrap();
        let own: Rc<RefCell<Option<FdHandler>>> = Rc::default();
        let (calls, this) = (Count::default(), own.clone());
        let call = calls.clone();
        let handler = cx.add_event_notifier(&event, "itself", move |_| {
            call.add();
            let handler = this.borrow_mut().take();
            drop(handler);
        });
        *own.borrow_mut() = Some(handler.unwrap());
        event.set();
        while calls.get() == 0 {
            cx.poll(Blocking::Yes);
        }
        event.set();
        settle(cx);

        assert_eq!(calls.get(), 1);
        assert_eq!(Rc::strong_count(&calls.0), 1, "the callback is freed");
    });
}

#[test]
fn reading_comes_before_writing_and_a_handler_gone_between_is_not_called() {
    on_each(|cx| {
        let (fd, _ours, mut peer) = pair();
        let order = Rc::new(RefCell::new(Vec::new()));
        let own: Rc<RefCell<Option<FdHandler>>> = Rc::default();
        let (read, write, this) = (order.clone(), order.clone(), own.clone());
        let callbacks = FdCallbacks::new("both")
            .on_readable(move |_| {
                read.borrow_mut().push("read");
                if read.borrow().len() > 2 {
                    let handler = this.borrow_mut().take();
                    drop(handler);
                }
            })
            .on_writable(move |_| write.borrow_mut().push("write"));
        peer.write_all(b"x").unwrap();
        *own.borrow_mut() = Some(cx.add_fd_handler(&fd, callbacks).unwrap());
        while own.borrow().is_some() {
            cx.poll(Blocking::Yes);
        }
        settle(cx);

        let order = order.borrow();
        let last = order.last().copied();
        assert_eq!(last, Some("read"), "{order:?}");
        let alternating = order.windows(2).all(|two| two != ["write", "write"]);
        assert!(alternating && order.contains(&"write"), "{order:?}");
    });
}

#[test]
fn a_peer_that_hangs_up_calls_the_callback_for_reading() {
    on_each(|cx| {
        let (fd, mut ours, peer) = pair();
        let ended = Count::default();
        let end = ended.clone();
        let callbacks = FdCallbacks::new("hang-up").on_readable(move |_| {
            assert_eq!(ours.read(&mut [0; 8]).unwrap(), 0);
            end.add();
        });
        let handler = cx.add_fd_handler(&fd, callbacks).unwrap();
        drop(peer);
        // Level-triggered: a hang-up stays.
        while ended.get() < 3 {
            cx.poll(Blocking::Yes);
        }
        drop(handler);
    });
}

#[test]
fn a_nested_turn_dispatches_the_other_handlers_once_and_not_the_one_that_runs() {
    on_each(|cx| {
        let (outer_event, inner_event) =
            (EventNotifier::new().unwrap(), EventNotifier::new().unwrap());
        let (outer, inner) = (Count::default(), Count::default());
        let (in_outer, in_inner, seen) = (outer.clone(), inner.clone(), inner.clone());
        let set_inside = outer_event.clone();
        let first = cx
            .add_event_notifier(&outer_event, "outer", move |cx| {
                in_outer.add();
                if in_outer.get() > 1 {
                    return;
                }
                // Its own event comes again while it runs.
                set_inside.set();
                while seen.get() == 0 {
                    cx.poll(Blocking::Yes);
                }
                cx.poll(Blocking::No);
                assert_eq!(in_outer.get(), 1, "a callback is not entered again");
            })
            .unwrap();
        let second = cx
            .add_event_notifier(&inner_event, "inner", move |_| in_inner.add())
            .unwrap();
        outer_event.set();
        inner_event.set();
        while outer.get() < 2 {
            cx.poll(Blocking::Yes);
        }
        settle(cx);

        assert_eq!((outer.get(), inner.get()), (2, 1));
        drop((first, second));
    });
}

#[test]
fn handlers_are_added_and_removed_from_other_threads() {
    on_each(|cx| {
        let event = EventNotifier::new().unwrap();
        let calls = Arc::new(AtomicUsize::new(0));
        let (handle, to_set, call) = (cx.handle().clone(), event.clone(), calls.clone());
        let other = std::thread::spawn(move || {
            for round in 1..=20 {
                let (event, call) = (to_set.clone(), call.clone());
                let add = move |cx: &AioContext| {
                    let count = move |_: &AioContext| {
                        call.fetch_add(1, Ordering::Relaxed);
                    };
                    cx.add_event_notifier(&event, "from afar", count).unwrap()
                };
                let handler = handle.call(add).wait();
                to_set.set();
                while calls.load(Ordering::Relaxed) < round {
                    std::thread::yield_now();
                }
                drop(handler);
            }
        });
        while !other.is_finished() {
            cx.poll(Blocking::No);
        }
        other.join().unwrap();
        settle(cx);
        event.set();
        settle(cx);
        assert!(event.test_and_clear(), "nobody is left to take it");
    });
}

#[test]
fn what_has_no_readiness_is_refused() {
    on_each(|cx| {
        let file = Fd::from(scratch(10));
        let callbacks = FdCallbacks::new("a file").on_readable(|_| ());
        let error = cx.add_fd_handler(&file, callbacks).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    });
}

#[test]
fn a_recycled_descriptor_number_is_not_hit_by_the_handler_of_the_old_one() {
    on_each(|cx| {
        let calls = Count::default();
        for _ in 0..100 {
            let old = EventNotifier::new().unwrap();
            let call = calls.clone();
            let handler = cx
                .add_event_notifier(&old, "old", move |_| call.add())
                .unwrap();
            cx.poll(Blocking::No);
            drop(handler);
            drop(old);
            // Likely the same number, and ready at once.
            let new = EventNotifier::new().unwrap();
            new.set();
            cx.poll(Blocking::No);
        }
        settle(cx);
        assert_eq!(calls.get(), 0);
    });
}

#[test]
fn a_handler_with_a_poll_callback_is_found_in_memory_without_its_descriptor() {
    let config = Config {
        poll_max_ns: 60_000_000_000,
        poll_grow: 100_000_000,
        ..Config::default()
    };
    on_each_with(config, |cx| {
        let event = EventNotifier::new().unwrap();
        let flag = Rc::new(Cell::new(false));
        let (found, woken, begun, ended) = (
            Count::default(),
            Count::default(),
            Count::default(),
            Count::default(),
        );
        let (look, take) = (flag.clone(), flag.clone());
        let (find, wake, begin, end) = (found.clone(), woken.clone(), begun.clone(), ended.clone());
        let to_take = event.clone();
        let callbacks = FdCallbacks::new("polled")
            .on_readable(move |_| {
                assert!(to_take.test_and_clear());
                wake.add();
                Drained::Yes
            })
            .on_poll(
                move || look.get(),
                move |cx| {
                    find.add();
                    // Still true: a nested turn must not come back here, nor sleep for ever.
                    cx.poll(Blocking::No);
                    take.set(false);
                },
            )
            .on_poll_mode(move || begin.add(), move || end.add());
        let handler = cx.add_fd_handler(event.fd(), callbacks).unwrap();
        // Two hits by the descriptor teach the loop to poll for as long as it may.
        for round in 1..=2 {
            event.set();
            while woken.get() < round {
                cx.poll(Blocking::Yes);
            }
        }
        flag.set(true);
        while found.get() == 0 {
            cx.poll(Blocking::Yes);
        }

        assert_eq!((found.get(), woken.get()), (1, 2));
        assert!(begun.get() >= 1, "polling was announced");
        // Parameters change while it runs: the loop sleeps again, and says so first.
        cx.handle().set_poll_params(crate::PollParams::OFF);
        event.set();
        while woken.get() < 3 {
            cx.poll(Blocking::Yes);
        }
        drop(handler);
        assert!(ended.get() <= begun.get());
    });
}

#[test]
fn nobody_starves_beside_a_callback_that_reschedules_itself() {
    on_each(|cx| {
        let file = Fd::from(scratch(4096));
        let (fd, _ours, mut peer) = pair();
        peer.write_all(b"never read").unwrap();
        let (spins, ready, reads, ticks) = <(Count, Count, Count, Count)>::default();
        let posts = Arc::new(AtomicUsize::new(0));
        let again: Rc<RefCell<Option<crate::BottomHalf>>> = Rc::default();
        let (spin, own) = (spins.clone(), again.clone());
        let bottom_half = cx.bottom_half("for ever", move |_| {
            spin.add();
            own.borrow().as_ref().unwrap().schedule();
        });
        bottom_half.schedule();
        *again.borrow_mut() = Some(bottom_half);
        let call = ready.clone();
        let callbacks = FdCallbacks::new("always ready").on_readable(move |_| call.add());
        let handler = cx.add_fd_handler(&fd, callbacks).unwrap();
        let stop = Arc::new(AtomicUsize::new(0));
        let (handle, post, stopped) = (cx.handle().clone(), posts.clone(), stop.clone());
        let add = |posts: &AtomicUsize| {
            posts.fetch_add(1, Ordering::Relaxed);
        };
        let flood = std::thread::spawn(move || {
            while stopped.load(Ordering::Relaxed) == 0 {
                let post = post.clone();
                handle.schedule(move |_| add(&post));
            }
        });
        let read = reads.clone();
        let (context, tick) = (cx.clone(), ticks.clone());
        let reader = cx.spawn(async move {
            let mut buf = IoBuf::heap(4096);
            loop {
                buf = context.read_exact(&file, 0, buf).await.0;
                read.add();
            }
        });
        let context = cx.clone();
        let ticker = cx.spawn(async move {
            loop {
                context.sleep_ns(1000).await;
                tick.add();
            }
        });
        let counts = [&spins, &ready, &reads, &ticks];
        while posts.load(Ordering::Relaxed) < 200 || counts.iter().any(|count| count.get() < 200) {
            cx.poll(Blocking::Yes);
        }
        stop.store(1, Ordering::Relaxed);
        flood.join().unwrap();
        drop((reader, ticker, handler));
        let bottom_half = again.borrow_mut().take();
        drop(bottom_half);
    });
}

#[test]
fn the_callbacks_of_a_closed_context_are_freed() {
    let count = Count::default();
    on_each(|cx| {
        let event = EventNotifier::new().unwrap();
        let call = count.clone();
        let handler = cx
            .add_event_notifier(&event, "left behind", move |_| call.add())
            .unwrap();
        cx.clone().close();
        drop(handler);
    });
    assert_eq!(Rc::strong_count(&count.0), 1);
}
