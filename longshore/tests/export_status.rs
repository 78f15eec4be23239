//! Metadata contexts, extended headers, and exports on contexts of their own, over real sockets.

#![expect(clippy::unwrap_used, reason = "in a test, an error is a failure")]

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    sync::mpsc,
    time::Duration,
};

use aio::{Config, IoThread};
use block::{
    Bitmap, BitmapOptions, Graph, Node,
    nodes::{MemoryNode, MemoryOptions},
};
use longshore::export::{
    ExportError, ExportOptions, NbdAddress, NbdServer, NbdServerOptions, RemoveMode,
};
use nbd::{Command, CommandFlags, HeaderMode, Request};

const GRANULE: u64 = 64 << 10;
const GIB: u64 = 1 << 30;
const DISK_BYTES: u64 = 16 * GIB;
const STRUCTURED_REPLY: u32 = 8;
const SET_META_CONTEXT: u32 = 10;
const EXTENDED_HEADERS: u32 = 11;
const GO: u32 = 7;
const EINVAL: u32 = 22;

/// A server with a memory node that has the bitmap `b`; nothing is exported yet.
struct World {
    dir: tempfile::TempDir,
    server: NbdServer,
    node: Node,
    bitmap: Bitmap,
    graph: Graph,
    thread: IoThread,
}

fn world() -> World {
    let thread = IoThread::start(Config::default()).unwrap();
    let graph = Graph::new();
    let memory = MemoryNode::new(MemoryOptions::new(DISK_BYTES)).unwrap();
    let node = graph.add_node(Some("disk"), memory).unwrap();
    let options = BitmapOptions {
        granularity_bytes: Some(GRANULE),
        ..BitmapOptions::default()
    };
    let bitmap = node.bitmaps().add("b", options).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let address = NbdAddress::Unix(dir.path().join("nbd.sock"));
    let options = NbdServerOptions::default();
    let server = NbdServer::start(thread.handle(), &graph, &address, options).unwrap();
    World {
        dir,
        server,
        node,
        bitmap,
        graph,
        thread,
    }
}

impl World {
    fn options(&self) -> ExportOptions {
        ExportOptions {
            writable: true,
            bitmaps: vec![self.bitmap.clone()],
            allocation_depth: true,
            ..ExportOptions::new("disk", &self.node)
        }
    }

    fn client(&self, headers: HeaderMode, contexts: &[&str]) -> Client {
        let stream = UnixStream::connect(self.dir.path().join("nbd.sock")).unwrap();
        let limit = Some(Duration::from_secs(20));
        stream.set_read_timeout(limit).unwrap();
        Client::negotiate(stream, headers, contexts)
    }
}

/// A client that knows what it expects.
struct Client {
    stream: UnixStream,
    headers: HeaderMode,
    cookie: u64,
    /// Ids of the contexts, in the order of their names.
    ids: Vec<u32>,
}

/// Chunks of one reply: type and payload.
type Chunks = Vec<(u16, Vec<u8>)>;

