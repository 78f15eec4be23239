//! The speed limit, by a clock that stands still unless told.

use aio::{AioContext, ManualClock};
use drivers::backup::{Backup, BackupOptions};
use job::JobStatus;

use super::world::{MIB, World, options, range, settle, until, with_clock};

const MS: u64 = 1_000_000;
/// Bytes in a request without guests.
const CHUNK: u64 = MIB;

fn at(speed_bytes_per_s: u64) -> BackupOptions {
    BackupOptions {
        speed_bytes_per_s,
        ..options()
    }
}

/// Moves the clock until the job has ended; returns how many milliseconds that took.
async fn run_out(cx: &AioContext, clock: &ManualClock, backup: &Backup, speed: u64) -> u64 {
    let already = backup.report().done_bytes;
    for ms in (0..).step_by(10) {
        settle(cx).await;
        let done = backup.report().done_bytes - already;
        assert!(
            done <= speed * ms / 1000 + speed / 10 + CHUNK,
            "{done} bytes in {ms} ms"
        );
        if backup.job().outcome().is_some() {
            return ms;
        }
        clock.advance_ns(10 * MS);
    }
    unreachable!()
}

#[test]
fn no_more_goes_through_than_the_speed_allows_and_hardly_less() {
    with_clock(|cx, clock| async move {
        for speed in [MIB / 2, 4 * MIB, 20 * MIB] {
            let world = World::full(&cx, 10 * MIB).await;
            let backup = world.start(at(speed)).await.unwrap();
            let ms = run_out(&cx, &clock, &backup, speed).await;
            let ideal_ms = 9 * MIB * 1000 / speed;
            assert!(
                (ideal_ms - 250..=ideal_ms + 250).contains(&ms),
                "{ms} ms where {ideal_ms} are due"
            );
            assert!(world.target_bytes().await == world.source_bytes().await);
        }
    });
}

#[test]
fn a_faster_speed_wakes_a_job_that_sleeps() {
    with_clock(|cx, clock| async move {
        let world = World::full(&cx, 10 * MIB).await;
        let backup = world.start(at(1)).await.unwrap();
        settle(&cx).await;
        assert_eq!(backup.report().done_bytes, CHUNK);
        clock.advance_ns(1000 * MS);
        settle(&cx).await;
        assert_eq!(backup.report().done_bytes, CHUNK);

        backup.set_speed(4 * MIB).unwrap();
        settle(&cx).await;
        assert_eq!(
            backup.report().done_bytes,
            2 * CHUNK,
            "a MiB is long paid for"
        );
        run_out(&cx, &clock, &backup, 4 * MIB).await;
    });
}

#[test]
fn no_limit_at_all_wakes_a_job_that_sleeps() {
    with_clock(|cx, _clock| async move {
        let world = World::full(&cx, 10 * MIB).await;
        let backup = world.start(at(1)).await.unwrap();
        settle(&cx).await;
        backup.set_speed(0).unwrap();
        until(&cx, || backup.job().outcome().is_some()).await;
        assert!(world.target_bytes().await == world.source_bytes().await);
    });
}

#[test]
fn a_slower_speed_counts_at_once() {
    with_clock(|cx, clock| async move {
        let world = World::full(&cx, 10 * MIB).await;
        let backup = world.start(at(10 * MIB)).await.unwrap();
        settle(&cx).await;
        clock.advance_ns(150 * MS);
        settle(&cx).await;
        let done = backup.report().done_bytes;
        backup.set_speed(1).unwrap();
        for _ in 0..10 {
            clock.advance_ns(1000 * MS);
            settle(&cx).await;
        }
        assert!(backup.report().done_bytes <= done + CHUNK);
        backup.set_speed(0).unwrap();
        until(&cx, || backup.job().outcome().is_some()).await;
    });
}

#[test]
fn neither_pauses_nor_drains_let_a_job_skip_its_limit() {
    with_clock(|cx, clock| async move {
        let world = World::full(&cx, 10 * MIB).await;
        let backup = world.start(at(MIB)).await.unwrap();
        settle(&cx).await;
        for _ in 0..20 {
            backup.job().pause().unwrap();
            world.until_status(&backup, JobStatus::Paused).await;
            backup.job().resume().unwrap();
            drop(world.drain(&world.source).await);
            settle(&cx).await;
        }
        assert_eq!(backup.report().done_bytes, CHUNK);
        run_out(&cx, &clock, &backup, MIB).await;
    });
}

#[test]
fn guests_are_not_slowed_by_the_limit() {
    with_clock(|cx, _clock| async move {
        let world = World::full(&cx, 10 * MIB).await;
        let before = world.source_bytes().await;
        let backup = world.start(at(1)).await.unwrap();
        settle(&cx).await;
        world.guest_writes(range(0, 10 * MIB), 9).await.unwrap();
        // Guests have copied all of it.
        backup.set_speed(0).unwrap();
        until(&cx, || backup.job().outcome().is_some()).await;
        assert!(world.target_bytes().await == before);
    });
}

#[test]
fn a_job_that_has_ended_takes_no_speed() {
    with_clock(|cx, _clock| async move {
        let world = World::full(&cx, MIB).await;
        let backup = world.back_up(options()).await;
        assert!(backup.set_speed(5).is_err());
    });
}
