//! Our backups of one file to another, as the latencies see them.

use std::{
    error::Error,
    path::Path,
    sync::mpsc::{self, Receiver},
    time::{Duration, Instant},
};

use aio::{Config, IoThread};
use benches::rest;
use block::{
    Graph, Node, Operation,
    nodes::{FileNode, FileOptions, file::Sharing},
};
use drivers::backup::{Backup, BackupOptions};
use job::{CancelMode, Job, JobError, JobEvent, JobRegistry, JobStatus, Subscription};

use crate::latency::{Backups, End, TIMEOUT, Took};

/// How often a target is looked at that is to become free.
const LOOK_EVERY: Duration = Duration::from_micros(100);

/// Who calls and who copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// The caller is a thread without a loop; one loop has events and completion, another copies.
    TwoLoops,
    /// One loop has it all, and the verbs are used there.
    OneLoop,
}

pub(crate) struct OurBackups {
    layout: Layout,
    backup: Option<Backup>,
    jobs: JobRegistry,
    graph: Graph,
    source: Node,
    target: Node,
    /// Each status, with the moment when the loop told it.
    statuses: Receiver<(JobStatus, Instant)>,
    _subscription: Subscription,
    copying: IoThread,
    main: IoThread,
}

impl OurBackups {
    pub(crate) fn new(layout: Layout, source: &Path, target: &Path) -> Result<Self, String> {
        let thread = |name: &str| {
            let config = Config {
                name: name.to_owned(),
                ..Config::default()
            };
            IoThread::start(config).map_err(|error| error.to_string())
        };
        let (main, copying) = (thread("main")?, thread("copying")?);
        let graph = Graph::new();
        let add = |options: &FileOptions| {
            let file = FileNode::open(options).map_err(|error| error.to_string())?;
            let node = graph.add_node(None, file);
            node.map_err(|error| error.to_string())
        };
        let source = add(&FileOptions {
            read_only: true,
            sharing: Sharing::Everyone,
            ..FileOptions::new(source)
        })?;
        let target = add(&FileOptions::new(target))?;
        let jobs = JobRegistry::new(main.handle().clone());
        let (tell, statuses) = mpsc::channel();
        let subscription = jobs.subscribe(move |event| {
            if let JobEvent::StatusChange { status, .. } = event {
                // Whoever measures may have gone.
                let _ = tell.send((*status, Instant::now()));
            }
        });
        Ok(Self {
            layout,
            backup: None,
            jobs,
            graph,
            source,
            target,
            statuses,
            _subscription: subscription,
            copying,
            main,
        })
    }

    fn job(&self) -> Result<&Job, String> {
        let backup = self.backup.as_ref().ok_or("no backup was started")?;
        Ok(backup.job())
    }

    /// Waits for `wanted`, and says when the caller knew of it; or when that the job had gone.
    fn until(&self, wanted: JobStatus) -> Result<(Instant, End), String> {
        loop {
            let told = self.statuses.recv_timeout(TIMEOUT);
            let (status, told_at) = told.map_err(|error| format!("no {wanted}: {error}"))?;
            let end = match status {
                _ if status == wanted => End::Reached,
                JobStatus::Null => End::TooLate,
                _ => continue,
            };
            let known_at = match self.layout {
                Layout::OneLoop => told_at,
                Layout::TwoLoops => Instant::now(),
            };
            return Ok((known_at, end));
        }
    }

    /// Uses a verb; how long it takes from the call until the caller knows of `wanted`.
    fn timed(
        &self,
        verb: impl FnOnce(&Job) -> Result<(), JobError> + Send + 'static,
        wanted: JobStatus,
    ) -> Result<Took, String> {
        let job = self.job()?.clone();
        let call = move || {
            let start = Instant::now();
            (start, verb(&job))
        };
        let (start, accepted) = match self.layout {
            Layout::TwoLoops => call(),
            Layout::OneLoop => self.main.handle().call(move |_| call()).wait(),
        };
        if accepted.is_err() {
            return Ok(Took::since(start, End::Gone));
        }
        let (known_at, end) = self.until(wanted)?;
        let time = known_at - start;
        Ok(Took { time, end })
    }
}

impl Backups for OurBackups {
    fn start(&mut self) -> Result<(), String> {
        let copying = match self.layout {
            Layout::TwoLoops => &self.copying,
            Layout::OneLoop => &self.main,
        };
        let (graph, jobs, context) = (
            self.graph.clone(),
            self.jobs.clone(),
            copying.handle().clone(),
        );
        let (source, target) = (self.source.clone(), self.target.clone());
        let started = self.main.handle().spawn(move |_| async move {
            let options = BackupOptions::new("backup");
            Backup::start((&graph, &jobs), &context, (&source, &target), options).await
        });
        let backup = started.wait().map_err(|error| {
            let cause = error.source().map(ToString::to_string);
            format!("{error}: {}", cause.unwrap_or_default())
        })?;
        self.backup = Some(backup);
        self.until(JobStatus::Running).map(drop)
    }

    fn done_bytes(&mut self) -> Result<Option<u64>, String> {
        let all = self.jobs.query();
        Ok(all.first().map(|info| info.progress.current))
    }

    fn pause(&mut self) -> Result<Took, String> {
        self.timed(Job::pause, JobStatus::Paused)
    }

    fn resume(&mut self) -> Result<Took, String> {
        self.timed(Job::resume, JobStatus::Running)
    }

    fn cancel(&mut self) -> Result<Took, String> {
        let cancel = |job: &Job| job.cancel(CancelMode::Force);
        self.timed(cancel, JobStatus::Concluded)
    }

    fn gone(&mut self) -> Result<(), String> {
        self.job()?.wait_blocking();
        self.backup = None;
        // Requests that a forced cancel did not wait for keep the target from others.
        let start = Instant::now();
        while let Err(error) = self
            .graph
            .check_operation(&self.target, Operation::BackupTarget)
        {
            if start.elapsed() > TIMEOUT {
                return Err(error.to_string());
            }
            rest(LOOK_EVERY);
        }
        // What has not been heard is not about the next one.
        while self.statuses.try_recv().is_ok() {}
        Ok(())
    }
}

impl Drop for OurBackups {
    fn drop(&mut self) {
        let Some(backup) = self.backup.take() else {
            return;
        };
        // Refused only if it is on its way out by itself.
        drop(backup.job().cancel(CancelMode::Force));
        backup.job().wait_blocking();
    }
}
