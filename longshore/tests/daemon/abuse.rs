//! Clients that mean harm, or have lost their minds: others are served, and memory is bounded.

use std::{
    io::{ErrorKind, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use serde_json::json;

use crate::bare::{Daemon, Qmp, World};

/// What a daemon may take beyond what it had.
const GROWTH_BYTES_MAX: u64 = 64 << 20;

fn start(world: &World) -> (Daemon, Qmp) {
    let other = format!(
        "socket,id=other,path={},server=on,wait=off",
        world.at("other")
    );
    let daemon = world.start(&["--chardev", &other, "--monitor", "other"]);
    let good = Qmp::connect(&world.path("other"));
    (daemon, good)
}

fn check(daemon: &Daemon, good: &mut Qmp, before_bytes: u64) {
    good.run("query-version", json!({}));
    let grown = daemon.memory_bytes().saturating_sub(before_bytes);
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes more than before");
}

#[test]
fn a_client_that_never_reads_its_replies_is_not_read_itself() {
    let world = World::new();
    let (daemon, mut good) = start(&world);
    let mut bad = daemon.client();
    let before_bytes = daemon.memory_bytes();
    // The time after which nothing more is taken; how long that is proves nothing.
    bad.socket()
        .set_write_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    let requests = b"{\"execute\":\"query-qmp-schema\"}\n".repeat(64);
    let mut sent = 0;
    let stopped = loop {
        match bad.socket().write(&requests) {
            Ok(count) => sent += count,
            Err(error) => break error,
        }
        assert!(sent < 64 << 20, "all of it is taken");
    };
    assert!(
        matches!(stopped.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        "{stopped}"
    );
    check(&daemon, &mut good, before_bytes);
    drop((bad, good));
    daemon.quit();
}

#[test]
fn a_hundred_mebibytes_without_an_end_take_no_such_memory() {
    let world = World::new();
    let (daemon, mut good) = start(&world);
    let mut bad = daemon.client();
    let before_bytes = daemon.memory_bytes();
    bad.socket().write_all(b"{\"execute\":\"").unwrap();
    let chunk = vec![b'x'; 1 << 20];
    for _ in 0..10 {
        for _ in 0..10 {
            bad.socket().write_all(&chunk).unwrap();
        }
        check(&daemon, &mut good, before_bytes);
    }
    drop((bad, good));
    daemon.quit();
}

#[test]
fn ten_thousand_connections_that_come_and_go_leave_nothing_behind() {
    let world = World::new();
    let (daemon, mut good) = start(&world);
    drop(daemon.client());
    let descriptors = || {
        let listed = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid()));
        listed.unwrap().count()
    };
    let before_bytes = daemon.memory_bytes();
    for number in 0..10_000 {
        // The queue may be full for a moment, which is an answer as well.
        drop(UnixStream::connect(world.path("qmp")));
        if number % 1000 == 0 {
            check(&daemon, &mut good, before_bytes);
        }
    }
    drop(daemon.client());
    check(&daemon, &mut good, before_bytes);
    crate::bare::until(|| descriptors() < 64);
    drop(good);
    daemon.quit();
}

#[test]
fn commands_behind_the_last_one_harm_nobody() {
    let world = World::new();
    let daemon = world.start(&[]);
    let mut client = daemon.client();
    let many = "{'execute':'quit'}".repeat(50);
    client.socket().write_all(many.as_bytes()).unwrap();
    assert!(client.reply()["return"].is_object());
    assert_eq!(daemon.wait().code, Some(0));
}

#[test]
fn the_end_comes_although_a_client_never_reads() {
    let world = World::new();
    let (daemon, good) = start(&world);
    let mut bad = daemon.client();
    bad.socket()
        .set_write_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let requests = b"{\"execute\":\"query-qmp-schema\"}\n".repeat(64);
    while bad.socket().write(&requests).is_ok() {}
    good.quit();
    assert_eq!(daemon.wait().code, Some(0));
}

#[test]
fn the_end_comes_with_fifty_jobs_under_way() {
    let world = World::new();
    let (daemon, mut good) = start(&world);
    let mut client = daemon.client();
    let before_bytes = daemon.memory_bytes();
    for number in 0..50 {
        for side in ["s", "t"] {
            let name = format!("{side}{number}");
            let node = json!({ "driver": "null-co", "node-name": name, "size": 1 << 30 });
            client.run("blockdev-add", node);
        }
        let (source, target) = (format!("s{number}"), format!("t{number}"));
        let job = json!({
            "job-id": format!("j{number}"), "device": source, "target": target,
            "sync": "full", "speed": 1024,
        });
        client.run(["blockdev-backup", "blockdev-mirror"][number % 2], job);
    }
    check(&daemon, &mut good, before_bytes);
    client.quit();
    assert_eq!(daemon.wait().code, Some(0));
}
