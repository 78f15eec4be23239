//! `cargo xtask test`: every test of the workspace, and one honest line of counts.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::workspace::Workspace;

/// Names the file to which a test that lacks a tool appends its line; see docs/testing.md.
const SKIP_LOG: &str = "LONGSHORE_SKIP_LOG";

/// What the tests said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    passed: usize,
    failures: Vec<String>,
    skips: Vec<String>,
    /// Test programs that began and did not come to an end.
    unfinished: usize,
    /// Schedules that models were run under, all together.
    schedules: usize,
}

/// Runs the tests and the examples in the documentation. `args` go to the test programs.
///
/// Benches are left out: they measure, and take their time.
///
/// # Errors
///
/// Fails if the tests cannot be started; a test that fails is in the summary.
pub(crate) fn run(workspace: &Workspace, args: &[&str]) -> Result<Summary> {
    let targets = ["--lib", "--bins", "--tests", "--examples"];
    let mut summary = run_cargo(
        workspace
            .cargo()
            .args(TEST)
            .args(targets)
            .arg("--")
            .args(args),
    )?;
    // Where nothing could be built, the examples in the documentation cannot be either.
    let is_built = summary.passed > 0 || summary.failures.is_empty();
    if is_built {
        summary.add(run_cargo(
            workspace
                .cargo()
                .args(TEST)
                .arg("--doc")
                .arg("--")
                .args(args),
        )?);
    }
    Ok(summary)
}

const TEST: [&str; 3] = ["test", "--workspace", "--no-fail-fast"];

/// Runs one `cargo test`, shows what it prints, and counts.
///
/// # Errors
///
/// Fails if cargo cannot be started or the skips cannot be read back.
pub(crate) fn run_cargo(command: &mut Command) -> Result<Summary> {
    let skip_log = std::env::temp_dir().join(format!("longshore-skips-{}", std::process::id()));
    let mut child = command
        .env(SKIP_LOG, &skip_log)
        // Colour codes would stand in the lines that are counted.
        .env("CARGO_TERM_COLOR", "never")
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start `cargo test`")?;
    let output = child
        .stdout
        .take()
        .context("the output was asked for as a pipe")?;
    let mut summary = Summary::default();
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        print!("{text}");
        summary.read_line(text.trim_end());
        line.clear();
    }
    let exit_code = child.wait()?.code();
    if skip_log.exists() {
        let log = std::fs::read_to_string(&skip_log).context("cannot read the log of skips")?;
        summary.read_skips(&log);
        std::fs::remove_file(&skip_log)?;
    }
    summary.finish(exit_code);
    Ok(summary)
}

impl Summary {
    /// How many tests passed.
    pub(crate) fn passed(&self) -> usize {
        self.passed
    }

    /// How many tests failed. A test program that died or could not be built counts as one.
    pub(crate) fn failed(&self) -> usize {
        self.failures.len()
    }

    /// How many schedules models have said that they were run under.
    pub(crate) fn schedules(&self) -> usize {
        self.schedules
    }

    /// The one line of counts.
    pub(crate) fn counts(&self) -> String {
        let (passed, failed, skipped) = (self.passed, self.failures.len(), self.skips.len());
        format!("{passed} passed, {failed} failed, {skipped} skipped")
    }

    fn add(&mut self, other: Summary) {
        self.passed += other.passed;
        self.failures.extend(other.failures);
        self.skips.extend(other.skips);
        self.schedules += other.schedules;
    }

    /// Reads one line of a test program.
    fn read_line(&mut self, line: &str) {
        if line.starts_with("running ") && line.trim_end_matches('s').ends_with(" test") {
            self.unfinished += 1;
        } else if let Some(result) = line.strip_prefix("test result: ") {
            self.unfinished = self.unfinished.saturating_sub(1);
            self.passed += count_before(result, " passed");
        } else if line.starts_with("explored ") && line.ends_with(" schedules") {
            self.schedules += count_before(line, " schedules");
        } else if let Some((name, outcome)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.rsplit_once(" ... "))
        {
            self.read_outcome(name, outcome);
        }
    }

    fn read_outcome(&mut self, name: &str, outcome: &str) {
        let name = name.trim_end_matches(" - should panic");
        if outcome.starts_with("FAILED") {
            self.failures.push(format!("FAILED {name}"));
        } else if let Some(reason) = outcome.strip_prefix("ignored") {
            let reason = reason.trim_start_matches(", ");
            let reason = if reason.is_empty() {
                "no reason is given"
            } else {
                reason
            };
            self.skips
                .push(format!("SKIPPED {name}: ignored, {reason}"));
        }
    }

