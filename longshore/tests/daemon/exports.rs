//! The NBD server and its exports: how they come and go, and what clients can do to them.

use std::{
    fs,
    io::Read,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    time::Duration,
};

use nbd::{BlockStatus, Command, Errno};
use serde_json::{Value, json};

use crate::{
    nbd_client::Nbd,
    world::{World, eventually},
};

const MIB: usize = 1 << 20;

/// A daemon that serves the disk `d` for writing as `disk`, by the export `e`.
fn serving() -> World {
    let mut world = World::start(&["--nbd-server", "addr.type=unix,addr.path=@/nbd"]);
    world.add_disk("d", 4 * MIB, b'd');
    add_export(&mut world, json!({}));
    world
}

fn add_export(world: &mut World, more: Value) {
    let arguments = export(more);
    world.qmp.run("block-export-add", arguments);
}

fn export(more: Value) -> Value {
    let mut arguments = json!({
        "type": "nbd", "id": "e", "node-name": "d", "name": "disk", "writable": true,
    });
    let Value::Object(more) = more else {
        unreachable!("members are given as an object")
    };
    arguments.as_object_mut().unwrap().extend(more);
    arguments
}

fn client(world: &World) -> Nbd {
    Nbd::connect(&world.path("nbd"), "disk", &[]).unwrap()
}

fn exports(world: &mut World) -> Value {
    world.qmp.run("query-block-exports", json!({}))
}

/// A client that has asked for much more than fits between it and the daemon, and reads nothing of it.
fn silent_client(world: &World) -> Nbd {
    let mut client = client(world);
    for _ in 0..50 {
        client.send(Command::Read, 0, 4 << 20);
    }
    client
}

#[test]
fn the_command_line_serves_what_clients_could() {
    let mut world = World::start(&[
        "--blockdev",
        "null-co,node-name=n,size=1048576,read-zeroes=on",
        "--nbd-server",
        "addr.type=unix,addr.path=@/nbd,max-connections=5",
        "--export",
        "nbd,id=e,node-name=n,name=disk,writable=on,description=a disk",
    ]);
    let mut client = client(&world);
    assert_eq!(client.read(4096, 3), Ok(vec![0; 3]));
    assert_eq!(client.session.description, "a disk");
    let want = json!([{ "id": "e", "type": "nbd", "node-name": "n", "shutting-down": false }]);
    assert_eq!(exports(&mut world), want);
}

#[test]
fn an_export_with_a_client_goes_by_force_only_and_says_when_it_is_gone() {
    let mut world = serving();
    let mut client = client(&world);
    assert_eq!(client.write(0, b"x"), Ok(()));

    let id = json!({ "id": "e" });
    let refused = world.qmp.refused("block-export-del", id.clone());
    assert_eq!(refused, "export 'e' still in use");
    assert_eq!(client.read(0, 1), Ok(b"x".to_vec()));
    let by_force = json!({ "id": "e", "mode": "hard" });
    world.qmp.run("block-export-del", by_force);
    world.qmp.wait_for("BLOCK_EXPORT_DELETED", &id);

    assert!(client.is_cut());
    assert_eq!(exports(&mut world), json!([]));
    world.qmp.run("blockdev-del", json!({ "node-name": "d" }));
    let unknown = world.qmp.refused("block-export-del", id);
    assert_eq!(unknown, "Export 'e' is not found");
}

#[test]
fn a_node_is_free_once_the_server_has_stopped_and_its_address_too() {
    let mut world = serving();
    let address = json!({ "type": "unix", "data": { "path": world.text_path("nbd") } });
    for _ in 0..5 {
        let mut client = client(&world);
        client.send(Command::Read, 0, 1 << 20);
        world.qmp.run("nbd-server-stop", json!({}));
        world
            .qmp
            .wait_for("BLOCK_EXPORT_DELETED", &json!({ "id": "e" }));
        assert!(!world.path("nbd").exists());
        world.qmp.run("blockdev-del", json!({ "node-name": "d" }));
        world
            .qmp
            .run("nbd-server-start", json!({ "addr": address }));
        world.add_disk("d", MIB, 0);
        add_export(&mut world, json!({}));
    }
}

#[test]
fn n04_a_client_that_reads_no_replies_does_not_hold_up_the_end_of_the_server() {
    let mut world = serving();
    let _silent = silent_client(&world);
    world.qmp.run("nbd-server-stop", json!({}));
    world
        .qmp
        .wait_for("BLOCK_EXPORT_DELETED", &json!({ "id": "e" }));
}

