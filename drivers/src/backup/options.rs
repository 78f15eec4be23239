//! What a backup is to do, and which combinations make no sense.

use aio::Handle;
use block::{
    BlockError, Node,
    copy::{BUFFER_BYTES_MAX, BlockCopy, Offload, SourceAfter, TargetContent},
    nodes::copy_before_write::OnCbwError,
};
use blockjob::OnError;
use job::Trigger;

use super::BackupError;
use crate::{
    copy_engine::{EngineOptions, ErrorPolicies},
    pace::PaceLimits,
    sync_bitmap::BitmapMode,
};

/// Which part of the source a backup copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackupSync {
    /// Everything.
    #[default]
    Full,
    /// What the source has itself, and not what it reads from its backing child.
    Top,
    /// Only what guests overwrite, just before they do: the target is a snapshot of it. Runs until it is cancelled.
    None,
    /// What is dirty in a bitmap of the source.
    Bitmap,
}

impl BackupSync {
    /// The name that clients use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Top => "top",
            Self::None => "none",
            Self::Bitmap => "bitmap",
        }
    }
}

/// A bitmap of the source that a backup works on.
///
/// With [`BackupSync::Bitmap`] it says what to copy; with full and top it is brought to what the target has then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupBitmap {
    /// Its name; an earlier action of the same transaction may have to add it first.
    pub name: String,
    /// What becomes of it at the end.
    pub mode: BitmapMode,
}

/// What a backup is to do.
#[derive(Clone, Debug)]
pub struct BackupOptions {
    /// The job's id.
    pub job_id: String,
    /// Which part of the source to copy.
    pub sync: BackupSync,
    /// The bitmap to work on.
    pub bitmap: Option<BackupBitmap>,
    /// Speed limit of the background copy in bytes per second; zero is none.
    pub speed_bytes_per_s: u64,
    /// What to do when the source cannot be read.
    pub on_source_error: OnError,
    /// What to do when the target cannot be written.
    pub on_target_error: OnError,
    /// What gives way when a guest write's old data cannot be saved: by default the backup, which then fails.
    pub on_cbw_error: OnCbwError,
    /// Longest time in nanoseconds that a guest write waits for its old data to be saved; `None` for no limit.
    pub cbw_timeout_ns: Option<u64>,
    /// What is known of the target.
    pub target_content: TargetContent,
    /// What becomes of the source's bytes once the target has them. To discard those that guests still want is to lose
    /// them: it is for a source that is read for this backup alone.
    pub source_after: SourceAfter,
    /// Whether the kernel may move the data, by sharing blocks for instance.
    pub offload: Offload,
    /// Most requests of the background copy in flight; `None` for what the devices take.
    pub max_workers: Option<u32>,
    /// Most bytes in such a request, at least a cluster; `None` for what suits the devices.
    pub max_chunk_bytes: Option<u64>,
    /// Smallest unit of copying in bytes, a power of two; zero for none of its own.
    pub min_cluster_bytes: u64,
    /// Most bytes of buffers of this backup, those for guests included; one buffer may always be.
    pub buffer_bytes_max: u64,
    /// Most that the background copy may add to the 99th percentile of what guest writes take, in nanoseconds. It
    /// goes as slowly as that needs, but never stands still: [`PaceReport`](crate::PaceReport) says whether the budget
    /// is kept. `None`: it makes way for guests as far as that costs the copy little.
    pub guest_latency_ns: Option<u64>,
    /// The contexts that requests of the background copy run on, dealt out by load; empty for that of the job.
    pub contexts: Vec<Handle>,
    /// Name of the filter above the source; `None` for an automatic one.
    pub filter_name: Option<String>,
    /// Who makes the job's result permanent.
    pub finalize: Trigger,
    /// Who forgets the job once it is concluded.
    pub dismiss: Trigger,
}

