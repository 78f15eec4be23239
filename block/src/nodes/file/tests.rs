//! What is special about files: alignment, tails, holes, locks, failures.

use std::{
    fs,
    future::Future,
    io::{BufRead, BufReader, Write as _},
    os::unix::fs::FileExt,
    path::Path,
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
};

use aio::{AioContext, BackendKind, Config, IoBuf};
use tempfile::NamedTempFile;

use super::*;
use crate::error::ErrorKind;

mod locks;

const MIB: u64 = 1 << 20;

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

fn skipped(why: &str) {
    let line = format!("SKIPPED {why}\n");
    match std::env::var_os("LONGSHORE_SKIP_LOG") {
        Some(path) => {
            let log = fs::OpenOptions::new().create(true).append(true).open(path);
            log.unwrap().write_all(line.as_bytes()).unwrap();
        }
        None => eprint!("{line}"),
    }
}

/// For tests that start processes, and those about locks: between fork and exec a child holds all
/// descriptors of this process, and with them locks that should be gone.
fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file of `len_bytes` zeroes without storage, on a disk.
fn sparse_file(len_bytes: u64) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    file.as_file().set_len(len_bytes).unwrap();
    file
}

fn open(path: &Path) -> FileNode {
    FileNode::open(&FileOptions::new(path)).unwrap()
}

fn buffer(len: usize, byte: u8) -> IoBuf {
    let mut buf = IoBuf::heap(len);
    buf.fill(byte);
    buf
}

fn range(start: u64, len: u64) -> ByteRange {
    ByteRange::new(start, len).unwrap()
}

async fn write(node: &FileNode, cx: &AioContext, offset: u64, len: usize) -> Way {
    let flags = RequestFlags::default();
    let (buf, result) = node.write(cx, offset, buffer(len, 0xa5), flags).await;
    assert_eq!(buf.len(), len, "the buffer keeps its length");
    result.unwrap()
}

async fn read(node: &FileNode, cx: &AioContext, offset: u64, len: usize) -> (IoBuf, Way) {
    let (buf, result) = node.read(cx, offset, buffer(len, 0xff)).await;
    assert_eq!(buf.len(), len, "the buffer keeps its length");
    (buf, result.unwrap())
}

async fn extents(node: &FileNode, cx: &AioContext) -> Vec<(u64, AllocationStatus)> {
    let (mut at, len) = (0, node.limits().len_bytes);
    let mut found = Vec::new();
    while at < len {
        let extent = node.extent(cx, ByteRange::between(at, len)).await.unwrap();
        found.push((extent.len_bytes, extent.status));
        at += extent.len_bytes;
    }
    found
}

#[test]
fn each_request_says_honestly_which_way_it_went() {
    on_each_backend(|cx| async move {
        let file = sparse_file(MIB + 513);
        let node = open(file.path());
        if !node.is_direct() {
            return skipped("each_request_says_honestly_which_way_it_went: needs O_DIRECT");
        }
        let end = MIB + 513;
        let tail_page = end / PAGE_BYTES * PAGE_BYTES;
        let in_tail = usize::try_from(end - tail_page).unwrap();

        assert_eq!(write(&node, &cx, 0, 65536).await, Way::Direct);
        assert_eq!(write(&node, &cx, tail_page, in_tail).await, Way::Buffered);
        let over_both = write(&node, &cx, tail_page - 4096, in_tail + 4096).await;
        assert_eq!(over_both, Way::Bounced);
        let (bytes, way) = read(&node, &cx, tail_page - 4096, in_tail + 4096).await;
        assert_eq!(way, Way::Direct, "the end comes back as a short block");
        assert!(bytes.iter().all(|byte| *byte == 0xa5));

        let plain = FileOptions {
            direct: OnOffAuto::Off,
            locking: OnOffAuto::Off,
            ..FileOptions::new(file.path())
        };
        let plain = FileNode::open(&plain).unwrap();
        assert_eq!(write(&plain, &cx, 0, 512).await, Way::Buffered);
        assert_eq!(read(&plain, &cx, 0, 512).await.1, Way::Buffered);
        assert_eq!(file.as_file().metadata().unwrap().len(), end);
    });
}

#[test]
fn a_file_is_unlocked_with_its_node_whoever_else_has_it_open() {
    let file = sparse_file(MIB);
    let options = FileOptions::new(file.path());
    let node = FileNode::open(&options).unwrap();
    // As a ring does that has not come to forgetting it.
    let open_still = node.files.load().plain.clone();
    assert_eq!(
        FileNode::open(&options).unwrap_err().kind(),
        ErrorKind::Locked
    );
    drop(node);
    drop(FileNode::open(&options).unwrap());
    drop(open_still);
}

