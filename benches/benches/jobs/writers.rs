//! What a guest that writes all the time has of its disk while that is backed up, and how long the backup takes.
//!
//! A file on the disk is exported, and one guest writes 4 KiB at random places all over it, first
//! alone and then during a full backup to another file on the same disk. Sides take turns.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use aio::JoinHandle;
use benches::{
    BLOCK_BYTES, Disturbed, Moment, RandomBlocks, Scratch, rest, skipped, tell_figure, tell_ratio,
};
use block::{
    Attachment, Child, ChildRole, Permission, Permissions, RequestFlags, nodes::FileOptions,
};
use longshore::{
    Backup, BackupOptions, Engine, EngineConfig,
    export::{ExportOptions, NbdAddress, NbdServer, NbdServerOptions},
};
use tempfile::{NamedTempFile, TempDir};

use crate::{
    Extent,
    guest::{Guest, Samples, Writes},
    latency::{Backups, target},
    reference::{EXPORT, EXPORT_SOCKET, Reference, Setup, version},
};

const LEN_MIB: u64 = 4096;
/// How often a backup is looked at that is to end.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// A backup that takes longer is given up: its guest has been seen long enough.
const BACKUP_MAX: Duration = Duration::from_secs(120);

/// Ours first, and the first of the reference's is what it is held against.
const SIDES: [Side; 4] = [
    Side::Ours("ours", Way::Export),
    Side::Ours("ours_edge", Way::Edge),
    Side::Reference("qsd", None),
    Side::Reference("qsd_1_worker", Some(1)),
];
const RIVAL: usize = 2;
const DEPTHS: [usize; 2] = [1, 16];

#[derive(Clone, Copy, Debug)]
enum Side {
    Ours(&'static str, Way),
    /// With so many workers.
    Reference(&'static str, Option<u32>),
}

/// How a guest of ours writes.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Through the export, as a process of its own would.
    Export,
    /// Through an edge of the graph, on the loop.
    Edge,
}

/// A program that has a guest, and backs up what it writes to.
trait Host {
    fn guest(&self, depth: usize) -> Result<Guest, String>;
    fn start_backup(&mut self) -> Result<(), String>;
    fn is_over(&mut self) -> Result<bool, String>;
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Ours(name, _) | Self::Reference(name, _) => name,
        }
    }

    fn host(self, files: &Files, directory: &Path) -> Result<Box<dyn Host>, String> {
        let (source, target) = (files.source.path(), files.target.path());
        Ok(match self {
            Self::Ours(_, way) => Box::new(Ours::start(way, (source, target), directory)?),
            Self::Reference(_, workers) => {
                let daemon = Reference::start(Setup::Served(workers), (source, target), directory)?;
                let socket = directory.join(EXPORT_SOCKET);
                Box::new(Theirs { daemon, socket })
            }
        })
    }
}

struct Files {
    source: Scratch,
    target: NamedTempFile,
}

/// What a side found at one depth, turn by turn.
#[derive(Debug, Default)]
struct Found {
    alone: Vec<Writes>,
    during: Vec<Writes>,
    /// In seconds.
    backup: Vec<f64>,
}

pub(crate) fn run(extent: Extent) {
    let (turns, len_mib) = match extent {
        Extent::Try => (1, 128),
        Extent::Quick => (1, LEN_MIB / 4),
        Extent::Full => (5, LEN_MIB),
    };
    if let Err(why) = measure(turns, len_mib) {
        skipped(format_args!("jobs/writers: {why}"));
    }
}

fn measure(turns: usize, len_mib: u64) -> Result<(), String> {
    let Some(source) = Scratch::on_disk(len_mib) else {
        return Ok(());
    };
    let target = target(source.len_bytes()).map_err(|error| error.to_string())?;
    let files = Files { source, target };
    let mut sides = SIDES.to_vec();
    if let Err(why) = version() {
        skipped(why);
        sides.truncate(RIVAL);
    }
    // Long enough for a few writes of the slowest.
    let alone = Duration::from_millis(len_mib.min(1000));
    for depth in DEPTHS {
        let mut found: Vec<Found> = sides.iter().map(|_| Found::default()).collect();
        let mut disturbed = Disturbed {
            turns: 0,
            of: turns,
        };
        for number in 0..turns {
            let start = Moment::now();
            for at in 0..sides.len() {
                let at = (number + at) % sides.len();
                turn(sides[at], &files, (depth, alone), &mut found[at])
                    .map_err(|error| format!("{}: {error}", sides[at].name()))?;
            }
            disturbed.turns += usize::from(start.is_disturbed());
        }
        tell(depth, &sides, &found, disturbed);
    }
    Ok(())
}

