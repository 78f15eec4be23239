//! How a job takes its leave of the graph, whatever does not return.
//!
//! The end of a job waits a moment for its own requests, so that its target is free for others when it has
//! ended, but for none that does not return. What it cannot take back it makes safe: the filter passes everything
//! through from the moment the copy is given up, and a target that a write may still reach is refused to everybody
//! else until that write is back.

use std::{
    fmt,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use aio::{AioContext, SleepWaker};
use block::{
    Attachment, Blocker, Child, ChildRole, ErrorKind, Graph, Node, Permission, PermissionSet,
    Permissions,
};

/// Longest time in nanoseconds for which guests are held up to take the filter from below them.
const REMOVAL_MAX_NS: u64 = 1_000_000_000;
/// How long guests then have the filter for themselves before the next try, in nanoseconds.
const REMOVAL_PAUSE_NS: u64 = 10_000_000_000;

/// Longest time in nanoseconds that the end waits for requests of its own. Devices that work at all
/// take less for what one backup has in flight.
pub(crate) const RETURN_MAX_NS: u64 = 500_000_000;

/// A filter that nobody wants any more, and that guests may still be above of.
pub(crate) struct Leaving {
    pub(crate) graph: Graph,
    pub(crate) filter: Node,
    /// Who keeps others from the target as long as a request may change it.
    pub(crate) guard: Weak<TargetGuard>,
    /// Whether the filter is still there.
    pub(crate) in_place: Arc<AtomicBool>,
}

impl Leaving {
    /// Takes the filter out, now or, if guests' requests do not return, later.
    pub(crate) async fn go(self, main: &AioContext) {
        if !self.is_done(main).await {
            drop(main.spawn(self.done_later(main.clone())));
        }
    }

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
                tracing::error!(%error, "guests stay above the filter of a job that has ended");
                return false;
            }
            Err(_) => {
                tracing::warn!(
                    requests = self.filter.in_flight(),
                    "requests of guests do not return: the filter of a job that has ended stays for now"
                );
                return false;
            }
        }
        // The filter's own edge to the target asks for nothing any more.
        if let Some(guard) = self.guard.upgrade() {
            guard.keep_others_out();
        }
        self.in_place.store(false, Ordering::Release);
        // A job that was started on it meanwhile may still want it.
        remove_node(&self.graph, &self.filter)
    }
}

/// Takes a filter that nobody uses out of the graph; returns whether it is gone.
pub(crate) fn remove_node(graph: &Graph, filter: &Node) -> bool {
    match graph.remove_node(filter) {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::NotFound => true,
        Err(error) => {
            tracing::warn!(%error, "the filter of a job stays in the graph for now");
            false
        }
    }
}

/// Keeps others from a target that may still change although its job has ended; until it is dropped.
pub(crate) struct TargetGuard {
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
    pub(crate) fn new(graph: &Graph, target: &Node, job_id: &str) -> Self {
        Self {
            graph: graph.clone(),
            target: target.clone(),
            job_id: job_id.to_owned(),
            blocker: OnceLock::new(),
            edge: OnceLock::new(),
            farewell: Farewell::default(),
        }
    }

    /// The target.
    pub(crate) fn target(&self) -> &Node {
        &self.target
    }

    /// Waits until this is dropped, but for none that does not return: [`RETURN_MAX_NS`] at most. Once.
    pub(crate) fn returned(&self, main: &AioContext) -> impl Future<Output = ()> + use<> {
        let (returned, waker) = main.wakeable_sleep_ns(RETURN_MAX_NS);
        self.farewell.tell(waker);
        async move {
            returned.await;
        }
    }

    /// Refuses jobs and removal, and says why.
    pub(crate) fn block_operations(&self) {
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
                tracing::warn!(%error, "nothing keeps others from the target of an ended job");
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
