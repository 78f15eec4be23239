//! A mirror as clients ask for it, by names and signed numbers; what is wrong with it is said in the protocol's words.

use block::{
    BlockError, Graph, Node, Operation,
    copy::TargetContent,
    mirror::{CopyMode, Unmap},
};
use blockjob::{OnError, speed_from_client};
use job::Trigger;

use super::{
    MirrorBitmap, MirrorError, MirrorOptions, MirrorSync, NamedBitmaps, held::check_replaces,
    refused,
};
use crate::sync_bitmap::BitmapMode;

/// The granularities that clients may ask for, in bytes.
const GRANULARITY_BYTES: std::ops::RangeInclusive<u64> = 512..=64 << 20;
/// What clients get who do not say how much memory the copy may have, in bytes.
const BUFFER_BYTES: u64 = 16 << 20;

/// What clients may ask a mirror to copy at first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequestedMirrorSync {
    /// Everything.
    #[default]
    Full,
    /// What the top layer has.
    Top,
    /// Nothing.
    None,
    /// What is dirty in a bitmap.
    Bitmap,
    /// What no mirror does.
    Incremental,
}

impl RequestedMirrorSync {
    /// Everything that clients may ask for.
    pub const ALL: [Self; 5] = [
        Self::Full,
        Self::Top,
        Self::None,
        Self::Bitmap,
        Self::Incremental,
    ];

    /// The name that clients use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Top => "top",
            Self::None => "none",
            Self::Bitmap => "bitmap",
            Self::Incremental => "incremental",
        }
    }

    /// What has this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|sync| sync.as_str() == name)
    }
}

/// A mirror as a client asks for it. What is `None` was not given.
#[derive(Clone, Debug)]
pub struct MirrorRequest {
    /// The job's id; it has to be given in the end.
    pub job_id: Option<String>,
    /// Name of the source.
    pub device: String,
    /// Name of the target.
    pub target: String,
    /// What to copy at first.
    pub sync: RequestedMirrorSync,
    /// Name of a bitmap of the source.
    pub bitmap: Option<String>,
    /// What becomes of the bitmap.
    pub bitmap_mode: Option<BitmapMode>,
    /// Name of the node whose place the target takes.
    pub replaces: Option<String>,
    /// Speed limit in bytes per second; zero is none.
    pub speed: i64,
    /// Unit of what is remembered as different, in bytes.
    pub granularity: Option<u64>,
    /// Most memory for data on its way, in bytes; zero for the default.
    pub buf_size: Option<i64>,
    /// What to do when the source cannot be read.
    pub on_source_error: OnError,
    /// What to do when the target cannot be written.
    pub on_target_error: OnError,
    /// Whether zeroes may be made by giving up space of the target.
    pub unmap: Unmap,
    /// What is known of the target.
    pub target_content: TargetContent,
    /// When guests' writes get to the target.
    pub copy_mode: CopyMode,
    /// Name of the filter.
    pub filter_node_name: Option<String>,
    /// What becomes of the source's named bitmaps.
    pub bitmaps: NamedBitmaps,
    /// Who makes the job's result permanent.
    pub finalize: Trigger,
    /// Who forgets the job.
    pub dismiss: Trigger,
}

/// What a request means: which nodes, and how.
#[derive(Clone, Debug)]
pub struct MirrorSpec {
    /// The source.
    pub source: Node,
    /// The target.
    pub target: Node,
    /// How.
    pub options: MirrorOptions,
}

impl MirrorRequest {
    /// A request with nothing but what must be given.
    #[must_use]
    pub fn new(device: &str, target: &str, sync: RequestedMirrorSync) -> Self {
        Self {
            job_id: None,
            device: device.to_owned(),
            target: target.to_owned(),
            sync,
            bitmap: None,
            bitmap_mode: None,
            replaces: None,
            speed: 0,
            granularity: None,
            buf_size: None,
            on_source_error: OnError::Report,
            on_target_error: OnError::Report,
            unmap: Unmap::Allowed,
            target_content: TargetContent::Unknown,
            copy_mode: CopyMode::Background,
            filter_node_name: None,
            bitmaps: NamedBitmaps::Stay,
            finalize: Trigger::Auto,
            dismiss: Trigger::Auto,
        }
    }

