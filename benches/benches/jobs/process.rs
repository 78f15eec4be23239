//! Sides that run in a process of their own, whose memory nothing else has used.

use std::{collections::BTreeMap, env, fs, process::Command};

/// What one process found, by name.
pub(crate) type Found = BTreeMap<String, f64>;

/// Runs this program again with `args`, and gathers the lines that it [prints](print).
pub(crate) fn run_self(args: &[&str]) -> Result<Found, String> {
    let program = env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new(program).args(args).output();
    let output = output.map_err(|error| error.to_string())?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{args:?} ended with {}: {why}", output.status));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let figure = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    Ok(text.lines().filter_map(figure).collect())
}

/// Tells the process that started this one what was found.
#[expect(clippy::print_stdout, reason = "how a side tells what it found")]
pub(crate) fn print(name: &str, value: f64) {
    println!("{name} {value}");
}

/// A line of a process's status that is in KiB, such as `VmHWM:`; zero where the system does not tell.
pub(crate) fn status_kib(process: &str, line: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let mut lines = status.lines();
    let value = lines.find_map(|it| it.strip_prefix(line)?.split_whitespace().next());
    value.map_or(0.0, |value| value.parse().unwrap_or(0.0))
}
