//! The workspace as `cargo metadata` describes it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::fuzz;

/// Our crates, and where things are on this machine.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// The folder of the root Cargo.toml.
    pub(crate) root: PathBuf,
    /// Where cargo builds.
    pub(crate) target_dir: PathBuf,
    /// The members, and `fuzz`.
    pub(crate) packages: Vec<Package>,
}

/// One member of the workspace.
#[derive(Debug, Clone, Default)]
pub(crate) struct Package {
    /// The crate's name.
    pub(crate) name: String,
    /// Its folder, relative to the root.
    pub(crate) dir: String,
    /// What its Cargo.toml names, under any of the dependency headings.
    pub(crate) dependencies: Vec<Dependency>,
    /// What cargo builds from it.
    pub(crate) targets: Vec<Target>,
}

/// One dependency, as a Cargo.toml names it.
#[derive(Debug, Clone)]
pub(crate) struct Dependency {
    /// The crate's name.
    pub(crate) name: String,
    /// For tests, benches and examples only.
    pub(crate) is_dev: bool,
    /// One of our own crates, as against one from a registry.
    pub(crate) is_ours: bool,
}

/// One library, program, test, bench or example.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Cargo's word for it: `lib`, `bin`, `test`, `bench`, `example`, `custom-build`.
    pub(crate) kind: String,
    /// Its root file, relative to the root of the workspace.
    pub(crate) path: String,
}

impl Workspace {
    /// Asks cargo about the workspace of the current folder.
    pub(crate) fn load() -> Result<Workspace> {
        let metadata = cargo_metadata(Path::new("."), &["--no-deps"])?;
        let root = PathBuf::from(text(&metadata, "workspace_root")?);
        // A workspace of its own, to which all rules apply as well.
        let fuzz = root.join(fuzz::DIR);
        let fuzz = fuzz.is_dir().then(|| cargo_metadata(&fuzz, &["--no-deps"]));
        let fuzz = fuzz.transpose()?;
        let mut packages = Vec::new();
        for metadata in [Some(&metadata), fuzz.as_ref()].into_iter().flatten() {
            for package in list(metadata, "packages")? {
                packages.push(Package::parse(package, &root)?);
            }
        }
        Ok(Workspace {
            target_dir: PathBuf::from(text(&metadata, "target_directory")?),
            packages,
            root,
        })
    }

    /// A command that runs cargo, the one that runs us, at the root.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(cargo_program());
        command.current_dir(&self.root);
        command
    }
}

impl Package {
    fn parse(package: &Value, root: &Path) -> Result<Package> {
        let manifest = PathBuf::from(text(package, "manifest_path")?);
        let dir = manifest.parent().context("a manifest lies in a folder")?;
        let dependencies = list(package, "dependencies")?.iter().map(Dependency::parse);
        let targets = list(package, "targets")?;
        let targets = targets.iter().map(|target| Target::parse(target, root));
        Ok(Package {
            name: text(package, "name")?.to_owned(),
            dir: relative(dir, root)?,
            dependencies: dependencies.collect::<Result<_>>()?,
            targets: targets.collect::<Result<_>>()?,
        })
    }
}

impl Dependency {
    fn parse(dependency: &Value) -> Result<Dependency> {
        Ok(Dependency {
            name: text(dependency, "name")?.to_owned(),
            is_dev: dependency["kind"] == "dev",
            is_ours: dependency["path"].is_string(),
        })
    }
}

impl Target {
    fn parse(target: &Value, root: &Path) -> Result<Target> {
        let kinds = list(target, "kind")?;
        let kind = kinds.first().and_then(Value::as_str);
        Ok(Target {
            kind: kind.context("a target has a kind")?.to_owned(),
            path: relative(Path::new(text(target, "src_path")?), root)?,
        })
    }
}

/// Runs `cargo metadata` in `dir` and parses what it prints.
pub(crate) fn cargo_metadata(dir: &Path, args: &[&str]) -> Result<Value> {
    let output = Command::new(cargo_program())
        .current_dir(dir)
        .args(["metadata", "--format-version", "1"])
        .args(args)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(output.status.success(), "`cargo metadata` failed");
    serde_json::from_slice(&output.stdout).context("cannot read what `cargo metadata` printed")
}

/// The text under `key`.
pub(crate) fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    let found = value[key].as_str();
    found.with_context(|| format!("`cargo metadata` gave no text `{key}`"))
}

/// The list under `key`.
pub(crate) fn list<'a>(value: &'a Value, key: &str) -> Result<&'a [Value]> {
    let found = value[key].as_array();
    let found = found.with_context(|| format!("`cargo metadata` gave no list `{key}`"))?;
    Ok(found)
}

/// The cargo that runs us.
pub(crate) fn cargo_program() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

fn relative(path: &Path, root: &Path) -> Result<String> {
    let path = path
        .strip_prefix(root)
        .context("a path of ours lies under the root")?;
    let path = path.to_str().context("a path of ours is UTF-8")?;
    Ok(path.to_owned())
}
