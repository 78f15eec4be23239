//! What a drained section, and a move to another context, ask of the users of a node.

use std::{
    fmt,
    future::{Future, ready},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Wake, Waker},
};

use aio::Handle;

use crate::{
    error::{BlockError, ErrorKind},
    wait::WaitList,
};

/// A future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A user of a node that can be asked to keep quiet: a job, an export.
///
/// The calls come from whichever thread drains, with no lock held; they must be quick and must not
/// wait. They count: a user with several edges, or whose nodes are drained several times over, is told to be
/// quiet several times and may go on after as many [`Parent::drained_end`].
pub trait Parent: Send + Sync {
    /// How errors call this user, as in `block job 'j0'`.
    fn name(&self) -> String;

    /// Start no more requests on this edge and bring those under way to an end.
    ///
    /// Until then the node serves them as always, so ending may take any number of further requests.
    fn drained_begin(&self);

    /// Whether this user is still busy. When that turns to `false`, it calls [`DrainWaker::kick`].
    fn drained_poll(&self) -> bool;

    /// One reason less to be quiet.
    fn drained_end(&self);

    /// Whether this user puts up with all nodes that it holds moving to the context behind `to`.
    ///
    /// As here, a user refuses unless it has thought about it.
    ///
    /// # Errors
    ///
    /// Why not; the text names the user. Nothing moves then.
    fn check_context_change(&self, _to: &Handle) -> Result<(), BlockError> {
        let what = format!("{} does not move to another context", self.name());
        Err(BlockError::new(ErrorKind::Busy, what))
    }

    /// Gets ready to go along, after a check that went well: ends once the rest cannot fail.
    ///
    /// By default there is nothing to get ready for and nothing to do.
    fn prepare_context_change<'a>(&'a self, _to: &'a Handle) -> BoxFuture<'a, ContextChange> {
        Box::pin(ready(ContextChange::new(ready(()))))
    }
}

/// How a user goes along when the nodes that it holds move: it is ready to, and cannot fail any more.
///
/// Dropped without having been carried out, it takes the preparation back.
#[must_use = "dropping it takes the preparation back"]
pub struct ContextChange {
    commit: BoxFuture<'static, ()>,
}

impl ContextChange {
    /// A change that `commit` carries out: with its first poll, by which the nodes have moved. Whatever is left to wait
    /// for, so that nothing of the user is on the old context any more, it may wait for.
    pub fn new(commit: impl Future<Output = ()> + Send + 'static) -> Self {
        let commit = Box::pin(commit);
        Self { commit }
    }

    pub(super) fn into_future(self) -> BoxFuture<'static, ()> {
        self.commit
    }
}

impl fmt::Debug for ContextChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContextChange").finish_non_exhaustive()
    }
}

/// Tells drained sections that are being entered to ask the parents again. Cheap to clone; any thread.
#[derive(Clone, Default)]
pub struct DrainWaker {
    shared: Arc<Kicks>,
}

#[derive(Default)]
struct Kicks {
    count: AtomicU64,
    waiting: WaitList,
}

impl Kicks {
    fn kick(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
        self.waiting.wake_all();
    }
}

impl Wake for Kicks {
    fn wake(self: Arc<Self>) {
        self.kick();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.kick();
    }
}

impl DrainWaker {
    /// Says that a parent may have become quiet.
    pub fn kick(&self) {
        self.shared.kick();
    }

    /// Kicks when it is woken: for what tells by waking that it has become quiet. All of one graph are the same.
    #[must_use]
    pub fn to_waker(&self) -> Waker {
        Waker::from(self.shared.clone())
    }

    /// How often there was a kick; read before looking at what the kicks are about.
    pub(crate) fn count(&self) -> u64 {
        self.shared.count.load(Ordering::Acquire)
    }

    /// Waits for a kick after the one counted by `seen`.
    pub(crate) async fn kicked_since(&self, seen: u64) {
        self.shared.waiting.until(|| self.count() != seen).await;
    }
}

impl fmt::Debug for DrainWaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainWaker").finish_non_exhaustive()
    }
}

/// Something to tell a parent once the graph is unlocked.
pub(crate) struct Notice {
    pub(crate) parent: Arc<dyn Parent>,
    pub(crate) kind: NoticeKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoticeKind {
    Begin,
    End,
}

impl fmt::Debug for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Notice").field(&self.kind).finish()
    }
}

impl Notice {
    pub(crate) fn tell(self) {
        match self.kind {
            NoticeKind::Begin => self.parent.drained_begin(),
            NoticeKind::End => self.parent.drained_end(),
        }
    }
}
