//! The body of a job: pause points, waits, and what it does between them.

use job::JobStatus;

use super::{CANCELLED, Model};
use crate::{
    act::{Part, Slow, WORK},
    log::Told,
};

/// How long a sleep takes.
const SLEEP_MS: u64 = 5;

/// Where the body of a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// The job was not started.
    Absent,
    /// Before a pause point.
    AtPoint(Next),
    /// At a pause point, while the driver ends its requests.
    Pausing(Next),
    /// At a pause point.
    Standing(Next),
    /// Behind a pause point.
    Going(Next),
    /// In a wait that a pause, a cancel and a wake-up end.
    Parked,
    /// In a wait that only its request ends, or a forced cancel if it is raced with one.
    InRequest,
    /// It has returned.
    Returned,
}

/// What comes behind a pause point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The first line of `run`.
    Begin,
    /// One more look at whether it is time to end.
    Look,
    /// The end, after a request.
    End,
}

impl Model {
    /// Whether the body has something to do.
    pub(super) fn body_goes_on(&self, place: usize) -> bool {
        let job = self.job(place);
        match job.body {
            Body::Absent | Body::Returned => false,
            Body::AtPoint(_) | Body::Going(_) => true,
            // A forced cancel waits for no hook.
            Body::Pausing(_) => job.is_forced || !job.is_slow(Slow::Pause),
            Body::Standing(_) => !self.wants_pause(place),
            Body::Parked => {
                let is_due = job.wakes_at_ms.is_some_and(|at_ms| at_ms <= self.now_ms);
                let is_told = job.is_told && job.wakes_at_ms.is_none();
                let is_asked = job.is_cancel_requested && job.is_ready();
                job.is_forced || is_due || is_told || is_asked || self.wants_pause(place)
            }
            Body::InRequest => job.is_told || job.is_forced && job.spec.part == Part::RacedRequest,
        }
    }

    /// Lets the body go on to its next wait.
    pub(super) fn body_goes(&mut self, place: usize) {
        self.job_mut(place).has_run = true;
        match self.job(place).body {
            Body::AtPoint(next) => self.reach_point(place, next),
            Body::Pausing(next) => self.has_paused(place, next),
            Body::Standing(next) => self.stand(place, next),
            Body::Going(next) => self.go(place, next),
            Body::Parked => self.reach_point(place, Next::Look),
            Body::InRequest if self.job(place).is_told => self.reach_point(place, Next::End),
            Body::InRequest => self.returns_cancelled(place),
            Body::Absent | Body::Returned => unreachable!("it does not go on"),
        }
    }

    /// Whether a pause point would keep it.
    fn wants_pause(&self, place: usize) -> bool {
        let job = self.job(place);
        let holds = self.holds + job.holds + job.moves.len();
        !job.is_forced && (job.is_user_paused || holds > 0)
    }

    fn reach_point(&mut self, place: usize, next: Next) {
        if !self.wants_pause(place) {
            return self.go(place, next);
        }
        self.hook(place, "pause");
        self.job_mut(place).body = Body::Pausing(next);
    }

    fn has_paused(&mut self, place: usize, next: Next) {
        if self.wants_pause(place) {
            self.job_mut(place).body = Body::Standing(next);
            self.show_pause(place);
        } else {
            // Called off meanwhile.
            self.hook(place, "resume");
            self.job_mut(place).body = Body::Going(next);
        }
    }

    /// A pause of the user shows; one that only holds want does not.
    pub(super) fn show_pause(&mut self, place: usize) {
        let job = self.job(place);
        match job.status {
            JobStatus::Running if job.is_user_paused => {
                self.change_from_body(place, JobStatus::Paused);
            }
            JobStatus::Ready if job.is_user_paused => {
                self.change_from_body(place, JobStatus::Standby);
            }
            _ => {}
        }
    }

    fn stand(&mut self, place: usize, next: Next) {
        match self.job(place).status {
            JobStatus::Paused => self.change_from_body(place, JobStatus::Running),
            JobStatus::Standby => self.change_from_body(place, JobStatus::Ready),
            _ => {}
        }
        self.hook(place, "resume");
        self.job_mut(place).body = Body::Going(next);
    }

    fn change_from_body(&mut self, place: usize, status: JobStatus) {
        self.job_mut(place).status = status;
        self.tell_from_body(place, Told::Status(status));
    }

    fn go(&mut self, place: usize, next: Next) {
        let job = self.job(place);
        match next {
            // A cancel that comes before the first step takes its place.
            Next::Begin if job.is_forced => self.returns_cancelled(place),
            Next::Begin => self.begin(place),
            Next::Look => self.end_or_wait(place),
            Next::End if job.is_forced && !job.fails() => self.returns_cancelled(place),
            Next::End => self.returns(place),
        }
    }

    fn begin(&mut self, place: usize) {
        self.hook(place, "run");
        let now_ms = self.now_ms;
        let job = self.job_mut(place);
        job.progress = (0, WORK);
        match job.spec.part {
            Part::EndWell | Part::Fail => self.returns(place),
            Part::UntilTold | Part::FailWhenTold => self.end_or_wait(place),
            Part::Converge | Part::ConvergeAndFail => {
                self.change_from_body(place, JobStatus::Ready);
                self.tell_from_body(place, Told::Ready);
                self.tell_from_body(place, Told::Moment("Ready"));
                self.end_or_wait(place);
            }
            Part::Sleep => {
                job.wakes_at_ms = Some(now_ms + SLEEP_MS);
                self.end_or_wait(place);
            }
            Part::Request | Part::RacedRequest | Part::BadRequest => job.body = Body::InRequest,
        }
    }

    /// Decides whether to end or to wait.
    fn end_or_wait(&mut self, place: usize) {
        let now_ms = self.now_ms;
        let job = self.job_mut(place);
        let is_done = match job.spec.part {
            Part::Sleep => job.wakes_at_ms.is_some_and(|at_ms| at_ms <= now_ms),
            Part::Converge | Part::ConvergeAndFail => job.is_told || job.is_cancel_requested,
            _ => job.is_told,
        };
        if is_done {
            self.returns(place);
        } else if job.is_forced {
            self.returns_cancelled(place);
        } else {
            job.body = Body::Parked;
        }
    }

    fn returns(&mut self, place: usize) {
        let job = self.job_mut(place);
        job.body = Body::Returned;
        if job.fails() {
            job.result = Some(Err("boom".to_owned()));
        } else {
            job.progress.0 = WORK;
            job.result = Some(Ok(()));
        }
    }

    fn returns_cancelled(&mut self, place: usize) {
        let job = self.job_mut(place);
        job.body = Body::Returned;
        job.result = Some(Err(CANCELLED.to_owned()));
    }
}
