//! Commands about the daemon itself: its version, its commands, its end.

use std::rc::Rc;

use qmp::{Capabilities, NEGOTIATE, QmpError, Schema, Value, Version, qapi_struct};

use super::{Daemon, command::Command, events::Event};

/// What of a version clients compare: the one of the reference whose behaviour is ours.
pub(super) struct Reference {
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) micro: u32,
}

/// The reference that we follow.
pub(super) const VERSION: Reference = Reference {
    major: 10,
    minor: 0,
    micro: 2,
};

qapi_struct! {
    /// Three numbers.
    pub struct VersionTriple {
        /// The first.
        major: i64,
        /// The second.
        minor: i64,
        /// The third.
        micro: i64,
    }
}

qapi_struct! {
    /// What the daemon is.
    pub struct VersionInfo {
        /// The reference that it follows.
        qemu: VersionTriple,
        /// What it really is.
        package: String,
    }
}

qapi_struct! {
    /// A command.
    pub struct CommandInfo {
        /// How it is called.
        name: String,
    }
}

/// The commands of this file.
pub(super) fn commands() -> Vec<Command> {
    vec![
        // The session carries it out; here it is for those who ask what there is.
        Command::new(NEGOTIATE, qmp_capabilities),
        Command::new("query-version", query_version),
        Command::new("query-commands", query_commands),
        Command::new("query-qmp-schema", query_qmp_schema),
        Command::new("quit", quit),
    ]
}

/// The version as greetings have it.
pub(super) fn version() -> Version {
    Version {
        major: VERSION.major,
        minor: VERSION.minor,
        micro: VERSION.micro,
        package: concat!("longshore ", env!("CARGO_PKG_VERSION")).to_owned(),
    }
}

async fn qmp_capabilities(_: &Rc<Daemon>, _: Capabilities) -> Result<(), QmpError> {
    Ok(())
}

async fn query_version(_: &Rc<Daemon>, (): ()) -> Result<VersionInfo, QmpError> {
    let version = version();
    Ok(VersionInfo {
        qemu: VersionTriple {
            major: version.major.into(),
            minor: version.minor.into(),
            micro: version.micro.into(),
        },
        package: version.package,
    })
}

async fn query_commands(daemon: &Rc<Daemon>, (): ()) -> Result<Vec<CommandInfo>, QmpError> {
    let infos = daemon.commands.of_clients().map(|command| CommandInfo {
        name: command.name().to_owned(),
    });
    Ok(infos.collect())
}

async fn query_qmp_schema(daemon: &Rc<Daemon>, (): ()) -> Result<Value, QmpError> {
    let mut schema = Schema::new();
    for command in daemon.commands.of_clients() {
        command.describe(&mut schema);
    }
    Event::describe(&mut schema);
    Ok(schema.into_value())
}

/// Ends the daemon. The reply comes when nothing is served any more, before the connection is closed.
async fn quit(daemon: &Rc<Daemon>, (): ()) -> Result<(), QmpError> {
    daemon.want_end();
    daemon.wound_up().await;
    Ok(())
}
