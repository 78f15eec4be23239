//! Faults by the options that a node is made with.

use super::*;
use crate::{
    graph::{
        Graph,
        child::{Attachment, ChildRole},
        permission::{Permission, Permissions},
    },
    testing::disk::{Disk, DiskNode, Op, writer},
};
use std::sync::Arc as Shared;

const LEN: u64 = 64 << 10;

fn run<F: Future<Output = ()>>(test: impl FnOnce(AioContext) -> F) {
    aio::run(aio::Config::default(), test).unwrap();
}

/// A node with options over a disk, and an edge to it.
fn world(options: FaultOptions) -> Result<(Child, Shared<Disk>), BlockError> {
    let graph = Graph::new();
    let disk = Disk::new(LEN, 512);
    let below = graph.add_node(None, DiskNode(disk.clone())).unwrap();
    let builder = graph.build_node(None).unwrap();
    let uses = Permissions::uses(&[Permission::ConsistentRead]);
    let child = builder.attach(&below, "file", ChildRole::Filtered, uses);
    let node = FaultNode::with_options(child.unwrap(), FaultControl::new(), options)?;
    let node = builder.finish(node);
    let attachment = Attachment::new("test", ChildRole::Primary, writer());
    Ok((graph.attach(&node, attachment).unwrap(), disk))
}

fn errors(inject_error: &[InjectError]) -> FaultOptions {
    FaultOptions {
        inject_error: inject_error.to_vec(),
        ..FaultOptions::default()
    }
}

async fn write(edge: &Child, cx: &AioContext, offset: u64) -> Option<i32> {
    let flags = RequestFlags::default();
    let (_, result) = edge.write(cx, offset, IoBuf::heap(4096), flags).await;
    result.err().map(|error| error.errno().unwrap())
}

async fn read(edge: &Child, cx: &AioContext, offset: u64) -> Option<i32> {
    let (_, result) = edge.read(cx, offset, IoBuf::heap(4096)).await;
    result.err().map(|error| error.errno().unwrap())
}

fn range(start: u64, len: u64) -> ByteRange {
    ByteRange::new(start, len).unwrap()
}

#[test]
fn an_error_from_the_start_stays_or_comes_once() {
    run(|cx| async move {
        let rule = InjectError {
            op: Some(FaultOp::Write),
            ..InjectError::at(FaultEvent::Made)
        };
        let (edge, _) = world(errors(&[rule])).unwrap();
        for _ in 0..3 {
            assert_eq!(write(&edge, &cx, 0).await, Some(libc::EIO));
            assert_eq!(read(&edge, &cx, 0).await, None);
        }
        let once = InjectError {
            once: true,
            errno: libc::ENOSPC,
            immediately: true,
            ..rule
        };
        let (edge, _) = world(errors(&[once])).unwrap();
        assert_eq!(write(&edge, &cx, 0).await, Some(libc::ENOSPC));
        assert_eq!(write(&edge, &cx, 0).await, None);
    });
}

#[test]
fn without_a_kind_all_requests_fail_but_queries() {
    run(|cx| async move {
        let (edge, _) = world(errors(&[InjectError::at(FaultEvent::Made)])).unwrap();
        let flags = RequestFlags::default();
        assert!(read(&edge, &cx, 0).await.is_some());
        assert!(write(&edge, &cx, 0).await.is_some());
        edge.flush(&cx).await.unwrap_err();
        edge.discard(&cx, range(0, 512)).await.unwrap_err();
        edge.write_zeroes(&cx, range(0, 512), flags)
            .await
            .unwrap_err();
        edge.extent(&cx, range(0, 512)).await.unwrap();
    });
}

#[test]
fn an_error_at_a_place_meets_those_who_cover_it() {
    run(|cx| async move {
        let rule = InjectError {
            offset_bytes: Some(8192),
            ..InjectError::at(FaultEvent::Made)
        };
        let (edge, _) = world(errors(&[rule])).unwrap();
        assert_eq!(read(&edge, &cx, 4096).await, None);
        assert_eq!(read(&edge, &cx, 8192).await, Some(libc::EIO));
        assert_eq!(read(&edge, &cx, 5120).await, Some(libc::EIO));
        assert_eq!(read(&edge, &cx, 8704).await, None);
        edge.flush(&cx).await.unwrap();
    });
}

#[test]
fn states_let_a_rule_wait_for_the_third_write() {
    run(|cx| async move {
        let step = |state, new_state| SetState {
            event: FaultEvent::Written,
            state,
            new_state,
        };
        let rule = InjectError {
            state: 3,
            op: Some(FaultOp::Write),
            once: true,
            ..InjectError::at(FaultEvent::Write)
        };
        let options = FaultOptions {
            set_state: vec![step(1, 2), step(2, 3)],
            ..errors(&[rule])
        };
        let (edge, _) = world(options).unwrap();
        let mut results = Vec::new();
        for _ in 0..4 {
            results.push(write(&edge, &cx, 0).await);
        }
        assert_eq!(results[..3], [None, None, Some(libc::EIO)]);
        assert_eq!(results[3], Some(libc::EIO), "each write brings it back");
    });
}

#[test]
fn limits_are_those_that_were_asked_for() {
    run(|cx| async move {
        let options = FaultOptions {
            align: 4096,
            max_transfer: 8192,
            opt_write_zero: 8192,
            max_write_zero: 16384,
            opt_discard: 8192,
            max_discard: 8192,
            ..FaultOptions::default()
        };
        let (edge, disk) = world(options).unwrap();
        let limits = edge.limits();
        assert_eq!(
            (limits.request_align_bytes, limits.transfer_bytes_max),
            (4096, 8192)
        );
        let before = disk.log().len();
        let flags = RequestFlags::default();
        let (_, result) = edge.write(&cx, 0, IoBuf::heap(16384), flags).await;
        result.unwrap();
        edge.write_zeroes(&cx, range(0, 4096), flags).await.unwrap();
        edge.write_zeroes(&cx, range(0, 20480), flags)
            .await
            .unwrap();
        edge.discard(&cx, range(0, 4096)).await.unwrap();
        edge.discard(&cx, range(0, 16384)).await.unwrap();
        assert_eq!(
            disk.log()[before..],
            [
                Op::Write(range(0, 8192)),
                Op::Write(range(8192, 8192)),
                Op::Write(range(0, 4096)),
                Op::Zero(range(0, 16384)),
                Op::Zero(range(16384, 4096)),
                Op::Discard(range(0, 8192)),
                Op::Discard(range(8192, 8192)),
            ]
        );
    });
}

#[test]
fn limits_that_cannot_be_met_are_refused() {
    let with = |align, max_transfer| FaultOptions {
        align,
        max_transfer,
        ..FaultOptions::default()
    };
    for (options, why) in [
        (with(33, 0), "align 33"),
        (with(1 << 20, 0), "align 1048576"),
        (with(4096, 512), "max-transfer 512"),
        (with(0, 100), "max-transfer 100"),
    ] {
        let error = world(options).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[test]
fn events_are_known_by_their_names() {
    assert_eq!(
        "pwritev_done".parse::<FaultEvent>().unwrap(),
        FaultEvent::Written
    );
    let error = "l1_update".parse::<FaultEvent>().unwrap_err();
    assert!(error.to_string().contains("'l1_update'"), "{error}");
}
