//! What holds of every life, of every transaction, and of the history.

use job::JobStatus;
use proptest::{prelude::*, test_runner::TestCaseError};

use super::{Burst, Known};
use crate::{
    act::{HISTORY_MAX, IDS, Naming, PLACES},
    log::{Entry, Told},
    reference::letters,
};

/// Where a job may go, by the letters of the statuses.
const MOVES: [&str; 10] = [
    "C RXN", "R PYWX", "P R", "Y SWX", "S Y", "W DX", "D XE", "X E", "E N", "N",
];

impl Burst {
    pub(super) fn check_life(&self, place: usize, known: Known) -> Result<(), TestCaseError> {
        let told: Vec<&Told> = self.told(place).collect();
        let hooks: Vec<&str> = self.hooks(place).collect();
        let life = format!("{known:?}: {told:?}, {hooks:?}");
        let (status, outcome) = self.world.end(place);
        prop_assert!(status == JobStatus::Null && outcome.is_some(), "{}", life);
        if known.spec.naming == Naming::Own {
            check_statuses(&told, &life)?;
            check_partners(&told, &life)?;
            check_end(&told, &hooks, &life)?;
        }
        check_hooks(&hooks, &life)
    }

    /// No member is committed while another is aborted.
    pub(super) fn check_transactions(&self) -> Result<(), TestCaseError> {
        for a in 0..PLACES {
            for b in 0..PLACES {
                let transactions = [a, b].map(|it| self.jobs[it].map(|job| job.transaction));
                let is_one = transactions[0].is_some() && transactions[0] == transactions[1];
                let is_torn = self.has_hook(a, "commit") && self.has_hook(b, "abort");
                prop_assert!(!(is_one && is_torn), "{a}, {b}: {:?}", self.log);
            }
        }
        Ok(())
    }

    /// The history has the last jobs that were forgotten after an end, newest first.
    pub(super) fn check_history(&self) -> Result<(), TestCaseError> {
        let forgotten = self.log.iter().filter_map(|entry| match entry {
            Entry::Told(place, Told::Status(JobStatus::Null)) => Some(*place),
            _ => None,
        });
        let ended = forgotten.filter(|&place| self.has_hook(place, "clean"));
        let mut want: Vec<&str> = ended.map(|place| IDS[place]).collect();
        want.reverse();
        want.truncate(HISTORY_MAX);
        let look = self.world.look();
        let history: Vec<&str> = look.history.iter().map(|past| &*past.id).collect();
        prop_assert_eq!(history, want);
        prop_assert!(look.list.is_empty());
        Ok(())
    }

    fn told(&self, place: usize) -> impl Iterator<Item = &Told> {
        self.log.iter().filter_map(move |entry| match entry {
            Entry::Told(at, told) if *at == place => Some(told),
            _ => None,
        })
    }

    fn hooks(&self, place: usize) -> impl Iterator<Item = &'static str> {
        self.log.iter().filter_map(move |entry| match entry {
            Entry::Hook(at, hook) if *at == place => Some(*hook),
            _ => None,
        })
    }

    fn has_hook(&self, place: usize, wanted: &str) -> bool {
        self.hooks(place).any(|hook| hook == wanted)
    }
}

fn is_end(told: &Told) -> bool {
    matches!(told, Told::Completed(_) | Told::Cancelled)
}

fn is_status(told: &Told, wanted: JobStatus) -> bool {
    *told == Told::Status(wanted)
}

/// From created to null by the table, and silence after that.
fn check_statuses(told: &[&Told], life: &str) -> Result<(), TestCaseError> {
    let statuses: String = told
        .iter()
        .filter_map(|told| match told {
            Told::Status(status) => Some(letters::of(*status)),
            _ => None,
        })
        .collect();
    prop_assert!(statuses.starts_with('C'), "{}", life);
    prop_assert!(is_status(told[told.len() - 1], JobStatus::Null), "{}", life);
    for (from, to) in statuses.chars().zip(statuses.chars().skip(1)) {
        let is_legal = |row: &&str| row.starts_with(from) && row[1..].contains(to);
        prop_assert!(MOVES.iter().any(is_legal), "{from}{to}: {life}");
    }
    Ok(())
}

/// What comes together with a status comes right beside it.
fn check_partners(told: &[&Told], life: &str) -> Result<(), TestCaseError> {
    for (at, it) in told.iter().enumerate() {
        let before = at.checked_sub(1).map(|before| told[before]);
        let follows = |status| before == Some(&Told::Status(status));
        let is_right = match it {
            Told::Ready => follows(JobStatus::Ready),
            Told::Pending => follows(JobStatus::Pending),
            Told::Moment("Ready") => before == Some(&Told::Ready),
            Told::Moment("Pending") => before == Some(&Told::Pending),
            Told::Moment("FinalizeCancelled") => before == Some(&Told::Cancelled),
            Told::Moment("FinalizeCompleted") => {
                matches!(before, Some(Told::Completed(_)))
            }
            _ => true,
        };
        let rest = &told[at + 1..];
        let is_last = !is_end(it) || rest.iter().any(|it| is_status(it, JobStatus::Concluded));
        prop_assert!(is_right && is_last, "{it:?}: {life}");
    }
    Ok(())
}

/// One end for those that ran, none for the others.
fn check_end(told: &[&Told], hooks: &[&str], life: &str) -> Result<(), TestCaseError> {
    let count = |wanted: fn(&Told) -> bool| told.iter().filter(|told| wanted(told)).count();
    let starts = count(|told| is_status(told, JobStatus::Running)).min(1);
    let moments = count(|told| matches!(told, Told::Moment(name) if name.starts_with("Finalize")));
    prop_assert_eq!((count(is_end), moments), (starts, starts), "{}", life);
    let is_well = count(|told| *told == Told::Completed(None)) > 0;
    prop_assert_eq!(is_well, hooks.contains(&"commit"), "{}", life);
    Ok(())
}

/// Each hook at its time: the body's, then prepare, then one of commit and abort, then clean.
fn check_hooks(hooks: &[&str], life: &str) -> Result<(), TestCaseError> {
    let verbs = ["cancel soft", "cancel force", "user_resume", "complete"];
    let order: String = hooks
        .iter()
        .filter(|hook| !verbs.contains(hook))
        .map(|hook| match *hook {
            "pause" => 'p',
            "resume" => 'r',
            "run" => 'R',
            "prepare" => 'P',
            "commit" => 'E',
            "abort" => 'E',
            _ => 'c',
        })
        .collect();
    let bodies = order.replace("pr", "");
    let without_end = ["", "R", "RP"];
    let is_whole = match bodies.strip_suffix("Ec") {
        Some(rest) => without_end.contains(&rest),
        // It was discarded.
        None => bodies.is_empty(),
    };
    prop_assert!(is_whole, "{order}: {life}");
    if let Some(clean) = hooks.iter().position(|hook| *hook == "clean") {
        prop_assert_eq!(clean + 1, hooks.len(), "{}", life);
    }
    let is_well = hooks.contains(&"commit");
    prop_assert!(!is_well || hooks.contains(&"prepare"), "{}", life);
    Ok(())
}
