//! The target is one instant of the source, whatever guests do meanwhile: many short rounds by chance.

use std::{cell::Cell, rc::Rc};

use aio::AioContext;
use block::{
    Child, RequestFlags,
    copy::TargetContent,
    nodes::{FaultAction, FaultOp, FaultRule, MemoryOptions},
};
use drivers::backup::BackupOptions;

use super::{
    oracle::{Chance, Change, Entry, Ticks, Writer, check_cut, replay, seed, stamped},
    world::{CLUSTER, Disks, MIB, World, in_memory, on_each_backend, options, range, write},
};

const WRITERS: u64 = 4;

/// Makes one change through an edge.
pub(crate) async fn carry_out(guest: &Child, cx: &AioContext, entry: Entry) {
    let flags = RequestFlags::default();
    match entry.change {
        Change::Write(stamp) => {
            let bytes = stamped(stamp, in_memory(entry.at.len()));
            write(guest, cx, entry.at.start(), &bytes).await.unwrap();
        }
        Change::Zeroes => guest.write_zeroes(cx, entry.at, flags).await.unwrap(),
        Change::Discard => guest.discard(cx, entry.at).await.unwrap(),
    }
}

/// Makes requests slow here and there, so that they overlap in many ways.
pub(crate) fn slow_down(world: &World, chance: &mut Chance) {
    let controls = [&world.at_source, &world.at_target];
    let ops = [
        FaultOp::Read,
        FaultOp::Write,
        FaultOp::WriteZeroes,
        FaultOp::Extent,
    ];
    for control in controls {
        control.clear();
        for op in ops {
            for _ in 0..3 {
                let rule = FaultRule {
                    skip: chance.below(5),
                    times: Some(1 + chance.below(10)),
                    ..FaultRule::every(
                        op,
                        FaultAction::Delay {
                            ns: chance.below(300_000),
                        },
                    )
                };
                let at = chance.below(world.len_bytes);
                control.add(rule.within(range(at, CLUSTER)));
            }
        }
    }
}

/// Writers that go on until they are told to stop, then hand back what they did. They rest for
/// `rest_ns` after each request.
pub(crate) fn start_writers(
    world: &World,
    (ticks, go_on): (&Rc<Ticks>, &Rc<Cell<bool>>),
    rest_ns: u64,
    seed: u64,
) -> Vec<aio::Task<Writer>> {
    let tasks = (0..WRITERS).map(|number| {
        let mut writer = Writer::new(number, WRITERS, world.len_bytes, seed);
        let (guest, cx) = (world.guest_above(), world.cx.clone());
        let (ticks, go_on) = (ticks.clone(), go_on.clone());
        world.cx.clone().spawn(async move {
            while go_on.get() {
                let entry = writer.issue(ticks.tick());
                carry_out(&guest, &cx, entry).await;
                writer.acknowledge(ticks.tick());
                cx.yield_now().await;
                cx.sleep_ns(rest_ns).await;
            }
            writer
        })
    });
    tasks.collect()
}

async fn round(cx: &AioContext, disks: Disks, target_content: TargetContent, seed: u64) {
    let world = World::with_disks(cx, disks);
    let mut chance = Chance::new(seed);
    slow_down(&world, &mut chance);
    let first = world.source_bytes().await;
    let (ticks, go_on) = (Rc::new(Ticks::default()), Rc::new(Cell::new(true)));
    let writers = start_writers(&world, (&ticks, &go_on), 0, seed);
    for _ in 0..chance.below(60) {
        cx.yield_now().await;
    }
    let options = BackupOptions {
        target_content,
        ..options()
    };
    let called = ticks.tick();
    let backup = world.start(options).await.unwrap();
    let returned = ticks.tick();
    backup.job().wait().await.into_result().unwrap();
    go_on.set(false);
    let mut logs = Vec::new();
    for writer in writers {
        logs.push(writer.await);
    }

    let copy = world.target_bytes().await;
    check_cut(&logs, &first, &copy, (called, returned));
    assert!(world.source_bytes().await == replay(&logs, &first));
}

#[test]
fn a_backup_is_one_instant_of_a_disk_that_guests_write() {
    let seed = seed();
    on_each_backend(|cx| async move {
        let mut chance = Chance::new(seed);
        for number in 0..16 {
            let len = [CLUSTER + 1, 6 * CLUSTER + 513, MIB + 513, 2 * MIB][number % 4];
            let world = World::full(&cx, len).await;
            let disks = world.disks();
            drop(world);
            round(&cx, disks, TargetContent::Unknown, chance.below(u64::MAX)).await;
        }
    });
}

#[test]
fn a_backup_is_one_instant_of_a_disk_that_begins_empty() {
    let seed = seed();
    on_each_backend(|cx| async move {
        let mut chance = Chance::new(seed);
        for _ in 0..10 {
            let disks = Disks::new(MIB + 513);
            round(&cx, disks, TargetContent::Zero, chance.below(u64::MAX)).await;
        }
    });
}

#[test]
fn a_backup_is_one_instant_of_disks_with_blocks() {
    let seed = seed();
    on_each_backend(|cx| async move {
        let mut chance = Chance::new(seed);
        for (at_source, at_target) in [(512, 1), (1, 4096), (4096, 512)] {
            let disk = |request_align_bytes| MemoryOptions {
                request_align_bytes,
                ..MemoryOptions::new(MIB + 3 * 4096)
            };
            for _ in 0..3 {
                let disks = Disks::with_options(disk(at_source), disk(at_target));
                let seed = chance.below(u64::MAX);
                round_without_discards(&cx, disks, seed).await;
            }
        }
    });
}

/// Discards of part of a block do nothing, which the oracle does not know.
async fn round_without_discards(cx: &AioContext, disks: Disks, seed: u64) {
    let world = World::with_disks(cx, disks);
    let first = world.source_bytes().await;
    let mut writer = Writer::new(0, 1, world.len_bytes, seed);
    let ticks = Ticks::default();
    let mut chance = Chance::new(seed);
    slow_down(&world, &mut chance);
    let (start_at, mut backup) = (chance.below(100), None);
    for number in 0..200 {
        if number == start_at {
            let called = ticks.tick();
            backup = Some((called, world.start(options()).await.unwrap()));
        }
        let mut entry = writer.issue(ticks.tick());
        if entry.change == Change::Discard {
            entry.change = Change::Zeroes;
        }
        carry_out(&world.guest, cx, entry).await;
        writer.acknowledge(ticks.tick());
    }
    let (called, backup) = backup.unwrap();
    backup.job().wait().await.into_result().unwrap();
    let copy = world.target_bytes().await;
    check_cut(&[writer], &first, &copy, (called, called));
}
