//! Drained sections: they hold the job, wait for it, and let it go on.

use std::{
    pin::pin,
    task::{Context, Waker},
};

use block::{DrainedSection, Node};
use blockjob::Activity;
use job::JobStatus;

use super::world::{Body, World, run, with_clock};

async fn drain(w: &World, node: &Node) -> DrainedSection {
    w.graph.drain(std::slice::from_ref(node)).await
}

fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> bool {
    future
        .poll(&mut Context::from_waker(Waker::noop()))
        .is_ready()
}

#[test]
fn a_drain_pauses_the_job_and_its_end_lets_it_go_on() {
    run(|cx| async move {
        let w = World::new(&cx);
        let disk = w.node("disk");
        let j = w.job("j", Body::Park, &[&disk]);
        j.job.start().unwrap();
        w.settle().await;
        assert!(!j.is_held());

        let outer = drain(&w, &disk).await;
        assert!(j.is_held());
        let inner = drain(&w, &disk).await;
        drop(outer);
        w.settle().await;
        assert!(j.is_held());
        drop(inner);
        w.settle().await;
        assert!(!j.is_held());
        j.end().await;
    });
}

#[test]
fn a_section_is_not_seen_in_the_events_of_the_job() {
    run(|cx| async move {
        let w = World::new(&cx);
        let disk = w.node("disk");
        let j = w.job("j", Body::Park, &[&disk]);
        j.job.start().unwrap();
        w.settle().await;
        w.events();

        drop(drain(&w, &disk).await);
        w.settle().await;

        assert!(w.events().is_empty());
        j.end().await;
    });
}

#[test]
fn two_edges_to_drained_nodes_are_two_reasons_to_pause() {
    run(|cx| async move {
        let w = World::new(&cx);
        let (disk, other) = (w.node("disk"), w.node("other"));
        let mut j = w.job("j", Body::Park, &[&disk, &other]);
        j.job.start().unwrap();

        let first = drain(&w, &disk).await;
        let second = drain(&w, &other).await;
        drop(first);
        w.settle().await;
        assert!(j.is_held());
        // An edge that goes takes its reason along.
        j.edges.clear();
        w.settle().await;
        assert!(!j.is_held());
        drop(second);
        j.end().await;
    });
}

#[test]
fn a_job_of_a_drained_node_is_paused_from_its_start() {
    run(|cx| async move {
        let w = World::new(&cx);
        let disk = w.node("disk");
        let first = drain(&w, &disk).await;
        let j = w.job("j", Body::Park, &[&disk]);
        j.job.start().unwrap();
        w.settle().await;
        assert!(j.is_held());
        assert_eq!(j.driver.rounds(), 0);

        let second = drain(&w, &disk).await;
        drop(second);
        w.settle().await;
        assert!(j.is_held());
        drop(first);
        w.settle().await;
        assert!(!j.is_held());
        j.end().await;
    });
}

#[test]
fn a_section_that_ends_before_the_job_exists_leaves_no_pause() {
    run(|cx| async move {
        let w = World::new(&cx);
        let disk = w.node("disk");
        let driver = w.driver("j", Body::Park);
        let section = drain(&w, &disk).await;
        let idle = block::Permissions::IDLE;
        let edge = driver.block_job.attach(&disk, "main node", idle, &[]);
        drop(section);
        let config = job::JobConfig::new("j", driver.clone(), cx.handle().clone());
        let j = w.job_as(config, &driver, &[]);
        j.job.start().unwrap();
        w.settle().await;
        assert!(!j.is_held());
        drop(edge.unwrap());
        j.end().await;
    });
}

#[test]
fn a_section_waits_until_the_driver_has_ended_what_is_in_flight() {
    run(|cx| async move {
        let w = World::new(&cx);
        let disk = w.node("disk");
        let j = w.job("j", Body::Park, &[&disk]);
        j.driver.pausing.close();
        j.job.start().unwrap();
        w.settle().await;

        let mut draining = pin!(drain(&w, &disk));
        assert!(!poll_once(draining.as_mut()));
        w.settle().await;
        assert!(!poll_once(draining.as_mut()));
        assert!(!disk.is_quiesced(), "the job may still need the node");

        j.driver.pausing.open();
        let section = draining.await;
        assert!(j.is_held());
        drop(section);
        j.end().await;
    });
}

