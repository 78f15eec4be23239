//! The filter: one instant is saved whatever writers do, and what gives way when it cannot be saved.

use std::{future::poll_fn, pin::Pin, task::Poll};

use aio::{Clock, Config, IoThread, JoinHandle, ManualClock};

use super::*;
use crate::{
    copy::testing::{
        CLUSTER, Disks, attach, cluster, clusters, on_each_backend, read, settle, write,
    },
    error::ErrorKind,
    graph::child::Child,
    nodes::{FaultAction, FaultOp, FaultRule},
};

const SECOND_NS: u64 = 1_000_000_000;

/// Two disks, the filter over the first, and a guest above it.
struct Scene {
    disks: Disks,
    guest: Arc<Child>,
    filter: CbwHandle,
}

impl Scene {
    /// The source holds ones, the target something else.
    async fn new(cx: &AioContext, len_bytes: u64, options: CbwOptions) -> Self {
        let disks = Disks::new(len_bytes);
        disks.fill(cx, &disks.source, disks.whole(), 1).await;
        disks.fill(cx, &disks.target, disks.whole(), 0xee).await;
        let both = (&disks.source, &disks.target);
        let (node, filter) =
            CopyBeforeWriteNode::add_to(&disks.graph, Some("cbw"), both, options).unwrap();
        let guest = Arc::new(attach(&disks.graph, &node));
        Self {
            disks,
            guest,
            filter,
        }
    }

    /// A guest write that runs as a task of its own.
    fn writing(
        &self,
        cx: &AioContext,
        range: ByteRange,
        byte: u8,
    ) -> aio::Task<Result<(), BlockError>> {
        let (guest, home) = (self.guest.clone(), cx.clone());
        cx.spawn(async move { write(&guest, &home, range, byte).await.map(drop) })
    }

    async fn source_byte(&self, cx: &AioContext, offset: u64) -> u8 {
        let one = ByteRange::new(offset, 1).unwrap();
        read(&self.guest, cx, one).await[0]
    }

    async fn saved(&self, cx: &AioContext, range: ByteRange) -> Vec<u8> {
        read(&self.filter.block_copy().target().unwrap(), cx, range).await
    }

    fn hold_target(&self) {
        let rule = FaultRule::every(FaultOp::Write, FaultAction::Hold);
        self.disks.at_target.add(rule);
    }

    fn fail_target(&self, errno: i32) {
        let rule = FaultRule::nth(FaultOp::Write, 1, FaultAction::Fail { errno });
        self.disks.at_target.add(rule);
    }
}

fn break_snapshot() -> CbwOptions {
    CbwOptions {
        on_cbw_error: OnCbwError::BreakSnapshot,
        ..CbwOptions::default()
    }
}

#[test]
fn a_guest_write_waits_until_the_old_data_is_safe() {
    on_each_backend(|cx| async move {
        let scene = Scene::new(&cx, 4 * CLUSTER, CbwOptions::default()).await;
        scene.hold_target();
        let part = ByteRange::between(CLUSTER + 100, CLUSTER + 200);
        let guest_write = scene.writing(&cx, part, 2);
        let held = scene.disks.at_target.wait_held(1).await;
        settle(&cx).await;
        assert!(!guest_write.is_finished());
        assert_eq!(
            scene.source_byte(&cx, CLUSTER + 100).await,
            1,
            "reads pass through"
        );

        scene.disks.at_target.release(held[0].id);
        guest_write.await.unwrap();
        assert_eq!(scene.source_byte(&cx, CLUSTER + 100).await, 2);
        assert!(
            scene
                .saved(&cx, cluster(1))
                .await
                .iter()
                .all(|byte| *byte == 1)
        );
        assert_eq!(held[0].range, cluster(1), "whole clusters are saved");
        assert_eq!(scene.filter.added_latency().requests, 1);
    });
}