impl Client {
    fn negotiate(mut stream: UnixStream, headers: HeaderMode, contexts: &[&str]) -> Self {
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).unwrap();
        stream.write_all(&3_u32.to_be_bytes()).unwrap();
        let mut client = Self {
            stream,
            headers,
            cookie: 0,
            ids: Vec::new(),
        };
        let style = match headers {
            HeaderMode::Extended => EXTENDED_HEADERS,
            _ => STRUCTURED_REPLY,
        };
        assert!(client.option(style, &[]).is_empty());
        let mut query = counted("disk");
        query.extend(u32::try_from(contexts.len()).unwrap().to_be_bytes());
        for context in contexts {
            query.extend(counted(context));
        }
        for reply in client.option(SET_META_CONTEXT, &query) {
            client.ids.push(number(&reply[..4]));
        }
        let mut go = counted("disk");
        go.extend([0, 0]);
        client.option(GO, &go);
        client
    }

    /// Sends an option and returns the replies up to its acknowledgement.
    fn option(&mut self, option: u32, data: &[u8]) -> Vec<Vec<u8>> {
        let mut message = b"IHAVEOPT".to_vec();
        message.extend(option.to_be_bytes());
        message.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
        message.extend(data);
        self.stream.write_all(&message).unwrap();
        let mut replies = Vec::new();
        loop {
            let header = self.receive(20);
            let data = self.receive(u64::from(number(&header[16..])));
            match number(&header[12..16]) {
                1 => return replies,
                kind => assert_eq!(kind >> 31, 0, "refused"),
            }
            replies.push(data);
        }
    }

    fn receive(&mut self, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn send(&mut self, command: Command, range: (u64, u64), more: (CommandFlags, &[u8])) {
        self.cookie += 1;
        let request = Request {
            cookie: self.cookie,
            command,
            flags: more.0,
            offset_bytes: range.0,
            len_bytes: range.1,
        };
        let header = request.encode(self.headers);
        self.stream.write_all(&header).unwrap();
        self.stream.write_all(more.1).unwrap();
    }

    /// The chunks of the reply to what was sent last, which was at `offset`; none of a simple reply.
    fn reply(&mut self, offset: u64) -> Chunks {
        let mut chunks = Vec::new();
        loop {
            let head = self.receive(16);
            assert_eq!(head[8..16], self.cookie.to_be_bytes());
            let is_simple = head[..4] == 0x6744_6698_u32.to_be_bytes();
            if is_simple && self.headers == HeaderMode::Compact {
                assert_eq!(head[4..8], [0; 4], "errors come in chunks");
                return chunks;
            }
            let len = match self.headers {
                HeaderMode::Extended => {
                    assert_eq!(head[..4], 0x6e8a_278c_u32.to_be_bytes());
                    assert_eq!(self.receive(8), offset.to_be_bytes());
                    u64::from_be_bytes(self.receive(8).try_into().unwrap())
                }
                _ => {
                    assert_eq!(head[..4], 0x668e_33ef_u32.to_be_bytes());
                    u64::from(number(&self.receive(4)))
                }
            };
            let payload = self.receive(len);
            chunks.push((u16::from_be_bytes([head[6], head[7]]), payload));
            if head[5] & 1 == 1 {
                return chunks;
            }
        }
    }

    fn ask(&mut self, command: Command, range: (u64, u64)) -> Chunks {
        self.send(command, range, (CommandFlags::NONE, &[]));
        self.reply(range.0)
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Chunks {
        let len = u64::try_from(data.len()).unwrap();
        self.send(Command::Write, (offset, len), (CommandFlags::NONE, data));
        self.reply(offset)
    }

    /// Extents of each context that was told, with its id.
    fn status(&mut self, range: (u64, u64)) -> Vec<(u32, Vec<(u64, u64)>)> {
        let chunks = self.ask(Command::BlockStatus, range);
        chunks.iter().map(|chunk| self.extents(chunk)).collect()
    }

    fn extents(&self, (kind, payload): &(u16, Vec<u8>)) -> (u32, Vec<(u64, u64)>) {
        let wide = self.headers == HeaderMode::Extended;
        assert_eq!(*kind, if wide { 6 } else { 5 });
        let (start, width) = if wide { (8, 8) } else { (4, 4) };
        let fields: Vec<u64> = payload[start..].chunks(width).map(field).collect();
        let pairs = fields.chunks(2).map(|pair| (pair[0], pair[1])).collect();
        (number(&payload[..4]), pairs)
    }
}

fn counted(text: &str) -> Vec<u8> {
    let len = u32::try_from(text.len()).unwrap();
    [&len.to_be_bytes(), text.as_bytes()].concat()
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().unwrap())
}

fn field(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
}

#[track_caller]
fn assert_invalid(chunks: &Chunks) {
    assert_eq!(chunks.len(), 1);
    assert_eq!((chunks[0].0, number(&chunks[0].1[..4])), (0x8001, EINVAL));
}

