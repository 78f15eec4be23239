//! Requests whose futures are dropped while the disk is at them.

use super::*;
use crate::testing::disk::pass_over;

/// What changes the disk, each in a place of its own.
fn changes() -> [Op; 3] {
    [
        Op::Write(range(0, 512)),
        Op::Zero(range(512, 512)),
        Op::Discard(range(1024, 512)),
    ]
}

async fn change(child: &Child, cx: &AioContext, op: Op) {
    match op {
        Op::Write(range) => write(child, cx, range.start(), 512, 1).await,
        Op::Zero(range) => child.write_zeroes(cx, range, FLAGS).await.unwrap(),
        Op::Discard(range) => child.discard(cx, range).await.unwrap(),
        _ => unreachable!("changes nothing"),
    }
}

/// Starts a request that the disk holds, and gives it up.
fn abandon(request: impl Future<Output = ()>) {
    let mut request = pin!(request);
    let mut waker = Context::from_waker(Waker::noop());
    assert!(request.as_mut().poll(&mut waker).is_pending());
}

#[test]
fn abandoned_changes_are_carried_to_their_end_and_a_drain_waits_for_them() {
    for op in changes() {
        let w = world();
        w.cx.block_on(async {
            w.disk.hold();
            abandon(change(&w.child, &w.cx, op));
            settle(&w.cx).await;
            assert_eq!(w.node.in_flight(), 1, "{op:?}");
            let nodes = [w.node.clone()];
            let mut draining = pin!(w.graph.drain(&nodes));
            let mut waker = Context::from_waker(Waker::noop());
            assert!(draining.as_mut().poll(&mut waker).is_pending(), "{op:?}");

            w.disk.release();
            let _section = draining.await;
            assert_eq!(w.disk.log(), [op]);
        });
        let (start, wanted) = match op {
            Op::Write(_) => (0, 1),
            Op::Zero(_) => (512, 0),
            _ => (1024, 9),
        };
        assert_eq!(w.disk.bytes()[start..start + 512], vec![wanted; 512]);
        let statistics = w.node.statistics();
        assert_eq!(statistics.writes + statistics.discards, 1, "{op:?}");
    }
}

/// Nobody hears of what they read.
#[test]
fn abandoned_reads_and_flushes_are_over_at_once() {
    let w = world();
    w.cx.block_on(async {
        w.disk.hold();
        abandon(async {
            w.child.read(&w.cx, 0, buffer(512, 0)).await.1.unwrap();
        });
        settle(&w.cx).await;
        assert_eq!(w.node.in_flight(), 0);
    });
}

#[test]
fn an_abandoned_write_is_counted_by_every_node_that_it_is_in() {
    let w = world();
    w.cx.block_on(async {
        let filter = pass_over(&w.graph, "f", &w.node);
        w.graph.insert_filter(&w.node, &filter).await.unwrap();
        let guest = attach(&w.graph, &filter, "export 'g'", writer());
        w.disk.hold();
        abandon(write(&guest, &w.cx, 0, 512, 1));
        drop(guest);
        settle(&w.cx).await;
        assert_eq!((filter.in_flight(), w.node.in_flight()), (1, 1));

        w.disk.release();
        let _section = w.graph.drain(&[filter, w.node.clone()]).await;
        assert_eq!(w.disk.bytes()[..512], vec![1; 512]);
    });
}

/// The end of the context is the end of what it runs; it waits for the kernel by itself.
#[test]
fn an_abandoned_write_ends_with_its_context() {
    let w = world();
    w.cx.block_on(async {
        w.disk.hold();
        abandon(write(&w.child, &w.cx, 0, 512, 1));
    });
    assert_eq!(w.node.in_flight(), 1);
    let mut later = Box::pin(write(&w.child, &w.cx, 0, 512, 2));
    let mut waker = Context::from_waker(Waker::noop());
    assert!(later.as_mut().poll(&mut waker).is_pending());

    w.cx.clone().close();
    assert_eq!(w.node.in_flight(), 1);
    drop(later);
    assert_eq!(w.node.in_flight(), 0, "a closed context takes nothing over");
}

/// An abandoned write of this kind carries its neighbours' old bytes: it stays in flight until it has landed.
#[test]
fn an_abandoned_unaligned_write_still_counts_and_still_serialises() {
    let w = world();
    w.cx.block_on(async {
        w.disk.hold();
        {
            let mut abandoned = pin!(write(&w.child, &w.cx, 10, 10, 1));
            let mut waker = Context::from_waker(Waker::noop());
            assert!(abandoned.as_mut().poll(&mut waker).is_pending());
        }
        settle(&w.cx).await;
        assert_eq!(w.node.in_flight(), 1);
        let (child, cx) = (w.child.clone(), w.cx.clone());
        let neighbour =
            w.cx.spawn(async move { write(&child, &cx, 0, 512, 2).await });
        settle(&w.cx).await;
        assert_eq!(w.disk.writes(), 0, "the neighbour waits");

        w.disk.release();
        neighbour.await;
        assert_eq!(w.disk.bytes()[..512], vec![2; 512]);
    });
}
