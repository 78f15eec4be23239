//! Every verb in every status.

use job::{CancelMode, Job, JobError, JobStatus, Trigger};

use crate::world::{Part, TestJob, World};

/// Statuses that a job can be kept in.
const KEPT: [JobStatus; 9] = [
    JobStatus::Created,
    JobStatus::Running,
    JobStatus::Paused,
    JobStatus::Ready,
    JobStatus::Standby,
    JobStatus::Waiting,
    JobStatus::Pending,
    JobStatus::Aborting,
    JobStatus::Concluded,
];

/// A job `a` that is in `status` and stays there.
fn job_in(world: &World, status: JobStatus) -> TestJob {
    let transaction = world.registry.transaction();
    let part = match status {
        JobStatus::Ready | JobStatus::Standby => Part::Converge,
        JobStatus::Running | JobStatus::Paused => Part::UntilTold,
        JobStatus::Aborting => Part::Fail,
        _ => Part::EndWell,
    };
    let job = world.create_as("a", part, |config| {
        config.transaction = Some(transaction.clone());
        config.dismiss = Trigger::Manual;
        if status == JobStatus::Pending {
            config.finalize = Trigger::Manual;
        }
    });
    if status == JobStatus::Waiting {
        world.create_as("other", Part::UntilTold, |config| {
            config.transaction = Some(transaction);
        });
    }
    if status == JobStatus::Aborting {
        job.actor.slow_abort.set();
    }
    if status != JobStatus::Created {
        job.start().expect("nobody cancelled it");
    }
    world.settle();
    job
}

/// What each verb says in each status, on a job that the user has not paused.
#[track_caller]
fn check(verb: &str, apply: impl Fn(&Job) -> Result<(), JobError>, accepted: &[JobStatus]) {
    for status in KEPT {
        let world = World::new();
        let job = job_in(&world, status);
        let hold = job.hold_paused();
        if matches!(status, JobStatus::Paused | JobStatus::Standby) {
            job.pause().expect("its body lives");
            world.settle();
            // The hold keeps it where the user's pause has brought it.
            job.resume().expect("it is paused");
        } else {
            drop(hold);
        }
        assert_eq!(job.status(), status);

        let said = apply(&job).map_err(|error| error.to_string());

        let refusal = format!("Job 'a' in state '{status}' cannot accept command verb '{verb}'");
        let want = if accepted.contains(&status) {
            Ok(())
        } else {
            Err(refusal)
        };
        assert_eq!(said, want, "{verb} in {status}");
    }
}

const LIVE: [JobStatus; 5] = [
    JobStatus::Created,
    JobStatus::Running,
    JobStatus::Paused,
    JobStatus::Ready,
    JobStatus::Standby,
];

#[test]
fn pause_is_accepted_while_the_body_lives() {
    check("pause", Job::pause, &LIVE);
}

#[test]
fn resume_is_accepted_while_the_body_lives_and_undoes_the_pause_everywhere() {
    for status in LIVE {
        let world = World::new();
        let job = job_in(&world, status);
        job.pause().unwrap();
        world.settle();

        assert!(job.resume().is_ok(), "resume in {status}");
        assert_eq!(
            job.resume().unwrap_err().to_string(),
            "Can't resume a job that was not paused"
        );
    }
}

#[test]
fn resume_of_a_job_that_nobody_paused_names_that_first() {
    for status in KEPT {
        let world = World::new();
        let error = job_in(&world, status).resume().unwrap_err();

        assert_eq!(error.to_string(), "Can't resume a job that was not paused");
    }
}

#[test]
fn cancel_is_accepted_until_the_job_aborts_or_is_concluded() {
    let accepted = [&LIVE[..], &[JobStatus::Waiting, JobStatus::Pending]].concat();
    check("cancel", |job| job.cancel(CancelMode::Force), &accepted);
    check("cancel", |job| job.cancel(CancelMode::Soft), &accepted);
}

#[test]
fn complete_is_accepted_by_ready_jobs() {
    check(
        "complete",
        Job::complete,
        &[JobStatus::Ready, JobStatus::Standby],
    );
}

#[test]
fn finalize_is_accepted_by_pending_jobs() {
    check("finalize", Job::finalize, &[JobStatus::Pending]);
}

#[test]
fn dismiss_is_accepted_by_concluded_jobs() {
    check("dismiss", Job::dismiss, &[JobStatus::Concluded]);
}

#[test]
fn a_forgotten_job_is_not_found() {
    let world = World::new();
    let job = world.start("a", Part::EndWell);
    world.settle();

    assert_eq!(job.status(), JobStatus::Null);
    assert_eq!(job.pause().unwrap_err().to_string(), "Job not found");
    assert_eq!(
        job.cancel(CancelMode::Force).unwrap_err().to_string(),
        "Job not found"
    );
    assert_eq!(job.dismiss().unwrap_err().to_string(), "Job not found");
}
