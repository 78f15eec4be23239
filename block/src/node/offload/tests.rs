//! The kernel as mover: through which nodes, when not, and that reads and writes see it.

use std::{
    fs,
    future::Future,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    pin::pin,
    task::{Context, Poll, Waker},
};

use aio::{AioContext, BackendKind, Config, IoBuf};
use tempfile::NamedTempFile;

use super::{OffloadKind, Refusal, offload, refusal};
use crate::{
    allocation::{AllocationStatus, ByteRange},
    bitmap::BitmapOptions,
    graph::{
        Graph,
        child::{Attachment, Child, ChildRole},
        permission::{Permission, Permissions},
    },
    node::Node,
    node_driver::{NodeDriver, RequestFlags},
    nodes::{
        CbwHandle, CbwOptions, CopyBeforeWriteNode, FaultControl, FaultNode, FileNode, FileOptions,
        MemoryNode, MemoryOptions, OnOffAuto, RawNode, RawOptions,
    },
};

const MIB: u64 = 1 << 20;
const LEN: u64 = 4 * MIB;

fn on_each_backend<F: Future<Output = ()>>(test: impl Fn(AioContext) -> F) {
    for backend in [BackendKind::Epoll, BackendKind::IoUring] {
        if backend == BackendKind::Epoll || aio::probe_io_uring().is_ok() {
            let config = Config {
                backend: Some(backend),
                ..Config::default()
            };
            aio::run(config, &test).unwrap();
        }
    }
}

/// Two files of one file system as nodes, the source full of bytes that tell their place.
struct Files {
    graph: Graph,
    source: Node,
    target: Node,
    paths: [NamedTempFile; 2],
}

impl Files {
    fn new(direct: OnOffAuto) -> Self {
        Self::in_folder(&std::env::temp_dir(), direct)
    }

    fn in_folder(folder: &Path, direct: OnOffAuto) -> Self {
        let paths = [(); 2].map(|()| NamedTempFile::new_in(folder).unwrap());
        paths[0].as_file().write_all_at(&content(), 0).unwrap();
        paths[1].as_file().set_len(LEN).unwrap();
        let graph = Graph::new();
        let [source, target] = ["source", "target"].map(|name| {
            let path = paths[usize::from(name == "target")].path();
            file_node(&graph, name, path, direct)
        });
        Self {
            graph,
            source,
            target,
            paths,
        }
    }

    async fn copy(&self, cx: &AioContext, at: ByteRange, to: u64) -> Result<(), Refusal> {
        let (source, target) = (
            edge(&self.graph, &self.source),
            edge(&self.graph, &self.target),
        );
        offload(cx, OffloadKind::Copy, (&source, at), (&target, to)).await
    }

    fn on_disk(&self) -> Vec<u8> {
        fs::read(self.paths[1].path()).unwrap()
    }
}

fn content() -> Vec<u8> {
    let words = (0..LEN / 8).map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    words.flat_map(u64::to_le_bytes).collect()
}

fn file_node(graph: &Graph, name: &str, path: &Path, direct: OnOffAuto) -> Node {
    let options = FileOptions {
        direct,
        locking: OnOffAuto::Off,
        ..FileOptions::new(path)
    };
    let file = FileNode::open(&options).unwrap();
    graph.add_node(Some(name), file).unwrap()
}

fn edge(graph: &Graph, node: &Node) -> Child {
    let permissions = Permissions::uses(&[Permission::ConsistentRead, Permission::Write]);
    let attachment = Attachment::new("test", ChildRole::Primary, permissions);
    graph.attach(node, attachment).unwrap()
}

/// A node over `below`, made of an edge to it.
fn above<D: NodeDriver>(graph: &Graph, below: &Node, make: impl FnOnce(Child) -> D) -> Node {
    let builder = graph.build_node(None).unwrap();
    let permissions = Permissions::uses(&[Permission::ConsistentRead, Permission::Write]);
    let child = builder.attach(below, "file", ChildRole::Filtered, permissions);
    let driver = make(child.unwrap());
    builder.finish(driver)
}

fn range(start: u64, len: u64) -> ByteRange {
    ByteRange::new(start, len).unwrap()
}

fn bytes(at: ByteRange) -> std::ops::Range<usize> {
    usize::try_from(at.start()).unwrap()..usize::try_from(at.end()).unwrap()
}

