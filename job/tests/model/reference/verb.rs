//! What the verbs do, and what they say.

use job::JobStatus;

use super::{Body, CANCELLED, Model, Phase, Reply, body::Next, letters};
use crate::{
    act::{Finish, GROUPS, IDS, Naming, Verb, Veto},
    log::Told,
};

impl Model {
    pub(super) fn apply(&mut self, place: usize, verb: Verb) -> Reply {
        let job = self.job_mut(place);
        match verb {
            Verb::Start => self.start(place)?,
            Verb::Discard => self.discard(place),
            Verb::Pause => {
                self.accept(place, verb)?;
                if self.job(place).is_user_paused {
                    return Err("Job is already paused".to_owned());
                }
                self.pause(place);
            }
            Verb::Resume => {
                if !job.is_user_paused {
                    return Err("Can't resume a job that was not paused".to_owned());
                }
                self.accept(place, verb)?;
                self.undo_user_pause(place);
            }
            Verb::SoftCancel if job.is_user_paused => {
                let id = self.name(place);
                let text = format!("The block job for device '{id}' is currently paused");
                return Err(text);
            }
            Verb::SoftCancel | Verb::Cancel => {
                self.accept(place, verb)?;
                self.cancel(place, verb);
            }
            Verb::Complete => self.complete(place)?,
            Verb::Finalize => {
                self.accept(place, verb)?;
                let group = self.group_of(place);
                if group.phase == Phase::Decided {
                    group.phase = Phase::Preparing;
                }
            }
            Verb::Dismiss => {
                self.accept(place, verb)?;
                self.forget(place);
            }
            Verb::CancelSync if job.status == JobStatus::Concluded => self.forget(place),
            Verb::CancelSync => {
                // What ends already is only waited for.
                if self.accept(place, Verb::Cancel).is_ok() {
                    self.cancel(place, Verb::Cancel);
                }
            }
            Verb::CompleteSync => self.complete(place)?,
            Verb::CheckSetSpeed | Verb::CheckChange => self.accept(place, verb)?,
            Verb::Hold => job.holds += 1,
            Verb::Release => job.holds -= 1,
            Verb::Move(context) => job.moves.push(context),
            Verb::StopOnError => self.pause(place),
            Verb::ReportError => self.tell(place, Told::Error("write", "report")),
            Verb::Wake => {}
            Verb::Tell => job.is_told = true,
            Verb::LetGo => job.is_let_go = true,
        }
        Ok(())
    }

    fn start(&mut self, place: usize) -> Reply {
        let job = self.job_mut(place);
        if job.status != JobStatus::Created || job.is_forced {
            return Err(CANCELLED.to_owned());
        }
        job.body = Body::AtPoint(Next::Begin);
        self.become_(place, JobStatus::Running);
        Ok(())
    }

    /// Shows at once if a hold has it stand there already.
    fn pause(&mut self, place: usize) {
        let job = self.job_mut(place);
        job.is_user_paused = true;
        if matches!(job.body, Body::Standing(_)) {
            self.show_pause(place);
        }
    }

    fn discard(&mut self, place: usize) {
        let job = self.job_mut(place);
        if job.status == JobStatus::Created {
            job.was_discarded = true;
            job.outcome = Some(format!("cancelled: {CANCELLED}"));
            self.leave(place);
            self.forget(place);
        }
    }

    fn complete(&mut self, place: usize) -> Reply {
        self.accept(place, Verb::Complete)?;
        let job = self.job(place);
        if job.spec.finish == Finish::Lacks || job.is_cancel_requested {
            let id = self.name(place);
            return Err(format!("The active block job '{id}' cannot be completed"));
        }
        self.hook(place, "complete");
        let job = self.job_mut(place);
        if job.spec.finish == Finish::Refuses {
            return Err("not now".to_owned());
        }
        job.is_told = true;
        Ok(())
    }

