//! Copies between files of every kind of file system: the kernel moves what it can, and nothing else changes.

#![expect(clippy::unwrap_used, reason = "in a test, an error is a failure")]

use std::{
    cell::Cell,
    fs::File,
    future::Future,
    io::Write as _,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    process::Command,
    rc::Rc,
};

use aio::{AioContext, BackendKind, Config, IoBuf};
use block::{
    Attachment, ByteRange, Child, ChildRole, Graph, Node, Permission, Permissions, RequestFlags,
    copy::{BlockCopy, CopyCounters, CopyOptions, Offload},
    nodes::{CbwHandle, CbwOptions, CopyBeforeWriteNode, FileNode, FileOptions, OnOffAuto},
};

const CLUSTER: u64 = 64 << 10;
const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;
const GIB: u64 = 1 << 30;

#[test]
fn a_gigabyte_is_shared_on_xfs() {
    a_gigabyte_is_shared_on(&XFS);
}

#[test]
fn a_gigabyte_is_shared_on_btrfs() {
    a_gigabyte_is_shared_on(&BTRFS);
}

/// A full copy takes no space and moves nothing, and is a copy all the same.
fn a_gigabyte_is_shared_on(kind: &FileSystem) {
    let Some(place) = Mounted::make(kind, 3 * GIB) else {
        return;
    };
    let disks = Disks::new(place.folder(), GIB);
    disks.fill(0, GIB);
    disks.sync();
    run(None, |cx| {
        let disks = &disks;
        async move {
            let free_before = aio::sys::free_bytes(&disks.folder).unwrap();
            let (graph, source, target) = disks.nodes(OnOffAuto::Auto);
            let copy = block_copy(&graph, &source, &target, Offload::Auto);
            let requests = copy_all(&cx, &copy).await;
            copy.flush(&cx).await.unwrap();

            let counters = CopyCounters {
                offloaded_bytes: GIB,
                ..CopyCounters::default()
            };
            assert_eq!(copy.counters(), counters);
            assert!(requests < 200, "{requests} requests for a GiB");
            let free_after = aio::sys::free_bytes(&disks.folder).unwrap();
            let used = free_before.saturating_sub(free_after);
            assert!(used < 64 * MIB, "the copy took {used} bytes of the disk");

            // What is written to one of them is its own.
            write(&attach(&graph, &source), &cx, GIB / 2, &[0xee; 4096]).await;
            disks.assert_target_is_filled();
        }
    });
}

#[test]
fn all_of_it_holds_on_xfs() {
    all_of_it_holds_on(&XFS);
}

#[test]
fn all_of_it_holds_on_btrfs() {
    all_of_it_holds_on(&BTRFS);
}

fn all_of_it_holds_on(kind: &FileSystem) {
    if let Some(place) = Mounted::make(kind, 400 * MIB) {
        holes_stay_holes_in(place.folder());
        guests_do_not_change_a_copy_in(place.folder());
        nothing_is_shared_in(place.folder());
    }
}

#[test]
fn holes_stay_holes_and_the_odd_end_is_copied() {
    for folder in own_folders() {
        holes_stay_holes_in(&folder);
    }
}

#[test]
fn guests_that_write_meanwhile_do_not_change_the_copy() {
    for folder in own_folders() {
        guests_do_not_change_a_copy_in(&folder);
    }
}

#[test]
fn nothing_is_offloaded_if_that_is_not_wanted() {
    for folder in own_folders() {
        nothing_is_shared_in(&folder);
    }
}

fn holes_stay_holes_in(folder: &Path) {
    let len = 8 * MIB + 4096 + 513;
    for direct in [OnOffAuto::Auto, OnOffAuto::Off] {
        on_each_backend(|cx| {
            let disks = Disks::new(folder, len);
            disks.fill(MIB + CLUSTER, MIB);
            disks.fill(5 * MIB, 100);
            disks.fill(len - 5000, 5000);
            async move {
                let (graph, source, target) = disks.nodes(direct);
                let copy = block_copy(&graph, &source, &target, Offload::Auto);
                copy_all(&cx, &copy).await;
                copy.flush(&cx).await.unwrap();

                disks.assert_target_is(&std::fs::read(&disks.source).unwrap());
                let metadata = disks.target.metadata().unwrap();
                assert_eq!(metadata.len(), len, "the target has its old length");
                let blocks = metadata.blocks() * 512;
                assert!(blocks <= 2 * MIB, "{blocks} bytes of the target are in use");
            }
        });
    }
}

