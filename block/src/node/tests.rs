//! Requests that do not fit the node driver: unaligned, too long, out of range.

use std::{
    pin::pin,
    rc::Rc,
    sync::{Arc, Mutex, atomic::Ordering},
    task::{Context, Waker},
};

use aio::AioContext;
use proptest::prelude::{prop, proptest};

use crate::{
    allocation::{AllocationStatus, ByteRange, Extent},
    error::ErrorKind,
    graph::{Graph, child::Child},
    node::Node,
    node_driver::{Limits, RequestFlags, Way},
    testing::disk::{Disk, DiskNode, Op, attach, buffer, context, settle, write, writer},
};

mod abandoned;
mod options;

const FLAGS: RequestFlags = RequestFlags {
    fua: false,
    may_unmap: false,
    no_fallback: false,
    unchanged: false,
    serialising: false,
};

struct World {
    cx: AioContext,
    disk: Arc<Disk>,
    node: Node,
    child: Rc<Child>,
    graph: Graph,
}

/// A disk of 512-byte blocks whose last block is cut short, full of `9`.
fn world() -> World {
    world_over(Disk::new(4096 + 100, 512))
}

fn world_over(disk: Arc<Disk>) -> World {
    let graph = Graph::new();
    disk.fill(9);
    let node = graph.add_node(Some("s"), DiskNode(disk.clone())).unwrap();
    let child = Rc::new(attach(&graph, &node, "export 'e'", writer()));
    World {
        cx: context(),
        disk,
        node,
        child,
        graph,
    }
}

fn range(offset: u64, len: u64) -> ByteRange {
    ByteRange::new(offset, len).unwrap()
}

#[test]
fn aligned_requests_reach_the_node_driver_as_they_are() {
    let w = world();
    w.cx.block_on(async {
        let (buf, way) = w.child.write(&w.cx, 512, buffer(1024, 1), FLAGS).await;
        assert_eq!(way.unwrap(), Way::Buffered);
        let (_, way) = w.child.read(&w.cx, 512, buf).await;
        assert_eq!(way.unwrap(), Way::Buffered);
        let (_, way) = w.child.read(&w.cx, 4096, buffer(100, 0)).await;
        assert_eq!(way.unwrap(), Way::Buffered, "up to the unaligned end");
    });
    let all = [
        Op::Write(range(512, 1024)),
        Op::Read(range(512, 1024)),
        Op::Read(range(4096, 100)),
    ];
    assert_eq!(w.disk.log(), all);
    let statistics = w.node.statistics();
    assert_eq!((statistics.reads, statistics.read_bytes), (2, 1124));
    assert_eq!((statistics.writes, statistics.written_bytes), (1, 1024));
    assert_eq!((statistics.bounced, statistics.errors()), (0, 0));
    assert_eq!(
        (statistics.buffered_bytes, statistics.direct_bytes),
        (2148, 0)
    );
}

#[test]
fn an_unaligned_write_keeps_its_neighbours() {
    let w = world();
    w.cx.block_on(async {
        let (buf, way) = w.child.write(&w.cx, 500, buffer(20, 1), FLAGS).await;
        assert_eq!((buf.len(), way.unwrap()), (20, Way::Bounced));
    });
    let mut wanted = vec![9; 4196];
    wanted[500..520].fill(1);
    assert_eq!(w.disk.bytes(), wanted);
    let statistics = w.node.statistics();
    assert_eq!((statistics.bounced, statistics.bounced_bytes), (1, 20));
    assert_eq!(
        w.disk.log(),
        [Op::Read(range(0, 1024)), Op::Write(range(0, 1024))]
    );
}

#[test]
fn an_unaligned_read_gives_what_was_asked() {
    let w = world();
    w.cx.block_on(async {
        write(&w.child, &w.cx, 512, 512, 1).await;
        let (buf, way) = w.child.read(&w.cx, 1020, buffer(8, 0)).await;
        assert_eq!(way.unwrap(), Way::Bounced);
        assert_eq!(&buf[..], [1, 1, 1, 1, 9, 9, 9, 9]);
    });
}

