//! Words that the commands for jobs share.

use block::mirror::CopyMode;
use blockjob::{IoStatus, OnError};
use drivers::BitmapMode;
use job::Trigger;
use qmp::{Qapi, Value, qapi_enum};

qapi_enum! {
    /// Which part of the source a job copies at first.
    pub(crate) enum MirrorSyncMode {
        /// What the top layer has.
        Top,
        /// Everything.
        Full,
        /// Nothing.
        None,
        /// What is dirty in a bitmap, which is brought up to date.
        Incremental,
        /// What is dirty in a bitmap.
        Bitmap,
    }
}

qapi_enum! {
    /// What becomes of the bitmap of a job at its end.
    pub(crate) enum BitmapSyncMode {
        /// If the job ended well, what was written since its start remains.
        OnSuccess,
        /// All is kept.
        Never,
        /// What the target has is forgotten, however the job ends.
        Always,
    }
}

qapi_enum! {
    /// What a job does about a failed read or write.
    pub(crate) enum BlockdevOnError {
        /// The job fails.
        Report,
        /// The job goes on.
        Ignore,
        /// The job stops if space ran out, and fails otherwise.
        Enospc,
        /// The job stops until it is resumed.
        Stop,
        /// What is best for a job: as `enospc`.
        Auto,
    }
}

qapi_enum! {
    /// What gives way when the old data under a guest's write cannot be saved.
    pub(crate) enum OnCbwErrorMode {
        /// The guest's write fails.
        BreakGuestWrite,
        /// The job fails.
        BreakSnapshot,
    }
}

qapi_enum! {
    /// When a guest's write gets to the target of a mirror.
    pub(crate) enum MirrorCopyMode {
        /// Some time after it has ended.
        Background,
        /// Before it ends.
        WriteBlocking,
    }
}

qapi_enum! {
    /// Where a job stands.
    pub(crate) enum JobStatus {
        /// Made, not started.
        Created,
        /// It runs.
        Running,
        /// Stopped by its user or an error.
        Paused,
        /// Converged; it can be completed.
        Ready,
        /// Stopped while it is ready.
        Standby,
        /// Done, unlike others of its transaction.
        Waiting,
        /// Done, until it is finalized.
        Pending,
        /// Failed or cancelled, and being undone.
        Aborting,
        /// Ended, until it is dismissed.
        Concluded,
        /// Forgotten.
        Null,
    }
}

qapi_enum! {
    /// Why a job stands still.
    pub(crate) enum BlockDeviceIoStatus {
        /// Not because of an error.
        Ok,
        /// An error stopped it.
        Failed,
        /// It ran out of space.
        Nospace,
    }
}

/// The value that has this name, which comes from where the protocol's types are not known.
pub(in crate::daemon) fn named<T: Qapi>(name: &str) -> Option<T> {
    T::from_json(&Value::from(name)).ok()
}

impl From<job::JobStatus> for JobStatus {
    fn from(status: job::JobStatus) -> Self {
        match status {
            job::JobStatus::Created => Self::Created,
            job::JobStatus::Running => Self::Running,
            job::JobStatus::Paused => Self::Paused,
            job::JobStatus::Ready => Self::Ready,
            job::JobStatus::Standby => Self::Standby,
            job::JobStatus::Waiting => Self::Waiting,
            job::JobStatus::Pending => Self::Pending,
            job::JobStatus::Aborting => Self::Aborting,
            job::JobStatus::Concluded => Self::Concluded,
            job::JobStatus::Null => Self::Null,
        }
    }
}

impl From<IoStatus> for BlockDeviceIoStatus {
    fn from(status: IoStatus) -> Self {
        match status {
            IoStatus::Ok => Self::Ok,
            IoStatus::Failed => Self::Failed,
            IoStatus::NoSpace => Self::Nospace,
        }
    }
}

impl From<BitmapSyncMode> for BitmapMode {
    fn from(mode: BitmapSyncMode) -> Self {
        match mode {
            BitmapSyncMode::OnSuccess => Self::OnSuccess,
            BitmapSyncMode::Never => Self::Never,
            BitmapSyncMode::Always => Self::Always,
        }
    }
}

impl From<BlockdevOnError> for OnError {
    fn from(policy: BlockdevOnError) -> Self {
        match policy {
            BlockdevOnError::Report => Self::Report,
            BlockdevOnError::Ignore => Self::Ignore,
            BlockdevOnError::Enospc => Self::Enospc,
            BlockdevOnError::Stop => Self::Stop,
            BlockdevOnError::Auto => Self::Auto,
        }
    }
}

impl From<MirrorCopyMode> for CopyMode {
    fn from(mode: MirrorCopyMode) -> Self {
        match mode {
            MirrorCopyMode::Background => Self::Background,
            MirrorCopyMode::WriteBlocking => Self::WriteBlocking,
        }
    }
}

/// What a client did not say is done by the job itself.
pub(super) fn trigger(is_auto: Option<bool>) -> Trigger {
    match is_auto {
        Some(false) => Trigger::Manual,
        Some(true) | None => Trigger::Auto,
    }
}
