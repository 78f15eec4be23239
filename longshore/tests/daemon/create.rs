//! Files that clients have the daemon make.

use std::fs;

use serde_json::{Value, json};

use crate::world::World;

fn create(world: &World, id: &str, more: Value) -> Value {
    let mut options =
        json!({ "driver": "file", "filename": world.text_path("new"), "size": 65536 });
    let more = more.as_object().unwrap().clone();
    options.as_object_mut().unwrap().extend(more);
    json!({ "job-id": id, "options": options })
}

/// Statuses of the job until it is concluded, and what the query says then.
fn life(world: &mut World, id: &str) -> (Vec<String>, Value) {
    let mut life = Vec::new();
    while life.last().is_none_or(|last| last != "concluded") {
        let event = world.qmp.next_event();
        assert_eq!(
            event["event"], "JOB_STATUS_CHANGE",
            "no other event is for such a job"
        );
        if event["data"]["id"] == id {
            life.push(event["data"]["status"].as_str().unwrap().to_owned());
        }
    }
    let jobs = world.qmp.run("query-jobs", json!({}));
    (life, jobs[0].clone())
}

#[test]
fn a_file_is_made_by_a_job_that_stays_until_it_is_dismissed() {
    let mut world = World::start(&[]);
    for (id, mode) in [("off", "off"), ("falloc", "falloc"), ("full", "full")] {
        let more = json!({ "preallocation": mode, "nocow": true, "extent-size-hint": 65536 });
        world.qmp.run("blockdev-create", create(&world, id, more));
        let (statuses, job) = life(&mut world, id);
        let want = ["created", "running", "waiting", "pending", "concluded"];
        assert_eq!(statuses, want);
        let want = json!({
            "id": id, "type": "create", "status": "concluded", "current-progress": 1, "total-progress": 1,
        });
        assert_eq!(job, want);
        assert_eq!(fs::read(world.path("new")).unwrap(), vec![0; 65536]);
        // It is no block job.
        assert_eq!(world.qmp.run("query-block-jobs", json!({})), json!([]));
        let cancel = json!({ "device": id });
        let refused = world.qmp.error("block-job-cancel", cancel);
        assert_eq!(refused["class"], "DeviceNotActive");
        world.qmp.run("job-dismiss", json!({ "id": id }));
        world.qmp.event("JOB_STATUS_CHANGE");
    }
    world.add_file_node("new");
}

#[test]
fn why_a_file_could_not_be_made_is_told_by_the_job() {
    let mut world = World::start(&[]);
    let folder = world.text_path("");
    for (at, (more, want)) in [
        (
            json!({ "preallocation": "metadata" }),
            "Unsupported preallocation mode: metadata",
        ),
        (
            json!({ "extent-size-hint": 4_294_967_296_u64 }),
            "Extent size hint is too large",
        ),
        (
            json!({ "size": u64::MAX }),
            "Could not resize file: Invalid argument",
        ),
        (
            json!({ "size": i64::MAX }),
            "Could not resize file: File too large",
        ),
        (
            json!({ "filename": "/nonexistent/new" }),
            "Could not create '/nonexistent/new': No such file or directory",
        ),
        (
            json!({ "filename": folder }),
            &format!("Could not create '{folder}': Is a directory"),
        ),
        (
            json!({ "filename": "/dev/null" }),
            "Could not resize file: Invalid argument",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("j{at}");
        world.qmp.run("blockdev-create", create(&world, &id, more));
        let (statuses, job) = life(&mut world, &id);
        assert_eq!(statuses, ["created", "running", "aborting", "concluded"]);
        assert_eq!(job["error"], want);
    }
}

#[test]
fn a_file_that_has_a_node_is_not_emptied() {
    let mut world = World::start(&[]);
    world.add_disk("new", 65536, 7);
    world
        .qmp
        .run("blockdev-create", create(&world, "j", json!({})));
    let (_, job) = life(&mut world, "j");
    let error = job["error"].as_str().unwrap();
    assert!(error.contains("is in use by node"), "{error}");
    assert_eq!(fs::read(world.path("new")).unwrap(), vec![7; 65536]);
}

#[test]
fn what_is_no_file_is_not_made() {
    let mut world = World::start(&[]);
    for driver in ["raw", "nbd", "null-co", "host_device", "throttle"] {
        let arguments = json!({ "job-id": "j", "options": { "driver": driver } });
        let text = world.qmp.refused("blockdev-create", arguments);
        assert_eq!(text, "Driver does not support blockdev-create");
    }
    let arguments = json!({ "job-id": "j", "options": { "driver": "file", "filename": "x" } });
    let text = world.qmp.refused("blockdev-create", arguments);
    assert_eq!(text, "Parameter 'options.size' is missing");
    let text = world
        .qmp
        .refused("blockdev-create", create(&world, "1", json!({})));
    assert_eq!(text, "Invalid job ID '1'");
}
