//! `transaction`: backups and changes of bitmaps at one instant, all or none.

use std::rc::Rc;

use block::bitmap::BitmapAction;
use drivers::backup::{Action, Backup, BackupError, Completion};
use qmp::{QmpError, qapi_enum, qapi_struct, qapi_union};

use super::{
    Daemon,
    bitmaps::{self, BlockDirtyBitmap, BlockDirtyBitmapAdd, BlockDirtyBitmapMerge},
    command::Command,
    error::IntoQmp,
    jobs::{BlockdevBackup, DriveBackup, backup_spec, backup_target},
    nodes::ImplicitNode,
};

pub(super) fn commands() -> Vec<Command> {
    vec![Command::new("transaction", transaction)]
}

qapi_enum! {
    /// Whether the jobs of a transaction end together.
    pub(crate) enum ActionCompletionMode { Individual, Grouped }
}

qapi_struct! {
    /// Properties of a transaction.
    pub(crate) struct TransactionProperties {
        /// Whether its jobs end together; by default each ends for itself.
        completion_mode: Option<ActionCompletionMode>,
    }
}

qapi_struct! {
    /// Arguments of `transaction`.
    pub(crate) struct TransactionArguments {
        /// What to do, in this order.
        actions: Vec<TransactionAction>,
        /// How.
        properties: Option<TransactionProperties>,
    }
}

async fn transaction(daemon: &Rc<Daemon>, args: TransactionArguments) -> Result<(), QmpError> {
    let mode = args
        .properties
        .and_then(|properties| properties.completion_mode);
    let completion = match mode {
        Some(ActionCompletionMode::Grouped) => Completion::Grouped,
        Some(ActionCompletionMode::Individual) | None => Completion::Individual,
    };
    if completion == Completion::Grouped {
        check_grouped(&args.actions)?;
    }
    let mut targets = Targets::new();
    let mut actions = Vec::new();
    for action in args.actions {
        let action = understood(daemon, action, &mut targets).await;
        // Nothing behind this one is looked at, so no file is made for it.
        let is_last = matches!(action, Action::Abort | Action::Refused(_));
        actions.push(action);
        if is_last {
            break;
        }
    }
    let registry = (daemon.engine.graph(), daemon.registry());
    let started = Backup::start_group(registry, actions, completion).await;
    started.map_err(IntoQmp::into_qmp)?;
    for (target, job_id) in targets {
        target.leave_to(daemon, job_id.as_deref());
    }
    Ok(())
}

/// The nodes that were made for backups, and the ids of these.
type Targets = Vec<(ImplicitNode, Option<String>)>;

/// A backup to a path, whose node is made now.
async fn drive_backup(daemon: &Rc<Daemon>, drive: DriveBackup, targets: &mut Targets) -> Action {
    let (target, backup) = match backup_target(daemon, drive).await {
        Ok(known) => known,
        Err(error) => return Action::Refused(BackupError::Refused(error.desc)),
    };
    targets.push((target, backup.job_id.clone()));
    of_backup(daemon, backup)
}

fn of_backup(daemon: &Daemon, backup: BlockdevBackup) -> Action {
    match backup_spec(daemon, backup) {
        Ok(spec) => Action::Backup(Box::new(spec)),
        Err(error) => Action::Refused(error),
    }
}

