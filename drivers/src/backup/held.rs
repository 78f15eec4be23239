//! What a backup holds of the graph: how it takes hold, and how it lets go whatever does not return.
//!
//! The end of a backup waits a moment for its own requests, so that its target is free for others
//! when it has ended, but for none that does not return. What it cannot take back it makes safe: the
//! filter passes everything through from the moment the copy is given up, and a target that a write
//! may still reach is refused to everybody else until that write is back.

use std::{
    fmt,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use aio::{AioContext, SleepWaker};
use block::{
    Attachment, BlockError, Blocker, Child, ChildRole, ErrorKind, Graph, Node, Operation,
    Permission, PermissionSet, Permissions,
    copy::{BlockCopy, CopyOptions},
    nodes::copy_before_write::{CbwHandle, CbwOptions, CopyBeforeWriteNode},
};
use blockjob::BlockJob;

use super::{BackupOptions, BackupReport};
use crate::copy_engine::{CopyEngine, InFlight};

/// Longest time in nanoseconds for which guests are held up to take the filter from below them.
const REMOVAL_MAX_NS: u64 = 1_000_000_000;
/// How long guests then have the filter for themselves before the next try, in nanoseconds.
const REMOVAL_PAUSE_NS: u64 = 10_000_000_000;

/// Longest time in nanoseconds that the end waits for requests of its own. Devices that work at all
/// take less for what one backup has in flight.
const RETURN_MAX_NS: u64 = 500_000_000;

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
}

impl Held {
    /// Builds the filter and attaches the job; nobody's requests go through the filter yet.
    pub(super) fn make(
        graph: &Graph,
        block_job: &BlockJob,
        (source, target): (&Node, &Node),
        options: &BackupOptions,
    ) -> Result<Self, BlockError> {
        graph.check_operation(source, Operation::BackupSource)?;
        graph.check_operation(target, Operation::BackupTarget)?;
        let cbw_options = CbwOptions {
            copy: CopyOptions {
                target_content: options.target_content,
                ..CopyOptions::default()
            },
            on_cbw_error: options.on_cbw_error,
            timeout_ns: options.cbw_timeout_ns,
        };
        let (filter, cbw) =
            CopyBeforeWriteNode::add_to(graph, None, (source, target), cbw_options)?;
        let copy = cbw.block_copy().clone();
        let policies = options.policies();
        let engine = CopyEngine::new(copy, block_job.clone(), policies, filter.clone());
        let mut held = Self {
            graph: graph.clone(),
            filter,
            edges: Vec::new(),
            cbw,
            engine: Arc::new(engine),
            guard: Arc::new(TargetGuard::new(graph, target, &options.job_id)),
            in_place: Arc::new(AtomicBool::new(true)),
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
        remove_node(&graph, &filter);
    }

    /// Takes the filter from below the guests and out of the graph, and lets go of everything.
    ///
    /// Lets go of the copy, of the edges and of all that is blocked at once; then of the filter, when no
    /// request of a guest is inside it any more. If that takes too long, this ends before, and the filter,
    /// which passes everything through by now, is taken out later. The same holds of requests of the copy.
    pub(super) async fn leave(self, main: &AioContext, block_job: &BlockJob) {
        let (returned, waker) = main.wakeable_sleep_ns(RETURN_MAX_NS);
        self.guard.farewell.tell(waker);
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
        if !leaving.is_done(main).await {
            drop(main.spawn(leaving.done_later(main.clone())));
        }
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
            filter_is_in_place: true,
            target_may_change: true,
        }
    }
}

/// A filter that nobody wants any more, and that guests may still be above of.
struct Leaving {
    graph: Graph,
    filter: Node,
    guard: Weak<TargetGuard>,
    in_place: Arc<AtomicBool>,
}

impl Leaving {
    /// Tries again and again.
    async fn done_later(self, main: AioContext) {
        loop {
            main.sleep_ns(REMOVAL_PAUSE_NS).await;
            if self.is_done(&main).await {
                return;
            }
        }
    }

