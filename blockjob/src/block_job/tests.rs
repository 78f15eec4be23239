//! A block job over memory nodes, with a body that only waits.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering},
};

use aio::{AioContext, Config};
use block::{
    BlockError, ErrorKind, Graph, Node, Operation, Permission, Permissions,
    nodes::{MemoryNode, MemoryOptions},
};
use job::{
    BoxFuture, CancelMode, Job, JobConfig, JobContext, JobDriver, JobError, JobEvent, JobRegistry,
    JobStatus, Subscription,
};

use super::BlockJob;
use crate::{ErrorAction, ErrorSide, IoStatus, OnError};

/// Parks until cancelled, and counts its wake-ups.
struct Waiting {
    block_job: BlockJob,
    woken: AtomicU32,
}

impl JobDriver for Waiting {
    fn kind(&self) -> &'static str {
        "waiting"
    }

    fn run<'a>(&'a self, job: &'a JobContext) -> BoxFuture<'a, Result<(), JobError>> {
        Box::pin(async move {
            while !job.is_cancelled() {
                job.park().await;
                self.woken.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        })
    }

    fn user_resume(&self) {
        self.block_job.user_resume();
    }
}

struct World {
    cx: AioContext,
    graph: Graph,
    node: Node,
    block_job: BlockJob,
    driver: Arc<Waiting>,
    job: Job,
    errors: Arc<Mutex<Vec<String>>>,
    _subscription: Subscription,
}

impl World {
    /// A job that is bound, but not started.
    fn new(cx: &AioContext) -> Self {
        let graph = Graph::new();
        let memory = MemoryNode::new(MemoryOptions::new(1 << 20)).unwrap();
        let node = graph.add_node(Some("disk"), memory).unwrap();
        let block_job = BlockJob::new("j", "waiting", &graph);
        let driver = Arc::new(Waiting {
            block_job: block_job.clone(),
            woken: AtomicU32::new(0),
        });
        let jobs = JobRegistry::new(cx.handle().clone());
        let errors = Arc::<Mutex<Vec<String>>>::default();
        let heard = errors.clone();
        let subscription = jobs.subscribe(move |event| {
            if let JobEvent::Error {
                operation, action, ..
            } = event
            {
                heard.lock().unwrap().push(format!("{operation} {action}"));
            }
        });
        let config = JobConfig::new("j", driver.clone(), cx.handle().clone());
        let job = jobs.create(config).unwrap();
        Self {
            cx: cx.clone(),
            graph,
            node,
            block_job,
            driver,
            job,
            errors,
            _subscription: subscription,
        }
    }

    async fn settle(&self) {
        for _ in 0..50 {
            self.cx.yield_now().await;
        }
    }

    async fn end(&self) {
        self.job.cancel(CancelMode::Force).unwrap();
        self.job.wait().await;
    }

    /// Whether the job stands still for a section, of which its status tells nothing.
    fn is_held(&self) -> bool {
        assert_eq!(self.job.status(), JobStatus::Running);
        self.job.is_quiescent()
    }

    fn woken(&self) -> u32 {
        self.driver.woken.load(Ordering::Relaxed)
    }
}

fn run<F: Future<Output = ()>>(test: impl FnOnce(AioContext) -> F) {
    aio::run(Config::default(), test).unwrap();
}

fn io_error(errno: i32) -> BlockError {
    BlockError::io("injected", std::io::Error::from_raw_os_error(errno))
}

#[test]
fn a_drain_pauses_the_job_and_its_end_lets_it_go_on() {
    run(|cx| async move {
        let world = World::new(&cx);
        let edge = world
            .block_job
            .attach(&world.node, "disk", Permissions::IDLE);
        world.block_job.bind(&world.job);
        world.job.start().unwrap();
        world.settle().await;
        assert!(!world.is_held());

        let outer = world.graph.drain(std::slice::from_ref(&world.node)).await;
        assert!(world.is_held());
        let inner = world.graph.drain(std::slice::from_ref(&world.node)).await;
        drop(outer);
        world.settle().await;
        assert!(world.is_held());
        drop(inner);
        world.settle().await;
        assert!(!world.is_held());

        drop(edge.unwrap());
        world.end().await;
    });
}

#[test]
fn two_edges_to_drained_nodes_are_two_reasons_to_pause() {
    run(|cx| async move {
        let world = World::new(&cx);
        let memory = MemoryNode::new(MemoryOptions::new(1 << 20)).unwrap();
        let other = world.graph.add_node(None, memory).unwrap();
        let attach = |node| world.block_job.attach(node, "disk", Permissions::IDLE);
        let edges = [&world.node, &other].map(|node| attach(node).unwrap());
        world.block_job.bind(&world.job);
        world.job.start().unwrap();

        let first = world.graph.drain(std::slice::from_ref(&world.node)).await;
        let second = world.graph.drain(std::slice::from_ref(&other)).await;
        drop(first);
        world.settle().await;
        assert!(world.is_held());
        // An edge that goes takes its reason along.
        drop(edges);
        world.settle().await;
        assert!(!world.is_held());
        drop(second);
        world.end().await;
    });
}

