//! Transactions: how jobs end together, a lone one being together with itself.

use job::{JobStatus, Trigger};

use super::{Body, CANCELLED, Model};
use crate::{
    act::{Slow, Verb},
    log::Told,
};

/// How far a transaction is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    Open,
    /// All have ended well and wait for a word.
    Decided,
    Preparing,
    Committing,
    Aborting,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    /// Newest first.
    pub(super) members: Vec<usize>,
    pub(super) phase: Phase,
    /// Those that were asked to prepare.
    asked: Vec<usize>,
    /// Whose hook has not returned.
    waits_for: Option<usize>,
    /// For whose sake the others are to be cancelled.
    culprit: Option<usize>,
}

impl Model {
    /// Whether the main context has something to do for a transaction.
    pub(super) fn group_goes_on(&self, number: usize) -> bool {
        let group = &self.groups[number];
        let Some(&first) = group.members.first() else {
            return false;
        };
        if let Some(place) = group.waits_for {
            let hook = match group.phase {
                Phase::Preparing => Slow::Prepare,
                _ => Slow::End,
            };
            return !self.job(place).is_slow(hook);
        }
        match group.phase {
            Phase::Open => {
                let is_completed = |&place: &usize| self.job(place).is_completed;
                group.members.iter().all(is_completed)
            }
            Phase::Decided => false,
            Phase::Preparing | Phase::Committing => true,
            Phase::Aborting => {
                let is_over = matches!(self.job(first).body, Body::Absent | Body::Returned);
                is_over || group.culprit.is_some()
            }
        }
    }

    /// One step in the end of a transaction.
    pub(super) fn group_goes(&mut self, number: usize) {
        let group = &mut self.groups[number];
        let (first, waited) = (group.members[0], group.waits_for.take());
        match (group.phase, waited) {
            (Phase::Open, _) => self.all_are_done(number),
            (Phase::Preparing, Some(place)) => self.has_prepared(place),
            (Phase::Preparing, None) => self.prepare_next(number),
            (_, Some(place)) => self.has_ended_well_or_not(place),
            (_, None) => match group.culprit.take() {
                Some(culprit) => self.cancel_others(culprit),
                None => self.end(first),
            },
        }
    }

    /// The main context learns that a body has returned.
    pub(super) fn complete_body(&mut self, place: usize) {
        let job = self.job_mut(place);
        job.is_completed = true;
        if job.is_forced || matches!(job.result, Some(Err(_))) {
            self.fold(place);
            self.abort(place);
        } else {
            self.become_(place, JobStatus::Waiting);
        }
    }

    fn all_are_done(&mut self, number: usize) {
        self.groups[number].phase = Phase::Preparing;
        for place in self.groups[number].members.clone() {
            self.become_(place, JobStatus::Pending);
            if self.job(place).is_manual() {
                self.groups[number].phase = Phase::Decided;
                self.tell(place, Told::Pending);
                self.tell(place, Told::Moment("Pending"));
            }
        }
    }

    fn prepare_next(&mut self, number: usize) {
        let group = &mut self.groups[number];
        let is_new = |place: &&usize| !group.asked.contains(place);
        if let Some(&place) = group.members.iter().find(is_new) {
            group.asked.push(place);
            group.waits_for = Some(place);
            return self.hook(place, "prepare");
        }
        group.phase = Phase::Committing;
        let members = group.members.clone();
        let is_forced = |&place: &usize| self.job(place).is_forced;
        if let Some(culprit) = members.into_iter().find(is_forced) {
            self.abort(culprit);
        }
    }

    fn has_prepared(&mut self, place: usize) {
        if self.job(place).spec.fails_late {
            self.job_mut(place).result = Some(Err("late".to_owned()));
            self.fold(place);
            self.abort(place);
        }
    }

    /// The transaction of the culprit ends badly.
    pub(super) fn abort(&mut self, culprit: usize) {
        let group = self.group_of(culprit);
        group.phase = Phase::Aborting;
        group.culprit = Some(culprit);
    }

    fn cancel_others(&mut self, culprit: usize) {
        for member in self.group_of(culprit).members.clone() {
            if member != culprit {
                self.tell_cancel(member, Verb::Cancel);
            }
        }
    }

    /// Makes a cancel part of the result, and a bad result visible.
    pub(super) fn fold(&mut self, place: usize) {
        let job = self.job_mut(place);
        if job.is_forced && !matches!(job.result, Some(Err(_))) {
            job.result = Some(Err(CANCELLED.to_owned()));
        }
        let is_bad = matches!(job.result, Some(Err(_)));
        if is_bad && job.status != JobStatus::Aborting {
            self.become_(place, JobStatus::Aborting);
        }
    }

    /// The end of one member begins, good or bad.
    fn end(&mut self, place: usize) {
        self.fold(place);
        let is_well = matches!(self.job(place).result, Some(Ok(())));
        self.hook(place, if is_well { "commit" } else { "abort" });
        self.group_of(place).waits_for = Some(place);
    }

    /// The rest of it.
    fn has_ended_well_or_not(&mut self, place: usize) {
        self.hook(place, "clean");
        let job = self.job(place);
        let (was_started, is_forced) = (job.body != Body::Absent, job.is_forced);
        let error = job.result.clone().expect("it has one by now").err();
        let is_kept = was_started && job.spec.dismiss == Trigger::Manual;
        let outcome = match &error {
            None => "completed".to_owned(),
            Some(text) if is_forced => format!("cancelled: {text}"),
            Some(text) => format!("failed: {text}"),
        };
        self.job_mut(place).outcome = Some(outcome);
        if was_started && is_forced {
            self.tell(place, Told::Cancelled);
            self.tell(place, Told::Moment("FinalizeCancelled"));
        } else if was_started {
            self.tell(place, Told::Completed(error));
            self.tell(place, Told::Moment("FinalizeCompleted"));
        }
        self.leave(place);
        self.become_(place, JobStatus::Concluded);
        if !is_kept {
            self.forget(place);
        }
    }

    pub(super) fn leave(&mut self, place: usize) {
        let members = &mut self.group_of(place).members;
        members.retain(|&member| member != place);
    }
}
