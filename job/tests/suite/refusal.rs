//! Every verb on a real job in every status: what is refused has its exact text and changes nothing.

use job::{CancelMode, Job, JobContext, JobDriver, JobError, JobStatus, JobVerb, Trigger};

use crate::world::{Part, TestJob, World};

/// Where a job is kept, and whether its user has paused it.
#[derive(Clone, Copy, Debug)]
struct Place {
    status: JobStatus,
    is_user_paused: bool,
}

/// Every status, with and without a pause of the user where both exist.
fn places() -> Vec<Place> {
    let place = |status, is_user_paused| Place {
        status,
        is_user_paused,
    };
    let both = |status| [false, true].map(|is_user_paused| place(status, is_user_paused));
    let mut places = vec![
        place(JobStatus::Running, false),
        place(JobStatus::Paused, true),
        place(JobStatus::Ready, false),
        place(JobStatus::Standby, true),
        place(JobStatus::Null, false),
    ];
    places.extend(
        [
            JobStatus::Created,
            JobStatus::Waiting,
            JobStatus::Pending,
            JobStatus::Aborting,
            JobStatus::Concluded,
        ]
        .into_iter()
        .flat_map(both),
    );
    places
}

/// Brings a job `a` to a place where it stays by itself.
fn job_at(world: &World, place: Place) -> TestJob {
    let transaction = world.registry.transaction();
    let part = match place.status {
        JobStatus::Ready | JobStatus::Standby => Part::Converge,
        JobStatus::Running | JobStatus::Paused => Part::UntilTold,
        JobStatus::Aborting => Part::Fail,
        _ => Part::EndWell,
    };
    let job = world.create_as("a", part, |config| {
        config.transaction = Some(transaction.clone());
        if place.status != JobStatus::Null {
            config.dismiss = Trigger::Manual;
        }
        if place.status == JobStatus::Pending {
            config.finalize = Trigger::Manual;
        }
    });
    match place.status {
        JobStatus::Waiting => {
            world.create_as("other", Part::UntilTold, |config| {
                config.transaction = Some(transaction);
            });
        }
        JobStatus::Aborting => job.actor.slow_abort.set(),
        _ => {}
    }
    if place.status != JobStatus::Created {
        if place.is_user_paused && place.status.is_completed() {
            job.actor.pauses_itself.set();
        }
        job.start().expect("nobody cancelled it");
        world.settle();
    }
    if place.is_user_paused && !place.status.is_completed() {
        job.pause().expect("the user has not paused it");
    }
    world.settle();
    world.log();
    assert_eq!(job.status(), place.status);
    job
}

/// A verb as users have it.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Cancel(CancelMode),
    Pause,
    Resume,
    Complete,
    Finalize,
    Dismiss,
    /// One that others carry out.
    Checked(JobVerb),
}

const ASKED: [Asked; 9] = [
    Asked::Cancel(CancelMode::Soft),
    Asked::Cancel(CancelMode::Force),
    Asked::Pause,
    Asked::Resume,
    Asked::Complete,
    Asked::Finalize,
    Asked::Dismiss,
    Asked::Checked(JobVerb::SetSpeed),
    Asked::Checked(JobVerb::Change),
];

impl Asked {
    fn apply(self, job: &Job) -> Result<(), JobError> {
        match self {
            Self::Cancel(mode) => job.cancel(mode),
            Self::Pause => job.pause(),
            Self::Resume => job.resume(),
            Self::Complete => job.complete(),
            Self::Finalize => job.finalize(),
            Self::Dismiss => job.dismiss(),
            Self::Checked(verb) => job.check_verb(verb),
        }
    }

