//! [`Chardevs`]: where the clients of monitors come from: sockets that listen, sockets that connect out, a terminal.

mod ringbuf;
mod types;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt,
    future::pending,
    io::{self, Read, Write},
    net::{SocketAddr, ToSocketAddrs},
    os::unix::net::UnixStream,
    path::PathBuf,
    rc::Rc,
    thread,
};

use aio::{Address, AioContext, Fd};
use nbd::NbdAddress;
use qmp::QmpError;

use self::{
    ringbuf::RingBuffer,
    types::{ChardevAdd, ChardevId, ChardevInfo, ChardevKind, ChardevOptions, Patience},
};
use super::{
    Daemon,
    command::Command,
    error::{self, IntoQmp},
    monitor,
    objects::check_id,
};
use crate::export::{ExportError, Reach, listen::Listener};

/// The chardevs by id.
#[derive(Debug, Default)]
pub(crate) struct Chardevs {
    by_id: RefCell<BTreeMap<String, Rc<Chardev>>>,
}

/// One way for clients to come.
#[derive(Debug)]
pub(super) struct Chardev {
    id: String,
    way: Way,
    /// A monitor has it.
    is_taken: Cell<bool>,
    /// A client is there.
    is_connected: Cell<bool>,
    /// A client that is there before its monitor.
    early: RefCell<Option<Fd>>,
}

#[derive(Debug)]
enum Way {
    /// Nobody ever comes.
    Null,
    /// Nobody ever comes; what is written is kept for those who ask for it.
    Remember(RingBuffer),
    /// Standard input and output; one client, who is there from the start.
    Terminal,
    /// Clients connect to a socket of ours.
    Listen(Listener),
    /// We connect to the client, and again after the given time if it has left.
    Connect {
        address: Address,
        again_ns: Option<u64>,
    },
}

/// The commands of this file.
pub(super) fn commands() -> Vec<Command> {
    let mut commands = vec![
        Command::new("chardev", chardev).line_only(),
        Command::new("chardev-add", chardev_add),
        Command::new("chardev-change", chardev_change),
        Command::new("chardev-send-break", chardev_send_break),
        Command::new("chardev-remove", chardev_remove),
        Command::new("query-chardev-backends", query_chardev_backends),
        Command::new("query-chardev", query_chardev),
    ];
    commands.extend(ringbuf::commands());
    commands
}

/// `--chardev`.
async fn chardev(daemon: &Rc<Daemon>, options: ChardevOptions) -> Result<(), QmpError> {
    check_id(&options.id)?;
    let patience = Patience::of(options.wait.unwrap_or(true));
    make(daemon, options, patience).await
}

async fn make(
    daemon: &Rc<Daemon>,
    options: ChardevOptions,
    patience: Patience,
) -> Result<(), QmpError> {
    daemon.chardevs.check_free(&options.id)?;
    let chardev = open(daemon, options, patience).await?;
    daemon.chardevs.check_free(&chardev.id)?;
    let chardevs = &daemon.chardevs.by_id;
    chardevs.borrow_mut().insert(chardev.id.clone(), chardev);
    Ok(())
}

/// Connects out, or waits for the first client, where that is wanted.
async fn open(
    daemon: &Rc<Daemon>,
    options: ChardevOptions,
    patience: Patience,
) -> Result<Rc<Chardev>, QmpError> {
    let way = match options.backend.as_str() {
        "null" => Way::Null,
        "stdio" => Way::Terminal,
        "socket" => socket(daemon, &options).await?,
        "ringbuf" | "memory" => Way::Remember(RingBuffer::new(options.size.map(|size| size.0))?),
        other => {
            let text = format!("'{other}' is not a valid char driver name");
            return Err(QmpError::generic(text));
        }
    };
    let chardev = Chardev::new(options.id, way);
    chardev.meet_early(&daemon.context, patience).await?;
    Ok(chardev)
}

/// A monitor on a socket that the process was started with.
pub(super) fn adopt(daemon: &Rc<Daemon>, id: String, listener: Listener) -> Result<(), QmpError> {
    let chardev = Chardev::new(id.clone(), Way::Listen(listener));
    let chardevs = &daemon.chardevs.by_id;
    chardevs.borrow_mut().insert(id, chardev.clone());
    monitor::start(daemon, chardev, monitor::Layout::Line)
}

