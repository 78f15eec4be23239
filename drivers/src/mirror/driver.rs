//! The inside of a mirror job: its hooks, in the order of its life.

use std::{
    any::Any,
    fmt, mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use aio::AioContext;
use block::{BlockError, Child, DirtyBitmap, Node, copy::CopyEdge, mirror::CopyMode};
use blockjob::{BlockJob, BlockJobDriver, JobChange, OnError};
use job::{BoxFuture, CancelMode, JobContext, JobDriver, JobError, LocalBoxFuture};

use super::{
    MirrorChange, MirrorOptions, MirrorReport, NamedBitmaps,
    body::Body,
    carried::carry,
    held::{Exit, Held, Remains, check_replaces},
};
use crate::{
    copy_engine::job_error,
    departure::RETURN_MAX_NS,
    pace::Tuning,
    sync_bitmap::{BitmapMode, Lacking, SyncBitmap},
};

/// The inside of a mirror job.
pub(super) struct MirrorDriver {
    block_job: BlockJob,
    on_target_error: OnError,
    replaces: Option<Node>,
    bitmaps: NamedBitmaps,
    wishes: Arc<Wishes>,
    stage: Mutex<Stage>,
}

/// What the user wants of a mirror that is ready, as verbs set it and the body reads it.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    is_ready: AtomicBool,
    completes: AtomicBool,
}

impl Wishes {
    pub(super) fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Acquire)
    }

    pub(super) fn set_ready(&self) {
        self.is_ready.store(true, Ordering::Release);
    }

    /// Whether guests are to move to the target.
    pub(super) fn completes(&self) -> bool {
        self.completes.load(Ordering::Acquire)
    }
}

/// How far a mirror is, as its job driver sees it.
enum Stage {
    /// From the start until clean.
    Held(Held),
    /// After that.
    Over(Remains),
}

impl MirrorDriver {
    pub(super) fn new(block_job: BlockJob, held: Held, options: &MirrorOptions) -> Self {
        Self {
            block_job,
            on_target_error: options.on_target_error,
            replaces: options.replaces.clone(),
            bitmaps: options.bitmaps,
            wishes: Arc::default(),
            stage: Mutex::new(Stage::Held(held)),
        }
    }

    pub(super) fn block_job(&self) -> &BlockJob {
        &self.block_job
    }

    pub(super) fn set_speed(&self, speed_bytes_per_s: u64) {
        self.block_job.set_speed(speed_bytes_per_s);
    }

    pub(super) fn set_copy_mode(&self, mode: CopyMode) {
        self.with_held(|held| held.mirror.mirror_copy().set_mode(mode));
    }

    pub(super) fn copy_mode(&self) -> Option<CopyMode> {
        self.with_held(|held| held.mirror.mirror_copy().mode())
    }

    pub(super) fn tune(&self, tuning: Tuning) {
        self.with_held(|held| held.engine.tune(tuning));
    }

    pub(super) fn report(&self) -> MirrorReport {
        match &*self.lock() {
            Stage::Held(held) => held.report(),
            Stage::Over(remains) => remains.report(),
        }
    }