fn guests_do_not_change_a_copy_in(folder: &Path) {
    for direct in [OnOffAuto::Auto, OnOffAuto::Off] {
        on_each_backend(|cx| guests_do_not_change_this_copy(cx, folder, direct));
    }
}

async fn guests_do_not_change_this_copy(cx: AioContext, folder: &Path, direct: OnOffAuto) {
    let len = 16 * MIB + 5 * CLUSTER + 4096 + 77;
    let disks = Disks::new(folder, len);
    disks.fill(0, 9 * MIB);
    disks.fill(12 * MIB, len - 12 * MIB);
    let before = std::fs::read(&disks.source).unwrap();
    let (graph, source, target) = disks.nodes(direct);
    let guest = Rc::new(attach(&graph, &source));
    let filter = put_filter_above(&graph, &source, &target).await;
    let copying = Rc::new(Cell::new(true));
    let writers = [1, 2].map(|seed| {
        let (home, guest, copying) = (cx.clone(), guest.clone(), copying.clone());
        cx.spawn(async move { scribble(&home, &guest, seed, &copying).await })
    });
    copy_all(&cx, filter.block_copy()).await;
    copying.set(false);
    for writer in writers {
        assert!(writer.await > 0, "the guest wrote");
    }
    filter.block_copy().flush(&cx).await.unwrap();

    assert!(filter.snapshot().failure().is_none());
    disks.assert_target_is(&before);
    let counters = filter.block_copy().counters();
    let folder = folder.display();
    assert!(counters.offloaded_bytes > 0, "{folder}: {counters:?}");
}

#[test]
fn files_of_two_file_systems_are_read_and_written() {
    let elsewhere = Path::new("/dev/shm");
    if !elsewhere.is_dir() {
        return skipped("needs a tmpfs at /dev/shm");
    }
    on_each_backend(|cx| async move {
        let disks = Disks::new(&std::env::temp_dir(), 4 * MIB);
        let other = Disks::new(elsewhere, 4 * MIB);
        disks.fill(0, 4 * MIB);
        let graph = Graph::new();
        let source = disks.node(&graph, &disks.source, OnOffAuto::Auto);
        let target = other.node(&graph, &other.target_path, OnOffAuto::Auto);
        let copy = block_copy(&graph, &source, &target, Offload::Auto);
        copy_all(&cx, &copy).await;

        assert_eq!(copy.counters().offloaded_bytes, 0);
        assert_eq!(copy.counters().buffered_bytes, 4 * MIB);
        other.assert_target_is(&disks.content(0, 4 * MIB));
    });
}

fn nothing_is_shared_in(folder: &Path) {
    on_each_backend(|cx| async move {
        let disks = Disks::new(folder, 4 * MIB);
        disks.fill(0, 4 * MIB);
        let (graph, source, target) = disks.nodes(OnOffAuto::Auto);
        let copy = block_copy(&graph, &source, &target, Offload::Off);
        copy_all(&cx, &copy).await;
        assert_eq!(copy.counters().offloaded_bytes, 0);
        disks.assert_target_is(&disks.content(0, 4 * MIB));
    });
}

// Below: fixtures and helpers.

/// Two files in a folder of their own.
struct Disks {
    folder: PathBuf,
    source: PathBuf,
    target_path: PathBuf,
    target: File,
    len_bytes: u64,
    _scratch: tempfile::TempDir,
}

impl Disks {
    fn new(folder: &Path, len_bytes: u64) -> Self {
        let scratch = tempfile::tempdir_in(folder).unwrap();
        let [source, target_path] = ["source", "target"].map(|name| scratch.path().join(name));
        for path in [&source, &target_path] {
            File::create(path).unwrap().set_len(len_bytes).unwrap();
        }
        Self {
            folder: scratch.path().to_owned(),
            target: File::open(&target_path).unwrap(),
            source,
            target_path,
            len_bytes,
            _scratch: scratch,
        }
    }

    /// Fills a range of the source with bytes that tell their place.
    fn fill(&self, start: u64, len_bytes: u64) {
        let file = File::options().write(true).open(&self.source).unwrap();
        let mut at = start;
        while at < start + len_bytes {
            let len = (start + len_bytes - at).min(MIB);
            file.write_all_at(&self.content(at, len), at).unwrap();
            at += len;
        }
    }

