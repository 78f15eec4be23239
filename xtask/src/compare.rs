//! `cargo xtask compare`: our daemon and the programs of others do the same work in turns, seen from outside.

mod cases;
mod daemon;
mod fio;
mod jobs;
mod plot;
mod process;
mod progress;
mod readme;
mod report;
mod turn;
mod world;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};

use crate::workspace::Workspace;
use cases::{CASES, Case, Side, Work};
use process::Moment;
use progress::Progress;
use report::{Outcome, Report, Taken};
use world::{Scale, World};

/// What it takes.
pub(crate) const USAGE: &str = "\
usage: cargo xtask compare [--case NAME].. [--runs N] [--folder DIR] [--quick]

  --case NAME   only the cases whose names begin with it, such as `copy/` or `serve/read/1`;
                all of them take less than an hour
  --runs N      so many counted turns of each side instead of five
  --folder DIR  where the images are that are copied on a disk, instead of cargo's folder for what
                it builds; 13 GiB are needed there, and 14 GiB of memory
  --quick       small images and one turn, to see that everything runs";

const RUNS: usize = 5;
/// As many are left at least where all takes much longer than it should.
const RUNS_MIN: usize = 3;

/// What is asked for.
#[derive(Debug, PartialEq)]
struct Options {
    cases: Vec<String>,
    runs: Option<usize>,
    folder: Option<PathBuf>,
    extent: Extent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    Full,
    Quick,
}

/// Runs the cases, and writes the tables and the plots.
///
/// # Errors
///
/// Fails for unknown options, if ours cannot be built, and if ours fails at a case. A target that is missed is no
/// error, nor a peer that is not here or fails.
pub(crate) fn run(workspace: &Workspace, args: &[&str]) -> Result<()> {
    let options = Options::parse(args)?;
    let wanted = options.wanted();
    ensure!(!wanted.is_empty(), "no case has such a name\n\n{USAGE}");
    let ours = build(workspace)?;
    let results = workspace.target_dir.join("compare");
    fs::create_dir_all(&results)?;
    let folder = options.folder.clone().unwrap_or_else(|| results.clone());
    let world = World::new(ours, &folder, options.scale())?;
    let outcomes = outcomes(&world, &options, &wanted)?;
    let mut machine = world.machine(&folder);
    machine.insert("command", options.command().to_owned());
    let report = Report::new(machine, world.missing(), &outcomes);
    drop(world);
    write(&results, &report, &outcomes)?;
    let failed = outcomes.iter().flat_map(|outcome| &outcome.failures);
    let failed = failed.filter(|(side, _)| *side == Side::Longshore).count();
    ensure!(failed == 0, "ours failed at {failed} cases");
    Ok(())
}

impl Options {
    fn parse(args: &[&str]) -> Result<Self> {
        let mut options = Self {
            cases: Vec::new(),
            runs: None,
            folder: None,
            extent: Extent::Full,
        };
        let mut args = args.iter();
        while let Some(name) = args.next() {
            if *name == "--quick" {
                options.extent = Extent::Quick;
                continue;
            }
            let value = args.next();
            let value = value.with_context(|| format!("what about {name}?\n\n{USAGE}"))?;
            match *name {
                "--case" => options.cases.push((*value).to_owned()),
                "--folder" => options.folder = Some(PathBuf::from(value)),
                "--runs" => {
                    let runs = value.parse().ok().filter(|runs| *runs > 0);
                    options.runs = Some(runs.context("--runs takes a number above zero")?);
                }
                _ => bail!("no such option: {name}\n\n{USAGE}"),
            }
        }
        Ok(options)
    }

    /// The numbers of the cases that are wanted.
    fn wanted(&self) -> Vec<usize> {
        let is_wanted = |case: &Case| {
            let mut names = self.cases.iter();
            self.cases.is_empty() || names.any(|name| case.name.starts_with(name.as_str()))
        };
        let all = CASES.iter().enumerate();
        let wanted = all.filter(|(_, case)| is_wanted(case));
        wanted.map(|(index, _)| index).collect()
    }

    /// How somebody else gets figures like these.
    fn command(&self) -> &'static str {
        match self.extent {
            Extent::Full => "cargo xtask compare",
            Extent::Quick => "cargo xtask compare --quick",
        }
    }

    fn scale(&self) -> Scale {
        match self.extent {
            Extent::Full => Scale::FULL,
            Extent::Quick => Scale::QUICK,
        }
    }

    fn plan(&self) -> Plan {
        match self.extent {
            Extent::Full => Plan {
                warm_ups: 1,
                runs: self.runs.unwrap_or(RUNS),
                repeats: 1,
            },
            Extent::Quick => Plan {
                warm_ups: 0,
                runs: self.runs.unwrap_or(1),
                repeats: 0,
            },
        }
    }
}

/// How many turns each side has.
#[derive(Clone, Copy, Debug)]
struct Plan {
    warm_ups: usize,
    runs: usize,
    /// How often a turn may be repeated that others disturbed.
    repeats: usize,
}

impl Plan {
    fn warm_ups(self, work: Work) -> usize {
        if work.needs_warm_up() {
            self.warm_ups
        } else {
            0
        }
    }

    fn rounds(self, work: Work) -> usize {
        self.warm_ups(work) + self.runs
    }
}