#[test]
fn memory_file_systems_never_claim_to_be_direct() {
    if !Path::new("/dev/shm").is_dir() {
        return skipped("memory_file_systems_never_claim_to_be_direct: needs a tmpfs at /dev/shm");
    }
    on_each_backend(|cx| async move {
        let file = NamedTempFile::new_in("/dev/shm").unwrap();
        file.as_file().set_len(1000).unwrap();
        for direct in [OnOffAuto::Auto, OnOffAuto::Off] {
            let options = FileOptions {
                direct,
                ..FileOptions::new(file.path())
            };
            let node = FileNode::open(&options).unwrap();
            assert!(
                node.files.load().direct.is_some(),
                "a ring would leave it to threads"
            );
            assert!(!node.is_direct());
            assert_eq!(node.limits().request_align_bytes, 1);
            assert_eq!(write(&node, &cx, 3, 5).await, Way::Buffered);
            assert_eq!(read(&node, &cx, 0, 1000).await.1, Way::Buffered);
        }
    });
}

#[test]
fn a_file_that_became_shorter_is_an_error_not_zeroes() {
    on_each_backend(|cx| async move {
        let file = sparse_file(MIB);
        let node = open(file.path());
        file.as_file().set_len(4096).unwrap();
        let (_, result) = node.read(&cx, 0, buffer(65536, 0)).await;
        assert!(result.unwrap_err().to_string().contains("became shorter"));
    });
}

#[test]
fn holes_are_found_to_the_byte() {
    on_each_backend(|cx| async move {
        let file = sparse_file(4 * MIB + 100);
        let node = open(file.path());
        let all = 4 * MIB + 100;
        assert_eq!(extents(&node, &cx).await, [(all, AllocationStatus::Zero)]);

        write(&node, &cx, MIB, 65536).await;
        let expected = [
            (MIB, AllocationStatus::Zero),
            (65536, AllocationStatus::Data),
            (all - MIB - 65536, AllocationStatus::Zero),
        ];
        assert_eq!(extents(&node, &cx).await, expected);
        assert!(node.allocated_bytes().unwrap() >= 65536);

        let flags = RequestFlags {
            may_unmap: true,
            no_fallback: true,
            ..RequestFlags::default()
        };
        let written = range(MIB, 65536);
        node.write_zeroes(&cx, written, flags).await.unwrap();
        assert_eq!(extents(&node, &cx).await, [(all, AllocationStatus::Zero)]);
        assert_eq!(node.allocated_bytes().unwrap(), 0);
    });
}

#[test]
fn a_hole_of_a_tebibyte_takes_one_look() {
    on_each_backend(|cx| async move {
        let tebibyte = 1 << 40;
        let node = open(sparse_file(tebibyte).path());
        let extent = node.extent(&cx, range(0, 65536)).await.unwrap();
        assert_eq!(extent.len_bytes, 65536);
        // The next questions are answered from the first answer, in a single poll.
        for at in [65536, MIB, tebibyte - 1] {
            let known = node.holes.known(ByteRange::between(at, tebibyte)).unwrap();
            assert_eq!(known.status, AllocationStatus::Zero);
            assert_eq!(known.len_bytes, tebibyte - at);
        }
    });
}

#[test]
fn a_write_ends_what_is_known_of_the_hole_it_fills() {
    on_each_backend(|cx| async move {
        let node = open(sparse_file(MIB).path());
        let extent = node.extent(&cx, range(0, MIB)).await.unwrap();
        assert_eq!(extent.status, AllocationStatus::Zero);
        write(&node, &cx, 65536, 4096).await;
        let extent = node.extent(&cx, range(65536, 4096)).await.unwrap();
        assert_eq!(extent.status, AllocationStatus::Data);
    });
}

#[test]
fn zeroes_that_must_stay_allocated_do() {
    on_each_backend(|cx| async move {
        let node = open(sparse_file(MIB).path());
        write(&node, &cx, 0, 65536).await;
        let flags = RequestFlags::default();
        node.write_zeroes(&cx, range(0, 65536), flags)
            .await
            .unwrap();
        assert!(
            read(&node, &cx, 0, 65536)
                .await
                .0
                .iter()
                .all(|byte| *byte == 0)
        );
        assert!(node.allocated_bytes().unwrap() >= 65536);
    });
}

