//! Image locks of the daemon's files: they follow what the users of the nodes do.

use block::{
    ErrorKind,
    nodes::{FileNode, FileOptions},
};
use nbd::Command;
use serde_json::{Value, json};

use crate::{
    bare::{Daemon, Qmp, World, until},
    nbd_client::Nbd,
};

const MIB: u64 = 1 << 20;

/// A daemon with two nodes, `one` and `two`, over the same file, and a third, `other`, over another.
fn three_nodes(world: &World) -> (Daemon, Qmp) {
    let (disk, other) = (world.image("disk", MIB), world.image("other", MIB));
    let daemon = world.start(&["--nbd-server", "addr.type=unix,addr.path=nbd"]);
    let mut client = daemon.client();
    for (name, path) in [("one", &disk), ("two", &disk), ("other", &other)] {
        let file = json!({ "driver": "file", "node-name": name, "filename": path });
        client.run("blockdev-add", file);
    }
    (daemon, client)
}

fn writable_export(id: &str, node: &str) -> Value {
    json!({ "type": "nbd", "id": id, "node-name": node, "name": id, "writable": true })
}

fn backup(id: &str, from: &str, to: &str) -> Value {
    json!({ "job-id": id, "device": from, "target": to, "sync": "none" })
}

#[test]
fn nodes_of_one_file_are_used_together_if_their_users_allow_it() {
    let world = World::new();
    let (daemon, mut client) = three_nodes(&world);

    client.run("block-export-add", writable_export("e1", "one"));
    client.run("block-export-add", writable_export("e2", "two"));
    let size = json!({ "node-name": "one", "size": 2 * MIB });
    let refused = client.refused("block_resize", size.clone());
    assert!(refused.contains("permissions 'resize'"), "{refused}");
    client.run("block-export-del", json!({ "id": "e1" }));
    client.event("BLOCK_EXPORT_DELETED");
    let refused = client.refused("block_resize", size.clone());
    assert_eq!(refused, "Failed to get \"resize\" lock");

    // A backup lets nobody else write what it copies.
    let refused = client.refused("blockdev-backup", backup("j", "one", "other"));
    assert!(
        refused.ends_with("Failed to get shared \"write\" lock"),
        "{refused}"
    );
    assert_eq!(client.run("query-block-jobs", json!({})), json!([]));

    client.run("block-export-del", json!({ "id": "e2" }));
    client.event("BLOCK_EXPORT_DELETED");
    client.run("block_resize", size);
    let back = json!({ "node-name": "one", "size": MIB });
    client.run("block_resize", back);
    let refused = client.refused("blockdev-backup", backup("j", "one", "two"));
    assert!(refused.contains("Failed to get"), "{refused}");
    client.run("blockdev-backup", backup("j", "one", "other"));
    let refused = client.refused("block-export-add", writable_export("e2", "two"));
    assert_eq!(refused, "Failed to get \"write\" lock");
    let reads = json!({ "type": "nbd", "id": "e2", "node-name": "two" });
    client.run("block-export-add", reads);
    drop(client);
    daemon.quit();
}

