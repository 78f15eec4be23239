//! A transaction of three jobs, of which one fails late: `cargo run -p job --example transaction`.
//!
//! Each job publishes a file: its body writes it under another name, `prepare` looks that the final
//! name is free, `commit` gives it that name, and `abort` removes it. The name of the second is taken,
//! which is seen when all three bodies have ended well. So nothing is published, and nothing is left
//! of the attempt; with the name free again, a second transaction publishes all three.

#![expect(clippy::print_stdout, reason = "an example shows what it did")]

use std::{
    error::Error,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use aio::{AioContext, Config};
use job::{
    BoxFuture, CancelMode, JobConfig, JobContext, JobDriver, JobError, JobEvent, JobOutcome,
    JobRegistry, LocalBoxFuture,
};

/// A file that is there for everybody or for nobody.
struct Publish {
    name: &'static str,
    folder: PathBuf,
}

impl Publish {
    fn draft(&self) -> PathBuf {
        self.folder.join(format!("{}.draft", self.name))
    }

    fn published(&self) -> PathBuf {
        self.folder.join(self.name)
    }

    fn says(&self, what: &str) {
        println!("{:>40}.{what}", self.name);
    }
}

fn failed(what: String, error: io::Error) -> JobError {
    JobError::failed(what).with_source(error)
}

impl JobDriver for Publish {
    fn kind(&self) -> &'static str {
        "publish"
    }

    fn run<'a>(&'a self, job: &'a JobContext) -> BoxFuture<'a, Result<(), JobError>> {
        let (draft, text) = (self.draft(), format!("this is {}\n", self.name));
        Box::pin(async move {
            // A call that blocks goes to a worker thread.
            let written = job.blocking(move || fs::write(draft, text)).await;
            written.map_err(|error| failed(format!("cannot write '{}'", self.name), error))
        })
    }

    fn cancel(&self, _mode: CancelMode) -> CancelMode {
        self.says("cancel");
        CancelMode::Force
    }

    /// The last step that may fail: whatever can go wrong should go wrong here, and not in `commit`.
    fn prepare<'a>(&'a self, main: &'a AioContext) -> LocalBoxFuture<'a, Result<(), JobError>> {
        let path = self.published();
        Box::pin(async move {
            let is_taken = main.blocking(move || path.try_exists()).await;
            match is_taken.map_err(|error| failed("cannot look".to_owned(), error))? {
                true => {
                    self.says("prepare: fails");
                    Err(JobError::failed("the name is taken"))
                }
                false => {
                    self.says("prepare");
                    Ok(())
                }
            }
        })
    }

    fn commit<'a>(&'a self, main: &'a AioContext) -> LocalBoxFuture<'a, ()> {
        let (draft, published) = (self.draft(), self.published());
        Box::pin(async move {
            self.says("commit");
            let renamed = main.blocking(move || fs::rename(draft, published)).await;
            renamed.expect("whoever has prepared can rename within its folder");
        })
    }

    fn abort<'a>(&'a self, main: &'a AioContext) -> LocalBoxFuture<'a, ()> {
        let draft = self.draft();
        Box::pin(async move {
            self.says("abort");
            // It is not there if the body did not come that far.
            let _ = main.blocking(move || fs::remove_file(draft)).await;
        })
    }

    fn clean<'a>(&'a self, _main: &'a AioContext) -> LocalBoxFuture<'a, ()> {
        self.says("clean");
        Box::pin(std::future::ready(()))
    }
}

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::temp_dir().join(format!("transaction-{}", std::process::id()));
    fs::create_dir(&folder)?;
    let work = folder.clone();
    let ended = aio::run(
        Config::default(),
        |cx| async move { publish(&cx, &work).await },
    );
    fs::remove_dir_all(&folder)?;
    ended?
}

async fn publish(cx: &AioContext, folder: &Path) -> Result<(), Box<dyn Error>> {
    let registry = JobRegistry::new(cx.handle().clone());
    let _events = registry.subscribe(|event| match event {
        JobEvent::StatusChange { job, status } => println!("{} {status}", job.id),
        JobEvent::Completed { job, error: None } => println!("{} COMPLETED", job.id),
        JobEvent::Completed { job, error } => {
            println!(
                "{} COMPLETED: {}",
                job.id,
                error.as_ref().expect("it is not none")
            );
        }
        JobEvent::Cancelled(job) => println!("{} CANCELLED", job.id),
        other => println!("{other:?}"),
    });

    fs::write(folder.join("two"), "somebody else's\n")?;
    all_or_none(cx, &registry, folder).await?;
    println!("in the folder: {}", listed(folder)?);

    println!("once more, with the name free");
    fs::remove_file(folder.join("two"))?;
    all_or_none(cx, &registry, folder).await?;
    println!("in the folder: {}", listed(folder)?);
    Ok(())
}

/// Publishes three files in one transaction, and says how each ended.
async fn all_or_none(
    cx: &AioContext,
    registry: &JobRegistry,
    folder: &Path,
) -> Result<(), Box<dyn Error>> {
    let transaction = registry.transaction();
    let mut jobs = Vec::new();
    for name in ["one", "two", "three"] {
        let folder = folder.to_owned();
        let driver = Arc::new(Publish { name, folder });
        let mut config = JobConfig::new(name, driver, cx.handle().clone());
        config.transaction = Some(transaction.clone());
        jobs.push(registry.create(config)?);
    }
    // Only when all are made: the end of one would end the transaction.
    for job in &jobs {
        job.start()?;
    }
    for job in jobs {
        let id = job.id().unwrap_or_default();
        match job.wait().await {
            JobOutcome::Completed => println!("{id}: published"),
            JobOutcome::Failed(error) => println!("{id}: failed, {error}"),
            JobOutcome::Cancelled(error) => println!("{id}: cancelled, {error}"),
        }
    }
    Ok(())
}

fn listed(folder: &Path) -> io::Result<String> {
    let names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().display().to_string()));
    let mut names = names.collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names.join(", "))
}
