//! Exit codes, and errors that know theirs: what a scheduler branches on, and what a person reads.

use std::{error::Error, fmt, io};

use block::{BlockError, ErrorKind};

/// How a command can end. The numbers are a contract with scripts and schedulers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done, and verified where that was asked for.
    Ok,
    /// A failure that has no code of its own.
    Failed,
    /// The command line makes no sense.
    Usage,
    /// A comparison found different bytes.
    Mismatch,
    /// The target has no room.
    Space,
    /// The machine or this version cannot do it.
    Unsupported,
    /// The system does not allow it.
    Denied,
    /// Somebody else uses the image.
    Locked,
    /// Cancelled on purpose, by other means than a signal.
    Cancelled,
    /// Stopped by SIGINT.
    Interrupted,
    /// Stopped by SIGTERM.
    Terminated,
}

/// Number, name, meaning, and what whoever started the command should do next.
struct Row(u8, &'static str, &'static str, &'static str);

impl Exit {
    /// Every code, in the order of the numbers.
    pub(crate) const ALL: [Self; 11] = [
        Self::Ok,
        Self::Failed,
        Self::Usage,
        Self::Mismatch,
        Self::Space,
        Self::Unsupported,
        Self::Denied,
        Self::Locked,
        Self::Cancelled,
        Self::Interrupted,
        Self::Terminated,
    ];

    /// The one table of exit codes.
    fn row(self) -> Row {
        match self {
            Self::Ok => Row(0, "ok", "done, and verified where asked for", "done"),
            Self::Failed => Row(1, "failed", "a failure with no code of its own", "operator"),
            Self::Usage => Row(
                2,
                "usage",
                "the arguments make no sense, or not together",
                "operator",
            ),
            Self::Mismatch => Row(
                5,
                "mismatch",
                "a comparison or a proof found different bytes",
                "operator",
            ),
            Self::Space => Row(
                7,
                "space",
                "no room on the target; the source is as it was",
                "operator",
            ),
            Self::Unsupported => Row(
                8,
                "unsupported",
                "this machine or this version cannot do it",
                "operator",
            ),
            Self::Denied => Row(9, "denied", "the system does not allow it", "operator"),
            Self::Locked => Row(11, "locked", "somebody else uses the image", "retry"),
            Self::Cancelled => Row(12, "cancelled", "cancelled on purpose", "done"),
            Self::Interrupted => Row(130, "interrupted", "stopped by SIGINT", "retry"),
            Self::Terminated => Row(143, "terminated", "stopped by SIGTERM", "retry"),
        }
    }

    /// The number that the process ends with.
    pub(crate) fn code(self) -> u8 {
        self.row().0
    }

    /// One word for it.
    pub(crate) fn name(self) -> &'static str {
        self.row().1
    }

    /// What whoever started the command should do: `done`, `retry`, or ask the `operator`.
    pub(crate) fn disposition(self) -> &'static str {
        self.row().3
    }

    /// Whether a signal ended the command.
    pub(crate) fn is_by_signal(self) -> bool {
        matches!(self, Self::Interrupted | Self::Terminated)
    }

    /// The table as the help shows it.
    pub(crate) fn table() -> String {
        let mut text = String::from("Exit codes:\n");
        for exit in Self::ALL {
            let Row(code, name, meaning, _) = exit.row();
            text.push_str(&format!("  {code:>3}  {name:<12} {meaning}\n"));
        }
        text
    }
}

/// An error for a person and for a scheduler: one sentence, its code, and what to do next.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The code it ends the command with.
    pub(crate) exit: Exit,
    /// One sentence, without the program's name and without a full stop.
    pub(crate) text: String,
    /// What to do about it, where there is something to do.
    pub(crate) advice: Option<String>,
    /// The system's error number, where there was one.
    pub(crate) errno: Option<i32>,
}

