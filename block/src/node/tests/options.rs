//! What a node makes of requests by its options.

use super::*;
use crate::{
    BlockError,
    node::{DetectZeroes, Discard, NodeOptions},
    nodes::{MemoryNode, MemoryOptions},
};

fn reopen(w: &World, options: NodeOptions) -> Result<(), BlockError> {
    let changes = [(w.node.clone(), options)];
    w.cx.block_on(w.graph.reopen(&changes))
}

#[test]
fn writes_of_zeroes_become_zeroes_where_they_are_looked_for() {
    let w = world();
    for detect_zeroes in [DetectZeroes::Off, DetectZeroes::On, DetectZeroes::Unmap] {
        let options = NodeOptions {
            detect_zeroes,
            ..NodeOptions::default()
        };
        reopen(&w, options).unwrap();
        assert_eq!(w.node.options(), options);
        w.disk.fill(9);
        let before = w.disk.log().len();
        w.cx.block_on(async {
            write(&w.child, &w.cx, 0, 1024, 0).await;
            write(&w.child, &w.cx, 1024, 512, 1).await;
        });
        let first = match detect_zeroes {
            DetectZeroes::Off => Op::Write(range(0, 1024)),
            DetectZeroes::On | DetectZeroes::Unmap => Op::Zero(range(0, 1024)),
        };
        assert_eq!(w.disk.log()[before..], [first, Op::Write(range(1024, 512))]);
        assert_eq!(w.disk.bytes()[..1024], vec![0; 1024]);
    }
    let statistics = w.node.statistics();
    assert_eq!((statistics.writes, statistics.written_bytes), (6, 3 * 1536));
}

/// The zeroes are there already, in the buffer of whoever writes them.
#[test]
fn detected_zeroes_are_written_from_their_own_buffer_where_there_is_no_other_way() {
    let w = world();
    w.disk.zeroes_unsupported.store(true, Ordering::SeqCst);
    let options = NodeOptions {
        detect_zeroes: DetectZeroes::Unmap,
        ..NodeOptions::default()
    };
    reopen(&w, options).unwrap();
    w.cx.block_on(write(&w.child, &w.cx, 0, 1024, 0));
    assert_eq!(w.disk.log(), [Op::Write(range(0, 1024))]);
    assert_eq!(w.node.statistics().bounced, 0);
}

#[test]
fn one_byte_that_is_not_zero_is_enough() {
    let options = NodeOptions {
        detect_zeroes: DetectZeroes::On,
        ..NodeOptions::default()
    };
    for at in [0, 511, 512, 1023, 1024, 4095] {
        let w = world();
        reopen(&w, options).unwrap();
        let mut buf = buffer(4096, 0);
        buf[at] = 1;
        let written = w.cx.block_on(w.child.write(&w.cx, 0, buf, FLAGS));
        written.1.unwrap();
        assert_eq!(w.disk.log(), [Op::Write(range(0, 4096))]);
    }
}

/// Neither a discard nor leave to unmap gives anything up.
#[test]
fn a_node_that_ignores_discards_keeps_what_is_allocated() {
    let cx = context();
    let graph = Graph::new();
    let options = NodeOptions {
        discard: Discard::Ignore,
        ..NodeOptions::default()
    };
    let memory = MemoryNode::new(MemoryOptions::new(1 << 16)).unwrap();
    let builder = graph.build_node(None).unwrap().options(options).unwrap();
    let node = builder.finish(memory);
    let child = attach(&graph, &node, "export 'e'", writer());
    let unmap = RequestFlags {
        may_unmap: true,
        ..FLAGS
    };
    cx.block_on(async {
        let all = range(0, 1 << 16);
        write(&child, &cx, 0, 1 << 16, 1).await;
        child.discard(&cx, all).await.unwrap();
        let (buf, read) = child.read(&cx, 0, buffer(1, 0)).await;
        read.unwrap();
        assert_eq!(buf[0], 1);
        child.write_zeroes(&cx, all, unmap).await.unwrap();
        let data = child.extent(&cx, all).await.unwrap();
        assert_eq!(data.status, AllocationStatus::Data);

        let changes = [(node.clone(), NodeOptions::default())];
        graph.reopen(&changes).await.unwrap();
        child.write_zeroes(&cx, all, unmap).await.unwrap();
        let hole = child.extent(&cx, all).await.unwrap();
        assert_eq!(hole.status, AllocationStatus::Zero);
    });
    assert_eq!(node.statistics().discards, 0);
}

/// Leave to unmap is leave not to allocate, too.
#[test]
fn a_node_that_ignores_discards_fills_no_hole_that_might_be_one() {
    let w = world();
    let options = NodeOptions {
        discard: Discard::Ignore,
        ..NodeOptions::default()
    };
    reopen(&w, options).unwrap();
    let unmap = RequestFlags {
        may_unmap: true,
        ..FLAGS
    };
    let fua = RequestFlags { fua: true, ..unmap };
    let all = range(0, 4096);
    let (look, zero) = (Op::Extent(all), Op::Zero(all));
    w.disk.fill(0);
    for (flags, done) in [
        (unmap, vec![look]),
        (FLAGS, vec![zero]),
        // What makes it a hole may not be stable yet.
        (fua, vec![zero]),
    ] {
        let before = w.disk.log().len();
        let zeroed = w.child.write_zeroes(&w.cx, all, flags);
        w.cx.block_on(zeroed).unwrap();
        assert_eq!(w.disk.log()[before..], done);
    }
    w.disk.fill(9);
    let before = w.disk.log().len();
    let zeroed = w.child.write_zeroes(&w.cx, all, unmap);
    w.cx.block_on(zeroed).unwrap();
    assert_eq!(w.disk.log()[before..], [look, zero]);
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let w = world();
    let options = NodeOptions {
        detect_zeroes: DetectZeroes::Unmap,
        discard: Discard::Ignore,
        ..NodeOptions::default()
    };
    let text =
        "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap";
    assert_eq!(reopen(&w, options).unwrap_err().to_string(), text);
    let builder = w.graph.build_node(None).unwrap();
    assert_eq!(builder.options(options).unwrap_err().to_string(), text);
}
