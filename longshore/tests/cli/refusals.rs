//! What a backup refuses: with the code of the contract and one sentence, before anything is touched.

use std::{fs::File, io::Write, os::unix::fs::symlink, process::Command};

use super::world::{Run, Snapshot, Tmpfs, World, noise, run, set_mode, skip, start, until};

const FAILED: i32 = 1;
const USAGE: i32 = 2;
const SPACE: i32 = 7;
const UNSUPPORTED: i32 = 8;
const DENIED: i32 = 9;
const LOCKED: i32 = 11;

/// A world with an image.
fn world() -> World {
    let world = World::new();
    world.random("a.img", 100_000);
    world
}

/// One sentence of `longshore: …`, at most advice behind it, nothing on standard output, nothing touched.
#[track_caller]
fn assert_refused(world: &World, before: &Snapshot, run: &Run, code: i32, word: &str) {
    assert_eq!(run.code, code, "{run:?}");
    assert_eq!(run.stdout, "");
    let mut lines = run.stderr.lines();
    let sentence = lines.next().unwrap_or_default();
    assert!(sentence.starts_with("longshore: "), "{run:?}");
    assert!(
        sentence.contains(word),
        "{sentence:?} does not say {word:?}"
    );
    assert!(!sentence.contains("os error"), "{sentence}");
    assert!(lines.all(|line| line.starts_with("  ")), "{run:?}");
    assert_eq!(*before, world.snapshot(), "something was touched");
}

#[track_caller]
fn refuses(world: &World, args: &[&str], code: i32, word: &str) -> Run {
    let before = world.snapshot();
    let run = world.run(args);
    assert_refused(world, &before, &run, code, word);
    run
}

#[test]
fn the_source_itself_is_no_target() {
    let args = ["backup", "a.img", "./a.img"];
    refuses(&world(), &args, USAGE, "is the source itself");
}

#[test]
fn a_hard_link_to_the_source_is_no_target() {
    let world = world();
    std::fs::hard_link(world.path("a.img"), world.path("b.img")).unwrap();
    let args = ["backup", "a.img", "b.img"];
    refuses(&world, &args, USAGE, "is the source itself");
}

#[test]
fn a_symbolic_link_to_the_source_is_no_target() {
    let world = world();
    symlink("a.img", world.path("b.img")).unwrap();
    refuses(
        &world,
        &["backup", "a.img", "b.img"],
        USAGE,
        "is the source itself",
    );
    refuses(
        &world,
        &["backup", "b.img", "a.img"],
        USAGE,
        "is the source itself",
    );
}

#[test]
fn a_source_that_would_be_the_unfinished_copy_is_refused() {
    let world = world();
    std::fs::rename(world.path("a.img"), world.path("a.partial")).unwrap();
    refuses(
        &world,
        &["backup", "a.partial", "a"],
        USAGE,
        "is in the way",
    );
}

#[test]
fn a_missing_source_is_refused() {
    let args = ["backup", "none.img", "b.img"];
    refuses(&world(), &args, FAILED, "no such file");
}

#[test]
fn a_folder_is_no_source() {
    let args = ["backup", ".", "b.img"];
    refuses(
        &world(),
        &args,
        USAGE,
        "neither a regular file nor a block device",
    );
}

