//! Our client against our server, in memory, from the greeting to the
//! disconnect, over a disk of bytes.

use crate::{
    BASE_ALLOCATION, BlockSizes, BlockStatus, ChunkBody, ChunkEnd, ClientGoal, ClientNegotiation,
    ClientOutcome, ClientSession, Command, CommandFlags, Errno, ErrorReport, ExportInfo,
    Negotiation, OptionRefusal, Outcome, Reply, ReplyStyle, Request, STATE_HOLE, STATE_ZERO,
    Session, StatusExtent, TransmissionFlags, block_status_chunk, data_chunk, error_at_chunk,
    hole_chunk,
};

const SIZE: usize = 64 * 1024;
/// Reads that touch this byte fail there.
const BAD_BYTE: usize = 50_000;

fn exports() -> Vec<ExportInfo> {
    let disk = ExportInfo {
        name: "disk".into(),
        description: "for tests".into(),
        size_bytes: SIZE as u64,
        flags: TransmissionFlags::SEND_FLUSH
            | TransmissionFlags::SEND_FUA
            | TransmissionFlags::SEND_TRIM
            | TransmissionFlags::SEND_WRITE_ZEROES,
        block_sizes: BlockSizes::default(),
        contexts: vec!["x:first".into(), BASE_ALLOCATION.into()],
    };
    let read_only = ExportInfo {
        name: "ro".into(),
        flags: TransmissionFlags::READ_ONLY,
        ..disk.clone()
    };
    vec![disk, read_only]
}

/// Both negotiations run against each other, `piece` bytes at a time.
fn shake_hands(goal: ClientGoal, piece: usize) -> (Outcome, ClientOutcome) {
    let mut server = Negotiation::new();
    let mut client = ClientNegotiation::new(goal);
    let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
    loop {
        to_client.extend(server.take_output());
        to_server.extend(client.take_output());
        let piece_of = |bytes: &Vec<u8>| bytes[..piece.min(bytes.len())].to_vec();
        let taken = client.input(&piece_of(&to_client)).unwrap();
        to_client.drain(..taken);
        let moved = taken;
        let taken = server.input(&piece_of(&to_server), &exports()).unwrap();
        to_server.drain(..taken);
        if moved + taken == 0 {
            break;
        }
    }
    // A client that said goodbye does not wait for the answer to it.
    let unread = match client.outcome() {
        Some(ClientOutcome::Transmission(_)) | None => 0,
        Some(_) => 20,
    };
    assert_eq!((to_client.len(), to_server.len()), (unread, 0));
    (
        server.outcome().cloned().unwrap(),
        client.outcome().cloned().unwrap(),
    )
}

/// A server with its disk, and the client at the other end of the wire.
struct World {
    session: Session,
    client: ClientSession,
    disk: Vec<u8>,
    /// Server to client.
    replies: Vec<u8>,
}

impl World {
    fn new(export: &str, contexts: &[&str]) -> Self {
        let goal = ClientGoal::Go {
            export: export.into(),
            contexts: contexts.iter().map(|&name| name.into()).collect(),
        };
        let (Outcome::Transmission(session), ClientOutcome::Transmission(client)) =
            shake_hands(goal, usize::MAX)
        else {
            panic!("no transmission");
        };
        Self {
            session,
            client,
            disk: (0..=255).cycle().take(SIZE).collect(),
            replies: Vec::new(),
        }
    }

    /// The client sends, the server answers.
    fn send(&mut self, request: Request, payload: &[u8]) {
        let mut wire = request.encode(self.client.headers).to_vec();
        wire.extend_from_slice(payload);
        let (got, len) = Request::decode(self.session.headers, &wire)
            .unwrap()
            .unwrap();
        let payload_bytes = got.payload_bytes(self.session.headers);
        assert_eq!((got, payload_bytes), (request, payload.len() as u64));
        self.answer(got, &wire[len..]);
    }

    fn answer(&mut self, request: Request, payload: &[u8]) {
        let style = self.session.replies;
        if let Err(errno) = request.check(&self.session.limits) {
            let error = style.error(request.cookie, errno, "refused");
            self.replies.extend_from_slice(&error);
            return;
        }
        let start = usize::try_from(request.offset_bytes).unwrap();
        let end = start + usize::try_from(request.len_bytes).unwrap();
        match request.command {
            Command::Read => return self.answer_read(request, start, end),
            Command::BlockStatus => return self.answer_status(request),
            Command::Write => self.disk[start..end].copy_from_slice(payload),
            Command::WriteZeroes => self.disk[start..end].fill(0),
            _ => {}
        }
        let done = style.done(&request, self.session.headers);
        self.replies.extend_from_slice(&done);
    }

