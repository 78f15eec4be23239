//! `x-longshore-query-progress`: how fast jobs go, what bounds them, and what guests pay.

use std::rc::Rc;

use block::{copy::CopyCounters, nodes::AddedLatency};
use drivers::{ConvergeReport, Estimate, PaceReport, backup::Backup, mirror::Mirror};
use job::{Job, Progress};
use qmp::{QmpError, qapi_struct};

use super::{
    super::{Daemon, command::Command},
    change::JobType,
    find,
    types::{JobStatus, named},
};

const NS_PER_S: u128 = 1_000_000_000;

pub(super) fn commands() -> Vec<Command> {
    vec![Command::new("x-longshore-query-progress", query_progress)]
}

qapi_struct! {
    /// Arguments of `x-longshore-query-progress`.
    pub(crate) struct QueryProgress {
        /// The job's id; all jobs without it.
        id: Option<String>,
    }
}

qapi_struct! {
    /// How a job goes at a moment.
    pub(crate) struct JobProgress {
        /// Its id.
        id: String,
        /// What kind of job it is.
        r#type: JobType,
        /// Where it stands.
        status: JobStatus,
        /// Work done, in bytes.
        current_progress: u64,
        /// Work done and work to do, in bytes.
        total_progress: u64,
        /// How the copy goes, of jobs that copy.
        copy: Option<CopyProgress>,
        /// How a mirror gains on its guests.
        mirror: Option<MirrorProgress>,
    }
}

qapi_struct! {
    /// How a copy goes, and what bounds it.
    pub(crate) struct CopyProgress {
        /// Bytes per second that were copied lately.
        rate: u64,
        /// What bounds that: device, guest, latency-budget, speed-limit, max-workers, memory, paused or idle.
        reason: String,
        /// Time left in nanoseconds, if it goes on like this.
        left_ns: Option<u64>,
        /// Requests in flight.
        in_flight: u32,
        /// Most whole requests in flight as things stand.
        window: u32,
        /// Bytes in a whole request.
        chunk: u64,
        /// Bytes that the kernel or the file system moved or shared.
        offloaded: u64,
        /// Bytes that were read and written.
        copied: u64,
        /// Bytes of zeroes, written as such or needing nothing.
        zeroes: u64,
        /// What guests pay.
        guest: GuestCost,
    }
}

qapi_struct! {
    /// What a job costs the guests of its source.
    pub(crate) struct GuestCost {
        /// Requests that had to wait.
        delayed: u64,
        /// Time they waited, all together, in nanoseconds.
        delay_total_ns: u64,
        /// Longest time one of them waited, in nanoseconds.
        delay_max_ns: u64,
        /// What the copy has added lately to the 99th percentile of their writes, in nanoseconds, where there is a
        /// budget for that.
        added_p99_ns: Option<u64>,
    }
}

qapi_struct! {
    /// How a mirror gains on its guests.
    pub(crate) struct MirrorProgress {
        /// When guests' writes get to the target: background or write-blocking; absent once it is over.
        copy_mode: Option<String>,
        /// Bytes that differ.
        dirty: u64,
        /// Bytes per second that guests make different.
        dirtied_rate: u64,
        /// Bytes per second that the copy makes equal.
        copied_rate: u64,
        /// Whether guests make things different at least as fast.
        outrun: bool,
        /// By how much each change of a guest's begins late, in nanoseconds.
        guest_delay_ns: u64,
        /// Guests are held up: from the last look until the job is finalized.
        guests_wait: bool,
    }
}

async fn query_progress(
    daemon: &Rc<Daemon>,
    args: QueryProgress,
) -> Result<Vec<JobProgress>, QmpError> {
    let jobs = match args.id {
        Some(id) => vec![find(daemon, &id)?],
        None => daemon.registry().list(),
    };
    Ok(jobs.iter().filter_map(of_job).collect())
}

fn of_job(job: &Job) -> Option<JobProgress> {
    let info = job.info();
    let mut progress = JobProgress {
        id: job.id().unwrap_or_default().to_owned(),
        r#type: named(info.kind)?,
        status: info.status.into(),
        current_progress: info.progress.current,
        total_progress: info.progress.total,
        copy: None,
        mirror: None,
    };
    if let Some(backup) = Backup::of(job) {
        let report = backup.report();
        let seen = Seen {
            progress: info.progress,
            pace: report.pace,
            in_flight: report.requests_in_flight,
            counters: report.counters,
            guest: report.guest,
        };
        progress.copy = Some(copy(&seen));
    } else if let Some(mirror) = Mirror::of(job) {
        let report = mirror.report();
        let seen = Seen {
            progress: info.progress,
            pace: report.pace,
            in_flight: report.requests_in_flight,
            counters: report.counters,
            guest: report.guest,
        };
        let left_ns = match report.converge.estimate {
            Estimate::InNs(ns) => Some(ns),
            Estimate::Equal => Some(0),
            Estimate::Measuring | Estimate::Outrun | Estimate::Standing => None,
        };
        progress.copy = Some(CopyProgress {
            left_ns,
            ..copy(&seen)
        });
        progress.mirror = Some(MirrorProgress {
            copy_mode: mirror.copy_mode().map(|mode| mode.as_str().to_owned()),
            dirty: report.load.dirty_bytes + report.load.in_flight_bytes,
            guests_wait: report.guests_wait,
            ..gain(report.converge)
        });
    }
    Some(progress)
}

/// What backups and mirrors tell alike.
struct Seen {
    progress: Progress,
    pace: PaceReport,
    in_flight: u32,
    counters: CopyCounters,
    guest: AddedLatency,
}

fn copy(seen: &Seen) -> CopyProgress {
    let (pace, counters) = (&seen.pace, &seen.counters);
    let remaining = seen.progress.total.saturating_sub(seen.progress.current);
    CopyProgress {
        rate: pace.applied_bytes_per_s,
        reason: pace.reason.as_str().to_owned(),
        left_ns: left_ns(remaining, pace.applied_bytes_per_s),
        in_flight: seen.in_flight,
        window: pace.window,
        chunk: pace.chunk_bytes,
        offloaded: counters.offloaded_bytes,
        copied: counters.direct_bytes + counters.buffered_bytes + counters.bounced_bytes,
        zeroes: counters.zero_bytes + counters.skipped_bytes,
        guest: GuestCost {
            delayed: seen.guest.requests,
            delay_total_ns: seen.guest.total_ns,
            delay_max_ns: seen.guest.max_ns,
            added_p99_ns: pace.guest_added_p99_ns,
        },
    }
}

fn gain(converge: ConvergeReport) -> MirrorProgress {
    MirrorProgress {
        copy_mode: None,
        dirty: 0,
        dirtied_rate: converge.dirtied_bytes_per_s,
        copied_rate: converge.copied_bytes_per_s,
        outrun: converge.estimate == Estimate::Outrun,
        guest_delay_ns: converge.guest_delay_ns,
        guests_wait: false,
    }
}

/// How long so many bytes take at this rate.
fn left_ns(remaining_bytes: u64, bytes_per_s: u64) -> Option<u64> {
    if remaining_bytes == 0 {
        return Some(0);
    }
    let ns = (u128::from(remaining_bytes) * NS_PER_S).checked_div(u128::from(bytes_per_s))?;
    u64::try_from(ns).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_what_the_rate_makes_of_the_rest() {
        assert_eq!(left_ns(0, 0), Some(0));
        assert_eq!(left_ns(1, 0), None);
        assert_eq!(left_ns(3 << 20, 1 << 20), Some(3_000_000_000));
        assert_eq!(left_ns(u64::MAX, 1), None);
    }
}
