//! [`Client`]: a QMP client that waits for each reply.

use std::{
    collections::VecDeque,
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use serde_json::{Value, json};

use crate::cli::exit::{Exit, Failure};

/// Longest time that a daemon may take to greet: another client may use the monitor.
const GREETING_MAX: Duration = Duration::from_secs(10);

/// A client of a monitor, which has negotiated.
#[derive(Debug)]
pub(super) struct Client {
    reader: BufReader<UnixStream>,
    events: VecDeque<Value>,
}

impl Client {
    /// Connects and negotiates.
    pub(super) fn connect(path: &Path) -> Result<Self, Failure> {
        let shown = path.display();
        let failed = |error: io::Error| Failure::io(format!("cannot connect to '{shown}'"), &error);
        let socket = UnixStream::connect(path).map_err(failed)?;
        socket
            .set_read_timeout(Some(GREETING_MAX))
            .map_err(failed)?;
        let mut client = Self {
            reader: BufReader::new(socket),
            events: VecDeque::new(),
        };
        let silent = |_| {
            let text = format!("nobody answers at '{shown}'");
            Failure::new(Exit::Failed, text)
                .advise("A monitor has one client at a time; another one may be connected.")
        };
        let greeting = client.message().map_err(silent)?;
        if greeting.get("QMP").is_none() {
            let text = format!("what listens at '{shown}' does not speak QMP");
            return Err(Failure::new(Exit::Failed, text));
        }
        let socket = client.reader.get_ref();
        socket.set_read_timeout(None).map_err(failed)?;
        client.run("qmp_capabilities", json!({}))?;
        Ok(client)
    }

    /// Runs a command.
    pub(super) fn run(&mut self, name: &str, arguments: Value) -> Result<Value, Failure> {
        let lost = |error: io::Error| Failure::io("lost the daemon", &error);
        let line = format!("{}\n", json!({ "execute": name, "arguments": arguments }));
        let socket = self.reader.get_mut();
        socket.write_all(line.as_bytes()).map_err(lost)?;
        loop {
            let mut message = self.message().map_err(lost)?;
            if let Some(value) = message.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = message.get("error") {
                let text = error["desc"].as_str().unwrap_or("refused").to_owned();
                return Err(Failure::new(Exit::Failed, text));
            }
            self.events.push_back(message);
        }
    }

    /// What has happened while commands ran.
    pub(super) fn take_events(&mut self) -> VecDeque<Value> {
        std::mem::take(&mut self.events)
    }

    fn message(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&line)?)
    }
}
