//! `cargo xtask model`: jobs against a model of the reference text, under random acts.

use anyhow::{Context, Result, ensure};

use crate::options::{fresh_seed, read_numbers};
use crate::workspace::Workspace;

/// How many steps each of the two runs takes unless told otherwise.
const STEPS: u64 = 1_000_000;

/// Runs it with the options of the command line.
///
/// The seed is printed first: `--seed` with it is the same run again. One that fails prints the seed
/// that finds the failure at once.
pub(crate) fn run(workspace: &Workspace, args: &[&str]) -> Result<()> {
    let (mut steps, mut seed) = (STEPS, fresh_seed()?);
    read_numbers(args, &mut [("--steps", &mut steps), ("--seed", &mut seed)])?;
    println!("model: {steps} steps at rest and {steps} in a hurry, seed {seed}");
    let mut command = workspace.cargo();
    command.args(["test", "--locked", "--release", "-p", "job"]);
    command.args(["--test", "model", "--", "--nocapture"]);
    command.env("LONGSHORE_MODEL_STEPS", steps.to_string());
    command.env("LONGSHORE_MODEL_SEED", seed.to_string());
    let status = command.status().context("cannot start cargo")?;
    ensure!(
        status.success(),
        "jobs and their model differ; again with: cargo xtask model --steps {steps} --seed {seed}"
    );
    Ok(())
}
