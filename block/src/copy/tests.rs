//! The copy: what is copied exactly once, given back, retried; and never past the end.

use std::sync::{Arc, Weak};

use super::{
    BlockCopy, CopyClass, CopyCounters, CopyOptions, CopySide, Keeper, TargetContent,
    testing::{CLUSTER, Disks, attach, cluster, clusters, on_each_backend, read, settle},
};
use crate::{
    allocation::ByteRange,
    dirty_bitmap::DirtyBitmap,
    error::ErrorKind,
    graph::{
        child::ChildRole,
        permission::{Permission, Permissions},
    },
    node_driver::Way,
    nodes::{FaultAction, FaultOp, FaultRule, MemoryNode, MemoryOptions, RawNode, RawOptions},
};

mod sets;

const UNALIGNED: u64 = (1 << 20) + 13;

#[test]
fn everything_is_copied_exactly_and_nothing_past_the_end() {
    on_each_backend(|cx| async move {
        let disks = Disks::new(UNALIGNED);
        disks
            .fill(&cx, &disks.source, ByteRange::between(100, 200), 1)
            .await;
        disks.fill(&cx, &disks.source, clusters(3, 4), 2).await;
        disks
            .fill(
                &cx,
                &disks.source,
                ByteRange::between(UNALIGNED - 1, UNALIGNED),
                3,
            )
            .await;
        disks.fill(&cx, &disks.target, disks.whole(), 0xee).await;
        let copy = disks.copy(CopyOptions::default()).unwrap();

        while let Some(claim) = copy.claim(disks.whole(), u64::MAX) {
            copy.copy(&cx, claim).await.unwrap();
        }

        assert!(copy.is_complete());
        assert_eq!(copy.done_bytes(), UNALIGNED);
        let expected = disks.content(&cx, &disks.source).await;
        assert!(disks.content(&cx, &disks.target).await == expected);
        let data = CLUSTER + 4 * CLUSTER + 13;
        let counters = CopyCounters {
            buffered_bytes: data,
            zero_bytes: UNALIGNED - data,
            ..CopyCounters::default()
        };
        assert_eq!(copy.counters(), counters);
        let seen = disks.at_target.seen();
        assert!(seen.iter().all(|(_, range)| range.end() <= UNALIGNED));
    });
}

#[test]
fn zeroes_of_the_source_are_written_unless_the_target_has_them() {
    on_each_backend(|cx| async move {
        for (target_content, class) in [
            (TargetContent::Unknown, CopyClass::Zero),
            (TargetContent::Zero, CopyClass::Skipped),
        ] {
            let disks = Disks::new(UNALIGNED);
            let options = CopyOptions {
                target_content,
                ..CopyOptions::default()
            };
            let copy = disks.copy(options).unwrap();
            let claim = copy.claim(disks.whole(), u64::MAX).unwrap();
            let outcome = copy.copy(&cx, claim).await.unwrap();
            assert_eq!((outcome.range, outcome.class), (disks.whole(), class));
            let wrote = !disks.at_target.seen().is_empty();
            assert_eq!(wrote, target_content == TargetContent::Unknown);
        }
    });
}

#[test]
fn a_claim_keeps_one_kind_of_bytes_and_gives_the_rest_back() {
    on_each_backend(|cx| async move {
        let disks = Disks::new(64 * CLUSTER);
        disks.fill(&cx, &disks.source, clusters(4, 40), 7).await;
        let copy = disks.copy(CopyOptions::default()).unwrap();
        let mut parts = Vec::new();
        while let Some(claim) = copy.claim(disks.whole(), u64::MAX) {
            let outcome = copy.copy(&cx, claim).await.unwrap();
            parts.push((outcome.range, outcome.class));
        }
        let data = CopyClass::Copied(Way::Buffered);
        let expected = [
            (clusters(0, 4), CopyClass::Zero),
            (clusters(4, 32), data),
            (clusters(36, 8), data),
            (clusters(44, 20), CopyClass::Zero),
        ];
        assert_eq!(parts, expected);
    });
}