#[test]
fn bytes_go_from_file_to_file_and_nowhere_else() {
    for folder in [std::env::temp_dir(), "/dev/shm".into()] {
        if folder.is_dir() {
            on_each_backend(|cx| bytes_go_in(cx, folder.clone(), OnOffAuto::Auto));
            on_each_backend(|cx| bytes_go_in(cx, folder.clone(), OnOffAuto::Off));
        }
    }
}

async fn bytes_go_in(cx: AioContext, folder: PathBuf, direct: OnOffAuto) {
    let files = Files::in_folder(&folder, direct);
    let at = range(MIB, 2 * MIB);
    files.copy(&cx, at, 64 << 10).await.unwrap();

    let mut expected = vec![0; content().len()];
    expected[bytes(range(64 << 10, 2 * MIB))].copy_from_slice(&content()[bytes(at)]);
    assert!(files.on_disk() == expected);
    let (from, to) = (files.source.statistics(), files.target.statistics());
    assert_eq!((from.reads, from.read_bytes, from.writes), (1, 2 * MIB, 0));
    assert_eq!((to.writes, to.written_bytes, to.reads), (1, 2 * MIB, 0));
}

#[test]
fn readers_of_the_node_see_what_the_kernel_moved() {
    on_each_backend(|cx| async move {
        for direct in [OnOffAuto::Auto, OnOffAuto::Off] {
            let files = Files::new(direct);
            let target = edge(&files.graph, &files.target);
            let read = async || {
                let (buf, result) = target.read(&cx, 0, IoBuf::heap(1 << 20)).await;
                result.unwrap();
                buf.to_vec()
            };
            // Before, so that old bytes and holes are remembered wherever they can be.
            assert!(read().await.iter().all(|byte| *byte == 0));
            let hole = target.extent(&cx, range(0, LEN)).await.unwrap();
            assert_eq!(hole.status, AllocationStatus::Zero);

            files.copy(&cx, range(MIB, MIB), 0).await.unwrap();
            assert!(read().await == content()[bytes(range(MIB, MIB))]);
            let data = target.extent(&cx, range(0, LEN)).await.unwrap();
            let expected = (AllocationStatus::Data, MIB);
            assert_eq!((data.status, data.len_bytes), expected);

            // And what was written through the node just now is what the kernel moves.
            let source = edge(&files.graph, &files.source);
            let mut buf = IoBuf::heap(4096);
            buf.fill(0xab);
            let flags = RequestFlags::default();
            source.write(&cx, MIB, buf, flags).await.1.unwrap();
            files.copy(&cx, range(MIB, MIB), 0).await.unwrap();
            assert!(read().await[..4096].iter().all(|byte| *byte == 0xab));
        }
    });
}

#[test]
fn bitmaps_of_the_target_are_marked_also_if_it_fails_half_way() {
    on_each_backend(|cx| async move {
        for shorter in [false, true] {
            let files = Files::new(OnOffAuto::Off);
            if shorter {
                files.paths[0].as_file().set_len(3 * MIB / 2).unwrap();
            }
            let add = |node: &Node| node.bitmaps().add("b", BitmapOptions::default()).unwrap();
            let (at_source, at_target) = (add(&files.source), add(&files.target));
            let moved = files.copy(&cx, range(MIB, MIB), 0).await;
            assert_eq!(moved.is_err(), shorter);
            let marked = at_target.snapshot().unwrap();
            assert!(marked.is_dirty(0) && marked.is_dirty(MIB - 1));
            assert!(!marked.is_dirty(MIB));
            assert!(at_source.snapshot().unwrap().is_clean());
        }
    });
}

