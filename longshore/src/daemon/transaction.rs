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
    jobs::{BlockdevBackup, backup_spec},
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
    let actions = args.actions.into_iter();
    let actions = actions.map(|action| understood(daemon, action)).collect();
    let registry = (daemon.engine.graph(), daemon.registry());
    let started = Backup::start_group(registry, actions, completion).await;
    started.map(drop).map_err(IntoQmp::into_qmp)
}

/// Jobs that end together are all backups. Looked at before anything is done.
fn check_grouped(actions: &[TransactionAction]) -> Result<(), QmpError> {
    let kinds = actions.iter().map(|action| action.r#type.tag());
    match kinds
        .into_iter()
        .find(|kind| *kind != TransactionActionKind::BlockdevBackup)
    {
        None => Ok(()),
        Some(kind) => Err(QmpError::generic(format!(
            "Action '{kind}' does not support transaction property completion-mode = grouped"
        ))),
    }
}

/// What an action means as things stand. One that means nothing says so when it is its turn.
fn understood(daemon: &Daemon, action: TransactionAction) -> Action {
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
        Data::BlockdevBackup(backup) => match backup_spec(daemon, backup.data) {
            Ok(spec) => Action::Backup(Box::new(spec)),
            Err(error) => Action::Refused(error),
        },
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
    }
}