#[test]
fn each_change_saves_what_it_touches_once() {
    on_each_backend(|cx| async move {
        let scene = Scene::new(&cx, 8 * CLUSTER + 5, CbwOptions::default()).await;
        let flags = RequestFlags::default();
        let over_two = ByteRange::between(CLUSTER - 1, CLUSTER + 1);
        scene
            .guest
            .write_zeroes(&cx, over_two, flags)
            .await
            .unwrap();
        scene.guest.discard(&cx, cluster(4)).await.unwrap();
        let end = ByteRange::between(8 * CLUSTER + 4, 8 * CLUSTER + 5);
        write(&scene.guest, &cx, end, 2).await.unwrap();
        let seen = scene.disks.at_target.seen();
        let saved: Vec<_> = seen
            .iter()
            .filter(|(op, _)| *op == FaultOp::Write)
            .map(|(_, range)| *range)
            .skip(1)
            .collect();
        let last = ByteRange::between(8 * CLUSTER, 8 * CLUSTER + 5);
        assert_eq!(saved, [clusters(0, 2), cluster(4), last]);

        write(&scene.guest, &cx, over_two, 3).await.unwrap();
        scene.guest.flush(&cx).await.unwrap();
        assert_eq!(scene.disks.at_target.seen().len(), seen.len(), "once");
        assert_eq!(scene.filter.block_copy().done_bytes(), 3 * CLUSTER + 5);
    });
}

#[test]
fn what_does_not_change_the_content_saves_nothing() {
    on_each_backend(|cx| async move {
        let scene = Scene::new(&cx, 2 * CLUSTER, CbwOptions::default()).await;
        let unchanged = RequestFlags {
            unchanged: true,
            ..RequestFlags::default()
        };
        let mut same = IoBuf::heap(512);
        same.fill(1);
        let (_, result) = scene.guest.write(&cx, 0, same, unchanged).await;
        result.unwrap();
        assert!(scene.filter.block_copy().needs_copy(cluster(0)));
        assert_eq!(scene.filter.added_latency(), AddedLatency::default());
    });
}

#[test]
fn break_guest_write_keeps_the_snapshot_and_tells_the_guest() {
    on_each_backend(|cx| async move {
        let scene = Scene::new(&cx, 4 * CLUSTER, CbwOptions::default()).await;
        scene.fail_target(libc::ENOSPC);
        let error = write(&scene.guest, &cx, cluster(1), 2).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert_eq!(error.node(), Some("target"));
        assert_eq!(
            scene.source_byte(&cx, CLUSTER).await,
            1,
            "the write did not happen"
        );
        assert!(scene.filter.snapshot().failure().is_none());

        write(&scene.guest, &cx, cluster(1), 2).await.unwrap();
        assert!(
            scene
                .saved(&cx, cluster(1))
                .await
                .iter()
                .all(|byte| *byte == 1)
        );
    });
}

#[test]
fn break_snapshot_keeps_the_guest_and_tells_the_job_for_good() {
    on_each_backend(|cx| async move {
        let scene = Scene::new(&cx, 4 * CLUSTER, break_snapshot()).await;
        scene.fail_target(libc::EIO);
        write(&scene.guest, &cx, cluster(1), 2).await.unwrap();
        assert_eq!(scene.source_byte(&cx, CLUSTER).await, 2);
        let failure = scene.filter.snapshot().failure().unwrap();
        assert_eq!(failure.errno(), Some(libc::EIO));
        assert!(scene.filter.block_copy().needs_copy(cluster(1)));

        let before = scene.disks.at_target.seen().len();
        write(&scene.guest, &cx, cluster(2), 2).await.unwrap();
        let after = scene.disks.at_target.seen().len();
        assert_eq!(before, after, "nothing is saved any more");
        assert_eq!(
            scene.filter.snapshot().failure().unwrap().errno(),
            Some(libc::EIO)
        );
    });
}

#[test]
fn a_broken_snapshot_is_known_before_the_guest_has_written() {
    on_each_backend(|cx| async move {
        let scene = Scene::new(&cx, CLUSTER, break_snapshot()).await;
        scene.fail_target(libc::EIO);
        let hold = FaultRule::every(FaultOp::Write, FaultAction::Hold);
        scene.disks.at_source.add(hold);
        let guest_write = scene.writing(&cx, cluster(0), 2);
        let held = scene.disks.at_source.wait_held(1).await;
        assert!(scene.filter.snapshot().failure().is_some());
        scene.disks.at_source.release(held[0].id);
        guest_write.await.unwrap();
    });
}

#[test]
fn a_dropped_guest_write_changes_nothing_and_blocks_nobody() {
    on_each_backend(|cx| async move {
        let scene = Scene::new(&cx, CLUSTER, CbwOptions::default()).await;
        scene.hold_target();
        let mut dropped = Box::pin(write(&scene.guest, &cx, cluster(0), 2));
        poll_once(dropped.as_mut()).await;
        assert_eq!(scene.disks.at_target.held().len(), 1);
        drop(dropped);
        scene.disks.at_target.release_all();
        assert_eq!(scene.source_byte(&cx, 0).await, 1);

        write(&scene.guest, &cx, cluster(0), 3).await.unwrap();
        assert_eq!(scene.source_byte(&cx, 0).await, 3);
        assert!(
            scene
                .saved(&cx, cluster(0))
                .await
                .iter()
                .all(|byte| *byte == 1)
        );
    });
}

