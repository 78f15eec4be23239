//! The principal figures, as a table small enough for the README.

use std::fmt::Write;

use super::{
    cases::{Measure, Side},
    report::{Outcome, Report, Spread},
};

/// What is told, the case and the measure, and which setting of the reference stands for it.
const PRINCIPAL: &[(&str, (&str, Measure), Side)] = &[
    (
        "Backup of random data on a disk, MiB/s",
        ("copy/disk/backup", Measure::Rate),
        Side::Qsd,
    ),
    (
        "Its processor time, s/GiB",
        ("copy/disk/backup", Measure::Cpu),
        Side::Qsd,
    ),
    (
        "Its peak memory, MiB",
        ("copy/disk/backup", Measure::Peak),
        Side::Qsd,
    ),
    (
        "Mirror of the same, MiB/s",
        ("copy/disk/mirror", Measure::Rate),
        Side::Qsd,
    ),
    (
        "Backup in memory, MiB/s",
        ("copy/memory/backup", Measure::Rate),
        Side::Qsd,
    ),
    (
        "Incremental backup of a hundredth, s",
        ("copy/incremental", Measure::Wall),
        Side::Qsd,
    ),
    (
        "Writes/s of a guest, one at a time, during a backup",
        ("guest/1/backup", Measure::Iops),
        Side::Qsd,
    ),
    (
        "99th of a hundred of them, ms more than without",
        ("guest/1/backup", Measure::AddedP99),
        Side::Qsd,
    ),
    (
        "Writes/s of a guest, 16 at a time, during a backup",
        ("guest/16/backup", Measure::Iops),
        Side::Qsd,
    ),
    (
        "The same during a write-blocking mirror",
        ("guest/16/write_blocking", Measure::Iops),
        Side::Qsd,
    ),
    (
        "Time to pause a backup, 99th of a hundred, ms",
        ("jobs/latency", Measure::PauseP99),
        Side::Qsd,
    ),
    (
        "Many backups at once, s",
        ("jobs/at_once", Measure::Wall),
        Side::Qsd,
    ),
    (
        "Many small backups, one after the other, s",
        ("jobs/one_by_one", Measure::Wall),
        Side::Qsd,
    ),
    (
        "NBD reads of 4 KiB in memory, 16 at a time, /s",
        ("serve/read/16", Measure::Iops),
        Side::QsdDefaults,
    ),
    (
        "NBD writes of the same, /s",
        ("serve/write/16", Measure::Iops),
        Side::QsdDefaults,
    ),
    (
        "NBD reads of 256 KiB, 16 at a time, MiB/s",
        ("serve/stream/1", Measure::Rate),
        Side::QsdDefaults,
    ),
    (
        "`nbdcopy` of an export, MiB/s",
        ("serve/nbdcopy/1", Measure::Rate),
        Side::QsdDefaults,
    ),
    (
        "Start to greeting, ms",
        ("start", Measure::Startup),
        Side::Qsd,
    ),
    ("Idle memory, MiB", ("start", Measure::Idle), Side::Qsd),
];

/// Of what was measured, the rows that say most, and what it was measured with.
pub(super) fn table(report: &Report, outcomes: &[Outcome]) -> String {
    let runs = outcomes.iter().flat_map(|outcome| outcome.turns.values());
    let runs = runs.map(Vec::len).max().unwrap_or(0);
    let about = |name| report.machine(name);
    let (met, all) = report.met();
    let mut text = format!(
        "`{}` in {}: {} processors, {}, {}; {}, {}.\n\
         Median [least..greatest] of {runs} turns each; a ratio is ours over theirs. \
         {met} of {all} targets are met.\n\n\
         | | Longshore | qemu-storage-daemon | Ratio | nbdkit | Ratio |\n\
         |---|---|---|---|---|---|\n",
        about("command"),
        about("date"),
        about("processors"),
        about("kernel"),
        about("disk"),
        about("qemu-storage-daemon"),
        about("nbdkit"),
    );
    for (label, (name, measure), reference) in PRINCIPAL {
        let outcome = outcomes.iter().find(|outcome| outcome.case.name == *name);
        let row = outcome.and_then(|outcome| row(outcome, *measure, *reference));
        if let Some(row) = row {
            writeln!(text, "| {label} | {row} |").expect("a text takes all");
        }
    }
    text
}

fn row(outcome: &Outcome, measure: Measure, reference: Side) -> Option<String> {
    let show = |spread: Option<Spread>| spread.map_or(String::new(), |it| it.to_string());
    let mut cells = vec![outcome.spread(Side::Longshore, measure)?.to_string()];
    for peer in [reference, Side::Nbdkit] {
        cells.push(show(outcome.spread(peer, measure)));
        cells.push(show(outcome.ratio(peer, measure)));
    }
    Some(cells.join(" | "))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::compare::{cases::CASES, report::tests::sample};

    #[test]
    fn what_was_measured_has_a_row_with_its_spread_and_ratios() {
        let outcome = sample(
            "serve/read/16",
            &[
                (Side::Longshore, Measure::Iops, &[200.0, 300.0, 400.0]),
                (Side::QsdDefaults, Measure::Iops, &[100.0, 100.0, 100.0]),
                (Side::Nbdkit, Measure::Iops, &[200.0, 200.0, 200.0]),
            ],
        );
        let machine = BTreeMap::from([("command", "compare --quick".to_owned())]);
        let outcomes = [outcome];
        let report = Report::new(machine, Vec::new(), &outcomes);

        let text = table(&report, &outcomes);

        let row = "/s | 300 [200..400] | 100 | 3.00 [2.00..4.00] | 200 | 1.50 [1.00..2.00] |\n";
        assert!(text.ends_with(row), "{text}");
        assert!(text.starts_with("`compare --quick` in "), "{text}");
        assert!(text.contains("of 3 turns each"), "{text}");
        assert!(text.contains("2 of 2 targets are met"), "{text}");
        assert_eq!(text.matches("\n| ").count(), 2, "{text}");
    }

    #[test]
    fn principal_figures_are_of_cases_in_which_the_reference_takes_part() {
        for (label, (name, _), reference) in PRINCIPAL {
            let case = CASES.iter().find(|case| case.name == *name);
            assert!(case.unwrap().sides.contains(reference), "{label}");
        }
    }
}
