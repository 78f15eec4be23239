//! Command lines: what they do, in which order, and what is refused; and what the system sees of a daemon.

use std::{
    fs,
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::{UnixDatagram, UnixListener},
    },
};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::{
    bare::{PATIENCE, Qmp, World, until},
    nbd_client::Nbd,
};

#[test]
fn help_and_version_are_told_on_standard_output() {
    let world = World::new();
    for option in ["--help", "-h", "--version", "-V"] {
        let ended = world.run(&[option]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(!ended.stdout.trim().is_empty(), "{option}");
    }
    assert!(world.run(&["--help"]).stdout.contains("--nbd-server"));
}

#[test]
fn what_cannot_be_done_ends_the_start_with_the_option_and_the_reason() {
    let world = World::new();
    let cases: [(&[&str], &str); 7] = [
        (&["--frob"], "unrecognized option '--frob'"),
        (
            &["--monitor", "nobody"],
            "--monitor nobody: chardev \"nobody\" not found",
        ),
        (
            &["--chardev", "nope,id=x"],
            "'nope' is not a valid char driver name",
        ),
        (
            &["--object", "iothread"],
            "--object iothread: Parameter 'id' is missing",
        ),
        (
            &["--chardev=null,id=1"],
            "Parameter 'id' expects an identifier",
        ),
        (
            &["--chardev", "null,id=c", "--monitor", "c", "--monitor", "c"],
            "chardev 'c' is already in use",
        ),
        (
            &["--chardev", "socket,id=c,path=/nowhere/c,server=on"],
            "Failed to bind socket to /nowhere/c: No such file or directory",
        ),
    ];
    for (options, why) in cases {
        let ended = world.run(options);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.stderr.contains(why), "{ended:?}");
    }
}

#[test]
fn options_are_carried_out_in_their_order_in_both_forms() {
    let world = World::new();
    let daemon = world.start(&[
        "--object",
        "throttle-group,id=tg,limits.bps-total=1048576",
        "--object={\"qom-type\":\"iothread\",\"id\":\"io\"}",
    ]);
    let mut client = daemon.client();
    let limit = json!({ "path": "/objects/tg", "property": "x-bps-total" });
    assert_eq!(client.run("qom-get", limit), json!(1 << 20));
    let kind = json!({ "path": "io", "property": "type" });
    assert_eq!(client.run("qom-get", kind), json!("iothread"));
    drop(client);
    daemon.quit();

    let file = world.image("disk", 65536);
    let file = format!("file,node-name=f,filename={file}");
    let ended = world.run(&["--blockdev", "raw,node-name=r,file=f", "--blockdev", &file]);
    assert_eq!(
        ended.code,
        Some(1),
        "the node is named before it is there: {ended:?}"
    );
}

#[test]
fn a_configuration_file_says_what_options_say() {
    let world = World::new();
    let socket = world.at("qmp");
    let text = format!(
        "pidfile = '{}'\n[[monitor]]\nchardev = 'c'\n[[object]]\nqom-type = 'iothread'\nid = 'io'\n\
         [[chardev]]\nbackend = 'socket'\nid = 'c'\npath = '{socket}'\nserver = true\nwait = false\n",
        world.at("pid")
    );
    fs::write(world.path("daemon.toml"), text).unwrap();
    let daemon = world.spawn(world.command(&["--config", "daemon.toml"]));
    let mut client = daemon.client();
    client.run("object-del", json!({ "id": "io" }));
    assert!(world.path("pid").exists());
    drop(client);
    daemon.quit();
}

#[test]
fn a_command_line_prints_itself_as_a_configuration_file() {
    let world = World::new();
    let options = [
        "--chardev",
        &world.monitor_socket(),
        "--monitor",
        "qmp",
        "--blockdev",
        "null-co,node-name=n,size=1048576,read-zeroes=on",
        "--print-config",
    ];
    let printed = world.run(&options);
    assert_eq!(printed.code, Some(0), "{printed:?}");
    fs::write(world.path("daemon.toml"), &printed.stdout).unwrap();
    let daemon = world.spawn(world.command(&["--config", "daemon.toml"]));
    let mut client = daemon.client();
    let nodes = client.run("query-named-block-nodes", json!({}));
    assert_eq!(nodes[0]["image"]["virtual-size"], 1 << 20);
    drop(client);
    daemon.quit();
}

