//! Values within values: what a client may nest, the daemon can walk over.

use serde_json::json;

use crate::world::World;

/// Nodes that one command can define within each other: two brackets are the request's own, and
/// a node's own bracket is that of its arguments.
const NODES_MAX: usize = 63;

#[test]
fn nodes_are_defined_within_nodes_as_deeply_as_a_request_may_be() {
    let mut world = World::start(&[]);
    let mut node = json!({ "driver": "null-co", "size": 65536 });
    for _ in 1..NODES_MAX {
        node = json!({ "driver": "raw", "file": node });
    }
    node["node-name"] = json!("top");

    world.qmp.run("blockdev-add", node);

    let nodes = world
        .qmp
        .run("query-named-block-nodes", json!({ "flat": true }));
    assert_eq!(nodes.as_array().unwrap().len(), NODES_MAX);
    world.qmp.run("blockdev-del", json!({ "node-name": "top" }));
    assert!(world.quit().success());
}
