//! Exports over real sockets, with a small client made of the protocol's own parts; each on both backends.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test, an error is a failure"
)]

use std::{
    io::{Read, Write},
    net::SocketAddr,
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    process::Command as Process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use aio::{AioContext, BackendKind, Config, IoThread};
use block::{
    ByteRange, ChildRole, Graph, Node, Permission, Permissions,
    nodes::{
        FaultAction, FaultControl, FaultNode, FaultOp, FaultRule, FileNode, FileOptions,
        MemoryNode, MemoryOptions,
    },
};
use longshore::export::{
    Export, ExportError, ExportOptions, NbdAddress, NbdServer, NbdServerOptions, Reach, RemoveMode,
};
use nbd::{
    BASE_ALLOCATION, BlockStatus, ChunkBody, ChunkEnd, ClientGoal, ClientNegotiation,
    ClientOutcome, Command, CommandFlags, Errno, ErrorReport, ExportLimits, HeaderMode,
    MAX_TRANSFER_BYTES, Reply, ReplyStyle, Request, STATE_HOLE, STATE_ZERO, StatusExtent,
};

const MIB: u64 = 1 << 20;
const DISK_BYTES: u64 = 64 * MIB;

/// A server with one writable export, `disk`: a memory node below a filter that does as it is told.
struct World {
    dir: tempfile::TempDir,
    server: Option<NbdServer>,
    export: Export,
    faults: FaultControl,
    node: Node,
    graph: Graph,
    thread: IoThread,
}

fn with_options(backend: BackendKind, options: NbdServerOptions) -> World {
    let config = Config {
        backend: Some(backend),
        ..Config::default()
    };
    let thread = IoThread::start(config).unwrap();
    let graph = Graph::new();
    let memory = MemoryNode::new(MemoryOptions::new(DISK_BYTES)).unwrap();
    let memory = graph.add_node(Some("memory"), memory).unwrap();
    let faults = FaultControl::new();
    let node = fault_node(&graph, &memory, faults.clone());
    let dir = tempfile::tempdir().unwrap();
    let address = NbdAddress::Unix(dir.path().join("nbd.sock"));
    let server = NbdServer::start(thread.handle(), &graph, &address, options).unwrap();
    let export = server.add_export(ExportOptions {
        writable: true,
        ..ExportOptions::new("disk", &node)
    });
    World {
        dir,
        export: export.unwrap(),
        server: Some(server),
        faults,
        node,
        graph,
        thread,
    }
}

fn fault_node(graph: &Graph, below: &Node, faults: FaultControl) -> Node {
    let builder = graph.build_node(None).unwrap();
    let uses = Permissions::uses(&[Permission::ConsistentRead]);
    let child = builder
        .attach(below, "file", ChildRole::Filtered, uses)
        .unwrap();
    builder.finish(FaultNode::new(child, faults))
}

fn on_both(test: impl Fn(&mut World)) {
    on_both_with(NbdServerOptions::default(), test);
}

fn on_both_with(options: NbdServerOptions, test: impl Fn(&mut World)) {
    test(&mut with_options(BackendKind::Epoll, options.clone()));
    if aio::probe_io_uring().is_ok() {
        test(&mut with_options(BackendKind::IoUring, options));
    }
}

impl World {
    fn server(&self) -> &NbdServer {
        self.server.as_ref().unwrap()
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("nbd.sock")
    }

    fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        let limit = Some(Duration::from_secs(20));
        stream.set_read_timeout(limit).unwrap();
        stream.set_write_timeout(limit).unwrap();
        stream
    }

    fn client(&self) -> Client {
        Client::connect(self.raw(), "disk").unwrap()
    }

    /// Runs `work` on the server's context.
    fn run<T: Send + 'static, F: Future<Output = T> + 'static>(
        &self,
        work: impl FnOnce(AioContext) -> F + Send + 'static,
    ) -> T {
        self.thread.handle().spawn(work).wait()
    }

    /// Waits until `holds`, for a while.
    #[track_caller]
    fn wait_until(&self, holds: impl Fn() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < Duration::from_secs(20), "it never came");
            self.pause(1_000_000);
        }
    }

    fn pause(&self, ns: u64) {
        self.run(move |cx| async move { cx.sleep_ns(ns).await });
    }
}

/// A client that sends and receives when it is told to.
struct Client {
    stream: UnixStream,
    limits: ExportLimits,
    style: ReplyStyle,
    cookie: u64,
}

/// What came back for one request.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Done,
    Data(Vec<u8>),
    Status(Vec<StatusExtent>),
    Failed(Errno),
}

