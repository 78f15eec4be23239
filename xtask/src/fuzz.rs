//! `cargo xtask fuzz`: hostile input, guided by coverage, for what reads the bytes of others.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::options::read_numbers;
use crate::workspace::Workspace;

/// The folder of the fuzzed programs, a workspace of its own.
pub(crate) const DIR: &str = "fuzz";

/// As long as CI has for each.
const SECONDS: u64 = 30;
/// What one input may take; far more than any needs.
const INPUT_SECONDS_MAX: u32 = 10;
const MEMORY_MIB_MAX: u32 = 1024;
/// Longer inputs only make the rest slower.
const INPUT_BYTES_MAX: u32 = 4096;

/// How it went.
#[derive(Debug)]
pub(crate) enum Fuzzed {
    /// Each program with what its run says.
    Ran(Vec<(String, Outcome)>),
    /// Could not be done here, and why.
    Skipped(String),
}

/// What a run of one program says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// How many inputs it was given.
    inputs: u64,
    /// How much memory it took at most.
    peak_mib: u64,
    /// Whether it took all of them without a panic, a hang or too much memory.
    pub(crate) is_good: bool,
}

/// Fuzzes all programs, or those that are named; the last lines say how each went.
///
/// # Errors
///
/// Fails for unknown options and names, and if nothing can be built or started.
pub(crate) fn run(workspace: &Workspace, args: &[&str]) -> Result<ExitCode> {
    let options = args.iter().position(|arg| arg.starts_with('-'));
    let (names, options) = args.split_at(options.unwrap_or(args.len()));
    let mut seconds = SECONDS;
    read_numbers(options, &mut [("--seconds", &mut seconds)])?;
    match fuzz(workspace, names, seconds)? {
        Fuzzed::Skipped(reason) => bail!("{reason}"),
        Fuzzed::Ran(outcomes) => {
            let has_failed = outcomes.iter().any(|(_, outcome)| !outcome.is_good);
            Ok(ExitCode::from(u8::from(has_failed)))
        }
    }
}

/// What CI does.
pub(crate) fn briefly(workspace: &Workspace) -> Result<Fuzzed> {
    fuzz(workspace, &[], SECONDS)
}

fn fuzz(workspace: &Workspace, names: &[&str], seconds: u64) -> Result<Fuzzed> {
    let has_fuzz = workspace.cargo().args(["fuzz", "--version"]).output();
    if !has_fuzz.context("cannot start cargo")?.status.success() {
        let reason = "cargo-fuzz is not installed (`cargo install --locked cargo-fuzz`)";
        return Ok(Fuzzed::Skipped(reason.to_owned()));
    }
    let known = programs(workspace);
    if let Some(unknown) = names
        .iter()
        .find(|name| !known.iter().any(|it| it == *name))
    {
        bail!("`{unknown}` is none of {}", known.join(", "));
    }
    let is_wanted = |name: &String| names.is_empty() || names.contains(&name.as_str());
    let mut outcomes = Vec::new();
    for name in known.into_iter().filter(is_wanted) {
        println!("\n==> {name}, {seconds} s");
        let outcome = fuzz_one(workspace, &name, seconds)?;
        outcomes.push((name, outcome));
    }
    println!();
    for (name, outcome) in &outcomes {
        println!("{}", row(name, outcome));
    }
    Ok(Fuzzed::Ran(outcomes))
}

/// The programs, by name.
fn programs(workspace: &Workspace) -> Vec<String> {
    let fuzz = workspace.packages.iter().find(|it| it.dir == DIR);
    let targets = fuzz.into_iter().flat_map(|fuzz| &fuzz.targets);
    let name = |path: &str| Some(Path::new(path).file_stem()?.to_str()?.to_owned());
    targets.filter_map(|target| name(&target.path)).collect()
}

/// Runs one program over what it found in former runs, and the corpus in the tree.
///
/// What it finds stays below the target folder, so that the corpus stays small.
fn fuzz_one(workspace: &Workspace, name: &str, seconds: u64) -> Result<Outcome> {
    let scratch = workspace.target_dir.join("fuzz");
    let folder = |kind: &str| -> Result<PathBuf> {
        let folder = scratch.join(kind).join(name);
        let cannot = || format!("cannot make {}", folder.display());
        fs::create_dir_all(&folder).with_context(cannot)?;
        Ok(folder)
    };
    let (found, failed) = (folder("found")?, folder("failed")?);
    let log_path = scratch.join(format!("{name}.log"));
    let log = File::create(&log_path).context("cannot write the log")?;
    let mut command = workspace.cargo();
    // None of it has `unsafe`, so a sanitizer would only slow it down.
    command.args(["fuzz", "run", "--sanitizer", "none", name]);
    command.arg(&found);
    command.arg(workspace.root.join(DIR).join("corpus").join(name));
    command.args(["--", "-print_final_stats=1"]);
    command.arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-timeout={INPUT_SECONDS_MAX}"));
    command.arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"));
    command.arg(format!("-max_len={INPUT_BYTES_MAX}"));
    command.arg(format!("-artifact_prefix={}/", failed.display()));
    command.env("CARGO_TARGET_DIR", scratch.join("build"));
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .status()
        .context("cannot start cargo")?;
    let log = fs::read_to_string(&log_path).context("cannot read the log")?;
    let outcome = Outcome {
        inputs: statistic(&log, "number_of_executed_units"),
        peak_mib: statistic(&log, "peak_rss_mb"),
        is_good: status.success(),
    };
    if !outcome.is_good {
        let tail: Vec<&str> = log.lines().rev().take(40).collect();
        for line in tail.into_iter().rev() {
            println!("{line}");
        }
    }
    println!("{}", row(name, &outcome));
    Ok(outcome)
}

/// What the statistics at the end of a log say.
fn statistic(log: &str, name: &str) -> u64 {
    let found = log.lines().find_map(|line| {
        let (found, number) = line.strip_prefix("stat::")?.split_once(':')?;
        (found == name).then(|| number.trim().parse().ok())?
    });
    found.unwrap_or_default()
}

fn row(name: &str, outcome: &Outcome) -> String {
    let Outcome {
        inputs, peak_mib, ..
    } = outcome;
    let ended = if outcome.is_good { "good" } else { "FAILED" };
    format!("{name:<14} {ended}, {inputs} inputs, {peak_mib} MiB at most")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_read() {
        let log = "stat::number_of_executed_units: 1234\nstat::peak_rss_mb:               45\n";
        assert_eq!(statistic(log, "number_of_executed_units"), 1234);
        assert_eq!(statistic(log, "peak_rss_mb"), 45);
        assert_eq!(statistic(log, "new_units_added"), 0);
    }
}
