//! Several backups and changes of bitmaps at one instant, all or nothing.
//!
//! ```text
//!   drain all nodes ── prepare each action in order ── commit, the newest first ── let guests go on
//!                              |
//!                              +-- one fails: those before it are undone, the newest first
//! ```
//!
//! A backup is prepared when its filter is in place and its bitmap frozen: with all sources drained, that is the same
//! instant for all. Nothing is copied before the commit, since no request gets through and no job has started.

use block::{
    Graph, Node,
    bitmap::{BitmapAction, PreparedBitmap},
};
use job::{CancelMode, JobRegistry, Transaction};

use super::{
    Backup, BackupError,
    options::{BackupSpec, refused},
    start::prepare,
};

/// One part of a transaction.
#[derive(Debug)]
pub enum Action {
    /// Starts a backup.
    Backup(Box<BackupSpec>),
    /// Changes a bitmap.
    Bitmap(BitmapAction),
    /// Fails the transaction.
    Abort,
    /// Fails it with this error: an action that was not understood, whose turn it is to say so.
    Refused(BackupError),
}

/// Whether the jobs of a transaction end together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Completion {
    /// Each ends for itself.
    #[default]
    Individual,
    /// They succeed or fail together.
    Grouped,
}

impl Action {
    /// The name that clients use.
    fn name(&self) -> &'static str {
        match self {
            Self::Backup(_) | Self::Refused(_) => "blockdev-backup",
            Self::Abort => "abort",
            Self::Bitmap(BitmapAction::Add(..)) => "block-dirty-bitmap-add",
            Self::Bitmap(BitmapAction::Remove(_)) => "block-dirty-bitmap-remove",
            Self::Bitmap(BitmapAction::Clear(_)) => "block-dirty-bitmap-clear",
            Self::Bitmap(BitmapAction::Enable(_)) => "block-dirty-bitmap-enable",
            Self::Bitmap(BitmapAction::Disable(_)) => "block-dirty-bitmap-disable",
            Self::Bitmap(BitmapAction::Merge { .. }) => "block-dirty-bitmap-merge",
        }
    }
}

impl Backup {
    /// Starts backups and changes bitmaps, all at one instant and all or nothing.
    ///
    /// The sources, and the nodes of the bitmaps, are drained together until all is done or undone. Actions are
    /// prepared in their order, and see what those before them have done. When this returns the instant has been taken,
    /// as with [`Backup::start`]; the backups come back in the order of their actions. A job that somebody cancels
    /// before it starts does not undo the others: it has ended, or is about to.
    ///
    /// To be called on the main context. Dropping the future before it is ready leaves everything as it was, soon.
    ///
    /// # Errors
    ///
    /// Of the first action that fails, once everything is as it was before. [`BackupError::Refused`] before anything
    /// is done if jobs are to end together that are not all backups.
    pub async fn start_group(
        (graph, jobs): (&Graph, &JobRegistry),
        actions: Vec<Action>,
        completion: Completion,
    ) -> Result<Vec<Self>, BackupError> {
        let transaction = match completion {
            Completion::Individual => None,
            Completion::Grouped => {
                check_grouped(&actions)?;
                Some(jobs.transaction())
            }
        };
        let section = graph.drain(&nodes_of(&actions)).await;
        // Behind the section, so that it is undone inside of it if this future is dropped.
        let mut prepared = Prepared::default();
        let added = prepared.add_all((graph, jobs), actions, transaction.as_ref());
        let Err(error) = added.await else {
            return Ok(prepared.commit());
        };
        let ending = prepared.backups();
        drop(prepared);
        // Requests of guests may be inside the filters, which go only once these are through.
        drop(section);
        for backup in ending {
            backup.job().wait().await;
        }
        Err(error)
    }
}

/// The nodes that stay as they are from the first to the last action.
fn nodes_of(actions: &[Action]) -> Vec<Node> {
    let nodes = actions.iter().filter_map(|action| match action {
        Action::Backup(spec) => Some(&spec.source),
        Action::Bitmap(BitmapAction::Merge { target, .. }) => Some(&target.node),
        Action::Bitmap(
            BitmapAction::Add(bitmap, _)
            | BitmapAction::Remove(bitmap)
            | BitmapAction::Clear(bitmap)
            | BitmapAction::Enable(bitmap)
            | BitmapAction::Disable(bitmap),
        ) => Some(&bitmap.node),
        Action::Abort | Action::Refused(_) => None,
    });
    nodes.cloned().collect()
}

fn check_grouped(actions: &[Action]) -> Result<(), BackupError> {
    let is_other = |action: &&Action| !matches!(action, Action::Backup(_) | Action::Refused(_));
    match actions.iter().find(is_other) {
        None => Ok(()),
        Some(action) => refused(format!(
            "Action '{}' does not support transaction property completion-mode = grouped",
            action.name()
        )),
    }
}

/// What has been prepared so far. Dropping it undoes all, the newest first.
#[derive(Default)]
struct Prepared {
    actions: Vec<PreparedAction>,
}

enum PreparedAction {
    Backup(Backup),
    Bitmap(PreparedBitmap),
}

impl Prepared {
    async fn add_all(
        &mut self,
        registry: (&Graph, &JobRegistry),
        actions: Vec<Action>,
        transaction: Option<&Transaction>,
    ) -> Result<(), BackupError> {
        for action in actions {
            self.add(registry, action, transaction).await?;
        }
        Ok(())
    }

    async fn add(
        &mut self,
        registry: (&Graph, &JobRegistry),
        action: Action,
        transaction: Option<&Transaction>,
    ) -> Result<(), BackupError> {
        let prepared = match action {
            Action::Backup(spec) => {
                PreparedAction::Backup(prepare(registry, *spec, transaction.cloned()).await?)
            }
            Action::Bitmap(action) => PreparedAction::Bitmap(action.prepare()?),
            Action::Abort => return refused("Transaction aborted using Abort action"),
            Action::Refused(error) => return Err(error),
        };
        self.actions.push(prepared);
        Ok(())
    }

    fn backups(&self) -> Vec<Backup> {
        let backups = self.actions.iter().filter_map(|action| match action {
            PreparedAction::Backup(backup) => Some(backup.clone()),
            PreparedAction::Bitmap(_) => None,
        });
        backups.collect()
    }

    fn commit(mut self) -> Vec<Backup> {
        let mut started = Vec::new();
        while let Some(action) = self.actions.pop() {
            match action {
                PreparedAction::Backup(backup) => {
                    // Refused if somebody has cancelled it already; its end then takes the filter out.
                    let _ = backup.job().start();
                    started.push(backup);
                }
                PreparedAction::Bitmap(prepared) => prepared.commit(),
            }
        }
        started.reverse();
        started
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        while let Some(action) = self.actions.pop() {
            match action {
                PreparedAction::Backup(backup) => {
                    backup.driver.roll_back();
                    // Refused if it is on its way out already. Its end takes the filter out.
                    let _ = backup.job().cancel(CancelMode::Force);
                }
                PreparedAction::Bitmap(prepared) => prepared.abort(),
            }
        }
    }
}
