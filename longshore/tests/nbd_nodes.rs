//! Backups and mirrors to and from NBD servers: ours, and one of others that is killed, or says nothing any more.

#![expect(clippy::unwrap_used, reason = "in a test, an error is a failure")]

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child as Process, Command},
    sync::Arc,
};

use aio::{Config, IoBuf, IoThread};
use block::{
    Attachment, ChildRole, Graph, Node, Permission, Permissions, RequestFlags,
    mirror::CopyMode,
    nodes::{
        FaultAction, FaultControl, FaultNode, FaultOp, FaultRule, MemoryNode, MemoryOptions,
        NbdOptions,
    },
};
use job::{CancelMode, JobOutcome, JobStatus};
use longshore::{
    Backup, BackupOptions, Engine, EngineConfig, Mirror, MirrorOptions,
    export::{ExportOptions, NbdAddress, NbdServer, NbdServerOptions, NbdUri},
};

const MIB: u64 = 1 << 20;
const LEN: u64 = 8 * MIB;
const HOUR_NS: u64 = 3_600_000_000_000;

/// A server of ours with one writable export, whose requests can be held.
struct Far {
    dir: tempfile::TempDir,
    faults: FaultControl,
    memory: Node,
    graph: Graph,
    server: NbdServer,
    thread: IoThread,
}

impl Far {
    fn new() -> Self {
        let thread = IoThread::start(Config::default()).unwrap();
        let graph = Graph::new();
        let memory = MemoryNode::new(MemoryOptions::new(LEN)).unwrap();
        let memory = graph.add_node(Some("memory"), memory).unwrap();
        let faults = FaultControl::new();
        let builder = graph.build_node(Some("disk")).unwrap();
        let uses = Permissions::uses(&[Permission::ConsistentRead]);
        let child = builder.attach(&memory, "file", ChildRole::Filtered, uses);
        let node = builder.finish(FaultNode::new(child.unwrap(), faults.clone()));
        let dir = tempfile::tempdir().unwrap();
        let address = NbdAddress::Unix(dir.path().join("nbd.sock"));
        let options = NbdServerOptions::default();
        let server = NbdServer::start(thread.handle(), &graph, &address, options).unwrap();
        let export = ExportOptions {
            writable: true,
            ..ExportOptions::new("disk", &node)
        };
        server.add_export(export).unwrap();
        Self {
            dir,
            faults,
            memory,
            graph,
            server,
            thread,
        }
    }

    fn options(&self, reconnect_delay_ns: u64) -> NbdOptions {
        NbdOptions {
            reconnect_delay_ns,
            ..NbdOptions::new(self.server.uri("disk"))
        }
    }

    /// Waits until the disk holds a request.
    fn wait_held(&self) {
        let faults = self.faults.clone();
        let held = self.thread.handle().spawn(|_| async move {
            faults.wait_held(1).await;
        });
        held.wait();
    }

    fn bytes(&self) -> Vec<u8> {
        bytes_of(self.thread.handle(), &self.graph, &self.memory)
    }
}

fn engine() -> Engine {
    Engine::start(EngineConfig::default()).unwrap()
}

fn attach(graph: &Graph, node: &Node, uses: &[Permission]) -> block::Child {
    let attachment = Attachment::new("test", ChildRole::Primary, Permissions::uses(uses));
    graph.attach(node, attachment).unwrap()
}

fn bytes_of(handle: &aio::Handle, graph: &Graph, node: &Node) -> Vec<u8> {
    let edge = attach(graph, node, &[Permission::ConsistentRead]);
    let reading = handle.spawn(|cx| async move {
        let mut bytes = Vec::new();
        let end = edge.len_bytes();
        for at in (0..end).step_by(1 << 20) {
            let len = usize::try_from((end - at).min(MIB)).unwrap();
            let (buf, result) = edge.read(&cx, at, IoBuf::heap(len)).await;
            result.unwrap();
            bytes.extend_from_slice(&buf);
        }
        bytes
    });
    reading.wait()
}

