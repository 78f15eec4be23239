//! NBD clients that mean harm, or have lost their minds: others are served, and memory is bounded.

use std::{io::Write, os::unix::net::UnixStream};

use nbd::{Command, Errno};
use serde_json::json;

use crate::{
    nbd_client::Nbd,
    world::{World, eventually},
};

/// What a daemon may take beyond what it had.
const GROWTH_KIB_MAX: u64 = 48 << 10;

const DISK_BYTES: u64 = 1 << 40;

/// The largest number that a request has room for.
const LONGEST: u64 = (1 << 32) - 1;

/// What a client says first; the option's data never come.
const BEGINNING: &[u8] = b"\0\0\0\x03IHAVEOPT\0\0\0\x07\0\0\x10\0name";

/// A daemon that serves a disk to fifty clients at most, who may take as long as they like.
fn serving() -> World {
    World::start(&[
        "--blockdev",
        "null-co,node-name=n,size=1099511627776,read-zeroes=on",
        "--nbd-server",
        "addr.type=unix,addr.path=@/nbd,handshake-max-seconds=0,max-connections=50",
        "--export",
        "nbd,id=e,node-name=n,name=disk,writable=on",
    ])
}

fn client(world: &World) -> Nbd {
    Nbd::connect(&world.path("nbd"), "disk", &[]).unwrap()
}

/// Checks that a client and a monitor are served, and that memory has not grown much.
fn check(world: &mut World, good: &mut Nbd, before_kib: u64) {
    for at in 0..20 {
        assert_eq!(good.read(at * 4096, 3), Ok(vec![0; 3]));
        assert_eq!(good.write(at * 4096, b"abc"), Ok(()));
        world.qmp.run("query-block-exports", json!({}));
    }
    let grown = world.memory_kib().saturating_sub(before_kib);
    assert!(grown < GROWTH_KIB_MAX, "{grown} KiB more than before");
}

#[test]
fn half_open_handshakes_beyond_the_limit_hold_up_nobody_who_is_served() {
    let mut world = serving();
    let mut good = client(&world);
    let before_kib = world.memory_kib();
    let half_open = |at: usize| {
        let mut socket = UnixStream::connect(world.path("nbd")).unwrap();
        let said = &BEGINNING[..at % BEGINNING.len()];
        socket.write_all(said).unwrap();
        socket
    };
    let crowd: Vec<UnixStream> = (0..300).map(half_open).collect();
    check(&mut world, &mut good, before_kib);
    drop(crowd);
    // There is room for others again.
    let mut late: Vec<Nbd> = (0..40).map(|_| client(&world)).collect();
    for client in &mut late {
        assert_eq!(client.read(0, 3), Ok(vec![0; 3]));
    }
    check(&mut world, &mut good, before_kib);
}

#[test]
fn requests_of_nearly_four_gibibytes_take_no_memory() {
    let mut world = serving();
    let mut good = client(&world);
    let before_kib = world.memory_kib();
    let piece = vec![7; 1 << 20];
    let crowd: Vec<Nbd> = (0..20_u64)
        .map(|at| {
            let mut bad = client(&world);
            assert_eq!(bad.read(at, LONGEST), Err(Errno::Inval));
            assert_eq!(bad.read(DISK_BYTES - at, LONGEST), Err(Errno::Inval));
            for command in [Command::WriteZeroes, Command::Trim] {
                let request = bad.send(command, at << 32, LONGEST);
                assert!(bad.reply(&request).is_ok());
                let past_the_end = bad.send(command, DISK_BYTES - at, LONGEST);
                assert!(bad.reply(&past_the_end).is_err());
            }
            // The data begin to come, and never end.
            bad.send(Command::Write, at << 32, LONGEST);
            for _ in 0..4 {
                bad.send_data(&piece);
            }
            bad
        })
        .collect();
    check(&mut world, &mut good, before_kib);
    drop(crowd);
    eventually(|| {
        let statistics = world
            .qmp
            .run("x-longshore-query-export-statistics", json!({}));
        (statistics[0]["connections"] == 1).then_some(())
    });
    check(&mut world, &mut good, before_kib);
}
