//! What killed, hung or lied in the reference, seen by clients of ours: faults of connections.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    bare::{Daemon, PATIENCE, World, until},
    nbd_client::Nbd,
};

/// How often the daemon is started. In the reference, one start of eight went wrong.
const STARTS: usize = 25;

/// Descriptors of a daemon that has few.
const DESCRIPTORS: usize = 64;

#[test]
fn n08_who_connects_while_the_daemon_starts_is_greeted_once_and_answered() {
    for _ in 0..STARTS {
        let world = World::new();
        let nodes = (0..8).map(|number| format!("null-co,node-name=n{number},size=65536"));
        let nodes: Vec<String> = nodes.collect();
        let options: Vec<&str> = nodes.iter().flat_map(|it| ["--blockdev", it]).collect();
        let daemon = world.start(&options);
        let mut client = first_connection(&world.path("qmp"));
        let commands = ["qmp_capabilities", "query-version", "quit"];
        for (id, command) in commands.iter().enumerate() {
            let line = json!({ "execute": command, "id": id });
            client.write_all(line.to_string().as_bytes()).unwrap();
        }
        let mut told = String::new();
        client.read_to_string(&mut told).unwrap();
        let told = told.lines().map(|it| serde_json::from_str(it).unwrap());
        let told: Vec<Value> = told
            .filter(|it: &Value| it.get("event").is_none())
            .collect();
        assert_eq!(told.len(), 1 + commands.len(), "{told:?}");
        assert!(told[0]["QMP"].is_object());
        for (id, reply) in told[1..].iter().enumerate() {
            assert_eq!(reply["id"], json!(id));
            assert!(reply["return"].is_object(), "{reply}");
        }
        assert_eq!(daemon.wait().code, Some(0));
    }
}

/// Connects at the first moment at which that is possible.
fn first_connection(path: &Path) -> UnixStream {
    let began = Instant::now();
    loop {
        if let Ok(socket) = UnixStream::connect(path) {
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            return socket;
        }
        assert!(began.elapsed() < PATIENCE, "nobody listens");
        thread::yield_now();
    }
}

#[test]
fn n09_what_a_client_did_not_read_is_not_told_to_the_next_one() {
    let world = World::new();
    let daemon = world.start(&[]);
    for _ in 0..5 {
        let mut rude = daemon.client();
        let asked = b"{\"execute\":\"query-qmp-schema\",\"id\":\"old\"}\n".repeat(20);
        rude.socket().write_all(&asked).unwrap();
        drop(rude);
        // It is greeted first, or there is no client.
        let mut next = daemon.client();
        next.send("query-version", json!({}));
        let reply = next.reply();
        assert_eq!(reply.get("id"), None);
        assert!(reply["return"]["qemu"].is_object(), "{reply}");
    }
    daemon.quit();
}

#[test]
fn n15_a_daemon_without_descriptors_rests_and_serves_whom_it_has() {
    let world = World::new();
    let nbd = world.path("nbd");
    let daemon = with_few_descriptors(&world);
    let mut client = daemon.client();
    let mut guest = Nbd::connect(&nbd, "disk", &[]).unwrap();
    let connect = |_| UnixStream::connect(&nbd).unwrap();
    let crowd: Vec<UnixStream> = (0..100).map(connect).collect();
    until(|| descriptors(&daemon) >= DESCRIPTORS);

    let (began, burned) = (Instant::now(), processor_time(&daemon));
    // It ends after a while, because it is slow.
    let job = json!({
        "job-id": "j", "device": "s", "target": "t", "sync": "full", "speed": 2 << 20,
    });
    client.run("blockdev-backup", job);
    client.event("BLOCK_JOB_COMPLETED");
    let burned = processor_time(&daemon).saturating_sub(burned);
    assert!(burned < began.elapsed() / 4, "{burned:?} for nothing");
    assert!(descriptors(&daemon) >= DESCRIPTORS);
    assert_eq!(guest.read(0, 3), Ok(vec![0; 3]));

    drop(crowd);
    let mut late = Nbd::connect(&nbd, "disk", &[]).unwrap();
    assert_eq!(late.read(0, 3), Ok(vec![0; 3]));
    drop((client, guest, late));
    daemon.quit();
}

/// A daemon that may open few files, and serves a disk to whoever comes.
fn with_few_descriptors(world: &World) -> Daemon {
    let chardev = format!("socket,id=c,path={},server=on,wait=off", world.at("qmp"));
    let server = format!(
        "addr.type=unix,addr.path={},handshake-max-seconds=0,max-connections=0",
        world.at("nbd")
    );
    let command = world.command(&[
        "--chardev",
        &chardev,
        "--monitor",
        "c",
        "--blockdev",
        "null-co,node-name=n,size=4194304,read-zeroes=on",
        "--blockdev",
        "null-co,node-name=s,size=4194304",
        "--blockdev",
        "null-co,node-name=t,size=4194304",
        "--nbd-server",
        &server,
        "--export",
        "nbd,id=e,node-name=n,name=disk",
    ]);
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "ulimit -n \"$0\" && exec \"$@\""])
        .arg(DESCRIPTORS.to_string())
        .arg(command.get_program())
        .args(command.get_args())
        .env_remove("LONGSHORE_LOG")
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null());
    world.spawn(limited)
}

fn descriptors(daemon: &Daemon) -> usize {
    let listed = fs::read_dir(format!("/proc/{}/fd", daemon.pid()));
    listed.unwrap().count()
}

/// What the daemon has used of the processor so far.
fn processor_time(daemon: &Daemon) -> Duration {
    let told = fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
    // The name, which comes before, may have blanks in it.
    let (_, numbers) = told.rsplit_once(')').unwrap();
    let numbers: Vec<&str> = numbers.split_whitespace().collect();
    let ticks = |at: usize| numbers[at].parse::<u64>().unwrap();
    // User and system time, in hundredths of a second.
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}
