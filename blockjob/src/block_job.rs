//! What a block job holds: nodes, a speed limit, an I/O status; and what a drain asks of it.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Wake, Waker},
};

use block::{
    Attachment, BlockError, Blocker, Child, ChildRole, DrainWaker, Graph, Node, Operation, Parent,
    Permissions,
};
use job::{Job, PauseHold};

use crate::{
    on_error::{ErrorAction, ErrorSide, IoStatus, OnError},
    rate_limit::RateLimit,
};

/// The block side of one job. Cheap to clone; any thread.
///
/// A job driver makes it before the job, attaches its nodes, and calls [`BlockJob::bind`] once the
/// job exists. While a node it holds is drained, the job is paused and its pause waited for.
#[derive(Clone)]
pub struct BlockJob {
    shared: Arc<Shared>,
}

struct Shared {
    id: String,
    kind: &'static str,
    graph: Graph,
    /// Has drained sections ask again.
    kick: Waker,
    state: Mutex<State>,
}

struct State {
    /// Absent before the job exists and after it has let go: the job keeps its job driver, which keeps us.
    job: Option<Job>,
    limit: RateLimit,
    io_status: IoStatus,
    /// Edges whose node is in a drained section.
    drains: u32,
    /// Keeps the job paused meanwhile.
    hold: Option<PauseHold>,
    blockers: Vec<Blocker>,
}

impl BlockJob {
    /// A block job that holds nothing yet.
    #[must_use]
    pub fn new(id: &str, kind: &'static str, graph: &Graph) -> Self {
        let state = State {
            job: None,
            limit: RateLimit::new(0),
            io_status: IoStatus::Ok,
            drains: 0,
            hold: None,
            blockers: Vec::new(),
        };
        let shared = Shared {
            id: id.to_owned(),
            kind,
            graph: graph.clone(),
            kick: Waker::from(Arc::new(Kick(graph.drain_waker()))),
            state: Mutex::new(state),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Ties the job to what it holds. Called once, before the job starts.
    ///
    /// If a node that it holds is being drained already, the job is held paused from its start.
    pub fn bind(&self, job: &Job) {
        let is_drained = {
            let mut state = self.lock();
            debug_assert!(state.job.is_none(), "a block job belongs to one job");
            state.job = Some(job.clone());
            state.drains > 0
        };
        if is_drained {
            self.shared.hold(job);
        }
    }

    /// Attaches the job to `node`; the edge is the caller's to keep and to drop.
    ///
    /// `name` is what the edge is to the job: `source`, `target`. The edge stays at the node when a filter is put
    /// above it, whoever does so.
    ///
    /// # Errors
    ///
    /// - [`PermissionConflict`](block::ErrorKind::PermissionConflict): another user does not allow what the job does.
    /// - [`NotFound`](block::ErrorKind::NotFound): the node is not in the graph.
    pub fn attach(
        &self,
        node: &Node,
        name: &str,
        permissions: Permissions,
    ) -> Result<Child, BlockError> {
        let parent: Arc<dyn Parent> = self.shared.clone();
        let attachment = Attachment::of(&parent, ChildRole::Data, permissions)
            .named(name)
            .staying();
        self.shared.graph.attach(node, attachment)
    }

    /// Forbids operations on a node but those in `except`, until [`release`](Self::release).
    ///
    /// # Errors
    ///
    /// [`NotFound`](block::ErrorKind::NotFound): the node is not in the graph.
    pub fn block_operations(&self, node: &Node, except: &[Operation]) -> Result<(), BlockError> {
        let reason = format!("block device is in use by block job: {}", self.shared.kind);
        let blocker = self.shared.graph.block_operations(node, &reason, except)?;
        self.lock().blockers.push(blocker);
        Ok(())
    }

    /// Lets go of the job and of the operation blockers; the edges are their holders' to drop, before this.
    pub fn release(&self) {
        let (job, blockers) = {
            let mut state = self.lock();
            (state.job.take(), std::mem::take(&mut state.blockers))
        };
        drop((job, blockers));
    }

    /// The speed limit in bytes per second; zero is none.
    #[must_use]
    pub fn speed_bytes_per_s(&self) -> u64 {
        self.lock().limit.speed_bytes_per_s()
    }

    /// Sets the speed limit in bytes per second; zero is none. It counts at once.
    pub fn set_speed(&self, speed_bytes_per_s: u64) {
        let (wake, job) = {
            let mut state = self.lock();
            let wake = state.limit.set_speed(speed_bytes_per_s);
            (wake, state.job.clone())
        };
        if let (true, Some(job)) = (wake, job) {
            job.wake();
        }
    }

    /// Counts `len_bytes` as moved at `now_ns`. The next request waits for [`delay_ns`](Self::delay_ns).
    pub fn account(&self, len_bytes: u64, now_ns: u64) {
        self.lock().limit.account(len_bytes, now_ns);
    }

    /// Takes back `len_bytes` that were counted and needed no moving after all.
    pub fn refund(&self, len_bytes: u64) {
        self.lock().limit.refund(len_bytes);
    }

    /// How long the next request must wait for the speed limit, in nanoseconds.
    #[must_use]
    pub fn delay_ns(&self, now_ns: u64) -> u64 {
        self.lock().limit.delay_ns(now_ns)
    }

    /// Decides about an error, tells subscribers, and pauses the job if that is the decision.
    pub fn decide(&self, policy: OnError, side: ErrorSide, error: &BlockError) -> ErrorAction {
        let errno = error.errno().unwrap_or(libc::EIO);
        let action = policy.action(errno);
        let job = {
            let mut state = self.lock();
            state.io_status.note(errno, action);
            state.job.clone()
        };
        if let Some(job) = job {
            job.report_error(side.as_str(), action.as_str());
            if action == ErrorAction::Stop {
                job.stop_on_error();
            }
        }
        action
    }

    /// Why the job stands still because of an error, if it does.
    #[must_use]
    pub fn io_status(&self) -> IoStatus {
        self.lock().io_status
    }

    /// The user resumes the job: its I/O status is well again.
    pub fn user_resume(&self) {
        self.lock().io_status.reset();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the job paused as long as a node of ours is drained.
    fn hold(&self, job: &Job) {
        let hold = job.hold_paused();
        let mut state = self.lock();
        // The section may have ended since, or another one may have seen to it.
        if state.drains > 0 && state.hold.is_none() {
            state.hold = Some(hold);
            return;
        }
        drop(state);
        drop(hold);
    }
}

impl Parent for Shared {
    fn name(&self) -> String {
        format!("block job '{}'", self.id)
    }

    fn drained_begin(&self) {
        let job = {
            let mut state = self.lock();
            state.drains += 1;
            state.job.clone()
        };
        if let Some(job) = job {
            self.hold(&job);
        }
    }

    fn drained_poll(&self) -> bool {
        let job = self.lock().job.clone();
        // The section asks again when the job stands still.
        let mut cx = Context::from_waker(&self.kick);
        job.is_some_and(|job| job.poll_quiesced(&mut cx).is_pending())
    }

    fn drained_end(&self) {
        let hold = {
            let mut state = self.lock();
            state.drains -= 1;
            match state.drains {
                0 => state.hold.take(),
                _ => None,
            }
        };
        drop(hold);
    }
}

/// Tells drained sections that the job may stand still.
struct Kick(DrainWaker);

impl Wake for Kick {
    fn wake(self: Arc<Self>) {
        self.0.kick();
    }
}

impl fmt::Debug for BlockJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = &self.shared;
        f.debug_struct("BlockJob")
            .field("id", &shared.id)
            .field("kind", &shared.kind)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
