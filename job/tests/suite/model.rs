//! Random lives of one job: against a small model of the tables, and against what holds for all.

use job::{CancelMode, JobErrorKind, JobStatus, JobVerb, PauseHold, Trigger};
use proptest::{collection::vec, prelude::*, sample::select};

use crate::world::{Part, TestJob, World};

/// Something that a user, a drain or the world does.
#[derive(Clone, Copy, Debug)]
enum Act {
    Start,
    Pause,
    Resume,
    Cancel(CancelMode),
    Complete,
    Finalize,
    Dismiss,
    Hold,
    Release,
    Wake,
    /// The body may end.
    Tell,
}

const ACTS: [Act; 12] = [
    Act::Start,
    Act::Pause,
    Act::Resume,
    Act::Cancel(CancelMode::Soft),
    Act::Cancel(CancelMode::Force),
    Act::Complete,
    Act::Finalize,
    Act::Dismiss,
    Act::Hold,
    Act::Release,
    Act::Wake,
    Act::Tell,
];

/// What kind of job it is.
#[derive(Clone, Copy, Debug)]
struct Kind {
    part: Part,
    finalize: Trigger,
    dismiss: Trigger,
    fails_late: bool,
}

fn kinds() -> impl Strategy<Value = Kind> {
    let part = select(vec![Part::UntilTold, Part::FailWhenTold, Part::Converge]);
    let trigger = || select(vec![Trigger::Auto, Trigger::Manual]);
    let all = (part, trigger(), trigger(), any::<bool>());
    all.prop_map(|(part, finalize, dismiss, fails_late)| Kind {
        part,
        finalize,
        dismiss,
        fails_late,
    })
}

/// What the tables say, written a second time and the simple way.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, as the tables have them"
)]
struct Model {
    kind: Kind,
    status: JobStatus,
    is_user_paused: bool,
    holds: usize,
    is_told: bool,
    is_ready: bool,
    is_soft_cancelled: bool,
}

impl Model {
    fn act(&mut self, act: Act) -> Result<(), JobErrorKind> {
        match act {
            Act::Start if self.status == JobStatus::Created => self.status = JobStatus::Running,
            Act::Start => {}
            Act::Pause => {
                self.accept(JobVerb::Pause)?;
                if self.is_user_paused {
                    return Err(JobErrorKind::AlreadyPaused);
                }
                self.is_user_paused = true;
            }
            Act::Resume if !self.is_user_paused => return Err(JobErrorKind::NotPaused),
            Act::Resume => {
                self.accept(JobVerb::Resume)?;
                self.is_user_paused = false;
            }
            Act::Cancel(mode) => self.cancel(mode)?,
            Act::Complete => {
                self.accept(JobVerb::Complete)?;
                if self.is_soft_cancelled {
                    return Err(JobErrorKind::CannotComplete);
                }
                self.is_told = true;
            }
            Act::Finalize => {
                self.accept(JobVerb::Finalize)?;
                self.conclude();
            }
            Act::Dismiss => {
                self.accept(JobVerb::Dismiss)?;
                self.status = JobStatus::Null;
            }
            Act::Hold => self.holds += 1,
            Act::Release => self.holds = self.holds.saturating_sub(1),
            Act::Wake => {}
            Act::Tell => self.is_told = true,
        }
        while self.step() {}
        Ok(())
    }

    fn accept(&self, verb: JobVerb) -> Result<(), JobErrorKind> {
        match self.status {
            JobStatus::Null => Err(JobErrorKind::NotFound),
            status if verb.is_accepted_in(status) => Ok(()),
            _ => Err(JobErrorKind::InvalidVerb),
        }
    }

    fn cancel(&mut self, mode: CancelMode) -> Result<(), JobErrorKind> {
        if mode == CancelMode::Soft && self.is_user_paused {
            return Err(JobErrorKind::AlreadyPaused);
        }
        self.accept(JobVerb::Cancel)?;
        self.is_user_paused = false;
        if mode == CancelMode::Force || !self.is_ready {
            let was_created = self.status == JobStatus::Created;
            self.conclude();
            if was_created {
                self.status = JobStatus::Null;
            }
        } else if self.status != JobStatus::Pending {
            self.is_soft_cancelled = true;
        }
        Ok(())
    }

    fn conclude(&mut self) {
        self.status = match self.kind.dismiss {
            Trigger::Auto => JobStatus::Null,
            Trigger::Manual => JobStatus::Concluded,
        };
    }

