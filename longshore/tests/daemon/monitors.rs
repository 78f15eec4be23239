//! Monitors: who is served when, over what, and who hears what.

use std::{
    io::{Read, Write},
    net::TcpListener,
    os::unix::net::UnixListener,
};

use serde_json::json;

use crate::bare::{Qmp, World, connect};

#[test]
fn one_client_at_a_time_is_served_and_the_next_one_after_it() {
    let world = World::new();
    let daemon = world.start(&[]);
    let mut first = daemon.client();
    let mut waiting = connect(&world.path("qmp"));
    waiting.set_nonblocking(true).unwrap();
    first.run("query-version", json!({}));
    let mut byte = [0];
    assert!(waiting.read(&mut byte).is_err(), "nobody greets it yet");
    waiting.set_nonblocking(false).unwrap();
    drop(first);
    let mut second = Qmp::over(waiting);
    second.run("query-version", json!({}));
    drop(second);
    daemon.quit();
}

#[test]
fn clients_of_several_monitors_are_served_side_by_side() {
    let world = World::new();
    let other = format!(
        "socket,id=other,path={},server=on,wait=off",
        world.at("other")
    );
    let daemon = world.start(&["--chardev", &other, "--monitor", "other"]);
    let (mut one, mut two) = (daemon.client(), Qmp::connect(&world.path("other")));
    one.run("query-version", json!({}));
    two.run("query-version", json!({}));
    one.run("query-version", json!({}));
    let mut listed = two.run("query-chardev", json!({}));
    let listed = listed.as_array_mut().unwrap();
    assert_eq!(listed.len(), 2, "{listed:?}");
    drop((one, two));
    daemon.quit();
}

#[test]
fn events_reach_all_who_have_negotiated_and_nobody_else() {
    let world = World::new();
    let more = ["two", "three"].map(|name| {
        format!(
            "socket,id={name},path={},server=on,wait=off",
            world.at(name)
        )
    });
    let daemon = world.start(&[
        "--chardev",
        &more[0],
        "--monitor",
        "two",
        "--chardev",
        &more[1],
        "--monitor",
        "three",
    ]);
    let (mut one, mut two) = (daemon.client(), Qmp::connect(&world.path("two")));
    let mut silent = connect(&world.path("three"));
    for name in ["s", "t"] {
        let node = json!({ "driver": "null-co", "node-name": name, "size": 65536 });
        one.run("blockdev-add", node);
    }
    let job = json!({ "job-id": "j", "device": "s", "target": "t", "sync": "full" });
    one.run("blockdev-backup", job);
    for client in [&mut one, &mut two] {
        assert_eq!(client.event("BLOCK_JOB_COMPLETED")["device"], "j");
        while client.event("JOB_STATUS_CHANGE")["status"] != "null" {}
    }
    drop((one, two));
    daemon.quit();
    let mut heard = String::new();
    silent.read_to_string(&mut heard).unwrap();
    assert_eq!(heard.lines().count(), 1, "only its greeting: {heard}");
}

#[test]
fn what_a_command_causes_is_told_before_its_reply() {
    let world = World::new();
    let daemon = world.start(&[]);
    let mut client = daemon.client();
    for name in ["s", "t"] {
        let node = json!({ "driver": "null-co", "node-name": name, "size": 65536 });
        client.run("blockdev-add", node);
    }
    let job = json!({ "job-id": "j", "device": "s", "target": "t", "sync": "full" });
    client.run("blockdev-backup", job);
    let first = client
        .events
        .front()
        .expect("the job was created before the reply");
    assert_eq!(first["data"], json!({ "id": "j", "status": "created" }));
    drop(client);
    daemon.quit();
}

#[test]
fn a_monitor_may_connect_to_its_client() {
    let world = World::new();
    let listener = UnixListener::bind(world.path("ours")).unwrap();
    let chardev = format!("socket,id=c,path={}", world.at("ours"));
    let daemon = world.spawn(world.command(&["--chardev", &chardev, "--monitor", "c"]));
    let mut client = Qmp::over(listener.accept().unwrap().0);
    client.run("query-version", json!({}));
    client.quit();
    assert_eq!(daemon.wait().code, Some(0));
}

#[test]
fn a_monitor_connects_again_if_that_is_wanted() {
    let world = World::new();
    let listener = UnixListener::bind(world.path("ours")).unwrap();
    let chardev = format!("socket,id=c,path={},reconnect-ms=1", world.at("ours"));
    let daemon = world.spawn(world.command(&["--chardev", &chardev, "--monitor", "c"]));
    drop(Qmp::over(listener.accept().unwrap().0));
    let again = Qmp::over(listener.accept().unwrap().0);
    again.quit();
    assert_eq!(daemon.wait().code, Some(0));
}

#[test]
fn tcp_is_served_on_this_host_only() {
    let world = World::new();
    let daemon = world.start(&[
        "--chardev",
        "socket,id=t,host=127.0.0.1,port=0,server=on,wait=off",
    ]);
    let mut client = daemon.client();
    let listed = client.run("query-chardev", json!({})).to_string();
    assert!(listed.contains("disconnected:tcp:127.0.0.1:"), "{listed}");
    drop(client);
    daemon.quit();
    let ended = world.run(&[
        "--chardev",
        "socket,id=t,host=0.0.0.0,port=0,server=on,wait=off",
    ]);
    assert!(
        ended.stderr.contains("is not a loopback address"),
        "{ended:?}"
    );
    drop(TcpListener::bind("127.0.0.1:0").unwrap());
}

