//! `block-stream`, as far as there is anything to stream: no node has others behind it, so the job ends at once.

use std::{
    any::Any,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
};

use aio::AioContext;
use block::{Child, Graph, Node, Operation, Permissions};
use blockjob::{BlockJob, BlockJobDriver, speed_from_client};
use job::{BoxFuture, JobConfig, JobContext, JobDriver, JobError, LocalBoxFuture};
use qmp::{QmpError, qapi_struct};

use super::{
    super::{Daemon, command::Command, error::IntoQmp, nodes},
    types::{BlockdevOnError, trigger},
};

pub(super) fn commands() -> Vec<Command> {
    vec![Command::new("block-stream", block_stream)]
}

qapi_struct! {
    /// Arguments of `block-stream`.
    pub(crate) struct BlockStream {
        /// The job's id.
        job_id: Option<String>,
        /// Name of the node that gets the data.
        device: String,
        /// File of the first node behind it whose data stays where it is.
        base: Option<String>,
        /// The same node by its name.
        base_node: Option<String>,
        /// What to write down as the file behind it.
        backing_file: Option<String>,
        /// Whether to write down no protocol there.
        backing_mask_protocol: Option<bool>,
        /// Name of the last node whose data is taken.
        bottom: Option<String>,
        /// Speed limit in bytes per second; zero is none.
        speed: Option<i64>,
        /// What to do when something cannot be read.
        on_error: Option<BlockdevOnError>,
        /// Name of the filter above the node; none is needed.
        filter_node_name: Option<String>,
        /// Whether the job makes its result permanent by itself.
        auto_finalize: Option<bool>,
        /// Whether the job is forgotten by itself.
        auto_dismiss: Option<bool>,
    }
}

async fn block_stream(daemon: &Rc<Daemon>, args: BlockStream) -> Result<(), QmpError> {
    let node = check(daemon, &args)?;
    let graph = daemon.engine.graph();
    if let Some(name) = &args.filter_node_name {
        let free = graph.build_node(Some(name));
        free.map_err(|error| QmpError::generic(format!("Could not create node: {error}")))?;
    }
    let id = args.job_id.unwrap_or_default();
    let block_job = BlockJob::new(&id, "stream", graph);
    let edge = block_job.attach(&node, "main node", Permissions::IDLE, &[]);
    let driver = Arc::new(Stream {
        edge: Mutex::new(Some(edge.map_err(IntoQmp::into_qmp)?)),
        block_job,
    });
    let home = node.context();
    let home = home.unwrap_or_else(|| daemon.context.handle().clone());
    let config = JobConfig {
        finalize: trigger(args.auto_finalize),
        dismiss: trigger(args.auto_dismiss),
        ..JobConfig::new(id, driver.clone(), home)
    };
    let job = match daemon.registry().create(config) {
        Ok(job) => job,
        Err(error) => {
            driver.let_go();
            return Err(error.into_qmp());
        }
    };
    driver.block_job.bind(&job, &driver);
    match speed_from_client(args.speed.unwrap_or(0)) {
        Ok(speed) => driver.block_job.set_speed(speed),
        Err(negative) => {
            job.discard();
            driver.let_go();
            return Err(QmpError::generic(negative.to_string()));
        }
    }
    job.start().map_err(IntoQmp::into_qmp)
}

/// The node, if all that is said about others makes sense.
fn check(daemon: &Daemon, args: &BlockStream) -> Result<Node, QmpError> {
    let refused = |text: String| Err(QmpError::generic(text));
    let both = |one: &str, other: &str| {
        refused(format!(
            "'{one}' and '{other}' cannot be specified at the same time"
        ))
    };
    if args.base.is_some() && args.base_node.is_some() {
        return both("base", "base-node");
    }
    if args.base.is_some() && args.bottom.is_some() {
        return both("base", "bottom");
    }
    if args.bottom.is_some() && args.base_node.is_some() {
        return both("bottom", "base-node");
    }
    let device = &args.device;
    let node = nodes::device_or_node(daemon, device)?;
    let graph = daemon.engine.graph();
    if let Some(base) = &args.base {
        return refused(format!("Can't find '{base}' in the backing chain"));
    }
    let chain = filtered(graph, &node);
    if let Some(base) = &args.base_node {
        let found = nodes::node(daemon, base)?;
        return match found != node && chain.contains(&found) {
            // It is the same image, seen without filters.
            true => refused(format!(
                "'{base}' is not in the backing chain of '{device}'"
            )),
            false => refused(format!(
                "Node '{base}' is not a backing image of '{device}'"
            )),
        };
    }
    if let Some(bottom) = &args.bottom {
        let found = nodes::node(daemon, bottom)?;
        if is_filter(&found) {
            return refused(format!(
                "Node '{bottom}' is a filter, use a non-filter node as 'bottom'"
            ));
        }
        if !chain.contains(&found) {
            return refused(format!(
                "Node '{bottom}' is not in a chain starting from '{device}'"
            ));
        }
    }
    for node in &chain {
        let allowed = graph.check_operation(node, Operation::Stream);
        allowed.map_err(IntoQmp::into_qmp)?;
    }
    if args.backing_file.is_some() {
        return refused("backing file specified, but streaming the entire chain".to_owned());
    }
    Ok(node)
}

/// The node and what it shows, through all filters down to the image.
fn filtered(graph: &Graph, node: &Node) -> Vec<Node> {
    let edges = graph.edges();
    let mut chain = vec![node.clone()];
    let mut top = node.clone();
    while is_filter(&top) {
        let owner = format!("node '{}'", top.name());
        let mut below = edges.iter().filter(|edge| edge.parent == owner);
        let below = below.find(|edge| edge.child_name != "target");
        match below.map(|edge| graph.node(&edge.node)) {
            Some(Ok(node)) => top = node,
            Some(Err(_)) | None => break,
        }
        chain.push(top.clone());
    }
    chain
}

fn is_filter(node: &Node) -> bool {
    matches!(
        node.driver_name(),
        "blkdebug" | "copy-before-write" | "copy-on-read" | "mirror_top" | "throttle"
    )
}

/// A stream of nothing.
struct Stream {
    block_job: BlockJob,
    edge: Mutex<Option<Child>>,
}

impl Stream {
    fn let_go(&self) {
        let edge = self
            .edge
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(edge);
        self.block_job.release();
    }
}

impl JobDriver for Stream {
    fn kind(&self) -> &'static str {
        "stream"
    }

    fn extension(&self) -> Option<&(dyn Any + Send + Sync)> {
        Some(&self.block_job)
    }

    fn run<'a>(&'a self, _job: &'a JobContext) -> BoxFuture<'a, Result<(), JobError>> {
        Box::pin(async { Ok(()) })
    }

    fn clean<'a>(&'a self, _main: &'a AioContext) -> LocalBoxFuture<'a, ()> {
        Box::pin(async { self.let_go() })
    }
}

impl BlockJobDriver for Stream {}
