//! How fast whole disks are copied: wall time, processor time and memory, of ours in a process of its own and of the
//! reference's daemon, taking turns.
//!
//! Backups and mirrors on a real disk and in memory; most of it holes, and nothing but holes; and only what has
//! changed.

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    time::{Duration, Instant},
};

use benches::{
    CHUNK_BYTES, Disturbed, Moment, RandomBlocks, Scratch, cpu_time, raw_copy::RawCopier, rest,
    skipped, tell_figure, tell_ratio,
};
use tempfile::{NamedTempFile, TempDir};

use crate::{
    Extent,
    copy_side::FLAG,
    guest::touch,
    latency::{Backups, TIMEOUT, target},
    process::{Found, run_self, status_kib},
    reference::{EXPORT, EXPORT_SOCKET, Reference, Setup, Work, version},
};

/// Requests of the simplest program there is, and on how much memory: as many as served it best.
const LIMIT_DEPTH: u32 = 8;
/// How often a daemon is asked whether it is done.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    /// Random bytes, on a disk.
    Disk,
    /// The same, mirrored.
    DiskMirror,
    /// Random bytes, in memory.
    Memory,
    /// The same, mirrored.
    MemoryMirror,
    /// A thirty-second part of it data, the rest holes.
    Sparse,
    /// Holes.
    Holes,
    /// Random bytes on a disk, of which a hundredth has changed, in pieces of 64 KiB.
    Incremental,
}

/// How it is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// Ours, on so many contexts.
    Ours(&'static str, usize),
    Reference(&'static str, Setup),
    /// A bare ring that does nothing else.
    Limit,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Ours(name, _) | Self::Reference(name, _) => name,
            Self::Limit => "raw_ring",
        }
    }
}

const OURS: Side = Side::Ours("ours", 1);
const OURS_ON_TWO: Side = Side::Ours("ours_on_two", 2);
const DIRECT: Side = Side::Reference("qsd_direct", Setup::Direct);
const SERVED: Side = Side::Reference("qsd_iothread", Setup::Served(None));
const DEFAULTS: Side = Side::Reference("qsd_defaults", Setup::Defaults);

impl Case {
    const ALL: [Self; 7] = [
        Self::Disk,
        Self::DiskMirror,
        Self::Memory,
        Self::MemoryMirror,
        Self::Sparse,
        Self::Holes,
        Self::Incremental,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::DiskMirror => "disk_mirror",
            Self::Memory => "tmpfs",
            Self::MemoryMirror => "tmpfs_mirror",
            Self::Sparse => "sparse",
            Self::Holes => "holes",
            Self::Incremental => "incremental",
        }
    }

    fn sides(self) -> &'static [Side] {
        match self {
            Self::Disk | Self::DiskMirror => &[OURS, DIRECT, DEFAULTS, Side::Limit],
            Self::Memory | Self::MemoryMirror => &[OURS, OURS_ON_TWO, DIRECT, DEFAULTS],
            Self::Sparse | Self::Holes => &[OURS, DIRECT, DEFAULTS],
            // Its changes come through an export.
            Self::Incremental => &[OURS, SERVED],
        }
    }

    /// The source, if this machine has a place for it.
    fn source(self, len_mib: u64) -> io::Result<Option<Source>> {
        Ok(match self {
            Self::Disk | Self::DiskMirror | Self::Incremental => {
                Scratch::on_disk(len_mib).map(Source::Full)
            }
            Self::Memory | Self::MemoryMirror => Scratch::in_memory(len_mib).map(Source::Full),
            Self::Sparse => Some(Source::Holes(sparse(len_mib / 2, len_mib * 16)?)),
            Self::Holes => Some(Source::Holes(sparse(0, len_mib * 256)?)),
        })
    }

    fn work(self) -> Work {
        match self {
            Self::Disk | Self::Memory | Self::Sparse | Self::Holes => Work::Backup,
            Self::DiskMirror | Self::MemoryMirror => Work::Mirror("background"),
            Self::Incremental => Work::Incremental,
        }
    }

    /// Bytes that have to be moved, of a source of so many MiB.
    fn gib(self, len_mib: u64) -> f64 {
        let mib = match self {
            Self::Disk | Self::DiskMirror | Self::Memory | Self::MemoryMirror => len_mib,
            Self::Sparse => len_mib / 2,
            Self::Holes => 0,
            Self::Incremental => len_mib / 100,
        };
        mib as f64 / 1024.0
    }
}

