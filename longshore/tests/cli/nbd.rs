//! Exports of NBD servers in the place of images.

use nix::sys::signal::Signal;

use super::world::{Running, World};

const MIB: usize = 1 << 20;
const USAGE: i32 = 2;
const UNSUPPORTED: i32 = 8;
const DENIED: i32 = 9;

/// An image, and room for a copy of it at a server of ours.
struct Served {
    uri: String,
    server: Running,
    /// Last, because it is the server's folder.
    world: World,
}

impl Served {
    fn new(room: usize, writable: &[&str]) -> Self {
        let world = World::new();
        world.random("a.img", 3 * MIB + 512);
        std::fs::write(world.path("far.img"), vec![0x55; room]).unwrap();
        let uri = format!(
            "nbd+unix:///disk?socket={}",
            world.path("nbd.sock").display()
        );
        let args = [&["export", "--nbd", &uri, "far.img"], writable].concat();
        let mut server = world.start(&args);
        server.read_until("nbd+unix");
        Self { uri, server, world }
    }
}

#[test]
fn a_backup_goes_to_an_export_and_from_there_to_a_file() {
    let Served { world, uri, server } = Served::new(4 * MIB, &["--writable"]);
    let there = world.run(&["backup", "--verify", "read", "a.img", &uri]);
    assert_eq!(there.code, 0, "{there:?}");
    let verified = world.run(&["verify", &uri, "--against", "a.img"]);
    assert_eq!(verified.code, 0, "{verified:?}");

    let refused = world.run(&["backup", &uri, "b.img"]);
    assert_eq!(refused.code, UNSUPPORTED, "{refused:?}");
    assert!(refused.stderr.contains("--offline"), "{refused:?}");
    let back = world.run(&["backup", "--offline", &uri, "b.img"]);
    assert_eq!(back.code, 0, "{back:?}");
    server.signal(Signal::SIGTERM);
    server.wait();

    let (source, far, copy) = (
        world.read("a.img"),
        world.read("far.img"),
        world.read("b.img"),
    );
    assert!(far[..source.len()] == source);
    assert!(far[source.len()..].iter().all(|byte| *byte == 0x55));
    assert!(copy == far);
}

#[test]
fn an_export_that_a_backup_did_not_complete_bears_the_marker() {
    let Served {
        world,
        uri,
        server: _server,
    } = Served::new(4 * MIB, &["--writable"]);
    let args = ["backup", "--json", "--limit", "1M", "a.img", &uri];
    let mut running = world.start(&args);
    running.read_until("progress");
    running.signal(Signal::SIGTERM);
    let (run, _) = running.wait();
    assert_ne!(run.code, 0, "{run:?}");
    assert!(run.stderr.contains("marked as incomplete"), "{run:?}");
    let marker = b"longshore: incomplete backup";
    assert!(world.read("far.img").starts_with(marker));

    let again = world.run(&["backup", "a.img", &uri]);
    assert_eq!(again.code, 0, "{again:?}");
    let source = world.read("a.img");
    assert!(world.read("far.img")[..source.len()] == source);
}

#[test]
fn an_export_that_cannot_take_the_copy_is_refused() {
    for (room, writable, code, why) in [
        (
            MIB,
            &["--writable"][..],
            USAGE,
            "is smaller than the source",
        ),
        (4 * MIB, &[], DENIED, "is read-only"),
    ] {
        let Served {
            world,
            uri,
            server: _server,
        } = Served::new(room, writable);
        let run = world.run(&["backup", "a.img", &uri]);
        assert_eq!(run.code, code, "{run:?}");
        assert!(run.stderr.contains(why), "{run:?}");
        assert!(world.read("far.img").iter().all(|byte| *byte == 0x55));
    }
}

#[test]
fn a_server_that_is_not_there_is_told_plainly() {
    let world = World::new();
    world.random("a.img", MIB);
    let uri = format!("nbd+unix:///x?socket={}", world.path("none.sock").display());
    let run = world.run(&["backup", "a.img", &uri]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stderr.contains("cannot connect to"), "{run:?}");
    let run = world.run(&["backup", "a.img", "nbd://localhost:x/"]);
    assert_eq!(run.code, USAGE, "{run:?}");
}
