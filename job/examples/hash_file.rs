//! A job that is not a block job: `cargo run -p job --example hash_file -- FILE`.
//!
//! It hashes a file (its own program, if none is named) and tells how far it is. This shows what
//! every job can do: it is paused in the middle and goes on; a second one is cancelled in the middle.

#![expect(clippy::print_stdout, reason = "an example shows what it did")]

use std::{
    error::Error,
    fs::File,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use aio::{AioContext, Config, Fd};
use job::{
    BoxFuture, CancelMode, Job, JobConfig, JobContext, JobDriver, JobError, JobEvent, JobOutcome,
    JobRegistry,
};

const CHUNK_BYTES: u64 = 128 << 10;

/// The inside of the job: what it works on, and where it leaves its result.
struct HashFile {
    file: Fd,
    len_bytes: u64,
    hash: AtomicU64,
}

impl JobDriver for HashFile {
    fn kind(&self) -> &'static str {
        "hash"
    }

    fn run<'a>(&'a self, job: &'a JobContext) -> BoxFuture<'a, Result<(), JobError>> {
        Box::pin(self.hash_all(job))
    }
}

impl HashFile {
    fn open(path: &Path) -> Result<Self, Box<dyn Error>> {
        let file = File::open(path)?;
        Ok(Self {
            len_bytes: file.metadata()?.len(),
            file: Fd::from(file),
            hash: AtomicU64::new(0),
        })
    }

    async fn hash_all(&self, job: &JobContext) -> Result<(), JobError> {
        job.progress().set_remaining(self.len_bytes);
        let (mut hash, mut offset_bytes) = (FNV_BASIS, 0);
        while offset_bytes < self.len_bytes {
            // Here it stands while it is paused: nothing is in flight, so the driver needs no `pause`.
            job.pause_point().await;
            let len_bytes = CHUNK_BYTES.min(self.len_bytes - offset_bytes);
            // A disk that is gone may never answer, and a cancel by force must not wait for it.
            let step =
                job.or_cancelled(self.step(job, hash, offset_bytes..offset_bytes + len_bytes));
            let Some(stepped) = step.await else {
                return Err(JobError::cancelled());
            };
            hash = stepped?;
            offset_bytes += len_bytes;
            job.progress().work_done(len_bytes);
        }
        self.hash.store(hash, Ordering::Relaxed);
        Ok(())
    }

    /// Reads one range and adds it to `hash`.
    async fn step(
        &self,
        job: &JobContext,
        hash: u64,
        range: std::ops::Range<u64>,
    ) -> Result<u64, JobError> {
        let (file, offset_bytes) = (self.file.clone(), range.start);
        let len = usize::try_from(range.end - range.start).expect("a chunk is small");
        // A request belongs to a context, and the body may move to another one: so it asks for the
        // one of the moment.
        let reading = job.on_context(move |cx| async move {
            let buf = cx.buffers().acquire(len).await;
            cx.read_exact(&file, offset_bytes, buf).await
        });
        let (chunk, read) = reading.await;
        read.map_err(|error| {
            JobError::failed(format!("cannot read the file at byte {offset_bytes}"))
                .with_errno(error.raw_os_error().unwrap_or_default())
                .with_source(error)
        })?;
        // Work for the processor goes to a worker thread: others live on the context as well.
        Ok(job.blocking(move || fnv1a(hash, &chunk)).await)
    }
}

const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a, which is as good as any for an example, and useless against forgery.
fn fnv1a(hash: u64, bytes: &[u8]) -> u64 {
    let step = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    bytes.iter().fold(hash, step)
}

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    // As a part of the tests, it has arguments that are none of its own.
    let named = std::env::args_os().nth(1).filter(|_| !cfg!(test));
    let path = named.map_or_else(std::env::current_exe, |path| Ok(PathBuf::from(path)))?;
    aio::run(
        Config::default(),
        |cx| async move { watch(&cx, &path).await },
    )?
}

async fn watch(cx: &AioContext, path: &Path) -> Result<(), Box<dyn Error>> {
    let registry = JobRegistry::new(cx.handle().clone());
    let _events = registry.subscribe(|event| match event {
        JobEvent::StatusChange { job, status } => println!("{} {status}", job.id),
        JobEvent::Completed { job, error: None } => println!("{} COMPLETED", job.id),
        JobEvent::Cancelled(job) => println!("{} CANCELLED", job.id),
        other => println!("{other:?}"),
    });

    let driver = Arc::new(HashFile::open(path)?);
    let config = JobConfig::new("first", driver.clone(), cx.handle().clone());
    let first = registry.create(config)?;
    first.start()?;
    come_to_the_middle(cx, &first).await;
    match first.pause() {
        Ok(()) => {
            first.quiesced().await;
            let before = first.progress().snapshot();
            cx.sleep_ns(20_000_000).await;
            let after = first.progress().snapshot();
            println!("stands still: {}", before == after);
            println!("first: {} of {} bytes", after.current, after.total);
            first.resume()?;
        }
        // A small file: it has ended already.
        Err(refused) => println!("{refused}"),
    }
    first.wait().await.into_result()?;
    let hash = driver.hash.load(Ordering::Relaxed);
    println!("{hash:016x}  {}", path.display());

    let driver = Arc::new(HashFile::open(path)?);
    let second = registry.create(JobConfig::new("second", driver, cx.handle().clone()))?;
    second.start()?;
    come_to_the_middle(cx, &second).await;
    if let Err(refused) = second.cancel(CancelMode::Force) {
        println!("{refused}");
    }
    match second.wait().await {
        JobOutcome::Cancelled(error) => println!("second: {error}"),
        other => println!("second: {other:?}"),
    }
    Ok(())
}

/// Ends when half of the work is done, or the job is.
async fn come_to_the_middle(cx: &AioContext, job: &Job) {
    loop {
        let progress = job.progress().snapshot();
        let is_half = progress.total > 0 && progress.current >= progress.total / 2;
        if is_half || job.outcome().is_some() {
            return;
        }
        cx.yield_now().await;
    }
}
