//! What cannot be seen from outside: that nothing of a backup outlives its handles.

use std::sync::{Arc, Weak};

use aio::{AioContext, BackendKind, Config};
use block::{
    ChildRole, Graph, Node, Permissions,
    nodes::{FaultAction, FaultControl, FaultNode, FaultOp, FaultRule, MemoryNode, MemoryOptions},
};
use job::{CancelMode, JobRegistry, Trigger};

use super::{Backup, BackupDriver, BackupOptions};

#[test]
fn an_ended_backup_keeps_nothing_alive() {
    let ends = [false, true].map(|is_cancelled| {
        aio::run(Config::default(), |cx| async move {
            let graph = Graph::new();
            let jobs = JobRegistry::new(cx.handle().clone());
            let memory = || MemoryNode::new(MemoryOptions::new(1 << 20)).unwrap();
            let source = graph.add_node(Some("source"), memory()).unwrap();
            let target = graph.add_node(Some("target"), memory()).unwrap();
            let options = BackupOptions::new("b");
            let nodes = (&source, &target);
            let backup = Backup::start((&graph, &jobs), cx.handle(), nodes, options)
                .await
                .unwrap();
            if is_cancelled {
                backup.job().cancel(CancelMode::Force).unwrap();
            }
            backup.job().wait().await;
            // The task that completed the job has its handles dropped by then.
            cx.yield_now().await;
            let driver = Arc::downgrade(&backup.driver);
            drop(backup);
            driver.upgrade().is_none()
        })
        .unwrap()
    });
    assert_eq!(ends, [true, true]);
}

/// How far a backup is when everything is dropped.
#[derive(Clone, Copy, Debug)]
enum Moment {
    Running,
    Paused,
    Drained,
    Stuck,
    CancelledBesideStuckRequests,
    Pending,
}

fn memory(graph: &Graph, name: &str) -> Node {
    let memory = MemoryNode::new(MemoryOptions::new(4 << 20)).unwrap();
    graph.add_node(Some(name), memory).unwrap()
}

/// A target whose writes are held if they are to be.
fn target(graph: &Graph, moment: Moment) -> (Node, FaultControl) {
    let below = memory(graph, "below");
    let builder = graph.build_node(Some("target")).unwrap();
    let child = builder.attach(&below, "file", ChildRole::Filtered, Permissions::IDLE);
    let control = FaultControl::new();
    if matches!(moment, Moment::Stuck | Moment::CancelledBesideStuckRequests) {
        for op in [FaultOp::Write, FaultOp::WriteZeroes] {
            control.add(FaultRule::every(op, FaultAction::Hold));
        }
    }
    let node = builder.finish(FaultNode::new(child.unwrap(), control.clone()));
    (node, control)
}

/// Brings a backup that far, and leaves it alone. What is returned would keep nothing alive.
async fn abandon(cx: &AioContext, moment: Moment) -> (Weak<BackupDriver>, Graph) {
    let (graph, jobs) = (Graph::new(), JobRegistry::new(cx.handle().clone()));
    let (source, (target, control)) = (memory(&graph, "source"), target(&graph, moment));
    let options = BackupOptions {
        speed_bytes_per_s: u64::from(matches!(moment, Moment::Running)),
        finalize: Trigger::Manual,
        ..BackupOptions::new("b")
    };
    let registry = (&graph, &jobs);
    let backup = Backup::start(registry, cx.handle(), (&source, &target), options);
    let backup = backup.await.unwrap();
    match moment {
        Moment::Running => {}
        Moment::Paused => backup.job().pause().unwrap(),
        Moment::Drained => {
            let section = graph.drain(&[source]).await;
            // Nobody ends it but the end of the loop.
            drop(cx.spawn(async move {
                let _section = section;
                std::future::pending::<()>().await;
            }));
        }
        Moment::Stuck => drop(control.wait_held(1).await),
        Moment::CancelledBesideStuckRequests => {
            control.wait_held(1).await;
            backup.job().cancel(CancelMode::Force).unwrap();
            backup.job().wait().await;
        }
        Moment::Pending => {
            while backup.job().status() != job::JobStatus::Pending {
                cx.yield_now().await;
            }
        }
    }
    for _ in 0..50 {
        cx.yield_now().await;
    }
    (Arc::downgrade(&backup.driver), graph)
}

#[test]
fn a_backup_whose_loop_and_registry_are_dropped_half_way_keeps_nothing_alive() {
    for moment in [
        Moment::Running,
        Moment::Paused,
        Moment::Drained,
        Moment::Stuck,
        Moment::CancelledBesideStuckRequests,
        Moment::Pending,
    ] {
        let config = Config {
            backend: Some(BackendKind::Epoll),
            ..Config::default()
        };
        let abandoned = aio::run(config, |cx| async move { abandon(&cx, moment).await });
        let (driver, graph) = abandoned.unwrap();
        assert!(driver.upgrade().is_none(), "the job lives on: {moment:?}");
        let edges = graph.edges();
        let of_filter = edges
            .iter()
            .filter(|edge| edge.parent != "node 'target'")
            .count();
        assert_eq!(of_filter, 0, "{moment:?}: {edges:?}");
    }
}