/// The socket that the options describe.
async fn socket(daemon: &Daemon, options: &ChardevOptions) -> Result<Way, QmpError> {
    let is_server = options.server.unwrap_or(false);
    let again_ns = match (options.reconnect, options.reconnect_ms) {
        (Some(_), Some(_)) => {
            let text = "'reconnect' and 'reconnect-ms' are mutually exclusive";
            return Err(QmpError::generic(text.to_owned()));
        }
        (Some(seconds), None) => u64::from(seconds) * 1_000_000_000,
        (None, milliseconds) => u64::from(milliseconds.unwrap_or(0)) * 1_000_000,
    };
    let address = match (&options.path, &options.host, &options.port) {
        (Some(path), None, None) => NbdAddress::Unix(PathBuf::from(path)),
        (None, host, Some(port)) => {
            let host = host.clone().unwrap_or_default();
            NbdAddress::Tcp(resolve(&daemon.context, host, port.clone()).await?)
        }
        (None, _, None) => {
            let text = "chardev: socket: neither 'path' nor 'port' is given";
            return Err(QmpError::generic(text.to_owned()));
        }
        (Some(_), _, _) => {
            let text = "chardev: socket: 'path' cannot be used with 'host' or 'port'";
            return Err(QmpError::generic(text.to_owned()));
        }
    };
    if is_server {
        return listen(&daemon.context, address).await;
    }
    let address = match address {
        NbdAddress::Unix(path) => Address::Unix(path),
        NbdAddress::Tcp(address) => Address::Ip(address),
        NbdAddress::Host { .. } => unreachable!("hosts are resolved above"),
    };
    Ok(Way::Connect {
        address,
        again_ns: (again_ns > 0).then_some(again_ns),
    })
}

/// Listens. Looking at the file system may take its time, so a worker does it.
async fn listen(context: &AioContext, address: NbdAddress) -> Result<Way, QmpError> {
    let place = match &address {
        NbdAddress::Unix(path) => path.display().to_string(),
        other => other.to_string(),
    };
    let bound = context
        .blocking(move || Listener::bind(&address, Reach::Loopback))
        .await;
    match bound {
        Ok(listener) => Ok(Way::Listen(listener)),
        Err(ExportError::Listen { source, .. }) => Err(error::system(
            format!("Failed to bind socket to {place}"),
            &source,
        )),
        Err(ExportError::AddressInUse(_)) => {
            let text = format!("Failed to bind socket to {place}: Address already in use");
            Err(QmpError::generic(text))
        }
        Err(refused) => Err(refused.into_qmp()),
    }
}

/// The address of a host and a port; no host is this one.
async fn resolve(context: &AioContext, host: String, port: String) -> Result<SocketAddr, QmpError> {
    let refused = |why: &str| {
        QmpError::generic(format!(
            "address resolution failed for {host}:{port}: {why}"
        ))
    };
    let number: u16 = port.parse().map_err(|_| refused("no such port"))?;
    let name = match host.as_str() {
        "" => "localhost".to_owned(),
        name => name.trim_matches(['[', ']']).to_owned(),
    };
    let found = context.blocking(move || -> io::Result<Vec<SocketAddr>> {
        Ok((name.as_str(), number).to_socket_addrs()?.collect())
    });
    let found = found.await.map_err(|error| refused(&error.to_string()))?;
    // Those who mean a host by its name expect its older address.
    let first = found.iter().find(|it| it.is_ipv4()).or(found.first());
    first.copied().ok_or_else(|| refused("no address"))
}

async fn chardev_add(daemon: &Rc<Daemon>, args: ChardevAdd) -> Result<(), QmpError> {
    let id = args.id.clone();
    let patience = Patience::of(args.backend.waits());
    daemon.chardevs.check_free(&id)?;
    let made = make(daemon, args.into_options(), patience).await;
    made.map_err(|error| cannot_add(&id, &error))
}

