//! One suite that every node driver passes, through an edge, on both backends.

#![expect(clippy::unwrap_used, reason = "in a test, an error is a failure")]

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    rc::Rc,
};

use aio::{AioContext, BackendKind, Config, IoBuf};
use block::{
    AllocationStatus, Attachment, ByteRange, Child, ChildRole, ErrorKind, Graph, Node, Permission,
    Permissions, RequestFlags,
    nodes::{
        CbwOptions, CopyBeforeWriteNode, CopyOnReadNode, FaultControl, FaultNode, FileNode,
        FileOptions, MemoryNode, MemoryOptions, NbdNode, NbdOptions, NullNode, NullOptions,
        OnOffAuto, RawNode, RawOptions, ThrottleGroup, ThrottleLimit, ThrottleLimits, ThrottleNode,
    },
};
use nbd::{NbdAddress, NbdUri};

/// Lengths round blocks, pages and chunks.
const LENGTHS: [u64; 6] = [0, 1, 511, 4096, (64 << 10) + 13, (1 << 20) + 512];

/// Whether a node keeps what is written to it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Storage {
    Kept,
    Nothing,
}

#[test]
fn memory_passes() {
    on_each_backend(|cx| async move {
        for len in LENGTHS {
            let graph = Graph::new();
            let node = memory(&graph, len, 1);
            check(&cx, &graph, &node, Storage::Kept).await;
        }
    });
}

#[test]
fn memory_with_alignment_passes() {
    on_each_backend(|cx| async move {
        for (len, align) in [
            (4096, 4096),
            ((64 << 10) + 13, 512),
            ((1 << 20) + 512, 4096),
        ] {
            let graph = Graph::new();
            let node = memory(&graph, len, align);
            check(&cx, &graph, &node, Storage::Kept).await;
        }
    });
}

#[test]
fn null_passes() {
    on_each_backend(|cx| async move {
        for len in LENGTHS {
            let graph = Graph::new();
            let options = NullOptions {
                len_bytes: len,
                read_zeroes: true,
                ..NullOptions::default()
            };
            let node = graph
                .add_node(Some("null"), NullNode::new(options))
                .unwrap();
            check(&cx, &graph, &node, Storage::Nothing).await;
        }
    });
}

#[test]
fn file_past_the_page_cache_passes() {
    file_passes(&std::env::temp_dir(), OnOffAuto::Auto);
}

#[test]
fn file_through_the_page_cache_passes() {
    file_passes(&std::env::temp_dir(), OnOffAuto::Off);
}

#[test]
fn file_in_memory_passes() {
    let shm = Path::new("/dev/shm");
    if !shm.is_dir() {
        return skipped("file_in_memory_passes: needs a tmpfs at /dev/shm");
    }
    file_passes(shm, OnOffAuto::Auto);
    file_passes(shm, OnOffAuto::Off);
}

#[test]
fn block_device_passes() {
    for direct in [OnOffAuto::On, OnOffAuto::Off] {
        on_each_backend(|cx| async move {
            let file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().set_len((1 << 20) + 512).unwrap();
            let Some(device) = LoopDevice::over(file.path()) else {
                return skipped(
                    "block_device_passes: needs root and losetup (Debian package mount)",
                );
            };
            let options = FileOptions {
                direct,
                ..FileOptions::new(&device.0)
            };
            let file = FileNode::open(&options).unwrap();
            assert!(file.is_block_device());
            let graph = Graph::new();
            let node = graph.add_node(Some("device"), file).unwrap();
            assert_eq!(node.len_bytes(), (1 << 20) + 512);
            check(&cx, &graph, &node, Storage::Kept).await;
            same_as_on_disk(&cx, &graph, &node, &device.0).await;
        });
    }
}

#[test]
fn raw_over_the_whole_child_passes() {
    on_each_backend(|cx| async move {
        for len in LENGTHS {
            let graph = Graph::new();
            let below = memory(&graph, len, 1);
            let node = raw(&graph, &below, RawOptions::default());
            check(&cx, &graph, &node, Storage::Kept).await;
        }
    });
}

