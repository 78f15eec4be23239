//! The inside of a backup job: what its body does, and how it ends.

use std::{
    any::Any,
    fmt,
    future::{Future, ready},
    mem,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Wake, Waker},
};

use aio::AioContext;
use block::{
    BlockError,
    copy::{BlockCopy, CopyProgress},
    nodes::copy_before_write::CbwHandle,
};
use blockjob::{BlockJob, BlockJobDriver, ErrorAction, ErrorSide, OnError};
use job::{BoxFuture, Job, JobContext, JobDriver, JobError, LocalBoxFuture};

use super::{
    BackupReport,
    held::{Exit, Held, Remains},
    options::{BackupOptions, BackupSync},
};
use crate::{
    copy_engine::{CopyEngine, ErrorPolicies, job_error},
    departure::RETURN_MAX_NS,
    pace::Tuning,
    sync_bitmap::{BitmapMode, Lacking, SyncBitmap},
};

/// The inside of a backup job.
pub(super) struct BackupDriver {
    pub(super) block_job: BlockJob,
    sync: BackupSync,
    policies: ErrorPolicies,
    stage: Mutex<Stage>,
}

/// How far a backup is, as its job driver sees it.
enum Stage {
    /// From the start until clean.
    Held(Box<Held>),
    /// After that.
    Over(Remains),
}

impl BackupDriver {
    pub(super) fn new(block_job: BlockJob, held: Held, options: &BackupOptions) -> Self {
        Self {
            block_job,
            sync: options.sync,
            policies: options.policies(),
            stage: Mutex::new(Stage::Held(Box::new(held))),
        }
    }

