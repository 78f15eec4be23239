//! How a backup takes hold: everything up to the start of its job, or nothing.

use std::sync::Arc;

use block::{ErrorKind, Graph, Node, Operation};
use blockjob::BlockJob;
use job::{Job, JobConfig, JobRegistry, Transaction};

use super::{
    Backup, BackupError,
    driver::BackupDriver,
    held::Held,
    options::{BackupBitmap, BackupSpec, refused},
};
use crate::sync_bitmap::SyncBitmap;

/// Refuses what needs no drained section to be refused, so that nobody is held up for it.
pub(super) fn check(graph: &Graph, spec: &BackupSpec) -> Result<(), BackupError> {
    spec.options.check(&spec.target)?;
    let source = graph.check_operation(&spec.source, Operation::BackupSource);
    let target = graph.check_operation(&spec.target, Operation::BackupTarget);
    source.and(target).map_err(|error| spec.refused(error))
}

/// Makes the job and puts the filter in, inside a drained section of the source. Dropped half-way, it has done nothing.
pub(super) async fn prepare(
    (graph, jobs): (&Graph, &JobRegistry),
    spec: BackupSpec,
    transaction: Option<Transaction>,
) -> Result<Backup, BackupError> {
    check(graph, &spec)?;
    let BackupSpec {
        source,
        target,
        context,
        options,
    } = &spec;
    let bitmap = match &options.bitmap {
        Some(bitmap) => Some(freeze(source, bitmap)?),
        None => None,
    };
    let in_this = |error| spec.refused(error);
    let block_job = BlockJob::new(&options.job_id, "backup", graph);
    block_job.set_speed(options.speed_bytes_per_s);
    let nodes = (source, target);
    let held = Held::make(graph, &block_job, nodes, (options, bitmap)).map_err(in_this)?;
    let filter = held.filter.clone();
    let driver = Arc::new(BackupDriver::new(block_job, held, options));
    let mut undo = Undo {
        driver: Some(driver.clone()),
        job: None,
    };
    let config = JobConfig {
        finalize: options.finalize,
        dismiss: options.dismiss,
        transaction,
        ..JobConfig::new(&options.job_id, driver.clone(), context.clone())
    };
    let job = undo.job.insert(jobs.create(config)?).clone();
    driver.bind(&job);
    let insertion = graph.insert_filter(source, &filter).await;
    insertion.map_err(in_this)?;
    undo.disarm();
    Ok(Backup { job, driver })
}

/// Lets the backup have the bitmap, for as long as it lives.
fn freeze(source: &Node, bitmap: &BackupBitmap) -> Result<SyncBitmap, BackupError> {
    let BackupBitmap { name, mode } = bitmap;
    SyncBitmap::freeze(source, name, *mode).or_else(|error| match error.kind() {
        ErrorKind::NotFound => refused(format!("Bitmap '{name}' could not be found")),
        _ => Err(error.into()),
    })
}

/// Takes everything back when a start fails or is given up half-way.
struct Undo {
    driver: Option<Arc<BackupDriver>>,
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
        if let Some(held) = driver.let_go() {
            held.forget(&driver.block_job);
        }
    }
}