#[test]
fn raw_window_passes_and_touches_nothing_round_it() {
    on_each_backend(|cx| async move {
        for len in [0, 1, 511, 4096, 65536] {
            let graph = Graph::new();
            let below = memory(&graph, len + 3000, 1);
            let edge = attach(&graph, &below);
            write(
                &edge,
                &cx,
                0,
                &vec![0x5a; usize::try_from(len + 3000).unwrap()],
            )
            .await;
            let inside = ByteRange::new(1000, len).unwrap();
            edge.write_zeroes(&cx, inside, RequestFlags::default())
                .await
                .unwrap();

            let window = RawOptions {
                offset_bytes: 1000,
                len_bytes: Some(len),
            };
            let node = raw(&graph, &below, window);
            check(&cx, &graph, &node, Storage::Kept).await;

            assert!(
                read(&edge, &cx, 0, 1000)
                    .await
                    .iter()
                    .all(|byte| *byte == 0x5a)
            );
            assert!(
                read(&edge, &cx, 1000 + len, 2000)
                    .await
                    .iter()
                    .all(|byte| *byte == 0x5a)
            );
        }
    });
}

#[test]
fn fault_without_rules_passes() {
    on_each_backend(|cx| async move {
        for len in LENGTHS {
            let graph = Graph::new();
            let below = memory(&graph, len, 512);
            let builder = graph.build_node(Some("fault")).unwrap();
            let child = builder
                .attach(&below, "file", ChildRole::Filtered, Permissions::IDLE)
                .unwrap();
            let node = builder.finish(FaultNode::new(child, FaultControl::new()));
            check(&cx, &graph, &node, Storage::Kept).await;
        }
    });
}

#[test]
fn copy_on_read_passes() {
    on_each_backend(async |cx| {
        for len in LENGTHS {
            let graph = Graph::new();
            let below = memory(&graph, len, 512);
            let node = CopyOnReadNode::add_to(&graph, None, &below, None).unwrap();
            check(&cx, &graph, &node, Storage::Kept).await;
        }
    });
}

#[test]
fn throttle_passes() {
    on_each_backend(async |cx| {
        let limits = ThrottleLimits {
            bytes_total: ThrottleLimit::per_s(1 << 32),
            ..ThrottleLimits::default()
        };
        let group = ThrottleGroup::new(limits).unwrap();
        for len in LENGTHS {
            let graph = Graph::new();
            let below = memory(&graph, len, 512);
            let builder = graph.build_node(Some("throttle")).unwrap();
            let child = builder
                .attach(&below, "file", ChildRole::Filtered, Permissions::IDLE)
                .unwrap();
            let node = builder.finish(ThrottleNode::new(child, &group));
            check(&cx, &graph, &node, Storage::Kept).await;
        }
    });
}

#[test]
fn nbd_of_qemu_passes() {
    let tool = "qemu-nbd (Debian package qemu-utils)";
    nbd_passes(tool, |len, dir| {
        let image = dir.join("image");
        std::fs::File::create(&image).unwrap().set_len(len).unwrap();
        let mut command = Command::new("qemu-nbd");
        command.args([
            "--format=raw",
            "--persistent",
            "--shared=4",
            "--discard=unmap",
        ]);
        command.arg("--socket").arg(dir.join("nbd.sock")).arg(image);
        command
    });
}

#[test]
fn nbd_of_nbdkit_passes() {
    nbd_passes(NBDKIT, |len, dir| {
        let mut command = Command::new("nbdkit");
        command.arg("--foreground").arg("--unix");
        command.arg(dir.join("nbd.sock"));
        command.args(["memory", &format!("size={len}")]);
        command
    });
}

#[test]
fn nbd_without_structured_replies_passes() {
    nbd_passes(NBDKIT, |len, dir| {
        let mut command = Command::new("nbdkit");
        command.args(["--foreground", "--no-sr", "--unix"]);
        command.arg(dir.join("nbd.sock"));
        command.args(["memory", &format!("size={len}")]);
        command
    });
}

