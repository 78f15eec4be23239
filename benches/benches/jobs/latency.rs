//! How soon a backup at full speed pauses, and ends when it is cancelled by force.
//!
//! Random bytes are copied from one file to another on the same disk. In each cycle a backup is
//! started, runs a while, is paused, resumed, runs a while and is cancelled. Sides take turns of
//! some cycles, and each has a target of its own.

use std::{
    fs::File,
    io::{self, Write},
    time::{Duration, Instant},
};

use benches::{
    CHUNK_BYTES, Disturbed, Moment, Scratch, percentile, rest, skipped, spread, tell_figure,
    tell_ratio,
};
use tempfile::{NamedTempFile, TempDir};

use crate::{
    Extent,
    our_backups::{Layout, OurBackups},
    reference::{Reference, Setup, version},
};

/// Longer than anything takes that works.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);
/// More than is copied in a cycle, however fast the disk.
const LEN_MIB: u64 = 2048;
/// No cycle begins when a turn of a side has taken so long: those who are slow have fewer samples.
const TURN_MAX: Duration = Duration::from_secs(6);
/// The same for the side that ours is held against.
const RIVAL_TURN_MAX: Duration = Duration::from_secs(12);
/// A backup runs this long before it is paused or cancelled, and a part more: long enough for its
/// requests to be as many as they will be.
const RUN: Duration = Duration::from_millis(50);
const RUN_MORE_MILLIS: u64 = 60;
/// Each so many cycles a backup is asked how it stands, and not paused; so many times, some time apart.
const QUERY_EVERY: u64 = 6;
const QUERIES: u32 = 5;
/// It stays paused for so long.
const STAY: Duration = Duration::from_millis(5);

/// How long something took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Took {
    pub(crate) time: Duration,
    pub(crate) end: End,
}

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// What was waited for.
    Reached,
    /// The backup went on to its end.
    TooLate,
    /// It had ended before anything was asked of it, so this says nothing.
    Gone,
}

impl Took {
    pub(crate) fn since(start: Instant, end: End) -> Self {
        let time = start.elapsed();
        Self { time, end }
    }
}

/// A program that does backups, one at a time.
pub(crate) trait Backups {
    /// Starts one, and waits until it runs.
    fn start(&mut self) -> Result<(), String>;
    /// What it has copied, by a query; `None` once it has gone.
    fn done_bytes(&mut self) -> Result<Option<u64>, String>;
    /// Pauses it: from the call until the caller is told that it is paused.
    fn pause(&mut self) -> Result<Took, String>;
    /// Resumes it: until it runs.
    fn resume(&mut self) -> Result<Took, String>;
    /// Cancels it by force: until the caller is told that it is concluded.
    fn cancel(&mut self) -> Result<Took, String>;
    /// Waits until there is nothing of it, and its target is free.
    fn gone(&mut self) -> Result<(), String>;
}

/// Ours first.
const SIDES: [Side; 5] = [
    Side::Ours("ours", Layout::TwoLoops),
    Side::Ours("ours_on_one_loop", Layout::OneLoop),
    Side::Reference("qsd_iothread", Setup::IoThread),
    Side::Reference("qsd_direct", Setup::Direct),
    Side::Reference("qsd_defaults", Setup::Defaults),
];

#[derive(Clone, Copy, Debug)]
enum Side {
    Ours(&'static str, Layout),
    Reference(&'static str, Setup),
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Ours(name, _) | Self::Reference(name, _) => name,
        }
    }

    fn turn_max(self) -> Duration {
        match self {
            Self::Reference(_, Setup::IoThread) => RIVAL_TURN_MAX,
            Self::Reference(..) | Self::Ours(..) => TURN_MAX,
        }
    }

    fn backups(self, files: &Files) -> Result<Box<dyn Backups>, String> {
        let source = files.source.path();
        match self {
            Self::Ours(_, layout) => {
                let ours = OurBackups::new(layout, source, files.target_of_ours.path())?;
                Ok(Box::new(ours))
            }
            Self::Reference(_, setup) => {
                let target = match setup {
                    Setup::IoThread | Setup::Direct | Setup::Served(_) => &files.target_of_direct,
                    Setup::Defaults => &files.target_of_defaults,
                };
                // The last daemon has left its sockets behind.
                let directory = TempDir::new().map_err(|error| error.to_string())?;
                let nodes = (source, target.path());
                Ok(Box::new(Reference::start(setup, nodes, directory.path())?))
            }
        }
    }

