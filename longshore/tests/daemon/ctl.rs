//! `longshore ctl`: what people look at and tell a daemon, ours and the reference.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::bare::{Daemon, World, is_installed, skip};

fn ctl(world: &World, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
    command
        .args(["ctl", "--socket", &world.at("qmp")])
        .args(words);
    command.output().unwrap()
}

/// The text that a command prints, which must succeed.
#[track_caller]
fn told(world: &World, words: &[&str]) -> String {
    let output = ctl(world, words);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

fn with_a_slow_job(daemon: &Daemon) {
    let mut client = daemon.client();
    for name in ["s", "t"] {
        let node = json!({ "driver": "null-co", "node-name": name, "size": 64 << 20 });
        client.run("blockdev-add", node);
    }
    let job = json!({
        "job-id": "j", "device": "s", "target": "t", "sync": "full", "speed": 1, "auto-dismiss": false,
    });
    client.run("blockdev-backup", job);
}

fn drive(world: &World, daemon: &Daemon) {
    with_a_slow_job(daemon);
    let jobs = told(world, &["job", "ls"]);
    let row = jobs.lines().nth(1).unwrap();
    assert!(
        row.starts_with("j ") && row.contains("backup") && row.contains("running"),
        "{jobs}"
    );
    assert!(told(world, &["node", "ls"]).contains("null-co"));
    assert!(told(world, &["export", "ls"]).starts_with("EXPORT"));
    told(world, &["job", "set", "j", "--speed", "2000000"]);
    let shown: Value = serde_json::from_str(&told(world, &["job", "show", "j"])).unwrap();
    assert_eq!(
        (&shown["id"], &shown["speed"]),
        (&json!("j"), &json!(2_000_000))
    );
    for verb in ["pause", "resume", "cancel"] {
        told(world, &["job", verb, "j"]);
    }
    told(world, &["job", "watch", "j"]);
    told(world, &["job", "dismiss", "j"]);
    let again = ctl(world, &["job", "dismiss", "j"]);
    assert!(!again.status.success());
    assert!(String::from_utf8_lossy(&again.stderr).contains("Job not found"));
    let version: Value = serde_json::from_str(&told(world, &["qmp", "query-version"])).unwrap();
    assert!(version["qemu"]["major"].is_u64());
}

#[test]
fn a_daemon_of_ours_is_driven_by_hand() {
    let world = World::new();
    let daemon = world.start(&[]);
    drive(&world, &daemon);
    daemon.quit();
}

#[test]
fn the_reference_is_driven_in_the_same_way() {
    if !is_installed("qemu-storage-daemon") {
        return skip("qemu-storage-daemon (Debian package qemu-utils)");
    }
    let world = World::new();
    let daemon = world.start_reference();
    drive(&world, &daemon);
    daemon.quit();
}

#[test]
fn a_daemon_that_is_not_there_is_told_in_a_sentence() {
    let world = World::new();
    let output = ctl(&world, &["job", "ls"]);
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("cannot connect to"), "{text}");
}
