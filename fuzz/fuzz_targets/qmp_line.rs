//! What a QMP client may send, in pieces of any size: the session answers or hands out commands.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qmp::{
    Input, Limits, Map, Qapi, QmpError, Session, Size, Value, Version, qapi_alternate, qapi_enum,
    qapi_struct, qapi_union, reply,
};

qapi_enum! {
    enum Sync { Top, Full, OnSuccess }
}

qapi_struct! {
    struct Start {
        job_id: Option<String>,
        sync: Option<Sync>,
        speed: Option<i64>,
        size: Option<Size>,
        bits: Option<u8>,
        flag: Option<bool>,
        ratio: Option<f64>,
        node: Option<NodeRef>,
        nodes: Option<Vec<Node>>,
        r#type: Option<Value>,
    }
}

qapi_union! {
    struct Node { node_name: Option<String> }
    tag driver: DriverKind, enum Driver { Raw(RawOptions), Null(()) }
}

qapi_struct! {
    struct RawOptions { file: NodeRef }
}

qapi_alternate! {
    enum NodeRef { Reference(String), Definition(Box<Node>) }
}

/// Small enough for the fuzzer to reach each of them.
const LIMITS: Limits = Limits {
    bytes: 256,
    depth: 16,
    tokens: 128,
};

/// Longer input only has more errors to write.
const BYTES_MAX: usize = 512;

/// Everything that comes of these bytes, sent in pieces of this size.
fn talk(bytes: &[u8], piece: usize) -> Vec<Input> {
    let version = Version {
        major: 1,
        minor: 2,
        micro: 3,
        package: String::new(),
    };
    let (mut session, _) = Session::with_limits(&version, LIMITS);
    session.feed(b"{'execute': 'qmp_capabilities', 'arguments': {'enable': ['oob']}}");
    let mut inputs = Vec::new();
    for piece in bytes.chunks(piece) {
        session.feed(piece);
        inputs.extend(session.by_ref());
    }
    inputs
}

/// Every line is one JSON object that a client can read.
fn check_line(line: &[u8]) -> Value {
    let text = line.strip_suffix(b"\r\n").expect("the end of a line");
    assert!(!text.contains(&b'\n'));
    let mut parser = qmp::Parser::new(Limits::default());
    parser.feed(text);
    let value = parser.next().expect("a whole value");
    assert!(parser.next().is_none());
    value.expect("what we write can be read")
}

fn check_command(arguments: Map, id: Option<&Value>) {
    let result: Result<Start, QmpError> = Start::from_json(&Value::Object(arguments));
    if let Ok(start) = &result {
        let again = Start::from_json(&start.write()).expect("what was written can be read");
        assert_eq!(again, *start);
    }
    let line = reply(id, result.map(|start| start.write()));
    assert_eq!(check_line(&line).get("id"), id);
}

fuzz_target!(|data: &[u8]| {
    let Some((&piece, bytes)) = data.split_first() else {
        return;
    };
    let bytes = &bytes[..bytes.len().min(BYTES_MAX)];
    let whole = talk(bytes, bytes.len().max(1));
    assert_eq!(talk(bytes, usize::from(piece) + 1), whole);
    for input in whole {
        match input {
            Input::Reply(line) => {
                check_line(&line);
            }
            Input::Command(request) => check_command(request.arguments, request.id.as_ref()),
        }
    }
});
