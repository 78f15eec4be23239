//! The filter: no change goes unnoticed, both sides are written if asked, and a broken target is no guest's concern.

use aio::{Clock, Config, Task};

use super::*;
use crate::{
    copy::{
        CopySide, TargetContent,
        testing::{
            CLUSTER, Disks, attach, cluster, clusters, on_each_backend, read, settle, write,
        },
    },
    error::ErrorKind,
    graph::child::{Attachment, Child},
    mirror::{CopyMode, MirrorStart, Unmap},
    nodes::{FaultAction, FaultControl, FaultOp, FaultRule},
};

const LEN: u64 = 4 * CLUSTER;

/// Two disks, the filter put in above the first, and a guest above that.
struct Scene {
    disks: Disks,
    filter: Node,
    guest: Arc<Child>,
    mirror: MirrorHandle,
}

impl Scene {
    async fn new(cx: &AioContext, options: MirrorCopyOptions) -> Self {
        Self::over(cx, Disks::new(LEN), options).await
    }

    /// The source holds ones, the target something else.
    async fn over(cx: &AioContext, disks: Disks, options: MirrorCopyOptions) -> Self {
        disks.fill(cx, &disks.source, disks.whole(), 1).await;
        disks.fill(cx, &disks.target, disks.whole(), 0xee).await;
        let guest = Arc::new(attach(&disks.graph, &disks.source));
        let both = (&disks.source, &disks.target);
        let (filter, mirror) =
            MirrorTopNode::add_to(&disks.graph, Some("top"), both, options).unwrap();
        let inserted = disks.graph.insert_filter(&disks.source, &filter).await;
        inserted.unwrap();
        assert_eq!(guest.node(), filter);
        Self {
            disks,
            filter,
            guest,
            mirror,
        }
    }

    fn copy(&self) -> &Arc<MirrorCopy> {
        self.mirror.mirror_copy()
    }

    fn guest_writes(
        &self,
        cx: &AioContext,
        range: ByteRange,
        byte: u8,
    ) -> Task<Result<(), BlockError>> {
        let (guest, home) = (self.guest.clone(), cx.clone());
        cx.spawn(async move { write(&guest, &home, range, byte).await.map(drop) })
    }

    /// What the background copy of a job does, one request at a time.
    async fn copy_all(&self, cx: &AioContext) {
        while let Some(claim) = self.copy().claim(u64::MAX) {
            self.copy().copy(cx, claim, u64::MAX).await.unwrap();
        }
    }

    /// The content of a side, whoever else uses it.
    async fn side(&self, cx: &AioContext, node: &Node) -> Vec<u8> {
        let looks = Attachment::new("test", ChildRole::Primary, Permissions::IDLE);
        let edge = self.disks.graph.attach(node, looks).unwrap();
        read(&edge, cx, self.disks.whole()).await
    }

    async fn source(&self, cx: &AioContext) -> Vec<u8> {
        self.side(cx, &self.disks.source).await
    }

    async fn target(&self, cx: &AioContext) -> Vec<u8> {
        self.side(cx, &self.disks.target).await
    }

    async fn assert_equal(&self, cx: &AioContext) {
        assert!(self.source(cx).await == self.target(cx).await);
    }

    fn dirty_bytes(&self) -> u64 {
        self.copy().load().dirty_bytes
    }
}

fn blocking() -> MirrorCopyOptions {
    MirrorCopyOptions {
        mode: CopyMode::WriteBlocking,
        ..MirrorCopyOptions::default()
    }
}

/// Nothing is to be copied at first.
fn from_here_on(mode: CopyMode) -> MirrorCopyOptions {
    MirrorCopyOptions {
        start: MirrorStart::Nothing,
        mode,
        ..MirrorCopyOptions::default()
    }
}

fn hold(control: &FaultControl, op: FaultOp) {
    control.add(FaultRule::every(op, FaultAction::Hold));
}

fn fail(control: &FaultControl, op: FaultOp) {
    let errno = libc::EIO;
    control.add(FaultRule::every(op, FaultAction::Fail { errno }));
}

