//! Models of how jobs end: cancel, finalize, dismiss, waits for the outcome, events.

use std::sync::{Arc, Mutex};

use shuttle::{future::block_on, thread};

use super::{
    explore,
    stage::{Flag, Part, Played, Stage, UnlessPanicking},
};
use crate::{
    CancelMode, Job, JobConfig, JobErrorKind, JobEvent, JobMoment, JobOutcome, JobRegistry,
    JobStatus, Subscription, Trigger, runtime::Handle,
};

/// Waits until all bodies have ended and somebody is to finalize.
fn until_pending(played: &Played) {
    while !matches!(
        played.job.status(),
        JobStatus::Pending | JobStatus::Aborting | JobStatus::Concluded | JobStatus::Null
    ) {
        thread::yield_now();
    }
}

fn all_or_none(pair: &[Played; 2]) -> bool {
    let outcomes = pair.each_ref().map(Played::outcome);
    let completed = outcomes.map(|outcome| matches!(outcome, JobOutcome::Completed));
    assert_eq!(completed[0], completed[1], "all commit or none");
    completed[0]
}

/// A transaction is committed or aborted as a whole, whoever of the two comes first.
pub(super) fn a_finalize_meets_a_cancel(cancelled: usize, cancel: fn(&Job)) {
    explore(move || {
        let stage = Stage::new();
        let pair = stage.start_pair(Part::Steps(0));
        until_pending(&pair[0]);
        let [one, other] = [1 - cancelled, cancelled].map(|index| pair[index].clone());
        let users = [
            thread::spawn(move || drop(one.job.finalize())),
            thread::spawn(move || cancel(&other.job)),
        ];
        for user in users {
            user.join().expect("it has ended");
        }
        all_or_none(&pair);
        stage.finish();
    });
}

#[test]
fn shuttle_a_finalize_meets_a_cancel_of_the_member_that_ends_last() {
    a_finalize_meets_a_cancel(0, |job| drop(job.cancel(CancelMode::Force)));
}

#[test]
fn shuttle_a_finalize_meets_a_cancel_of_the_member_that_ends_first() {
    a_finalize_meets_a_cancel(1, |job| drop(job.cancel(CancelMode::Force)));
}

/// The same for a cancel that may come before all bodies have ended.
#[test]
fn shuttle_a_cancel_meets_the_end_of_the_bodies() {
    explore(|| {
        let stage = Stage::new();
        let transaction = stage.registry.transaction();
        let pair = ["a", "b"].map(|id| {
            let transaction = transaction.clone();
            stage.create(id, Part::Steps(1), |config| {
                config.transaction = Some(transaction);
            })
        });
        for played in &pair {
            played.job.start().expect("nobody has cancelled it");
        }
        let refused = pair[0].job.cancel(CancelMode::Force).err();
        if let Some(error) = refused {
            let expected = [JobErrorKind::InvalidVerb, JobErrorKind::NotFound];
            assert!(expected.contains(&error.kind()), "{error}");
        }
        all_or_none(&pair);
        stage.finish();
    });
}

#[test]
fn shuttle_two_cancels_abort_once() {
    explore(|| {
        let stage = Stage::new();
        let pair = stage.start_pair(Part::Park);
        let users = pair
            .clone()
            .map(|played| thread::spawn(move || drop(played.job.cancel(CancelMode::Force))));
        for user in users {
            user.join().expect("it has ended");
        }
        assert!(!all_or_none(&pair));
        stage.finish();
    });
}

pub(super) fn two_finalizes_prepare_once(finalize: fn(&Job) -> bool) {
    explore(move || {
        let stage = Stage::new();
        let pair = stage.start_pair(Part::Steps(0));
        until_pending(&pair[0]);
        let users = pair
            .clone()
            .map(|played| thread::spawn(move || finalize(&played.job)));
        let accepted = users.map(|user| user.join().expect("it has ended"));
        assert!(accepted[0] || accepted[1]);
        assert!(all_or_none(&pair));
        for played in &pair {
            assert_eq!(played.actor.hooks().prepares, 1);
        }
        stage.finish();
    });
}

#[test]
fn shuttle_two_finalizes_prepare_once() {
    two_finalizes_prepare_once(|job| job.finalize().is_ok());
}

