//! Data that the kernel moves: who is kept away from it, and what becomes of a copy that nobody waits for any more.

use std::{future::poll_fn, os::unix::fs::FileExt, pin::pin, task::Poll};

use aio::AioContext;
use tempfile::NamedTempFile;

use crate::{
    allocation::ByteRange,
    copy::{
        BlockCopy, CopyOptions,
        testing::{attach, on_each_backend, read},
    },
    graph::Graph,
    node::{Node, offload::Refusal},
    nodes::{FileNode, FileOptions, MemoryNode, MemoryOptions, OnOffAuto},
};

const LEN: u64 = 1 << 20;

/// Two files, the source full of data.
fn files(graph: &Graph) -> ([Node; 2], [NamedTempFile; 2]) {
    let paths = [(); 2].map(|()| NamedTempFile::new().unwrap());
    paths[0].as_file().write_all_at(&[7; 1 << 20], 0).unwrap();
    paths[1].as_file().set_len(LEN).unwrap();
    let nodes = [0, 1].map(|at: usize| {
        let options = FileOptions {
            locking: OnOffAuto::Off,
            ..FileOptions::new(paths[at].path())
        };
        let node = FileNode::open(&options).unwrap();
        graph.add_node(None, node).unwrap()
    });
    (nodes, paths)
}

/// Lets the kernel begin to copy, and gives that up.
async fn abandon_copy(cx: &AioContext, copy: &BlockCopy, target: &Node) {
    // Sharing blocks would be over at once, or refused.
    copy.mover.methods.attempt().refused(Refusal::Never);
    let claim = copy.claim(ByteRange::between(0, LEN), u64::MAX).unwrap();
    let mut copying = pin!(copy.copy(cx, claim));
    poll_fn(|task| {
        assert!(copying.as_mut().poll(task).is_pending());
        match target.in_flight() {
            0 => Poll::Pending,
            _ => Poll::Ready(()),
        }
    })
    .await;
}

#[test]
fn what_the_kernel_may_still_be_reading_is_not_given_back() {
    on_each_backend(|cx| async move {
        let graph = Graph::new();
        let ([source, target], paths) = files(&graph);
        let (from, to) = (attach(&graph, &source), attach(&graph, &target));
        let copy = BlockCopy::new(from, to, CopyOptions::default()).unwrap();
        abandon_copy(&cx, &copy, &target).await;

        assert_eq!((source.in_flight(), target.in_flight()), (1, 1));
        let whole = ByteRange::between(0, LEN);
        assert!(copy.claim(whole, u64::MAX).is_none(), "it is in flight");
        assert!(copy.needs_copy(whole), "a guest has to wait");

        // Whoever drains the target waits until the kernel is done.
        drop(graph.drain(std::slice::from_ref(&target)).await);
        assert_eq!(copy.claim(whole, u64::MAX).unwrap().range(), whole);
        assert!(std::fs::read(paths[1].path()).unwrap() == vec![7; 1 << 20]);
    });
}

#[test]
fn a_copy_that_is_given_up_keeps_its_target_until_the_kernel_is_done() {
    on_each_backend(|cx| async move {
        let graph = Graph::new();
        let ([source, target], _paths) = files(&graph);
        let (from, to) = (attach(&graph, &source), attach(&graph, &target));
        let copy = BlockCopy::new(from, to, CopyOptions::default()).unwrap();
        abandon_copy(&cx, &copy, &target).await;
        let keeper = std::sync::Arc::new(());
        copy.give_up(Box::new(keeper.clone()));

        assert_eq!(std::sync::Arc::strong_count(&keeper), 2);
        drop(graph.drain(std::slice::from_ref(&target)).await);
        while std::sync::Arc::strong_count(&keeper) > 1 {
            cx.yield_now().await;
        }
    });
}

#[test]
fn a_long_claim_that_the_kernel_refuses_is_read_and_written_a_chunk_at_a_time() {
    on_each_backend(|cx| async move {
        let len = 4 * LEN;
        let graph = Graph::new();
        let path = NamedTempFile::new().unwrap();
        let content: Vec<u8> = (0..=255).cycle().take(4 << 20).collect();
        path.as_file().write_all_at(&content, 0).unwrap();
        let file = FileNode::open(&FileOptions::new(path.path())).unwrap();
        let source = graph.add_node(None, file).unwrap();
        // Memory is no file.
        let memory = MemoryNode::new(MemoryOptions::new(len)).unwrap();
        let target = graph.add_node(None, memory).unwrap();
        let (from, to) = (attach(&graph, &source), attach(&graph, &target));
        let copy = BlockCopy::new(from, to, CopyOptions::default()).unwrap();
        // It has been told that sharing blocks takes no time.
        for _ in 0..10 {
            copy.mover.methods.attempt().moved(copy.data_bytes_max(), 1);
        }
        let whole = ByteRange::between(0, len);
        let claim = copy.claim(whole, u64::MAX).unwrap();
        assert_eq!(claim.range(), whole);
        let outcome = copy.copy(&cx, claim).await.unwrap();
        assert_eq!(outcome.range, ByteRange::between(0, 2 * LEN));
        assert_eq!(copy.done_bytes(), 2 * LEN);

        copy.ensure_copied(&cx, whole).await.unwrap();
        assert!(read(&attach(&graph, &target), &cx, whole).await == content);
        assert_eq!(copy.counters().offloaded_bytes, 0);
    });
}