#[test]
fn without_a_fast_way_zeroes_are_written_or_refused() {
    on_each_backend(|cx| async move {
        let node = open(sparse_file(3 * MIB + 13).path());
        node.refused.refuse_all();
        write(&node, &cx, 0, 65536).await;
        let all = range(0, 3 * MIB + 13);
        let flags = RequestFlags {
            no_fallback: true,
            may_unmap: true,
            ..RequestFlags::default()
        };
        let error = node.write_zeroes(&cx, all, flags).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);

        let flags = RequestFlags::default();
        node.write_zeroes(&cx, all, flags).await.unwrap();
        let (bytes, _) = read(&node, &cx, 0, usize::try_from(3 * MIB + 13).unwrap()).await;
        assert!(bytes.iter().all(|byte| *byte == 0));
        assert!(node.allocated_bytes().unwrap() >= 3 * MIB);
        node.discard(&cx, all).await.unwrap();
    });
}

#[test]
fn after_a_failed_flush_no_flush_succeeds() {
    on_each_backend(|cx| async move {
        let node = open(sparse_file(4096).path());
        node.flush(&cx).await.unwrap();
        node.flush_failure.set(libc::EIO).unwrap();
        assert_eq!(node.flush(&cx).await.unwrap_err().errno(), Some(libc::EIO));
        let fua = RequestFlags {
            fua: true,
            ..RequestFlags::default()
        };
        let (_, result) = node.write(&cx, 0, buffer(4096, 1), fua).await;
        assert_eq!(result.unwrap_err().errno(), Some(libc::EIO));
    });
}

#[test]
fn a_dropped_write_leaves_a_node_that_still_tells_the_truth() {
    on_each_backend(|cx| async move {
        let file = sparse_file(MIB);
        let node = open(file.path());
        let extent = node.extent(&cx, range(0, MIB)).await.unwrap();
        assert_eq!(extent.status, AllocationStatus::Zero);

        let mut writing = node.write(&cx, 0, buffer(65536, 7), RequestFlags::default());
        let pending = std::future::poll_fn(|task| {
            std::task::Poll::Ready(writing.as_mut().poll(task).is_pending())
        });
        assert!(pending.await, "submitted, not complete");
        drop(writing);
        // It may land at any time from here on.
        let mut first = [0; 1];
        while first[0] != 7 {
            node.extent(&cx, range(0, 65536)).await.unwrap();
            cx.sleep_ns(1_000_000).await;
            file.as_file().read_exact_at(&mut first, 0).unwrap();
        }
        let extent = node.extent(&cx, range(0, 65536)).await.unwrap();
        assert_eq!(extent.status, AllocationStatus::Data);
    });
}