fn fill(handle: &aio::Handle, graph: &Graph, node: &Node, byte: u8) {
    let edge = attach(graph, node, &[Permission::Write]);
    let writing = handle.spawn(move |cx| async move {
        for at in (0..edge.len_bytes()).step_by(1 << 20) {
            let mut buf = IoBuf::heap(1 << 20);
            for (index, place) in buf.iter_mut().enumerate() {
                *place = byte.wrapping_add(u8::try_from(index / 4096 % 256).unwrap());
            }
            let written = edge.write(&cx, at, buf, RequestFlags::default()).await;
            written.1.unwrap();
        }
    });
    writing.wait();
}

/// A memory node of the engine's, full of data.
fn disk(engine: &Engine, name: &str, byte: u8) -> Node {
    let memory = MemoryNode::new(MemoryOptions::new(LEN)).unwrap();
    let node = engine.graph().add_node(Some(name), memory).unwrap();
    fill(engine.handle(), engine.graph(), &node, byte);
    node
}

fn start(engine: &Engine, (source, target): (&Node, &Node), id: &str) -> Backup {
    engine
        .backup(source, target, BackupOptions::new(id))
        .unwrap()
}

fn completes(backup: &Backup) {
    backup.job().wait_blocking().into_result().unwrap();
}

fn cancel(backup: &Backup) {
    backup.job().cancel(CancelMode::Force).unwrap();
    let outcome = backup.job().wait_blocking();
    assert!(matches!(outcome, JobOutcome::Cancelled(_)), "{outcome:?}");
}

fn hold_writes(far: &Far) {
    let rule = FaultRule::every(FaultOp::Write, FaultAction::Hold);
    far.faults.add(rule);
}

#[test]
fn a_backup_to_an_export_of_ours_and_back_again_is_equal() {
    let (far, engine) = (Far::new(), engine());
    let source = disk(&engine, "source", 3);
    let target = engine.open_nbd(Some("far"), &far.options(0)).unwrap();
    let there = start(&engine, (&source, &target), "there");
    completes(&there);
    let wanted = bytes_of(engine.handle(), engine.graph(), &source);
    assert!(far.bytes() == wanted);
    assert_eq!(there.report().counters.bounced_bytes, 0);

    let memory = MemoryNode::new(MemoryOptions::new(LEN)).unwrap();
    let copy = engine.graph().add_node(Some("copy"), memory).unwrap();
    let back = start(&engine, (&target, &copy), "back");
    completes(&back);
    assert!(bytes_of(engine.handle(), engine.graph(), &copy) == wanted);
}

#[test]
fn defect_08_a_stuck_nbd_target_freezes_no_other_job_no_drain_and_no_query() {
    for delay_ns in [0, HOUR_NS] {
        let (far, engine) = (Far::new(), engine());
        let source = disk(&engine, "source", 3);
        let target = engine
            .open_nbd(Some("far"), &far.options(delay_ns))
            .unwrap();
        hold_writes(&far);
        let stuck = start(&engine, (&source, &target), "stuck");
        far.wait_held();

        // Other jobs, queries, drains and new users.
        let others = (disk(&engine, "a", 1), disk(&engine, "b", 2));
        completes(&start(&engine, (&others.0, &others.1), "other"));
        assert_eq!(engine.jobs().list().len(), 1);
        assert_eq!(stuck.job().status(), JobStatus::Running);
        let (graph, node) = (engine.graph().clone(), others.0.clone());
        let drained = engine
            .handle()
            .spawn(|_| async move { drop(graph.drain(&[node]).await) });
        drained.wait();
        let address = NbdAddress::Unix(far.dir.path().join("near.sock"));
        let options = NbdServerOptions::default();
        let server = NbdServer::start(engine.handle(), engine.graph(), &address, options).unwrap();
        server
            .add_export(ExportOptions::new("a", &others.0))
            .unwrap();
        server
            .add_export(ExportOptions::new("source", &source))
            .unwrap();
        stuck.job().pause().unwrap();

        cancel(&stuck);
        let report = stuck.report();
        assert_eq!(
            (report.requests_in_flight, report.target_may_change),
            (0, false),
            "the node gave its requests back"
        );
        server.stop();

        // The same node goes on when the server does.
        far.faults.release_all();
        completes(&start(&engine, (&source, &target), "again"));
        assert!(far.bytes() == bytes_of(engine.handle(), engine.graph(), &source));
    }
}