#[test]
fn windows_are_looked_through_and_what_looks_at_requests_is_not() {
    on_each_backend(|cx| async move {
        let files = Files::new(OnOffAuto::Auto);
        let graph = &files.graph;
        let window = |below: &Node| {
            let options = RawOptions {
                offset_bytes: MIB,
                len_bytes: Some(2 * MIB),
            };
            above(graph, below, |child| RawNode::new(child, options).unwrap())
        };
        let (from, to) = (window(&files.source), window(&files.target));
        let (source, target) = (edge(graph, &from), edge(graph, &to));
        let at = range(64 << 10, MIB);
        let kind = OffloadKind::Copy;
        offload(&cx, kind, (&source, at), (&target, 0))
            .await
            .unwrap();
        let (moved, there) = (range(MIB + (64 << 10), MIB), range(MIB, MIB));
        assert!(files.on_disk()[bytes(there)] == content()[bytes(moved)]);
        for node in [&from, &files.source] {
            assert_eq!(node.statistics().read_bytes, MIB);
        }
        for node in [&to, &files.target] {
            assert_eq!(node.statistics().written_bytes, MIB);
        }

        let control = FaultControl::new();
        let fault = above(graph, &files.source, |child| FaultNode::new(child, control));
        let source = edge(graph, &fault);
        let moved = offload(&cx, kind, (&source, at), (&target, 0)).await;
        assert_eq!(moved, Err(Refusal::Nowhere));
        let memory = MemoryNode::new(MemoryOptions::new(LEN)).unwrap();
        let memory = graph.add_node(Some("memory"), memory).unwrap();
        let (source, memory) = (edge(graph, &files.source), edge(graph, &memory));
        let moved = offload(&cx, kind, (&source, at), (&memory, 0)).await;
        assert_eq!(moved, Err(Refusal::Nowhere));
    });
}

#[test]
fn the_odd_end_of_a_file_is_left_to_those_who_know_how_to_write_it() {
    on_each_backend(|cx| async move {
        let files = Files::new(OnOffAuto::Off);
        let len = LEN - 100;
        for path in &files.paths {
            path.as_file().set_len(len).unwrap();
        }
        let graph = Graph::new();
        let node = |at: usize| {
            let path = files.paths[at].path();
            file_node(&graph, &format!("disk{at}"), path, OnOffAuto::Auto)
        };
        let (source, target) = (node(0), node(1));
        let (from, to) = (edge(&graph, &source), edge(&graph, &target));
        let from = (&from, range(MIB, len - MIB));
        let moved = offload(&cx, OffloadKind::Copy, from, (&to, MIB));
        let expected = match source.limits().request_align_bytes {
            1 => Ok(()),
            _ => Err(Refusal::Nowhere),
        };
        assert_eq!(moved.await, expected);
        assert_eq!(files.paths[1].as_file().metadata().unwrap().len(), len);
    });
}

/// Puts a filter above `node` that saves what is overwritten.
async fn put_filter_above(graph: &Graph, node: &Node) -> (Node, CbwHandle) {
    let memory = MemoryNode::new(MemoryOptions::new(LEN)).unwrap();
    let saved = graph.add_node(None, memory).unwrap();
    let options = CbwOptions::default();
    let (filter, handle) =
        CopyBeforeWriteNode::add_to(graph, None, (node, &saved), options).unwrap();
    graph.insert_filter(node, &filter).await.unwrap();
    (filter, handle)
}

#[test]
fn nothing_is_written_past_a_filter_that_must_save_it() {
    on_each_backend(|cx| async move {
        let files = Files::new(OnOffAuto::Auto);
        let (filter, _handle) = put_filter_above(&files.graph, &files.target).await;
        let (from, to) = (
            edge(&files.graph, &files.source),
            edge(&files.graph, &filter),
        );
        let moved = offload(&cx, OffloadKind::Copy, (&from, range(0, MIB)), (&to, 0)).await;
        assert_eq!(moved, Err(Refusal::Nowhere));
        assert!(files.on_disk().iter().all(|byte| *byte == 0));
    });
}

#[test]
fn what_is_read_through_a_filter_goes_past_it() {
    on_each_backend(|cx| async move {
        let files = Files::new(OnOffAuto::Auto);
        let (filter, _handle) = put_filter_above(&files.graph, &files.source).await;
        let (from, to) = (
            edge(&files.graph, &filter),
            edge(&files.graph, &files.target),
        );
        let at = range(0, MIB);
        offload(&cx, OffloadKind::Copy, (&from, at), (&to, 0))
            .await
            .unwrap();
        assert_eq!(filter.statistics().read_bytes, MIB);
        assert!(files.on_disk()[bytes(at)] == content()[bytes(at)]);
    });
}

