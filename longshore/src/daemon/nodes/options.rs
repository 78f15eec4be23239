//! What clients say about a node that is to be made: the options of `blockdev-add`.

use qmp::{Size, qapi_alternate, qapi_enum, qapi_struct, qapi_union};

use crate::daemon::bitmaps::BlockDirtyBitmap;

qapi_enum! {
    /// What becomes of discards.
    pub(crate) enum BlockdevDiscardOptions {
        /// Nothing.
        Ignore,
        /// They reach the storage.
        Unmap,
    }
}

qapi_enum! {
    /// What becomes of writes of nothing but zeroes.
    pub(crate) enum BlockdevDetectZeroesOptions {
        /// They are writes like any other.
        Off,
        /// They become writes of zeroes.
        On,
        /// They become writes of zeroes that may deallocate.
        Unmap,
    }
}

qapi_struct! {
    /// How caches are used.
    pub(crate) struct BlockdevCacheOptions {
        /// Bypass the page cache.
        direct: Option<bool>,
        /// Need not be durable when flushed.
        no_flush: Option<bool>,
    }
}

qapi_enum! {
    /// Whether a feature is used.
    pub(crate) enum OnOffAuto {
        /// Where it works.
        Auto,
        /// Or else it is an error.
        On,
        /// Not.
        Off,
    }
}

qapi_enum! {
    /// How requests reach the kernel. They take the way of the daemon's loop, whatever is said here.
    pub(crate) enum BlockdevAioOptions {
        /// By threads.
        Threads,
        /// By Linux AIO.
        Native,
        /// By a ring.
        IoUring = "io_uring",
    }
}

qapi_struct! {
    /// A file, or a device of the host.
    pub(crate) struct BlockdevOptionsFile {
        /// Its path, taken literally.
        filename: String,
        /// Whether to take image locks.
        locking: Option<OnOffAuto>,
        /// How requests reach the kernel.
        aio: Option<BlockdevAioOptions>,
        /// Most requests handed over at a time.
        aio_max_batch: Option<i64>,
        /// Whether the page cache is emptied before a migration; there is none.
        drop_cache: Option<bool>,
    }
}

qapi_struct! {
    /// A window of bytes on a node.
    pub(crate) struct BlockdevOptionsRaw {
        /// The node.
        file: BlockdevRef,
        /// Where the window begins.
        offset: Option<i64>,
        /// How long it is.
        size: Option<i64>,
    }
}

qapi_struct! {
    /// A node that takes everything and stores nothing.
    pub(crate) struct BlockdevOptionsNull {
        /// Its length in bytes; one gibibyte unless told otherwise.
        size: Option<i64>,
        /// For how many nanoseconds a request takes.
        latency_ns: Option<u64>,
        /// Whether reads give zeroes.
        read_zeroes: Option<bool>,
    }
}

qapi_struct! {
    /// Where a server of the network listens.
    pub(crate) struct InetSocketAddress {
        /// Name or address of the machine.
        host: String,
        /// The port.
        port: String,
        /// Whether the host is an address and no name.
        numeric: Option<bool>,
        /// The last port to try, for servers.
        to: Option<u16>,
        /// Whether to use IPv4.
        ipv4: Option<bool>,
        /// Whether to use IPv6.
        ipv6: Option<bool>,
        /// Whether to send keep-alives.
        keep_alive: Option<bool>,
    }
}

qapi_struct! {
    /// A Unix socket.
    pub(crate) struct UnixSocketAddress {
        /// Its path.
        path: String,
    }
}

qapi_union! {
    /// Where a server listens.
    pub(crate) struct SocketAddress {}
    /// Kinds of addresses.
    tag r#type: SocketAddressType, pub(crate) enum SocketAddressKind {
        /// TCP.
        Inet(InetSocketAddress),
        /// Unix.
        Unix(UnixSocketAddress),
    }
}

qapi_struct! {
    /// An export of an NBD server.
    pub(crate) struct BlockdevOptionsNbd {
        /// Where the server listens.
        server: SocketAddress,
        /// Name of the export; the default one has none.
        export: Option<String>,
        /// Credentials for TLS, which is not supported.
        tls_creds: Option<String>,
        /// For how many seconds requests wait for a server that is lost.
        reconnect_delay: Option<u32>,
        /// For how many seconds opening tries again.
        open_timeout: Option<u32>,
    }
}

qapi_struct! {
    /// A filter that keeps to the limits of a group.
    pub(crate) struct BlockdevOptionsThrottle {
        /// Name of the group.
        throttle_group: String,
        /// The node below.
        file: BlockdevRef,
    }
}

qapi_struct! {
    /// A filter that keeps what is read from the layers below its child.
    pub(crate) struct BlockdevOptionsCor {
        /// The node below.
        file: BlockdevRef,
        /// The lowest layer whose data is kept.
        bottom: Option<String>,
    }
}

qapi_struct! {
    /// A node above one other.
    pub(crate) struct BlockdevOptionsGenericFormat {
        /// The node below.
        file: BlockdevRef,
    }
}

qapi_enum! {
    /// What gives way when old data cannot be saved.
    pub(crate) enum OnCbwError {
        /// The guest's write fails.
        BreakGuestWrite,
        /// The snapshot is broken.
        BreakSnapshot,
    }
}

