//! A folder with daemons in it that are started by hand, and a QMP client.

use std::{
    collections::VecDeque,
    fs,
    io::{self, BufRead, BufReader, Write},
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

/// The longest that anything in these tests takes on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A folder of one test.
pub(crate) struct World {
    folder: tempfile::TempDir,
}

/// A daemon that runs. Dropping it kills it.
pub(crate) struct Daemon {
    child: Child,
    socket: PathBuf,
}

/// How a daemon ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit code; none if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A client of a monitor. It has negotiated.
pub(crate) struct Qmp {
    reader: BufReader<UnixStream>,
    /// What came between replies, in order.
    pub(crate) events: VecDeque<Value>,
}

/// Why a command was refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) class: String,
    pub(crate) desc: String,
}

impl World {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The path as a text.
    pub(crate) fn at(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// A file of zeroes.
    pub(crate) fn image(&self, name: &str, len: u64) -> String {
        let file = fs::File::create_new(self.path(name)).unwrap();
        file.set_len(len).unwrap();
        self.at(name)
    }

    /// The daemon with these options, not started.
    pub(crate) fn command(&self, options: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
        command
            .arg("daemon")
            .args(options)
            .current_dir(self.folder.path())
            .env_remove("LONGSHORE_LOG")
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null());
        command
    }

    /// Runs a daemon to its end.
    pub(crate) fn run(&self, options: &[&str]) -> Ended {
        ended(self.command(options).output().unwrap())
    }

    /// Starts a daemon with a monitor at `qmp`, and these options behind it.
    pub(crate) fn start(&self, options: &[&str]) -> Daemon {
        self.spawn(self.monitored(options))
    }

    /// The daemon with a monitor at `qmp`, and these options behind it; not started.
    pub(crate) fn monitored(&self, options: &[&str]) -> Command {
        let chardev = self.monitor_socket();
        let mut all = vec!["--chardev", &chardev, "--monitor", "qmp"];
        all.extend(options);
        self.command(&all)
    }

    /// Starts the reference with a monitor at `qmp`.
    pub(crate) fn start_reference(&self) -> Daemon {
        let mut command = Command::new("qemu-storage-daemon");
        command.args(["--chardev", &self.monitor_socket(), "--monitor", "qmp"]);
        self.spawn(command)
    }

    /// A chardev `qmp` that listens at `qmp`.
    pub(crate) fn monitor_socket(&self) -> String {
        format!("socket,id=qmp,path={},server=on,wait=off", self.at("qmp"))
    }

    /// The daemon with a socket called `name` that somebody listens on for it, and these options; not started.
    pub(crate) fn handed(&self, socket: UnixListener, name: &str, options: &[&str]) -> Command {
        let mut command = Command::new("/bin/sh");
        // The shell puts the socket where a service manager would, and becomes the daemon.
        let script = "exec 3<&0 0</dev/null; export LISTEN_PID=$$; exec \"$0\" daemon \"$@\"";
        command
            .args(["-c", script, env!("CARGO_BIN_EXE_longshore")])
            .args(options)
            .env("LISTEN_FDS", "1")
            .env("LISTEN_FDNAMES", name)
            .current_dir(self.folder.path())
            .env_remove("LONGSHORE_LOG")
            .env_remove("NOTIFY_SOCKET")
            .stdin(OwnedFd::from(socket));
        command
    }

    /// Starts a daemon whose words are kept for [`Daemon::wait`].
    pub(crate) fn spawn(&self, mut command: Command) -> Daemon {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        self.daemon(command)
    }

    /// Starts a daemon.
    pub(crate) fn daemon(&self, mut command: Command) -> Daemon {
        Daemon {
            child: command.spawn().unwrap(),
            socket: self.path("qmp"),
        }
    }
}