#[test]
fn museum_23_a_cancel_does_not_wait_for_an_nbd_target_that_is_being_looked_for() {
    let (far, engine) = (Far::new(), engine());
    let source = disk(&engine, "source", 3);
    let target = engine.open_nbd(Some("far"), &far.options(HOUR_NS)).unwrap();
    hold_writes(&far);
    let stuck = start(&engine, (&source, &target), "stuck");
    far.wait_held();
    far.faults.release_all();
    far.server.stop();
    cancel(&stuck);
    assert!(!stuck.report().target_may_change);
}

#[test]
fn a_target_whose_server_goes_fails_the_backup_if_it_is_not_waited_for() {
    let (far, engine) = (Far::new(), engine());
    let source = disk(&engine, "source", 3);
    let target = engine.open_nbd(Some("far"), &far.options(0)).unwrap();
    hold_writes(&far);
    let stuck = start(&engine, (&source, &target), "stuck");
    far.wait_held();
    far.server.stop();
    let outcome = stuck.job().wait_blocking();
    let JobOutcome::Failed(error) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(error.errno(), Some(libc::EIO));
    far.faults.release_all();
}

/// A server of QEMU's, until it is killed or dropped.
struct QemuNbd(Process);

impl QemuNbd {
    fn serve(socket: &Path, image: &Path) -> Self {
        let _ = std::fs::remove_file(socket);
        let mut command = Command::new("qemu-nbd");
        command.args(["--format=raw", "--persistent", "--shared=0", "--socket"]);
        Self(command.arg(socket).arg(image).spawn().unwrap())
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for QemuNbd {
    fn drop(&mut self) {
        // It may have been killed before.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_backup_goes_on_with_a_server_that_was_killed_and_started_again() {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|dir| dir.join("qemu-nbd").exists()) {
        return skipped("qemu-nbd (Debian package qemu-utils)");
    }
    let dir = tempfile::tempdir().unwrap();
    let (socket, image) = (dir.path().join("nbd.sock"), dir.path().join("image"));
    std::fs::File::create(&image).unwrap().set_len(LEN).unwrap();
    let mut server = QemuNbd::serve(&socket, &image);
    let engine = engine();
    let source = disk(&engine, "source", 3);
    let options = NbdOptions {
        reconnect_delay_ns: HOUR_NS,
        open_timeout_ns: HOUR_NS,
        ..NbdOptions::new(NbdUri {
            address: NbdAddress::Unix(socket.clone()),
            export: String::new(),
        })
    };
    let target = engine.open_nbd(Some("far"), &options).unwrap();
    let options = BackupOptions {
        speed_bytes_per_s: 8 * MIB,
        ..BackupOptions::new("interrupted")
    };
    let backup = engine.backup(&source, &target, options).unwrap();
    for part in 1..3 {
        while backup.report().done_bytes < part * MIB {
            std::thread::yield_now();
        }
        server.kill();
        server = QemuNbd::serve(&socket, &image);
    }
    completes(&backup);
    let wanted = bytes_of(engine.handle(), engine.graph(), &source);
    assert!(std::fs::read(&image).unwrap() == wanted);
}

fn mirror(engine: &Engine, nodes: (&Node, &Node), id: &str) -> Mirror {
    let options = MirrorOptions::new(id);
    engine.mirror(nodes.0, nodes.1, options).unwrap()
}

fn until_ready(mirror: &Mirror) {
    while mirror.job().status() != JobStatus::Ready {
        assert!(mirror.job().outcome().is_none());
        std::thread::yield_now();
    }
}

fn write_block(engine: &Engine, guest: &Arc<block::Child>, byte: u8) {
    let guest = guest.clone();
    let writing = engine.handle().spawn(move |cx| async move {
        let mut buf = IoBuf::heap(4096);
        buf.fill(byte);
        let written = guest.write(&cx, 4096, buf, RequestFlags::default()).await;
        written.1.unwrap();
        guest.flush(&cx).await.unwrap();
    });
    writing.wait();
}

#[test]
fn a_mirror_to_an_export_of_ours_moves_its_guests_there() {
    let (far, engine) = (Far::new(), engine());
    let source = disk(&engine, "source", 3);
    let target = engine.open_nbd(Some("far"), &far.options(0)).unwrap();
    let uses = [Permission::ConsistentRead, Permission::Write];
    let guest = Arc::new(attach(engine.graph(), &source, &uses));
    let mirror = mirror(&engine, (&source, &target), "there");
    until_ready(&mirror);
    write_block(&engine, &guest, 7);
    mirror.job().complete().unwrap();
    mirror.job().wait_blocking().into_result().unwrap();
    assert_eq!(guest.node(), target);
    write_block(&engine, &guest, 8);
    drop(guest);
    let mut wanted = bytes_of(engine.handle(), engine.graph(), &source);
    assert_eq!(wanted[4096], 7);
    wanted[4096..8192].fill(8);
    assert!(far.bytes() == wanted);
}

#[test]
fn museum_23_a_cancel_of_a_mirror_does_not_wait_for_a_target_that_is_being_looked_for() {
    let (far, engine) = (Far::new(), engine());
    let source = disk(&engine, "source", 3);
    let target = engine.open_nbd(Some("far"), &far.options(HOUR_NS)).unwrap();
    hold_writes(&far);
    let stuck = mirror(&engine, (&source, &target), "stuck");
    far.wait_held();
    far.faults.release_all();
    far.server.stop();
    stuck.job().cancel(CancelMode::Force).unwrap();
    let outcome = stuck.job().wait_blocking();
    assert!(matches!(outcome, JobOutcome::Cancelled(_)), "{outcome:?}");
    assert!(!stuck.report().target_may_change);
}

#[test]
fn guests_are_served_when_the_server_of_a_mirrors_target_goes() {
    for mode in CopyMode::ALL {
        let (far, engine) = (Far::new(), engine());
        let source = disk(&engine, "source", 3);
        let target = engine.open_nbd(Some("far"), &far.options(0)).unwrap();
        let uses = [Permission::ConsistentRead, Permission::Write];
        let guest = Arc::new(attach(engine.graph(), &source, &uses));
        let mirror = mirror(&engine, (&source, &target), "m");
        until_ready(&mirror);
        mirror.set_copy_mode(mode).unwrap();
        far.server.stop();
        write_block(&engine, &guest, 7);
        let outcome = mirror.job().wait_blocking();
        assert!(matches!(outcome, JobOutcome::Failed(_)), "{outcome:?}");
        write_block(&engine, &guest, 8);
        assert_eq!(guest.node(), source);
        drop(guest);
        assert_eq!(bytes_of(engine.handle(), engine.graph(), &source)[4096], 8);
    }
}

#[expect(clippy::print_stderr, reason = "docs/testing.md asks for it")]
fn skipped(what: &str) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("a test");
    let line = format!("SKIPPED {name}: needs {what}\n");
    let Some(log) = std::env::var_os("LONGSHORE_SKIP_LOG").map(PathBuf::from) else {
        return eprint!("{line}");
    };
    let log = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(log);
    log.unwrap().write_all(line.as_bytes()).unwrap();
}