#[test]
fn a_driver_that_says_that_it_is_quiet_is_not_waited_for() {
    run(|cx| async move {
        let w = World::new(&cx);
        let disk = w.node("disk");
        let j = w.job("j", Body::Park, &[&disk]);
        *j.driver.word.lock().unwrap() = Some(Activity::Quiet);
        j.driver.pausing.close();
        j.job.start().unwrap();
        w.settle().await;

        let section = drain(&w, &disk).await;

        assert!(!j.is_held(), "its body has not come to a pause point");
        j.driver.pausing.open();
        drop(section);
        j.end().await;
    });
}

#[test]
fn a_driver_that_says_that_it_is_busy_is_waited_for_though_its_job_stands_still() {
    run(|cx| async move {
        let w = World::new(&cx);
        let disk = w.node("disk");
        let j = w.job("j", Body::Park, &[&disk]);
        *j.driver.word.lock().unwrap() = Some(Activity::Busy);
        j.job.start().unwrap();
        w.settle().await;

        let mut draining = pin!(drain(&w, &disk));
        assert!(!poll_once(draining.as_mut()));
        w.settle().await;
        assert!(j.is_held());
        assert!(!poll_once(draining.as_mut()));

        *j.driver.word.lock().unwrap() = None;
        j.block_job.became_quiet();
        drop(draining.await);
        j.end().await;
    });
}

#[test]
fn a_job_that_has_ended_is_quiet_whatever_its_driver_says() {
    run(|cx| async move {
        let w = World::new(&cx);
        let disk = w.node("disk");
        let mut j = w.job("j", Body::Park, &[&disk]);
        *j.driver.word.lock().unwrap() = Some(Activity::Busy);
        j.job.start().unwrap();
        let mut draining = pin!(drain(&w, &disk));
        assert!(!poll_once(draining.as_mut()));

        j.job.cancel(job::CancelMode::Force).unwrap();
        j.job.wait().await;

        drop(draining.await);
        j.edges.clear();
        j.block_job.release();
    });
}

#[test]
fn a_section_that_begins_asks_the_driver_to_hurry() {
    run(|cx| async move {
        let w = World::new(&cx);
        let disk = w.node("disk");
        let mut j = w.job("j", Body::Park, &[&disk]);
        j.job.start().unwrap();

        let outer = drain(&w, &disk).await;
        let inner = drain(&w, &disk).await;

        assert_eq!(j.driver.heard(), ["drain"], "once for each edge");
        drop((outer, inner));
        j.edges.clear();
        j.end().await;
    });
}

#[test]
fn a_drained_job_that_its_user_paused_goes_on_when_both_are_over() {
    run(|cx| async move {
        let w = World::new(&cx);
        let disk = w.node("disk");
        let j = w.job("j", Body::Park, &[&disk]);
        j.job.start().unwrap();
        let section = drain(&w, &disk).await;
        j.job.pause().unwrap();
        assert_eq!(j.job.status(), JobStatus::Paused);

        j.job.resume().unwrap();
        w.settle().await;
        assert!(j.job.is_quiescent() && j.job.info().is_paused);
        j.job.pause().unwrap();
        drop(section);
        w.settle().await;
        assert_eq!(j.job.status(), JobStatus::Paused);
        j.job.resume().unwrap();
        w.settle().await;

        assert!(!j.is_held());
        j.end().await;
    });
}

#[test]
fn a_section_interrupts_a_sleep_and_what_is_left_is_computed_again() {
    const MS: u64 = 1_000_000;
    with_clock(|cx, hand| async move {
        let w = World::new(&cx);
        let disk = w.node("disk");
        let j = w.job("j", Body::Move(1 << 20), &[&disk]);
        j.block_job.set_speed(1 << 20);
        j.job.start().unwrap();
        w.settle().await;
        assert_eq!(j.driver.rounds(), 1, "paid for in a second");
        hand.advance_ns(400 * MS);

        let section = drain(&w, &disk).await;
        assert!(j.is_held());
        hand.advance_ns(400 * MS);
        w.settle().await;
        drop(section);
        w.settle().await;
        assert_eq!(j.driver.rounds(), 1);

        hand.advance_ns(199 * MS);
        w.settle().await;
        assert_eq!(j.driver.rounds(), 1);
        hand.advance_ns(MS);
        w.settle().await;
        assert_eq!(j.driver.rounds(), 2);
        j.end().await;
    });
}
