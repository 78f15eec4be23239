//! Synchronous waiting for what other threads do, with the loop turning meanwhile.

use std::fmt;

use crate::{
    context::{AioContext, Blocking},
    handle::Handle,
    sync::atomic::{AtomicUsize, Ordering, fence},
};

/// Where one context's thread waits for conditions that other threads change.
///
/// The waiter turns its loop ([`AioContext::wait_while`]); whoever may have changed a condition
/// calls [`kick`](Self::kick), which costs next to nothing while nobody waits:
///
/// ```text
///   waiter                          kicker
///   ------                          ------
///   waiters += 1                    change the condition
///   fence(SeqCst)                   fence(SeqCst)
///   condition? -> turn the loop     waiters? -> notify the loop
/// ```
///
/// At least one side sees the other, so no change between the look and the sleep is missed. To
/// wait on one thread of contexts for another is not what this is for: two that wait for each other
/// never end. The main thread may wait for any.
///
/// ```
/// use std::sync::{Arc, atomic::{AtomicBool, Ordering}};
///
/// # let cx = aio::AioContext::new(aio::Config::default()).unwrap();
/// let point = Arc::new(aio::WaitPoint::new(cx.handle()));
/// let done = Arc::new(AtomicBool::new(false));
/// let (kicker, set) = (point.clone(), done.clone());
/// let other = std::thread::spawn(move || {
///     set.store(true, Ordering::Relaxed);
///     kicker.kick();
/// });
/// cx.wait_while(&point, || !done.load(Ordering::Relaxed));
/// # other.join().unwrap();
/// # cx.close();
/// ```
pub struct WaitPoint {
    context: Handle,
    waiters: Waiters,
}

impl WaitPoint {
    /// A point where `context`'s thread may wait. Any thread.
    #[must_use]
    pub fn new(context: &Handle) -> Self {
        Self {
            context: context.clone(),
            waiters: Waiters::new(),
        }
    }

    /// Has a waiter look at its condition again, if there is one. Any thread; call it after the change.
    pub fn kick(&self) {
        if self.waiters.must_notify() {
            self.context.notify();
        }
    }
}

impl fmt::Debug for WaitPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitPoint")
            .field("context", &self.context.name())
            .finish_non_exhaustive()
    }
}

impl AioContext {
    /// Turns the loop until `condition` no longer holds. Home thread only, and not from within a task.
    ///
    /// The condition is looked at after each turn; whatever changes it without making this loop turn
    /// must [`kick`](WaitPoint::kick) `point`, which is one of this context. Calls may nest.
    ///
    /// # Panics
    ///
    /// When `point` is another context's, and as [`poll`](Self::poll).
    pub fn wait_while(&self, point: &WaitPoint, mut condition: impl FnMut() -> bool) {
        assert!(
            self.handle().is_same(&point.context),
            "a thread waits at a point of its own context"
        );
        let waiting = point.waiters.enter();
        while condition() {
            self.poll(Blocking::Yes);
        }
        drop(waiting);
    }
}

/// How many wait.
struct Waiters {
    count: AtomicUsize,
}

/// One that waits, until it is dropped.
struct Waiting<'a>(&'a Waiters);

impl Waiters {
    fn new() -> Self {
        Self {
            count: AtomicUsize::new(0),
        }
    }

    fn enter(&self) -> Waiting<'_> {
        self.count.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        Waiting(self)
    }

    /// Whether somebody may have looked before the caller's change.
    fn must_notify(&self) -> bool {
        fence(Ordering::SeqCst);
        self.count.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[cfg(loom)]
mod loom_tests {
    use loom::{
        sync::{
            Arc, Notify,
            atomic::{AtomicBool, Ordering},
        },
        thread,
    };

    use super::Waiters;

    /// The waiter looks and sleeps; the other thread changes the condition and kicks. A lost kick is
    /// a deadlock, which loom reports.
    fn model<const WITH_FENCE: bool>() {
        crate::explore::explore(3, || {
            let waiters = Arc::new(Waiters::new());
            let done = Arc::new(AtomicBool::new(false));
            let kick = Arc::new(Notify::new());
            let other = {
                let (waiters, done, kick) = (waiters.clone(), done.clone(), kick.clone());
                thread::spawn(move || {
                    done.store(true, Ordering::Relaxed);
                    let must_notify = if WITH_FENCE {
                        waiters.must_notify()
                    } else {
                        waiters.count.load(Ordering::Relaxed) > 0
                    };
                    if must_notify {
                        kick.notify();
                    }
                })
            };
            let waiting = waiters.enter();
            while !done.load(Ordering::Relaxed) {
                kick.wait();
            }
            drop(waiting);
            other.join().unwrap();
        });
    }

    #[test]
    fn loom_a_change_between_look_and_sleep_is_noticed() {
        model::<true>();
    }

    #[test]
    #[should_panic]
    fn loom_mutant_kick_without_fence_is_found() {
        model::<false>();
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        thread,
    };

    use super::WaitPoint;
    use crate::{AioContext, Config, IoThread};

    #[test]
    fn a_thread_waits_for_others_while_its_loop_turns() {
        let context = AioContext::new(Config::default()).unwrap();
        let point = Arc::new(WaitPoint::new(context.handle()));
        let left = Arc::new(AtomicUsize::new(1000));
        let turned = Arc::new(AtomicUsize::new(0));
        let other = {
            let (point, left, turned) = (point.clone(), left.clone(), turned.clone());
            let handle = context.handle().clone();
            let add = |turned: &AtomicUsize| {
                turned.fetch_add(1, Ordering::Relaxed);
            };
            let change = move |_| {
                let turned = turned.clone();
                handle.schedule(move |_| add(&turned));
                left.fetch_sub(1, Ordering::Relaxed);
                point.kick();
            };
            thread::spawn(move || (0..1000).for_each(change))
        };
        context.wait_while(&point, || left.load(Ordering::Relaxed) > 0);
        context.wait_while(&point, || turned.load(Ordering::Relaxed) < 1000);
        other.join().unwrap();
        context.close();
    }

    #[test]
    fn work_on_another_thread_is_awaited_while_this_loop_turns() {
        let context = AioContext::new(Config::default()).unwrap();
        let thread = IoThread::start(Config::default()).unwrap();
        let back = context.handle().clone();
        // The other thread asks this one for something in the midst of it.
        let sum = context.block_on(
            thread
                .handle()
                .spawn(move |_| async move { back.call(|_| 40).await + 2 }),
        );

        assert_eq!(sum, 42);
        context.close();
    }

    #[test]
    #[should_panic(expected = "a thread waits at a point of its own context")]
    fn another_contexts_point_is_refused() {
        let (one, other) = (
            AioContext::new(Config::default()).unwrap(),
            AioContext::new(Config::default()).unwrap(),
        );
        one.wait_while(&WaitPoint::new(other.handle()), || false);
    }
}
