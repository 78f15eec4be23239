//! `longshore backup`: a one-shot copy of an image that nobody writes to.

pub(crate) mod device;
mod source;
mod target;

use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

use block::{
    BlockError, ErrorKind, Node,
    copy::{CopyCounters, TargetContent},
    nodes::{
        file::{FileOptions, OnOffAuto},
        nbd::NbdOptions,
    },
};
use job::{CancelMode, Job, JobError, JobOutcome};
use longshore::{Backup, BackupError, BackupOptions, Engine};
use serde_json::json;

use self::{
    device::{Device, Marked},
    source::Source,
    target::{Partial, Plan},
};
use super::{
    Done, Session,
    args::{self, VerifyArg},
    compare::Checksum,
    engine,
    exit::{Exit, Failure},
    far,
    output::{Fields, fields},
    progress::{Moment, Progress, TICK},
    signals::{Event, STOP_TIME_MAX},
    units,
    verify::{self, Sides},
};

pub(crate) use self::source::{locked, refuse_address};

/// Where the copy goes, while it is not complete.
enum Target {
    File(Partial),
    Device(Marked),
}

/// Runs the command.
pub(crate) fn run(args: &args::Backup, session: &Session) -> Result<Done, Failure> {
    let engine = engine::start()?;
    let source = Source::examine(&args.source, &engine)?;
    let plan = Plan::make(&args.target, &source)?;
    if let Plan::File(plan) = &plan {
        plan.check_space(&source)?;
    }
    if !args.offline {
        source.refuse_writers()?;
    }
    let opened = open_source(&engine, args, &source)?;
    source.check_unchanged()?;
    let (target, node) = make_target(plan, (&engine, &source), args)?;
    let task = Task {
        args,
        session,
        engine: &engine,
        source: &source,
        target: &target,
    };
    let copied = task.copy(&opened, &node);
    match copied {
        Ok(told) => {
            publish(target)?;
            Ok(tell(&told, args, session))
        }
        Err(failure) => {
            let failure = failure.or_advise(how_to_go_on(&target));
            if failure.exit.is_by_signal() {
                // The copy is gone; what may hang in the kernel is left to it.
                drop(target);
                session.output.end(&failure);
            }
            Err(failure)
        }
    }
}

fn open_source(engine: &Engine, args: &args::Backup, source: &Source) -> Result<Node, Failure> {
    if let Some(node) = source.node() {
        return Ok(node.clone());
    }
    // The locks of others are respected in any case; that ours work was seen before, or waived.
    let options = FileOptions {
        read_only: true,
        direct: args.direct.into(),
        ..FileOptions::new(&args.source)
    };
    match engine.open_file(Some("source"), &options) {
        Ok(opened) => Ok(opened.node),
        Err(error) if error.kind() == ErrorKind::Locked => Err(locked(&args.source)),
        Err(error) => Err(engine::failure("source", &error)),
    }
}

/// Makes the target, as late as can be: everything that can be refused has been.
fn make_target(
    plan: Plan,
    (engine, source): (&Engine, &Source),
    args: &args::Backup,
) -> Result<(Target, Node), Failure> {
    let open = |path: &Path| {
        let options = FileOptions {
            direct: OnOffAuto::from(args.direct),
            ..FileOptions::new(path)
        };
        engine::open(engine, "target", &options)
    };
    match plan {
        Plan::File(plan) => {
            let partial = plan.create(source)?;
            let opened = open(partial.path())?;
            Ok((Target::File(partial), opened.node))
        }
        Plan::Device(path) => {
            let device = Device::claim(&path, source.len_bytes())?;
            // Its locks are looked at before a byte is written.
            let opened = open(&path)?;
            mark(device, &opened.node, (engine, source))
        }
        Plan::Far(uri) => {
            let export = far::open(engine, "target", &NbdOptions::new(uri))?;
            let device = Device::of_export(&args.target, (engine, &export), source.len_bytes())?;
            mark(device, &export, (engine, source))
        }
    }
}

fn mark(
    device: Device,
    below: &Node,
    (engine, source): (&Engine, &Source),
) -> Result<(Target, Node), Failure> {
    let marked = device.mark(&source.path)?;
    let node = marked
        .add_node(engine.graph(), below)
        .map_err(|error| Failure::block("cannot use the target", &error))?;
    Ok((Target::Device(marked), node))
}

fn publish(target: Target) -> Result<(), Failure> {
    match target {
        Target::File(partial) => partial.publish(),
        Target::Device(marked) => marked.publish(),
    }
}

/// How to go on after a failure: what of the target is there.
fn how_to_go_on(target: &Target) -> String {
    match target {
        Target::File(partial) => {
            let state = if partial.replaces() {
                "is as it was"
            } else {
                "was not made"
            };
            format!(
                "'{}' {state}. To go on, run the same command again.",
                partial.place().display()
            )
        }
        Target::Device(marked) => format!(
            "'{}' is marked as incomplete. To go on, run the same command again.",
            marked.path().display()
        ),
    }
}

