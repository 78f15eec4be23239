//! [`Daemon`]: ours or the reference, which connects to us and is told by QMP what to do.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Error, ErrorKind, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{
    cases::{Job, Side},
    process::{Running, pause},
    world::World,
};

/// How long a daemon may take for anything but a copy.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether a daemon that starts has connected.
const LOOK_EVERY: Duration = Duration::from_micros(100);
/// How often it is looked whether a job has gone.
const LOOK_AGAIN_EVERY: Duration = Duration::from_millis(5);
/// What clients call the export of the source.
pub(super) const EXPORT: &str = "disk";
/// What its job is called.
pub(super) const JOB: &str = "copy";
const BITMAP: &str = "changed";

/// A daemon that talks. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) running: Running,
    side: Side,
    lines: BufReader<UnixStream>,
    /// What has come of the line that is being read.
    line: String,
    /// Events that came while an answer was waited for.
    events: VecDeque<Value>,
    /// From its start until it greeted.
    pub(super) startup: Duration,
    folder: PathBuf,
    last_id: u64,
}

/// How an image is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cache {
    /// Past the page cache, by `io_uring`.
    Direct,
    /// As the daemon does unless told otherwise.
    AsItComes,
}

/// How a copy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Done,
    /// It goes on, and nobody waits for it.
    TooSlow,
}

/// How long it took until the job was told to be as it was asked to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Told {
    InTime(Duration),
    /// It went on to its end instead.
    TooLate(Duration),
    /// It had ended before, so this says nothing.
    Never,
}

impl Told {
    pub(super) fn ms(self) -> Option<f64> {
        match self {
            Self::InTime(took) | Self::TooLate(took) => Some(took.as_secs_f64() * 1e3),
            Self::Never => None,
        }
    }
}

impl Daemon {
    pub(super) fn start(world: &World, side: Side) -> Result<Self> {
        let folder = world.scratch();
        let socket = folder.join("qmp");
        // One of an earlier daemon; there may be none.
        drop(std::fs::remove_file(&socket));
        let listener = UnixListener::bind(&socket)?;
        listener.set_nonblocking(true)?;
        let chardev = format!("socket,id=qmp,path={}", socket.display());
        let start = Instant::now();
        let mut command = program(world, side);
        command.args(["--object", "iothread,id=apart"]);
        command.args(["--chardev", &chardev, "--monitor", "chardev=qmp"]);
        let mut running = Running::start(&mut command, folder)?;
        let stream = accept(&listener, &mut running)?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut this = Self {
            running,
            side,
            lines: BufReader::new(stream),
            line: String::new(),
            events: VecDeque::new(),
            startup: Duration::ZERO,
            folder: folder.to_owned(),
            last_id: 0,
        };
        let greeting = this.hear()?;
        this.startup = start.elapsed();
        ensure!(greeting.get("QMP").is_some(), "an odd greeting: {greeting}");
        this.demand("qmp_capabilities", json!({}))?;
        Ok(this)
    }

    /// Opens an image; the reference as it comes leaves the page cache in, whatever is asked for.
    pub(super) fn open(&mut self, name: &str, path: &Path, cache: Cache) -> Result<()> {
        let mut node = json!({"driver": "file", "node-name": name, "filename": path});
        if cache == Cache::Direct && self.side != Side::QsdDefaults {
            // Zeroes are holes then, and an image of holes needs no room.
            node["discard"] = json!("unmap");
            node["cache"] = json!({"direct": true});
            node["aio"] = json!("io_uring");
        }
        self.demand("blockdev-add", node)
    }

    /// Opens an image past the page cache that others may have open too.
    pub(super) fn open_to_read(&mut self, name: &str, path: &Path) -> Result<()> {
        let node = json!({
            "driver": "file", "node-name": name, "filename": path, "read-only": true,
            "cache": {"direct": true}, "aio": "io_uring",
        });
        self.demand("blockdev-add", node)
    }

    /// Serves a node, and returns the address.
    pub(super) fn export(&mut self, node: &str) -> Result<String> {
        let socket = self.folder.join("nbd");
        let address = json!({"addr": {"type": "unix", "data": {"path": socket}}});
        self.demand("nbd-server-start", address)?;
        let mut export = json!({
            "id": "export", "type": "nbd", "node-name": node, "name": EXPORT, "writable": true,
        });
        if matches!(self.side, Side::QsdIothread | Side::QsdOneWorker) {
            export["iothread"] = json!("apart");
            // Otherwise the reference (10.0) fails an assertion of its own when a backup begins.
            export["fixed-iothread"] = json!(true);
        }
        self.demand("block-export-add", export)?;
        Ok(uri(EXPORT, &socket))
    }

