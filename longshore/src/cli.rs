//! The command line: reads it, runs the command, and ends with the code of [`exit::Exit`].

mod args;
mod backup;
mod compare;
mod ctl;
mod daemon;
mod demo;
mod doctor;
mod engine;
mod exit;
mod export;
mod far;
mod info;
mod output;
mod progress;
mod scratch;
mod signals;
mod units;
mod verify;

use std::{env, ffi::OsString, process::ExitCode, sync::Arc};

use clap::{Parser, ValueEnum, error::ErrorKind};
use tracing_subscriber::EnvFilter;

use self::{
    args::{Cli, Command, ProgressArg, Voice},
    exit::{Exit, Failure},
    output::{Fields, Format, LogWriter, Output, Quiet, Style},
    signals::{Blocked, Events},
};

/// What every command works with.
#[derive(Debug)]
struct Session {
    output: Arc<Output>,
    events: Events,
}

/// How a command ended that has nothing to complain of, or has done so already.
#[derive(Debug)]
struct Done {
    exit: Exit,
    /// The number that the process ends with; another than that of `exit` only for a command that
    /// was run for somebody.
    code: u8,
    /// What the result record has besides.
    fields: Fields,
}

impl Done {
    /// All is well.
    fn with(fields: Fields) -> Self {
        Self::ending(Exit::Ok, fields)
    }

    /// The command has said what is not well.
    fn ending(exit: Exit, fields: Fields) -> Self {
        Self {
            exit,
            code: exit.code(),
            fields,
        }
    }
}

/// Runs the command line of this process.
pub(crate) fn main() -> ExitCode {
    // Before any thread starts: all inherit this.
    let blocked = Blocked::new();
    if let Some(line) = daemon::wanted() {
        return daemon::main(&line, blocked);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let output = match voice(&cli) {
        Ok(output) => Arc::new(output),
        Err(failure) => {
            let format = if cli.voice.json {
                Format::Json
            } else {
                Format::Text
            };
            let output = Output::new(cli.command.name(), format, Style::None, Quiet::No);
            return end(&output, Err(failure));
        }
    };
    let ended = blocked
        .map_err(|error| Failure::io("cannot block signals", &error))
        .and_then(|blocked| blocked.listen(&output))
        .and_then(|events| {
            log(&cli.voice, &output)?;
            let output = Arc::clone(&output);
            run(&cli.command, &Session { output, events })
        });
    end(&output, ended)
}

fn run(command: &Command, session: &Session) -> Result<Done, Failure> {
    match command {
        Command::Backup(args) => backup::run(args, session),
        Command::Verify(args) => verify::run(args, session),
        Command::Info(args) => info::run(args, session),
        Command::Export(args) => export::run(args, session),
        Command::Doctor(args) => doctor::run(args, session),
        Command::Demo(args) => demo::run(args, session),
        Command::Ctl(args) => ctl::run(args, session),
        Command::Daemon(_) => {
            let text = "options of the daemon follow the word `daemon`, which comes first";
            Err(Failure::new(Exit::Usage, text))
        }
    }
}

/// Says how it ended, once.
fn end(output: &Output, ended: Result<Done, Failure>) -> ExitCode {
    let done = ended.unwrap_or_else(|failure| {
        output.failure(&failure);
        Done::ending(failure.exit, Fields::new())
    });
    output.result(done.exit, done.code, done.fields);
    ExitCode::from(done.code)
}

/// Help, version, or a command line that makes no sense.
fn usage(error: &clap::Error) -> ExitCode {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        // Standard output may be closed: nobody wants the text then.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let failure = usage_failure(&error.to_string());
    // Nothing was understood, so what was asked for is looked up by hand.
    let asked: Vec<OsString> = env::args_os().skip(1).collect();
    let is_json = asked.iter().any(|arg| arg == "--json");
    let format = if is_json { Format::Json } else { Format::Text };
    let output = Output::new("usage", format, Style::None, Quiet::No);
    end(&output, Err(failure))
}

/// One sentence and one line of advice out of what the parser says.
fn usage_failure(text: &str) -> Failure {
    let in_one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = text.trim_start_matches("error: ");
    let (sentence, rest) = text.split_once("\n\n").unwrap_or((text, ""));
    let failure = Failure::new(Exit::Usage, in_one_line(sentence));
    match in_one_line(rest) {
        rest if rest.is_empty() => failure,
        rest => failure.advise(rest.replace(" For more information", ". For more information")),
    }
}

/// How the command talks, by its options and by the environment.
fn voice(cli: &Cli) -> Result<Output, Failure> {
    let voice = &cli.voice;
    let wanted = match (voice.progress, env::var("LONGSHORE_PROGRESS")) {
        (Some(wanted), _) => wanted,
        (None, Ok(name)) if !name.is_empty() => {
            ProgressArg::from_str(&name, true).map_err(|_| {
                let text =
                    format!("LONGSHORE_PROGRESS is '{name}', which is no way to show progress");
                Failure::new(Exit::Usage, text)
            })?
        }
        (None, _) => ProgressArg::Auto,
    };
    let quiet = if voice.quiet { Quiet::Yes } else { Quiet::No };
    let format = if voice.json || wanted == ProgressArg::Json {
        Format::Json
    } else {
        Format::Text
    };
    let style = match wanted {
        _ if voice.quiet => Style::None,
        ProgressArg::Auto if format == Format::Json => Style::Json,
        ProgressArg::Auto if output::stderr_is_terminal() => Style::Bar,
        ProgressArg::Auto | ProgressArg::Plain => Style::Plain,
        ProgressArg::Bar => Style::Bar,
        ProgressArg::Json => Style::Json,
        ProgressArg::None => Style::None,
    };
    Ok(Output::new(cli.command.name(), format, style, quiet))
}

/// Sends the log to standard error, filtered by `LONGSHORE_LOG` or else by `-v`.
fn log(voice: &Voice, output: &Output) -> Result<(), Failure> {
    let level = match (voice.quiet, voice.verbose) {
        (true, _) => "error",
        (_, 0) => "warn",
        (_, 1) => "info",
        (_, _) => "debug",
    };
    let wanted = env::var("LONGSHORE_LOG").unwrap_or_else(|_| level.to_owned());
    let filter = EnvFilter::try_new(&wanted).map_err(|error| {
        Failure::new(Exit::Usage, format!("LONGSHORE_LOG is no filter: {error}"))
    })?;
    let bars = output.bars().clone();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(output::stderr_is_terminal() && env::var_os("NO_COLOR").is_none())
        .with_writer(move || LogWriter(bars.clone()))
        .init();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_command_line_is_told_in_a_sentence_and_an_advice() {
        let error = Cli::try_parse_from(["longshore", "backup"]).unwrap_err();
        let failure = usage_failure(&error.to_string());
        let want = "the following required arguments were not provided: <SRC> <DST>";
        assert_eq!(failure.text, want);
        let advice = failure.advice.unwrap();
        assert!(
            advice.starts_with("Usage: longshore backup <SRC> <DST>."),
            "{advice}"
        );
    }

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
