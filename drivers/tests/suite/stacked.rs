//! Several backups of one source at once: each is its own instant, in whatever order they end.

use std::{cell::Cell, rc::Rc};

use aio::AioContext;
use block::{
    Node,
    nodes::{MemoryNode, MemoryOptions},
};
use drivers::backup::{Backup, BackupOptions};
use job::{CancelMode, JobOutcome};

use super::{
    instant::{slow_down, start_writers},
    oracle::{Chance, Ticks, check_cut, replay, seed},
    world::{CLUSTER, World, on_each_backend, settle},
};

const LEN: u64 = 9 * CLUSTER + 513;
const ORDERS: [[usize; 3]; 6] = [
    [0, 1, 2],
    [0, 2, 1],
    [1, 0, 2],
    [1, 2, 0],
    [2, 0, 1],
    [2, 1, 0],
];

/// A backup, its target, and the ticks between which its instant is.
struct Running {
    backup: Backup,
    target: Node,
    started: (u64, u64),
}

async fn start(world: &World, number: usize, ticks: &Ticks) -> Running {
    let target = if number == 0 {
        world.target.clone()
    } else {
        let memory = MemoryNode::new(MemoryOptions::new(LEN)).unwrap();
        let name = format!("target-{number}");
        world.graph.add_node(Some(&name), memory).unwrap()
    };
    let options = BackupOptions::new(format!("b{number}"));
    let called = ticks.tick();
    let registry = (&world.graph, &world.jobs);
    let nodes = (&world.source, &target);
    let starting = Backup::start(registry, world.cx.handle(), nodes, options);
    let backup = starting.await.unwrap();
    Running {
        backup,
        target,
        started: (called, ticks.tick()),
    }
}

async fn pass_time(cx: &AioContext, chance: &mut Chance) {
    for _ in 0..chance.below(40) {
        cx.yield_now().await;
    }
}

/// Three backups under writing guests end in this order; the one at `cancelled` in it by force.
async fn round(cx: &AioContext, order: [usize; 3], cancelled: Option<usize>, seed: u64) {
    let world = World::full(cx, LEN).await;
    let mut chance = Chance::new(seed);
    slow_down(&world, &mut chance);
    let first = world.source_bytes().await;
    let (ticks, go_on) = (Rc::new(Ticks::default()), Rc::new(Cell::new(true)));
    let writers = start_writers(&world, (&ticks, &go_on), 20_000, seed);
    let mut running = Vec::new();
    for number in 0..3 {
        pass_time(cx, &mut chance).await;
        let one = start(&world, number, &ticks).await;
        // Its copy stands still until its turn; what guests overwrite it saves all the same.
        let _may_have_ended = one.backup.job().pause();
        running.push(one);
    }
    for (place, number) in order.into_iter().enumerate() {
        pass_time(cx, &mut chance).await;
        let job = running[number].backup.job();
        let ends_by_force = cancelled == Some(place) && job.cancel(CancelMode::Force).is_ok();
        let _may_have_ended = job.resume();
        match job.wait().await {
            JobOutcome::Completed => {}
            JobOutcome::Cancelled(_) if ends_by_force => running[number].started = (1, 0),
            outcome => unreachable!("{outcome:?}"),
        }
    }
    go_on.set(false);
    let mut logs = Vec::new();
    for writer in writers {
        logs.push(writer.await);
    }
    settle(cx).await;

    assert_eq!(world.filters(), 0);
    assert!(world.source_bytes().await == replay(&logs, &first));
    for Running {
        target, started, ..
    } in running.iter().filter(|one| one.started.0 < one.started.1)
    {
        let copy = world.content(cx, target).await;
        check_cut(&logs, &first, &copy, *started);
    }
}

#[test]
fn backups_of_one_source_are_each_their_own_instant_in_any_order_of_ending() {
    let seed = seed();
    on_each_backend(|cx| async move {
        let mut chance = Chance::new(seed);
        for order in ORDERS {
            for _ in 0..3 {
                round(&cx, order, None, chance.below(u64::MAX)).await;
            }
        }
    });
}

#[test]
fn a_forced_cancel_of_one_backup_harms_none_beside_it() {
    let seed = seed();
    on_each_backend(|cx| async move {
        let mut chance = Chance::new(seed);
        for order in ORDERS {
            for place in 0..3 {
                round(&cx, order, Some(place), chance.below(u64::MAX)).await;
            }
        }
    });
}