    /// Lets go of everything, the filter having no users.
    pub(super) fn forget(&self) {
        if let Some(held) = self.let_go() {
            held.forget(&self.block_job);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at what is held; `None` once the job is over. Nothing that it gets is dropped under the lock.
    fn with_held<T>(&self, look: impl FnOnce(&Held) -> T) -> Option<T> {
        match &*self.lock() {
            Stage::Held(held) => Some(look(held)),
            Stage::Over(_) => None,
        }
    }

    /// Goes over to the last stage; what was held is the caller's to take apart, once.
    fn let_go(&self) -> Option<Held> {
        let mut stage = self.lock();
        let Stage::Held(held) = &*stage else {
            return None;
        };
        let remains = held.remains();
        match mem::replace(&mut *stage, Stage::Over(remains)) {
            Stage::Held(held) => Some(held),
            Stage::Over(_) => None,
        }
    }

    fn body(&self) -> Body {
        let body = self.with_held(|held| Body {
            graph: held.graph.clone(),
            filter: held.filter.clone(),
            copy: held.mirror.mirror_copy().clone(),
            work: held.work.clone(),
            engine: held.engine.clone(),
            gain: held.gain.clone(),
            barrier: held.barrier.clone(),
            block_job: self.block_job.clone(),
            on_target_error: self.on_target_error,
            wishes: self.wishes.clone(),
        });
        body.expect("held until clean")
    }

    /// Lets guests go on without the mirror, and waits for no server any more.
    fn cancel_now(&self) {
        if let Some(exit) = self.with_held(Held::exit) {
            exit.cancel();
        }
    }

    /// Has the body look at what the user wants, although guests may go on making things different for ever.
    fn interrupt(&self) {
        self.with_held(|held| held.work.allow(u64::MAX));
    }

    fn open_barrier(&self) {
        if let Some(barrier) = self.with_held(|held| held.barrier.clone()) {
            barrier.open();
        }
    }

    /// Has the mirror start from a bitmap, before guests go on.
    pub(super) fn start_from(&self, bitmap: SyncBitmap) -> Result<(), BlockError> {
        let content = bitmap.content()?;
        match &mut *self.lock() {
            Stage::Held(held) => {
                held.mirror.mirror_copy().mark(&content)?;
                held.bitmap = Some(bitmap);
            }
            Stage::Over(_) => {}
        }
        Ok(())
    }

    /// The bitmap and what the target lacks, for whoever decides about them.
    fn take_bitmap(&self) -> Option<(SyncBitmap, Option<Lacking>)> {
        match &mut *self.lock() {
            Stage::Held(held) => {
                let lacking = held.lacking.take();
                held.bitmap.take().map(|bitmap| (bitmap, lacking))
            }
            Stage::Over(_) => None,
        }
    }

    /// What the target lacks now, and the way to make the rest stable, if somebody wants to know how far a failed
    /// mirror has come. What is copied after this look may come after the flush.
    fn salvage_start(&self) -> Option<(DirtyBitmap, Arc<CopyEdge>)> {
        let copy = self.with_held(|held| {
            let bitmap = held.bitmap.as_ref()?;
            let wants = bitmap.mode() == BitmapMode::Always;
            wants.then(|| held.mirror.mirror_copy().clone())
        })??;
        Some((copy.not_copied(), copy.target()?))
    }

    async fn salvage(&self, job: &JobContext, (lacking, target): (DirtyBitmap, Arc<CopyEdge>)) {
        let flushing = job.spawn(|cx| async move {
            let flushed = cx.timeout_ns(RETURN_MAX_NS, target.flush(&cx)).await;
            matches!(flushed, Ok(Ok(())))
        });
        if flushing.await {
            self.note_lacking(Lacking::Part(lacking));
        }
    }

    fn note_lacking(&self, lacking: Lacking) {
        if let Stage::Held(held) = &mut *self.lock() {
            held.lacking = Some(lacking);
        }
    }

    /// Moves the guests, who are held up, to the target.
    async fn pivot(&self) -> Result<(), JobError> {
        let Some((graph, nodes, copy, emptied)) = self.with_held(|held| {
            let nodes = (
                held.source.clone(),
                held.target.clone(),
                held.filter.clone(),
            );
            let emptied = held.bitmap.as_ref().map(|bitmap| bitmap.name().to_owned());
            let copy = held.mirror.mirror_copy().clone();
            (held.graph.clone(), nodes, copy, emptied)
        }) else {
            return Ok(());
        };
        let (source, target, filter) = nodes;
        let from = match &self.replaces {
            None => &filter,
            Some(replaced) => {
                let again = check_replaces(&graph, (&source, &target), replaced);
                again.map_err(|error| no_longer(replaced, &target, &error))?;
                replaced
            }
        };
        let carried = match self.bitmaps {
            NamedBitmaps::Stay => None,
            NamedBitmaps::Carried => Some(carry((&source, &target), emptied.as_deref())),
        };
        let carried = carried.transpose().map_err(job_error)?;
        let edge = copy.target();
        let leaving: Vec<&Child> = edge.iter().map(|edge| &***edge).collect();
        let replaced = graph.replace_node(from, &target, &leaving).await;
        replaced.map_err(|error| no_longer(from, &target, &error))?;
        if let Some(carried) = carried {
            carried.keep();
        }
        Ok(())
    }
}

fn no_longer(replaced: &Node, target: &Node, error: &BlockError) -> JobError {
    let (replaced, target) = (replaced.name(), target.name());
    let text = format!("Can no longer replace '{replaced}' by '{target}': {error}");
    JobError::failed(text).with_errno(libc::EPERM)
}

impl JobDriver for MirrorDriver {
    fn kind(&self) -> &'static str {
        "mirror"
    }

    fn extension(&self) -> Option<&(dyn Any + Send + Sync)> {
        Some(&self.block_job)
    }

    fn run<'a>(&'a self, job: &'a JobContext) -> BoxFuture<'a, Result<(), JobError>> {
        Box::pin(async move {
            let body = self.body();
            let result = body.run(job).await;
            body.gain.stand();
            if result.is_ok() && !job.is_cancelled() {
                // It was flushed, should somebody else's failure be the job's end.
                self.note_lacking(Lacking::Nothing);
                return result;
            }
            let left = self.salvage_start();
            if job.is_cancelled() {
                // Not only in clean: the rest of a transaction may take its time until then.
                self.cancel_now();
            } else {
                self.open_barrier();
            }
            if let Some(left) = left {
                self.salvage(job, left).await;
            }
            result
        })
    }

    fn pause(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            // Guests do not wait for the user.
            self.open_barrier();
            let held = self.with_held(|held| (held.engine.clone(), held.gain.clone()));
            if let Some((engine, gain)) = held {
                gain.stand();
                engine.settle().await;
            }
        })
    }

    fn resume(&self) {
        // What guests' requests met meanwhile is tried again, and is met again if it is still there.
        if let Some(copy) = self.with_held(|held| held.mirror.mirror_copy().clone()) {
            drop(copy.take_guest_error());
        }
    }

    fn user_resume(&self) {
        self.block_job.user_resume();
    }

    fn cancel(&self, mode: CancelMode) -> CancelMode {
        if !self.wishes.is_ready() {
            // There is no good end yet.
            return CancelMode::Force;
        }
        self.interrupt();
        mode
    }

    fn can_complete(&self) -> bool {
        true
    }

    fn complete(&self) -> Result<(), JobError> {
        self.wishes.completes.store(true, Ordering::Release);
        self.interrupt();
        Ok(())
    }

    fn prepare<'a>(&'a self, _main: &'a AioContext) -> LocalBoxFuture<'a, Result<(), JobError>> {
        Box::pin(async move {
            match self.wishes.completes() {
                true => self.pivot().await,
                false => Ok(()),
            }
        })
    }

    fn commit<'a>(&'a self, _main: &'a AioContext) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            if let Some((bitmap, _)) = self.take_bitmap() {
                bitmap.commit_up_to_now();
            }
        })
    }

    fn abort<'a>(&'a self, _main: &'a AioContext) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            if let Some((bitmap, lacking)) = self.take_bitmap() {
                bitmap.abort(&lacking.unwrap_or(Lacking::Content));
            }
        })
    }

    fn clean<'a>(&'a self, main: &'a AioContext) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            if let Some(held) = self.let_go() {
                held.leave(main, &self.block_job).await;
            }
        })
    }
}

impl BlockJobDriver for MirrorDriver {
    fn change(&self, change: &JobChange) -> Result<(), JobError> {
        let Some(MirrorChange { copy_mode }) = change.options() else {
            return Err(JobError::refused("A mirror takes changes of its copy mode"));
        };
        self.set_copy_mode(*copy_mode);
        Ok(())
    }

    fn actively_synced(&self) -> Option<bool> {
        self.with_held(|held| held.mirror.mirror_copy().is_actively_synced())
    }
}

/// A job that is dropped half-way, with its registry, does not leave guests to a mirror that nobody wants.
impl Drop for MirrorDriver {
    fn drop(&mut self) {
        if let Some(held) = self.let_go() {
            Exit::give_up(held.exit());
            held.barrier.open();
            held.forget(&self.block_job);
        }
    }
}

impl fmt::Debug for MirrorDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MirrorDriver")
            .field("block_job", &self.block_job)
            .finish_non_exhaustive()
    }
}
