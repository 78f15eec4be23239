//! Image locks of a file whose node has users in a graph: what they do and allow, and no more.

use std::process::{Child as Process, ChildStdin, ChildStdout};

use super::*;
use crate::{
    graph::{
        Graph,
        child::{Attachment, Child, ChildRole},
        permission::{Permission, Permissions},
    },
    node::Node,
};

const READ: Permission = Permission::ConsistentRead;
const WRITE: Permission = Permission::Write;
const RESIZE: Permission = Permission::Resize;

fn while_used(path: &Path) -> FileOptions {
    FileOptions {
        lock_term: LockTerm::WhileUsed,
        ..FileOptions::new(path)
    }
}

/// A node over the file, locked as it is used.
fn node_over(graph: &Graph, path: &Path) -> Node {
    let driver = FileNode::open(&while_used(path)).unwrap();
    graph.add_node(None, driver).unwrap()
}

fn attach(graph: &Graph, node: &Node, permissions: Permissions) -> Result<Child, BlockError> {
    let user = Attachment::new("a user", ChildRole::Primary, permissions);
    graph.attach(node, user)
}

fn reader() -> Permissions {
    Permissions::uses(&[READ])
}

fn writer() -> Permissions {
    Permissions::uses(&[READ, WRITE])
}

/// The bytes that anybody has locked.
fn locked(path: &Path) -> Vec<u64> {
    let file = File::open(path).unwrap();
    let is_locked = |byte: &u64| aio::sys::byte_locked_by_other(file.as_fd(), *byte).unwrap();
    (100..104).chain(200..204).filter(is_locked).collect()
}

fn text(result: Result<Child, BlockError>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    error.to_string()
}

#[test]
fn what_users_do_and_forbid_is_locked_for_as_long_as_they_do() {
    let _alone = alone();
    let (graph, file) = (Graph::new(), sparse_file(MIB));
    let node = node_over(&graph, file.path());
    assert_eq!(locked(file.path()), []);

    let first = attach(&graph, &node, reader().unsharing(&[RESIZE])).unwrap();
    assert_eq!(locked(file.path()), [100, 203]);
    let second = attach(&graph, &node, writer()).unwrap();
    assert_eq!(locked(file.path()), [100, 101, 203]);
    drop(first);
    assert_eq!(locked(file.path()), [100, 101]);
    drop(second);
    assert_eq!(locked(file.path()), []);

    let unchanged = Permissions::uses(&[Permission::WriteUnchanged, RESIZE]);
    let alone = unchanged.unsharing(&[READ, WRITE, Permission::WriteUnchanged]);
    let _third = attach(&graph, &node, alone).unwrap();
    assert_eq!(locked(file.path()), [102, 103, 200, 201, 202]);
}

#[test]
fn nodes_of_one_file_may_do_together_what_their_users_allow_each_other() {
    let _alone = alone();
    let (graph, file) = (Graph::new(), sparse_file(MIB));
    let [one, other] = [(); 2].map(|()| node_over(&graph, file.path()));
    let writing = attach(&graph, &one, writer()).unwrap();
    let also_writing = attach(&graph, &other, writer()).unwrap();
    drop(also_writing);

    let careful = reader().unsharing(&[WRITE]);
    let refused = attach(&graph, &other, careful).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Locked);
    assert_eq!(refused.to_string(), "Failed to get shared \"write\" lock");
    let path = file.path().display();
    assert_eq!(
        refused.hint().unwrap(),
        format!("Is another process using the image [{path}]?")
    );
    assert_eq!(locked(file.path()), [100, 101], "nothing of it is left");
    assert!(attach(&graph, &other, reader()).is_ok());

    drop(writing);
    let _careful = attach(&graph, &other, careful).unwrap();
    let refused = attach(&graph, &one, writer());
    assert_eq!(text(refused), "Failed to get \"write\" lock");
    assert_eq!(locked(file.path()), [100, 201]);
}

