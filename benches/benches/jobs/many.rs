//! Ten thousand short jobs, 200 alive at a time, on two threads beside the main one.

use benches::{Disturbed, Moment, skipped, tell_figure, tell_ratio};

use crate::{
    Extent,
    many_sides::FLAG,
    process::{Found, run_self},
};

const JOBS: u64 = 10_000;
/// A run that is long enough for memory that grows with each job to show.
const JOBS_LONG: u64 = 100_000;

/// What is measured, each time in a process of its own.
const SIDES: [&str; 7] = [
    "jobs",
    "jobs_queried",
    "aio_tasks",
    "tokio_tasks",
    "jobs_awake",
    "aio_tasks_awake",
    "tokio_tasks_awake",
];
/// Whom we are compared with: ours, the peer.
const PAIRS: [(usize, usize); 4] = [(0, 2), (0, 3), (4, 5), (4, 6)];
/// What a side prints, under which name it is told, and its unit.
const FIGURES: [(&str, &str); 11] = [
    ("wall_ms", "ms"),
    ("cpu_us", "µs of processor time for each"),
    ("peak_mib", "MiB"),
    ("warm_mib", "MiB after the first tenth"),
    ("growth_kib", "KiB more at most after that"),
    ("query_us_p50", "µs"),
    ("query_us_p99", "µs"),
    ("info_us_p50", "µs"),
    ("info_us_p99", "µs"),
    ("queried_alive", "jobs in an answer"),
    ("events", "events for each"),
];

pub(crate) fn run(extent: Extent) {
    let (turns, jobs, jobs_long) = match extent {
        Extent::Try => (1, 100, 200),
        Extent::Quick => (3, JOBS, JOBS_LONG),
        Extent::Full => (7, JOBS, JOBS_LONG),
    };
    if let Err(why) = measure(turns, jobs, jobs_long) {
        skipped(format_args!("jobs/many: {why}"));
    }
}

fn measure(turns: usize, jobs: u64, jobs_long: u64) -> Result<(), String> {
    // The first processes bring the program into memory.
    for side in SIDES {
        process(side, jobs)?;
    }
    let mut found: [Vec<Found>; SIDES.len()] = Default::default();
    let mut disturbed = Disturbed {
        turns: 0,
        of: turns,
    };
    let mut repeats = 0;
    while found[0].len() < turns {
        let start = Moment::now();
        let mut turn = Vec::new();
        for side in SIDES {
            turn.push(process(side, jobs)?);
        }
        if start.is_disturbed() {
            if repeats < turns {
                repeats += 1;
                continue;
            }
            disturbed.turns += 1;
        }
        for (found, process) in found.iter_mut().zip(turn) {
            found.push(process);
        }
    }
    for (side, found) in SIDES.iter().zip(&found) {
        tell(side, found, disturbed);
    }
    for (ours, peer) in PAIRS {
        for what in ["wall_ms", "cpu_us", "peak_mib"] {
            let pairs = found[ours].iter().zip(&found[peer]);
            let ratios = pairs.map(|(ours, theirs)| ours[what] / theirs[what]);
            let name = format!("jobs/many/{what}/{}/{}", SIDES[ours], SIDES[peer]);
            tell_ratio(&name, ratios, disturbed);
        }
    }
    let long = process("jobs_queried", jobs_long)?;
    tell("long", &[long], Disturbed::default());
    Ok(())
}

fn tell(side: &str, found: &[Found], disturbed: Disturbed) {
    for (what, unit) in FIGURES {
        let values: Vec<f64> = found
            .iter()
            .filter_map(|it| it.get(what).copied())
            .collect();
        if !values.is_empty() {
            let name = format!("jobs/many/{side}/{what}");
            tell_figure((&name, unit), values, disturbed);
        }
    }
}

fn process(side: &str, jobs: u64) -> Result<Found, String> {
    run_self(&[FLAG, side, &jobs.to_string()])
}