#[test]
fn nothing_is_moved_within_a_file() {
    on_each_backend(|cx| async move {
        let files = Files::new(OnOffAuto::Auto);
        let path = files.paths[0].path();
        let again = file_node(&files.graph, "again", path, OnOffAuto::Auto);
        let (source, target) = (
            edge(&files.graph, &files.source),
            edge(&files.graph, &again),
        );
        for kind in [OffloadKind::Copy, OffloadKind::Clone] {
            let (from, to) = ((&source, range(0, MIB)), (&target, 2 * MIB));
            assert_eq!(offload(&cx, kind, from, to).await, Err(Refusal::Never));
        }
        assert!(fs::read(path).unwrap() == content());
    });
}

#[test]
fn what_a_read_or_a_write_would_be_refused_is_refused() {
    on_each_backend(|cx| async move {
        let files = Files::new(OnOffAuto::Off);
        assert_eq!(
            files.copy(&cx, range(LEN - MIB, 2 * MIB), 0).await,
            Err(Refusal::Nowhere),
            "past the source's end"
        );
        assert_eq!(
            files.copy(&cx, range(0, MIB), LEN - 4096).await,
            Err(Refusal::Nowhere),
            "past the target's end"
        );
        let reader = Permissions::uses(&[Permission::ConsistentRead]);
        let attachment = Attachment::new("reader", ChildRole::Primary, reader);
        let target = files.graph.attach(&files.target, attachment).unwrap();
        let source = edge(&files.graph, &files.source);
        let (from, to) = ((&source, range(0, MIB)), (&target, 0));
        let moved = offload(&cx, OffloadKind::Copy, from, to).await;
        assert_eq!(moved, Err(Refusal::Nowhere), "by an edge that only reads");
        assert!(files.on_disk().iter().all(|byte| *byte == 0));
    });
}

#[test]
fn it_waits_for_nothing_while_it_is_inside_a_node() {
    on_each_backend(|cx| async move {
        let files = Files::new(OnOffAuto::Auto);
        for node in [&files.source, &files.target] {
            let section = files.graph.drain(std::slice::from_ref(node)).await;
            let moved = files.copy(&cx, range(0, MIB), 0).await;
            assert_eq!(moved, Err(Refusal::NotNow), "{} is drained", node.name());
            assert_eq!((files.source.in_flight(), files.target.in_flight()), (0, 0));
            drop(section);
        }
        let held = files.target.changing().serialise(range(0, 512)).await;
        let moved = files.copy(&cx, range(MIB, MIB), MIB).await;
        assert_eq!(moved, Err(Refusal::NotNow), "somebody serialises");
        drop(held);
        files.copy(&cx, range(MIB, MIB), MIB).await.unwrap();
    });
}

#[test]
fn both_nodes_count_it_until_the_kernel_is_done() {
    on_each_backend(|cx| async move {
        let files = Files::new(OnOffAuto::Auto);
        let mut moving = pin!(files.copy(&cx, range(0, LEN), 0));
        let mut task = Context::from_waker(Waker::noop());
        assert!(matches!(moving.as_mut().poll(&mut task), Poll::Pending));
        assert_eq!((files.source.in_flight(), files.target.in_flight()), (1, 1));
        // Whoever serialises waits for it.
        let mut serialising = pin!(files.target.changing().serialise(range(0, 512)));
        assert!(serialising.as_mut().poll(&mut task).is_pending());
        moving.await.unwrap();
        drop(serialising.await);
        assert_eq!((files.source.in_flight(), files.target.in_flight()), (0, 0));
    });
}

#[test]
fn a_file_that_became_shorter_ends_it() {
    on_each_backend(|cx| async move {
        let files = Files::new(OnOffAuto::Off);
        files.paths[0].as_file().set_len(MIB).unwrap();
        let moved = files.copy(&cx, range(0, 2 * MIB), 0).await;
        assert_eq!(moved, Err(Refusal::NotNow), "a read will tell");
        assert_eq!(files.target.statistics().writes, 0);
    });
}

#[test]
fn only_some_errors_are_for_ever() {
    let of = |errno| refusal(&std::io::Error::from_raw_os_error(errno));
    for errno in [libc::EXDEV, libc::EOPNOTSUPP, libc::EINVAL, libc::ENOSYS] {
        assert_eq!(of(errno), Refusal::Never);
    }
    for errno in [libc::EIO, libc::ENOSPC, libc::EDQUOT, libc::ENOMEM] {
        assert_eq!(of(errno), Refusal::NotNow);
    }
}
