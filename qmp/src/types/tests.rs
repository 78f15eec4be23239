//! Types that are read and written.

use serde_json::json;

use super::{Input, Null, Qapi, Size};
use crate::{QmpError, Value, keyval, qapi_alternate, qapi_enum, qapi_struct, qapi_union};

qapi_enum! {
    enum Sync { Top, Full, NotYet, Strange = "STRANGE_one" }
}

qapi_struct! {
    struct Perf { workers: Option<i64>, min_cluster_size: Option<Size> }
}

qapi_struct! {
    struct Start {
        job_id: Option<String>,
        device: String,
        sync: Sync,
        speed: Option<i64>,
        compress: Option<bool>,
        granularity: Option<u32>,
        x_perf: Option<Perf>,
        names: Option<Vec<String>>,
        r#type: Option<StrOrNull>,
    }
}

qapi_alternate! {
    enum StrOrNull { Str(String), Null(Null) }
}

qapi_alternate! {
    enum Wait { Seconds(i64), Names(Vec<String>) }
}

qapi_struct! {
    struct NullOptions { size: Option<Size> }
}

qapi_struct! {
    struct RawOptions { file: NodeRef, offset: Option<Size> }
}

qapi_union! {
    struct Node { node_name: Option<String> }
    tag driver: DriverKind, enum Driver {
        NullCo(NullOptions),
        Raw(Box<RawOptions>),
        Nothing(()) = "NOTHING",
    }
}

qapi_alternate! {
    enum NodeRef { Reference(String), Definition(Box<Node>) }
}

qapi_struct! {
    struct Actions { actions: Vec<Node> }
}

/// What reading that fails says.
fn refusal<T: Qapi + std::fmt::Debug>(value: &Value) -> String {
    T::from_json(value).unwrap_err().desc
}

fn from_text<T: Qapi>(text: &str) -> Result<T, QmpError> {
    keyval::parse(text, None)?.read()
}

#[test]
fn an_object_is_what_it_was() {
    let value = json!({
        "job-id": "j",
        "device": "d",
        "sync": "not-yet",
        "speed": -1,
        "compress": false,
        "granularity": 65536,
        "x-perf": {"min-cluster-size": 1_u64 << 63},
        "names": ["a", "b"],
        "type": null,
    });
    assert_eq!(Start::from_json(&value).unwrap().write(), value);
    let least = json!({"device": "d", "sync": "STRANGE_one"});
    assert_eq!(Start::from_json(&least).unwrap().write(), least);
}

/// Start commands with each of these members are refused so.
fn refuses(cases: &[(&str, Value, &str)]) {
    for (name, member, desc) in cases {
        let mut value = json!({"device": "d", "sync": "full"});
        value[*name] = member.clone();
        assert_eq!(refusal::<Start>(&value), *desc);
    }
}

#[test]
fn a_refusal_names_the_argument() {
    let cases = [
        (
            "device",
            Value::Null,
            "Invalid parameter type for 'device', expected: string",
        ),
        (
            "sync",
            json!("foo"),
            "Parameter 'sync' does not accept value 'foo'",
        ),
        (
            "sync",
            json!(1),
            "Invalid parameter type for 'sync', expected: string",
        ),
        (
            "speed",
            json!("1"),
            "Invalid parameter type for 'speed', expected: integer",
        ),
        (
            "speed",
            json!(1.5),
            "Invalid parameter type for 'speed', expected: integer",
        ),
        (
            "speed",
            json!(null),
            "Invalid parameter type for 'speed', expected: integer",
        ),
        (
            "speed",
            json!(u64::MAX),
            "Invalid parameter type for 'speed', expected: integer",
        ),
        (
            "compress",
            json!("on"),
            "Invalid parameter type for 'compress', expected: boolean",
        ),
        (
            "granularity",
            json!(-1),
            "Parameter 'granularity' expects uint32_t",
        ),
        (
            "granularity",
            json!("1"),
            "Parameter 'granularity' expects uint64",
        ),
        (
            "granularity",
            json!(1_u64 << 32),
            "Parameter 'granularity' expects uint32_t",
        ),
    ];
    refuses(&cases);
}

#[test]
fn a_refusal_names_what_is_inside_of_the_argument() {
    let cases = [
        (
            "x-perf",
            json!([]),
            "Invalid parameter type for 'x-perf', expected: object",
        ),
        (
            "x-perf",
            json!({"a": 1}),
            "Parameter 'x-perf.a' is unexpected",
        ),
        (
            "x-perf",
            json!({"workers": []}),
            "Invalid parameter type for 'x-perf.workers', expected: integer",
        ),
        (
            "names",
            json!({}),
            "Invalid parameter type for 'names', expected: array",
        ),
        (
            "names",
            json!(["a", 1]),
            "Invalid parameter type for 'names[1]', expected: string",
        ),
        (
            "type",
            json!(1),
            "Invalid parameter type for 'type', expected: StrOrNull",
        ),
        ("job_id", json!("j"), "Parameter 'job_id' is unexpected"),
    ];
    refuses(&cases);
    assert_eq!(
        refusal::<Start>(&json!({"sync": "full"})),
        "Parameter 'device' is missing"
    );
    assert_eq!(
        refusal::<()>(&json!({"x": 1})),
        "Parameter 'x' is unexpected"
    );
}

