//! `longshore export`: an address, a command beside it, an end.

use std::os::unix::net::UnixStream;

use nix::sys::signal::Signal;

use super::world::{World, is_installed, skip};

fn world() -> World {
    let world = World::new();
    world.random("a.img", 1 << 20);
    world
}

#[test]
fn a_command_gets_the_address_and_its_exit_status_is_ours() {
    let world = world();
    let run = world.run(&["export", "--run", "echo \"at $uri\"; exit 3", "a.img"]);
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.stdout.starts_with("at nbd+unix:///?socket="), "{run:?}");
    let killed = world.run(&["export", "--json", "--run", "kill -9 $$", "a.img"]);
    assert_eq!(killed.code, 137, "{killed:?}");
    assert_eq!(killed.result()["command_exit_code"], 137);
}

#[test]
fn it_serves_until_a_signal_and_takes_its_socket_away() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let world = world();
        let socket = world.path("nbd.sock");
        let uri = format!("nbd+unix:///disk?socket={}", socket.display());
        let mut running = world.start(&["export", "--nbd", &uri, "a.img"]);
        assert_eq!(running.read_until("nbd+unix").trim(), uri);
        UnixStream::connect(&socket).unwrap();
        running.signal(signal);
        let (run, _) = running.wait();
        assert_eq!(run.code, 0, "{run:?}");
        assert!(!socket.exists());
    }
}

#[test]
fn tools_of_others_read_it() {
    if !is_installed("nbdinfo") {
        return skip("nbdinfo (Debian package libnbd-bin)");
    }
    let world = world();
    let run = world.run(&[
        "export",
        "--name",
        "x",
        "--run",
        "nbdinfo --size \"$uri\"",
        "a.img",
    ]);
    assert_eq!((run.code, run.stdout.trim()), (0, "1048576"), "{run:?}");
}

#[test]
fn only_a_writable_export_can_be_written_to() {
    if !is_installed("qemu-io") {
        return skip("qemu-io (Debian package qemu-utils)");
    }
    let world = world();
    let write = "qemu-io -f raw -c 'write -P 7 0 4096' \"$uri\"";
    let before = world.read("a.img");
    let refused = world.run(&["export", "--run", write, "a.img"]);
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(world.read("a.img") == before);
    let written = world.run(&["export", "--writable", "--run", write, "a.img"]);
    assert_eq!(written.code, 0, "{written:?}");
    assert!(world.read("a.img")[..4096].iter().all(|byte| *byte == 7));
}

#[test]
fn what_cannot_be_served_is_refused() {
    let world = world();
    for (args, code) in [
        (&["export", "--nbd", "x", "a.img"][..], 2),
        (&["export", "--nbd", "nbd://0.0.0.0:0/x", "a.img"], 9),
        (&["export", "--writable", "--read-only", "a.img"], 2),
        (&["export", "none.img"], 1),
        (&["export", "."], 2),
    ] {
        let run = world.run(args);
        assert_eq!(run.code, code, "{args:?}: {run:?}");
        assert!(run.stderr.starts_with("longshore: "), "{run:?}");
    }
}

#[test]
fn two_writers_are_one_too_many() {
    let world = world();
    let mut first = world.start(&["export", "--writable", "a.img"]);
    first.read_until("nbd+unix");
    let second = world.run(&["export", "--writable", "a.img", "--run", "true"]);
    assert_eq!(second.code, 11, "{second:?}");
}