/// What there is to tell at the end of a copy.
struct Told {
    counters: CopyCounters,
    len_bytes: u64,
    elapsed: Duration,
    is_verified: bool,
    engine: String,
}

/// One copy under way.
struct Task<'a> {
    args: &'a args::Backup,
    session: &'a Session,
    engine: &'a Engine,
    source: &'a Source,
    target: &'a Target,
}

impl Task<'_> {
    /// Copies, checks that nobody wrote to the source, and verifies if asked to.
    fn copy(&self, source: &Node, target: &Node) -> Result<Told, Failure> {
        let (args, output) = (self.args, &*self.session.output);
        let job_id = job_id(&args.source);
        let title = format!(
            "backup {} → {}   full",
            args.source.display(),
            args.target.display()
        );
        let mut progress = Progress::start(output, title, &job_id);
        output.record("start", self.start_fields(&job_id, source));
        let options = BackupOptions {
            speed_bytes_per_s: args.limit.unwrap_or(0),
            target_content: match self.target {
                Target::File(_) => TargetContent::Zero,
                Target::Device(_) => TargetContent::Unknown,
            },
            ..args.bounds.bound(BackupOptions::new(&job_id))
        };
        let backup = self
            .engine
            .backup(source, target, options)
            .map_err(|error| start_failure(&error))?;
        let outcome = wait(self.session, backup.job(), &mut progress, &|| {
            self.moment(&backup)
        });
        progress.end();
        outcome?;
        self.source.check_unchanged()?;
        let report = backup.report();
        let is_verified = args.verify == VerifyArg::Read;
        let elapsed = progress.elapsed();
        if is_verified {
            self.verify(source, target)?;
            self.source.check_unchanged()?;
        }
        Ok(Told {
            counters: report.counters,
            len_bytes: report.len_bytes,
            elapsed,
            is_verified,
            engine: self.engine.describe().to_owned(),
        })
    }

    fn start_fields(&self, job_id: &str, source: &Node) -> Fields {
        fields(json!({
            "job": job_id,
            "kind": "backup",
            "mode": "full",
            "source": self.args.source.to_string_lossy(),
            "target": self.args.target.to_string_lossy(),
            "bytes_total": source.len_bytes(),
            "bytes_to_copy": self.source.allocated_bytes(),
            "engine": self.engine.describe(),
        }))
    }

    fn moment(&self, backup: &Backup) -> Moment {
        let report = backup.report();
        let counters = report.counters;
        Moment {
            phase: "copy",
            total_bytes: report.len_bytes,
            done_bytes: report.done_bytes,
            data_bytes: self.source.allocated_bytes(),
            moved_bytes: moved_bytes(&counters),
            zero_bytes: counters.zero_bytes,
            skipped_bytes: counters.skipped_bytes,
            limit_bytes_per_s: self.args.limit,
            pace: report.pace,
            guest_latency_ns: self.args.bounds.guest_latency,
        }
    }

    fn verify(&self, source: &Node, target: &Node) -> Result<(), Failure> {
        let sides = Sides {
            nodes: [target, source],
            names: ["target", "source"],
            len_bytes: source.len_bytes(),
            checksum: Checksum::No,
            title: format!(
                "verify {} against {}",
                self.args.target.display(),
                self.args.source.display()
            ),
            job: job_id(&self.args.source),
        };
        verify::compare(self.engine, self.session, &sides).map(drop)
    }
}

/// Waits for a job and shows how far it is; a signal cancels it.
pub(crate) fn wait(
    session: &Session,
    job: &Job,
    progress: &mut Progress<'_>,
    moment: &dyn Fn() -> Moment,
) -> Result<(), Failure> {
    let waited = job.clone();
    session
        .events
        .tell_when(move || drop(waited.wait_blocking()))?;
    let mut stopped: Option<(Exit, Instant)> = None;
    loop {
        let event = session.events.next(TICK);
        let moment = moment();
        match event {
            Some(Event::Tell) => progress.tell(&moment),
            Some(Event::Stop(exit)) => {
                stopped.get_or_insert((exit, Instant::now()));
                // A job that has just ended by itself takes no cancel.
                let _ = job.cancel(CancelMode::Force);
            }
            Some(Event::Done) | None => {}
        }
        progress.tick(&moment);
        let outcome = job.outcome();
        match (stopped, outcome) {
            (Some((exit, _)), Some(_)) => return Err(interrupted(exit)),
            // What hangs in the kernel is left to it.
            (Some((exit, since)), None) if since.elapsed() > STOP_TIME_MAX => {
                return Err(interrupted(exit));
            }
            (_, None) => {}
            (None, Some(JobOutcome::Completed)) => return Ok(()),
            (None, Some(JobOutcome::Failed(error))) => return Err(job_failure(&error)),
            (None, Some(JobOutcome::Cancelled(_))) => {
                return Err(Failure::new(Exit::Cancelled, "the backup was cancelled"));
            }
        }
    }
}