fn seen(control: &FaultControl, op: FaultOp) -> usize {
    let seen = control.seen();
    seen.iter().filter(|(arrived, _)| *arrived == op).count()
}

#[test]
fn a_copy_makes_both_sides_equal_and_follows_the_guest() {
    on_each_backend(|cx| async move {
        let scene = Scene::new(&cx, MirrorCopyOptions::default()).await;
        scene.copy_all(&cx).await;
        scene.assert_equal(&cx).await;
        assert!(scene.copy().is_synced());

        scene.guest_writes(&cx, cluster(2), 7).await.unwrap();
        assert_eq!(scene.dirty_bytes(), CLUSTER);
        assert_eq!(scene.copy().load().dirtied_bytes, CLUSTER);
        scene.copy_all(&cx).await;
        scene.assert_equal(&cx).await;
        assert_eq!(scene.copy().load().copied_bytes, LEN + CLUSTER);
    });
}

#[test]
fn a_background_write_that_fails_is_marked_as_well() {
    on_each_backend(|cx| async move {
        let scene = Scene::new(&cx, from_here_on(CopyMode::Background)).await;
        fail(&scene.disks.at_source, FaultOp::Write);
        scene.guest_writes(&cx, cluster(1), 7).await.unwrap_err();
        assert_eq!(scene.dirty_bytes(), CLUSTER);
    });
}

#[test]
fn zeroes_and_discards_of_a_guest_are_marked_too() {
    on_each_backend(|cx| async move {
        let scene = Scene::new(&cx, from_here_on(CopyMode::Background)).await;
        let flags = RequestFlags::default();
        let zeroed = scene.guest.write_zeroes(&cx, cluster(0), flags).await;
        zeroed.unwrap();
        scene.guest.discard(&cx, cluster(3)).await.unwrap();
        assert_eq!(scene.dirty_bytes(), 2 * CLUSTER);
    });
}

#[test]
fn a_guest_write_on_both_sides_ends_when_the_target_has_it() {
    on_each_backend(|cx| async move {
        let scene = Scene::new(&cx, blocking()).await;
        scene.copy_all(&cx).await;
        hold(&scene.disks.at_target, FaultOp::Write);
        let writing = scene.guest_writes(&cx, cluster(1), 7);
        scene.disks.at_target.wait_held(1).await;
        settle(&cx).await;
        assert!(!writing.is_finished());
        assert!(
            scene.copy().is_actively_synced(),
            "nobody was told that it is written"
        );

        scene.disks.at_target.release_all();
        writing.await.unwrap();
        assert_eq!(scene.dirty_bytes(), 0);
        assert!(scene.copy().is_actively_synced());
        assert_eq!(scene.copy().load().mirrored_bytes, CLUSTER);
        scene.assert_equal(&cx).await;
    });
}

#[test]
fn zeroes_and_discards_get_to_both_sides() {
    on_each_backend(|cx| async move {
        let scene = Scene::new(&cx, blocking()).await;
        scene.copy_all(&cx).await;
        let flags = RequestFlags::default();
        let unaligned = ByteRange::new(100, CLUSTER).unwrap();
        let zeroed = scene.guest.write_zeroes(&cx, unaligned, flags).await;
        zeroed.unwrap();
        scene.guest.discard(&cx, clusters(2, 2)).await.unwrap();
        assert!(scene.copy().is_actively_synced());
        scene.assert_equal(&cx).await;
        assert_eq!(scene.target(&cx).await[100], 0);
    });
}

#[test]
fn a_discard_that_leaves_what_cannot_be_read_is_left_to_the_copy() {
    on_each_backend(|cx| async move {
        let scene = Scene::new(&cx, blocking()).await;
        scene.copy_all(&cx).await;
        fail(&scene.disks.at_source, FaultOp::Extent);
        fail(&scene.disks.at_source, FaultOp::Read);
        scene.guest.discard(&cx, cluster(2)).await.unwrap();
        assert_eq!(scene.dirty_bytes(), CLUSTER);
        scene.disks.at_source.clear();
        scene.copy_all(&cx).await;
        scene.assert_equal(&cx).await;
    });
}

