//! A drain of a node that a backup uses pauses the job and waits until it stands still.

use block::nodes::{FaultAction, FaultOp};
use job::JobStatus;

use super::world::{MIB, Side, World, first, on_each_backend, options, range, seen, settle};

#[test]
fn a_drain_of_either_node_waits_for_the_job_and_holds_it() {
    on_each_backend(|cx| async move {
        for side in Side::BOTH {
            let world = World::full(&cx, 8 * MIB).await;
            world
                .at_target
                .add(first(FaultOp::Write, 2, FaultAction::Hold));
            let backup = world.start(options()).await.unwrap();
            world.at_target.wait_held(2).await;
            let (graph, node) = (world.graph.clone(), world.node(side).clone());
            let draining = cx.spawn(async move { graph.drain(&[node]).await });
            settle(&cx).await;
            assert!(!draining.is_finished(), "two requests are in flight");
            world.at_target.release_all();
            let section = draining.await;

            assert!(backup.job().is_quiescent());
            assert_eq!(backup.report().requests_in_flight, 0);
            let written = seen(&world.at_target, FaultOp::Write);
            settle(&cx).await;
            assert_eq!(seen(&world.at_target, FaultOp::Write), written);
            let info = backup.job().info();
            assert!(info.is_paused && !info.is_busy);
            assert_eq!(
                info.status,
                JobStatus::Running,
                "what a section does is quiet"
            );
            drop(section);
            backup.job().wait().await.into_result().unwrap();
            assert!(world.target_bytes().await == world.source_bytes().await);
        }
    });
}

#[test]
fn sections_nest_with_each_other_and_with_a_pause_of_the_user() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 8 * MIB).await;
        let backup = world.start(options()).await.unwrap();
        let nodes = [world.source.clone(), world.target.clone()];
        let both = world.graph.drain(&nodes).await;
        let one = world.graph.drain(&nodes[..1]).await;
        backup.job().pause().unwrap();
        drop(both);
        settle(&cx).await;
        assert_eq!(backup.job().status(), JobStatus::Paused);
        backup.job().resume().unwrap();
        settle(&cx).await;
        assert_eq!(backup.job().status(), JobStatus::Paused);
        drop(one);
        backup.job().wait().await.into_result().unwrap();
    });
}

#[test]
fn a_backup_that_starts_while_a_node_is_drained_waits_for_the_section() {
    on_each_backend(|cx| async move {
        for side in Side::BOTH {
            let world = World::full(&cx, 2 * MIB).await;
            let node = world.node(side);
            let section = world.drain(node).await;
            let backup = world.start(options()).await.unwrap();
            settle(&cx).await;
            assert!(backup.job().is_quiescent());
            assert_eq!(seen(&world.at_target, FaultOp::Write), 0);
            // A second section finds the job quiet, and its end does not end the first.
            drop(world.drain(node).await);
            settle(&cx).await;
            assert!(backup.job().is_quiescent());
            drop(section);
            backup.job().wait().await.into_result().unwrap();
        }
    });
}

#[test]
fn many_short_sections_under_a_writing_guest_lose_nothing() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 10 * MIB).await;
        let before = world.source_bytes().await;
        let backup = world.start(options()).await.unwrap();
        let mut round: u8 = 0;
        while backup.job().outcome().is_none() {
            let at = u64::from(round) % 10 * MIB;
            let write = world.guest_writes_later(range(at, 5000), round);
            let nodes = [world.target.clone(), world.source.clone()];
            let section = world
                .graph
                .drain(&nodes[..1 + usize::from(round % 2)])
                .await;
            cx.yield_now().await;
            drop(section);
            write.await.unwrap();
            round = round.wrapping_add(1);
        }
        backup.job().wait().await.into_result().unwrap();
        assert!(world.target_bytes().await == before);
    });
}