#[test]
fn a_claim_is_never_larger_than_asked_for_and_never_twice() {
    let disks = Disks::new(10 * CLUSTER + 1);
    let copy = disks.copy(CopyOptions::default()).unwrap();
    let first = copy.claim(disks.whole(), 3 * CLUSTER - 1).unwrap();
    assert_eq!(first.range(), clusters(0, 2));
    let second = copy.claim(ByteRange::between(0, 3 * CLUSTER), 1).unwrap();
    assert_eq!(second.range(), cluster(2));
    assert!(copy.claim(clusters(0, 3), u64::MAX).is_none());
    let last = copy.claim(ByteRange::between(10 * CLUSTER, 10 * CLUSTER + 1), u64::MAX);
    let end = ByteRange::between(10 * CLUSTER, 10 * CLUSTER + 1);
    assert_eq!(last.unwrap().range(), end);

    drop(first);
    assert_eq!(
        copy.claim(disks.whole(), CLUSTER).unwrap().range(),
        cluster(0)
    );
}

#[test]
fn an_error_gives_back_names_its_side_and_can_be_retried() {
    on_each_backend(|cx| async move {
        for (side, op) in [
            (CopySide::Read, FaultOp::Read),
            (CopySide::Write, FaultOp::Write),
        ] {
            let disks = Disks::new(UNALIGNED);
            disks.fill(&cx, &disks.source, disks.whole(), 9).await;
            let copy = disks.copy(CopyOptions::default()).unwrap();
            let control = match side {
                CopySide::Read => &disks.at_source,
                CopySide::Write => &disks.at_target,
            };
            let errno = libc::ENOSPC;
            control.add(FaultRule::nth(op, 1, FaultAction::Fail { errno }));

            let error = copy.ensure_copied(&cx, disks.whole()).await.unwrap_err();
            assert_eq!(error.side(), side);
            assert_eq!(error.error().kind(), ErrorKind::NoSpace);
            assert_eq!(copy.done_bytes(), 0);
            assert_eq!(copy.counters(), CopyCounters::default());

            copy.ensure_copied(&cx, disks.whole()).await.unwrap();
            assert_eq!(copy.done_bytes(), UNALIGNED);
            assert_eq!(copy.counters().buffered_bytes, UNALIGNED);
            let expected = disks.content(&cx, &disks.source).await;
            assert!(disks.content(&cx, &disks.target).await == expected);
        }
    });
}

#[test]
fn an_extent_that_ends_within_a_cluster_hides_no_data() {
    on_each_backend(|cx| async move {
        let disks = Disks::new(4 * CLUSTER);
        disks.fill(&cx, &disks.source, cluster(1), 6).await;
        // Seen through a window, holes and data begin and end within clusters.
        let builder = disks.graph.build_node(Some("window")).unwrap();
        let permissions = Permissions::uses(&[Permission::ConsistentRead, Permission::Write]);
        let child = builder
            .attach(&disks.source, "file", ChildRole::Data, permissions)
            .unwrap();
        let len_bytes = Some(3 * CLUSTER);
        let window = RawOptions {
            offset_bytes: 100,
            len_bytes,
        };
        let window = builder.finish(RawNode::new(child, window).unwrap());
        let target = MemoryNode::new(MemoryOptions::new(3 * CLUSTER)).unwrap();
        let target = disks.graph.add_node(Some("copy"), target).unwrap();
        let whole = clusters(0, 3);
        let (from, to) = (attach(&disks.graph, &window), attach(&disks.graph, &target));

        let copy = BlockCopy::new(from, to, CopyOptions::default()).unwrap();
        copy.ensure_copied(&cx, whole).await.unwrap();
        let expected = read(&copy.source().unwrap(), &cx, whole).await;
        assert!(read(&copy.target().unwrap(), &cx, whole).await == expected);
        assert_eq!(copy.counters().zero_bytes, CLUSTER);
    });
}

#[test]
fn extents_that_cannot_be_had_are_data() {
    on_each_backend(|cx| async move {
        let disks = Disks::new(2 * CLUSTER);
        let errno = libc::EIO;
        disks.at_source.add(FaultRule::every(
            FaultOp::Extent,
            FaultAction::Fail { errno },
        ));
        let copy = disks.copy(CopyOptions::default()).unwrap();
        copy.ensure_copied(&cx, disks.whole()).await.unwrap();
        assert_eq!(copy.counters().buffered_bytes, 2 * CLUSTER);
    });
}

