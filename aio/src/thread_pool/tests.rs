//! The thread pool from outside, and the decisions of its crew one by one.

use std::{
    cell::RefCell,
    future::Future,
    pin::pin,
    rc::Rc,
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, ThreadId},
};

use nix::sys::signal::{SigSet, Signal};

use super::crew::{Call, Came, Crew, Limits, Next, Step};
use crate::{AioContext, Blocking, Cancelled, Config, PoolRequest};

/// Runs `test` on a context whose pool has at most `workers_max` workers.
fn with_pool(workers_max: usize, test: impl FnOnce(&AioContext)) {
    let config = Config {
        workers_max,
        ..Config::default()
    };
    let context = AioContext::new(config).unwrap();
    test(&context);
    context.close();
}

/// Polls `future` once, without anybody to wake.
fn poll_once<T>(future: impl Future<Output = T>) -> Poll<T> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn workers(cx: &AioContext) -> usize {
    cx.thread_pool_parts().0.thread_pool.crew.count().0
}

/// Keeps a worker busy until it is dropped.
struct Plug {
    /// Dropped, it ends the wait of the worker.
    _hold: mpsc::Sender<()>,
    request: PoolRequest<()>,
}

/// Has a worker wait; returns once it does.
fn plug(cx: &AioContext) -> Plug {
    let (hold, held) = mpsc::channel::<()>();
    let (begun, begins) = mpsc::channel();
    let request = cx.thread_pool().submit(move || {
        begun.send(()).unwrap();
        assert!(held.recv().is_err(), "nobody sends");
    });
    begins.recv().unwrap();
    Plug {
        _hold: hold,
        request,
    }
}

#[test]
fn work_runs_on_another_thread_and_its_result_comes_in_a_turn() {
    with_pool(1, |cx| {
        let mut request = cx.thread_pool().submit(|| thread::current().id());
        while workers(cx) == 0 {
            thread::yield_now();
        }
        assert!(poll_once(&mut request).is_pending(), "no turn was made yet");
        let worker: ThreadId = cx.block_on(request).unwrap();
        assert_ne!(worker, thread::current().id());
    });
}

#[test]
fn work_is_begun_in_the_order_of_its_submission() {
    with_pool(1, |cx| {
        let order = Arc::new(Mutex::new(Vec::new()));
        let requests: Vec<_> = (0..100)
            .map(|number| {
                let order = order.clone();
                cx.thread_pool()
                    .submit(move || order.lock().unwrap().push(number))
            })
            .collect();
        cx.block_on(async {
            for request in requests {
                request.await.unwrap();
            }
        });
        assert_eq!(*order.lock().unwrap(), (0..100).collect::<Vec<_>>());
    });
}

#[test]
fn the_pool_grows_while_its_workers_are_busy_and_not_beyond_its_limit() {
    with_pool(4, |cx| {
        let together = Arc::new(Barrier::new(4));
        let requests: Vec<_> = (0..12)
            .map(|_| {
                let together = together.clone();
                // Nobody passes the barrier unless four run at once.
                cx.thread_pool().submit(move || together.wait())
            })
            .collect();
        cx.block_on(async {
            for request in requests {
                request.await.unwrap();
            }
        });
        assert_eq!(workers(cx), 4);
    });
}

#[test]
fn work_is_cancelled_while_it_is_queued_and_ends_in_a_later_turn() {
    with_pool(1, |cx| {
        let plug = plug(cx);
        let witness = Arc::new(());
        let kept = witness.clone();
        let mut queued = cx.thread_pool().submit(move || drop(kept));
        assert!(queued.cancel());
        assert!(!queued.cancel(), "it is cancelled once");
        assert!(poll_once(&mut queued).is_pending(), "not at once");
        assert_eq!(cx.block_on(queued), Err(Cancelled));
        assert_eq!(Arc::strong_count(&witness), 1, "the work was dropped");

        assert!(!plug.request.cancel(), "it has begun");
        let Plug { _hold, request } = plug;
        drop(_hold);
        assert_eq!(cx.block_on(request), Ok(()));
    });
}