impl Client {
    /// Negotiates as usual: structured replies, `base:allocation`.
    fn connect(mut stream: UnixStream, name: &str) -> Result<Self, String> {
        let mut negotiation = ClientNegotiation::new(ClientGoal::Go {
            export: name.to_owned(),
            contexts: vec![BASE_ALLOCATION.to_owned()],
        });
        let mut byte = [0];
        loop {
            stream.write_all(&negotiation.take_output()).unwrap();
            match negotiation.outcome() {
                Some(ClientOutcome::Transmission(session)) => {
                    return Ok(Self {
                        stream,
                        limits: session.limits,
                        style: session.replies,
                        cookie: 0,
                    });
                }
                Some(other) => return Err(format!("{other:?}")),
                None => {}
            }
            stream.read_exact(&mut byte).map_err(|e| e.to_string())?;
            negotiation.input(&byte).unwrap();
        }
    }

    /// Negotiates like an old client: simple replies, no questions.
    fn connect_simple(mut stream: UnixStream, name: &str) -> Self {
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).unwrap();
        let mut hello = 3_u32.to_be_bytes().to_vec();
        hello.extend_from_slice(b"IHAVEOPT");
        hello.extend_from_slice(&1_u32.to_be_bytes());
        hello.extend_from_slice(&u32::try_from(name.len()).unwrap().to_be_bytes());
        hello.extend_from_slice(name.as_bytes());
        stream.write_all(&hello).unwrap();
        let mut answer = [0; 10];
        stream.read_exact(&mut answer).unwrap();
        let size_bytes = u64::from_be_bytes(answer[..8].try_into().unwrap());
        let flags = u16::from_be_bytes(answer[8..].try_into().unwrap());
        Self {
            stream,
            limits: ExportLimits {
                size_bytes,
                flags: nbd::TransmissionFlags::from_bits(flags),
                block_sizes: nbd::BlockSizes::default(),
                has_contexts: false,
            },
            style: ReplyStyle::Simple,
            cookie: 0,
        }
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

    fn send(&mut self, request: &Request, data: &[u8]) {
        let header = request.encode(HeaderMode::Compact);
        self.stream.write_all(&header).unwrap();
        self.stream.write_all(data).unwrap();
    }

    fn bytes(&mut self, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn header(&mut self) -> Option<Reply> {
        let mut bytes = Vec::new();
        loop {
            if let Some((reply, _)) = Reply::decode(self.style, &bytes).unwrap() {
                return Some(reply);
            }
            let mut byte = [0];
            self.stream.read_exact(&mut byte).ok()?;
            bytes.push(byte[0]);
        }
    }

    /// Receives the whole reply to `request`, the only one under way.
    fn answer(&mut self, request: &Request) -> Answer {
        let mut answer = Answer::Done;
        loop {
            let reply = self.header().expect("the connection is there");
            assert_eq!(reply.cookie(), request.cookie);
            let payload = self.bytes(reply.payload_bytes(request));
            let end = match reply {
                Reply::Simple {
                    result: Err(errno), ..
                } => return Answer::Failed(errno),
                Reply::Simple { .. } if request.command == Command::Read => {
                    return Answer::Data(payload);
                }
                Reply::Simple { .. } => return Answer::Done,
                Reply::Chunk { end, body, .. } => {
                    answer = merged(answer, request, body, payload);
                    end
                }
            };
            if end == ChunkEnd::Done {
                return answer;
            }
        }
    }

    fn call(&mut self, request: Request, data: &[u8]) -> Answer {
        self.send(&request, data);
        self.answer(&request)
    }

    fn read(&mut self, offset_bytes: u64, len_bytes: u64) -> Result<Vec<u8>, Errno> {
        let request = self.request(Command::Read, offset_bytes, len_bytes);
        match self.call(request, &[]) {
            Answer::Data(data) => Ok(data),
            Answer::Failed(errno) => Err(errno),
            other => panic!("{other:?}"),
        }
    }

    fn write(&mut self, offset_bytes: u64, data: &[u8]) -> Answer {
        let len_bytes = u64::try_from(data.len()).unwrap();
        let request = self.request(Command::Write, offset_bytes, len_bytes);
        self.call(request, data)
    }

    fn plain(&mut self, command: Command, offset_bytes: u64, len_bytes: u64) -> Answer {
        let request = self.request(command, offset_bytes, len_bytes);
        self.call(request, &[])
    }

    fn is_over(&mut self) -> bool {
        self.stream.read_exact(&mut [0]).is_err()
    }
}

/// Puts a chunk of a reply to what came before.
fn merged(before: Answer, request: &Request, body: ChunkBody, payload: Vec<u8>) -> Answer {
    match (body, before) {
        (ChunkBody::None, before) => before,
        (ChunkBody::Data { offset_bytes, .. }, Answer::Done) => {
            assert_eq!(offset_bytes, request.offset_bytes);
            Answer::Data(payload)
        }
        (ChunkBody::Data { offset_bytes, .. }, Answer::Data(mut data)) => {
            let have = u64::try_from(data.len()).unwrap();
            assert_eq!(offset_bytes, request.offset_bytes + have);
            data.extend(payload);
            Answer::Data(data)
        }
        (ChunkBody::Error { shape, .. }, _) => {
            Answer::Failed(ErrorReport::decode(shape, &payload).unwrap().errno)
        }
        (ChunkBody::BlockStatus { .. }, Answer::Done) => {
            Answer::Status(BlockStatus::decode(&payload).unwrap().extents)
        }
        (body, before) => panic!("{body:?} after {before:?}"),
    }
}

/// Bytes that differ from their neighbours.
fn pattern(len: u64, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        })
        .collect()
}