#[test]
fn n05_a_client_that_reads_no_replies_does_not_hold_up_quit() {
    let mut world = serving();
    let _silent = silent_client(&world);
    assert!(world.quit().success());
}

#[test]
fn a_client_that_reads_no_replies_takes_little_and_disturbs_nobody() {
    let mut world = serving();
    let mut other = client(&world);
    let before = world.memory_kib();
    let silent: Vec<_> = (0..8).map(|_| silent_client(&world)).collect();
    for at in 0..100 {
        assert_eq!(other.read(at * 4096, 1), Ok(b"d".to_vec()));
    }
    world.qmp.run("query-block-exports", json!({}));
    assert!(world.memory_kib() - before < 96 << 10);
    drop(silent);
}

#[test]
fn ten_thousand_connections_leave_nothing_behind() {
    let mut world = serving();
    let mut other = client(&world);
    let connect = || UnixStream::connect(world.path("nbd")).unwrap();
    (0..500).for_each(|_| drop(connect()));
    let before = world.memory_kib();
    for at in 0..10_000_u64 {
        drop(connect());
        if at % 1000 == 0 {
            assert_eq!(other.read(0, 1), Ok(b"d".to_vec()));
        }
    }
    eventually(|| {
        let statistics = world
            .qmp
            .run("x-longshore-query-export-statistics", json!({}));
        (statistics[0]["connections"] == 1).then_some(())
    });
    assert_eq!(other.read(0, 1), Ok(b"d".to_vec()));
    assert!(world.memory_kib() < before + (16 << 10));
}

#[test]
fn whoever_never_finishes_the_handshake_is_disconnected() {
    let mut world = World::start(&[
        "--nbd-server",
        "addr.type=unix,addr.path=@/nbd,handshake-max-seconds=1,max-connections=3",
    ]);
    world.add_disk("d", MIB, b'd');
    add_export(&mut world, json!({}));
    let connect = |_| UnixStream::connect(world.path("nbd")).unwrap();
    for mut half_open in (0..6).map(connect).collect::<Vec<_>>() {
        half_open
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let mut greeting = Vec::new();
        half_open.read_to_end(&mut greeting).unwrap();
    }
    assert_eq!(client(&world).read(0, 1), Ok(b"d".to_vec()));
}

#[test]
fn requests_that_cannot_be_are_refused_and_the_connection_goes_on() {
    let mut world = serving();
    let mut client = client(&world);
    let size = 4 << 20;
    for (offset, len) in [(size, 1), (size - 1, 2), (u64::MAX - 1, 2), (0, size + 1)] {
        assert_eq!(client.read(offset, len), Err(Errno::Inval));
    }
    assert_eq!(client.read(0, u64::from(u32::MAX)), Err(Errno::Inval));
    let request = client.send(Command::WriteZeroes, 0, u64::from(u32::MAX));
    assert_eq!(client.reply(&request), Err(Errno::NoSpc));
    assert_eq!(client.write(size - 1, b"xx"), Err(Errno::NoSpc));
    assert_eq!(client.read(0, 1), Ok(b"d".to_vec()));
    let statistics = world
        .qmp
        .run("x-longshore-query-export-statistics", json!({}));
    assert_eq!(statistics[0]["read-bytes"], 1);
}

#[test]
fn n14_an_export_for_reading_refuses_every_change_as_not_permitted() {
    let mut world = serving();
    add_export(
        &mut world,
        json!({ "id": "r", "name": "ro", "writable": false }),
    );
    let mut client = Nbd::connect(&world.path("nbd"), "ro", &[]).unwrap();
    assert_eq!(client.write(0, b"x"), Err(Errno::Perm));
    for command in [Command::Trim, Command::WriteZeroes] {
        let request = client.send(command, 0, 512);
        assert_eq!(client.reply(&request), Err(Errno::Perm));
    }
    assert_eq!(client.read(0, 1), Ok(b"d".to_vec()));
}

