//! `longshore daemon`: hands its command line to [`longshore::daemon`], which knows what it means.

use std::{
    env,
    ffi::{OsStr, OsString},
    io::{self, Read, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use longshore::daemon::{self, BACKGROUND_OPTION, Background, CommandLine, Wanted};
use nix::{sys::signal::Signal, unistd::setsid};
use tracing_subscriber::EnvFilter;

use super::{exit::Failure, signals::Blocked};

/// The name under which we are the daemon without further words.
const ALIAS: &str = "qemu-storage-daemon";

/// The arguments of the daemon, if that is what this process is to be.
pub(crate) fn wanted() -> Option<Line> {
    let mut arguments = env::args_os();
    let program = arguments.next().unwrap_or_default();
    let arguments: Vec<OsString> = arguments.collect();
    if Path::new(&program).file_name() == Some(OsStr::new(ALIAS)) {
        let (name, words) = (ALIAS.to_owned(), 0);
        return Some(Line {
            name,
            program,
            arguments,
            words,
        });
    }
    (arguments.first()? == "daemon").then(|| Line {
        name: "longshore daemon".to_owned(),
        program,
        arguments,
        words: 1,
    })
}

/// A daemon's command line.
#[derive(Debug)]
pub(crate) struct Line {
    /// How messages call us.
    name: String,
    program: OsString,
    arguments: Vec<OsString>,
    /// How many of the arguments only say that we are the daemon.
    words: usize,
}

/// Runs the daemon to its end.
pub(crate) fn main(line: &Line, blocked: io::Result<Blocked>) -> ExitCode {
    match run(line, blocked) {
        Ok(code) => code,
        Err(text) => {
            // Nobody may be there to read it.
            let _ = writeln!(io::stderr(), "{}: {text}", line.name);
            ExitCode::FAILURE
        }
    }
}

fn run(line: &Line, blocked: io::Result<Blocked>) -> Result<ExitCode, String> {
    let arguments = line.arguments[line.words..].iter().cloned();
    let options = match CommandLine::parse(arguments).map_err(|error| error.to_string())? {
        Wanted::Daemon(options) => options,
        Wanted::Text(text) => {
            // Standard output may be closed: nobody wants the text then.
            let _ = io::stdout().write_all(text.as_bytes());
            return Ok(ExitCode::SUCCESS);
        }
    };
    match options.background() {
        Some(Background::Launcher) => return launch(line),
        // Refused only to one that leads a session already, so there is none to leave.
        Some(Background::Daemon) => drop(setsid()),
        None => {}
    }
    log(&options).map_err(|failure| failure.text)?;
    let signals = blocked.and_then(|blocked| blocked.and(Signal::SIGHUP)?.into_descriptor());
    let signals = signals.map_err(|error| format!("cannot listen to signals: {error}"))?;
    let ended = daemon::run(options, signals);
    ended.map_err(|error| with_sources(&error))?;
    Ok(ExitCode::SUCCESS)
}

/// Starts the daemon as a process of its own, and waits until it is ready or has failed.
///
/// A process that has forked cannot go on with threads, so the daemon begins anew instead.
fn launch(line: &Line) -> Result<ExitCode, String> {
    let is_ours = |argument: &&OsString| !argument.to_string_lossy().starts_with("--daemoni");
    let (words, options) = line.arguments.split_at(line.words);
    let mut child = Command::new("/proc/self/exe")
        .arg0(&line.program)
        .args(words)
        .args(options.iter().filter(is_ours))
        .arg(BACKGROUND_OPTION)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start the daemon: {error}"))?;
    let mut told = Vec::new();
    let ready = child.stdout.take();
    let ready = ready.map(|mut ready| ready.read_to_end(&mut told));
    if matches!(ready, Some(Ok(_))) && !told.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    // The daemon has said why, on the same standard error.
    let ended = child
        .wait()
        .map_err(|error| format!("cannot wait for the daemon: {error}"))?;
    let code = ended.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}

/// Sends the log to standard error: warnings, more with `--trace`, or what `LONGSHORE_LOG` says.
fn log(options: &CommandLine) -> Result<(), Failure> {
    let level = if options.traces().is_empty() {
        "warn"
    } else {
        "debug"
    };
    let wanted = env::var("LONGSHORE_LOG").unwrap_or_else(|_| level.to_owned());
    let filter = EnvFilter::try_new(&wanted).map_err(|error| {
        Failure::new(
            super::Exit::Usage,
            format!("LONGSHORE_LOG is no filter: {error}"),
        )
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(io::stderr)
        .init();
    Ok(())
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
