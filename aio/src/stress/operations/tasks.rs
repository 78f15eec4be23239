//! Tasks that move, sleep, lock, are aborted, and have others work for them.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crate::{
    AioContext, Cancelled, JoinHandle, reschedule_to,
    stress::world::{BUDGET_BYTES, Bell, Peer, Stream, settled},
};

const FAR_NS: u64 = 3_600_000_000_000;

/// Rings when it is dropped, run or not.
struct RingOnDrop(Bell, Arc<AtomicBool>);

impl Drop for RingOnDrop {
    fn drop(&mut self) {
        self.1.store(true, Ordering::Release);
        self.0.ring();
    }
}

/// Waits until `peer` has run, or dropped, what it is asked to.
async fn echo(peer: &Peer) {
    let (bell, rung) = (Bell::default(), Arc::new(AtomicBool::new(false)));
    let ring = RingOnDrop(bell.clone(), rung.clone());
    peer.handle.schedule(move |_| drop(ring));
    bell.until(|| rung.load(Ordering::Acquire)).await;
}

/// A task that moves from context to context arrives at each, and is woken where it is.
pub(super) async fn migration(stream: &mut Stream) {
    let begin = stream.peer();
    let hops = stream.random.size(30) + 1;
    let route: Vec<(Peer, Peer)> = (0..hops).map(|_| (stream.peer(), stream.peer())).collect();
    let (count, visited) = (Arc::new(AtomicU64::new(0)), route.clone());
    let counted = count.clone();
    let world = stream.world.clone();
    let locks = stream.random.once_in(4);
    let task = begin.handle.spawn_migratable(async move {
        for (target, other) in visited {
            reschedule_to(&target.handle).await;
            let here = AioContext::current().map(|cx| cx.handle().is_same(&target.handle));
            assert_eq!(here, Some(true), "the task is elsewhere");
            counted.fetch_add(1, Ordering::Relaxed);
            if locks {
                let guard = world.mutex.lock().await;
                assert!(
                    !world.inside.swap(true, Ordering::Relaxed),
                    "two have the mutex"
                );
                world.inside.store(false, Ordering::Relaxed);
                drop(guard);
            }
            echo(&other).await;
        }
    });
    match task.join().await {
        Ok(()) => assert_eq!(count.load(Ordering::Relaxed), hops as u64),
        Err(_) => {
            let closed = route.iter().any(|(target, _)| target.is_closed());
            assert!(
                closed || begin.is_closed(),
                "the task was dropped on its way"
            );
        }
    }
}

/// Tasks started elsewhere run to their end and bring their results.
pub(super) async fn spawn(stream: &mut Stream) {
    let peer = stream.peer();
    let started: Vec<_> = (0..stream.random.below(10))
        .map(|value| {
            let sleep_ns = stream.random.below(3) * 20_000;
            let task = peer.handle.spawn(move |cx| async move {
                if sleep_ns > 0 {
                    cx.sleep_ns(sleep_ns).await;
                } else {
                    cx.yield_now().await;
                }
                value
            });
            (value, task)
        })
        .collect();
    for (value, task) in started {
        if let Some(result) = settled(task.join().await, &peer) {
            assert_eq!(result, value);
        }
    }
}

/// An aborted task ends, however it waits.
pub(super) async fn abort(stream: &mut Stream) {
    let peer = stream.peer();
    let migrates = stream.random.once_in(2);
    let task = if migrates {
        peer.handle.spawn_migratable(pending::<()>())
    } else {
        peer.handle.spawn(|_| pending::<()>())
    };
    let abort = AbortOnDrop(&task);
    match stream.random.below(3) {
        0 => {}
        1 => stream.cx.yield_now().await,
        _ => stream.cx.sleep_ns(50_000).await,
    }
    drop(abort);
    assert!(
        task.join().await.is_err(),
        "a task that never ends has a result"
    );
}

/// Aborts, also when the context of who does it is closed before: nobody else ends that task.
struct AbortOnDrop<'a>(&'a JoinHandle<()>);

impl Drop for AbortOnDrop<'_> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sleeps end in time, or when somebody elsewhere says so.
pub(super) async fn sleep(stream: &mut Stream) {
    let cx = stream.cx.clone();
    for _ in 0..stream.random.below(5) {
        let deadline_ns = cx.now_ns() + stream.random.below(500_000);
        cx.sleep_until_ns(deadline_ns).await;
        assert!(cx.now_ns() >= deadline_ns, "woken too early");
    }
    let timed_out = cx.timeout_ns(stream.random.below(100_000), pending::<()>());
    assert!(timed_out.await.is_err());
    let (sleep, waker) = cx.wakeable_sleep_ns(FAR_NS);
    let peer = stream.peer();
    let ring = WakeOnDrop(waker);
    peer.handle.schedule(move |_| drop(ring));
    stream.step("asleep until another wakes it");
    sleep.await;
}

