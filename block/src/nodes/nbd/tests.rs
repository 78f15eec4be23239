//! The client against servers that serve, that vanish, that say nothing, and that lie.

mod hostile;
mod lost;
mod server;
mod threads;

use ::nbd::{Command, CommandFlags, NbdAddress, NbdUri, TransmissionFlags};
use aio::{AioContext, BackendKind, Config, IoBuf};

use self::server::{Act, DISK_BYTES, TestServer, everything};
use super::{NbdNode, NbdOptions};
use crate::{
    allocation::{AllocationStatus, ByteRange},
    error::ErrorKind,
    graph::{
        Graph,
        child::{Attachment, Child, ChildRole},
    },
    node_driver::{RequestFlags, Way},
    testing::disk::writer,
};

const KIB: u64 = 1 << 10;
const SECOND_NS: u64 = 1_000_000_000;

/// Runs a test on each backend.
fn on_each_backend<F: Future<Output = ()>>(test: impl Fn(AioContext) -> F) {
    for backend in [BackendKind::Epoll, BackendKind::IoUring] {
        if backend == BackendKind::IoUring && aio::probe_io_uring().is_err() {
            continue;
        }
        let config = Config {
            backend: Some(backend),
            ..Config::default()
        };
        aio::run(config, &test).unwrap();
    }
}

/// Lets others go on until something holds.
async fn until(cx: &AioContext, mut holds: impl FnMut() -> bool) {
    while !holds() {
        std::thread::yield_now();
        cx.yield_now().await;
    }
}

fn options(server: &TestServer) -> NbdOptions {
    NbdOptions::new(server.uri())
}

/// A node in a graph of its own, and an edge to it.
async fn opened(cx: &AioContext, options: &NbdOptions) -> Child {
    let node = NbdNode::open(cx, options).await.unwrap();
    let graph = Graph::new();
    let node = graph.add_node(Some("far"), node).unwrap();
    let wants = if node.is_read_only() {
        crate::Permissions::uses(&[crate::Permission::ConsistentRead])
    } else {
        writer()
    };
    let attachment = Attachment::new("test", ChildRole::Primary, wants);
    graph.attach(&node, attachment).unwrap()
}

fn pattern(len: u64) -> IoBuf {
    let mut buf = IoBuf::heap(usize::try_from(len).unwrap());
    for (at, byte) in buf.iter_mut().enumerate() {
        *byte = u8::try_from(at % 251).unwrap();
    }
    buf
}

fn range(start: u64, len: u64) -> ByteRange {
    ByteRange::new(start, len).unwrap()
}

async fn read(edge: &Child, cx: &AioContext, offset: u64, len: u64) -> Vec<u8> {
    let buf = IoBuf::heap(usize::try_from(len).unwrap());
    let (buf, result) = edge.read(cx, offset, buf).await;
    result.unwrap();
    buf.to_vec()
}

#[test]
fn what_is_asked_of_the_node_is_asked_of_the_server() {
    on_each_backend(|cx| async move {
        let server = TestServer::start();
        let edge = opened(&cx, &options(&server)).await;
        assert_eq!(edge.len_bytes(), DISK_BYTES);

        let (sent, way) = edge
            .write(&cx, 1000, pattern(100 * KIB), RequestFlags::default())
            .await;
        assert_eq!(way.unwrap(), Way::Buffered);
        assert_eq!(read(&edge, &cx, 1000, 100 * KIB).await, *sent);
        let durable = RequestFlags {
            fua: true,
            ..RequestFlags::default()
        };
        edge.write(&cx, 0, pattern(5), durable).await.1.unwrap();
        let unmap = RequestFlags {
            may_unmap: true,
            no_fallback: true,
            ..RequestFlags::default()
        };
        edge.write_zeroes(&cx, range(2000, KIB), unmap)
            .await
            .unwrap();
        edge.write_zeroes(&cx, range(4000, KIB), durable)
            .await
            .unwrap();
        edge.discard(&cx, range(0, 512)).await.unwrap();
        edge.flush(&cx).await.unwrap();

        let flags_of = |command| {
            let seen = server.seen();
            let flags = seen.iter().filter(|it| it.command == command);
            flags.map(|it| it.flags).collect::<Vec<_>>()
        };
        let none = CommandFlags::NONE;
        assert_eq!(flags_of(Command::Write), [none, CommandFlags::FUA]);
        assert_eq!(
            flags_of(Command::WriteZeroes),
            [
                CommandFlags::FAST_ZERO,
                CommandFlags::NO_HOLE | CommandFlags::FUA
            ]
        );
        assert_eq!(flags_of(Command::Trim), [none]);
        assert_eq!(flags_of(Command::Flush), [none]);
        let disk = server.disk();
        assert_eq!(disk[1000..2000], sent[..1000]);
        assert!(disk[2000..3024].iter().all(|byte| *byte == 0));
    });
}

