//! [`Report`]: what was found, as a table for people and as JSON for programs.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
};

use serde_json::{Value, json};

use super::{
    cases::{Case, Measure, Side},
    turn::Turn,
};

/// What happened in one case.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) case: &'static Case,
    /// The counted turns of each side.
    pub(super) turns: BTreeMap<Side, Vec<Taken>>,
    pub(super) failures: Vec<(Side, String)>,
    /// Why nobody can do it here.
    pub(super) skipped: Option<String>,
    /// How many rounds there was no time for.
    pub(super) left_out: usize,
}

/// A turn, and whether others disturbed it.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    pub(super) turn: Turn,
    pub(super) is_disturbed: bool,
}

impl Outcome {
    pub(super) fn new(case: &'static Case) -> Self {
        Self {
            case,
            turns: BTreeMap::new(),
            failures: Vec::new(),
            skipped: None,
            left_out: 0,
        }
    }

    pub(super) fn add(&mut self, side: Side, taken: Taken) {
        self.turns.entry(side).or_default().push(taken);
    }

    /// What a side found, turn by turn.
    fn figures(&self, side: Side, measure: Measure) -> Vec<f64> {
        let turns = self.turns.get(&side).into_iter().flatten();
        let figures = turns.filter_map(|taken| taken.turn.figures.get(&measure));
        figures.copied().collect()
    }

    /// What a side found in the middle of its turns.
    pub(super) fn spread(&self, side: Side, measure: Measure) -> Option<Spread> {
        Spread::of(self.figures(side, measure))
    }

    /// Our figures over those of the same rounds of a peer.
    pub(super) fn ratio(&self, peer: Side, measure: Measure) -> Option<Spread> {
        let ours = self.figures(Side::Longshore, measure);
        let theirs = self.figures(peer, measure);
        let pairs = ours.into_iter().zip(theirs);
        let pairs = pairs.filter(|(_, theirs)| *theirs > 0.0);
        Spread::of(pairs.map(|(ours, theirs)| ours / theirs).collect())
    }

    fn remark(&self, side: Option<Side>) -> String {
        let sides = [Some(Side::Longshore), side].into_iter().flatten();
        let taken: Vec<_> = sides.filter_map(|side| self.turns.get(&side)).collect();
        let count = |is: &dyn Fn(&Taken) -> bool| {
            let all = taken.iter().flat_map(|turns| turns.iter());
            all.filter(|taken| is(taken)).count()
        };
        let (all, disturbed) = (count(&|_| true), count(&|taken| taken.is_disturbed));
        let given_up = count(&|taken| taken.turn.is_given_up);
        let mut remarks = Vec::new();
        if disturbed > 0 {
            remarks.push(format!("disturbed {disturbed} of {all}"));
        }
        if given_up > 0 {
            remarks.push(format!("copy given up {given_up} of {all}"));
        }
        remarks.join(", ")
    }
}

/// Median, least and greatest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        Some(Self {
            median: *values.get(values.len() / 2)?,
            min: *values.first()?,
            max: *values.last()?,
        })
    }

    fn json(self) -> Value {
        json!({"median": self.median, "min": self.min, "max": self.max})
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = match self.median.abs() {
            0.0 => 0,
            small if small < 0.1 => 4,
            large if large >= 100.0 => 0,
            _ => 2,
        };
        write!(f, "{:.decimals$}", self.median)?;
        if self.min < self.max {
            write!(f, " [{:.decimals$}..{:.decimals$}]", self.min, self.max)?;
        }
        Ok(())
    }
}

const HEAD: &str = "\
| # | Case | Measure | Ours | Peer | Peer's | Ours / peer's | Target | |
|---|---|---|---|---|---|---|---|---|
";

/// One measure of one case, ours beside a peer's.
#[derive(Debug)]
struct Row {
    case: &'static Case,
    measure: Measure,
    ours: Option<Spread>,
    /// Absent where there is nobody to compare with.
    peer: Option<(Side, Spread, Option<Spread>)>,
    bound: Option<Verdict>,
    remark: String,
}