#[test]
fn files_of_a_daemon_are_its_owners_and_gone_at_its_end() {
    let world = World::new();
    let daemon = world.start(&["--pidfile", &world.at("pid")]);
    drop(daemon.client());
    let mode = fs::metadata(world.path("qmp"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let pid = fs::read_to_string(world.path("pid")).unwrap();
    assert_eq!(pid, format!("{}\n", daemon.pid()));
    daemon.quit();
    assert!(!world.path("qmp").exists());
    assert!(!world.path("pid").exists());
}

#[test]
fn the_socket_of_a_daemon_that_died_is_replaced_and_that_of_one_that_lives_is_not() {
    let world = World::new();
    let daemon = world.start(&[]);
    drop(daemon.client());
    let chardev = format!("socket,id=c,path={},server=on,wait=off", world.at("qmp"));
    let ended = world.run(&["--chardev", &chardev]);
    assert!(ended.stderr.contains("Address already in use"), "{ended:?}");
    drop(daemon);
    let left = fs::symlink_metadata(world.path("qmp")).unwrap();
    assert!(left.file_type().is_socket());
    world.start(&[]).quit();
}

#[test]
fn each_signal_that_asks_for_the_end_leads_to_it_in_order() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let world = World::new();
        let daemon = world.start(&[]);
        let client = daemon.client();
        daemon.signal(signal);
        daemon.signal(signal);
        let ended = daemon.wait();
        assert_eq!(ended.code, Some(0), "{signal}: {ended:?}");
        assert!(!world.path("qmp").exists());
        drop(client);
    }
}

#[test]
fn a_daemon_in_the_background_is_ready_when_its_launcher_returns() {
    let world = World::new();
    let chardev = format!("socket,id=c,path={},server=on,wait=off", world.at("qmp"));
    let pid_file = world.at("pid");
    let ended = world.run(&[
        "--daemonize",
        "--chardev",
        &chardev,
        "--monitor",
        "c",
        "--pidfile",
        &pid_file,
    ]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(world.path("pid").exists());
    let client = Qmp::connect(&world.path("qmp"));
    client.quit();
    until(|| !world.path("pid").exists());
}

#[test]
fn what_a_daemon_in_the_background_cannot_do_its_launcher_tells() {
    let world = World::new();
    let ended = world.run(&["--daemonize", "--monitor", "nobody"]);
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.stderr.contains("chardev \"nobody\" not found"),
        "{ended:?}"
    );
}

#[test]
fn a_service_manager_hears_of_beginning_and_end_and_may_listen_for_us() {
    let world = World::new();
    let manager = UnixDatagram::bind(world.path("notify")).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let heard = || {
        let mut bytes = [0; 64];
        let count = manager.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    };
    let socket = UnixListener::bind(world.path("qmp")).unwrap();
    let mut command = world.handed(socket, "qmp", &[]);
    command.env("NOTIFY_SOCKET", world.path("notify"));
    let daemon = world.spawn(command);
    assert_eq!(heard(), "READY=1");
    daemon.client().quit();
    assert_eq!(heard(), "STOPPING=1");
    assert_eq!(daemon.wait().code, Some(0));
    assert!(world.path("qmp").exists(), "the socket is not ours");
}

#[test]
fn a_service_manager_may_listen_for_the_clients_of_exports() {
    let world = World::new();
    let socket = UnixListener::bind(world.path("nbd")).unwrap();
    let chardev = world.monitor_socket();
    let command = world.handed(
        socket,
        "nbd",
        &[
            "--blockdev",
            "null-co,node-name=n,size=1048576,read-zeroes=on",
            "--export",
            "nbd,id=e,node-name=n,name=disk",
            "--chardev",
            &chardev,
            "--monitor",
            "qmp",
        ],
    );
    let daemon = world.spawn(command);
    let mut client = daemon.client();
    let mut guest = Nbd::connect(&world.path("nbd"), "disk", &[]).unwrap();
    assert_eq!(guest.read(4096, 3), Ok(vec![0; 3]));
    let address = json!({ "type": "unix", "data": { "path": world.at("other") } });
    let refused = client.refused("nbd-server-start", json!({ "addr": address }));
    assert_eq!(refused, "NBD server already running");
    drop((client, guest));
    daemon.quit();
    assert!(world.path("nbd").exists(), "the socket is not ours");
}

#[test]
fn a_socket_of_a_service_manager_that_nobody_knows_ends_the_start() {
    let world = World::new();
    let socket = UnixListener::bind(world.path("x")).unwrap();
    let ended = world.spawn(world.handed(socket, "http", &[])).wait();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let want = "socket 3 of LISTEN_FDS: 'http' is neither 'qmp' nor 'nbd'";
    assert!(ended.stderr.contains(want), "{ended:?}");
}
