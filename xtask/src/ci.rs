//! `cargo xtask ci`: exactly what CI runs, in its order, up to the first failure.

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::fuzz::{self, Fuzzed};
use crate::sanitize::{self, Watched};
use crate::test::{self, Summary};
use crate::workspace::Workspace;
use crate::{licences, model, sim, stress, tidy};

/// What `longshore` exits with where the kernel cannot do what was asked for.
const EXIT_UNSUPPORTED: i32 = 8;

/// Schedules that the models of jobs go through at least, all together.
const SCHEDULES_MIN: usize = 100_000;

const STEPS: [(&str, Step); 16] = [
    ("tidy", |ci| done(tidy::run(ci.workspace))),
    ("fmt", |ci| ci.cargo("fmt --all --check")),
    ("clippy", |ci| {
        ci.cargo("clippy --locked --workspace --all-targets -- -D warnings")
    }),
    ("test", |ci| ci.test()),
    ("loom", |ci| ci.loom()),
    ("interleave", |ci| ci.interleave()),
    ("model", |ci| done(model::run(ci.workspace, &[]))),
    ("sim", |ci| done(sim::run(ci.workspace, &[]))),
    ("address", |ci| ci.address()),
    ("stress", |ci| done(stress::run(ci.workspace, &[]))),
    ("fuzz", |ci| ci.fuzz()),
    ("doc", |ci| ci.doc()),
    ("licences", |ci| done(licences::check(ci.workspace))),
    ("deny", |ci| ci.deny()),
    ("demo io_uring", |ci| ci.demo("io_uring")),
    ("demo epoll", |ci| ci.demo("epoll")),
];

type Step = fn(&mut Ci<'_>) -> Result<Outcome>;

enum Outcome {
    Passed,
    /// Could not be done here, and why.
    Skipped(String),
}

struct Ci<'a> {
    workspace: &'a Workspace,
    /// Once they have run: what the tests said.
    tests: Option<Summary>,
}

/// Runs all steps, or those that are named, then prints how each ended, how long it took, and the counts of the tests.
///
/// Stops at the first step that fails; the table says why.
///
/// # Errors
///
/// Fails for a name that is no step's.
pub(crate) fn run(workspace: &Workspace, wanted: &[&str]) -> Result<ExitCode> {
    let is_step = |name: &&str| STEPS.iter().any(|(step, _)| step == name);
    if let Some(unknown) = wanted.iter().find(|name| !is_step(name)) {
        bail!("no such step: {unknown}");
    }
    let start = Instant::now();
    let mut ci = Ci {
        workspace,
        tests: None,
    };
    let mut table = Vec::new();
    let mut has_failed = false;
    for (name, step) in STEPS {
        if !wanted.is_empty() && !wanted.contains(&name) {
            continue;
        }
        println!("\n==> {name}");
        let step_start = Instant::now();
        let outcome = step(&mut ci);
        let ended = match &outcome {
            Ok(Outcome::Passed) => "passed".to_owned(),
            Ok(Outcome::Skipped(reason)) => format!("SKIPPED: {reason}"),
            Err(error) => format!("FAILED: {error:#}"),
        };
        println!("==> {name}: {ended}");
        table.push(row(name, step_start.elapsed(), &ended));
        has_failed = outcome.is_err();
        if has_failed {
            break;
        }
    }
    let ended = if has_failed { "FAILED" } else { "passed" };
    table.push(row("all", start.elapsed(), ended));
    println!("\n{}", table.join("\n"));
    if let Some(tests) = ci.tests {
        print!("{tests}");
    }
    Ok(ExitCode::from(u8::from(has_failed)))
}