const ALL: [&str; 3] = [
    "base:allocation",
    "qemu:allocation-depth",
    "qemu:dirty-bitmap:b",
];

#[test]
fn each_context_tells_its_own_extents() {
    let world = world();
    world.server.add_export(world.options()).unwrap();
    for headers in [HeaderMode::Compact, HeaderMode::Extended] {
        let mut client = world.client(headers, &ALL);
        client.write(3 * GRANULE, b"x");
        let told = client.status((0, 8 * GRANULE));
        let told: Vec<_> = told.into_iter().map(|(_, extents)| extents).collect();
        let data_at = 3 * GRANULE;
        assert_eq!(told[0][0], (data_at, 3), "a hole comes first: {told:?}");
        assert_eq!(told[1].iter().map(|it| it.1).max(), Some(1));
        assert_eq!(told[2][..2], [(data_at, 0), (GRANULE, 1)]);
    }
}

#[test]
fn clients_choose_contexts_by_name_and_get_no_others() {
    let world = world();
    world.server.add_export(world.options()).unwrap();
    let mut client = world.client(
        HeaderMode::Compact,
        &["qemu:dirty-bitmap:b", "qemu:x", "base:"],
    );
    assert_eq!(client.ids.len(), 1);
    assert_eq!(client.status((0, GRANULE)).len(), 1);
}

#[test]
fn a_shown_bitmap_is_busy_until_the_export_is_gone() {
    let world = world();
    let export = world.server.add_export(world.options()).unwrap();
    assert!(world.bitmap.info().is_busy);
    let again = ExportOptions {
        name: "again".to_owned(),
        ..world.options()
    };
    let refused = world.server.add_export(again).unwrap_err().to_string();
    assert!(refused.contains("currently in use"), "{refused}");

    export.begin_remove(RemoveMode::Safe).unwrap();

    assert!(export.is_gone());
    assert!(!world.bitmap.info().is_busy);
}

#[test]
fn a_bitmap_that_records_is_not_shown_by_an_export_for_reading() {
    let world = world();
    let for_reading = || ExportOptions {
        writable: false,
        ..world.options()
    };
    let refused = world.server.add_export(for_reading());
    assert!(matches!(refused, Err(ExportError::EnabledBitmap(name)) if name == "b"));
    assert!(!world.bitmap.info().is_busy);

    world.bitmap.disable().unwrap();
    world.server.add_export(for_reading()).unwrap();
}

#[test]
fn extended_requests_reach_as_far_as_they_say() {
    let world = world();
    world.server.add_export(world.options()).unwrap();
    let mut client = world.client(HeaderMode::Extended, &ALL);
    client.write(9 * GIB, b"data");
    let zeroed = client.ask(Command::WriteZeroes, (0, 10 * GIB));
    assert_eq!(zeroed, [(0, Vec::new())]);
    let read = client.ask(Command::Read, (9 * GIB, 4));
    assert_eq!(read[0].1[8..], [0; 4]);

    let told = client.status((0, DISK_BYTES));

    let dirty = &told[2].1;
    assert_eq!(dirty[..], [(10 * GIB, 1), (6 * GIB, 0)]);
}

#[test]
fn a_status_query_with_data_is_about_the_contexts_it_names() {
    let world = world();
    world.server.add_export(world.options()).unwrap();
    let mut client = world.client(HeaderMode::Extended, &ALL);
    let query = |ids: &[u32]| {
        let mut data = (8 * GIB).to_be_bytes().to_vec();
        data.extend(ids.iter().flat_map(|id| id.to_be_bytes()));
        data
    };
    let (first, last) = (client.ids[0], client.ids[2]);
    let mut ask = |data: &[u8]| {
        let len = u64::try_from(data.len()).unwrap();
        let flags = CommandFlags::PAYLOAD_LEN;
        client.send(Command::BlockStatus, (GIB, len), (flags, data));
        client.reply(GIB)
    };

    let told = ask(&query(&[last]));
    assert_eq!((told.len(), number(&told[0].1[..4])), (1, last));
    for bad in [
        query(&[]),
        query(&[99]),
        query(&[first, first]),
        query(&[0; 50]),
        vec![1],
    ] {
        assert_invalid(&ask(&bad));
    }
    assert_eq!(
        ask(&query(&[first, last])).len(),
        2,
        "the connection goes on"
    );
}

