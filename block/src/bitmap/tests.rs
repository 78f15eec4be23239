//! Named bitmaps on nodes: what is marked when, who may use what, and what transactions undo.

use std::{
    collections::BTreeSet,
    pin::pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
};

use aio::{AioContext, Config, IoThread};

use super::{Bitmap, BitmapAction, BitmapOptions, BitmapRef, BitmapUse, StoredBitmap};
use crate::{
    allocation::ByteRange,
    copy::{BlockCopy, CopyOptions},
    dirty_bitmap::DirtyBitmap,
    error::{BlockError, ErrorKind},
    graph::{
        Graph,
        child::{Child, ChildRole},
        permission::Permissions,
    },
    mirror::{MirrorCopy, MirrorCopyOptions},
    node::Node,
    node_driver::{Limits, RequestFlags},
    nodes::{
        fault::{FaultAction, FaultControl, FaultNode, FaultOp, FaultRule},
        memory::{MemoryNode, MemoryOptions},
        null::{NullNode, NullOptions},
    },
    testing::disk::{Disk, DiskNode, READ, WRITE, attach, buffer, context, settle, write, writer},
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// The default granularity.
const G: u64 = 64 * KIB;
const FLAGS: RequestFlags = RequestFlags {
    fua: false,
    may_unmap: false,
    no_fallback: false,
    unchanged: false,
    serialising: false,
};

struct World {
    graph: Graph,
    cx: AioContext,
    node: Node,
    guest: Rc<Child>,
}

/// A node of 4 MiB, and a guest that writes to it.
fn world() -> World {
    world_over(4 * MIB)
}

fn world_over(len_bytes: u64) -> World {
    let graph = Graph::new();
    let node = memory(&graph, "s", len_bytes);
    let guest = Rc::new(attach(&graph, &node, "export 'e'", writer()));
    World {
        graph,
        cx: context(),
        node,
        guest,
    }
}

fn memory(graph: &Graph, name: &str, len_bytes: u64) -> Node {
    let driver = MemoryNode::new(MemoryOptions::new(len_bytes)).unwrap();
    graph.add_node(Some(name), driver).unwrap()
}

impl World {
    fn add(&self, name: &str) -> Bitmap {
        self.node
            .bitmaps()
            .add(name, BitmapOptions::default())
            .unwrap()
    }

    fn add_with(&self, name: &str, granularity_bytes: u64) -> Bitmap {
        let options = BitmapOptions {
            granularity_bytes: Some(granularity_bytes),
            ..BitmapOptions::default()
        };
        self.node.bitmaps().add(name, options).unwrap()
    }

    fn write(&self, offset: u64, len: usize) {
        let writing = write(&self.guest, &self.cx, offset, len, 7);
        self.cx.block_on(writing);
    }

    fn named(&self, name: &str) -> BitmapRef {
        named(&self.node, name)
    }
}

fn named(node: &Node, name: &str) -> BitmapRef {
    BitmapRef {
        node: node.clone(),
        name: name.to_owned(),
    }
}

/// Numbers of the dirty granules.
fn dirty(bitmap: &Bitmap) -> BTreeSet<u64> {
    granules(&bitmap.snapshot().unwrap())
}

fn granules(content: &DirtyBitmap) -> BTreeSet<u64> {
    let granularity = content.granularity_bytes();
    (0..content.len_bytes().div_ceil(granularity))
        .filter(|granule| content.is_dirty(granule * granularity))
        .collect()
}

fn set<const N: usize>(granules: [u64; N]) -> BTreeSet<u64> {
    granules.into()
}

fn range(offset: u64, len: u64) -> ByteRange {
    ByteRange::new(offset, len).unwrap()
}

fn text<T: std::fmt::Debug>(result: Result<T, BlockError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_new_bitmap_is_clean_and_records() {
    let w = world();
    let info = w.add("b").info();
    assert_eq!(info.name, "b");
    assert_eq!((info.count_bytes, info.is_recording), (0, true));
    assert_eq!((info.is_busy, info.is_persistent), (false, false));
    assert!(!info.is_inconsistent);
    assert_eq!(dirty(&w.node.bitmaps().find("b").unwrap()), set([]));
}

#[test]
fn the_granularity_is_the_cluster_of_the_node_within_bounds() {
    assert_eq!(world().add("b").info().granularity_bytes, G);
    for (cluster_bytes, wanted) in [(512, 4 * KIB), (16 << 10, 16 * KIB), (2 << 20, G)] {
        let disk = Disk::with_limits(Limits {
            len_bytes: 4096,
            request_align_bytes: 512,
            transfer_bytes_max: 1 << 20,
            cluster_bytes: Some(cluster_bytes),
            read_only: false,
        });
        let node = Graph::new().add_node(None, DiskNode(disk)).unwrap();
        let bitmap = node.bitmaps().add("b", BitmapOptions::default()).unwrap();
        assert_eq!(bitmap.info().granularity_bytes, wanted);
    }
}

#[test]
fn powers_of_two_from_512_up_to_2_to_the_31_are_granularities() {
    let w = world();
    for shift in [9, 10, 12, 16, 20, 30, 31] {
        let bitmap = w.add_with(&format!("g{shift}"), 1 << shift);
        assert_eq!(bitmap.info().granularity_bytes, 1 << shift);
    }
    for wrong in [0, 1, 256, 511, 513, 3 * 512, 65535, 1 << 32, 1 << 63] {
        let options = BitmapOptions {
            granularity_bytes: Some(wrong),
            ..BitmapOptions::default()
        };
        let refused = w.node.bitmaps().add("x", options);
        assert_eq!(
            text(refused),
            "Granularity must be power of 2 and at least 512"
        );
    }
    let missing = w.node.bitmaps().find("x");
    assert_eq!(text(missing), "Dirty bitmap 'x' not found");
}

#[test]
fn names_are_checked() {
    let w = world();
    let bitmaps = w.node.bitmaps();
    let add = |name: &str| bitmaps.add(name, BitmapOptions::default());
    let long = "n".repeat(1023);

    assert_eq!(text(add("")), "Bitmap name cannot be empty");
    add(&long).unwrap();
    assert_eq!(text(add(&long)), format!("Bitmap already exists: {long}"));
    let longer = "m".repeat(1024);
    assert_eq!(
        text(add(&longer)),
        format!("Bitmap name too long: {longer}")
    );
    assert_eq!(bitmaps.list().len(), 1);
}

#[test]
fn a_name_may_have_any_characters() {
    let w = world();
    let name = "ü \"\\ \u{20ac}";
    let bitmap = w.add(name);
    bitmap.disable().unwrap();
    bitmap.clear().unwrap();
    assert_eq!(bitmap.info().count_bytes, 0);
    w.node.bitmaps().remove(name).unwrap();
    assert!(w.node.bitmaps().find(name).is_err());
}

#[test]
fn a_persistent_bitmap_is_refused_where_the_node_cannot_store_it() {
    let w = world();
    let options = BitmapOptions {
        persistent: true,
        ..BitmapOptions::default()
    };
    let refused = w.node.bitmaps().add("b", options).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    assert_eq!(
        refused.to_string(),
        "Can't store persistent bitmaps to s: Operation not supported"
    );
    assert!(w.node.bitmaps().find("b").is_err());
}

#[test]
fn bitmaps_are_listed_newest_first() {
    let w = world();
    for name in ["a", "b", "c"] {
        w.add(name);
    }
    w.node.bitmaps().remove("b").unwrap();
    let names: Vec<_> = w
        .node
        .bitmaps()
        .list()
        .iter()
        .map(|bitmap| bitmap.name().to_owned())
        .collect();
    assert_eq!(names, ["c", "a"]);
}

#[test]
fn bitmaps_go_with_their_node_and_their_names_are_free() {
    let w = world();
    w.add("b");
    let World {
        graph, node, guest, ..
    } = w;
    drop(guest);
    graph.remove_node(&node).unwrap();
    let again = memory(&graph, "s", MIB);
    assert!(again.bitmaps().find("b").is_err());
    again.bitmaps().add("b", BitmapOptions::default()).unwrap();
}

#[test]
fn a_handle_of_a_removed_bitmap_says_that_there_is_none() {
    let w = world();
    let bitmap = w.add("b");
    w.node.bitmaps().remove("b").unwrap();

    let gone = "Dirty bitmap 'b' not found";
    assert_eq!(text(bitmap.enable()), gone);
    assert_eq!(text(bitmap.snapshot()), gone);
    assert_eq!(text(bitmap.freeze()), gone);
    assert_eq!(text(w.node.bitmaps().remove("b")), gone);
    w.write(0, 512);
    assert_eq!(bitmap.info().count_bytes, 0);
}

#[test]
fn writes_zeroes_and_discards_are_marked_before_their_caller_hears() {
    let w = world();
    let bitmap = w.add("b");
    let marked = |wanted: &[u64]| {
        assert_eq!(dirty(&bitmap), wanted.iter().copied().collect());
        bitmap.clear().unwrap();
    };
    let unchanged = RequestFlags {
        unchanged: true,
        ..FLAGS
    };
    w.cx.block_on(async {
        write(&w.guest, &w.cx, 2 * G - 512, 1024, 1).await;
        marked(&[1, 2]);
        write(&w.guest, &w.cx, 7, 1, 1).await;
        marked(&[0]);
        w.guest
            .write_zeroes(&w.cx, range(3 * G, G), FLAGS)
            .await
            .unwrap();
        marked(&[3]);
        w.guest
            .write_zeroes(&w.cx, range(5 * G + 1, G), FLAGS)
            .await
            .unwrap();
        marked(&[5, 6]);
        w.guest.discard(&w.cx, range(5 * G, G)).await.unwrap();
        marked(&[5]);
        let (_, same) = w.guest.write(&w.cx, 8 * G, buffer(512, 0), unchanged).await;
        same.unwrap();
        marked(&[8]);

        w.guest.flush(&w.cx).await.unwrap();
        w.guest.read(&w.cx, 0, buffer(4096, 0)).await.1.unwrap();
        w.guest.extent(&w.cx, range(0, G)).await.unwrap();
        w.guest
            .write(&w.cx, 0, buffer(0, 0), FLAGS)
            .await
            .1
            .unwrap();
        w.guest
            .write(&w.cx, 4 * MIB, buffer(1, 0), FLAGS)
            .await
            .1
            .unwrap_err();
        marked(&[]);
    });
}

#[test]
fn a_write_that_fails_or_is_abandoned_is_marked() {
    let graph = Graph::new();
    let below = memory(&graph, "s", 4 * MIB);
    let control = FaultControl::new();
    let builder = graph.build_node(Some("f")).unwrap();
    let wants = Permissions::uses(&[READ, WRITE]);
    let child = builder
        .attach(&below, "file", ChildRole::Filtered, wants)
        .unwrap();
    let node = builder.finish(FaultNode::new(child, control.clone()));
    let guest = Rc::new(attach(&graph, &node, "export 'e'", writer()));
    let bitmap = node.bitmaps().add("b", BitmapOptions::default()).unwrap();
    let cx = context();

    cx.block_on(async {
        control.add(FaultRule::nth(
            FaultOp::Write,
            1,
            FaultAction::Fail { errno: libc::EIO },
        ));
        let (_, failed) = guest.write(&cx, G, buffer(512, 1), FLAGS).await;
        failed.unwrap_err();
        assert_eq!(dirty(&bitmap), set([1]));

        control.add(FaultRule::every(FaultOp::Write, FaultAction::Hold));
        {
            let mut held = pin!(guest.write(&cx, 4 * G, buffer(512, 1), FLAGS));
            let polled = std::future::poll_fn(|cx| Poll::Ready(held.as_mut().poll(cx))).await;
            assert!(polled.is_pending());
            assert_eq!(dirty(&bitmap), set([1]), "it has not ended");
        }
        control.release_all();
        control.clear();
        drop(graph.drain(std::slice::from_ref(&node)).await);
        assert_eq!(dirty(&bitmap), set([1, 4]));
    });
}

#[test]
fn a_drain_returns_when_everything_is_marked() {
    let graph = Graph::new();
    let disk = Disk::new(MIB, 512);
    let node = graph.add_node(Some("s"), DiskNode(disk.clone())).unwrap();
    let guest = Rc::new(attach(&graph, &node, "export 'e'", writer()));
    let bitmap = node.bitmaps().add("b", BitmapOptions::default()).unwrap();
    let cx = context();
    cx.block_on(async {
        disk.hold();
        let writer = {
            let (guest, cx) = (guest.clone(), cx.clone());
            cx.clone()
                .spawn(async move { write(&guest, &cx, 100, 5, 1).await })
        };
        settle(&cx).await;
        disk.release();
        let section = graph.drain(std::slice::from_ref(&node)).await;
        assert_eq!(dirty(&bitmap), set([0]));
        drop(section);
        writer.await;
    });
}

#[test]
fn a_disabled_bitmap_records_nothing() {
    let w = world();
    let options = BitmapOptions {
        disabled: true,
        ..BitmapOptions::default()
    };
    let bitmap = w.node.bitmaps().add("b", options).unwrap();
    w.write(0, 1);
    assert!(!bitmap.info().is_recording);
    assert_eq!(dirty(&bitmap), set([]));

    bitmap.enable().unwrap();
    bitmap.enable().unwrap();
    w.write(G, 1);
    bitmap.disable().unwrap();
    bitmap.disable().unwrap();
    w.write(2 * G, 1);
    assert_eq!(dirty(&bitmap), set([1]));
}

#[test]
fn many_bitmaps_see_the_same_writes() {
    let w = world();
    let sizes = [4 * KIB, 64 * KIB, 256 * KIB, MIB];
    let bitmaps: Vec<_> = (0..40)
        .map(|i| w.add_with(&format!("b{i}"), sizes[i % 4]))
        .collect();
    let offsets: Vec<_> = (0..20_u64).map(|i| i * 7_654_321 % (4 * MIB)).collect();
    for &offset in &offsets {
        w.write(offset, 1);
    }
    for bitmap in bitmaps {
        let granularity = bitmap.info().granularity_bytes;
        let wanted: BTreeSet<_> = offsets.iter().map(|offset| offset / granularity).collect();
        assert_eq!(dirty(&bitmap), wanted);
    }
}

#[test]
fn the_last_granule_of_an_odd_size_counts_whole() {
    let w = world_over(MIB + 512);
    let bitmap = w.add("b");
    w.write(MIB, 512);
    assert_eq!(dirty(&bitmap), set([16]));
    assert_eq!(bitmap.info().count_bytes, G);
}

/// Four threads write all 8192 blocks, side by side, while `meanwhile` is called over and over.
fn write_on_four_threads(w: &World, mut meanwhile: impl FnMut()) {
    const WRITES: u64 = 2048;
    let guest = Arc::new(attach(&w.graph, &w.node, "export 'f'", writer()));
    let at_work = Arc::new(AtomicU64::new(4));
    let threads: Vec<_> = (0..4)
        .map(|_| IoThread::start(Config::default()).unwrap())
        .collect();
    let writers: Vec<_> = (0_u64..)
        .zip(&threads)
        .map(|(number, thread)| {
            let (guest, at_work) = (guest.clone(), at_work.clone());
            thread.handle().spawn(move |cx| async move {
                for i in 0..WRITES {
                    write(&guest, &cx, (i * 4 + number) * 512, 512, 1).await;
                }
                at_work.fetch_sub(1, Ordering::SeqCst);
            })
        })
        .collect();
    while at_work.load(Ordering::SeqCst) > 0 {
        meanwhile();
        std::thread::yield_now();
    }
    for writer in writers {
        w.cx.block_on(writer);
    }
}

#[test]
fn writers_on_four_threads_lose_no_bit() {
    let w = world();
    let bitmap = w.add_with("b", 512);
    write_on_four_threads(&w, || {});
    assert_eq!(dirty(&bitmap), (0..8192).collect());
    assert_eq!(bitmap.info().count_bytes, 4 * MIB);
}

#[test]
fn jobs_and_transactions_beside_four_writers_lose_no_bit() {
    let w = world();
    let bitmap = w.add_with("b", 512);
    let mut copied = DirtyBitmap::new(4 * MIB, 512).unwrap();
    let mut turn = 0;
    let writers_go_on = || (0..3).for_each(|_| std::thread::yield_now());
    write_on_four_threads(&w, || {
        turn += 1;
        if turn % 2 == 0 {
            let clear = BitmapAction::Clear(w.named("b")).prepare().unwrap();
            let disable = BitmapAction::Disable(w.named("b")).prepare().unwrap();
            writers_go_on();
            drop((disable, clear));
        }
        let frozen = bitmap.freeze().unwrap();
        writers_go_on();
        if turn % 3 == 0 {
            copied.merge(&frozen.snapshot().unwrap()).unwrap();
            frozen.abdicate();
        }
    });
    copied.merge(&bitmap.snapshot().unwrap()).unwrap();
    assert_eq!(granules(&copied), (0..8192).collect());
}

/// Bitmap `a` with granules 0 and 5, and `b` with 5 and 9, both disabled.
fn two_bitmaps(w: &World) -> (Bitmap, Bitmap) {
    let a = w.add("a");
    w.write(0, 1);
    w.write(5 * G, 1);
    a.disable().unwrap();
    let b = w.add("b");
    w.write(5 * G, 1);
    w.write(9 * G, 1);
    b.disable().unwrap();
    (a, b)
}

#[test]
fn a_merge_keeps_what_the_target_has() {
    let w = world();
    let (a, b) = two_bitmaps(&w);
    a.merge(&[b]).unwrap();
    assert_eq!(dirty(&a), set([0, 5, 9]));
}

#[test]
fn a_bitmap_that_is_merged_into_itself_stays_as_it_is() {
    let w = world();
    let (a, b) = two_bitmaps(&w);
    a.merge(std::slice::from_ref(&a)).unwrap();
    assert_eq!(dirty(&a), set([0, 5]));
    a.merge(&[b, a.clone()]).unwrap();
    assert_eq!(dirty(&a), set([0, 5, 9]));
}

#[test]
fn defect_03_a_merge_of_no_bitmaps_does_nothing() {
    let w = world();
    let (a, _) = two_bitmaps(&w);
    a.merge(&[]).unwrap();
    assert_eq!(dirty(&a), set([0, 5]));

    let merge = BitmapAction::Merge {
        target: w.named("a"),
        sources: Vec::new(),
    };
    merge.prepare().unwrap().commit();
    assert_eq!(dirty(&a), set([0, 5]));
}

#[test]
fn a_merge_goes_between_granularities() {
    let w = world();
    let (a, _) = two_bitmaps(&w);
    let fine = w.add_with("fine", 16 * KIB);
    let coarse = w.add_with("coarse", 256 * KIB);
    fine.merge(std::slice::from_ref(&a)).unwrap();
    coarse.merge(&[a]).unwrap();
    assert_eq!(dirty(&fine), set([0, 1, 2, 3, 20, 21, 22, 23]));
    assert_eq!(dirty(&coarse), set([0, 1]));
}

#[test]
fn a_merge_is_all_or_nothing_and_its_sources_may_be_of_other_nodes() {
    let w = world();
    let (a, b) = two_bitmaps(&w);
    let other = memory(&w.graph, "o", 4 * MIB);
    let c = other.bitmaps().add("c", BitmapOptions::default()).unwrap();
    let long = memory(&w.graph, "l", 8 * MIB);
    let d = long.bitmaps().add("d", BitmapOptions::default()).unwrap();

    let refused = a.merge(&[b.clone(), d]);
    assert_eq!(
        text(refused),
        "Bitmaps are of different sizes (destination size is 4194304, source size is 8388608) \
         and can't be merged"
    );
    let busy = b.mark_busy().unwrap();
    assert_eq!(
        a.merge(&[c.clone(), b]).unwrap_err().kind(),
        ErrorKind::Busy
    );
    assert_eq!(dirty(&a), set([0, 5]));
    drop(busy);
    a.merge(&[c]).unwrap();
}

#[test]
fn a_busy_bitmap_is_refused_to_all_and_goes_on_recording() {
    let w = world();
    let bitmap = w.add("b");
    let other = w.add("o");
    let busy = "Bitmap 'b' is currently in use by another operation and cannot be used";
    let guard = bitmap.mark_busy().unwrap();

    assert_eq!(text(bitmap.clear()), busy);
    assert_eq!(text(bitmap.enable()), busy);
    assert_eq!(text(bitmap.disable()), busy);
    assert_eq!(text(bitmap.merge(&[])), busy);
    assert_eq!(text(other.merge(std::slice::from_ref(&bitmap))), busy);
    assert_eq!(text(bitmap.freeze()), busy);
    assert_eq!(text(bitmap.mark_busy()), busy);
    assert_eq!(text(w.node.bitmaps().remove("b")), busy);
    assert_eq!(text(w.node.bitmaps().check_resize()), busy);
    let removal = BitmapAction::Remove(w.named("b"));
    assert_eq!(text(removal.prepare()), busy);
    w.write(G, 1);
    assert_eq!(granules(&guard.snapshot().unwrap()), set([1]));
    assert!(bitmap.info().is_busy && bitmap.info().is_recording);

    drop(guard);
    w.node.bitmaps().remove("b").unwrap();
}

#[test]
fn a_frozen_bitmap_that_abdicates_keeps_what_is_new() {
    let w = world();
    let bitmap = w.add("b");
    w.write(G, 1);
    let frozen = bitmap.freeze().unwrap();
    w.write(3 * G, 1);

    let info = bitmap.info();
    assert!(info.is_busy && info.is_recording);
    assert_eq!(info.count_bytes, G, "a query shows what is frozen");
    assert_eq!(granules(&frozen.snapshot().unwrap()), set([1]));
    assert!(bitmap.clear().is_err());

    frozen.abdicate();
    assert_eq!(dirty(&bitmap), set([3]));
    w.write(4 * G, 1);
    assert_eq!(dirty(&bitmap), set([3, 4]));
}

#[test]
fn a_frozen_bitmap_that_reclaims_keeps_everything() {
    let w = world();
    let bitmap = w.add("b");
    for end in [super::Frozen::reclaim, drop] {
        bitmap.clear().unwrap();
        w.write(G, 1);
        let frozen = bitmap.freeze().unwrap();
        w.write(3 * G, 1);
        end(frozen);
        assert_eq!(dirty(&bitmap), set([1, 3]));
        let info = bitmap.info();
        assert!(info.is_recording && !info.is_busy);
    }
}

#[test]
fn a_frozen_bitmap_reclaims_what_was_not_copied() {
    let w = world();
    let bitmap = w.add("b");
    w.write(G, 1);
    w.write(2 * G, 1);
    let frozen = bitmap.freeze().unwrap();
    w.write(3 * G, 1);
    let mut not_copied = DirtyBitmap::new(4 * MIB, 2 * G).unwrap();
    not_copied.set(range(2 * G, 1));

    frozen.reclaim_with(&not_copied);

    assert_eq!(dirty(&bitmap), set([2, 3]), "in granules of the copy");
    assert!(bitmap.info().is_recording);
}

#[test]
fn a_disabled_bitmap_that_is_frozen_stays_disabled() {
    let w = world();
    let bitmap = w.add("b");
    w.write(G, 1);
    bitmap.disable().unwrap();
    let frozen = bitmap.freeze().unwrap();
    w.write(3 * G, 1);
    frozen.abdicate();
    assert_eq!(dirty(&bitmap), set([]));
    assert!(!bitmap.info().is_recording);

    drop(bitmap.freeze().unwrap());
    assert!(!bitmap.info().is_recording);
}

#[test]
fn an_inconsistent_bitmap_may_only_be_removed() {
    let w = world();
    let stored = StoredBitmap::Inconsistent {
        granularity_bytes: G,
    };
    let bitmap = w.node.bitmaps().load("b", stored).unwrap();
    let other = w.add("o");
    w.write(0, 1);

    let info = bitmap.info();
    assert!(info.is_inconsistent && info.is_persistent && !info.is_recording);
    assert_eq!(info.count_bytes, 0);
    let refused = "Bitmap 'b' is inconsistent and cannot be used";
    assert_eq!(text(bitmap.clear()), refused);
    assert_eq!(text(bitmap.enable()), refused);
    assert_eq!(text(bitmap.disable()), refused);
    assert_eq!(text(bitmap.freeze()), refused);
    assert_eq!(text(bitmap.mark_busy()), refused);
    assert_eq!(text(other.merge(&[bitmap])), refused);
    w.node.bitmaps().remove("b").unwrap();
}

#[test]
fn a_stored_bitmap_is_read_only_while_its_node_is() {
    let graph = Graph::new();
    let mut options = MemoryOptions::new(MIB);
    options.read_only = true;
    let node = graph
        .add_node(None, MemoryNode::new(options).unwrap())
        .unwrap();
    let mut content = DirtyBitmap::new(MIB, G).unwrap();
    content.set(range(G, 1));
    let stored = StoredBitmap::Enabled(content);
    let bitmap = node.bitmaps().load("b", stored).unwrap();
    let own = node.bitmaps().add("o", BitmapOptions::default()).unwrap();

    let refused = "Bitmap 'b' is readonly and cannot be modified";
    assert_eq!(text(bitmap.clear()), refused);
    assert_eq!(text(bitmap.enable()), refused);
    assert_eq!(text(bitmap.merge(&[])), refused);
    assert_eq!(text(node.bitmaps().remove("b")), refused);
    bitmap.check(BitmapUse::Read).unwrap();
    own.merge(std::slice::from_ref(&bitmap)).unwrap();
    assert_eq!(dirty(&own), set([1]));

    let guard = bitmap.mark_busy().unwrap();
    assert_eq!(bitmap.clear().unwrap_err().kind(), ErrorKind::Busy);
    drop(guard);
}

#[test]
fn what_is_in_use_is_said_before_what_is_read_only_and_inconsistent() {
    let graph = Graph::new();
    let mut options = MemoryOptions::new(MIB);
    options.read_only = true;
    let node = graph
        .add_node(None, MemoryNode::new(options).unwrap())
        .unwrap();
    let stored = StoredBitmap::Inconsistent {
        granularity_bytes: G,
    };
    let bitmap = node.bitmaps().load("b", stored).unwrap();

    assert_eq!(bitmap.clear().unwrap_err().kind(), ErrorKind::ReadOnly);
    let hidden = BitmapAction::Remove(named(&node, "b")).prepare();
    assert_eq!(hidden.unwrap_err().kind(), ErrorKind::ReadOnly);
    bitmap.always(super::State::begin_use);
    assert_eq!(bitmap.clear().unwrap_err().kind(), ErrorKind::Busy);
}

/// The content as it is, before it follows its node.
fn content(bitmap: &Bitmap) -> DirtyBitmap {
    bitmap.always(|state| state.content().try_clone()).unwrap()
}

#[test]
fn bitmaps_follow_the_length_of_their_node() {
    let w = world();
    let bitmap = w.add("b");
    w.write(0, 1);
    w.write(40 * G, 1);
    let kept = BitmapAction::Disable(w.named("b")).prepare().unwrap();
    w.node.bitmaps().resize(2 * MIB).unwrap();
    assert_eq!(granules(&content(&bitmap)), set([0]));
    w.node.bitmaps().resize(8 * MIB).unwrap();
    assert_eq!(granules(&content(&bitmap)), set([0]));
    kept.abort();
    assert_eq!(granules(&content(&bitmap)), set([0]));
    assert_eq!(content(&bitmap).len_bytes(), 8 * MIB);

    w.node.bitmaps().check_resize().unwrap();
    let frozen = bitmap.freeze().unwrap();
    let refused = w.node.bitmaps().check_resize();
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Busy);
    drop(frozen);
}

#[test]
fn a_node_that_grew_in_secret_loses_no_bit() {
    let w = world();
    let bitmap = w.add("b");
    w.node.bitmaps().resize(MIB).unwrap();
    let frozen = bitmap.cell.lock().freeze();
    frozen.unwrap();
    w.write(3 * MIB, 1);
    bitmap.always(super::State::reclaim);
    assert_eq!(dirty(&bitmap), set([48]));

    w.node.bitmaps().resize(MIB).unwrap();
    let whole = w.add("w");
    bitmap.merge(&[whole]).unwrap();
    assert_eq!(bitmap.snapshot().unwrap().len_bytes(), 4 * MIB);
}

#[test]
fn what_is_marked_past_an_end_that_has_moved_is_forgotten() {
    let w = world();
    let bitmap = w.add("b");
    w.node.bitmaps().resize(MIB).unwrap();
    let late = range(MIB - 1, 2 * MIB);
    w.node.inner.bitmaps.mark(late, || MIB);
    assert_eq!(granules(&content(&bitmap)), set([15]));
    w.node.inner.bitmaps.mark(range(2 * MIB, 1), || MIB);
}

#[test]
fn a_job_that_knows_another_length_loses_no_bit() {
    let w = world();
    let bitmap = w.add("b");
    w.write(G, 1);
    let frozen = bitmap.freeze().unwrap();
    w.write(3 * G, 1);
    frozen.reclaim_with(&DirtyBitmap::new(MIB, G).unwrap());
    assert_eq!(dirty(&bitmap), set([1, 3]));
}

#[test]
fn a_transaction_that_fails_undoes_its_changes_in_reverse() {
    let w = world();
    let (a, b) = two_bitmaps(&w);
    b.enable().unwrap();
    let actions = [
        BitmapAction::Merge {
            target: w.named("a"),
            sources: vec![w.named("b")],
        },
        BitmapAction::Clear(w.named("b")),
        BitmapAction::Disable(w.named("b")),
        BitmapAction::Enable(w.named("a")),
        BitmapAction::Add(w.named("c"), BitmapOptions::default()),
    ];
    let mut prepared: Vec<_> = actions
        .into_iter()
        .map(|action| action.prepare().unwrap())
        .collect();
    assert_eq!(dirty(&a), set([0, 5, 9]));
    assert_eq!(dirty(&b), set([]));
    while let Some(last) = prepared.pop() {
        last.abort();
    }
    assert!(w.node.bitmaps().find("c").is_err());
    assert!(!a.info().is_recording);
    assert!(b.info().is_recording);
    assert_eq!(dirty(&a), set([0, 5]));
    assert_eq!(dirty(&b), set([5, 9]));
}

#[test]
fn a_transaction_that_fails_keeps_what_was_written_meanwhile() {
    let w = world();
    let (_, b) = two_bitmaps(&w);
    b.enable().unwrap();
    let clear = BitmapAction::Clear(w.named("b")).prepare().unwrap();
    w.write(20 * G, 1);
    let disable = BitmapAction::Disable(w.named("b")).prepare().unwrap();
    w.write(21 * G, 1);
    drop(disable);
    w.write(22 * G, 1);
    drop(clear);
    assert_eq!(dirty(&b), set([5, 9, 20, 21, 22]));
}

#[test]
fn changes_that_are_undone_in_the_wrong_order_are_all_undone() {
    let w = world();
    let (a, b) = two_bitmaps(&w);
    let merge = BitmapAction::Merge {
        target: w.named("a"),
        sources: vec![w.named("b")],
    };
    let prepared = vec![
        BitmapAction::Clear(w.named("a")).prepare().unwrap(),
        merge.prepare().unwrap(),
    ];
    drop(prepared);
    assert_eq!(dirty(&a), set([0, 5]));
    assert_eq!(dirty(&b), set([5, 9]));
}

#[test]
fn a_transaction_that_succeeds_keeps_its_changes() {
    let w = world();
    let (a, b) = two_bitmaps(&w);
    let merge = BitmapAction::Merge {
        target: w.named("a"),
        sources: vec![w.named("b")],
    };
    let prepared = vec![
        BitmapAction::Clear(w.named("a")).prepare().unwrap(),
        merge.prepare().unwrap(),
        BitmapAction::Enable(w.named("a")).prepare().unwrap(),
        BitmapAction::Clear(w.named("b")).prepare().unwrap(),
    ];
    for change in prepared.into_iter().rev() {
        change.commit();
    }
    w.write(0, 1);
    assert_eq!(dirty(&a), set([0, 5, 9]));
    assert_eq!(dirty(&b), set([]));
}

#[test]
fn a_bitmap_is_added_and_used_in_one_transaction() {
    let w = world();
    let (a, _) = two_bitmaps(&w);
    let options = BitmapOptions {
        disabled: true,
        ..BitmapOptions::default()
    };
    let merge = BitmapAction::Merge {
        target: w.named("n"),
        sources: vec![w.named("a")],
    };
    let actions = [
        BitmapAction::Add(w.named("n"), options),
        merge,
        BitmapAction::Enable(w.named("n")),
    ];
    for action in actions {
        action.prepare().unwrap().commit();
    }
    let new = w.node.bitmaps().find("n").unwrap();
    assert!(new.info().is_recording);
    assert_eq!(dirty(&new), dirty(&a));
}

#[test]
fn bitmaps_that_were_added_before_a_failing_action_are_gone() {
    let w = world();
    let first = BitmapAction::Add(w.named("b"), BitmapOptions::default());
    let second = first.clone();
    let prepared = first.prepare().unwrap();
    assert_eq!(text(second.prepare()), "Bitmap already exists: b");
    prepared.abort();
    assert!(w.node.bitmaps().list().is_empty());
}

#[test]
fn a_bitmap_that_is_to_be_removed_is_hidden_and_comes_back_whole() {
    let w = world();
    let bitmap = w.add("b");
    w.write(0, 1);
    let removal = BitmapAction::Remove(w.named("b"));

    let prepared = removal.clone().prepare().unwrap();
    assert!(w.node.bitmaps().list().is_empty());
    assert!(w.node.bitmaps().find("b").is_err());
    assert_eq!(bitmap.clear().unwrap_err().kind(), ErrorKind::Busy);
    let again = w.node.bitmaps().add("b", BitmapOptions::default());
    assert_eq!(text(again), "Bitmap already exists: b");
    w.write(G, 1);
    prepared.abort();
    assert!(!bitmap.info().is_busy);
    assert_eq!(dirty(&bitmap), set([0, 1]));

    removal.prepare().unwrap().commit();
    assert!(w.node.bitmaps().find("b").is_err());
    w.add("b");
}

#[test]
fn a_transaction_has_any_number_of_actions() {
    let w = world();
    let add = |i: usize| {
        let name = format!("b{i}");
        BitmapAction::Add(w.named(&name), BitmapOptions::default())
    };
    let prepare_all = || -> Vec<_> { (0..500).map(|i| add(i).prepare().unwrap()).collect() };
    drop(prepare_all());
    assert!(w.node.bitmaps().list().is_empty());
    for prepared in prepare_all() {
        prepared.commit();
    }
    assert_eq!(w.node.bitmaps().list().len(), 500);
}

#[test]
fn nothing_is_counted_as_recording_once_all_is_over() {
    let w = world();
    let bitmap = w.add("b");
    let recording = || w.node.inner.bitmaps.recording_count();
    assert_eq!(recording(), 1);
    drop(bitmap.freeze().unwrap());
    let disable = BitmapAction::Disable(w.named("b")).prepare().unwrap();
    assert_eq!(recording(), 1, "what is kept records");
    disable.commit();
    assert_eq!(recording(), 0);
    bitmap.enable().unwrap();
    w.node.bitmaps().remove("b").unwrap();
    assert_eq!(recording(), 0);
    drop(BitmapAction::Add(w.named("b"), BitmapOptions::default()).prepare());
    assert_eq!(recording(), 0);
}

/// A node of 2^62 bytes.
fn huge(graph: &Graph) -> Node {
    let options = NullOptions {
        len_bytes: 1 << 62,
        ..NullOptions::default()
    };
    graph.add_node(None, NullNode::new(options)).unwrap()
}

#[test]
fn n07_a_bitmap_that_is_too_large_is_an_error() {
    let node = huge(&Graph::new());
    let bitmaps = node.bitmaps();
    // Bits of 256 GiB, and of 16 MiB times that.
    for granularity_bytes in [1 << 21, 512] {
        let options = BitmapOptions {
            granularity_bytes: Some(granularity_bytes),
            ..BitmapOptions::default()
        };
        let refused = bitmaps.add("b", options).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NoSpace);
    }
    assert!(bitmaps.add("b", BitmapOptions::default()).is_err());
    assert!(bitmaps.list().is_empty());
}

#[test]
fn n07_a_copy_or_a_mirror_of_a_disk_that_is_too_large_is_an_error() {
    let graph = Graph::new();
    let edges = || {
        let [source, target] = [huge(&graph), huge(&graph)];
        let source = attach(&graph, &source, "job 'j'", Permissions::uses(&[READ]));
        (source, attach(&graph, &target, "job 'j'", writer()))
    };
    let (source, target) = edges();
    let copy = BlockCopy::new(source, target, CopyOptions::default());
    assert_eq!(copy.unwrap_err().kind(), ErrorKind::NoSpace);

    let (source, target) = edges();
    let mirror = MirrorCopy::new(source, target, MirrorCopyOptions::default());
    assert_eq!(mirror.unwrap_err().kind(), ErrorKind::NoSpace);

    let (source, target) = edges();
    let clusters = CopyOptions {
        cluster_bytes_min: 1 << 40,
        ..CopyOptions::default()
    };
    let copy = BlockCopy::new(source, target, clusters);
    assert_eq!(copy.unwrap_err().kind(), ErrorKind::Invalid);
}
