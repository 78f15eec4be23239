//! Moves, drained sections and pauses of two jobs, all at once from several threads.

use aio::{Config, Handle, IoThread, JoinHandle};
use block::Node;
use job::Job;

use super::world::{Body, World, run};

const ROUNDS: usize = 150;

fn thread(name: &str) -> IoThread {
    let name = name.to_owned();
    let config = Config {
        name,
        ..Config::default()
    };
    IoThread::start(config).unwrap()
}

/// Moves `node` from place to place.
fn mover(w: &World, from: &Handle, node: &Node, places: [Handle; 2]) -> JoinHandle<()> {
    let (graph, node) = (w.graph.clone(), node.clone());
    from.spawn(move |_| async move {
        for round in 0..ROUNDS {
            graph.set_context(&node, &places[round % 2]).await.unwrap();
        }
    })
}

/// Drains `nodes` again and again; nothing of the jobs goes on meanwhile.
fn drainer(w: &World, from: &Handle, nodes: [Node; 2], jobs: [Job; 2]) -> JoinHandle<()> {
    let graph = w.graph.clone();
    from.spawn(move |cx| async move {
        for _ in 0..ROUNDS {
            let section = graph.drain(&nodes).await;
            assert!(jobs.iter().all(Job::is_quiescent));
            cx.yield_now().await;
            assert!(jobs.iter().all(Job::is_quiescent));
            drop(section);
            cx.yield_now().await;
        }
    })
}

fn pauser(from: &Handle, job: Job) -> JoinHandle<()> {
    from.spawn(move |cx| async move {
        for _ in 0..ROUNDS {
            job.pause().unwrap();
            cx.yield_now().await;
            job.resume().unwrap();
            cx.yield_now().await;
        }
    })
}

#[test]
fn a_storm_of_moves_sections_and_pauses_leaves_all_in_one_place_and_at_work() {
    run(|cx| async move {
        let w = World::new(&cx);
        let (one, two) = (thread("one"), thread("two"));
        let (first, shared, last) = (w.node("first"), w.node("shared"), w.node("last"));
        let jobs = [
            w.job("a", Body::Move(1), &[&first, &shared]),
            w.job("b", Body::Move(1), &[&shared, &last]),
        ];
        let handles = jobs.each_ref().map(|job| job.job.clone());
        for job in &handles {
            job.start().unwrap();
        }
        let here = cx.handle();
        let storm = [
            mover(
                &w,
                here,
                &first,
                [one.handle().clone(), two.handle().clone()],
            ),
            mover(
                &w,
                one.handle(),
                &last,
                [here.clone(), two.handle().clone()],
            ),
            drainer(
                &w,
                two.handle(),
                [first.clone(), last.clone()],
                handles.clone(),
            ),
            pauser(one.handle(), handles[0].clone()),
        ];
        for part in storm {
            part.await;
        }

        let home = first.context().unwrap();
        for node in [&shared, &last] {
            assert!(node.context().unwrap().is_same(&home));
        }
        for job in jobs {
            assert!(job.job.context().is_same(&home));
            let rounds = job.driver.rounds();
            w.until(|| job.driver.rounds() > rounds).await;
            assert_eq!(job.driver.place(), home.name());
            job.end().await;
        }
    });
}