#[test]
fn what_is_written_is_read_by_everybody() {
    on_both(|world| {
        let (mut one, mut other) = (world.client(), world.client());
        let mut old = Client::connect_simple(world.raw(), "disk");
        for (offset, len) in [
            (0, 4096),
            (5, 1),
            (4096 * 3 - 7, 70_001),
            (DISK_BYTES - 9, 9),
        ] {
            let data = pattern(len, offset);
            assert_eq!(one.write(offset, &data), Answer::Done);
            assert_eq!(other.read(offset, len).unwrap(), data);
            assert_eq!(old.read(offset, len).unwrap(), data);
        }
        assert_eq!(one.plain(Command::Flush, 0, 0), Answer::Done);
        assert_eq!(one.limits.size_bytes, DISK_BYTES);
        assert_eq!(old.limits.size_bytes, DISK_BYTES);
        let counters = world.export.counters();
        assert_eq!((counters.connections, counters.connections_now), (3, 3));
        assert_eq!(
            (counters.reads, counters.writes, counters.flushes),
            (8, 4, 1)
        );
        assert_eq!(counters.written_bytes, 4096 + 1 + 70_001 + 9);
        assert_eq!(counters.errors, 0);
    });
}

#[test]
fn requests_of_no_length_are_answered() {
    on_both(|world| {
        for mut client in [world.client(), Client::connect_simple(world.raw(), "disk")] {
            assert_eq!(client.write(7, &[]), Answer::Done);
            let request = client.request(Command::Read, 7, 0);
            let answer = client.call(request, &[]);
            assert!(
                matches!(&answer, Answer::Data(data) if data.is_empty()) || answer == Answer::Done
            );
            assert_eq!(client.plain(Command::Trim, 7, 0), Answer::Done);
        }
    });
}

#[test]
fn zeroes_and_holes_are_told_apart_from_data() {
    on_both(|world| {
        let mut client = world.client();
        assert_eq!(client.write(MIB, &pattern(2 * MIB, 1)), Answer::Done);
        let mut zeroes = client.request(Command::WriteZeroes, MIB, MIB);
        zeroes.flags = CommandFlags::FUA;
        assert_eq!(client.call(zeroes, &[]), Answer::Done);
        assert_eq!(
            client.read(MIB, MIB).unwrap(),
            vec![0; usize::try_from(MIB).unwrap()]
        );

        let hole = STATE_HOLE | STATE_ZERO;
        let extent = |len_bytes, flags| StatusExtent { len_bytes, flags };
        let status = client.plain(Command::BlockStatus, 0, DISK_BYTES);
        let want = vec![
            extent(2 * MIB, hole),
            extent(MIB, 0),
            extent(DISK_BYTES - 3 * MIB, hole),
        ];
        assert_eq!(status, Answer::Status(want));
        let mut one = client.request(Command::BlockStatus, 0, DISK_BYTES);
        one.flags = CommandFlags::REQ_ONE;
        assert_eq!(
            client.call(one, &[]),
            Answer::Status(vec![extent(2 * MIB, hole)])
        );

        assert_eq!(client.plain(Command::Trim, 2 * MIB, MIB), Answer::Done);
        assert_eq!(world.export.counters().discards, 1);
    });
}