#[test]
fn data_that_nobody_wants_is_dropped_and_the_connection_goes_on() {
    let world = world();
    world.server.add_export(world.options()).unwrap();
    let mut client = world.client(HeaderMode::Extended, &[]);
    let flags = CommandFlags::PAYLOAD_LEN;
    for command in [Command::Read, Command::Trim, Command::Unknown(77)] {
        client.send(command, (0, 5), (flags, b"extra"));
        assert_invalid(&client.reply(0));
    }
    assert_eq!(client.write(0, &vec![1; 1 << 20]), [(0, Vec::new())]);
    assert_eq!(client.write(0, b"x"), [(0, Vec::new())]);
    assert_eq!(client.ask(Command::Read, (0, 1))[0].1[8..], *b"x");
}

#[test]
fn a_client_that_announces_more_than_it_can_send_is_left() {
    let world = world();
    world.server.add_export(world.options()).unwrap();
    let mut client = world.client(HeaderMode::Extended, &[]);
    let flags = CommandFlags::NONE;
    client.send(Command::Write, (0, u64::MAX), (flags, b""));
    assert_eq!(client.stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn an_export_is_served_on_the_context_it_was_given() {
    let world = world();
    let other = IoThread::start(Config::default()).unwrap();
    let export = world.server.add_export(ExportOptions {
        context: Some(other.handle().clone()),
        ..world.options()
    });
    let export = export.unwrap();
    let mut client = world.client(HeaderMode::Compact, &[]);
    client.write(0, b"before");

    let (go_on, wait) = mpsc::channel::<()>();
    let blocked = world.thread.handle().spawn(move |_| async move {
        let _ = wait.recv();
    });
    client.write(0, b"while the server's own context stands still");
    drop(go_on);
    blocked.wait();

    assert_eq!(export.counters().writes, 2);
    export.begin_remove(RemoveMode::Hard).unwrap();
    assert_eq!(client.stream.read(&mut [0]).unwrap(), 0);
    let gone = export.clone();
    other
        .handle()
        .spawn(move |_| async move { gone.gone().await })
        .wait();
    assert!(export.is_gone());
}

#[test]
fn a_context_that_ends_takes_its_clients_along_and_leaves_no_trace() {
    let world = world();
    let other = IoThread::start(Config::default()).unwrap();
    let export = world.server.add_export(ExportOptions {
        context: Some(other.handle().clone()),
        ..world.options()
    });
    let export = export.unwrap();
    let mut client = world.client(HeaderMode::Compact, &[]);
    client.write(0, b"x");

    drop(other);

    assert_eq!(client.stream.read(&mut [0]).unwrap(), 0);
    export.begin_remove(RemoveMode::Hard).unwrap();
    let gone = export.clone();
    world
        .thread
        .handle()
        .spawn(move |_| async move { gone.gone().await })
        .wait();
}

#[test]
fn a_stopped_server_leaves_its_address_at_once() {
    let world = world();
    let (graph, handle) = (world.graph.clone(), world.thread.handle().clone());
    let unix = world.server.address().clone();
    drop(world.server);
    let home = world.thread.handle().clone();
    let started = home.spawn(move |_| async move {
        let mut addresses = vec![unix, NbdAddress::Tcp("127.0.0.1:0".parse().unwrap())];
        for round in 0..10 {
            for address in &mut addresses {
                let options = NbdServerOptions::default();
                let server = NbdServer::start(&handle, &graph, address, options);
                let server = server.map_err(|error| format!("{round}: {error}"))?;
                *address = server.address().clone();
                // On its own context nothing is waited for.
                server.stop();
            }
        }
        Ok::<(), String>(())
    });
    started.wait().unwrap();
}