impl Failure {
    /// A failure that ends with `exit`.
    pub(crate) fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self {
            exit,
            text: text.into(),
            advice: None,
            errno: None,
        }
    }

    /// The same failure, with what to do about it.
    pub(crate) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// The same failure, with advice unless it has some already.
    pub(crate) fn or_advise(self, advice: impl Into<String>) -> Self {
        if self.advice.is_some() {
            return self;
        }
        self.advise(advice)
    }

    /// The system refused; `what` says what was being done.
    pub(crate) fn io(what: impl fmt::Display, error: &io::Error) -> Self {
        Self {
            errno: error.raw_os_error(),
            advice: advice_for(error.raw_os_error()),
            ..Self::new(exit_of(error), format!("{what}: {}", plain(error)))
        }
    }

    /// A node failed; `what` says what was being done.
    pub(crate) fn block(what: impl fmt::Display, error: &BlockError) -> Self {
        let source = error.source().and_then(|it| it.downcast_ref::<io::Error>());
        let exit = match (error.kind(), source) {
            (ErrorKind::NoSpace, _) => Exit::Space,
            (ErrorKind::Locked | ErrorKind::PermissionConflict, _) => Exit::Locked,
            (ErrorKind::ReadOnly, _) => Exit::Denied,
            (ErrorKind::Unsupported, _) => Exit::Unsupported,
            (ErrorKind::Invalid, _) => Exit::Usage,
            (_, Some(source)) => exit_of(source),
            (_, None) => Exit::Failed,
        };
        let text = match source {
            Some(source) => format!("{what}: {error}: {}", plain(source)),
            None => format!("{what}: {error}"),
        };
        Self {
            errno: error.errno(),
            advice: advice_for(error.errno()),
            ..Self::new(exit, text)
        }
    }
}

/// What to do about what the system said, where that is always the same.
pub(crate) fn advice_for(errno: Option<i32>) -> Option<String> {
    let is_few = matches!(errno, Some(libc::EMFILE | libc::ENFILE));
    is_few.then(|| "Allow more open files (ulimit -n); longshore needs about 40.".to_owned())
}

/// The code for what the system said.
fn exit_of(error: &io::Error) -> Exit {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => Exit::Space,
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => Exit::Denied,
        Some(libc::EBUSY | libc::ETXTBSY) => Exit::Locked,
        Some(libc::EOPNOTSUPP | libc::ENOSYS) => Exit::Unsupported,
        _ => Exit::Failed,
    }
}

/// The system's words in lower case and without its number, to end a sentence with.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    match letters.next() {
        Some(first) if letters.as_str().starts_with(char::is_lowercase) => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_those_of_the_contract() {
        let codes = Exit::ALL.map(|exit| (exit.code(), exit.name(), exit.disposition()));
        let want = [
            (0, "ok", "done"),
            (1, "failed", "operator"),
            (2, "usage", "operator"),
            (5, "mismatch", "operator"),
            (7, "space", "operator"),
            (8, "unsupported", "operator"),
            (9, "denied", "operator"),
            (11, "locked", "retry"),
            (12, "cancelled", "done"),
            (130, "interrupted", "retry"),
            (143, "terminated", "retry"),
        ];
        assert_eq!(codes, want);
    }

    #[test]
    fn what_the_system_says_becomes_a_code() {
        let codes = [
            (libc::ENOSPC, Exit::Space),
            (libc::EDQUOT, Exit::Space),
            (libc::EACCES, Exit::Denied),
            (libc::EROFS, Exit::Denied),
            (libc::EBUSY, Exit::Locked),
            (libc::EIO, Exit::Failed),
            (libc::ENOENT, Exit::Failed),
        ];
        for (errno, exit) in codes {
            let error = io::Error::from_raw_os_error(errno);
            let failure = Failure::io("cannot do it", &error);
            assert_eq!((failure.exit, failure.errno), (exit, Some(errno)));
            let error = BlockError::io("cannot do it", io::Error::from_raw_os_error(errno));
            assert_eq!(Failure::block("copying", &error).exit, exit, "{errno}");
        }
    }

    #[test]
    fn a_sentence_does_not_end_in_a_number() {
        let error = io::Error::from_raw_os_error(libc::ENOENT);
        let failure = Failure::io("cannot open 'a'", &error);
        assert_eq!(failure.text, "cannot open 'a': no such file or directory");
    }
}