    /// What it means in this graph.
    ///
    /// # Errors
    ///
    /// [`MirrorError::Refused`], for the first thing that is wrong.
    pub fn resolve(self, graph: &Graph) -> Result<MirrorSpec, MirrorError> {
        let source = find_device(graph, &self.device)?;
        if !graph.is_root(&source).or_else(in_its_words)? {
            return refused("Need a root block node");
        }
        let target = find_device(graph, &self.target)?;
        let granularity_bytes = self.granularity()?;
        for (node, operation) in [
            (&source, Operation::MirrorSource),
            (&target, Operation::MirrorTarget),
        ] {
            graph
                .check_operation(node, operation)
                .or_else(in_its_words)?;
        }
        let replaces = self.replaces(graph, (&source, &target))?;
        let sync = self.sync()?;
        let options = MirrorOptions {
            sync,
            copy_mode: self.copy_mode,
            granularity_bytes,
            buffer_bytes_max: self.buf_size()?,
            unmap: self.unmap,
            target_content: self.target_content,
            replaces,
            speed_bytes_per_s: self.speed()?,
            on_source_error: self.on_source_error,
            on_target_error: self.on_target_error,
            filter_name: self.filter_node_name,
            bitmaps: self.bitmaps,
            finalize: self.finalize,
            dismiss: self.dismiss,
            ..MirrorOptions::new(self.job_id.unwrap_or_default())
        };
        if source == target {
            return refused("Can't mirror node into itself");
        }
        options.check()?;
        Ok(MirrorSpec {
            source,
            target,
            options,
        })
    }

    fn granularity(&self) -> Result<Option<u64>, MirrorError> {
        match self.granularity {
            Some(bytes) if !GRANULARITY_BYTES.contains(&bytes) => {
                refused("Parameter 'granularity' expects a value in range [512B, 64MB]")
            }
            Some(bytes) if !bytes.is_power_of_two() => {
                refused("Parameter 'granularity' expects a power of 2")
            }
            granularity => Ok(granularity),
        }
    }

    fn buf_size(&self) -> Result<u64, MirrorError> {
        match self.buf_size.map(u64::try_from) {
            None | Some(Ok(0)) => Ok(BUFFER_BYTES),
            Some(Ok(bytes)) => Ok(bytes),
            Some(Err(_)) => refused("Invalid parameter 'buf-size'"),
        }
    }

    fn replaces(
        &self,
        graph: &Graph,
        (source, target): (&Node, &Node),
    ) -> Result<Option<Node>, MirrorError> {
        let Some(name) = &self.replaces else {
            return Ok(None);
        };
        let replaced = graph.node(name).or_else(in_its_words)?;
        check_replaces(graph, (source, target), &replaced).or_else(in_its_words)?;
        Ok(Some(replaced))
    }

    fn sync(&self) -> Result<MirrorSync, MirrorError> {
        let name = self.sync.as_str();
        match (self.sync, &self.bitmap, self.bitmap_mode) {
            (RequestedMirrorSync::Incremental, _, _) => {
                refused(format!("Sync mode '{name}' not supported"))
            }
            (RequestedMirrorSync::Bitmap, None, _) => refused(format!(
                "must provide a valid bitmap name for '{name}' sync mode"
            )),
            (RequestedMirrorSync::Bitmap, Some(_), None) => {
                refused("Bitmap sync mode must be given when providing a bitmap")
            }
            (RequestedMirrorSync::Bitmap, Some(name), Some(mode)) => {
                let name = name.clone();
                Ok(MirrorSync::Bitmap(MirrorBitmap { name, mode }))
            }
            (_, Some(_), _) => refused(format!(
                "sync mode '{name}' does not produce meaningful bitmap outputs"
            )),
            (_, None, Some(_)) => refused("Cannot specify bitmap sync mode without a bitmap"),
            (RequestedMirrorSync::Full, None, None) => Ok(MirrorSync::Full),
            (RequestedMirrorSync::Top, None, None) => Ok(MirrorSync::Top),
            (RequestedMirrorSync::None, None, None) => Ok(MirrorSync::None),
        }
    }

    fn speed(&self) -> Result<u64, MirrorError> {
        speed_from_client(self.speed).or_else(|negative| refused(negative.to_string()))
    }
}

fn find_device(graph: &Graph, name: &str) -> Result<Node, MirrorError> {
    graph.node(name).or_else(|_| {
        refused(format!(
            "Cannot find device='{name}' nor node-name='{name}'"
        ))
    })
}

/// What the graph says is what clients hear.
fn in_its_words<T>(error: BlockError) -> Result<T, MirrorError> {
    refused(error.to_string())
}
