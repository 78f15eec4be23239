//! Chardevs in the words of the command line and of the protocol.

use qmp::{Size, qapi_struct, qapi_union};

/// Whether a socket that listens has to have a client before anything else is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// It has to.
    Wait,
    /// Clients come when they come.
    GoOn,
}

qapi_struct! {
    /// A chardev as the command line gives it.
    pub struct ChardevOptions {
        /// What kind it is.
        backend: String,
        /// Its name.
        id: String,
        /// The socket file.
        path: Option<String>,
        /// The host of a TCP socket.
        host: Option<String>,
        /// The port of a TCP socket.
        port: Option<String>,
        /// Whether clients connect to us.
        server: Option<bool>,
        /// Whether the start waits for the first client.
        wait: Option<bool>,
        /// Seconds until we connect again.
        reconnect: Option<u32>,
        /// Milliseconds until we connect again.
        reconnect_ms: Option<u32>,
        /// Accepted; small messages are always sent at once.
        nodelay: Option<bool>,
        /// Accepted; the terminal is left as it is.
        signal: Option<bool>,
        /// Bytes that a ring buffer keeps.
        size: Option<Size>,
    }
}

qapi_struct! {
    /// A chardev as queries show it.
    pub struct ChardevInfo {
        /// Its id.
        label: String,
        /// Where clients come from.
        filename: String,
        /// Whether something of ours uses it.
        frontend_open: bool,
    }
}

qapi_struct! {
    /// The id of a chardev.
    pub struct ChardevId {
        /// It.
        id: String,
    }
}

qapi_struct! {
    /// A kind of chardev.
    pub struct ChardevKind {
        /// Its name.
        name: String,
    }
}

qapi_struct! {
    /// Arguments of `chardev-add`.
    pub struct ChardevAdd {
        /// Its name.
        id: String,
        /// What it is.
        backend: ChardevBackend,
    }
}

qapi_union! {
    /// What a chardev is.
    pub struct ChardevBackend {}
    /// Which kind it is.
    tag r#type: ChardevBackendKind, pub enum ChardevBackendData {
        /// Nobody ever comes.
        Null(Nothing),
        /// The same as `ringbuf`, by its old name.
        Memory(RingbufData),
        /// What was written last is kept.
        Ringbuf(RingbufData),
        /// A socket.
        Socket(SocketData),
    }
}

qapi_struct! {
    /// A chardev that needs no more words.
    pub struct Nothing {
        /// Nothing.
        data: (),
    }
}

qapi_struct! {
    /// A ring buffer, a level deeper.
    pub struct RingbufData {
        /// It.
        data: ChardevRingbuf,
    }
}

qapi_struct! {
    /// A ring buffer.
    pub struct ChardevRingbuf {
        /// Bytes that it keeps, a power of two.
        size: Option<i64>,
    }
}

qapi_struct! {
    /// A socket, a level deeper.
    pub struct SocketData {
        /// It.
        data: ChardevSocket,
    }
}

qapi_struct! {
    /// A socket.
    pub struct ChardevSocket {
        /// Where it is.
        addr: ChardevAddress,
        /// Whether clients connect to us, which is so unless it is denied.
        server: Option<bool>,
        /// Whether the command waits for the first client.
        wait: Option<bool>,
        /// Accepted; small messages are always sent at once.
        nodelay: Option<bool>,
        /// Seconds until we connect again.
        reconnect: Option<u32>,
        /// Milliseconds until we connect again.
        reconnect_ms: Option<u32>,
    }
}

qapi_union! {
    /// Where a socket is.
    pub struct ChardevAddress {}
    /// What kind of socket it is.
    tag r#type: ChardevAddressType, pub enum ChardevAddressData {
        /// TCP.
        Inet(InetData),
        /// A socket file.
        Unix(UnixData),
    }
}

qapi_struct! {
    /// A TCP socket, a level deeper.
    pub struct InetData {
        /// It.
        data: ChardevInet,
    }
}

qapi_struct! {
    /// A TCP socket.
    pub struct ChardevInet {
        /// The host.
        host: String,
        /// The port.
        port: String,
    }
}

qapi_struct! {
    /// A socket file, a level deeper.
    pub struct UnixData {
        /// It.
        data: ChardevUnix,
    }
}

qapi_struct! {
    /// A socket file.
    pub struct ChardevUnix {
        /// Its path.
        path: String,
    }
}

impl Patience {
    #[expect(
        clippy::fn_params_excessive_bools,
        reason = "this is where one becomes a word"
    )]
    pub(super) fn of(waits: bool) -> Self {
        if waits { Self::Wait } else { Self::GoOn }
    }
}

impl ChardevBackend {
    /// Whether the first client is waited for.
    pub(super) fn waits(&self) -> bool {
        match &self.r#type {
            ChardevBackendData::Null(_)
            | ChardevBackendData::Memory(_)
            | ChardevBackendData::Ringbuf(_) => false,
            ChardevBackendData::Socket(socket) => socket.data.wait.unwrap_or(false),
        }
    }
}

impl ChardevAdd {
    /// The same as the command line would have it.
    pub(super) fn into_options(self) -> ChardevOptions {
        let mut options = ChardevOptions {
            backend: self.backend.r#type.tag().to_string(),
            id: self.id,
            path: None,
            host: None,
            port: None,
            server: None,
            wait: None,
            reconnect: None,
            reconnect_ms: None,
            nodelay: None,
            signal: None,
            size: None,
        };
        match self.backend.r#type {
            ChardevBackendData::Null(_) => {}
            ChardevBackendData::Memory(ring) | ChardevBackendData::Ringbuf(ring) => {
                // One below zero is no power of two, and too large.
                let size = ring.data.size.map(i64::cast_unsigned);
                options.size = size.map(Size);
            }
            ChardevBackendData::Socket(SocketData { data }) => fill_in(&mut options, data),
        }
        options
    }
}

fn fill_in(options: &mut ChardevOptions, socket: ChardevSocket) {
    options.server = Some(socket.server.unwrap_or(true));
    options.reconnect = socket.reconnect;
    options.reconnect_ms = socket.reconnect_ms;
    match socket.addr.r#type {
        ChardevAddressData::Unix(unix) => options.path = Some(unix.data.path),
        ChardevAddressData::Inet(inet) => {
            options.host = Some(inet.data.host);
            options.port = Some(inet.data.port);
        }
    }
}