fn interrupted(exit: Exit) -> Failure {
    Failure::new(exit, "stopped by a signal before the copy was complete")
}

/// Why a backup did not begin.
pub(crate) fn start_failure(error: &BackupError) -> Failure {
    match error {
        BackupError::Node { source, .. } => Failure::block("cannot start the backup", source),
        other => Failure::new(Exit::Failed, format!("cannot start the backup: {other}")),
    }
}

/// Why a job failed: by the error of the node where there is one, or else as the job tells it.
fn job_failure(error: &JobError) -> Failure {
    let source = std::error::Error::source(error);
    if let Some(error) = source.and_then(|it| it.downcast_ref::<BlockError>()) {
        return Failure::block("the backup failed", error);
    }
    let text = format!("the backup failed: {error}");
    match error.errno() {
        Some(errno) => Failure {
            text,
            ..Failure::io("", &io::Error::from_raw_os_error(errno))
        },
        None => Failure::new(Exit::Failed, text),
    }
}

/// Bytes of data that were moved, whoever moved them.
pub(crate) fn moved_bytes(counters: &CopyCounters) -> u64 {
    counters.offloaded_bytes
        + counters.direct_bytes
        + counters.buffered_bytes
        + counters.bounced_bytes
}

/// Bytes by class, as records have them.
pub(crate) fn counter_fields(counters: &CopyCounters) -> Fields {
    fields(json!({
        "bytes_copied": moved_bytes(counters),
        "bytes_offloaded": counters.offloaded_bytes,
        "bytes_direct": counters.direct_bytes,
        "bytes_buffered": counters.buffered_bytes,
        "bytes_bounced": counters.bounced_bytes,
        "bytes_zero": counters.zero_bytes,
        "bytes_skipped": counters.skipped_bytes,
    }))
}

/// Bytes by class, as people read them.
pub(crate) fn counter_text(counters: &CopyCounters) -> String {
    let classes = [
        ("offloaded", counters.offloaded_bytes),
        ("direct", counters.direct_bytes),
        ("buffered", counters.buffered_bytes),
        ("bounced", counters.bounced_bytes),
        ("zero", counters.zero_bytes),
        ("holes skipped", counters.skipped_bytes),
    ];
    let shown = classes.map(|(name, count)| format!("{} {name}", units::bytes(count)));
    shown.join(", ")
}

/// The block at the end, and the fields of the result.
fn tell(told: &Told, args: &args::Backup, session: &Session) -> Done {
    let Told {
        counters,
        len_bytes,
        elapsed,
        is_verified,
        engine,
    } = told;
    let average = units::per_second(moved_bytes(counters), *elapsed);
    let (source, target) = (args.source.display(), args.target.display());
    let verified = if *is_verified {
        "yes, every byte was read again"
    } else {
        "no"
    };
    let (size, time) = (units::bytes(*len_bytes), units::duration(*elapsed));
    let lines = [
        format!("backup of '{source}' is complete: {size} in {time}"),
        format!("  bytes     {}", counter_text(counters)),
        format!("  average   {}", units::rate(average)),
        format!("  verified  {verified}"),
        format!("  engine    {engine}"),
        format!("  target    {target}"),
        format!("  next      longshore verify '{target}' --against '{source}'"),
    ];
    for line in lines {
        session.output.note(&line);
    }
    let mut record = fields(json!({
        "job": job_id(&args.source),
        "target": args.target.to_string_lossy(),
        "bytes_total": len_bytes,
        "seconds": elapsed.as_secs_f64(),
        "average_bytes_per_second": average,
        "verified": if *is_verified { "read" } else { "none" },
    }));
    record.extend(counter_fields(counters));
    Done::with(record)
}

/// A job id made of the image's name.
pub(crate) fn job_id(source: &Path) -> String {
    let name = source.file_name().unwrap_or_default().to_string_lossy();
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let plain: String = name.chars().filter(is_plain).take(40).collect();
    if plain.starts_with(|c: char| c.is_ascii_alphabetic()) {
        plain
    } else {
        format!("backup-{plain}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_called_like_its_image() {
        let ids = ["/a/vm1.img", "9.raw", "/dev/..", "ä b.img"].map(|path| job_id(Path::new(path)));
        assert_eq!(ids, ["vm1.img", "backup-9.raw", "backup-", "b.img"]);
    }

    #[test]
    fn a_failed_job_ends_with_the_code_of_its_error_number() {
        let error = JobError::failed("cannot write").with_errno(libc::ENOSPC);
        let failure = job_failure(&error);
        assert_eq!(failure.exit, Exit::Space);
        assert_eq!(failure.errno, Some(libc::ENOSPC));
    }
}
