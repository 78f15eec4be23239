//! [`CommandLine`]: the options of qemu-storage-daemon, and some of ours, in the order in which they were given.

use std::{ffi::OsString, fmt, path::PathBuf};

use qmp::keyval::{self, Options};

use super::config;

/// What the command line asks for.
#[derive(Debug)]
pub enum Wanted {
    /// This text on standard output, and nothing else.
    Text(String),
    /// A daemon.
    Daemon(CommandLine),
}

/// A command line that makes no sense: a sentence to say so.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LineError(pub(super) String);

/// The options of a daemon, read but not carried out.
#[derive(Debug, Default)]
pub struct CommandLine {
    options: Vec<LineOption>,
    pid_file: Option<PathBuf>,
    background: Option<Background>,
    traces: Vec<String>,
}

/// Which part of a daemon in the background this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Background {
    /// The one that was started, which starts the daemon and waits until it is ready.
    Launcher,
    /// The daemon. It says on its standard output when it is ready, and lets go of the terminal.
    Daemon,
}

/// The word by which a launcher tells the daemon that it starts what it is. For nobody else.
pub const BACKGROUND_OPTION: &str = "--daemonized";

/// An option that a command stands for.
#[derive(Debug)]
pub(super) struct LineOption {
    kind: &'static Kind,
    /// As it was given, for messages.
    text: String,
    value: Options,
}

/// An option that a command stands for: what it is called, which command that is, and what a bare word in it means.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    command: &'static str,
    /// The member that the first word without `=` is.
    implied: Option<&'static str>,
}

const fn kind(name: &'static str, command: &'static str, implied: Option<&'static str>) -> Kind {
    Kind {
        name,
        command,
        implied,
    }
}

/// In the order in which a configuration file is carried out.
pub(super) static KINDS: [Kind; 6] = [
    kind("object", "object-add", Some("qom-type")),
    kind("chardev", "chardev", Some("backend")),
    kind("blockdev", "blockdev-add", Some("driver")),
    kind("nbd-server", "nbd-server", None),
    kind("export", "block-export-add", Some("type")),
    kind("monitor", "monitor", Some("chardev")),
];

const WITH_VALUE: [&str; 3] = ["pidfile", "trace", "config"];
const WITHOUT_VALUE: [&str; 5] = ["daemonize", "daemonized", "help", "print-config", "version"];

impl LineOption {
    pub(super) fn new(kind: &'static Kind, text: String, value: Options) -> Self {
        Self { kind, text, value }
    }

    /// What it is called.
    pub(super) fn kind(&self) -> &'static Kind {
        self.kind
    }

    /// The command that it stands for.
    pub(super) fn command(&self) -> &'static str {
        self.kind.command
    }

    /// The command's arguments, and what they are written in.
    pub(super) fn arguments(&self) -> Options {
        self.value.clone()
    }
}