    /// The name, and the statuses that accept it, as in the table of the protocol.
    fn row(self) -> (&'static str, &'static [&'static str]) {
        let live = &["created", "running", "paused", "ready", "standby"];
        match self {
            Self::Cancel(_) => (
                "cancel",
                &[
                    "created", "running", "paused", "ready", "standby", "waiting", "pending",
                ],
            ),
            Self::Pause => ("pause", live),
            Self::Resume => ("resume", live),
            Self::Checked(JobVerb::SetSpeed) => ("set-speed", live),
            Self::Checked(_) => ("change", live),
            Self::Complete => ("complete", &["ready", "standby"]),
            Self::Finalize => ("finalize", &["pending"]),
            Self::Dismiss => ("dismiss", &["concluded"]),
        }
    }

    /// The text of the refusal, with the checks in their order.
    fn refusal(self, place: Place) -> Option<String> {
        let paused = place.is_user_paused;
        match self {
            Self::Resume if !paused => {
                return Some("Can't resume a job that was not paused".to_owned());
            }
            Self::Cancel(CancelMode::Soft) if paused => {
                return Some("The block job for device 'a' is currently paused".to_owned());
            }
            _ => {}
        }
        let ((verb, accepted), status) = (self.row(), place.status.as_str());
        if status == "null" {
            return Some("Job not found".to_owned());
        }
        if !accepted.contains(&status) {
            return Some(format!(
                "Job 'a' in state '{status}' cannot accept command verb '{verb}'"
            ));
        }
        matches!(self, Self::Pause if paused).then(|| "Job is already paused".to_owned())
    }
}

/// All that can be asked about a job and its registry.
fn everything(world: &World, job: &Job) -> String {
    let asked = (job.info(), job.outcome(), world.registry.query());
    let cancels = (job.is_cancelled(), job.is_cancel_requested());
    format!("{asked:?} {cancels:?} {:?}", world.registry.history())
}

#[test]
fn a_refused_verb_has_its_exact_text_and_changes_nothing() {
    let mut refusals = 0;
    for place in places() {
        for asked in ASKED {
            let world = World::new();
            let job = job_at(&world, place);
            let before = everything(&world, &job);

            let said = asked.apply(&job).map_err(|error| error.to_string());

            let want = asked.refusal(place).map_or(Ok(()), Err);
            assert_eq!(said, want, "{asked:?} at {place:?}");
            if said.is_ok() {
                continue;
            }
            refusals += 1;
            world.settle();
            assert_eq!(world.log(), Vec::<String>::new(), "{asked:?} at {place:?}");
            assert_eq!(everything(&world, &job), before, "{asked:?} at {place:?}");
        }
    }
    assert_eq!(refusals, REFUSALS);
}

/// Of 15 times 9, as the tables have it 39 are accepted; counted by hand, so that the test cannot come
/// to check nothing.
const REFUSALS: usize = 96;

/// Becomes ready and stays so; cannot complete.
struct Endless;

impl JobDriver for Endless {
    fn kind(&self) -> &'static str {
        "endless"
    }

    fn run<'a>(&'a self, job: &'a JobContext) -> job::BoxFuture<'a, Result<(), JobError>> {
        Box::pin(async {
            job.become_ready();
            while !job.is_cancelled() {
                job.park().await;
            }
            Ok(())
        })
    }
}

#[test]
fn a_complete_that_the_driver_has_not_changes_nothing() {
    let world = World::new();
    let config = job::JobConfig::new(
        "a",
        std::sync::Arc::new(Endless),
        world.context.handle().clone(),
    );
    let job = world.registry.create(config).unwrap();
    job.start().unwrap();
    world.settle();
    world.log();
    let before = everything(&world, &job);

    let error = job.complete().unwrap_err();
    world.settle();

    assert_eq!(
        error.to_string(),
        "The active block job 'a' cannot be completed"
    );
    assert_eq!(world.log(), Vec::<String>::new());
    assert_eq!(everything(&world, &job), before);
}

#[test]
fn a_complete_after_a_soft_cancel_changes_nothing() {
    let world = World::new();
    let job = world.start("a", Part::Converge);
    world.settle();
    let _hold = job.hold_paused();
    world.settle();
    job.cancel(CancelMode::Soft).unwrap();
    world.settle();
    world.log();
    let before = everything(&world, &job);

    let error = job.complete().unwrap_err();
    world.settle();

    assert_eq!(
        error.to_string(),
        "The active block job 'a' cannot be completed"
    );
    assert_eq!(world.log(), Vec::<String>::new());
    assert_eq!(everything(&world, &job), before);
}
