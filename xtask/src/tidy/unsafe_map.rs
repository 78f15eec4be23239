//! Where `unsafe` may stand, and that each such file says why.

use super::code::words;
use super::tree::{File, Finding, Rust, Tree, lines};

/// The files with `unsafe`, and what for. A path ending in `*` means all that begin so.
const ALLOWED: &[(&str, &str)] = &[
    (
        "aio/src/buf.rs",
        "request memory is mapped, aligned and shared with the kernel",
    ),
    ("aio/src/buf/*", "the parts of the above"),
    (
        "aio/src/inbox.rs",
        "an intrusive list: posting allocates nothing and costs two atomic operations",
    ),
    (
        "aio/src/home.rs",
        "what only the home thread touches lies in what all threads share",
    ),
    ("aio/src/sys*", "system calls that nix does not wrap"),
    ("aio/src/backend/uring*", "the ring takes raw pointers"),
    (
        "benches/src/raw*",
        "the raw loops that we are measured against",
    ),
    (
        "benches/benches/raw_buffer.rs",
        "the peers' traits for buffers are unsafe to implement",
    ),
];

/// Crates whose root cannot forbid `unsafe`: a file above is theirs, or, as in `fuzz`, a macro of
/// others exports a symbol.
const CRATES: [&str; 3] = ["aio", "benches", "fuzz"];

/// Checks every Rust file, and every crate root.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings: Vec<Finding> = tree
        .rust_files()
        .flat_map(|(file, rust)| check_file(file, rust))
        .collect();
    let packages = tree
        .packages
        .iter()
        .filter(|it| !CRATES.contains(&it.name.as_str()));
    let targets = packages.flat_map(|package| &package.targets);
    for root in targets.filter(|target| matches!(target.kind.as_str(), "lib" | "bin")) {
        let rust = tree.file(&root.path).and_then(|file| file.rust.as_ref());
        if rust.is_some_and(|rust| !rust.code.contains("#![forbid(unsafe_code)]")) {
            findings.push(Finding::whole(&root.path, "add `#![forbid(unsafe_code)]`"));
        }
    }
    findings
}

fn check_file(file: &File, rust: &Rust) -> Vec<Finding> {
    let is_unsafe = |line: &str| words(line).any(|word| word == "unsafe");
    let found = lines(&rust.code).filter(|(_, line)| is_unsafe(line));
    if !is_allowed(&file.path) {
        let message = "`unsafe` may not stand here: put the call behind a safe function in \
                       aio/src/sys.rs, or argue for another file in xtask/src/tidy/unsafe_map.rs";
        return found
            .map(|(number, _)| Finding::at(&file.path, number, message))
            .collect();
    }
    if found.count() > 0 && !rust.comments.contains("// UNSAFETY:") {
        let message = "say in a line `// UNSAFETY: ..` why this file needs `unsafe`";
        return vec![Finding::whole(&file.path, message)];
    }
    Vec::new()
}

fn is_allowed(path: &str) -> bool {
    ALLOWED
        .iter()
        .any(|(allowed, _)| match allowed.strip_suffix('*') {
            Some(beginning) => path.starts_with(beginning),
            None => path == *allowed,
        })
}

#[cfg(test)]
mod tests {
    use super::super::tree::samples::{places, tree};
    use super::*;

    const FORBIDS: &str = "//! A.\n#![forbid(unsafe_code)]\n";

    #[test]
    fn unsafe_outside_the_map_is_refused() {
        let text = format!("{FORBIDS}fn f() {{\n    unsafe {{ g() }}\n}}\n");
        assert_eq!(
            places(&check(&tree(&[("job/src/lib.rs", &text)]))),
            ["job/src/lib.rs:4"]
        );
    }

    #[test]
    fn unsafe_in_tests_is_refused_too() {
        let text = "unsafe fn f() {}\n";
        let files = [("aio/src/lib.rs", ""), ("aio/tests/t.rs", text)];
        assert_eq!(places(&check(&tree(&files))), ["aio/tests/t.rs:1"]);
    }

    #[test]
    fn the_word_in_prose_and_in_lint_names_is_fine() {
        let text = format!("{FORBIDS}// unsafe\nconst A: &str = \"unsafe\";\n");
        assert_eq!(check(&tree(&[("job/src/lib.rs", &text)])), []);
    }

    #[test]
    fn a_file_of_the_map_says_why() {
        let silent = "fn f() { unsafe { g() } }\n";
        let files = [("aio/src/sys.rs", silent), ("aio/src/buf/pool.rs", silent)];
        assert_eq!(
            places(&check(&tree(&files))),
            ["aio/src/buf/pool.rs:0", "aio/src/sys.rs:0"]
        );
        let told = format!("// UNSAFETY: g is not wrapped.\n{silent}");
        assert_eq!(
            check(&tree(&[("aio/src/sys.rs", &told), ("aio/src/lib.rs", "")])),
            []
        );
    }

    #[test]
    fn every_other_root_forbids_it() {
        let files = [
            ("job/src/lib.rs", "//! A.\n"),
            ("longshore/src/main.rs", FORBIDS),
        ];
        assert_eq!(places(&check(&tree(&files))), ["job/src/lib.rs:0"]);
        // A comment does not count.
        let files = [("job/src/lib.rs", "// #![forbid(unsafe_code)]\n")];
        assert_eq!(places(&check(&tree(&files))), ["job/src/lib.rs:0"]);
    }
}
