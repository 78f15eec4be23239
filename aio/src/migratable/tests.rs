//! What migratable tasks promise: where they run, and what becomes of them when contexts close.

use std::{
    future::{Future, pending, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
};

use crate::{
    AioContext, BackendKind, Blocking, Closed, Config, Handle, IoThread, Join, TaskMutex,
    backend::tests_on_each::each_backend, reschedule_to,
};

fn config(backend: BackendKind) -> Config {
    Config {
        backend: Some(backend),
        ..Config::default()
    }
}

fn threads<const COUNT: usize>(backend: BackendKind) -> [IoThread; COUNT] {
    [(); COUNT].map(|()| IoThread::start(config(backend)).unwrap())
}

fn is_current(handle: &Handle) -> bool {
    AioContext::current().is_some_and(|context| context.handle().is_same(handle))
}

/// Asserts that `future` is polled by one thread at a time, and counts the polls.
async fn watched<F: Future>(future: F, polls: Arc<AtomicUsize>) -> F::Output {
    let mut future = pin!(future);
    let inside = AtomicBool::new(false);
    let poll = poll_fn(|cx| {
        let was_inside = inside.swap(true, Ordering::Relaxed);
        assert!(!was_inside, "polled by two threads");
        polls.fetch_add(1, Ordering::Relaxed);
        let polled = future.as_mut().poll(cx);
        inside.store(false, Ordering::Relaxed);
        polled
    });
    poll.await
}

/// Where a task leaves its waker, for others to call it.
#[derive(Clone, Default)]
struct Bell(Arc<Mutex<Option<Waker>>>);

impl Bell {
    /// Waits until `open` says so; it is asked whenever somebody rings.
    async fn until(&self, mut open: impl FnMut() -> bool) {
        poll_fn(|cx| {
            let before = self.0.lock().unwrap().replace(cx.waker().clone());
            drop(before);
            if open() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    fn ring(&self) {
        let waker = self.0.lock().unwrap().clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

#[test]
fn a_task_hops_ten_thousand_times_while_others_wake_it() {
    const HOPS: usize = 10_000;

    async fn hop(handles: [Handle; 4], bell: Bell) {
        for hop in 0..HOPS {
            // The stride visits each, and stays now and then.
            let target = &handles[(hop * 7 / 5) % handles.len()];
            reschedule_to(target).await;
            assert!(is_current(target));
            let mut is_new = true;
            bell.until(|| !std::mem::take(&mut is_new)).await;
            assert!(is_current(target), "a wake-up does not move it");
        }
    }

    for backend in each_backend() {
        let threads: [IoThread; 4] = threads(backend);
        let handles = threads.each_ref().map(|thread| thread.handle().clone());
        let (bell, polls) = (Bell::default(), Arc::default());
        let task = watched(hop(handles.clone(), bell.clone()), Arc::clone(&polls));
        let task = handles[3].spawn_migratable(task);
        let ring = || {
            while !task.is_finished() {
                bell.ring();
            }
        };
        thread::scope(|scope| {
            scope.spawn(ring);
            scope.spawn(ring);
        });
        task.wait();
        assert!(polls.load(Ordering::Relaxed) >= HOPS);
    }
}

#[test]
fn moving_to_where_it_is_does_not_even_yield() {
    let context = AioContext::new(Config::default()).unwrap();
    let (handle, polls) = (context.handle().clone(), Arc::default());
    let moves = async move {
        for _ in 0..3 {
            reschedule_to(&handle).await;
        }
    };
    let task = context
        .handle()
        .spawn_migratable(watched(moves, Arc::clone(&polls)));
    context.block_on(task);

    assert_eq!(polls.load(Ordering::Relaxed), 1);
    context.close();
}

#[test]
fn a_moved_task_does_not_run_before_it_has_yielded() {
    /// Dawdles in the poll that begins the move.
    async fn move_slowly(target: Handle) -> bool {
        let mut moved = pin!(reschedule_to(&target));
        let first = poll_fn(|cx| Poll::Ready(moved.as_mut().poll(cx))).await;
        // Turns enough for the target to take the task, were it there already.
        for _ in 0..3 {
            target.call(|_| ()).wait();
        }
        let has_stayed = first.is_pending() && !is_current(&target);
        moved.await;
        has_stayed && is_current(&target)
    }

    for backend in each_backend() {
        let [one, two]: [IoThread; 2] = threads(backend);
        let target = two.handle().clone();
        let task = watched(move_slowly(target), Arc::default());
        assert!(one.handle().spawn_migratable(task).wait());
    }
}

#[test]
fn a_task_is_woken_on_the_context_where_it_ran_last() {
    for backend in each_backend() {
        let [one, two]: [IoThread; 2] = threads(backend);
        let (bell, is_open) = (Bell::default(), Arc::new(AtomicBool::new(false)));
        let (target, rung, open) = (two.handle().clone(), bell.clone(), is_open.clone());
        let task = one.handle().spawn_migratable(async move {
            reschedule_to(&target).await;
            rung.until(|| open.load(Ordering::Relaxed)).await;
            is_current(&target)
        });
        one.handle().call(|_| ()).wait();
        bell.ring();
        is_open.store(true, Ordering::Relaxed);
        while !task.is_finished() {
            bell.ring();
            thread::yield_now();
        }
        assert!(task.wait());
    }
}

#[test]
fn tasks_of_one_context_run_in_the_order_of_their_wake_ups() {
    let context = AioContext::new(Config::default()).unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let tasks: Vec<_> = (0..5)
        .map(|number| {
            let order = order.clone();
            context
                .handle()
                .spawn_migratable(async move { order.lock().unwrap().push(number) })
        })
        .collect();
    for task in tasks {
        context.block_on(task);
    }

    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4]);
    context.close();
}

/// Polls its future only when that was woken through a waker of its own, as sets of futures do.
struct OnlyWhenWoken<F> {
    future: Pin<Box<F>>,
    flag: Arc<Flag>,
}

#[derive(Default)]
struct Flag {
    is_woken: AtomicBool,
    outer: Mutex<Option<Waker>>,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.is_woken.store(true, Ordering::Release);
        let outer = self.outer.lock().unwrap().clone();
        if let Some(outer) = outer {
            outer.wake();
        }
    }
}

impl<F: Future> Future for OnlyWhenWoken<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let outer = Some(cx.waker().clone());
        *self.flag.outer.lock().unwrap() = outer;
        if !self.flag.is_woken.swap(false, Ordering::Acquire) {
            return Poll::Pending;
        }
        let waker = Waker::from(self.flag.clone());
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }
}

#[test]
fn a_part_of_a_task_that_has_its_own_waker_can_move_it() {
    for backend in each_backend() {
        let [one, two]: [IoThread; 2] = threads(backend);
        let target = two.handle().clone();
        let part = async move {
            reschedule_to(&target).await;
            is_current(&target)
        };
        let flag = Arc::new(Flag::default());
        flag.is_woken.store(true, Ordering::Relaxed);
        let future = Box::pin(part);
        let task = one
            .handle()
            .spawn_migratable(OnlyWhenWoken { future, flag });
        assert!(task.wait());
    }
}

#[test]
#[should_panic(expected = "only a migratable task can be moved")]
fn what_is_no_migratable_task_cannot_be_moved() {
    let [here, there] = ["here", "there"].map(|_| AioContext::new(Config::default()).unwrap());
    let target = there.handle().clone();
    here.block_on(here.spawn(async move { reschedule_to(&target).await }));
}

/// Counts those that are alive.
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Spawns a task that does what `then` says, after it has moved; it must not get there.
fn doomed(start: &Handle, target: &Handle, alive: &Arc<AtomicUsize>) -> Join<()> {
    let (target, alive) = (target.clone(), Alive::new(alive));
    let task = start.spawn_migratable(async move {
        let _alive = alive;
        reschedule_to(&target).await;
        unreachable!("the target is closed");
    });
    task.join()
}

#[test]
fn moving_to_a_closed_context_drops_the_task() {
    for backend in each_backend() {
        let [start, closed]: [IoThread; 2] = threads(backend);
        let (target, alive) = (closed.handle().clone(), Arc::default());
        drop(closed);

        assert_eq!(doomed(start.handle(), &target, &alive).wait(), Err(Closed));
        assert_eq!(doomed(&target, &target, &alive).wait(), Err(Closed));
        assert_eq!(alive.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn a_task_whose_target_closes_before_its_turn_is_dropped_there() {
    for backend in each_backend() {
        let [start]: [IoThread; 1] = threads(backend);
        let (closing, alive) = (AioContext::new(config(backend)).unwrap(), Arc::default());
        let joined = doomed(start.handle(), closing.handle(), &alive);
        start.handle().call(|_| ()).wait();
        assert_eq!(alive.load(Ordering::Relaxed), 1, "it waits for its turn");
        closing.close();

        assert_eq!(joined.wait(), Err(Closed));
        assert_eq!(alive.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn closing_drops_the_tasks_that_wait_there_whoever_holds_their_wakers() {
    let context = AioContext::new(Config::default()).unwrap();
    let (bell, alive) = (Bell::default(), Arc::<AtomicUsize>::default());
    let waits = |is_gone: bool| {
        let (bell, alive) = (bell.clone(), Alive::new(&alive));
        let task = context.handle().spawn_migratable(async move {
            let _alive = alive;
            bell.until(|| is_gone).await;
        });
        task.join()
    };
    let idle = waits(false);
    context.poll(Blocking::No);
    assert_eq!(context.stats().tasks, 1);
    let due = waits(true);
    context.close();

    assert_eq!((idle.wait(), due.wait()), (Err(Closed), Err(Closed)));
    assert_eq!(alive.load(Ordering::Relaxed), 0);
    bell.ring();
}

#[test]
fn a_task_belongs_to_the_context_that_it_moved_to() {
    let [old, new] = ["old", "new"].map(|_| AioContext::new(Config::default()).unwrap());
    let (bell, target) = (Bell::default(), new.handle().clone());
    let rung = bell.clone();
    let task = old.handle().spawn_migratable(async move {
        reschedule_to(&target).await;
        rung.until(|| false).await;
    });
    old.poll(Blocking::No);
    assert_eq!((old.stats().tasks, new.stats().tasks), (0, 0), "on its way");
    new.poll(Blocking::No);
    assert_eq!((old.stats().tasks, new.stats().tasks), (0, 1));
    old.close();
    assert!(!task.is_finished());
    new.close();

    assert_eq!(task.join().wait(), Err(Closed));
}

#[test]
fn a_task_that_closes_its_own_context_is_dropped_when_it_yields() {
    let context = AioContext::new(Config::default()).unwrap();
    let task = context.handle().spawn_migratable(async {
        AioContext::current().unwrap().close();
        pending::<()>().await;
    });
    context.poll(Blocking::No);

    assert_eq!(task.join().wait(), Err(Closed));
    assert_eq!(context.stats().tasks, 0);
}

#[test]
fn a_migratable_task_can_be_aborted() {
    for backend in each_backend() {
        let [one, two]: [IoThread; 2] = threads(backend);
        let (target, alive) = (two.handle().clone(), Arc::<AtomicUsize>::default());
        let guard = Alive::new(&alive);
        let task = one.handle().spawn_migratable(async move {
            let _guard = guard;
            reschedule_to(&target).await;
            pending::<()>().await;
        });
        task.abort();

        assert_eq!(task.join().wait(), Err(Closed));
        assert_eq!(alive.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn tasks_that_hop_while_contexts_close_all_come_to_an_end() {
    const TASKS: usize = 32;
    const HOPS: usize = 400;

    struct Shared {
        mutex: TaskMutex,
        turns: AtomicUsize,
    }

    /// Holds the mutex across each move, so that a task that is dropped on the way must let go of it.
    async fn roam(handles: [Handle; 4], shared: Arc<Shared>, number: usize, _alive: Alive) {
        for hop in 0..HOPS {
            let guard = shared.mutex.lock().await;
            let turns = shared.turns.load(Ordering::Relaxed);
            reschedule_to(&handles[(number + hop) % 4]).await;
            shared.turns.store(turns + 1, Ordering::Relaxed);
            drop(guard);
        }
    }

    for backend in each_backend() {
        let [first, second, third, fourth]: [IoThread; 4] = threads(backend);
        let handles = [&first, &second, &third, &fourth].map(|thread| thread.handle().clone());
        let shared = Arc::new(Shared {
            mutex: TaskMutex::new(),
            turns: AtomicUsize::new(0),
        });
        let alive = Arc::default();
        let joins: Vec<_> = (0..TASKS)
            .map(|number| {
                let task = roam(handles.clone(), shared.clone(), number, Alive::new(&alive));
                handles[number % 4].spawn_migratable(task).join()
            })
            .collect();
        while shared.turns.load(Ordering::Relaxed) < TASKS {
            thread::yield_now();
        }
        drop((first, third));
        // All come by a closed context sooner or later, unless they had ended before.
        let ended = joins.into_iter().map(Join::wait).count();
        assert_eq!(ended, TASKS);
        drop((second, fourth));
        assert_eq!(alive.load(Ordering::Relaxed), 0);
        assert!(shared.mutex.try_lock().is_some());
    }
}
