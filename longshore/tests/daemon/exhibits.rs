//! What killed, hung or lied in the reference, seen by clients of ours: faults of jobs.

use std::{
    fs::File,
    os::unix::fs::{FileExt, MetadataExt},
};

use block::nodes::FaultOp;
use nbd::{Command, Errno};
use serde_json::json;

use super::{
    far::Far,
    nbd_client::Nbd,
    world::{World, eventually},
};

const LEN: usize = 8 << 20;
/// The same as a disk's length.
const DISK_BYTES: u64 = 8 << 20;

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
    let refused = world.qmp.error("block-export-add", export);
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
    world.qmp.refused("blockdev-backup", job("speed", 0));
    world.qmp.refused("blockdev-backup", job("x-perf", 1 << 40));
    world
        .qmp
        .refused("blockdev-mirror", job("granularity", 512));
    let bitmap = json!({ "node": "a", "name": "b", "granularity": 512 });
    world.qmp.refused("block-dirty-bitmap-add", bitmap);
    for size in [json!(-1), json!(u64::MAX)] {
        let node = json!({ "driver": "null-co", "node-name": "n", "size": size });
        world.qmp.refused("blockdev-add", node);
    }
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

#[test]
fn n06_a_merge_of_no_bitmaps_does_nothing() {
    let mut world = world();
    let bitmap = json!({ "node": "a", "name": "b" });
    world.qmp.run("block-dirty-bitmap-add", bitmap);
    let merge = json!({ "node": "a", "target": "b", "bitmaps": [] });
    world.qmp.run("block-dirty-bitmap-merge", merge.clone());
    let action = json!({ "type": "block-dirty-bitmap-merge", "data": merge });
    let actions = json!({ "actions": [action] });
    world.qmp.run("transaction", actions);
}

#[test]
fn n10_a_backup_is_complete_only_when_its_target_has_been_flushed() {
    let mut world = world();
    let far = Far::new(DISK_BYTES);
    world.qmp.run("blockdev-add", far.node("far"));
    far.hold(FaultOp::Flush);
    let backup = json!({ "job-id": "j", "device": "a", "target": "far", "sync": "full" });
    world.qmp.run("blockdev-backup", backup);
    far.wait_held();
    let jobs = world.qmp.run("query-jobs", json!({}));
    assert_eq!(jobs[0]["status"], "running");
    far.faults.release_all();
    let end = world
        .qmp
        .wait_for("BLOCK_JOB_COMPLETED", &json!({ "device": "j" }));
    assert_eq!(end["data"].get("error"), None);
    let seen = far.faults.seen();
    let last = |fits: fn(FaultOp) -> bool| seen.iter().rposition(|&(op, _)| fits(op));
    assert!(last(|op| op == FaultOp::Write) < last(|op| op == FaultOp::Flush));
}

#[test]
fn n11_bytes_that_cannot_be_read_fail_their_request_and_no_other() {
    let mut world = world();
    let bad = json!({ "event": "read_aio", "errno": libc::EIO, "sector": 2048 });
    let node = json!({
        "driver": "blkdebug", "node-name": "bad", "image": "a", "inject-error": [bad],
    });
    world.qmp.run("blockdev-add", node);
    let export = json!({ "type": "nbd", "id": "e", "node-name": "bad", "name": "bad" });
    world.qmp.run("block-export-add", export);
    let mut guest = Nbd::connect(&world.path("nbd"), "bad", &[]).unwrap();
    for _ in 0..3 {
        assert_eq!(guest.read(1 << 20, 4096), Err(Errno::Io));
        assert_eq!(guest.read(0, 4096), Ok(vec![7; 4096]));
    }
}

#[test]
fn n12_a_broken_target_fails_its_backup_and_no_guest() {
    let mut world = world();
    let bad = json!({ "event": "write_aio", "errno": libc::EIO, "sector": 8192 });
    let node = json!({
        "driver": "blkdebug", "node-name": "bad", "image": "b", "inject-error": [bad],
    });
    world.qmp.run("blockdev-add", node);
    let export = json!({
        "type": "nbd", "id": "e", "node-name": "a", "name": "a", "writable": true,
    });
    world.qmp.run("block-export-add", export);
    let mut guest = Nbd::connect(&world.path("nbd"), "a", &[]).unwrap();
    // The job itself does not come as far as that.
    let backup = json!({
        "job-id": "j", "device": "a", "target": "bad", "sync": "full", "speed": 1,
    });
    world.qmp.run("blockdev-backup", backup);
    assert_eq!(guest.write(8192 * 512, &[9; 4096]), Ok(()));
    let end = world
        .qmp
        .wait_for("BLOCK_JOB_COMPLETED", &json!({ "device": "j" }));
    assert!(end["data"]["error"].is_string(), "{end}");
    assert_eq!(guest.read(8192 * 512, 4096), Ok(vec![9; 4096]));
}

#[test]
fn n13_who_says_goodbye_gets_the_replies_to_what_was_asked_before() {
    let mut world = world();
    let far = Far::new(DISK_BYTES);
    world.qmp.run("blockdev-add", far.node("far"));
    let export = json!({ "type": "nbd", "id": "e", "node-name": "far", "name": "far" });
    world.qmp.run("block-export-add", export);
    let mut guest = Nbd::connect(&world.path("nbd"), "far", &[]).unwrap();
    far.hold(FaultOp::Read);
    let request = guest.send_and_leave(Command::Read, 0, 1 << 20);
    far.wait_held();
    far.faults.release_all();
    assert_eq!(guest.reply(&request), Ok(vec![0; 1 << 20]));
    assert!(guest.is_cut());
}

#[test]
fn n17_a_copy_of_a_sparse_disk_is_sparse() {
    const DATA_BYTES: usize = 1 << 20;
    let mut world = World::start(&[]);
    for name in ["a", "b", "c"] {
        let file = File::create_new(world.path(name)).unwrap();
        file.set_len(1 << 32).unwrap();
        if name == "a" {
            file.write_all_at(&[7; DATA_BYTES], 1 << 31).unwrap();
        }
        world.add_file_node(name);
    }
    let to = |target| json!({ "job-id": target, "device": "a", "target": target, "sync": "full" });
    world.qmp.run("blockdev-backup", to("b"));
    world
        .qmp
        .wait_for("JOB_STATUS_CHANGE", &json!({ "id": "b", "status": "null" }));
    world.qmp.run("blockdev-mirror", to("c"));
    world
        .qmp
        .wait_for("BLOCK_JOB_READY", &json!({ "device": "c" }));
    for name in ["b", "c"] {
        let target = File::open(world.path(name)).unwrap();
        let mut copied = vec![0; DATA_BYTES];
        target.read_exact_at(&mut copied, 1 << 31).unwrap();
        assert_eq!(copied, [7; DATA_BYTES]);
        let allocated = target.metadata().unwrap().blocks() * 512;
        assert!(allocated < 4 << 20, "{name} takes {allocated} bytes");
    }
}