#[test]
fn nbd_with_block_sizes_passes() {
    nbd_passes(NBDKIT, |len, dir| {
        let len = len / 4096 * 4096;
        let mut command = Command::new("nbdkit");
        command.args(["--foreground", "--filter=blocksize-policy", "--unix"]);
        command.arg(dir.join("nbd.sock"));
        command.args(["memory", &format!("size={len}")]);
        command.args(["blocksize-minimum=4096", "blocksize-maximum=64K"]);
        command.args(["blocksize-preferred=4096", "blocksize-error-policy=error"]);
        command
    });
}

const NBDKIT: &str = "nbdkit (Debian package nbdkit)";

/// Checks exports of `LENGTHS` that the command made by `server` serves at `nbd.sock` in the folder it is given.
fn nbd_passes(tool: &str, server: impl Fn(u64, &Path) -> Command) {
    let name = tool.split(' ').next().unwrap();
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|dir| dir.join(name).exists()) {
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("a test");
        return skipped(&format!("{test}: needs {tool}"));
    }
    on_each_backend(async |cx| {
        for len in LENGTHS {
            let dir = tempfile::tempdir().unwrap();
            let _server = Running(server(len, dir.path()).spawn().unwrap());
            let uri = NbdUri {
                address: NbdAddress::Unix(dir.path().join("nbd.sock")),
                export: String::new(),
            };
            let options = NbdOptions {
                open_timeout_ns: 60_000_000_000,
                ..NbdOptions::new(uri)
            };
            let graph = Graph::new();
            let node = NbdNode::open(&cx, &options).await.unwrap();
            let node = graph.add_node(Some("nbd"), node).unwrap();
            check(&cx, &graph, &node, Storage::Kept).await;
        }
    });
}

/// A process, until it is dropped.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn copy_before_write_passes() {
    on_each_backend(|cx| async move {
        for len in LENGTHS {
            let graph = Graph::new();
            let source = memory(&graph, len, 1);
            let target = graph
                .add_node(
                    Some("target"),
                    MemoryNode::new(MemoryOptions::new(len)).unwrap(),
                )
                .unwrap();
            let both = (&source, &target);
            let options = CbwOptions::default();
            let (node, handle) =
                CopyBeforeWriteNode::add_to(&graph, Some("cbw"), both, options).unwrap();
            check(&cx, &graph, &node, Storage::Kept).await;

            let whole = ByteRange::new(0, len).unwrap();
            let edge = attach(&graph, &node);
            handle.block_copy().ensure_copied(&cx, whole).await.unwrap();
            drop(edge);
            let saved = read(&attach(&graph, &target), &cx, 0, len).await;
            assert!(
                saved.iter().all(|byte| *byte == 0),
                "the target holds what was there first"
            );
        }
    });
}

fn file_passes(folder: &Path, direct: OnOffAuto) {
    on_each_backend(|cx| async move {
        for len in LENGTHS {
            let file = tempfile::NamedTempFile::new_in(folder).unwrap();
            file.as_file().set_len(len).unwrap();
            let options = FileOptions {
                direct,
                ..FileOptions::new(file.path())
            };
            let graph = Graph::new();
            let node = graph
                .add_node(Some("file"), FileNode::open(&options).unwrap())
                .unwrap();
            check(&cx, &graph, &node, Storage::Kept).await;

            let now = std::fs::metadata(file.path()).unwrap().len();
            assert_eq!(now, len, "no request changes the length of the file");
            same_as_on_disk(&cx, &graph, &node, file.path()).await;
        }
    });
}

/// What other programs see is what the node says.
async fn same_as_on_disk(cx: &AioContext, graph: &Graph, node: &Node, path: &Path) {
    let edge = attach(graph, node);
    edge.flush(cx).await.unwrap();
    let here = read(&edge, cx, 0, node.len_bytes()).await;
    assert!(
        here == std::fs::read(path).unwrap(),
        "the file differs from the node"
    );
}

