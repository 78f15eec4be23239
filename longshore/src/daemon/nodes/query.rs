//! What nodes are like: `query-named-block-nodes`, `query-block`, `query-blockstats`.

use std::{collections::HashMap, rc::Rc};

use block::{BitmapInfo, DetectZeroes, Node, nodes::FileNode};
use qmp::{QmpError, qapi_struct};

use super::options::BlockdevDetectZeroesOptions;
use crate::daemon::{Daemon, command::Command};

/// Longest time that a query waits for file systems to tell how much room files take.
const ASKING_NS_MAX: u64 = 1_000_000_000;

qapi_struct! {
    /// Arguments of `query-named-block-nodes`.
    pub(crate) struct QueryNamedBlockNodes {
        /// Whether to leave out backing files; there are none.
        flat: Option<bool>,
    }
}

qapi_struct! {
    /// How a node uses caches.
    pub(crate) struct BlockdevCacheInfo {
        /// Whether writes may be reported before they are stable.
        writeback: bool,
        /// Whether the page cache is bypassed.
        direct: bool,
        /// Whether flushes need not be durable.
        no_flush: bool,
    }
}

qapi_struct! {
    /// A dirty bitmap.
    pub(crate) struct BlockDirtyInfo {
        /// Its name.
        name: Option<String>,
        /// Bytes that are dirty, in whole granules.
        count: i64,
        /// Bytes that one bit stands for.
        granularity: u32,
        /// Whether changes are recorded.
        recording: bool,
        /// Whether an operation uses it.
        busy: bool,
        /// Whether it is stored in the image.
        persistent: bool,
        /// Whether nothing can be said of its content.
        inconsistent: Option<bool>,
    }
}

qapi_struct! {
    /// An image.
    pub(crate) struct ImageInfo {
        /// What it is called.
        filename: String,
        /// Its node driver.
        format: String,
        /// Whether it was not closed properly.
        dirty_flag: Option<bool>,
        /// Bytes of storage that it takes.
        actual_size: Option<i64>,
        /// Its length in bytes.
        virtual_size: i64,
        /// Bytes that it allocates at a time.
        cluster_size: Option<i64>,
        /// Whether it is encrypted.
        encrypted: Option<bool>,
    }
}

qapi_struct! {
    /// A node.
    pub(crate) struct BlockDeviceInfo {
        /// What it is called.
        file: String,
        /// Its name.
        node_name: Option<String>,
        /// Whether it can only be read.
        ro: bool,
        /// Its driver.
        drv: String,
        /// How many backing files it has.
        backing_file_depth = "backing_file_depth": i64,
        /// Whether it is encrypted.
        encrypted: bool,
        /// What becomes of writes of nothing but zeroes.
        detect_zeroes = "detect_zeroes": BlockdevDetectZeroesOptions,
        /// Limit of bytes per second; limits are kept by filters.
        bps: i64,
        /// The same of reads.
        bps_rd = "bps_rd": i64,
        /// The same of writes.
        bps_wr = "bps_wr": i64,
        /// Limit of requests per second.
        iops: i64,
        /// The same of reads.
        iops_rd = "iops_rd": i64,
        /// The same of writes.
        iops_wr = "iops_wr": i64,
        /// The image.
        image: ImageInfo,
        /// How it uses caches.
        cache: BlockdevCacheInfo,
        /// Beyond which offset a write is told of; zero is never.
        write_threshold = "write_threshold": i64,
        /// Its dirty bitmaps, the newest first.
        dirty_bitmaps: Option<Vec<BlockDirtyInfo>>,
        /// Whether it is active.
        active: bool,
    }
}

qapi_struct! {
    /// A device of a virtual machine; there are none.
    pub(crate) struct BlockInfo {
        /// Its name.
        device: String,
        /// Its kind.
        r#type: String,
        /// Whether it can be removed.
        removable: bool,
        /// Whether it is locked.
        locked: bool,
        /// Its node.
        inserted: Option<BlockDeviceInfo>,
    }
}

qapi_struct! {
    /// Arguments of `query-blockstats`.
    pub(crate) struct QueryBlockstats {
        /// Whether to tell of all nodes instead of devices, of which there are none.
        query_nodes: Option<bool>,
    }
}

qapi_struct! {
    /// What has gone through a node in an interval; nobody has asked for intervals.
    pub(crate) struct BlockDeviceTimedStats {
        /// Length of the interval in seconds.
        interval_length = "interval_length": i64,
    }
}

