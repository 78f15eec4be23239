//! Objects: what they do for nodes, and that those in use stay.

use serde_json::{Value, json};

use crate::bare::World;

#[test]
fn an_object_is_deleted_when_nobody_uses_it_any_more() {
    let world = World::new();
    let daemon = world.start(&[
        "--object",
        "iothread,id=io",
        "--object",
        "throttle-group,id=tg",
    ]);
    let mut client = daemon.client();
    let node = json!({ "driver": "null-co", "node-name": "n", "size": 65536 });
    client.run("blockdev-add", node);
    let filter = json!({
        "driver": "throttle", "node-name": "f", "throttle-group": "tg", "file": "n",
    });
    client.run("blockdev-add", filter);
    let place = |iothread| json!({ "node-name": "f", "iothread": iothread });
    client.run("x-blockdev-set-iothread", place(json!("io")));
    for id in ["io", "tg"] {
        let refused = client.refused("object-del", json!({ "id": id }));
        assert_eq!(
            refused,
            format!("object '{id}' is in use, can not be deleted")
        );
    }
    client.run("x-blockdev-set-iothread", place(json!(null)));
    for node in ["f", "n"] {
        client.run("blockdev-del", json!({ "node-name": node }));
    }
    for id in ["io", "tg"] {
        client.run("object-del", json!({ "id": id }));
    }
    drop(client);
    daemon.quit();
}

#[test]
fn objects_are_asked_and_changed_by_their_path() {
    let world = World::new();
    let daemon = world.start(&[]);
    let mut client = daemon.client();
    client.run("object-add", json!({ "qom-type": "iothread", "id": "io" }));
    let path = json!({ "path": "/objects/io", "property": "poll-max-ns" });
    assert_eq!(client.run("qom-get", path.clone()), 32768);
    client.run(
        "qom-set",
        json!({ "path": "io", "property": "poll-max-ns", "value": 7 }),
    );
    assert_eq!(client.run("qom-get", path), 7);
    let value = json!({ "path": "io", "property": "poll-max-ns", "value": "x" });
    let refused = client.refused("qom-set", value);
    assert_eq!(
        refused,
        "Invalid parameter type for 'poll-max-ns', expected: integer"
    );
    let listed = client.run("qom-list", json!({ "path": "/objects" }));
    assert!(listed.to_string().contains("child<iothread>"), "{listed}");
    drop(client);
    daemon.quit();
}

#[test]
fn a_secret_is_told_to_nobody() {
    let world = World::new();
    let daemon = world.start(&["--object", "secret,id=s,data=hunter2"]);
    let mut client = daemon.client();
    let told = client.run("qom-get", json!({ "path": "s", "property": "data" }));
    assert!(told.is_null(), "{told}");
    drop(client);
    daemon.quit();
}

#[test]
fn secrets_come_as_they_are_in_base64_and_from_files() {
    let world = World::new();
    std::fs::write(world.path("wrapped"), "aGVs\nbG8=\n").unwrap();
    let daemon = world.start(&["--object", "secret,id=f,file=wrapped,format=base64"]);
    let mut client = daemon.client();
    let secret = |more: &str| {
        let mut secret = json!({ "qom-type": "secret", "id": "s" });
        let more: Value = serde_json::from_str(more).unwrap();
        let members = secret.as_object_mut().unwrap();
        members.extend(more.as_object().unwrap().clone());
        secret
    };
    client.run(
        "object-add",
        secret(r#"{ "data": "YQ==", "format": "base64" }"#),
    );
    let property = |name| json!({ "path": "s", "property": name });
    assert_eq!(client.run("qom-get", property("format")), "base64");
    assert_eq!(client.run("qom-get", property("file")), "");
    client.run("object-del", json!({ "id": "s" }));
    client.run("object-add", json!({ "qom-type": "iothread", "id": "io" }));
    let refused = [
        ("{}", "Either 'file' or 'data' must be provided"),
        (
            r#"{ "data": "x", "file": "y" }"#,
            "'file' and 'data' are mutually exclusive",
        ),
        (
            r#"{ "data": "a b", "format": "base64" }"#,
            "Base64 data contains invalid characters",
        ),
        (
            r#"{ "file": "none" }"#,
            "Unable to read none: Failed to open file “none”: No such file or directory",
        ),
        (
            r#"{ "file": "." }"#,
            "Unable to read .: Error reading file “.”: Is a directory",
        ),
        (
            r#"{ "data": "x", "keyid": "nobody" }"#,
            "No secret with id 'nobody'",
        ),
        (
            r#"{ "data": "x", "keyid": "io" }"#,
            "Object with id 'io' is not a secret",
        ),
        (
            r#"{ "data": "x", "keyid": "f" }"#,
            "encrypted secrets are not supported; give the secret in a file",
        ),
    ];
    for (more, want) in refused {
        assert_eq!(client.refused("object-add", secret(more)), want);
    }
    client.run("object-add", secret(r#"{ "data": "x", "iv": "unused" }"#));
    drop(client);
    daemon.quit();
}