    /// One step of the body; false if it has none to make.
    fn step(&mut self) -> bool {
        let wants_pause = self.is_user_paused || self.holds > 0;
        let next = match self.status {
            JobStatus::Running if self.is_user_paused => JobStatus::Paused,
            JobStatus::Ready if self.is_user_paused => JobStatus::Standby,
            // What only holds want is quiet.
            JobStatus::Running | JobStatus::Ready if wants_pause => return false,
            JobStatus::Paused if !wants_pause => JobStatus::Running,
            JobStatus::Standby if !wants_pause => JobStatus::Ready,
            JobStatus::Running if self.kind.part == Part::Converge => {
                self.is_ready = true;
                JobStatus::Ready
            }
            JobStatus::Running | JobStatus::Ready if self.is_told || self.is_soft_cancelled => {
                self.end();
                return true;
            }
            _ => return false,
        };
        self.status = next;
        true
    }

    fn end(&mut self) {
        let is_success = self.kind.part != Part::FailWhenTold;
        if is_success && self.kind.finalize == Trigger::Manual {
            self.status = JobStatus::Pending;
        } else {
            self.conclude();
        }
    }
}

/// The same acts on a real job.
struct Real {
    job: TestJob,
    holds: Vec<PauseHold>,
}

impl Real {
    fn new(world: &World, kind: Kind) -> Self {
        let job = world.create_as("a", kind.part, |config| {
            config.finalize = kind.finalize;
            config.dismiss = kind.dismiss;
        });
        if kind.fails_late {
            job.actor.fails_late.set();
        }
        let holds = Vec::new();
        Self { job, holds }
    }

    fn act(&mut self, act: Act) -> Result<(), JobErrorKind> {
        let job = &self.job;
        let said = match act {
            Act::Start if job.status() == JobStatus::Created => job.start(),
            Act::Pause => job.pause(),
            Act::Resume => job.resume(),
            Act::Cancel(mode) => job.cancel(mode),
            Act::Complete => job.complete(),
            Act::Finalize => job.finalize(),
            Act::Dismiss => job.dismiss(),
            Act::Hold => {
                self.holds.push(job.hold_paused());
                Ok(())
            }
            Act::Release => {
                self.holds.pop();
                Ok(())
            }
            Act::Tell => {
                job.tell();
                Ok(())
            }
            Act::Wake => {
                job.wake();
                Ok(())
            }
            Act::Start => Ok(()),
        };
        said.map_err(|error| error.kind())
    }
}

/// What holds of every life: it follows the table, and ends once.
fn check_events(events: &[String]) {
    let status_of = |line: &String| {
        let known = |status: &JobStatus| line.strip_prefix("a ") == Some(status.as_str());
        JobStatus::ALL.into_iter().find(known)
    };
    let statuses: Vec<_> = events.iter().filter_map(status_of).collect();
    for step in statuses.windows(2) {
        assert!(step[0].can_become(step[1]), "{events:?}");
    }
    let is_end = |line: &&String| line.contains("COMPLETED") || line.contains("CANCELLED");
    let was_started = statuses.contains(&JobStatus::Running);
    assert_eq!(
        events.iter().filter(is_end).count(),
        usize::from(was_started),
        "{events:?}"
    );
    assert_eq!(events.last().map(String::as_str), Some("a null"));
}

/// Brings a job from anywhere to its end.
fn bring_home(world: &World, real: &mut Real) {
    real.holds.clear();
    let _ = real.job.cancel(CancelMode::Force);
    world.settle();
    let _ = real.job.dismiss();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_job_that_is_given_time_does_what_the_tables_say(
        kind in kinds(),
        acts in vec(select(ACTS.to_vec()), 0..24),
    ) {
        let world = World::new();
        let mut real = Real::new(&world, kind);
        let mut model = Model {
            kind,
            status: JobStatus::Created,
            is_user_paused: false,
            holds: 0,
            is_told: false,
            is_ready: false,
            is_soft_cancelled: false,
        };
        for act in acts {
            let said = real.act(act);
            world.settle();

            prop_assert_eq!(said, model.act(act), "{:?} in {:?}", act, model);
            prop_assert_eq!(real.job.status(), model.status, "after {:?}", act);
        }
        bring_home(&world, &mut real);
        check_events(&world.events());
    }

    /// Acts come in bursts here, so that they meet a job between two statuses.
    #[test]
    fn a_job_in_a_hurry_still_follows_the_table_and_ends_once(
        kind in kinds(),
        bursts in vec(vec(select(ACTS.to_vec()), 0..6), 0..8),
        turns in 0_usize..4,
    ) {
        let world = World::new();
        let mut real = Real::new(&world, kind);
        for burst in bursts {
            for act in burst {
                let _ = real.act(act);
            }
            for _ in 0..turns {
                world.context.block_on(world.context.yield_now());
            }
        }
        bring_home(&world, &mut real);
        check_events(&world.events());
        prop_assert!(real.job.outcome().is_some());
    }
}
