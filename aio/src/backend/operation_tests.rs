//! Operations beyond reading and writing: what every backend must do alike.

#![expect(
    clippy::excessive_nesting,
    reason = "the harness nests each test twice before it begins"
)]

use std::{
    cell::Cell,
    fs::File,
    io::{Read, Write},
    net::TcpListener,
    os::{
        fd::AsFd,
        unix::{
            fs::{FileExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    rc::Rc,
};

use super::tests_on_each::{on_each, on_each_with};
use crate::{Address, AioContext, Config, FallocateMode, Fd, IoBuf, SendPart};

fn scratch(bytes: &[u8]) -> File {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}

fn filled(len: usize, byte: u8) -> IoBuf {
    let mut buf = IoBuf::heap(len);
    buf.fill(byte);
    buf
}

fn pipe() -> (Fd, Fd) {
    let (reader, writer) = std::io::pipe().unwrap();
    (
        Fd::from(std::os::fd::OwnedFd::from(reader)),
        Fd::from(std::os::fd::OwnedFd::from(writer)),
    )
}

#[test]
fn several_buffers_are_written_and_read_as_one_request() {
    on_each(|cx| {
        let file = Fd::from(scratch(b""));
        cx.block_on(async {
            let bufs = vec![filled(3, 1), filled(0, 9), filled(5000, 2), filled(1, 3)];
            let (bufs, count) = cx.write_vectored(&file, 10, bufs).await;
            assert_eq!((bufs.len(), count.unwrap()), (4, 5004));
            let bufs = vec![filled(5000, 0), filled(100, 0)];
            let (bufs, count) = cx.read_vectored(&file, 10, bufs).await;
            assert_eq!(count.unwrap(), 5004);
            assert_eq!(bufs[0][..4], [1, 1, 1, 2]);
            assert_eq!(bufs[1][..5], [2, 2, 2, 3, 0]);
            let (bufs, count) = cx.read_vectored(&file, 10, Vec::new()).await;
            assert_eq!((bufs.len(), count.unwrap()), (0, 0));
            let bufs = (0..1025).map(|_| filled(2, 7)).collect();
            let (bufs, count) = cx.write_vectored(&file, 0, bufs).await;
            assert_eq!((bufs.len(), count.unwrap()), (1025, 2048));
        });
    });
}

#[test]
fn a_file_is_opened_looked_at_and_its_errors_are_the_systems() {
    on_each(|cx| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        cx.block_on(async {
            let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
            let file = cx.open_at(None, &path, flags, 0o640).await.unwrap();
            let (_, written) = cx.write_all(&file, 5000, filled(1000, 1)).await;
            written.unwrap();
            let status = cx.file_status(&file).await.unwrap();
            assert_eq!(status.len_bytes, 6000);
            assert_eq!(status.mode & (libc::S_IFMT | 0o700), libc::S_IFREG | 0o600);
            assert!(status.allocated_bytes >= 1000 && status.block_bytes >= 512);
            let again = cx.open_at(None, &path, flags, 0o640).await;
            assert_eq!(again.unwrap_err().raw_os_error(), Some(libc::EEXIST));
            let directory = Fd::from(File::open(folder.path()).unwrap());
            let name = std::path::Path::new("image");
            let again = cx.open_at(Some(&directory), name, libc::O_RDONLY, 0).await;
            let (buf, count) = cx.read(&again.unwrap(), 5000, filled(9, 0)).await;
            assert_eq!((count.unwrap(), buf[8]), (9, 1));
            let cut = cx.open_at(None, std::path::Path::new("a\0b"), 0, 0).await;
            assert_eq!(cut.unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
        });
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o077, 0o040);
    });
}

#[test]
fn an_open_that_nobody_waits_for_leaves_no_descriptor() {
    on_each(|cx| {
        let folder = tempfile::tempdir().unwrap();
        let open = || {
            std::fs::read_dir("/proc/self/fd")
                .unwrap()
                .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
                .filter(|target| target.starts_with(folder.path()))
                .count()
        };
        let path = folder.path().join("late");
        let flags = libc::O_RDWR | libc::O_CREAT;
        for _ in 0..20 {
            let mut opening = Box::pin(cx.open_at(None, &path, flags, 0o600));
            let once = std::future::poll_fn(|task| {
                assert!(opening.as_mut().poll(task).is_pending());
                std::task::Poll::Ready(())
            });
            cx.block_on(once);
        }
        cx.block_on(async {
            while cx.stats().requests_in_flight > 0 {
                cx.sleep_ns(100_000).await;
            }
        });
        assert!(path.exists());
        assert_eq!(open(), 0);
    });
}

#[test]
fn ranges_are_copied_and_spliced_without_coming_here() {
    on_each(|cx| {
        let (from, to) = (scratch(b"0123456789"), scratch(b"----------"));
        let (from, to) = (Fd::from(from), Fd::from(to));
        let (reader, writer) = pipe();
        cx.block_on(async {
            let copied = cx.copy_file_range((&from, 2), (&to, 1), 3).await;
            assert_eq!(copied.unwrap(), 3);
            let at_end = cx.copy_file_range((&from, 10), (&to, 1), 3).await;
            assert_eq!(at_end.unwrap(), 0);
            let into = cx.splice((&from, Some(6)), (&writer, None), 100).await;
            assert_eq!(into.unwrap(), 4);
            let out = cx.splice((&reader, None), (&to, Some(5)), 3).await;
            assert_eq!(out.unwrap(), 3);
            let (buf, read) = cx.read_exact(&to, 0, filled(10, 0)).await;
            read.unwrap();
            assert_eq!(&buf[..], b"-234-678--");
            let same = cx.splice((&from, Some(0)), (&to, Some(0)), 1).await;
            assert_eq!(same.unwrap_err().raw_os_error(), Some(libc::EINVAL));
        });
    });
}

#[test]
fn what_cannot_share_blocks_says_so_and_changes_nothing() {
    on_each(|cx| {
        let page = 4096;
        let (from, to) = (Fd::from(scratch(&[1; 8192])), Fd::from(scratch(&[2; 8192])));
        let errno = |result: std::io::Result<()>| result.unwrap_err().raw_os_error().unwrap();
        cx.block_on(async {
            let shared = cx.clone_file_range((&from, 0), (&to, page), page).await;
            let (buf, read) = cx.read_exact(&to, 0, filled(8192, 0)).await;
            read.unwrap();
            // Whether the file system of the scratch files can do it is not for us to say.
            let expected = match shared {
                Ok(()) => 1,
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
                    2
                }
            };
            assert_eq!((buf[0], buf[4096]), (2, expected));
            let nothing = cx.clone_file_range((&from, 0), (&to, 0), 0).await;
            nothing.unwrap();
            let (reader, _writer) = pipe();
            let from_pipe = cx.clone_file_range((&reader, 0), (&to, 0), page).await;
            assert!([libc::EINVAL, libc::EXDEV].contains(&errno(from_pipe)));
            let beyond = cx.clone_file_range((&from, u64::MAX), (&to, 0), page).await;
            assert_eq!(errno(beyond), libc::EFBIG);
        });
    });
}

#[test]
fn a_clone_that_nobody_waits_for_keeps_its_descriptors() {
    on_each(|cx| {
        let (from, to) = (Fd::from(scratch(&[1; 4096])), Fd::from(scratch(&[2; 4096])));
        for _ in 0..20 {
            let (from, to) = (from.clone(), to.clone());
            let mut cloning = Box::pin(cx.clone_file_range((&from, 0), (&to, 0), 4096));
            let once = std::future::poll_fn(|task| {
                assert!(cloning.as_mut().poll(task).is_pending());
                std::task::Poll::Ready(())
            });
            cx.block_on(once);
            drop(cloning);
        }
        drop((from, to));
        cx.block_on(async {
            while cx.stats().requests_in_flight > 0 {
                cx.sleep_ns(100_000).await;
            }
        });
    });
}

#[test]
fn a_splice_waits_for_its_pipe() {
    on_each(|cx| {
        let file = Fd::from(scratch(b""));
        let (reader, writer) = std::io::pipe().unwrap();
        let reader = Fd::from(std::os::fd::OwnedFd::from(reader));
        let task = {
            let (cx, file) = (cx.clone(), file.clone());
            cx.clone()
                .spawn(async move { cx.splice((&reader, None), (&file, Some(0)), 9).await })
        };
        for _ in 0..3 {
            cx.poll(crate::Blocking::No);
        }
        assert!(!task.is_finished());
        (&writer).write_all(b"abc").unwrap();
        assert_eq!(cx.block_on(task).unwrap(), 3);
    });
}

#[test]
fn what_is_no_device_cannot_discard() {
    on_each(|cx| {
        let file = Fd::from(scratch(b"x"));
        let discarded = cx.block_on(cx.discard(&file, 0, 4096));
        assert_eq!(
            discarded.unwrap_err().raw_os_error(),
            Some(libc::EOPNOTSUPP)
        );
    });
}

/// Connects to `address`, where `accept` waits, and sees that bytes go both ways.
fn connects(cx: &AioContext, listener: Fd, address: &Address) {
    cx.block_on(async {
        let ours = cx.connect(address).await.unwrap();
        let theirs = cx.accept(&listener).await.unwrap();
        let (_, sent) = cx.send(&ours, vec![SendPart::header(b"ping")]).await;
        sent.unwrap();
        let (buf, received) = cx.recv_exact(&theirs, filled(4, 0), 0..4).await;
        received.unwrap();
        assert_eq!(&buf[..], b"ping");
        let (_, sent) = cx.send(&theirs, vec![SendPart::header(b"pong")]).await;
        sent.unwrap();
        let (buf, received) = cx.recv_exact(&ours, filled(4, 0), 0..4).await;
        received.unwrap();
        assert_eq!(&buf[..], b"pong");
    });
}

#[test]
fn sockets_connect_by_path_and_by_address() {
    on_each(|cx| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        connects(cx, Fd::from(listener), &Address::Unix(path.clone()));
        let refused = cx.block_on(cx.connect(&Address::Unix(path)));
        assert_eq!(
            refused.unwrap_err().raw_os_error(),
            Some(libc::ECONNREFUSED)
        );
        let nobody = Address::Unix(folder.path().join("nobody"));
        let nobody = cx.block_on(cx.connect(&nobody));
        assert_eq!(nobody.unwrap_err().raw_os_error(), Some(libc::ENOENT));
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(local) else {
                continue;
            };
            let address = listener.local_addr().unwrap();
            connects(cx, Fd::from(listener), &Address::Ip(address));
            let refused = cx.block_on(cx.connect(&Address::Ip(address)));
            assert_eq!(
                refused.unwrap_err().raw_os_error(),
                Some(libc::ECONNREFUSED)
            );
        }
    });
}

