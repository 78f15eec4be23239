//! The life of jobs as the reference text tells it, written a second time and the simple way.
//!
//! A [`Model`] is at rest between acts. An act changes it at once, as a verb does; what follows is
//! made of [`Step`]s: a body goes on to its next wait, or the main context takes one
//! step in the end of a transaction. Where several are possible their order is open, and
//! [`follow`](crate::search::follow) finds the one that the product has taken; what one step tells,
//! and in which order, is not open.

mod body;
mod group;
pub(crate) mod letters;
mod look;
mod step;
mod verb;

pub(crate) use look::{Cancel, InfoLook, JobLook, Look, Past};
pub(crate) use step::Step;

use job::{JobStatus, Trigger};

use crate::{
    act::{Act, GROUPS, HISTORY_MAX, IDS, Naming, PLACES, Part, Slow, Spec, Verb},
    log::{Entry, Told},
};
use body::Body;
use group::{Group, Phase};

/// The error of a job that was cancelled.
const CANCELLED: &str = "Operation canceled";

pub(crate) type Reply = Result<(), String>;

/// One job.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, as the reference text has them"
)]
struct JobModel {
    spec: Spec,
    status: JobStatus,
    body: Body,
    is_user_paused: bool,
    holds: usize,
    is_told: bool,
    is_let_go: bool,
    /// Any cancel came.
    is_cancel_requested: bool,
    /// A forced one came.
    is_forced: bool,
    was_discarded: bool,
    /// What the body or `prepare` has returned, or why neither ran.
    result: Option<Reply>,
    /// The main context knows that the body has returned.
    is_completed: bool,
    context: usize,
    /// Where moves that wait for the body take it, one after the other.
    moves: Vec<usize>,
    /// It was on another context within this step, so what it tells may be on its way for a while.
    has_moved: bool,
    /// Its body had a step since the act.
    has_run: bool,
    wakes_at_ms: Option<u64>,
    progress: (u64, u64),
    outcome: Option<String>,
}

/// When something is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// At once.
    Now,
    /// Perhaps later than the hooks that follow.
    PerhapsLater,
}

/// Something that a step tells.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) entry: Entry,
    pub(crate) heard: Heard,
}

/// All jobs.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    jobs: [Option<JobModel>; PLACES],
    /// The places of living jobs, newest first.
    order: Vec<usize>,
    /// The transactions that jobs share, then those that they have for themselves.
    groups: Vec<Group>,
    /// Holds on every job.
    holds: usize,
    /// All jobs are being cancelled; the places of those that it waits for.
    cancels_all: Option<Vec<usize>>,
    now_ms: u64,
    history: Vec<Past>,
    /// How many the history has had.
    forgotten: u64,
    /// What the step at hand has told so far.
    pub(crate) said: Vec<Said>,
}

impl Model {
    pub(crate) fn new() -> Self {
        Self {
            jobs: [const { None }; PLACES],
            order: Vec::new(),
            groups: vec![Group::default(); GROUPS + PLACES],
            holds: 0,
            cancels_all: None,
            now_ms: 0,
            history: Vec::new(),
            forgotten: 0,
            said: Vec::new(),
        }
    }

    /// Whether the act means anything now; it is left out otherwise.
    pub(crate) fn can(&self, act: Act) -> bool {
        match act {
            Act::Create(place, _) if self.is_awaited(place) => false,
            Act::Create(place, spec) => match spec.naming {
                // To be refused, if the last one lives and has the id.
                Naming::Own => self.is_free(place) || self.is_named(place),
                Naming::Internal => self.is_free(place),
                Naming::Bad(_) => true,
            },
            Act::Do(place, verb @ (Verb::CancelSync | Verb::CompleteSync)) => {
                self.can_wait_for(place, verb)
            }
            Act::Do(place, verb) => {
                let about_pauses = matches!(verb, Verb::Hold | Verb::Release | Verb::Move(_));
                let is_gone = about_pauses && self.is_free(place);
                self.job_in(place).is_some_and(|job| job.can(verb)) && !is_gone
            }
            Act::PauseAll => self.holds < 2,
            Act::ResumeAll => self.holds > 0,
            Act::CancelAll => self.cancels_all.is_none(),
            Act::Pass(_) => true,
        }
    }

    /// Whether a cancel of all waits for the job in the place, or has yet to notice its end.
    fn is_awaited(&self, place: usize) -> bool {
        let awaited = self.cancels_all.as_ref();
        awaited.is_some_and(|awaited| awaited.contains(&place))
    }

    /// Whether there is no job in the place, or a forgotten one.
    fn is_free(&self, place: usize) -> bool {
        let job = self.job_in(place);
        job.is_none_or(|job| job.status == JobStatus::Null)
    }

    fn is_named(&self, place: usize) -> bool {
        let job = self.job_in(place);
        job.is_some_and(|job| job.spec.naming == Naming::Own)
    }

    /// Whether the transaction of this number has no members, and a new one takes its place.
    pub(crate) fn needs_group(&self, group: usize) -> bool {
        self.groups[group].members.is_empty()
    }

    /// Does it, up to what follows from it in steps.
    pub(crate) fn act(&mut self, act: Act) -> Reply {
        for job in self.jobs.iter_mut().flatten() {
            job.has_moved = false;
            job.has_run = false;
        }
        match act {
            Act::Create(place, spec) => self.create(place, spec)?,
            Act::Do(place, verb) => self.apply(place, verb)?,
            Act::PauseAll => self.holds += 1,
            Act::ResumeAll => self.holds -= 1,
            Act::CancelAll => self.cancels_all = Some(Vec::new()),
            Act::Pass(ms) => self.now_ms += ms,
        }
        Ok(())
    }