    /// What [`Self::fill`] puts there.
    fn content(&self, start: u64, len_bytes: u64) -> Vec<u8> {
        assert!(start + len_bytes <= self.len_bytes);
        let mut bytes = vec![0; usize::try_from(len_bytes).unwrap()];
        let mut at = start;
        while at < start + len_bytes {
            let (number, skip) = (at / PAGE, at % PAGE);
            let len = (PAGE - skip).min(start + len_bytes - at);
            let page = page(number);
            let [from, to] = [at - start, skip].map(|from| usize::try_from(from).unwrap());
            let len_here = usize::try_from(len).unwrap();
            bytes[from..from + len_here].copy_from_slice(&page[to..to + len_here]);
            at += len;
        }
        bytes
    }

    fn sync(&self) {
        File::open(&self.source).unwrap().sync_all().unwrap();
    }

    fn node(&self, graph: &Graph, path: &Path, direct: OnOffAuto) -> Node {
        let options = FileOptions {
            direct,
            locking: OnOffAuto::Off,
            ..FileOptions::new(path)
        };
        let file = FileNode::open(&options).unwrap();
        graph.add_node(None, file).unwrap()
    }

    fn nodes(&self, direct: OnOffAuto) -> (Graph, Node, Node) {
        let graph = Graph::new();
        let source = self.node(&graph, &self.source, direct);
        let target = self.node(&graph, &self.target_path, direct);
        (graph, source, target)
    }

    fn assert_target_is(&self, expected: &[u8]) {
        let found = std::fs::read(&self.target_path).unwrap();
        assert_eq!(found.len(), expected.len());
        let differs = || found.iter().zip(expected).position(|(a, b)| a != b);
        assert!(found == expected, "first at byte {:?}", differs());
    }

    /// The same for all that [`Self::fill`] puts there, without so much memory.
    fn assert_target_is_filled(&self) {
        let mut found = vec![0; 1 << 20];
        for at in (0..self.len_bytes).step_by(1 << 20) {
            self.target.read_exact_at(&mut found, at).unwrap();
            assert!(found == self.content(at, MIB), "the MiB at {at} differs");
        }
    }
}

/// A page that tells its place.
fn page(number: u64) -> [u8; 4096] {
    let mut page = [number.to_le_bytes()[0] | 1; 4096];
    page[..8].copy_from_slice(&number.to_le_bytes());
    page
}

