//! [`JobHistoryEntry`]: what the registry still knows of a job that it has forgotten.

use std::{collections::VecDeque, sync::Arc};

use crate::{outcome::JobOutcome, progress::Progress, record::Record};

/// How a job ended that is dismissed by now, for those who come too late to see it listed.
#[derive(Clone, Debug)]
pub struct JobHistoryEntry {
    /// Counts the entries of the registry from 1, also those that it no longer keeps.
    pub sequence: u64,
    /// The id that the job had. Several entries may have the same, since it is free again.
    pub id: Arc<str>,
    /// What its driver called itself, such as `backup`.
    pub kind: &'static str,
    /// How it ended.
    pub outcome: JobOutcome,
    /// How far it had come.
    pub progress: Progress,
    /// Whether its body ever ran; one that was cancelled before had no event of its end.
    pub started: bool,
    /// When it was concluded, by the main context's wall clock: nanoseconds since 1970, UTC.
    pub ended_unix_ns: u64,
}

/// The last jobs that were forgotten. Guarded by the registry's lock.
#[derive(Debug, Default)]
pub(crate) struct History {
    max: usize,
    /// Newest first.
    entries: VecDeque<JobHistoryEntry>,
    last_sequence: u64,
}

impl History {
    /// A history that keeps the last `max` entries.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            ..Self::default()
        }
    }

    /// The entries, newest first.
    pub(crate) fn entries(&self) -> Vec<JobHistoryEntry> {
        self.entries.iter().cloned().collect()
    }

    /// Notes a job that is being forgotten, and returns the entry that has to go for it.
    ///
    /// Internal jobs are not noted, nor those that never ended because their creation failed.
    pub(crate) fn note(&mut self, record: &Record) -> Option<JobHistoryEntry> {
        let id = record.cell.id.clone()?;
        let ended_unix_ns = record.ended_unix_ns?;
        self.last_sequence += 1;
        self.entries.push_front(JobHistoryEntry {
            sequence: self.last_sequence,
            id,
            kind: record.cell.kind,
            outcome: record.outcome(),
            progress: record.cell.progress.snapshot(),
            started: record.is_started(),
            ended_unix_ns,
        });
        if self.entries.len() <= self.max {
            return None;
        }
        self.entries.pop_back()
    }
}