    /// Records from now on what changes.
    pub(super) fn record(&mut self, node: &str) -> Result<()> {
        let bitmap = json!({"node": node, "name": BITMAP, "granularity": 65536});
        self.demand("block-dirty-bitmap-add", bitmap)
    }

    /// Stops serving.
    pub(super) fn stop_serving(&mut self) -> Result<()> {
        self.demand("nbd-server-stop", json!({}))
    }

    /// Begins to copy `source` to `target`.
    pub(super) fn begin(&mut self, job: Job) -> Result<()> {
        let (command, more) = match job {
            Job::Backup => ("blockdev-backup", json!({})),
            Job::Incremental => ("blockdev-backup", json!({"bitmap": BITMAP})),
            Job::Mirror => ("blockdev-mirror", json!({"copy-mode": "background"})),
            Job::MirrorWriteBlocking => ("blockdev-mirror", json!({"copy-mode": "write-blocking"})),
        };
        let mut arguments = more;
        arguments["job-id"] = json!(JOB);
        arguments["device"] = json!("source");
        arguments["target"] = json!("target");
        let is_incremental = job == Job::Incremental;
        arguments["sync"] = json!(if is_incremental {
            "incremental"
        } else {
            "full"
        });
        if self.side == Side::QsdOneWorker && job == Job::Backup {
            arguments["x-perf"] = json!({"max-workers": 1});
        }
        self.demand(command, arguments)
    }

    /// Waits until the copy has ended; a mirror ends when it is ready.
    pub(super) fn finish(&mut self, patience: Duration) -> Result<End> {
        self.until(patience, |daemon, event| daemon.ends(event))
    }

    /// Waits until the copy has ended, or a mirror is ready.
    pub(super) fn until_ready(&mut self, patience: Duration) -> Result<End> {
        self.until(patience, |daemon, event| {
            Ok(event["event"] == "BLOCK_JOB_READY" || daemon.ends(event)?)
        })
    }

    /// Reads events until one is what is waited for.
    fn until(
        &mut self,
        patience: Duration,
        is_it: fn(&mut Self, &Value) -> Result<bool>,
    ) -> Result<End> {
        let start = Instant::now();
        while let Some(event) = self.event(patience.saturating_sub(start.elapsed()))? {
            if is_it(self, &event)? {
                return Ok(End::Done);
            }
        }
        Ok(End::TooSlow)
    }

    fn ends(&mut self, event: &Value) -> Result<bool> {
        let data = &event["data"];
        match event["event"].as_str().unwrap_or_default() {
            "BLOCK_JOB_READY" => {
                self.demand("block-job-cancel", json!({"device": JOB}))?;
                Ok(false)
            }
            "BLOCK_JOB_COMPLETED" => {
                let error = data.get("error");
                ensure!(error.is_none(), "the copy failed: {event}");
                Ok(true)
            }
            "BLOCK_JOB_CANCELLED" => bail!("the copy was cancelled: {event}"),
            _ => Ok(false),
        }
    }

    /// Begins a full backup, and does not wait for the answer.
    pub(super) fn send_backup(&mut self, id: &str, (source, target): (&str, &str)) -> Result<()> {
        let arguments = json!({
            "job-id": id, "device": source, "target": target, "sync": "full",
        });
        self.send("blockdev-backup", arguments).map(drop)
    }

    /// Waits until nothing is left of so many jobs that go well, and hears only that of what is said: reading it all
    /// would take us longer than a small job.
    pub(super) fn until_ended(&mut self, count: u64, patience: Duration) -> Result<()> {
        let start = Instant::now();
        let mut left = count;
        while left > 0 {
            ensure!(start.elapsed() < patience, "{left} of {count} jobs go on");
            let line = self.line()?;
            ensure!(!line.contains("\"error\""), "a job failed: {line}");
            left -= u64::from(line.contains("\"null\""));
        }
        Ok(())
    }

