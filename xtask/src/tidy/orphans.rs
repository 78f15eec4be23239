//! Every Rust file is part of a crate, and says in its first line what lives there.

use super::tree::{Finding, Tree, lines};

/// Checks every Rust file.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, rust) in tree.rust_files() {
        let mut find = |line, message| findings.push(Finding::at(&file.path, line, message));
        if !file.text.starts_with("//! ") {
            find(
                1,
                "begin with one `//! ` sentence: what lives here, and nothing else",
            );
        }
        if file.path.ends_with("/mod.rs") {
            find(0, "move this to `name.rs` beside the folder `name/`");
        } else if !rust.is_reached {
            find(
                0,
                "no crate root reaches this file: declare it with `mod`, or delete it",
            );
        }
        for ((number, line), text) in lines(&rust.code).zip(file.text.lines()) {
            // A test that runs an example has to be built with it.
            let is_example = text.starts_with("#[path = \"../examples/");
            if line.contains("#[path") && !(is_example && file.path.contains("/tests/")) {
                find(
                    number,
                    "put the file where `mod` finds it, without `#[path]`",
                );
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::tree::samples::{places, tree};
    use super::*;

    #[test]
    fn files_that_roots_reach_are_fine() {
        let files = [
            ("a/src/lib.rs", "//! A.\nmod b;\n"),
            (
                "a/src/b.rs",
                "//! B.\npub(crate) mod c;\n#[cfg(test)]\nmod tests;\n",
            ),
            ("a/src/b/c.rs", "//! C.\n"),
            ("a/src/b/tests.rs", "//! T.\n"),
            ("a/src/main.rs", "//! M.\nmod d;\n"),
            ("a/src/d.rs", "//! D.\n"),
            ("a/tests/e.rs", "//! E.\n"),
            ("a/examples/f.rs", "//! F.\n"),
        ];
        assert_eq!(check(&tree(&files)), []);
    }

    #[test]
    fn a_test_may_have_an_example_for_a_module_and_nobody_else_may() {
        let text = "//! T.\n#[path = \"../examples/f.rs\"]\nmod f;\n";
        let files = [
            (
                "a/src/lib.rs",
                "//! A.\n#[path = \"../examples/f.rs\"]\nmod f;\n",
            ),
            ("a/tests/t.rs", text),
            ("a/examples/f.rs", "//! F.\n"),
        ];
        assert_eq!(places(&check(&tree(&files))), ["a/src/lib.rs:2"]);
    }

    #[test]
    fn a_file_nobody_declares_is_an_orphan() {
        let files = [
            ("a/src/lib.rs", "//! A.\n// mod b;\nmod c;\n"),
            ("a/src/b.rs", "//! B.\n"),
            ("a/src/c/b.rs", "//! B.\n"),
        ];
        assert_eq!(
            places(&check(&tree(&files))),
            ["a/src/b.rs:0", "a/src/c/b.rs:0"]
        );
    }

    #[test]
    fn mod_rs_and_path_attributes_are_refused() {
        let files = [
            (
                "a/src/lib.rs",
                "//! A.\nmod b;\n#[path = \"x.rs\"]\nmod c;\n",
            ),
            ("a/src/b/mod.rs", "//! B.\n"),
        ];
        assert_eq!(
            places(&check(&tree(&files))),
            ["a/src/b/mod.rs:0", "a/src/lib.rs:3"]
        );
    }

    #[test]
    fn a_file_says_first_what_lives_there() {
        for text in ["", "fn a() {}\n", "// A.\n", "//!\n", "\n//! A.\n"] {
            assert_eq!(
                places(&check(&tree(&[("a/src/lib.rs", text)]))),
                ["a/src/lib.rs:1"]
            );
        }
    }
}
