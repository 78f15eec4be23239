//! What a backup holds of the graph: how it takes hold, and how it lets go whatever does not return.
//!
//! How it leaves beside requests that do not return is for [`departure`](crate::departure) to say.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, Ordering},
};

use aio::AioContext;
use block::{
    BlockError, Child, Graph, Node, Operation, Permissions,
    copy::{BlockCopy, CopyOptions, InitialSet, SavedBytes},
    nodes::copy_before_write::{CbwHandle, CbwOptions, CopyBeforeWriteNode},
};
use blockjob::{BlockJob, IoStatus};
use job::WeakJob;

use super::{
    BackupReport,
    options::{BackupOptions, BackupSync},
};
use crate::{
    copy_engine::{CopyEngine, InFlight},
    departure::{Leaving, TargetGuard, remove_node},
    sync_bitmap::{Lacking, SyncBitmap},
};

/// The filter and the edges, from creation to clean.
pub(super) struct Held {
    graph: Graph,
    pub(super) filter: Node,
    /// The job's own, which make a drain of source or target pause the job. What may be done with
    /// the two nodes is the filter's to say, from the moment it is put in.
    edges: Vec<Child>,
    pub(super) cbw: CbwHandle,
    pub(super) engine: Arc<CopyEngine<BlockCopy>>,
    guard: Arc<TargetGuard>,
    in_place: Arc<AtomicBool>,
    /// Until somebody decides about it.
    pub(super) bitmap: Option<SyncBitmap>,
    /// Known once the body has ended.
    pub(super) lacking: Option<Lacking>,
    /// What the copy tells of guests as long as we hold this.
    saved: Option<Arc<SavedBytes>>,
}

impl Held {
    /// Builds the filter and attaches the job; nobody's requests go through the filter yet.
    pub(super) fn make(
        graph: &Graph,
        block_job: &BlockJob,
        (source, target): (&Node, &Node),
        (options, bitmap): (&BackupOptions, Option<SyncBitmap>),
    ) -> Result<Self, BlockError> {
        let cbw_options = CbwOptions {
            copy: CopyOptions {
                cluster_bytes_min: options.min_cluster_bytes,
                target_content: options.target_content,
                initial: initial_set(options.sync, bitmap.as_ref())?,
                source_after: options.source_after,
                buffer_bytes_max: options.buffer_bytes_max,
                offload: options.offload,
                ..CopyOptions::default()
            },
            on_cbw_error: options.on_cbw_error,
            timeout_ns: options.cbw_timeout_ns,
        };
        let name = options.filter_name.as_deref();
        let (filter, cbw) =
            CopyBeforeWriteNode::add_to(graph, name, (source, target), cbw_options)?;
        let copy = cbw.block_copy().clone();
        let engine = CopyEngine::new(copy, block_job.clone(), options.engine(), filter.clone());
        let mut held = Self {
            graph: graph.clone(),
            filter,
            edges: Vec::new(),
            cbw,
            engine: Arc::new(engine),
            guard: Arc::new(TargetGuard::new(graph, target, &options.job_id)),
            in_place: Arc::new(AtomicBool::new(true)),
            bitmap,
            lacking: None,
            saved: None,
        };
        match held.attach(block_job, (source, target)) {
            Ok(()) => Ok(held),
            Err(error) => {
                held.forget(block_job);
                Err(error)
            }
        }
    }

    fn attach(
        &mut self,
        block_job: &BlockJob,
        (source, target): (&Node, &Node),
    ) -> Result<(), BlockError> {
        let again: &[Operation] = &[Operation::BackupSource];
        for (node, name, except) in [(source, "source", again), (target, "target", &[])] {
            let edge = block_job.attach(node, name, Permissions::IDLE, except)?;
            self.edges.push(edge);
        }
        block_job.block_operations(&self.filter, &[])
    }

    /// Counts what is copied for guests against the speed limit, which never delays them. A job that does nothing by
    /// itself is woken to tell of it.
    pub(super) fn account_for_guests(&mut self, block_job: &BlockJob, woken: Option<WeakJob>) {
        let block_job = block_job.clone();
        let saved: Arc<SavedBytes> = Arc::new(move |moved_bytes, now_ns| {
            block_job.account(moved_bytes, now_ns);
            if let Some(job) = woken.as_ref().and_then(WeakJob::upgrade) {
                job.wake();
            }
        });
        self.cbw.block_copy().tell_saved(&saved);
        self.saved = Some(saved);
    }