/// A job is dismissed once; who looks at it meanwhile sees it concluded or gone.
pub(super) fn a_dismiss_meets_queries(dismiss: fn(&Job) -> bool) {
    explore(move || {
        let stage = Stage::new();
        let played = stage.create("a", Part::Steps(0), |config| {
            config.dismiss = Trigger::Manual;
        });
        played.job.start().expect("nobody has cancelled it");
        assert!(matches!(played.outcome(), JobOutcome::Completed));
        let users = [(); 2].map(|()| {
            let played = played.clone();
            thread::spawn(move || dismiss(&played.job))
        });
        for _ in 0..2 {
            let info = played.job.info();
            assert!(matches!(
                info.status,
                JobStatus::Concluded | JobStatus::Null
            ));
            assert!(info.error.is_none());
            assert!(matches!(played.outcome(), JobOutcome::Completed));
            match stage.registry.find("a") {
                Ok(found) => assert_eq!(found.id(), Some("a")),
                Err(error) => assert_eq!(error.kind(), JobErrorKind::NotFound),
            }
            assert!(stage.registry.query().len() <= 1);
        }
        let dismissed = users.map(|user| user.join().expect("it has ended"));
        assert_ne!(dismissed[0], dismissed[1], "one of them dismisses it");
        assert_eq!(stage.registry.history().len(), 1);
        stage.finish();
    });
}

#[test]
fn shuttle_a_dismiss_meets_queries() {
    a_dismiss_meets_queries(|job| job.dismiss().is_ok());
}

/// Whoever waits for a job learns its outcome, after all of its events but perhaps the last.
pub(super) fn waits_meet_the_conclusion(wait: fn(&Job) -> JobOutcome) {
    explore(move || {
        let stage = Stage::new();
        let played = stage.start("a", Part::Steps(0));
        let blocked = played.clone();
        let blocked = thread::spawn(move || blocked.job.wait_blocking());
        let awaited = played.clone();
        let events = stage.events.clone();
        let awaited = thread::spawn(move || {
            let outcome = wait(&awaited.job);
            let events = events.lock().expect("nothing panics");
            let is_end = |event: &JobEvent| matches!(event, JobEvent::Completed { .. });
            assert!(events.iter().any(is_end), "{events:?}");
            outcome
        });
        for waiter in [blocked, awaited] {
            let outcome = waiter.join().expect("it has ended");
            assert!(matches!(outcome, JobOutcome::Completed));
        }
        stage.finish();
    });
}

#[test]
fn shuttle_waits_meet_the_conclusion() {
    waits_meet_the_conclusion(|job| block_on(job.wait()));
}

/// Events of changes on two threads are heard once each, in the order of the changes.
pub(super) fn events_of_two_threads_keep_their_order(make: fn(&Handle) -> JobRegistry) {
    explore(move || {
        let stage = Arc::new(Stage::with_registry(make));
        let creators = ["a", "b"].map(|id| {
            let stage = stage.clone();
            thread::spawn(move || {
                let played = stage.create(id, Part::Park, |_| ());
                played.job.discard();
            })
        });
        for creator in creators {
            creator.join().expect("it has ended");
        }
        let stage = Arc::into_inner(stage).expect("nobody else has it");
        // The order of the changes is that of the keys, for creations.
        let events = stage.events.clone();
        let jobs = stage.played().into_iter().map(|played| played.job);
        let order: Vec<_> = jobs.filter_map(|job| job.cell.id.clone()).collect();
        stage.finish();
        let events = events.lock().expect("nothing panics");
        let created: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                JobEvent::StatusChange {
                    job,
                    status: JobStatus::Created,
                } => Some(job.id.clone()),
                _ => None,
            })
            .collect();
        assert_eq!(created, order);
        assert_eq!(events.len(), 4, "{events:?}");
    });
}

#[test]
fn shuttle_events_of_two_threads_keep_their_order() {
    events_of_two_threads_keep_their_order(|main| JobRegistry::new(main.clone()));
}