async fn poll_once<T>(mut future: Pin<&mut impl Future<Output = T>>) {
    poll_fn(|task| {
        assert!(future.as_mut().poll(task).is_pending());
        Poll::Ready(())
    })
    .await;
}

/// Runs a test on a context whose clock stands still.
fn with_manual_clock<F: Future<Output = ()>>(test: impl FnOnce(AioContext, ManualClock) -> F) {
    let (clock, hand) = Clock::manual();
    let config = Config {
        clock,
        ..Config::default()
    };
    aio::run(config, |cx| test(cx, hand)).unwrap();
}

fn with_timeout(options: CbwOptions) -> CbwOptions {
    CbwOptions {
        timeout_ns: Some(SECOND_NS),
        ..options
    }
}

#[test]
fn a_time_limit_frees_the_guest_and_saving_goes_on() {
    with_manual_clock(|cx, hand| async move {
        let options = with_timeout(CbwOptions::default());
        let scene = Scene::new(&cx, 2 * CLUSTER, options).await;
        scene.hold_target();
        let guest_write = scene.writing(&cx, cluster(0), 2);
        let held = scene.disks.at_target.wait_held(1).await;
        hand.advance_ns(SECOND_NS - 1);
        settle(&cx).await;
        assert!(!guest_write.is_finished());

        hand.advance_ns(1);
        let error = guest_write.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert_eq!(
            scene.source_byte(&cx, 0).await,
            1,
            "the write did not happen"
        );
        assert!(
            scene.filter.block_copy().needs_copy(cluster(0)),
            "in flight"
        );
        let latency = scene.filter.added_latency();
        assert_eq!((latency.requests, latency.max_ns), (1, SECOND_NS));

        scene.disks.at_target.release(held[0].id);
        settle(&cx).await;
        assert!(
            !scene.filter.block_copy().needs_copy(cluster(0)),
            "saved after all"
        );
        write(&scene.guest, &cx, cluster(0), 2).await.unwrap();
    });
}

#[test]
fn a_time_limit_may_break_the_snapshot_instead() {
    with_manual_clock(|cx, hand| async move {
        let scene = Scene::new(&cx, 2 * CLUSTER, with_timeout(break_snapshot())).await;
        scene.hold_target();
        let guest_write = scene.writing(&cx, cluster(0), 2);
        scene.disks.at_target.wait_held(1).await;
        hand.advance_ns(SECOND_NS);
        guest_write.await.unwrap();
        assert_eq!(scene.source_byte(&cx, 0).await, 2);
        let failure = scene.filter.snapshot().failure().unwrap();
        assert_eq!(failure.kind(), ErrorKind::TimedOut);
        scene.disks.at_target.release_all();
    });
}

#[test]
fn a_copy_within_the_time_limit_is_no_failure() {
    with_manual_clock(|cx, _hand| async move {
        let options = with_timeout(CbwOptions::default());
        let scene = Scene::new(&cx, 2 * CLUSTER, options).await;
        write(&scene.guest, &cx, cluster(0), 2).await.unwrap();
        assert!(
            scene
                .saved(&cx, cluster(0))
                .await
                .iter()
                .all(|byte| *byte == 1)
        );
    });
}

#[test]
fn guests_that_wait_for_old_data_go_on_when_the_snapshot_is_given_up() {
    on_each_backend(|cx| async move {
        for options in [CbwOptions::default(), break_snapshot()] {
            let scene = Scene::new(&cx, 4 * CLUSTER, options).await;
            scene.hold_target();
            // One saves, one waits for it, one would save more afterwards.
            let writes =
                [cluster(0), cluster(0), clusters(0, 2)].map(|range| scene.writing(&cx, range, 2));
            settle(&cx).await;
            assert!(writes.iter().all(|write| !write.is_finished()));

            scene.filter.give_up(Box::new(()));

            for write in writes {
                write.await.unwrap();
            }
            assert_eq!(scene.source_byte(&cx, CLUSTER).await, 2);
            let failure = scene.filter.snapshot().failure().unwrap();
            assert_eq!(failure.kind(), ErrorKind::GivenUp);
            let before = scene.disks.at_target.seen().len();
            write(&scene.guest, &cx, cluster(3), 2).await.unwrap();
            scene.disks.at_target.release_all();
            settle(&cx).await;
            assert_eq!(
                scene.disks.at_target.seen().len(),
                before,
                "nothing is saved"
            );
        }
    });
}