    /// How to give the copy up, without holding on to the rest.
    pub(super) fn exit(&self) -> Exit {
        Exit {
            cbw: self.cbw.clone(),
            guard: self.guard.clone(),
        }
    }

    /// Takes the filter, above which nobody is, out of the graph, and lets go of everything.
    pub(super) fn forget(self, block_job: &BlockJob) {
        let Self { graph, filter, .. } = &self;
        let (graph, filter) = (graph.clone(), filter.clone());
        drop(self);
        block_job.release();
        // Nobody knows it yet, so nobody can want it.
        let _gone = remove_node(&graph, &filter);
    }

    /// Takes the filter from below the guests and out of the graph, and lets go of everything.
    ///
    /// Lets go of the copy, of the edges and of all that is blocked at once; then of the filter, when no
    /// request of a guest is inside it any more. If that takes too long, this ends before, and the filter,
    /// which passes everything through by now, is taken out later. The same holds of requests of the copy.
    pub(super) async fn leave(self, main: &AioContext, block_job: &BlockJob) {
        let returned = self.guard.returned(main);
        self.exit().give_up();
        drop(self.edges);
        block_job.release();
        let leaving = Leaving {
            graph: self.graph,
            filter: self.filter,
            // From here on it lives as long as the requests that it is about.
            guard: Arc::downgrade(&self.guard),
            in_place: self.in_place,
        };
        drop((self.cbw, self.engine, self.guard));
        leaving.go(main).await;
        returned.await;
    }

    /// What can be told once everything else is given away.
    pub(super) fn remains(&self) -> Remains {
        Remains {
            report: self.report(),
            in_flight: self.engine.in_flight(),
            in_place: self.in_place.clone(),
            guard: Arc::downgrade(&self.guard),
        }
    }

    pub(super) fn report(&self) -> BackupReport {
        let copy = self.cbw.block_copy();
        BackupReport {
            len_bytes: copy.len_bytes(),
            done_bytes: copy.done_bytes(),
            counters: copy.counters(),
            requests_in_flight: self.engine.in_flight().requests(),
            pace: self.engine.pace(),
            guest: self.cbw.added_latency(),
            io_status: IoStatus::Ok,
            filter_is_in_place: true,
            target_may_change: true,
        }
    }
}

fn initial_set(sync: BackupSync, bitmap: Option<&SyncBitmap>) -> Result<InitialSet, BlockError> {
    Ok(match (sync, bitmap) {
        (BackupSync::Bitmap, Some(bitmap)) => InitialSet::Bitmap(bitmap.content()?),
        (BackupSync::Top, _) => InitialSet::Top,
        // Of sync none, any cluster may be copied; but only for guests.
        (BackupSync::Full | BackupSync::None | BackupSync::Bitmap, _) => InitialSet::All,
    })
}

/// How a copy is given up. Any thread; no lock may be held.
pub(super) struct Exit {
    cbw: CbwHandle,
    guard: Arc<TargetGuard>,
}

impl Exit {
    /// Gives up, and fails what waits for a target's server.
    pub(super) fn cancel(self) {
        let target = self.guard.target().clone();
        self.give_up();
        target.cancel_in_flight();
    }

    /// Lets guests go on, and keeps others from the target as long as a request may change it. Again has no effect.
    pub(super) fn give_up(self) {
        if !self.cbw.block_copy().is_given_up() {
            self.guard.block_operations();
            self.cbw.give_up(Box::new(self.guard));
        }
    }
}

/// What is known of a backup after its end.
pub(super) struct Remains {
    report: BackupReport,
    in_flight: InFlight,
    in_place: Arc<AtomicBool>,
    guard: Weak<TargetGuard>,
}

impl Remains {
    pub(super) fn report(&self) -> BackupReport {
        BackupReport {
            requests_in_flight: self.in_flight.requests(),
            filter_is_in_place: self.in_place.load(Ordering::Acquire),
            target_may_change: self.guard.strong_count() > 0,
            ..self.report
        }
    }
}