#[test]
fn a_file_that_another_process_keeps_to_itself_is_opened_but_not_used() {
    let world = World::new();
    let disk = world.image("disk", MIB);
    let holder = FileNode::open(&FileOptions::new(&disk)).unwrap();
    let file = format!("driver=file,node-name=f,filename={disk}");
    let options = [
        "--nbd-server",
        "addr.type=unix,addr.path=nbd",
        "--blockdev",
        &file,
    ];
    let daemon = world.start(&options);
    let mut client = daemon.client();
    let refused = client.refused("block-export-add", writable_export("e", "f"));
    assert_eq!(refused, "Failed to get \"write\" lock");
    let careless = json!({
        "driver": "file", "node-name": "careless", "filename": disk, "locking": "off",
    });
    client.run("blockdev-add", careless);
    client.run("block-export-add", writable_export("careless", "careless"));

    let ended = world.run(&[
        "--nbd-server",
        "addr.type=unix,addr.path=other",
        "--blockdev",
        &file,
        "--export",
        "nbd,id=e,node-name=f,writable=on",
    ]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let hint =
        format!("Failed to get \"write\" lock\nIs another process using the image [{disk}]?");
    assert!(ended.stderr.contains(&hint), "{ended:?}");

    drop(holder);
    // A process that another test is starting may hold its descriptor for a moment.
    until(|| {
        client
            .try_run("block-export-add", writable_export("e", "f"))
            .is_ok()
    });
    drop(client);
    daemon.quit();
}

#[test]
fn how_a_file_is_locked_stays_as_it_was_opened() {
    let world = World::new();
    let disk = world.image("disk", MIB);
    let daemon = world.start(&[]);
    let mut client = daemon.client();
    let file = |locking: &str, force_share: bool| {
        json!({
            "driver": "file", "node-name": "f", "filename": disk, "read-only": true,
            "locking": locking, "force-share": force_share,
        })
    };
    client.run("blockdev-add", file("on", false));
    let reopen = |definition: Value| json!({ "options": [definition] });
    let refused = client.refused("blockdev-reopen", reopen(file("off", false)));
    assert_eq!(refused, "Cannot change the option 'locking'");
    let refused = client.refused("blockdev-reopen", reopen(file("on", true)));
    assert_eq!(refused, "Cannot change the option 'force-share'");
    client.run("blockdev-reopen", reopen(file("on", false)));
    drop(client);
    daemon.quit();
}

#[test]
fn a_file_that_is_opened_again_for_writing_keeps_its_locks_and_takes_more() {
    let world = World::new();
    let disk = world.image("disk", MIB);
    let options = ["--nbd-server", "addr.type=unix,addr.path=nbd"];
    let daemon = world.start(&options);
    let mut client = daemon.client();
    let file = |read_only: bool, direct: bool| {
        json!({
            "driver": "file", "node-name": "f", "filename": disk, "read-only": read_only,
            "cache": { "direct": direct },
        })
    };
    let reopen = |definition: Value| json!({ "options": [definition] });
    client.run("blockdev-add", file(true, false));
    let reads = json!({ "type": "nbd", "id": "r", "node-name": "f" });
    client.run("block-export-add", reads);
    let text = client.refused("block-export-add", writable_export("w", "f"));
    assert!(text.contains("read-only"), "{text}");
    client.run("blockdev-reopen", reopen(file(false, false)));
    client.run("block-export-add", writable_export("w", "f"));
    let mut guest = Nbd::connect(&world.path("nbd"), "w", &[]).unwrap();
    for (byte, direct) in [(1, false), (2, true), (3, false)] {
        client.run("blockdev-reopen", reopen(file(false, direct)));
        let request = guest.send(Command::Write, 4096, 4096);
        guest.send_data(&[byte; 4096]);
        assert_eq!(guest.reply(&request), Ok(Vec::new()));
        assert_eq!(std::fs::read(&disk).unwrap()[4096..8192], [byte; 4096]);
        let other = FileNode::open(&FileOptions::new(&disk)).unwrap_err();
        assert_eq!(other.kind(), ErrorKind::Locked);
    }
    // Nobody but the daemon held them, so they are gone with the last user.
    drop(guest);
    for id in ["r", "w"] {
        client.run("block-export-del", json!({ "id": id, "mode": "hard" }));
        client.event("BLOCK_EXPORT_DELETED");
    }
    until(|| FileNode::open(&FileOptions::new(&disk)).is_ok());
    drop(client);
    daemon.quit();
}

#[test]
fn files_are_opened_again_all_or_none_and_are_those_that_they_were() {
    let world = World::new();
    let daemon = world.start(&[]);
    let mut client = daemon.client();
    let disks = ["one", "two"].map(|name| world.image(name, MIB));
    let file = |name: &str, path: &str, read_only: bool| json!({ "driver": "file", "node-name": name, "filename": path, "read-only": read_only });
    let both = json!({ "options": [file("one", &disks[0], false), file("two", &disks[1], false)] });
    client.run("blockdev-add", file("one", &disks[0], true));
    client.run("blockdev-add", file("two", &disks[1], true));
    std::fs::rename(&disks[1], world.path("away")).unwrap();
    let text = client.refused("blockdev-reopen", both.clone());
    assert_eq!(
        text,
        format!("Could not open '{}': No such file or directory", disks[1])
    );
    world.image("two", MIB);
    let text = client.refused("blockdev-reopen", both.clone());
    assert_eq!(text, format!("'{}' is another file by now", disks[1]));
    let resize = json!({ "node-name": "one", "size": 512 });
    assert_eq!(
        client.refused("block_resize", resize.clone()),
        "Image is read-only"
    );
    std::fs::rename(world.path("away"), &disks[1]).unwrap();
    client.run("blockdev-reopen", both);
    client.run("block_resize", resize);
    assert_eq!(std::fs::metadata(&disks[0]).unwrap().len(), 512);
    drop(client);
    daemon.quit();
}