qapi_struct! {
    /// What has gone through a node.
    #[derive(Default)]
    pub(crate) struct BlockDeviceStats {
        /// Bytes read.
        rd_bytes = "rd_bytes": i64,
        /// Bytes written.
        wr_bytes = "wr_bytes": i64,
        /// Bytes zeroed; they count as written.
        zone_append_bytes = "zone_append_bytes": i64,
        /// Bytes discarded, which are not counted.
        unmap_bytes = "unmap_bytes": i64,
        /// Reads.
        rd_operations = "rd_operations": i64,
        /// Writes.
        wr_operations = "wr_operations": i64,
        /// Appends to zones.
        zone_append_operations = "zone_append_operations": i64,
        /// Flushes.
        flush_operations = "flush_operations": i64,
        /// Discards.
        unmap_operations = "unmap_operations": i64,
        /// Nanoseconds spent in reads, which are not counted.
        rd_total_time_ns = "rd_total_time_ns": i64,
        /// The same of writes.
        wr_total_time_ns = "wr_total_time_ns": i64,
        /// The same of appends.
        zone_append_total_time_ns = "zone_append_total_time_ns": i64,
        /// The same of flushes.
        flush_total_time_ns = "flush_total_time_ns": i64,
        /// The same of discards.
        unmap_total_time_ns = "unmap_total_time_ns": i64,
        /// Behind the last byte that a write was for.
        wr_highest_offset = "wr_highest_offset": i64,
        /// Reads that were merged.
        rd_merged = "rd_merged": i64,
        /// Writes that were merged.
        wr_merged = "wr_merged": i64,
        /// Appends that were merged.
        zone_append_merged = "zone_append_merged": i64,
        /// Discards that were merged.
        unmap_merged = "unmap_merged": i64,
        /// Reads that failed.
        failed_rd_operations = "failed_rd_operations": i64,
        /// Writes that failed.
        failed_wr_operations = "failed_wr_operations": i64,
        /// Appends that failed.
        failed_zone_append_operations = "failed_zone_append_operations": i64,
        /// Flushes that failed.
        failed_flush_operations = "failed_flush_operations": i64,
        /// Discards that failed.
        failed_unmap_operations = "failed_unmap_operations": i64,
        /// Reads that made no sense.
        invalid_rd_operations = "invalid_rd_operations": i64,
        /// Writes that made no sense.
        invalid_wr_operations = "invalid_wr_operations": i64,
        /// Appends that made no sense.
        invalid_zone_append_operations = "invalid_zone_append_operations": i64,
        /// Flushes that made no sense.
        invalid_flush_operations = "invalid_flush_operations": i64,
        /// Discards that made no sense.
        invalid_unmap_operations = "invalid_unmap_operations": i64,
        /// Whether what makes no sense is counted as use.
        account_invalid = "account_invalid": bool,
        /// Whether what failed is counted as use.
        account_failed = "account_failed": bool,
        /// What has gone through it in intervals.
        timed_stats = "timed_stats": Vec<BlockDeviceTimedStats>,
    }
}

qapi_struct! {
    /// A node and what has gone through it.
    pub(crate) struct BlockStats {
        /// The node.
        node_name: Option<String>,
        /// What has gone through it.
        stats: BlockDeviceStats,
    }
}

/// The commands of this file.
pub(super) fn commands() -> Vec<Command> {
    vec![
        Command::new("query-named-block-nodes", named_block_nodes),
        Command::new("query-block", block_devices),
        Command::new("query-blockstats", blockstats),
    ]
}

async fn named_block_nodes(
    daemon: &Rc<Daemon>,
    _: QueryNamedBlockNodes,
) -> Result<Vec<BlockDeviceInfo>, QmpError> {
    daemon.nodes.sweep(daemon.engine.graph());
    // The newest first, as clients know it.
    let nodes: Vec<_> = daemon.engine.graph().nodes().into_iter().rev().collect();
    let room = room_taken(daemon, &nodes).await;
    let info = |node: &Node| info(daemon, node, room.get(node.name()).copied());
    Ok(nodes.iter().map(info).collect())
}

async fn block_devices(_: &Rc<Daemon>, (): ()) -> Result<Vec<BlockInfo>, QmpError> {
    Ok(Vec::new())
}

