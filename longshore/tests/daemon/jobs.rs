//! Jobs as clients of the daemon start, watch and change them.

use block::nodes::FaultOp;
use nbd::Command;
use serde_json::{Value, json};

use super::{
    far::Far,
    nbd_client::Nbd,
    world::{World, eventually},
};

const LEN: usize = 4 << 20;

/// A daemon with a source that has data, and a target.
fn world() -> World {
    let mut world = World::start(&[]);
    for (name, byte) in [("src", 7), ("dst", 0)] {
        world.add_disk(name, LEN, byte);
    }
    world
}

/// Arguments of a job from the source to the target, and more.
fn from_to(id: &str, more: Value) -> Value {
    let mut arguments = json!({ "job-id": id, "device": "src", "target": "dst", "sync": "full" });
    let Value::Object(more) = more else {
        panic!("an object");
    };
    arguments.as_object_mut().unwrap().extend(more);
    arguments
}

/// Slow enough to be under way for as long as a test likes.
fn slow(id: &str) -> Value {
    from_to(id, json!({ "speed": 1 }))
}

/// An error as clients get it.
fn said(class: &str, desc: &str) -> Value {
    json!({ "class": class, "desc": desc })
}

fn equal(world: &World) -> bool {
    std::fs::read(world.path("src")).unwrap() == std::fs::read(world.path("dst")).unwrap()
}

/// What has been told of a job up to the status, without times.
fn life(world: &mut World, id: &str, last: &str) -> Vec<String> {
    let mut life = Vec::new();
    loop {
        let event = world.qmp.next_event();
        let (name, data) = (event["event"].as_str().unwrap(), &event["data"]);
        if data["id"] != id && data["device"] != id {
            continue;
        }
        match data["status"].as_str() {
            Some(status) => life.push(status.to_owned()),
            None => life.push(name.to_owned()),
        }
        if data["status"] == last {
            return life;
        }
    }
}

#[test]
fn a_backup_tells_its_life_in_order() {
    let mut world = world();
    world.qmp.run("blockdev-backup", from_to("b", json!({})));

    let want = [
        "created",
        "running",
        "waiting",
        "pending",
        "BLOCK_JOB_COMPLETED",
        "concluded",
        "null",
    ];
    assert_eq!(life(&mut world, "b", "null"), want);
    assert!(equal(&world));
    assert_eq!(world.qmp.run("query-jobs", json!({})), json!([]));
}

#[test]
fn a_mirror_that_is_finalized_by_hand_is_pending_until_then() {
    let mut world = world();
    let manual = json!({ "auto-finalize": false, "auto-dismiss": false });
    world.qmp.run("blockdev-mirror", from_to("m", manual));
    assert_eq!(
        life(&mut world, "m", "ready"),
        ["created", "running", "ready"]
    );
    world.qmp.run("job-complete", json!({ "id": "m" }));
    assert_eq!(
        life(&mut world, "m", "pending"),
        ["BLOCK_JOB_READY", "waiting", "pending"]
    );
    world.qmp.run("job-finalize", json!({ "id": "m" }));
    // The reply comes after all of its events.
    let jobs = world.qmp.run("query-jobs", json!({}));
    assert_eq!(jobs[0]["status"], "concluded");
    let want = ["BLOCK_JOB_PENDING", "BLOCK_JOB_COMPLETED", "concluded"];
    assert_eq!(life(&mut world, "m", "concluded"), want);
    world.qmp.run("job-dismiss", json!({ "id": "m" }));
    assert!(equal(&world));
}

#[test]
fn a_job_that_is_finalized_has_ended_before_the_reply_however_long_that_takes() {
    let mut world = World::start(&["--nbd-server", "addr.type=unix,addr.path=@/nbd"]);
    let far = Far::new(4 << 20);
    world.qmp.run("blockdev-add", far.node("src"));
    world.add_disk("dst", LEN, 7);
    let export = json!({
        "type": "nbd", "id": "e", "node-name": "src", "name": "src", "writable": true,
    });
    world.qmp.run("block-export-add", export);
    let mut guest = Nbd::connect(&world.path("nbd"), "src", &[]).unwrap();
    let manual = json!({ "auto-finalize": false, "auto-dismiss": false });
    world.qmp.run("blockdev-backup", from_to("b", manual));
    life(&mut world, "b", "pending");
    // The job takes its leave from below a write that does not return, and gives it a while for that.
    far.hold(FaultOp::Write);
    let request = guest.send(Command::Write, 0, 4096);
    guest.send_data(&[9; 4096]);
    far.wait_held();
    world.qmp.run("job-finalize", json!({ "id": "b" }));
    let jobs = world.qmp.run("query-jobs", json!({}));
    assert_eq!(jobs[0]["status"], "concluded");
    let want = ["BLOCK_JOB_PENDING", "BLOCK_JOB_COMPLETED", "concluded"];
    assert_eq!(life(&mut world, "b", "concluded"), want);
    far.faults.release_all();
    assert_eq!(guest.reply(&request), Ok(Vec::new()));
    world.qmp.run("job-dismiss", json!({ "id": "b" }));
}