/// Jobs whose context is closed fail, and nobody waits for ever.
#[test]
fn shuttle_closing_the_context_of_a_job_ends_it() {
    explore(|| {
        let mut stage = Stage::new();
        let played = stage.start("a", Part::Park);
        let other = played.clone();
        let drainer = thread::spawn(move || {
            let _hold = other.job.hold_paused();
            block_on(other.job.quiesced());
        });
        stage.close_side();
        drainer.join().expect("it has ended");
        assert!(matches!(played.outcome(), JobOutcome::Failed(_)));
        stage.finish();
    });
}

/// Verbs on jobs whose main context is closed return, and what is left of them can be dropped.
#[test]
fn shuttle_closing_the_main_context_blocks_nobody() {
    explore(|| {
        let mut stage = Stage::new();
        let played = stage.start("a", Part::Steps(1));
        let other = played.clone();
        let user = thread::spawn(move || {
            let _ = other.job.pause();
            let _ = other.job.resume();
            let _ = other.job.cancel(CancelMode::Force);
        });
        stage.close_main();
        user.join().expect("it has ended");
        let _ = played.job.info();
    });
}

/// On the way to the exit all jobs are cancelled, also while one ends by itself.
#[test]
fn shuttle_cancelling_all_meets_ends() {
    explore(|| {
        let stage = Stage::new();
        let played = [Part::Steps(1), Part::Park]
            .into_iter()
            .zip(["a", "b"])
            .map(|(part, id)| stage.create(id, part, |config| config.dismiss = Trigger::Manual));
        for played in played {
            played.job.start().expect("nobody has cancelled it");
        }
        block_on(stage.registry.cancel_all());
        assert!(stage.registry.list().is_empty());
        assert_eq!(stage.registry.history().len(), 2);
        stage.finish();
    });
}

/// Moments of a job are told once each, on the main context, after the event of the same.
#[test]
fn shuttle_moments_meet_their_end() {
    explore(|| {
        let stage = Stage::new();
        let played = stage.create("a", Part::Steps(1), |_| ());
        let told = Arc::<Mutex<Vec<usize>>>::default();
        let (notes, events) = (told.clone(), stage.events.clone());
        let is_end = |event: &JobEvent| matches!(event, JobEvent::Completed { .. });
        let guard = played
            .job
            .notify_on(JobMoment::FinalizeCompleted, move |_| {
                let events = events.lock().expect("nothing panics");
                let ends = events.iter().filter(|event| is_end(event)).count();
                notes.lock().expect("nothing panics").push(ends);
            });
        let dropped = played
            .job
            .notify_on(JobMoment::Idle, |job| drop(job.info()));
        let dropper = thread::spawn(move || drop(dropped));
        played.job.start().expect("nobody has cancelled it");
        assert!(matches!(played.outcome(), JobOutcome::Completed));
        dropper.join().expect("it has ended");
        stage.finish();
        drop(guard);
        assert_eq!(*told.lock().expect("nothing panics"), [1]);
    });
}

/// Two threads cancel a job and stay until it has ended; one of them turns the main loop meanwhile.
#[test]
fn shuttle_synchronous_cancels_end() {
    explore(|| {
        let stage = Stage::new();
        let played = stage.start("a", Part::Park);
        let inside = played.clone();
        let inside = stage
            .main_handle()
            .call(move |_main| inside.job.cancel_sync(CancelMode::Force));
        let outside = played.job.cancel_sync(CancelMode::Force);
        for result in [outside, block_on(inside)] {
            let error = result.expect_err("it was cancelled");
            assert_eq!(error.kind(), JobErrorKind::Cancelled, "{error}");
        }
        stage.finish();
    });
}

/// Who waits for a job that others have to finalize is told when it waits for that.
#[test]
fn shuttle_a_synchronous_wait_ends_where_others_go_on() {
    explore(|| {
        let stage = Stage::new();
        let pair = stage.start_pair(Part::Converge);
        let [first, second] = pair.clone();
        let other =
            thread::spawn(move || second.job.finish_sync(|job| job.cancel(CancelMode::Soft)));
        let well = first.job.finish_sync(|job| job.cancel(CancelMode::Soft));
        well.expect("a soft cancel of a ready job is no failure");
        let well = other.join().expect("it has ended");
        well.expect("a soft cancel of a ready job is no failure");
        until_pending(&pair[0]);
        pair[0].job.finalize().expect("both bodies have ended");
        all_or_none(&pair);
        stage.finish();
    });
}

