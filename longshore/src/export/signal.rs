//! Tasks that wait until something holds: [`Signal`], [`until`] and [`race`].

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{Mutex, PoisonError},
    task::{Poll, Waker},
};

/// Wakers of tasks that wait for a change, on any thread.
///
/// Whoever makes a change does so first and raises the signal second, so that a waiter either sees
/// the change or is woken.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    waiting: Mutex<Vec<Waker>>,
}

impl Signal {
    /// Makes every waiter look again.
    pub(crate) fn raise(&self) {
        let woken = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *waiting)
        };
        for waker in woken {
            waker.wake();
        }
    }

    fn register(&self, waker: &Waker) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if !waiting.iter().any(|known| known.will_wake(waker)) {
            waiting.push(waker.clone());
        }
    }
}

/// Waits until `ready` has an answer; it is asked again whenever one of `signals` is raised.
///
/// Dropping the future leaves at most one useless wake-up behind.
pub(crate) async fn until<T, const N: usize>(
    signals: [&Signal; N],
    mut ready: impl FnMut() -> Option<T>,
) -> T {
    poll_fn(|cx| {
        if let Some(answer) = ready() {
            return Poll::Ready(answer);
        }
        for signal in signals {
            signal.register(cx.waker());
        }
        // What changed before the registration woke nobody.
        ready().map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

/// The result of `work`, or `None` if `end` is there first; the other one is dropped.
pub(crate) async fn race<T>(
    work: impl Future<Output = T>,
    end: impl Future<Output = ()>,
) -> Option<T> {
    let (mut work, mut end) = (pin!(work), pin!(end));
    poll_fn(|cx| {
        if let Poll::Ready(value) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(value));
        }
        end.as_mut().poll(cx).map(|()| None)
    })
    .await
}