#[test]
fn only_files_and_devices_are_opened() {
    let folder = tempfile::tempdir().unwrap();
    let missing = FileNode::open(&FileOptions::new(folder.path().join("none")));
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
    for other in [folder.path(), Path::new("/dev/null")] {
        let error = FileNode::open(&FileOptions::new(other)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
}

#[test]
fn two_names_of_one_file_have_one_identity() {
    let folder = tempfile::tempdir().unwrap();
    let [name, link, copy] = ["a", "b", "c"].map(|name| folder.path().join(name));
    fs::write(&name, "text").unwrap();
    fs::hard_link(&name, &link).unwrap();
    fs::copy(&name, &copy).unwrap();
    let identity = |path: &Path| {
        let options = FileOptions {
            read_only: true,
            ..FileOptions::new(path)
        };
        FileNode::open(&options).unwrap().identity()
    };
    assert_eq!(identity(&name), identity(&link));
    assert_ne!(identity(&name), identity(&copy));
}

#[test]
fn a_writer_keeps_other_writers_and_readers_out() {
    let _alone = alone();
    let file = sparse_file(MIB);
    let reader = FileOptions {
        read_only: true,
        ..FileOptions::new(file.path())
    };
    let kind = |options: &FileOptions| FileNode::open(options).unwrap_err().kind();
    let writer = open(file.path());
    assert_eq!(kind(&FileOptions::new(file.path())), ErrorKind::Locked);
    assert_eq!(kind(&reader), ErrorKind::Locked);
    drop(writer);

    let first = FileNode::open(&reader).unwrap();
    let second = FileNode::open(&reader).unwrap();
    assert_eq!(kind(&FileOptions::new(file.path())), ErrorKind::Locked);
    drop((first, second));
    open(file.path());
}

#[test]
fn who_shares_everything_meets_nobody_but_the_unsharing() {
    let _alone = alone();
    let file = sparse_file(MIB);
    let sharing = FileOptions {
        sharing: Sharing::Everyone,
        ..FileOptions::new(file.path())
    };
    let first = FileNode::open(&sharing).unwrap();
    let second = FileNode::open(&sharing).unwrap();
    let error = FileNode::open(&FileOptions::new(file.path())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    assert!(
        error.to_string().contains("with 'write' permission"),
        "{error}"
    );
    drop((first, second));
}

/// Runs a tool of `qemu-utils` to its end; `None` when it is not there.
fn run_tool(name: &str, arguments: &[&str], paths: &[&Path]) -> Option<(bool, String)> {
    let command = Command::new(name).args(arguments).args(paths).output();
    let output = command.ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    Some((output.status.success(), text))
}

#[test]
fn qemu_respects_our_locks() {
    let _alone = alone();
    const WRITE: &[&str] = &["-f", "raw", "-c", "write 0 4k"];
    // Reads it all, and lets nobody write meanwhile.
    const COPY: &[&str] = &["convert", "-f", "raw", "-O", "raw"];
    const CARELESS_COPY: &[&str] = &["convert", "-U", "-f", "raw", "-O", "raw"];
    let copy = NamedTempFile::new().unwrap();
    let file = sparse_file(MIB);
    let node = open(file.path());
    let Some((ok, text)) = run_tool("qemu-io", WRITE, &[file.path()]) else {
        return skipped("qemu_respects_our_locks: needs qemu-io (Debian package qemu-utils)");
    };
    assert!(!ok && text.contains("lock"), "{text}");
    let (ok, text) = run_tool("qemu-img", COPY, &[file.path(), copy.path()]).unwrap();
    assert!(!ok && text.contains("lock"), "it lets nobody write: {text}");
    let (ok, text) = run_tool("qemu-img", CARELESS_COPY, &[file.path(), copy.path()]).unwrap();
    assert!(ok, "{text}");
    drop(node);
    let (ok, text) = run_tool("qemu-io", WRITE, &[file.path()]).unwrap();
    assert!(ok, "{text}");

    let reader = FileOptions {
        read_only: true,
        ..FileOptions::new(file.path())
    };
    let _reader = FileNode::open(&reader).unwrap();
    let (ok, text) = run_tool("qemu-img", COPY, &[file.path(), copy.path()]).unwrap();
    assert!(ok, "readers share: {text}");
    let (ok, text) = run_tool("qemu-io", WRITE, &[file.path()]).unwrap();
    assert!(!ok, "a reader lets nobody write: {text}");
}

#[test]
fn we_respect_the_locks_of_qemu() {
    let _alone = alone();
    let file = sparse_file(MIB);
    let child = Command::new("qemu-io")
        .args(["-f", "raw"])
        .arg(file.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        return skipped("we_respect_the_locks_of_qemu: needs qemu-io (Debian package qemu-utils)");
    };
    let mut commands = child.stdin.take().unwrap();
    commands.write_all(b"write 0 4k\n").unwrap();
    // Its answer shows that it has the image open.
    let answers = BufReader::new(child.stdout.take().unwrap());
    let answer = answers
        .lines()
        .map(Result::unwrap)
        .find(|line| line.contains("wrote"));
    assert!(answer.is_some());

    let error = FileNode::open(&FileOptions::new(file.path())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    assert!(error.to_string().contains("is in use"), "{error}");
    let careless = FileOptions {
        locking: OnOffAuto::Off,
        ..FileOptions::new(file.path())
    };
    FileNode::open(&careless).unwrap();

    commands.write_all(b"quit\n").unwrap();
    child.wait().unwrap();
    open(file.path());
}

/// Set in the process that has a limit on the size of files.
const LIMITED: &str = "LONGSHORE_TEST_FILE_LIMIT";

#[test]
fn a_write_that_the_system_cuts_short_is_an_error() {
    if std::env::var_os(LIMITED).is_some() {
        return write_past_the_limit();
    }
    let _alone = alone();
    let name = "nodes::file::tests::a_write_that_the_system_cuts_short_is_an_error";
    let script = "trap '' XFSZ; ulimit -f 64; exec \"$@\"";
    let output = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(LIMITED, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}

/// Writes over a limit of 64 × 512 or 64 × 1024 bytes, as shells differ.
fn write_past_the_limit() {
    on_each_backend(|cx| async move {
        let file = NamedTempFile::new().unwrap();
        for direct in [OnOffAuto::Auto, OnOffAuto::Off] {
            file.as_file().set_len(32 << 10).unwrap();
            let options = FileOptions {
                direct,
                ..FileOptions::new(file.path())
            };
            let mut node = FileNode::open(&options).unwrap();
            node.len_bytes = AtomicU64::new(MIB);
            let flags = RequestFlags::default();
            let (_, result) = node.write(&cx, 0, buffer(256 << 10, 1), flags).await;
            assert_eq!(result.unwrap_err().errno(), Some(libc::EFBIG));
        }
    });
}
