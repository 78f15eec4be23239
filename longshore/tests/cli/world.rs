//! A folder with images, and the command run in it.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Write},
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// The longest that anything in these tests takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder of one test.
pub(crate) struct World {
    folder: tempfile::TempDir,
    /// Where the command has its temporary files.
    scratch: tempfile::TempDir,
}

/// How a run of the command ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A run of the command that has not ended. Dropping it kills it.
pub(crate) struct Running {
    child: Child,
}

/// All that is to be seen of what is in a folder, by name.
pub(crate) type Snapshot = BTreeMap<PathBuf, Entry>;

/// One file, as nobody may have changed it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    len: u64,
    mode: u32,
    inode: u64,
    changed_ns: i64,
    content: Option<blake3::Hash>,
}

impl World {
    pub(crate) fn new() -> Self {
        let (folder, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        Self { folder, scratch }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn exists(&self, name: &str) -> bool {
        fs::symlink_metadata(self.path(name)).is_ok()
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// A file of `len` bytes without a pattern.
    pub(crate) fn random(&self, name: &str, len: usize) -> Vec<u8> {
        let bytes = noise(len);
        fs::write(self.path(name), &bytes).unwrap();
        bytes
    }

    /// A file of `len` bytes of hole with some data at each of `places`.
    pub(crate) fn sparse(&self, name: &str, len: u64, places: &[u64]) {
        let file = File::create_new(self.path(name)).unwrap();
        file.set_len(len).unwrap();
        for &place in places {
            file.write_all_at(&noise(65536), place).unwrap();
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let described = paths.map(|path| {
            let facts = fs::symlink_metadata(&path).unwrap();
            let is_small = facts.is_file() && facts.len() < 100 << 20;
            let content = is_small.then(|| blake3::hash(&fs::read(&path).unwrap()));
            let entry = Entry {
                len: facts.len(),
                mode: facts.mode(),
                inode: facts.ino(),
                changed_ns: facts.mtime() * 1_000_000_000 + facts.mtime_nsec(),
                content,
            };
            (path, entry)
        });
        described.collect()
    }

    /// The command with `args`, in the folder, on no terminal.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
        command
            .args(args)
            .current_dir(self.folder.path())
            .env("TMPDIR", self.scratch.path())
            .env_remove("LONGSHORE_LOG")
            .env_remove("LONGSHORE_PROGRESS")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Run {
        run(&mut self.command(args))
    }

    /// Runs what must succeed.
    pub(crate) fn run_ok(&self, args: &[&str]) -> Run {
        let run = self.run(args);
        assert_eq!(run.code, 0, "{args:?}: {run:?}");
        run
    }

    pub(crate) fn start(&self, args: &[&str]) -> Running {
        start(&mut self.command(args))
    }
}

pub(crate) fn run(command: &mut Command) -> Run {
    let output = command.output().unwrap();
    ended(output.status, output.stdout, output.stderr)
}

pub(crate) fn start(command: &mut Command) -> Running {
    let pipes = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = pipes.spawn().unwrap();
    Running { child }
}

fn ended(status: ExitStatus, stdout: Vec<u8>, stderr: Vec<u8>) -> Run {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run {
        code: status.code().unwrap_or(-1),
        stdout: text(stdout),
        stderr: text(stderr),
    }
}

impl Running {
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// Waits for its end, and tells how long that took.
    pub(crate) fn wait(mut self) -> (Run, Duration) {
        let started = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(started.elapsed() < PATIENCE, "it does not end");
            nap();
        }
        let took = started.elapsed();
        let mut read = (Vec::new(), Vec::new());
        if let Some(mut pipe) = self.child.stdout.take() {
            std::io::Read::read_to_end(&mut pipe, &mut read.0).unwrap();
        }
        if let Some(mut pipe) = self.child.stderr.take() {
            std::io::Read::read_to_end(&mut pipe, &mut read.1).unwrap();
        }
        let status = self.child.wait().unwrap();
        (ended(status, read.0, read.1), took)
    }

    /// Reads its output up to the first line that has `word`, and gives all read so far.
    pub(crate) fn read_until(&mut self, word: &str) -> String {
        let mut read = String::new();
        let mut pipe = BufReader::with_capacity(1, self.child.stdout.as_mut().unwrap());
        while !read.lines().any(|line| line.contains(word)) {
            let count = pipe.read_line(&mut read).unwrap();
            assert!(count > 0, "it ended without {word}: {read}");
        }
        read
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Run {
    /// The records on standard output; each line is one.
    pub(crate) fn records(&self) -> Vec<Value> {
        records(&self.stdout)
    }

    /// The one record of type `result`.
    pub(crate) fn result(&self) -> Value {
        let records = self.records();
        let mut results = records.iter().filter(|record| record["type"] == "result");
        let result = results.next().expect("there is a result").clone();
        assert!(results.next().is_none(), "there are two: {}", self.stdout);
        result
    }
}

pub(crate) fn records(text: &str) -> Vec<Value> {
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Bytes without a pattern, the same ones every time.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

/// Waits until `holds`.
pub(crate) fn until(mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "it never happens");
        nap();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test waits for another process, and has no context"
)]
fn nap() {
    std::thread::sleep(Duration::from_millis(10));
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|facts| facts.uid() == 0)
}

pub(crate) fn is_installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(tool).is_file())
}

/// Says that the test on this thread cannot run here, because it needs `what`.
pub(crate) fn skip(what: &str) {
    let thread = std::thread::current();
    let line = format!(
        "SKIPPED {}: needs {what}\n",
        thread.name().unwrap_or("a test")
    );
    let Some(log) = std::env::var_os("LONGSHORE_SKIP_LOG") else {
        eprint!("{line}");
        return;
    };
    let log = OpenOptions::new().append(true).create(true).open(log);
    log.and_then(|mut log| log.write_all(line.as_bytes()))
        .expect("the skip log can be written");
}

/// A file system in memory, of its own size. Dropping it unmounts it.
pub(crate) struct Tmpfs(PathBuf);

impl Tmpfs {
    /// `None`, with the test skipped, where this process may not mount.
    pub(crate) fn mount(at: &Path, options: &str) -> Option<Self> {
        if !is_root() {
            skip("root (tmpfs)");
            return None;
        }
        fs::create_dir_all(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at);
        if !mount.output().is_ok_and(|output| output.status.success()) {
            skip("the right to mount (tmpfs)");
            return None;
        }
        Some(Self(at.to_owned()))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}
