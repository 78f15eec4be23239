//! `longshore demo`, on both backends, small.

use std::fs;

use nix::sys::signal::Signal;

use super::world::{Run, World, run};

/// A demonstration whose folder is in the world.
fn demo(world: &World, backend: &str, args: &[&str]) -> Run {
    let mut command = world.command(&["demo", "--size", "48M"]);
    command.args(args).env("TMPDIR", world.folder());
    run(command.env("LONGSHORE_AIO", backend))
}

fn check(backend: &str) {
    let world = World::new();
    let ran = demo(&world, backend, &["--seconds", "0", "--guest-latency", "2"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    for word in [
        "1/4",
        "2/4",
        "3/4",
        "4/4",
        "ok   copy.img",
        "ok   disk.img",
        "writes/s",
        backend,
    ] {
        assert!(ran.stdout.contains(word), "{word}: {ran:?}");
    }
    assert_eq!(fs::read_dir(world.folder()).unwrap().count(), 0);
}

#[test]
fn the_copy_is_proven_with_worker_threads() {
    check("epoll");
}

#[test]
fn the_copy_is_proven_with_a_ring() {
    if aio::probe_io_uring().is_err() {
        return super::world::skip("io_uring");
    }
    check("io_uring");
}

#[test]
fn records_have_one_result_with_the_checksum() {
    let world = World::new();
    let result = demo(&world, "", &["--json"]).result();
    assert_eq!(result["ok"], true, "{result}");
    assert_eq!(result["verified"], "proven");
    assert!(result["checksum"].as_str().unwrap().starts_with("blake3:"));
    assert!(result["writes_before"].as_u64().unwrap() > 0);
}

#[test]
fn a_kept_copy_has_the_checksum_that_was_told() {
    let world = World::new();
    let result = demo(&world, "", &["--json", "--keep"]).result();
    let folder = fs::read_dir(world.folder())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    for (name, told) in [("copy.img", "checksum"), ("disk.img", "live_checksum")] {
        let digits = blake3::hash(&fs::read(folder.join(name)).unwrap()).to_hex();
        assert_eq!(result[told], format!("blake3:{digits}"), "{name}");
    }
}

#[test]
fn a_killed_backup_passes_for_nothing() {
    let world = World::new();
    let ran = demo(&world, "", &["--kill"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.contains("ok   there is no copy.img"), "{ran:?}");
    assert!(
        ran.stdout.contains("ok   copy.img equals disk.img"),
        "{ran:?}"
    );
    assert_eq!(fs::read_dir(world.folder()).unwrap().count(), 0);
}

#[test]
fn a_signal_ends_it_and_nothing_is_left() {
    let world = World::new();
    let mut command = world.command(&["demo", "--size", "48M", "--seconds", "60"]);
    let mut running = super::world::start(command.env("TMPDIR", world.folder()));
    running.read_until("2/4");
    running.signal(Signal::SIGINT);
    let (ran, _) = running.wait();
    assert_eq!(ran.code, 130, "{ran:?}");
    assert_eq!(fs::read_dir(world.folder()).unwrap().count(), 0);
}