#[test]
fn who_needs_what_another_copies_waits_for_it() {
    on_each_backend(|cx| async move {
        let disks = Disks::new(4 * CLUSTER);
        disks.fill(&cx, &disks.source, disks.whole(), 1).await;
        let copy = disks.copy(CopyOptions::default()).unwrap();
        disks
            .at_target
            .add(FaultRule::nth(FaultOp::Write, 1, FaultAction::Hold));
        let spawn = |range| {
            let (copy, home) = (copy.clone(), cx.clone());
            cx.spawn(async move { copy.ensure_copied(&home, range).await })
        };
        let first = spawn(clusters(0, 2));
        let held = disks.at_target.wait_held(1).await;
        let second = spawn(ByteRange::between(10, 20));
        let beside = spawn(cluster(3));
        settle(&cx).await;

        assert!(!second.is_finished(), "it is in flight");
        beside.await.unwrap();
        disks.at_target.release(held[0].id);
        first.await.unwrap();
        second.await.unwrap();
        let reads = disks.at_source.seen();
        let reads = reads.iter().filter(|(op, _)| *op == FaultOp::Read).count();
        assert_eq!(reads, 2, "nothing is copied twice");
    });
}

#[test]
fn who_waits_for_bytes_that_are_given_back_goes_on_at_once() {
    on_each_backend(|cx| async move {
        let disks = Disks::new(40 * CLUSTER);
        disks.fill(&cx, &disks.source, disks.whole(), 1).await;
        let copy = disks.copy(CopyOptions::default()).unwrap();
        disks
            .at_source
            .add(FaultRule::nth(FaultOp::Extent, 1, FaultAction::Hold));
        disks
            .at_target
            .add(FaultRule::nth(FaultOp::Write, 1, FaultAction::Hold).within(cluster(0)));
        let (one, home) = (copy.clone(), cx.clone());
        let first = cx.spawn(async move { one.ensure_copied(&home, clusters(0, 40)).await });
        let held = disks.at_source.wait_held(1).await;
        let (one, home) = (copy.clone(), cx.clone());
        let beyond = cx.spawn(async move { one.ensure_copied(&home, cluster(39)).await });
        settle(&cx).await;
        assert!(
            !beyond.is_finished(),
            "claimed as long as nobody knows what it is"
        );

        disks.at_source.release(held[0].id);
        beyond.await.unwrap();
        assert!(!first.is_finished());
        disks.at_target.release_all();
        first.await.unwrap();
    });
}

#[test]
fn who_waits_for_a_copy_that_fails_copies_itself() {
    on_each_backend(|cx| async move {
        let disks = Disks::new(4 * CLUSTER);
        disks.fill(&cx, &disks.source, disks.whole(), 1).await;
        let copy = disks.copy(CopyOptions::default()).unwrap();
        disks
            .at_target
            .add(FaultRule::nth(FaultOp::Write, 1, FaultAction::Hold));
        let (one, home) = (copy.clone(), cx.clone());
        let first = cx.spawn(async move { one.ensure_copied(&home, clusters(0, 4)).await });
        let held = disks.at_target.wait_held(1).await;
        let (one, home) = (copy.clone(), cx.clone());
        let second = cx.spawn(async move { one.ensure_copied(&home, cluster(2)).await });
        settle(&cx).await;
        assert!(!second.is_finished());

        disks.at_target.fail(held[0].id, libc::EIO);
        first.await.unwrap_err();
        second.await.unwrap();
        assert_eq!(copy.done_bytes(), CLUSTER);
    });
}

