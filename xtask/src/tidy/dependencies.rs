//! Each crate that we take from others has a row in docs/dependencies.md, and each row a crate.

use std::collections::{BTreeMap, BTreeSet};

use super::markdown::{self, Table};
use super::tree::{Finding, Tree, lines};

const LIST: &str = "docs/dependencies.md";
const ROOT_MANIFEST: &str = "Cargo.toml";

/// Compares the Cargo.toml files with the list.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let users = users(tree);
    let mut findings = unused_declarations(tree, &users);
    let Some(list) = tree.file(LIST) else {
        findings.push(Finding::whole(
            LIST,
            "write this document: a row for each dependency",
        ));
        return findings;
    };
    let tables = markdown::tables(&list.text);
    let is_list = |table: &&Table<'_>| table.header.starts_with(&["Crate", "Used by"]);
    let Some(table) = tables.iter().find(is_list) else {
        findings.push(Finding::whole(
            LIST,
            "write a table headed | Crate | Used by | .. |",
        ));
        return findings;
    };
    findings.extend(compare(table, &users));
    findings
}

/// For each crate of others, which of ours name it.
fn users(tree: &Tree) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut users = BTreeMap::<&str, BTreeSet<&str>>::new();
    for package in &tree.packages {
        for dependency in package.dependencies.iter().filter(|it| !it.is_ours) {
            users
                .entry(&dependency.name)
                .or_default()
                .insert(&package.name);
        }
    }
    users
}

fn compare(table: &Table<'_>, users: &BTreeMap<&str, BTreeSet<&str>>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut listed = BTreeSet::new();
    for (line, row) in &table.rows {
        let [name, used_by, ..] = row[..] else {
            continue;
        };
        let used_by: BTreeSet<&str> = markdown::backticked(used_by).collect();
        for name in markdown::backticked(name) {
            listed.insert(name);
            let message = match users.get(name) {
                None => format!("nothing depends on `{name}` any more: remove the row"),
                Some(users) if *users == used_by => continue,
                Some(users) => {
                    let users: Vec<String> = users.iter().map(|it| format!("`{it}`")).collect();
                    format!("`{name}` is used by {}: correct the row", users.join(", "))
                }
            };
            findings.push(Finding::at(LIST, *line, message));
        }
    }
    for name in users.keys().filter(|name| !listed.contains(*name)) {
        let message = format!("give `{name}` a row: who uses it, what for, why this one");
        findings.push(Finding::whole(LIST, message));
    }
    findings
}

/// Versions in the root Cargo.toml that no crate asks for.
fn unused_declarations(tree: &Tree, users: &BTreeMap<&str, BTreeSet<&str>>) -> Vec<Finding> {
    let Some(manifest) = tree.file(ROOT_MANIFEST) else {
        return Vec::new();
    };
    let after_heading = |&(_, line): &(usize, &str)| line != "[workspace.dependencies]";
    let section = lines(&manifest.text).skip_while(after_heading).skip(1);
    let section = section.take_while(|(_, line)| !line.starts_with('['));
    let declared = section
        .filter(|(_, line)| !line.starts_with('#'))
        .filter_map(|(number, line)| {
            let name = line.split_once('=')?.0.trim();
            Some((number, name.split('.').next()?))
        });
    let is_ours = |name: &str| tree.packages.iter().any(|package| package.name == name);
    let unused = declared.filter(|(_, name)| !users.contains_key(name) && !is_ours(name));
    let finding = |(number, name)| {
        let message = format!("no crate asks for `{name}`: remove the line");
        Finding::at(ROOT_MANIFEST, number, message)
    };
    unused.map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tree::samples::{package, places, with_packages};
    use super::*;

    const GOOD: &str = "\
| Crate | Used by | What for |
|---|---|---|
| `libc` | `aio`, `block` | calls |
| `criterion` | `benches` | statistics |
";

    fn found(list: &str, manifest: &str) -> Vec<String> {
        let packages = vec![
            package("aio", &["registry:libc"]),
            package("block", &["aio", "registry:libc"]),
            package("benches", &["dev:registry:criterion"]),
        ];
        let files = [(LIST, list), (ROOT_MANIFEST, manifest)];
        places(&check(&with_packages(&files, packages)))
    }

    #[test]
    fn a_list_that_agrees_is_fine() {
        assert!(found(GOOD, "").is_empty());
    }

    #[test]
    fn a_dependency_without_a_row_is_found() {
        let list = GOOD.replace("`criterion`", "`gone`");
        assert_eq!(
            found(&list, ""),
            ["docs/dependencies.md:4", "docs/dependencies.md:0"]
        );
    }

    #[test]
    fn the_users_in_the_row_are_the_users() {
        for used_by in ["`aio`", "`aio`, `block`, `job`", "aio, block"] {
            let list = GOOD.replace("`aio`, `block`", used_by);
            assert_eq!(found(&list, ""), ["docs/dependencies.md:3"], "{used_by}");
        }
    }

    #[test]
    fn a_missing_list_or_table_is_said() {
        assert_eq!(found("# Dependencies\n", ""), ["docs/dependencies.md:0"]);
        assert_eq!(
            places(&check(&with_packages(&[], Vec::new()))),
            ["docs/dependencies.md:0"]
        );
    }

    #[test]
    fn a_version_that_nobody_asks_for_is_found() {
        let manifest = "[workspace]\nx = 1\n[workspace.dependencies]\n# Why.\nlibc = \"1\"\n\n\
                        aio = { path = \"aio\" }\nslab = { version = \"1\" }\n[profile.release]\ny = 2\n";
        assert_eq!(found(GOOD, manifest), ["Cargo.toml:8"]);
    }
}
