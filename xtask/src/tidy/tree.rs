//! The project in memory: what every check of tidy looks at.

use std::collections::{BTreeMap, BTreeSet};

use crate::tidy::code;
use crate::workspace::Package;

/// All text files of the project, and its crates.
#[derive(Debug)]
pub(crate) struct Tree {
    /// The files in the order of their paths.
    pub(crate) files: Vec<File>,
    /// The crates.
    pub(crate) packages: Vec<Package>,
}

/// One text file.
#[derive(Debug, Default)]
pub(crate) struct File {
    /// Its path relative to the root.
    pub(crate) path: String,
    /// All of it.
    pub(crate) text: String,
    /// The parts of a Rust file; empty for others.
    pub(crate) rust: Option<Rust>,
}

/// What tidy knows about a Rust file. Line numbers agree with those of the text.
#[derive(Debug)]
pub(crate) struct Rust {
    /// Its code, without comments and literals.
    pub(crate) code: String,
    /// Its comments alone.
    pub(crate) comments: String,
    /// Its code without test items; empty for a file of tests and for an example.
    pub(crate) product: String,
    /// How many lines it has besides those of test items; 0 for a file of tests.
    pub(crate) product_lines: usize,
    /// Whether a crate root reaches it by `mod`.
    pub(crate) is_reached: bool,
}

/// Something that breaks a rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// The file.
    pub(crate) path: String,
    /// The line, counted from 1; 0 where the whole file is meant.
    pub(crate) line: usize,
    /// What is wrong and what to do about it.
    pub(crate) message: String,
}

impl Finding {
    /// A finding at `line` of `path`.
    pub(crate) fn at(path: &str, line: usize, message: impl Into<String>) -> Finding {
        let (path, message) = (path.to_owned(), message.into());
        Finding {
            path,
            line,
            message,
        }
    }

    /// A finding about all of `path`.
    pub(crate) fn whole(path: &str, message: impl Into<String>) -> Finding {
        Finding::at(path, 0, message)
    }
}

impl Tree {
    /// Builds the tree from paths with their texts.
    pub(crate) fn new(texts: BTreeMap<String, String>, packages: Vec<Package>) -> Tree {
        let mut files: Vec<File> = texts.into_iter().map(File::new).collect();
        let modules = Modules::walk(&files, &packages);
        for file in &mut files {
            let is_product = modules.product.contains(&file.path);
            let is_reached = is_product || modules.tests.contains(&file.path);
            let is_test = if is_reached {
                !is_product
            } else {
                is_named_as_tests(&file.path)
            };
            let is_example = file.path.contains("/examples/");
            let Some(rust) = &mut file.rust else { continue };
            rust.is_reached = is_reached;
            if is_test {
                rust.product_lines = 0;
            }
            if is_test || is_example {
                rust.product.clear();
            }
        }
        Tree { files, packages }
    }

    /// The file at `path`.
    pub(crate) fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// All Rust files.
    pub(crate) fn rust_files(&self) -> impl Iterator<Item = (&File, &Rust)> {
        let rust = |file| -> Option<(&File, &Rust)> { Some((file, File::rust(file)?)) };
        self.files.iter().filter_map(rust)
    }
}

impl File {
    fn new((path, text): (String, String)) -> File {
        let rust = path.ends_with(".rs").then(|| Rust::new(&text));
        File { path, text, rust }
    }

    fn rust(&self) -> Option<&Rust> {
        self.rust.as_ref()
    }
}

impl Rust {
    fn new(text: &str) -> Rust {
        let parts = code::split(text);
        let tests = code::test_items(&parts.code);
        let lines = |range: &std::ops::Range<usize>| parts.code[range.clone()].lines().count();
        let test_lines: usize = tests.iter().map(lines).sum();
        Rust {
            product: code::without(&parts.code, &tests),
            product_lines: text.lines().count().saturating_sub(test_lines),
            code: parts.code,
            comments: parts.comments,
            is_reached: false,
        }
    }
}

/// Numbers the lines of `text` from 1.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
}

/// Whether a file that no root reaches is one of tests by its name.
fn is_named_as_tests(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    matches!(name, "tests.rs" | "conformance.rs") || path.contains("/tests/")
}

/// The files that crate roots reach by `mod`.
#[derive(Debug, Default)]
struct Modules {
    product: BTreeSet<String>,
    tests: BTreeSet<String>,
}

impl Modules {
    fn walk(files: &[File], packages: &[Package]) -> Modules {
        let files: BTreeMap<&str, &File> = files
            .iter()
            .map(|file| (file.path.as_str(), file))
            .collect();
        let mut modules = Modules::default();
        let targets = || packages.iter().flat_map(|package| &package.targets);
        for target in targets().filter(|target| target.kind != "test") {
            modules.visit(&files, &target.path, IsRoot::Yes);
        }
        for target in targets().filter(|target| target.kind == "test") {
            modules.visit_tests(&files, &target.path, IsRoot::Yes);
        }
        modules
    }

