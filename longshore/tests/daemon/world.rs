//! [`World`]: a daemon in a folder of its own, and [`Qmp`], a client of it.

use std::{
    collections::VecDeque,
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// Longer than anything takes; whoever waits so long has found a hang.
const LONG: Duration = Duration::from_secs(60);

/// A daemon, and a client of its first monitor.
pub(crate) struct World {
    dir: tempfile::TempDir,
    child: Child,
    pub(crate) qmp: Qmp,
}

/// A client of a monitor.
pub(crate) struct Qmp {
    lines: BufReader<UnixStream>,
    /// What happened and nobody has waited for yet.
    events: VecDeque<Value>,
}

impl World {
    /// Starts a daemon with these arguments, in which `@` stands for its folder, behind those of a monitor.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("qmp");
        let chardev = format!("socket,id=c,path={},server=on,wait=off", socket.display());
        let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
        command.args(["daemon", "--chardev", &chardev, "--monitor", "c"]);
        let folder = dir.path().to_str().unwrap();
        command.args(arguments.iter().map(|it| it.replace('@', folder)));
        let child = command.stdin(Stdio::null()).spawn().unwrap();
        let connected = eventually(|| UnixStream::connect(&socket).ok());
        Self {
            dir,
            child,
            qmp: Qmp::new(connected),
        }
    }

    /// A path in the daemon's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The same as a text, for arguments.
    pub(crate) fn text_path(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
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
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let digits = line.unwrap().split_whitespace().nth(1);
        digits.unwrap().parse().unwrap()
    }

    /// Tells the daemon to quit, and waits until it has ended.
    pub(crate) fn quit(&mut self) -> ExitStatus {
        self.qmp.send(&json!({ "execute": "quit" }));
        self.exit_status()
    }

    /// Waits until the daemon has ended.
    pub(crate) fn exit_status(&mut self) -> ExitStatus {
        eventually(|| self.child.try_wait().unwrap())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // One that has ended needs no more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Qmp {
    /// Takes the greeting and negotiates.
    pub(crate) fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(LONG)).unwrap();
        let mut qmp = Self {
            lines: BufReader::new(stream),
            events: VecDeque::new(),
        };
        assert!(qmp.receive()["QMP"].is_object());
        qmp.run("qmp_capabilities", json!({}));
        qmp
    }

    /// Runs a command that must succeed.
    #[track_caller]
    pub(crate) fn run(&mut self, command: &str, arguments: Value) -> Value {
        match self.try_run(command, arguments) {
            Ok(value) => value,
            Err(error) => panic!("{command}: {error}"),
        }
    }

    /// Runs a command that must fail, and returns the text of the error.
    #[track_caller]
    pub(crate) fn fail(&mut self, command: &str, arguments: Value) -> String {
        let error = self.try_run(command, arguments).unwrap_err();
        error["desc"].as_str().unwrap().to_owned()
    }

    /// Runs a command that must fail, and returns the error with its class.
    #[track_caller]
    pub(crate) fn refused(&mut self, command: &str, arguments: Value) -> Value {
        self.try_run(command, arguments).unwrap_err()
    }

    /// The next event that nobody has taken, in the order in which they happened.
    pub(crate) fn next_event(&mut self) -> Value {
        if let Some(event) = self.events.pop_front() {
            return event;
        }
        let message = self.receive();
        assert!(message["event"].is_string(), "a reply to nobody: {message}");
        message
    }

    fn try_run(&mut self, command: &str, arguments: Value) -> Result<Value, Value> {
        self.send(&json!({ "execute": command, "arguments": arguments }));
        loop {
            let mut message = self.receive();
            if message["event"].is_string() {
                self.events.push_back(message);
            } else if message["error"].is_object() {
                return Err(message["error"].take());
            } else {
                return Ok(message["return"].take());
            }
        }
    }

    /// Waits for an event that has these data, and takes it out of those that happened.
    pub(crate) fn wait_for(&mut self, event: &str, data: &Value) -> Value {
        let wanted = data.as_object().unwrap();
        let fits = |message: &Value| {
            let has = |(name, value)| message["data"].get(name) == Some(value);
            message["event"] == event && wanted.iter().all(has)
        };
        loop {
            if let Some(index) = self.events.iter().position(fits) {
                return self.events.remove(index).unwrap();
            }
            let message = self.receive();
            assert!(message["event"].is_string(), "a reply to nobody: {message}");
            self.events.push_back(message);
        }
    }

    /// Sends a message.
    pub(crate) fn send(&mut self, message: &Value) {
        let mut line = message.to_string();
        line.push('\n');
        self.lines.get_mut().write_all(line.as_bytes()).unwrap();
    }

    fn receive(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

/// Asks again and again until there is an answer.
#[track_caller]
pub(crate) fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < LONG, "it never came");
        pause();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "there is no loop here whose timer could be awaited, and nothing tells of what is waited for"
)]
fn pause() {
    thread::sleep(Duration::from_millis(5));
}