/// A job that was only just created is started, cancelled and given up at once: one of them wins.
#[test]
fn shuttle_a_start_meets_a_cancel_and_a_discard() {
    explore(|| {
        let stage = Stage::new();
        let played = stage.create("a", Part::Steps(1), |_| ());
        let [canceller, discarder] = [played.clone(), played.clone()];
        let users = [
            thread::spawn(move || drop(canceller.job.cancel(CancelMode::Force))),
            thread::spawn(move || discarder.job.discard()),
        ];
        let is_started = played.job.start().is_ok();
        let is_well = matches!(played.outcome(), JobOutcome::Completed);
        assert!(is_started || !is_well);
        for user in users {
            user.join().expect("it has ended");
        }
        stage.finish();
    });
}

/// Jobs join a transaction until it has begun to end, and then no more.
#[test]
fn shuttle_a_creation_meets_the_end_of_its_transaction() {
    explore(|| {
        let stage = Arc::new(Stage::new());
        let transaction = stage.registry.transaction();
        let first = stage.create("a", Part::Steps(0), |config| {
            config.transaction = Some(transaction.clone());
        });
        let creator = stage.clone();
        let creator = thread::spawn(move || {
            let config = |config: &mut JobConfig| config.transaction = Some(transaction);
            let late = creator.try_create("b", Part::Steps(0), config).ok()?;
            late.job.start().ok();
            Some(late)
        });
        first.job.start().expect("nobody has cancelled it");
        if let Some(late) = creator.join().expect("it has ended") {
            all_or_none(&[first, late]);
        } else {
            assert!(matches!(first.outcome(), JobOutcome::Completed));
        }
        Arc::into_inner(stage).expect("nobody else has it").finish();
    });
}

/// A subscriber uses verbs: it dismisses what is concluded, as another thread would. What that leads
/// to is told after the event at hand, also to those who hear it later.
#[test]
fn shuttle_a_subscriber_dismisses_what_is_concluded() {
    explore(|| {
        let dismissed = Arc::new(Flag::default());
        let mut dismisser = None;
        let stage = Stage::with_registry(|main| {
            let registry = JobRegistry::new(main.clone());
            let subscription = subscribe_dismisser(&registry, dismissed.clone());
            dismisser = Some(UnlessPanicking(Some(subscription)));
            registry
        });
        let played = stage.create("a", Part::Steps(0), |config| {
            config.dismiss = Trigger::Manual;
        });
        let other = played.clone();
        let user = thread::spawn(move || {
            other.outcome();
            other.job.dismiss().is_ok()
        });
        played.job.start().expect("nobody has cancelled it");
        assert!(matches!(played.outcome(), JobOutcome::Completed));
        let by_user = user.join().expect("it has ended");
        stage.finish();
        assert_ne!(by_user, dismissed.is_set(), "one of them dismisses it");
        drop(dismisser);
    });
}

/// A job whose body runs on the main context tells its events from there, among those of verbs that
/// come from another thread.
#[test]
fn shuttle_a_job_on_the_main_context_keeps_the_order_of_its_events() {
    explore(|| {
        let stage = Stage::new();
        let played = stage.create("a", Part::Converge, |config| {
            config.context = stage.main_handle();
        });
        played.job.start().expect("nobody has cancelled it");
        let other = played.clone();
        let user = thread::spawn(move || {
            let is_paused = other.job.pause().is_ok();
            if is_paused {
                // Refused if the job ended before the pause could stop it.
                let _ = other.job.resume();
            }
            other.job.cancel(CancelMode::Soft).err()
        });
        let refused = user.join().expect("it has ended");
        assert!(refused.is_none(), "{refused:?}");
        assert!(matches!(played.outcome(), JobOutcome::Completed));
        stage.finish();
    });
}

/// Dismisses what is concluded, as soon as it is told.
fn subscribe_dismisser(registry: &JobRegistry, done: Arc<Flag>) -> Subscription {
    let jobs = registry.clone();
    registry.subscribe(move |event| {
        if let JobEvent::StatusChange { job, status } = event
            && *status == JobStatus::Concluded
            && let Ok(job) = jobs.find(&job.id)
            && job.dismiss().is_ok()
        {
            done.set();
        }
    })
}