#[test]
fn chardevs_come_and_go_by_commands() {
    let world = World::new();
    let daemon = world.start(&[]);
    let mut client = daemon.client();
    let address = json!({ "type": "unix", "data": { "path": world.at("late") } });
    let backend = json!({ "type": "socket", "data": { "addr": address } });
    let add = json!({ "id": "late", "backend": backend });
    client.run("chardev-add", add.clone());
    let again = client.refused("chardev-add", add);
    assert_eq!(again, "Chardev with id 'late' already exists");
    assert!(world.path("late").exists());
    client.run("chardev-remove", json!({ "id": "late" }));
    assert!(!world.path("late").exists());
    let busy = client.refused("chardev-remove", json!({ "id": "qmp" }));
    assert_eq!(busy, "Chardev 'qmp' is busy");
    drop(client);
    daemon.quit();
}

#[test]
fn requests_and_the_errors_between_them_are_answered_in_order() {
    let world = World::new();
    let daemon = world.start(&[]);
    let mut client = daemon.client();
    let mut lines = String::new();
    for id in 0..300 {
        lines += &format!("{{'execute':'query-version','id':{id}}} {{'execute':'nope','id':{id}}}");
        lines += "\u{1}\n";
    }
    client.socket().write_all(lines.as_bytes()).unwrap();
    for id in 0..300 {
        let replies = [client.reply(), client.reply(), client.reply()];
        assert_eq!(
            (&replies[0]["id"], &replies[1]["id"]),
            (&json!(id), &json!(id))
        );
        assert!(replies[0]["return"].is_object());
        assert_eq!(replies[1]["error"]["class"], "CommandNotFound");
        assert_eq!(replies[2]["error"]["class"], "GenericError");
    }
    drop(client);
    daemon.quit();
}

#[test]
fn what_was_asked_before_the_client_ended_its_side_is_answered() {
    let world = World::new();
    let daemon = world.start(&[]);
    let mut client = daemon.client();
    client.send("query-version", json!({}));
    client.send("query-commands", json!({}));
    client.socket().shutdown(std::net::Shutdown::Write).unwrap();
    assert!(client.reply()["return"]["qemu"].is_object());
    assert!(client.reply()["return"].is_array());
    drop(client);
    daemon.quit();
}

#[test]
fn the_end_is_told_when_it_has_come() {
    let world = World::new();
    let daemon = world.start(&[]);
    let mut client = daemon.client();
    for name in ["s", "t"] {
        let node = json!({ "driver": "null-co", "node-name": name, "size": 1 << 30 });
        client.run("blockdev-add", node);
    }
    let job = json!({ "job-id": "j", "device": "s", "target": "t", "sync": "full", "speed": 1 });
    client.run("blockdev-backup", job);
    client.run("quit", json!({}));
    let mut statuses = client
        .events
        .iter()
        .filter(|event| event["event"] == "JOB_STATUS_CHANGE");
    let last = statuses.next_back().unwrap();
    assert_eq!(
        last["data"]["status"], "null",
        "the job has ended before the reply"
    );
    assert_eq!(daemon.wait().code, Some(0));
}

#[test]
fn a_ring_buffer_keeps_what_was_written_last() {
    let world = World::new();
    let daemon = world.start(&["--chardev", "ringbuf,id=r,size=8"]);
    let mut client = daemon.client();
    let write = |client: &mut Qmp, data: &str, format: &str| {
        let arguments = json!({ "device": "r", "data": data, "format": format });
        client.run("ringbuf-write", arguments);
    };
    let read = |client: &mut Qmp, size: u64, format: &str| {
        let arguments = json!({ "device": "r", "size": size, "format": format });
        client.run("ringbuf-read", arguments)
    };
    write(&mut client, "0123456789", "utf8");
    assert_eq!(read(&mut client, 3, "utf8"), "234");
    assert_eq!(read(&mut client, 100, "base64"), "NTY3ODk=");
    write(&mut client, "w6n/", "base64");
    assert_eq!(read(&mut client, 100, "utf8"), "\u{e9}\u{fffd}");
    for (command, arguments, want) in [
        (
            "ringbuf-read",
            json!({ "device": "r", "size": 0 }),
            "size must be greater than zero",
        ),
        (
            "ringbuf-read",
            json!({ "device": "no", "size": 1 }),
            "Device 'no' not found",
        ),
        (
            "ringbuf-write",
            json!({ "device": "qmp", "data": "" }),
            "qmp is not a ringbuf device",
        ),
        (
            "ringbuf-write",
            json!({ "device": "r", "data": "!", "format": "base64" }),
            "Base64 data contains invalid characters",
        ),
    ] {
        assert_eq!(client.refused(command, arguments), want);
    }
    drop(client);
    daemon.quit();
}

#[test]
fn a_chardev_that_nobody_uses_can_become_another() {
    let world = World::new();
    let daemon = world.start(&["--chardev", "null,id=n"]);
    let mut client = daemon.client();
    let ring = |size: i64| json!({ "type": "ringbuf", "data": { "size": size } });
    let change = |id: &str, backend: serde_json::Value| json!({ "id": id, "backend": backend });
    for size in [3, -8, i64::MIN] {
        let text = client.refused("chardev-change", change("n", ring(size)));
        assert!(
            text.starts_with("Failed to add chardev 'n': size of ringbuf"),
            "{text}"
        );
    }
    client.run("chardev-send-break", json!({ "id": "n" }));
    client.run("chardev-change", change("n", ring(8)));
    client.run("ringbuf-write", json!({ "device": "n", "data": "x" }));
    let text = client.refused("chardev-change", change("no", ring(8)));
    assert_eq!(text, "Chardev 'no' does not exist");
    let text = client.refused("chardev-change", change("qmp", ring(8)));
    assert_eq!(text, "Chardev user does not support chardev hotswap");
    let text = client.refused("chardev-send-break", json!({ "id": "no" }));
    assert_eq!(text, "Chardev 'no' not found");
    drop(client);
    daemon.quit();
}