#[test]
fn a_request_that_fails_is_answered_and_the_connection_goes_on() {
    on_both(|world| {
        let node = &world.node;
        let read_only = world
            .server()
            .add_export(ExportOptions::new("ro", node))
            .unwrap();
        assert_eq!(read_only.name(), "ro");
        let mut reader = Client::connect(world.raw(), "ro").unwrap();
        assert_eq!(reader.write(0, &[1; 100_000]), Answer::Failed(Errno::Perm));
        assert_eq!(
            reader.plain(Command::Trim, 0, 512),
            Answer::Failed(Errno::Perm)
        );
        assert_eq!(reader.read(0, 3).unwrap(), [0; 3]);

        for mut client in [world.client(), Client::connect_simple(world.raw(), "disk")] {
            assert_eq!(client.write(DISK_BYTES, &[1]), Answer::Failed(Errno::NoSpc));
            assert_eq!(client.read(DISK_BYTES - 1, 2), Err(Errno::Inval));
            let unknown = client.plain(Command::Unknown(99), 0, 0);
            assert_eq!(unknown, Answer::Failed(Errno::Inval));
            let too_long = pattern(u64::from(MAX_TRANSFER_BYTES) + 1, 0);
            assert_eq!(client.write(0, &too_long), Answer::Failed(Errno::Inval));

            let eio = FaultAction::Fail { errno: libc::EIO };
            let enospc = FaultAction::Fail {
                errno: libc::ENOSPC,
            };
            world.faults.add(FaultRule::nth(FaultOp::Read, 1, eio));
            world.faults.add(FaultRule::nth(FaultOp::Write, 1, enospc));
            assert_eq!(client.read(0, 4096), Err(Errno::Io));
            assert_eq!(client.write(0, &[1; 4096]), Answer::Failed(Errno::NoSpc));
            assert_eq!(client.read(0, 4096).unwrap(), [0; 4096]);
            world.faults.clear();
        }
        assert_eq!(world.export.counters().errors, 4);
    });
}

#[test]
fn zeroes_that_cannot_be_fast_are_told_so() {
    on_both(|world| {
        let mut client = world.client();
        let slow = FaultAction::Fail {
            errno: libc::EOPNOTSUPP,
        };
        world
            .faults
            .add(FaultRule::every(FaultOp::WriteZeroes, slow));
        let mut zeroes = client.request(Command::WriteZeroes, 0, 4096);
        zeroes.flags = CommandFlags::FAST_ZERO;
        assert_eq!(client.call(zeroes, &[]), Answer::Failed(Errno::NotSup));
        assert_eq!(client.plain(Command::WriteZeroes, 0, 4096), Answer::Done);
    });
}

#[test]
fn the_longest_transfers_come_through_whole() {
    on_both(|world| {
        let data = pattern(u64::from(MAX_TRANSFER_BYTES), 3);
        for mut client in [world.client(), Client::connect_simple(world.raw(), "disk")] {
            assert_eq!(client.write(MIB + 1, &data), Answer::Done);
            assert!(client.read(MIB + 1, MAX_TRANSFER_BYTES.into()).unwrap() == data);
        }
        let mut client = world.client();
        let mut whole = client.request(Command::Read, MIB + 1, MAX_TRANSFER_BYTES.into());
        whole.flags = CommandFlags::DF;
        assert!(client.call(whole, &[]) == Answer::Data(data));
    });
}

#[test]
fn a_long_read_that_fails_half_way_is_told_where_the_protocol_can() {
    on_both(|world| {
        let eio = FaultAction::Fail { errno: libc::EIO };
        let bad = FaultRule::every(FaultOp::Read, eio);
        world
            .faults
            .add(bad.within(ByteRange::between(7 * MIB, 7 * MIB + 1)));

        let mut client = world.client();
        assert_eq!(client.read(0, 16 * MIB), Err(Errno::Io));
        assert_eq!(client.read(7 * MIB, 16 * MIB), Err(Errno::Io));
        assert_eq!(client.read(0, 1).unwrap(), [0]);

        let mut old = Client::connect_simple(world.raw(), "disk");
        assert_eq!(old.read(7 * MIB, 16 * MIB), Err(Errno::Io));
        let request = old.request(Command::Read, 0, 16 * MIB);
        old.send(&request, &[]);
        let mut all = Vec::new();
        assert!(old.stream.read_to_end(&mut all).is_ok());
        assert!(u64::try_from(all.len()).unwrap() < 16 * MIB, "cut short");
    });
}

fn write_and_read(mut client: Client, index: u64) {
    for round in 0..40 {
        let offset = index * 8 * MIB + round * 130_003;
        let data = pattern(1 + round * 3001, index * 100 + round);
        assert_eq!(client.write(offset, &data), Answer::Done);
        let len = u64::try_from(data.len()).unwrap();
        assert!(client.read(offset, len).unwrap() == data);
    }
    assert_eq!(client.plain(Command::Flush, 0, 0), Answer::Done);
}

#[test]
fn eight_clients_at_once_do_not_meet() {
    on_both(|world| {
        let world = &*world;
        std::thread::scope(|scope| {
            for index in 0..8 {
                let client = world.client();
                scope.spawn(move || write_and_read(client, index));
            }
        });
        assert_eq!(world.export.counters().errors, 0);
    });
}