#[test]
fn an_error_of_the_target_is_noted_and_no_concern_of_the_guest() {
    on_each_backend(|cx| async move {
        let scene = Scene::new(&cx, blocking()).await;
        scene.copy_all(&cx).await;
        fail(&scene.disks.at_target, FaultOp::Write);
        fail(&scene.disks.at_target, FaultOp::WriteZeroes);
        scene.guest_writes(&cx, cluster(1), 7).await.unwrap();
        let zeroed = scene
            .guest
            .write_zeroes(&cx, cluster(2), RequestFlags::default());
        zeroed.await.unwrap();

        assert_eq!(scene.dirty_bytes(), 2 * CLUSTER);
        assert!(!scene.copy().is_actively_synced());
        let error = scene.copy().take_guest_error().unwrap();
        assert_eq!(error.side(), CopySide::Write);
        assert!(
            scene.copy().take_guest_error().is_none(),
            "they are one failure"
        );
        scene.disks.at_target.clear();
        scene.copy_all(&cx).await;
        scene.assert_equal(&cx).await;
    });
}

#[test]
fn a_write_that_the_source_refuses_does_not_get_to_the_target() {
    on_each_backend(|cx| async move {
        let scene = Scene::new(&cx, blocking()).await;
        scene.copy_all(&cx).await;
        fail(&scene.disks.at_source, FaultOp::Write);
        let before = seen(&scene.disks.at_target, FaultOp::Write);
        scene.guest_writes(&cx, cluster(1), 7).await.unwrap_err();
        assert_eq!(seen(&scene.disks.at_target, FaultOp::Write), before);
        assert_eq!(
            scene.dirty_bytes(),
            CLUSTER,
            "nobody knows what the source has"
        );
    });
}

/// Museum 35, end to end: half a granule on both sides, and the rest only on one.
#[test]
fn museum_35_a_write_of_half_a_granule_does_not_hide_the_other_half() {
    on_each_backend(|cx| async move {
        let scene = Scene::new(&cx, blocking()).await;
        let half = ByteRange::new(CLUSTER, CLUSTER / 2).unwrap();
        scene.guest_writes(&cx, half, 7).await.unwrap();
        let over = ByteRange::new(2 * CLUSTER - 10, CLUSTER + 20).unwrap();
        scene.guest_writes(&cx, over, 8).await.unwrap();
        assert_eq!(scene.dirty_bytes(), LEN - CLUSTER);
        scene.copy_all(&cx).await;
        scene.assert_equal(&cx).await;
    });
}

#[test]
fn a_write_of_both_sides_waits_for_the_copy_that_is_at_its_bytes_and_for_no_other() {
    on_each_backend(|cx| async move {
        let scene = Scene::new(&cx, blocking()).await;
        hold(&scene.disks.at_target, FaultOp::Write);
        let claim = scene.copy().claim(CLUSTER).unwrap();
        assert_eq!(claim.range(), cluster(0));
        let (copy, home) = (scene.copy().clone(), cx.clone());
        let copying = cx.spawn(async move { copy.copy(&home, claim, u64::MAX).await.map(drop) });
        scene.disks.at_target.wait_held(1).await;
        scene.disks.at_target.clear();

        let over_copy = scene.guest_writes(&cx, ByteRange::new(5, 10).unwrap(), 7);
        scene.guest_writes(&cx, cluster(1), 8).await.unwrap();
        settle(&cx).await;
        assert!(!over_copy.is_finished());
        scene.disks.at_target.release_all();
        over_copy.await.unwrap();
        copying.await.unwrap();
        scene.copy_all(&cx).await;
        scene.assert_equal(&cx).await;
    });
}