#[test]
fn cancelled_work_is_passed_over_and_the_rest_is_done() {
    with_pool(1, |cx| {
        let plug = plug(cx);
        let requests: Vec<_> = (0..9)
            .map(|number| cx.thread_pool().submit(move || number))
            .collect();
        for request in requests.iter().step_by(2) {
            assert!(request.cancel());
        }
        drop(plug);
        cx.block_on(async {
            for (number, request) in requests.into_iter().enumerate() {
                let kept = number % 2 == 1;
                assert_eq!(request.await, kept.then_some(number).ok_or(Cancelled));
            }
        });
    });
}

#[test]
fn work_that_nobody_waits_for_is_done_before_the_context_is_closed() {
    let done = Arc::new(AtomicUsize::new(0));
    with_pool(3, |cx| {
        for _ in 0..100 {
            let done = done.clone();
            drop(cx.thread_pool().submit(move || {
                done.fetch_add(1, Ordering::Relaxed);
            }));
        }
    });
    assert_eq!(done.load(Ordering::Relaxed), 100);
}

#[test]
fn a_panic_of_the_work_reaches_who_waits_and_the_worker_goes_on() {
    with_pool(1, |cx| {
        let request = cx.thread_pool().submit(|| std::panic::panic_any(7));
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            cx.block_on(request).unwrap();
        }));
        assert_eq!(caught.unwrap_err().downcast_ref(), Some(&7));
        assert_eq!(cx.block_on(cx.thread_pool().submit(|| 8)), Ok(8));
        assert_eq!(workers(cx), 1);
    });
}

#[test]
fn limits_that_make_no_sense_are_refused_and_change_nothing() {
    with_pool(1, |cx| {
        for (min, max) in [(-1, 5), (0, 0), (0, -1), (6, 5), (i64::MIN, i64::MAX)] {
            let refused = cx.handle().set_thread_pool_limits(min, max).unwrap_err();
            assert_eq!(
                refused.to_string(),
                "bad thread-pool-min/thread-pool-max values"
            );
        }
        for (min, max) in [(0, 1), (1, 1), (0, i64::MAX)] {
            cx.handle().set_thread_pool_limits(min, max).unwrap();
        }
    });
}

#[test]
fn a_raised_minimum_starts_workers_at_once_in_a_pool_that_is_in_use() {
    with_pool(64, |cx| {
        let handle = cx.handle().clone();
        thread::spawn(move || handle.set_thread_pool_limits(3, 8).unwrap())
            .join()
            .unwrap();
        while cx.poll(Blocking::No) {}
        assert_eq!(workers(cx), 0, "nobody uses the pool yet");

        cx.block_on(cx.thread_pool().submit(|| ())).unwrap();
        cx.handle().set_thread_pool_limits(5, 8).unwrap();
        while cx.poll(Blocking::No) {}
        assert_eq!(workers(cx), 5);
    });
}

#[test]
fn a_lowered_maximum_makes_workers_leave_after_their_work() {
    with_pool(4, |cx| {
        let plugs: Vec<Plug> = (0..4).map(|_| plug(cx)).collect();
        assert_eq!(workers(cx), 4);
        cx.handle().set_thread_pool_limits(0, 1).unwrap();
        let last = cx.thread_pool().submit(|| ());
        assert_eq!(workers(cx), 4, "all are at work");
        drop(plugs);
        cx.block_on(last).unwrap();
        while workers(cx) > 1 {
            thread::yield_now();
        }
        // Idle ones leave as well.
        let plugs: Vec<Plug> = vec![plug(cx)];
        drop(plugs);
        cx.handle().set_thread_pool_limits(0, 2).unwrap();
        let together = Arc::new(Barrier::new(2));
        let pair = [together.clone(), together]
            .map(|together| cx.thread_pool().submit(move || together.wait()));
        cx.block_on(async {
            for request in pair {
                request.await.unwrap();
            }
        });
        cx.handle().set_thread_pool_limits(0, 1).unwrap();
        while workers(cx) > 1 {
            thread::yield_now();
        }
    });
}

