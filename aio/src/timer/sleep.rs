//! Futures that wait for the loop's clock: sleeps, sleeps that can be cut short, time limits.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use super::{Expiry, Timers, WheelKey};
use crate::{clock::TimerClock, context::AioContext};

impl AioContext {
    /// Ends after `ns` nanoseconds, counted from this call.
    pub fn sleep_ns(&self, ns: u64) -> Sleep {
        self.sleep_until_ns(self.now_ns().saturating_add(ns))
    }

    /// Ends when the loop's clock has reached `deadline_ns`; at once if it has already.
    pub fn sleep_until_ns(&self, deadline_ns: u64) -> Sleep {
        Sleep {
            context: self.clone(),
            deadline_ns,
            timer: None,
        }
    }

    /// Ends after `ns` nanoseconds, counted from this call, or when it is woken by the other value returned.
    pub fn wakeable_sleep_ns(&self, ns: u64) -> (WakeableSleep, SleepWaker) {
        let signal = Arc::new(Signal::default());
        let sleep = WakeableSleep {
            sleep: self.sleep_ns(ns),
            signal: signal.clone(),
        };
        (sleep, SleepWaker(signal))
    }

    /// Waits for `future`, but not longer than `ns` nanoseconds from now.
    ///
    /// What is ready in time wins. When the time is over, `future` is dropped; an operation that must
    /// not be cut short is [spawned](Self::spawn), and its [`Task`](crate::Task) waited for: dropping
    /// that detaches the task, which runs on to its end and frees what it holds.
    ///
    /// # Errors
    ///
    /// [`Elapsed`] when `future` was not ready in time.
    pub fn timeout_ns<F: Future>(
        &self,
        ns: u64,
        future: F,
    ) -> impl Future<Output = Result<F::Output, Elapsed>> + use<F> {
        limited(future, self.sleep_ns(ns))
    }
}

async fn limited<F: Future>(future: F, mut sleep: Sleep) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let either = |cx: &mut Context<'_>| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Ok(value)),
        Poll::Pending => Pin::new(&mut sleep).poll(cx).map(|()| Err(Elapsed)),
    };
    poll_fn(either).await
}

/// Ends at a deadline; made by [`AioContext::sleep_ns`]. Dropping it removes the timer.
#[derive(Debug)]
#[must_use = "a sleep does nothing until it is awaited"]
pub struct Sleep {
    context: AioContext,
    deadline_ns: u64,
    timer: Option<WheelKey>,
}

impl Sleep {
    /// When it ends, in nanoseconds of the loop's clock.
    #[must_use]
    pub fn deadline_ns(&self) -> u64 {
        self.deadline_ns
    }

    fn arm(&mut self, waker: &Waker) {
        let (clock, waker) = (TimerClock::Loop, Expiry::Wake(waker.clone()));
        let insert = |timers: &mut Timers| timers.wheel(clock).insert(self.deadline_ns, waker);
        self.timer = Some(self.context.timers().with(insert));
        let shared = self.context.inner().shared();
        shared.touched_before(clock, self.deadline_ns);
    }

    /// The timer has gone off, which a clock set back since then makes undone.
    fn expired(&mut self, waker: &Waker) {
        self.timer = None;
        if self.context.now_ns() < self.deadline_ns {
            self.arm(waker);
        }
    }

    fn disarm(&mut self) {
        if let Some(timer) = self.timer.take() {
            let remove = |timers: &mut Timers| timers.wheel(TimerClock::Loop).remove(timer);
            let expiry = self.context.timers().with(remove);
            drop(expiry);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if let Some(timer) = this.timer {
            let keep = |timers: &mut Timers| timers.rewake(timer, cx.waker());
            match this.context.timers().with(keep) {
                // Not under the borrow: the last waker of a task may take the task along.
                Some(unused) => drop(unused),
                None => this.expired(cx.waker()),
            }
        } else if !this.context.clocks().has_come_to(this.deadline_ns) {
            this.arm(cx.waker());
        }
        match this.timer {
            Some(_) => Poll::Pending,
            None => Poll::Ready(()),
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.disarm();
    }
}

/// What a [`WakeableSleep`] and its [`SleepWaker`]s share.
#[derive(Debug, Default)]
struct Signal(Mutex<SignalState>);

#[derive(Debug, Default)]
struct SignalState {
    woken: bool,
    sleeper: Option<Waker>,
}

impl Signal {
    fn lock(&self) -> MutexGuard<'_, SignalState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends at a deadline, or earlier; made by [`AioContext::wakeable_sleep_ns`]. Dropping it removes the timer.
#[derive(Debug)]
#[must_use = "a sleep does nothing until it is awaited"]
pub struct WakeableSleep {
    sleep: Sleep,
    signal: Arc<Signal>,
}

impl WakeableSleep {
    /// When it ends at the latest, in nanoseconds of the loop's clock.
    #[must_use]
    pub fn deadline_ns(&self) -> u64 {
        self.sleep.deadline_ns()
    }
}

impl Future for WakeableSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let waker = cx.waker().clone();
        let mut state = self.signal.lock();
        let woken = state.woken;
        let before = state.sleeper.replace(waker);
        drop(state);
        drop(before);
        if woken {
            self.sleep.disarm();
            return Poll::Ready(());
        }
        Pin::new(&mut self.sleep).poll(cx)
    }
}

/// Ends a [`WakeableSleep`] early. Any thread; dropping it leaves the sleep to its deadline.
#[derive(Clone)]
pub struct SleepWaker(Arc<Signal>);

impl SleepWaker {
    /// Ends the sleep. Doing so again, or after its end, is harmless.
    pub fn wake(&self) {
        let mut state = self.0.lock();
        state.woken = true;
        let sleeper = state.sleeper.take();
        drop(state);
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }
}

impl fmt::Debug for SleepWaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SleepWaker").finish_non_exhaustive()
    }
}

/// The time of [`AioContext::timeout_ns`] was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the time allowed for it is over")]
pub struct Elapsed;
