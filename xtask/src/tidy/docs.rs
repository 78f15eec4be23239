//! The standing documents: they exist, are numbered, and name tests that exist.

use super::markdown::{self, Table};
use super::tree::{Finding, Tree};

/// What every reader may rely on finding.
const STANDING: [&str; 3] = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"];

const DECISIONS: &str = "docs/decisions/";

/// Checks the documents.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let missing = STANDING.iter().filter(|path| tree.file(path).is_none());
    let missing = missing.map(|path| Finding::whole(path, "write this document"));
    missing
        .chain(decisions_numbered(tree))
        .chain(citations_exist(tree))
        .collect()
}

/// Decisions are `NNNN-words.md`, counted from 0001 without a gap or a second one.
fn decisions_numbered(tree: &Tree) -> Vec<Finding> {
    let paths = tree.files.iter().map(|file| file.path.as_str());
    let decisions = paths.filter_map(|path| Some((path, path.strip_prefix(DECISIONS)?)));
    let mut findings = Vec::new();
    for (number, (path, name)) in (1..).zip(decisions) {
        let wanted = format!("{number:04}-");
        let words = name
            .strip_prefix(&wanted)
            .and_then(|rest| rest.strip_suffix(".md"));
        if words.is_none_or(|words| words.is_empty() || words.contains('/')) {
            let message = format!("call the next decision {DECISIONS}{wanted}its-words.md");
            findings.push(Finding::whole(path, message));
        }
    }
    findings
}

/// What is cited under these headings exists.
const CITING: [(&str, &str); 2] = [("Test", "test"), ("Made by", "function")];

/// A cell ``[`name`]`` under `Test` promises that a test of that name exists, one under `Made by`
/// that a function does.
fn citations_exist(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.files {
        if !(file.path.starts_with("docs/") && file.path.ends_with(".md")) {
            continue;
        }
        let tables = markdown::tables(&file.text);
        for (kind, line, cell) in tables.iter().flat_map(citing_cells) {
            for name in cited(cell).filter(|name| !is_function(tree, name)) {
                let message = format!("no {kind} is called `{name}`: cite one that exists");
                findings.push(Finding::at(&file.path, line, message));
            }
        }
    }
    findings
}

/// The cells that cite, each with what it cites and its line.
fn citing_cells<'a>(table: &Table<'a>) -> Vec<(&'static str, usize, &'a str)> {
    let mut found = Vec::new();
    for (heading, kind) in CITING {
        if let Some(column) = table.column(heading) {
            found.extend(table.cells(column).map(|(line, cell)| (kind, line, cell)));
        }
    }
    found
}

/// The names in ``[`..`]``, each without the path before its last `::`.
fn cited(cell: &str) -> impl Iterator<Item = &str> {
    let after = cell.split("[`").skip(1);
    let paths = after.filter_map(|rest| Some(rest.split_once("`]")?.0));
    paths.map(|path| path.rsplit("::").next().unwrap_or(path))
}

fn is_function(tree: &Tree, name: &str) -> bool {
    let declarations = [format!("fn {name}("), format!("fn {name}<")];
    let declares = |code: &str| declarations.iter().any(|it| code.contains(it));
    tree.rust_files().any(|(_, rust)| declares(&rust.code))
}

#[cfg(test)]
mod tests {
    use super::super::tree::samples::{places, tree};
    use super::*;

    const FILES: [(&str, &str); 3] = [
        ("README.md", "# R\n"),
        ("ARCHITECTURE.md", "# A\n"),
        ("CHANGELOG.md", "# C\n"),
    ];

    /// The standing documents and these files.
    fn found(files: &[(&str, &str)]) -> Vec<String> {
        places(&check(&tree(&[&FILES, files].concat())))
    }

    #[test]
    fn each_standing_document_is_missed() {
        assert!(found(&[]).is_empty());
        for (path, _) in FILES {
            let others = FILES
                .into_iter()
                .filter(|file| file.0 != path)
                .collect::<Vec<_>>();
            assert_eq!(places(&check(&tree(&others))), [format!("{path}:0")]);
        }
    }

    #[test]
    fn decisions_count_up() {
        assert!(
            found(&[
                ("docs/decisions/0001-a.md", ""),
                ("docs/decisions/0002-b.md", "")
            ])
            .is_empty()
        );
        let gap = found(&[
            ("docs/decisions/0001-a.md", ""),
            ("docs/decisions/0003-b.md", ""),
        ]);
        assert_eq!(gap, ["docs/decisions/0003-b.md:0"]);
        let twice = found(&[
            ("docs/decisions/0001-a.md", ""),
            ("docs/decisions/0001-b.md", ""),
        ]);
        assert_eq!(twice, ["docs/decisions/0001-b.md:0"]);
        for name in ["1-a.md", "0001.md", "0001-.md", "0001-a.txt"] {
            let path = format!("docs/decisions/{name}");
            assert_eq!(found(&[(path.as_str(), "")]), [format!("{path}:0")]);
        }
    }

    #[test]
    fn cited_tests_exist() {
        let code = (
            "a/src/lib.rs",
            "fn it_holds() {}\n// fn it_is_a_comment() {}\n",
        );
        let table = |cell: &str| format!("# T\n\n| Rule | Test |\n|---|---|\n| a | {cell} |\n");
        for cell in [
            "[`it_holds`]",
            "[`a::tests::it_holds`] and so on",
            "by eye",
            "`it_breaks`",
        ] {
            assert!(
                found(&[code, ("docs/t.md", &table(cell))]).is_empty(),
                "{cell}"
            );
        }
        let made_by = table("[`it_breaks`]").replace("Test", "Made by");
        assert_eq!(found(&[code, ("docs/t.md", &made_by)]), ["docs/t.md:5"]);
        for cell in [
            "[`it_breaks`]",
            "[`it_holds`], [`it_is_a_comment`]",
            "[`it_hold`]",
        ] {
            assert_eq!(
                found(&[code, ("docs/t.md", &table(cell))]),
                ["docs/t.md:5"],
                "{cell}"
            );
        }
    }
}
