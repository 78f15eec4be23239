//! The instant is what readers see, whatever guests do, and it takes no more room than it may.

use std::sync::Arc;

use aio::{AioContext, IoBuf};

use super::*;
use crate::{
    AllocationStatus, DirtyBitmap,
    copy::{
        CopyOptions, InitialSet, OnFull,
        testing::{
            CLUSTER, Disks, attach, cluster, clusters, on_each_backend, read, settle, write,
        },
    },
    nodes::{CbwOptions, FaultAction, FaultOp, FaultRule, OnCbwError},
};

/// Two disks, a filter over the first with a guest above it, and a reader of the instant.
struct Scene {
    disks: Disks,
    guest: Arc<Child>,
    reader: Arc<Child>,
    filter: CbwHandle,
}

impl Scene {
    /// The source holds ones, the scratch node something else.
    async fn new(cx: &AioContext, count: u64, options: CbwOptions) -> Self {
        let disks = Disks::new(count * CLUSTER);
        disks.fill(cx, &disks.source, disks.whole(), 1).await;
        disks.fill(cx, &disks.target, disks.whole(), 0xee).await;
        Self::over(disks, options)
    }

    fn over(disks: Disks, options: CbwOptions) -> Self {
        let both = (&disks.source, &disks.target);
        let (node, filter) =
            CopyBeforeWriteNode::add_to(&disks.graph, Some("cbw"), both, options).unwrap();
        let guest = Arc::new(attach(&disks.graph, &node));
        let snapshot = SnapshotAccessNode::add_to(&disks.graph, Some("snap"), &node).unwrap();
        let reader = Arc::new(attach(&disks.graph, &snapshot));
        Self {
            disks,
            guest,
            reader,
            filter,
        }
    }

    fn writing(
        &self,
        cx: &AioContext,
        range: ByteRange,
        byte: u8,
    ) -> aio::Task<Result<(), BlockError>> {
        let (guest, home) = (self.guest.clone(), cx.clone());
        cx.spawn(async move { write(&guest, &home, range, byte).await.map(drop) })
    }

    fn reading(
        &self,
        cx: &AioContext,
        range: ByteRange,
    ) -> aio::Task<Result<Vec<u8>, Option<i32>>> {
        let (reader, home) = (self.reader.clone(), cx.clone());
        cx.spawn(async move { try_read(&reader, &home, range).await })
    }

    fn hold(&self, op: FaultOp) {
        let rule = FaultRule::every(op, FaultAction::Hold);
        self.disks.at_source.add(rule);
    }
}

async fn try_read(edge: &Child, cx: &AioContext, range: ByteRange) -> Result<Vec<u8>, Option<i32>> {
    let buf = IoBuf::heap(usize::try_from(range.len()).unwrap());
    let (buf, result) = edge.read(cx, range.start(), buf).await;
    result.map_err(|error| error.errno())?;
    Ok(buf.to_vec())
}

fn with_room(clusters: u64, on_full: OnFull, on_cbw_error: OnCbwError) -> CbwOptions {
    CbwOptions {
        copy: CopyOptions {
            scratch: Some((clusters * CLUSTER, on_full)),
            ..CopyOptions::default()
        },
        on_cbw_error,
        ..CbwOptions::default()
    }
}

#[test]
fn readers_see_the_instant_in_saved_and_unsaved_parts_of_one_request() {
    on_each_backend(|cx| async move {
        let scene = Scene::new(&cx, 6, CbwOptions::default()).await;
        write(&scene.guest, &cx, cluster(1), 2).await.unwrap();
        let crossing = ByteRange::between(3 * CLUSTER - 7, 4 * CLUSTER + 7);
        write(&scene.guest, &cx, crossing, 3).await.unwrap();

        let odd = ByteRange::between(5, 6 * CLUSTER - 5);
        let seen = read(&scene.reader, &cx, odd).await;

        assert!(seen.iter().all(|byte| *byte == 1));
        assert!(
            read(&scene.guest, &cx, crossing)
                .await
                .iter()
                .all(|byte| *byte == 3)
        );
    });
}

#[test]
fn a_guest_waits_for_a_read_of_what_it_wants_to_change_and_for_no_other() {
    on_each_backend(|cx| async move {
        let scene = Scene::new(&cx, 4, CbwOptions::default()).await;
        let frozen = ByteRange::between(CLUSTER + 10, CLUSTER + 20);
        scene.hold(FaultOp::Read);
        let reading = scene.reading(&cx, frozen);
        let held = scene.disks.at_source.wait_held(1).await;
        scene.disks.at_source.clear();

        let same = scene.writing(&cx, frozen, 2);
        scene.writing(&cx, cluster(3), 2).await.unwrap();
        settle(&cx).await;
        assert!(!same.is_finished(), "the old data is saved, but being read");
        assert!(!scene.filter.block_copy().needs_copy(cluster(3)));
        let later = read(&scene.reader, &cx, frozen).await;
        assert_eq!(later, [1; 10], "a later read finds it saved");

        scene.disks.at_source.release(held[0].id);
        assert_eq!(reading.await.unwrap(), [1; 10]);
        same.await.unwrap();
        assert_eq!(read(&scene.reader, &cx, frozen).await, [1; 10]);
    });
}