#[test]
fn a_pipe_is_no_source_and_nobody_waits_for_it() {
    let world = world();
    nix::unistd::mkfifo(&world.path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let before = world.snapshot();
    let (run, _) = world.start(&["backup", "pipe", "b.img"]).wait();
    assert_refused(&world, &before, &run, USAGE, "neither a regular file");
}

#[test]
fn a_folder_is_no_target() {
    let args = ["backup", "a.img", "."];
    refuses(&world(), &args, USAGE, "is a folder");
}

#[test]
fn a_character_device_is_no_target() {
    let args = ["backup", "a.img", "/dev/null"];
    refuses(
        &world(),
        &args,
        USAGE,
        "neither a regular file nor a block device",
    );
}

#[test]
fn a_target_in_no_folder_is_refused() {
    let args = ["backup", "a.img", "none/b.img"];
    refuses(&world(), &args, FAILED, "the folder of the target");
}

#[test]
fn a_link_to_nothing_is_no_target() {
    let world = world();
    symlink("nothing", world.path("b.img")).unwrap();
    let args = ["backup", "a.img", "b.img"];
    refuses(&world, &args, USAGE, "a symbolic link to nothing");
}

#[test]
fn a_smaller_target_is_refused() {
    let world = world();
    world.random("b.img", 99_999);
    refuses(
        &world,
        &["backup", "a.img", "b.img"],
        USAGE,
        "smaller than the source",
    );
}

#[test]
fn a_read_only_target_is_refused() {
    let world = world();
    world.random("b.img", 100_000);
    set_mode(&world.path("b.img"), 0o444);
    refuses(&world, &["backup", "a.img", "b.img"], DENIED, "read-only");
}

#[test]
fn a_read_only_file_system_is_refused() {
    let world = world();
    let Some(_mounted) = Tmpfs::mount(&world.path("ro"), "size=1m,ro") else {
        return;
    };
    let args = ["backup", "a.img", "ro/b.img"];
    refuses(&world, &args, DENIED, "read-only file system");
}

#[test]
fn a_source_without_the_right_to_read_it_is_refused() {
    if super::world::is_root() {
        return skip("a user other than root");
    }
    let world = world();
    set_mode(&world.path("a.img"), 0);
    let run = world.run(&["backup", "a.img", "b.img"]);
    assert_eq!(run.code, DENIED, "{run:?}");
    assert!(!world.exists("b.img") && !world.exists("b.img.partial"));
}

#[test]
fn a_source_that_somebody_has_open_for_writing_is_refused_with_the_rule() {
    let world = world();
    let writer = File::options()
        .append(true)
        .open(world.path("a.img"))
        .unwrap();
    let run = refuses(
        &world,
        &["backup", "a.img", "b.img"],
        LOCKED,
        "open for writing",
    );
    for word in [
        "at one instant only if nobody writes",
        "--offline",
        "longshore export",
    ] {
        assert!(run.stderr.contains(word), "{}", run.stderr);
    }
    drop(writer);
    world.run_ok(&["backup", "a.img", "b.img"]);
}

#[test]
fn the_user_may_assert_that_nobody_writes() {
    let world = world();
    let _writer = File::options()
        .append(true)
        .open(world.path("a.img"))
        .unwrap();
    world.run_ok(&["backup", "--offline", "a.img", "b.img"]);
    assert_eq!(world.read("a.img"), world.read("b.img"));
}

#[test]
fn an_assertion_does_not_stand_against_what_happens() {
    let world = World::new();
    world.random("a.img", 4 << 20);
    let mut writer = File::options()
        .append(true)
        .open(world.path("a.img"))
        .unwrap();
    let args = [
        "backup",
        "--offline",
        "--json",
        "--limit",
        "2M",
        "a.img",
        "b.img",
    ];
    let mut running = world.start(&args);
    running.read_until("progress");
    writer.write_all(b"changed").unwrap();
    let (run, _) = running.wait();
    assert_eq!(run.code, FAILED, "{run:?}");
    assert!(
        run.stderr.contains("was changed during the backup"),
        "{run:?}"
    );
    assert!(!world.exists("b.img") && !world.exists("b.img.partial"));
}

#[test]
fn a_source_that_another_process_has_locked_for_writing_is_refused_even_offline() {
    let world = world();
    let mut export = world.start(&["export", "--writable", "a.img"]);
    export.read_until("nbd+unix");
    refuses(&world, &["backup", "a.img", "b.img"], LOCKED, "in use");
    refuses(
        &world,
        &["backup", "--offline", "a.img", "b.img"],
        LOCKED,
        "locked",
    );
}

#[test]
fn a_source_that_others_only_read_is_no_matter() {
    let world = world();
    let mut export = world.start(&["export", "a.img"]);
    export.read_until("nbd+unix");
    world.run_ok(&["backup", "a.img", "b.img"]);
}

#[test]
fn a_target_that_another_process_uses_is_refused() {
    let world = world();
    world.random("b.img", 100_000);
    let mut export = world.start(&["export", "--writable", "b.img"]);
    export.read_until("nbd+unix");
    refuses(&world, &["backup", "a.img", "b.img"], LOCKED, "in use");
}

#[test]
fn a_second_backup_to_the_same_target_is_refused_and_the_first_goes_on() {
    let world = World::new();
    world.random("a.img", 4 << 20);
    let mut first = world.start(&["backup", "--json", "--limit", "2M", "a.img", "b.img"]);
    first.read_until("progress");
    let second = world.run(&["backup", "a.img", "b.img"]);
    assert_eq!(second.code, LOCKED, "{second:?}");
    assert!(second.stderr.contains("under way"), "{second:?}");
    let (run, _) = first.wait();
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(world.read("a.img"), world.read("b.img"));
}

#[test]
fn a_target_without_room_is_refused_before_anything_is_made() {
    let world = World::new();
    world.random("a.img", 4 << 20);
    let Some(_mounted) = Tmpfs::mount(&world.path("small"), "size=2m") else {
        return;
    };
    refuses(
        &world,
        &["backup", "a.img", "small/b.img"],
        SPACE,
        "no room",
    );
    assert_eq!(std::fs::read_dir(world.path("small")).unwrap().count(), 0);
}

#[test]
fn holes_need_no_room() {
    let world = World::new();
    world.sparse("a.img", 64 << 20, &[1 << 20]);
    let Some(_mounted) = Tmpfs::mount(&world.path("small"), "size=2m") else {
        return;
    };
    world.run_ok(&["backup", "a.img", "small/b.img"]);
}

#[test]
fn room_that_goes_during_the_run_leaves_the_old_target() {
    let world = World::new();
    world.random("a.img", 5 << 20);
    let Some(_mounted) = Tmpfs::mount(&world.path("small"), "size=8m") else {
        return;
    };
    let args = ["backup", "--json", "--limit", "3M", "a.img", "small/b.img"];
    let mut running = world.start(&args);
    running.read_until("progress");
    // Not all of it may find room, which is the point.
    drop(std::fs::write(world.path("small/filler"), noise(5 << 20)));
    let (run, _) = running.wait();
    assert_eq!(run.code, SPACE, "{run:?}");
    assert!(run.stderr.contains("no space left"), "{run:?}");
    assert!(run.stderr.contains("run the same command again"), "{run:?}");
    assert!(!world.exists("small/b.img") && !world.exists("small/b.img.partial"));
}

#[test]
fn a_source_that_shrinks_fails_the_backup() {
    let world = World::new();
    world.random("a.img", 8 << 20);
    let mut running = world.start(&["backup", "--json", "--limit", "2M", "a.img", "b.img"]);
    running.read_until("progress");
    let file = File::options()
        .write(true)
        .open(world.path("a.img"))
        .unwrap();
    file.set_len(1 << 20).unwrap();
    let (run, _) = running.wait();
    assert_eq!(run.code, FAILED, "{run:?}");
    assert!(!world.exists("b.img") && !world.exists("b.img.partial"));
}

#[test]
fn addresses_and_pipes_are_refused_plainly() {
    for target in ["s3://localhost/x", "-"] {
        let args = ["backup", "a.img", target];
        refuses(&world(), &args, UNSUPPORTED, "is no file");
    }
    let args = ["backup", "a.img", "nbds://localhost/x"];
    refuses(&world(), &args, USAGE, "TLS is not supported");
}

#[test]
fn a_command_line_that_makes_no_sense_is_refused() {
    for args in [
        &["backup", "a.img"][..],
        &["backup", "--limit", "fast", "a.img", "b.img"],
        &["backup", "--limit", "0", "a.img", "b.img"],
        &["backup", "--frobnicate", "a.img", "b.img"],
        &["frobnicate"],
    ] {
        refuses(&world(), args, USAGE, "");
    }
}

#[test]
fn what_is_in_the_way_of_the_unfinished_copy_is_left_alone() {
    let world = world();
    std::fs::create_dir(world.path("b.img.partial")).unwrap();
    refuses(
        &world,
        &["backup", "a.img", "b.img"],
        USAGE,
        "is in the way",
    );
}

#[test]
fn a_wrong_backend_is_named() {
    let world = world();
    let before = world.snapshot();
    let mut command = world.command(&["backup", "a.img", "b.img"]);
    let run = run(command.env("LONGSHORE_AIO", "kqueue"));
    assert_refused(
        &world,
        &before,
        &run,
        UNSUPPORTED,
        "LONGSHORE_AIO is 'kqueue'",
    );
}

/// QEMU's own locks and ours must see each other.
#[test]
fn an_image_that_qemu_writes_to_is_refused() {
    if !super::world::is_installed("qemu-io") {
        return skip("qemu-io (Debian package qemu-utils)");
    }
    let world = world();
    let mut qemu = Command::new("qemu-io");
    qemu.args(["-f", "raw", "-c", "sleep 20000"])
        .arg(world.path("a.img"));
    let _qemu = start(&mut qemu);
    until(|| {
        world
            .run(&["info", "a.img"])
            .stdout
            .contains("consistent-read, write")
    });
    refuses(
        &world,
        &["backup", "--offline", "a.img", "b.img"],
        LOCKED,
        "locked",
    );
}
