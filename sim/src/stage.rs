//! What guests, users and the oracle share: the disks, the graph, the jobs, the count of moments.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

use aio::{AioContext, ManualClock};
use block::{Attachment, Child, ChildRole, Graph, Node, Permission, Permissions};
use job::JobRegistry;

use crate::{
    disk::Disk,
    history::{History, Tick},
    jobs::Jobs,
    plan::Plan,
};

/// A disk that guests use.
pub(crate) struct Source {
    pub(crate) node: Node,
    pub(crate) disk: Arc<Disk>,
    pub(crate) history: RefCell<History>,
    /// Errors have a cause: this disk fails, or guests give way to a backup.
    pub(crate) may_fail: Cell<bool>,
}

/// A disk that jobs write.
pub(crate) struct Target {
    pub(crate) node: Node,
    pub(crate) disk: Arc<Disk>,
    pub(crate) source: usize,
    pub(crate) use_: RefCell<Use>,
    pub(crate) may_fail: Cell<bool>,
}

/// What a target is used for.
#[derive(Clone, Debug)]
pub(crate) enum Use {
    /// Nothing was ever written there.
    Fresh,
    /// The job with this number has it.
    Taken(usize),
    /// A job has ended, without anything to rely on.
    Free,
    /// A job has completed, and left this.
    Complete(Rc<[u8]>),
}

/// The state of a world, apart from whose turn it is.
pub(crate) struct Stage {
    pub(crate) plan: Plan,
    pub(crate) clock: ManualClock,
    /// The first is the main context.
    pub(crate) contexts: Rc<[AioContext]>,
    pub(crate) graph: Graph,
    pub(crate) registry: JobRegistry,
    pub(crate) jobs: Jobs,
    pub(crate) sources: Vec<Source>,
    pub(crate) targets: Vec<Target>,
    pub(crate) ticks: Cell<Tick>,
    /// Nothing new is begun any more.
    pub(crate) is_closing: Cell<bool>,
    /// Guests and acts of users that have not ended.
    pub(crate) busy: Cell<usize>,
    /// Requests of guests that were answered.
    pub(crate) answered: Cell<u64>,
}

impl Stage {
    /// The next moment.
    pub(crate) fn tick(&self) -> Tick {
        let now = self.ticks.get() + 1;
        self.ticks.set(now);
        now
    }

    pub(crate) fn main(&self) -> &AioContext {
        &self.contexts[0]
    }

    /// A new user of whatever users of the source see now.
    pub(crate) fn attach(&self, above: &Node) -> Child {
        let permissions = Permissions::uses(&[Permission::ConsistentRead, Permission::Write]);
        let attachment = Attachment::new("guest", ChildRole::Primary, permissions);
        let attached = self.graph.attach(above, attachment);
        attached.expect("a node takes any number of guests")
    }

    /// Runs `work` as a task that a world does not end without.
    pub(crate) fn spawn(
        self: &Rc<Self>,
        cx: &AioContext,
        work: impl Future<Output = ()> + 'static,
    ) {
        self.busy.set(self.busy.get() + 1);
        let stage = self.clone();
        drop(cx.spawn(async move {
            work.await;
            stage.busy.set(stage.busy.get() - 1);
        }));
    }
}
