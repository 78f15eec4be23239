//! `longshore demo --kill`: a backup is killed half way, and nothing it leaves passes for complete.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};

use super::Demo;
use crate::cli::{
    Done,
    exit::{Exit, Failure},
    output::fields,
    units,
};

/// A copy at this part of its data per second is alive long enough to be killed.
const LIMIT_PARTS: u64 = 4;

/// Runs the rest of the demonstration, the image being made.
pub(super) fn run(demo: &Demo<'_>) -> Result<Done, Failure> {
    let done_bytes = kill_half_way(demo)?;
    let partial = partial_of(&demo.copy);
    let output = demo.output();
    output.print(&format!(
        "2/3 killed a backup when {} of {} were copied",
        units::bytes(done_bytes),
        units::bytes(demo.image.data_bytes())
    ));
    if demo.copy.exists() {
        let text = "FAILED: there is a copy.img, although its backup was killed";
        return Err(Failure::new(Exit::Mismatch, text));
    }
    output.print("    ok   there is no copy.img");
    if !partial.exists() {
        let text = "FAILED: the killed backup left nothing; it was not killed half way";
        return Err(Failure::new(Exit::Failed, text));
    }
    output.print("    ok   what is left is called copy.img.partial, and info calls it incomplete");
    check_info(&partial)?;
    demo.check_stop()?;
    let status = longshore()?
        .args(["backup", "--quiet"])
        .args([&demo.disk, &demo.copy])
        .status()
        .map_err(|error| Failure::io("cannot start longshore again", &error))?;
    if !status.success() {
        return Err(Failure::new(
            Exit::Failed,
            format!("the second backup failed: {status}"),
        ));
    }
    output.print("3/3 the same command again");
    let blake3 = compare(&demo.disk, &demo.copy)?;
    if partial.exists() {
        let text = "FAILED: copy.img.partial is still there";
        return Err(Failure::new(Exit::Mismatch, text));
    }
    output.print(&format!(
        "    ok   copy.img equals disk.img   blake3 {}…",
        &blake3[..16]
    ));
    Ok(Done::with(fields(json!({
        "job": "demo",
        "verified": "compared",
        "checksum": format!("blake3:{blake3}"),
        "killed_at_bytes": done_bytes,
    }))))
}

fn partial_of(copy: &Path) -> PathBuf {
    let mut name = copy.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}

/// This program, once more.
fn longshore() -> Result<Command, Failure> {
    let program = std::env::current_exe();
    let program = program.map_err(|error| Failure::io("cannot find longshore itself", &error))?;
    Ok(Command::new(program))
}

/// Starts a backup that would take some seconds, and kills it when half of the data is copied.
fn kill_half_way(demo: &Demo<'_>) -> Result<u64, Failure> {
    let failed = |error: io::Error| Failure::io("cannot run a backup to kill", &error);
    let limit = (demo.image.data_bytes() / LIMIT_PARTS).max(1).to_string();
    let mut child = longshore()?
        .args(["backup", "--json", "--limit", &limit])
        .args([&demo.disk, &demo.copy])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let killed = watch(&mut child, demo);
    // It is dead already, or must not outlive this demonstration.
    let _ = child.kill();
    child.wait().map_err(failed)?;
    killed
}

/// Reads the records of the backup until half is copied.
fn watch(child: &mut Child, demo: &Demo<'_>) -> Result<u64, Failure> {
    let half = demo.image.data_bytes() / 2;
    let pipe = child.stdout.take().into_iter();
    for line in pipe.flat_map(|pipe| BufReader::new(pipe).lines()) {
        demo.check_stop()?;
        let line = line.map_err(|error| Failure::io("cannot read its records", &error))?;
        let record: Value = serde_json::from_str(&line).unwrap_or_default();
        let copied = record["bytes_copied"].as_u64().unwrap_or(0);
        if record["type"] == "progress" && copied >= half {
            return Ok(copied);
        }
    }
    let text = "the backup that was to be killed ended before it was half way";
    Err(Failure::new(Exit::Failed, text))
}

/// Asks `longshore info` about the leftover.
fn check_info(partial: &Path) -> Result<(), Failure> {
    let told = longshore()?.args(["info", "--json"]).arg(partial).output();
    let told = told.map_err(|error| Failure::io("cannot run longshore info", &error))?;
    let record: Value = serde_json::from_slice(&told.stdout).unwrap_or_default();
    if record["incomplete"] == true {
        return Ok(());
    }
    let text = "FAILED: longshore info does not call copy.img.partial incomplete";
    Err(Failure::new(Exit::Mismatch, text))
}

/// Compares two files by reading them; gives the checksum.
fn compare(one: &Path, other: &Path) -> Result<String, Failure> {
    let failed = |error: io::Error| Failure::io("cannot compare copy.img with disk.img", &error);
    let (mut one, mut other) = (
        File::open(one).map_err(failed)?,
        File::open(other).map_err(failed)?,
    );
    let mut hasher = blake3::Hasher::new();
    let mut buffers = [vec![0; 1 << 20], vec![0; 1 << 20]];
    let mut left = one.metadata().map_err(failed)?.len();
    let is_longer = other.metadata().map_err(failed)?.len() != left;
    while left > 0 && !is_longer {
        let len = usize::try_from(left).map_or(1 << 20, |left| left.min(1 << 20));
        let [mine, its] = &mut buffers;
        one.read_exact(&mut mine[..len]).map_err(failed)?;
        other.read_exact(&mut its[..len]).map_err(failed)?;
        if mine[..len] != its[..len] {
            break;
        }
        hasher.update(&mine[..len]);
        left -= u64::try_from(len).unwrap_or(left);
    }
    if left > 0 || is_longer {
        let text = "FAILED: copy.img differs from disk.img";
        return Err(Failure::new(Exit::Mismatch, text));
    }
    Ok(hasher.finalize().to_hex().to_string())
}
