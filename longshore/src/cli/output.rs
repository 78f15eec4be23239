//! Where everything that a command says goes: text for people, NDJSON for programs, never mixed.
//!
//! Standard output has what was asked for: JSON records with `--json`, text otherwise. Standard
//! error has all that goes on meanwhile: progress, the block at the end, errors, logs.

use std::{
    io::{self, IsTerminal, Write},
    process,
    sync::atomic::{AtomicBool, Ordering},
};

use indicatif::{MultiProgress, ProgressDrawTarget};
use serde_json::{Map, Value, json};

use super::exit::{Exit, Failure};

/// Version of the records; readers ignore fields that they do not know.
const SCHEMA: u64 = 1;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// A bar on a terminal, which redraws itself.
    Bar,
    /// One line now and then.
    Plain,
    /// One record now and then.
    Json,
    /// Not at all.
    None,
}

/// What the result of a command is printed as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Text for people.
    Text,
    /// NDJSON with exactly one `result`.
    Json,
}

/// Whether text that merely informs is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quiet {
    /// Errors only.
    Yes,
    /// Everything.
    No,
}

/// The voice of one command. Any thread.
#[derive(Debug)]
pub(crate) struct Output {
    command: &'static str,
    format: Format,
    style: Style,
    quiet: Quiet,
    bars: MultiProgress,
    has_result: AtomicBool,
}

/// The fields of one record.
pub(crate) type Fields = Map<String, Value>;

/// The fields in `value`, which is written as an object.
pub(crate) fn fields(value: Value) -> Fields {
    match value {
        Value::Object(fields) => fields,
        other => Map::from_iter([("value".to_owned(), other)]),
    }
}

impl Output {
    /// The voice of `command`.
    pub(crate) fn new(command: &'static str, format: Format, style: Style, quiet: Quiet) -> Self {
        let target = match style {
            Style::Bar => ProgressDrawTarget::stderr(),
            Style::Plain | Style::Json | Style::None => ProgressDrawTarget::hidden(),
        };
        Self {
            command,
            format,
            style,
            quiet,
            bars: MultiProgress::with_draw_target(target),
            has_result: AtomicBool::new(false),
        }
    }

    /// Name of the command.
    pub(crate) fn command(&self) -> &'static str {
        self.command
    }

    /// How progress is shown.
    pub(crate) fn style(&self) -> Style {
        self.style
    }

    /// Where bars are drawn.
    pub(crate) fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    /// Whether records are printed instead of text.
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// A line of what was asked for, on standard output; nothing with `--json`.
    pub(crate) fn print(&self, line: &str) {
        if !self.is_json() {
            self.bars.suspend(|| write_line(io::stdout(), line));
        }
    }

    /// A line that informs, on standard error; nothing with `--json` or `-q`.
    pub(crate) fn note(&self, line: &str) {
        if !self.is_json() && self.quiet == Quiet::No {
            self.say(line);
        }
    }

    /// A line on standard error, whatever the options.
    pub(crate) fn say(&self, line: &str) {
        self.bars.suspend(|| write_line(io::stderr(), line));
    }

    /// One record of `kind` that is not the result; nothing without `--json`, or with `-q`.
    pub(crate) fn record(&self, kind: &str, rest: Fields) {
        if self.is_json() && self.quiet == Quiet::No {
            print_record(kind, rest);
        }
    }

    /// What went wrong: a sentence for people, and a record.
    pub(crate) fn failure(&self, failure: &Failure) {
        self.say(&format!("longshore: {failure}"));
        if let Some(advice) = &failure.advice {
            self.say(&format!("  {advice}"));
        }
        if self.is_json() {
            let errno = failure.errno.map(nix::errno::Errno::from_raw);
            print_record(
                "error",
                fields(json!({
                    "code": failure.exit.name(),
                    "errno": errno.map(|errno| format!("{errno:?}")),
                    "message": failure.text,
                    "advice": failure.advice,
                })),
            );
        }
    }

    /// The one `result` record; whoever comes second says nothing.
    pub(crate) fn result(&self, exit: Exit, code: u8, rest: Fields) {
        if !self.is_json() {
            return;
        }
        // Held until the record is out: whoever comes second may end the process at once.
        let _stdout = io::stdout().lock();
        if self.has_result.swap(true, Ordering::SeqCst) {
            return;
        }
        let mut record = fields(json!({
            "kind": self.command,
            "ok": code == 0,
            "exit_code": code,
            "disposition": exit.disposition(),
        }));
        record.extend(rest);
        print_record("result", record);
    }

    /// Ends the process at once, with what went wrong and the result.
    pub(crate) fn end(&self, failure: &Failure) -> ! {
        self.failure(failure);
        self.result(failure.exit, failure.exit.code(), Fields::new());
        process::exit(i32::from(failure.exit.code()))
    }
}

/// Standard error may be gone, or a full pipe's reader: a copy goes on without a listener.
fn write_line(mut to: impl Write, line: &str) {
    // Nobody is left to hear of the failure.
    let _ = writeln!(to, "{line}");
}

fn print_record(kind: &str, rest: Fields) {
    let mut record = fields(json!({ "v": SCHEMA, "type": kind }));
    record.extend(rest);
    write_line(io::stdout().lock(), &Value::Object(record).to_string());
}

/// Whether standard error is a terminal that can redraw.
pub(crate) fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Lets log lines pass above a bar instead of through it.
#[derive(Clone, Debug)]
pub(crate) struct LogWriter(pub(crate) MultiProgress);

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