/// What is to be reached, and whether that is so.
#[derive(Debug)]
struct Verdict {
    target: &'static str,
    text: String,
    is_met: bool,
}

impl Row {
    fn all(outcome: &Outcome) -> Vec<Row> {
        let case = outcome.case;
        let all = outcome.turns.values().flatten();
        let mut measures: Vec<Measure> = all
            .flat_map(|taken| taken.turn.figures.keys().copied())
            .collect();
        measures.sort_unstable();
        measures.dedup();
        let mut rows = Vec::new();
        for measure in measures {
            let before = rows.len();
            let peers = case.sides.iter().copied();
            for peer in peers.filter(|peer| *peer != Side::Longshore) {
                rows.extend(Row::beside(outcome, measure, peer));
            }
            let is_bound =
                |bound: &&super::cases::Bound| bound.measure == measure && bound.peer.is_none();
            if rows.len() == before || case.bounds.iter().any(|bound| is_bound(&bound)) {
                rows.push(Row::alone(outcome, measure));
            }
        }
        rows
    }

    fn beside(outcome: &Outcome, measure: Measure, peer: Side) -> Option<Row> {
        let theirs = outcome.spread(peer, measure)?;
        let ratio = outcome.ratio(peer, measure);
        Some(Row {
            case: outcome.case,
            measure,
            ours: outcome.spread(Side::Longshore, measure),
            peer: Some((peer, theirs, ratio)),
            bound: Verdict::of(outcome.case, (measure, Some(peer)), ratio),
            remark: outcome.remark(Some(peer)),
        })
    }

    fn alone(outcome: &Outcome, measure: Measure) -> Row {
        let ours = outcome.spread(Side::Longshore, measure);
        Row {
            case: outcome.case,
            measure,
            ours,
            peer: None,
            bound: Verdict::of(outcome.case, (measure, None), ours),
            remark: outcome.remark(None),
        }
    }

    fn target(&self) -> &'static str {
        self.bound.as_ref().map_or(self.case.target, |it| it.target)
    }

    /// Orders targets: jobs before exports, and by their numbers.
    fn rank(&self) -> (bool, u32) {
        let target = self.target();
        let number = target.trim_start_matches(char::is_alphabetic).parse();
        (target.starts_with('E'), number.unwrap_or(u32::MAX))
    }

    fn markdown(&self) -> String {
        let show = |spread: Option<Spread>| spread.map_or(String::new(), |it| it.to_string());
        let (peer, theirs, ratio) = match self.peer {
            Some((peer, theirs, ratio)) => (peer.name(), theirs.to_string(), show(ratio)),
            None => ("", String::new(), String::new()),
        };
        let bound = match &self.bound {
            Some(bound) => bound.to_string(),
            None => String::new(),
        };
        let (measure, unit) = (self.measure, self.measure.unit());
        let measure = match unit {
            "" => measure.to_string(),
            _ => format!("{measure}, {unit}"),
        };
        let cells = [
            self.target(),
            &format!("`{}`", self.case.name),
            &measure,
            &show(self.ours),
            peer,
            &theirs,
            &ratio,
            &bound,
            &self.remark,
        ];
        format!("| {} |\n", cells.join(" | "))
    }

    fn json(&self) -> Value {
        let peer = self.peer.map(|(peer, theirs, ratio)| {
            json!({
                "name": peer.name(), "figure": theirs.json(), "ratio": ratio.map(Spread::json),
            })
        });
        let bound = self.bound.as_ref();
        json!({
            "target": self.target(),
            "case": self.case.name,
            "measure": self.measure.to_string(),
            "unit": self.measure.unit(),
            "ours": self.ours.map(Spread::json),
            "peer": peer,
            "bound": bound.map(|it| json!({"text": it.text, "met": it.is_met})),
            "remark": self.remark,
        })
    }
}