/// Jobs that end together are all backups. Looked at before anything is done.
fn check_grouped(actions: &[TransactionAction]) -> Result<(), QmpError> {
    let kinds = actions.iter().map(|action| action.r#type.tag());
    let is_backup = |kind: &TransactionActionKind| {
        matches!(
            kind,
            TransactionActionKind::BlockdevBackup | TransactionActionKind::DriveBackup
        )
    };
    match kinds.into_iter().find(|kind| !is_backup(kind)) {
        None => Ok(()),
        Some(kind) => Err(QmpError::generic(format!(
            "Action '{kind}' does not support transaction property completion-mode = grouped"
        ))),
    }
}

/// What an action means as things stand. One that means nothing says so when it is its turn.
async fn understood(
    daemon: &Rc<Daemon>,
    action: TransactionAction,
    targets: &mut Targets,
) -> Action {
    use TransactionActionData as Data;
    let of_bitmap = |action: Result<BitmapAction, QmpError>| match action {
        Ok(action) => Action::Bitmap(action),
        Err(error) => Action::Refused(BackupError::Refused(error.desc)),
    };
    match action.r#type {
        Data::Abort(_) => Action::Abort,
        Data::BlockDirtyBitmapAdd(add) => of_bitmap(bitmaps::add_action(daemon, add.data)),
        Data::BlockDirtyBitmapRemove(bitmap) => {
            of_bitmap(bitmaps::named(daemon, bitmap.data).map(BitmapAction::Remove))
        }
        Data::BlockDirtyBitmapClear(bitmap) => {
            of_bitmap(bitmaps::named(daemon, bitmap.data).map(BitmapAction::Clear))
        }
        Data::BlockDirtyBitmapEnable(bitmap) => {
            of_bitmap(bitmaps::named(daemon, bitmap.data).map(BitmapAction::Enable))
        }
        Data::BlockDirtyBitmapDisable(bitmap) => {
            of_bitmap(bitmaps::named(daemon, bitmap.data).map(BitmapAction::Disable))
        }
        Data::BlockDirtyBitmapMerge(merge) => of_bitmap(bitmaps::merge_action(daemon, merge.data)),
        Data::BlockdevBackup(backup) => of_backup(daemon, backup.data),
        Data::DriveBackup(drive) => drive_backup(daemon, drive.data, targets).await,
    }
}

qapi_struct! {
    /// Nothing.
    pub(crate) struct AbortAction {}
}

qapi_struct! {
    /// Data of an action that fails.
    pub(crate) struct AbortData {
        /// Nothing.
        data: AbortAction,
    }
}

qapi_struct! {
    /// Data of an action that adds a bitmap.
    pub(crate) struct BitmapAddData {
        /// The bitmap.
        data: BlockDirtyBitmapAdd,
    }
}

qapi_struct! {
    /// Data of an action on a bitmap.
    pub(crate) struct BitmapData {
        /// The bitmap.
        data: BlockDirtyBitmap,
    }
}

qapi_struct! {
    /// Data of an action that merges bitmaps.
    pub(crate) struct BitmapMergeData {
        /// The bitmaps.
        data: BlockDirtyBitmapMerge,
    }
}

qapi_struct! {
    /// Data of an action that starts a backup.
    pub(crate) struct BackupData {
        /// The backup.
        data: BlockdevBackup,
    }
}

qapi_struct! {
    /// Data of an action that starts a backup to a path.
    pub(crate) struct DriveBackupData {
        /// The backup.
        data: DriveBackup,
    }
}

qapi_union! {
    /// One action of a transaction.
    pub(crate) struct TransactionAction {}
    /// What an action is to do.
    tag r#type: TransactionActionKind,
    pub(crate) enum TransactionActionData {
        /// Fails the transaction.
        Abort(AbortData),
        /// Adds a bitmap.
        BlockDirtyBitmapAdd(BitmapAddData),
        /// Removes a bitmap.
        BlockDirtyBitmapRemove(BitmapData),
        /// Forgets what a bitmap holds.
        BlockDirtyBitmapClear(BitmapData),
        /// Has a bitmap record.
        BlockDirtyBitmapEnable(BitmapData),
        /// Has a bitmap record no more.
        BlockDirtyBitmapDisable(BitmapData),
        /// Adds to a bitmap what others hold.
        BlockDirtyBitmapMerge(BitmapMergeData),
        /// Starts a backup.
        BlockdevBackup(BackupData),
        /// Starts a backup to a path.
        DriveBackup(DriveBackupData),
    }
}
