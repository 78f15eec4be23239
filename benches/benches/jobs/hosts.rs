//! Programs that have a guest, and copy what it writes to: an engine of ours, and the reference's daemon.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use aio::{AioContext, JoinHandle};
use benches::{BLOCK_BYTES, RandomBlocks};
use block::{
    Attachment, Child, ChildRole, Node, Permission, Permissions, RequestFlags, mirror::CopyMode,
    nodes::FileOptions,
};
use drivers::{ConvergePolicy, mirror::MirrorOptions};
use job::{CancelMode, Job, JobStatus};
use longshore::{
    BackupOptions, Engine, EngineConfig,
    export::{ExportOptions, NbdAddress, NbdServer, NbdServerOptions},
};

use crate::{
    copy_side::start_mirror,
    guest::{Guest, Samples},
    latency::Backups,
    reference::{EXPORT, EXPORT_SOCKET, Reference, Setup, Work},
};

/// What ours may add to the writes of a guest, where it is given a budget, in nanoseconds.
const BUDGET_NS: u64 = 1_000_000;
/// Longest delay of a guest's write, where a mirror is to gain on it, in nanoseconds.
const DELAY_MAX_NS: u64 = 20_000_000;

/// A program that has a guest, and copies what it writes to.
pub(crate) trait Host {
    fn guest(&self, depth: usize) -> Result<Guest, String>;
    /// Begins to copy.
    fn start(&mut self, work: Work) -> Result<(), String>;
    /// Whether a backup has ended, or a mirror is ready.
    fn is_done(&mut self) -> Result<bool, String>;
    /// Ends whatever goes on, and waits until it has.
    fn stop(&mut self) -> Result<(), String>;
}

/// How ours has a guest, and what it does for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Through the export, as a process of its own would.
    Export,
    /// Through an edge of the graph, on the loop.
    Edge,
    /// Through the export, with a budget for the guest's latency.
    Budget,
    /// Through the export; the guest is slowed down until a mirror is ready.
    Converging,
}

/// An engine of ours that serves the source.
pub(crate) struct Ours {
    way: Way,
    socket: PathBuf,
    job: Option<Job>,
    source: Node,
    target: Node,
    _server: NbdServer,
    engine: Engine,
}

impl Ours {
    pub(crate) fn start(
        way: Way,
        (source, target): (&Path, &Path),
        directory: &Path,
    ) -> Result<Self, String> {
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
        if way != Way::Edge {
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
            job: None,
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
    cx: AioContext,
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
            Way::Edge => self.edge_guest(depth),
            Way::Export | Way::Budget | Way::Converging => {
                Guest::over_nbd(&self.socket, EXPORT, depth)
            }
        }
    }

    fn start(&mut self, work: Work) -> Result<(), String> {
        let guest_latency_ns = (self.way == Way::Budget).then_some(BUDGET_NS);
        let Work::Mirror(mode) = work else {
            let options = BackupOptions {
                guest_latency_ns,
                ..BackupOptions::new("copy")
            };
            let backup = self.engine.backup(&self.source, &self.target, options);
            let backup = backup.map_err(|error| error.to_string())?;
            self.job = Some(backup.job().clone());
            return Ok(());
        };
        let options = MirrorOptions {
            guest_latency_ns,
            copy_mode: CopyMode::from_name(mode).ok_or("there is no such mode")?,
            converge: match self.way {
                Way::Converging => ConvergePolicy::SlowGuests {
                    delay_max_ns: DELAY_MAX_NS,
                },
                Way::Export | Way::Edge | Way::Budget => ConvergePolicy::GuestsFirst,
            },
            ..MirrorOptions::new("copy")
        };
        let mirror = start_mirror(&self.engine, (&self.source, &self.target), options)?;
        self.job = Some(mirror.job().clone());
        Ok(())
    }

    fn is_done(&mut self) -> Result<bool, String> {
        let job = self.job.as_ref().ok_or("nothing was started")?;
        match job.outcome() {
            Some(outcome) => {
                let result = outcome.into_result();
                result.map(|()| true).map_err(|error| error.to_string())
            }
            None => Ok(job.status() == JobStatus::Ready),
        }
    }

    fn stop(&mut self) -> Result<(), String> {
        if let Some(job) = self.job.take() {
            // Refused if it has ended by itself.
            drop(job.cancel(CancelMode::Force));
            job.wait_blocking();
        }
        Ok(())
    }
}

/// The reference's daemon.
pub(crate) struct Theirs {
    daemon: Reference,
    socket: PathBuf,
}

impl Theirs {
    /// With so many workers of a backup; its own number otherwise.
    pub(crate) fn start(
        workers: Option<u32>,
        nodes: (&Path, &Path),
        directory: &Path,
    ) -> Result<Self, String> {
        let daemon = Reference::start(Setup::Served(workers), nodes, directory)?;
        let socket = directory.join(EXPORT_SOCKET);
        Ok(Self { daemon, socket })
    }
}

impl Host for Theirs {
    fn guest(&self, depth: usize) -> Result<Guest, String> {
        Guest::over_nbd(&self.socket, EXPORT, depth)
    }

    fn start(&mut self, work: Work) -> Result<(), String> {
        self.daemon.set_work(work)?;
        self.daemon.start()
    }

    fn is_done(&mut self) -> Result<bool, String> {
        let status = self.daemon.status()?;
        Ok(status.is_none_or(|status| status == "ready"))
    }

    fn stop(&mut self) -> Result<(), String> {
        if self.daemon.status()?.is_some() {
            self.daemon.cancel()?;
        }
        self.daemon.gone()
    }
}