fn ended(output: std::process::Output) -> Ended {
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Daemon {
    /// A new client of the monitor at `qmp`.
    pub(crate) fn client(&self) -> Qmp {
        Qmp::connect(&self.socket)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// Bytes of memory that it has in use.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let words: Vec<&str> = line.unwrap().split_whitespace().collect();
        words[1].parse::<u64>().unwrap() * 1024
    }

    /// Waits for its end.
    pub(crate) fn exit_status(&mut self) -> ExitStatus {
        eventually(|| self.child.try_wait().unwrap())
    }

    /// Waits for its end, and takes what it said.
    pub(crate) fn wait(mut self) -> Ended {
        let code = self.exit_status().code();
        let read = |pipe: Option<&mut dyn io::Read>| {
            let mut text = String::new();
            pipe.unwrap().read_to_string(&mut text).unwrap();
            text
        };
        let stdout = read(self.child.stdout.as_mut().map(|it| it as &mut dyn io::Read));
        let stderr = read(self.child.stderr.as_mut().map(|it| it as &mut dyn io::Read));
        Ended {
            code,
            stdout,
            stderr,
        }
    }

    /// Ends it by a command, and checks that it had nothing to complain of.
    pub(crate) fn quit(self) {
        self.client().quit();
        let ended = self.wait();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(!ended.stderr.contains("panicked"), "{ended:?}");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Qmp {
    /// Connects as soon as somebody listens, is greeted, and negotiates.
    pub(crate) fn connect(path: &Path) -> Self {
        let mut greeted = None;
        until(|| {
            // The kernel may listen on for a moment for a daemon that was killed.
            greeted = Self::greeted(connect(path)).ok();
            greeted.is_some()
        });
        greeted.unwrap().negotiated()
    }

    /// Negotiates over a connection.
    pub(crate) fn over(socket: UnixStream) -> Self {
        Self::greeted(socket).unwrap().negotiated()
    }

    fn greeted(socket: UnixStream) -> io::Result<Self> {
        let mut client = Self {
            reader: BufReader::new(socket),
            events: VecDeque::new(),
        };
        let greeting = client.try_message()?;
        assert!(greeting["QMP"]["capabilities"].is_array(), "{greeting}");
        Ok(client)
    }

    fn negotiated(mut self) -> Self {
        self.run("qmp_capabilities", json!({}));
        self
    }

    pub(crate) fn socket(&mut self) -> &mut UnixStream {
        self.reader.get_mut()
    }

    /// The next message, whatever it is.
    pub(crate) fn message(&mut self) -> Value {
        self.try_message().expect("the connection is open")
    }

    fn try_message(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&line).unwrap())
    }

    /// The next reply; events are kept.
    pub(crate) fn reply(&mut self) -> Value {
        loop {
            let message = self.message();
            if message.get("event").is_none() {
                return message;
            }
            self.events.push_back(message);
        }
    }

    pub(crate) fn send(&mut self, name: &str, arguments: Value) {
        let request = json!({ "execute": name, "arguments": arguments });
        let line = format!("{request}\n");
        self.socket().write_all(line.as_bytes()).unwrap();
    }

    /// Runs a command.
    pub(crate) fn try_run(&mut self, name: &str, arguments: Value) -> Result<Value, Refused> {
        self.send(name, arguments);
        let reply = self.reply();
        let text = |name: &str| reply["error"][name].as_str().unwrap().to_owned();
        match reply.get("return") {
            Some(value) => Ok(value.clone()),
            None => Err(Refused {
                class: text("class"),
                desc: text("desc"),
            }),
        }
    }

    /// Runs a command that must succeed.
    #[track_caller]
    pub(crate) fn run(&mut self, name: &str, arguments: Value) -> Value {
        self.try_run(name, arguments).expect(name)
    }

    /// Runs a command that must be refused, and gives the text.
    #[track_caller]
    pub(crate) fn refused(&mut self, name: &str, arguments: Value) -> String {
        self.try_run(name, arguments).expect_err(name).desc
    }

    /// Runs a command that must be refused, and gives the whole error.
    #[track_caller]
    pub(crate) fn error(&mut self, name: &str, arguments: Value) -> Value {
        let refused = self.try_run(name, arguments).expect_err(name);
        json!({ "class": refused.class, "desc": refused.desc })
    }

    /// The next event that nobody has taken, in the order in which they happened.
    pub(crate) fn next_event(&mut self) -> Value {
        match self.events.pop_front() {
            Some(event) => event,
            None => self.message(),
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
            let message = self.message();
            assert!(message["event"].is_string(), "a reply to nobody: {message}");
            self.events.push_back(message);
        }
    }

    /// Takes the next event of this name; those before it are dropped.
    pub(crate) fn event(&mut self, name: &str) -> Value {
        loop {
            let event = self.next_event();
            if event["event"] == name {
                return event["data"].clone();
            }
        }
    }

    /// Has the daemon end, and reads to the end of the connection.
    pub(crate) fn quit(mut self) {
        self.run("quit", json!({}));
        let mut rest = String::new();
        // Closed with what we had still to say, it may be reset.
        let _ = io::Read::read_to_string(&mut self.reader, &mut rest);
    }
}

/// Connects as soon as somebody listens.
pub(crate) fn connect(path: &Path) -> UnixStream {
    let mut socket = None;
    until(|| {
        socket = UnixStream::connect(path).ok();
        socket.is_some()
    });
    let socket = socket.unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Whether there is a program of this name.
pub(crate) fn is_installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(tool).is_file())
}

/// Says that the test on this thread cannot run here, because it needs `what`.
#[expect(clippy::print_stderr, reason = "docs/testing.md asks for it")]
pub(crate) fn skip(what: &str) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("a test");
    let line = format!("SKIPPED {name}: needs {what}\n");
    let Some(log) = std::env::var_os("LONGSHORE_SKIP_LOG") else {
        return eprint!("{line}");
    };
    let log = fs::OpenOptions::new().append(true).create(true).open(log);
    log.and_then(|mut log| log.write_all(line.as_bytes()))
        .expect("the skip log can be written");
}

/// Waits until `holds`.
#[track_caller]
pub(crate) fn until(mut holds: impl FnMut() -> bool) {
    eventually(|| holds().then_some(()));
}

/// Asks again and again until there is an answer.
#[track_caller]
pub(crate) fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "it never happens");
        nap();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test waits for another process, and has no context"
)]
fn nap() {
    std::thread::sleep(Duration::from_millis(5));
}
