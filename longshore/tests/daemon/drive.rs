//! Jobs whose targets are paths.

use std::fs;

use nbd::Command;
use serde_json::{Value, json};

use crate::{
    nbd_client::Nbd,
    world::{World, eventually},
};

const LEN: usize = 1 << 20;

fn world() -> World {
    let mut world = World::start(&["--nbd-server", "addr.type=unix,addr.path=@/nbd"]);
    world.add_disk("src", LEN, 7);
    world
}

/// Arguments of a job to the file `name`, and more.
fn to(world: &World, name: &str, more: Value) -> Value {
    let mut arguments = json!({
        "job-id": "j", "device": "src", "target": world.text_path(name), "sync": "full", "format": "raw",
    });
    let more = more.as_object().unwrap().clone();
    arguments.as_object_mut().unwrap().extend(more);
    arguments
}

fn node_names(world: &mut World) -> Vec<String> {
    let nodes = world.qmp.run("query-named-block-nodes", json!({}));
    let nodes = nodes.as_array().unwrap().iter();
    let names = nodes.map(|node| node["node-name"].as_str().unwrap().to_owned());
    names.collect()
}

fn equal(world: &World, name: &str) -> bool {
    fs::read(world.path("src")).unwrap() == fs::read(world.path(name)).unwrap()
}

#[test]
fn a_backup_to_a_path_makes_the_file_and_leaves_no_node() {
    let mut world = world();
    let before = node_names(&mut world);
    let manual = json!({ "auto-finalize": false, "auto-dismiss": false });
    let arguments = to(&world, "new", manual);
    world.qmp.run("drive-backup", arguments);
    world.qmp.event("BLOCK_JOB_PENDING");
    // The filter, the target, and its file.
    assert_eq!(node_names(&mut world).len(), before.len() + 3);
    world.qmp.run("job-finalize", json!({ "id": "j" }));
    world.qmp.event("BLOCK_JOB_COMPLETED");
    assert!(equal(&world, "new"));
    eventually(|| (node_names(&mut world) == before).then_some(()));
    world.qmp.run("job-dismiss", json!({ "id": "j" }));
    // What it was made for may be done again, by both names of a path, and into what is there.
    let path = world.text_path("new");
    let again = json!({ "target": format!("file:{path}"), "mode": "existing" });
    fs::write(world.path("new"), vec![0; LEN]).unwrap();
    let arguments = to(&world, "new", again);
    world.qmp.run("drive-backup", arguments);
    let done = world.qmp.event("BLOCK_JOB_COMPLETED");
    assert_eq!(done.get("error"), None);
    assert!(equal(&world, "new"));
}

#[test]
fn a_mirror_to_a_path_takes_the_place_of_its_source() {
    let mut world = world();
    let export = json!({ "type": "nbd", "id": "e", "node-name": "src", "writable": true });
    world.qmp.run("block-export-add", export);
    let arguments = to(&world, "new", json!({ "node-name": "far", "sync": "top" }));
    world.qmp.run("drive-mirror", arguments);
    world.qmp.event("BLOCK_JOB_READY");
    let delete = json!({ "node-name": "far" });
    assert!(world.qmp.refused("blockdev-del", delete).contains("far"));
    world.qmp.run("job-complete", json!({ "id": "j" }));
    world.qmp.event("BLOCK_JOB_COMPLETED");
    // The export goes on with the new file, whose node lives as long as the export does.
    let mut guest = Nbd::connect(&world.path("nbd"), "src", &[]).unwrap();
    let request = guest.send(Command::Write, 0, 4096);
    guest.send_data(&[9; 4096]);
    assert_eq!(guest.reply(&request), Ok(Vec::new()));
    drop(guest);
    assert_eq!(fs::read(world.path("new")).unwrap()[..4096], [9; 4096]);
    assert_eq!(fs::read(world.path("src")).unwrap()[..4096], [7; 4096]);
    assert!(node_names(&mut world).contains(&"far".to_owned()));
    let gone = json!({ "id": "e", "mode": "hard" });
    world.qmp.run("block-export-del", gone);
    world.qmp.event("BLOCK_EXPORT_DELETED");
    eventually(|| (!node_names(&mut world).contains(&"far".to_owned())).then_some(()));
}