#[test]
fn workers_take_no_signals_but_those_of_their_own_faults() {
    with_pool(1, |cx| {
        let mask = cx.block_on(cx.thread_pool().submit(SigSet::thread_get_mask));
        let mask = mask.unwrap().unwrap();
        assert!(mask.contains(Signal::SIGTERM) && mask.contains(Signal::SIGUSR1));
        assert!(!mask.contains(Signal::SIGSEGV));
        let ours = SigSet::thread_get_mask().unwrap();
        assert!(!ours.contains(Signal::SIGTERM), "the home thread's stay");
    });
}

/// Turns the loop when it is woken, as only a strange future would.
struct NestedTurn;

thread_local! {
    static NESTED: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

impl Wake for NestedTurn {
    fn wake(self: Arc<Self>) {
        let nested = NESTED.with(|nested| nested.borrow_mut().take());
        if let Some(nested) = nested {
            nested();
        }
    }
}

#[test]
fn a_nested_turn_inside_a_completion_brings_the_others() {
    with_pool(1, |cx| {
        let plug = plug(cx);
        let mut first = cx.thread_pool().submit(|| 1);
        let second = Rc::new(RefCell::new(cx.thread_pool().submit(|| 2)));
        let waker = Waker::from(Arc::new(NestedTurn));
        assert!(
            pin!(&mut first)
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
        let (inner, waited) = (cx.clone(), second.clone());
        let seen = Rc::new(RefCell::new(None));
        let see = seen.clone();
        NESTED.with(|nested| {
            *nested.borrow_mut() = Some(Box::new(move || {
                // Both are in one batch: the second needs no other word than that for the first.
                inner.poll(Blocking::Yes);
                *see.borrow_mut() = Some(poll_once(&mut *waited.borrow_mut()));
            }));
        });
        // Cancelled, both have ended before the loop turns.
        assert!(first.cancel() && second.borrow().cancel());
        while seen.borrow().is_none() {
            cx.poll(Blocking::Yes);
        }
        let seen = seen.borrow_mut().take();
        assert_eq!(seen, Some(Poll::Ready(Err(Cancelled))));
        drop(plug);
    });
}

#[test]
fn without_any_thread_work_is_done_by_who_submits_it() {
    // No thread with such a stack can be had. The harness itself would need one too, unless it has one test to run.
    const STACK: (&str, &str) = ("RUST_MIN_STACK", "1152921504606846976");
    if std::env::var_os(STACK.0).is_none_or(|bytes| bytes != STACK.1) {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--test-threads=1", "--nocapture"])
            .arg(thread::current().name().unwrap())
            .env(STACK.0, STACK.1)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && told.contains("1 passed"),
            "{output:?}"
        );
        return;
    }
    with_pool(2, |cx| {
        let here = thread::current().id();
        for _ in 0..3 {
            let worker = cx.block_on(cx.thread_pool().submit(|| thread::current().id()));
            assert_eq!(worker, Ok(here));
        }
        cx.handle().set_thread_pool_limits(2, 2).unwrap();
        assert_eq!(cx.block_on(cx.thread_pool().submit(|| 1)), Ok(1));
    });
}

type TestCrew = Crew<u32, u32, char>;

fn crew(min: usize, max: usize) -> TestCrew {
    Crew::new(Limits { min, max })
}

fn start(crew: &TestCrew, me: char) -> Step<u32, char> {
    crew.next(&me, Came::Started)
}

/// A crew with idle workers `a`, `b`, .., who rested in this order.
fn rested(limits: (usize, usize), count: u8) -> TestCrew {
    let crew = crew(limits.0, limits.1);
    let names = || (0..count).map(|number| char::from(b'a' + number));
    for _ in names() {
        let (_, call) = crew.submit([0].into_iter());
        assert!(matches!(call, None | Some(Call::Start)));
    }
    for me in names() {
        assert_eq!(start(&crew, me).next, Next::Work(0));
    }
    for me in names() {
        let step = crew.next(&me, Came::Finished(0));
        assert!(matches!(step.next, Next::Rest | Next::RestAWhile));
    }
    crew.take_done(&mut std::collections::VecDeque::new());
    crew
}

#[test]
fn a_batch_calls_one_worker_and_each_the_next() {
    let crew = rested((0, 4), 2);
    let (_, call) = crew.submit(1..=4);
    // The one that rested last is called first.
    assert_eq!(call, Some(Call::Wake('b')));
    let (_, call) = crew.submit([5].into_iter());
    assert_eq!(call, None, "one is on its way");

    let step = crew.next(&'b', Came::Woken);
    assert_eq!(step.next, Next::Work(1));
    assert_eq!(step.call, Some(Call::Wake('a')));
    let step = crew.next(&'a', Came::Woken);
    assert_eq!((step.next, step.call), (Next::Work(2), Some(Call::Start)));
    assert_eq!(
        crew.next(&'b', Came::Finished(1)),
        Step {
            tell: true,
            call: None,
            next: Next::Work(3)
        }
    );
    let step = start(&crew, 'c');
    assert_eq!((step.next, step.call), (Next::Work(4), Some(Call::Start)));
    let step = crew.next(&'a', Came::Finished(2));
    assert_eq!((step.tell, step.next), (false, Next::Work(5)));
    // The last one called finds nothing left to do.
    assert_eq!(start(&crew, 'd').next, Next::RestAWhile);
}

#[test]
fn a_worker_nobody_calls_leaves_unless_it_is_of_the_least_number() {
    let crew = rested((1, 4), 2);
    assert_eq!(crew.next(&'a', Came::Woken).next, Next::RestAWhile);
    assert_eq!(crew.next(&'a', Came::Waited).next, Next::Leave);
    assert_eq!(crew.next(&'b', Came::Waited).next, Next::Rest);
    assert_eq!(crew.count().0, 1);
}

#[test]
fn a_worker_that_is_called_while_its_rest_ends_takes_the_work() {
    let crew = rested((0, 1), 1);
    assert_eq!(
        crew.submit([7].into_iter()).1,
        Some(Call::Wake('a')),
        "its rest is over, but it has not said so yet"
    );
    assert_eq!(crew.next(&'a', Came::Waited).next, Next::Work(7));
}

#[test]
fn a_worker_that_is_one_too_many_leaves_the_work_to_another() {
    let crew = rested((0, 2), 2);
    assert_eq!(crew.set_limits(Limits { min: 0, max: 1 }), ['a', 'b']);
    assert_eq!(crew.submit([1].into_iter()).1, None, "there are too many");
    assert_eq!(crew.next(&'a', Came::Woken).next, Next::Leave);
    assert_eq!(crew.next(&'b', Came::Woken).next, Next::Work(1));
}

#[test]
fn work_is_taken_back_only_while_it_is_queued() {
    let crew = rested((0, 1), 1);
    let (second, _) = crew.submit([1, 2].into_iter());
    assert_eq!(crew.next(&'a', Came::Woken).next, Next::Work(1));
    assert_eq!(crew.cancel(second - 1, |_| 0), None, "it has begun");
    assert_eq!(crew.cancel(second, |_| 9), Some(true));
    assert_eq!(crew.cancel(second, |_| 9), None, "it was taken back");
    assert_eq!(crew.cancel(second + 1, |_| 9), None, "there is no such");
    assert_eq!(crew.next(&'a', Came::Finished(1)).next, Next::RestAWhile);
    let mut done = std::collections::VecDeque::new();
    crew.take_done(&mut done);
    assert_eq!(done, [9, 1]);
}

#[test]
fn a_closing_crew_leaves_when_the_queue_is_empty() {
    let crew = rested((1, 1), 1);
    crew.submit([1, 2].into_iter());
    assert_eq!(crew.close(), [] as [char; 0], "the only one was called");
    assert_eq!(crew.next(&'a', Came::Woken).next, Next::Work(1));
    assert_eq!(crew.next(&'a', Came::Finished(1)).next, Next::Work(2));
    assert_eq!(crew.next(&'a', Came::Finished(2)).next, Next::Leave);
    assert_eq!(crew.count(), (0, 0));
}