#[test]
fn a_socket_that_does_not_block_waits_all_the_same() {
    on_each(|cx| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let flags = ours.try_clone().unwrap();
        let ours = Fd::from(ours);
        let receives = {
            let (cx, ours) = (cx.clone(), ours.clone());
            cx.clone()
                .spawn(async move { cx.recv_exact(&ours, filled(2, 0), 0..2).await.1 })
        };
        for byte in [b"a", b"b"] {
            for _ in 0..3 {
                cx.poll(crate::Blocking::No);
            }
            assert!(!receives.is_finished());
            theirs.write_all(byte).unwrap();
        }
        cx.block_on(receives).unwrap();
        let more = (&flags).read(&mut [0]);
        assert_eq!(more.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    });
}

#[test]
fn large_messages_arrive_whole_without_a_copy_or_with_one() {
    on_each(|cx| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Ip(listener.local_addr().unwrap());
        let (unix, unix_peer) = UnixStream::pair().unwrap();
        let listener = Fd::from(listener);
        let tcp = cx.block_on(async {
            let ours = cx.connect(&address).await.unwrap();
            (ours, cx.accept(&listener).await.unwrap())
        });
        for (ours, theirs) in [tcp, (Fd::from(unix), Fd::from(unix_peer))] {
            for round in 0..3 {
                let reader = {
                    let cx = cx.clone();
                    let theirs = theirs.clone();
                    cx.clone().spawn(async move {
                        let all = IoBuf::heap(300_004);
                        let (buf, result) = cx.recv_exact(&theirs, all, 0..300_004).await;
                        result.map(|()| buf)
                    })
                };
                cx.block_on(async {
                    let mut body = cx.buffers().acquire(300_000).await;
                    body.fill(round);
                    let parts = vec![SendPart::header(b"head"), SendPart::whole(body)];
                    let (parts, sent) = cx.send_zc(&ours, parts).await;
                    sent.unwrap();
                    assert_eq!(parts.len(), 2);
                    drop(parts);
                    let buf = reader.await.unwrap();
                    assert_eq!(&buf[..4], b"head");
                    assert!(buf[4..].iter().all(|&byte| byte == round));
                });
            }
            // Nothing of it is left in the kernel.
            assert_eq!(cx.buffers().bytes_in_use(), 0);
        }
    });
}