    /// Has nothing of a turn go on in the background of the next one, or help it.
    fn settle(self, files: &Files) -> io::Result<()> {
        if let Self::Reference(_, Setup::Defaults) = self {
            let target = files.target_of_defaults.as_file();
            target.sync_all()?;
            forget_cached(target);
            forget_cached(&files.source.open()?);
        }
        Ok(())
    }
}

/// All on one disk. A target has the bytes of the page cache or none, never both.
struct Files {
    source: Scratch,
    target_of_ours: NamedTempFile,
    target_of_direct: NamedTempFile,
    target_of_defaults: NamedTempFile,
}

/// What a side found, in milliseconds.
#[derive(Debug, Default)]
struct Found {
    pause: Verb,
    cancel: Verb,
    /// From the cancel until nothing of the backup is left, and another one can have its target.
    cancel_and_gone: Verb,
    query: Verb,
    mib_per_s: Vec<f64>,
}

impl Found {
    /// What the ratios are about.
    fn compared(&mut self) -> [&mut Verb; 3] {
        [&mut self.pause, &mut self.cancel, &mut self.cancel_and_gone]
    }
}

type VerbOf = fn(&Found) -> &Verb;

/// What was found about one verb.
#[derive(Debug, Default)]
struct Verb {
    millis: Vec<f64>,
    /// Times that a backup went on to its end in spite of it; what it took till then counts.
    too_late: u32,
    /// The median of each turn, to compare with that of the others in the same turn.
    medians: Vec<f64>,
}

impl Verb {
    /// Takes a sample in; returns whether the backup is still there.
    fn note(&mut self, took: Took) -> bool {
        if took.end == End::Gone {
            return false;
        }
        self.millis.push(took.time.as_secs_f64() * 1e3);
        self.too_late += u32::from(took.end == End::TooLate);
        took.end == End::Reached
    }
}

pub(crate) fn run(extent: Extent) {
    let (turns, cycles, len_mib) = match extent {
        Extent::Try => (1, QUERY_EVERY, LEN_MIB / 4),
        Extent::Quick => (3, 12, LEN_MIB),
        Extent::Full => (10, 12, LEN_MIB),
    };
    if let Err(why) = measure((turns, cycles), len_mib) {
        skipped(format_args!("jobs/latency: {why}"));
    }
}

fn measure((turns, cycles): (usize, u64), len_mib: u64) -> Result<(), String> {
    let Some(source) = Scratch::on_disk(len_mib) else {
        return Ok(());
    };
    let target = || target(source.len_bytes()).map_err(|error| error.to_string());
    let files = Files {
        target_of_ours: target()?,
        target_of_direct: target()?,
        target_of_defaults: target()?,
        source,
    };
    let opened = files.source.open().map_err(|error| error.to_string())?;
    forget_cached(&opened);
    let mut sides = SIDES.to_vec();
    if let Err(why) = version() {
        skipped(why);
        sides.retain(|side| matches!(side, Side::Ours(..)));
    }
    let mut found: Vec<Found> = sides.iter().map(|_| Found::default()).collect();
    let mut disturbed = Disturbed {
        turns: 0,
        of: turns,
    };
    for number in 0..turns {
        let start = Moment::now();
        // Each side comes after each other one: a disk may make one pay for what another has written.
        for at in 0..sides.len() {
            let at = (number + at) % sides.len();
            turn(sides[at], &files, cycles, &mut found[at])
                .map_err(|error| format!("{}: {error}", sides[at].name()))?;
        }
        disturbed.turns += usize::from(start.is_disturbed());
    }
    tell(&sides, &found, disturbed);
    Ok(())
}

/// A file with room for `len_bytes` bytes, which writing does not have to find any more.
pub(crate) fn target(len_bytes: u64) -> io::Result<NamedTempFile> {
    let mut file = NamedTempFile::new()?;
    let zeroes = vec![0; CHUNK_BYTES];
    for _ in 0..len_bytes / CHUNK_BYTES as u64 {
        file.write_all(&zeroes)?;
    }
    file.as_file().sync_all()?;
    forget_cached(file.as_file());
    Ok(file)
}

/// Takes the bytes of a file out of the page cache.
fn forget_cached(file: &File) {
    // Advice only: without it the first writes take longer.
    let _ = nix::fcntl::posix_fadvise(
        file,
        0,
        0,
        nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED,
    );
}

