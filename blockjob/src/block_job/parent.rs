//! What the graph asks of a block job: to be quiet while a node of its is drained, and to move along with them.

use std::{future::ready, task::Context};

use aio::Handle;
use block::{BlockError, ContextChange, ErrorKind, Parent};
use job::Job;

use super::{Binding, Shared};
use crate::block_job_driver::Activity;

impl Shared {
    /// Keeps the job paused as long as a node of ours is drained.
    pub(super) fn hold(&self, job: &Job) {
        let hold = job.hold_paused();
        let mut state = self.lock();
        // The section may have ended since, or another one may have seen to it.
        let superfluous = match state.drains > 0 && state.hold.is_none() {
            true => state.hold.replace(hold),
            false => Some(hold),
        };
        drop(state);
        drop(superfluous);
    }

    /// Whether the job stands still; if not, drained sections are told when it may have come to.
    fn is_still(&self, job: &Job) -> bool {
        let waker = self.waker.to_waker();
        let mut context = Context::from_waker(&waker);
        job.poll_quiesced(&mut context).is_ready()
    }
}

impl Parent for Shared {
    fn name(&self) -> String {
        format!("block job '{}'", self.id)
    }

    fn drained_begin(&self) {
        self.lock().drains += 1;
        if let Some(job) = self.job() {
            self.hold(&job);
        }
        if let Some(binding) = self.binding() {
            binding.call("drain", |driver| driver.drain());
        }
    }

    fn drained_poll(&self) -> bool {
        let Some(job) = self.job() else {
            return false;
        };
        let is_still = self.is_still(&job);
        if is_still && job.status().is_completed() {
            return false;
        }
        let ask = |binding: Binding| binding.call("drained_poll", |driver| driver.drained_poll());
        match self.binding().and_then(ask).flatten() {
            Some(activity) => activity == Activity::Busy,
            None => !is_still,
        }
    }

    fn drained_end(&self) {
        let hold = {
            let mut state = self.lock();
            state.drains -= 1;
            match state.drains {
                0 => state.hold.take(),
                _ => None,
            }
        };
        drop(hold);
    }

    fn check_context_change(&self, _to: &Handle) -> Result<(), BlockError> {
        match self.job() {
            Some(_) => Ok(()),
            None => {
                let what = format!("{} begins or ends, and does not move", self.name());
                Err(BlockError::new(ErrorKind::Busy, what))
            }
        }
    }

    fn prepare_context_change<'a>(&'a self, to: &'a Handle) -> block::BoxFuture<'a, ContextChange> {
        Box::pin(async move {
            let alive = self.binding().and_then(|binding| binding.alive());
            let Some((job, driver)) = alive else {
                // It has let go since it was asked.
                return ContextChange::new(ready(()));
            };
            let hold = job.hold_paused();
            job.quiesced().await;
            let to = to.clone();
            ContextChange::new(async move {
                job.call_named("detach_context", || driver.detach_context());
                // A context that is closed meanwhile fails the job, which tells.
                let _ = job.set_context(&to).await;
                job.call_named("attached_context", || driver.attached_context(&to));
                drop(hold);
            })
        })
    }
}
