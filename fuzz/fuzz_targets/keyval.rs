//! What may stand behind an option of the command line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qmp::types::Null;
use qmp::{Qapi, Size, keyval, qapi_alternate, qapi_enum, qapi_struct, qapi_union};

qapi_enum! {
    enum Mode { On, Off, OnSuccess }
}

qapi_struct! {
    struct NullOptions {
        size: Option<Size>,
        latency: Option<u64>,
        ratio: Option<f64>,
        zeroes: Option<bool>,
        mode: Option<Mode>,
        offset: Option<i64>,
        bits: Option<u16>,
    }
}

qapi_struct! {
    struct RawOptions { file: NodeRef, children: Option<Vec<NodeRef>>, bitmap: Option<Choice> }
}

qapi_union! {
    struct Node { node_name: Option<String> }
    tag driver: DriverKind, enum Driver { Raw(RawOptions), NullCo(NullOptions) }
}

qapi_alternate! {
    enum NodeRef { Reference(String), Definition(Box<Node>) }
}

qapi_alternate! {
    enum Choice { Number(i64), Switch(bool), List(Vec<String>), Nothing(Null) }
}

fuzz_target!(|text: &str| {
    let _ = keyval::parse(text, None);
    let _ = (
        keyval::size(text),
        keyval::integer(text),
        keyval::switch(text),
    );
    let Ok(options) = keyval::parse(text, Some("driver")) else {
        return;
    };
    assert!(options.value.is_object());
    if let Ok(node) = options.read::<Node>() {
        let again = Node::from_json(&node.write()).expect("what was written can be read");
        assert_eq!(again, node);
    }
});