impl fmt::Display for LineOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl CommandLine {
    /// Reads the arguments of a daemon, without the program's name.
    ///
    /// # Errors
    ///
    /// [`LineError`]: an option is unknown, lacks its value, or its value cannot be read.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Wanted, LineError> {
        let mut line = Self::default();
        let mut is_for_print = false;
        let mut arguments = arguments.into_iter().map(text_of);
        while let Some(argument) = arguments.next() {
            let argument = argument?;
            let (name, value) = split(&argument)?;
            let (value, text) = match value {
                _ if WITHOUT_VALUE.contains(&name) => (String::new(), argument.clone()),
                Some(value) => (value.to_owned(), argument.clone()),
                None => {
                    let lacking = || LineError(format!("option '--{name}' requires an argument"));
                    let value = arguments.next().ok_or_else(lacking)??;
                    let text = format!("{argument} {value}");
                    (value, text)
                }
            };
            match name {
                "help" => return Ok(Wanted::Text(HELP.to_owned())),
                "version" => return Ok(Wanted::Text(version())),
                "print-config" => is_for_print = true,
                _ if value == "help" && name == "object" => {
                    return Ok(Wanted::Text(super::objects::help()));
                }
                _ => line.take(name, value, text)?,
            }
        }
        if is_for_print {
            return config::print(&line).map(Wanted::Text);
        }
        Ok(Wanted::Daemon(line))
    }

    fn take(&mut self, name: &str, value: String, text: String) -> Result<(), LineError> {
        match name {
            "daemonize" => self.background = self.background.or(Some(Background::Launcher)),
            "daemonized" => self.background = Some(Background::Daemon),
            "pidfile" => self.pid_file = Some(PathBuf::from(value)),
            "trace" => self.traces.push(value),
            "config" => config::read(self, &value)?,
            name => {
                let kind = KINDS.iter().find(|kind| kind.name == name);
                let kind = kind.expect("the name was looked up");
                let parsed = keyval::parse(&value, kind.implied);
                let value = parsed.map_err(|error| LineError(format!("{text}: {}", error.desc)))?;
                self.options.push(LineOption::new(kind, text, value));
            }
        }
        Ok(())
    }

    /// Adds what a configuration file says.
    pub(super) fn add(&mut self, option: LineOption) {
        self.options.push(option);
    }

    /// Adds a part of the program that is to log more.
    pub(super) fn trace(&mut self, pattern: String) {
        self.traces.push(pattern);
    }

    /// Sets the pid file unless the command line names one.
    pub(super) fn set_pid_file(&mut self, path: PathBuf) {
        self.pid_file.get_or_insert(path);
    }

    /// Has the daemon run in the background.
    pub(super) fn daemonize(&mut self) {
        self.background = self.background.or(Some(Background::Launcher));
    }

    /// What `--trace` asks for, in order.
    #[must_use]
    pub fn traces(&self) -> &[String] {
        &self.traces
    }

    /// Whether the daemon is to run in the background, and which part of that this process is.
    #[must_use]
    pub fn background(&self) -> Option<Background> {
        self.background
    }

    /// What is to be carried out, in order.
    pub(super) fn options(&self) -> &[LineOption] {
        &self.options
    }

    /// Where the process's number goes.
    pub(super) fn pid_file(&self) -> Option<&PathBuf> {
        self.pid_file.as_ref()
    }
}

fn text_of(argument: OsString) -> Result<String, LineError> {
    let to_text = argument.into_string();
    to_text.map_err(|bytes| LineError(format!("{}: not UTF-8", bytes.display())))
}

/// The option that an argument names, in full, and the value that is written behind it.
fn split(argument: &str) -> Result<(&'static str, Option<&str>), LineError> {
    let short = |name| Ok((name, argument.get(2..).filter(|rest| !rest.is_empty())));
    match argument.as_bytes() {
        [b'-', b'-', ..] => {}
        [b'-', b'h', ..] => return short("help"),
        [b'-', b'V', ..] => return short("version"),
        [b'-', b'T', ..] => return short("trace"),
        [b'-', _, ..] => {
            let letter = argument.chars().nth(1).unwrap_or('-');
            return Err(LineError(format!("invalid option -- '{letter}'")));
        }
        _ => return Err(LineError(format!("{argument}: Unexpected argument"))),
    }
    let word = &argument[2..];
    let (word, value) = match word.split_once('=') {
        Some((word, value)) => (word, Some(value)),
        None => (word, None),
    };
    let name = in_full(word)?;
    if value.is_some() && WITHOUT_VALUE.contains(&name) {
        return Err(LineError(format!(
            "option '--{name}' doesn't allow an argument"
        )));
    }
    Ok((name, value))
}

/// The one option that begins so.
fn in_full(word: &str) -> Result<&'static str, LineError> {
    let names = KINDS.iter().map(|kind| kind.name);
    let names = names.chain(WITH_VALUE).chain(WITHOUT_VALUE);
    let mut likely: Vec<&'static str> = names.filter(|name| name.starts_with(word)).collect();
    likely.sort_unstable();
    match likely.as_slice() {
        [first, ..] if *first == word => Ok(*first),
        [only] => Ok(*only),
        [] => Err(LineError(format!("unrecognized option '--{word}'"))),
        _ => Err(LineError(format!("option '--{word}' is ambiguous"))),
    }
}

fn version() -> String {
    format!(
        "longshore daemon version {} (qemu-storage-daemon {}.{}.{})\n",
        env!("CARGO_PKG_VERSION"),
        super::misc::VERSION.major,
        super::misc::VERSION.minor,
        super::misc::VERSION.micro,
    )
}

