//! What contexts promise to those who call them, line by line of `docs/aio-interface.md`, on each backend.

use std::{
    cell::{Cell, RefCell},
    fmt,
    fs::File,
    future::Future,
    io::Write,
    marker::PhantomData,
    os::unix::net::UnixStream,
    pin::pin,
    process::Command,
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
};

use super::{each_backend, on_each, scratch};
use crate::{
    AioContext, AioError, BackendKind, Blocking, BottomHalf, Config, Drained, EventNotifier, Fd,
    FdCallbacks, FdHandler, Handle, IoBuf, IoThread, PollParams, ReentrancyGuard, Task, TimerClock,
};

/// What happened, in order.
type Log = Rc<RefCell<Vec<&'static str>>>;

/// A bottom half that logs its name.
fn logged(cx: &AioContext, name: &'static str, log: &Log) -> BottomHalf {
    let log = log.clone();
    cx.bottom_half(name, move |_| log.borrow_mut().push(name))
}

/// Turns the loop until nothing is left to do.
fn settle(cx: &AioContext) {
    while cx.poll(Blocking::No) {}
}

/// Tells at compile time whether `T` is `Send`: the constant of its own wins over that of the trait.
struct Sent<T>(PhantomData<T>);

trait Stays {
    const SEND: bool = false;
}

impl<T> Stays for Sent<T> {}

impl<T: Send> Sent<T> {
    const SEND: bool = true;
}

#[test]
fn nothing_of_a_context_but_its_handles_can_leave_its_thread() {
    let stays = [
        Sent::<AioContext>::SEND,
        Sent::<Task<()>>::SEND,
        Sent::<crate::ThreadPool>::SEND,
        Sent::<crate::Sleep>::SEND,
        Sent::<ReentrancyGuard>::SEND,
    ];
    let leaves = [
        Sent::<Handle>::SEND,
        Sent::<BottomHalf>::SEND,
        Sent::<crate::Timer>::SEND,
        Sent::<FdHandler>::SEND,
        Sent::<EventNotifier>::SEND,
        Sent::<crate::PoolRequest<()>>::SEND,
    ];
    assert_eq!((stays, leaves), ([false; 5], [true; 6]));
}

