//! `cargo xtask sim`: worlds drawn from seeds, in which nothing that is promised may fail to hold.

mod mutants;

use anyhow::{Context, Result, ensure};

use crate::options::{fresh_seed, read_numbers};
use crate::workspace::Workspace;

/// How many seeds are run unless told otherwise: well under a minute of two cores.
const SEEDS: u64 = 2000;
/// Stands for an option that was not given.
const ABSENT: u64 = u64::MAX;

/// Runs it with the options of the command line.
///
/// The first seed is printed first. A seed that fails is printed with what went wrong, and `--seed`
/// with it is the same world again, with everything that happens in it.
pub(crate) fn run(workspace: &Workspace, args: &[&str]) -> Result<()> {
    if let ["--mutants", rest @ ..] = args {
        let (filter, rest) = match rest {
            [filter, rest @ ..] if !filter.starts_with("--") => (*filter, rest),
            rest => ("", rest),
        };
        let (mut seeds, mut from) = (SEEDS, 0);
        read_numbers(rest, &mut [("--seeds", &mut seeds), ("--from", &mut from)])?;
        return mutants::run(workspace, (seeds, from), filter);
    }
    let (jobs, args) = match args {
        ["--jobs", kind, rest @ ..] => (*kind, rest),
        [rest @ .., "--jobs", kind] => (*kind, rest),
        rest => ("all", rest),
    };
    let (mut seeds, mut from, mut seed, mut threads) = (SEEDS, ABSENT, ABSENT, ABSENT);
    read_numbers(
        args,
        &mut [
            ("--seeds", &mut seeds),
            ("--from", &mut from),
            ("--seed", &mut seed),
            ("--threads", &mut threads),
        ],
    )?;
    let mut command = workspace.cargo();
    command.args(["run", "--locked", "--release", "--quiet", "-p", "sim", "--"]);
    command.args(["--jobs", jobs]);
    if seed == ABSENT {
        let from = match from {
            ABSENT => fresh_seed()?,
            from => from,
        };
        println!("sim: {seeds} seeds from {from} on");
        command.args(["--seeds", &seeds.to_string()]);
        command.args(["--from", &from.to_string()]);
    } else {
        command.args(["--seed", &seed.to_string()]);
    }
    if threads != ABSENT {
        command.args(["--threads", &threads.to_string()]);
    }
    let status = command.status().context("cannot start cargo")?;
    ensure!(status.success(), "something does not hold; see above");
    Ok(())
}
