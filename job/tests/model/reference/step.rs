//! What happens by itself.

use job::JobStatus;

use super::{GROUPS, Model, Phase, Verb};

/// One thing that can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The body of the job in a place goes on to its next wait.
    Body(usize),
    /// The main context learns that the body has returned.
    Complete(usize),
    /// A job that stands still goes to another context.
    Move(usize),
    /// A transaction goes on to its end.
    Group(usize),
    /// The next job is cancelled of those that all are to be.
    CancelAll,
}

impl Model {
    /// Everything that can happen next; at rest there is nothing.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (place, job) in self.jobs.iter().enumerate() {
            let Some(job) = job else { continue };
            if self.body_goes_on(place) {
                steps.push(Step::Body(place));
            }
            if self.may_complete(place) {
                steps.push(Step::Complete(place));
            }
            if !job.moves.is_empty() && job.is_quiescent() {
                steps.push(Step::Move(place));
            }
        }
        for number in 0..self.groups.len() {
            if self.group_goes_on(number) {
                steps.push(Step::Group(number));
            }
        }
        let is_over = |&place: &usize| self.job(place).outcome.is_some();
        let waits_for = self.cancels_all.as_ref();
        if waits_for.is_some_and(|places| places.first().is_none_or(is_over)) {
            steps.push(Step::CancelAll);
        }
        steps
    }

    fn may_complete(&self, place: usize) -> bool {
        let job = self.job(place);
        let is_news = matches!(job.status, JobStatus::Running | JobStatus::Ready);
        let number = job.spec.group.unwrap_or(GROUPS + place);
        // One that aborts waits for the body itself.
        job.has_ended() && is_news && self.groups[number].phase != Phase::Aborting
    }

    /// Makes one of [`Self::steps`].
    pub(crate) fn step(&mut self, step: Step) {
        match step {
            Step::Body(place) => self.body_goes(place),
            Step::Complete(place) => self.complete_body(place),
            Step::Move(place) => {
                let job = self.job_mut(place);
                job.context = job.moves.remove(0);
                job.has_moved = true;
            }
            Step::Group(number) => self.group_goes(number),
            Step::CancelAll => self.cancel_next(),
        }
    }

    /// Cancels all that there are, newest first; then forgets them one by one as they end.
    fn cancel_next(&mut self) {
        let waits_for = self.cancels_all.take().unwrap_or_default();
        if let Some((&first, rest)) = waits_for.split_first() {
            self.cancels_all = Some(rest.to_vec());
            if self.job(first).status == JobStatus::Concluded {
                self.forget(first);
            }
        } else if !self.order.is_empty() {
            self.cancels_all = Some(self.order.clone());
            let mut places = self.order.clone();
            places.retain(|&place| self.accept(place, Verb::Cancel).is_ok());
            for place in places {
                self.cancel(place, Verb::Cancel);
            }
        }
    }
}