fn turn(side: Side, files: &Files, cycles: u64, found: &mut Found) -> Result<(), String> {
    let before = found.compared().map(|verb| verb.millis.len());
    let mut backups = side.backups(files)?;
    let start = Instant::now();
    for number in 0..cycles {
        if start.elapsed() < side.turn_max() {
            cycle(&mut *backups, number, found)?;
        }
    }
    drop(backups);
    for (verb, before) in found.compared().into_iter().zip(before) {
        let of_turn = &verb.millis[before..];
        if !of_turn.is_empty() {
            verb.medians.push(percentile(of_turn, 50));
        }
    }
    side.settle(files).map_err(|error| error.to_string())
}

/// One backup, paused or asked about, and cancelled.
///
/// Nothing is asked before a verb: an answer would show that the other side is listening just now.
fn cycle(backups: &mut dyn Backups, number: u64, found: &mut Found) -> Result<(), String> {
    // Not always at the same point of the copy.
    let run = |salt: u64| {
        let more = (number * 37 + salt) % RUN_MORE_MILLIS;
        rest(RUN + Duration::from_millis(more));
    };
    backups.start()?;
    let started = Instant::now();
    run(0);
    let goes_on = if number % QUERY_EVERY == QUERY_EVERY - 1 {
        query(backups, started, found)?
    } else if found.pause.note(backups.pause()?) {
        rest(STAY);
        backups.resume()?.end == End::Reached
    } else {
        false
    };
    if !goes_on {
        return backups.gone();
    }
    run(19);
    let start = Instant::now();
    let cancelled = backups.cancel()?;
    found.cancel.note(cancelled);
    backups.gone()?;
    found
        .cancel_and_gone
        .note(Took::since(start, cancelled.end));
    Ok(())
}

/// Asks how a backup stands; whether it is still there.
fn query(backups: &mut dyn Backups, started: Instant, found: &mut Found) -> Result<bool, String> {
    for _ in 0..QUERIES {
        let asked = Instant::now();
        let Some(done_bytes) = backups.done_bytes()? else {
            return Ok(found.query.note(Took::since(asked, End::TooLate)));
        };
        found.query.note(Took::since(asked, End::Reached));
        let mib = done_bytes as f64 / CHUNK_BYTES as f64;
        found.mib_per_s.push(mib / started.elapsed().as_secs_f64());
        rest(STAY);
    }
    Ok(true)
}

fn tell(sides: &[Side], found: &[Found], disturbed: Disturbed) {
    let verbs: [(&str, VerbOf); 4] = [
        ("pause", |found| &found.pause),
        ("cancel", |found| &found.cancel),
        ("cancel_and_gone", |found| &found.cancel_and_gone),
        ("query", |found| &found.query),
    ];
    for (what, verb) in verbs {
        for (side, found) in sides.iter().zip(found) {
            tell_verb(&format!("{what}/{}", side.name()), verb(found), disturbed);
        }
    }
    for (side, found) in sides.iter().zip(found) {
        let name = format!("jobs/latency/speed/{}", side.name());
        if !found.mib_per_s.is_empty() {
            tell_figure((&name, "MiB/s"), found.mib_per_s.iter().copied(), disturbed);
        }
    }
    for (what, verb) in &verbs[..3] {
        for (peer, theirs) in sides.iter().zip(found).skip(1) {
            let (ours, theirs) = (verb(&found[0]), verb(theirs));
            if theirs.millis.is_empty() {
                continue;
            }
            let p99 = percentile(&ours.millis, 99) / percentile(&theirs.millis, 99);
            let name = format!("jobs/latency/{what}_p99/ours/{}", peer.name());
            tell_ratio(&name, [p99], disturbed);
            let pairs = ours.medians.iter().zip(&theirs.medians);
            let name = format!("jobs/latency/{what}_p50/ours/{}", peer.name());
            tell_ratio(&name, pairs.map(|(ours, theirs)| ours / theirs), disturbed);
        }
    }
}

fn tell_verb(name: &str, verb: &Verb, disturbed: Disturbed) {
    if verb.millis.is_empty() {
        return;
    }
    let p99 = spread([percentile(&verb.millis, 99)]);
    let (late, count) = (verb.too_late, verb.millis.len());
    let remark = format_args!(", p99 {p99}, {late} of {count} too late{disturbed}");
    let name = format!("jobs/latency/{name}");
    tell_figure((&name, "ms"), verb.millis.iter().copied(), remark);
}