#[test]
fn a_registered_file_works_as_before_and_is_let_go_once_unused() {
    on_each(|cx| {
        let pipe = pipe();
        let file = Fd::from(scratch(b"0123456789"));
        let guard = cx.register_file(&file);
        let second = cx.register_file(&file);
        assert!(!second.is_registered());
        let ring = cx.backend() == crate::BackendKind::IoUring;
        assert_eq!(guard.is_registered(), ring);
        cx.block_on(async {
            let (buf, read) = cx.read_exact(&file, 2, filled(3, 0)).await;
            read.unwrap();
            assert_eq!(&buf[..], b"234");
            let bufs = vec![filled(1, b'a'), filled(1, b'b')];
            assert_eq!(cx.write_vectored(&file, 0, bufs).await.1.unwrap(), 2);
            cx.fdatasync(&file).await.unwrap();
            cx.fallocate(&file, FallocateMode::Allocate, 0, 4096)
                .await
                .unwrap();
            assert_eq!(cx.file_status(&file).await.unwrap().len_bytes, 10);
            // A poll in flight keeps the file although its guard goes.
            let reader = cx.register_file(&pipe.0);
            let waits = Rc::new(Cell::new(false));
            let task = {
                let (cx, reader, waits) = (cx.clone(), pipe.0.clone(), waits.clone());
                cx.clone().spawn(async move {
                    cx.ready(&reader, crate::Interest::Readable).await.unwrap();
                    waits.set(true);
                })
            };
            cx.yield_now().await;
            drop(reader);
            let mut end = File::from(pipe.1.as_fd().try_clone_to_owned().unwrap());
            assert!(!waits.get());
            end.write_all(b"x").unwrap();
            task.await;
            drop(guard);
            let (_, read) = cx.read_exact(&file, 0, filled(3, 0)).await;
            read.unwrap();
            // Places are used again: more guards than the table has.
            for _ in 0..1500 {
                let guard = cx.register_file(&file);
                assert_eq!(guard.is_registered(), ring);
            }
        });
    });
}

