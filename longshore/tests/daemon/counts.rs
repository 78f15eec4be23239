//! What nodes count and tell of the requests of their guests.

use nbd::Errno;
use serde_json::{Value, json};

use crate::{
    bare::{Daemon, Qmp, World},
    nbd_client::Nbd,
};

/// A daemon that serves the node `n`, which this option makes, and a guest of it.
fn serving(world: &World, node: &str) -> (Daemon, Nbd) {
    let server = format!("addr.type=unix,addr.path={}", world.at("nbd"));
    let export = "nbd,id=e,node-name=n,writable=on";
    let daemon = world.start(&[
        "--blockdev",
        node,
        "--nbd-server",
        &server,
        "--export",
        export,
    ]);
    // There is a client once all options have been carried out.
    drop(daemon.client());
    let guest = Nbd::connect(&world.path("nbd"), "n", &[]).unwrap();
    (daemon, guest)
}

fn threshold(client: &mut Qmp) -> Value {
    let nodes = client.run("query-named-block-nodes", json!({}));
    nodes[0]["write_threshold"].clone()
}

fn counts(client: &mut Qmp, node: &str) -> Value {
    let nodes = client.run("query-blockstats", json!({ "query-nodes": true }));
    let mut nodes = nodes.as_array().unwrap().iter();
    let found = nodes.find(|it| it["node-name"] == node).unwrap();
    found["stats"].clone()
}

#[test]
fn the_first_write_beyond_a_threshold_is_told_of() {
    let world = World::new();
    let (daemon, mut guest) = serving(&world, "null-co,node-name=n,size=1048576");
    let mut client = daemon.client();
    let set = |node: &str, bytes: u64| json!({ "node-name": node, "write-threshold": bytes });
    client.run("block-set-write-threshold", set("n", 4096));
    assert_eq!(threshold(&mut client), 4096);
    for offset in [0, 4096, 8192] {
        guest.write(offset, &[1; 4096]).unwrap();
    }
    let told = client.event("BLOCK_WRITE_THRESHOLD");
    let want = json!({ "node-name": "n", "amount-exceeded": 4096, "write-threshold": 4096 });
    assert_eq!(told, want);
    assert_eq!(threshold(&mut client), 0, "it was for one write");
    client.run("block-set-write-threshold", set("n", 1));
    client.run("block-set-write-threshold", set("n", 0));
    guest.write(0, &[1; 4096]).unwrap();
    assert_eq!(threshold(&mut client), 0);
    let mut events = client.events.iter();
    assert!(events.all(|event| event["event"] != "BLOCK_WRITE_THRESHOLD"));
    let refused = client.refused("block-set-write-threshold", set("nobody", 1));
    assert_eq!(refused, "Device 'nobody' not found");
    assert_eq!(counts(&mut client, "n")["wr_highest_offset"], 12288);
    drop((client, guest));
    daemon.quit();
}

#[test]
fn requests_that_fail_are_counted_by_their_kind() {
    let world = World::new();
    let node = json!({
        "driver": "blkdebug", "node-name": "n",
        "image": { "driver": "null-co", "node-name": "below", "size": 1 << 20, "read-zeroes": true },
        "inject-error": [{ "event": "none", "iotype": "write", "errno": 5 }],
    });
    let (daemon, mut guest) = serving(&world, &node.to_string());
    let mut client = daemon.client();
    assert_eq!(guest.write(0, &[1; 4096]), Err(Errno::Io));
    assert_eq!(guest.read(0, 4), Ok(vec![0; 4]));
    let counts = counts(&mut client, "n");
    let shown = |name: &str| counts[name].as_u64().unwrap();
    assert_eq!(
        (shown("failed_wr_operations"), shown("wr_operations")),
        (1, 0)
    );
    assert_eq!(
        (shown("failed_rd_operations"), shown("rd_operations")),
        (0, 1)
    );
    drop((client, guest));
    daemon.quit();
}
