//! Groups of nodes that move, with users that go along, refuse, come and leave.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use aio::{AioContext, Handle};

use crate::{
    error::{BlockError, ErrorKind},
    graph::{
        Graph,
        child::{Attachment, Child, ChildRole},
        parent::{BoxFuture, ContextChange, Parent},
        permission::Permissions,
    },
    node::Node,
    testing::{
        block_on,
        disk::{CountingParent, Disk, DiskNode, attach, context, pass_over, writer},
    },
};

/// What happened to users, in order.
type Log = Arc<Mutex<Vec<String>>>;

/// A user that goes along, once it has been allowed to be ready.
struct Job {
    name: &'static str,
    refuses: bool,
    is_ready: AtomicBool,
    log: Log,
}

impl Job {
    fn new(name: &'static str, log: &Log) -> Arc<Self> {
        Arc::new(Self {
            name,
            refuses: false,
            is_ready: AtomicBool::new(true),
            log: log.clone(),
        })
    }

    fn note(&self, what: &str) {
        self.log
            .lock()
            .unwrap()
            .push(format!("{} {what}", self.name));
    }
}

/// Says that a preparation was taken back, unless it was carried out.
struct Prepared {
    log: Log,
    name: &'static str,
    is_done: bool,
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if !self.is_done {
            self.log
                .lock()
                .unwrap()
                .push(format!("{} let go", self.name));
        }
    }
}

impl Parent for Job {
    fn name(&self) -> String {
        format!("block job '{}'", self.name)
    }

    fn drained_begin(&self) {}

    fn drained_poll(&self) -> bool {
        false
    }

    fn drained_end(&self) {}

    fn check_context_change(&self, _to: &Handle) -> Result<(), BlockError> {
        if self.refuses {
            let what = format!("{} stays", self.name());
            return Err(BlockError::new(ErrorKind::Busy, what));
        }
        Ok(())
    }

    fn prepare_context_change<'a>(&'a self, _to: &'a Handle) -> BoxFuture<'a, ContextChange> {
        Box::pin(async move {
            // Tests poll by hand, so nobody has to be woken.
            poll_fn(|_| match self.is_ready.load(Ordering::SeqCst) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            })
            .await;
            self.note("ready");
            let mut prepared = Prepared {
                log: self.log.clone(),
                name: self.name,
                is_done: false,
            };
            ContextChange::new(async move {
                prepared.is_done = true;
                let entry = format!("{} moved", prepared.name);
                prepared.log.lock().unwrap().push(entry);
            })
        })
    }
}

struct World {
    graph: Graph,
    log: Log,
    contexts: [AioContext; 2],
}

impl World {
    fn new() -> Self {
        Self {
            graph: Graph::new(),
            log: Log::default(),
            contexts: [context(), context()],
        }
    }

    fn node(&self, name: &str) -> Node {
        let disk = DiskNode(Disk::new(1 << 16, 1));
        self.graph.add_node(Some(name), disk).unwrap()
    }

    fn hold(&self, job: &Arc<Job>, node: &Node) -> Child {
        let parent: Arc<dyn Parent> = job.clone();
        let attachment = Attachment::of(&parent, ChildRole::Data, Permissions::IDLE);
        self.graph.attach(node, attachment.staying()).unwrap()
    }

    fn set_context(&self, node: &Node, index: usize) -> Result<(), BlockError> {
        block_on(self.graph.set_context(node, self.contexts[index].handle()))
    }

    fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock().unwrap())
    }

    /// Where each node is at home, by the index of the context.
    fn homes<const N: usize>(&self, nodes: [&Node; N]) -> [Option<usize>; N] {
        nodes.map(|node| {
            let home = node.context()?;
            let mut contexts = self.contexts.iter();
            contexts.position(|context| context.handle().is_same(&home))
        })
    }
}

#[test]
fn all_that_belongs_together_moves_and_nothing_else() {
    let w = World::new();
    let (below, held, shared) = (w.node("below"), w.node("held"), w.node("shared"));
    let (apart, lonely) = (w.node("apart"), w.node("lonely"));
    let filter = pass_over(&w.graph, "filter", &below);
    let _guest = attach(&w.graph, &filter, "guest", writer());
    let (one, two, other) = (
        Job::new("one", &w.log),
        Job::new("two", &w.log),
        Job::new("other", &w.log),
    );
    let _edges = [
        w.hold(&one, &filter),
        w.hold(&one, &shared),
        w.hold(&two, &shared),
        w.hold(&two, &held),
        w.hold(&other, &apart),
    ];

    w.set_context(&held, 1).unwrap();

    let all = [&below, &filter, &held, &shared, &apart, &lonely];
    let moved = [Some(1), Some(1), Some(1), Some(1), None, None];
    assert_eq!(w.homes(all), moved);
    assert_eq!(w.log().len(), 4, "two jobs got ready and moved");
}

