//! What killed, hung or lied in the reference, seen by clients of ours: faults of jobs.

use serde_json::json;

use super::{
    nbd_client::Nbd,
    world::{World, eventually},
};

const LEN: usize = 8 << 20;

/// A daemon with two disks and a server.
fn world() -> World {
    let mut world = World::start(&[]);
    world.add_disk("a", LEN, 7);
    world.add_disk("b", LEN, 0);
    let path = world.text_path("nbd");
    let address = json!({ "type": "unix", "data": { "path": path } });
    world
        .qmp
        .run("nbd-server-start", json!({ "addr": address }));
    world
}

#[test]
fn n01_a_late_export_below_a_mirror_is_refused() {
    let mut world = world();
    let mirror = json!({ "job-id": "m", "device": "a", "target": "b", "sync": "full" });
    world.qmp.run("blockdev-mirror", mirror);
    world
        .qmp
        .wait_for("BLOCK_JOB_READY", &json!({ "device": "m" }));
    let export = json!({
        "type": "nbd", "id": "e", "node-name": "a", "name": "late", "writable": true,
    });
    let refused = world.qmp.refused("block-export-add", export);
    let text = refused["desc"].as_str().unwrap();
    assert!(text.starts_with("Permission conflict"), "{text}");
    world.qmp.run("job-complete", json!({ "id": "m" }));
    world
        .qmp
        .wait_for("BLOCK_JOB_COMPLETED", &json!({ "device": "m" }));
}

#[test]
fn n02_and_n03_a_backup_of_a_node_on_an_iothread_runs_and_the_daemon_ends_beside_it() {
    let mut world = world();
    let iothread = json!({ "qom-type": "iothread", "id": "t" });
    world.qmp.run("object-add", iothread);
    let export = json!({
        "type": "nbd", "id": "e", "node-name": "a", "name": "a", "writable": true, "iothread": "t",
    });
    world.qmp.run("block-export-add", export);
    let backup = |speed: u64| json!({ "job-id": "b", "device": "a", "target": "b", "sync": "full", "speed": speed });
    world.qmp.run("blockdev-backup", backup(0));
    let end = world
        .qmp
        .wait_for("BLOCK_JOB_COMPLETED", &json!({ "device": "b" }));
    assert_eq!(end["data"].get("error"), None);
    let gone = json!({ "id": "b", "status": "null" });
    world.qmp.wait_for("JOB_STATUS_CHANGE", &gone);

    world.qmp.run("blockdev-backup", backup(1));
    let mut guest = Nbd::connect(&world.path("nbd"), "a", &[]).unwrap();
    guest.write(0, &[9; 4096]).unwrap();
    assert!(world.quit().success());
}

#[test]
fn n07_numbers_that_nobody_has_memory_for_are_refused() {
    let mut world = World::start(&[]);
    for name in ["a", "b"] {
        let node = json!({ "driver": "null-co", "node-name": name, "size": 1_u64 << 62 });
        world.qmp.run("blockdev-add", node);
    }
    let job = |more: &str, value: u64| {
        let mut job = json!({ "job-id": "j", "device": "a", "target": "b", "sync": "full" });
        match more {
            "x-perf" => job["x-perf"] = json!({ "min-cluster-size": value }),
            more => job[more] = json!(value),
        }
        job
    };
    world.qmp.fail("blockdev-backup", job("speed", 0));
    world.qmp.fail("blockdev-backup", job("x-perf", 1 << 40));
    world.qmp.fail("blockdev-mirror", job("granularity", 512));
    let bitmap = json!({ "node": "a", "name": "b", "granularity": 512 });
    world.qmp.fail("block-dirty-bitmap-add", bitmap);
    assert_eq!(world.qmp.run("query-jobs", json!({})), json!([]));
}

#[test]
fn n16_a_backup_whose_requests_end_at_once_leaves_commands_their_turn() {
    let mut world = World::start(&[]);
    for name in ["a", "b"] {
        let node = json!({
            "driver": "null-co", "node-name": name, "size": 1_u64 << 42, "read-zeroes": true,
        });
        world.qmp.run("blockdev-add", node);
    }
    let backup = json!({ "job-id": "b", "device": "a", "target": "b", "sync": "full" });
    world.qmp.run("blockdev-backup", backup);
    // It goes on between two commands, and is not over by the time they have had their turns.
    let offset = |world: &mut World| {
        let jobs = world.qmp.run("query-block-jobs", json!({}));
        jobs[0]["offset"].as_u64().unwrap()
    };
    let first = offset(&mut world);
    let later = eventually(|| Some(offset(&mut world)).filter(|later| *later > first));
    assert!(later < 1 << 42);
    world.qmp.run("job-cancel", json!({ "id": "b" }));
    world
        .qmp
        .wait_for("BLOCK_JOB_CANCELLED", &json!({ "device": "b" }));
}
