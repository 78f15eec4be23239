//! How a mirror starts, all of it or nothing.

use std::sync::Arc;

use aio::Handle;
use block::{BlockError, ErrorKind, Graph, Node};
use blockjob::BlockJob;
use job::{Job, JobConfig, JobRegistry};

use super::{
    Mirror, MirrorBitmap, MirrorError, MirrorOptions, MirrorSync, driver::MirrorDriver, held::Held,
};
use crate::sync_bitmap::SyncBitmap;

impl Mirror {
    /// Starts to mirror `source` to `target`; both stay in the graph.
    ///
    /// When this returns every change of the source is noticed, and nobody can write to it past that. To be called
    /// on the main context; the job runs on the context behind `context`.
    ///
    /// Dropping the future before it is ready leaves everything as it was.
    ///
    /// # Errors
    ///
    /// [`MirrorError`]; nothing has changed then.
    pub async fn start(
        (graph, jobs): (&Graph, &JobRegistry),
        context: &Handle,
        (source, target): (&Node, &Node),
        options: MirrorOptions,
    ) -> Result<Self, MirrorError> {
        let refused = |error: BlockError| MirrorError::Node {
            from: source.name().to_owned(),
            to: target.name().to_owned(),
            source: Box::new(error),
        };
        let block_job = BlockJob::new(&options.job_id, "mirror", graph);
        block_job.set_speed(options.speed_bytes_per_s);
        let options = MirrorOptions {
            // To replace the source is what happens anyway.
            replaces: options.replaces.clone().filter(|node| node != source),
            ..options
        };
        options.check()?;
        let sync = options.sync.clone();
        let held = Held::make(graph, &block_job, (source, target), &options).map_err(refused)?;
        let filter = held.filter.clone();
        let driver = Arc::new(MirrorDriver::new(block_job, held, &options));
        let mut undo = Undo {
            driver: Some(driver.clone()),
            job: None,
        };
        let config = JobConfig {
            finalize: options.finalize,
            dismiss: options.dismiss,
            ..JobConfig::new(options.job_id, driver.clone(), context.clone())
        };
        let job = undo.job.insert(jobs.create(config)?).clone();
        driver.block_job().bind(&job, &driver);
        // One instant for the bitmap and the filter: what was written before is in the one, the rest in the other.
        let section = graph.drain(std::slice::from_ref(source)).await;
        if let MirrorSync::Bitmap(bitmap) = &sync {
            driver
                .start_from(freeze(source, bitmap)?)
                .map_err(refused)?;
        }
        let inserted = graph.insert_filter(source, &filter).await;
        inserted.map_err(refused)?;
        drop(section);
        undo.disarm();
        if let Err(error) = job.start() {
            // Somebody has cancelled it already, and its end takes the filter out.
            job.wait().await;
            return Err(error.into());
        }
        Ok(Self { job, driver })
    }
}

/// Lets the mirror have the bitmap, for as long as it lives.
fn freeze(source: &Node, bitmap: &MirrorBitmap) -> Result<SyncBitmap, MirrorError> {
    let MirrorBitmap { name, mode } = bitmap;
    SyncBitmap::freeze(source, name, *mode).map_err(|error| match error.kind() {
        ErrorKind::NotFound => MirrorError::Refused(format!("Bitmap '{name}' could not be found")),
        _ => MirrorError::Refused(error.to_string()),
    })
}

/// Takes everything back when a start fails or is given up half-way.
struct Undo {
    driver: Option<Arc<MirrorDriver>>,
    job: Option<Job>,
}

impl Undo {
    fn disarm(&mut self) {
        self.driver = None;
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        let Some(driver) = self.driver.take() else {
            return;
        };
        if let Some(job) = self.job.take() {
            job.discard();
        }
        // Nothing is held any more if the job was cancelled meanwhile: its own end sees to it.
        driver.forget();
    }
}
