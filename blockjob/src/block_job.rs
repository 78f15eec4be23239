//! What a block job holds: nodes, a speed limit, an I/O status.

mod parent;
mod speed;

use std::{
    any::Any,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use block::{
    Attachment, BlockError, Blocker, Child, ChildRole, DrainWaker, Graph, Node, Operation, Parent,
    Permissions,
};
use job::{EventJob, Job, JobError, JobVerb, PauseHold, WeakJob};

use crate::{
    block_job_driver::{BlockJobDriver, JobChange},
    on_error::{ErrorAction, ErrorSide, IoStatus, OnError},
    rate_limit::RateLimit,
};

/// The block side of one job. Cheap to clone; any thread; keeps neither the job nor its driver.
///
/// A job driver makes it before the job, attaches its nodes, and calls [`BlockJob::bind`] once the
/// job exists; [`BlockJobDriver`] has the whole recipe.
///
/// While a node it holds is drained, the job is [held paused](Job::hold_paused), which its status
/// does not show, and waited for: until it stands still, or its driver
/// [says that it is quiet](BlockJobDriver::drained_poll). Sections count and nest; a job that is
/// paused by its user, too, goes on when both are over. A sleep for the speed limit ends for the
/// section, and what is left of it is computed again.
///
/// When one of its nodes [moves to another context](Graph::set_context), all its nodes move, and
/// then the job. A job that does not exist yet, or that has let go, refuses.
#[derive(Clone)]
pub struct BlockJob {
    shared: Arc<Shared>,
}

struct Shared {
    id: String,
    kind: &'static str,
    graph: Graph,
    waker: DrainWaker,
    state: Mutex<State>,
}

struct State {
    stage: Stage,
    limit: RateLimit,
    io_status: IoStatus,
    /// Edges whose node is in a drained section.
    drains: u32,
    /// Keeps the job paused meanwhile.
    hold: Option<PauseHold>,
    blockers: Vec<Blocker>,
}

/// How far a block job is. What it knows of its job it does not keep: the job keeps its driver, which keeps us.
enum Stage {
    /// The job does not exist yet.
    Unbound,
    Bound(Binding),
    /// The graph is no concern of the job's any more.
    Released(Binding),
}

/// The job and its driver.
#[derive(Clone)]
struct Binding {
    job: WeakJob,
    driver: Weak<dyn BlockJobDriver>,
    /// The same driver, for those who know its type.
    itself: Weak<dyn Any + Send + Sync>,
}

impl BlockJob {
    /// A block job that holds nothing yet, of a job that will be called `id` and whose driver calls itself `kind`.
    #[must_use]
    pub fn new(id: &str, kind: &'static str, graph: &Graph) -> Self {
        let state = State {
            stage: Stage::Unbound,
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
            waker: graph.drain_waker(),
            state: Mutex::new(state),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The graph of its nodes.
    #[must_use]
    pub fn graph(&self) -> &Graph {
        &self.shared.graph
    }

    /// The block job that belongs to `job`, if that is a block job: its driver
    /// [offers](job::JobDriver::extension) it.
    #[must_use]
    pub fn of(job: &Job) -> Option<Self> {
        job.extension::<Self>().cloned()
    }

    /// The driver, if it is a `D` and still there: how its own crate finds it again by its job.
    #[must_use]
    pub fn driver<D: BlockJobDriver>(&self) -> Option<Arc<D>> {
        let driver = self.lock().stage.binding()?.itself.upgrade()?;
        driver.downcast().ok()
    }

    /// The block job that an event is about, if it is about one; also after the job was forgotten.
    #[must_use]
    pub fn of_event(job: &EventJob) -> Option<Self> {
        job.extension::<Self>().cloned()
    }

    /// Ties the job and its driver to what they hold. Called once, before the job starts.
    ///
    /// If a node that it holds is being drained already, the job is held paused from its start.
    ///
    /// # Panics
    ///
    /// When it is bound already, which is our own bug.
    pub fn bind<D: BlockJobDriver>(&self, job: &Job, driver: &Arc<D>) {
        let binding = Binding {
            job: job.downgrade(),
            driver: Arc::<D>::downgrade(driver),
            itself: Arc::<D>::downgrade(driver),
        };
        let is_drained = {
            let mut state = self.lock();
            let is_unbound = matches!(state.stage, Stage::Unbound);
            assert!(is_unbound, "a block job belongs to one job");
            state.stage = Stage::Bound(binding);
            state.drains > 0
        };
        if is_drained {
            self.shared.hold(job);
        }
    }

    /// Attaches the job to `node`; the edge is the caller's to keep and to drop.
    ///
    /// `name` is what the edge is to the job: `main node`, `source`, `target`. The edge stays at the node when a filter
    /// is put above it, whoever does so. Operations on the node but those in `except` are forbidden from now on, until
    /// [`release`](Self::release).
    ///
    /// # Errors
    ///
    /// Nothing has changed then.
    ///
    /// - [`PermissionConflict`](block::ErrorKind::PermissionConflict): another user does not allow what the job does,
    ///   or the other way round; the text names both.
    /// - [`NotFound`](block::ErrorKind::NotFound): the node is not in the graph.
    pub fn attach(
        &self,
        node: &Node,
        name: &str,
        permissions: Permissions,
        except: &[Operation],
    ) -> Result<Child, BlockError> {
        let attachment = Attachment::of(&self.as_parent(), ChildRole::Data, permissions)
            .named(name)
            .staying();
        let edge = self.shared.graph.attach(node, attachment)?;
        self.block_operations(node, except)?;
        Ok(edge)
    }

    /// The nodes that the job is attached to, the main node first.
    #[must_use]
    pub fn nodes(&self) -> Vec<Node> {
        self.shared.graph.nodes_of(&self.as_parent())
    }

    /// The node that the job is about: of those that it is attached to, the first. None once it has let go.
    #[must_use]
    pub fn main_node(&self) -> Option<Node> {
        self.nodes().into_iter().next()
    }

    /// Forbids operations on a node, without holding it, but those in `except`, until [`release`](Self::release).
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

    /// Lets go of the operation blockers, and tells neither the job nor its driver of anything any more; the edges are
    /// their holders' to drop, before this.
    pub fn release(&self) {
        let blockers = {
            let mut state = self.lock();
            if let Stage::Bound(binding) = &state.stage {
                state.stage = Stage::Released(binding.clone());
            }
            std::mem::take(&mut state.blockers)
        };
        drop(blockers);
        self.became_quiet();
    }

    /// The driver, whose word a drained section [has heard](BlockJobDriver::drained_poll), has become quiet.
    pub fn became_quiet(&self) {
        self.shared.waker.kick();
    }

    /// Decides about an error, tells subscribers, and pauses the job if that is the decision.
    pub fn decide(&self, policy: OnError, side: ErrorSide, error: &BlockError) -> ErrorAction {
        let errno = error.errno().unwrap_or(libc::EIO);
        let action = policy.action(errno);
        self.lock().io_status.note(errno, action);
        if let Some(job) = self.shared.job() {
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

    /// The user resumes the job, or cancels it while it is paused: its I/O status is well again. For
    /// [`JobDriver::user_resume`](job::JobDriver::user_resume).
    pub fn user_resume(&self) {
        self.lock().io_status.reset();
    }

    /// A user changes an option of the job.
    ///
    /// # Errors
    ///
    /// Nothing has changed then.
    ///
    /// - `InvalidVerb` by the verb table, `NotFound` when the job is forgotten.
    /// - `Refused`: the change is for another kind of job, or its kind takes no changes.
    /// - What the driver says.
    pub fn change(&self, change: &JobChange) -> Result<(), JobError> {
        let (job, driver) = self.accepting(JobVerb::Change)?;
        let Shared { id, kind, .. } = &*self.shared;
        if change.kind() != *kind {
            let wanted = change.kind();
            let text = format!("Job '{id}' is of type '{kind}', not '{wanted}'");
            return Err(JobError::refused(text));
        }
        job.call_named("change", || driver.change(change))
    }

    /// Whether the driver says that the job copies actively; see [`BlockJobDriver::actively_synced`].
    pub(crate) fn actively_synced(&self) -> Option<bool> {
        let binding = self.lock().stage.binding()?.clone();
        binding.call("actively_synced", |driver| driver.actively_synced())?
    }

    /// The job and its driver, if the job takes `verb` now.
    fn accepting(&self, verb: JobVerb) -> Result<(Job, Arc<dyn BlockJobDriver>), JobError> {
        let binding = self.lock().stage.binding().cloned();
        let alive = binding.and_then(|binding| binding.alive());
        let (job, driver) = alive.ok_or_else(|| JobError::block_job_not_found(&self.shared.id))?;
        job.check_verb(verb)?;
        Ok((job, driver))
    }

    fn as_parent(&self) -> Arc<dyn Parent> {
        self.shared.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }
}

impl Stage {
    /// The job and its driver, whatever has become of them.
    fn binding(&self) -> Option<&Binding> {
        match self {
            Self::Unbound => None,
            Self::Bound(binding) | Self::Released(binding) => Some(binding),
        }
    }
}

impl Binding {
    fn alive(&self) -> Option<(Job, Arc<dyn BlockJobDriver>)> {
        self.job.upgrade().zip(self.driver.upgrade())
    }

    /// Calls a hook of the driver, so that a panic there says in which of which job.
    fn call<R>(
        &self,
        hook: &'static str,
        call: impl FnOnce(&dyn BlockJobDriver) -> R,
    ) -> Option<R> {
        let (job, driver) = self.alive()?;
        Some(job.call_named(hook, || call(&*driver)))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The job, while what happens to the graph is its concern.
    fn job(&self) -> Option<Job> {
        self.binding()?.job.upgrade()
    }

    /// The job and its driver, for as long.
    fn binding(&self) -> Option<Binding> {
        match &self.lock().stage {
            Stage::Bound(binding) => Some(binding.clone()),
            Stage::Unbound | Stage::Released(_) => None,
        }
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