#[test]
fn many_requests_at_once_are_all_answered() {
    on_both(|world| {
        let mut client = world.client();
        let mut stream = client.stream.try_clone().unwrap();
        let requests: Vec<_> = (0..1000)
            .map(|index| client.request(Command::Read, index * 4096, 4096))
            .collect();
        let headers = requests
            .iter()
            .map(|request| request.encode(HeaderMode::Compact));
        let sent: Vec<u8> = headers.flat_map(|header| header.to_vec()).collect();
        std::thread::scope(|scope| {
            scope.spawn(move || stream.write_all(&sent).unwrap());
            let mut left: std::collections::HashSet<_> =
                requests.iter().map(|request| request.cookie).collect();
            for _ in 0..1000 {
                let reply = client.header().unwrap();
                assert!(left.remove(&reply.cookie()), "one answer each");
                client.bytes(4096);
            }
        });
    });
}

#[test]
fn large_writes_are_not_copied() {
    on_both(|world| {
        let mut client = world.client();
        let data = pattern(256 << 10, 9);
        for index in 0..32 {
            assert_eq!(client.write(index * MIB, &data), Answer::Done);
        }
        let counters = world.export.counters();
        assert_eq!(counters.written_bytes, 32 * (256 << 10));
        let staged_once = 64 << 10;
        assert!(counters.bounced_bytes <= staged_once, "{counters:?}");
    });
}

#[test]
fn large_writes_go_to_the_disk_from_the_buffer_that_the_client_filled() {
    on_both(|world| {
        let path = world.dir.path().join("disk.img");
        std::fs::File::create(&path)
            .unwrap()
            .set_len(16 * MIB)
            .unwrap();
        let file = FileNode::open(&FileOptions::new(&path)).unwrap();
        let node = world.graph.add_node(Some("file"), file).unwrap();
        let options = ExportOptions {
            writable: true,
            ..ExportOptions::new("file", &node)
        };
        let export = world.server().add_export(options).unwrap();
        let mut client = Client::connect(world.raw(), "file").unwrap();
        let data = pattern(256 << 10, 5);
        for index in 0..32 {
            assert_eq!(client.write(index * (256 << 10), &data), Answer::Done);
        }
        assert_eq!(node.statistics().written_bytes, 8 * MIB);
        assert_eq!(
            node.statistics().bounced,
            0,
            "no second buffer on the way down"
        );
        // Nobody can tell a large write from others before its header has come.
        let staged_once = 64 << 10;
        assert!(export.counters().bounced_bytes <= staged_once);
        assert!(std::fs::read(&path).unwrap()[..256 << 10] == data[..]);
    });
}

#[test]
fn a_client_that_dies_in_the_middle_of_a_write_leaves_nothing_behind() {
    on_both(|world| {
        let mut client = world.client();
        let request = client.request(Command::Write, 0, 8 * MIB);
        client.send(&request, &[1; 100_000]);
        let reads: Vec<_> = (0..10)
            .map(|index| client.request(Command::Read, index, MIB))
            .collect();
        drop(client);
        let mut client = world.client();
        for read in &reads {
            client.send(read, &[]);
        }
        drop(client);
        world.wait_until(|| world.export.counters().connections_now == 0);
        assert_eq!(world.client().read(0, 5).unwrap(), [0; 5]);
        let in_use = world.run(|cx| async move { cx.buffers().bytes_in_use() });
        assert_eq!(in_use, 0);
    });
}

#[test]
fn a_handshake_that_takes_too_long_is_ended() {
    let options = NbdServerOptions {
        handshake_ns_max: 100_000_000,
        ..NbdServerOptions::default()
    };
    on_both_with(options, |world| {
        let mut stream = world.raw();
        let mut client = world.client();
        let mut greeting = Vec::new();
        stream.read_to_end(&mut greeting).unwrap();
        assert_eq!(greeting.len(), 18);
        // Whoever has chosen may take his time.
        world.pause(200_000_000);
        assert_eq!(client.read(0, 1).unwrap(), [0]);
    });
}

#[test]
fn clients_that_never_read_hold_up_neither_others_nor_the_end() {
    on_both(|world| {
        let stuck: Vec<_> = (0..6)
            .map(|_| {
                let mut client = world.client();
                for index in 0..200 {
                    let request = client.request(Command::Read, index * 4096, 2 * MIB);
                    client.send(&request, &[]);
                }
                client
            })
            .collect();
        world.pause(100_000_000);
        let in_use = world.run(|cx| async move { cx.buffers().bytes_in_use() });
        assert!(in_use <= 32 << 20, "half of the pool at most: {in_use}");

        let mut client = world.client();
        let data = pattern(3 * MIB, 4);
        for _ in 0..5 {
            assert_eq!(client.write(0, &data), Answer::Done);
            assert!(client.read(0, 3 * MIB).unwrap() == data);
        }

        let began = Instant::now();
        world.server.take().unwrap().stop();
        assert!(
            began.elapsed() < Duration::from_millis(1500),
            "{:?}",
            began.elapsed()
        );
        assert!(!world.socket().exists());
        assert!(client.is_over());
        drop(stuck);
    });
}

