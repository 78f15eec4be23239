//! Completion: jobs that succeed or fail together, a lone job being a transaction of one.
//!
//! ```text
//!            a body fails, or a member is cancelled by force
//!        +-----------------------------------------------------+
//!        |                 prepare fails, or a cancel comes     v
//!  Open -+-> all bodies ended well -> Preparing ------------> Aborting
//!            (and finalize, if asked      |                    abort, clean: each member
//!             for by any member)          v
//!                                     Committing
//!                                      commit, clean: each member
//! ```
//!
//! Everything here but the checks under the lock runs on the main context, so hooks of one
//! transaction never overlap. Members are listed, prepared and ended newest first.
//! A cancel that comes once members are being committed is too late and changes nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
};

use crate::{
    callback::Callback,
    cancel::request_cancel,
    error::JobError,
    event::JobEvent,
    moment::JobMoment,
    outcome::JobOutcome,
    record::{Body, JobCell, Key},
    registry::Trigger,
    runtime::{AioContext, TimerClock},
    state::{Shared, State},
    status::JobStatus,
    verb::{CancelMode, JobVerb},
};

/// Makes the jobs that are created in it succeed or fail together.
///
/// One manual member makes all wait in Pending, and `finalize` on any member finalizes all.
#[derive(Clone, Debug)]
pub struct Transaction {
    key: Key,
    /// Its last member has left it at its end. Written and read under the registry's lock.
    has_ended: Arc<AtomicBool>,
}

impl Transaction {
    pub(crate) fn new(key: Key) -> Self {
        let has_ended = Arc::default();
        Self { key, has_ended }
    }
}

/// How far a transaction is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing is decided.
    #[default]
    Open,
    /// Members are asked one by one whether they can commit.
    Preparing,
    /// The point of no return: members are committed and leave one by one.
    Committing,
    /// Members are aborted and leave one by one.
    Aborting,
}

/// The members of a transaction that have not left it.
#[derive(Debug)]
pub(crate) struct Group {
    transaction: Transaction,
    /// Newest first.
    pub(crate) members: Vec<Key>,
    pub(crate) phase: Phase,
}

impl Group {
    fn new(transaction: &Transaction) -> Self {
        Self {
            transaction: transaction.clone(),
            members: Vec::new(),
            phase: Phase::Open,
        }
    }
}

/// What to do next with a transaction, on the main context.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// Prepare all members, then commit or abort them.
    Finalize(Key),
    /// Cancel all members but the culprit, then abort all.
    Abort { group: Key, culprit: Key },
}

/// Runs `step` as a task on the main context. Any thread.
pub(crate) fn spawn_step(shared: &Arc<Shared>, step: Step) {
    let task_shared = shared.clone();
    drop(shared.main.spawn(move |main| async move {
        run_step(&task_shared, &main, step).await;
    }));
}

/// The body of a job has returned: decides what becomes of its transaction.
pub(crate) async fn complete(shared: &Arc<Shared>, main: &AioContext, key: Key) {
    if let Some(step) = shared.update(|state| state.body_ended(key)) {
        run_step(shared, main, step).await;
    }
}

async fn run_step(shared: &Arc<Shared>, main: &AioContext, step: Step) {
    match step {
        Step::Finalize(group) => finalize(shared, main, group).await,
        Step::Abort { group, culprit } => abort(shared, main, group, culprit).await,
    }
}

async fn finalize(shared: &Arc<Shared>, main: &AioContext, group: Key) {
    for cell in shared.update(|state| state.members(group)) {
        let prepare = cell.call_async(Callback::Prepare, |driver| driver.prepare(main));
        let prepared = prepare.await;
        if let Some(culprit) = shared.update(|state| state.prepared(cell.key, prepared)) {
            return abort(shared, main, group, culprit).await;
        }
    }
    if let Some(culprit) = shared.update(|state| state.start_commit(group)) {
        return abort(shared, main, group, culprit).await;
    }
    while let Some(cell) = shared.update(|state| state.first_member(group)) {
        end_job(shared, main, &cell).await;
    }
}

async fn abort(shared: &Arc<Shared>, main: &AioContext, group: Key, culprit: Key) {
    for cell in shared.update(|state| state.members(group)) {
        if cell.key != culprit {
            request_cancel(shared, &cell, CancelMode::Force);
        }
    }
    while let Some(cell) = next_to_abort(shared, group).await {
        end_job(shared, main, &cell).await;
    }
}

