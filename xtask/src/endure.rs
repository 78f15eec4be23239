//! `cargo xtask endure`: random jobs on real files and devices, under writers, for a long while.
//!
//! The time is shared out among the places that this machine can have: files and loop devices, each
//! on ext4, XFS and btrfs, made for the purpose; and a folder of the file system that is there.

mod place;

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, bail, ensure};

use self::place::{FILE_SYSTEMS, FileSystem, LoopDevice, Mounted};
use crate::options::{fresh_seed, read_numbers};
use crate::workspace::Workspace;

/// How long it runs unless told otherwise, in seconds.
const SECONDS: u64 = 3600;
/// Length of each disk that is copied, in bytes.
const DISK_BYTES: u64 = 96 << 20;
/// Length of each file system: room for two disks, twice over.
const FILE_SYSTEM_BYTES: u64 = 1 << 30;

/// Two paths that a disk and its copy lie at, and what they are, for people.
struct Pair<'a> {
    name: String,
    folder: &'a Path,
    image: PathBuf,
    target: PathBuf,
}

/// Runs it with the options of the command line.
pub(crate) fn run(workspace: &Workspace, args: &[&str]) -> Result<()> {
    let (mut seconds, mut seed) = (SECONDS, fresh_seed()?);
    read_numbers(
        args,
        &mut [("--seconds", &mut seconds), ("--seed", &mut seed)],
    )?;
    println!("endure: seed {seed}, {seconds} seconds");
    let soak = Soak::build(workspace)?;
    let folder = workspace.target_dir.join("endure");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).context("the remains of an earlier run stay")?;
    }
    std::fs::create_dir_all(&folder)?;
    let ended = everywhere(&soak, &folder, (seconds, seed));
    let cleared = std::fs::remove_dir_all(&folder);
    for line in ended? {
        println!("endure: {line}");
    }
    cleared.context("cannot clear up")
}

/// Runs in each place for its share of the time; returns what each came to.
fn everywhere(soak: &Soak, folder: &Path, (seconds, seed): (u64, u64)) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let (possible, missing): (Vec<_>, Vec<_>) = FILE_SYSTEMS
        .iter()
        .map(|kind| (kind, kind.is_missing()))
        .partition(|(_, missing)| missing.is_none());
    for (kind, reason) in missing {
        let reason = reason.unwrap_or_default();
        lines.push(format!("{}: SKIPPED: {reason}", kind.name));
    }
    let places = u64::try_from(possible.len() * 2 + 1)?;
    let share = (seconds / places).max(1);
    let here = files(folder, "here".to_owned());
    lines.push(soak.run(&here, share, seed)?);
    for (kind, _) in possible {
        lines.extend(on(kind, soak, folder, (share, seed))?);
    }
    Ok(lines)
}

/// Runs on a file system of this kind, with files and then with devices.
fn on(
    kind: &FileSystem,
    soak: &Soak,
    folder: &Path,
    (share, seed): (u64, u64),
) -> Result<Vec<String>> {
    let mounted = Mounted::make(kind, folder, FILE_SYSTEM_BYTES)?;
    let files = files(mounted.folder(), format!("files on {}", kind.name));
    let with_files = soak.run(&files, share, seed)?;
    let devices = [
        LoopDevice::make(&mounted.folder().join("disk"), DISK_BYTES)?,
        LoopDevice::make(&mounted.folder().join("copy"), DISK_BYTES)?,
    ];
    let pair = Pair {
        name: format!("loop devices on {}", kind.name),
        folder: mounted.folder(),
        image: devices[0].path().to_owned(),
        target: devices[1].path().to_owned(),
    };
    let with_devices = soak.run(&pair, share, seed)?;
    Ok(vec![with_files, with_devices])
}

fn files(folder: &Path, name: String) -> Pair<'_> {
    Pair {
        name,
        folder,
        image: folder.join("image.raw"),
        target: folder.join("target.raw"),
    }
}

/// The program that does it.
struct Soak {
    program: PathBuf,
}

impl Soak {
    fn build(workspace: &Workspace) -> Result<Self> {
        let mut command = workspace.cargo();
        command.args(["build", "--locked", "--release", "-p", "longshore"]);
        let status = command.args(["--example", "soak"]).status();
        ensure!(
            status.context("cannot start cargo")?.success(),
            "the soak does not build"
        );
        let program = workspace.target_dir.join("release/examples/soak");
        Ok(Self { program })
    }

    /// Runs it in one place; returns its last line, which has the counts.
    fn run(&self, pair: &Pair<'_>, seconds: u64, seed: u64) -> Result<String> {
        println!("endure: {}, {seconds} seconds", pair.name);
        let mut command = std::process::Command::new(&self.program);
        command.args(["--seconds", &seconds.to_string()]);
        command.args(["--seed", &seed.to_string()]);
        command.args(["--size", &DISK_BYTES.to_string()]);
        command.arg("--folder").arg(pair.folder);
        command.arg("--image").arg(&pair.image);
        command.arg("--target").arg(&pair.target);
        let output = command.stderr(Stdio::inherit()).output();
        let output = output.context("cannot start the soak")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!(
                "{}: {}; again with: cargo xtask endure --seconds {seconds} --seed {seed}",
                pair.name,
                output.status
            );
        }
        let last = text.lines().last().context("the soak said nothing")?;
        Ok(format!("{}: {last}", pair.name))
    }
}
