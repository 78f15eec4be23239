//! [`Process`]: what the system knows of a daemon that is ready: its pid file, systemd, its launcher.

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::{MetadataExt, OpenOptionsExt},
            net::{SocketAddr, UnixDatagram},
        },
    },
    path::{Path, PathBuf},
    process,
    rc::Rc,
};

use nix::{
    fcntl::{Flock, FlockArg},
    unistd::{chdir, dup2_stderr, dup2_stdout},
};

use super::{
    Daemon, DaemonError, chardev,
    error::system_text,
    exports,
    options::{Background, CommandLine},
};
use crate::export::listen::Listener;

/// The daemon in the eyes of the system. Dropping it removes the pid file.
#[derive(Debug)]
pub(super) struct Process {
    _pid_file: Option<PidFile>,
}

impl Process {
    /// Says that the daemon is ready: by its pid file, to systemd, and to its launcher.
    pub(super) fn ready(line: &CommandLine) -> Result<Self, DaemonError> {
        let pid_file = line.pid_file().map(|path| PidFile::write(path)).transpose();
        let pid_file = pid_file.map_err(DaemonError::Process)?;
        notify("READY=1");
        if line.background() == Some(Background::Daemon) {
            let detached = detach();
            detached.map_err(|error| {
                let text = system_text(&error);
                DaemonError::Process(format!("cannot leave the terminal: {text}"))
            })?;
        }
        Ok(Self {
            _pid_file: pid_file,
        })
    }
}

/// The number of the first socket that a service manager hands over.
const FIRST_SOCKET: i32 = 3;

/// Serves the sockets that the service manager listens on for us: those called `qmp` and `nbd`.
pub(super) fn adopt_sockets(daemon: &Rc<Daemon>) -> Result<(), DaemonError> {
    let number = |name: &str| env::var(name).ok()?.parse::<i32>().ok();
    if number("LISTEN_PID").and_then(|pid| u32::try_from(pid).ok()) != Some(process::id()) {
        return Ok(());
    }
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    for index in 0..number("LISTEN_FDS").unwrap_or(0).clamp(0, 64) {
        let socket = FIRST_SOCKET + index;
        let name = names.next().unwrap_or_default();
        let refused =
            |text: String| DaemonError::Process(format!("socket {socket} of LISTEN_FDS: {text}"));
        let listener = aio::sys::inherited(socket).and_then(Listener::inherited);
        let listener = listener.map_err(|error| refused(system_text(&error)))?;
        match name {
            "qmp" => chardev::adopt(daemon, format!("listen-fd-{socket}"), listener)
                .map_err(|error| refused(error.desc))?,
            "nbd" => exports::serve_inherited(daemon, listener),
            _ => return Err(refused(format!("'{name}' is neither 'qmp' nor 'nbd'"))),
        }
    }
    Ok(())
}

/// Tells the launcher that all is well, and lets go of the terminal.
fn detach() -> io::Result<()> {
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    // The launcher may have been killed; the daemon stays.
    let _ = io::stdout()
        .write_all(b".")
        .and_then(|()| io::stdout().flush());
    chdir("/")?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    Ok(())
}

/// Tells the service manager something, if there is one.
pub(super) fn notify(what: &str) {
    let Some(path) = env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let told = || -> io::Result<()> {
        let address = match path.as_encoded_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&path)?,
        };
        let socket = UnixDatagram::unbound()?;
        // A manager that does not read must not hold up the daemon.
        socket.set_nonblocking(true)?;
        socket.send_to_addr(what.as_bytes(), &address).map(drop)
    };
    if let Err(error) = told() {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

/// A file with the number of the process, locked while it lives, and removed at its end if it is still the same.
#[derive(Debug)]
struct PidFile {
    path: PathBuf,
    file: Flock<File>,
}

impl PidFile {
    fn write(path: &Path) -> Result<Self, String> {
        let refused = |what: &str, error: &io::Error| {
            let (path, text) = (path.display(), system_text(error));
            format!("cannot create PID file: {what} '{path}': {text}")
        };
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o644);
        let file = options
            .open(path)
            .map_err(|error| refused("Could not create", &error))?;
        let locked = Flock::lock(file, FlockArg::LockExclusiveNonblock);
        let mut file = locked.map_err(|(_, errno)| refused("Could not lock", &errno.into()))?;
        let text = format!("{}\n", process::id());
        let written = file
            .set_len(0)
            .and_then(|()| file.write_all(text.as_bytes()));
        written.map_err(|error| refused("Could not write", &error))?;
        let path = fs::canonicalize(path).map_err(|error| refused("Could not find", &error))?;
        Ok(Self { path, file })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let identity = |facts: fs::Metadata| (facts.dev(), facts.ino());
        let ours = self.file.metadata().map(identity).ok();
        let there = fs::symlink_metadata(&self.path).map(identity).ok();
        if ours == there
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove the pid file");
        }
    }
}
