//! What one round does to the disk: a job of some kind, disturbed or not, and its end.

use std::{
    fmt, fs, thread,
    time::{Duration, Instant},
};

use block::{Node, mirror::CopyMode};
use job::{CancelMode, Job, JobStatus};
use longshore::{BackupOptions, Engine, Mirror, MirrorOptions};

use crate::{Failure, Plan, Round, crowd::Crowd, writer::Chance};

/// A mirror that is not ready by then is told to have guests' writes wait for it.
const CONVERGES_WITHIN: Duration = Duration::from_secs(5);
/// No job of ours takes that long.
const HANGS_AFTER: Duration = Duration::from_secs(120);

/// What a round does.
#[derive(Clone, Copy)]
pub(crate) enum Act {
    /// A backup that starts while no request is in flight.
    QuietBackup,
    /// A backup that starts under writers.
    Backup,
    /// A mirror that ends as an equal copy.
    Mirror(CopyMode),
    /// A mirror whose target takes the source's place.
    Pivot(CopyMode),
    /// A backup that is cancelled somewhere.
    CancelledBackup,
    /// A mirror that is cancelled somewhere.
    CancelledMirror,
}

impl Act {
    pub(crate) fn draw(chance: &mut Chance) -> Self {
        let mode = [CopyMode::Background, CopyMode::WriteBlocking][chance.below(2)];
        match chance.below(12) {
            0..2 => Self::QuietBackup,
            2..5 => Self::Backup,
            5..7 => Self::Mirror(mode),
            7..10 => Self::Pivot(mode),
            10 => Self::CancelledBackup,
            _ => Self::CancelledMirror,
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, mode) = match self {
            Self::QuietBackup => ("quiet backups", None),
            Self::Backup => ("backups", None),
            Self::Mirror(mode) => ("mirrors", Some(mode)),
            Self::Pivot(mode) => ("pivots", Some(mode)),
            Self::CancelledBackup => ("cancelled backups", None),
            Self::CancelledMirror => ("cancelled mirrors", None),
        };
        match mode {
            None => f.write_str(name),
            Some(CopyMode::Background) => write!(f, "{name} in the background"),
            Some(CopyMode::WriteBlocking) => write!(f, "{name} with writes blocking"),
        }
    }
}

/// How a round's job ended.
pub(crate) struct Ended {
    /// What the copy is.
    pub(crate) moment: Moment,
    /// The guests are on the target now, and the old image is the copy.
    pub(crate) guests_moved: bool,
}

/// What is known of the instant of a copy.
pub(crate) enum Moment {
    /// There is no whole copy.
    Nothing,
    /// The image as it was then.
    Read(Vec<u8>),
    /// Two ticks of the crowd that it lies between.
    Between(u64, u64),
}

/// Runs the round's job to its end.
pub(crate) fn run(
    plan: &Plan,
    round: Round,
    engine: &Engine,
    nodes: (&Node, &Node),
    crowd: &Crowd,
) -> Result<Ended, Failure> {
    let mut chance = Chance::new(round.seed);
    crowd.wait_requests(chance.below(3000));
    let ended = |moment, guests_moved| Ended {
        moment,
        guests_moved,
    };
    match round.act {
        Act::QuietBackup => {
            crowd.hold();
            let image = fs::read(&plan.image)?;
            let job = start_backup(round, engine, nodes)?;
            crowd.go_on();
            finish(&job)?;
            Ok(ended(Moment::Read(image), false))
        }
        Act::Backup => {
            let called = crowd.tick();
            let job = start_backup(round, engine, nodes)?;
            let moment = Moment::Between(called, crowd.tick());
            disturb(&job, &mut chance)?;
            finish(&job)?;
            Ok(ended(moment, false))
        }
        Act::CancelledBackup => {
            let job = start_backup(round, engine, nodes)?;
            cancel(&job, &mut chance)?;
            Ok(ended(Moment::Nothing, false))
        }
        Act::CancelledMirror => {
            let mirror = start_mirror(round, engine, nodes, CopyMode::Background)?;
            cancel(mirror.job(), &mut chance)?;
            Ok(ended(Moment::Nothing, false))
        }
        Act::Mirror(mode) => {
            let mirror = start_mirror(round, engine, nodes, mode)?;
            follow(&mirror, mode, crowd, &mut chance)?;
            let called = crowd.tick();
            mirror.job().cancel(CancelMode::Soft)?;
            finish(mirror.job())?;
            Ok(ended(Moment::Between(called, crowd.tick()), false))
        }
        Act::Pivot(mode) => {
            let mirror = start_mirror(round, engine, nodes, mode)?;
            follow(&mirror, mode, crowd, &mut chance)?;
            let called = crowd.tick();
            mirror.job().complete()?;
            finish(mirror.job())?;
            let moment = Moment::Between(called, crowd.tick());
            crowd.wait_requests(chance.below(1000));
            Ok(ended(moment, true))
        }
    }
}

