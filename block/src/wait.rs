//! Tasks that wait until something holds, on any number of contexts, or for what comes first.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::PoisonError,
    task::{Context, Poll, Waker},
};

use aio::sync::{Mutex, MutexGuard};

/// Wakers of tasks that wait for one thing.
///
/// Whoever makes a condition true changes the state first and calls [`WaitList::wake_all`] second;
/// a waiter looks at the state under the list's lock. So either the waiter sees the change, or it is
/// in the list before the waker looks.
#[derive(Debug, Default)]
pub(crate) struct WaitList {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next_key: u64,
    wakers: Vec<(u64, Waker)>,
}

impl WaitList {
    /// Waits until `holds` says so; it is asked under the list's lock and must not take another.
    ///
    /// Dropping the future leaves nothing behind.
    pub(crate) fn until<F: FnMut() -> bool + Unpin>(&self, holds: F) -> Until<'_, F> {
        Until {
            list: self,
            key: None,
            holds,
        }
    }

    /// Makes every waiter look again.
    pub(crate) fn wake_all(&self) {
        let woken = std::mem::take(&mut self.lock().wakers);
        for (_, waker) in woken {
            waker.wake();
        }
    }

    /// Makes the first waiter look again: what the models try as a mutant.
    #[cfg(all(test, loom))]
    pub(crate) fn wake_one(&self) {
        let mut waiting = self.lock();
        if !waiting.wakers.is_empty() {
            waiting.wakers.remove(0).1.wake();
        }
    }

    /// How many tasks wait.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.lock().wakers.len()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn take(&mut self, key: u64) -> Option<Waker> {
        let index = self.wakers.iter().position(|(other, _)| *other == key)?;
        Some(self.wakers.remove(index).1)
    }
}

/// See [`WaitList::until`].
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub(crate) struct Until<'a, F> {
    list: &'a WaitList,
    key: Option<u64>,
    holds: F,
}

impl<F: FnMut() -> bool + Unpin> Future for Until<'_, F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        // Wakers are dropped unlocked, since the last one of a task drops what the task holds.
        let _old = this.key.take().and_then(|key| this.list.lock().take(key));
        let mut waiting = this.list.lock();
        if (this.holds)() {
            return Poll::Ready(());
        }
        let key = waiting.next_key;
        waiting.next_key += 1;
        waiting.wakers.push((key, cx.waker().clone()));
        this.key = Some(key);
        Poll::Pending
    }
}

impl<F> Drop for Until<'_, F> {
    fn drop(&mut self) {
        let _old = self.key.and_then(|key| self.list.lock().take(key));
    }
}

/// What came first.
pub(crate) enum First<L, R> {
    Left(L),
    Right(R),
}

/// Awaits two futures until one of them is ready, and drops both.
pub(crate) async fn first_of<L, R>(
    left: impl Future<Output = L>,
    right: impl Future<Output = R>,
) -> First<L, R> {
    let (mut left, mut right) = (pin!(left), pin!(right));
    poll_fn(|cx| {
        if let Poll::Ready(left) = left.as_mut().poll(cx) {
            return Poll::Ready(First::Left(left));
        }
        right.as_mut().poll(cx).map(First::Right)
    })
    .await
}
