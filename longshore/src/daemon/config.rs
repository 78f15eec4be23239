//! `--config FILE`: the options of the command line as a TOML file.

use std::{fs, path::PathBuf};

use qmp::{Map, Value, keyval::Options, types::Style};

use super::options::{CommandLine, KINDS, Kind, LineError, LineOption};

/// Adds what the file says to the command line.
///
/// What is of one kind keeps its order; the kinds follow each other so that each finds what it refers to.
pub(super) fn read(line: &mut CommandLine, path: &str) -> Result<(), LineError> {
    let refused = |what: String| LineError(format!("--config {path}: {what}"));
    let text =
        fs::read_to_string(path).map_err(|error| refused(super::error::system_text(&error)))?;
    let parsed = toml::from_str::<Map>(&text);
    let mut tables = parsed.map_err(|error| refused(error.to_string()))?;
    for kind in &KINDS {
        for value in each(tables.remove(kind.name)) {
            line.add(option(kind, value, path));
        }
    }
    if let Some(value) = tables.remove("pidfile") {
        let text = value
            .as_str()
            .ok_or_else(|| refused("pidfile: not a string".to_owned()))?;
        line.set_pid_file(PathBuf::from(text));
    }
    match tables.remove("daemonize") {
        None | Some(Value::Bool(false)) => {}
        Some(Value::Bool(true)) => line.daemonize(),
        Some(_) => return Err(refused("daemonize: neither true nor false".to_owned())),
    }
    match tables.keys().next() {
        Some(key) => Err(refused(format!("unknown key '{key}'"))),
        None => Ok(()),
    }
}

/// One table, or each of several.
fn each(value: Option<Value>) -> Vec<Value> {
    match value {
        None => Vec::new(),
        Some(Value::Array(values)) => values,
        Some(value) => vec![value],
    }
}

fn option(kind: &'static Kind, value: Value, path: &str) -> LineOption {
    let text = format!("--config {path}: {} {value}", kind.name);
    LineOption::new(
        kind,
        text,
        Options {
            value,
            style: Style::Json,
        },
    )
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use serde_json::json;

    use super::{super::Wanted, CommandLine};

    #[test]
    fn a_file_says_what_the_command_line_would() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("daemon.toml");
        let text = "pidfile = '/run/pid'\n\
            [[export]]\ntype = 'nbd'\nid = 'e'\nnode-name = 'd'\nwritable = true\n\
            [[blockdev]]\ndriver = 'null-co'\nnode-name = 'd'\ncache.direct = true\n";
        std::fs::write(&path, text).unwrap();
        let arguments = [OsString::from("--config"), path.into_os_string()];
        let Wanted::Daemon(line) = CommandLine::parse(arguments).unwrap() else {
            panic!("a daemon is wanted");
        };
        let options: Vec<_> = line
            .options()
            .iter()
            .map(|it| (it.command(), it.arguments().value))
            .collect();
        let node = json!({ "driver": "null-co", "node-name": "d", "cache": { "direct": true } });
        let export = json!({ "type": "nbd", "id": "e", "node-name": "d", "writable": true });
        assert_eq!(
            options,
            [("blockdev-add", node), ("block-export-add", export)]
        );
        assert_eq!(line.pid_file().unwrap().to_str(), Some("/run/pid"));
    }

    #[test]
    fn a_key_that_nobody_knows_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("daemon.toml");
        std::fs::write(&path, "blokdev = 1\n").unwrap();
        let arguments = [OsString::from("--config"), path.into_os_string()];
        let error = CommandLine::parse(arguments).unwrap_err().to_string();
        assert!(error.ends_with("unknown key 'blokdev'"), "{error}");
    }
}
