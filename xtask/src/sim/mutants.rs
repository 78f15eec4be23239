//! `cargo xtask sim --mutants`: the simulation must find each mistake that is put into the product on purpose.
//!
//! A mutant is a file of `sim/mutants`: a sentence, then for each place `@ file`, the lines that stand there after
//! `-`, and those that take their place after `+`. It is built from a copy of the
//! last commit.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::workspace::Workspace;

/// A mutant that runs for so long has not been found, in seconds.
const SECONDS_MAX: &str = "900";

/// One mistake.
#[derive(Debug, PartialEq, Eq)]
struct Mutant {
    what: String,
    changes: Vec<Change>,
}

#[derive(Debug, PartialEq, Eq)]
struct Change {
    file: String,
    from: String,
    to: String,
}

/// Builds and runs every mutant whose name contains `filter`, for so many seeds from `from` on, and prints a table.
///
/// # Errors
///
/// Fails if a mutant cannot be made any more, or is not found.
pub(super) fn run(workspace: &Workspace, (seeds, from): (u64, u64), filter: &str) -> Result<()> {
    let scratch = workspace.target_dir.join("sim-mutants");
    let head = export(workspace, &scratch)?;
    let (mut rows, mut missed) = (Vec::new(), 0);
    for path in files(&head.join("sim/mutants"))? {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        if !name.contains(filter) {
            continue;
        }
        let found = Mutant::read(&name, &fs::read_to_string(&path)?)
            .and_then(|mutant| mutant.find(&head, &scratch, (seeds, from)));
        missed += usize::from(!matches!(found, Ok(Some(_))));
        let row = match found {
            Ok(Some((count, what))) => format!("{name:<50} {count:>5} seeds  {what}"),
            Ok(None) => format!("{name:<50} NOT FOUND in {seeds} seeds"),
            Err(error) => format!("{name:<50} CANNOT BE TRIED: {error:#}"),
        };
        println!("{row}");
        rows.push(row);
    }
    println!("\n{}", rows.join("\n"));
    ensure!(
        missed == 0,
        "{missed} of {} mutants are not found",
        rows.len()
    );
    Ok(())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).context("there is no folder of mutants")?;
    let paths: std::io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut paths = paths?;
    paths.sort();
    Ok(paths)
}

/// Puts the last commit into `scratch`, so that mutants do not change when somebody edits meanwhile.
fn export(workspace: &Workspace, scratch: &Path) -> Result<PathBuf> {
    let (head, archive) = (scratch.join("head"), scratch.join("head.tar"));
    if head.exists() {
        fs::remove_dir_all(&head)?;
    }
    fs::create_dir_all(&head)?;
    let mut git = Command::new("git");
    git.current_dir(&workspace.root)
        .args(["archive", "HEAD", "-o"]);
    let archived = git.arg(&archive).status().context("cannot start git")?;
    ensure!(archived.success(), "git cannot archive the last commit");
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(&archive).arg("-C").arg(&head);
    let unpacked = tar.status().context("cannot start tar")?;
    ensure!(unpacked.success(), "tar cannot unpack the last commit");
    Ok(head)
}

/// Makes `to` like `from`. What is so already keeps its time, so that little is built anew.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_tree(&from, &to)?;
            continue;
        }
        let bytes = fs::read(&from)?;
        if !fs::read(&to).is_ok_and(|there| there == bytes) {
            fs::write(&to, bytes)?;
        }
    }
    Ok(())
}

/// How many seeds it took and what was violated; `None` if nothing was.
fn build_and_run(
    tree: &Path,
    target: &Path,
    (seeds, from): (u64, u64),
) -> Result<Option<(u64, String)>> {
    let mut build = Command::new("cargo");
    build.current_dir(tree).env("CARGO_TARGET_DIR", target);
    build.args(["build", "--release", "--quiet", "-p", "sim"]);
    // Building takes longer than running.
    build.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1");
    build.env("CARGO_PROFILE_RELEASE_DEBUG", "0");
    let built = build.status().context("cannot start cargo")?;
    ensure!(built.success(), "it does not build");
    let mut run = Command::new("timeout");
    run.arg(SECONDS_MAX).arg(target.join("release/sim"));
    run.args(["--seeds", &seeds.to_string(), "--from", &from.to_string()]);
    let output = run.output().context("cannot start timeout")?;
    if output.status.success() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let said = |line: &&str| line.starts_with("VIOLATION") || line.starts_with("PANIC");
    let Some(line) = text.lines().find(said) else {
        bail!("it ended with {} and without a word", output.status);
    };
    let seed = line.split(" with seed ").nth(1);
    let seed = seed.and_then(|rest| rest.split(';').next()?.parse::<u64>().ok());
    let count = seed.map_or(0, |seed| seed.wrapping_sub(from) + 1);
    let what = line.trim_start_matches("VIOLATION: ");
    Ok(Some((count, what.chars().take(100).collect())))
}

impl Mutant {
    /// How many seeds it takes to find it, and what was violated; `None` if nothing was.
    fn find(
        &self,
        head: &Path,
        scratch: &Path,
        seeds: (u64, u64),
    ) -> Result<Option<(u64, String)>> {
        let tree = scratch.join("tree");
        copy_tree(head, &tree)?;
        for change in &self.changes {
            change.make(&tree)?;
        }
        build_and_run(&tree, &scratch.join("target"), seeds)
    }

    fn read(name: &str, text: &str) -> Result<Self> {
        let mut mutant = Self {
            what: String::new(),
            changes: Vec::new(),
        };
        for line in text.lines() {
            if let Some(file) = line.strip_prefix("@ ") {
                mutant.changes.push(Change {
                    file: file.to_owned(),
                    from: String::new(),
                    to: String::new(),
                });
                continue;
            }
            match (line.chars().next(), mutant.changes.last_mut()) {
                (Some('-'), Some(change)) => change.from += &format!("{}\n", &line[1..]),
                (Some('+'), Some(change)) => change.to += &format!("{}\n", &line[1..]),
                (None, _) => {}
                (_, None) => mutant.what += line,
                _ => bail!("mutant {name} has a line that is none: {line}"),
            }
        }
        ensure!(!mutant.changes.is_empty(), "mutant {name} changes nothing");
        Ok(mutant)
    }
}

impl Change {
    fn make(&self, tree: &Path) -> Result<()> {
        let path = tree.join(&self.file);
        let text = fs::read_to_string(&path).with_context(|| self.file.clone())?;
        let count = text.matches(&self.from).count();
        ensure!(
            count == 1,
            "{} has the lines that are to change {count} times",
            self.file
        );
        fs::write(&path, text.replace(&self.from, &self.to))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mutant_says_what_it_changes_and_where() {
        let text = "A mistake.\n\n@ a.rs\n-    one();\n-    two();\n+    two();\n\n@ b.rs\n-x\n";
        let mutant = Mutant::read("m", text).unwrap();
        let change = |file: &str, from: &str, to: &str| Change {
            file: file.to_owned(),
            from: from.to_owned(),
            to: to.to_owned(),
        };
        let want = Mutant {
            what: "A mistake.".to_owned(),
            changes: vec![
                change("a.rs", "    one();\n    two();\n", "    two();\n"),
                change("b.rs", "x\n", ""),
            ],
        };
        assert_eq!(mutant, want);
        assert!(Mutant::read("m", "A mistake.\n").is_err());
    }
}