    /// How long it takes from a command about the job until it is told to be in a state.
    pub(super) fn timed(&mut self, command: &str, arguments: Value, state: &str) -> Result<Told> {
        // A drain at the start looks like a pause, and may not have been read yet.
        let since_us = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)?
            .as_micros();
        let start = Instant::now();
        let id = self.send(command, arguments)?;
        loop {
            let heard = self.event(PATIENCE)?;
            let heard = heard.with_context(|| format!("{command} has no effect"))?;
            if heard["id"] == id && heard.get("error").is_some() {
                return Ok(Told::Never);
            }
            match status_since(&heard, since_us) {
                Some(status) if status == state => return Ok(Told::InTime(start.elapsed())),
                Some("null") => return Ok(Told::TooLate(start.elapsed())),
                _ => {}
            }
        }
    }

    /// Waits until there are no jobs, so that their nodes are free.
    pub(super) fn until_no_jobs(&mut self) -> Result<()> {
        let start = Instant::now();
        while self.ask("query-jobs", json!({}))?["return"] != json!([]) {
            ensure!(start.elapsed() < PATIENCE, "a job does not end");
            pause(LOOK_AGAIN_EVERY);
        }
        self.events.clear();
        Ok(())
    }

    /// Ends it as clients do.
    pub(super) fn quit(mut self) -> Result<()> {
        self.demand("quit", json!({}))?;
        self.running.wait().map(drop)
    }

    /// The next event, unless there is none for so long.
    fn event(&mut self, patience: Duration) -> Result<Option<Value>> {
        if let Some(event) = self.events.pop_front() {
            return Ok(Some(event));
        }
        if patience.is_zero() {
            return Ok(None);
        }
        self.lines.get_ref().set_read_timeout(Some(patience))?;
        let heard = self.hear();
        self.lines.get_ref().set_read_timeout(Some(PATIENCE))?;
        match heard {
            Ok(event) => Ok(Some(event)),
            Err(error) if is_timeout(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads one line.
    fn line(&mut self) -> Result<String> {
        let heard = self.lines.read_line(&mut self.line);
        let is_cut = |error: &Error| error.kind() == ErrorKind::ConnectionReset;
        if matches!(heard, Ok(0)) || heard.as_ref().is_err_and(is_cut) {
            self.running.wait()?;
            bail!("the daemon hung up");
        }
        heard?;
        Ok(std::mem::take(&mut self.line))
    }

    fn hear(&mut self) -> Result<Value> {
        let line = self.line()?;
        serde_json::from_str(&line).with_context(|| format!("no JSON: {line}"))
    }

    /// Sends a command, and returns the `id` that its answer will have.
    fn send(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.last_id += 1;
        let id = json!(self.last_id);
        let mut whole = json!({"execute": command, "id": id});
        whole["arguments"] = arguments;
        self.lines
            .get_mut()
            .write_all(format!("{whole}\n").as_bytes())?;
        Ok(id)
    }

    /// Sends a command, and waits for its answer.
    fn ask(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let id = self.send(command, arguments)?;
        loop {
            let heard = self.hear().with_context(|| command.to_owned())?;
            if heard.get("event").is_some() {
                self.events.push_back(heard);
            } else if heard["id"] == id {
                return Ok(heard);
            }
        }
    }

    /// Sends a command that must succeed.
    fn demand(&mut self, command: &str, arguments: Value) -> Result<()> {
        let answer = self.ask(command, arguments)?;
        let error = answer.get("error");
        ensure!(error.is_none(), "{command}: {answer}");
        Ok(())
    }
}

/// The state that a job was told to be in, if that was since then: in microseconds since 1970, by the same clock.
fn status_since(event: &Value, since_us: u128) -> Option<&str> {
    let part = |name: &str| event["timestamp"][name].as_u64().map(u128::from);
    let at_us = part("seconds")? * 1_000_000 + part("microseconds")?;
    let is_it = event["event"] == "JOB_STATUS_CHANGE" && at_us >= since_us;
    is_it.then(|| event["data"]["status"].as_str()).flatten()
}

/// The address of an export on a Unix socket.
pub(super) fn uri(export: &str, socket: &Path) -> String {
    format!("nbd+unix:///{export}?socket={}", socket.display())
}

fn program(world: &World, side: Side) -> Command {
    match side.program() {
        Some(peer) => Command::new(peer),
        None => {
            let mut command = Command::new(world.ours());
            command.arg("daemon");
            command
        }
    }
}

fn accept(listener: &UnixListener, running: &mut Running) -> Result<UnixStream> {
    let start = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, _)) => return Ok(stream),
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error.into()),
            Err(_) => running.demand_alive()?,
        }
        ensure!(start.elapsed() < PATIENCE, "the daemon does not connect");
        pause(LOOK_EVERY);
    }
}

fn is_timeout(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<Error>();
    error.is_some_and(|it| matches!(it.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_of_jobs_are_heard_if_they_are_news() {
        let event = json!({
            "timestamp": {"seconds": 2, "microseconds": 5},
            "event": "JOB_STATUS_CHANGE", "data": {"status": "paused", "id": JOB},
        });
        assert_eq!(status_since(&event, 2_000_005), Some("paused"));
        assert_eq!(status_since(&event, 2_000_006), None);
        let other = json!({"timestamp": {"seconds": 2, "microseconds": 5}, "event": "STOP"});
        assert_eq!(status_since(&other, 0), None);
        assert_eq!(status_since(&json!({"return": {}, "id": 1}), 0), None);
    }
}