#[test]
fn garbage_ends_the_connection_and_nothing_else() {
    on_both(|world| {
        for seed in 0..30 {
            let mut stream = world.raw();
            // The server may hang up in the middle.
            let _ = stream.write_all(&pattern(5000, seed));
            let _ = stream.read_to_end(&mut Vec::new());

            let mut client = world.client();
            let _ = client.stream.write_all(&pattern(5000, seed));
            assert!(client.is_over());
        }
        assert_eq!(world.client().read(0, 1).unwrap(), [0]);
        assert!(Client::connect(world.raw(), "nonsense").is_err());
    });
}

#[test]
fn a_drained_node_holds_old_clients_and_new_ones() {
    on_both(|world| {
        let mut old = world.client();
        assert_eq!(old.write(0, &[1; 512]), Answer::Done);
        let (graph, node) = (world.graph.clone(), world.node.clone());
        let section = world.run(move |_| async move { graph.drain(&[node]).await });
        let before = world.node.statistics().writes;

        let from_old = old.request(Command::Write, 0, 512);
        old.send(&from_old, &[2; 512]);
        let mut new = world.client();
        let from_new = new.request(Command::Write, 512, 512);
        new.send(&from_new, &[3; 512]);
        world.pause(100_000_000);
        assert_eq!(world.node.statistics().writes, before);
        assert!(world.node.is_quiesced());

        drop(section);
        assert_eq!(old.answer(&from_old), Answer::Done);
        assert_eq!(new.answer(&from_new), Answer::Done);
        assert_eq!(world.node.statistics().writes, before + 2);
    });
}

#[test]
fn a_drain_waits_for_what_is_under_way_and_for_no_client() {
    on_both(|world| {
        let mut client = world.client();
        // Half of its data is still to come: not under way.
        let mut slow = world.client();
        let request = slow.request(Command::Write, 0, 8 * MIB);
        slow.send(&request, &[1; 1000]);
        world
            .faults
            .add(FaultRule::nth(FaultOp::Read, 1, FaultAction::Hold));
        let read = client.request(Command::Read, 0, 512);
        client.send(&read, &[]);
        let faults = world.faults.clone();
        let held = world.run(move |_| async move { faults.wait_held(1).await });

        let (graph, node) = (world.graph.clone(), world.node.clone());
        let drained = Arc::new(AtomicBool::new(false));
        let seen = drained.clone();
        let draining = world.thread.handle().spawn(move |_| async move {
            let section = graph.drain(&[node]).await;
            seen.store(true, Ordering::SeqCst);
            section
        });
        world.pause(50_000_000);
        assert!(!drained.load(Ordering::SeqCst));
        world.faults.release(held[0].id);
        drop(draining.wait());
        assert_eq!(client.answer(&read), Answer::Data(vec![0; 512]));
    });
}

#[test]
fn a_stop_does_not_wait_for_the_end_of_a_drained_section() {
    on_both(|world| {
        let (graph, node) = (world.graph.clone(), world.node.clone());
        // One whose request has begun, and will wait with its first piece.
        let mut slow = world.client();
        let long = slow.request(Command::Write, 0, 8 * MIB);
        slow.send(&long, &[1; 1000]);
        world.pause(20_000_000);
        let section = world.run(move |_| async move { graph.drain(&[node]).await });
        let rest = slow.stream.try_clone().unwrap();
        rest.set_nonblocking(true).unwrap();
        world.wait_until(|| (&rest).write(&[1; 4096]).is_err());
        let mut client = world.client();
        let request = client.request(Command::Write, 0, 512);
        client.send(&request, &[2; 512]);
        world.pause(20_000_000);
        let began = Instant::now();
        world.server.take().unwrap().stop();
        assert!(began.elapsed() < Duration::from_millis(1000));
        assert_eq!(world.export.counters().connections_now, 0);
        drop(section);
        assert_eq!(world.node.statistics().writes, 0);
    });
}