#[test]
fn a_long_request_goes_in_pieces() {
    let w = world_over(Disk::with_limits(Limits {
        len_bytes: 8192,
        request_align_bytes: 512,
        transfer_bytes_max: 1024,
        cluster_bytes: None,
        read_only: false,
    }));
    w.cx.block_on(async {
        let (buf, way) = w.child.write(&w.cx, 512, buffer(2048, 1), FLAGS).await;
        assert_eq!(way.unwrap(), Way::Bounced);
        let (buf, way) = w.child.read(&w.cx, 512, buf).await;
        assert_eq!(way.unwrap(), Way::Bounced);
        assert!(buf.iter().all(|&byte| byte == 1));
    });
    let pieces = [range(512, 1024), range(1536, 1024)];
    let writes = pieces.map(Op::Write);
    let reads = pieces.map(Op::Read);
    assert_eq!(
        w.disk.log(),
        [writes, reads].concat(),
        "nothing is read to be written"
    );
}

#[test]
fn requests_past_the_end_are_refused() {
    let w = world();
    w.cx.block_on(async {
        let (_, past) = w.child.read(&w.cx, 4096, buffer(101, 0)).await;
        assert_eq!(
            past.unwrap_err().to_string(),
            "request past end of node, on node 's'"
        );
        let (_, wraps) = w.child.write(&w.cx, u64::MAX, buffer(2, 0), FLAGS).await;
        assert_eq!(wraps.unwrap_err().kind(), ErrorKind::OutOfRange);
        let zeroes = w.child.write_zeroes(&w.cx, range(4196, 1), FLAGS).await;
        assert_eq!(zeroes.unwrap_err().kind(), ErrorKind::OutOfRange);
        let discard = w.child.discard(&w.cx, range(0, 4197)).await;
        assert_eq!(discard.unwrap_err().kind(), ErrorKind::OutOfRange);
        let extent = w.child.extent(&w.cx, range(4197, 0)).await;
        assert_eq!(extent.unwrap_err().kind(), ErrorKind::OutOfRange);
        let (_, nothing) = w.child.read(&w.cx, 4196, buffer(0, 0)).await;
        nothing.unwrap();
    });
    assert_eq!(w.disk.log(), []);
    assert_eq!(w.node.in_flight(), 0);
}

#[test]
fn zeroes_at_unaligned_edges_are_written_and_the_middle_is_not() {
    let w = world();
    w.cx.block_on(async {
        w.child
            .write_zeroes(&w.cx, range(100, 2000), FLAGS)
            .await
            .unwrap();
    });
    let mut wanted = vec![9; 4196];
    wanted[100..2100].fill(0);
    assert_eq!(w.disk.bytes(), wanted);
    assert!(w.disk.log().contains(&Op::Zero(range(512, 1536))));
    assert_eq!(w.node.statistics().written_bytes, 2000);
}

#[test]
fn zeroes_within_one_block_keep_its_rest() {
    let w = world();
    w.cx.block_on(async {
        w.child
            .write_zeroes(&w.cx, range(600, 10), FLAGS)
            .await
            .unwrap();
        w.child
            .write_zeroes(&w.cx, range(1000, 100), FLAGS)
            .await
            .unwrap();
    });
    let mut wanted = vec![9; 4196];
    wanted[600..610].fill(0);
    wanted[1000..1100].fill(0);
    assert_eq!(w.disk.bytes(), wanted);
}

#[test]
fn zeroes_are_written_where_there_is_no_other_way_and_that_is_allowed() {
    let w = world();
    w.disk.zeroes_unsupported.store(true, Ordering::SeqCst);
    let fast = RequestFlags {
        no_fallback: true,
        ..FLAGS
    };
    w.cx.block_on(async {
        let refused = w.child.write_zeroes(&w.cx, range(0, 4196), fast).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unsupported);
        let unaligned = w.child.write_zeroes(&w.cx, range(1, 600), fast).await;
        assert_eq!(unaligned.unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(w.disk.writes(), 0);
        w.child
            .write_zeroes(&w.cx, range(0, 4196), FLAGS)
            .await
            .unwrap();
    });
    assert_eq!(w.disk.bytes(), vec![0; 4196]);
    assert_eq!(w.node.statistics().failed_writes, 2);
    assert_eq!(w.node.statistics().errors(), 2);
}

