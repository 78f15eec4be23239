//! [`Nbd`]: a client of an export that does one thing at a time, unless it is told not to wait.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use nbd::{
    ChunkBody, ChunkEnd, ClientGoal, ClientNegotiation, ClientOutcome, ClientSession, Command,
    CommandFlags, Errno, Reply, Request,
};

/// A client of an export.
pub(crate) struct Nbd {
    stream: UnixStream,
    pub(crate) session: ClientSession,
    cookie: u64,
}

impl Nbd {
    /// Asks for the export `name` with these contexts; says why it was refused.
    pub(crate) fn connect(socket: &Path, name: &str, contexts: &[&str]) -> Result<Self, String> {
        let mut stream = UnixStream::connect(socket).map_err(|error| error.to_string())?;
        let limit = Some(Duration::from_secs(60));
        stream.set_read_timeout(limit).unwrap();
        let mut negotiation = ClientNegotiation::new(ClientGoal::Go {
            export: name.to_owned(),
            contexts: contexts.iter().map(|&it| it.to_owned()).collect(),
        });
        let mut byte = [0];
        loop {
            let output = negotiation.take_output();
            stream
                .write_all(&output)
                .map_err(|error| error.to_string())?;
            match negotiation.outcome() {
                Some(ClientOutcome::Transmission(session)) => {
                    let session = session.clone();
                    let cookie = 0;
                    return Ok(Self {
                        stream,
                        session,
                        cookie,
                    });
                }
                Some(other) => return Err(format!("{other:?}")),
                None => {}
            }
            let read = stream.read_exact(&mut byte);
            read.map_err(|error| error.to_string())?;
            negotiation.input(&byte).unwrap();
        }
    }

    /// Sends a request and does not wait for its reply.
    pub(crate) fn send(&mut self, command: Command, offset_bytes: u64, len_bytes: u64) -> Request {
        let request = self.request(command, offset_bytes, len_bytes);
        let header = request.encode(self.session.headers);
        self.stream.write_all(&header).unwrap();
        request
    }

    /// Sends a request and says goodbye in one go.
    pub(crate) fn send_and_leave(&mut self, command: Command, offset: u64, len: u64) -> Request {
        let request = self.request(command, offset, len);
        let mut both = request.encode(self.session.headers).to_vec();
        let goodbye = self.request(Command::Disc, 0, 0);
        both.extend_from_slice(&goodbye.encode(self.session.headers));
        self.stream.write_all(&both).unwrap();
        request
    }

    /// Sends data that belong to what was sent before.
    pub(crate) fn send_data(&mut self, data: &[u8]) {
        self.stream.write_all(data).unwrap();
    }

    fn request(&mut self, command: Command, offset_bytes: u64, len_bytes: u64) -> Request {
        self.cookie += 1;
        Request {
            cookie: self.cookie,
            command,
            flags: CommandFlags::NONE,
            offset_bytes,
            len_bytes,
        }
    }

    pub(crate) fn read(&mut self, offset: u64, len: u64) -> Result<Vec<u8>, Errno> {
        let request = self.send(Command::Read, offset, len);
        self.reply(&request)
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let len = u64::try_from(data.len()).unwrap();
        let request = self.send(Command::Write, offset, len);
        self.stream.write_all(data).unwrap();
        self.reply(&request).map(drop)
    }

    /// Whether the server has hung up; waits until it has.
    pub(crate) fn is_cut(&mut self) -> bool {
        let mut rest = Vec::new();
        // A connection that was reset is cut, too.
        let _ = self.stream.read_to_end(&mut rest);
        self.stream.write_all(&[0; 1 << 16]).is_err()
    }

    /// The data of the reply to `request`; of a read, in the order in which they came.
    pub(crate) fn reply(&mut self, request: &Request) -> Result<Vec<u8>, Errno> {
        let mut data = Vec::new();
        loop {
            let reply = self.header();
            assert_eq!(reply.cookie(), request.cookie);
            let len = usize::try_from(reply.payload_bytes(request)).unwrap();
            let mut payload = vec![0; len];
            self.stream.read_exact(&mut payload).unwrap();
            let Reply::Chunk { end, body, .. } = reply else {
                assert_ne!(request.command, Command::Read, "its reply comes in chunks");
                return Ok(data);
            };
            if let ChunkBody::Error { .. } = body {
                let number = u32::from_be_bytes(payload[..4].try_into().unwrap());
                return Err(Errno::from_wire(number));
            }
            data.extend(payload);
            if end == ChunkEnd::Done {
                return Ok(data);
            }
        }
    }

    fn header(&mut self) -> Reply {
        let mut bytes = Vec::new();
        loop {
            if let Some((reply, len)) = Reply::decode(self.session.replies, &bytes).unwrap() {
                assert_eq!(len, bytes.len());
                return reply;
            }
            let mut byte = [0];
            self.stream.read_exact(&mut byte).unwrap();
            bytes.extend(byte);
        }
    }
}
