//! What all contexts of a run share: each other, the locks between them, and the counts.

use std::{
    future::poll_fn,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Poll, Waker},
};

use super::{
    operations::OPERATIONS,
    random::Random,
    watch::{Worker, Workers},
};
use crate::{
    AioContext, BackendKind, ByteSemaphore, Closed, ContextStats, Fd, Handle, ManualClock,
    TaskMutex, TaskRwLock,
};

/// Contexts at a time.
pub(super) const PLACES: usize = 4;
/// Most streams of operations on one context.
pub(super) const STREAMS: usize = 6;
/// Bytes of the scratch file for each stream.
pub(super) const REGION_BYTES: usize = 256 << 10;

/// A context as others see it, which may be closed at any time.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) handle: Handle,
    pub(super) clock: ManualClock,
}

impl Peer {
    pub(super) fn is_closed(&self) -> bool {
        self.handle.shared().is_closed()
    }
}

/// Where one context after the other lives.
pub(super) struct Place {
    pub(super) backend: BackendKind,
    pub(super) peer: Mutex<Option<Peer>>,
    pub(super) counts: [AtomicU64; OPERATIONS.len()],
    /// Contexts that have come and gone: closed when all was done, and in the middle of work.
    pub(super) ended: [AtomicU64; 2],
    /// How the context there was made, for the report of the watchdog.
    pub(super) config: Mutex<String>,
    pub(super) totals: Mutex<Totals>,
}

/// Sums of what contexts have counted.
#[derive(Debug, Default)]
pub(super) struct Totals {
    turns: u64,
    kicks: u64,
    enters: u64,
    orphaned: u64,
    cq_overflows: u64,
    stale: u64,
}

impl Totals {
    pub(super) fn add(&mut self, stats: &ContextStats) {
        self.join(&Self {
            turns: stats.turns,
            kicks: stats.kicks,
            enters: stats.enters,
            orphaned: stats.requests_orphaned,
            cq_overflows: stats.cq_overflows,
            stale: stats.stale_completions,
        });
    }

    pub(super) fn join(&mut self, other: &Self) {
        self.turns += other.turns;
        self.kicks += other.kicks;
        self.enters += other.enters;
        self.orphaned += other.orphaned;
        self.cq_overflows += other.cq_overflows;
        self.stale += other.stale;
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) places: Vec<Place>,
    pub(super) workers: Arc<Workers>,
    pub(super) scratch: tempfile::NamedTempFile,
    pub(super) mutex: TaskMutex,
    pub(super) rw_lock: TaskRwLock,
    pub(super) budget: ByteSemaphore,
    /// Somebody has the mutex.
    pub(super) inside: AtomicBool,
    /// Who has the reader-writer lock: readers, and a thousand for a writer.
    pub(super) readers: AtomicU64,
    /// Bytes of the budget that are out.
    pub(super) spent: AtomicU64,
}

/// Bytes of [`World::budget`].
pub(super) const BUDGET_BYTES: u64 = 1000;

impl World {
    pub(super) fn new(seed: u64, backends: &[BackendKind]) -> Self {
        let place = |at: usize| Place {
            backend: backends[at % backends.len()],
            peer: Mutex::new(None),
            counts: [const { AtomicU64::new(0) }; OPERATIONS.len()],
            ended: [AtomicU64::new(0), AtomicU64::new(0)],
            config: Mutex::default(),
            totals: Mutex::default(),
        };
        let scratch = tempfile::NamedTempFile::new().unwrap();
        let len = PLACES * STREAMS * REGION_BYTES;
        scratch.as_file().set_len(len as u64).unwrap();
        Self {
            seed,
            places: (0..PLACES).map(place).collect(),
            workers: Arc::default(),
            scratch,
            mutex: TaskMutex::new(),
            rw_lock: TaskRwLock::new(),
            budget: ByteSemaphore::new(BUDGET_BYTES),
            inside: AtomicBool::new(false),
            readers: AtomicU64::new(0),
            spent: AtomicU64::new(0),
        }
    }

    pub(super) fn scratch_path(&self) -> &Path {
        self.scratch.path()
    }