#[test]
fn a_discard_never_takes_more_than_was_asked() {
    let w = world();
    w.cx.block_on(async {
        for asked in [
            range(1, 1500),
            range(4000, 196),
            range(513, 1022),
            range(0, 511),
        ] {
            w.child.discard(&w.cx, asked).await.unwrap();
        }
    });
    let done = [Op::Discard(range(512, 512)), Op::Discard(range(4096, 100))];
    assert_eq!(w.disk.log(), done);
}

#[test]
fn an_extent_is_cut_to_what_was_asked() {
    let w = world();
    w.cx.block_on(async {
        w.child
            .write_zeroes(&w.cx, range(512, 1024), FLAGS)
            .await
            .unwrap();
        let extent = async |offset, len| w.child.extent(&w.cx, range(offset, len)).await.unwrap();
        let data = |len_bytes| Extent {
            len_bytes,
            status: AllocationStatus::Data,
        };
        let zero = |len_bytes| Extent {
            len_bytes,
            status: AllocationStatus::Zero,
        };

        assert_eq!(extent(0, 4196).await, data(512));
        assert_eq!(extent(100, 4096).await, data(412));
        assert_eq!(extent(600, 100).await, zero(100));
        assert_eq!(extent(1000, 3000).await, zero(536));
        assert_eq!(extent(1536, 2660).await, data(2660));
    });
}

#[test]
fn a_failed_request_names_node_and_range() {
    let w = world();
    w.disk.zeroes_unsupported.store(true, Ordering::SeqCst);
    let fast = RequestFlags {
        no_fallback: true,
        ..FLAGS
    };
    w.cx.block_on(async {
        let error = w
            .child
            .write_zeroes(&w.cx, range(512, 512), fast)
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "no zeroes here, 512 bytes at 512, on node 's'"
        );
    });
}

/// SEMANTICS K-28: who copies old data to where guests read it must not be overtaken half-way.
#[test]
fn a_serialising_write_is_kept_apart_from_all_that_overlap_it() {
    let w = world();
    w.cx.block_on(async {
        w.disk.hold();
        let start = |offset, flags| {
            let (child, cx) = (w.child.clone(), w.cx.clone());
            w.cx.spawn(async move {
                let (_, written) = child.write(&cx, offset, buffer(512, 1), flags).await;
                written.unwrap();
            })
        };
        let serialising = RequestFlags {
            serialising: true,
            ..FLAGS
        };
        let first = start(0, serialising);
        settle(&w.cx).await;
        let all = [
            first,
            start(0, FLAGS),
            start(512, FLAGS),
            start(0, serialising),
        ];
        settle(&w.cx).await;
        assert_eq!(w.disk.writes(), 2, "the first, and its neighbour");
        w.disk.release();
        for task in all {
            task.await;
        }
        assert_eq!(w.disk.writes(), 4);
    });
}

/// One request of the storm below: writer `index` writes its own bytes, whoever else shares the block.
async fn write_own(child: &Child, cx: &AioContext, stripe: (u64, u64), index: u8) {
    let (offset, len) = stripe;
    write(child, cx, offset, usize::try_from(len).unwrap(), index).await;
}