#[test]
fn a_shown_bitmap_tells_what_changed_and_is_busy_meanwhile() {
    let mut world = serving();
    let bitmap = json!({ "node": "d", "name": "b" });
    world.qmp.run("block-dirty-bitmap-add", bitmap.clone());
    let shown = |more: Value| {
        let mut all = json!({ "id": "b", "name": "with", "bitmaps": ["b"] });
        let Value::Object(more) = more else {
            unreachable!("members are given as an object")
        };
        all.as_object_mut().unwrap().extend(more);
        export(all)
    };
    let for_reading = shown(json!({ "writable": false }));
    let refused = world.qmp.refused("block-export-add", for_reading);
    assert_eq!(
        refused,
        "Enabled bitmap 'b' incompatible with readonly export"
    );
    let unknown = shown(json!({ "bitmaps": ["zz"] }));
    let unknown = world.qmp.refused("block-export-add", unknown);
    assert_eq!(unknown, "Bitmap 'zz' is not found");

    world.qmp.run(
        "block-export-add",
        shown(json!({ "bitmaps": ["b", bitmap] })),
    );
    let context = ["qemu:dirty-bitmap:b"];
    let mut client = Nbd::connect(&world.path("nbd"), "with", &context).unwrap();
    client.write(65536, b"x").unwrap();
    let request = client.send(Command::BlockStatus, 0, 4 << 20);
    let status = BlockStatus::decode(&client.reply(&request).unwrap()).unwrap();
    let told: Vec<_> = status
        .extents
        .iter()
        .map(|it| (it.len_bytes, it.flags))
        .collect();
    assert_eq!(told[..2], [(65536, 0), (65536, 1)]);

    let busy = world
        .qmp
        .refused("block-dirty-bitmap-remove", bitmap.clone());
    assert!(busy.contains("currently in use"), "{busy}");
    let by_force = json!({ "id": "b", "mode": "hard" });
    world.qmp.run("block-export-del", by_force);
    world
        .qmp
        .wait_for("BLOCK_EXPORT_DELETED", &json!({ "id": "b" }));
    world.qmp.run("block-dirty-bitmap-remove", bitmap);
}

#[test]
fn bad_exports_are_refused_in_the_words_of_the_protocol() {
    let mut world = serving();
    let long = "x".repeat(5000);
    for (more, want) in [
        (json!({}), "Block export id 'e' is already in use"),
        (
            json!({ "id": "f" }),
            "NBD server already has export named 'disk'",
        ),
        (json!({ "id": "1" }), "Invalid block export id"),
        (json!({ "id": "" }), "Invalid block export id"),
        (
            json!({ "id": "f", "node-name": "zz" }),
            "Cannot find device='' nor node-name='zz'",
        ),
        (
            json!({ "id": "f", "name": "f", "iothread": "zz" }),
            "iothread \"zz\" not found",
        ),
        (
            json!({ "type": "fuse" }),
            "Parameter 'type' does not accept value 'fuse'",
        ),
        (json!({ "zz": 1 }), "Parameter 'zz' is unexpected"),
        (
            json!({ "writable": 1 }),
            "Invalid parameter type for 'writable', expected: boolean",
        ),
        (
            json!({ "id": "f", "name": long }),
            &format!("export name '{long}' too long"),
        ),
        (
            json!({ "id": "f", "name": "f", "description": long }),
            &format!("description '{long}' too long"),
        ),
    ] {
        assert_eq!(world.qmp.refused("block-export-add", export(more)), want);
    }
    world.qmp.run("nbd-server-stop", json!({}));
    for (command, arguments) in [
        ("block-export-add", export(json!({ "id": "g" }))),
        ("nbd-server-stop", json!({})),
    ] {
        let refused = world.qmp.refused(command, arguments);
        assert_eq!(refused, "NBD server not running");
    }
}

#[test]
fn defect_06_an_iothread_serves_an_export_and_stays_until_that_is_gone() {
    let mut world = serving();
    let iothread = json!({ "qom-type": "iothread", "id": "t" });
    world.qmp.run("object-add", iothread);
    let more = json!({ "id": "t", "name": "there", "iothread": "t", "fixed-iothread": true });
    add_export(&mut world, more);
    let mut clients: Vec<_> = (0..4)
        .map(|_| Nbd::connect(&world.path("nbd"), "there", &[]).unwrap())
        .collect();
    for (at, client) in (0..).zip(&mut clients) {
        assert_eq!(client.write(at, b"x"), Ok(()));
        assert_eq!(client.read(0, at + 1).unwrap().last(), Some(&b'x'));
    }
    let id = json!({ "id": "t" });
    let refused = world.qmp.refused("object-del", id.clone());
    assert_eq!(refused, "object 't' is in use, can not be deleted");

    let by_force = json!({ "id": "t", "mode": "hard" });
    world.qmp.run("block-export-del", by_force);
    world.qmp.wait_for("BLOCK_EXPORT_DELETED", &id);
    assert!(clients.iter_mut().all(Nbd::is_cut));
    world.qmp.run("object-del", id);
}

