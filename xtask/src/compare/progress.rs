//! [`Progress`]: how long it takes, told before and meanwhile; and how much of that may go into repeats.

use std::time::{Duration, Instant};

use super::{
    Plan,
    cases::{Case, Image, Job, Place, Work},
    world::Scale,
};

/// What a copy moves in a second on a usual machine, in MiB.
const DISK_MIB_PER_S: f64 = 650.0;
const MEMORY_MIB_PER_S: f64 = 1600.0;
/// To start and to end a daemon or a tool.
const AROUND_S: f64 = 0.5;
/// To pause and cancel some backups.
const LATENCY_S: f64 = 6.0;
/// A small job.
const JOB_S: f64 = 0.0015;
/// To make the images of a place once.
const IMAGES_S: f64 = 20.0;
/// Repeats of disturbed turns, and what takes longer than it should, have this share of what all would take without.
const REPEATS_SHARE: f64 = 0.15;
/// Where all takes longer by so many times that, turns are left out.
const LATE: f64 = 4.0 / 3.0;

/// How long some cases take, and have taken.
#[derive(Debug)]
pub(super) struct Progress {
    begun: Instant,
    /// Of the cases that have not begun.
    later_s: f64,
    /// What the turns were to take that have been done.
    done_s: f64,
    /// By how much it may all take longer than it should.
    slack_s: f64,
}

impl Progress {
    pub(super) fn new(cases: &[&Case], scale: &Scale, plan: Plan) -> Self {
        let later_s: f64 = cases.iter().map(|case| case_s(case, scale, plan)).sum();
        let slack_s = later_s * REPEATS_SHARE;
        println!(
            "{} cases in about {}, and {} more if others disturb them",
            cases.len(),
            show(later_s + IMAGES_S),
            show(slack_s)
        );
        Self {
            begun: Instant::now(),
            later_s,
            done_s: 0.0,
            slack_s,
        }
    }

    /// Takes a case on.
    pub(super) fn begin(&mut self, case: &Case, scale: &Scale, plan: Plan) {
        let about_s = case_s(case, scale, plan);
        self.later_s -= about_s;
        println!("{}: about {}", case.name, show(about_s));
    }

    /// Takes in that a turn is done.
    pub(super) fn note(&mut self, case: &Case, scale: &Scale) {
        self.done_s += turn_s(case, scale);
    }

    /// Tells that so many of a case's rounds have been done since it began.
    pub(super) fn tell(&self, done: usize, rounds: usize, since: Instant) {
        let took_s = since.elapsed().as_secs_f64();
        let left_s = took_s / done as f64 * (rounds - done) as f64;
        eprintln!(
            "  round {done} of {rounds} after {}; {} left, {} of all",
            show(took_s),
            show(left_s),
            show(left_s + self.later_s)
        );
    }

    /// Whether there is time to repeat a turn that has just been taken, and not been noted.
    pub(super) fn may_repeat(&self) -> bool {
        self.has_slack(self.begun.elapsed())
    }

    /// Whether turns have to be left out, since all takes much longer than it should.
    pub(super) fn is_late(&self) -> bool {
        self.behind_s(self.begun.elapsed()) > LATE * self.slack_s
    }

    fn has_slack(&self, now: Duration) -> bool {
        self.behind_s(now) <= self.slack_s
    }

    /// By how much it takes longer than it should, `now` after the beginning.
    fn behind_s(&self, now: Duration) -> f64 {
        now.as_secs_f64() - IMAGES_S - self.done_s
    }
}

/// About how many seconds all turns of a case take, whose sides are all there.
fn case_s(case: &Case, scale: &Scale, plan: Plan) -> f64 {
    let turns = case.sides.len() * plan.rounds(case.work);
    turns as f64 * turn_s(case, scale)
}

fn turn_s(case: &Case, scale: &Scale) -> f64 {
    let mib_per_s = match case.place {
        Place::Disk => DISK_MIB_PER_S,
        Place::Memory => MEMORY_MIB_PER_S,
    };
    let copy_s = |image: Image| scale.data_mib(image) as f64 / mib_per_s;
    let client_s = scale.client_s as f64;
    AROUND_S
        + match case.work {
            Work::Copy(Job::Incremental, _) | Work::Start => 1.0,
            Work::Copy(_, image) => copy_s(image),
            // A copy takes longer beside a client; a mirror is done without one before.
            Work::Guest(Job::Backup | Job::Incremental, _) => {
                1.0 + client_s + 1.5 * copy_s(Image::Full)
            }
            Work::Guest(Job::Mirror | Job::MirrorWriteBlocking, _) => {
                1.0 + client_s + 3.0 * copy_s(Image::Full)
            }
            Work::Random { .. } | Work::Sequential(_) => client_s,
            Work::Latency => LATENCY_S,
            Work::Crowd => scale.crowd as f64 * copy_s(Image::Small),
            Work::Queue => scale.queue as f64 * JOB_S,
            Work::Reflink | Work::ReadAll(_) => copy_s(Image::Full),
        }
}

/// Seconds, or minutes where these are many.
fn show(seconds: f64) -> String {
    // What differences leave of nothing may be a little less than that.
    let seconds = seconds.max(0.0) + 0.0;
    if seconds < 100.0 {
        format!("{seconds:.0} s")
    } else {
        format!("{:.0} min", seconds / 60.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{Options, cases::CASES};

    fn progress(args: &[&str]) -> Progress {
        let options = Options::parse(args).unwrap();
        let cases: Vec<&Case> = CASES.iter().collect();
        Progress::new(&cases, &options.scale(), options.plan())
    }

    #[test]
    fn all_of_it_with_all_repeats_is_less_than_an_hour() {
        let progress = progress(&[]);
        let all_s = progress.later_s + progress.slack_s + IMAGES_S;
        assert!(all_s < 3300.0, "{all_s}");
        assert!(all_s > 1200.0, "{all_s}");
    }

    #[test]
    fn turns_are_repeated_until_that_has_taken_its_share_of_the_time() {
        let mut progress = progress(&[]);
        let slack_s = progress.slack_s;
        let after = |seconds| Duration::from_secs_f64(IMAGES_S + slack_s + seconds);
        assert!(progress.has_slack(after(-1.0)));
        assert!(!progress.has_slack(after(1.0)));
        // What has been done by then was to take its time.
        progress.done_s = 100.0;
        assert!(progress.has_slack(after(99.0)));
    }

    #[test]
    fn what_is_left_is_that_of_the_cases_that_have_not_begun() {
        let options = Options::parse(&[]).unwrap();
        let (scale, plan) = (options.scale(), options.plan());
        let cases = [&CASES[0], &CASES[1]];
        let mut progress = Progress::new(&cases, &scale, plan);
        for case in cases {
            progress.begin(case, &scale, plan);
        }
        assert!(progress.later_s.abs() < 1e-6, "{progress:?}");
    }
}