proptest! {
    /// Writers of adjacent ranges, cut at any byte, all at once: everybody finds his own bytes afterwards.
    #[test]
    fn concurrent_unaligned_writers_keep_each_others_bytes(
        cuts in prop::collection::btree_set(1..4196_u64, 1..12),
        rounds in 1..3_u8,
    ) {
        let w = world();
        let mut bounds: Vec<u64> = vec![0];
        bounds.extend(&cuts);
        bounds.push(4196);
        let stripes: Vec<_> = bounds.windows(2).map(|w| (w[0], w[1] - w[0])).collect();
        w.cx.block_on(async {
            for _ in 0..rounds {
                let tasks: Vec<_> = (1_u8..).zip(&stripes).map(|(index, &stripe)| {
                    let (child, cx) = (w.child.clone(), w.cx.clone());
                    w.cx.spawn(async move { write_own(&child, &cx, stripe, index).await })
                }).collect();
                for task in tasks {
                    task.await;
                }
            }
        });
        let bytes = w.disk.bytes();
        for (index, &(offset, len)) in (1_u8..).zip(&stripes) {
            let (start, end) = (usize::try_from(offset).unwrap(), usize::try_from(offset + len).unwrap());
            assert!(bytes[start..end].iter().all(|&byte| byte == index), "writer {index}");
        }
        assert_eq!(w.node.in_flight(), 0);
    }
}

/// One thread of the storm below, on a context of its own.
fn write_thirds(child: &Child, index: u8) {
    let cx = context();
    cx.block_on(async {
        for block in 0..16 {
            let offset = block * 512 + u64::from(index - 1) * 170;
            write_own(child, &cx, (offset, 170), index).await;
        }
    });
}

/// The same on threads: three writers in every block, each with a context of its own.
#[test]
fn threads_that_share_blocks_keep_each_others_bytes() {
    let disk = Disk::new(8192, 512);
    let graph = Graph::new();
    let node = graph.add_node(Some("s"), DiskNode(disk.clone())).unwrap();
    let child = attach(&graph, &node, "export 'e'", writer());
    std::thread::scope(|scope| {
        for index in 1..=3_u8 {
            let child = &child;
            scope.spawn(move || write_thirds(child, index));
        }
    });
    let bytes = disk.bytes();
    for (at, &byte) in bytes.iter().enumerate() {
        let index = u8::try_from(at % 512 / 170 + 1).unwrap();
        let wanted = if index == 4 { 0 } else { index };
        assert_eq!(byte, wanted, "at {at}");
    }
}

#[test]
fn latencies_are_measured_from_when_somebody_asks_for_them() {
    let w = world();
    w.cx.block_on(async {
        write_own(&w.child, &w.cx, (0, 512), 1).await;
        assert_eq!(w.node.latency(), None);
        w.node.measure_latency();
        w.node.measure_latency();
        write_own(&w.child, &w.cx, (0, 512), 2).await;
        w.child.flush(&w.cx).await.unwrap();
    });
    let latency = w.node.latency().unwrap();
    assert_eq!((latency.writes.count(), latency.flushes.count()), (1, 1));
}

#[test]
fn the_first_write_beyond_a_threshold_is_told_of() {
    let w = world();
    let told = Arc::new(Mutex::new(Vec::new()));
    let set = |offset_bytes| {
        let told = told.clone();
        let tell = move |beyond| told.lock().unwrap().push((offset_bytes, beyond));
        w.node.set_write_threshold(offset_bytes, tell);
    };
    w.cx.block_on(async {
        set(2048);
        assert_eq!(w.node.write_threshold(), Some(2048));
        write_own(&w.child, &w.cx, (1536, 512), 1).await;
        assert!(told.lock().unwrap().is_empty(), "up to it is not beyond it");
        write_own(&w.child, &w.cx, (2048, 512), 1).await;
        write_own(&w.child, &w.cx, (2560, 512), 1).await;
        assert_eq!(*told.lock().unwrap(), [(2048, 512)], "only the first");
        assert_eq!(w.node.write_threshold(), None);
        set(512);
        set(1024);
        let zeroed = w.child.write_zeroes(&w.cx, range(0, 2048), FLAGS).await;
        zeroed.unwrap();
        assert_eq!(told.lock().unwrap()[1..], [(1024, 1024)]);
        set(0);
        w.node.clear_write_threshold();
        write_own(&w.child, &w.cx, (0, 512), 1).await;
        assert_eq!(told.lock().unwrap().len(), 2);
    });
    assert_eq!(w.node.statistics().written_end_bytes, 3072);
}