#[test]
fn extents_are_those_of_the_server() {
    on_each_backend(|cx| async move {
        let server = TestServer::start();
        let edge = opened(&cx, &options(&server)).await;
        let mut buf = IoBuf::heap(4096);
        buf.fill(7);
        edge.write(&cx, 8192, buf, RequestFlags::default())
            .await
            .1
            .unwrap();

        let first = edge.extent(&cx, range(0, DISK_BYTES)).await.unwrap();
        assert_eq!(
            (first.len_bytes, first.status),
            (8192, AllocationStatus::Zero)
        );
        let second = edge.extent(&cx, range(8192, 100)).await.unwrap();
        assert_eq!(
            (second.len_bytes, second.status),
            (100, AllocationStatus::Data)
        );
    });
}

#[test]
fn without_contexts_all_is_data() {
    on_each_backend(|cx| async move {
        let server = TestServer::with(|info| info.contexts.clear());
        let edge = opened(&cx, &options(&server)).await;
        let extent = edge.extent(&cx, range(0, DISK_BYTES)).await.unwrap();
        assert_eq!(extent.status, AllocationStatus::Data);
        assert!(server.seen().is_empty());
    });
}

#[test]
fn a_server_that_can_do_little_is_asked_for_little() {
    on_each_backend(|cx| async move {
        let server = TestServer::with(|info| info.flags = TransmissionFlags::SEND_FLUSH);
        let edge = opened(&cx, &options(&server)).await;
        let durable = RequestFlags {
            fua: true,
            ..RequestFlags::default()
        };
        edge.write(&cx, 0, pattern(KIB), durable).await.1.unwrap();
        edge.write_zeroes(&cx, range(0, 100), RequestFlags::default())
            .await
            .unwrap();
        edge.discard(&cx, range(0, KIB)).await.unwrap();
        let fast = RequestFlags {
            no_fallback: true,
            ..RequestFlags::default()
        };
        let refused = edge.write_zeroes(&cx, range(0, KIB), fast).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unsupported);

        let commands: Vec<_> = server.seen().iter().map(|it| it.command).collect();
        assert_eq!(commands, [Command::Write, Command::Flush, Command::Write]);
        assert!(server.disk()[..100].iter().all(|byte| *byte == 0));
    });
}

#[test]
fn zeroing_that_may_be_slow_is_not_taken_for_fast() {
    on_each_backend(|cx| async move {
        let slow = everything().without(TransmissionFlags::SEND_FAST_ZERO);
        let server = TestServer::with(|info| info.flags = slow);
        let edge = opened(&cx, &options(&server)).await;
        let fast = RequestFlags {
            no_fallback: true,
            ..RequestFlags::default()
        };
        let refused = edge.write_zeroes(&cx, range(0, KIB), fast).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unsupported);
        assert!(server.seen().is_empty());
    });
}

#[test]
fn the_block_sizes_of_the_server_are_kept_to() {
    on_each_backend(|cx| async move {
        let server = TestServer::with(|info| {
            info.block_sizes.minimum_bytes = 512;
            info.block_sizes.maximum_bytes = 64 << 10;
        });
        let edge = opened(&cx, &options(&server)).await;
        let limits = edge.limits();
        assert_eq!(
            (limits.request_align_bytes, limits.transfer_bytes_max),
            (512, 64 << 10)
        );
        let sent = pattern(200 * KIB);
        let flags = RequestFlags::default();
        let (sent, written) = edge.write(&cx, 100, sent, flags).await;
        written.unwrap();
        assert_eq!(read(&edge, &cx, 100, 200 * KIB).await, *sent);
        for request in server.seen() {
            assert!(request.len_bytes <= 64 << 10, "{request:?}");
            assert!(request.offset_bytes.is_multiple_of(512), "{request:?}");
            assert!(request.len_bytes.is_multiple_of(512), "{request:?}");
        }
    });
}

