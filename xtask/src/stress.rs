//! `cargo xtask stress`: random operations on both backends, with failures injected, for a while.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};

use crate::workspace::Workspace;

/// How long it runs unless told otherwise, in seconds.
const SECONDS: u64 = 60;
/// The test that does it.
const TEST: &str = "stress::a_stress_of_random_operations_loses_nothing_and_leaks_nothing";

/// Runs it with the options of the command line.
///
/// The seed is printed first: `--seed` with it is the same choice of operations, though not the same
/// order of events.
pub(crate) fn run(workspace: &Workspace, args: &[&str]) -> Result<()> {
    let (mut seconds, mut seed) = (SECONDS, fresh_seed()?);
    let mut args = args;
    loop {
        match args {
            [] => break,
            ["--seconds", value, rest @ ..] => {
                seconds = value.parse().context("--seconds takes a number")?;
                args = rest;
            }
            ["--seed", value, rest @ ..] => {
                seed = value.parse().context("--seed takes a number")?;
                args = rest;
            }
            _ => bail!("unknown options: {}", args.join(" ")),
        }
    }
    println!("stress: seed {seed}, {seconds} seconds");
    let mut command = workspace.cargo();
    command.args(["test", "--locked", "--release", "-p", "aio", "--lib", "--"]);
    command.args([TEST, "--exact", "--nocapture"]);
    command.env("LONGSHORE_STRESS_SECONDS", seconds.to_string());
    command.env("LONGSHORE_STRESS_SEED", seed.to_string());
    let status = command.status().context("cannot start cargo")?;
    ensure!(
        status.success(),
        "the stress failed; again with: cargo xtask stress --seconds {seconds} --seed {seed}"
    );
    Ok(())
}

fn fresh_seed() -> Result<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let since = since.context("the clock stands before 1970")?;
    Ok(since.as_secs() << 30 ^ u64::from(since.subsec_nanos()))
}
