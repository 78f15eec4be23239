//! [`Session`]: one client's protocol, from the greeting on.

use crate::message::{Version, greeting, reply};
use crate::parser::{Limits, Parser};
use crate::types::{Qapi, empty};
use crate::{Map, QmpError, Value};

crate::qapi_enum! {
    /// What a client may ask a server to do besides what all do.
    pub enum Capability {
        /// Requests that overtake those before them.
        Oob,
    }
}

crate::qapi_struct! {
    /// Arguments of `qmp_capabilities`.
    pub struct Capabilities {
        /// What is to be enabled.
        enable: Option<Vec<Capability>>,
    }
}

/// The command that ends the negotiation.
pub const NEGOTIATE: &str = "qmp_capabilities";

/// What a client has sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A command to be run and then answered by [`reply`].
    Command(Request),
    /// A line to send: what the session answers itself.
    Reply(Vec<u8>),
}

/// One command of a client. Whether it exists is for the caller to say.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Which command.
    pub name: String,
    /// Its arguments, none if the client left them out.
    pub arguments: Map,
    /// What the client wants to see in the reply, exactly so.
    pub id: Option<Value>,
    /// It is to be run before those that came earlier.
    pub oob: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Negotiation,
    Commands { has_oob: bool },
}

/// Turns what a client sends into commands, and answers what is none.
///
/// As an iterator it yields what has arrived; `None` means that more bytes are
/// wanted. Replies go out in the order of [`Input`]s, those to commands that
/// were not sent out of band included.
///
/// ```
/// use qmp::{Input, Session, Version, reply};
///
/// let version = Version { major: 10, minor: 0, micro: 2, package: String::new() };
/// let (mut session, greeting) = Session::new(&version);
/// assert!(greeting.starts_with(b"{\"QMP\":"));
///
/// session.feed(b"{'execute': 'qmp_capabilities'} {'execute': 'quit', 'id': 7}");
/// let Some(Input::Reply(line)) = session.next() else { unreachable!() };
/// assert_eq!(line, b"{\"return\": {}}\r\n");
/// let Some(Input::Command(request)) = session.next() else { unreachable!() };
/// assert_eq!(request.name, "quit");
/// let line = reply(request.id.as_ref(), Ok(qmp::types::empty()));
/// assert_eq!(line, b"{\"return\": {}, \"id\": 7}\r\n");
/// assert!(session.next().is_none());
/// ```
#[derive(Debug)]
pub struct Session {
    parser: Parser,
    phase: Phase,
}

impl Session {
    /// A session that waits for the negotiation, and the line that greets the client.
    pub fn new(version: &Version) -> (Self, Vec<u8>) {
        Self::with_limits(version, Limits::default())
    }

    /// The same with limits of the caller's.
    pub fn with_limits(version: &Version, limits: Limits) -> (Self, Vec<u8>) {
        let session = Self {
            parser: Parser::new(limits),
            phase: Phase::Negotiation,
        };
        (session, greeting(version))
    }

    /// Takes what has arrived. Best after [`next`](Self::next) returned `None`.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.parser.feed(bytes);
    }

    /// Whether the client has negotiated; before, it is told of no events.
    pub fn is_negotiated(&self) -> bool {
        self.phase != Phase::Negotiation
    }

    fn answer(&mut self, value: Value) -> Input {
        let id = value.get("id").cloned();
        match self.request(value) {
            Ok(Some(request)) => Input::Command(request),
            Ok(None) => Input::Reply(reply(id.as_ref(), Ok(empty()))),
            Err(error) => Input::Reply(reply(id.as_ref(), Err(error))),
        }
    }

    /// The request, or none if it was the negotiation, which is done then.
    fn request(&mut self, value: Value) -> Result<Option<Request>, QmpError> {
        let request = self.check_shape(value)?;
        let is_negotiation = request.name == NEGOTIATE;
        if self.phase == Phase::Negotiation && !is_negotiation {
            let text = format!("Expecting capabilities negotiation with '{NEGOTIATE}'");
            return Err(QmpError::command_not_found(text));
        }
        if !is_negotiation {
            return Ok(Some(request));
        }
        if request.oob {
            return Err(QmpError::no_oob(NEGOTIATE));
        }
        let wanted = Capabilities::from_json(&Value::Object(request.arguments))?;
        if self.phase != Phase::Negotiation {
            let text = "Capabilities negotiation is already complete, command ignored";
            return Err(QmpError::command_not_found(text));
        }
        let has_oob = wanted
            .enable
            .is_some_and(|it| it.contains(&Capability::Oob));
        self.phase = Phase::Commands { has_oob };
        Ok(None)
    }

    fn check_shape(&self, value: Value) -> Result<Request, QmpError> {
        let Value::Object(mut members) = value else {
            return Err(QmpError::generic("QMP input must be a JSON object"));
        };
        let id = members.remove("id");
        let (execute, mut oob) = (members.remove("execute"), None);
        if self.phase == (Phase::Commands { has_oob: true }) {
            oob = members.remove("exec-oob");
        }
        let (key, name, oob) = match (execute, oob) {
            (Some(_), Some(_)) => return Err(member("execute", "clashes with 'exec-oob'")),
            (Some(name), None) => ("execute", Some(name), false),
            (None, Some(name)) => ("exec-oob", Some(name), true),
            (None, None) => ("execute", None, false),
        };
        if name.as_ref().is_some_and(|name| !name.is_string()) {
            return Err(member(key, "must be a string"));
        }
        let arguments = match members.remove("arguments") {
            None => Map::new(),
            Some(Value::Object(arguments)) => arguments,
            Some(_) => return Err(member("arguments", "must be an object")),
        };
        if let Some(name) = members.keys().next() {
            return Err(member(name, "is unexpected"));
        }
        let Some(Value::String(name)) = name else {
            return Err(QmpError::generic("QMP input lacks member 'execute'"));
        };
        Ok(Request {
            name,
            arguments,
            id,
            oob,
        })
    }
}

impl Iterator for Session {
    type Item = Input;

    fn next(&mut self) -> Option<Input> {
        Some(match self.parser.next()? {
            Ok(value) => self.answer(value),
            Err(error) => Input::Reply(reply(None, Err(error))),
        })
    }
}

fn member(name: &str, complaint: &str) -> QmpError {
    QmpError::generic(format!("QMP input member '{name}' {complaint}"))
}

#[cfg(test)]
mod tests;