#[test]
fn a_context_that_cannot_have_its_descriptors_is_refused_and_leaves_none() {
    const CHILD: &str = "LONGSHORE_TEST_FEW_DESCRIPTORS";
    if std::env::var_os(CHILD).is_none() {
        let output = Command::new("sh")
            .args(["-c", r#"ulimit -n 64 && exec "$@""#, "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "--test-threads=1", "--nocapture"])
            .arg(thread::current().name().unwrap())
            .env(CHILD, "1")
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && told.contains("1 passed"),
            "{output:?}"
        );
        return;
    }
    let fill = || {
        let open = || File::open("/dev/null");
        std::iter::repeat_with(open)
            .map_while(Result::ok)
            .collect::<Vec<_>>()
    };
    let mut backends: Vec<_> = each_backend().map(Some).collect();
    backends.push(None);
    for backend in backends {
        let config = Config {
            backend,
            ..Config::default()
        };
        let mut all = fill();
        for free in 0.. {
            match AioContext::new(config.clone()) {
                Err(AioError::Resource { .. } | AioError::BackendUnavailable { .. }) => {}
                Err(error) => panic!("{error:?}"),
                Ok(context) => {
                    assert!(free > 1);
                    context.close();
                    break;
                }
            }
            assert_eq!(fill().len(), free, "what it had is closed again");
            all.pop();
        }
    }
}

/// Whatever is called counts; whatever is dropped lets go of the witness.
#[test]
fn closing_a_context_with_all_sorts_of_work_pending_calls_nothing_and_frees_it() {
    for backend in each_backend() {
        let cx = AioContext::new(Config {
            backend: Some(backend),
            ..Config::default()
        })
        .unwrap();
        let (called, witness) = <(Rc<Cell<u32>>, Rc<()>)>::default();
        let count = || {
            let (called, witness) = (called.clone(), witness.clone());
            move |_: &AioContext| {
                let _held = &witness;
                called.set(called.get() + 1);
            }
        };
        let event = EventNotifier::new().unwrap();
        let handler = cx.add_event_notifier(&event, "ready", count()).unwrap();
        let (_peer, ours) = UnixStream::pair().unwrap();
        let (waits, held) = (Fd::from(ours), witness.clone());
        let context = cx.clone();
        let waiting = cx.spawn(async move {
            let _held = held;
            context.recv(&waits, IoBuf::heap(10), 0..10).await.0
        });
        cx.poll(Blocking::No);

        let [scheduled, idle] = ["scheduled", "idle"].map(|name| cx.bottom_half(name, count()));
        let timer = cx.timer("due", TimerClock::Loop, count());
        let (ran, task) = (count(), cx.clone());
        let woken = cx.spawn(async move { ran(&task) });
        let (post, posted) = <(Arc<AtomicUsize>, Arc<()>)>::default();
        let (posts, held) = (post.clone(), posted.clone());
        cx.handle().schedule(move |_| {
            let _held = held;
            posts.fetch_add(1, Ordering::Relaxed);
        });
        scheduled.schedule();
        idle.schedule_idle();
        timer.arm_at_ns(0);
        event.set();
        cx.close();

        assert_eq!((called.get(), post.load(Ordering::Relaxed)), (0, 0));
        assert_eq!(
            (Rc::strong_count(&witness), Arc::strong_count(&posted)),
            (1, 1)
        );
        scheduled.schedule();
        idle.cancel();
        timer.arm_at_ns(0);
        drop((handler, scheduled, idle, timer, waiting, woken));
    }
}

/// Collects what is told by `tracing`.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<String>>);

impl tracing::field::Visit for Told {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        *self.0.lock().unwrap() += &format!("{field}: {value:?}\n");
    }
}