const HELP: &str = "\
Usage: longshore daemon [options]
A storage daemon: images over NBD, and live block jobs, controlled by QMP.
Takes the command line of qemu-storage-daemon.

Options are carried out in the order in which they are given. Each value is either
key=value pairs, with dots for what is nested, or JSON.

  -h, --help             this text
  -V, --version          the version
  -T, --trace [enable=]<pattern>
                         log more

  --blockdev [driver=]<driver>,node-name=<name>[,read-only=on|off]
             [,auto-read-only=on|off][,discard=ignore|unmap]
             [,detect-zeroes=off|on|unmap][,cache.direct=on|off]
             [,cache.no-flush=on|off][,force-share=on|off]
             [,what the driver takes...]
                         a node

  --chardev socket,id=<id>,path=<path>[,server=on|off][,wait=on|off]
            [,reconnect=<seconds>]
  --chardev socket,id=<id>,host=<host>,port=<port>[,server=on|off]
            [,wait=on|off][,reconnect=<seconds>]
  --chardev stdio,id=<id>
                         where a monitor's client comes from

  --monitor [chardev=]<id>[,mode=control][,pretty=on|off]
                         a QMP monitor; several are fine

  --nbd-server addr.type=unix,addr.path=<path>[,max-connections=<n>]
               [,handshake-max-seconds=<n>]
  --nbd-server addr.type=inet,addr.host=<host>,addr.port=<port>[,...]
                         an NBD server for exports

  --export [type=]nbd,id=<id>,node-name=<node>[,name=<export>]
           [,writable=on|off][,bitmaps.0=<bitmap>][,allocation-depth=on|off]
                         a node that the NBD server serves

  --object <type>,id=<id>[,<property>=<value>...]
                         an object: iothread, main-loop, throttle-group, secret;
                         --object help lists the types

  --config <file>        more options, from a TOML file: the same keys, in
                         tables [[blockdev]], [[chardev]], [[export]],
                         [[monitor]], [nbd-server], [[object]]; and pidfile,
                         daemonize, trace
  --print-config         all of these options as such a file, and nothing else
  --pidfile <path>       the process's number, once all is ready
  --daemonize            run in the background; returns when all is ready
";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(arguments: &[&str]) -> Result<CommandLine, String> {
        match CommandLine::parse(arguments.iter().map(OsString::from)) {
            Ok(Wanted::Daemon(line)) => Ok(line),
            Ok(Wanted::Text(text)) => Err(text),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn options_keep_their_order_and_both_forms_say_the_same() {
        let line = parsed(&[
            "--blockdev",
            "null-co,node-name=a,cache.direct=on",
            "--object=iothread,id=i",
            "--blockdev={\"driver\":\"null-co\",\"node-name\":\"b\"}",
        ]);
        let line = line.unwrap();
        let options: Vec<_> = line
            .options()
            .iter()
            .map(|it| (it.command(), it.arguments().value))
            .collect();
        let want = [
            (
                "blockdev-add",
                json!({ "driver": "null-co", "node-name": "a", "cache": { "direct": "on" } }),
            ),
            ("object-add", json!({ "qom-type": "iothread", "id": "i" })),
            (
                "blockdev-add",
                json!({ "driver": "null-co", "node-name": "b" }),
            ),
        ];
        assert_eq!(options, want);
    }

    #[test]
    fn what_makes_no_sense_is_told_in_the_words_of_the_reference() {
        let cases = [
            (&["--frobnicate"][..], "unrecognized option '--frobnicate'"),
            (&["stray"], "stray: Unexpected argument"),
            (&["-Z"], "invalid option -- 'Z'"),
            (&["--blockdev"], "option '--blockdev' requires an argument"),
            (
                &["--daemonize=x"],
                "option '--daemonize' doesn't allow an argument",
            ),
        ];
        for (arguments, want) in cases {
            assert_eq!(parsed(arguments).unwrap_err(), want);
        }
    }

    #[test]
    fn an_option_may_be_abbreviated_while_only_one_begins_so() {
        assert_eq!(in_full("mon").unwrap(), "monitor");
        assert_eq!(in_full("daemonize").unwrap(), "daemonize");
        assert!(in_full("daemon").is_err());
        assert!(in_full("").is_err());
    }
}
