//! Transactions as clients of the daemon run them: all or nothing.

use serde_json::{Value, json};

use super::world::{World, eventually};

const LEN: u64 = 1 << 20;

/// A daemon with two disks and their targets, all of them null.
fn world() -> World {
    let mut world = World::start(&[]);
    for name in ["s1", "s2", "t1", "t2"] {
        let node =
            json!({ "driver": "null-co", "node-name": name, "size": LEN, "read-zeroes": true });
        world.qmp.run("blockdev-add", node);
    }
    world
}

fn backup(number: u32, more: Value) -> Value {
    let mut data = json!({
        "job-id": format!("j{number}"),
        "device": format!("s{number}"),
        "target": format!("t{number}"),
        "sync": "full",
    });
    let Value::Object(more) = more else {
        panic!("an object");
    };
    data.as_object_mut().unwrap().extend(more);
    json!({ "type": "blockdev-backup", "data": data })
}

fn bitmap(verb: &str, name: &str) -> Value {
    let data = json!({ "node": "s1", "name": name });
    json!({ "type": format!("block-dirty-bitmap-{verb}"), "data": data })
}

fn grouped(actions: Value) -> Value {
    json!({ "actions": actions, "properties": { "completion-mode": "grouped" } })
}

fn bitmaps(world: &mut World) -> Vec<String> {
    let nodes = world.qmp.run("query-named-block-nodes", json!({}));
    let nodes = nodes.as_array().unwrap();
    let node = nodes.iter().find(|node| node["node-name"] == "s1").unwrap();
    let bitmaps = node["dirty-bitmaps"].as_array().cloned();
    let names = bitmaps.unwrap_or_default();
    names
        .iter()
        .map(|bitmap| bitmap["name"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn what_an_earlier_action_did_is_seen_by_later_ones_and_undone_in_the_end() {
    let mut world = world();
    let actions = json!([
        bitmap("add", "b"),
        bitmap("disable", "b"),
        backup(1, json!({ "bitmap": "b", "bitmap-mode": "on-success" })),
        { "type": "abort", "data": {} },
    ]);
    let text = world
        .qmp
        .refused("transaction", json!({ "actions": actions }));
    assert_eq!(text, "Transaction aborted using Abort action");
    assert_eq!(world.qmp.run("query-jobs", json!({})), json!([]));
    assert!(bitmaps(&mut world).is_empty());
    world.qmp.run("blockdev-del", json!({ "node-name": "t1" }));
}

#[test]
fn the_error_is_that_of_the_first_action_that_fails() {
    let mut world = world();
    let actions = json!([
        bitmap("add", "b"),
        bitmap("add", "b"),
        bitmap("clear", "no")
    ]);
    let text = world
        .qmp
        .refused("transaction", json!({ "actions": actions }));
    assert_eq!(text, "Bitmap already exists: b");
    let actions = json!([
        { "type": "block-dirty-bitmap-clear", "data": { "node": "no", "name": "b" } },
        { "type": "abort", "data": {} },
    ]);
    let text = world
        .qmp
        .refused("transaction", json!({ "actions": actions }));
    assert_eq!(text, "Node 'no' not found");
}

#[test]
fn only_backups_end_together_and_that_is_looked_at_first() {
    let mut world = world();
    let actions = json!([backup(1, json!({})), { "type": "abort", "data": {} }]);
    let text = world.qmp.refused("transaction", grouped(actions));
    let want = "Action 'abort' does not support transaction property completion-mode = grouped";
    assert_eq!(text, want);
    let of_no_node = json!({ "node": "no", "name": "b" });
    let add = json!({ "type": "block-dirty-bitmap-add", "data": of_no_node });
    let text = world.qmp.refused("transaction", grouped(json!([add])));
    assert!(text.ends_with("completion-mode = grouped"), "{text}");
    let actions = json!([{ "type": "blockdev-mirror", "data": {} }]);
    let text = world
        .qmp
        .refused("transaction", json!({ "actions": actions }));
    assert!(
        text.ends_with("does not accept value 'blockdev-mirror'"),
        "{text}"
    );
    world.qmp.run("transaction", json!({ "actions": [] }));
}

#[test]
fn a_group_is_cancelled_with_its_first_member() {
    let mut world = world();
    let actions = json!([
        backup(1, json!({ "auto-dismiss": false })),
        backup(2, json!({ "auto-dismiss": false, "auto-finalize": false })),
    ]);
    world.qmp.run("transaction", grouped(actions));
    let all_are = |world: &mut World, status: &str| {
        let jobs = world.qmp.run("query-jobs", json!({}));
        let mut jobs = jobs.as_array().unwrap().iter();
        jobs.all(|job| job["status"] == status)
    };
    eventually(|| all_are(&mut world, "pending").then_some(()));
    world.qmp.run("job-cancel", json!({ "id": "j1" }));
    eventually(|| all_are(&mut world, "concluded").then_some(()));
    let jobs = world.qmp.run("query-jobs", json!({}));
    for job in jobs.as_array().unwrap() {
        assert_eq!(job["error"], "Operation canceled");
    }
}
