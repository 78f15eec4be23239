//! How long files may get. (Functions and parameters are clippy's, in clippy.toml.)

use super::tree::{File, Finding, Rust, Tree, lines};

/// Lines of a Rust file, not counting its tests.
const FILE_LINES_MAX: usize = 500;

/// Columns of a comment; code is rustfmt's business.
const COMMENT_COLUMNS_MAX: usize = 120;

/// Lines of ARCHITECTURE.md: a map that is read in one sitting.
const MAP_LINES_MAX: usize = 250;

/// Looks for what is too long.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, rust) in tree.rust_files() {
        if rust.product_lines > FILE_LINES_MAX {
            let message = format!(
                "{} lines without its tests, {FILE_LINES_MAX} are allowed: name the second \
                 thing that lives here and give it a file",
                rust.product_lines
            );
            findings.push(Finding::whole(&file.path, message));
        }
        findings.extend(long_comments(file, rust));
    }
    findings.extend(map_too_long(tree));
    findings
}

/// Comments on lines of their own; what stands beside code goes with the code.
fn long_comments(file: &File, rust: &Rust) -> Vec<Finding> {
    let lines = lines(&rust.comments).zip(rust.code.lines());
    let comments = lines
        .filter(|(_, code)| code.trim().is_empty())
        .map(|(line, _)| line);
    let is_long = |line: &str| line.trim_end().chars().count() > COMMENT_COLUMNS_MAX;
    // An address cannot be broken.
    let long = comments.filter(|(_, line)| is_long(line) && !line.contains("://"));
    let message = format!("break this comment at {COMMENT_COLUMNS_MAX} columns");
    long.map(|(number, _)| Finding::at(&file.path, number, message.as_str()))
        .collect()
}

fn map_too_long(tree: &Tree) -> Option<Finding> {
    let map = tree.file("ARCHITECTURE.md")?;
    let count = map.text.lines().count();
    let message = format!(
        "{count} lines, {MAP_LINES_MAX} are allowed: move detail to docs/ or to the module \
         it is about"
    );
    (count > MAP_LINES_MAX).then(|| Finding::whole(&map.path, message))
}

#[cfg(test)]
mod tests {
    use super::super::tree::samples::{places, tree};
    use super::*;

    #[test]
    fn the_501st_line_is_too_much() {
        let at_limit = "fn a() {}\n".repeat(500);
        assert_eq!(check(&tree(&[("a/src/lib.rs", &at_limit)])), []);
        let above = "fn a() {}\n".repeat(501);
        assert_eq!(
            places(&check(&tree(&[("a/src/lib.rs", &above)]))),
            ["a/src/lib.rs:0"]
        );
    }

    #[test]
    fn tests_do_not_count() {
        let body = "fn a() {}\n".repeat(499);
        let inline = format!("{body}#[cfg(test)]\nmod tests {{\n{body}}}\n");
        let files = [
            ("a/src/lib.rs", inline.as_str()),
            ("a/src/b/tests.rs", &body.repeat(2)),
            ("a/src/conformance.rs", &body.repeat(2)),
            ("a/tests/c.rs", &body.repeat(2)),
        ];
        assert_eq!(check(&tree(&files)), []);
    }

    #[test]
    fn code_behind_the_tests_counts() {
        let body = "fn a() {}\n".repeat(300);
        let text = format!("{body}#[cfg(test)]\nmod tests {{}}\n{body}");
        assert_eq!(
            places(&check(&tree(&[("a/src/lib.rs", &text)]))),
            ["a/src/lib.rs:0"]
        );
    }

    #[test]
    fn long_comments_are_broken_and_addresses_are_not() {
        let (fits, long) = ("x".repeat(117), "x".repeat(118));
        let text = format!("// {fits}\n// {long}\nlet a = \"{long}\"; // b\n// https://{long}\n");
        assert_eq!(
            places(&check(&tree(&[("a/src/lib.rs", &text)]))),
            ["a/src/lib.rs:2"]
        );
    }

    #[test]
    fn the_map_stays_short() {
        let (fits, long) = ("line\n".repeat(250), "line\n".repeat(251));
        assert_eq!(check(&tree(&[("ARCHITECTURE.md", &fits)])), []);
        assert_eq!(
            places(&check(&tree(&[("ARCHITECTURE.md", &long)]))),
            ["ARCHITECTURE.md:0"]
        );
    }
}
