//! `longshore export`: serves one image over NBD, until a signal comes or a command ends.

use std::{
    error::Error,
    io,
    os::unix::process::ExitStatusExt,
    process::{Child, Command, ExitStatus},
    time::Duration,
};

use block::{ErrorKind, nodes::file::FileOptions};
use longshore::{
    Engine,
    export::{
        ExportError, ExportOptions, NbdAddress, NbdServer, NbdServerOptions, NbdUri, UriError,
    },
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use super::{
    Done, Session, args,
    backup::refuse_address,
    engine,
    exit::{Exit, Failure},
    output::{Fields, fields},
    scratch::Scratch,
    signals::Event,
};

/// How long a command that was told to end may take until it is killed.
const COMMAND_STOP_MAX: Duration = Duration::from_secs(3);

/// Runs the command.
pub(crate) fn run(args: &args::Export, session: &Session) -> Result<Done, Failure> {
    refuse_address(&args.image)?;
    let mut scratch = None;
    let mut uri = match &args.nbd {
        Some(text) => text
            .parse()
            .map_err(|error: UriError| refused(&error.into()))?,
        None => {
            let folder = scratch.insert(Scratch::make("longshore-export")?);
            NbdUri {
                address: NbdAddress::Unix(folder.path().join("nbd.sock")),
                export: String::new(),
            }
        }
    };
    if let Some(name) = &args.name {
        uri.export.clone_from(name);
    }
    let engine = engine::start()?;
    let server = serve(&engine, args, &uri)?;
    let uri = server.uri(&uri.export).to_string();
    session.output.record(
        "start",
        fields(json!({
            "kind": "export",
            "image": args.image.to_string_lossy(),
            "uri": uri,
            "writable": args.writable,
            "engine": engine.describe(),
        })),
    );
    let done = match &args.run {
        Some(command) => run_command(command, &uri, session)?,
        None => {
            session.output.print(&uri);
            wait_for_signal(session)
        }
    };
    server.stop();
    drop(scratch);
    Ok(done)
}

fn serve(engine: &Engine, args: &args::Export, uri: &NbdUri) -> Result<NbdServer, Failure> {
    let options = FileOptions {
        read_only: !args.writable,
        direct: args.direct.into(),
        ..FileOptions::new(&args.image)
    };
    let opened = engine.open_file(Some("image"), &options).map_err(|error| {
        if error.kind() == ErrorKind::Locked {
            let text = format!("'{}' is locked by another program", args.image.display());
            return Failure::new(Exit::Locked, text);
        }
        engine::failure("image", &error)
    })?;
    let options = NbdServerOptions::default();
    let server = NbdServer::start(engine.handle(), engine.graph(), &uri.address, options)
        .map_err(|error| refused(&error))?;
    let export = ExportOptions {
        writable: args.writable,
        description: args.image.to_string_lossy().into_owned(),
        ..ExportOptions::new(&uri.export, &opened.node)
    };
    server.add_export(export).map_err(|error| refused(&error))?;
    Ok(server)
}

/// Why an export could not be had.
pub(crate) fn refused(error: &ExportError) -> Failure {
    let exit = match error {
        ExportError::Uri(_) | ExportError::HostName(_) | ExportError::NameTooLong(_) => Exit::Usage,
        ExportError::NotLoopback(_) => Exit::Denied,
        ExportError::AddressInUse(_) | ExportError::NameTaken(_) => Exit::Locked,
        ExportError::Node(error) => return Failure::block("cannot export", error),
        _ => Exit::Failed,
    };
    match error.source().and_then(|it| it.downcast_ref::<io::Error>()) {
        Some(source) => Failure::io(error, source),
        None => Failure::new(exit, error.to_string()),
    }
}

/// Serves until SIGINT or SIGTERM, which here are the way to end and no failure.
fn wait_for_signal(session: &Session) -> Done {
    loop {
        if let Some(Event::Stop(_)) = session.events.next(Duration::from_secs(3600)) {
            return Done::with(Fields::new());
        }
    }
}

/// Runs `command` by the shell while the export is served; its exit status becomes ours.
fn run_command(command: &str, uri: &str, session: &Session) -> Result<Done, Failure> {
    let failed = |error: io::Error| Failure::io("cannot run the command", &error);
    let mut shell = Command::new("/bin/sh");
    let child = shell.args(["-c", command]).env("uri", uri).spawn();
    let mut child = child.map_err(failed)?;
    let status = wait_for_child(&mut child, session).map_err(failed)?;
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(Exit::Failed.code()),
        (None, signal) => signal
            .and_then(|signal| u8::try_from(128 + signal).ok())
            .unwrap_or(Exit::Failed.code()),
    };
    let exit = if code == 0 { Exit::Ok } else { Exit::Failed };
    Ok(Done {
        exit,
        code,
        fields: fields(json!({ "command_exit_code": code })),
    })
}

/// Waits for the command; passes a signal on to it.
fn wait_for_child(child: &mut Child, session: &Session) -> io::Result<ExitStatus> {
    // Dropping the wish for news of the child would not wait for it, so it is asked now and then.
    let poll = Duration::from_millis(20);
    let mut told = Duration::ZERO;
    let mut is_told = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        match session.events.next(poll) {
            Some(Event::Stop(exit)) if !is_told => {
                is_told = true;
                let signal = match exit {
                    Exit::Interrupted => Signal::SIGINT,
                    _ => Signal::SIGTERM,
                };
                let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
                // It may have ended by itself.
                let _ = kill(Pid::from_raw(pid), signal);
            }
            _ if is_told => told += poll,
            _ => {}
        }
        if told > COMMAND_STOP_MAX {
            child.kill()?;
        }
    }
}