#[test]
fn a_change_of_mode_is_for_requests_that_begin_after_it() {
    on_each_backend(|cx| async move {
        let scene = Scene::new(&cx, from_here_on(CopyMode::Background)).await;
        hold(&scene.disks.at_source, FaultOp::Write);
        let before = scene.guest_writes(&cx, cluster(0), 7);
        scene.disks.at_source.wait_held(1).await;
        scene.copy().set_mode(CopyMode::WriteBlocking);
        assert_eq!(scene.copy().mode(), CopyMode::WriteBlocking);
        assert!(
            !scene.copy().is_actively_synced(),
            "the older one is not on both sides"
        );

        let after = scene.guest_writes(&cx, cluster(1), 8);
        scene.disks.at_source.wait_held(2).await;
        scene.copy().set_mode(CopyMode::Background);
        scene.disks.at_source.release_all();
        before.await.unwrap();
        after.await.unwrap();
        assert_eq!(scene.dirty_bytes(), CLUSTER);
        assert_eq!(scene.copy().load().mirrored_bytes, CLUSTER);
        assert!(!scene.copy().is_actively_synced());
    });
}

#[test]
fn reads_and_flushes_of_guests_are_the_sources_alone() {
    on_each_backend(|cx| async move {
        let scene = Scene::new(&cx, blocking()).await;
        fail(&scene.disks.at_target, FaultOp::Flush);
        fail(&scene.disks.at_target, FaultOp::Read);
        scene.guest.flush(&cx).await.unwrap();
        assert_eq!(read(&scene.guest, &cx, cluster(0)).await[0], 1);
        let fua = RequestFlags {
            fua: true,
            ..RequestFlags::default()
        };
        let buf = IoBuf::heap(512);
        scene.guest.write(&cx, 0, buf, fua).await.1.unwrap();
        assert_eq!(seen(&scene.disks.at_target, FaultOp::Flush), 0);
    });
}

/// Museum N1: an export below the filter would write past it.
#[test]
fn nobody_writes_the_source_past_the_filter_or_uses_the_target() {
    on_each_backend(|cx| async move {
        let scene = Scene::new(&cx, MirrorCopyOptions::default()).await;
        let graph = &scene.disks.graph;
        let user = |uses: Permission| {
            Attachment::new("export 'e'", ChildRole::Primary, Permissions::uses(&[uses]))
        };
        for (node, uses) in [
            (&scene.disks.source, Permission::Write),
            (&scene.disks.source, Permission::Resize),
            (&scene.disks.target, Permission::Write),
            (&scene.disks.target, Permission::ConsistentRead),
        ] {
            let error = graph.attach(node, user(uses)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionConflict, "{uses}");
        }
        let reader = user(Permission::ConsistentRead);
        drop(graph.attach(&scene.disks.source, reader).unwrap());
        drop(
            graph
                .attach(&scene.filter, user(Permission::Write))
                .unwrap(),
        );
        scene.copy_all(&cx).await;
    });
}

#[test]
fn giving_up_frees_guests_from_a_target_that_never_answers() {
    on_each_backend(|cx| async move {
        let scene = Scene::new(&cx, blocking()).await;
        hold(&scene.disks.at_target, FaultOp::Write);
        hold(&scene.disks.at_target, FaultOp::WriteZeroes);
        let guest = scene.guest.clone();
        let home = cx.clone();
        let writing = cx.spawn(async move {
            let buf = IoBuf::heap(in_memory(CLUSTER));
            guest.write(&home, 0, buf, RequestFlags::default()).await
        });
        let zeroing = {
            let (guest, home) = (scene.guest.clone(), cx.clone());
            let flags = RequestFlags::default();
            cx.spawn(async move { guest.write_zeroes(&home, cluster(3), flags).await })
        };
        let behind = scene.guest_writes(&cx, clusters(0, 2), 7);
        scene.disks.at_target.wait_held(2).await;
        settle(&cx).await;
        assert!(!writing.is_finished() && !behind.is_finished());

        scene.mirror.give_up(Box::new(()));

        let (buf, written) = writing.await;
        written.unwrap();
        assert_eq!(
            buf.len(),
            in_memory(CLUSTER),
            "a buffer of that size comes back"
        );
        behind.await.unwrap();
        zeroing.await.unwrap();
        let arrived = seen(&scene.disks.at_target, FaultOp::Write);
        scene.guest_writes(&cx, cluster(2), 9).await.unwrap();
        scene.disks.at_target.release_all();
        settle(&cx).await;
        assert_eq!(seen(&scene.disks.at_target, FaultOp::Write), arrived);
        assert!(scene.copy().claim(u64::MAX).is_none());
        assert!(scene.copy().target().is_none());
    });
}

