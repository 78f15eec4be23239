//! What may not stand in any text file: paths of one machine, and stray white space.

use super::code::is_word;
use super::tree::{File, Finding, Tree};

/// Beginnings of paths that exist on somebody's machine only. In two parts, so that this file passes.
const MACHINE_PATHS: [&str; 3] = [
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/wo", "rk/"),
];

/// Where a tab is never meant.
const NO_TABS: [&str; 3] = [".rs", ".md", ".toml"];

/// Checks every text file.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    tree.files.iter().flat_map(check_file).collect()
}

fn check_file(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    let refuses_tabs = NO_TABS.iter().any(|ending| file.path.ends_with(ending));
    // Not `lines`, which hides a carriage return.
    for (index, line) in file.text.split('\n').enumerate() {
        let mut find = |message: String| findings.push(Finding::at(&file.path, index + 1, message));
        if line.contains('\r') {
            find("end lines with a line feed alone".to_owned());
        } else if line.ends_with([' ', '\t']) {
            find("remove the white space at the end".to_owned());
        }
        if refuses_tabs && line.contains('\t') {
            find("use spaces instead of tabs".to_owned());
        }
        if let Some(path) = MACHINE_PATHS.iter().find(|path| names(line, path)) {
            find(format!(
                "`{path}..` exists on one machine only: use a relative path"
            ));
        }
    }
    if !file.text.is_empty() && !file.text.ends_with('\n') {
        findings.push(Finding::whole(
            &file.path,
            "end the last line with a line feed",
        ));
    }
    findings
}

/// Whether `line` names a path that begins with `beginning`, as against one that has it further in.
fn names(line: &str, beginning: &str) -> bool {
    let goes_on = |c: char| is_word(c) || matches!(c, '.' | '-' | '}' | '*');
    line.match_indices(beginning)
        .any(|(at, _)| !line[..at].ends_with(goes_on))
}

#[cfg(test)]
mod tests {
    use super::super::tree::samples::{places, tree};
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        places(&check(&tree(&[(path, text)])))
    }

    #[test]
    fn stray_white_space_is_found() {
        assert_eq!(
            found("a.md", "a \nb\n\tc\nd\r\n"),
            ["a.md:1", "a.md:3", "a.md:4"]
        );
        assert_eq!(found("run", "\ta\nb\t\n"), ["run:2"]);
        assert_eq!(found("a.md", "a\n\nb"), ["a.md:0"]);
        assert!(found("a.md", "a\n\nb\n").is_empty());
        assert!(found("a.md", "").is_empty());
    }

    #[test]
    fn paths_of_one_machine_are_found() {
        for path in MACHINE_PATHS {
            for line in [
                format!("cd {path}a\n"),
                format!("`{path}a`\n"),
                format!("file://{path}a\n"),
            ] {
                assert_eq!(found("a.md", &line), ["a.md:1"], "{line}");
            }
            for line in [
                format!("target{path}a\n"),
                format!("$X}}{path}a\n"),
                format!("..{path}\n"),
            ] {
                assert!(found("a.md", &line).is_empty(), "{line}");
            }
        }
    }
}