    /// A cancel that the verb table has let through.
    pub(super) fn cancel(&mut self, place: usize, verb: Verb) {
        let phase = self.group_of(place).phase;
        if phase == Phase::Committing {
            // Too late.
            return;
        }
        let is_forced = self.tell_cancel(place, verb);
        if matches!(phase, Phase::Preparing | Phase::Aborting) {
            // One looks for cancels at its end; the other has cancelled all, once.
            return;
        }
        let job = self.job_mut(place);
        match job.status {
            // It is completed at once, however soft the cancel was.
            JobStatus::Created => {
                job.is_forced = true;
                self.fold(place);
                self.abort(place);
            }
            // It has not failed: each member turns when it is reached.
            JobStatus::Waiting | JobStatus::Pending if is_forced => self.abort(place),
            _ => {}
        }
    }

    /// Tells the driver and the flags; whether the cancel is a forced one.
    pub(super) fn tell_cancel(&mut self, place: usize, verb: Verb) -> bool {
        let job = self.job(place);
        let is_forced = match (verb, job.spec.veto) {
            (Verb::SoftCancel, Veto::Always) => false,
            (Verb::SoftCancel, Veto::WhileReady) => !job.is_ready(),
            _ => true,
        };
        let is_soft_verb = verb == Verb::SoftCancel;
        self.hook(
            place,
            if is_soft_verb {
                "cancel soft"
            } else {
                "cancel force"
            },
        );
        if self.job(place).is_user_paused {
            self.undo_user_pause(place);
        }
        let job = self.job_mut(place);
        // A soft one is too late for a body that has returned.
        job.is_cancel_requested |= is_forced || !job.has_ended();
        job.is_forced |= is_forced;
        is_forced
    }

    fn undo_user_pause(&mut self, place: usize) {
        self.hook(place, "user_resume");
        self.job_mut(place).is_user_paused = false;
    }

    /// Whether doing this ends the job, or leaves it to others, with the main loop alone turning.
    pub(super) fn can_wait_for(&self, place: usize, verb: Verb) -> bool {
        let is_elsewhere = |&other: &usize| {
            let job = self.job(other);
            job.context != 0 || !job.moves.is_empty()
        };
        if self.job_in(place).is_none() || self.order.iter().any(is_elsewhere) {
            return false;
        }
        let mut trial = self.clone();
        if trial.apply(place, verb).is_err() {
            return true;
        }
        while let Some(&step) = trial.steps().first() {
            trial.step(step);
        }
        trial.waited(place).is_some()
    }

    /// What a verb says that has waited for the job, unless it still waits.
    pub(crate) fn waited(&self, place: usize) -> Option<Reply> {
        let job = self.job(place);
        let number = job.spec.group.unwrap_or(GROUPS + place);
        let is_left = matches!(
            (job.status, self.groups[number].phase),
            (JobStatus::Waiting, Phase::Open) | (JobStatus::Pending, Phase::Decided)
        );
        match &job.outcome {
            Some(_) => Some(
                job.result
                    .clone()
                    .unwrap_or_else(|| Err(CANCELLED.to_owned())),
            ),
            None => is_left.then_some(Ok(())),
        }
    }

    /// Checks the verb table.
    pub(super) fn accept(&self, place: usize, verb: Verb) -> Reply {
        let status = self.job(place).status;
        let Some((name, accepting)) = letters::of_verb(verb) else {
            return Ok(());
        };
        if status == JobStatus::Null {
            return Err("Job not found".to_owned());
        }
        if accepting.contains(letters::of(status)) {
            return Ok(());
        }
        let id = self.name(place);
        Err(format!(
            "Job '{id}' in state '{status}' cannot accept command verb '{name}'"
        ))
    }

    /// How error texts call it.
    fn name(&self, place: usize) -> &'static str {
        match self.job(place).spec.naming {
            Naming::Internal => "",
            _ => IDS[place],
        }
    }
}