#[test]
fn an_opener_that_locks_at_once_and_one_that_locks_by_use_mind_each_other() {
    let _alone = alone();
    let (graph, file) = (Graph::new(), sparse_file(MIB));
    let by_use = node_over(&graph, file.path());
    let at_once = open(file.path());
    assert!(attach(&graph, &by_use, reader()).is_ok());
    let refused = attach(&graph, &by_use, writer());
    assert_eq!(text(refused), "Failed to get \"write\" lock");
    drop(at_once);

    let user = attach(&graph, &by_use, writer()).unwrap();
    let error = FileNode::open(&FileOptions::new(file.path())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    drop(user);
    let at_once = open(file.path());
    assert_eq!(locked(file.path()), [100, 101, 201, 203]);

    // Its users are locked too, and it stays locked without them.
    let node = graph.add_node(None, at_once).unwrap();
    let resizes = Permissions::uses(&[RESIZE]);
    drop(attach(&graph, &node, resizes).unwrap());
    assert_eq!(locked(file.path()), [100, 101, 201, 203]);
}

#[test]
fn who_shares_everything_forbids_nothing_whatever_its_users_say() {
    let _alone = alone();
    let (graph, file) = (Graph::new(), sparse_file(MIB));
    let sharing = FileOptions {
        read_only: true,
        sharing: Sharing::Everyone,
        ..while_used(file.path())
    };
    let driver = FileNode::open(&sharing).unwrap();
    let node = graph.add_node(None, driver).unwrap();
    let _user = attach(&graph, &node, reader().unsharing(&[WRITE, RESIZE])).unwrap();
    assert_eq!(locked(file.path()), [100]);
    let other = node_over(&graph, file.path());
    attach(&graph, &other, writer()).unwrap();
}

#[test]
fn without_locking_nobody_is_seen_and_nobody_sees() {
    let _alone = alone();
    let (graph, file) = (Graph::new(), sparse_file(MIB));
    let _writer = open(file.path());
    let before = locked(file.path());
    let careless = FileOptions {
        locking: OnOffAuto::Off,
        ..while_used(file.path())
    };
    let driver = FileNode::open(&careless).unwrap();
    let node = graph.add_node(None, driver).unwrap();
    let _user = attach(&graph, &node, writer().unsharing(&[READ, WRITE])).unwrap();
    assert_eq!(locked(file.path()), before);
}

#[test]
fn a_file_is_resized_only_if_users_of_other_nodes_allow_it() {
    let _alone = alone();
    on_each_backend(|cx| async move {
        let (graph, file) = (Graph::new(), sparse_file(MIB));
        let [one, other] = [(); 2].map(|()| node_over(&graph, file.path()));
        let user = attach(&graph, &other, reader().unsharing(&[RESIZE])).unwrap();

        let refused = graph.resize(&one, &cx, 2 * MIB).await.unwrap_err();
        assert_eq!(refused.to_string(), "Failed to get \"resize\" lock");
        assert_eq!(file.as_file().metadata().unwrap().len(), MIB);

        drop(user);
        graph.resize(&one, &cx, 2 * MIB).await.unwrap();
        assert_eq!(file.as_file().metadata().unwrap().len(), 2 * MIB);
        assert_eq!(locked(file.path()), []);
    });
}

#[test]
fn a_hole_that_others_may_fill_is_looked_at_each_time() {
    on_each_backend(|cx| async move {
        let (graph, file) = (Graph::new(), sparse_file(MIB));
        let node = node_over(&graph, file.path());
        let fill = |at: u64| file.as_file().write_all_at(&[7; 4096], at).unwrap();
        let user = attach(&graph, &node, reader()).unwrap();
        let status = async |at: u64| {
            let extent = user.extent(&cx, range(at, 4096)).await;
            extent.unwrap().status
        };
        assert_eq!(status(0).await, AllocationStatus::Zero);
        fill(0);
        assert_eq!(status(0).await, AllocationStatus::Data);

        // Who forbids writes may rely on the first look, until he goes.
        let careful = attach(&graph, &node, reader().unsharing(&[WRITE])).unwrap();
        assert_eq!(status(MIB / 2).await, AllocationStatus::Zero);
        let driver = FileNode::of(&node).unwrap();
        assert!(driver.holes.known(range(MIB / 2, 4096)).is_some());
        drop(careful);
        fill(MIB / 2);
        let _careful = attach(&graph, &node, reader().unsharing(&[WRITE])).unwrap();
        assert_eq!(status(MIB / 2).await, AllocationStatus::Data);
    });
}

#[test]
fn qemu_may_do_what_the_users_of_a_node_allow_and_no_more() {
    let _alone = alone();
    on_each_backend(|cx| async move {
        const WRITE_IT: &[&str] = &["-f", "raw", "-c", "write -P 7 0 4k"];
        const COPY: &[&str] = &["convert", "-f", "raw", "-O", "raw"];
        const RESIZE_IT: &[&str] = &["resize", "-f", "raw"];
        let (graph, file, copy) = (Graph::new(), sparse_file(MIB), sparse_file(0));
        let path = file.path();
        let node = node_over(&graph, path);
        let Some((ok, said)) = run_tool("qemu-io", WRITE_IT, &[path]) else {
            return skipped(
                "qemu_may_do_what_the_users_of_a_node_allow_and_no_more: needs qemu-io",
            );
        };
        assert!(ok, "nobody uses the node: {said}");

        let user = attach(&graph, &node, reader().unsharing(&[RESIZE])).unwrap();
        let (ok, said) = run_tool("qemu-io", WRITE_IT, &[path]).unwrap();
        assert!(ok, "a reader allows writes: {said}");
        let (buf, result) = user.read(&cx, 0, buffer(4096, 0)).await;
        result.unwrap();
        assert!(buf.iter().all(|byte| *byte == 7));
        let (ok, said) = run_tool("qemu-img", RESIZE_IT, &[path, Path::new("2M")]).unwrap();
        assert!(
            !ok && said.contains("Failed to get \"resize\" lock"),
            "{said}"
        );

        let careful = attach(&graph, &node, reader().unsharing(&[WRITE])).unwrap();
        let (ok, said) = run_tool("qemu-io", WRITE_IT, &[path]).unwrap();
        assert!(
            !ok && said.contains("Failed to get \"write\" lock"),
            "{said}"
        );
        let (ok, said) = run_tool("qemu-img", COPY, &[path, copy.path()]).unwrap();
        assert!(ok, "readers share: {said}");
        drop(careful);

        let guest = attach(&graph, &node, writer()).unwrap();
        let flags = RequestFlags::default();
        guest.write(&cx, 0, buffer(4096, 9), flags).await.1.unwrap();
        let (ok, said) = run_tool("qemu-img", COPY, &[path, copy.path()]).unwrap();
        assert!(
            !ok && said.contains("Failed to get shared \"write\" lock"),
            "{said}"
        );
        drop((user, guest));
        let (ok, said) = run_tool("qemu-img", RESIZE_IT, &[path, Path::new("2M")]).unwrap();
        assert!(ok, "{said}");
    });
}

/// A `qemu-io` that has the image open for writing, and minds nobody.
struct QemuIo {
    process: Process,
    commands: ChildStdin,
    _answers: BufReader<ChildStdout>,
}

impl QemuIo {
    /// `None` when it is not there.
    fn start(path: &Path) -> Option<Self> {
        let mut process = Command::new("qemu-io")
            .args(["-f", "raw"])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut commands = process.stdin.take().unwrap();
        commands.write_all(b"write 0 4k\n").unwrap();
        // Its answer shows that it has the image open.
        let mut answers = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("wrote") {
            line.clear();
            assert_ne!(answers.read_line(&mut line).unwrap(), 0, "it has ended");
        }
        Some(Self {
            process,
            commands,
            _answers: answers,
        })
    }

    fn quit(mut self) {
        self.commands.write_all(b"quit\n").unwrap();
        self.process.wait().unwrap();
    }
}

#[test]
fn users_are_refused_what_qemu_does_not_allow_when_they_come() {
    let _alone = alone();
    on_each_backend(|cx| async move {
        let (graph, file) = (Graph::new(), sparse_file(MIB));
        let Some(qemu) = QemuIo::start(file.path()) else {
            return skipped(
                "users_are_refused_what_qemu_does_not_allow_when_they_come: needs qemu-io",
            );
        };
        let node = node_over(&graph, file.path());
        let careful = reader().unsharing(&[WRITE]);
        let refused = attach(&graph, &node, careful);
        assert_eq!(text(refused), "Failed to get shared \"write\" lock");

        // It allows whatever does not forbid it to write.
        let user = attach(&graph, &node, writer()).unwrap();
        let (_, result) = user.read(&cx, 0, buffer(4096, 0)).await;
        result.unwrap();

        qemu.quit();
        drop(user);
        attach(&graph, &node, careful).unwrap();
        assert_eq!(locked(file.path()), []);
    });
}