    /// Reads what tests have told about themselves. They return early, so libtest says they passed.
    fn read_skips(&mut self, log: &str) {
        let skips = log.lines().filter(|line| line.starts_with("SKIPPED "));
        for skip in skips {
            self.skips.push(skip.to_owned());
            self.passed = self.passed.saturating_sub(1);
        }
    }

    /// Takes into account what no line says. `exit_code` is that of cargo.
    fn finish(&mut self, exit_code: Option<i32>) {
        for _ in 0..self.unfinished {
            let message = "FAILED a test program died before its end; see above";
            self.failures.push(message.to_owned());
        }
        if exit_code != Some(0) && self.failures.is_empty() {
            let message = "FAILED a test program could not be built or run; see above";
            self.failures.push(message.to_owned());
        }
        self.unfinished = 0;
        self.skips.sort();
    }
}

/// What failed, what was skipped and why, and last the counts.
impl fmt::Display for Summary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out)?;
        for line in self.failures.iter().chain(&self.skips) {
            writeln!(out, "{line}")?;
        }
        writeln!(out, "{}", self.counts())
    }
}

/// The number that stands right before `what` in `text`.
fn count_before(text: &str, what: &str) -> usize {
    let before = text.split_once(what).map_or("", |(before, _)| before);
    before
        .rsplit(' ')
        .next()
        .and_then(|count| count.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(output: &str, skip_log: &str, exit_code: i32) -> Summary {
        let mut summary = Summary::default();
        output.lines().for_each(|line| summary.read_line(line));
        summary.read_skips(skip_log);
        summary.finish(Some(exit_code));
        summary
    }

    const FIRST: &str = "\
running 4 tests
test a::works ... ok
test a::panics - should panic ... FAILED
test a::slow ... ignored, takes an hour
test a::lacks ... ok

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    const SECOND: &str = "\
running 1 test
test b ... ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 5 filtered out; finished in 0.00s
";

    #[test]
    fn counts_add_up_over_programs() {
        let both = summary(&format!("{FIRST}\n{SECOND}"), "", 1);
        assert_eq!(both.counts(), "3 passed, 1 failed, 1 skipped");
        assert_eq!(both.failures, ["FAILED a::panics"]);
        assert_eq!(both.skips, ["SKIPPED a::slow: ignored, takes an hour"]);
    }

    #[test]
    fn a_test_that_skipped_itself_has_not_passed() {
        let line = "SKIPPED b: needs qemu-img (Debian package qemu-utils)";
        let shown = summary(SECOND, &format!("{line}\n"), 0).to_string();
        assert_eq!(shown, format!("\n{line}\n0 passed, 0 failed, 1 skipped\n"));
    }

    #[test]
    fn the_counts_are_the_last_line_and_stand_there_once() {
        let shown = summary(FIRST, "SKIPPED a::lacks: needs root (loop devices)\n", 1).to_string();
        assert!(
            shown.ends_with("\n1 passed, 1 failed, 2 skipped\n"),
            "{shown}"
        );
        assert_eq!(shown.matches(" passed, ").count(), 1);
    }

    #[test]
    fn a_program_that_dies_is_a_failure() {
        let died = summary("running 2 tests\ntest a ... ok\n", "", 1);
        assert_eq!(died.counts(), "0 passed, 1 failed, 0 skipped");
        let also = summary(&format!("{FIRST}running 2 tests\n"), "", 1);
        assert_eq!(also.failed(), 2);
    }

    #[test]
    fn a_build_that_fails_is_a_failure() {
        assert_eq!(summary("", "", 1).counts(), "0 passed, 1 failed, 0 skipped");
        assert_eq!(summary("", "", 0).counts(), "0 passed, 0 failed, 0 skipped");
    }

    #[test]
    fn schedules_of_models_add_up() {
        let output = "explored a: 8000 schedules\nexplored b: 12 schedules\nexplored all\n";
        assert_eq!(summary(output, "", 0).schedules(), 8012);
    }

    #[test]
    fn what_a_test_prints_is_not_counted() {
        let output = "test the waters ... and go\nrunning late\ntest result\nSKIPPED x: y\n";
        assert_eq!(summary(output, "", 0), Summary::default());
    }
}