    /// The status that a verb has left behind, before anything follows from it.
    pub(crate) fn status(&self, place: usize) -> JobStatus {
        self.job(place).status
    }

    fn create(&mut self, place: usize, spec: Spec) -> Reply {
        if let Naming::Bad(id) = spec.naming {
            return Err(format!("Invalid job ID '{id}'"));
        }
        if !self.is_free(place) {
            return Err(format!("Job ID '{}' already in use", IDS[place]));
        }
        let group = &mut self.groups[spec.group.unwrap_or(GROUPS + place)];
        if group.members.is_empty() {
            *group = Group::default();
        }
        if group.phase != Phase::Open {
            return Err("the transaction has already ended".to_owned());
        }
        group.members.insert(0, place);
        self.order.insert(0, place);
        self.jobs[place] = Some(JobModel::new(spec));
        self.tell(place, Told::Status(JobStatus::Created));
        Ok(())
    }

    fn forget(&mut self, place: usize) {
        self.become_(place, JobStatus::Null);
        self.order.retain(|&other| other != place);
        // Nobody remembers a pause of it either.
        self.job_mut(place).is_user_paused = false;
        let job = self.job(place);
        if job.spec.naming == Naming::Own && !job.was_discarded {
            let past = Past {
                sequence: self.forgotten + 1,
                id: IDS[place].to_owned(),
                outcome: job.outcome.clone().expect("it has ended"),
                progress: job.progress,
                was_started: job.body != Body::Absent,
            };
            self.forgotten += 1;
            self.history.insert(0, past);
            self.history.truncate(HISTORY_MAX);
        }
    }

    fn become_(&mut self, place: usize, status: JobStatus) {
        self.job_mut(place).status = status;
        self.tell(place, Told::Status(status));
    }

    fn tell(&mut self, place: usize, told: Told) {
        self.say(place, told, Heard::Now);
    }

    /// The same from within the body, which may be on another context than the main one.
    fn tell_from_body(&mut self, place: usize, told: Told) {
        let job = self.job(place);
        let is_away = job.context != 0 || job.has_moved;
        let heard = if is_away {
            Heard::PerhapsLater
        } else {
            Heard::Now
        };
        self.say(place, told, heard);
    }

    fn say(&mut self, place: usize, told: Told, heard: Heard) {
        let is_event = !matches!(told, Told::Moment(_));
        if is_event && self.job(place).spec.naming == Naming::Internal {
            return;
        }
        let entry = Entry::Told(place, told);
        self.said.push(Said { entry, heard });
    }

    fn hook(&mut self, place: usize, hook: &'static str) {
        self.said.push(Said {
            entry: Entry::Hook(place, hook),
            heard: Heard::Now,
        });
    }

    fn group_of(&mut self, place: usize) -> &mut Group {
        let number = self.job(place).spec.group.unwrap_or(GROUPS + place);
        &mut self.groups[number]
    }

    fn job_in(&self, place: usize) -> Option<&JobModel> {
        self.jobs[place].as_ref()
    }

    fn job(&self, place: usize) -> &JobModel {
        self.jobs[place].as_ref().expect("there is a job")
    }

    fn job_mut(&mut self, place: usize) -> &mut JobModel {
        self.jobs[place].as_mut().expect("there is a job")
    }
}

impl JobModel {
    fn new(spec: Spec) -> Self {
        Self {
            spec,
            status: JobStatus::Created,
            body: Body::Absent,
            is_user_paused: false,
            holds: 0,
            is_told: false,
            is_let_go: false,
            is_cancel_requested: false,
            is_forced: false,
            was_discarded: false,
            result: None,
            is_completed: false,
            context: spec.context,
            moves: Vec::new(),
            has_moved: false,
            has_run: false,
            wakes_at_ms: None,
            progress: (0, 0),
            outcome: None,
        }
    }

    /// Whether doing this means anything, if only that it is refused.
    fn can(&self, verb: Verb) -> bool {
        let is_running = self.body != Body::Absent && !self.has_ended();
        match verb {
            Verb::Start => self.body == Body::Absent && !self.was_discarded,
            Verb::StopOnError | Verb::ReportError => is_running,
            Verb::Release => self.holds > 0,
            Verb::Move(_) => self.moves.len() < 2,
            _ => true,
        }
    }

    fn is_ready(&self) -> bool {
        matches!(self.status, JobStatus::Ready | JobStatus::Standby)
    }

    fn has_ended(&self) -> bool {
        self.body == Body::Returned
    }

    /// Whether it neither does anything nor will before its pause ends.
    fn is_quiescent(&self) -> bool {
        matches!(self.body, Body::Absent | Body::Standing(_) | Body::Returned)
    }

    /// Whether this hook of its driver still waits for a word.
    fn is_slow(&self, hook: Slow) -> bool {
        self.spec.slow == hook && !self.is_let_go
    }

    fn fails(&self) -> bool {
        matches!(
            self.spec.part,
            Part::Fail | Part::FailWhenTold | Part::ConvergeAndFail | Part::BadRequest
        )
    }

    fn is_manual(&self) -> bool {
        self.spec.finalize == Trigger::Manual
    }
}