#[test]
fn a_union_has_the_members_of_its_branch() {
    let value = json!({
        "driver": "raw",
        "node-name": "r",
        "offset": 512,
        "file": {"driver": "null-co", "size": 1024},
    });
    let node = Node::from_json(&value).unwrap();
    assert_eq!(node.driver.tag(), DriverKind::Raw);
    assert_eq!(node.write(), value);
    let named = json!({"driver": "raw", "file": "f"});
    assert_eq!(Node::from_json(&named).unwrap().write(), named);
    let nothing = json!({"driver": "NOTHING"});
    assert_eq!(Node::from_json(&nothing).unwrap().write(), nothing);
    let cases = [
        (json!({}), "Parameter 'driver' is missing"),
        (
            json!({"driver": "x"}),
            "Parameter 'driver' does not accept value 'x'",
        ),
        (json!({"driver": "raw"}), "Parameter 'file' is missing"),
        (
            json!({"driver": "raw", "file": 1}),
            "Invalid parameter type for 'file', expected: NodeRef",
        ),
        (
            json!({"driver": "raw", "file": {}}),
            "Parameter 'file.driver' is missing",
        ),
        (
            json!({"driver": "null-co", "file": "f"}),
            "Parameter 'file' is unexpected",
        ),
        (
            json!({"driver": "NOTHING", "size": 1}),
            "Parameter 'size' is unexpected",
        ),
    ];
    for (value, desc) in cases {
        assert_eq!(refusal::<Node>(&value), desc);
        let actions = json!({"actions": [{"driver": "NOTHING"}, value]});
        // Of values and choices, only the last part of the name is told.
        let is_short = desc.contains("accept") || desc.contains("NodeRef");
        let nested = desc.replace(" '", " 'actions[1].");
        let nested = if is_short { desc } else { &nested };
        assert_eq!(refusal::<Actions>(&actions), nested);
    }
}

#[test]
fn a_text_becomes_what_the_type_says() {
    let text = "device=d,sync=full,speed=0x10,compress=on,x-perf.workers=7,names.0=a,names.1=b,\
                x-perf.min-cluster-size=64k";
    let start = from_text::<Start>(text).unwrap();
    let want = json!({
        "device": "d", "sync": "full", "speed": 16, "compress": true, "names": ["a", "b"],
        "x-perf": {"workers": 7, "min-cluster-size": 65536},
    });
    assert_eq!(start.write(), want);
    let cases = [
        ("speed=x", "Parameter 'speed' expects integer"),
        (
            "compress=maybe",
            "Parameter 'compress' expects 'on' or 'off'",
        ),
        (
            "x-perf.min-cluster-size=-1",
            "Parameter 'x-perf.min-cluster-size' expects size",
        ),
        ("x-perf.a=1", "Parameter 'x-perf.a' is unexpected"),
        ("frob.a=1", "Parameter 'frob' is unexpected"),
        ("speed.a=1", "Parameters 'speed.*' are unexpected"),
        ("job-id.0=1", "Parameters 'job-id.*' are unexpected"),
        (
            "x-perf.workers.a=1",
            "Parameters 'x-perf.workers.*' are unexpected",
        ),
        ("granularity=-1", "Parameter 'granularity' expects uint32_t"),
        ("granularity=x", "Parameter 'granularity' expects integer"),
        (
            "granularity.a=x",
            "Parameters 'granularity.*' are unexpected",
        ),
        (
            "names=a",
            "Invalid parameter type for 'names', expected: array",
        ),
        ("device.a=1", "Parameters 'device.*' used inconsistently"),
    ];
    for (text, desc) in cases {
        let found = from_text::<Start>(&format!("device=d,sync=full,{text}"));
        assert_eq!(found.unwrap_err().desc, desc);
    }
    let json = r#"{"device": "d", "sync": "full", "speed": "1"}"#;
    let desc = "Invalid parameter type for 'speed', expected: integer";
    assert_eq!(from_text::<Start>(json).unwrap_err().desc, desc);
}

#[test]
fn a_choice_that_has_no_texts_takes_one_for_a_number() {
    let wait = |text: &str| {
        let options = keyval::parse(text, None).unwrap();
        Wait::read(Input::new(&options.value["wait"], options.style))
    };
    assert_eq!(wait("wait=7"), Ok(Wait::Seconds(7)));
    assert_eq!(wait("wait.0=7"), Ok(Wait::Names(vec!["7".to_owned()])));
    assert!(wait("wait=x").is_err() && wait("wait.a=7").is_err());
    assert_eq!(Wait::from_json(&json!(7)), Ok(Wait::Seconds(7)));
    assert!(Wait::from_json(&json!("7")).is_err());
}