    /// Introduces the driver to its job.
    pub(super) fn bind(self: &Arc<Self>, job: &Job) {
        self.block_job.bind(job, self);
        let woken = (self.sync == BackupSync::None).then(|| job.downgrade());
        if let Stage::Held(held) = &mut *self.lock() {
            held.account_for_guests(&self.block_job, woken);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the body works with; `None` once the job is over.
    fn tools(&self) -> Option<(CbwHandle, Arc<CopyEngine<BlockCopy>>)> {
        match &*self.lock() {
            Stage::Held(held) => Some((held.cbw.clone(), held.engine.clone())),
            Stage::Over(_) => None,
        }
    }

    pub(super) fn tune(&self, tuning: Tuning) {
        if let Some((_, engine)) = self.tools() {
            engine.tune(tuning);
        }
    }

    pub(super) fn report(&self) -> BackupReport {
        let io_status = self.block_job.io_status();
        let report = match &*self.lock() {
            Stage::Held(held) => held.report(),
            Stage::Over(remains) => remains.report(),
        };
        BackupReport {
            io_status,
            ..report
        }
    }

    /// Goes over to the last stage; what was held is the caller's to take apart, once.
    pub(super) fn let_go(&self) -> Option<Box<Held>> {
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

    /// Lets guests go on without the copy.
    fn give_up(&self) {
        if let Some(exit) = self.exit() {
            exit.give_up();
        }
    }

    /// The same, and waits for no server any more.
    fn cancel(&self) {
        if let Some(exit) = self.exit() {
            exit.cancel();
        }
    }

    fn exit(&self) -> Option<Exit> {
        match &*self.lock() {
            Stage::Held(held) => Some(held.exit()),
            Stage::Over(_) => None,
        }
    }

    /// It is as if the job had never been: nothing is copied any more, and the bitmap is what it would be.
    pub(super) fn roll_back(&self) {
        self.give_up();
        drop(self.take_bitmap());
    }

    /// The bitmap and what the target lacks, for whoever decides about them.
    fn take_bitmap(&self) -> Option<(SyncBitmap, Option<Lacking>)> {
        match &mut *self.lock() {
            Stage::Held(held) => held
                .bitmap
                .take()
                .map(|bitmap| (bitmap, held.lacking.take())),
            Stage::Over(_) => None,
        }
    }

    async fn copy_all(&self, job: &JobContext) -> Result<(), JobError> {
        let (cbw, engine) = self.tools().expect("held until clean");
        if self.sync == BackupSync::None {
            return keep_snapshot(job, &cbw).await;
        }
        if self.sync == BackupSync::Top {
            scan(job, &cbw).await;
        }
        engine.run(job, || whole(&cbw)).await?;
        while let Err(error) = flush(job, &cbw).await? {
            let policy = match self.policies.target {
                // A job that says that it is complete without a flush would lie.
                OnError::Ignore => OnError::Report,
                policy => policy,
            };
            if self.block_job.decide(policy, ErrorSide::Write, &error) != ErrorAction::Stop {
                return Err(job_error(error));
            }
            job.pause_point().await;
            if job.is_cancelled() {
                return Err(JobError::cancelled());
            }
        }
        Ok(())
    }

    /// What the target lacks for good, should a bitmap be brought to that although the job has failed.
    ///
    /// What was copied counts only once it is stable: a bit that is clean beside data that a power failure takes away
    /// is a hole in every backup after this one.
    async fn note_lacking(&self, job: &JobContext, result: &Result<(), JobError>) {
        let lacking = match result {
            // It was flushed.
            Ok(()) => Lacking::Nothing,
            Err(_) => match self.copy_to_salvage() {
                Some(copy) => self.salvage(job, copy).await,
                None => return,
            },
        };
        if let Stage::Held(held) = &mut *self.lock() {
            held.lacking = Some(lacking);
        }
    }

    /// The copy, if somebody wants to know how far a failed one has come.
    fn copy_to_salvage(&self) -> Option<Arc<BlockCopy>> {
        match &*self.lock() {
            Stage::Held(held) if held.bitmap.as_ref()?.mode() == BitmapMode::Always => {
                Some(held.cbw.block_copy().clone())
            }
            Stage::Held(_) | Stage::Over(_) => None,
        }
    }

    async fn salvage(&self, job: &JobContext, copy: Arc<BlockCopy>) -> Lacking {
        // What is copied after this look may come after the flush.
        let (uncopied, target) = (copy.uncopied(), copy.target());
        drop(copy);
        if job.is_cancelled() {
            // Guests need not wait for the flush.
            self.give_up();
        }
        let flushing = job.spawn(|cx| async move {
            let Some(target) = target else { return false };
            let flushed = cx.timeout_ns(RETURN_MAX_NS, target.flush(&cx)).await;
            matches!(flushed, Ok(Ok(())))
        });
        match uncopied {
            Ok(uncopied) if flushing.await => Lacking::Part(uncopied),
            _ => self.everything(),
        }
    }

    /// What the target lacks of which nothing was copied.
    fn everything(&self) -> Lacking {
        match self.sync {
            BackupSync::Bitmap => Lacking::Content,
            BackupSync::Full | BackupSync::Top | BackupSync::None => Lacking::Everything,
        }
    }
}

/// Drops what is not the top layer's own, before the copying comes there.
async fn scan(job: &JobContext, cbw: &CbwHandle) {
    let mut next_bytes = Some(0);
    while let Some(from_bytes) = next_bytes {
        job.pause_point().await;
        let copy = cbw.block_copy().clone();
        let looking = job.spawn(move |cx| async move { copy.scan(&cx, from_bytes).await });
        let looked = job.or_cancelled(looking).await;
        next_bytes = looked.flatten();
        tell_progress(job, cbw);
    }
}

/// Leaves all copying to guests, until the job is cancelled or the snapshot is broken.
async fn keep_snapshot(job: &JobContext, cbw: &CbwHandle) -> Result<(), JobError> {
    let waker = Waker::from(Arc::new(WakesJob(job.job().clone())));
    let mut broken = pin!(cbw.snapshot().broken());
    loop {
        // It wakes the job, wherever that is by then.
        let _is_broken = broken.as_mut().poll(&mut Context::from_waker(&waker));
        if job.is_cancelled() {
            return Err(JobError::cancelled());
        }
        whole(cbw)?;
        tell_progress(job, cbw);
        job.park().await;
    }
}

fn tell_progress(job: &JobContext, cbw: &CbwHandle) {
    let (
        meter,
        CopyProgress {
            done_bytes,
            remaining_bytes,
        },
    ) = (job.progress(), cbw.block_copy().progress());
    meter.work_done(done_bytes.saturating_sub(meter.snapshot().current));
    meter.set_remaining(remaining_bytes);
}

struct WakesJob(Job);

impl Wake for WakesJob {
    fn wake(self: Arc<Self>) {
        self.0.wake();
    }
}

/// Makes what the target has been given durable, unless the job is cancelled: then it is left to itself.
async fn flush(job: &JobContext, cbw: &CbwHandle) -> Result<Result<(), BlockError>, JobError> {
    let copy = cbw.block_copy().clone();
    let flushing = job.spawn(|cx| async move { copy.flush(&cx).await });
    let flushed = job.or_cancelled(flushing).await;
    flushed.ok_or_else(JobError::cancelled)
}

/// Fails once the filter could not save old data and let the guest go on.
fn whole(cbw: &CbwHandle) -> Result<(), JobError> {
    match cbw.snapshot().failure() {
        Some(error) => Err(JobError::failed(format!(
            "old data could not be saved before a guest overwrote it: {error}"
        ))
        .with_errno(error.errno().unwrap_or(libc::EIO))),
        None => Ok(()),
    }
}

impl JobDriver for BackupDriver {
    fn kind(&self) -> &'static str {
        "backup"
    }

    fn extension(&self) -> Option<&(dyn Any + Send + Sync)> {
        Some(&self.block_job)
    }

    fn run<'a>(&'a self, job: &'a JobContext) -> BoxFuture<'a, Result<(), JobError>> {
        Box::pin(async move {
            let result = self.copy_all(job).await;
            self.note_lacking(job, &result).await;
            if job.is_cancelled() {
                // Not only in clean: the rest of a transaction may take its time until then.
                self.cancel();
            }
            result
        })
    }

    fn pause(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Some((_, engine)) = self.tools() {
                engine.settle().await;
            }
        })
    }

    fn user_resume(&self) {
        self.block_job.user_resume();
    }

    fn commit<'a>(&'a self, _main: &'a AioContext) -> LocalBoxFuture<'a, ()> {
        if let Some((bitmap, _)) = self.take_bitmap() {
            bitmap.commit();
        }
        Box::pin(ready(()))
    }

    fn abort<'a>(&'a self, _main: &'a AioContext) -> LocalBoxFuture<'a, ()> {
        if let Some((bitmap, lacking)) = self.take_bitmap() {
            // A body that has not run has not looked, and copied nothing that it knows of.
            bitmap.abort(&lacking.unwrap_or_else(|| self.everything()));
        }
        Box::pin(ready(()))
    }

    fn clean<'a>(&'a self, main: &'a AioContext) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            if let Some(held) = self.let_go() {
                held.leave(main, &self.block_job).await;
            }
        })
    }
}

/// The engine asks for its delay before each request, so a new speed need not be passed on.
impl BlockJobDriver for BackupDriver {}

/// A job that is dropped half-way, with its registry, does not leave guests to a copy that nobody wants.
impl Drop for BackupDriver {
    fn drop(&mut self) {
        if let Some(held) = self.let_go() {
            held.exit().give_up();
            held.forget(&self.block_job);
        }
    }
}

impl fmt::Debug for BackupDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackupDriver")
            .field("block_job", &self.block_job)
            .finish_non_exhaustive()
    }
}
