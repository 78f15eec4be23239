//! The licences of everything we build with, against the list in deny.toml.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::workspace::{Workspace, cargo_metadata, list, text};

const ALLOW_LIST: &str = "deny.toml";

/// Checks the licence of every crate that a build for Linux may use.
///
/// # Errors
///
/// Fails if a licence is not allowed, or none is named.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let config = std::fs::read_to_string(workspace.root.join(ALLOW_LIST))
        .with_context(|| format!("cannot read {ALLOW_LIST}"))?;
    let allowed = allowed(&config);
    ensure!(
        !allowed.is_empty(),
        "{ALLOW_LIST} has no list `allow` under [licenses]"
    );
    let platforms = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"];
    let platforms = platforms
        .map(|platform| ["--filter-platform", platform])
        .concat();
    let metadata = cargo_metadata(&workspace.root, &platforms)?;
    let packages = list(&metadata, "packages")?;
    let refused = refused(packages, &allowed)?;
    ensure!(
        refused.is_empty(),
        "licences that {ALLOW_LIST} does not allow:\n  {}",
        refused.join("\n  ")
    );
    println!(
        "licences: {} crates, all allowed by {ALLOW_LIST}",
        packages.len()
    );
    Ok(())
}

/// The crates that may not be used, each with its licence.
fn refused(packages: &[Value], allowed: &[&str]) -> Result<Vec<String>> {
    let mut refused = Vec::new();
    for package in packages {
        let licence = package["license"].as_str().unwrap_or("names no licence");
        if !Expression::new(licence).is_satisfied(allowed) {
            let (name, version) = (text(package, "name")?, text(package, "version")?);
            refused.push(format!("{name} {version}: {licence}"));
        }
    }
    Ok(refused)
}

/// The texts in the list `allow` under `[licenses]`.
fn allowed(config: &str) -> Vec<&str> {
    let section = config
        .split_once("\n[licenses]\n")
        .map_or("", |(_, rest)| rest);
    let section = section.split("\n[").next().unwrap_or("");
    let items = section
        .split_once("\nallow = [")
        .map_or("", |(_, rest)| rest);
    let items = items.split_once(']').map_or("", |(items, _)| items);
    let lines = items
        .lines()
        .map(|line| line.split('#').next().unwrap_or(""));
    lines
        .flat_map(|line| line.split('"').skip(1).step_by(2))
        .collect()
}

/// An SPDX licence expression, read from the left.
struct Expression<'a> {
    words: Vec<&'a str>,
    at: usize,
}

impl<'a> Expression<'a> {
    fn new(text: &'a str) -> Expression<'a> {
        let mut words = Vec::new();
        for word in text.split_whitespace() {
            let mut rest = word;
            // An old way of writing OR is a slash.
            while let Some(at) = rest.find(['(', ')', '/']) {
                words.extend([&rest[..at], &rest[at..=at]]);
                rest = &rest[at + 1..];
            }
            words.push(rest);
        }
        words.retain(|word| !word.is_empty());
        Expression { words, at: 0 }
    }

    /// Whether the licences in `allowed` are enough. For nonsense they never are.
    fn is_satisfied(&mut self, allowed: &[&str]) -> bool {
        self.any_of(allowed) == Some(true) && self.at == self.words.len()
    }

    fn any_of(&mut self, allowed: &[&str]) -> Option<bool> {
        let mut is_satisfied = self.all_of(allowed)?;
        while self.take("OR") || self.take("/") {
            is_satisfied |= self.all_of(allowed)?;
        }
        Some(is_satisfied)
    }

    fn all_of(&mut self, allowed: &[&str]) -> Option<bool> {
        let mut is_satisfied = self.one(allowed)?;
        while self.take("AND") {
            is_satisfied &= self.one(allowed)?;
        }
        Some(is_satisfied)
    }

    /// One licence, or an expression in brackets; `None` for nonsense.
    fn one(&mut self, allowed: &[&str]) -> Option<bool> {
        if self.take("(") {
            let is_satisfied = self.any_of(allowed)?;
            return self.take(")").then_some(is_satisfied);
        }
        let licence = self.next()?;
        if !self.take("WITH") {
            return Some(allowed.contains(&licence));
        }
        let with_exception = format!("{licence} WITH {}", self.next()?);
        Some(allowed.contains(&with_exception.as_str()))
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.words.get(self.at) == Some(&word);
        self.at += usize::from(found);
        found
    }

    fn next(&mut self) -> Option<&'a str> {
        let word = self.words.get(self.at).copied();
        self.at += usize::from(word.is_some());
        word
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: [&str; 3] = ["MIT", "Zlib", "Apache-2.0 WITH LLVM-exception"];

    fn is_allowed(licence: &str) -> bool {
        Expression::new(licence).is_satisfied(&ALLOWED)
    }

    #[test]
    fn one_alternative_is_enough_and_every_part_is_needed() {
        for good in [
            "MIT",
            "Unlicense OR MIT",
            "GPL-3.0/MIT",
            "(MIT OR GPL-3.0) AND Zlib",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
            "GPL-3.0 AND X OR MIT",
        ] {
            assert!(is_allowed(good), "{good}");
        }
        for bad in [
            "GPL-3.0",
            "Unlicense",
            "MIT AND GPL-3.0",
            "(MIT OR Zlib) AND GPL-3.0",
            "Apache-2.0",
            "MIT WITH LLVM-exception",
            "MIT-0",
        ] {
            assert!(!is_allowed(bad), "{bad}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            "",
            "MIT MIT",
            "(MIT",
            "MIT)",
            "MIT OR",
            "OR MIT",
            "MIT WITH",
            "names no licence",
        ] {
            assert!(!is_allowed(bad), "{bad}");
        }
    }

    #[test]
    fn the_allow_list_is_read_from_its_section() {
        let config = "[bans]\nallow = [\"x\"]\n\n[licenses]\nversion = 2\nallow = [\n  \"MIT\", # \"why\"\n  \
                      \"Apache-2.0 WITH LLVM-exception\",\n]\n\n[sources]\nallow = [\"y\"]\n";
        assert_eq!(allowed(config), ["MIT", "Apache-2.0 WITH LLVM-exception"]);
        assert!(allowed("[bans]\nallow = [\"x\"]\n").is_empty());
    }

    #[test]
    fn a_crate_with_a_wrong_licence_or_none_is_named() {
        let packages = serde_json::json!([
            {"name": "good", "version": "1.0.0", "license": "MIT"},
            {"name": "bad", "version": "2.0.0", "license": "GPL-3.0"},
            {"name": "none", "version": "3.0.0", "license": null},
        ]);
        let packages = packages.as_array().unwrap();
        let wanted = ["bad 2.0.0: GPL-3.0", "none 3.0.0: names no licence"];
        assert_eq!(refused(packages, &ALLOWED).unwrap(), wanted);
    }
}