impl tracing::Subscriber for Told {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// What is told when a context is closed of whose bottom halves one was forgotten.
fn told_at_the_end(cx: AioContext) -> String {
    let make = |name| cx.bottom_half(name, |_| ());
    let forgotten = make("forgotten by somebody");
    let deleted = make("deleted");
    drop(deleted);
    let elsewhere = make("deleted elsewhere");
    thread::spawn(move || drop(elsewhere)).join().unwrap();
    // Those that the context itself owns go with it.
    let (in_timer, in_task) = (make("of a timer"), make("of a task"));
    let timer = cx.timer("owner", TimerClock::Loop, move |_| in_timer.cancel());
    let task = cx.spawn(async move {
        std::future::pending::<()>().await;
        drop(in_task);
    });
    let told = Told::default();
    tracing::subscriber::with_default(told.clone(), || cx.close());
    drop((forgotten, timer, task));
    let told = told.0.lock().unwrap();
    told.clone()
}

#[test]
fn bottom_halves_that_outlive_their_context_are_told_by_name_and_no_others() {
    for backend in each_backend() {
        let make = || {
            AioContext::new(Config {
                backend: Some(backend),
                ..Config::default()
            })
        };
        // Other threads that tell something for the first time may keep `tracing` from noticing us.
        let told = std::iter::repeat_with(|| told_at_the_end(make().unwrap()));
        let told = told.take(100).find(|told| !told.is_empty());
        let told = told.expect("it is told of");
        assert!(
            told.contains(r#"leaked: ["forgotten by somebody"]"#),
            "{told}"
        );
    }
}

#[test]
fn a_bottom_half_may_delete_itself_and_is_freed_with_what_it_owns() {
    on_each(|cx| {
        let (runs, witness) = <(Rc<Cell<u32>>, Rc<()>)>::default();
        let own: Rc<RefCell<Option<BottomHalf>>> = Rc::default();
        let (this, run, held) = (own.clone(), runs.clone(), witness.clone());
        let bottom_half = cx.bottom_half("deletes itself", move |cx| {
            let _held = &held;
            run.set(run.get() + 1);
            let bottom_half = this.borrow_mut().take();
            bottom_half.as_ref().unwrap().schedule();
            drop(bottom_half);
            cx.poll(Blocking::No);
            assert_eq!(Rc::strong_count(&held), 2, "not while it runs");
        });
        bottom_half.schedule();
        *own.borrow_mut() = Some(bottom_half);
        settle(cx);
        cx.poll(Blocking::No);

        assert_eq!((runs.get(), Rc::strong_count(&witness)), (1, 1));
    });
}

#[test]
fn bottom_halves_are_scheduled_cancelled_and_deleted_on_other_threads() {
    on_each(|cx| {
        let log = Log::default();
        let witness = Rc::new(());
        let held = witness.clone();
        let [once, idle, cancelled] =
            ["once", "idle", "cancelled"].map(|name| logged(cx, name, &log));
        let deleted = cx.bottom_half("deleted", move |_| {
            let _held = &held;
            unreachable!("it was deleted before its turn")
        });
        let kept = thread::spawn(move || {
            for _ in 0..5 {
                once.schedule();
                deleted.schedule();
                cancelled.schedule();
            }
            idle.schedule_idle();
            cancelled.cancel();
            drop(deleted);
            (once, idle, cancelled)
        })
        .join()
        .unwrap();
        settle(cx);
        cx.poll(Blocking::No);

        assert_eq!(*log.borrow(), ["once", "idle"]);
        assert_eq!(Rc::strong_count(&witness), 1);
        drop(kept);
    });
}

#[test]
fn one_shots_of_both_sorts_of_threads_run_once_and_are_freed() {
    on_each(|cx| {
        let runs = Arc::new(AtomicUsize::new(0));
        let count = || {
            let runs = runs.clone();
            move |_: &AioContext| {
                runs.fetch_add(1, Ordering::Relaxed);
            }
        };
        cx.handle().schedule(count());
        let (handle, elsewhere) = (cx.handle().clone(), count());
        thread::spawn(move || handle.schedule(elsewhere))
            .join()
            .unwrap();
        assert!(cx.poll(Blocking::No));
        assert!(!cx.poll(Blocking::No));

        assert_eq!(runs.load(Ordering::Relaxed), 2);
        assert_eq!(Arc::strong_count(&runs), 1);
    });
}

#[test]
fn an_idle_bottom_half_runs_in_a_few_milliseconds_and_is_no_progress() {
    on_each(|cx| {
        let log = Log::default();
        let [idle, busy] = ["idle", "busy"].map(|name| logged(cx, name, &log));
        assert_eq!(cx.prepare(), None);
        cx.check();
        idle.schedule_idle();
        assert_eq!(
            cx.prepare(),
            Some(10_000_000),
            "the longest sleep beside it"
        );
        cx.check();
        assert!(!cx.poll(Blocking::Yes), "it runs, and is no progress");
        assert_eq!(*log.borrow(), ["idle"]);

        busy.schedule();
        assert_eq!(cx.prepare(), Some(0));
        cx.check();
        // Scheduled as both, it runs once, and that is progress.
        busy.schedule_idle();
        assert!(cx.poll(Blocking::Yes) && !cx.poll(Blocking::No));
        assert_eq!(*log.borrow(), ["idle", "busy"]);
    });
}

#[test]
fn a_guard_is_engaged_while_callbacks_run_and_keeps_nobody_out() {
    on_each(|cx| {
        let guard = ReentrancyGuard::default();
        let log = Log::default();
        let (seen, inner) = (guard.clone(), log.clone());
        let second = cx.guarded_bottom_half("second", guard.clone(), move |_| {
            assert!(seen.is_engaged());
            inner.borrow_mut().push("second");
        });
        let (seen, outer) = (guard.clone(), log.clone());
        let first = cx.guarded_bottom_half("first", guard.clone(), move |cx| {
            second.schedule();
            cx.poll(Blocking::No);
            assert!(seen.is_engaged(), "the inner run leaves it as it was");
            outer.borrow_mut().push("first");
        });
        first.schedule();
        assert!(!guard.is_engaged());
        settle(cx);

        assert!(!guard.is_engaged());
        assert_eq!(*log.borrow(), ["second", "first"]);
        drop(first);
    });
}

#[test]
fn posting_to_a_loop_that_is_awake_wakes_nobody() {
    on_each(|cx| {
        let (handle, posts) = (cx.handle().clone(), Arc::new(AtomicUsize::new(0)));
        let (post, count) = (handle.clone(), posts.clone());
        let turning = cx.bottom_half("turning", move |cx| {
            let kicks = cx.stats().kicks;
            let (post, count) = (post.clone(), count.clone());
            let other = thread::spawn(move || {
                for _ in 0..100 {
                    let count = count.clone();
                    post.schedule(move |_| {
                        count.fetch_add(1, Ordering::Relaxed);
                    });
                    post.notify();
                }
            });
            other.join().unwrap();
            assert_eq!(cx.stats().kicks, kicks);
        });
        turning.schedule();
        settle(cx);
        assert_eq!(posts.load(Ordering::Relaxed), 100);
    });
}

/// Logs that it was woken.
struct Woken(Mutex<Vec<&'static str>>);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.lock().unwrap().push("completion");
    }
}

/// The order of one turn in which everything happens, if the kernel had it all ready in time.
fn order_of_a_turn(cx: &AioContext, event: &EventNotifier, log: &Log) -> Vec<&'static str> {
    let (ours, mut peer) = UnixStream::pair().unwrap();
    peer.write_all(b"x").unwrap();
    let ours = Fd::from(ours);
    let woken = Arc::new(Woken(Mutex::default()));
    let waker = Waker::from(woken.clone());
    let mut receives = pin!(cx.recv(&ours, IoBuf::heap(1), 0..1));
    let polled = receives.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending());
    let timer = {
        let log = log.clone();
        cx.timer("timer", TimerClock::Loop, move |_| {
            log.borrow_mut().push("timer");
        })
    };
    timer.arm_at_ns(0);
    let task = {
        let log = log.clone();
        cx.spawn(async move { log.borrow_mut().push("task") })
    };
    event.set();
    let bottom_half = {
        let (log, woken) = (log.clone(), woken.clone());
        cx.bottom_half("bottom half", move |_| {
            log.borrow_mut().append(&mut woken.0.lock().unwrap());
            log.borrow_mut().push("bottom half");
        })
    };
    bottom_half.schedule();
    cx.poll(Blocking::No);
    let order = log.borrow().clone();
    while receives
        .as_mut()
        .poll(&mut Context::from_waker(&waker))
        .is_pending()
    {
        cx.poll(Blocking::No);
    }
    settle(cx);
    log.borrow_mut().clear();
    drop((timer, task, bottom_half));
    order
}