#[test]
fn a_copy_under_way_fails_once_the_mirror_is_given_up() {
    on_each_backend(|cx| async move {
        let scene = Scene::new(&cx, MirrorCopyOptions::default()).await;
        let claim = scene.copy().claim(u64::MAX).unwrap();
        scene.mirror.give_up(Box::new(()));
        let error = scene.copy().copy(&cx, claim, u64::MAX).await.unwrap_err();
        assert_eq!(error.error().kind(), ErrorKind::GivenUp);
        assert_eq!(
            scene.copy().flush(&cx).await.unwrap_err().kind(),
            ErrorKind::GivenUp
        );
    });
}

#[test]
fn a_mirror_that_was_given_up_does_not_say_that_it_is_synced() {
    on_each_backend(|cx| async move {
        let scene = Scene::new(&cx, from_here_on(CopyMode::WriteBlocking)).await;
        assert!(scene.copy().is_actively_synced());
        scene.mirror.give_up(Box::new(()));
        assert!(!scene.copy().is_actively_synced());
    });
}

#[test]
fn guests_can_be_held_back_and_are_let_go_when_nobody_wants_the_mirror() {
    let (clock, hand) = Clock::manual();
    let config = Config {
        clock,
        ..Config::default()
    };
    aio::run(config, |cx| async move {
        let scene = Scene::new(&cx, from_here_on(CopyMode::Background)).await;
        scene.copy().set_guest_delay_ns(1000);
        let first = scene.guest_writes(&cx, cluster(0), 7);
        settle(&cx).await;
        assert_eq!(
            seen(&scene.disks.at_source, FaultOp::Write),
            1,
            "the first was ours"
        );
        hand.advance_ns(1000);
        first.await.unwrap();
        assert_eq!(scene.mirror.added_latency().max_ns, 1000);

        let second = scene.guest_writes(&cx, cluster(1), 7);
        settle(&cx).await;
        assert!(!second.is_finished());
        scene.mirror.give_up(Box::new(()));
        second.await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_zeroed_target_is_not_zeroed_again_until_it_has_had_data() {
    on_each_backend(|cx| async move {
        let disks = Disks::new(LEN);
        let options = MirrorCopyOptions {
            target_content: TargetContent::Zero,
            mode: CopyMode::WriteBlocking,
            ..MirrorCopyOptions::default()
        };
        let both = (&disks.source, &disks.target);
        let (filter, mirror) = MirrorTopNode::add_to(&disks.graph, None, both, options).unwrap();
        let guest = Arc::new(attach(&disks.graph, &filter));
        let scene = Scene {
            disks,
            filter,
            guest,
            mirror,
        };
        scene.copy_all(&cx).await;
        assert_eq!(scene.copy().counters().skipped_bytes, LEN);
        assert!(scene.disks.at_target.seen().is_empty());

        let flags = RequestFlags::default();
        scene.guest_writes(&cx, cluster(1), 7).await.unwrap();
        scene
            .guest
            .write_zeroes(&cx, clusters(0, 4), flags)
            .await
            .unwrap();
        assert_eq!(seen(&scene.disks.at_target, FaultOp::WriteZeroes), 1);
        scene
            .guest
            .write_zeroes(&cx, cluster(1), flags)
            .await
            .unwrap();
        assert_eq!(seen(&scene.disks.at_target, FaultOp::WriteZeroes), 1);
        scene.assert_equal(&cx).await;
    });
}

#[test]
fn a_target_that_is_to_keep_its_space_is_not_unmapped() {
    on_each_backend(|cx| async move {
        for (unmap, allocated_after) in [(Unmap::Allowed, false), (Unmap::Forbidden, true)] {
            let options = MirrorCopyOptions {
                unmap,
                ..blocking()
            };
            let scene = Scene::new(&cx, options).await;
            let flags = RequestFlags {
                may_unmap: true,
                ..RequestFlags::default()
            };
            scene
                .guest
                .write_zeroes(&cx, cluster(0), flags)
                .await
                .unwrap();
            scene.copy_all(&cx).await;
            let look = Attachment::new("test", ChildRole::Primary, Permissions::IDLE);
            let edge = scene.disks.graph.attach(&scene.disks.target, look).unwrap();
            let extent = edge.extent(&cx, cluster(0)).await.unwrap();
            let is_data = extent.status == crate::AllocationStatus::Data;
            assert_eq!(is_data, allocated_after, "{unmap:?}");
        }
    });
}

#[test]
fn unaligned_guests_on_a_disk_of_blocks_get_to_both_sides() {
    on_each_backend(|cx| async move {
        let disks = Disks::with_alignment(LEN, 512);
        let options = MirrorCopyOptions {
            granularity_bytes: Some(512),
            ..blocking()
        };
        let scene = Scene::over(&cx, disks, options).await;
        scene.copy_all(&cx).await;
        let writes: Vec<_> = (0..20)
            .map(|n| {
                let range = ByteRange::new(n * 300 + 7, 500).unwrap();
                scene.guest_writes(&cx, range, u8::try_from(n).unwrap() + 10)
            })
            .collect();
        for writing in writes {
            writing.await.unwrap();
        }
        assert!(scene.copy().is_actively_synced());
        scene.assert_equal(&cx).await;
    });
}

fn in_memory(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap()
}

/// Guests, the copy and changes of mode, all at once, with requests held at random.
#[test]
fn whatever_guests_do_both_sides_are_equal_when_nothing_differs() {
    on_each_backend(|cx| async move {
        for seed in 0..8 {
            let scene = Scene::new(&cx, MirrorCopyOptions::default()).await;
            let mut chance = Chance(seed);
            for (control, op) in [
                (&scene.disks.at_source, FaultOp::Write),
                (&scene.disks.at_target, FaultOp::Write),
                (&scene.disks.at_source, FaultOp::Read),
            ] {
                control.add(FaultRule {
                    times: Some(1),
                    ..FaultRule::every(op, FaultAction::Hold)
                });
            }
            let mut guests = Vec::new();
            for _ in 0..60 {
                let start = chance.below(LEN - 1);
                let len = 1 + chance.below((LEN - start).min(CLUSTER + CLUSTER / 2));
                let range = ByteRange::new(start, len).unwrap();
                let byte = u8::try_from(chance.below(255)).unwrap();
                guests.push(scene.guest_writes(&cx, range, byte));
                match chance.below(8) {
                    0 => scene.copy().set_mode(CopyMode::WriteBlocking),
                    1 => scene.copy().set_mode(CopyMode::Background),
                    2 => settle(&cx).await,
                    3 => release_one(&scene, &mut chance),
                    _ => copy_some(&cx, &scene, &mut chance),
                }
            }
            scene.disks.at_source.release_all();
            scene.disks.at_target.release_all();
            for guest in guests {
                guest.await.unwrap();
            }
            while !scene.copy().is_synced() {
                scene.copy_all(&cx).await;
                cx.yield_now().await;
            }
            assert!(
                scene.source(&cx).await == scene.target(&cx).await,
                "seed {seed}"
            );
        }
    });
}

fn copy_some(cx: &AioContext, scene: &Scene, chance: &mut Chance) {
    let Some(claim) = scene.copy().claim(1 + chance.below(2 * CLUSTER)) else {
        return;
    };
    let (copy, home) = (scene.copy().clone(), cx.clone());
    drop(cx.spawn(async move { copy.copy(&home, claim, CLUSTER).await }));
}

fn release_one(scene: &Scene, chance: &mut Chance) {
    for control in [&scene.disks.at_source, &scene.disks.at_target] {
        let held = control.held();
        if let Some(request) = held.get(in_memory(chance.below(3))) {
            control.release(request.id);
        }
        let op = [FaultOp::Read, FaultOp::Write][in_memory(chance.below(2))];
        control.add(FaultRule {
            times: Some(1),
            ..FaultRule::every(op, FaultAction::Hold)
        });
    }
}

struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}