#[test]
fn goodbye_is_said_after_all_replies() {
    on_both(|world| {
        let mut client = world.client();
        world
            .faults
            .add(FaultRule::every(FaultOp::Read, FaultAction::Hold));
        let reads: Vec<_> = (0..5)
            .map(|index| client.request(Command::Read, index * 512, 512))
            .collect();
        for read in &reads {
            client.send(read, &[]);
        }
        let goodbye = client.request(Command::Disc, 0, 0);
        client.send(&goodbye, &[]);
        let faults = world.faults.clone();
        world.run(move |_| async move { faults.wait_held(5).await });
        world.pause(20_000_000);
        world.faults.release_all();
        for _ in &reads {
            assert!(client.header().is_some());
            client.bytes(512);
        }
        assert!(client.is_over());
    });
}

#[test]
fn replies_come_in_the_order_in_which_requests_end() {
    on_both(|world| {
        let mut client = world.client();
        world
            .faults
            .add(FaultRule::nth(FaultOp::Read, 1, FaultAction::Hold));
        let slow = client.request(Command::Read, 0, 512);
        let fast = client.request(Command::Read, 512, 512);
        client.send(&slow, &[]);
        client.send(&fast, &[]);
        assert_eq!(client.answer(&fast), Answer::Data(vec![0; 512]));
        world.faults.release_all();
        assert_eq!(client.answer(&slow), Answer::Data(vec![0; 512]));
    });
}

fn write_until(client: &mut Client, stop: &AtomicBool) {
    let mut round = 0;
    while !stop.load(Ordering::SeqCst) {
        round += 1;
        let data = pattern(4096, round);
        assert_eq!(client.write(0, &data), Answer::Done);
        assert_eq!(client.read(0, 4096).unwrap(), data);
    }
}

#[test]
fn a_filter_comes_and_goes_under_load() {
    on_both(|world| {
        let mut client = world.client();
        let stop = AtomicBool::new(false);
        let watched = FaultControl::new();
        let filter = fault_node(&world.graph, &world.node, watched.clone());
        std::thread::scope(|scope| {
            scope.spawn(|| write_until(&mut client, &stop));
            let (graph, node, above) = (world.graph.clone(), world.node.clone(), filter.clone());
            world
                .run(move |_| async move { graph.insert_filter(&node, &above).await })
                .unwrap();
            world.wait_until(|| watched.seen().len() > 20);
            let (graph, above) = (world.graph.clone(), filter.clone());
            world
                .run(move |_| async move { graph.remove_filter(&above).await })
                .unwrap();
            stop.store(true, Ordering::SeqCst);
        });
        world.graph.remove_node(&filter).unwrap();
    });
}

#[test]
fn an_export_in_use_is_removed_by_force_only() {
    on_both(|world| {
        let mut client = world.client();
        let export = world.export.clone();
        let refused = world.run(move |_| async move { export.remove(RemoveMode::Safe).await });
        assert_eq!(
            refused.unwrap_err().to_string(),
            "export 'disk' still in use"
        );
        assert_eq!(client.read(0, 1).unwrap(), [0]);

        let export = world.export.clone();
        world
            .run(move |_| async move { export.remove(RemoveMode::Hard).await })
            .unwrap();
        assert!(client.is_over());
        assert!(Client::connect(world.raw(), "disk").is_err());
        assert!(world.server().exports().is_empty());
        world.graph.remove_node(&world.node).unwrap();
    });
}

#[test]
fn permissions_and_names_are_checked_when_an_export_is_added() {
    on_both(|world| {
        let taken = world
            .server()
            .add_export(ExportOptions::new("disk", &world.node));
        let text = taken.unwrap_err().to_string();
        assert_eq!(text, "NBD server already has export named 'disk'");
        let long = "n".repeat(5000);
        let refused = world
            .server()
            .add_export(ExportOptions::new(long, &world.node));
        assert!(matches!(refused, Err(ExportError::NameTooLong(_))));

        let below = world.graph.node("memory").unwrap();
        let edges = world.graph.edges();
        let export = edges
            .iter()
            .find(|edge| edge.parent == "export 'disk'")
            .unwrap();
        let wants = Permissions::uses(&[Permission::ConsistentRead, Permission::Write]);
        assert_eq!(export.permissions.uses, wants.uses);
        assert_eq!(
            export.permissions.shares,
            wants.unsharing(&[Permission::Resize]).shares
        );

        let read_only = MemoryOptions {
            read_only: true,
            ..MemoryOptions::new(512)
        };
        let read_only = MemoryNode::new(read_only).unwrap();
        let read_only = world.graph.add_node(None, read_only).unwrap();
        let refused = world.server().add_export(ExportOptions {
            writable: true,
            ..ExportOptions::new("x", &read_only)
        });
        assert!(matches!(refused, Err(ExportError::Node(_))));
        assert_eq!(world.server().exports().len(), 1);
        drop(below);
    });
}

