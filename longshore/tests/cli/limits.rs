//! Machines that give little: few descriptors, no locked memory, no `io_uring`.

use std::process::Command;

use super::world::{Run, World, is_installed, run, skip};

/// Runs a backup under `tool`, which takes `args` before the command.
fn backup_under(world: &World, tool: &str, args: &[&str]) -> Run {
    let mut command = Command::new(tool);
    command
        .args(args)
        .arg(env!("CARGO_BIN_EXE_longshore"))
        .args(["backup", "a.img", "b.img"])
        .current_dir(world.folder());
    run(&mut command)
}

fn world() -> World {
    let world = World::new();
    world.random("a.img", 3 << 20);
    world
}

const PRLIMIT: &str = "prlimit (Debian package util-linux)";

#[test]
fn scarce_descriptors_suffice_or_are_named() {
    if !is_installed("prlimit") {
        return skip(PRLIMIT);
    }
    let world = world();
    for count in 4..40 {
        let run = backup_under(&world, "prlimit", &[&format!("--nofile={count}")]);
        assert!(!world.exists("b.img.partial"), "{count}: {run:?}");
        if run.code == 0 {
            assert!(world.read("a.img") == world.read("b.img"));
            std::fs::remove_file(world.path("b.img")).unwrap();
        } else {
            assert!(!world.exists("b.img"), "{count}: {run:?}");
            assert!(!run.stderr.contains("panicked"), "{count}: {run:?}");
            assert!(
                run.stderr.contains("too many open files")
                    || run.stderr.contains("Too many open files"),
                "{count}: {run:?}"
            );
            assert!(run.stderr.contains("ulimit -n"), "{count}: {run:?}");
        }
    }
    let enough = backup_under(&world, "prlimit", &["--nofile=40"]);
    assert_eq!(enough.code, 0, "{enough:?}");
}

#[test]
fn no_locked_memory_is_no_matter() {
    if !is_installed("prlimit") {
        return skip(PRLIMIT);
    }
    let world = world();
    let run = backup_under(&world, "prlimit", &["--memlock=0"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(world.read("a.img") == world.read("b.img"));
}

/// A filter that fails the three system calls of `io_uring` with EPERM, as containers have it.
const FILTER: &str = r#"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
load = struct.pack('HBBI', 0x20, 0, 0, 0)
jumps = b''.join(struct.pack('HBBI', 0x15, 3 - n, 0, 425 + n) for n in range(3))
ends = struct.pack('HBBI', 6, 0, 0, 0x7fff0000) + struct.pack('HBBI', 6, 0, 0, 0x00050001)
code = load + jumps + ends
# Each jump reaches the last instruction: three, two, one ahead.
buffer = ctypes.create_string_buffer(code)
program = struct.pack('HxxxxxxQ', len(code) // 8, ctypes.addressof(buffer))
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, program, 0, 0):
    sys.exit('no filter')
os.execv(sys.argv[1], sys.argv[1:])
"#;

#[test]
fn without_io_uring_it_falls_back_and_doctor_says_why() {
    if !is_installed("python3") {
        return skip("python3");
    }
    let world = world();
    let run_it = backup_under(&world, "python3", &["-c", FILTER]);
    assert_eq!(run_it.code, 0, "{run_it:?}");
    assert!(world.read("a.img") == world.read("b.img"));

    let mut doctor = Command::new("python3");
    doctor.args([
        "-c",
        FILTER,
        env!("CARGO_BIN_EXE_longshore"),
        "doctor",
        "--json",
    ]);
    let told = run(doctor.current_dir(world.folder())).result();
    assert_eq!(told["io_uring"]["available"], false, "{told}");
    assert!(told["io_uring"]["why"].is_string());
    assert_eq!(told["engine"]["backend"], "epoll");
    assert_eq!(told["restrictions"]["seccomp"], true);
}

#[test]
fn io_uring_that_was_asked_for_and_is_not_there_is_an_error_that_says_so() {
    if !is_installed("python3") {
        return skip("python3");
    }
    let world = world();
    let mut command = Command::new("python3");
    command.args([
        "-c",
        FILTER,
        env!("CARGO_BIN_EXE_longshore"),
        "backup",
        "a.img",
        "b.img",
    ]);
    command.env("LONGSHORE_AIO", "io_uring");
    let run = run(command.current_dir(world.folder()));
    assert_eq!(run.code, 8, "{run:?}");
    assert!(run.stderr.contains("io_uring"), "{run:?}");
    assert!(!world.exists("b.img") && !world.exists("b.img.partial"));
}

#[test]
fn doctor_says_what_there_is() {
    let world = World::new();
    let text = world.run_ok(&["doctor"]).stdout;
    for name in [
        "kernel",
        "io_uring",
        "engine",
        "locked memory",
        "open files",
        "huge pages",
        "direct I/O",
        "restrictions",
    ] {
        assert!(
            text.lines().any(|line| line.starts_with(name)),
            "{name}: {text}"
        );
    }
}
