//! The verb table, in letters: one for each status.

use job::JobStatus;

use crate::act::Verb;

/// The name of a verb in error texts, and the statuses that accept it.
pub(crate) fn of_verb(verb: Verb) -> Option<(&'static str, &'static str)> {
    Some(match verb {
        Verb::Pause => ("pause", "CRPYS"),
        Verb::Resume => ("resume", "CRPYS"),
        Verb::CheckSetSpeed => ("set-speed", "CRPYS"),
        Verb::CheckChange => ("change", "CRPYS"),
        Verb::SoftCancel | Verb::Cancel => ("cancel", "CRPYSWD"),
        Verb::Complete => ("complete", "YS"),
        Verb::Finalize => ("finalize", "D"),
        Verb::Dismiss => ("dismiss", "E"),
        _ => return None,
    })
}

/// The letter of a status.
pub(crate) fn of(status: JobStatus) -> char {
    match status {
        JobStatus::Created => 'C',
        JobStatus::Running => 'R',
        JobStatus::Paused => 'P',
        JobStatus::Ready => 'Y',
        JobStatus::Standby => 'S',
        JobStatus::Waiting => 'W',
        JobStatus::Pending => 'D',
        JobStatus::Aborting => 'X',
        JobStatus::Concluded => 'E',
        JobStatus::Null => 'N',
    }
}
