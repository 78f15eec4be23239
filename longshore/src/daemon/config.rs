//! `--config FILE`: the options of the command line as a TOML file; and `--print-config`, which writes one.

use std::{fs, path::PathBuf};

use qmp::{Map, Value, keyval::Options, types::Style};

use super::{
    command::Commands,
    options::{CommandLine, KINDS, Kind, LineError, LineOption},
};

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
    for value in each(tables.remove("trace")) {
        let text = value.as_str();
        let text = text.ok_or_else(|| refused("trace: not a string".to_owned()))?;
        line.trace(text.to_owned());
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

/// The file that says what the command line does, with each value in its own type.
pub(super) fn print(line: &CommandLine) -> Result<String, LineError> {
    let commands = Commands::all();
    let mut tables = Map::new();
    if let Some(path) = line.pid_file() {
        tables.insert("pidfile".to_owned(), path.display().to_string().into());
    }
    if line.background().is_some() {
        tables.insert("daemonize".to_owned(), true.into());
    }
    if !line.traces().is_empty() {
        tables.insert("trace".to_owned(), line.traces().into());
    }
    for kind in &KINDS {
        let options = line.options().iter();
        let values = options
            .filter(|option| option.kind().name == kind.name)
            .map(|option| typed(&commands, option))
            .collect::<Result<Vec<_>, _>>()?;
        if !values.is_empty() {
            tables.insert(kind.name.to_owned(), values.into());
        }
    }
    // A null is all that a value may be and TOML has no word for.
    toml::to_string(&tables).map_err(|error| LineError(format!("--print-config: {error}")))
}

/// What an option says, as its command reads it.
fn typed(commands: &Commands, option: &LineOption) -> Result<Value, LineError> {
    let command = commands.of_line(option.command());
    let command = command.expect("every kind of option has its command");
    let Options { value, style } = option.arguments();
    let typed = command.typed(style, &value);
    typed.map_err(|error| LineError(format!("{option}: {}", error.desc)))
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

    use super::{super::Wanted, *};

    fn parsed(arguments: &[&str]) -> Wanted {
        CommandLine::parse(arguments.iter().map(OsString::from)).unwrap()
    }

    fn daemon(arguments: &[&str]) -> CommandLine {
        match parsed(arguments) {
            Wanted::Daemon(line) => line,
            Wanted::Text(text) => panic!("a daemon is wanted, not {text}"),
        }
    }

    /// What is carried out, kind by kind, with its types.
    fn said(line: &CommandLine) -> Vec<(&'static str, Value)> {
        let commands = Commands::all();
        let of_kind = |kind: &'static Kind| {
            let options = line.options().iter();
            let options = options.filter(|option| option.kind().name == kind.name);
            options.map(|it| (it.command(), typed(&commands, it).unwrap()))
        };
        KINDS.iter().flat_map(of_kind).collect()
    }

    #[test]
    fn a_command_line_and_the_file_that_it_prints_say_the_same() {
        let arguments = [
            "--blockdev",
            "null-co,node-name=a,size=1048576,read-zeroes=on,cache.direct=off",
            "--blockdev={\"driver\":\"raw\",\"node-name\":\"r\",\"file\":{\"driver\":\"null-co\"}}",
            "--object=throttle-group,id=t,x-bps-total=1048576",
            "--object",
            "secret,id=s,data=\"'\\\n\u{fc}\u{7f}",
            "--nbd-server",
            "addr.type=unix,addr.path=/run/nbd,max-connections=3",
            "--export",
            "nbd,id=e,node-name=a,bitmaps.0=x,bitmaps.1.node=a,bitmaps.1.name=y",
            "--chardev",
            "socket,id=c,path=/run/qmp,server=on,wait=off",
            "--monitor",
            "c",
            "--pidfile",
            "/run/pid",
            "--trace",
            "block*",
            "--daemonize",
        ];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("daemon.toml");
        let Wanted::Text(text) = parsed(&[&arguments[..], &["--print-config"]].concat()) else {
            panic!("a text is wanted");
        };
        fs::write(&path, &text).unwrap();
        let (line, file) = (
            daemon(&arguments),
            daemon(&["--config", path.to_str().unwrap()]),
        );
        assert_eq!(said(&file), said(&line), "{text}");
        assert_eq!(said(&file).len(), line.options().len());
        assert_eq!(file.pid_file(), line.pid_file());
        assert_eq!(file.traces(), line.traces());
        assert_eq!(file.background(), line.background());
        let again = parsed(&["--config", path.to_str().unwrap(), "--print-config"]);
        assert!(matches!(again, Wanted::Text(again) if again == text));
    }

    #[test]
    fn what_makes_no_sense_is_not_printed() {
        let arguments = ["--print-config", "--blockdev", "null-co,node-name=a,size=x"];
        let error = CommandLine::parse(arguments.map(OsString::from)).unwrap_err();
        let want = "--blockdev null-co,node-name=a,size=x: Parameter 'size' expects";
        assert!(error.to_string().starts_with(want), "{error}");
    }

    #[test]
    fn a_file_says_what_the_command_line_would() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("daemon.toml");
        let text = "pidfile = '/run/pid'\n\
            [[export]]\ntype = 'nbd'\nid = 'e'\nnode-name = 'd'\nwritable = true\n\
            [[blockdev]]\ndriver = 'null-co'\nnode-name = 'd'\ncache.direct = true\n";
        fs::write(&path, text).unwrap();
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
        fs::write(&path, "blokdev = 1\n").unwrap();
        let arguments = [OsString::from("--config"), path.into_os_string()];
        let error = CommandLine::parse(arguments).unwrap_err().to_string();
        assert!(error.ends_with("unknown key 'blokdev'"), "{error}");
    }
}