enum Source {
    Full(Scratch),
    Holes(NamedTempFile),
}

impl Source {
    fn path(&self) -> &Path {
        match self {
            Self::Full(scratch) => scratch.path(),
            Self::Holes(file) => file.path(),
        }
    }

    /// A target that has its blocks, as a disk would, or none, as the source.
    fn target(&self) -> io::Result<PathOf> {
        match self {
            Self::Full(scratch) if scratch.name() == "tmpfs" => {
                let folder = scratch.path().parent().unwrap_or(Path::new("/"));
                let file = NamedTempFile::new_in(folder)?;
                file.as_file().set_len(scratch.len_bytes())?;
                Ok(PathOf(file))
            }
            Self::Full(scratch) => target(scratch.len_bytes()).map(PathOf),
            Self::Holes(source) => {
                let file = NamedTempFile::new()?;
                file.as_file().set_len(source.as_file().metadata()?.len())?;
                Ok(PathOf(file))
            }
        }
    }
}

/// A target, gone when this is dropped.
struct PathOf(NamedTempFile);

/// A file of `len_mib`, in which `data_mib` are random bytes, evenly spread.
fn sparse(data_mib: u64, len_mib: u64) -> io::Result<NamedTempFile> {
    let file = NamedTempFile::new()?;
    file.as_file().set_len(len_mib << 20)?;
    let mut bytes = RandomBlocks::over(u64::MAX);
    for number in 0..data_mib {
        let words = (0..CHUNK_BYTES / 8).flat_map(|_| bytes.next_bits().to_le_bytes());
        let at = (number * (len_mib / data_mib)) << 20;
        file.as_file()
            .write_all_at(&words.collect::<Vec<u8>>(), at)?;
    }
    file.as_file().sync_all()?;
    Ok(file)
}

pub(crate) fn run(extent: Extent, wants: &dyn Fn(&str) -> bool) {
    let (turns, len_mib) = match extent {
        Extent::Try => (1, 128),
        Extent::Quick => (2, 1024),
        Extent::Full => (5, 4096),
    };
    for case in Case::ALL {
        if !wants(&format!("jobs/copies/{}/", case.name())) {
            continue;
        }
        if let Err(why) = measure(case, turns, len_mib) {
            skipped(format_args!("jobs/copies/{}: {why}", case.name()));
        }
    }
}

fn measure(case: Case, turns: usize, len_mib: u64) -> Result<(), String> {
    let made = case.source(len_mib).map_err(|error| error.to_string())?;
    let Some(source) = made else { return Ok(()) };
    let mut sides = case.sides().to_vec();
    if let Err(why) = version() {
        skipped(why);
        sides.retain(|side| !matches!(side, Side::Reference(..)));
    }
    let mut found: Vec<Vec<Found>> = vec![Vec::new(); sides.len()];
    let mut disturbed = Disturbed {
        turns: 0,
        of: turns,
    };
    // The first turn finds everything cold, and does not count.
    for number in 0..=turns {
        let start = Moment::now();
        for at in 0..sides.len() {
            let at = (number + at) % sides.len();
            let turn = turn(sides[at], case.work(), &source);
            let turn = turn.map_err(|error| format!("{}: {error}", sides[at].name()))?;
            if number > 0 {
                found[at].push(turn);
            }
        }
        disturbed.turns += usize::from(number > 0 && start.is_disturbed());
    }
    tell(case, case.gib(len_mib), (&sides, &found), disturbed);
    Ok(())
}

/// How many blocks change of an image before an incremental backup: each makes one of a hundred pieces differ.
pub(crate) fn changes(len_bytes: u64) -> u64 {
    len_bytes / (64 << 10) / 100
}

/// Copies once, to a target of its own.
fn turn(side: Side, work: Work, source: &Source) -> Result<Found, String> {
    let target = source.target().map_err(|error| error.to_string())?;
    let (from, to) = (source.path(), target.0.path());
    match side {
        Side::Ours(_, contexts) => {
            let (from, to) = (from.to_string_lossy(), to.to_string_lossy());
            let kind = match work {
                Work::Backup => "backup",
                Work::Incremental => "incremental",
                Work::Mirror(_) => "mirror",
            };
            run_self(&[FLAG, kind, &from, &to, &contexts.to_string()])
        }
        Side::Reference(_, setup) => theirs(setup, work, (from, to)),
        Side::Limit => limit(source, to).map_err(|error| error.to_string()),
    }
}

