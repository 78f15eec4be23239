//! The pages that go line by line through an interface: no line is left out, and none lacks its proof.

use std::collections::BTreeSet;

use super::markdown;
use super::tree::{Finding, Tree};

/// A page, and the lines it answers: a letter and how many there are.
struct Page {
    path: &'static str,
    lines: &'static [(&'static str, usize)],
}

const PAGES: [Page; 3] = [
    Page {
        path: "docs/aio-interface.md",
        lines: &[("A", 89)],
    },
    Page {
        path: "docs/job-interface.md",
        lines: &[("J", 57), ("B", 27)],
    },
    Page {
        path: "docs/block-interface.md",
        lines: &[("K", 41), ("M", 34), ("D", 18), ("X", 5)],
    },
];

/// Opens a cell that has a reason instead of a test.
const NO_TEST: &str = "does not apply: ";

/// Checks each page.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    PAGES
        .iter()
        .flat_map(|page| check_page(tree, page))
        .collect()
}

/// Each line has one row, in a table headed `Line`, whose cell under `Test` says what shows it.
/// That a test which is cited exists is checked for all documents.
fn check_page(tree: &Tree, page: &Page) -> Vec<Finding> {
    let Some(file) = tree.file(page.path) else {
        let message = "write this document: a row for each line of the interface";
        return vec![Finding::whole(page.path, message)];
    };
    let mut missing = page.names();
    let mut findings = Vec::new();
    for table in markdown::tables(&file.text) {
        let Some(name_column) = table.column("Line") else {
            continue;
        };
        let test_column = table.column("Test");
        for (line, row) in &table.rows {
            let name = row.get(name_column).copied().unwrap_or_default();
            if !missing.remove(name) {
                let message =
                    format!("`{name}` is no line of this interface, or has a row already");
                findings.push(Finding::at(page.path, *line, message));
            }
            let test = test_column.and_then(|column| row.get(column));
            if !test.is_some_and(|cell| page.takes(cell)) {
                let message = format!("cite the test that shows {name}, or say `{NO_TEST}` why");
                findings.push(Finding::at(page.path, *line, message));
            }
        }
    }
    let forgotten = missing.into_iter().map(|name| {
        let message = format!("give {name} a row in a table headed `Line`");
        Finding::whole(page.path, message)
    });
    findings.extend(forgotten);
    findings
}

impl Page {
    fn names(&self) -> BTreeSet<String> {
        let of_letter =
            |&(letter, last)| (1..=last).map(move |number| format!("{letter}-{number}"));
        self.lines.iter().flat_map(of_letter).collect()
    }

    /// Whether a cell cites a test, or has a reason for none.
    fn takes(&self, cell: &str) -> bool {
        let has_reason = cell
            .strip_prefix(NO_TEST)
            .is_some_and(|reason| !reason.is_empty());
        cell.contains("[`") || has_reason
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::samples::{places, tree};
    use super::*;

    const PAGE: Page = Page {
        path: "docs/p.md",
        lines: &[("A", 2), ("B", 1)],
    };

    const A: &str = "| A-1 | [`a`] |\n| A-2 | does not apply: there are none |\n";
    const B: &str = "| B-1 | held by [`b`] |\n";

    /// What is found in a page of two tables with these rows.
    fn found(first: &str, second: &str) -> Vec<String> {
        let head = "| Line | Test |\n|---|---|\n";
        let text =
            format!("# P\n\n{head}{first}\n{head}{second}\n| What | Test |\n|---|---|\n| x | |\n");
        places(&check_page(&tree(&[("docs/p.md", &text)]), &PAGE))
    }

    #[test]
    fn a_page_with_a_row_for_each_line_is_fine() {
        assert!(found(A, B).is_empty());
    }

    #[test]
    fn a_line_without_a_row_is_missed() {
        assert_eq!(found(A, ""), ["docs/p.md:0"]);
        let findings = check_page(&tree(&[("docs/p.md", "| A-1 | A-2 | B-1 |\n")]), &PAGE);
        assert_eq!(findings.len(), 3);
        assert_eq!(
            findings[0].message,
            "give A-1 a row in a table headed `Line`"
        );
    }

    #[test]
    fn a_second_row_and_an_unknown_line_are_found() {
        assert_eq!(found(A, &format!("{B}{B}")), ["docs/p.md:11"]);
        assert_eq!(found(A, &format!("{B}| B-2 | [`b`] |\n")), ["docs/p.md:11"]);
        assert_eq!(found(&format!("{A}| | [`b`] |\n"), B), ["docs/p.md:7"]);
    }

    #[test]
    fn a_line_without_a_test_or_a_reason_is_found() {
        for cell in [
            "",
            "–",
            "does not apply",
            "does not apply: ",
            "`b`",
            "not yet",
        ] {
            let row = format!("| B-1 | {cell} |\n");
            assert_eq!(found(A, &row), ["docs/p.md:10"], "{cell}");
        }
        let narrow = "| Line |\n|---|\n| A-1 |\n| A-2 |\n| B-1 |\n";
        let findings = check_page(&tree(&[("docs/p.md", narrow)]), &PAGE);
        assert_eq!(
            places(&findings),
            ["docs/p.md:3", "docs/p.md:4", "docs/p.md:5"]
        );
    }

    #[test]
    fn a_missing_page_is_said() {
        let wanted = PAGES.map(|page| format!("{}:0", page.path));
        assert_eq!(places(&check(&tree(&[]))), wanted);
    }
}