fn start_backup(round: Round, engine: &Engine, nodes: (&Node, &Node)) -> Result<Job, Failure> {
    let options = BackupOptions {
        target_content: round.target_content,
        ..BackupOptions::new("soak")
    };
    let backup = engine.backup(nodes.0, nodes.1, options)?;
    Ok(backup.job().clone())
}

fn start_mirror(
    round: Round,
    engine: &Engine,
    nodes: (&Node, &Node),
    copy_mode: CopyMode,
) -> Result<Mirror, Failure> {
    let options = MirrorOptions {
        target_content: round.target_content,
        copy_mode,
        ..MirrorOptions::new("soak")
    };
    Ok(engine.mirror(nodes.0, nodes.1, options)?)
}

/// Brings a mirror to where it can be ended, not by the straightest way.
fn follow(
    mirror: &Mirror,
    mode: CopyMode,
    crowd: &Crowd,
    chance: &mut Chance,
) -> Result<(), Failure> {
    disturb(mirror.job(), chance)?;
    let (started, mut mode) = (Instant::now(), mode);
    while mirror.job().status() != JobStatus::Ready {
        if let Some(outcome) = mirror.job().outcome() {
            outcome.into_result()?;
            return Err("the mirror ended before it was ready".into());
        }
        if started.elapsed() > HANGS_AFTER {
            return Err(format!("the mirror is not ready: {:?}", mirror.report()).into());
        }
        let is_late = started.elapsed() > CONVERGES_WITHIN && mode == CopyMode::Background;
        if is_late || chance.below(50) == 0 {
            mode = if is_late {
                CopyMode::WriteBlocking
            } else {
                other(mode)
            };
            mirror.set_copy_mode(mode)?;
        }
        nap(5);
    }
    for _ in 0..chance.below(4) {
        mode = other(mode);
        mirror.set_copy_mode(mode)?;
        crowd.wait_requests(chance.below(300));
    }
    Ok(())
}

fn other(mode: CopyMode) -> CopyMode {
    match mode {
        CopyMode::Background => CopyMode::WriteBlocking,
        CopyMode::WriteBlocking => CopyMode::Background,
    }
}

/// Pauses the job now and then. It may have ended by itself already.
fn disturb(job: &Job, chance: &mut Chance) -> Result<(), Failure> {
    for _ in 0..chance.below(3) {
        nap(chance.next() % 50);
        if job.pause().is_err() {
            return Ok(());
        }
        nap(chance.next() % 50);
        job.resume()?;
    }
    Ok(())
}

fn cancel(job: &Job, chance: &mut Chance) -> Result<(), Failure> {
    nap(chance.next() % 100);
    // Unless it was faster.
    if job.cancel(CancelMode::Force).is_ok() {
        ended(job)?;
    }
    Ok(())
}

fn finish(job: &Job) -> Result<(), Failure> {
    ended(job)?;
    Ok(job.wait_blocking().into_result()?)
}

/// Waits for the end, but not for ever.
fn ended(job: &Job) -> Result<(), Failure> {
    let started = Instant::now();
    while job.outcome().is_none() {
        if started.elapsed() > HANGS_AFTER {
            return Err(format!("the job hangs: {:?}", job.info()).into());
        }
        nap(1);
    }
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "this thread conducts, and turns no context"
)]
fn nap(ms: u64) {
    thread::sleep(Duration::from_millis(ms));
}