fn turn(
    side: Side,
    files: &Files,
    (depth, alone): (usize, Duration),
    found: &mut Found,
) -> Result<(), String> {
    let directory = TempDir::new().map_err(|error| error.to_string())?;
    let mut host = side.host(files, directory.path())?;
    let guest = host.guest(depth)?;
    // The first writes find everything cold.
    rest(alone / 4);
    let start = guest.begin();
    rest(alone);
    found.alone.extend(guest.found(start));
    let start = guest.begin();
    host.start_backup()?;
    while !host.is_over()? && start.elapsed() < BACKUP_MAX {
        rest(LOOK_EVERY);
    }
    found.backup.push(start.elapsed().as_secs_f64());
    found.during.extend(guest.found(start));
    guest.end()
}

/// An engine of ours that serves the source.
struct Ours {
    way: Way,
    socket: std::path::PathBuf,
    backup: Option<Backup>,
    source: block::Node,
    target: block::Node,
    _server: NbdServer,
    engine: Engine,
}

impl Ours {
    fn start(way: Way, (source, target): (&Path, &Path), directory: &Path) -> Result<Self, String> {
        let engine = Engine::start(EngineConfig::default()).map_err(|error| error.to_string())?;
        let open = |path: &Path| {
            let opened = engine.open_file(None, &FileOptions::new(path));
            opened
                .map(|opened| opened.node)
                .map_err(|error| error.to_string())
        };
        let (source, target) = (open(source)?, open(target)?);
        let socket = directory.join(EXPORT_SOCKET);
        let address = NbdAddress::Unix(socket.clone());
        let server = NbdServer::start(
            engine.handle(),
            engine.graph(),
            &address,
            NbdServerOptions::default(),
        );
        let server = server.map_err(|error| error.to_string())?;
        if let Way::Export = way {
            let export = ExportOptions {
                writable: true,
                ..ExportOptions::new(EXPORT, &source)
            };
            server
                .add_export(export)
                .map_err(|error| error.to_string())?;
        }
        Ok(Self {
            way,
            socket,
            backup: None,
            source,
            target,
            _server: server,
            engine,
        })
    }

    fn edge_guest(&self, depth: usize) -> Result<Guest, String> {
        let uses = Permissions::uses(&[Permission::Write]);
        let user = Attachment::new("guest", ChildRole::Primary, uses);
        let edge = self.engine.graph().attach(&self.source, user);
        let edge = Arc::new(edge.map_err(|error| error.to_string())?);
        let len_bytes = self.source.len_bytes();
        Ok(Guest::start(|samples| {
            let stop = Arc::new(AtomicBool::new(false));
            // They share the row, so that each goes to other places.
            let blocks = Arc::new(Mutex::new(RandomBlocks::over(len_bytes)));
            let writers: Vec<JoinHandle<Result<(), String>>> = (0..depth)
                .map(|_| {
                    let (edge, blocks) = (edge.clone(), blocks.clone());
                    let heard = (stop.clone(), samples.clone());
                    let write = move |cx| write_edge(cx, edge, blocks, heard);
                    self.engine.handle().spawn(write)
                })
                .collect();
            Box::new(move || {
                stop.store(true, Ordering::Release);
                writers.into_iter().try_for_each(JoinHandle::wait)
            })
        }))
    }
}

async fn write_edge(
    cx: aio::AioContext,
    edge: Arc<Child>,
    blocks: Arc<Mutex<RandomBlocks>>,
    (stop, samples): (Arc<AtomicBool>, Arc<Samples>),
) -> Result<(), String> {
    let mut buf = cx.buffers().acquire(BLOCK_BYTES).await;
    buf.fill(0xa5);
    while !stop.load(Ordering::Acquire) {
        let start = Instant::now();
        let offset = blocks
            .lock()
            .map_err(|error| error.to_string())?
            .next_offset();
        let (back, written) = edge.write(&cx, offset, buf, RequestFlags::default()).await;
        written.map_err(|error| error.to_string())?;
        samples.note(start.elapsed());
        buf = back;
    }
    Ok(())
}