#[test]
fn one_user_that_refuses_keeps_everything_where_it_is() {
    let w = World::new();
    let (near, far) = (w.node("near"), w.node("far"));
    let willing = Job::new("willing", &w.log);
    let unwilling = Job {
        refuses: true,
        ..Arc::into_inner(Job::new("j", &w.log)).unwrap()
    };
    let unwilling = Arc::new(unwilling);
    let edges = [w.hold(&willing, &near), w.hold(&willing, &far)];
    let refusing = w.hold(&unwilling, &far);

    let error = w.set_context(&near, 1).unwrap_err();

    assert_eq!(error.kind(), ErrorKind::Busy);
    assert_eq!(error.to_string(), "block job 'j' stays, on node 'far'");
    assert_eq!(w.homes([&near, &far]), [None, None]);
    assert!(w.log().is_empty(), "nobody had to get ready");

    drop(refusing);
    w.set_context(&near, 1).unwrap();
    assert_eq!(w.homes([&near, &far]), [Some(1), Some(1)]);
    drop(edges);
}

#[test]
fn a_user_that_knows_nothing_of_contexts_refuses() {
    let w = World::new();
    let node = w.node("s");
    let parent: Arc<dyn Parent> = Arc::new(CountingParent::default());
    let attachment = Attachment::of(&parent, ChildRole::Primary, Permissions::IDLE);
    let _edge = w.graph.attach(&node, attachment).unwrap();

    let error = w.set_context(&node, 0).unwrap_err();

    let text = "block job 'j0' does not move to another context, on node 's'";
    assert_eq!(error.to_string(), text);
}

#[test]
fn who_comes_and_goes_while_others_get_ready_is_asked_and_let_go() {
    let w = World::new();
    let (node, other) = (w.node("node"), w.node("other"));
    let (slow, leaving) = (Job::new("slow", &w.log), Job::new("leaving", &w.log));
    slow.is_ready.store(false, Ordering::SeqCst);
    let leaving_edge = w.hold(&leaving, &node);
    let _slow_edge = w.hold(&slow, &node);
    let mut moving = pin!(w.graph.set_context(&node, w.contexts[1].handle()));
    let mut poll = || {
        moving
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
    };

    assert!(poll().is_pending());
    assert_eq!(w.log(), ["leaving ready"]);
    drop(leaving_edge);
    let coming = Job::new("coming", &w.log);
    let _edges = [w.hold(&coming, &node), w.hold(&coming, &other)];
    slow.is_ready.store(true, Ordering::SeqCst);
    assert!(matches!(poll(), Poll::Ready(Ok(()))));

    let log = w.log();
    let want = [
        "slow ready",
        "leaving let go",
        "coming ready",
        "slow moved",
        "coming moved",
    ];
    assert_eq!(log, want);
    assert_eq!(w.homes([&node, &other]), [Some(1), Some(1)]);
}

#[test]
fn a_move_given_up_half_way_changes_nothing_and_lets_the_next_one_begin() {
    let w = World::new();
    let node = w.node("node");
    let (quick, slow) = (Job::new("quick", &w.log), Job::new("slow", &w.log));
    slow.is_ready.store(false, Ordering::SeqCst);
    let _edges = [w.hold(&quick, &node), w.hold(&slow, &node)];
    {
        let mut moving = pin!(w.graph.set_context(&node, w.contexts[1].handle()));
        let polled = moving
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
    }
    assert_eq!(w.log(), ["quick ready", "quick let go"]);
    assert_eq!(w.homes([&node]), [None]);

    slow.is_ready.store(true, Ordering::SeqCst);
    w.set_context(&node, 0).unwrap();
    assert_eq!(w.homes([&node]), [Some(0)]);
}

/// Else the nodes could end where the one move wants them, and their users where the other does.
#[test]
fn moves_of_one_graph_happen_one_after_the_other() {
    let w = World::new();
    let (node, other) = (w.node("node"), w.node("other"));
    let slow = Job::new("slow", &w.log);
    slow.is_ready.store(false, Ordering::SeqCst);
    let _edge = w.hold(&slow, &node);
    let mut first = pin!(w.graph.set_context(&node, w.contexts[0].handle()));
    let mut second = pin!(w.graph.set_context(&other, w.contexts[1].handle()));
    let mut cx = Context::from_waker(Waker::noop());

    assert!(first.as_mut().poll(&mut cx).is_pending());
    assert!(second.as_mut().poll(&mut cx).is_pending());
    slow.is_ready.store(true, Ordering::SeqCst);
    assert!(first.as_mut().poll(&mut cx).is_ready());
    assert!(second.as_mut().poll(&mut cx).is_ready());

    assert_eq!(w.homes([&node, &other]), [Some(0), Some(1)]);
}

#[test]
fn a_node_that_is_built_above_others_is_at_home_where_they_are() {
    let w = World::new();
    let below = w.node("below");
    w.set_context(&below, 1).unwrap();

    let filter = pass_over(&w.graph, "filter", &below);

    assert_eq!(w.homes([&filter]), [Some(1)]);
}

#[test]
fn nodes_of_another_graph_do_not_move() {
    let w = World::new();
    let stranger = World::new().node("stranger");

    let error = w.set_context(&stranger, 0).unwrap_err();

    assert_eq!(error.kind(), ErrorKind::NotFound);
}