/// Puts another in the place of one that nobody uses. Until that is there, and if it cannot be, the old one stays.
async fn chardev_change(daemon: &Rc<Daemon>, args: ChardevAdd) -> Result<(), QmpError> {
    let id = args.id.clone();
    daemon.chardevs.check_unused(&id)?;
    let patience = Patience::of(args.backend.waits());
    let opened = open(daemon, args.into_options(), patience).await;
    let chardev = opened.map_err(|error| cannot_add(&id, &error))?;
    // Somebody may have come while it was opened.
    daemon.chardevs.check_unused(&id)?;
    daemon.chardevs.by_id.borrow_mut().insert(id, chardev);
    Ok(())
}

fn cannot_add(id: &str, error: &QmpError) -> QmpError {
    QmpError::generic(format!("Failed to add chardev '{id}': {}", error.desc))
}

/// Breaks are for serial lines, and there are none; to all others one is nothing.
async fn chardev_send_break(daemon: &Rc<Daemon>, args: ChardevId) -> Result<(), QmpError> {
    let found = daemon.chardevs.find(&args.id);
    found
        .map(drop)
        .ok_or_else(|| QmpError::generic(format!("Chardev '{}' not found", args.id)))
}

async fn query_chardev_backends(_: &Rc<Daemon>, (): ()) -> Result<Vec<ChardevKind>, QmpError> {
    let names = ["memory", "null", "ringbuf", "socket", "stdio"].map(|name| ChardevKind {
        name: name.to_owned(),
    });
    Ok(names.into())
}

async fn chardev_remove(daemon: &Rc<Daemon>, args: ChardevId) -> Result<(), QmpError> {
    let chardev = daemon.chardevs.find(&args.id);
    let chardev =
        chardev.ok_or_else(|| QmpError::generic(format!("Chardev '{}' not found", args.id)))?;
    if chardev.is_taken.get() {
        return Err(QmpError::generic(format!("Chardev '{}' is busy", args.id)));
    }
    daemon.chardevs.by_id.borrow_mut().remove(&args.id);
    Ok(())
}

async fn query_chardev(daemon: &Rc<Daemon>, (): ()) -> Result<Vec<ChardevInfo>, QmpError> {
    let chardevs = daemon.chardevs.by_id.borrow();
    let infos = chardevs.values().map(|chardev| ChardevInfo {
        label: chardev.id.clone(),
        filename: chardev.to_string(),
        frontend_open: chardev.is_taken.get(),
    });
    Ok(infos.collect())
}

impl Chardevs {
    /// The chardev with this id.
    pub(super) fn find(&self, id: &str) -> Option<Rc<Chardev>> {
        self.by_id.borrow().get(id).cloned()
    }

    /// Refuses an id that another has.
    fn check_free(&self, id: &str) -> Result<(), QmpError> {
        match self.find(id) {
            None => Ok(()),
            Some(_) => {
                let text = format!("Chardev with id '{id}' already exists");
                Err(QmpError::generic(text))
            }
        }
    }

    /// Refuses a chardev that is not there, or that a monitor has.
    fn check_unused(&self, id: &str) -> Result<(), QmpError> {
        match self.find(id) {
            None => Err(QmpError::generic(format!("Chardev '{id}' does not exist"))),
            Some(chardev) if chardev.is_taken.get() => {
                let text = "Chardev user does not support chardev hotswap";
                Err(QmpError::generic(text))
            }
            Some(_) => Ok(()),
        }
    }

    /// The ids of all.
    pub(super) fn ids(&self) -> Vec<String> {
        self.by_id.borrow().keys().cloned().collect()
    }

    /// Removes all sockets.
    pub(super) fn close_all(&self) {
        for chardev in self.by_id.take().into_values() {
            if let Way::Listen(listener) = &chardev.way {
                listener.close();
            }
        }
    }
}

impl Chardev {
    fn new(id: String, way: Way) -> Rc<Self> {
        Rc::new(Self {
            id,
            way,
            is_taken: Cell::new(false),
            is_connected: Cell::new(false),
            early: RefCell::new(None),
        })
    }