#[test]
fn a_job_of_a_drained_node_is_paused_from_its_start() {
    run(|cx| async move {
        let world = World::new(&cx);
        let first = world.graph.drain(std::slice::from_ref(&world.node)).await;
        let edge = world
            .block_job
            .attach(&world.node, "disk", Permissions::IDLE);
        world.block_job.bind(&world.job);
        world.job.start().unwrap();
        world.settle().await;
        assert!(world.is_held());

        let second = world.graph.drain(std::slice::from_ref(&world.node)).await;
        drop(second);
        world.settle().await;
        assert!(world.is_held());
        drop(first);
        world.settle().await;
        assert!(!world.is_held());
        drop(edge.unwrap());
        world.end().await;
    });
}

#[test]
fn a_section_that_ends_before_the_job_exists_leaves_no_pause() {
    run(|cx| async move {
        let world = World::new(&cx);
        let section = world.graph.drain(std::slice::from_ref(&world.node)).await;
        let edge = world
            .block_job
            .attach(&world.node, "disk", Permissions::IDLE);
        drop(section);
        world.block_job.bind(&world.job);
        world.job.start().unwrap();
        world.settle().await;
        assert_eq!(world.job.status(), JobStatus::Running);
        drop(edge.unwrap());
        world.end().await;
    });
}

#[test]
fn operations_are_blocked_until_release_which_also_lets_go_of_the_job() {
    run(|cx| async move {
        let world = World::new(&cx);
        world.block_job.bind(&world.job);
        let except = [Operation::BackupSource];
        world
            .block_job
            .block_operations(&world.node, &except)
            .unwrap();
        let check = |operation| world.graph.check_operation(&world.node, operation);
        check(Operation::BackupSource).unwrap();
        let busy = check(Operation::Resize).unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::Busy);
        let reason = "Node 'disk' is busy: block device is in use by block job: waiting";
        assert_eq!(busy.to_string(), reason);

        world.block_job.release();
        check(Operation::Resize).unwrap();
        // Nobody is told any more.
        world
            .block_job
            .decide(OnError::Stop, ErrorSide::Read, &io_error(libc::EIO));
        assert!(world.errors.lock().unwrap().is_empty());
        world.job.discard();
    });
}

#[test]
fn an_edge_that_another_user_does_not_allow_is_refused_by_the_jobs_name() {
    run(|cx| async move {
        let world = World::new(&cx);
        let alone = Permissions::uses(&[]).unsharing(&[Permission::Write]);
        let edge = world.block_job.attach(&world.node, "disk", alone).unwrap();
        let writes = Permissions::uses(&[Permission::Write]);
        let refused = world
            .block_job
            .attach(&world.node, "target", writes)
            .unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::PermissionConflict);
        let user = "block job 'j' (uses node 'disk' as 'target' child)";
        assert!(refused.to_string().contains(user), "{refused}");
        drop(edge);
        world.job.discard();
    });
}

#[test]
fn only_a_faster_speed_wakes_the_job() {
    run(|cx| async move {
        let world = World::new(&cx);
        world.block_job.set_speed(1000);
        world.block_job.bind(&world.job);
        world.job.start().unwrap();
        world.settle().await;
        for (speed, wakes) in [(500, 0), (501, 1), (501, 0), (0, 1)] {
            let before = world.woken();
            world.block_job.set_speed(speed);
            world.settle().await;
            assert_eq!(world.woken() - before, wakes, "{speed}");
            assert_eq!(world.block_job.speed_bytes_per_s(), speed);
        }
        world.end().await;
    });
}

#[test]
fn what_is_accounted_delays_the_next_request() {
    run(|cx| async move {
        let world = World::new(&cx);
        world.block_job.set_speed(1 << 20);
        assert_eq!(world.block_job.delay_ns(0), 0);
        world.block_job.account(1 << 20, 0);
        assert_eq!(world.block_job.delay_ns(0), 1_000_000_000);
        assert_eq!(world.block_job.delay_ns(400_000_000), 600_000_000);
        world.job.discard();
    });
}

#[test]
fn an_error_that_stops_pauses_once_and_shows_until_the_user_resumes() {
    run(|cx| async move {
        let world = World::new(&cx);
        world.block_job.bind(&world.job);
        world.job.start().unwrap();
        let decide = |policy, side, errno| world.block_job.decide(policy, side, &io_error(errno));

        let ignored = decide(OnError::Ignore, ErrorSide::Read, libc::EIO);
        assert_eq!(ignored, ErrorAction::Ignore);
        assert_eq!(world.block_job.io_status(), IoStatus::Ok);
        decide(OnError::Enospc, ErrorSide::Write, libc::ENOSPC);
        decide(OnError::Stop, ErrorSide::Write, libc::EIO);
        assert_eq!(world.block_job.io_status(), IoStatus::NoSpace);
        world.settle().await;
        assert_eq!(world.job.status(), JobStatus::Paused);
        let told = world.errors.lock().unwrap().clone();
        assert_eq!(told, ["read ignore", "write stop", "write stop"]);

        world.job.resume().unwrap();
        world.settle().await;
        assert_eq!(world.job.status(), JobStatus::Running);
        assert_eq!(world.block_job.io_status(), IoStatus::Ok);
        world.end().await;
    });
}

#[test]
fn an_error_without_a_number_counts_as_eio() {
    run(|cx| async move {
        let world = World::new(&cx);
        let error = BlockError::new(ErrorKind::Io, "odd");
        let action = world
            .block_job
            .decide(OnError::Enospc, ErrorSide::Read, &error);
        assert_eq!(action, ErrorAction::Report);
        world.job.discard();
    });
}