fn build(workspace: &Workspace) -> Result<PathBuf> {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--package", "longshore", "--bins"]);
    let status = cargo.status().context("cannot start cargo")?;
    ensure!(status.success(), "ours cannot be built");
    Ok(workspace.target_dir.join("release/longshore"))
}

fn outcomes(world: &World, options: &Options, wanted: &[usize]) -> Result<Vec<Outcome>> {
    let plan = options.plan();
    let cases: Vec<&Case> = wanted.iter().map(|index| &CASES[*index]).collect();
    let mut progress = Progress::new(&cases, &world.scale, plan);
    let mut outcomes = Vec::new();
    for (done, index) in wanted.iter().enumerate() {
        let case = &CASES[*index];
        progress.begin(case, &world.scale, plan);
        outcomes.push(outcome(world, case, plan, &mut progress)?);
        world.tidy(&wanted[done + 1..])?;
    }
    Ok(outcomes)
}

/// Lets the sides of a case take turns. One that fails is out.
fn outcome(
    world: &World,
    case: &'static Case,
    plan: Plan,
    progress: &mut Progress,
) -> Result<Outcome> {
    let mut outcome = Outcome::new(case);
    outcome.skipped = world.obstacle(case)?;
    if outcome.skipped.is_some() {
        return Ok(outcome);
    }
    let sides = case.sides.iter().filter(|side| world.has(side.program()));
    let mut sides: Vec<Side> = sides.copied().collect();
    let (begun, rounds) = (Instant::now(), plan.rounds(case.work));
    for round in 0..rounds {
        let mut failed = Vec::new();
        for at in 0..sides.len() {
            // Each round begins with another one.
            let side = sides[(at + round) % sides.len()];
            let is_warm_up = round < plan.warm_ups(case.work);
            let repeats = if is_warm_up { 0 } else { plan.repeats };
            let turn = calm_turn(world, case, (side, repeats), progress);
            progress.note(case, &world.scale);
            match turn {
                Ok(_) if is_warm_up => {}
                Ok(taken) => outcome.add(side, taken),
                Err(error) => {
                    println!("  {} failed: {error:#}", side.name());
                    outcome.failures.push((side, format!("{error:#}")));
                    failed.push(side);
                }
            }
        }
        sides.retain(|side| !failed.contains(side));
        progress.tell(round + 1, rounds, begun);
        if round + 1 >= plan.warm_ups(case.work) + RUNS_MIN && progress.is_late() {
            outcome.left_out = rounds - (round + 1);
            break;
        }
    }
    Ok(outcome)
}

/// A turn that nobody disturbed, or the last of some that somebody did.
fn calm_turn(
    world: &World,
    case: &Case,
    (side, repeats): (Side, usize),
    progress: &Progress,
) -> Result<Taken> {
    let mut left = repeats;
    loop {
        // Images are made before the time runs.
        turn::prepare(world, case)?;
        let before = Moment::now();
        let turn = turn::take(world, case, side)?;
        let is_disturbed = before.is_disturbed();
        turn::settle(world, case, side)?;
        if !is_disturbed || left == 0 || !progress.may_repeat() {
            return Ok(Taken { turn, is_disturbed });
        }
        left -= 1;
    }
}

fn write(folder: &Path, report: &Report, outcomes: &[Outcome]) -> Result<()> {
    let table = report.markdown();
    print!("\n{table}");
    let mut files = vec![
        ("compare.md".to_owned(), table),
        (
            "compare.readme.md".to_owned(),
            readme::table(report, outcomes),
        ),
        ("compare.json".to_owned(), format!("{:#}\n", report.json())),
    ];
    files.extend(plot::all(outcomes));
    for (name, text) in files {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("written: {}", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_unknown_ones_refused() {
        let read = |args: &[&str]| Options::parse(args).map_err(|error| error.to_string());
        let args = [
            "--case", "copy/", "--quick", "--runs", "3", "--folder", "/disk",
        ];
        let want = Options {
            cases: vec!["copy/".to_owned()],
            runs: Some(3),
            folder: Some(PathBuf::from("/disk")),
            extent: Extent::Quick,
        };
        assert_eq!(read(&args), Ok(want));
        let wrong: [&[&str]; 4] = [&["--runs", "0"], &["--runs"], &["--fast", "1"], &["copy"]];
        for args in wrong {
            assert!(read(args).is_err(), "{args:?}");
        }
    }

    #[test]
    fn cases_are_chosen_by_the_beginning_of_their_names() {
        let wanted = |args: &[&str]| Options::parse(args).unwrap().wanted().len();
        assert_eq!(wanted(&[]), CASES.len());
        assert_eq!(wanted(&["--case", "serve/read/1"]), 3);
        assert_eq!(wanted(&["--case", "start", "--case", "copy/holes"]), 2);
        assert_eq!(wanted(&["--case", "nothing"]), 0);
    }

    #[test]
    fn ours_is_in_all_cases_and_bounds_name_sides_that_take_part() {
        for case in CASES {
            assert_eq!(case.sides[0], Side::Longshore, "{}", case.name);
            let mut peers = case.bounds.iter().filter_map(|bound| bound.peer);
            let takes_part = |peer: Side| case.sides.contains(&peer);
            assert!(peers.all(takes_part), "{}", case.name);
        }
    }
}
