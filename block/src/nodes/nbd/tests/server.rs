//! A server of one disk in memory, on threads of its own, that also does what no server should.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

use ::nbd::{
    BASE_ALLOCATION, BlockSizes, ChunkEnd, Command, ExportInfo, NbdAddress, NbdUri, Negotiation,
    Outcome, Request, STATE_HOLE, STATE_ZERO, Session, StatusExtent, TransmissionFlags,
    block_status_chunk,
};

pub(super) const DISK_BYTES: u64 = 1 << 20;

/// What to do with a request.
pub(super) enum Act {
    /// What it says.
    Serve,
    /// Send these bytes instead of a reply.
    Say(Vec<u8>),
    /// Never answer it.
    Ignore,
    /// Close the connection.
    HangUp,
}

type Behaviour = Box<dyn FnMut(&Request) -> Act + Send>;

struct Shared {
    disk: Mutex<Vec<u8>>,
    info: Mutex<ExportInfo>,
    behaviour: Mutex<Behaviour>,
    seen: Mutex<Vec<Request>>,
    clients: Mutex<Vec<UnixStream>>,
    accepted: AtomicUsize,
    is_up: AtomicBool,
}

/// The server. Dropping it ends it.
pub(super) struct TestServer {
    dir: tempfile::TempDir,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

pub(super) fn everything() -> TransmissionFlags {
    TransmissionFlags::SEND_FLUSH
        | TransmissionFlags::SEND_FUA
        | TransmissionFlags::SEND_TRIM
        | TransmissionFlags::SEND_WRITE_ZEROES
        | TransmissionFlags::SEND_FAST_ZERO
        | TransmissionFlags::CAN_MULTI_CONN
}

impl TestServer {
    pub(super) fn start() -> Self {
        Self::with(|_| {})
    }

    /// A server whose export is changed by `change` before anybody sees it.
    pub(super) fn with(change: impl FnOnce(&mut ExportInfo)) -> Self {
        let mut info = ExportInfo {
            name: "disk".to_owned(),
            description: String::new(),
            size_bytes: DISK_BYTES,
            flags: everything(),
            block_sizes: BlockSizes::default(),
            contexts: vec!["test:other".to_owned(), BASE_ALLOCATION.to_owned()],
        };
        change(&mut info);
        let shared = Shared {
            disk: Mutex::new(vec![0; usize::try_from(DISK_BYTES).unwrap()]),
            info: Mutex::new(info),
            behaviour: Mutex::new(Box::new(|_| Act::Serve)),
            seen: Mutex::default(),
            clients: Mutex::default(),
            accepted: AtomicUsize::new(0),
            is_up: AtomicBool::new(false),
        };
        let mut server = Self {
            dir: tempfile::tempdir().unwrap(),
            shared: Arc::new(shared),
            listening: None,
        };
        server.listen();
        server
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("nbd.sock")
    }

    pub(super) fn uri(&self) -> NbdUri {
        NbdUri {
            address: NbdAddress::Unix(self.socket()),
            export: "disk".to_owned(),
        }
    }

    /// Begins to listen, again.
    pub(super) fn listen(&mut self) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        let shared = self.shared.clone();
        shared.is_up.store(true, Ordering::SeqCst);
        self.listening = Some(std::thread::spawn(move || {
            let clients = listener.incoming();
            for client in clients.take_while(|_| shared.is_up.load(Ordering::SeqCst)) {
                welcome(&shared, client.unwrap());
            }
        }));
    }

    /// Ends all connections and takes no more.
    pub(super) fn kill(&mut self) {
        self.shared.is_up.store(false, Ordering::SeqCst);
        let listening = self.listening.take().unwrap();
        drop(UnixStream::connect(self.socket()));
        listening.join().unwrap();
        std::fs::remove_file(self.socket()).unwrap();
        self.hang_up();
    }

    /// Ends all connections.
    pub(super) fn hang_up(&self) {
        for client in self.shared.clients.lock().unwrap().drain(..) {
            let _ = client.shutdown(Shutdown::Both);
        }
    }