    fn visit(&mut self, files: &BTreeMap<&str, &File>, path: &str, is_root: IsRoot) {
        let Some(rust) = files.get(path).and_then(|file| file.rust()) else {
            return;
        };
        if !self.product.insert(path.to_owned()) {
            return;
        }
        let product = code::declared_modules(&rust.product);
        for name in code::declared_modules(&rust.code) {
            let child = child_path(path, is_root, name);
            if product.contains(&name) {
                self.visit(files, &child, IsRoot::No);
            } else {
                self.visit_tests(files, &child, IsRoot::No);
            }
        }
    }

    fn visit_tests(&mut self, files: &BTreeMap<&str, &File>, path: &str, is_root: IsRoot) {
        let Some(rust) = files.get(path).and_then(|file| file.rust()) else {
            return;
        };
        if !self.tests.insert(path.to_owned()) {
            return;
        }
        for name in code::declared_modules(&rust.code) {
            self.visit_tests(files, &child_path(path, is_root, name), IsRoot::No);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IsRoot {
    Yes,
    No,
}

/// Where the module `name` lies that the file at `parent` declares.
fn child_path(parent: &str, is_root: IsRoot, name: &str) -> String {
    let folder = match is_root {
        IsRoot::Yes => parent.rsplit_once('/').map_or("", |(folder, _)| folder),
        IsRoot::No => parent.trim_end_matches(".rs"),
    };
    format!("{folder}/{name}.rs")
}

#[cfg(test)]
pub(crate) mod samples {
    //! Small projects for the tests of the checks.

    use super::*;
    use crate::workspace::{Dependency, Target};

    /// A project of these files. Each `<crate>/src/{lib,main}.rs`, `<crate>/tests/*.rs` and
    /// `<crate>/examples/*.rs` is a root.
    pub(crate) fn tree(files: &[(&str, &str)]) -> Tree {
        let mut packages = BTreeMap::<&str, Package>::new();
        for (path, _) in files {
            let (Some(kind), Some((name, _))) = (kind(path), path.split_once('/')) else {
                continue;
            };
            let package = packages.entry(name).or_insert_with(|| package(name, &[]));
            package.targets.push(Target {
                kind: kind.to_owned(),
                path: (*path).to_owned(),
            });
        }
        with_packages(files, packages.into_values().collect())
    }

    /// A project of these files and crates.
    pub(crate) fn with_packages(files: &[(&str, &str)], packages: Vec<Package>) -> Tree {
        let owned = |(path, text): &(&str, &str)| ((*path).to_owned(), (*text).to_owned());
        Tree::new(files.iter().map(owned).collect(), packages)
    }

    /// A crate that depends on others; `dev:name` only in its tests, `registry:name` on a
    /// crate that is not ours.
    pub(crate) fn package(name: &str, dependencies: &[&str]) -> Package {
        let dependency = |spec: &&str| Dependency {
            name: spec.rsplit(':').next().unwrap_or(spec).to_owned(),
            is_dev: spec.contains("dev:"),
            is_ours: !spec.contains("registry:"),
        };
        Package {
            name: name.to_owned(),
            dir: name.to_owned(),
            dependencies: dependencies.iter().map(dependency).collect(),
            targets: Vec::new(),
        }
    }

    /// What a check says about a tree, as `path:line`.
    pub(crate) fn places(findings: &[Finding]) -> Vec<String> {
        let place = |finding: &Finding| format!("{}:{}", finding.path, finding.line);
        findings.iter().map(place).collect()
    }

    fn kind(path: &str) -> Option<&'static str> {
        let rest = path.split_once('/')?.1;
        let is_in = |folder| {
            rest.strip_prefix(folder)
                .is_some_and(|name: &str| !name.contains('/'))
        };
        match rest {
            "src/lib.rs" => Some("lib"),
            "src/main.rs" => Some("bin"),
            _ if is_in("tests/") => Some("test"),
            _ if is_in("examples/") => Some("example"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_a_test_if_it_is_declared_for_tests_only() {
        let tree = samples::tree(&[
            ("a/src/lib.rs", "mod b;\n#[cfg(test)]\nmod c;\n"),
            (
                "a/src/b.rs",
                "#[cfg(all(test, loom))]\nmod loom_tests;\nfn b() {}\n",
            ),
            ("a/src/b/loom_tests.rs", "mod deep;\n"),
            ("a/src/b/loom_tests/deep.rs", "fn d() {}\n"),
            ("a/src/c.rs", "fn c() {}\n"),
            ("a/tests/t.rs", "mod help;\n"),
            ("a/tests/help.rs", "fn h() {}\n"),
        ]);
        let lines = |path| {
            tree.file(path)
                .and_then(File::rust)
                .map(|rust| rust.product_lines)
        };
        assert_eq!(lines("a/src/b.rs"), Some(1));
        for path in ["a/src/b/loom_tests/deep.rs", "a/src/c.rs", "a/tests/t.rs"] {
            assert_eq!(lines(path), Some(0), "{path}");
        }
        assert!(tree.rust_files().all(|(_, rust)| rust.is_reached));
    }

    #[test]
    fn what_product_and_tests_share_is_product() {
        let tree = samples::tree(&[
            ("a/src/lib.rs", "#[cfg(test)]\nmod b;\n"),
            ("a/src/main.rs", "mod b;\n"),
            ("a/src/b.rs", "fn b() {}\n"),
        ]);
        let b = tree.file("a/src/b.rs").and_then(File::rust);
        assert_eq!(b.map(|rust| rust.product_lines), Some(1));
    }
}
