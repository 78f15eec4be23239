//! What a guest that writes all the time has of its disk while that is copied, and how long the copy takes.
//!
//! A file on the disk is exported, and one guest writes 4 KiB at random places all over it, first
//! alone and then during a full backup, or a mirror until it is ready, to another file on the same
//! disk. Before that the copy has the disk for itself. Sides take turns.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use benches::{Disturbed, Moment, Scratch, rest, skipped, tell_figure, tell_ratio};
use tempfile::{NamedTempFile, TempDir};

use crate::{
    Extent,
    guest::Writes,
    hosts::{Host, Ours, Theirs, Way},
    latency::target,
    reference::{Work, version},
};

const LEN_MIB: u64 = 4096;
/// How often a copy is looked at that is to end.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// A copy that takes longer is given up: its guest has been seen long enough.
const COPY_MAX: Duration = Duration::from_secs(60);

/// What is done, under which name, and by whom: ours first.
const CASES: [(&str, Work, &[Side]); 3] = [
    (
        "backup",
        Work::Backup,
        &[
            Side::Ours("ours", Way::Export),
            Side::Ours("ours_edge", Way::Edge),
            Side::Ours("ours_budget", Way::Budget),
            Side::Reference("qsd", None),
            Side::Reference("qsd_1_worker", Some(1)),
        ],
    ),
    (
        "background",
        Work::Mirror("background"),
        &[
            Side::Ours("ours", Way::Export),
            Side::Ours("ours_converging", Way::Converging),
            Side::Reference("qsd", None),
        ],
    ),
    (
        "write_blocking",
        Work::Mirror("write-blocking"),
        &[
            Side::Ours("ours", Way::Export),
            Side::Reference("qsd", None),
        ],
    ),
];
const DEPTHS: [usize; 2] = [1, 16];

#[derive(Clone, Copy, Debug)]
enum Side {
    Ours(&'static str, Way),
    /// With so many workers.
    Reference(&'static str, Option<u32>),
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Ours(name, _) | Self::Reference(name, _) => name,
        }
    }

    fn host(self, files: &Files, directory: &Path) -> Result<Box<dyn Host>, String> {
        let nodes = (files.source.path(), files.target.path());
        Ok(match self {
            Self::Ours(_, way) => Box::new(Ours::start(way, nodes, directory)?),
            Self::Reference(_, workers) => Box::new(Theirs::start(workers, nodes, directory)?),
        })
    }
}

struct Files {
    source: Scratch,
    target: NamedTempFile,
}

/// What a side found at one depth, turn by turn; times in seconds.
#[derive(Debug, Default)]
struct Found {
    alone: Vec<Writes>,
    during: Vec<Writes>,
    /// Of the copy without a guest, and beside one.
    quiet: Vec<f64>,
    wall: Vec<f64>,
    /// Copies that were given up.
    too_slow: usize,
}

pub(crate) fn run(extent: Extent, wants: &dyn Fn(&str) -> bool) {
    let (turns, len_mib) = match extent {
        Extent::Try => (1, 128),
        Extent::Quick => (1, LEN_MIB / 4),
        Extent::Full => (5, LEN_MIB),
    };
    let depths = DEPTHS.into_iter();
    let cases =
        depths.flat_map(|depth| CASES.map(|(name, work, sides)| (depth, name, work, sides)));
    let cases = cases.map(|(depth, name, work, sides)| {
        let name = format!("jobs/writers/{depth}/{name}");
        (name, depth, work, sides)
    });
    let cases: Vec<_> = cases
        .filter(|(name, ..)| wants(&format!("{name}/")))
        .collect();
    if cases.is_empty() {
        return;
    }
    if let Err(why) = measure(&cases, turns, len_mib) {
        skipped(format_args!("jobs/writers: {why}"));
    }
}

