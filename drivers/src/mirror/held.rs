//! What a mirror holds of the graph: how it takes hold, holds guests up, and lets go.

use std::sync::{
    Arc, Mutex, PoisonError, Weak,
    atomic::{AtomicBool, Ordering},
};

use aio::AioContext;
use block::{
    BlockError, Child, DrainedSection, ErrorKind, Graph, Node, Operation, Permissions,
    mirror::{MirrorCopyOptions, MirrorStart},
    nodes::{MirrorHandle, MirrorTopNode},
};
use blockjob::BlockJob;

use super::{MirrorOptions, MirrorReport, MirrorSync, gain::Gain, work::MirrorWork};
use crate::{
    copy_engine::{CopyEngine, InFlight},
    departure::{Leaving, TargetGuard, remove_node},
    sync_bitmap::{Lacking, SyncBitmap},
};

/// The filter and the edges, from creation to clean.
pub(super) struct Held {
    pub(super) graph: Graph,
    pub(super) filter: Node,
    pub(super) source: Node,
    pub(super) target: Node,
    /// The job's own, which make a drain of source or target pause the job. What may be done with
    /// the two nodes is the filter's to say, from the moment it is put in.
    edges: Vec<Child>,
    pub(super) mirror: MirrorHandle,
    pub(super) work: Arc<MirrorWork>,
    pub(super) engine: Arc<CopyEngine<MirrorWork>>,
    pub(super) gain: Arc<Gain>,
    guard: Arc<TargetGuard>,
    in_place: Arc<AtomicBool>,
    pub(super) barrier: Arc<Barrier>,
    /// The bitmap that says what to copy at first, until it is decided about.
    pub(super) bitmap: Option<SyncBitmap>,
    /// What the target lacks, once the job has failed.
    pub(super) lacking: Option<Lacking>,
}

/// Holds guests up before the filter, while it is closed.
#[derive(Default)]
pub(super) struct Barrier(Mutex<Option<DrainedSection>>);

impl Barrier {
    pub(super) fn close(&self, section: DrainedSection) {
        let old = self.swap(Some(section));
        drop(old);
    }

    /// Lets guests go on; no lock may be held.
    pub(super) fn open(&self) {
        let old = self.swap(None);
        drop(old);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }

    fn swap(&self, section: Option<DrainedSection>) -> Option<DrainedSection> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut held, section)
    }
}

impl Held {
    /// Builds the filter and attaches the job; nobody's requests go through the filter yet.
    pub(super) fn make(
        graph: &Graph,
        block_job: &BlockJob,
        (source, target): (&Node, &Node),
        options: &MirrorOptions,
    ) -> Result<Self, BlockError> {
        check(graph, (source, target), options)?;
        let name = options.filter_name.as_deref();
        let (filter, mirror) =
            MirrorTopNode::add_to(graph, name, (source, target), copy_options(options))?;
        let work = Arc::new(MirrorWork::new(mirror.mirror_copy().clone()));
        let gain = Gain::new(mirror.mirror_copy().clone(), options.converge);
        let engine_options = options.engine();
        let engine = CopyEngine::new(
            work.clone(),
            block_job.clone(),
            engine_options,
            filter.clone(),
        );
        let mut held = Self {
            graph: graph.clone(),
            filter,
            source: source.clone(),
            target: target.clone(),
            edges: Vec::new(),
            mirror,
            work,
            engine: Arc::new(engine),
            gain: Arc::new(gain),
            guard: Arc::new(TargetGuard::new(graph, target, &options.job_id)),
            in_place: Arc::new(AtomicBool::new(true)),
            barrier: Arc::default(),
            bitmap: None,
            lacking: None,
        };
        match held.attach(block_job, options.replaces.as_ref()) {
            Ok(()) => Ok(held),
            Err(error) => {
                held.forget(block_job);
                Err(error)
            }
        }
    }

    fn attach(&mut self, block_job: &BlockJob, replaces: Option<&Node>) -> Result<(), BlockError> {
        for (node, name) in [(&self.source, "source"), (&self.target, "target")] {
            let edge = block_job.attach(node, name, Permissions::IDLE, &[])?;
            self.edges.push(edge);
        }
        if let Some(replaced) = replaces {
            block_job.block_operations(replaced, &[Operation::Replace])?;
        }
        block_job.block_operations(&self.filter, &[])
    }

