//! The ladder: crates depend only as the table in ARCHITECTURE.md allows.

use std::collections::BTreeMap;

use super::markdown::{self, Table};
use super::tree::{Finding, Tree};
use crate::workspace::Package;

const MAP: &str = "ARCHITECTURE.md";

/// Crates that must never see each other, in product or tests, whatever the table says.
const STRANGERS: [(&str, &str); 2] = [("job", "block"), ("block", "job")];

/// Compares the Cargo.toml files with the table, and the table with itself.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let Some(map) = tree.file(MAP) else {
        return Vec::new();
    };
    let tables = markdown::tables(&map.text);
    let is_ladder = |table: &&Table<'_>| table.header.starts_with(&["Rung", "Crate"]);
    let Some(ladder) = tables.iter().find(is_ladder).and_then(read) else {
        let wanted = "write the ladder as a table headed | Rung | Crate | .. | May use |";
        return vec![Finding::whole(MAP, wanted)];
    };
    let mut findings = rungs_in_order(&ladder);
    findings.extend(names_agree(&ladder, &tree.packages));
    for package in &tree.packages {
        if let Some(step) = ladder.get(package.name.as_str()) {
            findings.extend(dependencies_allowed(package, step));
        }
        findings.extend(strangers_met(package));
    }
    findings
}

/// One row of the table.
struct Step<'a> {
    line: usize,
    /// The height; `None` for crates beside the ladder (tests, tools).
    rung: Option<u32>,
    may_use: Vec<&'a str>,
}

fn read<'a>(table: &Table<'a>) -> Option<BTreeMap<&'a str, Step<'a>>> {
    let may_use = table.column("May use")?;
    let step = |(line, row): &(usize, Vec<&'a str>)| {
        let crates = markdown::backticked(row.get(1)?).collect::<Vec<_>>();
        let [name] = crates[..] else { return None };
        let rung = row.first()?.parse().ok();
        let may_use = markdown::backticked(row.get(may_use)?).collect();
        Some((
            name,
            Step {
                line: *line,
                rung,
                may_use,
            },
        ))
    };
    Some(table.rows.iter().filter_map(step).collect())
}

fn rungs_in_order(ladder: &BTreeMap<&str, Step<'_>>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, step) in ladder {
        for used in &step.may_use {
            let message = match ladder.get(used) {
                None => format!("`{name}` may use `{used}`, which is no crate of the table"),
                Some(other) if is_below(other, step) => continue,
                Some(_) => format!("`{name}` may use `{used}`, which is not on a lower rung"),
            };
            findings.push(Finding::at(MAP, step.line, message));
        }
    }
    findings
}

/// Everything on the ladder is below what stands beside it, and nothing beside it is below anything.
fn is_below(lower: &Step<'_>, upper: &Step<'_>) -> bool {
    match (lower.rung, upper.rung) {
        (Some(lower), Some(upper)) => lower < upper,
        (Some(_), None) => true,
        (None, _) => false,
    }
}

fn names_agree(ladder: &BTreeMap<&str, Step<'_>>, packages: &[Package]) -> Vec<Finding> {
    let exists = |name: &str| packages.iter().any(|package| package.name == name);
    let gone = ladder
        .iter()
        .filter(|(name, _)| !exists(name))
        .map(|(name, step)| {
            let message = format!("`{name}` is no crate of the workspace: remove the row");
            Finding::at(MAP, step.line, message)
        });
    let new = packages
        .iter()
        .filter(|package| !ladder.contains_key(package.name.as_str()));
    let new = new.map(|package| {
        let message = format!("give `{}` a row in the ladder table of {MAP}", package.name);
        Finding::whole(&manifest(package), message)
    });
    gone.chain(new).collect()
}

fn dependencies_allowed(package: &Package, step: &Step<'_>) -> Vec<Finding> {
    let ours = package
        .dependencies
        .iter()
        .filter(|it| it.is_ours && !it.is_dev);
    let forbidden = ours.filter(|it| !step.may_use.contains(&it.name.as_str()));
    let finding = |name: &str| {
        let message = format!(
            "`{}` may not use `{name}`: depend on what {MAP}, line {}, allows, \
             or argue for another ladder there",
            package.name, step.line
        );
        Finding::whole(&manifest(package), message)
    };
    forbidden.map(|it| finding(&it.name)).collect()
}

fn strangers_met(package: &Package) -> Vec<Finding> {
    let names = package.dependencies.iter().map(|it| it.name.as_str());
    let met = names.filter(|name| STRANGERS.contains(&(package.name.as_str(), name)));
    let finding = |name| {
        let message = format!(
            "`{}` and `{name}` never see each other, in tests neither: what knows both \
             belongs into `blockjob`",
            package.name
        );
        Finding::whole(&manifest(package), message)
    };
    met.map(finding).collect()
}

fn manifest(package: &Package) -> String {
    format!("{}/Cargo.toml", package.dir)
}

#[cfg(test)]
mod tests {
    use super::super::tree::samples::{package, places, with_packages};
    use super::*;

    const GOOD: &str = "\
| Rung | Crate | Knows | May use |
|---|---|---|---|
| 1 | `aio` | loops | – |
| 2 | `job` | jobs | `aio` |
| 2 | `block` | nodes | `aio` |
| tool | `xtask` | `cargo` | – |
";

    fn crates() -> Vec<Package> {
        vec![
            package("aio", &["registry:libc"]),
            package("job", &["aio"]),
            package("block", &["aio", "dev:xtask"]),
            package("xtask", &[]),
        ]
    }

    fn check_with(map: &str, packages: Vec<Package>) -> Vec<Finding> {
        check(&with_packages(&[(MAP, map)], packages))
    }

    #[test]
    fn the_ladder_as_drawn_is_fine() {
        assert_eq!(check_with(GOOD, crates()), []);
    }

    #[test]
    fn a_dependency_upwards_is_refused() {
        let mut crates = crates();
        crates[0] = package("aio", &["block"]);
        assert_eq!(places(&check_with(GOOD, crates)), ["aio/Cargo.toml:0"]);
    }

    #[test]
    fn job_and_block_meet_neither_in_the_table_nor_in_tests() {
        let table = GOOD.replace("| jobs | `aio` |", "| jobs | `aio`, `block` |");
        assert_eq!(places(&check_with(&table, crates())), ["ARCHITECTURE.md:4"]);

        let mut crates = crates();
        crates[2] = package("block", &["aio", "dev:job"]);
        assert_eq!(places(&check_with(GOOD, crates)), ["block/Cargo.toml:0"]);
    }

    #[test]
    fn table_and_workspace_have_the_same_crates() {
        let mut crates = crates();
        crates[3] = package("new", &[]);
        assert_eq!(
            places(&check_with(GOOD, crates)),
            ["ARCHITECTURE.md:6", "new/Cargo.toml:0"]
        );
    }

    #[test]
    fn a_tool_is_below_nothing() {
        let table = GOOD.replace("| loops | – |", "| loops | `xtask` |");
        assert_eq!(places(&check_with(&table, crates())), ["ARCHITECTURE.md:3"]);
    }

    #[test]
    fn a_missing_table_is_said() {
        assert_eq!(
            places(&check_with("# Architecture\n", crates())),
            ["ARCHITECTURE.md:0"]
        );
        let table = GOOD.replace("May use", "Uses");
        assert_eq!(places(&check_with(&table, crates())), ["ARCHITECTURE.md:0"]);
    }
}
