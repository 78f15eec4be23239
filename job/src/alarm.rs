//! [`Alarm`]: what ends the sleep of a body, by the clock of the context that it is on.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::{
    job::Job,
    runtime::{AioContext, Timer, TimerClock},
};

/// Wakes the body at a deadline. A body that has set one does not move before its sleep is over.
#[derive(Debug)]
pub(crate) struct Alarm {
    has_rung: Arc<AtomicBool>,
    /// Disarms the alarm when dropped.
    _timer: Timer,
}

impl Alarm {
    pub(crate) fn set(job: &Job, context: &AioContext, deadline_ns: u64) -> Self {
        let has_rung = Arc::<AtomicBool>::default();
        let (rings, shared, key) = (has_rung.clone(), job.shared.clone(), job.cell.key);
        let timer = context.timer("the sleep of a job", TimerClock::Loop, move |_| {
            // Before the body is woken, so that it sees why.
            rings.store(true, Ordering::Release);
            shared.update(|state| state.wake_body(key));
        });
        timer.arm_at_ns(deadline_ns);
        Self {
            has_rung,
            _timer: timer,
        }
    }

    pub(crate) fn has_rung(&self) -> bool {
        self.has_rung.load(Ordering::Acquire)
    }
}
