//! Races: our way of doing something against its peers, in turns.
//!
//! Criterion measures one side after the other, which is good for figures and bad for ratios on a
//! machine that others use too. So each race is run a second time in turns, ours, peer, ours, peer,
//! and the ratio of each pair counts:
//!
//! ```text
//! ratio NAME/OURS/PEER = MEDIAN [MIN..MAX], cpu MEDIAN [MIN..MAX]
//! figure NAME/SIDE = MEDIAN [MIN..MAX] ns, cpu MEDIAN [MIN..MAX] ns
//! ```
//!
//! Above one we are slower. The second triple is about the processor time of all threads of the
//! process, the kernel's work for them included, which other programs disturb less. A turn of all
//! sides in which other programs used more than a tenth of a processor is repeated; where that does
//! not help for long, the lines end in `disturbed COUNT of COUNT`.

use std::{
    env, fmt,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput};

use crate::{
    machine::{Moment, cpu_time},
    tell::{Disturbed, spread, tell, tell_figure},
};

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

    /// Does `rounds` rounds, and returns the time that counts.
    pub fn run(&mut self, rounds: u64) -> Duration {
        (self.run)(rounds)
    }
}

impl fmt::Debug for Side<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
    /// How the names of what is wanted begin.
    filter: Option<String>,
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
    let filter = env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(1000))
        .without_plots()
        .configure_from_args();
    if let Some(beginning) = &filter {
        criterion = criterion.with_filter(format!("^{beginning}"));
    }
    let mut races = Races {
        criterion,
        turns: measures.then_some(turns),
        filter,
    };
    all(&mut races);
    races.criterion.final_summary();
}

impl Races {
    /// Whether something whose name begins with `name` is asked for: so that nothing is set up in vain.
    #[must_use]
    pub fn wants(&self, name: &str) -> bool {
        let is_it = |filter: &String| name.starts_with(filter.as_str()) || filter.starts_with(name);
        self.filter.as_ref().is_none_or(is_it)
    }

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
            print_results(name, units, &mut sides, turns);
        }
    }

    /// Measures something that is no race, if it is asked for, and tells what came out.
    ///
    /// `unit` is what the figure counts. A measurement that gives none has said itself why.
    pub fn figure(&self, name: &str, unit: &str, measure: impl FnOnce() -> Option<f64>) {
        if let (true, Some(_)) = (self.wants(name), self.turns)
            && let Some(figure) = measure()
        {
            tell_figure((name, unit), [figure], "");
        }
    }
}

impl fmt::Debug for Races {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Races")
            .field("turns", &self.turns)
            .field("filter", &self.filter)
            .finish_non_exhaustive()
    }
}

/// What one round cost, in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Cost {
    wall_ns: f64,
    cpu_ns: f64,
}

fn print_results(name: &str, units: u64, sides: &mut [Side<'_>], turns: Turns) {
    let (costs, disturbed) = costs(sides, turns);
    let of = turns.count;
    let remark = Disturbed {
        turns: disturbed,
        of,
    };
    for (side, costs) in sides.iter().zip(&costs) {
        let each = |cost: f64| cost / units as f64;
        let wall = spread(costs.iter().map(|cost| each(cost.wall_ns)));
        let cpu = spread(costs.iter().map(|cost| each(cost.cpu_ns)));
        let side = side.name;
        tell(format_args!(
            "figure {name}/{side} = {wall} ns, cpu {cpu} ns{remark}"
        ));
    }
    for (peer, theirs) in sides.iter().zip(&costs).skip(1) {
        let pairs = || costs[0].iter().zip(theirs);
        let wall = spread(pairs().map(|(ours, theirs)| ours.wall_ns / theirs.wall_ns));
        let cpu = spread(pairs().map(|(ours, theirs)| ours.cpu_ns / theirs.cpu_ns));
        let (ours, peer) = (sides[0].name, peer.name);
        tell(format_args!(
            "ratio {name}/{ours}/{peer} = {wall}, cpu {cpu}{remark}"
        ));
    }
}

/// What the turns of each side cost, and in how many of them others disturbed us.
fn costs(sides: &mut [Side<'_>], turns: Turns) -> (Vec<Vec<Cost>>, usize) {
    let rounds: Vec<u64> = sides
        .iter_mut()
        .map(|side| rounds_of(side, turns.length))
        .collect();
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); sides.len()];
    let (mut disturbed, mut repeats) = (0, 0);
    while costs[0].len() < turns.count {
        let start = Moment::now();
        let sides = sides.iter_mut().zip(&rounds);
        let turn: Vec<Cost> = sides.map(|(side, &rounds)| cost(side, rounds)).collect();
        if start.is_disturbed() {
            if repeats < REPEATS_MAX * turns.count {
                repeats += 1;
                continue;
            }
            disturbed += 1;
        }
        for (costs, cost) in costs.iter_mut().zip(turn) {
            costs.push(cost);
        }
    }
    (costs, disturbed)
}

/// How often a turn is repeated, on average, before disturbed ones count too.
const REPEATS_MAX: usize = 3;

/// How many rounds take about `length`. Finding out warms the side up.
fn rounds_of(side: &mut Side<'_>, length: Duration) -> u64 {
    let mut rounds = 1;
    loop {
        let took = side.run(rounds);
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
    let wall = side.run(rounds);
    let cpu = cpu_time().saturating_sub(cpu_before);
    let per_round = |time: Duration| time.as_secs_f64() * 1e9 / rounds as f64;
    Cost {
        wall_ns: per_round(wall),
        cpu_ns: per_round(cpu),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_grow_until_they_fill_a_turn() {
        let mut side = Side::timed("a microsecond", Duration::from_micros);
        let rounds = rounds_of(&mut side, Duration::from_millis(20));
        assert!((10_000..=20_000).contains(&rounds), "{rounds}");
    }
}
