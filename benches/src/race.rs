//! Races: our way of doing something against its peers, in turns.
//!
//! Criterion measures one side after the other, which is good for figures and bad for ratios on a
//! machine that others use too. So each race is run a second time in turns, ours, peer, ours, peer,
//! and the ratio of each pair counts:
//!
//! ```text
//! ratio NAME/OURS/PEER ours/peer = MEDIAN [MIN..MAX], cpu MEDIAN [MIN..MAX]
//! ```
//!
//! Above one we are slower. The second triple compares the processor time of all threads of the
//! process, the kernel's work for them included, which other programs disturb less.

use std::{
    env,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput};
use nix::time::ClockId;

/// One of those who race.
pub struct Side<'a> {
    name: &'static str,
    run: Box<dyn FnMut(u64) -> Duration + 'a>,
}

impl<'a> Side<'a> {
    /// A side that does `run(count)` rounds of the work, all of which counts.
    pub fn new(name: &'static str, mut run: impl FnMut(u64) + 'a) -> Self {
        Self::timed(name, move |rounds| {
            let start = Instant::now();
            run(rounds);
            start.elapsed()
        })
    }

    /// A side that does `run(count)` rounds of the work, and says itself what time counts.
    pub fn timed(name: &'static str, run: impl FnMut(u64) -> Duration + 'a) -> Self {
        let run = Box::new(run);
        Self { name, run }
    }
}

impl std::fmt::Debug for Side<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Side")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// How long a side runs in one turn, and how many turns there are.
#[derive(Clone, Copy, Debug)]
struct Turns {
    count: usize,
    length: Duration,
}

/// Runs races, and tells how they went.
pub struct Races {
    criterion: Criterion,
    /// `None` when nothing is to be measured: what was built is tried or listed only.
    turns: Option<Turns>,
}

/// The `main` of a measurement: takes criterion's options from the command line and runs `all`.
pub fn races(all: impl FnOnce(&mut Races)) {
    let has = |wanted: &str| env::args().any(|arg| arg == wanted);
    let (count, millis) = if has("--quick") { (5, 20) } else { (11, 50) };
    let turns = Turns {
        count,
        length: Duration::from_millis(millis),
    };
    let measures = has("--bench") && !["--test", "--list", "--profile-time"].into_iter().any(has);
    let criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(1000))
        .without_plots()
        .configure_from_args();
    let mut races = Races {
        criterion,
        turns: measures.then_some(turns),
    };
    all(&mut races);
    races.criterion.final_summary();
}

impl Races {
    /// Runs one race. `units` is how many of what is measured (reads, callbacks) a round has.
    pub fn race(&mut self, name: &str, units: u64, ours: Side<'_>, peers: Vec<Side<'_>>) {
        let mut sides = vec![ours];
        sides.extend(peers);
        let mut is_wanted = false;
        let mut group = self.criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(units));
        for side in &mut sides {
            group.bench_function(side.name, |bencher| {
                // Criterion comes here only for what the command line asks for.
                is_wanted = true;
                bencher.iter_custom(&mut side.run);
            });
        }
        group.finish();
        if let (true, Some(turns)) = (is_wanted, self.turns) {
            print_ratios(name, &mut sides, turns);
        }
    }
}

impl std::fmt::Debug for Races {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Races")
            .field("turns", &self.turns)
            .finish_non_exhaustive()
    }
}

/// Tells whoever measures that something is not measured here, and why.
#[expect(clippy::print_stdout, reason = "the results of a measurement")]
pub fn skipped(why: impl std::fmt::Display) {
    println!("skipped: {why}");
}

/// What one round cost, in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Cost {
    wall_ns: f64,
    cpu_ns: f64,
}

#[expect(clippy::print_stdout, reason = "the results of a measurement")]
fn print_ratios(name: &str, sides: &mut [Side<'_>], turns: Turns) {
    let rounds: Vec<u64> = sides
        .iter_mut()
        .map(|side| rounds_of(side, turns.length))
        .collect();
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); sides.len()];
    for _ in 0..turns.count {
        for ((side, &rounds), costs) in sides.iter_mut().zip(&rounds).zip(&mut costs) {
            costs.push(cost(side, rounds));
        }
    }
    for (peer, theirs) in sides.iter().zip(&costs).skip(1) {
        let pairs = || costs[0].iter().zip(theirs);
        let wall = spread(pairs().map(|(ours, theirs)| ours.wall_ns / theirs.wall_ns));
        let cpu = spread(pairs().map(|(ours, theirs)| ours.cpu_ns / theirs.cpu_ns));
        let (ours, peer) = (sides[0].name, peer.name);
        println!("ratio {name}/{ours}/{peer} ours/peer = {wall}, cpu {cpu}");
    }
}

/// How many rounds take about `length`. Finding out warms the side up.
fn rounds_of(side: &mut Side<'_>, length: Duration) -> u64 {
    let mut rounds = 1;
    loop {
        let took = (side.run)(rounds);
        if took * 2 >= length {
            return rounds;
        }
        let growth = length.as_nanos().checked_div(took.as_nanos());
        let growth = growth.and_then(|it| u64::try_from(it).ok()).unwrap_or(64);
        rounds *= growth.clamp(2, 64);
    }
}

fn cost(side: &mut Side<'_>, rounds: u64) -> Cost {
    let cpu_before = cpu_time();
    let wall = (side.run)(rounds);
    let cpu = cpu_time().saturating_sub(cpu_before);
    let per_round = |time: Duration| time.as_secs_f64() * 1e9 / rounds as f64;
    Cost {
        wall_ns: per_round(wall),
        cpu_ns: per_round(cpu),
    }
}

/// Processor time that the process has used, all threads and the kernel's work for them.
fn cpu_time() -> Duration {
    let clock = ClockId::CLOCK_PROCESS_CPUTIME_ID;
    Duration::from(clock.now().expect("Linux has this clock for every process"))
}

/// Median, least and greatest of `ratios`, as results show them.
fn spread(ratios: impl Iterator<Item = f64>) -> String {
    let mut ratios: Vec<f64> = ratios.collect();
    ratios.sort_by(f64::total_cmp);
    let (min, max) = (ratios[0], ratios[ratios.len() - 1]);
    let median = ratios[ratios.len() / 2];
    // Two decimals say nothing about a thousandth.
    let decimals = if median < 0.1 { 4 } else { 2 };
    format!("{median:.decimals$} [{min:.decimals$}..{max:.decimals$}]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_told_by_median_and_ends() {
        let told = spread([3.0, 1.0, 1.254, 0.5, 9.0].into_iter());
        assert_eq!(told, "1.25 [0.50..9.00]");
        assert_eq!(spread([0.0034].into_iter()), "0.0034 [0.0034..0.0034]");
    }

    #[test]
    fn rounds_grow_until_they_fill_a_turn() {
        let mut side = Side::timed("a microsecond", Duration::from_micros);
        let rounds = rounds_of(&mut side, Duration::from_millis(20));
        assert!((10_000..=20_000).contains(&rounds), "{rounds}");
    }
}
