//! Mirrors: what they are asked for, while they run, at their end, and beside what fails or never returns.

use aio::AioContext;
use block::{Attachment, ChildRole, Node, Permissions, mirror::CopyMode};
use drivers::mirror::{Mirror, MirrorError, MirrorOptions};
use job::{CancelMode, JobOutcome, JobStatus};

use super::world::{World, read, until};

mod basic;
mod bitmap;
mod converge;
mod defects;
mod ends;
mod errors;
mod follow;
mod oracle;
mod refusals;
mod stuck;
mod switch;

/// Options of a job called `m`.
fn options() -> MirrorOptions {
    MirrorOptions::new("m")
}

fn blocking() -> MirrorOptions {
    MirrorOptions {
        copy_mode: CopyMode::WriteBlocking,
        ..options()
    }
}

async fn try_start(world: &World, options: MirrorOptions) -> Result<Mirror, MirrorError> {
    between(world, (&world.source, &world.target), options).await
}

async fn between(
    world: &World,
    nodes: (&Node, &Node),
    options: MirrorOptions,
) -> Result<Mirror, MirrorError> {
    Mirror::start(
        (&world.graph, &world.jobs),
        world.cx.handle(),
        nodes,
        options,
    )
    .await
}

async fn start(world: &World, options: MirrorOptions) -> Mirror {
    try_start(world, options).await.unwrap()
}

/// Starts a mirror and waits until it is ready.
async fn ready(world: &World, options: MirrorOptions) -> Mirror {
    let mirror = start(world, options).await;
    until_status(world, &mirror, JobStatus::Ready).await;
    mirror
}

async fn until_status(world: &World, mirror: &Mirror, status: JobStatus) {
    until(&world.cx, || mirror.job().status() == status).await;
}

/// Waits until the mirror has caught up with its guests.
async fn caught_up(world: &World, mirror: &Mirror) {
    until(&world.cx, || {
        let load = mirror.report().load;
        load.dirty_bytes + load.in_flight_bytes == 0
    })
    .await;
}

async fn complete(mirror: &Mirror) {
    mirror.job().complete().unwrap();
    mirror.job().wait().await.into_result().unwrap();
}

/// Ends the mirror with the target as it is.
async fn keep(mirror: &Mirror) {
    mirror.job().cancel(CancelMode::Soft).unwrap();
    mirror.job().wait().await.into_result().unwrap();
}

async fn cancel(mirror: &Mirror) {
    mirror.job().cancel(CancelMode::Force).unwrap();
    let outcome = mirror.job().wait().await;
    assert!(matches!(outcome, JobOutcome::Cancelled(_)), "{outcome:?}");
}

/// The content of a node, whoever else uses it.
async fn look(world: &World, cx: &AioContext, node: &Node) -> Vec<u8> {
    let looks = Attachment::new("onlooker", ChildRole::Primary, Permissions::IDLE);
    let edge = world.graph.attach(node, looks.staying()).unwrap();
    read(&edge, cx, world.whole()).await
}

async fn assert_equal(world: &World) {
    let source = look(world, &world.cx, &world.source).await;
    assert!(source == look(world, &world.cx, &world.target).await);
}

fn filters(world: &World) -> usize {
    let nodes = world.graph.nodes().into_iter();
    nodes
        .filter(|node| node.driver_name() == "mirror_top")
        .count()
}
