//! The one place where errors of ours become classes and texts of QMP.
//!
//! A text never repeats its source, so it is put together here: `what: why: and why that`.

use std::{error::Error, io};

use block::BlockError;
use drivers::{backup::BackupError, mirror::MirrorError};
use job::{JobError, JobErrorKind};
use nix::errno::Errno;
use qmp::QmpError;

use crate::export::ExportError;

/// An error of ours that clients are told.
pub(super) trait IntoQmp {
    /// Its class and its text.
    fn into_qmp(self) -> QmpError;
}

/// An error of a node or of the graph.
impl IntoQmp for BlockError {
    fn into_qmp(self) -> QmpError {
        QmpError {
            hint: self.hint().map(str::to_owned),
            ..QmpError::generic(whole_text(&self))
        }
    }
}

/// An error of a verb for jobs. Commands for block jobs say of an unknown one that it is not active.
impl IntoQmp for JobError {
    fn into_qmp(self) -> QmpError {
        let text = whole_text(&self);
        if self.kind() == JobErrorKind::NotFound && text.starts_with("Block job") {
            return QmpError::device_not_active(text);
        }
        QmpError::generic(text)
    }
}

/// Why a backup was refused.
impl IntoQmp for BackupError {
    fn into_qmp(self) -> QmpError {
        match self {
            Self::Node { source, .. } | Self::Bitmap(source) => source.into_qmp(),
            Self::Job(error) => error.into_qmp(),
            error => QmpError::generic(whole_text(&error)),
        }
    }
}

/// Why a mirror was refused.
impl IntoQmp for MirrorError {
    fn into_qmp(self) -> QmpError {
        match self {
            Self::Node { source, .. } => source.into_qmp(),
            Self::Job(error) => error.into_qmp(),
            error => QmpError::generic(whole_text(&error)),
        }
    }
}

/// Why a server or an export was refused.
impl IntoQmp for ExportError {
    fn into_qmp(self) -> QmpError {
        match self {
            Self::Node(error) => error.into_qmp(),
            error => QmpError::generic(whole_text(&error)),
        }
    }
}

/// An error of the system, behind what was tried.
pub(super) fn system(what: impl AsRef<str>, error: &io::Error) -> QmpError {
    QmpError::generic(format!("{}: {}", what.as_ref(), system_text(error)))
}

/// The system's text alone, without the number that the standard library adds.
pub(super) fn system_text(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    }
}

/// An error and what is behind it, in a line.
pub(super) fn whole_text(error: &(dyn Error + 'static)) -> String {
    let text_of = |error: &(dyn Error + 'static)| match error.downcast_ref::<io::Error>() {
        Some(error) => system_text(error),
        None => error.to_string(),
    };
    let mut text = text_of(error);
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&text_of(error));
        cause = error.source();
    }
    text
}
