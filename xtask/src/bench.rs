//! `cargo xtask bench`: runs the measurements, and holds what they say against the targets.

mod targets;

use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::workspace::Workspace;
use targets::{Measure, TARGETS, Target};

const REPORT: &str = "bench.md";

/// What it takes.
pub(crate) const USAGE: &str = "\
usage: cargo xtask bench [NAME] [--quick]

  NAME     run only the measurements whose names begin with it, such as `timer/` or `jobs/`;
           all of them take about an hour
  --quick  measure for a short time, to see that everything runs";

/// Runs the races whose names begin with a filter, and writes the table, here and to a file.
///
/// # Errors
///
/// Fails for unknown options, and if the measurements cannot be run. A target that is missed is no
/// error.
pub(crate) fn run(workspace: &Workspace, args: &[&str]) -> Result<()> {
    let filter = filter(args)?;
    let mut results = Vec::new();
    for program in programs(filter) {
        let mut command = workspace.cargo();
        command.args(["bench", "--package", "benches", "--bench", program, "--"]);
        results.extend(read_results(command.args(args))?);
    }
    let report = report(&results, filter);
    print!("\n{report}");
    let path = workspace.target_dir.join(REPORT);
    std::fs::write(&path, report).with_context(|| format!("cannot write {}", path.display()))?;
    println!("\nwritten to {}", path.display());
    Ok(())
}

/// The one name among the arguments, empty if there is none.
fn filter<'a>(args: &[&'a str]) -> Result<&'a str> {
    let (options, names): (Vec<&str>, Vec<&str>) = args
        .iter()
        .copied()
        .partition(|it: &&str| it.starts_with('-'));
    if let Some(unknown) = options.iter().find(|option| **option != "--quick") {
        bail!("no such option: {unknown}\n\n{USAGE}");
    }
    match names[..] {
        [] => Ok(""),
        [name] => Ok(name),
        [_, second, ..] => bail!("one name only, and not also {second}\n\n{USAGE}"),
    }
}

/// Which programs have something whose name begins with `filter`.
fn programs(filter: &str) -> &'static [&'static str] {
    match filter {
        "" => &["races", "jobs"],
        _ if filter.starts_with("jobs/") => &["jobs"],
        _ => &["races"],
    }
}

/// Runs the measurements, shows what comes out as it comes, and gathers it.
fn read_results(command: &mut Command) -> Result<Vec<Line>> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start `cargo bench`")?;
    let output = child.stdout.take();
    let output = output.context("the output was asked for as a pipe")?;
    let mut results = Vec::new();
    for text in BufReader::new(output).lines() {
        let text = text.context("cannot read what the measurements print")?;
        if let Some(line) = Line::parse(&text) {
            println!("{text}");
            results.push(line);
        }
    }
    let status = child.wait()?;
    ensure!(status.success(), "the measurements ended with {status}");
    Ok(results)
}

/// What one line of the measurements says.
#[derive(Debug, PartialEq)]
enum Line {
    /// Our time over a peer's, and the same of processor time.
    Ratio(Named),
    /// A time in nanoseconds with its processor time, or a count of something.
    Figure(Named),
    /// What is not measured here, and why.
    Skipped(String),
}

#[derive(Debug, PartialEq)]
struct Named {
    /// Race, our side, and for a ratio the peer.
    name: String,
    value: Spread,
    unit: String,
    cpu: Option<Spread>,
    /// What else the measurement said about it, such as in how many turns others disturbed us.
    remark: String,
}

/// Median, and as the measurement wrote it, with least and greatest.
#[derive(Debug, PartialEq)]
struct Spread {
    median: f64,
    text: String,
}

impl Spread {
    /// Reads `MEDIAN` or `MEDIAN [MIN..MAX]`; what stands behind it comes back too.
    fn parse(text: &str) -> Option<(Spread, &str)> {
        let (median, rest) = text.split_once(' ').unwrap_or((text, ""));
        let range = rest
            .starts_with('[')
            .then(|| rest.split_inclusive(']').next());
        let length = range.flatten().map_or(median.len(), |range| {
            // The blank between them.
            median.len() + 1 + range.len()
        });
        let spread = Spread {
            median: median.parse().ok()?,
            text: text[..length].to_owned(),
        };
        Some((spread, &text[length..]))
    }
}

