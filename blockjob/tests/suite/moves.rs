//! Moving nodes to another context: all nodes of a job, then the job, or nothing.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Waker},
};

use aio::{Config, IoThread};
use block::{Attachment, BlockError, ChildRole, ErrorKind, Node, Parent, Permissions};
use job::CancelMode;

use super::world::{Body, TestJob, World, run};

fn thread(name: &str) -> IoThread {
    let name = name.to_owned();
    let config = Config {
        name,
        ..Config::default()
    };
    IoThread::start(config).unwrap()
}

fn home(node: &Node) -> Option<String> {
    Some(node.context()?.name().to_owned())
}

/// A user that stays where it is.
struct Rooted;

impl Parent for Rooted {
    fn name(&self) -> String {
        "device 'rooted'".to_owned()
    }

    fn drained_begin(&self) {}

    fn drained_poll(&self) -> bool {
        false
    }

    fn drained_end(&self) {}
}

/// Has the body go on, and tells on which context it did.
async fn place(w: &World, j: &TestJob) -> String {
    let before = j.driver.rounds();
    j.job.wake();
    w.until(|| j.driver.rounds() > before).await;
    j.driver.place()
}

#[test]
fn all_nodes_of_a_job_move_and_then_the_job() {
    run(|cx| async move {
        let (w, away) = (World::new(&cx), thread("away"));
        let (main, other, apart) = (w.node("main"), w.node("other"), w.node("apart"));
        let j = w.job("j", Body::Park, &[&main, &other]);
        j.job.start().unwrap();
        w.settle().await;
        w.events();

        w.graph.set_context(&other, away.handle()).await.unwrap();

        let away_home = Some("away".to_owned());
        assert_eq!([home(&main), home(&other)], [away_home.clone(), away_home]);
        assert_eq!(home(&apart), None);
        assert!(j.job.context().is_same(away.handle()));
        assert_eq!(j.driver.heard(), ["detach", "attached away"]);
        assert_eq!(place(&w, &j).await, "away");
        assert!(w.events().is_empty(), "nobody paused it");

        let here = cx.handle();
        w.graph.set_context(&main, here).await.unwrap();
        assert_eq!(place(&w, &j).await, here.name());
        // Nothing of the job is left there.
        away.delete().unwrap();
        assert_eq!(place(&w, &j).await, here.name());
        j.end().await;
    });
}

#[test]
fn one_node_that_stays_keeps_all_nodes_and_the_job() {
    run(|cx| async move {
        let (w, away) = (World::new(&cx), thread("away"));
        let (main, other) = (w.node("main"), w.node("other"));
        let j = w.job("j", Body::Park, &[&main, &other]);
        let rooted: Arc<dyn Parent> = Arc::new(Rooted);
        let attachment = Attachment::of(&rooted, ChildRole::Primary, Permissions::IDLE);
        let edge = w.graph.attach(&other, attachment).unwrap();
        j.job.start().unwrap();
        w.settle().await;

        let refused = w.graph.set_context(&main, away.handle()).await.unwrap_err();

        assert_eq!(refused.kind(), ErrorKind::Busy);
        let text = "device 'rooted' does not move to another context, on node 'other'";
        assert_eq!(refused.to_string(), text);
        assert_eq!([home(&main), home(&other)], [None, None]);
        assert!(j.job.context().is_same(cx.handle()));
        assert!(j.driver.heard().is_empty());
        assert_eq!(place(&w, &j).await, cx.handle().name());
        drop(edge);
        j.end().await;
    });
}

#[test]
fn jobs_that_share_a_node_move_together() {
    run(|cx| async move {
        let (w, away) = (World::new(&cx), thread("away"));
        let (first, shared, last) = (w.node("first"), w.node("shared"), w.node("last"));
        let one = w.job("one", Body::Park, &[&first, &shared]);
        let two = w.job("two", Body::Move(1), &[&shared, &last]);
        for job in [&one.job, &two.job] {
            job.start().unwrap();
        }
        w.settle().await;

        w.graph.set_context(&first, away.handle()).await.unwrap();

        assert_eq!(home(&last).as_deref(), Some("away"));
        assert_eq!(place(&w, &one).await, "away");
        assert_eq!(place(&w, &two).await, "away");
        one.end().await;
        two.end().await;
    });
}