fn theirs(setup: Setup, work: Work, nodes: (&Path, &Path)) -> Result<Found, String> {
    let directory = TempDir::new().map_err(|error| error.to_string())?;
    let mut daemon = Reference::start(setup, nodes, directory.path())?;
    daemon.set_work(work)?;
    if work == Work::Incremental {
        let len_bytes = std::fs::metadata(nodes.0)
            .map_err(|error| error.to_string())?
            .len();
        let socket = directory.path().join(EXPORT_SOCKET);
        touch(&socket, EXPORT, changes(len_bytes))?;
    }
    let (start, cpu) = (Instant::now(), daemon.cpu_time());
    daemon.start()?;
    let mut is_finishing = false;
    while let Some(status) = daemon.status()? {
        if status == "ready" && !is_finishing {
            is_finishing = true;
            daemon.finish()?;
        }
        if start.elapsed() > 10 * TIMEOUT {
            return Err("it does not end".to_owned());
        }
        rest(LOOK_EVERY);
    }
    let (wall, cpu) = (start.elapsed(), daemon.cpu_time().saturating_sub(cpu));
    let peak_mib = status_kib(&daemon.process(), "VmHWM:") / 1024.0;
    Ok(figures(wall, cpu, peak_mib))
}

fn limit(source: &Source, to: &Path) -> io::Result<Found> {
    let Source::Full(scratch) = source else {
        return Err(io::Error::other("holes are not for the simplest program"));
    };
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(scratch.flags());
    let to = options.open(to)?;
    let mut copier = RawCopier::new(scratch.open()?, to.try_clone()?, LIMIT_DEPTH)?;
    let (start, cpu) = (Instant::now(), cpu_time());
    copier.copy(scratch.len_bytes() / CHUNK_BYTES as u64)?;
    to.sync_data()?;
    Ok(figures(start.elapsed(), cpu_time() - cpu, 0.0))
}

fn figures(wall: Duration, cpu: Duration, peak_mib: f64) -> Found {
    let figures = [
        ("wall_s", wall.as_secs_f64()),
        ("cpu_s", cpu.as_secs_f64()),
        ("peak_mib", peak_mib),
    ];
    figures.map(|(name, value)| (name.to_owned(), value)).into()
}

fn tell(case: Case, gib: f64, (sides, found): (&[Side], &[Vec<Found>]), disturbed: Disturbed) {
    let of = |found: &Found, what: &str| found.get(what).copied().unwrap_or(f64::NAN);
    let case = format!("jobs/copies/{}", case.name());
    for (side, found) in sides.iter().zip(found) {
        let name = |what: &str| format!("{case}/{what}/{}", side.name());
        let wall = found.iter().map(|found| of(found, "wall_s"));
        tell_figure((&name("wall"), "s"), wall, disturbed);
        if gib > 0.0 {
            let cpu = found.iter().map(|found| of(found, "cpu_s") / gib);
            tell_figure((&name("cpu"), "s/GiB"), cpu, disturbed);
        }
        let peak = found.iter().map(|found| of(found, "peak_mib"));
        tell_figure((&name("peak"), "MiB"), peak, disturbed);
    }
    let ours = sides.iter().zip(found);
    let ours = ours.filter(|(side, _)| matches!(side, Side::Ours(..)));
    let pairs = ours.flat_map(|ours| sides.iter().zip(found).map(move |peer| (ours, peer)));
    let pairs = pairs.filter(|((ours, _), (peer, _))| {
        ours != peer && (**ours == OURS_ON_TWO || !matches!(peer, Side::Ours(..)))
    });
    for ((side, ours), (peer, theirs)) in pairs {
        for (what, key) in [("wall", "wall_s"), ("cpu", "cpu_s"), ("peak", "peak_mib")] {
            let ratios = ours.iter().zip(theirs);
            let ratios = ratios.map(|(ours, theirs)| of(ours, key) / of(theirs, key));
            // Not everybody tells everything.
            let ratios: Vec<f64> = ratios.filter(|ratio| ratio.is_finite()).collect();
            let name = format!("{case}/{what}/{}/{}", side.name(), peer.name());
            if !ratios.is_empty() {
                tell_ratio(&name, ratios, disturbed);
            }
        }
    }
}