#[test]
fn a_dropped_copy_is_given_back_and_wakes_who_waits() {
    on_each_backend(|cx| async move {
        let disks = Disks::new(2 * CLUSTER);
        disks.fill(&cx, &disks.source, disks.whole(), 1).await;
        let copy = disks.copy(CopyOptions::default()).unwrap();
        disks
            .at_target
            .add(FaultRule::nth(FaultOp::Write, 1, FaultAction::Hold));

        let mut dropped = Box::pin(copy.ensure_copied(&cx, disks.whole()));
        std::future::poll_fn(|task| {
            assert!(dropped.as_mut().poll(task).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
        assert_eq!(disks.at_target.held().len(), 1);
        assert!(
            copy.claim(disks.whole(), u64::MAX).is_none(),
            "all is in flight"
        );
        let (one, home) = (copy.clone(), cx.clone());
        let waiting = cx.spawn(async move { one.ensure_copied(&home, cluster(1)).await });
        settle(&cx).await;
        assert!(!waiting.is_finished());

        drop(dropped);
        waiting.await.unwrap();
        assert_eq!(copy.done_bytes(), CLUSTER);
        copy.ensure_copied(&cx, disks.whole()).await.unwrap();
        let expected = disks.content(&cx, &disks.source).await;
        assert!(disks.content(&cx, &disks.target).await == expected);
    });
}

#[test]
fn a_pool_without_buffers_does_not_stop_the_copy() {
    on_each_backend(|cx| async move {
        let disks = Disks::new(UNALIGNED);
        disks.fill(&cx, &disks.source, disks.whole(), 1).await;
        let copy = disks.copy(CopyOptions::default()).unwrap();
        let mut all = Vec::new();
        while let Some(buf) = cx.buffers().try_acquire(1 << 20) {
            all.push(buf);
        }
        copy.ensure_copied(&cx, disks.whole()).await.unwrap();
        assert_eq!(copy.done_bytes(), UNALIGNED);
    });
}

#[test]
fn a_target_that_does_not_answer_leaves_half_of_the_buffers_to_others() {
    on_each_backend(|cx| async move {
        let disks = Disks::new(100 << 20);
        disks.fill(&cx, &disks.source, disks.whole(), 1).await;
        let copy = disks.copy(CopyOptions::default()).unwrap();
        let hold = FaultRule::every(FaultOp::Write, FaultAction::Hold);
        disks.at_target.add(hold);
        while let Some(claim) = copy.claim(disks.whole(), 1 << 20) {
            let (one, home) = (copy.clone(), cx.clone());
            drop(cx.spawn(async move { one.copy(&home, claim).await }));
        }
        // As many as the copy's budget lets go.
        disks.at_target.wait_held(64).await;
        let pool = cx.buffers();
        assert_eq!(pool.bytes_in_use(), pool.bytes_max() / 2);
    });
}

#[test]
fn alignment_of_the_nodes_needs_no_second_buffer() {
    on_each_backend(|cx| async move {
        let disks = Disks::with_alignment(UNALIGNED, 4096);
        disks.fill(&cx, &disks.source, disks.whole(), 5).await;
        let copy = disks.copy(CopyOptions::default()).unwrap();
        copy.ensure_copied(&cx, disks.whole()).await.unwrap();
        assert_eq!(copy.counters().bounced_bytes, 0);
        let expected = disks.content(&cx, &disks.source).await;
        assert!(disks.content(&cx, &disks.target).await == expected);
    });
}

#[test]
fn nodes_of_different_length_and_odd_clusters_are_refused() {
    let (disks, other) = (Disks::new(CLUSTER), Disks::new(CLUSTER + 1));
    let source = attach(&disks.graph, &disks.source);
    let target = attach(&other.graph, &other.target);
    let error = BlockCopy::new(source, target, CopyOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    for cluster_bytes_min in [65537, 1 << 40, u64::MAX] {
        let options = CopyOptions {
            cluster_bytes_min,
            ..CopyOptions::default()
        };
        assert_eq!(disks.copy(options).unwrap_err().kind(), ErrorKind::Invalid);
    }
    let empty = Disks::new(0).copy(CopyOptions::default()).unwrap();
    assert!(empty.is_complete());
}

#[test]
fn a_large_cluster_is_copied_in_pieces() {
    on_each_backend(|cx| async move {
        let disks = Disks::new(5 << 20);
        disks.fill(&cx, &disks.source, disks.whole(), 5).await;
        let options = CopyOptions {
            cluster_bytes_min: 4 << 20,
            ..CopyOptions::default()
        };
        let copy = disks.copy(options).unwrap();
        let claim = copy.claim(cluster(1), 1).unwrap();
        assert_eq!(claim.range().len(), 4 << 20);
        copy.copy(&cx, claim).await.unwrap();
        copy.ensure_copied(&cx, disks.whole()).await.unwrap();
        let reads = disks.at_source.seen();
        let longest = reads
            .iter()
            .filter(|(op, _)| *op == FaultOp::Read)
            .map(|(_, range)| range.len());
        assert_eq!(longest.max(), Some(2 << 20));
        let expected = disks.content(&cx, &disks.source).await;
        assert!(disks.content(&cx, &disks.target).await == expected);
    });
}

/// Says whether a keeper that was handed out is still there.
fn keeper() -> (Keeper, Weak<()>) {
    let mark = Arc::new(());
    let watch = Arc::downgrade(&mark);
    (Box::new(mark), watch)
}

/// Names of the nodes that edges other than those of the disks themselves point at.
fn used(disks: &Disks) -> Vec<String> {
    let edges = disks.graph.edges().into_iter();
    let of_copy = edges.filter(|edge| edge.parent == "test");
    of_copy.map(|edge| edge.node).collect()
}

#[test]
fn a_copy_that_is_given_up_leaves_the_target_to_its_last_write_and_the_source_to_nobody() {
    on_each_backend(|cx| async move {
        let disks = Disks::new(4 << 20);
        disks.fill(&cx, &disks.source, disks.whole(), 1).await;
        let copy = disks.copy(CopyOptions::default()).unwrap();
        disks
            .at_target
            .add(FaultRule::nth(FaultOp::Write, 1, FaultAction::Hold));
        let (one, home) = (copy.clone(), cx.clone());
        let stuck = cx.spawn(async move { one.ensure_copied(&home, clusters(0, 64)).await });
        let held = disks.at_target.wait_held(1).await;
        let (kept, is_kept) = keeper();

        copy.give_up(kept);

        assert!(copy.is_given_up() && copy.source().is_none() && copy.target().is_none());
        assert_eq!(used(&disks), ["target"]);
        assert!(is_kept.upgrade().is_some());
        let refused = copy.ensure_copied(&cx, cluster(63)).await.unwrap_err();
        assert_eq!(refused.error().kind(), ErrorKind::GivenUp);
        assert_eq!(
            copy.flush(&cx).await.unwrap_err().kind(),
            ErrorKind::GivenUp
        );
        // Another one gives it up too: the first keeper stays.
        let (second, is_kept_too) = keeper();
        copy.give_up(second);
        assert!(is_kept.upgrade().is_some() && is_kept_too.upgrade().is_none());

        disks.at_target.release(held[0].id);
        stuck.await.unwrap_err();
        assert!(is_kept.upgrade().is_none() && used(&disks).is_empty());
        let written = disks.at_target.seen();
        let written = written.iter().filter(|(op, _)| *op == FaultOp::Write);
        assert_eq!(written.count(), 1, "and that was the last");
    });
}

#[test]
fn a_stuck_read_of_a_copy_that_is_given_up_keeps_nobody_from_the_target() {
    on_each_backend(|cx| async move {
        let disks = Disks::new(4 * CLUSTER);
        disks.fill(&cx, &disks.source, disks.whole(), 1).await;
        let copy = disks.copy(CopyOptions::default()).unwrap();
        let hold = FaultRule::nth(FaultOp::Read, 1, FaultAction::Hold);
        disks.at_source.add(hold);
        let (one, home) = (copy.clone(), cx.clone());
        let stuck = cx.spawn(async move { one.ensure_copied(&home, cluster(0)).await });
        let held = disks.at_source.wait_held(1).await;
        let (kept, is_kept) = keeper();

        copy.give_up(kept);

        assert!(is_kept.upgrade().is_none());
        assert_eq!(used(&disks), ["source"]);
        disks.at_source.release(held[0].id);
        stuck.await.unwrap_err();
        assert!(used(&disks).is_empty());
        let seen = disks.at_target.seen();
        assert!(!seen.iter().any(|(op, _)| *op == FaultOp::Write));
    });
}