#[test]
fn the_socket_is_the_owners_alone_and_goes_with_the_server() {
    on_both(|world| {
        let mode = std::fs::metadata(world.socket())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let address = world.server().address().clone();
        let start = || {
            let options = NbdServerOptions::default();
            NbdServer::start(world.thread.handle(), &world.graph, &address, options)
        };
        assert!(matches!(start(), Err(ExportError::AddressInUse(_))));
        drop(world.server.take());
        assert!(!world.socket().exists());

        // What a server that was killed leaves.
        drop(UnixListener::bind(world.socket()).unwrap());
        drop(start().unwrap());
        std::fs::write(world.socket(), "precious").unwrap();
        assert!(matches!(start(), Err(ExportError::NotASocket(_))));
        assert_eq!(std::fs::read(world.socket()).unwrap(), b"precious");
    });
}

#[test]
fn a_socket_that_is_no_longer_ours_is_left_alone() {
    on_both(|world| {
        std::fs::remove_file(world.socket()).unwrap();
        let other = UnixListener::bind(world.socket()).unwrap();
        drop(world.server.take());
        assert!(world.socket().exists());
        drop(other);
    });
}

#[test]
fn tcp_is_for_this_host_unless_it_is_asked_for() {
    on_both(|world| {
        let start = |address: &str, reach| {
            let address = NbdAddress::Tcp(address.parse::<SocketAddr>().unwrap());
            let options = NbdServerOptions {
                reach,
                ..NbdServerOptions::default()
            };
            NbdServer::start(world.thread.handle(), &world.graph, &address, options)
        };
        let refused = start("0.0.0.0:0", Reach::Loopback);
        assert!(matches!(refused, Err(ExportError::NotLoopback(_))));
        let server = start("0.0.0.0:0", Reach::Anywhere).unwrap();
        let NbdAddress::Tcp(address) = server.address() else {
            panic!("a TCP server");
        };
        let again = start(&address.to_string(), Reach::Anywhere);
        assert!(matches!(again, Err(ExportError::AddressInUse(_))));
        let uri = start("127.0.0.1:0", Reach::Loopback)
            .unwrap()
            .uri("x")
            .to_string();
        assert!(
            uri.starts_with("nbd://127.0.0.1:") && uri.ends_with("/x"),
            "{uri}"
        );
    });
}

#[test]
fn more_clients_than_allowed_wait_for_their_turn() {
    let options = NbdServerOptions {
        clients_max: 2,
        ..NbdServerOptions::default()
    };
    on_both_with(options, |world| {
        let (first, _second) = (world.client(), world.client());
        let third = world.raw();
        third
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        assert!(Client::connect(third, "disk").is_err());
        let mut fourth = world.raw();
        drop(first);
        fourth.read_exact(&mut [0; 18]).unwrap();
    });
}

#[test]
fn a_server_outlives_its_context() {
    on_both(|world| {
        let mut client = world.client();
        let config = Config::default();
        let thread = std::mem::replace(&mut world.thread, IoThread::start(config).unwrap());
        drop(thread);
        let began = Instant::now();
        let late = world
            .server()
            .add_export(ExportOptions::new("late", &world.node));
        assert!(matches!(late, Err(ExportError::Stopped)));
        drop(world.server.take());
        assert!(began.elapsed() < Duration::from_millis(500));
        assert!(client.is_over());
        world.graph.remove_node(&world.node).unwrap();
    });
}

/// Runs in a process of its own, which has few descriptors.
#[test]
fn without_descriptors_accepting_backs_off_and_goes_on() {
    const NAME: &str = "without_descriptors_accepting_backs_off_and_goes_on";
    const FEW: &str = "LONGSHORE_TEST_FEW_DESCRIPTORS";
    if std::env::var_os(FEW).is_none() {
        let test = std::env::current_exe().unwrap();
        let command = format!("ulimit -n 64 && exec {} --exact {NAME}", test.display());
        let child = Process::new("sh")
            .args(["-c", &command])
            .env(FEW, "1")
            .output()
            .unwrap();
        assert!(
            child.status.success(),
            "{}",
            String::from_utf8_lossy(&child.stdout)
        );
        return;
    }
    on_both(|world| {
        let mut all = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            all.push(file);
        }
        drop(all.pop());
        let mut stream = world.raw();
        let turns = |world: &World| world.run(|cx| async move { cx.stats().turns });
        let before = turns(world);
        world.pause(500_000_000);
        let spun = turns(world) - before;
        assert!(spun < 100, "{spun} turns in half a second");
        all.clear();
        stream.read_exact(&mut [0; 18]).unwrap();
        assert!(Client::connect(world.raw(), "disk").is_ok());
    });
}