#[test]
fn a_turn_does_its_work_in_order() {
    const ORDER: [&str; 5] = ["completion", "bottom half", "handler", "task", "timer"];
    on_each(|cx| {
        let (event, log) = (EventNotifier::new().unwrap(), Log::default());
        let into = log.clone();
        let handler = cx
            .add_event_notifier(&event, "handler", move |_| {
                into.borrow_mut().push("handler");
            })
            .unwrap();
        settle(cx);
        let orders = std::iter::repeat_with(|| order_of_a_turn(cx, &event, &log));
        let whole = orders.take(1000).find(|order| order.len() == ORDER.len());
        assert_eq!(whole.as_deref(), Some(&ORDER[..]));
        drop(handler);
    });
}

#[test]
fn a_turn_says_whether_it_has_done_anything() {
    on_each(|cx| {
        let log = Log::default();
        let bottom_half = logged(cx, "bottom half", &log);
        assert!(!cx.poll(Blocking::No));
        bottom_half.schedule();
        bottom_half.cancel();
        assert!(!cx.poll(Blocking::Yes), "a cancelled run");
        bottom_half.schedule();
        assert!(cx.poll(Blocking::Yes) && !cx.poll(Blocking::No));
        drop(bottom_half);
        assert!(!cx.poll(Blocking::No), "a deletion");

        let timer = cx.timer("timer", TimerClock::Loop, |_| ());
        timer.arm_at_ns(0);
        assert!(cx.poll(Blocking::Yes) && !cx.poll(Blocking::No));
        let event = EventNotifier::new().unwrap();
        let into = log.clone();
        let handler = cx.add_event_notifier(&event, "handler", move |_| {
            into.borrow_mut().push("handler");
        });
        event.set();
        assert!(cx.poll(Blocking::Yes), "a handler is called");
        assert!(!cx.poll(Blocking::No));
        drop(cx.spawn(async {}));
        assert!(cx.poll(Blocking::Yes) && !cx.poll(Blocking::No));
        let file = Fd::from(scratch(10));
        let mut read = pin!(cx.read(&file, 0, IoBuf::heap(10)));
        let mut poll = || read.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(poll().is_pending() && cx.poll(Blocking::Yes));
        assert!(poll().is_ready() && !cx.poll(Blocking::No));

        assert_eq!(*log.borrow(), ["bottom half", "handler"]);
        drop(handler);
    });
}