/// The next member of a transaction that aborts, once its body has ended or can no longer start.
async fn next_to_abort(shared: &Arc<Shared>, group: Key) -> Option<Arc<JobCell>> {
    std::future::poll_fn(|cx| {
        shared.update(|state| {
            let Some(cell) = state.first_member(group) else {
                return Poll::Ready(None);
            };
            let record = state.record(cell.key);
            if !matches!(record.body, Body::NotStarted | Body::Ended) {
                record.watch(cx.waker());
                return Poll::Pending;
            }
            // In the same step, since as long as it is in Created others may discard it.
            state.fold_result(cell.key);
            Poll::Ready(Some(cell))
        })
    })
    .await
}

/// Commits or aborts one member, which then leaves the transaction and is concluded.
async fn end_job(shared: &Arc<Shared>, main: &AioContext, cell: &Arc<JobCell>) {
    let is_success = shared.update(|state| {
        state.fold_result(cell.key);
        state.record(cell.key).result.is_ok()
    });
    if is_success {
        let commit = cell.call_async(Callback::Commit, |driver| driver.commit(main));
        commit.await;
    } else {
        let abort = cell.call_async(Callback::Abort, |driver| driver.abort(main));
        abort.await;
    }
    let clean = cell.call_async(Callback::Clean, |driver| driver.clean(main));
    clean.await;

    let ended_unix_ns = main.clock_now_ns(TimerClock::Wall);
    let outcome = shared.update(|state| state.conclude(cell.key, ended_unix_ns));
    // Only now, so that whoever waits has been told all events first.
    cell.ending.set(outcome);
}

impl State {
    /// Adds a job to a transaction; refused once the transaction has begun to end.
    pub(crate) fn join_group(&mut self, to: &Transaction, key: Key) -> Result<Key, JobError> {
        let too_late = || JobError::failed("the transaction has already ended");
        if to.has_ended.load(Ordering::Relaxed) {
            return Err(too_late());
        }
        let group = self.groups.entry(to.key);
        let group = group.or_insert_with(|| Group::new(to));
        // The first member stands for all: they become Pending together.
        let first = group.members.first().and_then(|key| self.jobs.get(key));
        let is_decided = first.is_some_and(|first| first.status == JobStatus::Pending);
        if group.phase != Phase::Open || is_decided {
            return Err(too_late());
        }
        group.members.insert(0, key);
        Ok(to.key)
    }

    /// Takes a job out of its transaction, which ends with its last member.
    pub(crate) fn leave_group(&mut self, key: Key) {
        let transaction = self.record(key).transaction;
        let group = self.group(transaction);
        group.members.retain(|&member| member != key);
        if group.members.is_empty() {
            // Where nothing was decided, and all were discarded, others may still join.
            let has_ended = group.phase != Phase::Open;
            let flag = &group.transaction.has_ended;
            flag.store(has_ended, Ordering::Relaxed);
            self.groups.remove(&transaction);
        }
    }

    /// Forgets a job that was never started: the others may have waited for nobody else.
    pub(crate) fn discard(&mut self, key: Key) -> Option<Step> {
        let transaction = self.record(key).transaction;
        self.leave_group(key);
        self.forget(key);
        let group = self.groups.get(&transaction)?;
        if group.phase != Phase::Open {
            return None;
        }
        self.all_waiting(transaction)
    }

    /// Whether a cancel of this job can still change its end.
    pub(crate) fn can_cancel(&self, key: Key) -> bool {
        let Some(record) = self.jobs.get(&key) else {
            return false;
        };
        let group = self.groups.get(&record.transaction);
        JobVerb::Cancel.is_accepted_in(record.status)
            && group.is_some_and(|group| group.phase != Phase::Committing)
    }

    /// What a finalize that the verb table has accepted leads to.
    pub(crate) fn start_finalize(&mut self, key: Key) -> Option<Step> {
        let transaction = self.record(key).transaction;
        let group = self.group(transaction);
        if group.phase != Phase::Open {
            return None;
        }
        group.phase = Phase::Preparing;
        Some(Step::Finalize(transaction))
    }

    /// What a cancel leads to that found no running body to tell: nothing if there is one.
    pub(crate) fn start_abort(&mut self, key: Key) -> Option<Step> {
        let record = self.jobs.get(&key)?;
        let transaction = record.transaction;
        let can_notice = !matches!(record.body, Body::NotStarted | Body::Ended);
        if can_notice || !record.is_force_cancelled() {
            return None;
        }
        // Concluded jobs have no group, and one that prepares or aborts looks for itself.
        let group = self.groups.get_mut(&transaction)?;
        if group.phase != Phase::Open {
            return None;
        }
        group.phase = Phase::Aborting;
        if !self.record(key).is_started() {
            self.fold_result(key);
        }
        let (group, culprit) = (transaction, key);
        Some(Step::Abort { group, culprit })
    }

