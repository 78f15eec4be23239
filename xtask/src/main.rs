//! Development tasks: what `cargo xtask <task>` runs.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the terminal of a developer is this program's only output"
)]

mod bench;
mod ci;
mod compare;
mod endure;
mod fuzz;
mod licences;
mod model;
mod options;
mod sanitize;
mod sim;
mod stress;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use anyhow::{Result, bail};
use workspace::Workspace;

const USAGE: &str = "\
usage: cargo xtask <task>

  tidy            check the house rules that no compiler knows (docs/style.md)
  test [-- ARGS]  run every test of the workspace and count passed, failed, skipped;
                  ARGS go to the test programs, so `-- drain` runs what has drain in its name
  bench [NAME] [--quick]
                  run the measurements, or those whose names begin with NAME, and write a table of
                  ratios, figures and targets (docs/benchmarks.md)
  compare [--case NAME].. [--runs N] [--folder DIR] [--quick]
                  build ours for release, have it and the programs of others do the same work in turns,
                  and write a table and plots (docs/benchmarks.md)
  sanitize [address | thread | valgrind]
                  run the tests of aio under sanitizers and valgrind, or one of them (docs/testing.md)
  stress [--seconds N] [--seed S]
                  have contexts of both backends do random operations under injected failures for
                  so long, a minute unless told otherwise; the seed is printed first
  model [--steps N] [--seed S]
                  have jobs and their model do so many random acts, a million unless told otherwise;
                  the seed is printed first
  endure [--seconds N] [--seed S]
                  have random jobs copy disks that four guests write, for so long, an hour unless told
                  otherwise: files and loop devices on ext4, XFS and btrfs (as root), files as they are
  fuzz [NAME].. [--seconds N]
                  feed hostile input to what reads the bytes of others, half a minute each unless told
                  otherwise (docs/testing.md)
  sim [--seeds N] [--from S] [--threads N] [--jobs backup|mirror|all] | sim --seed S [--jobs ..]
                  run jobs, guests and failing disks in so many simulated worlds, 2000 unless told
                  otherwise, or one world again with everything that happens in it
  sim --mutants [NAME] [--seeds N] [--from S]
                  run it on copies of the product with a mistake each, all of which it must find
  ci [STEP]..     exactly what CI runs, in its order, or some steps of it";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    run(&args).unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(args: &[String]) -> Result<ExitCode> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["tidy"] => tidy::run(&Workspace::load()?)?,
        ["test"] => return test_and_report(&[]),
        ["test", "--", rest @ ..] => return test_and_report(rest),
        ["bench", "-h" | "--help"] => println!("{}", bench::USAGE),
        ["bench", rest @ ..] => bench::run(&Workspace::load()?, rest)?,
        ["compare", "-h" | "--help"] => println!("{}", compare::USAGE),
        ["compare", rest @ ..] => compare::run(&Workspace::load()?, rest)?,
        ["sanitize", rest @ ..] => return sanitize::run(&Workspace::load()?, rest),
        ["stress", rest @ ..] => stress::run(&Workspace::load()?, rest)?,
        ["endure", rest @ ..] => endure::run(&Workspace::load()?, rest)?,
        ["model", rest @ ..] => model::run(&Workspace::load()?, rest)?,
        ["fuzz", rest @ ..] => return fuzz::run(&Workspace::load()?, rest),
        ["sim", rest @ ..] => sim::run(&Workspace::load()?, rest)?,
        ["ci", steps @ ..] => return ci::run(&Workspace::load()?, steps),
        ["help" | "-h" | "--help"] => println!("{USAGE}"),
        _ => bail!("no such task: {}\n\n{USAGE}", args.join(" ")),
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs the tests. The counts are the last line that is printed, whatever happened.
fn test_and_report(args: &[&str]) -> Result<ExitCode> {
    let summary = test::run(&Workspace::load()?, args)?;
    print!("{summary}");
    Ok(ExitCode::from(u8::from(summary.failed() > 0)))
}
