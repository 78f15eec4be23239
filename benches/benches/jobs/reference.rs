//! The reference's backups: `qemu-storage-daemon`, told by QMP on a Unix socket what to do.

use std::{
    collections::VecDeque,
    fs,
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use benches::rest;
use serde_json::{Value, json};

use crate::latency::{Backups, End, TIMEOUT, Took};

/// In which Linux tells processor time.
const TICK_MILLIS: u64 = 10;
/// What its job is called.
const JOB: &str = "copy";
const PROGRAM: &str = "qemu-storage-daemon";
/// How often the socket of a daemon that starts is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How the daemon is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setup {
    /// Past the page cache, by `io_uring`, on a thread apart from that of the monitor: the source is
    /// exported on it, and takes the backup along.
    IoThread,
    /// The same on the monitor's thread, which is where nodes are that nobody exports.
    Direct,
    /// As it does unless told otherwise: through the page cache, by threads.
    Defaults,
    /// As [`IoThread`](Self::IoThread), with an export that clients may write to, and so many workers of the backup
    /// instead of its 64.
    Served(Option<u32>),
}

/// What clients call the export, and its socket in the daemon's folder.
pub(crate) const EXPORT: &str = "source";
pub(crate) const EXPORT_SOCKET: &str = "nbd";

/// What a daemon does with its nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// A full backup.
    Backup,
    /// A backup of what a bitmap says.
    Incremental,
    /// A full mirror in this copy mode.
    Mirror(&'static str),
}

impl Work {
    /// The bitmap of an incremental backup, in the daemon.
    const BITMAP: &str = "changed";

    fn command(self) -> (&'static str, Value) {
        let (command, mut arguments) = match self {
            Self::Backup => ("blockdev-backup", json!({"sync": "full"})),
            Self::Incremental => (
                "blockdev-backup",
                json!({"sync": "incremental", "bitmap": Self::BITMAP}),
            ),
            Self::Mirror(mode) => (
                "blockdev-mirror",
                json!({"sync": "full", "copy-mode": mode}),
            ),
        };
        arguments["job-id"] = json!(JOB);
        arguments["device"] = json!("source");
        arguments["target"] = json!("target");
        (command, arguments)
    }
}

/// A daemon with two nodes. Dropping it ends the daemon.
pub(crate) struct Reference {
    child: Child,
    setup: Setup,
    work: Work,
    /// Absent until the daemon talks.
    connection: Option<Connection>,
}

struct Connection {
    lines: BufReader<UnixStream>,
    /// Status changes that came while an answer was waited for.
    statuses: VecDeque<Change>,
    /// Number of the last command.
    last: u64,
}

/// A status that the job was told to be in, and when that was said.
struct Change {
    status: String,
    /// Since 1970, by the daemon's clock, which is ours.
    at_us: u128,
}

/// What a line from the daemon is.
enum Said {
    Status(Change),
    Answer(u64, Value),
    Other,
}

