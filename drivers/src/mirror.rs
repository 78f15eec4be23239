//! Mirror: a target that follows its source until it is equal and may take its place, while guests write on.
//!
//! ```text
//!   before          during                        after: completed      or: as it is
//!
//!   guest           guest                         guest                 guest
//!     |               |                             |                     |
//!   source          mirror-top --job              target                source    target: equal, and durable
//!                     |     |
//!                   source  target                source: as it was at the switch
//! ```
//!
//! The filter goes in under drain, and from then on every change of a guest's is noticed. The job copies what
//! differs. When nothing does for the first time it is *ready*: from then on it follows the guests, and can be asked
//! to [complete](job::Job::complete), which moves the guests to the target, or [softly
//! cancelled](job::CancelMode::Soft), which leaves them where they are and the target as it is then. Either way
//! they are held up from the last look until the job is finalized, so that both sides are equal at that instant.

mod body;
mod carried;
mod driver;
mod gain;
mod held;
mod request;
mod start;
mod work;

use std::sync::Arc;

use aio::Handle;
use block::{
    BlockError, Node,
    copy::{BUFFER_BYTES_MAX, CopyCounters, Offload, TargetContent},
    mirror::{CopyMode, MirrorLoad, Unmap},
    nodes::AddedLatency,
};
use blockjob::{BlockJob, OnError};
use job::{Job, JobError, Trigger};

use crate::{
    converge::{ConvergePolicy, ConvergeReport},
    copy_engine::{EngineOptions, ErrorPolicies},
    pace::{PaceLimits, PaceReport, Tuning},
    sync_bitmap::BitmapMode,
};
use driver::MirrorDriver;
pub use request::{MirrorRequest, MirrorSpec, RequestedMirrorSync};

/// What a mirror is to do.
#[derive(Clone, Debug)]
pub struct MirrorOptions {
    /// The job's id.
    pub job_id: String,
    /// What the target is to get at first.
    pub sync: MirrorSync,
    /// When a guest's write gets to the target.
    pub copy_mode: CopyMode,
    /// Unit in bytes of what is remembered as different; see
    /// [`MirrorCopyOptions`](block::mirror::MirrorCopyOptions::granularity_bytes).
    pub granularity_bytes: Option<u64>,
    /// Most bytes of the copy's buffers, all together; one request's at least.
    pub buffer_bytes_max: u64,
    /// Whether zeroes may be made by giving up space of the target.
    pub unmap: Unmap,
    /// What is known of the target.
    pub target_content: TargetContent,
    /// The node whose place the target takes on completion, if it is not the source: one whose content the source
    /// passes through.
    pub replaces: Option<Node>,
    /// Speed limit of the background copy in bytes per second, before it is ready and after; zero is none.
    pub speed_bytes_per_s: u64,
    /// What to do when the source cannot be read.
    pub on_source_error: OnError,
    /// What to do when the target cannot be written.
    pub on_target_error: OnError,
    /// Name of the filter's node; an automatic one otherwise.
    pub filter_name: Option<String>,
    /// What becomes of the source's named bitmaps when the target takes its place.
    pub bitmaps: NamedBitmaps,
    /// Whether the kernel may move the data of the background copy, by sharing blocks for instance.
    pub offload: Offload,
    /// Most requests of the background copy in flight; `None` for what the devices take.
    pub max_workers: Option<u32>,
    /// Most bytes in such a request; `None` for what suits the devices. At least a granule goes.
    pub max_chunk_bytes: Option<u64>,
    /// Most that the background copy may add to the 99th percentile of what guest writes take, in nanoseconds; see
    /// [`BackupOptions::guest_latency_ns`](crate::backup::BackupOptions::guest_latency_ns).
    pub guest_latency_ns: Option<u64>,
    /// What to do about guests that make more different than the copy makes equal.
    pub converge: ConvergePolicy,
    /// The contexts that requests of the background copy run on, dealt out by load; empty for that of the job.
    pub contexts: Vec<Handle>,
    /// Who makes the job's result permanent.
    pub finalize: Trigger,
    /// Who forgets the job once it is concluded.
    pub dismiss: Trigger,
}

/// What the target is to get at first. All that guests change from the start on comes on top.
#[derive(Clone, Debug, Default)]
pub enum MirrorSync {
    /// Everything.
    #[default]
    Full,
    /// What the source has itself, and not what it reads from its backing child.
    Top,
    /// Nothing.
    None,
    /// What is dirty in a bitmap of the source, which records on beside the job.
    Bitmap(MirrorBitmap),
}

/// A bitmap of the source that a mirror starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorBitmap {
    /// Its name.
    pub name: String,
    /// What becomes of it at the end. What a mirror that ended well leaves dirty is what was written after the switch.
    pub mode: BitmapMode,
}

/// What becomes of the source's named bitmaps when the target takes its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NamedBitmaps {
    /// They stay with the source.
    #[default]
    Stay,
    /// The target gets copies of them, which go on recording if those do.
    ///
    /// Of the bitmap that the mirror starts from it gets an empty one.
    Carried,
}

impl MirrorOptions {
    /// Everything, in the background, without a limit; errors are reported.
    #[must_use]
    pub fn new(job_id: impl Into<String>) -> Self {
        Self {
            job_id: job_id.into(),
            sync: MirrorSync::Full,
            copy_mode: CopyMode::Background,
            granularity_bytes: None,
            buffer_bytes_max: BUFFER_BYTES_MAX,
            unmap: Unmap::Allowed,
            target_content: TargetContent::Unknown,
            replaces: None,
            speed_bytes_per_s: 0,
            on_source_error: OnError::Report,
            on_target_error: OnError::Report,
            filter_name: None,
            bitmaps: NamedBitmaps::Stay,
            offload: Offload::Auto,
            max_workers: None,
            max_chunk_bytes: None,
            guest_latency_ns: None,
            converge: ConvergePolicy::GuestsFirst,
            contexts: Vec::new(),
            finalize: Trigger::Auto,
            dismiss: Trigger::Auto,
        }
    }