#[test]
fn tasks_that_a_task_wakes_run_behind_it_in_the_same_turn() {
    on_each(|cx| {
        let log = Log::default();
        let wakers: Rc<RefCell<Vec<Waker>>> = Rc::default();
        for name in ["first", "second"] {
            let (log, wakers) = (log.clone(), wakers.clone());
            let mut woken = false;
            let waits = std::future::poll_fn(move |cx| {
                if std::mem::replace(&mut woken, true) {
                    log.borrow_mut().push(name);
                    return Poll::Ready(());
                }
                wakers.borrow_mut().push(cx.waker().clone());
                Poll::Pending
            });
            drop(cx.spawn(waits));
        }
        settle(cx);
        let (context, order) = (cx.clone(), log.clone());
        let wakes = cx.spawn(async move {
            // Twice is once.
            for at in [1, 0, 1] {
                wakers.borrow()[at].wake_by_ref();
            }
            order.borrow_mut().push("goes on");
            // It wakes itself, and is behind them.
            context.yield_now().await;
            order.borrow_mut().push("last");
        });
        assert!(cx.poll(Blocking::No));

        assert_eq!(*log.borrow(), ["goes on", "second", "first", "last"]);
        assert!(wakes.is_finished() && !cx.poll(Blocking::No));
    });
}

#[test]
fn a_callback_may_close_its_context_with_all_sorts_of_work_behind_it() {
    const KINDS: [&str; 5] = ["one-shot", "bottom half", "handler", "task", "timer"];
    for (backend, closes) in each_backend().flat_map(|backend| KINDS.map(|kind| (backend, kind))) {
        let cx = AioContext::new(Config {
            backend: Some(backend),
            ..Config::default()
        })
        .unwrap();
        let is_closed = |cx: &AioContext| cx.handle().shared().is_closed();
        let act = |kind| {
            move |cx: &AioContext| {
                assert!(!is_closed(cx), "{kind} after the end of its context");
                if kind == closes {
                    cx.clone().close();
                }
            }
        };
        let event = EventNotifier::new().unwrap();
        let handler = cx.add_event_notifier(&event, "handler", act("handler"));
        settle(&cx);
        let timer = cx.timer("timer", TimerClock::Loop, act("timer"));
        let [first, second] = [(); 2].map(|()| cx.bottom_half("bottom half", act("bottom half")));
        for _ in 0..2 {
            cx.handle().schedule(act("one-shot"));
        }
        let task = |cx: &AioContext| {
            let (task, act) = (cx.clone(), act("task"));
            cx.spawn(async move { act(&task) })
        };
        let tasks = [task(&cx), task(&cx)];
        event.set();
        while !is_closed(&cx) {
            first.schedule();
            second.schedule();
            timer.arm_at_ns(0);
            cx.poll(Blocking::No);
        }
        drop((handler, timer, first, second, tasks));
    }
}