    fn answer_read(&mut self, request: Request, start: usize, end: usize) {
        let style = self.session.replies;
        let cookie = request.cookie;
        if !(start..end).contains(&BAD_BYTE) {
            self.replies.extend_from_slice(&style.read_data(&request));
            self.replies.extend_from_slice(&self.disk[start..end]);
        } else if style == ReplyStyle::Simple {
            let error = style.error(cookie, Errno::Io, "");
            self.replies.extend_from_slice(&error);
        } else {
            let len = u32::try_from(BAD_BYTE - start).unwrap();
            let data = data_chunk(cookie, request.offset_bytes, len, ChunkEnd::More);
            self.replies.extend_from_slice(&data);
            self.replies.extend_from_slice(&self.disk[start..BAD_BYTE]);
            let error = error_at_chunk(
                cookie,
                Errno::Io,
                BAD_BYTE as u64,
                "bad block",
                ChunkEnd::Done,
            );
            self.replies.extend_from_slice(&error);
        }
    }

    fn answer_status(&mut self, request: Request) {
        let extents = [
            StatusExtent {
                len_bytes: 4096,
                flags: 0,
            },
            StatusExtent {
                len_bytes: SIZE as u64,
                flags: STATE_HOLE | STATE_ZERO,
            },
        ];
        let contexts = &self.session.contexts;
        for (index, context) in contexts.iter().enumerate() {
            let end = if index + 1 == contexts.len() {
                ChunkEnd::Done
            } else {
                ChunkEnd::More
            };
            block_status_chunk(&mut self.replies, &request, context.id, &extents, end);
        }
    }

    /// The client takes the next reply and its payload off the wire.
    fn receive(&mut self, request: &Request) -> (Reply, Vec<u8>) {
        let (reply, len) = Reply::decode(self.client.replies, &self.replies)
            .unwrap()
            .unwrap();
        assert_eq!(reply.cookie(), request.cookie);
        let end = len + usize::try_from(reply.payload_bytes(request)).unwrap();
        let payload = self.replies[len..end].to_vec();
        self.replies.drain(..end);
        (reply, payload)
    }

    /// Sends a request without data and returns the one reply to it.
    fn ask(&mut self, request: Request, payload: &[u8]) -> (Reply, Vec<u8>) {
        self.send(request, payload);
        let reply = self.receive(&request);
        assert_eq!(self.replies, b"", "one reply");
        reply
    }
}

fn request(command: Command, offset_bytes: u64, len_bytes: u64) -> Request {
    Request {
        cookie: 77 + offset_bytes,
        command,
        flags: CommandFlags::NONE,
        offset_bytes,
        len_bytes,
    }
}

/// The error of a structured reply.
#[track_caller]
fn failure(reply: &(Reply, Vec<u8>)) -> ErrorReport {
    match reply {
        (
            Reply::Chunk {
                end: ChunkEnd::Done,
                body: ChunkBody::Error { shape, .. },
                ..
            },
            payload,
        ) => ErrorReport::decode(*shape, payload).unwrap(),
        other => panic!("no error but {other:?}"),
    }
}

#[test]
fn both_sides_agree_on_the_session_whatever_the_pieces() {
    for piece in [1, 5, usize::MAX] {
        let goal = ClientGoal::Go {
            export: "disk".into(),
            contexts: vec![BASE_ALLOCATION.into(), "x:unknown".into()],
        };
        let (server, client) = shake_hands(goal, piece);
        let Outcome::Transmission(server) = server else {
            panic!("no transmission");
        };
        let ClientOutcome::Transmission(client) = client else {
            panic!("no transmission");
        };
        assert_eq!(client.limits, server.limits);
        assert_eq!(client.replies, ReplyStyle::Structured);
        assert_eq!(client.replies, server.replies);
        assert_eq!(client.contexts, server.contexts);
        assert_eq!(client.contexts[0].id, 1);
        assert_eq!(client.name.as_deref(), Some("disk"));
        assert_eq!(client.description, "for tests");
    }
}

#[test]
fn list_and_refusal_end_on_both_sides() {
    let (server, client) = shake_hands(ClientGoal::List, 3);
    assert_eq!(server, Outcome::Aborted);
    let ClientOutcome::Listed(exports) = client else {
        panic!("no list");
    };
    let names: Vec<_> = exports.into_iter().map(|export| export.name).collect();
    assert_eq!(names, ["disk", "ro"]);

    let goal = ClientGoal::Go {
        export: "nope".into(),
        contexts: vec![BASE_ALLOCATION.into()],
    };
    let (server, client) = shake_hands(goal, 3);
    assert_eq!(server, Outcome::Aborted);
    let ClientOutcome::Refused { refusal, .. } = client else {
        panic!("not refused");
    };
    assert_eq!(refusal, OptionRefusal::UnknownExport);
}