    async fn meet_early(&self, context: &AioContext, patience: Patience) -> Result<(), QmpError> {
        let early = match &self.way {
            Way::Listen(listener) if patience == Patience::Wait => {
                tracing::info!(chardev = self.id, "waiting for a client");
                let accepted = context.accept(listener.socket()).await;
                Some(accepted.map_err(|source| error::system("Failed to accept", &source))?)
            }
            Way::Connect {
                address,
                again_ns: None,
            } => {
                let place = place(address);
                let connected = context.connect(address).await;
                let what = format!("Failed to connect to '{place}'");
                Some(connected.map_err(|source| error::system(what, &source))?)
            }
            Way::Terminal => {
                let terminal = terminal();
                let what = "cannot use standard input and output";
                Some(terminal.map_err(|source| error::system(what, &source))?)
            }
            Way::Null | Way::Remember(_) | Way::Listen(_) | Way::Connect { .. } => None,
        };
        *self.early.borrow_mut() = early;
        Ok(())
    }

    /// Gives the chardev to one who serves its clients from now on.
    pub(super) fn take(&self) -> Result<(), QmpError> {
        if self.is_taken.replace(true) {
            let text = format!("chardev '{}' is already in use", self.id);
            return Err(QmpError::generic(text));
        }
        Ok(())
    }

    /// Waits for the next client. Those who come while one is served wait in the socket's queue.
    pub(super) async fn next_client(&self, context: &AioContext) -> Fd {
        self.is_connected.set(false);
        let early = self.early.take();
        let socket = match early {
            Some(socket) => socket,
            None => self.wait_for_client(context).await,
        };
        self.is_connected.set(true);
        socket
    }

    async fn wait_for_client(&self, context: &AioContext) -> Fd {
        loop {
            let (came, again_ns) = match &self.way {
                Way::Listen(listener) => (context.accept(listener.socket()).await, RETRY_NS),
                Way::Connect {
                    address,
                    again_ns: Some(again_ns),
                } => (context.connect(address).await, *again_ns),
                Way::Null | Way::Remember(_) | Way::Terminal | Way::Connect { .. } => {
                    return pending().await;
                }
            };
            match came {
                Ok(socket) => return socket,
                Err(error) => tracing::debug!(%error, chardev = self.id, "no client yet"),
            }
            context.sleep_ns(again_ns).await;
        }
    }
}

/// Time until a client is accepted again when that has failed, for want of descriptors above all.
const RETRY_NS: u64 = 100_000_000;

impl fmt::Display for Chardev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_socket = matches!(self.way, Way::Listen(_) | Way::Connect { .. });
        if is_socket && !self.is_connected.get() {
            f.write_str("disconnected:")?;
        }
        match &self.way {
            Way::Null => f.write_str("null"),
            Way::Remember(_) => f.write_str("ringbuf"),
            Way::Terminal => f.write_str("stdio"),
            Way::Listen(listener) => match listener.address() {
                NbdAddress::Unix(path) => write!(f, "unix:{},server=on", path.display()),
                NbdAddress::Tcp(address) => write!(f, "tcp:{address},server=on"),
                NbdAddress::Host { .. } => f.write_str("tcp:,server=on"),
            },
            Way::Connect { address, .. } => match address {
                Address::Unix(path) => write!(f, "unix:{}", path.display()),
                Address::Ip(address) => write!(f, "tcp:{address}"),
            },
        }
    }
}

fn place(address: &Address) -> String {
    match address {
        Address::Unix(path) => path.display().to_string(),
        Address::Ip(address) => address.to_string(),
    }
}

/// Standard input and output as a socket. Each has a thread, which ends with its side.
fn terminal() -> io::Result<Fd> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut sender = theirs.try_clone()?;
    let mut receiver = theirs;
    let to_socket = move || {
        // However it ends, the client has said all it has to say.
        let _ = copy(&mut io::stdin().lock(), &mut sender);
        let _ = sender.shutdown(std::net::Shutdown::Write);
    };
    let from_socket = move || {
        let _ = copy(&mut receiver, &mut io::stdout().lock());
    };
    thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(to_socket)?;
    thread::Builder::new()
        .name("stdout".to_owned())
        .spawn(from_socket)?;
    Ok(Fd::from(ours))
}

/// Passes on what comes as it comes.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut bytes = [0; 4096];
    loop {
        let count = from.read(&mut bytes)?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(&bytes[..count])?;
        to.flush()?;
    }
}