#[test]
#[should_panic(expected = "a task awaits; it does not turn the loop that runs it")]
fn a_task_that_turns_its_own_loop_is_refused() {
    let cx = AioContext::new(Config::default()).unwrap();
    let context = cx.clone();
    cx.block_on(cx.spawn(async move { context.poll(Blocking::No) }));
}

#[test]
#[should_panic(expected = "a task awaits; it does not turn the loop that runs it")]
fn a_task_that_blocks_on_its_own_loop_is_refused() {
    let cx = AioContext::new(Config::default()).unwrap();
    let context = cx.clone();
    cx.block_on(cx.spawn(async move { context.block_on(context.yield_now()) }));
}

#[test]
fn a_handler_that_replaces_another_begins_without_its_events() {
    on_each(|cx| {
        let event = EventNotifier::new().unwrap();
        let log = Log::default();
        let register = |name| {
            let (log, take) = (log.clone(), event.clone());
            let callbacks = FdCallbacks::new(name).on_readable(move |_| {
                log.borrow_mut().push(name);
                assert!(take.test_and_clear());
                Drained::Yes
            });
            cx.add_fd_handler(event.fd(), callbacks).unwrap()
        };
        let old = register("old");
        settle(cx);
        event.set();
        // The old one's event is taken in, and not dispatched.
        cx.check();
        let new = register("new");
        drop(old);
        while log.borrow().is_empty() {
            cx.poll(Blocking::Yes);
        }
        settle(cx);
        assert_eq!(*log.borrow(), ["new"]);
        drop(new);
    });
}

#[test]
fn two_handlers_of_one_descriptor_are_called_each_for_its_own() {
    on_each(|cx| {
        let (ours, mut peer) = UnixStream::pair().unwrap();
        let fd = Fd::from(ours);
        let (reads, writes) = <(Rc<Cell<u32>>, Rc<Cell<u32>>)>::default();
        let (read, write) = (reads.clone(), writes.clone());
        let reader = FdCallbacks::new("reader").on_readable(move |_| read.set(read.get() + 1));
        let writer = FdCallbacks::new("writer").on_writable(move |_| write.set(write.get() + 1));
        let reader = cx.add_fd_handler(&fd, reader).unwrap();
        let writer = cx.add_fd_handler(&fd, writer).unwrap();
        while writes.get() < 3 {
            cx.poll(Blocking::Yes);
        }
        assert_eq!(reads.get(), 0);
        drop(writer);
        let before = writes.get();
        peer.write_all(b"x").unwrap();
        while reads.get() < 3 {
            cx.poll(Blocking::Yes);
        }
        assert_eq!(writes.get(), before);
        drop(reader);
    });
}

#[test]
fn an_error_of_a_descriptor_calls_both_callbacks() {
    on_each(|cx| {
        let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_NONBLOCK).unwrap();
        // A full pipe cannot be written, so the error comes alone.
        let mut writer = File::from(writer);
        while writer.write(&[0; 4096]).is_ok() {}
        let fd = Fd::from(writer);
        let log = Log::default();
        let (read, write) = (log.clone(), log.clone());
        let callbacks = FdCallbacks::new("both")
            .on_readable(move |_| read.borrow_mut().push("read"))
            .on_writable(move |_| write.borrow_mut().push("write"));
        drop(reader);
        let handler = cx.add_fd_handler(&fd, callbacks).unwrap();
        while log.borrow().len() < 4 {
            cx.poll(Blocking::Yes);
        }
        assert_eq!(log.borrow()[..4], ["read", "write", "read", "write"]);
        drop(handler);
    });
}