#[test]
fn tiny_rings_and_small_batches_do_all_the_same() {
    for (entries, batch) in [(1, 0), (4, 1), (8, 3), (256, 2)] {
        let config = Config {
            ring_entries: entries,
            ..Config::default()
        };
        on_each_with(config, |cx| {
            cx.set_max_batch(batch);
            let file = Fd::from(scratch(&[7; 1 << 16]));
            let tasks: Vec<_> = (0..200u64)
                .map(|at| {
                    let (cx, file) = (cx.clone(), file.clone());
                    cx.clone().spawn(async move {
                        let (buf, read) = cx.read_exact(&file, at * 64, filled(64, 0)).await;
                        read.map(|()| buf[63])
                    })
                })
                .collect();
            cx.block_on(async {
                for task in tasks {
                    assert_eq!(task.await.unwrap(), 7);
                }
            });
            assert_eq!(cx.stats().cq_overflows, 0);
            if batch > 0 && cx.backend() == crate::BackendKind::IoUring {
                assert!(cx.stats().enters >= u64::from(200 / batch));
            }
        });
    }
}

#[test]
fn requests_that_wait_for_a_peer_keep_no_storage_waiting_and_all_are_answered() {
    let config = Config {
        ring_entries: 1,
        ..Config::default()
    };
    on_each_with(config, |cx| {
        let file = Fd::from(scratch(b"here"));
        let pairs: Vec<_> = (0..100).map(|_| UnixStream::pair().unwrap()).collect();
        let receives: Vec<_> = pairs
            .iter()
            .map(|(ours, _)| {
                let (cx, ours) = (cx.clone(), Fd::from(ours.try_clone().unwrap()));
                cx.clone().spawn(async move {
                    let (_, received) = cx.recv(&ours, filled(8, 0), 0..8).await;
                    received.unwrap()
                })
            })
            .collect();
        cx.block_on(async {
            cx.yield_now().await;
            let (buf, read) = cx.read(&file, 0, filled(4, 0)).await;
            assert_eq!((read.unwrap(), &buf[..]), (4, &b"here"[..]));
        });
        for (_, theirs) in &pairs {
            (&*theirs).write_all(b"x").unwrap();
        }
        let bytes: usize = cx.block_on(async {
            let mut bytes = 0;
            for receive in receives {
                bytes += receive.await;
            }
            bytes
        });
        assert_eq!(bytes, 100);
    });
}