#[test]
fn a_mirror_to_a_path_that_is_cancelled_leaves_no_node() {
    let mut world = world();
    let before = node_names(&mut world);
    let arguments = to(&world, "new", json!({ "unmap": false }));
    world.qmp.run("drive-mirror", arguments);
    world.qmp.event("BLOCK_JOB_READY");
    world.qmp.run("job-cancel", json!({ "id": "j" }));
    eventually(|| (node_names(&mut world) == before).then_some(()));
}

#[test]
fn backups_to_paths_begin_at_one_instant_with_others_or_not_at_all() {
    let mut world = world();
    world.add_disk("dst", LEN, 0);
    let before = node_names(&mut world);
    let drive =
        |world: &World, name| json!({ "type": "drive-backup", "data": to(world, name, json!({})) });
    let other = json!({
        "type": "blockdev-backup",
        "data": { "job-id": "k", "device": "src", "target": "dst", "sync": "full" },
    });
    let abort = json!({ "type": "abort", "data": {} });
    let actions = json!({ "actions": [drive(&world, "a"), other, abort, drive(&world, "b")] });
    let text = world.qmp.refused("transaction", actions);
    assert_eq!(text, "Transaction aborted using Abort action");
    assert_eq!(node_names(&mut world), before);
    assert!(!world.path("b").exists());

    let grouped = json!({ "completion-mode": "grouped" });
    let actions = json!({ "actions": [drive(&world, "a"), other], "properties": grouped });
    world.qmp.run("transaction", actions);
    for _ in 0..2 {
        world.qmp.event("BLOCK_JOB_COMPLETED");
    }
    assert!(equal(&world, "a") && equal(&world, "dst"));
    eventually(|| (node_names(&mut world) == before).then_some(()));
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing() {
    let mut world = world();
    fs::write(world.path("short"), [1; 512]).unwrap();
    let before = node_names(&mut world);
    let source = world.text_path("src");
    let both = [
        (
            json!({ "device": "no" }),
            "Cannot find device='no' nor node-name='no'",
        ),
        (json!({ "format": "qcow2" }), "Unknown file format 'qcow2'"),
        (
            json!({ "format": "qcow2", "mode": "existing" }),
            "Unknown driver 'qcow2'",
        ),
        (
            json!({ "format": null, "mode": "existing" }),
            "The format of an image that is there is not guessed: 'format' must be given",
        ),
        (json!({ "target": "nbd://host" }), "Unknown protocol 'nbd'"),
        (
            json!({ "target": "/no/new" }),
            "Could not create '/no/new': No such file or directory",
        ),
        (
            json!({ "target": "/no/new", "mode": "existing" }),
            "Could not open '/no/new': No such file or directory",
        ),
        (
            json!({ "sync": "none" }),
            "Backing file not supported for file format 'raw'",
        ),
        (
            json!({ "target": &source }),
            &format!("'{source}' is in use by node '{}'", file_node(&before)),
        ),
        (json!({ "job-id": null }), "Invalid job ID ''"),
        (
            json!({ "target": world.text_path("short"), "mode": "existing" }),
            "Source and target image have different sizes",
        ),
        (
            json!({ "speed": -1 }),
            "Parameter 'speed' expects a non-negative value",
        ),
    ];
    for command in ["drive-backup", "drive-mirror"] {
        for (more, want) in &both {
            let mut arguments = to(&world, "new", more.clone());
            let members = arguments.as_object_mut().unwrap();
            members.retain(|_, value| !value.is_null());
            assert_eq!(
                world.qmp.refused(command, arguments),
                *want,
                "{command} {more}"
            );
        }
    }
    assert_eq!(node_names(&mut world), before);
    assert_eq!(fs::read(world.path("src")).unwrap(), vec![7; LEN]);
}

#[test]
fn names_that_a_mirror_to_a_path_cannot_give_its_node_are_refused_before_the_file_is_made() {
    let mut world = world();
    for (more, want) in [
        (
            json!({ "replaces": "src" }),
            "a node-name must be provided when replacing a named node of the graph",
        ),
        (
            json!({ "node-name": "src" }),
            "Duplicate nodes with node-name='src'",
        ),
        (json!({ "node-name": "1" }), "Invalid node-name: '1'"),
    ] {
        let arguments = to(&world, "other", more);
        assert_eq!(world.qmp.refused("drive-mirror", arguments), want);
    }
    assert!(!world.path("other").exists());
}

/// The name of the file's own node, which nobody has named.
fn file_node(names: &[String]) -> &str {
    names.iter().find(|name| name.starts_with('#')).unwrap()
}
