//! Fleecing: a backup whose guests wait for a fast scratch node, and not for the slow target.
//!
//! ```text
//!   guest                        job (a backup)
//!     |                           |          |
//!   copy-before-write <-- snapshot-access   target
//!     |           |
//!   source      scratch
//! ```
//!
//! The filter saves old data to the scratch node, which takes no longer than that takes; the backup reads the instant
//! through the snapshot, and discards there what the target has, so that the room is free again.

use std::sync::{Arc, atomic::AtomicBool};

use aio::{AioContext, Handle};
use block::{
    BlockError, Graph, Node,
    copy::{CopyOptions, OnFull, SourceAfter},
    nodes::{
        CbwHandle, CbwOptions, CopyBeforeWriteNode, SnapshotAccessNode,
        copy_before_write::AddedLatency,
    },
};
use job::{Job, JobRegistry};

use crate::{
    backup::{Backup, BackupError, BackupOptions, BackupReport},
    departure::{Leaving, TargetGuard, remove_node},
};

/// The nodes that take part.
#[derive(Clone, Copy, Debug)]
pub struct FleeceNodes<'a> {
    /// What guests write to.
    pub source: &'a Node,
    /// Where old data is kept until the target has it; its content is lost.
    pub scratch: &'a Node,
    /// Where the backup goes.
    pub target: &'a Node,
}

/// How much of the scratch node may be used, and what happens when that is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FleeceBudget {
    /// Most bytes of old data kept at any time.
    pub bytes_max: u64,
    /// Whether to wait for room. If not, or if the wait takes longer than
    /// [`cbw_timeout_ns`](BackupOptions::cbw_timeout_ns), [`on_cbw_error`](BackupOptions::on_cbw_error) says what gives
    /// way.
    pub on_full: OnFull,
}

/// How a fleecing backup stands, or how it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FleeceReport {
    /// The backup. What it tells of guests is about readers of the snapshot; see `guest`.
    pub backup: BackupReport,
    /// What the filter has cost guest requests.
    pub guest: AddedLatency,
    /// Bytes of old data that the scratch node keeps.
    pub scratch_bytes: u64,
    /// Most that it kept at one time.
    pub scratch_peak_bytes: u64,
}

/// A fleecing backup under way, or ended. Cheap to clone; any thread; dropping it does nothing to the job.
#[derive(Clone, Debug)]
pub struct FleecingBackup {
    backup: Backup,
    filter: CbwHandle,
}

impl FleecingBackup {
    /// Starts a backup of the source to the target that saves old data to the scratch node.
    ///
    /// When this returns the instant has been taken, as with [`Backup::start`]. To be called on the main context, where
    /// filter and snapshot are taken out when the job has ended; the job runs on the context behind `context`.
    /// Dropping the future before it is ready leaves everything as it was, soon.
    ///
    /// # Errors
    ///
    /// [`BackupError`]; nothing has changed then. The snapshot is what is backed up, and errors call it by its name.
    pub async fn start(
        (graph, jobs): (&Graph, &JobRegistry),
        (main, context): (&AioContext, &Handle),
        nodes: FleeceNodes<'_>,
        options: BackupOptions,
        budget: FleeceBudget,
    ) -> Result<Self, BackupError> {
        let FleeceNodes { source, target, .. } = nodes;
        let refused = |error: BlockError| BackupError::Node {
            from: source.name().to_owned(),
            to: target.name().to_owned(),
            source: Box::new(error),
        };
        let section = graph.drain(std::slice::from_ref(source)).await;
        let snapshot = Snapshot::take((graph, main), nodes, &options, budget).await;
        let snapshot = snapshot.map_err(refused)?;
        let filter = snapshot.handle.clone();
        let options = BackupOptions {
            source_after: SourceAfter::Discarded,
            // What is discarded should be whole clusters of the scratch node's.
            min_cluster_bytes: options
                .min_cluster_bytes
                .max(filter.block_copy().cluster_bytes()),
            ..options
        };
        let both = (&snapshot.node, target);
        let backup = Backup::start((graph, jobs), context, both, options).await?;
        drop(section);
        let job = backup.job().clone();
        drop(main.spawn(async move {
            job.wait().await;
            drop(snapshot);
        }));
        Ok(Self { backup, filter })
    }

    /// The job.
    #[must_use]
    pub fn job(&self) -> &Job {
        self.backup.job()
    }

    /// The backup of the snapshot.
    #[must_use]
    pub fn backup(&self) -> &Backup {
        &self.backup
    }

    /// How it stands; after its end, how it ended.
    #[must_use]
    pub fn report(&self) -> FleeceReport {
        let budget = self.filter.block_copy().budget();
        FleeceReport {
            backup: self.backup.report(),
            guest: self.filter.added_latency(),
            scratch_bytes: budget.map_or(0, |budget| budget.used_bytes()),
            scratch_peak_bytes: budget.map_or(0, |budget| budget.peak_bytes()),
        }
    }
}

/// A snapshot of a node, with all that it needs; taken apart when it is dropped.
struct Snapshot {
    graph: Graph,
    main: AioContext,
    filter: Node,
    node: Node,
    handle: CbwHandle,
    guard: Arc<TargetGuard>,
}

impl Snapshot {
    async fn take(
        (graph, main): (&Graph, &AioContext),
        nodes: FleeceNodes<'_>,
        options: &BackupOptions,
        budget: FleeceBudget,
    ) -> Result<Self, BlockError> {
        let cbw = CbwOptions {
            copy: CopyOptions {
                buffer_bytes_max: options.buffer_bytes_max,
                scratch: Some((budget.bytes_max, budget.on_full)),
                ..CopyOptions::default()
            },
            on_cbw_error: options.on_cbw_error,
            timeout_ns: options.cbw_timeout_ns,
        };
        let both = (nodes.source, nodes.scratch);
        let (filter, handle) = CopyBeforeWriteNode::add_to(graph, None, both, cbw)?;
        let inserted = graph.insert_filter(nodes.source, &filter).await;
        let made = inserted.and_then(|()| SnapshotAccessNode::add_to(graph, None, &filter));
        let guard = TargetGuard::new(graph, nodes.scratch, &options.job_id);
        let snapshot = |node| Self {
            graph: graph.clone(),
            main: main.clone(),
            filter: filter.clone(),
            node,
            handle,
            guard: Arc::new(guard),
        };
        match made {
            Ok(node) => Ok(snapshot(node)),
            Err(error) => {
                // It is not in place, or about to leave it.
                drop(snapshot(filter.clone()));
                Err(error)
            }
        }
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        self.guard.block_operations();
        self.handle.give_up(Box::new(self.guard.clone()));
        if self.node != self.filter {
            remove_node(&self.graph, &self.node);
        }
        let leaving = Leaving {
            graph: self.graph.clone(),
            filter: self.filter.clone(),
            guard: Arc::downgrade(&self.guard),
            in_place: Arc::new(AtomicBool::new(true)),
        };
        let main = self.main.clone();
        drop(self.main.spawn(async move { leaving.go(&main).await }));
    }
}
