//! What a server sends, each message as one line.

use serde_json::json;

use crate::{QmpError, Value};

/// What a server calls itself in its greeting and in `query-version`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The version of the protocol's reference that it follows.
    pub major: u32,
    /// The same.
    pub minor: u32,
    /// The same.
    pub micro: u32,
    /// What it really is.
    pub package: String,
}

impl Version {
    /// As `query-version` and the greeting show it.
    pub fn to_value(&self) -> Value {
        let Self {
            major,
            minor,
            micro,
            package,
        } = self;
        json!({
            "qemu": {"major": major, "minor": minor, "micro": micro},
            "package": package,
        })
    }
}

/// The first line of a connection.
pub fn greeting(version: &Version) -> Vec<u8> {
    let version = version.to_value();
    line(&[("QMP", &json!({"version": version, "capabilities": ["oob"]}))])
}

/// The answer to the request with this id.
pub fn reply(id: Option<&Value>, result: Result<Value, QmpError>) -> Vec<u8> {
    let (name, value) = match result {
        Ok(value) => ("return", value),
        Err(error) => {
            let class = error.class.as_str();
            ("error", json!({"class": class, "desc": error.desc}))
        }
    };
    let mut members = vec![(name, &value)];
    members.extend(id.map(|id| ("id", id)));
    line(&members)
}

/// News for everybody who listens; `at` is seconds since 1970, and microseconds.
///
/// Without data there is no member `data`, as `Value::Null` says.
pub fn event(name: &str, data: &Value, at: (u64, u32)) -> Vec<u8> {
    let timestamp = json!({"seconds": at.0, "microseconds": at.1});
    let name = Value::from(name);
    let mut members = vec![("timestamp", &timestamp), ("event", &name)];
    if !data.is_null() {
        members.push(("data", data));
    }
    line(&members)
}

/// An object in this order, which no [`Map`](crate::Map) keeps, and the end of a line.
fn line(members: &[(&str, &Value)]) -> Vec<u8> {
    let mut line = Vec::new();
    for (name, value) in members {
        line.push(if line.is_empty() { b'{' } else { b',' });
        if line.len() > 1 {
            line.push(b' ');
        }
        line.extend_from_slice(format!("\"{name}\": ").as_bytes());
        serde_json::to_writer(&mut line, value).expect("a vector takes all, and keys are texts");
    }
    line.extend_from_slice(b"}\r\n");
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_lines() {
        let version = Version {
            major: 10,
            minor: 0,
            micro: 2,
            package: "p".to_owned(),
        };
        let id = json!({"a": [1, "x"]});
        let error = Err(QmpError::device_not_active("gone"));
        let lines = [
            greeting(&version),
            reply(None, Ok(json!({}))),
            reply(Some(&id), Ok(json!([1]))),
            reply(Some(&Value::Null), error),
            event("E", &Value::Null, (1, 2)),
            event("E", &json!({"id": "\u{fc}\n"}), (1, 2)),
        ];
        let want = [
            r#"{"QMP": {"capabilities":["oob"],"version":{"package":"p","qemu":{"major":10,"micro":2,"minor":0}}}}"#,
            r#"{"return": {}}"#,
            r#"{"return": [1], "id": {"a":[1,"x"]}}"#,
            r#"{"error": {"class":"DeviceNotActive","desc":"gone"}, "id": null}"#,
            r#"{"timestamp": {"microseconds":2,"seconds":1}, "event": "E"}"#,
            r#"{"timestamp": {"microseconds":2,"seconds":1}, "event": "E", "data": {"id":"ü\n"}}"#,
        ];
        let lines = lines.map(|line| String::from_utf8(line).unwrap());
        assert_eq!(lines, want.map(|line| format!("{line}\r\n")));
    }
}
