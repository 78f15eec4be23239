//! `blockdev-backup`.

use std::rc::Rc;

use block::{copy::SourceAfter, nodes::copy_before_write::OnCbwError};
use drivers::backup::{Backup, BackupError, BackupRequest, BackupSpec, BackupSync, RequestedSync};
use qmp::{QmpError, qapi_struct};

use super::{
    super::{Daemon, command::Command, error::IntoQmp},
    types::{BitmapSyncMode, BlockdevOnError, MirrorSyncMode, OnCbwErrorMode, trigger},
};

pub(super) fn commands() -> Vec<Command> {
    vec![Command::new("blockdev-backup", blockdev_backup)]
}

qapi_struct! {
    /// How a backup uses its nodes.
    pub(crate) struct BackupPerf {
        /// Whether the kernel may move the data; it does where that takes half the time, whatever is said here.
        use_copy_range: Option<bool>,
        /// Most requests in flight.
        max_workers: Option<i64>,
        /// Most bytes in a request; zero is no limit.
        max_chunk: Option<i64>,
        /// Smallest unit of copying in bytes, a power of two.
        min_cluster_size: Option<u64>,
    }
}

qapi_struct! {
    /// Arguments of `blockdev-backup`.
    pub(crate) struct BlockdevBackup {
        /// The job's id.
        job_id: Option<String>,
        /// Name of the source.
        device: String,
        /// Name of the target.
        target: String,
        /// What to copy.
        sync: MirrorSyncMode,
        /// Speed limit in bytes per second; zero is none.
        speed: Option<i64>,
        /// Name of a bitmap of the source.
        bitmap: Option<String>,
        /// What becomes of the bitmap.
        bitmap_mode: Option<BitmapSyncMode>,
        /// Compressed writes, which no target has.
        compress: Option<bool>,
        /// What to do when the source cannot be read.
        on_source_error: Option<BlockdevOnError>,
        /// What to do when the target cannot be written.
        on_target_error: Option<BlockdevOnError>,
        /// What gives way when old data cannot be saved; by default the backup.
        on_cbw_error: Option<OnCbwErrorMode>,
        /// Whether the source gives up its bytes once the target has them.
        discard_source: Option<bool>,
        /// Whether the job makes its result permanent by itself.
        auto_finalize: Option<bool>,
        /// Whether the job is forgotten by itself.
        auto_dismiss: Option<bool>,
        /// Name of the filter above the source.
        filter_node_name: Option<String>,
        /// How the job uses its nodes.
        x_perf: Option<BackupPerf>,
    }
}

pub(super) async fn blockdev_backup(
    daemon: &Rc<Daemon>,
    args: BlockdevBackup,
) -> Result<(), QmpError> {
    let spec = spec(daemon, args).map_err(IntoQmp::into_qmp)?;
    let BackupSpec {
        source,
        target,
        context,
        options,
    } = spec;
    let registry = (daemon.engine.graph(), daemon.registry());
    let started = Backup::start(registry, &context, (&source, &target), options).await;
    started.map(drop).map_err(IntoQmp::into_qmp)
}

/// What the arguments mean as things stand. The job is to run where its source is at home.
pub(in super::super) fn spec(
    daemon: &Daemon,
    args: BlockdevBackup,
) -> Result<BackupSpec, BackupError> {
    let mut spec = request(args).resolve(daemon.engine.graph(), daemon.context.handle())?;
    if let Some(home) = spec.source.context() {
        spec.context = home;
    }
    if let Some(name) = &spec.options.filter_name {
        let free = daemon.engine.graph().build_node(Some(name));
        free.map_err(|error| BackupError::Refused(format!("Could not create node: {error}")))?;
    }
    Ok(spec)
}

fn request(args: BlockdevBackup) -> BackupRequest {
    let sync = match args.sync {
        MirrorSyncMode::Top => RequestedSync::Sync(BackupSync::Top),
        MirrorSyncMode::Full => RequestedSync::Sync(BackupSync::Full),
        MirrorSyncMode::None => RequestedSync::Sync(BackupSync::None),
        MirrorSyncMode::Bitmap => RequestedSync::Sync(BackupSync::Bitmap),
        MirrorSyncMode::Incremental => RequestedSync::Incremental,
    };
    let perf = args.x_perf;
    BackupRequest {
        job_id: args.job_id,
        bitmap: args.bitmap,
        bitmap_mode: args.bitmap_mode.map(Into::into),
        compress: args.compress.unwrap_or(false),
        discard_source: match args.discard_source {
            Some(true) => SourceAfter::Discarded,
            Some(false) | None => SourceAfter::Kept,
        },
        speed: args.speed.unwrap_or(0),
        on_source_error: args
            .on_source_error
            .map_or_else(Default::default, Into::into),
        on_target_error: args
            .on_target_error
            .map_or_else(Default::default, Into::into),
        on_cbw_error: args.on_cbw_error.map(|mode| match mode {
            OnCbwErrorMode::BreakGuestWrite => OnCbwError::BreakGuestWrite,
            OnCbwErrorMode::BreakSnapshot => OnCbwError::BreakSnapshot,
        }),
        max_workers: perf.as_ref().and_then(|perf| perf.max_workers),
        max_chunk: perf.as_ref().and_then(|perf| perf.max_chunk),
        min_cluster_size: perf.as_ref().and_then(|perf| perf.min_cluster_size),
        filter_node_name: args.filter_node_name,
        finalize: trigger(args.auto_finalize),
        dismiss: trigger(args.auto_dismiss),
        ..BackupRequest::new(&args.device, &args.target, sync)
    }
}
