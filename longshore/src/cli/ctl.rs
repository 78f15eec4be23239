//! `longshore ctl`: looks at a daemon and tells it what to do, ours or qemu-storage-daemon.

mod client;
mod show;
mod watch;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use self::client::Client;
use super::{
    Done, Session,
    exit::{Exit, Failure},
    output::fields,
    units::{parse_bytes, parse_millis},
};

/// Look at a daemon and tell it what to do, over a QMP socket of its.
#[derive(Debug, Args)]
pub(crate) struct Ctl {
    /// The socket of a monitor
    #[arg(
        short,
        long,
        env = "LONGSHORE_SOCKET",
        value_name = "PATH",
        default_value = "/run/longshore/qmp.sock"
    )]
    socket: PathBuf,
    #[command(subcommand)]
    what: What,
}

/// What is looked at.
#[derive(Debug, Subcommand)]
enum What {
    /// Jobs
    #[command(subcommand)]
    Job(JobCommand),
    /// Nodes
    #[command(subcommand)]
    Node(ListCommand),
    /// Exports
    #[command(subcommand)]
    Export(ListCommand),
    /// Run a QMP command and print what it returns
    Qmp {
        /// The command
        command: String,
        /// Its arguments, a JSON object
        arguments: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
enum ListCommand {
    /// List them
    Ls,
}

#[derive(Debug, Subcommand)]
enum JobCommand {
    /// List all jobs
    Ls,
    /// Show all that is known of a job
    Show { id: String },
    /// Show how far jobs are until they have ended: all, or one
    Watch { id: Option<String> },
    /// Have a job stand still
    Pause { id: String },
    /// Have a job go on
    Resume { id: String },
    /// Change how a job runs; others than the speed need our daemon
    Set(SetArgs),
    /// Have a job that is ready end well
    Complete { id: String },
    /// End a job at once
    Cancel { id: String },
    /// Have a job that is pending take effect
    Finalize { id: String },
    /// Forget a job that has ended
    Dismiss { id: String },
}

#[derive(Debug, Args)]
struct SetArgs {
    id: String,
    /// Bytes per second, such as 100M; 0 is no limit
    #[arg(long, value_parser = parse_bytes, value_name = "RATE")]
    speed: Option<u64>,
    /// Milliseconds that guest writes may be slowed down by
    #[arg(long, value_parser = parse_millis, value_name = "MS")]
    guest_latency: Option<u64>,
    /// Most requests in flight
    #[arg(long, value_name = "N")]
    workers: Option<u32>,
    /// When the writes of guests get to a mirror's target
    #[arg(long, value_name = "MODE")]
    copy_mode: Option<CopyModeArg>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum CopyModeArg {
    /// Soon
    Background,
    /// Before they are acknowledged
    WriteBlocking,
}

/// Runs the command.
pub(crate) fn run(args: &Ctl, session: &Session) -> Result<Done, Failure> {
    let mut client = Client::connect(&args.socket)?;
    let output = &session.output;
    match &args.what {
        What::Job(command) => job(command, &mut client, session),
        What::Node(ListCommand::Ls) => {
            let nodes = client.run("query-named-block-nodes", json!({ "flat": true }))?;
            show::nodes(&nodes)
                .iter()
                .for_each(|line| output.print(line));
            Ok(Done::with(fields(json!({ "nodes": nodes }))))
        }
        What::Export(ListCommand::Ls) => {
            let exports = client.run("query-block-exports", json!({}))?;
            show::exports(&exports)
                .iter()
                .for_each(|line| output.print(line));
            Ok(Done::with(fields(json!({ "exports": exports }))))
        }
        What::Qmp { command, arguments } => {
            let text = arguments.as_deref().unwrap_or("{}");
            let arguments: Map<String, Value> = serde_json::from_str(text).map_err(|error| {
                Failure::new(
                    Exit::Usage,
                    format!("the arguments are no JSON object: {error}"),
                )
            })?;
            let value = client.run(command, Value::Object(arguments))?;
            output.print(&show::pretty(&value));
            Ok(Done::with(fields(json!({ "return": value }))))
        }
    }
}

fn job(command: &JobCommand, client: &mut Client, session: &Session) -> Result<Done, Failure> {
    let output = &session.output;
    let (name, id) = match command {
        JobCommand::Ls => {
            let jobs = show::all_jobs(client)?;
            show::jobs(&jobs).iter().for_each(|line| output.print(line));
            return Ok(Done::with(fields(json!({ "jobs": jobs }))));
        }
        JobCommand::Show { id } => {
            let jobs = show::all_jobs(client)?;
            let job = jobs.into_iter().find(|job| job["id"] == id.as_str());
            let missing = || Failure::new(Exit::Failed, format!("there is no job '{id}'"));
            let job = job.ok_or_else(missing)?;
            output.print(&show::pretty(&job));
            return Ok(Done::with(fields(json!({ "job": job }))));
        }
        JobCommand::Watch { id } => return watch::run(id.as_deref(), client, session),
        JobCommand::Set(args) => return set(args, client),
        JobCommand::Pause { id } => ("job-pause", id),
        JobCommand::Resume { id } => ("job-resume", id),
        JobCommand::Complete { id } => ("job-complete", id),
        JobCommand::Cancel { id } => ("job-cancel", id),
        JobCommand::Finalize { id } => ("job-finalize", id),
        JobCommand::Dismiss { id } => ("job-dismiss", id),
    };
    client.run(name, json!({ "id": id }))?;
    Ok(Done::with(fields(json!({ "job": id }))))
}

fn set(args: &SetArgs, client: &mut Client) -> Result<Done, Failure> {
    let id = &args.id;
    let done = || Done::with(fields(json!({ "job": id })));
    let mut changes = Map::new();
    if let Some(ns) = args.guest_latency {
        changes.insert("latency-budget".to_owned(), json!(ns));
    }
    if let Some(workers) = args.workers {
        changes.insert("max-workers".to_owned(), json!(workers));
    }
    if let Some(mode) = args.copy_mode {
        let name = match mode {
            CopyModeArg::Background => "background",
            CopyModeArg::WriteBlocking => "write-blocking",
        };
        changes.insert("copy-mode".to_owned(), json!(name));
    }
    match args.speed {
        // The reference knows this one as well.
        Some(speed) if changes.is_empty() => {
            client.run(
                "block-job-set-speed",
                json!({ "device": id, "speed": speed }),
            )?;
            return Ok(done());
        }
        Some(speed) => drop(changes.insert("speed".to_owned(), json!(speed))),
        None if changes.is_empty() => {
            return Err(Failure::new(Exit::Usage, "nothing is to be changed"));
        }
        None => {}
    }
    changes.insert("id".to_owned(), json!(id));
    client.run("x-longshore-job-set", Value::Object(changes))?;
    Ok(done())
}
