//! `cargo xtask tidy`: the house rules that no compiler knows, each as a function over the files.

mod banned;
mod code;
mod dependencies;
mod docs;
mod interface;
mod ladder;
mod limits;
mod locks;
mod markdown;
mod orphans;
mod text;
mod tree;
mod unsafe_map;

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::workspace::Workspace;
use tree::{Finding, Tree};

const CHECKS: [fn(&Tree) -> Vec<Finding>; 10] = [
    banned::check,
    dependencies::check,
    docs::check,
    interface::check,
    ladder::check,
    limits::check,
    locks::check,
    orphans::check,
    text::check,
    unsafe_map::check,
];

/// Input for programs, whatever it looks like.
const CORPORA: &str = "fuzz/corpus/";

/// Prints what breaks a rule, and where.
///
/// # Errors
///
/// Fails if anything does.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let tree = Tree::new(read_files(workspace)?, workspace.packages.clone());
    let mut findings: Vec<Finding> = CHECKS.iter().flat_map(|check| check(&tree)).collect();
    findings.sort();
    for Finding {
        path,
        line,
        message,
    } in &findings
    {
        match line {
            0 => println!("{path}: {message}"),
            _ => println!("{path}:{line}: {message}"),
        }
    }
    ensure!(
        findings.is_empty(),
        "tidy found {} things to put right",
        findings.len()
    );
    println!("tidy: {} files, nothing to put right", tree.files.len());
    Ok(())
}

/// Every text file that git tracks or would track.
fn read_files(workspace: &Workspace) -> Result<BTreeMap<String, String>> {
    let output = Command::new("git")
        .current_dir(&workspace.root)
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .output()
        .context("cannot start git, which knows the files of the project")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "`git ls-files` failed: {}",
        complaint.trim()
    );
    let paths = String::from_utf8(output.stdout).context("a path is not UTF-8")?;
    let mut files = BTreeMap::new();
    for path in paths.split_terminator('\0') {
        let full_path = workspace.root.join(path);
        if path.starts_with(CORPORA) {
            continue;
        }
        // A file that git knows may have been deleted, and a link is checked where it leads.
        if !full_path.is_file() || full_path.is_symlink() {
            continue;
        }
        let bytes = std::fs::read(&full_path).with_context(|| format!("cannot read {path}"))?;
        // What is not UTF-8 is not text.
        if let Ok(text) = String::from_utf8(bytes) {
            files.insert(path.to_owned(), text);
        }
    }
    Ok(files)
}