impl Line {
    /// The line, or `None` if it is one of criterion's.
    fn parse(text: &str) -> Option<Line> {
        if let Some(why) = text.strip_prefix("skipped: ") {
            return Some(Line::Skipped(why.to_owned()));
        }
        let (kind, rest) = text.split_once(' ')?;
        let (name, rest) = rest.split_once(" = ")?;
        let mut parts = rest.split(", ");
        let (value, unit) = Spread::parse(parts.next()?)?;
        let (mut cpu, mut remarks) = (None, Vec::new());
        for part in parts {
            match part.strip_prefix("cpu ") {
                Some(time) => cpu = Some(Spread::parse(time)?.0),
                None => remarks.push(part),
            }
        }
        let named = Named {
            name: name.to_owned(),
            value,
            unit: unit.trim_start().to_owned(),
            cpu,
            remark: remarks.join(", "),
        };
        match kind {
            "ratio" => Some(Line::Ratio(named)),
            "figure" => Some(Line::Figure(named)),
            _ => None,
        }
    }
}

/// All tables. What has a target and a name that begins with `filter` should have been measured.
fn report(results: &[Line], filter: &str) -> String {
    let ratios = || results.iter().filter_map(Line::as_ratio);
    let figures = || results.iter().filter_map(Line::as_figure);
    let mut text = String::from("# Measurements\n\n## Targets\n\n");
    text.push_str("| # | Measured | Found | Target | |\n|---|---|---|---|---|\n");
    for target in &TARGETS {
        let found = match target.measure {
            Measure::Time | Measure::Cpu => ratios().find(|it| it.name == target.name),
            Measure::Figure | Measure::CpuFigure => figures().find(|it| it.name == target.name),
        };
        match found {
            Some(found) => text.push_str(&target_row(target, found)),
            None if target.name.starts_with(filter) => {
                let Target { id, name, .. } = target;
                add(
                    &mut text,
                    format_args!("| {id} | `{name}` | | | not measured |\n"),
                );
            }
            None => {}
        }
    }
    if ratios().next().is_some() {
        text.push_str("\n## Races\n\nOur time over the peer's: above one we are slower.\n\n");
        text.push_str("| Race/ours/peer | Time | Processor time | |\n|---|---|---|---|\n");
        text.extend(ratios().map(row));
    }
    if figures().next().is_some() {
        text.push_str("\n## Figures\n\nTimes say as much about the machine as about us.\n\n");
        text.push_str("| What | Figure | Processor time in ns | |\n|---|---|---|---|\n");
        text.extend(figures().map(row));
    }
    for line in results {
        if let Line::Skipped(why) = line {
            add(&mut text, format_args!("\nskipped: {why}\n"));
        }
    }
    text
}

impl Line {
    fn as_ratio(&self) -> Option<&Named> {
        match self {
            Line::Ratio(named) => Some(named),
            Line::Figure(_) | Line::Skipped(_) => None,
        }
    }

    fn as_figure(&self) -> Option<&Named> {
        match self {
            Line::Figure(named) => Some(named),
            Line::Ratio(_) | Line::Skipped(_) => None,
        }
    }
}

fn row(named: &Named) -> String {
    let Named { name, unit, .. } = named;
    let value = format!("{} {unit}", named.value.text);
    let cpu = named.cpu.as_ref().map_or("", |cpu| cpu.text.as_str());
    let remark = &named.remark;
    format!("| `{name}` | {} | {cpu} | {remark} |\n", value.trim_end())
}

fn target_row(target: &Target, found: &Named) -> String {
    let (what, spread) = match target.measure {
        Measure::Time => ("time", Some(&found.value)),
        Measure::Cpu => ("processor time", found.cpu.as_ref()),
        Measure::Figure => (found.unit.as_str(), Some(&found.value)),
        Measure::CpuFigure => ("processor time in ns", found.cpu.as_ref()),
    };
    let Target {
        id, name, at_most, ..
    } = target;
    let Some(spread) = spread else {
        return format!("| {id} | `{name}`, {what} | | | not measured |\n");
    };
    let met = if spread.median <= *at_most {
        "met"
    } else {
        "**missed**"
    };
    let remark = format!("{met} {}", found.remark);
    // A share of the limit makes a long fraction.
    let at_most = (at_most * 1000.0).round() / 1000.0;
    let (found, remark) = (&spread.text, remark.trim_end());
    format!("| {id} | `{name}`, {what} | {found} | ≤ {at_most} | {remark} |\n")
}