impl Ci<'_> {
    /// Runs cargo with these arguments, which have no spaces in them.
    fn cargo(&self, args: &str) -> Result<Outcome> {
        succeed(self.workspace.cargo().args(args.split(' ')))
    }

    fn test(&mut self) -> Result<Outcome> {
        let summary = test::run(self.workspace, &[])?;
        let (passed, failed) = (summary.passed(), summary.failed());
        self.tests = Some(summary);
        ensure!(failed == 0, "{failed} tests failed");
        ensure!(passed > 0, "no test ran");
        Ok(Outcome::Passed)
    }

    /// Checks the models of every crate that has some for loom.
    fn loom(&self) -> Result<Outcome> {
        self.models("loom", |command| {
            // Without a bound the larger models run for hours; three show every mistake known so far.
            if std::env::var_os("LOOM_MAX_PREEMPTIONS").is_none() {
                command.env("LOOM_MAX_PREEMPTIONS", "3");
            }
        })
        .map(|_| Outcome::Passed)
    }

    /// Runs the models of every crate that has some for shuttle, and counts their schedules.
    fn interleave(&self) -> Result<Outcome> {
        let schedules = self.models("shuttle", |command| {
            // How many there were, and from which seeds.
            command.args(["--", "--show-output"]);
        })?;
        println!("interleave: {schedules} schedules");
        ensure!(
            schedules >= SCHEDULES_MIN,
            "{schedules} schedules, {SCHEDULES_MIN} are wanted"
        );
        Ok(Outcome::Passed)
    }

    /// Runs the models of every crate that depends on `checker`: tests with its name in theirs.
    /// Returns how many schedules they have counted.
    fn models(&self, checker: &str, change: impl Fn(&mut Command)) -> Result<usize> {
        let packages = self.workspace.packages.iter();
        let modelled = packages.filter(|it| it.dependencies.iter().any(|it| it.name == checker));
        let modelled: Vec<&str> = modelled.map(|package| package.name.as_str()).collect();
        ensure!(!modelled.is_empty(), "no crate has a model for {checker}");
        let filter = format!("{checker}_");
        let mut schedules = 0;
        for package in modelled {
            let mut command = self.workspace.cargo();
            let args = ["test", "--locked", "--release", "--lib", "-p", package];
            command.args(args).arg(&filter);
            change(&mut command);
            // Another RUSTFLAGS would rebuild everything, here and at the next step.
            command
                .env("RUSTFLAGS", format!("--cfg {checker}"))
                .env("CARGO_TARGET_DIR", self.workspace.target_dir.join(checker));
            // A mutant panics, and the traces of its many threads take minutes to print.
            command.env("RUST_BACKTRACE", "0");
            let summary = test::run_cargo(&mut command)?;
            ensure!(summary.failed() == 0, "models of `{package}` failed");
            ensure!(
                summary.passed() > 0,
                "`{package}` has no test with `{filter}` in its name"
            );
            schedules += summary.schedules();
        }
        Ok(schedules)
    }

    /// Runs the tests of `aio` under the address sanitizer.
    fn address(&mut self) -> Result<Outcome> {
        match sanitize::address(self.workspace)? {
            Watched::Skipped(reason) => Ok(Outcome::Skipped(reason)),
            Watched::Ran(summary) => {
                print!("{summary}");
                ensure!(summary.failed() == 0, "{} tests failed", summary.failed());
                ensure!(summary.passed() > 0, "no test ran");
                Ok(Outcome::Passed)
            }
        }
    }

    fn fuzz(&mut self) -> Result<Outcome> {
        match fuzz::briefly(self.workspace)? {
            Fuzzed::Skipped(reason) => Ok(Outcome::Skipped(reason)),
            Fuzzed::Ran(outcomes) => {
                let failed = outcomes.iter().find(|(_, outcome)| !outcome.is_good);
                match failed {
                    None => Ok(Outcome::Passed),
                    Some((name, _)) => bail!("`{name}` failed"),
                }
            }
        }
    }

    fn doc(&mut self) -> Result<Outcome> {
        let mut command = self.workspace.cargo();
        command.args(["doc", "--locked", "--workspace", "--no-deps"]);
        succeed(command.env("RUSTDOCFLAGS", "-D warnings"))
    }

    fn deny(&mut self) -> Result<Outcome> {
        let has_deny = self.workspace.cargo().args(["deny", "--version"]).output();
        if !has_deny.context("cannot start cargo")?.status.success() {
            let reason = "cargo-deny is not installed (`cargo install --locked cargo-deny`)";
            return Ok(Outcome::Skipped(reason.to_owned()));
        }
        self.cargo("deny --workspace --locked check")
    }

    /// Runs the demo of README.md on one backend.
    fn demo(&mut self, backend: &str) -> Result<Outcome> {
        let mut command = self.workspace.cargo();
        command.args(["run", "--locked", "--release", "--", "demo"]);
        command.env("LONGSHORE_AIO", backend);
        let status = command.status().context("cannot start cargo")?;
        match status.code() {
            Some(0) => Ok(Outcome::Passed),
            // Epoll is everywhere.
            Some(EXIT_UNSUPPORTED) if backend == "io_uring" => {
                Ok(Outcome::Skipped("the kernel refuses io_uring".to_owned()))
            }
            _ => bail!("the demo ended with {status}"),
        }
    }
}

fn done(result: Result<()>) -> Result<Outcome> {
    result.map(|()| Outcome::Passed)
}

fn succeed(command: &mut Command) -> Result<Outcome> {
    let status = command.status().context("cannot start cargo")?;
    ensure!(status.success(), "cargo ended with {status}");
    Ok(Outcome::Passed)
}

fn row(name: &str, took: Duration, ended: &str) -> String {
    format!("{name:<14} {:>7.1} s  {ended}", took.as_secs_f64())
}