    /// Tries to take the filter out; returns whether it is.
    ///
    /// Holds guests up for [`REMOVAL_MAX_NS`] at most, so that one request of theirs that does not return
    /// does not stop all others.
    async fn is_done(&self, main: &AioContext) -> bool {
        let removal = self.graph.remove_filter(&self.filter);
        match main.timeout_ns(REMOVAL_MAX_NS, removal).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if error.kind() == ErrorKind::NotFound => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "guests stay above the filter of a backup that has ended");
                return false;
            }
            Err(_) => {
                tracing::warn!(
                    requests = self.filter.in_flight(),
                    "requests of guests do not return: the filter of a backup that has ended stays for now"
                );
                return false;
            }
        }
        // The filter's own edge to the target asks for nothing any more.
        if let Some(guard) = self.guard.upgrade() {
            guard.keep_others_out();
        }
        remove_node(&self.graph, &self.filter);
        self.in_place.store(false, Ordering::Release);
        true
    }
}

fn remove_node(graph: &Graph, filter: &Node) {
    match graph.remove_node(filter) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => tracing::error!(%error, "the filter of a backup stays in the graph"),
    }
}

/// How a copy is given up. Any thread; no lock may be held.
pub(super) struct Exit {
    cbw: CbwHandle,
    guard: Arc<TargetGuard>,
}

impl Exit {
    /// Gives up, and fails what waits for a target's server.
    pub(super) fn cancel(self) {
        let target = self.guard.target.clone();
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

/// Keeps others from a target that may still change although its job has ended; until it is dropped.
struct TargetGuard {
    graph: Graph,
    target: Node,
    job_id: String,
    blocker: OnceLock<Blocker>,
    edge: OnceLock<Child>,
    /// Last, because whoever is told finds the target free.
    farewell: Farewell,
}

/// Tells that it was dropped.
#[derive(Default)]
struct Farewell(OnceLock<SleepWaker>);

impl Farewell {
    /// Wakes the sleep of `waker` then. Once.
    fn tell(&self, waker: SleepWaker) {
        drop(self.0.set(waker));
    }
}

impl Drop for Farewell {
    fn drop(&mut self) {
        if let Some(waker) = self.0.get() {
            waker.wake();
        }
    }
}

impl TargetGuard {
    fn new(graph: &Graph, target: &Node, job_id: &str) -> Self {
        Self {
            graph: graph.clone(),
            target: target.clone(),
            job_id: job_id.to_owned(),
            blocker: OnceLock::new(),
            edge: OnceLock::new(),
            farewell: Farewell::default(),
        }
    }

    /// Refuses jobs and removal, and says why.
    fn block_operations(&self) {
        let reason = format!(
            "block job '{}' has ended, but a request of it has not returned",
            self.job_id
        );
        match self.graph.block_operations(&self.target, &reason, &[]) {
            Ok(blocker) => drop(self.blocker.set(blocker)),
            Err(error) => tracing::debug!(%error, "the target is gone"),
        }
    }

    /// Refuses all other users; those that it has already stay.
    fn keep_others_out(&self) {
        let writes = PermissionSet::of(&[Permission::Write]);
        let alone = Permissions {
            uses: writes,
            shares: PermissionSet::NONE,
        };
        let as_before = Permissions::uses(&[Permission::Write]).unsharing(&[Permission::Resize]);
        let name = format!("ended block job '{}'", self.job_id);
        let attach = |permissions| {
            let user = Attachment::new(name.clone(), ChildRole::Data, permissions);
            self.graph
                .attach(&self.target, user.named("target").staying())
        };
        match attach(alone).or_else(|_| attach(as_before)) {
            Ok(edge) => drop(self.edge.set(edge)),
            Err(error) => {
                tracing::warn!(%error, "nothing keeps others from the target of an ended backup");
            }
        }
    }
}

impl fmt::Debug for TargetGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TargetGuard")
            .field("target", &self.target.name())
            .field("job_id", &self.job_id)
            .finish_non_exhaustive()
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
