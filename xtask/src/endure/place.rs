//! File systems and loop devices that are made for a run, and go with it. All of it needs root.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// A kind of file system.
pub(super) struct FileSystem {
    pub(super) name: &'static str,
    mkfs: &'static [&'static str],
    package: &'static str,
}

/// Those that we try.
pub(super) const FILE_SYSTEMS: [FileSystem; 3] = [
    FileSystem {
        name: "ext4",
        mkfs: &["mkfs.ext4", "-q"],
        package: "e2fsprogs",
    },
    FileSystem {
        name: "xfs",
        mkfs: &["mkfs.xfs", "-q"],
        package: "xfsprogs",
    },
    FileSystem {
        name: "btrfs",
        mkfs: &["mkfs.btrfs", "-q"],
        package: "btrfs-progs",
    },
];

impl FileSystem {
    /// Why there can be none here.
    pub(super) fn is_missing(&self) -> Option<String> {
        if !is_root() {
            return Some("needs root (mounts, loop devices)".to_owned());
        }
        let found = Command::new(self.mkfs[0]).arg("-V").output();
        match found {
            Ok(_) => None,
            Err(_) => Some(format!(
                "needs {} (Debian package {})",
                self.mkfs[0], self.package
            )),
        }
    }
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.starts_with(b"0\n"))
}

/// A file system in a file, mounted; unmounted when this is dropped.
pub(super) struct Mounted {
    folder: PathBuf,
}

impl Mounted {
    pub(super) fn make(kind: &FileSystem, folder: &Path, len_bytes: u64) -> Result<Self> {
        let image = folder.join(format!("{}.img", kind.name));
        File::create(&image)?.set_len(len_bytes)?;
        succeed(Command::new(kind.mkfs[0]).args(&kind.mkfs[1..]).arg(&image))?;
        let at = folder.join(kind.name);
        std::fs::create_dir_all(&at)?;
        succeed(
            Command::new("mount")
                .args(["-o", "loop"])
                .args([&image, &at]),
        )?;
        Ok(Self { folder: at })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = succeed(Command::new("umount").arg(&self.folder)) {
            eprintln!("endure: {error:#}");
        }
    }
}

/// A loop device over a file; detached when this is dropped.
pub(super) struct LoopDevice {
    path: PathBuf,
}

impl LoopDevice {
    pub(super) fn make(file: &Path, len_bytes: u64) -> Result<Self> {
        File::create(file)?.set_len(len_bytes)?;
        let mut command = Command::new("losetup");
        command.args(["--find", "--show", "--direct-io=on"]);
        let output = command.arg(file).output();
        let output = output.context("cannot start losetup")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "losetup: {}", said.trim());
        let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok(Self { path: path.into() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        if let Err(error) = succeed(Command::new("losetup").arg("--detach").arg(&self.path)) {
            eprintln!("endure: {error:#}");
        }
    }
}

fn succeed(command: &mut Command) -> Result<()> {
    let output = command.output();
    let output = output.with_context(|| format!("cannot start {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{command:?}: {}", said.trim());
    Ok(())
}