#[test]
fn a_node_that_an_export_holds_stays_on_its_thread() {
    let mut world = serving();
    for id in ["t", "u"] {
        let iothread = json!({ "qom-type": "iothread", "id": id });
        world.qmp.run("object-add", iothread);
    }
    let on = |id: &str, iothread: &str, fixed: bool| {
        let place = json!({ "iothread": iothread, "fixed-iothread": fixed });
        let mut all = json!({ "id": id, "name": id });
        all.as_object_mut()
            .unwrap()
            .extend(place.as_object().unwrap().clone());
        export(all)
    };
    world.qmp.run("block-export-add", on("x", "t", true));
    let refused = "Cannot change iothread of active block backend";
    let move_node = json!({ "node-name": "d", "iothread": "u", "force": true });
    let moved = world
        .qmp
        .refused("x-blockdev-set-iothread", move_node.clone());
    assert!(moved.starts_with(refused), "{moved}");
    assert_eq!(
        world.qmp.refused("block-export-add", on("y", "u", true)),
        refused
    );
    world.qmp.run("block-export-add", on("z", "u", false));

    world.qmp.run("block-export-del", json!({ "id": "x" }));
    world.qmp.run("x-blockdev-set-iothread", move_node);
    assert_eq!(client(&world).read(0, 1), Ok(b"d".to_vec()));
}

#[test]
fn n01_an_export_below_a_running_mirror_is_refused() {
    let mut world = serving();
    world.add_disk("copy", 4 * MIB, 0);
    let mirror = json!({
        "job-id": "j", "device": "d", "target": "copy", "sync": "full", "speed": 1 << 10,
    });
    world.qmp.run("blockdev-mirror", mirror);
    let below = export(json!({ "id": "below", "name": "below" }));
    let refused = world.qmp.refused("block-export-add", below);
    assert!(
        refused.contains("Permission conflict on node 'd'"),
        "{refused}"
    );
    assert_eq!(client(&world).write(0, b"above"), Ok(()));
}

#[test]
fn n02_a_backup_of_a_node_that_an_iothread_serves_is_one() {
    let mut world = serving();
    let iothread = json!({ "qom-type": "iothread", "id": "t" });
    world.qmp.run("object-add", iothread);
    let more = json!({ "id": "t", "name": "there", "iothread": "t" });
    add_export(&mut world, more);
    let mut client = Nbd::connect(&world.path("nbd"), "there", &[]).unwrap();
    world.add_disk("copy", 4 * MIB, 0);
    let backup = json!({
        "job-id": "j", "device": "d", "target": "copy", "sync": "full", "speed": 1 << 20,
    });
    world.qmp.run("blockdev-backup", backup);
    assert_eq!(client.write(0, b"later"), Ok(()));
    let fast = json!({ "device": "j", "speed": 0 });
    world.qmp.run("block-job-set-speed", fast);
    let done = world
        .qmp
        .wait_for("BLOCK_JOB_COMPLETED", &json!({ "device": "j" }));
    assert_eq!(done["data"].get("error"), None);
    assert!(
        fs::read(world.path("copy"))
            .unwrap()
            .iter()
            .all(|&byte| byte == b'd')
    );
    assert_eq!(client.read(0, 5), Ok(b"later".to_vec()));
}

#[test]
fn other_hosts_are_let_in_only_where_that_is_asked_for() {
    let mut world = World::start(&[]);
    let everywhere = |more: bool| {
        let data = json!({ "host": "0.0.0.0", "port": "0" });
        let addr = json!({ "type": "inet", "data": data });
        json!({ "addr": addr, "x-longshore-allow-remote": more })
    };
    let refused = world.qmp.refused("nbd-server-start", everywhere(false));
    assert!(refused.contains("x-longshore-allow-remote"), "{refused}");
    world.qmp.run("nbd-server-start", everywhere(true));
    let twice = world.qmp.refused("nbd-server-start", everywhere(true));
    assert_eq!(twice, "NBD server already running");
}

#[test]
fn the_old_words_still_do() {
    let mut world = serving();
    let old = json!({ "device": "d", "name": "old", "writable": true });
    world.qmp.run("nbd-server-add", old);
    let mut client = Nbd::connect(&world.path("nbd"), "old", &[]).unwrap();
    assert_eq!(client.write(0, b"x"), Ok(()));
    let old = json!({ "name": "old" });
    let refused = world.qmp.refused("nbd-server-remove", old);
    assert_eq!(refused, "export 'old' still in use");
    let by_force = json!({ "name": "old", "mode": "hard" });
    world.qmp.run("nbd-server-remove", by_force);
    world
        .qmp
        .wait_for("BLOCK_EXPORT_DELETED", &json!({ "id": "old" }));
}

#[test]
fn the_socket_is_the_owners_alone_and_gone_at_the_end() {
    let mut world = serving();
    let mode = fs::metadata(world.path("nbd"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(world.quit().success());
    assert!(!world.path("nbd").exists());
}