async fn blockstats(
    daemon: &Rc<Daemon>,
    args: QueryBlockstats,
) -> Result<Vec<BlockStats>, QmpError> {
    if !args.query_nodes.unwrap_or(false) {
        return Ok(Vec::new());
    }
    let nodes = daemon.engine.graph().nodes();
    Ok(nodes.iter().map(stats).collect())
}

/// Bytes of storage that the files below nodes take. A file system that does not answer in time is left out.
async fn room_taken(daemon: &Daemon, nodes: &[Node]) -> HashMap<String, i64> {
    let files = nodes.iter().filter(|node| FileNode::of(node).is_some());
    let files: Vec<_> = files.cloned().collect();
    if files.is_empty() {
        return HashMap::new();
    }
    let cx = &daemon.context;
    let asked = cx.blocking(move || {
        let room = |node: &Node| {
            let bytes = FileNode::of(node)?.allocated_bytes().ok()?;
            Some((node.name().to_owned(), signed(bytes)))
        };
        files.iter().filter_map(room).collect()
    });
    cx.timeout_ns(ASKING_NS_MAX, asked)
        .await
        .unwrap_or_default()
}

fn info(daemon: &Daemon, node: &Node, room: Option<i64>) -> BlockDeviceInfo {
    let name = node.name();
    let known = daemon.nodes.of(name, |made| {
        let drv = made.definition.driver.tag().as_str().to_owned();
        (drv, made.filename.clone(), made.common)
    });
    let (drv, filename, common) = match known {
        Some((drv, filename, common)) => (drv, filename, Some(common)),
        None => (
            node.driver_name().to_owned(),
            node.driver_name().to_owned(),
            None,
        ),
    };
    let is_null = drv.starts_with("null-");
    let bitmaps = node.bitmaps().list();
    let bitmaps: Vec<_> = bitmaps
        .iter()
        .map(|bitmap| dirty_info(bitmap.info()))
        .collect();
    BlockDeviceInfo {
        file: filename.clone(),
        node_name: Some(name.to_owned()),
        ro: node.is_read_only(),
        drv: drv.clone(),
        backing_file_depth: 0,
        encrypted: false,
        detect_zeroes: match node.options().detect_zeroes {
            DetectZeroes::Off => BlockdevDetectZeroesOptions::Off,
            DetectZeroes::On => BlockdevDetectZeroesOptions::On,
            DetectZeroes::Unmap => BlockdevDetectZeroesOptions::Unmap,
        },
        bps: 0,
        bps_rd: 0,
        bps_wr: 0,
        iops: 0,
        iops_rd: 0,
        iops_wr: 0,
        image: ImageInfo {
            filename,
            format: drv,
            dirty_flag: room.is_some().then_some(false),
            actual_size: room.or_else(|| is_null.then_some(0)),
            virtual_size: signed(node.len_bytes()),
            cluster_size: node.limits().cluster_bytes.map(i64::from),
            encrypted: None,
        },
        cache: BlockdevCacheInfo {
            writeback: true,
            direct: common.is_some_and(|common| common.direct),
            no_flush: common.is_some_and(|common| common.no_flush),
        },
        write_threshold: signed(node.write_threshold().unwrap_or(0)),
        dirty_bitmaps: (!bitmaps.is_empty()).then_some(bitmaps),
        active: true,
    }
}

fn dirty_info(info: BitmapInfo) -> BlockDirtyInfo {
    BlockDirtyInfo {
        name: Some(info.name),
        count: signed(info.count_bytes),
        granularity: u32::try_from(info.granularity_bytes).unwrap_or(u32::MAX),
        recording: info.is_recording,
        busy: info.is_busy,
        persistent: info.is_persistent,
        inconsistent: info.is_inconsistent.then_some(true),
    }
}

fn stats(node: &Node) -> BlockStats {
    let counted = node.statistics();
    BlockStats {
        node_name: Some(node.name().to_owned()),
        stats: BlockDeviceStats {
            rd_bytes: signed(counted.read_bytes),
            wr_bytes: signed(counted.written_bytes),
            rd_operations: signed(counted.reads),
            wr_operations: signed(counted.writes),
            flush_operations: signed(counted.flushes),
            unmap_operations: signed(counted.discards),
            wr_highest_offset: signed(counted.written_end_bytes),
            failed_rd_operations: signed(counted.failed_reads),
            failed_wr_operations: signed(counted.failed_writes),
            failed_flush_operations: signed(counted.failed_flushes),
            failed_unmap_operations: signed(counted.failed_discards),
            account_invalid: false,
            account_failed: false,
            ..BlockDeviceStats::default()
        },
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