struct WakeOnDrop(crate::SleepWaker);

impl Drop for WakeOnDrop {
    fn drop(&mut self) {
        self.0.wake();
    }
}

/// Work for the pool is done once, or not at all if it was cancelled in time.
pub(super) async fn pool_work(stream: &mut Stream) {
    let pool = stream.cx.thread_pool();
    let submitted: Vec<_> = (0..stream.random.below(12))
        .map(|value| {
            let runs = Arc::new(AtomicU64::new(0));
            let run = runs.clone();
            let request = pool.submit(move || {
                run.fetch_add(1, Ordering::Relaxed);
                value
            });
            (value, runs, request)
        })
        .collect();
    for (value, runs, request) in submitted {
        let cancelled = stream.random.once_in(3) && request.cancel();
        if stream.random.once_in(8) {
            // Nobody waits for it.
            continue;
        }
        let result = request.await;
        assert_eq!(result, if cancelled { Err(Cancelled) } else { Ok(value) });
        assert_eq!(runs.load(Ordering::Relaxed), u64::from(!cancelled));
    }
    assert_eq!(stream.cx.blocking(|| 7).await, 7);
}

/// One of all contexts has the mutex.
pub(super) async fn mutex(stream: &mut Stream) {
    let (cx, world) = (stream.cx.clone(), stream.world.clone());
    for _ in 0..stream.random.below(10) + 1 {
        if stream.random.once_in(4) {
            // Gives up its place in the queue, unless it has the mutex by then.
            drop(
                cx.timeout_ns(stream.random.below(30_000), world.mutex.lock())
                    .await,
            );
            continue;
        }
        stream.step("locking");
        let guard = world.mutex.lock().await;
        assert!(
            !world.inside.swap(true, Ordering::Relaxed),
            "two have the mutex"
        );
        let inside = Inside(&world.inside);
        stream.step("inside");
        match stream.random.below(4) {
            0 => cx.sleep_ns(stream.random.below(50_000)).await,
            1 => cx.yield_now().await,
            _ => {}
        }
        drop(inside);
        drop(guard);
    }
}

/// Notes that the mutex is free, also when its holder is dropped in the middle.
struct Inside<'a>(&'a AtomicBool);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Takes back what was added, also when its holder is dropped in the middle.
struct Added<'a>(&'a AtomicU64, u64);

impl<'a> Added<'a> {
    fn to(sum: &'a AtomicU64, amount: u64) -> (Self, u64) {
        let before = sum.fetch_add(amount, Ordering::Relaxed);
        (Self(sum, amount), before)
    }
}

impl Drop for Added<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// Many read or one writes.
pub(super) async fn rw_lock(stream: &mut Stream) {
    let (cx, world) = (stream.cx.clone(), stream.world.clone());
    for _ in 0..stream.random.below(10) + 1 {
        let hold_ns = stream.random.below(20_000);
        match stream.random.below(5) {
            0 => drop(cx.timeout_ns(hold_ns, world.rw_lock.write()).await),
            1 => {
                stream.step("writing");
                let guard = world.rw_lock.write().await;
                let (added, before) = Added::to(&world.readers, 1000);
                assert_eq!(before, 0, "a writer is not alone");
                cx.sleep_ns(hold_ns).await;
                drop(added);
                drop(guard);
            }
            _ => {
                stream.step("reading");
                let guard = world.rw_lock.read().await;
                let (added, before) = Added::to(&world.readers, 1);
                assert!(before < 1000, "a reader beside a writer");
                cx.sleep_ns(hold_ns).await;
                drop(added);
                drop(guard);
            }
        }
    }
}

/// No more is out than there is.
pub(super) async fn budget(stream: &mut Stream) {
    let (cx, world) = (stream.cx.clone(), stream.world.clone());
    for _ in 0..stream.random.below(10) + 1 {
        let bytes = stream.random.below(BUDGET_BYTES) + 1;
        let hold_ns = stream.random.below(20_000);
        if stream.random.once_in(4) {
            drop(cx.timeout_ns(hold_ns, world.budget.acquire(bytes)).await);
            continue;
        }
        stream.step("acquiring");
        let guard = world.budget.acquire(bytes).await.unwrap();
        let (added, before) = Added::to(&world.spent, bytes);
        assert!(before + bytes <= BUDGET_BYTES, "more than there is");
        cx.sleep_ns(hold_ns).await;
        drop(added);
        drop(guard);
    }
}