fn add(text: &mut String, line: std::fmt::Arguments<'_>) {
    text.write_fmt(line).expect("a text takes all");
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATIO: &str = "ratio disk_read/disk/io_uring/aio/raw_ring = 1.01 [0.88..1.37], \
                         cpu 1.12 [1.10..1.18], disturbed 1 of 5";
    const FIGURE: &str = "figure timer/churn_100k/sleep = 468.97 [465.71..472.98] ns, \
                          cpu 469.29 [465.44..476.00] ns";
    const COUNT: &str = "figure drop_in_flight/aio = 0 bytes written too late";

    fn parsed(lines: &[&str]) -> Vec<Line> {
        lines.iter().filter_map(|line| Line::parse(line)).collect()
    }

    #[test]
    fn what_a_measurement_prints_is_read() {
        let lines = parsed(&[
            RATIO,
            FIGURE,
            COUNT,
            "skipped: no disk",
            "a = 1",
            "",
            "time: [1 ns]",
        ]);
        let [
            Line::Ratio(ratio),
            Line::Figure(figure),
            Line::Figure(count),
            skipped,
        ] = &lines[..]
        else {
            panic!("{lines:?}");
        };
        assert_eq!(ratio.name, "disk_read/disk/io_uring/aio/raw_ring");
        assert_eq!(ratio.value.text, "1.01 [0.88..1.37]");
        assert_eq!(ratio.cpu.as_ref().unwrap().median, 1.12);
        assert_eq!(ratio.remark, "disturbed 1 of 5");
        assert_eq!((figure.value.median, figure.unit.as_str()), (468.97, "ns"));
        assert_eq!(figure.remark, "");
        assert_eq!(
            (count.value.median, count.unit.as_str()),
            (0.0, "bytes written too late")
        );
        assert_eq!(*skipped, Line::Skipped("no disk".to_owned()));
    }

    #[test]
    fn targets_are_met_or_missed() {
        let report = report(&parsed(&[RATIO, FIGURE, COUNT]), "");
        for row in [
            "| L1 | `disk_read/disk/io_uring/aio/raw_ring`, time | 1.01 [0.88..1.37] | ≤ 1.02 | met disturbed 1 of 5 |",
            "| L1 | `disk_read/disk/io_uring/aio/raw_ring`, processor time | 1.12 [1.10..1.18] | ≤ 1.1 | **missed** disturbed 1 of 5 |",
            "| L5 | `timer/churn_100k/sleep`, processor time in ns | 469.29 [465.44..476.00] | ≤ 45 | **missed** |",
            "| L11 | `drop_in_flight/aio`, bytes written too late | 0 | ≤ 0 | met |",
        ] {
            assert!(report.contains(row), "{row}\n\n{report}");
        }
    }

    #[test]
    fn options_that_nobody_knows_are_refused() {
        let filter = |args: &[&'static str]| filter(args).map_err(|_| ());
        assert_eq!(filter(&[]), Ok(""));
        assert_eq!(filter(&["--quick"]), Ok(""));
        assert_eq!(filter(&["--quick", "timer/"]), Ok("timer/"));
        assert_eq!(filter(&["timer/", "--quik"]), Err(()));
        assert_eq!(filter(&["--help", "timer/"]), Err(()));
        assert_eq!(filter(&["timer/", "jobs/"]), Err(()));
    }

    #[test]
    fn only_a_program_that_measures_what_is_asked_for_runs() {
        assert_eq!(programs(""), ["races", "jobs"]);
        assert_eq!(programs("jobs/latency"), ["jobs"]);
        assert_eq!(programs("timer/"), ["races"]);
    }

    #[test]
    fn what_was_asked_for_and_not_measured_is_told() {
        let row = "`drop_in_flight/aio` | | | not measured |";
        assert!(report(&[], "drop").contains(row));
        assert!(!report(&[], "timer/").contains(row));
    }
}