/// Everything a node driver promises.
async fn check(cx: &AioContext, graph: &Graph, node: &Node, storage: Storage) {
    let edge = Rc::new(attach(graph, node));
    limits_make_sense(&edge);
    a_new_node_reads_as_zeroes(&edge, cx).await;
    extents_tell_the_truth(&edge, cx).await;
    requests_past_the_end_are_refused(&edge, cx).await;
    edge.flush(cx).await.unwrap();
    if storage == Storage::Kept {
        random_requests_match_a_model(&edge, cx, 0x5eed_0001 ^ node.len_bytes()).await;
        neighbours_at_once_do_not_disturb_each_other(&edge, cx).await;
        the_end_can_be_rewritten_byte_by_byte(&edge, cx).await;
        what_stays_survives_a_change_of_length(&edge, cx, graph).await;
    }
    extents_tell_the_truth(&edge, cx).await;
}

fn limits_make_sense(edge: &Child) {
    let limits = edge.limits();
    assert!(limits.request_align_bytes.is_power_of_two());
    assert!(limits.transfer_bytes_max >= limits.request_align_bytes);
    assert!(
        limits
            .transfer_bytes_max
            .is_multiple_of(limits.request_align_bytes)
    );
    assert!(!limits.read_only);
}

async fn a_new_node_reads_as_zeroes(edge: &Child, cx: &AioContext) {
    let bytes = read(edge, cx, 0, edge.len_bytes()).await;
    assert!(bytes.iter().all(|byte| *byte == 0));
}

async fn requests_past_the_end_are_refused(edge: &Child, cx: &AioContext) {
    let len = edge.len_bytes();
    let flags = RequestFlags::default();
    for offset in [len, len.saturating_sub(1), u64::MAX - 1, u64::MAX] {
        let (buf, result) = edge.read(cx, offset, IoBuf::heap(2)).await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::OutOfRange);
        let (_, result) = edge.write(cx, offset, buf, flags).await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::OutOfRange);
        let Some(range) = ByteRange::new(offset, 2) else {
            continue;
        };
        let result = edge.write_zeroes(cx, range, flags).await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::OutOfRange);
    }
}

/// Walks over all extents; what is said to be zero reads as zero.
async fn extents_tell_the_truth(edge: &Child, cx: &AioContext) {
    let (mut at, len) = (0, edge.len_bytes());
    while at < len {
        let extent = edge.extent(cx, ByteRange::between(at, len)).await.unwrap();
        assert!(extent.len_bytes > 0, "an extent at {at} has no byte");
        assert!(
            at + extent.len_bytes <= len,
            "an extent at {at} ends past the node"
        );
        if extent.status == AllocationStatus::Zero {
            let bytes = read(edge, cx, at, extent.len_bytes).await;
            assert!(
                bytes.iter().all(|byte| *byte == 0),
                "a zero extent at {at} has data"
            );
        }
        at += extent.len_bytes;
    }
}

/// Random requests, each followed by a look at the bytes round it.
async fn random_requests_match_a_model(edge: &Child, cx: &AioContext, seed: u64) {
    let mut random = Random(seed);
    let len = edge.len_bytes();
    let mut model = read(edge, cx, 0, len).await;
    for step in 0..120 {
        let range = random.range(len);
        change(edge, cx, &mut model, range, &mut random).await;
        let around = ByteRange::between(
            range.start().saturating_sub(700),
            (range.end() + 700).min(len),
        );
        let found = read(edge, cx, around.start(), around.len()).await;
        assert!(
            found == model[span(around)],
            "step {step} of seed {seed:#x}: wrong bytes near {range}"
        );
        if step % 16 == 0 {
            extents_tell_the_truth(edge, cx).await;
        }
    }
    edge.flush(cx).await.unwrap();
    assert!(
        read(edge, cx, 0, len).await == model,
        "seed {seed:#x}: wrong bytes at the end"
    );
}

