//! Nodes and bitmaps as a client of the daemon meets them.

use qmp::{Value, types::Style};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    daemon::Daemon,
    engine::{Engine, EngineConfig},
};

/// Runs commands one after the other on a daemon of its own: what each returns, or the text of its error.
fn talk(commands: Vec<(&'static str, Value)>) -> Vec<Value> {
    let engine = Engine::start(EngineConfig::default()).unwrap();
    let inside = engine.clone();
    let talk = engine.handle().spawn(move |context| async move {
        let daemon = Daemon::new(context, inside);
        let mut replies = Vec::new();
        for (name, arguments) in commands {
            let command = daemon.commands.of_client(name).unwrap();
            replies.push(match command.run(&daemon, Style::Json, arguments).await {
                Ok(value) => value,
                Err(error) => json!(error.desc),
            });
        }
        super::close_all(&daemon).await;
        assert_eq!(daemon.engine.graph().nodes(), []);
        replies
    });
    talk.wait()
}

fn null(name: &str) -> Value {
    json!({"driver": "null-co", "node-name": name, "size": 1 << 20})
}

fn raw(name: &str, file: Value) -> Value {
    json!({"driver": "raw", "node-name": name, "file": file})
}

fn del(name: &str) -> Value {
    json!({"node-name": name})
}

/// The replies, with those that only say "done" as empty texts.
fn texts(replies: &[Value]) -> Vec<&str> {
    let text = |reply: &Value| reply.as_str().is_some() || *reply == json!({});
    assert!(replies.iter().all(text), "{replies:?}");
    replies
        .iter()
        .map(|reply| reply.as_str().unwrap_or(""))
        .collect()
}

/// The names of the nodes that a query shows.
fn names(reply: &Value) -> Vec<&str> {
    let nodes = reply.as_array().unwrap();
    nodes
        .iter()
        .map(|node| node["node-name"].as_str().unwrap())
        .collect()
}

#[test]
fn what_a_client_has_named_stays_and_what_is_nested_goes_with_its_parent() {
    let inline = json!({"driver": "null-co", "node-name": "inside"});
    let replies = talk(vec![
        ("blockdev-add", null("below")),
        ("blockdev-add", raw("above", json!("below"))),
        ("blockdev-add", raw("outside", inline)),
        ("blockdev-del", del("below")),
        ("blockdev-del", del("inside")),
        ("blockdev-del", del("nobody")),
        ("blockdev-del", del("above")),
        ("blockdev-del", del("outside")),
        ("query-named-block-nodes", json!({})),
    ]);

    let (nodes, replies) = replies.split_last().unwrap();
    assert_eq!(
        texts(replies),
        [
            "",
            "",
            "",
            "Block device below is in use",
            "Node inside is not owned by the monitor",
            "Failed to find node with node-name='nobody'",
            "",
            "",
        ]
    );
    assert_eq!(names(nodes), ["below"]);
}

#[test]
fn a_definition_that_cannot_be_made_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let missing = folder.path().join("missing");
    let inline = json!({"driver": "null-co", "node-name": "inside"});
    let window = json!({"driver": "raw", "node-name": "w", "file": inline, "offset": 1_i64 << 40});
    let replies = talk(vec![
        ("blockdev-add", window),
        (
            "blockdev-add",
            json!({"driver": "file", "node-name": "f", "filename": missing}),
        ),
        ("blockdev-add", json!({"driver": "null-co"})),
        ("query-named-block-nodes", json!({})),
        ("blockdev-add", null("inside")),
        ("blockdev-add", null("w")),
    ]);

    assert_eq!(
        replies[0],
        "Offset (1099511627776) cannot be greater than size of the containing file (1073741824)"
    );
    let missing = missing.display();
    assert_eq!(
        replies[1],
        format!("Could not open '{missing}': No such file or directory")
    );
    assert_eq!(
        replies[2],
        "'node-name' must be specified for the root node"
    );
    assert_eq!(replies[3], json!([]));
    assert_eq!(texts(&replies[4..]), ["", ""]);
}