#[test]
fn a_read_only_export_is_a_read_only_node() {
    on_each_backend(|cx| async move {
        let server = TestServer::with(|info| info.flags = TransmissionFlags::READ_ONLY);
        let edge = opened(&cx, &options(&server)).await;
        assert!(edge.limits().read_only);
        let server = TestServer::start();
        let wanted = NbdOptions {
            read_only: true,
            ..options(&server)
        };
        let edge = opened(&cx, &wanted).await;
        assert!(edge.limits().read_only);
        read(&edge, &cx, 0, KIB).await;
    });
}

#[test]
fn errors_of_the_server_are_told_with_its_words_and_number() {
    on_each_backend(|cx| async move {
        let server = TestServer::start();
        let edge = opened(&cx, &options(&server)).await;
        for (errno, kind, number) in [
            (::nbd::Errno::NoSpc, ErrorKind::NoSpace, libc::ENOSPC),
            (::nbd::Errno::Io, ErrorKind::Io, libc::EIO),
            (::nbd::Errno::Perm, ErrorKind::Io, libc::EPERM),
            (::nbd::Errno::NotSup, ErrorKind::Io, libc::EIO),
            (::nbd::Errno::Shutdown, ErrorKind::Io, libc::ESHUTDOWN),
        ] {
            server.behave(move |request| {
                let style = ::nbd::ReplyStyle::Structured;
                Act::Say(style.error(request.cookie, errno, "no way").to_vec())
            });
            let flags = RequestFlags::default();
            let (_, result) = edge.write(&cx, 0, pattern(KIB), flags).await;
            let error = result.unwrap_err();
            assert_eq!((error.kind(), error.errno()), (kind, Some(number)));
            assert!(error.to_string().contains("'no way'"), "{error}");
        }
        server.behave(|request| {
            let style = ::nbd::ReplyStyle::Structured;
            Act::Say(
                style
                    .error(request.cookie, ::nbd::Errno::NotSup, "")
                    .to_vec(),
            )
        });
        let fast = RequestFlags {
            no_fallback: true,
            ..RequestFlags::default()
        };
        let refused = edge.write_zeroes(&cx, range(0, KIB), fast).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(server.accepted(), 1, "errors end no connection");
    });
}

#[test]
fn an_export_that_is_not_there_is_not_found() {
    on_each_backend(|cx| async move {
        let server = TestServer::start();
        let mut wrong = options(&server);
        wrong.server.export = "other".to_owned();
        let error = NbdNode::open(&cx, &wrong).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("'other'"), "{error}");

        let nowhere = NbdUri {
            address: NbdAddress::Unix("/nonexistent/nbd.sock".into()),
            export: String::new(),
        };
        let error = NbdNode::open(&cx, &NbdOptions::new(nowhere)).await;
        assert_eq!(error.unwrap_err().kind(), ErrorKind::NotFound);
        let too_many = NbdOptions {
            connections_max: 17,
            ..options(&server)
        };
        let error = NbdNode::open(&cx, &too_many).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    });
}

#[test]
fn the_server_hears_a_good_bye() {
    on_each_backend(|cx| async move {
        let server = TestServer::start();
        let edge = opened(&cx, &options(&server)).await;
        read(&edge, &cx, 0, KIB).await;
        drop(edge);
        until(&cx, || {
            let seen = server.seen();
            seen.last().is_some_and(|it| it.command == Command::Disc)
        })
        .await;
    });
}

#[test]
fn large_data_is_received_where_it_belongs() {
    on_each_backend(|cx| async move {
        let server = TestServer::start();
        let edge = opened(&cx, &options(&server)).await;
        for _ in 0..3 {
            let buf = IoBuf::heap(256 << 10);
            let (_, way) = edge.read(&cx, 0, buf).await;
            assert_eq!(way.unwrap(), Way::Buffered);
        }
    });
}