async fn change(
    edge: &Child,
    cx: &AioContext,
    model: &mut [u8],
    range: ByteRange,
    random: &mut Random,
) {
    let flags = RequestFlags {
        fua: random.below(8) == 0,
        may_unmap: random.below(2) == 0,
        ..RequestFlags::default()
    };
    match random.below(8) {
        0 => {
            edge.write_zeroes(cx, range, flags).await.unwrap();
            model[span(range)].fill(0);
        }
        1 => {
            let flags = RequestFlags {
                no_fallback: true,
                ..flags
            };
            match edge.write_zeroes(cx, range, flags).await {
                Ok(()) => model[span(range)].fill(0),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported),
            }
        }
        2 => {
            edge.discard(cx, range).await.unwrap();
            // Whatever is there now, it stays there, and nothing else has changed.
            let now = read(edge, cx, range.start(), range.len()).await;
            model[span(range)].copy_from_slice(&now);
        }
        _ => {
            let mut bytes = vec![0; span(range).len()];
            random.fill(&mut bytes);
            write_with(edge, cx, range.start(), &bytes, flags).await;
            model[span(range)].copy_from_slice(&bytes);
        }
    }
}

/// Many requests in flight, side by side in the same pages.
async fn neighbours_at_once_do_not_disturb_each_other(edge: &Rc<Child>, cx: &AioContext) {
    let len = edge.len_bytes();
    let step = u64::from(edge.limits().request_align_bytes).max(512);
    let mut tasks = Vec::new();
    for (index, start) in (0..len)
        .step_by(usize::try_from(step).unwrap())
        .enumerate()
        .take(300)
    {
        let (edge, home) = (Rc::clone(edge), cx.clone());
        let part = ByteRange::between(start, (start + step).min(len));
        let mark = u8::try_from(index % 251).unwrap() + 1;
        tasks.push((
            part,
            mark,
            cx.spawn(async move {
                write(&edge, &home, part.start(), &vec![mark; span(part).len()]).await;
            }),
        ));
    }
    for (part, mark, task) in tasks {
        task.await;
        let found = read(edge, cx, part.start(), part.len()).await;
        assert!(
            found.iter().all(|byte| *byte == mark),
            "a neighbour changed {part}"
        );
    }
}

async fn the_end_can_be_rewritten_byte_by_byte(edge: &Child, cx: &AioContext) {
    let len = edge.len_bytes();
    let first = len.saturating_sub(20);
    for (mark, offset) in (1u8..).zip(first..len) {
        write(edge, cx, offset, &[mark]).await;
    }
    let found = read(edge, cx, first, len - first).await;
    let wanted: Vec<u8> = (1u8..).take(found.len()).collect();
    assert_eq!(found, wanted);
}

/// Longer, shorter, and as it was; or always the same, where the length is fixed.
async fn what_stays_survives_a_change_of_length(edge: &Child, cx: &AioContext, graph: &Graph) {
    let len = edge.len_bytes();
    for wanted in [2 * len + 5000, len + 13, len / 2 + 1, 0, len] {
        let before = read(edge, cx, 0, edge.len_bytes()).await;
        if let Err(error) = graph.resize(&edge.node(), cx, wanted).await {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert_eq!(edge.len_bytes(), len);
            return;
        }
        assert_eq!(edge.len_bytes(), wanted);
        let mut model = before;
        model.resize(span(ByteRange::between(0, wanted)).len(), 0);
        let found = read(edge, cx, 0, wanted).await;
        assert!(found == model, "{len} bytes became {wanted}");
        extents_tell_the_truth(edge, cx).await;
        requests_past_the_end_are_refused(edge, cx).await;
        the_end_can_be_rewritten_byte_by_byte(edge, cx).await;
    }
}

// Below: fixtures and helpers.

fn on_each_backend(test: impl AsyncFn(AioContext)) {
    for backend in [BackendKind::Epoll, BackendKind::IoUring] {
        if backend == BackendKind::IoUring && aio::probe_io_uring().is_err() {
            skipped("conformance on io_uring: needs a kernel that allows io_uring");
            continue;
        }
        let config = Config {
            backend: Some(backend),
            ..Config::default()
        };
        aio::run(config, async |cx| test(cx).await).unwrap();
    }
}