    /// Whether the options go together.
    fn check(&self) -> Result<(), MirrorError> {
        if self.max_workers == Some(0) {
            return refused("max-workers must be between 1 and 2147483647");
        }
        match (&self.sync, self.bitmaps) {
            // Nobody could say what the target's copy of it has to hold.
            (MirrorSync::Bitmap(bitmap), NamedBitmaps::Carried)
                if bitmap.mode == BitmapMode::Never =>
            {
                refused("A bitmap of mode 'never' cannot be carried over to the target")
            }
            _ => Ok(()),
        }
    }

    fn engine(&self) -> EngineOptions {
        EngineOptions {
            policies: ErrorPolicies {
                source: self.on_source_error,
                target: self.on_target_error,
            },
            pace: PaceLimits {
                workers_max: self.max_workers.unwrap_or(u32::MAX),
                chunk_bytes_max: self.max_chunk_bytes.unwrap_or(u64::MAX),
                buffer_bytes_max: self.buffer_bytes_max,
                guest_latency_ns: self.guest_latency_ns,
            },
            contexts: self.contexts.clone(),
        }
    }
}

/// A change of a running mirror, for [`JobChange`](blockjob::JobChange) of the kind `mirror`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MirrorChange {
    /// When guests' writes that begin from now on get to the target.
    pub copy_mode: CopyMode,
}

/// Why a mirror could not be started. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MirrorError {
    /// A node cannot take part.
    #[error("cannot mirror '{from}' to '{to}'")]
    Node {
        /// The source's name.
        from: String,
        /// The target's name.
        to: String,
        /// Why.
        #[source]
        source: Box<BlockError>,
    },
    /// What was asked for cannot be; in the words of the protocol.
    #[error("{0}")]
    Refused(String),
    /// The job cannot be made.
    #[error(transparent)]
    Job(#[from] JobError),
}

/// A refusal in the words of the protocol.
fn refused<T>(text: impl Into<String>) -> Result<T, MirrorError> {
    Err(MirrorError::Refused(text.into()))
}

/// How a mirror stands, or how it ended. All from about one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that do not depend on each other, each shown by itself"
)]
pub struct MirrorReport {
    /// Length of the source in bytes.
    pub len_bytes: u64,
    /// What is to do and what was done.
    pub load: MirrorLoad,
    /// How the bytes of the background copy went.
    pub counters: CopyCounters,
    /// Every acknowledged write is on both sides.
    pub is_actively_synced: bool,
    /// Requests of the background copy in flight; after a forced cancel, those that have not returned yet.
    pub requests_in_flight: u32,
    /// What bounds them.
    pub pace: PaceReport,
    /// Whether it gains on its guests.
    pub converge: ConvergeReport,
    /// What the filter has cost guest requests.
    pub guest: AddedLatency,
    /// Guests are held up: from the last look until the job is finalized.
    pub guests_wait: bool,
    /// Guests still use the filter. After the end, because requests of theirs inside it do not return: then it passes
    /// everything through, and goes when they are back.
    pub filter_is_in_place: bool,
    /// The target may change. After the end, because a request of the mirror has not returned: until it
    /// has, the target is refused to other users.
    pub target_may_change: bool,
}

/// A mirror under way, or ended. Cheap to clone; any thread; dropping it does nothing to the job.
#[derive(Clone, Debug)]
pub struct Mirror {
    job: Job,
    driver: Arc<MirrorDriver>,
}

impl Mirror {
    /// The mirror that `job` is, if it is one.
    #[must_use]
    pub fn of(job: &Job) -> Option<Self> {
        let driver = BlockJob::of(job)?.driver::<MirrorDriver>()?;
        let job = job.clone();
        Some(Self { job, driver })
    }

    /// The job.
    #[must_use]
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// How it stands; after its end, how it ended.
    #[must_use]
    pub fn report(&self) -> MirrorReport {
        self.driver.report()
    }

    /// When guests' writes get to the target; `None` once the mirror is over.
    #[must_use]
    pub fn copy_mode(&self) -> Option<CopyMode> {
        self.driver.copy_mode()
    }

    /// Changes that for writes that begin from now on.
    ///
    /// # Errors
    ///
    /// As [`Job::check_verb`] for `change`.
    pub fn set_copy_mode(&self, copy_mode: CopyMode) -> Result<(), JobError> {
        self.job.check_verb(job::JobVerb::Change)?;
        self.driver.set_copy_mode(copy_mode);
        Ok(())
    }

    /// Sets the speed limit in bytes per second; zero is none.
    ///
    /// # Errors
    ///
    /// As [`Job::check_verb`] for `set-speed`.
    pub fn set_speed(&self, speed_bytes_per_s: u64) -> Result<(), JobError> {
        self.job.check_verb(job::JobVerb::SetSpeed)?;
        self.driver.set_speed(speed_bytes_per_s);
        Ok(())
    }

    /// Changes what bounds the copy under way.
    ///
    /// # Errors
    ///
    /// As [`Job::check_verb`] for `change`.
    pub fn tune(&self, tuning: Tuning) -> Result<(), JobError> {
        self.job.check_verb(job::JobVerb::Change)?;
        self.driver.tune(tuning);
        self.job.wake();
        Ok(())
    }
}
