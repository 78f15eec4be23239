//! `blockdev-create`: a job that makes an image.

use std::{rc::Rc, sync::Arc};

use block::{
    BlockError,
    nodes::{CreateOptions, FileIdentity, NewFile, Preallocation},
};
use job::{BoxFuture, JobConfig, JobContext, JobDriver, JobError, Trigger};
use qmp::{QmpError, Size, qapi_enum, qapi_struct, qapi_union};

use super::super::{
    Daemon,
    command::Command,
    error::{IntoQmp, whole_text},
    nodes::files,
};

pub(super) fn commands() -> Vec<Command> {
    vec![Command::new("blockdev-create", blockdev_create)]
}

qapi_enum! {
    /// Whether an image has its space from the start.
    pub(crate) enum PreallocMode {
        /// It grows as it is written.
        Off,
        /// The tables of its format have theirs, which a file does not have.
        Metadata,
        /// The file system reserves it.
        Falloc,
        /// It is written with zeroes.
        Full,
    }
}

qapi_struct! {
    /// A file that is to be made.
    pub(crate) struct BlockdevCreateOptionsFile {
        /// Its path, taken literally.
        filename: String,
        /// How long it is to be, in bytes.
        size: Size,
        /// Whether it has its space from the start.
        preallocation: Option<PreallocMode>,
        /// Have the file system overwrite its blocks in place.
        nocow: Option<bool>,
        /// In which units the file system is to give it space, in bytes.
        extent_size_hint: Option<Size>,
    }
}

qapi_union! {
    /// An image that is to be made.
    pub(crate) struct BlockdevCreateOptions {}
    /// What makes it: a node driver.
    tag driver: BlockdevCreateDriver, pub(crate) enum BlockdevCreateBranch {
        /// Makes requests fail.
        Blkdebug(()),
        /// Saves old data.
        CopyBeforeWrite(()),
        /// Keeps what is read.
        CopyOnRead(()),
        /// A file.
        File(BlockdevCreateOptionsFile),
        /// A device of the host.
        HostDevice(()) = "host_device",
        /// An NBD export.
        Nbd(()),
        /// Takes everything.
        NullAio(()),
        /// Takes everything.
        NullCo(()),
        /// A window of bytes.
        Raw(()),
        /// What a copy-before-write filter keeps.
        SnapshotAccess(()),
        /// Keeps to limits.
        Throttle(()),
    }
}

qapi_struct! {
    /// Arguments of `blockdev-create`.
    pub(crate) struct BlockdevCreate {
        /// The job's id.
        job_id: String,
        /// What to make.
        options: BlockdevCreateOptions,
    }
}

async fn blockdev_create(daemon: &Rc<Daemon>, args: BlockdevCreate) -> Result<(), QmpError> {
    let BlockdevCreateBranch::File(file) = args.options.driver else {
        let text = "Driver does not support blockdev-create";
        return Err(QmpError::generic(text));
    };
    let driver = Arc::new(Create {
        file,
        spared: files(daemon),
    });
    let mut config = JobConfig::new(args.job_id, driver, daemon.context.handle().clone());
    // Who has asked for an image has to learn whether it is there.
    config.dismiss = Trigger::Manual;
    let job = daemon.registry().create(config);
    let started = job.and_then(|job| job.start());
    started.map_err(IntoQmp::into_qmp)
}

/// The making of a file.
#[derive(Debug)]
struct Create {
    file: BlockdevCreateOptionsFile,
    spared: Vec<(FileIdentity, String)>,
}

impl Create {
    async fn create(&self, job: &JobContext) -> Result<(), JobError> {
        let options = self.options()?;
        let mut file = job
            .blocking(move || NewFile::create(&options))
            .await
            .map_err(failed)?;
        while !file.is_complete() {
            if job.is_cancelled() {
                return Err(JobError::cancelled());
            }
            let written = job.blocking(move || file.write_piece().map(|()| file));
            file = written.await.map_err(failed)?;
        }
        Ok(())
    }

    fn options(&self) -> Result<CreateOptions, JobError> {
        let preallocation = match self.file.preallocation {
            None | Some(PreallocMode::Off) => Preallocation::Off,
            Some(PreallocMode::Falloc) => Preallocation::Reserved,
            Some(PreallocMode::Full) => Preallocation::Written,
            Some(PreallocMode::Metadata) => {
                return Err(JobError::failed("Unsupported preallocation mode: metadata"));
            }
        };
        let hint = self.file.extent_size_hint.map(|hint| u32::try_from(hint.0));
        let hint = hint.transpose();
        let hint = hint.map_err(|_| JobError::failed("Extent size hint is too large"))?;
        Ok(CreateOptions {
            preallocation,
            in_place: self.file.nocow.unwrap_or(false),
            extent_hint_bytes: hint.filter(|bytes| *bytes > 0),
            spared: self.spared.clone(),
            ..CreateOptions::new(&self.file.filename, self.file.size.0)
        })
    }
}

impl JobDriver for Create {
    fn kind(&self) -> &'static str {
        "create"
    }

    /// The work counts as one, however much it is.
    fn run<'a>(&'a self, job: &'a JobContext) -> BoxFuture<'a, Result<(), JobError>> {
        Box::pin(async move {
            job.progress().set_remaining(1);
            let result = self.create(job).await;
            job.progress().work_done(1);
            result
        })
    }
}

fn failed(error: BlockError) -> JobError {
    JobError::failed(whole_text(&error))
}
