//! Streams of nodes that have no others behind them.

use serde_json::{Value, json};

use crate::world::World;

const LEN: usize = 1 << 20;

fn world() -> World {
    let mut world = World::start(&[]);
    world.add_disk("disk", LEN, 7);
    let filter = json!({ "driver": "copy-on-read", "file": "disk", "node-name": "top" });
    world.qmp.run("blockdev-add", filter);
    world.add_disk("other", LEN, 0);
    world
}

fn stream(more: Value) -> Value {
    let mut arguments = json!({ "job-id": "j", "device": "top" });
    let more = more.as_object().unwrap().clone();
    arguments.as_object_mut().unwrap().extend(more);
    arguments
}

#[test]
fn a_stream_of_a_node_without_others_behind_it_is_done_at_once() {
    let mut world = world();
    for more in [
        json!({ "device": "disk", "bottom": "disk" }),
        json!({ "bottom": "disk", "speed": 1 }),
    ] {
        world.qmp.run("block-stream", stream(more));
        let done = world.qmp.event("BLOCK_JOB_COMPLETED");
        assert_eq!(done["type"], "stream");
        assert_eq!(done["len"], 0);
        assert_eq!(done.get("error"), None);
    }
}

#[test]
fn a_stream_that_is_pending_keeps_its_node_to_itself() {
    let mut world = world();
    let manual = json!({ "device": "other", "auto-finalize": false, "auto-dismiss": false });
    world.qmp.run("block-stream", stream(manual));
    world.qmp.event("BLOCK_JOB_PENDING");
    let jobs = world.qmp.run("query-block-jobs", json!({}));
    assert_eq!(jobs[0]["type"], "stream");
    let busy = "Node 'other' is busy: block device is in use by block job: stream";
    let again = stream(json!({ "job-id": "k", "device": "other" }));
    assert_eq!(world.qmp.refused("block-stream", again), busy);
    let delete = json!({ "node-name": "other" });
    assert_eq!(world.qmp.refused("blockdev-del", delete.clone()), busy);
    let text = world.qmp.refused("block-stream", stream(json!({})));
    assert_eq!(text, "Job ID 'j' already in use");
    // What was refused has left nothing behind.
    world
        .qmp
        .run("block-stream", stream(json!({ "job-id": "k" })));
    world.qmp.event("BLOCK_JOB_COMPLETED");
    world.qmp.run("job-cancel", json!({ "id": "j" }));
    world.qmp.run("job-dismiss", json!({ "id": "j" }));
    world.qmp.run("blockdev-del", delete);
}

#[test]
fn what_a_stream_cannot_do_is_refused() {
    let mut world = world();
    let at_once =
        |one, other| format!("'{one}' and '{other}' cannot be specified at the same time");
    for (more, want) in [
        (
            json!({ "base": "x", "base-node": "x" }),
            at_once("base", "base-node"),
        ),
        (
            json!({ "base": "x", "bottom": "x" }),
            at_once("base", "bottom"),
        ),
        (
            json!({ "bottom": "x", "base-node": "x" }),
            at_once("bottom", "base-node"),
        ),
        (
            json!({ "device": "x" }),
            "Cannot find device='x' nor node-name='x'".into(),
        ),
        (
            json!({ "base": "x" }),
            "Can't find 'x' in the backing chain".into(),
        ),
        (
            json!({ "base-node": "x" }),
            "Cannot find device='' nor node-name='x'".into(),
        ),
        (
            json!({ "base-node": "top" }),
            "Node 'top' is not a backing image of 'top'".into(),
        ),
        (
            json!({ "base-node": "other" }),
            "Node 'other' is not a backing image of 'top'".into(),
        ),
        (
            json!({ "base-node": "disk" }),
            "'disk' is not in the backing chain of 'top'".into(),
        ),
        (
            json!({ "bottom": "top" }),
            "Node 'top' is a filter, use a non-filter node as 'bottom'".into(),
        ),
        (
            json!({ "bottom": "other" }),
            "Node 'other' is not in a chain starting from 'top'".into(),
        ),
        (
            json!({ "backing-file": "x" }),
            "backing file specified, but streaming the entire chain".into(),
        ),
        (
            json!({ "filter-node-name": "1" }),
            "Could not create node: Invalid node-name: '1'".into(),
        ),
        (json!({ "job-id": "1" }), "Invalid job ID '1'".into()),
        (
            json!({ "speed": -1 }),
            "Parameter 'speed' expects a non-negative value".into(),
        ),
    ] {
        let text = world.qmp.refused("block-stream", stream(more));
        assert_eq!(text, want);
    }
    assert_eq!(world.qmp.run("query-jobs", json!({})), json!([]));
    world.qmp.run("blockdev-del", json!({ "node-name": "top" }));
}
