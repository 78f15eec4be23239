//! [`World`]: a daemon in a folder of its own, with a client and disks.

use std::{
    fs,
    path::PathBuf,
    process::{ExitStatus, Stdio},
};

use serde_json::json;

pub(crate) use crate::bare::eventually;
use crate::bare::{self, Daemon, Qmp};

/// A daemon, and a client of its first monitor.
pub(crate) struct World {
    folder: bare::World,
    daemon: Daemon,
    pub(crate) qmp: Qmp,
}

impl World {
    /// Starts a daemon with these arguments, in which `@/` stands for its folder, behind those of a monitor.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let folder = bare::World::new();
        let arguments = arguments.iter().map(|it| it.replace("@/", &folder.at("")));
        let arguments: Vec<String> = arguments.collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut command = folder.monitored(&arguments);
        // What it complains of is seen where the test's own words are.
        command.stdout(Stdio::inherit()).stderr(Stdio::inherit());
        let daemon = folder.daemon(command);
        let qmp = daemon.client();
        Self {
            folder,
            daemon,
            qmp,
        }
    }

    /// A path in the daemon's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path(name)
    }

    /// The same as a text, for arguments.
    pub(crate) fn text_path(&self, name: &str) -> String {
        self.folder.at(name)
    }

    /// Makes a file of `len` bytes `fill`, and a raw node of the same name above it.
    pub(crate) fn add_disk(&mut self, name: &str, len: usize, fill: u8) {
        fs::write(self.path(name), vec![fill; len]).unwrap();
        self.add_file_node(name);
    }

    /// Makes a raw node of the same name above a file that is there.
    pub(crate) fn add_file_node(&mut self, name: &str) {
        let file = json!({ "driver": "file", "filename": self.text_path(name) });
        let node = json!({ "driver": "raw", "node-name": name, "file": file });
        self.qmp.run("blockdev-add", node);
    }

    /// Memory that the daemon has in use, in KiB.
    pub(crate) fn memory_kib(&self) -> u64 {
        self.daemon.memory_bytes() / 1024
    }

    /// Tells the daemon to quit, and waits until it has ended.
    pub(crate) fn quit(&mut self) -> ExitStatus {
        self.qmp.send("quit", json!({}));
        self.exit_status()
    }

    /// Waits until the daemon has ended.
    pub(crate) fn exit_status(&mut self) -> ExitStatus {
        self.daemon.exit_status()
    }
}