/// Its version, if it is there.
pub(crate) fn version() -> Result<String, String> {
    let output = Command::new(PROGRAM).arg("--version").output();
    let output = output.map_err(|error| format!("{PROGRAM}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

impl Reference {
    pub(crate) fn start(
        setup: Setup,
        (source, target): (&Path, &Path),
        directory: &Path,
    ) -> Result<Self, String> {
        let socket = directory.join("qmp");
        let is_served = matches!(setup, Setup::Served(_));
        let node = |name: &str, path: &Path, read_only: Value| {
            let mut node = json!({
                "driver": "file", "node-name": name, "filename": path, "read-only": read_only,
            });
            if setup != Setup::Defaults {
                node["cache"] = json!({"direct": true});
                node["aio"] = json!("io_uring");
            }
            node.to_string()
        };
        let chardev = format!("socket,id=qmp,path={},server=on,wait=off", socket.display());
        let child = Command::new(PROGRAM)
            .args(["--chardev", &chardev, "--monitor", "chardev=qmp"])
            .args(["--object", "iothread,id=apart"])
            .args(["--blockdev", &node("source", source, json!(!is_served))])
            .args(["--blockdev", &node("target", target, json!(false))])
            .stdin(Stdio::null())
            .spawn()
            .map_err(|error| format!("{PROGRAM}: {error}"))?;
        let mut this = Self {
            child,
            setup,
            work: Work::Backup,
            connection: None,
        };
        let connection = this.connect(&socket)?;
        let connection = this.connection.insert(connection);
        if setup == Setup::IoThread || is_served {
            connection.export(&directory.join(EXPORT_SOCKET), &json!(is_served))?;
        }
        Ok(this)
    }

    fn connect(&mut self, socket: &Path) -> Result<Connection, String> {
        let start = Instant::now();
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) if start.elapsed() > TIMEOUT => return Err(error.to_string()),
                Err(_) => rest(LOOK_EVERY),
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("{PROGRAM} ended with {status}"));
            }
        };
        let patient = stream.set_read_timeout(Some(TIMEOUT));
        patient.map_err(|error| error.to_string())?;
        let mut connection = Connection {
            lines: BufReader::new(stream),
            statuses: VecDeque::new(),
            last: 0,
        };
        // It greets first.
        connection.hear()?;
        connection.demand("qmp_capabilities", &json!({}))?;
        Ok(connection)
    }

    fn connection(&mut self) -> Result<&mut Connection, String> {
        let connection = self.connection.as_mut();
        connection.ok_or_else(|| format!("{PROGRAM} does not talk"))
    }

    /// What its jobs are to do from now on. For an incremental one it records changes, beginning now.
    pub(crate) fn set_work(&mut self, work: Work) -> Result<(), String> {
        self.work = work;
        if work != Work::Incremental {
            return Ok(());
        }
        let bitmap = json!({
            "node": "source", "name": Work::BITMAP, "granularity": 65536,
        });
        self.connection()?.demand("block-dirty-bitmap-add", &bitmap)
    }

    /// Asks what its job is doing, such as `running`; `None` once it has gone.
    pub(crate) fn status(&mut self) -> Result<Option<String>, String> {
        let answer = self.connection()?.ask("query-jobs", &json!({}))?;
        Ok(answer["return"][0]["status"].as_str().map(str::to_owned))
    }

    /// Ends a mirror that is ready, with the target as it is then.
    pub(crate) fn finish(&mut self) -> Result<(), String> {
        let soft = json!({"device": JOB});
        self.connection()?.demand("block-job-cancel", &soft)
    }

    /// Its number, as the system calls it.
    pub(crate) fn process(&self) -> String {
        self.child.id().to_string()
    }

    /// Processor time that it has used, all its threads and the kernel's work for them.
    pub(crate) fn cpu_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process()));
        let stat = stat.unwrap_or_default();
        // The name, in brackets, may have blanks.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * TICK_MILLIS)
    }

    /// How long it takes from sending `command` until `wanted` has been told.
    fn timed(&mut self, command: &str, arguments: &Value, wanted: &str) -> Result<Took, String> {
        let connection = self.connection()?;
        let start = Instant::now();
        // A drain at the start looks like a pause, and may not have been read yet.
        let since_us = now_us();
        connection.send(command, arguments)?;
        let end = connection.until(wanted, since_us)?;
        Ok(Took::since(start, end))
    }
}

fn now_us() -> u128 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |time| time.as_micros())
}

impl Connection {
    fn send(&mut self, command: &str, arguments: &Value) -> Result<u64, String> {
        self.last += 1;
        let whole = json!({"execute": command, "arguments": arguments, "id": self.last});
        let mut text = whole.to_string();
        text.push('\n');
        let sent = self.lines.get_mut().write_all(text.as_bytes());
        sent.map_err(|error| format!("{command}: {error}"))?;
        Ok(self.last)
    }