qapi_struct! {
    /// A filter that saves old data before it is overwritten.
    pub(crate) struct BlockdevOptionsCbw {
        /// The node below.
        file: BlockdevRef,
        /// Where old data goes.
        target: BlockdevRef,
        /// Only what is dirty in this bitmap is saved.
        bitmap: Option<BlockDirtyBitmap>,
        /// What gives way when old data cannot be saved.
        on_cbw_error: Option<OnCbwError>,
        /// For how many seconds a write waits at most; zero is for ever.
        cbw_timeout: Option<u32>,
        /// Smallest unit of copying in bytes.
        min_cluster_size: Option<Size>,
    }
}

qapi_enum! {
    /// Kinds of requests, for faults.
    pub(crate) enum BlkdebugIOType {
        /// Reads.
        Read,
        /// Writes.
        Write,
        /// Writes of zeroes.
        WriteZeroes,
        /// Discards.
        Discard,
        /// Flushes.
        Flush,
        /// Queries of the allocation.
        BlockStatus,
    }
}

qapi_enum! {
    /// What happens in a node, for faults.
    pub(crate) enum BlkdebugEvent {
        /// The node is made.
        None,
        /// A read arrives.
        ReadAio = "read_aio",
        /// A write arrives.
        Pwritev,
        /// The same.
        WriteAio = "write_aio",
        /// A write of zeroes arrives.
        PwritevZero = "pwritev_zero",
        /// A write has ended.
        PwritevDone = "pwritev_done",
        /// A flush arrives.
        FlushToDisk = "flush_to_disk",
    }
}

qapi_struct! {
    /// From an event on, requests fail.
    pub(crate) struct BlkdebugInjectErrorOptions {
        /// The event.
        event: BlkdebugEvent,
        /// Only in this state.
        state: Option<i64>,
        /// Only such requests.
        iotype: Option<BlkdebugIOType>,
        /// The error's number.
        errno: Option<i64>,
        /// Only requests that touch these 512 bytes.
        sector: Option<i64>,
        /// Only the first.
        once: Option<bool>,
        /// At once.
        immediately: Option<bool>,
    }
}

qapi_struct! {
    /// An event moves the node to another state.
    pub(crate) struct BlkdebugSetStateOptions {
        /// The event.
        event: BlkdebugEvent,
        /// Only from this state.
        state: Option<i64>,
        /// The state afterwards.
        new_state = "new_state": i64,
    }
}

qapi_struct! {
    /// A filter that makes requests fail.
    pub(crate) struct BlockdevOptionsBlkdebug {
        /// The node below.
        image: BlockdevRef,
        /// A file of rules, which is not supported.
        config: Option<String>,
        /// Multiple that requests have, in bytes.
        align: Option<i64>,
        /// Longest read or write in bytes.
        max_transfer: Option<i64>,
        /// Shorter writes of zeroes are not supported.
        opt_write_zero: Option<i64>,
        /// Longest write of zeroes in bytes.
        max_write_zero: Option<i64>,
        /// Shorter discards do nothing.
        opt_discard: Option<i64>,
        /// Longest discard in bytes.
        max_discard: Option<i64>,
        /// What fails.
        inject_error: Option<Vec<BlkdebugInjectErrorOptions>>,
        /// What changes the state.
        set_state: Option<Vec<BlkdebugSetStateOptions>>,
    }
}

qapi_union! {
    /// A node that is to be made.
    pub(crate) struct BlockdevOptions {
        /// Its name.
        node_name: Option<String>,
        /// What becomes of discards.
        discard: Option<BlockdevDiscardOptions>,
        /// How caches are used.
        cache: Option<BlockdevCacheOptions>,
        /// Whether it is active, which it always is.
        active: Option<bool>,
        /// Whether it can only be read.
        read_only: Option<bool>,
        /// Whether it may turn out to be read-only.
        auto_read_only: Option<bool>,
        /// Whether to put up with whatever other programs do.
        force_share: Option<bool>,
        /// What becomes of writes of nothing but zeroes.
        detect_zeroes: Option<BlockdevDetectZeroesOptions>,
    }
    /// The node drivers.
    tag driver: BlockdevDriver, pub(crate) enum BlockdevOptionsBranch {
        /// Makes requests fail.
        Blkdebug(BlockdevOptionsBlkdebug),
        /// Saves old data.
        CopyBeforeWrite(BlockdevOptionsCbw),
        /// Keeps what is read.
        CopyOnRead(BlockdevOptionsCor),
        /// A file.
        File(BlockdevOptionsFile),
        /// A device of the host.
        HostDevice(BlockdevOptionsFile) = "host_device",
        /// An NBD export.
        Nbd(BlockdevOptionsNbd),
        /// Takes everything.
        NullAio(BlockdevOptionsNull),
        /// Takes everything.
        NullCo(BlockdevOptionsNull),
        /// A window of bytes.
        Raw(BlockdevOptionsRaw),
        /// What a copy-before-write filter keeps.
        SnapshotAccess(BlockdevOptionsGenericFormat),
        /// Keeps to limits.
        Throttle(BlockdevOptionsThrottle),
    }
}

qapi_alternate! {
    /// A node that is there, or one that is to be made.
    pub(crate) enum BlockdevRef {
        /// By its name.
        Reference(String),
        /// By its options.
        Definition(Box<BlockdevOptions>),
    }
}
