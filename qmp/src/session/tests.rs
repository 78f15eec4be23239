//! What a client may say when, and what it hears.

use serde_json::json;

use super::{Input, Session};
use crate::{Value, Version};

fn session() -> Session {
    let version = Version {
        major: 10,
        minor: 0,
        micro: 2,
        package: String::new(),
    };
    Session::new(&version).0
}

fn negotiated(arguments: &str) -> Session {
    let mut session = session();
    session.feed(format!("{{'execute': 'qmp_capabilities'{arguments}}}").as_bytes());
    let want = Input::Reply(b"{\"return\": {}}\r\n".to_vec());
    assert_eq!(session.next(), Some(want));
    session
}

/// What the session answers itself, or the name of the command.
fn say(session: &mut Session, text: &str) -> Value {
    session.feed(text.as_bytes());
    let value = match session.next() {
        Some(Input::Reply(line)) => serde_json::from_slice(&line).unwrap(),
        Some(Input::Command(request)) => json!(request.name),
        None => Value::Null,
    };
    assert_eq!(session.next(), None, "{text}");
    value
}

fn generic(desc: &str) -> Value {
    json!({"error": {"class": "GenericError", "desc": desc}})
}

#[test]
fn only_the_negotiation_comes_before_it() {
    let mut session = session();
    let desc = "Expecting capabilities negotiation with 'qmp_capabilities'";
    let want = json!({"error": {"class": "CommandNotFound", "desc": desc}, "id": 1});
    assert_eq!(say(&mut session, "{'execute': 'quit', 'id': 1}"), want);
    assert!(!session.is_negotiated());
    let found = say(&mut session, "{'execute': 'qmp_capabilities', 'id': [2]}");
    assert_eq!(found, json!({"return": {}, "id": [2]}));
    assert!(session.is_negotiated());
    let desc = "Capabilities negotiation is already complete, command ignored";
    let want = json!({"error": {"class": "CommandNotFound", "desc": desc}});
    assert_eq!(say(&mut session, "{'execute': 'qmp_capabilities'}"), want);
    assert_eq!(say(&mut session, "{'execute': 'quit'}"), json!("quit"));
}

#[test]
fn capabilities_that_are_unknown_are_refused() {
    let mut session = session();
    for (arguments, desc) in [
        (
            "{'enable': ['x']}",
            "Parameter 'enable[0]' does not accept value 'x'",
        ),
        (
            "{'enable': 'oob'}",
            "Invalid parameter type for 'enable', expected: array",
        ),
        ("{'disable': []}", "Parameter 'disable' is unexpected"),
    ] {
        let text = format!("{{'execute': 'qmp_capabilities', 'arguments': {arguments}}}");
        assert_eq!(say(&mut session, &text), generic(desc));
    }
    assert!(!session.is_negotiated());
}

#[test]
fn requests_have_a_shape() {
    let mut session = negotiated("");
    for (text, desc) in [
        ("[]", "QMP input must be a JSON object"),
        ("7 ", "QMP input must be a JSON object"),
        ("{}", "QMP input lacks member 'execute'"),
        (
            "{'execute': 1}",
            "QMP input member 'execute' must be a string",
        ),
        (
            "{'execute': 'a', 'arguments': []}",
            "QMP input member 'arguments' must be an object",
        ),
        (
            "{'execute': 'a', 'foo': 1}",
            "QMP input member 'foo' is unexpected",
        ),
        (
            "{'exec-oob': 'a'}",
            "QMP input member 'exec-oob' is unexpected",
        ),
        ("bad\n", "JSON parse error, invalid keyword 'bad'"),
    ] {
        assert_eq!(say(&mut session, text), generic(desc), "{text}");
    }
    let found = say(&mut session, "{'id': {'a': [1, 1.5, null]}}");
    assert_eq!(found["id"], json!({"a": [1, 1.5, null]}));
}

#[test]
fn a_request_may_overtake_if_that_was_agreed_on() {
    let mut session = negotiated(", 'arguments': {'enable': ['oob']}");
    session.feed(b"{'exec-oob': 'a', 'arguments': {'b': 1}, 'id': 'c'} {'execute': 'a'}");
    let Some(Input::Command(request)) = session.next() else {
        panic!("a command");
    };
    assert!(request.oob && request.name == "a" && request.id == Some(json!("c")));
    assert_eq!(Value::Object(request.arguments), json!({"b": 1}));
    assert!(matches!(session.next(), Some(Input::Command(request)) if !request.oob));
    let found = say(&mut session, "{'exec-oob': 'a', 'execute': 'a'}");
    assert_eq!(
        found,
        generic("QMP input member 'execute' clashes with 'exec-oob'")
    );
    let found = say(&mut session, "{'exec-oob': 'qmp_capabilities'}");
    assert_eq!(
        found,
        generic("The command qmp_capabilities does not support OOB")
    );
}
