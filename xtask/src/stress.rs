//! `cargo xtask stress`: random operations on both backends, with failures injected, for a while.

use anyhow::{Context, Result, ensure};

use crate::options::{fresh_seed, read_numbers};
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
    read_numbers(
        args,
        &mut [("--seconds", &mut seconds), ("--seed", &mut seed)],
    )?;
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
