//! `drive-backup` and `drive-mirror`: jobs whose targets are paths.

use std::rc::Rc;

use block::Operation;
use qmp::{QmpError, qapi_struct};

use super::{
    super::{
        Daemon,
        command::Command,
        error::IntoQmp,
        nodes::{Image, ImplicitNode, NewImageMode, device_or_node},
    },
    backup::{self, BackupPerf, BlockdevBackup},
    mirror::{self, BlockdevMirror},
    types::{BitmapSyncMode, BlockdevOnError, MirrorCopyMode, MirrorSyncMode, OnCbwErrorMode},
};

pub(super) fn commands() -> Vec<Command> {
    vec![
        Command::new("drive-backup", drive_backup).deprecated(),
        Command::new("drive-mirror", drive_mirror),
    ]
}

qapi_struct! {
    /// Arguments of `drive-backup`.
    pub(crate) struct DriveBackup {
        /// The job's id.
        job_id: Option<String>,
        /// Name of the source.
        device: String,
        /// Path of the target.
        target: String,
        /// Format of the target.
        format: Option<String>,
        /// Whether the target is there; unless told otherwise, it is made.
        mode: Option<NewImageMode>,
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

qapi_struct! {
    /// Arguments of `drive-mirror`.
    pub(crate) struct DriveMirror {
        /// The job's id.
        job_id: Option<String>,
        /// Name of the source.
        device: String,
        /// Path of the target.
        target: String,
        /// Format of the target.
        format: Option<String>,
        /// Name of the target's node.
        node_name: Option<String>,
        /// Name of the node whose place the target takes; by default the source.
        replaces: Option<String>,
        /// What to copy at first.
        sync: MirrorSyncMode,
        /// Whether the target is there; unless told otherwise, it is made.
        mode: Option<NewImageMode>,
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
        /// Whether zeroes may be made by giving up space of the target; they may by default.
        unmap: Option<bool>,
        /// When guests' writes get to the target.
        copy_mode: Option<MirrorCopyMode>,
        /// Whether the job makes its result permanent by itself.
        auto_finalize: Option<bool>,
        /// Whether the job is forgotten by itself.
        auto_dismiss: Option<bool>,
    }
}

async fn drive_backup(daemon: &Rc<Daemon>, args: DriveBackup) -> Result<(), QmpError> {
    let (target, args) = backup_target(daemon, args).await?;
    let job_id = args.job_id.clone();
    backup::blockdev_backup(daemon, args).await?;
    target.leave_to(daemon, job_id.as_deref());
    Ok(())
}

/// The target of a backup, and what is left to be done with it.
pub(in super::super) async fn backup_target(
    daemon: &Rc<Daemon>,
    args: DriveBackup,
) -> Result<(ImplicitNode, BlockdevBackup), QmpError> {
    let graph = daemon.engine.graph();
    let source = device_or_node(daemon, &args.device)?;
    let allowed = graph.check_operation(&source, Operation::BackupSource);
    allowed.map_err(IntoQmp::into_qmp)?;
    let is_new = args.mode != Some(NewImageMode::Existing);
    let needs_backing = matches!(args.sync, MirrorSyncMode::None);
    if needs_backing && is_new {
        return Err(no_backing());
    }
    let image = Image {
        target: &args.target,
        format: args.format.as_deref(),
        mode: args.mode,
        node_name: None,
        source: &source,
    };
    let target = ImplicitNode::open(daemon, image).await?;
    let name = target.node.name().to_owned();
    if needs_backing {
        return Err(QmpError::generic(format!(
            "Driver 'raw' of node '{name}' does not support backing files"
        )));
    }
    let args = BlockdevBackup {
        job_id: args.job_id,
        device: args.device,
        target: name,
        sync: args.sync,
        speed: args.speed,
        bitmap: args.bitmap,
        bitmap_mode: args.bitmap_mode,
        compress: args.compress,
        on_source_error: args.on_source_error,
        on_target_error: args.on_target_error,
        on_cbw_error: args.on_cbw_error,
        discard_source: args.discard_source,
        auto_finalize: args.auto_finalize,
        auto_dismiss: args.auto_dismiss,
        filter_node_name: args.filter_node_name,
        x_perf: args.x_perf,
    };
    Ok((target, args))
}

async fn drive_mirror(daemon: &Rc<Daemon>, args: DriveMirror) -> Result<(), QmpError> {
    let graph = daemon.engine.graph();
    let source = device_or_node(daemon, &args.device)?;
    if !graph.is_root(&source).map_err(IntoQmp::into_qmp)? {
        return Err(QmpError::generic("Need a root block node"));
    }
    let allowed = graph.check_operation(&source, Operation::MirrorSource);
    allowed.map_err(IntoQmp::into_qmp)?;
    if args.replaces.is_some() && args.node_name.is_none() {
        let text = "a node-name must be provided when replacing a named node of the graph";
        return Err(QmpError::generic(text));
    }
    let is_new = args.mode != Some(NewImageMode::Existing);
    if is_new && matches!(args.sync, MirrorSyncMode::None) {
        return Err(no_backing());
    }
    let image = Image {
        target: &args.target,
        format: args.format.as_deref(),
        mode: args.mode,
        node_name: args.node_name.as_deref(),
        source: &source,
    };
    let target = ImplicitNode::open(daemon, image).await?;
    let job_id = args.job_id.clone();
    let mirror = BlockdevMirror {
        job_id: args.job_id,
        device: args.device,
        target: target.node.name().to_owned(),
        replaces: args.replaces,
        sync: args.sync,
        speed: args.speed,
        granularity: args.granularity,
        buf_size: args.buf_size,
        on_source_error: args.on_source_error,
        on_target_error: args.on_target_error,
        filter_node_name: None,
        copy_mode: args.copy_mode,
        auto_finalize: args.auto_finalize,
        auto_dismiss: args.auto_dismiss,
        target_is_zero: is_new.then_some(true),
        x_longshore_unmap: args.unmap,
        x_longshore_bitmap: None,
        x_longshore_bitmap_mode: None,
        x_longshore_carry_bitmaps: None,
    };
    mirror::blockdev_mirror(daemon, mirror).await?;
    target.leave_to(daemon, job_id.as_deref());
    Ok(())
}

/// A copy that begins empty would show what is below it.
fn no_backing() -> QmpError {
    QmpError::generic("Backing file not supported for file format 'raw'")
}
