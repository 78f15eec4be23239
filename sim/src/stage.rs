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
    chain::{Chain, Group},
    disk::Disk,
    history::{History, Tick},
    jobs::Jobs,
    plan::Plan,
};

/// What guests take for one disk, whichever disk their bytes are on.
pub(crate) struct Line {
    pub(crate) history: RefCell<History>,
    /// Where the bytes are: its place among the disks. A mirror that completes changes that.
    pub(crate) at: Cell<usize>,
    /// Errors have a cause: this disk fails, or guests give way to a backup.
    pub(crate) may_fail: Cell<bool>,
    /// Goes where the edges of guests go.
    pub(crate) probe: Child,
}

/// A disk that a line is on, or may be copied to.
pub(crate) struct Stored {
    pub(crate) node: Node,
    pub(crate) disk: Arc<Disk>,
    pub(crate) line: usize,
    pub(crate) use_: RefCell<Use>,
    pub(crate) may_fail: bool,
}

/// What a disk is used for.
#[derive(Clone, Debug)]
pub(crate) enum Use {
    /// Guests have it.
    Guests,
    /// Nothing was ever written there.
    Fresh,
    /// The job with this number has it.
    Taken(usize),
    /// A job has ended, without anything to rely on.
    Free,
    /// A job has completed, and left this, stable.
    Complete(Rc<[u8]>),
    /// A chain of backups goes on there. If its last backup has completed, it has left this, stable.
    Chain(Option<Rc<[u8]>>),
    /// Guests have left it like this.
    Left(Rc<[u8]>),
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
    pub(crate) lines: Vec<Line>,
    pub(crate) disks: Vec<Stored>,
    pub(crate) chains: RefCell<Vec<Chain>>,
    pub(crate) groups: RefCell<Vec<Group>>,
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

    /// The disk that a line is on.
    pub(crate) fn disk_of(&self, line: usize) -> &Stored {
        &self.disks[self.lines[line].at.get()]
    }

    /// The disk that the guests of a line really reach now, through whatever filters.
    pub(crate) fn base_of(&self, line: usize) -> Option<usize> {
        let mut node = self.lines[line].probe.node();
        while let Some(below) = self.graph.filtered_child(&node) {
            node = below;
        }
        self.disks.iter().position(|stored| stored.node == node)
    }

    /// The disks that a job may overwrite.
    pub(crate) fn free_targets(&self) -> Vec<usize> {
        let is_free = |at: &usize| match &*self.disks[*at].use_.borrow() {
            Use::Fresh | Use::Free | Use::Complete(_) | Use::Left(_) => true,
            Use::Taken(_) | Use::Guests | Use::Chain(_) => false,
        };
        (0..self.disks.len()).filter(is_free).collect()
    }

    /// A new user of what the guests of a line see.
    pub(crate) fn attach(&self, line: usize) -> Child {
        let permissions = Permissions::uses(&[Permission::ConsistentRead, Permission::Write]);
        let attachment = Attachment::new("guest", ChildRole::Primary, permissions);
        let attached = self
            .graph
            .attach(&self.lines[line].probe.node(), attachment);
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