#[test]
fn lengths_that_no_disk_has_are_refused() {
    let sized = |size: i64| json!({"driver": "null-co", "node-name": "n", "size": size});
    let replies = talk(vec![
        ("blockdev-add", sized(-1)),
        ("blockdev-add", sized(i64::MAX)),
        ("blockdev-add", sized(1 << 62)),
        (
            "block-dirty-bitmap-add",
            json!({"node": "n", "name": "b", "granularity": 512}),
        ),
    ]);

    assert_eq!(
        texts(&replies[..3]),
        [
            "Parameter 'size' expects a non-negative value",
            "Could not refresh total sector count: File too large",
            "",
        ]
    );
    assert!(
        replies[3].is_string(),
        "no machine has memory for that: {}",
        replies[3]
    );
}

#[test]
fn a_stack_of_nodes_has_an_end() {
    let mut commands = vec![("blockdev-add", null("n0"))];
    for level in 1..70 {
        let below = json!(format!("n{}", level - 1));
        commands.push(("blockdev-add", raw(&format!("n{level}"), below)));
    }
    let replies = talk(commands);

    assert_eq!(texts(&replies[..64]), [""; 64]);
    assert_eq!(replies[64], "No more than 64 nodes can be above each other");
}

#[test]
fn a_reopen_changes_all_nodes_or_none() {
    let reopen = |options: Value| ("blockdev-reopen", json!({ "options": options }));
    let shown = || ("query-named-block-nodes", json!({}));
    let read_only = |name: &str, below: &str| json!({"driver": "raw", "node-name": name, "file": below, "read-only": true});
    let replies = talk(vec![
        ("blockdev-add", null("n")),
        ("blockdev-add", raw("a", json!("n"))),
        (
            "blockdev-add",
            raw("b", json!({"driver": "null-co", "size": 512})),
        ),
        reopen(json!([read_only("a", "n"), {"driver": "null-co", "node-name": "n", "size": 1}])),
        reopen(json!([read_only("a", "b")])),
        shown(),
        reopen(Value::from(vec![read_only("a", "n"), null("n")])),
        reopen(
            json!([{"driver": "raw", "node-name": "b", "detect-zeroes": "on",
                       "file": {"driver": "null-co", "size": 512, "discard": "ignore"}}]),
        ),
        shown(),
    ]);

    let ro = |reply: &Value, name: &str| {
        let nodes = reply.as_array().unwrap();
        let node = nodes.iter().find(|node| node["node-name"] == name);
        node.unwrap()["ro"].as_bool().unwrap()
    };
    assert_eq!(texts(&replies[..5])[3], "Cannot change the option 'size'");
    assert_eq!(replies[4], "Cannot change the option 'file'");
    assert!(!ro(&replies[5], "a"));
    assert_eq!(texts(&replies[6..8]), ["", ""]);
    assert!(ro(&replies[8], "a"));
}

#[test]
fn a_file_that_was_opened_for_reading_becomes_writable() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("image");
    std::fs::write(&path, vec![1; 4096]).unwrap();
    let file = |read_only: bool| json!({"driver": "file", "node-name": "f", "filename": path, "read-only": read_only});
    let direct = |direct: bool| {
        let mut options = file(true);
        options["cache"] = json!({ "direct": direct });
        options
    };
    let reopen = |options: Value| ("blockdev-reopen", json!({ "options": [options] }));
    let replies = talk(vec![
        ("blockdev-add", file(true)),
        ("block_resize", json!({"node-name": "f", "size": 8192})),
        reopen(file(false)),
        ("block_resize", json!({"node-name": "f", "size": 8192})),
        reopen(file(true)),
        ("block_resize", json!({"node-name": "f", "size": 512})),
        reopen(direct(true)),
        reopen(direct(false)),
    ]);

    let refused = "Image is read-only";
    assert_eq!(texts(&replies), ["", refused, "", "", "", refused, "", ""]);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 8192);
}

