//! Each file with a lock that threads share has a row in docs/locks.md, and each row a file.

use std::collections::BTreeSet;

use super::markdown;
use super::tree::{Finding, Tree, lines};

const LIST: &str = "docs/locks.md";

/// Development tools share nothing with the program.
const TOOLS: [&str; 3] = ["benches/", "sim/", "xtask/"];

/// Compares the product code with the list.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let Some(list) = tree.file(LIST) else {
        let wanted = "write this document: a row for each lock, in their order";
        return vec![Finding::whole(LIST, wanted)];
    };
    let tables = markdown::tables(&list.text);
    let cells = tables
        .iter()
        .filter_map(|table| Some(table.cells(table.column("Lock")?)));
    let listed: BTreeSet<(usize, &str)> = cells
        .flatten()
        .flat_map(|(line, cell)| markdown::backticked(cell).map(move |path| (line, path)))
        .filter(|(_, path)| path.ends_with(".rs"))
        .collect();

    let mut findings = Vec::new();
    for (file, rust) in tree.rust_files() {
        let is_listed = listed.iter().any(|(_, path)| *path == file.path);
        let is_tool = TOOLS.iter().any(|folder| file.path.starts_with(folder));
        let lock = lines(&rust.product).find(|(_, line)| line.contains("Mutex<"));
        if let (Some((number, _)), false, false) = (lock, is_listed, is_tool) {
            let message = format!("give this lock a row in {LIST}: what it guards, and its order");
            findings.push(Finding::at(&file.path, number, message));
        }
    }
    for (line, path) in listed {
        let has_lock = |it: &super::tree::Rust| it.product.contains("Mutex<");
        let file = tree.file(path).and_then(|file| file.rust.as_ref());
        if !file.is_some_and(has_lock) {
            let message = format!("`{path}` has no lock any more: remove the row");
            findings.push(Finding::at(LIST, line, message));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::tree::samples::{places, tree};
    use super::*;

    const TABLE: &str = "| Lock | Guards |\n|---|---|\n| `a/src/lib.rs` | `x.rs` |\n";
    const LOCK: (&str, &str) = ("a/src/lib.rs", "struct A {\n    b: Mutex<u8>,\n}\n");

    #[test]
    fn a_lock_with_its_row_is_fine() {
        assert_eq!(check(&tree(&[(LIST, TABLE), LOCK])), []);
    }

    #[test]
    fn a_lock_without_a_row_is_found() {
        let files = [
            (LIST, TABLE),
            LOCK,
            ("b/src/lib.rs", "\ntype C = Arc<Mutex<u8>>;\n"),
        ];
        assert_eq!(places(&check(&tree(&files))), ["b/src/lib.rs:2"]);
    }

    #[test]
    fn a_row_without_a_lock_is_found() {
        let files = [(LIST, TABLE), ("a/src/lib.rs", "// Mutex<u8>\n")];
        assert_eq!(places(&check(&tree(&files))), ["docs/locks.md:3"]);
        assert_eq!(places(&check(&tree(&[(LIST, TABLE)]))), ["docs/locks.md:3"]);
    }

    #[test]
    fn locks_of_tests_and_tools_are_nobody_elses_business() {
        let inline = "#[cfg(test)]\nmod tests {\n    type C = Mutex<u8>;\n}\n";
        let files = [
            (LIST, TABLE),
            LOCK,
            ("a/tests/t.rs", LOCK.1),
            ("b/src/lib.rs", inline),
            ("xtask/src/main.rs", LOCK.1),
        ];
        assert_eq!(check(&tree(&files)), []);
    }

    #[test]
    fn a_missing_list_is_said() {
        assert_eq!(places(&check(&tree(&[LOCK]))), ["docs/locks.md:0"]);
    }
}