#[test]
fn a_guest_whose_own_saving_ends_because_it_is_given_up_sees_no_error() {
    on_each_backend(|cx| async move {
        let scene = Scene::new(&cx, 4 * CLUSTER, CbwOptions::default()).await;
        let hold = FaultRule::nth(FaultOp::Read, 1, FaultAction::Hold);
        scene.disks.at_source.add(hold);
        let guest_write = scene.writing(&cx, cluster(0), 2);
        let held = scene.disks.at_source.wait_held(1).await;
        // Both at once, as seen by the guest.
        scene.disks.at_source.release(held[0].id);
        scene.filter.give_up(Box::new(()));
        guest_write.await.unwrap();
        assert_eq!(scene.source_byte(&cx, 0).await, 2);
    });
}

#[test]
fn the_target_is_one_instant_of_the_source_whatever_writers_do() {
    on_each_backend(|cx| async move {
        let len = 40 * CLUSTER + 77;
        let scene = Scene::new(&cx, len, CbwOptions::default()).await;
        // Slow reads of old data: a write that does not wait overtakes them.
        for control in [&scene.disks.at_source, &scene.disks.at_target] {
            let slow = FaultAction::Delay { ns: 200_000 };
            control.add(FaultRule::every(FaultOp::Read, slow));
        }
        let writers: Vec<_> = (0..4)
            .map(|number| {
                let (guest, home) = (scene.guest.clone(), cx.clone());
                cx.spawn(async move { write_about(&guest, &home, number).await })
            })
            .collect();
        copy_in_background(&cx, &scene.filter).await;
        for writer in writers {
            writer.await;
        }
        let saved = scene.saved(&cx, scene.disks.whole()).await;
        assert!(
            saved.iter().all(|byte| *byte == 1),
            "the target has new data"
        );
        assert_eq!(scene.filter.block_copy().done_bytes(), len);
        let now = read(&scene.guest, &cx, scene.disks.whole()).await;
        assert!(now.contains(&2), "the writers have written");
    });
}

#[test]
fn writers_on_other_threads_meet_the_same_instant() {
    let threads: Vec<_> = (0..3)
        .map(|_| IoThread::start(Config::default()).unwrap())
        .collect();
    on_each_backend(|cx| {
        let threads = &threads;
        async move {
            let scene = Scene::new(&cx, 100 * CLUSTER, CbwOptions::default()).await;
            let writers: Vec<_> = (0..)
                .zip(threads)
                .map(|(number, thread)| spawn_writer(thread, &scene.guest, number))
                .collect();
            copy_in_background(&cx, &scene.filter).await;
            for writer in writers {
                writer.await;
            }
            let saved = scene.saved(&cx, scene.disks.whole()).await;
            assert!(
                saved.iter().all(|byte| *byte == 1),
                "the target has new data"
            );
            assert!(scene.filter.block_copy().is_complete());
        }
    });
}

fn spawn_writer(thread: &IoThread, guest: &Arc<Child>, number: u64) -> JoinHandle<()> {
    let guest = guest.clone();
    thread
        .handle()
        .spawn(move |home| async move { write_about(&guest, &home, number).await })
}

/// Three requests at a time, until nothing is to copy, as a job would.
async fn copy_in_background(cx: &AioContext, filter: &CbwHandle) {
    let whole = ByteRange::between(0, filter.block_copy().len_bytes());
    let workers: Vec<_> = (0..3)
        .map(|_| {
            let (copy, home) = (filter.block_copy().clone(), cx.clone());
            cx.spawn(async move {
                while let Some(claim) = copy.claim(whole, 2 * CLUSTER) {
                    copy.copy(&home, claim).await.unwrap();
                    home.yield_now().await;
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await;
    }
    let copy = filter.block_copy();
    copy.ensure_copied(cx, whole).await.unwrap();
}

/// Writes, zeroes and discards here and there; the same for the same number.
async fn write_about(guest: &Child, cx: &AioContext, number: u64) {
    let len = guest.len_bytes();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(number + 1);
    for _ in 0..120 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let start = random % (len - 1);
        let range = ByteRange::between(start, (start + random % 100_000 + 1).min(len));
        match random % 4 {
            0 => {
                let flags = RequestFlags::default();
                guest.write_zeroes(cx, range, flags).await.unwrap();
            }
            1 => guest.discard(cx, range).await.unwrap(),
            _ => drop(write(guest, cx, range, 2).await.unwrap()),
        }
    }
}