    /// Reads one line. A command that was refused because its job has ended is answered like others.
    fn hear(&mut self) -> Result<Said, String> {
        let mut line = String::new();
        let read = self.lines.read_line(&mut line);
        if read.map_err(|error| error.to_string())? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).to_string());
        }
        let value: Value = serde_json::from_str(&line).map_err(|error| error.to_string())?;
        if value["event"] == "JOB_STATUS_CHANGE" {
            let part = |name: &str| u128::from(value["timestamp"][name].as_u64().unwrap_or(0));
            let status = value["data"]["status"].as_str();
            return Ok(Said::Status(Change {
                status: status.unwrap_or_default().to_owned(),
                at_us: part("seconds") * 1_000_000 + part("microseconds"),
            }));
        }
        let id = value["id"].as_u64();
        Ok(id.map_or(Said::Other, |id| Said::Answer(id, value)))
    }

    /// Exports the source on the thread apart.
    fn export(&mut self, socket: &Path, writable: &Value) -> Result<(), String> {
        let server = json!({"addr": {"type": "unix", "data": {"path": socket}}});
        self.demand("nbd-server-start", &server)?;
        let export = json!({
            "id": "export", "type": "nbd", "node-name": "source", "name": EXPORT, "writable": writable,
            "iothread": "apart", "fixed-iothread": true,
        });
        self.demand("block-export-add", &export)
    }

    /// Sends a command that must succeed.
    fn demand(&mut self, command: &str, arguments: &Value) -> Result<(), String> {
        let answer = self.ask(command, arguments)?;
        match answer.get("error") {
            Some(error) => Err(format!("{command}: {error}")),
            None => Ok(()),
        }
    }

    /// Sends a command and waits for its answer.
    fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value, String> {
        let asked = self.send(command, arguments)?;
        loop {
            match self.hear()? {
                Said::Answer(id, answer) if id == asked => return Ok(answer),
                Said::Status(status) => self.statuses.push_back(status),
                Said::Answer(..) | Said::Other => {}
            }
        }
    }

    /// Waits until the job has been told to be in `wanted` since then.
    fn until(&mut self, wanted: &str, since_us: u128) -> Result<End, String> {
        loop {
            let change = match self.statuses.pop_front() {
                Some(change) => change,
                None => match self.hear()? {
                    Said::Status(change) => change,
                    Said::Answer(_, answer) if is_refusal(&answer) => return Ok(End::Gone),
                    Said::Answer(..) | Said::Other => continue,
                },
            };
            if change.at_us >= since_us && change.status == wanted {
                return Ok(End::Reached);
            }
            if change.at_us >= since_us && change.status == "null" {
                return Ok(End::TooLate);
            }
        }
    }
}

fn is_refusal(answer: &Value) -> bool {
    answer.get("error").is_some()
}

impl Backups for Reference {
    fn start(&mut self) -> Result<(), String> {
        let (command, mut arguments) = self.work.command();
        if let (Setup::Served(Some(workers)), Work::Backup) = (self.setup, self.work) {
            arguments["x-perf"] = json!({"max-workers": workers});
        }
        let connection = self.connection()?;
        let since_us = now_us();
        connection.send(command, &arguments)?;
        match connection.until("running", since_us)? {
            End::Reached => Ok(()),
            End::TooLate | End::Gone => Err("the job is refused".to_owned()),
        }
    }

    fn done_bytes(&mut self) -> Result<Option<u64>, String> {
        let answer = self.connection()?.ask("query-jobs", &json!({}))?;
        Ok(answer["return"][0]["current-progress"].as_u64())
    }

    fn pause(&mut self) -> Result<Took, String> {
        self.timed("job-pause", &json!({"id": JOB}), "paused")
    }

    fn resume(&mut self) -> Result<Took, String> {
        self.timed("job-resume", &json!({"id": JOB}), "running")
    }

    fn cancel(&mut self) -> Result<Took, String> {
        let force = json!({"device": JOB, "force": true});
        self.timed("block-job-cancel", &force, "concluded")
    }

    fn gone(&mut self) -> Result<(), String> {
        // Not by the event, which may have been heard already.
        while self.done_bytes()?.is_some() {
            rest(LOOK_EVERY);
        }
        self.connection()?.statuses.clear();
        Ok(())
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        // Not `quit`, which would wait for what may hang.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