#[test]
fn a_job_in_a_drained_section_moves_and_stays_held() {
    run(|cx| async move {
        let (w, away) = (World::new(&cx), thread("away"));
        let disk = w.node("disk");
        let j = w.job("j", Body::Park, &[&disk]);
        j.job.start().unwrap();
        w.settle().await;
        let section = w.graph.drain(std::slice::from_ref(&disk)).await;

        w.graph.set_context(&disk, away.handle()).await.unwrap();

        assert!(j.is_held());
        assert!(j.job.context().is_same(away.handle()));
        let rounds = j.driver.rounds();
        drop(section);
        w.until(|| !j.is_held()).await;
        assert_eq!(place(&w, &j).await, "away");
        assert!(j.driver.rounds() > rounds);
        j.end().await;
    });
}

#[test]
fn a_drained_section_is_entered_although_the_job_has_moved() {
    run(|cx| async move {
        let (w, away) = (World::new(&cx), thread("away"));
        let disk = w.node("disk");
        let j = w.job("j", Body::Move(1), &[&disk]);
        j.job.start().unwrap();
        w.graph.set_context(&disk, away.handle()).await.unwrap();

        let section = w.graph.drain(std::slice::from_ref(&disk)).await;
        assert!(j.is_held());
        let rounds = j.driver.rounds();
        w.settle().await;
        assert_eq!(j.driver.rounds(), rounds);

        w.graph.set_context(&disk, cx.handle()).await.unwrap();
        away.delete().unwrap();
        drop(section);
        assert_eq!(place(&w, &j).await, cx.handle().name());
        j.end().await;
    });
}

#[test]
fn a_move_that_is_given_up_while_the_job_is_busy_lets_it_go_on_where_it_is() {
    run(|cx| async move {
        let (w, away) = (World::new(&cx), thread("away"));
        let disk = w.node("disk");
        let j = w.job("j", Body::Park, &[&disk]);
        j.driver.pausing.close();
        j.job.start().unwrap();
        w.settle().await;
        {
            let moving = pin!(w.graph.set_context(&disk, away.handle()));
            let polled = moving.poll(&mut Context::from_waker(Waker::noop()));
            assert!(polled.is_pending());
            w.settle().await;
            assert!(j.job.info().is_paused);
        }

        assert!(!j.job.info().is_paused);
        j.driver.pausing.open();
        assert_eq!(place(&w, &j).await, cx.handle().name());
        assert_eq!(home(&disk), None);
        j.end().await;
    });
}

#[test]
fn a_job_that_has_not_started_moves_and_starts_there() {
    run(|cx| async move {
        let (w, away) = (World::new(&cx), thread("away"));
        let disk = w.node("disk");
        let j = w.job("j", Body::Park, &[&disk]);
        w.graph.set_context(&disk, away.handle()).await.unwrap();
        j.job.start().unwrap();
        assert_eq!(place(&w, &j).await, "away");
        j.end().await;
    });
}

#[test]
fn a_job_that_begins_or_has_let_go_refuses_to_move() {
    run(|cx| async move {
        let (w, away) = (World::new(&cx), thread("away"));
        let disk = w.node("disk");
        let refusal = async || -> BlockError {
            let moved = w.graph.set_context(&disk, away.handle()).await;
            moved.unwrap_err()
        };
        let text = "block job 'j' begins or ends, and does not move, on node 'disk'";
        let driver = w.driver("j", Body::Park);
        let idle = Permissions::IDLE;
        let edge = driver.block_job.attach(&disk, "main node", idle, &[]);
        assert_eq!(refusal().await.to_string(), text);

        let config = job::JobConfig::new("j", driver.clone(), cx.handle().clone());
        let j = w.job_as(config, &driver, &[]);
        j.job.start().unwrap();
        j.job.cancel(CancelMode::Force).unwrap();
        j.job.wait().await;
        j.block_job.release();
        assert_eq!(refusal().await.to_string(), text);
        drop(edge.unwrap());
        w.graph.set_context(&disk, away.handle()).await.unwrap();
        assert_eq!(home(&disk).as_deref(), Some("away"));
    });
}