type Case = (String, usize, Work, &'static [Side]);

fn measure(cases: &[Case], turns: usize, len_mib: u64) -> Result<(), String> {
    let Some(source) = Scratch::on_disk(len_mib) else {
        return Ok(());
    };
    let target = target(source.len_bytes()).map_err(|error| error.to_string())?;
    let files = Files { source, target };
    let reference = version();
    if let Err(why) = &reference {
        skipped(why);
    }
    // Long enough for a few writes of the slowest.
    let alone = Duration::from_millis(len_mib.min(1000));
    for (name, depth, work, sides) in cases {
        let mut sides = sides.to_vec();
        sides.retain(|side| reference.is_ok() || matches!(side, Side::Ours(..)));
        let mut found: Vec<Found> = sides.iter().map(|_| Found::default()).collect();
        let mut disturbed = Disturbed {
            turns: 0,
            of: turns,
        };
        for number in 0..turns {
            let start = Moment::now();
            for at in 0..sides.len() {
                let at = (number + at) % sides.len();
                turn(sides[at], &files, (*depth, *work, alone), &mut found[at])
                    .map_err(|error| format!("{}: {error}", sides[at].name()))?;
            }
            disturbed.turns += usize::from(start.is_disturbed());
        }
        tell(name, &sides, &found, disturbed);
    }
    Ok(())
}

fn turn(
    side: Side,
    files: &Files,
    (depth, work, alone): (usize, Work, Duration),
    found: &mut Found,
) -> Result<(), String> {
    let directory = TempDir::new().map_err(|error| error.to_string())?;
    let mut host = side.host(files, directory.path())?;
    found.quiet.push(copy(&mut *host, work)?.as_secs_f64());
    let guest = host.guest(depth)?;
    // The first writes find everything cold.
    rest(alone / 4);
    let start = guest.begin();
    rest(alone);
    found.alone.extend(guest.found(start));
    let start = guest.begin();
    host.start(work)?;
    while !host.is_done()? && start.elapsed() < COPY_MAX {
        rest(LOOK_EVERY);
    }
    let wall = start.elapsed();
    found.wall.push(wall.as_secs_f64());
    found.during.extend(guest.found(start));
    found.too_slow += usize::from(wall >= COPY_MAX);
    guest.end()?;
    host.stop()
}

/// Copies with nobody else there.
fn copy(host: &mut dyn Host, work: Work) -> Result<Duration, String> {
    let start = Instant::now();
    host.start(work)?;
    while !host.is_done()? && start.elapsed() < COPY_MAX {
        rest(LOOK_EVERY);
    }
    let wall = start.elapsed();
    host.stop().map(|()| wall)
}

type FigureOf = fn(&Writes) -> f64;

fn tell(case: &str, sides: &[Side], found: &[Found], disturbed: Disturbed) {
    let figures: [(&str, &str, FigureOf); 4] = [
        ("rate", "writes/s", |writes| writes.per_s),
        ("p50", "ms", |writes| writes.p50),
        ("p99", "ms", |writes| writes.p99),
        ("p999", "ms", |writes| writes.p999),
    ];
    for (side, found) in sides.iter().zip(found) {
        let name = side.name();
        let moments = [("alone", &found.alone), ("during", &found.during)];
        let of_moments = moments.into_iter().filter(|(_, writes)| !writes.is_empty());
        let cells = of_moments.flat_map(|moment| figures.map(|figure| (moment, figure)));
        for ((when, writes), (figure, unit, of)) in cells {
            let name = format!("{case}/{when}_{figure}/{name}");
            tell_figure((&name, unit), writes.iter().map(of), disturbed);
        }
        let added = found.during.iter().zip(&found.alone);
        let added: Vec<f64> = added
            .map(|(during, alone)| during.p99 - alone.p99)
            .collect();
        if !added.is_empty() {
            tell_figure(
                (&format!("{case}/added_p99/{name}"), "ms"),
                added,
                disturbed,
            );
        }
        let remark = match found.too_slow {
            0 => disturbed.to_string(),
            times => format!(", given up {times} times{disturbed}"),
        };
        let walls = [("wall", &found.wall), ("quiet", &found.quiet)];
        for (what, times) in walls {
            let name = format!("{case}/{what}/{name}");
            tell_figure((&name, "s"), times.iter().copied(), &remark);
        }
    }
    tell_ratios(case, sides, found, disturbed);
}

fn tell_ratios(case: &str, sides: &[Side], found: &[Found], disturbed: Disturbed) {
    for (side, found) in sides.iter().zip(found) {
        // What the two cost each other.
        let slower = found.during.iter().zip(&found.alone);
        let slower: Vec<f64> = slower
            .map(|(during, alone)| alone.per_s / during.per_s)
            .collect();
        if !slower.is_empty() {
            let name = format!("{case}/time_per_write/{}/alone", side.name());
            tell_ratio(&name, slower, disturbed);
        }
        let slower = found.wall.iter().zip(&found.quiet);
        let name = format!("{case}/wall/{}/quiet", side.name());
        tell_ratio(&name, slower.map(|(wall, quiet)| wall / quiet), disturbed);
    }
    let pairs = sides
        .iter()
        .zip(found)
        .filter(|(side, _)| matches!(side, Side::Ours(..)));
    let peers = || {
        let peers = sides.iter().zip(found);
        peers.filter(|(side, _)| matches!(side, Side::Reference(..)))
    };
    for ((side, ours), (peer, theirs)) in
        pairs.flat_map(|ours| peers().map(move |peer| (ours, peer)))
    {
        let name = |what: &str| format!("{case}/{what}/{}/{}", side.name(), peer.name());
        let writes = ours.during.iter().zip(&theirs.during);
        let writes: Vec<f64> = writes
            .map(|(ours, theirs)| theirs.per_s / ours.per_s)
            .collect();
        if !writes.is_empty() {
            tell_ratio(&name("time_per_write"), writes, disturbed);
        }
        let walls = ours.wall.iter().zip(&theirs.wall);
        let walls = walls.map(|(ours, theirs)| ours / theirs);
        tell_ratio(&name("wall"), walls, disturbed);
    }
}