/// Spreads numbers.
fn mixed(word: u64) -> u64 {
    (word + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn attach(graph: &Graph, node: &Node) -> Child {
    let permissions = Permissions::uses(&[Permission::ConsistentRead, Permission::Write]);
    let attachment = Attachment::new("test", ChildRole::Primary, permissions);
    graph.attach(node, attachment).unwrap()
}

fn block_copy(graph: &Graph, source: &Node, target: &Node, offload: Offload) -> Rc<BlockCopy> {
    let options = CopyOptions {
        offload,
        ..CopyOptions::default()
    };
    let (source, target) = (attach(graph, source), attach(graph, target));
    Rc::new(BlockCopy::new(source, target, options).unwrap())
}

async fn put_filter_above(graph: &Graph, source: &Node, target: &Node) -> CbwHandle {
    let pair = (source, target);
    let (filter, handle) =
        CopyBeforeWriteNode::add_to(graph, None, pair, CbwOptions::default()).unwrap();
    graph.insert_filter(source, &filter).await.unwrap();
    handle
}

/// Copies what nobody else does, four requests at a time; returns how many it took.
async fn copy_all(
    cx: &AioContext,
    copy: &(impl std::ops::Deref<Target = BlockCopy> + Clone + 'static),
) -> u64 {
    let requests = Rc::new(Cell::new(0));
    let workers = [(); 4].map(|()| {
        let (cx, copy, requests) = (cx.clone(), copy.clone(), requests.clone());
        cx.clone().spawn(async move {
            let whole = ByteRange::between(0, copy.len_bytes());
            while let Some(claim) = copy.claim(whole, 256 * MIB) {
                copy.copy(&cx, claim).await.unwrap();
                requests.set(requests.get() + 1);
                cx.yield_now().await;
            }
        })
    });
    for worker in workers {
        worker.await;
    }
    while !copy.is_complete() {
        copy.landed().await;
    }
    requests.get()
}

async fn write(edge: &Child, cx: &AioContext, offset_bytes: u64, bytes: &[u8]) {
    let mut buf = IoBuf::heap(bytes.len());
    buf.copy_from_slice(bytes);
    let (_, result) = edge
        .write(cx, offset_bytes, buf, RequestFlags::default())
        .await;
    result.unwrap();
}

/// Writes here and there until the copy is done; returns how often.
async fn scribble(cx: &AioContext, edge: &Child, seed: u64, copying: &Cell<bool>) -> u64 {
    let (mut random, mut writes) = (seed, 0);
    while copying.get() {
        random = mixed(random).rotate_left(17);
        let at = random % (edge.len_bytes() - 5000);
        let bytes = vec![0xd0; usize::try_from(random >> 32 & 4095).unwrap() + 1];
        // Every other one is where blocks are.
        let at = if writes % 2 == 0 {
            at
        } else {
            at / 4096 * 4096
        };
        write(edge, cx, at, &bytes).await;
        writes += 1;
    }
    writes
}

fn run<F: Future<Output = ()>>(backend: Option<BackendKind>, test: impl FnOnce(AioContext) -> F) {
    let config = Config {
        backend,
        ..Config::default()
    };
    aio::run(config, test).unwrap();
}

fn on_each_backend<F: Future<Output = ()>>(test: impl Fn(AioContext) -> F) {
    for backend in [BackendKind::Epoll, BackendKind::IoUring] {
        if backend == BackendKind::Epoll || aio::probe_io_uring().is_ok() {
            run(Some(backend), &test);
        }
    }
}

/// A kind of file system that can share blocks.
struct FileSystem {
    mkfs: &'static str,
    options: &'static [&'static str],
    package: &'static str,
}

const XFS: FileSystem = FileSystem {
    mkfs: "mkfs.xfs",
    options: &["-q", "-m", "reflink=1"],
    package: "xfsprogs",
};
const BTRFS: FileSystem = FileSystem {
    mkfs: "mkfs.btrfs",
    options: &["-q"],
    package: "btrfs-progs",
};

/// The system's own folders.
fn own_folders() -> impl Iterator<Item = PathBuf> {
    let folders = [std::env::temp_dir(), PathBuf::from("/dev/shm")];
    folders.into_iter().filter(|folder| folder.is_dir())
}

/// A file system in a file, mounted until this is dropped.
struct Mounted {
    folder: PathBuf,
    _scratch: tempfile::TempDir,
}

impl Mounted {
    /// Says why if there can be none.
    fn make(kind: &FileSystem, len_bytes: u64) -> Option<Self> {
        if !is_root() {
            skipped("needs root (mounts, loop devices)");
            return None;
        }
        if Command::new(kind.mkfs).arg("-V").output().is_err() {
            skipped(&format!(
                "needs {} (Debian package {})",
                kind.mkfs, kind.package
            ));
            return None;
        }
        let scratch = tempfile::tempdir().unwrap();
        let [image, folder] = ["image", "mount"].map(|name| scratch.path().join(name));
        File::create(&image).unwrap().set_len(len_bytes).unwrap();
        succeed(Command::new(kind.mkfs).args(kind.options).arg(&image));
        std::fs::create_dir(&folder).unwrap();
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-o", "loop"]).args([&image, &folder]).output();
        if !mounted.unwrap().status.success() {
            skipped(&format!(
                "needs a kernel that mounts what {} makes",
                kind.mkfs
            ));
            return None;
        }
        Some(Self {
            folder,
            _scratch: scratch,
        })
    }

    fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        succeed(Command::new("umount").arg(&self.folder));
    }
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.starts_with(b"0\n"))
}

#[expect(
    clippy::print_stderr,
    reason = "without a log, this is where to say it"
)]
fn skipped(why: &str) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("a test");
    let line = format!("SKIPPED {name}: {why}\n");
    match std::env::var_os("LONGSHORE_SKIP_LOG") {
        Some(path) => {
            let log = File::options().create(true).append(true).open(path);
            log.unwrap().write_all(line.as_bytes()).unwrap();
        }
        None => eprint!("{line}"),
    }
}