    /// Some context: any of them.
    pub(super) fn some_peer(&self, random: &mut Random) -> Option<Peer> {
        let at = random.size(PLACES);
        (0..PLACES).find_map(|next| lock(&self.places[(at + next) % PLACES].peer).clone())
    }
}

/// One endless sequence of operations on one context.
pub(super) struct Stream {
    pub(super) cx: AioContext,
    /// The context's virtual clock.
    pub(super) clock: ManualClock,
    pub(super) world: Arc<World>,
    pub(super) place: usize,
    /// Which of the streams there: it has a part of the scratch file for itself.
    pub(super) id: usize,
    pub(super) random: Random,
    pub(super) scratch: Fd,
    pub(super) worker: Arc<Worker>,
    pub(super) ending: Arc<AtomicBool>,
}

impl Stream {
    /// Another context, or this one.
    pub(super) fn peer(&mut self) -> Peer {
        let here = || Peer {
            handle: self.cx.handle().clone(),
            clock: self.clock.clone(),
        };
        self.world.some_peer(&mut self.random).unwrap_or_else(here)
    }

    pub(super) fn region_bytes(&self) -> u64 {
        ((self.place * STREAMS + self.id) * REGION_BYTES) as u64
    }

    pub(super) fn step(&self, step: &str) {
        self.worker.step(step);
    }

    /// Operations one after the other, until it is told to end.
    pub(super) async fn run(mut self) {
        while !self.ending.load(Ordering::Acquire) {
            let at = self.random.size(OPERATIONS.len());
            let (name, operation) = OPERATIONS[at];
            self.worker.begin(name);
            operation(&mut self).await;
            self.worker.end();
            self.world.places[self.place].counts[at].fetch_add(1, Ordering::Relaxed);
            // Some operations never wait, and others want their turn.
            self.cx.yield_now().await;
        }
    }
}

/// The result of work on `peer`, or none if that was closed, which alone excuses it.
pub(super) fn settled<T>(result: Result<T, Closed>, peer: &Peer) -> Option<T> {
    assert!(
        result.is_ok() || peer.is_closed(),
        "work was dropped by a context that is open"
    );
    result.ok()
}

/// Wakes a task of any context.
#[derive(Clone, Default)]
pub(super) struct Bell(Arc<Mutex<Option<Waker>>>);

impl Bell {
    /// Waits until `open` says so; it is asked whenever somebody rings.
    pub(super) async fn until(&self, mut open: impl FnMut() -> bool) {
        poll_fn(|cx| {
            let before = lock(&self.0).replace(cx.waker().clone());
            drop(before);
            if open() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    pub(super) fn ring(&self) {
        let waker = lock(&self.0).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// What a callback on another context has seen.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) wanted: AtomicU64,
    pub(super) ran: AtomicU64,
    /// It must not be called any more.
    pub(super) gone: AtomicBool,
    /// It has been dropped, with what it holds.
    pub(super) dropped: AtomicBool,
    pub(super) bell: Bell,
}

impl Seen {
    /// Waits until the callback has run for what was wanted last, or will never run again.
    pub(super) async fn caught_up(&self) {
        let wanted = self.wanted.load(Ordering::Relaxed);
        let is_there = || self.ran.load(Ordering::Acquire) >= wanted || self.is_dropped();
        self.bell.until(is_there).await;
    }

    pub(super) async fn freed(&self) {
        self.bell.until(|| self.is_dropped()).await;
    }

    pub(super) fn is_dropped(&self) -> bool {
        self.dropped.load(Ordering::Acquire)
    }
}

/// The callback's side of it.
pub(super) struct Callback(pub(super) Arc<Seen>);

impl Callback {
    pub(super) fn run(&self) {
        let seen = &self.0;
        assert!(!seen.gone.load(Ordering::Acquire), "called after its end");
        let wanted = seen.wanted.load(Ordering::Acquire);
        seen.ran.fetch_max(wanted, Ordering::AcqRel);
        seen.bell.ring();
    }
}

impl Drop for Callback {
    fn drop(&mut self) {
        self.0.dropped.store(true, Ordering::Release);
        self.0.bell.ring();
    }
}