    fn body_ended(&mut self, key: Key) -> Option<Step> {
        self.set_body(key, Body::Ended);
        let record = self.record(key);
        let (group, culprit) = (record.transaction, key);
        let is_success = record.result.is_ok() && !record.is_force_cancelled();
        if self.group(group).phase == Phase::Aborting {
            // The aborting task waits for this body and goes on from here.
            return None;
        }
        if !is_success {
            self.fold_result(key);
            self.group(group).phase = Phase::Aborting;
            return Some(Step::Abort { group, culprit });
        }
        self.move_to(key, JobStatus::Waiting);
        self.all_waiting(group)
    }

    /// Moves all members to Pending once each of them waits, and decides whether that is enough.
    fn all_waiting(&mut self, group: Key) -> Option<Step> {
        let members = self.group(group).members.clone();
        if members
            .iter()
            .any(|&member| !self.record(member).status.is_completed())
        {
            return None;
        }
        let mut is_manual = false;
        for member in members {
            self.move_to(member, JobStatus::Pending);
            if self.record(member).cell.finalize == Trigger::Manual {
                is_manual = true;
                self.emit(member, JobEvent::Pending);
                self.note_moment(member, JobMoment::Pending);
            }
        }
        if is_manual {
            return None;
        }
        self.group(group).phase = Phase::Preparing;
        Some(Step::Finalize(group))
    }

    /// Notes what a prepare returned; names the culprit if the transaction must abort.
    fn prepared(&mut self, key: Key, prepared: Result<(), JobError>) -> Option<Key> {
        let record = self.record(key);
        record.result = prepared;
        if record.result.is_ok() {
            return None;
        }
        let group = record.transaction;
        self.fold_result(key);
        self.group(group).phase = Phase::Aborting;
        Some(key)
    }

    /// Passes the point of no return, unless a cancel came first: then names the culprit.
    fn start_commit(&mut self, group: Key) -> Option<Key> {
        let members = self.group(group).members.clone();
        let is_cancelled = |&key: &Key| self.record(key).is_force_cancelled();
        let culprit = members.into_iter().find(is_cancelled);
        self.group(group).phase = match culprit {
            Some(_) => Phase::Aborting,
            None => Phase::Committing,
        };
        culprit
    }

    /// Makes a cancel part of the result, and a bad result visible in the status.
    fn fold_result(&mut self, key: Key) {
        let record = self.record(key);
        if record.is_force_cancelled() && record.result.is_ok() {
            record.result = Err(JobError::cancelled());
        }
        if record.result.is_err() {
            self.move_to(key, JobStatus::Aborting);
        }
    }

    /// Tells the end of a job, after which it is concluded, and forgets it if nobody else will.
    fn conclude(&mut self, key: Key, ended_unix_ns: u64) -> JobOutcome {
        let record = self.record(key);
        record.ended_unix_ns = Some(ended_unix_ns);
        let is_started = record.is_started();
        let is_kept = is_started && record.cell.dismiss == Trigger::Manual;
        let outcome = record.outcome();
        if is_started {
            self.emit_end(key, &outcome);
        }
        self.leave_group(key);
        self.move_to(key, JobStatus::Concluded);
        if !is_kept {
            self.forget(key);
        }
        outcome
    }

    fn emit_end(&mut self, key: Key, outcome: &JobOutcome) {
        let error = outcome.error().cloned();
        match outcome {
            JobOutcome::Cancelled(_) => {
                self.emit(key, JobEvent::Cancelled);
                self.note_moment(key, JobMoment::FinalizeCancelled);
            }
            JobOutcome::Completed | JobOutcome::Failed(_) => {
                self.emit(key, |job| JobEvent::Completed { job, error });
                self.note_moment(key, JobMoment::FinalizeCompleted);
            }
        }
    }

    fn members(&mut self, group: Key) -> Vec<Arc<JobCell>> {
        let members = self.group(group).members.clone();
        let cell = |key| self.record(key).cell.clone();
        members.into_iter().map(cell).collect()
    }

    fn first_member(&mut self, group: Key) -> Option<Arc<JobCell>> {
        let &key = self.groups.get(&group)?.members.first()?;
        Some(self.record(key).cell.clone())
    }

    fn group(&mut self, group: Key) -> &mut Group {
        self.groups
            .get_mut(&group)
            .expect("a transaction lives as long as it has members")
    }
}