#[test]
fn a_read_during_which_the_snapshot_breaks_fails_and_holds_no_guest_up() {
    on_each_backend(|cx| async move {
        let options = CbwOptions {
            on_cbw_error: OnCbwError::BreakSnapshot,
            ..CbwOptions::default()
        };
        let scene = Scene::new(&cx, 4, options).await;
        scene.hold(FaultOp::Read);
        let reading = scene.reading(&cx, cluster(1));
        let held = scene.disks.at_source.wait_held(1).await;
        scene.disks.at_source.clear();
        let fails = FaultAction::Fail { errno: libc::EIO };
        scene
            .disks
            .at_target
            .add(FaultRule::nth(FaultOp::Write, 1, fails));

        write(&scene.guest, &cx, cluster(1), 2).await.unwrap();

        scene.disks.at_source.release(held[0].id);
        assert_eq!(reading.await, Err(Some(libc::EACCES)));
        let later = try_read(&scene.reader, &cx, cluster(3)).await;
        assert_eq!(later, Err(Some(libc::EACCES)), "for good");
        assert!(scene.reader.extent(&cx, cluster(3)).await.is_err());
    });
}

#[test]
fn nothing_but_the_set_can_be_read_if_there_is_one() {
    on_each_backend(|cx| async move {
        let mut set = DirtyBitmap::new(4 * CLUSTER, 4096).unwrap();
        set.set(ByteRange::between(CLUSTER + 1, CLUSTER + 2));
        let copy = CopyOptions {
            initial: InitialSet::Bitmap(set),
            ..CopyOptions::default()
        };
        let options = CbwOptions {
            copy,
            ..CbwOptions::default()
        };
        let scene = Scene::new(&cx, 4, options).await;
        write(&scene.guest, &cx, clusters(0, 4), 2).await.unwrap();

        let outcomes = [cluster(0), cluster(1), clusters(1, 2)].map(|range| {
            let (reader, cx) = (&scene.reader, &cx);
            async move { try_read(reader, cx, range).await.map(|bytes| bytes[0]) }
        });
        let [before, within, beyond] = outcomes;

        assert_eq!(before.await, Err(Some(libc::EACCES)));
        assert_eq!(within.await, Ok(1), "rounded to clusters");
        assert_eq!(beyond.await, Err(Some(libc::EACCES)));
        let extent = scene.reader.extent(&cx, clusters(1, 3)).await.unwrap();
        assert_eq!(extent.len_bytes, CLUSTER);
    });
}

#[test]
fn what_is_discarded_is_not_saved_and_not_read_again_and_gives_its_room_back() {
    on_each_backend(|cx| async move {
        let options = with_room(2, OnFull::Refuse, OnCbwError::BreakGuestWrite);
        let scene = Scene::new(&cx, 6, options).await;
        write(&scene.guest, &cx, clusters(0, 2), 2).await.unwrap();
        let refused = write(&scene.guest, &cx, cluster(2), 2).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NoSpace);

        let part = ByteRange::between(1, 3 * CLUSTER - 1);
        scene.reader.discard(&cx, part).await.unwrap();

        let budget = scene.filter.block_copy().budget().unwrap();
        assert_eq!(budget.used_bytes(), CLUSTER, "whole clusters only");
        assert_eq!(budget.peak_bytes(), 2 * CLUSTER);
        let discarded = (FaultOp::Discard, cluster(1));
        assert!(scene.disks.at_target.seen().contains(&discarded));
        assert_eq!(
            try_read(&scene.reader, &cx, cluster(1)).await,
            Err(Some(libc::EACCES))
        );
        assert_eq!(read(&scene.reader, &cx, cluster(0)).await[0], 1);
        write(&scene.guest, &cx, cluster(2), 2).await.unwrap();
        assert_eq!(read(&scene.reader, &cx, cluster(2)).await[0], 1);
    });
}