    /// How to give the mirror up, without holding on to the rest.
    pub(super) fn exit(&self) -> Exit {
        Exit {
            mirror: self.mirror.clone(),
            guard: self.guard.clone(),
            barrier: self.barrier.clone(),
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

    /// Takes the filter from below the guests, if they are still above it, and out of the graph, and lets go of
    /// everything.
    ///
    /// Requests of the mirror that do not return are left to themselves, as are those of guests in the filter.
    pub(super) async fn leave(self, main: &AioContext, block_job: &BlockJob) {
        let returned = self.guard.returned(main);
        // Before guests go on, so that what they do now is not mirrored any more.
        self.exit().give_up();
        drop(self.edges);
        block_job.release();
        let barrier = self.barrier;
        let leaving = Leaving {
            graph: self.graph,
            filter: self.filter,
            guard: Arc::downgrade(&self.guard),
            in_place: self.in_place,
        };
        drop((self.mirror, self.work, self.engine, self.guard));
        leaving.go(main).await;
        barrier.open();
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

    pub(super) fn report(&self) -> MirrorReport {
        let copy = self.mirror.mirror_copy();
        MirrorReport {
            len_bytes: copy.len_bytes(),
            load: copy.load(),
            counters: copy.counters(),
            is_actively_synced: copy.is_actively_synced(),
            requests_in_flight: self.engine.in_flight().requests(),
            pace: self.engine.pace(),
            converge: self.gain.report(),
            guest: self.mirror.added_latency(),
            guests_wait: self.barrier.is_closed(),
            filter_is_in_place: true,
            target_may_change: true,
        }
    }
}

/// Whether these nodes may be mirrored so.
fn check(
    graph: &Graph,
    (source, target): (&Node, &Node),
    options: &MirrorOptions,
) -> Result<(), BlockError> {
    let refuse = |text: &str| Err(BlockError::new(ErrorKind::Invalid, text));
    if source == target {
        return refuse("Can't mirror node into itself");
    }
    graph.check_operation(source, Operation::MirrorSource)?;
    graph.check_operation(target, Operation::MirrorTarget)?;
    if source.len_bytes() != target.len_bytes() {
        return refuse("Source and target image have different sizes");
    }
    if !graph.is_root(source)? {
        return refuse("Need a root block node");
    }
    match &options.replaces {
        Some(replaced) => check_replaces(graph, (source, target), replaced),
        None => Ok(()),
    }
}

/// Whether the target may take the place of `replaced`.
pub(super) fn check_replaces(
    graph: &Graph,
    (source, target): (&Node, &Node),
    replaced: &Node,
) -> Result<(), BlockError> {
    if replaced.len_bytes() != target.len_bytes() {
        let text = "Replaced node and target image have different sizes";
        return Err(BlockError::new(ErrorKind::Invalid, text));
    }
    graph.check_replaceable(source, replaced)
}

fn copy_options(options: &MirrorOptions) -> MirrorCopyOptions {
    MirrorCopyOptions {
        granularity_bytes: options.granularity_bytes,
        start: match options.sync {
            MirrorSync::Full => MirrorStart::Everything,
            MirrorSync::Top => MirrorStart::Top,
            MirrorSync::None | MirrorSync::Bitmap(_) => MirrorStart::Nothing,
        },
        target_content: options.target_content,
        unmap: options.unmap,
        mode: options.copy_mode,
        buffer_bytes_max: options.buffer_bytes_max,
        offload: options.offload,
    }
}

/// How a mirror is given up. Any thread; no lock may be held.
pub(super) struct Exit {
    mirror: MirrorHandle,
    guard: Arc<TargetGuard>,
    barrier: Arc<Barrier>,
}

impl Exit {
    /// Gives up, lets guests go on, and fails what waits for a target's server.
    pub(super) fn cancel(self) {
        let (target, barrier) = (self.guard.target().clone(), self.barrier.clone());
        self.give_up();
        barrier.open();
        target.cancel_in_flight();
    }

    /// Ends all mirroring, and keeps others from the target as long as a request may change it. Again has no effect.
    pub(super) fn give_up(self) {
        if !self.mirror.mirror_copy().is_given_up() {
            self.guard.block_operations();
            self.mirror.give_up(Box::new(self.guard));
        }
    }
}

/// What is known of a mirror after its end.
pub(super) struct Remains {
    report: MirrorReport,
    in_flight: InFlight,
    in_place: Arc<AtomicBool>,
    guard: Weak<TargetGuard>,
}

impl Remains {
    pub(super) fn report(&self) -> MirrorReport {
        MirrorReport {
            requests_in_flight: self.in_flight.requests(),
            guests_wait: false,
            is_actively_synced: false,
            filter_is_in_place: self.in_place.load(Ordering::Acquire),
            target_may_change: self.guard.strong_count() > 0,
            ..self.report
        }
    }
}