impl Host for Ours {
    fn guest(&self, depth: usize) -> Result<Guest, String> {
        match self.way {
            Way::Export => Guest::over_nbd(&self.socket, EXPORT, depth),
            Way::Edge => self.edge_guest(depth),
        }
    }

    fn start_backup(&mut self) -> Result<(), String> {
        let options = BackupOptions::new("backup");
        let backup = self.engine.backup(&self.source, &self.target, options);
        self.backup = Some(backup.map_err(|error| error.to_string())?);
        Ok(())
    }

    fn is_over(&mut self) -> Result<bool, String> {
        let backup = self.backup.as_ref().ok_or("no backup was started")?;
        match backup.job().outcome() {
            Some(outcome) => outcome
                .into_result()
                .map(|()| true)
                .map_err(|error| error.to_string()),
            None => Ok(false),
        }
    }
}

/// The reference's daemon.
struct Theirs {
    daemon: Reference,
    socket: std::path::PathBuf,
}

impl Host for Theirs {
    fn guest(&self, depth: usize) -> Result<Guest, String> {
        Guest::over_nbd(&self.socket, EXPORT, depth)
    }

    fn start_backup(&mut self) -> Result<(), String> {
        self.daemon.start()
    }

    fn is_over(&mut self) -> Result<bool, String> {
        Ok(self.daemon.done_bytes()?.is_none())
    }
}

type FigureOf = fn(&Writes) -> f64;

fn tell(depth: usize, sides: &[Side], found: &[Found], disturbed: Disturbed) {
    let figures: [(&str, &str, FigureOf); 4] = [
        ("rate", "writes/s", |writes| writes.per_s),
        ("p50", "ms", |writes| writes.p50),
        ("p99", "ms", |writes| writes.p99),
        ("p999", "ms", |writes| writes.p999),
    ];
    for (side, found) in sides.iter().zip(found) {
        let name = side.name();
        let moments = [("alone", &found.alone), ("backup", &found.during)];
        let of_moments = moments.into_iter().filter(|(_, writes)| !writes.is_empty());
        let cells = of_moments.flat_map(|moment| figures.map(|figure| (moment, figure)));
        for ((when, writes), (figure, unit, of)) in cells {
            let name = format!("jobs/writers/{depth}/{when}_{figure}/{name}");
            tell_figure((&name, unit), writes.iter().map(of), disturbed);
        }
        let added = found.during.iter().zip(&found.alone);
        let added: Vec<f64> = added
            .map(|(during, alone)| during.p99 - alone.p99)
            .collect();
        if !added.is_empty() {
            let name = format!("jobs/writers/{depth}/added_p99/{name}");
            tell_figure((&name, "ms"), added, disturbed);
        }
        let wall = format!("jobs/writers/{depth}/wall/{name}");
        tell_figure((&wall, "s"), found.backup.iter().copied(), disturbed);
    }
    for (side, found) in sides.iter().zip(found) {
        // What is left to it of what it has alone.
        let kept = found.during.iter().zip(&found.alone);
        let name = format!("jobs/writers/{depth}/kept/{}/alone", side.name());
        tell_ratio(
            &name,
            kept.map(|(during, alone)| during.per_s / alone.per_s),
            disturbed,
        );
    }
    let ours = &found[0];
    for (peer, theirs) in sides.iter().zip(found).skip(RIVAL) {
        let pairs = ours.during.iter().zip(&theirs.during);
        let name = format!("jobs/writers/{depth}/time_per_write/ours/{}", peer.name());
        tell_ratio(
            &name,
            pairs.map(|(ours, theirs)| theirs.per_s / ours.per_s),
            disturbed,
        );
        let pairs = ours.backup.iter().zip(&theirs.backup);
        let name = format!("jobs/writers/{depth}/wall/ours/{}", peer.name());
        tell_ratio(&name, pairs.map(|(ours, theirs)| ours / theirs), disturbed);
    }
}