#[test]
fn requests_that_are_made_together_reach_the_kernel_together() {
    on_each(|cx| {
        let file = Fd::from(scratch(1 << 20));
        let before = cx.stats().enters;
        let reads: Vec<_> = (0..200)
            .map(|at| {
                let (cx, file) = (cx.clone(), file.clone());
                cx.clone().spawn(async move {
                    cx.read_exact(&file, at * 4096, IoBuf::heap(4096)).await.1
                })
            })
            .collect();
        cx.block_on(async {
            for read in reads {
                read.await.unwrap();
            }
        });
        if cx.backend() == BackendKind::IoUring {
            let enters = cx.stats().enters - before;
            assert!(enters < 100, "{enters} system calls for 200 requests");
        }
    });
}

#[test]
fn a_callback_may_turn_the_loop_while_another_drives_it() {
    on_each(|cx| {
        let outside = cx.foreign_fd().unwrap();
        let log = Log::default();
        let inner = Rc::new(logged(cx, "inner", &log));
        let (schedule, nested) = (inner.clone(), log.clone());
        let outer = cx.bottom_half("outer", move |cx| {
            schedule.schedule();
            assert!(cx.poll(Blocking::Yes));
            // Other loops nest as well.
            schedule.schedule();
            assert_eq!(cx.prepare(), Some(0));
            assert!(cx.check() && cx.dispatch());
            nested.borrow_mut().push("outer");
        });
        outer.schedule();
        assert_eq!(cx.prepare(), Some(0));
        assert!(cx.check() && cx.dispatch());

        assert_eq!(*log.borrow(), ["inner", "inner", "outer"]);
        assert_eq!(cx.prepare(), None);
        drop(outside);
    });
}

/// Turns the scheduler until the thread of `handle` sleeps.
fn until_asleep(handle: &Handle) {
    let state = handle.shared().wake_state();
    while state.asleep_until_ns(TimerClock::Loop).is_none() {
        thread::yield_now();
    }
}

#[test]
fn parameters_are_set_while_a_thread_sleeps_and_wake_it() {
    for backend in each_backend() {
        let thread = IoThread::start(Config {
            backend: Some(backend),
            ..Config::for_io_thread("live")
        })
        .unwrap();
        let handle = thread.handle();
        let wakes = |change: &dyn Fn()| {
            until_asleep(handle);
            let kicks = handle.shared().kicks();
            change();
            assert_eq!(handle.shared().kicks(), kicks + 1);
        };
        wakes(&|| {
            handle.set_poll_params(PollParams {
                max_ns: 1000,
                grow: 3,
                shrink: 2,
            });
        });
        wakes(&|| handle.set_thread_pool_limits(1, 2).unwrap());
        wakes(&|| handle.schedule(|cx| cx.set_max_batch(1)));
        handle.set_thread_pool_limits(2, 1).unwrap_err();
        assert_eq!(handle.call(|_| 7).wait(), 7);
    }
}

#[test]
fn a_thread_that_is_dropped_while_it_sleeps_ends_with_its_tasks() {
    for backend in each_backend() {
        let thread = IoThread::start(Config {
            backend: Some(backend),
            ..Config::default()
        })
        .unwrap();
        let witness = Arc::new(());
        let held = witness.clone();
        let pending = thread.handle().spawn(|_| async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        until_asleep(thread.handle());
        drop(thread);
        assert_eq!(Arc::strong_count(&witness), 1);
        assert!(pending.join().wait().is_err());
    }
}