#[test]
fn what_is_written_is_read_back() {
    let mut world = World::new("disk", &[]);
    let write = request(Command::Write, 1000, 5);
    let done = Reply::Simple {
        cookie: write.cookie,
        result: Ok(()),
    };
    assert_eq!(world.ask(write, b"hello"), (done, Vec::new()));
    let zeroes = request(Command::WriteZeroes, 1001, 2);
    let _ = world.ask(zeroes, b"");
    let (reply, data) = world.ask(request(Command::Read, 999, 7), b"");
    let Reply::Chunk {
        body: ChunkBody::Data {
            offset_bytes: 999,
            len_bytes: 7,
        },
        ..
    } = reply
    else {
        panic!("{reply:?}");
    };
    assert_eq!(data, [231, b'h', 0, 0, b'l', b'o', 237]);
    for command in [Command::Flush, Command::Trim] {
        let (reply, _) = world.ask(request(command, 0, 0), b"");
        assert!(matches!(reply, Reply::Simple { result: Ok(()), .. }));
    }
}

#[test]
fn an_unreadable_byte_fails_one_read_and_not_the_connection() {
    let mut world = World::new("disk", &[]);
    let read = request(Command::Read, 49_000, 4000);
    world.send(read, b"");
    let (_, data) = world.receive(&read);
    assert_eq!(data, world.disk[49_000..BAD_BYTE]);
    let report = failure(&world.receive(&read));
    assert_eq!(report.errno, Errno::Io);
    assert_eq!(report.offset_bytes, Some(BAD_BYTE as u64));
    assert_eq!(report.text, "bad block");

    let (_, data) = world.ask(request(Command::Read, 0, 16), b"");
    assert_eq!(data, world.disk[..16]);
}

#[test]
fn refused_requests_with_payload_leave_the_stream_in_step() {
    let mut world = World::new("disk", &[]);
    let past_end = request(Command::Write, SIZE as u64 - 1, 2);
    assert_eq!(failure(&world.ask(past_end, b"xx")).errno, Errno::NoSpc);
    let read = request(Command::Read, SIZE as u64, 1);
    assert_eq!(failure(&world.ask(read, b"")).errno, Errno::Inval);
    let mut read_only = World::new("ro", &[]);
    let write = request(Command::Write, 0, 2);
    assert_eq!(failure(&read_only.ask(write, b"xx")).errno, Errno::Perm);
    let status = request(Command::BlockStatus, 0, 512);
    assert_eq!(failure(&world.ask(status, b"")).errno, Errno::Inval);
    let (_, data) = world.ask(request(Command::Read, SIZE as u64 - 1, 1), b"");
    assert_eq!(data, [255]);
}

#[test]
fn block_status_reports_each_agreed_context() {
    let mut world = World::new("disk", &[BASE_ALLOCATION, "x:first"]);
    let status = request(Command::BlockStatus, 0, SIZE as u64);
    world.send(status, b"");
    for (id, want_end) in [(0, ChunkEnd::More), (1, ChunkEnd::Done)] {
        let (reply, payload) = world.receive(&status);
        assert!(matches!(reply, Reply::Chunk { end, .. } if end == want_end));
        let status = BlockStatus::decode(&payload).unwrap();
        assert_eq!(status.context_id, id);
        let flags: Vec<_> = status.extents.iter().map(|extent| extent.flags).collect();
        assert_eq!(flags, [0, STATE_HOLE | STATE_ZERO]);
    }
}

#[test]
fn a_sparse_read_mixes_data_and_holes() {
    let mut world = World::new("disk", &[]);
    let read = request(Command::Read, 0, 12);
    let data = data_chunk(read.cookie, 8, 4, ChunkEnd::More);
    let hole = hole_chunk(read.cookie, 0, 8, ChunkEnd::Done);
    world.replies = [&data[..], b"data", &hole].concat();

    let mut got = [0xff; 12];
    let (_, payload) = world.receive(&read);
    got[8..].copy_from_slice(&payload);
    let (reply, payload) = world.receive(&read);
    assert_eq!(payload, b"");
    let Reply::Chunk {
        body: ChunkBody::Hole {
            offset_bytes,
            len_bytes,
        },
        end: ChunkEnd::Done,
        ..
    } = reply
    else {
        panic!("{reply:?}");
    };
    assert!(read.covers(offset_bytes, u64::from(len_bytes)));
    got[..8].fill(0);
    assert_eq!(&got, b"\0\0\0\0\0\0\0\0data");
}