impl Verdict {
    fn of(
        case: &Case,
        (measure, peer): (Measure, Option<Side>),
        found: Option<Spread>,
    ) -> Option<Self> {
        let mut bounds = case.bounds.iter();
        let bound = bounds.find(|bound| bound.measure == measure && bound.peer == peer)?;
        Some(Self {
            target: bound.target.unwrap_or(case.target),
            text: bound.within.to_string(),
            is_met: bound.within.holds(found?.median),
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.is_met { "met" } else { "**missed**" };
        write!(f, "{}: {verdict}", self.text)
    }
}

/// All that was found.
#[derive(Debug)]
pub(super) struct Report {
    machine: BTreeMap<&'static str, String>,
    rows: Vec<Row>,
    /// What was not measured, and why.
    gaps: Vec<String>,
}

impl Report {
    pub(super) fn new(
        machine: BTreeMap<&'static str, String>,
        missing: Vec<String>,
        outcomes: &[Outcome],
    ) -> Self {
        let mut gaps: Vec<String> = missing
            .into_iter()
            .map(|peer| format!("not here: {peer}"))
            .collect();
        for outcome in outcomes {
            let name = outcome.case.name;
            if let Some(why) = &outcome.skipped {
                gaps.push(format!("`{name}` skipped: {why}"));
            }
            if outcome.left_out > 0 {
                let count = outcome.left_out;
                gaps.push(format!("`{name}`: {count} turns left out for want of time"));
            }
            let failures = outcome.failures.iter();
            gaps.extend(
                failures.map(|(side, why)| format!("`{name}`: {} failed: {why}", side.name())),
            );
        }
        Self {
            machine,
            rows: outcomes.iter().flat_map(Row::all).collect(),
            gaps,
        }
    }

    pub(super) fn markdown(&self) -> String {
        let mut bound: Vec<&Row> = self.rows.iter().filter(|it| it.bound.is_some()).collect();
        bound.sort_by_key(|row| row.rank());
        let mut text = String::from("# Comparison\n");
        for (title, rows) in [("Targets", bound), ("All", self.rows.iter().collect())] {
            write!(text, "\n## {title}\n\n{HEAD}").expect("a text takes all");
            text.extend(rows.into_iter().map(Row::markdown));
        }
        text.push('\n');
        for (what, value) in &self.machine {
            writeln!(text, "- {what}: {value}").expect("a text takes all");
        }
        for gap in &self.gaps {
            writeln!(text, "- {gap}").expect("a text takes all");
        }
        text
    }

    /// How many targets are met, and how many there are.
    pub(super) fn met(&self) -> (usize, usize) {
        let bounds = self.rows.iter().filter_map(|row| row.bound.as_ref());
        let (met, missed): (Vec<_>, Vec<_>) = bounds.partition(|bound| bound.is_met);
        (met.len(), met.len() + missed.len())
    }

    /// What is known of the machine by this name.
    pub(super) fn machine(&self, name: &str) -> &str {
        self.machine.get(name).map_or("unknown", String::as_str)
    }

    pub(super) fn json(&self) -> Value {
        let rows: Vec<Value> = self.rows.iter().map(Row::json).collect();
        json!({"machine": self.machine, "rows": rows, "gaps": self.gaps})
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::compare::cases::CASES;

    /// A case with these figures, one turn after the other.
    pub(in crate::compare) fn sample(name: &str, figures: &[(Side, Measure, &[f64])]) -> Outcome {
        let case = CASES.iter().find(|case| case.name == name).unwrap();
        let mut outcome = Outcome::new(case);
        for (side, measure, values) in figures {
            let turns = outcome.turns.entry(*side).or_default();
            turns.resize(
                values.len(),
                Taken {
                    turn: Turn::default(),
                    is_disturbed: false,
                },
            );
            for (taken, value) in turns.iter_mut().zip(*values) {
                taken.turn.figures.insert(*measure, *value);
                taken.turn.trace = vec![(0.0, 1.0), (0.5, 20.0)];
            }
        }
        outcome
    }

    fn report(outcomes: &[Outcome]) -> Report {
        let machine = BTreeMap::from([("kernel", "Linux".to_owned())]);
        Report::new(
            machine,
            vec!["nbdkit (Debian package nbdkit)".to_owned()],
            outcomes,
        )
    }

    #[test]
    fn ratios_are_of_turns_of_the_same_round_and_are_held_against_targets() {
        let outcome = sample(
            "copy/disk/backup",
            &[
                (Side::Longshore, Measure::Wall, &[1.0, 2.0, 3.0]),
                (Side::Qsd, Measure::Wall, &[2.0, 4.0, 4.0]),
                (Side::Longshore, Measure::Cpu, &[0.05]),
                (Side::Qsd, Measure::Cpu, &[0.1]),
                (Side::Longshore, Measure::Peak, &[10.0]),
                (Side::Qsd, Measure::Peak, &[40.0]),
            ],
        );
        let table = report(&[outcome]).markdown();
        for row in [
            "| J1 | `copy/disk/backup` | CPU, s/GiB | 0.0500 | qsd | 0.10 | 0.50 | ≤ 0.1: **missed** |  |",
            "| J11 | `copy/disk/backup` | peak memory, MiB | 10.00 | qsd | 40.00 | 0.25 | ≤ 0.5: met |  |",
            "- kernel: Linux",
            "- not here: nbdkit (Debian package nbdkit)",
        ] {
            assert!(table.contains(row), "{row}\n\n{table}");
        }
    }

    #[test]
    fn a_target_of_ours_alone_has_a_row_without_a_peer() {
        let outcome = sample("copy/holes", &[(Side::Longshore, Measure::Wall, &[0.5])]);
        let table = report(&[outcome]).markdown();
        let row = "| J3 | `copy/holes` | wall time, s | 0.50 |  |  |  | ≤ 1: met |  |";
        assert!(table.contains(row), "{table}");
    }

    #[test]
    fn what_failed_was_disturbed_or_given_up_is_told() {
        let mut outcome = sample(
            "guest/1/backup",
            &[
                (Side::Longshore, Measure::Iops, &[100.0]),
                (Side::Qsd, Measure::Iops, &[10.0]),
            ],
        );
        let theirs = outcome.turns.get_mut(&Side::Qsd).unwrap();
        theirs[0].is_disturbed = true;
        theirs[0].turn.is_given_up = true;
        outcome
            .failures
            .push((Side::QsdIothread, "no thread".to_owned()));
        outcome.left_out = 2;

        let report = report(&[outcome]);

        let table = report.markdown();
        assert!(
            table.contains("| ≥ 100: **missed** | disturbed 1 of 2, copy given up 1 of 2 |"),
            "{table}"
        );
        assert!(
            table.contains("- `guest/1/backup`: qsd, iothread failed: no thread"),
            "{table}"
        );
        assert!(
            table.contains("- `guest/1/backup`: 2 turns left out"),
            "{table}"
        );
        let json = report.json();
        assert_eq!(json["rows"][0]["peer"]["ratio"]["median"], 10.0);
        assert_eq!(json["rows"][0]["bound"]["met"], false);
    }

    #[test]
    fn figures_have_as_many_digits_as_they_say_something() {
        let show = |values: &[f64]| Spread::of(values.to_vec()).unwrap().to_string();
        assert_eq!(show(&[1234.5]), "1234");
        assert_eq!(show(&[1.0, 3.0, 2.0]), "2.00 [1.00..3.00]");
        assert_eq!(show(&[0.01]), "0.0100");
        assert!(Spread::of(Vec::new()).is_none());
    }
}
