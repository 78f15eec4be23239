//! A backup as clients ask for it, by names and signed numbers; what is wrong with it is said in the protocol's words.

use aio::Handle;
use block::{Graph, Node, copy::SourceAfter, nodes::copy_before_write::OnCbwError};
use blockjob::{OnError, speed_from_client};
use job::Trigger;

use super::{
    BackupError,
    options::{BackupBitmap, BackupOptions, BackupSpec, BackupSync, refused},
};
use crate::sync_bitmap::BitmapMode;

/// What clients may ask a backup to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestedSync {
    /// As [`BackupSync`].
    Sync(BackupSync),
    /// What is dirty in a bitmap, which is brought up to date if the job ends well.
    Incremental,
}

impl RequestedSync {
    /// Everything that clients may ask for.
    pub const ALL: [Self; 5] = [
        Self::Sync(BackupSync::Full),
        Self::Sync(BackupSync::Top),
        Self::Sync(BackupSync::None),
        Self::Sync(BackupSync::Bitmap),
        Self::Incremental,
    ];

    /// The name that clients use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sync(sync) => sync.as_str(),
            Self::Incremental => "incremental",
        }
    }

    /// What has this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|sync| sync.as_str() == name)
    }
}

/// A backup as a client asks for it. What is `None` was not given.
#[derive(Clone, Debug)]
pub struct BackupRequest {
    /// The job's id; it has to be given in the end.
    pub job_id: Option<String>,
    /// Name of the source.
    pub device: String,
    /// Name of the target.
    pub target: String,
    /// What to copy.
    pub sync: RequestedSync,
    /// Name of a bitmap of the source.
    pub bitmap: Option<String>,
    /// What becomes of the bitmap.
    pub bitmap_mode: Option<BitmapMode>,
    /// Compressed writes, which no target has.
    pub compress: bool,
    /// What becomes of the source's bytes.
    pub discard_source: SourceAfter,
    /// Speed limit in bytes per second; zero is none.
    pub speed: i64,
    /// What to do when the source cannot be read.
    pub on_source_error: OnError,
    /// What to do when the target cannot be written.
    pub on_target_error: OnError,
    /// What gives way when old data cannot be saved.
    pub on_cbw_error: Option<OnCbwError>,
    /// Most requests in flight.
    pub max_workers: Option<i64>,
    /// Most bytes in a request; zero is no limit.
    pub max_chunk: Option<i64>,
    /// Smallest unit of copying in bytes.
    pub min_cluster_size: Option<u64>,
    /// Name of the filter.
    pub filter_node_name: Option<String>,
    /// Who makes the job's result permanent.
    pub finalize: Trigger,
    /// Who forgets the job.
    pub dismiss: Trigger,
}

impl BackupRequest {
    /// A request with nothing but what must be given.
    #[must_use]
    pub fn new(device: &str, target: &str, sync: RequestedSync) -> Self {
        Self {
            job_id: None,
            device: device.to_owned(),
            target: target.to_owned(),
            sync,
            bitmap: None,
            bitmap_mode: None,
            compress: false,
            discard_source: SourceAfter::Kept,
            speed: 0,
            on_source_error: OnError::Report,
            on_target_error: OnError::Report,
            on_cbw_error: None,
            max_workers: None,
            max_chunk: None,
            min_cluster_size: None,
            filter_node_name: None,
            finalize: Trigger::Auto,
            dismiss: Trigger::Auto,
        }
    }

    /// What it means in this graph. The job is to run on the context behind `context`.
    ///
    /// Whether the bitmap exists shows at the start: an action before it may add it.
    ///
    /// # Errors
    ///
    /// [`BackupError::Refused`], for the first thing that is wrong.
    pub fn resolve(self, graph: &Graph, context: &Handle) -> Result<BackupSpec, BackupError> {
        let (source, target) = self.nodes(graph)?;
        let (sync, bitmap) = self.sync_and_bitmap()?;
        if self.compress {
            return refused("Compression is not supported for this drive ");
        }
        let defaults = BackupOptions::new(self.job_id.clone().unwrap_or_default());
        let options = BackupOptions {
            sync,
            bitmap,
            speed_bytes_per_s: self.speed()?,
            on_source_error: self.on_source_error,
            on_target_error: self.on_target_error,
            on_cbw_error: self.on_cbw_error.unwrap_or(defaults.on_cbw_error),
            source_after: self.discard_source,
            max_workers: self.max_workers()?,
            max_chunk_bytes: self.max_chunk()?,
            min_cluster_bytes: self.min_cluster_size.unwrap_or(0),
            filter_name: self.filter_node_name,
            finalize: self.finalize,
            dismiss: self.dismiss,
            ..defaults
        };
        options.check(&target)?;
        Ok(BackupSpec {
            source,
            target,
            context: context.clone(),
            options,
        })
    }

    fn nodes(&self, graph: &Graph) -> Result<(Node, Node), BackupError> {
        let find = |name: &str| {
            graph.node(name).or_else(|_| {
                refused(format!(
                    "Cannot find device='{name}' nor node-name='{name}'"
                ))
            })
        };
        let (source, target) = (find(&self.device)?, find(&self.target)?);
        if source == target {
            return refused("Source and target cannot be the same");
        }
        if source.len_bytes() != target.len_bytes() {
            return refused("Source and target image have different sizes");
        }
        Ok((source, target))
    }

    fn sync_and_bitmap(&self) -> Result<(BackupSync, Option<BackupBitmap>), BackupError> {
        let (sync, mode) = match (self.sync, &self.bitmap, self.bitmap_mode) {
            (
                sync @ (RequestedSync::Incremental | RequestedSync::Sync(BackupSync::Bitmap)),
                None,
                _,
            ) => {
                let sync = sync.as_str();
                return refused(format!(
                    "must provide a valid bitmap name for '{sync}' sync mode"
                ));
            }
            (RequestedSync::Incremental, _, mode) => match mode {
                None | Some(BitmapMode::OnSuccess) => {
                    (BackupSync::Bitmap, Some(BitmapMode::OnSuccess))
                }
                Some(_) => {
                    return refused(
                        "Bitmap sync mode must be 'on-success' when using sync mode 'incremental'",
                    );
                }
            },
            (RequestedSync::Sync(sync), _, mode) => (sync, mode),
        };
        match (&self.bitmap, mode) {
            (None, None) => Ok((sync, None)),
            (None, Some(_)) => refused("Cannot specify bitmap sync mode without a bitmap"),
            (Some(_), None) => refused("Bitmap sync mode must be given when providing a bitmap"),
            (Some(name), Some(mode)) => {
                let name = name.clone();
                Ok((sync, Some(BackupBitmap { name, mode })))
            }
        }
    }

    fn speed(&self) -> Result<u64, BackupError> {
        speed_from_client(self.speed).or_else(|negative| refused(negative.to_string()))
    }

    fn max_workers(&self) -> Result<Option<u32>, BackupError> {
        let Some(workers) = self.max_workers else {
            return Ok(None);
        };
        match i32::try_from(workers).map(u32::try_from) {
            Ok(Ok(workers)) if workers > 0 => Ok(Some(workers)),
            _ => refused("max-workers must be between 1 and 2147483647"),
        }
    }

    fn max_chunk(&self) -> Result<Option<u64>, BackupError> {
        match self.max_chunk.map(u64::try_from) {
            None | Some(Ok(0)) => Ok(None),
            Some(Ok(bytes)) => Ok(Some(bytes)),
            Some(Err(_)) => refused("max-chunk must be zero (which means no limit) or positive"),
        }
    }
}
