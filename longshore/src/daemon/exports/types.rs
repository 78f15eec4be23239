//! What the commands of exports take and return.

use qmp::{qapi_alternate, qapi_enum, qapi_struct, qapi_union};

use super::address::{NbdSocketAddress, NbdSocketAddressLegacy};

qapi_struct! {
    /// A server, as a command line asks for it.
    pub(crate) struct NbdServerLine {
        /// Where to listen.
        addr: NbdSocketAddress,
        /// Longest time that a client may take to choose an export; 0 is no limit, and 10 is the default.
        handshake_max_seconds: Option<u32>,
        /// Credentials for TLS, which is not supported.
        tls_creds: Option<String>,
        /// Who may come over TLS.
        tls_authz: Option<String>,
        /// Most clients at once; 0 is no limit, and 100 is the default.
        max_connections: Option<u32>,
        /// Whether other hosts may be let in, without encryption or password.
        x_longshore_allow_remote: Option<bool>,
    }
}

qapi_struct! {
    /// A server, as a client asks for it.
    pub(crate) struct NbdServerStart {
        /// Where to listen.
        addr: NbdSocketAddressLegacy,
        /// Longest time that a client may take to choose an export; 0 is no limit, and 10 is the default.
        handshake_max_seconds: Option<u32>,
        /// Credentials for TLS, which is not supported.
        tls_creds: Option<String>,
        /// Who may come over TLS.
        tls_authz: Option<String>,
        /// Most clients at once; 0 is no limit, and 100 is the default.
        max_connections: Option<u32>,
        /// Whether other hosts may be let in, without encryption or password.
        x_longshore_allow_remote: Option<bool>,
    }
}

impl From<NbdServerStart> for NbdServerLine {
    fn from(start: NbdServerStart) -> Self {
        Self {
            addr: start.addr.into(),
            handshake_max_seconds: start.handshake_max_seconds,
            tls_creds: start.tls_creds,
            tls_authz: start.tls_authz,
            max_connections: start.max_connections,
            x_longshore_allow_remote: start.x_longshore_allow_remote,
        }
    }
}

qapi_struct! {
    /// An export in the old words.
    pub(crate) struct NbdServerAdd {
        /// The device or node.
        device: String,
        /// The export's name; that of the node if there is none.
        name: Option<String>,
        /// One line for people.
        description: Option<String>,
        /// Whether clients may write, if the node can be written.
        writable: Option<bool>,
        /// A bitmap to show.
        bitmap: Option<String>,
    }
}

qapi_struct! {
    /// The end of an export in the old words.
    pub(crate) struct NbdServerRemove {
        /// The export's name.
        name: String,
        /// What becomes of its clients.
        mode: Option<BlockExportRemoveMode>,
    }
}

qapi_struct! {
    /// A bitmap of a node.
    pub(crate) struct ExternalBitmap {
        /// The node.
        node: String,
        /// The bitmap's name.
        name: String,
    }
}

qapi_alternate! {
    /// A bitmap to show.
    pub(crate) enum ExportedBitmap {
        /// By its name, of the exported node or one below its filters.
        Local(String),
        /// By its node and name.
        External(ExternalBitmap),
    }
}

qapi_struct! {
    /// What is particular to exports over NBD.
    pub(crate) struct NbdExportOptions {
        /// The name that clients ask for; that of the node if there is none.
        name: Option<String>,
        /// One line for people.
        description: Option<String>,
        /// Bitmaps to show, each as a metadata context.
        bitmaps: Option<Vec<ExportedBitmap>>,
        /// Whether to show in which layer the bytes are.
        allocation_depth: Option<bool>,
    }
}

qapi_union! {
    /// An export that is to be.
    pub(crate) struct BlockExportOptions {
        /// What commands call it.
        id: String,
        /// Whether the node may not move to another thread meanwhile. The export never does.
        fixed_iothread: Option<bool>,
        /// The thread that serves its clients.
        iothread: Option<String>,
        /// The node.
        node_name: String,
        /// Whether clients may write.
        writable: Option<bool>,
        /// Whether each write is stable when it is answered.
        writethrough: Option<bool>,
        /// Whether the node may be inactive, which none is.
        allow_inactive: Option<bool>,
    }
    /// How it is served.
    tag r#type: BlockExportType, pub(crate) enum BlockExportBranch {
        /// By the NBD server.
        Nbd(NbdExportOptions),
    }
}

qapi_enum! {
    /// What becomes of the clients of an export that is removed.
    pub(crate) enum BlockExportRemoveMode {
        /// An export that has some is not removed.
        Safe,
        /// They are disconnected.
        Hard,
    }
}

qapi_struct! {
    /// The export that is to go.
    pub(crate) struct BlockExportDel {
        /// What commands call it.
        id: String,
        /// What becomes of its clients; `safe` is the default.
        mode: Option<BlockExportRemoveMode>,
    }
}

qapi_struct! {
    /// An export as a query shows it.
    pub(crate) struct BlockExportInfo {
        /// What commands call it.
        id: String,
        /// How it is served.
        r#type: BlockExportType,
        /// The node that is served now.
        node_name: String,
        /// Whether it is about to go.
        shutting_down: bool,
    }
}

qapi_struct! {
    /// What went through an export since it was added.
    pub(crate) struct BlockExportStatistics {
        /// What commands call it.
        id: String,
        /// Clients that use it now.
        connections: u64,
        /// Clients that have chosen it so far.
        connections_total: u64,
        /// Reads that succeeded.
        reads: u64,
        /// Bytes they read.
        read_bytes: u64,
        /// Writes of data and of zeroes that succeeded.
        writes: u64,
        /// Bytes they wrote.
        written_bytes: u64,
        /// Flushes that succeeded.
        flushes: u64,
        /// Discards that succeeded.
        discards: u64,
        /// Requests that failed.
        errors: u64,
    }
}