    /// From now on requests are answered as `behaviour` says.
    pub(super) fn behave(&self, behaviour: impl FnMut(&Request) -> Act + Send + 'static) {
        *self.shared.behaviour.lock().unwrap() = Box::new(behaviour);
    }

    /// Changes what new clients are told of the export.
    pub(super) fn change(&self, change: impl FnOnce(&mut ExportInfo)) {
        change(&mut self.shared.info.lock().unwrap());
    }

    /// The requests so far.
    pub(super) fn seen(&self) -> Vec<Request> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// How many clients have come so far.
    pub(super) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    pub(super) fn disk(&self) -> Vec<u8> {
        self.shared.disk.lock().unwrap().clone()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if self.listening.is_some() {
            self.kill();
        }
    }
}

fn welcome(shared: &Arc<Shared>, client: UnixStream) {
    let other_end = client.try_clone().unwrap();
    shared.clients.lock().unwrap().push(other_end);
    shared.accepted.fetch_add(1, Ordering::SeqCst);
    let shared = shared.clone();
    std::thread::spawn(move || serve(&shared, client));
}

fn negotiate(shared: &Shared, client: &mut UnixStream) -> Option<Session> {
    let mut negotiation = Negotiation::new();
    let mut byte = [0];
    loop {
        client.write_all(&negotiation.take_output()).ok()?;
        match negotiation.outcome() {
            Some(Outcome::Transmission(session)) => return Some(session.clone()),
            Some(Outcome::Aborted) => return None,
            None => {}
        }
        client.read_exact(&mut byte).ok()?;
        let info = shared.info.lock().unwrap().clone();
        negotiation.input(&byte, &[info]).ok()?;
    }
}

fn serve(shared: &Shared, mut client: UnixStream) -> Option<()> {
    let session = negotiate(shared, &mut client)?;
    loop {
        let mut header = [0; 28];
        client.read_exact(&mut header).ok()?;
        let (request, _) = Request::decode(session.headers, &header).ok()??;
        let mut data = vec![0; usize::try_from(request.payload_bytes(session.headers)).unwrap()];
        client.read_exact(&mut data).ok()?;
        shared.seen.lock().unwrap().push(request);
        let act = (shared.behaviour.lock().unwrap())(&request);
        match act {
            Act::Serve if request.command == Command::Disc => return None,
            Act::Serve => client
                .write_all(&answer(shared, &session, &request, &data))
                .ok()?,
            Act::Say(bytes) => client.write_all(&bytes).ok()?,
            Act::Ignore => {}
            Act::HangUp => {
                let _ = client.shutdown(Shutdown::Both);
                return None;
            }
        }
    }
}

fn answer(shared: &Shared, session: &Session, request: &Request, data: &[u8]) -> Vec<u8> {
    if let Err(errno) = request.check(&session.limits) {
        return session
            .replies
            .error(request.cookie, errno, "refused")
            .to_vec();
    }
    let mut disk = shared.disk.lock().unwrap();
    let start = usize::try_from(request.offset_bytes).unwrap();
    let range = start..start + usize::try_from(request.len_bytes).unwrap();
    match request.command {
        Command::Read => {
            let header = session.replies.read_data(request);
            return [&header[..], &disk[range]].concat();
        }
        Command::Write => disk[range].copy_from_slice(data),
        Command::WriteZeroes | Command::Trim => disk[range].fill(0),
        Command::BlockStatus => {
            let mut out = Vec::new();
            let is_zero = |byte: &u8| *byte == 0;
            let first = is_zero(&disk[start]);
            let len = disk[start..]
                .iter()
                .take_while(|&byte| is_zero(byte) == first)
                .count();
            let extent = StatusExtent {
                len_bytes: u64::try_from(len).unwrap(),
                flags: if first { STATE_HOLE | STATE_ZERO } else { 0 },
            };
            let id = session.contexts.first().map_or(0, |context| context.id);
            block_status_chunk(&mut out, request, id, &[extent], ChunkEnd::Done);
            return out;
        }
        _ => {}
    }
    session.replies.done(request, session.headers).to_vec()
}
