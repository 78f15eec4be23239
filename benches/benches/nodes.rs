//! What a request costs on its way through nodes.

use std::{future::Future, process::Command, rc::Rc, time::Duration};

use aio::{Fd, IoBuf};
use benches::{BLOCK_BYTES, DEPTH, Loop, Races, Scratch, Side, random_reads, skipped};
use block::{
    Attachment, Child, ChildRole, Graph, Node, NodeDriver, Permission, Permissions,
    nodes::{FileNode, FileOptions, NullNode, NullOptions, RawNode, RawOptions},
};

const FILE_MIB: u64 = 64;
/// Requests of a round.
const REQUESTS: u64 = 1024;

pub(crate) fn run(races: &mut Races) {
    if !races.wants("node/") {
        return;
    }
    let Some(context) = Loop::best() else { return };
    null_nodes(races, &context);
    if let Some(scratch) = Scratch::in_memory(FILE_MIB) {
        file_nodes(races, &context, &scratch);
    }
}

const READS: [Permission; 1] = [Permission::ConsistentRead];

/// An edge to `node` for whoever measures.
fn edge(graph: &Graph, node: &Node) -> Child {
    let attachment = Attachment::new("bench", ChildRole::Primary, Permissions::uses(&READS));
    graph.attach(node, attachment).expect("reading is allowed")
}

/// A `raw` node over all of `node`.
fn raw_over(graph: &Graph, node: &Node) -> Node {
    let builder = graph.build_node(None).expect("names do not run out");
    let child = builder.attach(node, "file", ChildRole::Data, Permissions::uses(&READS));
    let child = child.expect("the node is in the graph");
    let raw = RawNode::new(child, RawOptions::default()).expect("all of a node is a window");
    builder.finish(raw)
}

fn null() -> NullNode {
    NullNode::new(NullOptions {
        len_bytes: 1 << 30,
        ..NullOptions::default()
    })
}

/// Reads one after the other by `read`, which takes and returns the buffer.
fn one_by_one<F>(context: &Loop, rounds: u64, read: impl Fn(IoBuf) -> F)
where
    F: Future<Output = IoBuf>,
{
    context.block_on(async {
        let mut buf = context.buffers().acquire(BLOCK_BYTES).await;
        for _ in 0..rounds * REQUESTS {
            buf = read(buf).await;
        }
    });
}

fn through<'a>(name: &'static str, context: &'a Loop, child: &'a Child) -> Side<'a> {
    let read = |buf| async {
        let (buf, result) = child.read(context, 0, buf).await;
        assert!(result.is_ok(), "a null node reads");
        buf
    };
    Side::new(name, move |rounds| one_by_one(context, rounds, read))
}

fn null_nodes(races: &mut Races, context: &Loop) {
    let driver = null();
    let called = |buf| async {
        let (buf, result) = driver.read(context, 0, buf).await;
        assert!(result.is_ok(), "a null node reads");
        buf
    };
    let bare = Side::new("bare_call", |rounds| one_by_one(context, rounds, called));

    let graph = Graph::new();
    let null = graph.add_node(None, null()).expect("names do not run out");
    let raw = raw_over(&graph, &null);
    let (null, raw) = (edge(&graph, &null), edge(&graph, &raw));
    let ours = through("null", context, &null);
    races.race("node/null", REQUESTS, ours, vec![bare]);
    let ours = through("raw_over_null", context, &raw);
    let peer = through("null", context, &null);
    races.race("node/raw_over_null", REQUESTS, ours, vec![peer]);
}

fn at_random_through<'a>(
    name: &'static str,
    context: &'a Loop,
    scratch: &Scratch,
    child: &Rc<Child>,
) -> Side<'a> {
    let child = child.clone();
    random_reads(name, context, scratch, REQUESTS, move |cx, offset, buf| {
        let child = child.clone();
        async move {
            let (buf, result) = child.read(&cx, offset, buf).await;
            assert!(result.is_ok(), "a scratch file can be read");
            buf
        }
    })
}

fn file_nodes(races: &mut Races, context: &Loop, scratch: &Scratch) {
    let graph = Graph::new();
    let options = FileOptions {
        read_only: true,
        ..FileOptions::new(scratch.path())
    };
    let driver = FileNode::open(&options).expect("a scratch file opens");
    let file = graph.add_node(None, driver).expect("names do not run out");
    let raw = raw_over(&graph, &file);
    let file = Rc::new(edge(&graph, &file));
    let raw = Rc::new(edge(&graph, &raw));
    let fd = Fd::from(scratch.open().expect("a scratch file opens"));
    let direct = || {
        let fd = fd.clone();
        random_reads("aio", context, scratch, REQUESTS, move |cx, offset, buf| {
            let fd = fd.clone();
            async move {
                let (buf, count) = cx.read(&fd, offset, buf).await;
                assert_eq!(count.ok(), Some(BLOCK_BYTES), "a scratch file can be read");
                buf
            }
        })
    };
    let through_file = || at_random_through("file", context, scratch, &file);
    races.race("node/file", REQUESTS, through_file(), vec![direct()]);
    let ours = at_random_through("raw_over_file", context, scratch, &raw);
    let mut peers = vec![through_file(), direct()];
    match qemu_img(scratch, 1) {
        Ok(_) => peers.push(Side::timed("qemu_img", |rounds| {
            qemu_img(scratch, rounds * REQUESTS).expect("it could do so before")
        })),
        Err(why) => skipped(format_args!("qemu-img bench: {why}")),
    }
    races.race("node/raw_over_file", REQUESTS, ours, peers);
}

/// The time that `qemu-img bench` says it took for `count` reads.
///
/// It reads one block after the other, which on tmpfs is as well as at random. The processor time
/// of its process includes the start, so only this time can be compared.
fn qemu_img(scratch: &Scratch, count: u64) -> Result<Duration, String> {
    let mut command = Command::new("qemu-img");
    command.args(["bench", "-f", "raw", "-t", "none", "-n", "-i", "io_uring"]);
    command.args(["-s", &BLOCK_BYTES.to_string()]);
    command.args(["-d", &DEPTH.to_string(), "-c", &count.to_string()]);
    let output = command.arg(scratch.path()).output();
    let output = output.map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let seconds = text.split_once("Run completed in ").and_then(|(_, rest)| {
        let seconds = rest.split(' ').next()?;
        seconds.parse().ok()
    });
    let seconds = seconds.ok_or_else(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok(Duration::from_secs_f64(seconds))
}
