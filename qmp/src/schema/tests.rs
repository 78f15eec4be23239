//! The schema of a few types.

use serde_json::json;

use super::{Age, Order, Schema};
use crate::{Value, qapi_alternate, qapi_enum, qapi_struct, qapi_union};

qapi_enum! {
    enum Mode { On, Off }
}

qapi_struct! {
    struct Leaf { names: Vec<String>, inner: Option<Tree>, mode: Mode }
}

qapi_union! {
    struct Node { id: Option<i64> }
    tag kind: Kinds, enum Branch { Leaf(Box<Leaf>), Bare(()) }
}

qapi_alternate! {
    enum Tree { Name(String), Node(Box<Node>) }
}

#[test]
fn types_that_contain_themselves_are_described_once() {
    let mut schema = Schema::new();
    schema.command::<Node, ()>("plant", Order::InBand, Age::Current);
    schema.command::<(), Vec<Node>>("query-trees", Order::OutOfBand, Age::Current);
    schema.event::<Leaf>("LEAF_FELL");
    let found = schema.into_value();
    let find = |name: &str| {
        let mut all = found.as_array().unwrap().iter();
        let entity = all.find(|it| it["name"] == name);
        assert!(!all.any(|it| it["name"] == name), "{name} is there twice");
        entity.unwrap_or_else(|| panic!("no {name} in {found:#}"))
    };
    let plant = find("plant");
    let node = find(plant["arg-type"].as_str().unwrap());
    assert_eq!(node["meta-type"], "object");
    assert_eq!(node["tag"], "kind");
    assert_eq!(
        node["members"][1],
        json!({"name": "id", "type": "int", "default": null})
    );
    let kinds = find(node["members"][0]["type"].as_str().unwrap());
    assert_eq!(kinds["values"], json!(["leaf", "bare"]));
    assert_eq!(node["variants"][0]["case"], "leaf");
    let leaf = find(node["variants"][0]["type"].as_str().unwrap());
    assert_eq!(
        leaf["members"][0],
        json!({"name": "names", "type": "[str]"})
    );
    let tree = find(leaf["members"][1]["type"].as_str().unwrap());
    assert_eq!(
        tree["members"],
        json!([{"type": "str"}, {"type": plant["arg-type"]}])
    );
    assert_eq!(find("[str]")["element-type"], "str");
    assert_eq!(find("int")["json-type"], "int");
    let empty = find(node["variants"][1]["type"].as_str().unwrap());
    assert_eq!(empty["members"], json!([]));
    assert_eq!(plant["ret-type"], empty["name"]);
    assert_eq!(find("query-trees")["allow-oob"], true);
    assert_eq!(find("LEAF_FELL")["arg-type"], leaf["name"]);
}

qapi_struct! {
    struct Trial { x_speed: Option<i64>, kind: Stages }
}

qapi_enum! {
    enum Stages { Known, Tried = "x-tried" }
}

#[test]
fn what_clients_must_not_rely_on_says_so() {
    let mut schema = Schema::new();
    schema.command::<Trial, ()>("x-try", Order::InBand, Age::Current);
    schema.command::<(), ()>("plant-old", Order::InBand, Age::Deprecated);
    let found = schema.into_value();
    let find = |name: &Value| {
        let mut all = found.as_array().unwrap().iter();
        all.find(|it| it["name"] == *name).unwrap()
    };
    let (tried, old) = (find(&json!("x-try")), find(&json!("plant-old")));
    assert_eq!(tried["features"], json!(["unstable"]));
    assert_eq!(old["features"], json!(["deprecated"]));
    let trial = find(&tried["arg-type"]);
    assert_eq!(trial.get("features"), None);
    assert_eq!(trial["members"][0]["features"], json!(["unstable"]));
    assert_eq!(trial["members"][1].get("features"), None);
    let stages = find(&trial["members"][1]["type"]);
    let want = json!([{"name": "known"}, {"name": "x-tried", "features": ["unstable"]}]);
    assert_eq!(stages["members"], want);
}
