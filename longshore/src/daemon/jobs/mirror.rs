//! `blockdev-mirror`.

use std::rc::Rc;

use block::{copy::TargetContent, mirror::Unmap};
use drivers::mirror::{Mirror, MirrorRequest, MirrorSpec, NamedBitmaps, RequestedMirrorSync};
use qmp::{QmpError, qapi_struct};

use super::{
    super::{Daemon, command::Command, error::IntoQmp},
    types::{BitmapSyncMode, BlockdevOnError, MirrorCopyMode, MirrorSyncMode, trigger},
};

pub(super) fn commands() -> Vec<Command> {
    vec![Command::new("blockdev-mirror", blockdev_mirror)]
}

qapi_struct! {
    /// Arguments of `blockdev-mirror`.
    pub(crate) struct BlockdevMirror {
        /// The job's id.
        job_id: Option<String>,
        /// Name of the source.
        device: String,
        /// Name of the target.
        target: String,
        /// Name of the node whose place the target takes; by default the source.
        replaces: Option<String>,
        /// What to copy at first.
        sync: MirrorSyncMode,
        /// Speed limit in bytes per second; zero is none.
        speed: Option<i64>,
        /// Unit of what is remembered as different, in bytes.
        granularity: Option<u32>,
        /// Most memory for data on its way, in bytes; zero for the default.
        buf_size: Option<i64>,
        /// What to do when the source cannot be read.
        on_source_error: Option<BlockdevOnError>,
        /// What to do when the target cannot be written.
        on_target_error: Option<BlockdevOnError>,
        /// Name of the filter above the source.
        filter_node_name: Option<String>,
        /// When guests' writes get to the target.
        copy_mode: Option<MirrorCopyMode>,
        /// Whether the job makes its result permanent by itself.
        auto_finalize: Option<bool>,
        /// Whether the job is forgotten by itself.
        auto_dismiss: Option<bool>,
        /// Whether the target is known to read as zeroes.
        target_is_zero: Option<bool>,
        /// Whether zeroes may be made by giving up space of the target; they may by default.
        x_longshore_unmap: Option<bool>,
        /// Name of a bitmap of the source that says what to copy at first, for `sync=bitmap`.
        x_longshore_bitmap: Option<String>,
        /// What becomes of that bitmap.
        x_longshore_bitmap_mode: Option<BitmapSyncMode>,
        /// Whether the target gets copies of the source's named bitmaps when it takes its place.
        x_longshore_carry_bitmaps: Option<bool>,
    }
}

pub(super) async fn blockdev_mirror(
    daemon: &Rc<Daemon>,
    args: BlockdevMirror,
) -> Result<(), QmpError> {
    if matches!(args.sync, MirrorSyncMode::Bitmap) && args.x_longshore_bitmap.is_none() {
        return Err(QmpError::generic("Sync mode 'bitmap' not supported"));
    }
    let spec = request(args)
        .resolve(daemon.engine.graph())
        .map_err(IntoQmp::into_qmp)?;
    let MirrorSpec {
        source,
        target,
        options,
    } = spec;
    let context = source
        .context()
        .unwrap_or_else(|| daemon.context.handle().clone());
    let registry = (daemon.engine.graph(), daemon.registry());
    let started = Mirror::start(registry, &context, (&source, &target), options).await;
    started.map(drop).map_err(IntoQmp::into_qmp)
}

fn request(args: BlockdevMirror) -> MirrorRequest {
    let sync = match args.sync {
        MirrorSyncMode::Top => RequestedMirrorSync::Top,
        MirrorSyncMode::Full => RequestedMirrorSync::Full,
        MirrorSyncMode::None => RequestedMirrorSync::None,
        MirrorSyncMode::Incremental => RequestedMirrorSync::Incremental,
        MirrorSyncMode::Bitmap => RequestedMirrorSync::Bitmap,
    };
    MirrorRequest {
        job_id: args.job_id,
        bitmap: args.x_longshore_bitmap,
        bitmap_mode: args.x_longshore_bitmap_mode.map(Into::into),
        replaces: args.replaces,
        speed: args.speed.unwrap_or(0),
        granularity: args.granularity.map(u64::from),
        buf_size: args.buf_size,
        on_source_error: args
            .on_source_error
            .map_or_else(Default::default, Into::into),
        on_target_error: args
            .on_target_error
            .map_or_else(Default::default, Into::into),
        unmap: match args.x_longshore_unmap {
            Some(false) => Unmap::Forbidden,
            Some(true) | None => Unmap::Allowed,
        },
        target_content: match args.target_is_zero {
            Some(true) => TargetContent::Zero,
            Some(false) | None => TargetContent::Unknown,
        },
        copy_mode: args.copy_mode.map_or_else(Default::default, Into::into),
        filter_node_name: args.filter_node_name,
        bitmaps: match args.x_longshore_carry_bitmaps {
            Some(true) => NamedBitmaps::Carried,
            Some(false) | None => NamedBitmaps::Stay,
        },
        finalize: trigger(args.auto_finalize),
        dismiss: trigger(args.auto_dismiss),
        ..MirrorRequest::new(&args.device, &args.target, sync)
    }
}
