//! Copies from file to file through the graph: by the kernel, through our buffers, and by the tools of others.

use std::{cell::Cell, process::Command, rc::Rc};

use aio::AioContext;
use benches::{Loop, Races, Scratch, Side, skipped};
use block::{
    Attachment, ByteRange, Child, ChildRole, Graph, Node, Permission, Permissions,
    copy::{BlockCopy, CopyOptions, Offload},
    nodes::{FileNode, FileOptions, OnOffAuto},
};

/// Length of a file in MiB, which a round copies.
const CHUNKS: u64 = 512;
/// Claims at once, as many as a job begins with.
const CLAIMS: usize = 4;

pub(crate) fn run(races: &mut Races) {
    for (name, make) in [
        (
            "offload/tmpfs",
            Scratch::in_memory as fn(u64) -> Option<Scratch>,
        ),
        (
            "offload/disk",
            Scratch::on_disk as fn(u64) -> Option<Scratch>,
        ),
    ] {
        if races.wants(name)
            && let (Some(context), Some(from), Some(to)) =
                (Loop::best(), make(CHUNKS), make(CHUNKS))
        {
            race(races, name, &context, (&from, &to));
        }
    }
}

fn race(races: &mut Races, name: &str, context: &Loop, (from, to): (&Scratch, &Scratch)) {
    let graph = Graph::new();
    let nodes = [from, to].map(|scratch| node(&graph, scratch));
    let ours = ours("offload", context, (&graph, &nodes), Offload::Auto);
    let mut peers = vec![self::ours(
        "read_and_write",
        context,
        (&graph, &nodes),
        Offload::Off,
    )];
    peers.extend(
        TOOLS
            .iter()
            .filter_map(|tool| by_tool(name, tool, from, to)),
    );
    races.race(name, CHUNKS, ours, peers);
    races.figure(
        &format!("{name}/share"),
        "of a hundred bytes are moved by the kernel",
        || {
            let counters = context.block_on(copy(context, (&graph, &nodes), Offload::Auto));
            let share = counters.offloaded_bytes * 100 / (CHUNKS << 20);
            Some(u32::try_from(share).ok()?.into())
        },
    );
}

/// A copy by a program of others, its start included; it is told what to copy behind the options.
struct Tool {
    name: &'static str,
    command: &'static str,
    options: &'static [&'static str],
    /// How it names the two files.
    names: [&'static str; 2],
}

const TOOLS: [Tool; 3] = [
    Tool {
        name: "cp",
        command: "cp",
        options: &["--reflink=never", "--sparse=never"],
        names: ["", ""],
    },
    Tool {
        name: "dd",
        command: "dd",
        options: &["bs=1M", "conv=notrunc"],
        names: ["if=", "of="],
    },
    Tool {
        name: "qemu_img",
        command: "qemu-img",
        options: &["convert", "-n", "-f", "raw", "-O", "raw"],
        names: ["", ""],
    },
];

fn by_tool(race: &str, tool: &Tool, from: &Scratch, to: &Scratch) -> Option<Side<'static>> {
    let mut command = Command::new(tool.command);
    command.args(tool.options);
    for (name, file) in tool.names.iter().zip([from, to]) {
        command.arg(format!("{name}{}", file.path().display()));
    }
    let mut run = move || {
        let output = command.output();
        output.is_ok_and(|output| output.status.success())
    };
    if !run() {
        skipped(format_args!("{race}/{}: it cannot do so", tool.name));
        return None;
    }
    Some(Side::new(tool.name, move |rounds| {
        let copied = (0..rounds).all(|_| run());
        assert!(copied, "it could do so before");
    }))
}

fn ours<'a>(
    name: &'static str,
    context: &'a Loop,
    (graph, nodes): (&'a Graph, &'a [Node; 2]),
    offload: Offload,
) -> Side<'a> {
    Side::new(name, move |rounds| {
        for _ in 0..rounds {
            context.block_on(copy(context, (graph, nodes), offload));
        }
    })
}

fn node(graph: &Graph, scratch: &Scratch) -> Node {
    let options = FileOptions {
        locking: OnOffAuto::Off,
        ..FileOptions::new(scratch.path())
    };
    let file = FileNode::open(&options).expect("a scratch file opens");
    graph.add_node(None, file).expect("names do not run out")
}

fn edge(graph: &Graph, node: &Node) -> Child {
    let permissions = Permissions::uses(&[Permission::ConsistentRead, Permission::Write]);
    let attachment = Attachment::new("race", ChildRole::Primary, permissions);
    graph.attach(node, attachment).expect("nobody objects")
}

async fn copy(
    cx: &AioContext,
    (graph, [source, target]): (&Graph, &[Node; 2]),
    offload: Offload,
) -> block::copy::CopyCounters {
    let options = CopyOptions {
        offload,
        ..CopyOptions::default()
    };
    let copy = BlockCopy::new(edge(graph, source), edge(graph, target), options);
    let copy = Rc::new(copy.expect("files of one length"));
    let failed = Rc::new(Cell::new(false));
    let workers = [(); CLAIMS].map(|()| {
        let (home, copy, failed) = (cx.clone(), copy.clone(), failed.clone());
        cx.spawn(async move { failed.set(failed.get() || !copy_some(&home, &copy).await) })
    });
    for worker in workers {
        worker.await;
    }
    assert!(!failed.get(), "scratch files can be copied");
    copy.counters()
}

/// Copies what nobody else does; returns whether that went well.
async fn copy_some(cx: &AioContext, copy: &BlockCopy) -> bool {
    let whole = ByteRange::between(0, copy.len_bytes());
    while let Some(claim) = copy.claim(whole, copy.data_bytes_max()) {
        if copy.copy(cx, claim).await.is_err() {
            return false;
        }
    }
    true
}