#[test]
fn a_query_shows_how_a_node_can_be_made_again() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("image");
    std::fs::write(&path, vec![1; 4096]).unwrap();
    let file = json!({"driver": "file", "filename": path, "read-only": true});
    let window = json!({"driver": "raw", "node-name": "w", "file": "r", "offset": 512, "size": 1024,
                        "read-only": true});
    let bitmap = json!({"node": "r", "name": "b", "disabled": true});
    let mut commands = vec![
        (
            "blockdev-add",
            json!({"driver": "raw", "node-name": "r", "file": file, "read-only": true}),
        ),
        ("blockdev-add", window),
        ("block-dirty-bitmap-add", bitmap),
    ];
    commands.push(("query-named-block-nodes", json!({})));
    let replies = talk(commands);

    assert_eq!(texts(&replies[..3]), ["", "", ""]);
    let nodes = replies[3].as_array().unwrap();
    let node = |name: &str| nodes.iter().find(|node| node["node-name"] == name).unwrap();
    let shown = path.display().to_string();
    assert_eq!(node("r")["file"], shown);
    assert_eq!(node("r")["drv"], "raw");
    assert_eq!(
        node("r")["dirty-bitmaps"],
        json!([{"name": "b", "count": 0, "granularity": 65536, "recording": false,
                "busy": false, "persistent": false}])
    );
    let name = node("w")["file"].as_str().unwrap();
    let options: Value = serde_json::from_str(name.strip_prefix("json:").unwrap()).unwrap();
    assert_eq!(
        options,
        json!({"driver": "raw", "offset": 512, "size": 1024,
               "file": {"driver": "raw", "file": {"driver": "file", "filename": shown}}})
    );
    assert_eq!(node("w")["image"]["virtual-size"], 1024);
    let file = nodes.iter().find(|node| node["drv"] == "file").unwrap();
    assert!(file["image"]["actual-size"].is_i64());
    assert_eq!(file["ro"], true);
}

#[test]
fn bitmaps_are_changed_in_the_words_of_the_protocol() {
    let bitmap = |node: &str, name: &str| json!({"node": node, "name": name});
    let merge = |sources: Value| json!({"node": "n", "target": "b", "bitmaps": sources});
    let replies = talk(vec![
        ("blockdev-add", null("n")),
        (
            "blockdev-add",
            json!({"driver": "null-co", "node-name": "o", "size": 4096}),
        ),
        ("block-dirty-bitmap-add", bitmap("n", "b")),
        ("block-dirty-bitmap-add", bitmap("o", "b")),
        ("block-dirty-bitmap-add", bitmap("n", "b")),
        ("block-dirty-bitmap-add", bitmap("zz", "b")),
        ("block-dirty-bitmap-clear", bitmap("zz", "b")),
        ("block-dirty-bitmap-clear", bitmap("n", "zz")),
        ("block-dirty-bitmap-merge", merge(json!([]))),
        ("block-dirty-bitmap-merge", merge(json!(["b"]))),
        (
            "block-dirty-bitmap-merge",
            merge(json!([{"node": "o", "name": "b"}])),
        ),
        ("block-dirty-bitmap-remove", bitmap("n", "b")),
        ("block-dirty-bitmap-enable", bitmap("n", "b")),
    ]);

    assert_eq!(
        texts(&replies),
        [
            "",
            "",
            "",
            "",
            "Bitmap already exists: b",
            "Cannot find device='zz' nor node-name='zz'",
            "Node 'zz' not found",
            "Dirty bitmap 'zz' not found",
            "",
            "",
            "Bitmaps are of different sizes (destination size is 1048576, source size is 4096) and can't be merged",
            "",
            "Dirty bitmap 'b' not found",
        ]
    );
}