#[test]
fn an_unsaved_cluster_that_is_discarded_is_never_saved() {
    on_each_backend(|cx| async move {
        let scene = Scene::new(&cx, 3, CbwOptions::default()).await;
        scene.reader.discard(&cx, cluster(1)).await.unwrap();
        let before = scene.disks.at_target.seen().len();

        write(&scene.guest, &cx, cluster(1), 2).await.unwrap();

        assert_eq!(scene.disks.at_target.seen().len(), before);
    });
}

#[test]
fn a_full_scratch_node_breaks_the_snapshot_and_not_the_guest_if_so_told() {
    on_each_backend(|cx| async move {
        let options = with_room(1, OnFull::Refuse, OnCbwError::BreakSnapshot);
        let scene = Scene::new(&cx, 3, options).await;

        write(&scene.guest, &cx, clusters(0, 3), 2).await.unwrap();

        let failure = scene.filter.snapshot().failure().unwrap();
        assert_eq!(failure.kind(), ErrorKind::NoSpace);
        assert_eq!(
            failure.to_string(),
            "the 65536 bytes of scratch space for old data are used up, 196608 bytes at 0"
        );
        let budget = scene.filter.block_copy().budget().unwrap();
        assert!(budget.peak_bytes() <= budget.bytes_max());
    });
}

#[test]
fn a_guest_waits_for_room_until_some_is_given_back() {
    on_each_backend(|cx| async move {
        let options = with_room(1, OnFull::Wait, OnCbwError::BreakSnapshot);
        let scene = Scene::new(&cx, 3, options).await;
        write(&scene.guest, &cx, cluster(0), 2).await.unwrap();
        let waiting = scene.writing(&cx, cluster(1), 2);
        settle(&cx).await;
        assert!(!waiting.is_finished());
        let meanwhile = read(&scene.reader, &cx, cluster(1)).await;
        assert_eq!(meanwhile[0], 1, "readers do not wait for the guest");

        scene.reader.discard(&cx, cluster(0)).await.unwrap();

        waiting.await.unwrap();
        assert_eq!(read(&scene.reader, &cx, cluster(1)).await[0], 1);
        assert!(scene.filter.snapshot().failure().is_none());
    });
}

#[test]
fn a_guest_that_waits_for_room_goes_on_when_the_snapshot_is_given_up() {
    on_each_backend(|cx| async move {
        let options = with_room(0, OnFull::Wait, OnCbwError::BreakGuestWrite);
        let scene = Scene::new(&cx, 2, options).await;
        let waiting = scene.writing(&cx, cluster(0), 2);
        settle(&cx).await;
        assert!(!waiting.is_finished());

        scene.filter.give_up(Box::new(()));

        waiting.await.unwrap();
    });
}

#[test]
fn zeroes_take_no_room() {
    on_each_backend(|cx| async move {
        let options = with_room(0, OnFull::Refuse, OnCbwError::BreakGuestWrite);
        let disks = Disks::new(2 * CLUSTER);
        disks.fill(&cx, &disks.source, cluster(0), 1).await;
        let scene = Scene::over(disks, options);

        write(&scene.guest, &cx, cluster(1), 2).await.unwrap();

        assert_eq!(read(&scene.reader, &cx, cluster(1)).await[0], 0);
        assert!(write(&scene.guest, &cx, cluster(0), 2).await.is_err());
    });
}

#[test]
fn a_snapshot_is_not_written_and_flushes_nothing() {
    on_each_backend(|cx| async move {
        let scene = Scene::new(&cx, 2, CbwOptions::default()).await;
        let written = write(&scene.reader, &cx, cluster(0), 9).await.unwrap_err();
        let flags = RequestFlags::default();
        let zeroed = scene.reader.write_zeroes(&cx, cluster(0), flags).await;
        assert_eq!(written.kind(), ErrorKind::Unsupported);
        assert!(zeroed.is_err());
        scene.reader.flush(&cx).await.unwrap();
        assert_eq!(read(&scene.guest, &cx, cluster(0)).await[0], 1);
    });
}

#[test]
fn what_was_saved_is_never_unallocated() {
    on_each_backend(|cx| async move {
        let scene = Scene::new(&cx, 2, CbwOptions::default()).await;
        write(&scene.guest, &cx, cluster(0), 2).await.unwrap();

        let extent = scene.reader.extent(&cx, clusters(0, 2)).await.unwrap();

        assert_eq!(extent.status, AllocationStatus::Data);
        assert_eq!(
            extent.len_bytes, CLUSTER,
            "up to where the bytes are elsewhere"
        );
    });
}

#[test]
fn only_a_copy_before_write_filter_has_a_snapshot() {
    let disks = Disks::new(CLUSTER);
    let error = SnapshotAccessNode::add_to(&disks.graph, None, &disks.source).unwrap_err();
    assert_eq!(error.to_string(), "node 'source' (fault) keeps no snapshot");
}