#[test]
fn a_soft_cancel_of_a_mirror_that_is_pending_undoes_it() {
    let mut world = world();
    world.qmp.run(
        "blockdev-mirror",
        from_to("m", json!({ "auto-finalize": false })),
    );
    life(&mut world, "m", "ready");
    world.qmp.run("job-complete", json!({ "id": "m" }));
    life(&mut world, "m", "pending");
    world.qmp.run("block-job-cancel", json!({ "device": "m" }));
    let want = [
        "BLOCK_JOB_PENDING",
        "aborting",
        "BLOCK_JOB_CANCELLED",
        "concluded",
        "null",
    ];
    assert_eq!(life(&mut world, "m", "null"), want);
}

#[test]
fn who_asks_for_an_unknown_job_hears_of_it_in_the_class_of_the_command() {
    let mut world = world();
    let verbs = [
        "pause", "resume", "cancel", "complete", "finalize", "dismiss",
    ];
    for verb in verbs {
        let refused = world
            .qmp
            .error(&format!("job-{verb}"), json!({ "id": "x" }));
        assert_eq!(refused, said("GenericError", "Job not found"), "{verb}");
        let name = match verb {
            "finalize" | "dismiss" => "id",
            _ => "device",
        };
        let refused = world
            .qmp
            .error(&format!("block-job-{verb}"), json!({ name: "x" }));
        let want = said("DeviceNotActive", "Block job 'x' not found");
        assert_eq!(refused, want, "{verb}");
    }
    let change = json!({ "id": "x", "type": "mirror", "copy-mode": "background" });
    let refused = world.qmp.error("block-job-change", change);
    assert_eq!(refused, said("DeviceNotActive", "Block job 'x' not found"));
}

#[test]
fn clients_turn_a_mirror_to_both_sides_at_once_and_ours_turn_it_back() {
    let mut world = world();
    world.qmp.run("blockdev-mirror", slow("m"));
    let change = |mode| json!({ "id": "m", "type": "mirror", "copy-mode": mode });
    let set = |mode| json!({ "id": "m", "copy-mode": mode });
    world.qmp.run("block-job-change", change("write-blocking"));
    let text = world.qmp.refused("block-job-change", change("background"));
    assert_eq!(text, "Change to copy mode 'background' is not implemented");
    let mode = |world: &mut World| {
        let progress = world
            .qmp
            .run("x-longshore-query-progress", json!({ "id": "m" }));
        progress[0]["mirror"]["copy-mode"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(mode(&mut world), "write-blocking");
    world.qmp.run("x-longshore-job-set", set("background"));
    assert_eq!(mode(&mut world), "background");
    let of_another_kind = json!({ "id": "m", "type": "backup" });
    let text = world.qmp.refused("block-job-change", of_another_kind);
    assert_eq!(text, "Job type does not support change");
    world.qmp.run("job-cancel", json!({ "id": "m" }));
}

#[test]
fn a_change_that_is_wrong_in_part_changes_nothing() {
    let mut world = world();
    world.qmp.run("blockdev-backup", slow("b"));
    let set = json!({ "id": "b", "speed": 5, "copy-mode": "background" });
    let text = world.qmp.refused("x-longshore-job-set", set);
    assert_eq!(text, "Job 'b' cannot be changed so");
    let set = json!({ "id": "b", "speed": -1, "max-workers": 1 });
    let text = world.qmp.refused("x-longshore-job-set", set);
    assert_eq!(text, "Parameter 'speed' expects a non-negative value");
    let jobs = world.qmp.run("query-block-jobs", json!({}));
    assert_eq!(jobs[0]["speed"], 1);

    let set = json!({ "id": "b", "speed": 0, "max-workers": 1, "latency-budget": 1_000_000 });
    world.qmp.run("x-longshore-job-set", set);
    life(&mut world, "b", "null");
    assert!(equal(&world));
}

#[test]
fn progress_says_what_bounds_a_job() {
    let mut world = world();
    world.qmp.run("blockdev-backup", slow("b"));
    eventually(|| {
        let progress = world.qmp.run("x-longshore-query-progress", json!({}));
        (progress[0]["copy"]["reason"] == "speed-limit").then_some(())
    });
    world.qmp.run("job-pause", json!({ "id": "b" }));
    eventually(|| {
        let progress = world
            .qmp
            .run("x-longshore-query-progress", json!({ "id": "b" }));
        let copy = &progress[0]["copy"];
        (copy["reason"] == "paused" && copy["rate"] == 0).then_some(())
    });
    let progress = world
        .qmp
        .run("x-longshore-query-progress", json!({ "id": "b" }));
    assert_eq!(progress[0]["total-progress"], LEN);
    assert!(progress[0].get("mirror").is_none());
}

#[test]
fn the_history_tells_how_jobs_ended_that_nobody_watched() {
    let mut world = world();
    world.qmp.run("blockdev-backup", from_to("good", json!({})));
    life(&mut world, "good", "null");
    world.qmp.run("blockdev-mirror", slow("bad"));
    world.qmp.run("job-cancel", json!({ "id": "bad" }));
    life(&mut world, "bad", "null");

    let history = world.qmp.run("x-longshore-query-job-history", json!({}));
    let told = |entry: &Value| {
        let fields = ["sequence", "id", "type", "end"];
        fields.map(|field| entry[field].clone())
    };
    assert_eq!(
        told(&history[0]),
        [json!(2), json!("bad"), json!("mirror"), json!("cancelled")]
    );
    assert_eq!(
        told(&history[1]),
        [json!(1), json!("good"), json!("backup"), json!("completed")]
    );
    assert_eq!(history[1]["current-progress"], LEN);
    assert_eq!(history[0]["error"], "Operation canceled");
}