impl BackupOptions {
    /// Everything, without a limit; errors are reported, and a broken target fails the job and not the guest.
    #[must_use]
    pub fn new(job_id: impl Into<String>) -> Self {
        Self {
            job_id: job_id.into(),
            sync: BackupSync::Full,
            bitmap: None,
            speed_bytes_per_s: 0,
            on_source_error: OnError::Report,
            on_target_error: OnError::Report,
            on_cbw_error: OnCbwError::BreakSnapshot,
            cbw_timeout_ns: None,
            target_content: TargetContent::Unknown,
            source_after: SourceAfter::Kept,
            offload: Offload::Auto,
            max_workers: None,
            max_chunk_bytes: None,
            min_cluster_bytes: 0,
            buffer_bytes_max: BUFFER_BYTES_MAX,
            guest_latency_ns: None,
            contexts: Vec::new(),
            filter_name: None,
            finalize: Trigger::Auto,
            dismiss: Trigger::Auto,
        }
    }

    pub(super) fn engine(&self) -> EngineOptions {
        EngineOptions {
            policies: self.policies(),
            pace: PaceLimits {
                workers_max: self.max_workers.unwrap_or(u32::MAX),
                chunk_bytes_max: self.max_chunk_bytes.unwrap_or(u64::MAX),
                buffer_bytes_max: self.buffer_bytes_max,
                guest_latency_ns: self.guest_latency_ns,
            },
            contexts: self.contexts.clone(),
        }
    }

    pub(super) fn policies(&self) -> ErrorPolicies {
        ErrorPolicies {
            source: self.on_source_error,
            target: self.on_target_error,
        }
    }

    /// Refuses what makes no sense, whatever the state of the nodes.
    pub(super) fn check(&self, target: &Node) -> Result<(), BackupError> {
        self.check_bitmap()?;
        if self.max_workers == Some(0) {
            return refused("max-workers must be between 1 and 2147483647");
        }
        if self.min_cluster_bytes != 0 && !self.min_cluster_bytes.is_power_of_two() {
            return refused("min-cluster-size needs to be a power of 2");
        }
        let cluster = BlockCopy::cluster_bytes_for(&target.limits(), self.min_cluster_bytes);
        match self.max_chunk_bytes {
            Some(chunk) if chunk < cluster => refused(format!(
                "Required max-chunk ({chunk}) is less than backup cluster size ({cluster})"
            )),
            Some(_) | None => Ok(()),
        }
    }

    fn check_bitmap(&self) -> Result<(), BackupError> {
        match (self.sync, self.bitmap.as_ref().map(|bitmap| bitmap.mode)) {
            (BackupSync::Bitmap, None) => {
                refused("must provide a valid bitmap name for 'bitmap' sync mode")
            }
            (BackupSync::None, Some(_)) => {
                refused("sync mode 'none' does not produce meaningful bitmap outputs")
            }
            (sync @ (BackupSync::Full | BackupSync::Top), Some(BitmapMode::Never)) => {
                refused(format!(
                    "Bitmap sync mode 'never' has no meaningful effect when combined with sync mode '{}'",
                    sync.as_str()
                ))
            }
            _ => Ok(()),
        }
    }
}

/// One backup: of which node, to which, on which context, and how.
#[derive(Clone, Debug)]
pub struct BackupSpec {
    /// What is read.
    pub source: Node,
    /// What is written, of the same length.
    pub target: Node,
    /// Where the job runs.
    pub context: Handle,
    /// How.
    pub options: BackupOptions,
}

impl BackupSpec {
    /// It cannot be, because of a node.
    pub(super) fn refused(&self, error: BlockError) -> BackupError {
        BackupError::Node {
            from: self.source.name().to_owned(),
            to: self.target.name().to_owned(),
            source: Box::new(error),
        }
    }
}

/// An answer in the words of the protocol.
pub(super) fn refused<T>(text: impl Into<String>) -> Result<T, BackupError> {
    Err(BackupError::Refused(text.into()))
}
