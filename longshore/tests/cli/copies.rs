//! Copies that succeed: the same bytes, the same holes, and nothing else left behind.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    time::{Duration, Instant},
};

use super::world::{World, run, set_mode, skip};

fn backends() -> Vec<&'static str> {
    let mut backends = vec!["epoll"];
    if aio::probe_io_uring().is_ok() {
        backends.push("io_uring");
    }
    backends
}

/// Bytes of storage that a file takes.
fn taken_bytes(world: &World, name: &str) -> u64 {
    fs::metadata(world.path(name)).unwrap().blocks() * 512
}

#[test]
fn every_length_is_copied_on_both_backends_with_and_without_direct_io() {
    let world = World::new();
    for len in [0, 1, 511, 512, 4096, 4097, 65_536, 65_537, (1 << 20) + 513] {
        let bytes = world.random("a.img", len);
        for (backend, direct) in backends().iter().flat_map(|it| [(it, "auto"), (it, "off")]) {
            let mut command =
                world.command(&["backup", "-q", "--direct", direct, "a.img", "b.img"]);
            let ran = run(command.env("LONGSHORE_AIO", backend));
            assert_eq!(ran.code, 0, "{len} bytes, {backend}, {direct}: {ran:?}");
            assert!(
                world.read("b.img") == bytes,
                "{len} bytes, {backend}, {direct}"
            );
            assert_eq!(ran.stdout + &ran.stderr, "");
            fs::remove_file(world.path("b.img")).unwrap();
        }
    }
    assert_eq!(fs::read_dir(world.folder()).unwrap().count(), 1);
}

#[test]
fn holes_stay_holes() {
    let world = World::new();
    world.sparse("a.img", (256 << 20) + 77, &[0, 5 << 20, 255 << 20]);
    let run = world.run_ok(&["backup", "--json", "a.img", "b.img"]);
    assert!(world.read("a.img") == world.read("b.img"));
    let (has, wants) = (taken_bytes(&world, "b.img"), taken_bytes(&world, "a.img"));
    assert!(
        has.abs_diff(wants) * 100 <= wants,
        "{has} bytes instead of {wants}"
    );
    let skipped = run.result()["bytes_skipped"].as_u64().unwrap();
    assert!(skipped > 255 << 20, "{skipped}");
}

#[test]
fn a_terabyte_of_holes_takes_no_time_and_no_room() {
    let world = World::new();
    world.sparse("a.img", 1 << 40, &[]);
    let started = Instant::now();
    world.run_ok(&["backup", "a.img", "b.img"]);
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(fs::metadata(world.path("b.img")).unwrap().len(), 1 << 40);
    assert!(taken_bytes(&world, "b.img") < 1 << 20);
    world.run_ok(&["verify", "--no-checksum", "b.img", "--against", "a.img"]);
}

#[test]
fn an_aligned_image_is_copied_without_a_second_buffer() {
    let world = World::new();
    world.random("a.img", 8 << 20);
    let doctor = world.run_ok(&["doctor", "--json", "a.img"]).result();
    if doctor["direct_io"].is_null() {
        return skip("O_DIRECT in the folder for temporary files");
    }
    let result = world
        .run_ok(&["backup", "--json", "a.img", "b.img"])
        .result();
    assert_eq!(result["bytes_bounced"], 0);
    assert_eq!(result["bytes_buffered"], 0);
    let moved = [&result["bytes_direct"], &result["bytes_offloaded"]];
    let moved: Option<u64> = moved.into_iter().map(serde_json::Value::as_u64).sum();
    assert_eq!(moved, Some(8 << 20));
}

#[test]
fn an_old_copy_is_replaced_and_lends_its_mode() {
    let world = World::new();
    let bytes = world.random("a.img", 70_001);
    world.random("b.img", 99_999);
    set_mode(&world.path("b.img"), 0o640);
    let old = fs::metadata(world.path("b.img")).unwrap();
    world.run_ok(&["backup", "a.img", "b.img"]);
    let new = fs::metadata(world.path("b.img")).unwrap();
    assert!(world.read("b.img") == bytes);
    assert_ne!(new.ino(), old.ino());
    assert_eq!(new.permissions().mode() & 0o7777, 0o640);
}

#[test]
fn a_copy_is_no_more_public_than_its_image() {
    let world = World::new();
    world.random("a.img", 5000);
    set_mode(&world.path("a.img"), 0o600);
    world.run_ok(&["backup", "a.img", "b.img"]);
    let mode = fs::metadata(world.path("b.img"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o600);
}

#[test]
fn a_verified_copy_says_so_and_another_does_not() {
    let world = World::new();
    world.random("a.img", 100_000);
    let run = world.run_ok(&["backup", "--verify", "read", "a.img", "b.img"]);
    assert!(run.stderr.contains("verified  yes"), "{run:?}");
    let run = world.run_ok(&["backup", "a.img", "b.img"]);
    assert!(run.stderr.contains("verified  no"), "{run:?}");
}

#[test]
fn the_last_words_are_bytes_by_class_time_target_and_what_next() {
    let world = World::new();
    world.random("a.img", 1 << 20);
    let run = world.run_ok(&["backup", "a.img", "b.img"]);
    assert_eq!(run.stdout, "");
    for word in [
        "direct",
        "buffered",
        "bounced",
        "zero",
        "holes skipped",
        "1.00 MiB",
        "average",
        "target    b.img",
        "next      longshore verify 'b.img' --against 'a.img'",
    ] {
        assert!(run.stderr.contains(word), "{word}: {}", run.stderr);
    }
}

#[test]
fn a_copy_is_verified_and_its_first_wrong_byte_is_told() {
    let world = World::new();
    let bytes = world.random("a.img", 300_001);
    world.run_ok(&["backup", "a.img", "b.img"]);
    let run = world.run_ok(&["verify", "b.img", "--against", "a.img"]);
    let digits = blake3::hash(&bytes).to_hex();
    assert!(run.stdout.contains(&format!("blake3 {digits}")), "{run:?}");

    let mut wrong = bytes;
    wrong[123_456] ^= 1;
    wrong[200_000] ^= 1;
    fs::write(world.path("b.img"), &wrong).unwrap();
    let run = world.run(&["verify", "b.img", "--against", "a.img"]);
    assert_eq!(run.code, 5, "{run:?}");
    assert!(run.stderr.contains("first at byte 123456"), "{run:?}");

    fs::write(world.path("b.img"), &wrong[..300_000]).unwrap();
    let run = world.run(&["verify", "b.img", "--against", "a.img"]);
    assert_eq!(run.code, 5, "{run:?}");
    assert!(run.stderr.contains("differ in length"), "{run:?}");
}

#[test]
fn info_is_shaped_like_that_of_qemu() {
    let world = World::new();
    world.sparse("a.img", 10 << 20, &[0]);
    let info = world.run_ok(&["info", "--json", "a.img"]).result();
    assert_eq!(info["filename"], "a.img");
    assert_eq!(info["format"], "raw");
    assert_eq!(info["virtual-size"], 10 << 20);
    assert_eq!(info["actual-size"], taken_bytes(&world, "a.img"));
    assert_eq!(info["dirty-flag"], false);
    assert_eq!(info["incomplete"], false);
    let text = world.run_ok(&["info", "a.img"]).stdout;
    assert!(
        text.contains("virtual size: 10.0 MiB (10485760 bytes)"),
        "{text}"
    );
}