#[expect(
    clippy::print_stderr,
    reason = "without a log, this is where to say it"
)]
fn skipped(why: &str) {
    let line = format!("SKIPPED {why}\n");
    match std::env::var_os("LONGSHORE_SKIP_LOG").map(PathBuf::from) {
        Some(path) => {
            let log = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(path);
            log.unwrap().write_all(line.as_bytes()).unwrap();
        }
        None => eprint!("{line}"),
    }
}

/// A block device over a file, until it is dropped.
struct LoopDevice(PathBuf);

impl LoopDevice {
    fn over(path: &Path) -> Option<Self> {
        let mut command = Command::new("losetup");
        let output = command.args(["--find", "--show"]).arg(path).output().ok()?;
        let name = String::from_utf8(output.stdout).ok()?;
        output
            .status
            .success()
            .then(|| Self(PathBuf::from(name.trim())))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let detached = Command::new("losetup")
            .arg("--detach")
            .arg(&self.0)
            .status();
        assert!(detached.is_ok_and(|status| status.success()));
    }
}

fn memory(graph: &Graph, len_bytes: u64, request_align_bytes: u32) -> Node {
    let options = MemoryOptions {
        request_align_bytes,
        ..MemoryOptions::new(len_bytes)
    };
    graph
        .add_node(Some("memory"), MemoryNode::new(options).unwrap())
        .unwrap()
}

fn raw(graph: &Graph, below: &Node, options: RawOptions) -> Node {
    let builder = graph.build_node(Some("raw")).unwrap();
    let permissions = Permissions::uses(&[
        Permission::ConsistentRead,
        Permission::Write,
        Permission::Resize,
    ]);
    let child = builder
        .attach(below, "file", ChildRole::Data, permissions)
        .unwrap();
    builder.finish(RawNode::new(child, options).unwrap())
}

fn attach(graph: &Graph, node: &Node) -> Child {
    let permissions = Permissions::uses(&[Permission::ConsistentRead, Permission::Write]);
    graph
        .attach(
            node,
            Attachment::new("test", ChildRole::Primary, permissions),
        )
        .unwrap()
}

async fn read(edge: &Child, cx: &AioContext, offset: u64, len: u64) -> Vec<u8> {
    let buf = IoBuf::heap(usize::try_from(len).unwrap());
    let (buf, result) = edge.read(cx, offset, buf).await;
    result.unwrap();
    buf.to_vec()
}

async fn write(edge: &Child, cx: &AioContext, offset: u64, bytes: &[u8]) {
    write_with(edge, cx, offset, bytes, RequestFlags::default()).await;
}

async fn write_with(edge: &Child, cx: &AioContext, offset: u64, bytes: &[u8], flags: RequestFlags) {
    let mut buf = IoBuf::heap(bytes.len());
    buf.copy_from_slice(bytes);
    let (buf, result) = edge.write(cx, offset, buf, flags).await;
    result.unwrap();
    assert!(*buf == *bytes, "the buffer comes back as it was");
}

fn span(range: ByteRange) -> std::ops::Range<usize> {
    usize::try_from(range.start()).unwrap()..usize::try_from(range.end()).unwrap()
}

/// xorshift: enough chance for a test, and the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.next().to_le_bytes()[3];
        }
    }

    /// A range within `len` whose ends like blocks, pages, chunks and the end of the node.
    fn range(&mut self, len: u64) -> ByteRange {
        let (a, b) = (self.offset(len), self.offset(len));
        ByteRange::between(a.min(b), a.max(b))
    }

    fn offset(&mut self, len: u64) -> u64 {
        let any = self.below(len + 1);
        match self.below(6) {
            0 => any,
            1 => any / 512 * 512,
            2 => any / 4096 * 4096,
            3 => any / 65536 * 65536,
            4 => len - len.min(any % 5000),
            _ => len,
        }
    }
}
