//! [`JobRegistry`]: the list of jobs, a value that the application owns.

use std::{fmt, sync::Arc};

use crate::{
    error::JobError,
    event::JobEvent,
    history::{History, JobHistoryEntry},
    job::{Job, JobInfo, info},
    job_driver::JobDriver,
    outcome::Ending,
    progress::ProgressMeter,
    record::{Body, JobCell, Key, Record},
    runtime::Handle,
    state::{Shared, State},
    status::JobStatus,
    transaction::Transaction,
    verb::CancelMode,
};

/// Who takes a step at the end of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trigger {
    /// The job itself, as soon as it can.
    #[default]
    Auto,
    /// The user, by a verb.
    Manual,
}

/// What a job is to be.
#[derive(Clone)]
pub struct JobConfig {
    /// Its id; `None` makes an internal job: not listed, not addressable, without events.
    pub id: Option<String>,
    /// Its inside.
    pub driver: Arc<dyn JobDriver>,
    /// Where its body runs.
    pub context: Handle,
    /// Who makes its result permanent.
    pub finalize: Trigger,
    /// Who forgets it once it is concluded.
    pub dismiss: Trigger,
    /// Whom it succeeds or fails with; `None` is a transaction of its own.
    pub transaction: Option<Transaction>,
}

impl JobConfig {
    /// A job with an id that finalizes and dismisses itself, in a transaction of its own.
    pub fn new(id: impl Into<String>, driver: Arc<dyn JobDriver>, context: Handle) -> Self {
        let id = Some(id.into());
        Self {
            id,
            ..Self::internal(driver, context)
        }
    }

    /// The same without an id.
    pub fn internal(driver: Arc<dyn JobDriver>, context: Handle) -> Self {
        Self {
            id: None,
            driver,
            context,
            finalize: Trigger::Auto,
            dismiss: Trigger::Auto,
            transaction: None,
        }
    }
}

impl fmt::Debug for JobConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobConfig")
            .field("id", &self.id)
            .field("kind", &self.driver.kind())
            .finish_non_exhaustive()
    }
}

/// What a registry is to be.
#[derive(Clone, Debug)]
pub struct RegistryConfig {
    /// How many dismissed jobs [`JobRegistry::history`] tells of; 256 unless set, and 0 is none.
    ///
    /// Each keeps its error with all that is behind it.
    pub history_max: usize,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self { history_max: 256 }
    }
}

/// The list of jobs. Cheap to clone: clones are the same list; any thread.
///
/// Completion of jobs and delivery of events happen on the main context, which must be alive and
/// turning until the last job has ended. If it is closed before, the jobs that are left stay where
/// they are, no hook of theirs runs any more, and who waits for them is told that they failed.
///
/// What the outside of jobs looks like; [`JobDriver`] says how their inside is written:
///
/// ```
/// use std::sync::{Arc, Mutex};
///
/// use aio::Config;
/// use job::{
///     BoxFuture, JobConfig, JobContext, JobDriver, JobError, JobEvent, JobRegistry, JobStatus,
///     Trigger,
/// };
///
/// struct Nothing;
///
/// impl JobDriver for Nothing {
///     fn kind(&self) -> &'static str {
///         "nothing"
///     }
///
///     fn run<'a>(&'a self, _job: &'a JobContext) -> BoxFuture<'a, Result<(), JobError>> {
///         Box::pin(async { Ok(()) })
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// aio::run(Config::default(), |cx| async move {
///     let registry = JobRegistry::new(cx.handle().clone());
///     let heard = Arc::<Mutex<Vec<String>>>::default();
///     let log = heard.clone();
///     let _subscription = registry.subscribe(move |event| {
///         if let JobEvent::StatusChange { job, status } = event {
///             log.lock().expect("nobody panics here").push(format!("{} {status}", job.id));
///         }
///     });
///
///     let mut config = JobConfig::new("job1", Arc::new(Nothing), cx.handle().clone());
///     config.finalize = Trigger::Manual;
///     config.dismiss = Trigger::Manual;
///     registry.create(config)?.start()?;
///
///     // A job is found by its id. What a verb leads to is told by events, and by `wait`.
///     let job = registry.find("job1")?;
///     while job.status() != JobStatus::Pending {
///         cx.yield_now().await;
///     }
///     job.finalize()?;
///     job.wait().await.into_result()?;
///     assert_eq!(registry.query()[0].status, JobStatus::Concluded);
///     job.dismiss()?;
///
///     assert!(registry.query().is_empty());
///     assert_eq!(&*registry.history()[0].id, "job1");
///     let want = ["created", "running", "waiting", "pending", "concluded", "null"];
///     assert_eq!(*heard.lock().expect("nobody panics here"), want.map(|to| format!("job1 {to}")));
///     Ok::<(), JobError>(())
/// })??;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct JobRegistry {
    pub(crate) shared: Arc<Shared>,
}

impl JobRegistry {
    /// An empty list whose jobs complete on the context behind `main`.
    pub fn new(main: Handle) -> Self {
        Self::with_config(main, RegistryConfig::default())
    }

    /// The same as `config` says.
    pub fn with_config(main: Handle, config: RegistryConfig) -> Self {
        let RegistryConfig { history_max } = config;
        let history = History::new(history_max);
        let shared = Shared::new(main, history);
        Self { shared }
    }

    /// Makes a job and lists it as created; [`Job::start`] starts it.
    ///
    /// # Errors
    ///
    /// `InvalidId`, `IdInUse` (also by a concluded job that is not dismissed), `Failed` when the
    /// transaction has begun to end, or the main context is closed.
    pub fn create(&self, config: JobConfig) -> Result<Job, JobError> {
        if let Some(id) = config.id.as_deref().filter(|id| !is_valid_id(id)) {
            return Err(JobError::invalid_id(id));
        }
        // Code of others, also its end if the job is refused, is for outside of the lock.
        let driver = config.driver.clone();
        let kind = driver.kind();
        let cell = self.shared.update(|state| insert(state, config, kind))?;
        let shared = self.shared.clone();
        Ok(Job { shared, cell })
    }

    /// A transaction without members, to create jobs in.
    pub fn transaction(&self) -> Transaction {
        let key = self.shared.update(State::next_key);
        Transaction::new(key)
    }

    /// The job with this id.
    ///
    /// # Errors
    ///
    /// `NotFound`.
    pub fn find(&self, id: &str) -> Result<Job, JobError> {
        let cell = self.shared.update(|state| {
            let &key = state.ids.get(id)?;
            Some(state.record(key).cell.clone())
        });
        let cell = cell.ok_or_else(JobError::not_found)?;
        let shared = self.shared.clone();
        Ok(Job { shared, cell })
    }

    /// All jobs but internal ones, newest first.
    pub fn list(&self) -> Vec<Job> {
        let mut jobs = self.jobs();
        jobs.retain(|job| job.id().is_some());
        jobs
    }

    /// All jobs but internal ones as a query shows them, newest first, all from one moment.
    pub fn query(&self) -> Vec<JobInfo> {
        self.shared.update(|state| {
            let newest_first = state.jobs.values().rev();
            let listed = newest_first.filter(|record| record.cell.id.is_some());
            listed
                .map(|record| info(&record.cell, Some(record)))
                .collect()
        })
    }

    /// The last jobs that were dismissed, by themselves or by the user, newest first.
    ///
    /// So whoever was away learns how a job ended. Internal jobs are left out, and so is
    /// a job whose creation failed ([`Job::discard`]): its creator has the error.
    pub fn history(&self) -> Vec<JobHistoryEntry> {
        self.shared.update(|state| state.history.entries())
    }

    /// Calls `subscriber` with every event from now on, in order, on the main context.
    ///
    /// It runs without any lock and may use jobs and the registry; what it does to them is told
    /// after the event at hand. It runs inside whatever call on the main context touched a job, so
    /// it should leave what it hears for later rather than act on the rest of the world at once.
    /// Dropping the subscription ends it.
    pub fn subscribe(
        &self,
        subscriber: impl Fn(&JobEvent) + Send + Sync + 'static,
    ) -> Subscription {
        let subscriber = Arc::new(subscriber);
        let key = self.shared.update(|state| {
            let key = state.next_key();
            state.subscribers.push((key, subscriber));
            key
        });
        let shared = self.shared.clone();
        Subscription { shared, key }
    }

    /// Cancels all jobs by force, newest first, and forgets them: the way to the exit.
    ///
    /// All are cancelled before the first is waited for, so that one which takes its time holds up
    /// nobody else. Ends once all have ended, those included that were created meanwhile. Not on a
    /// thread that the jobs need and that is blocked.
    pub async fn cancel_all(&self) {
        loop {
            let jobs = self.jobs();
            if jobs.is_empty() {
                return;
            }
            for job in &jobs {
                // Refused only if the job is on its way out by itself, as the wait then tells.
                let _ = job.cancel(CancelMode::Force);
            }
            for job in jobs {
                job.wait().await;
                // Refused if the job has dismissed itself.
                let _ = job.dismiss();
            }
        }
    }

    /// All jobs, newest first.
    pub(crate) fn jobs(&self) -> Vec<Job> {
        let cell = |record: &Record| record.cell.clone();
        let cells: Vec<_> = self
            .shared
            .update(|state| state.jobs.values().rev().map(cell).collect());
        let job = |cell| Job {
            shared: self.shared.clone(),
            cell,
        };
        cells.into_iter().map(job).collect()
    }
}

/// Keeps a subscriber; dropping it ends the subscription, at the latest after the event at hand.
#[derive(Debug)]
#[must_use = "dropping it ends the subscription"]
pub struct Subscription {
    shared: Arc<Shared>,
    key: Key,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let subscribers = self.shared.update(|state| {
            let is_this = |(key, _): &mut (Key, _)| *key == self.key;
            state
                .subscribers
                .extract_if(.., is_this)
                .collect::<Vec<_>>()
        });
        // Outside of the lock, since what a subscriber holds may be a job.
        drop(subscribers);
    }
}

fn insert(
    state: &mut State,
    config: JobConfig,
    kind: &'static str,
) -> Result<Arc<JobCell>, JobError> {
    let id: Option<Arc<str>> = config.id.map(Arc::from);
    if let Some(id) = id.as_deref().filter(|id| state.ids.contains_key(*id)) {
        return Err(JobError::id_in_use(id));
    }
    if state.is_main_closed {
        return Err(JobError::main_context_closed());
    }
    let key = state.next_key();
    let transaction = config.transaction;
    let transaction = transaction.unwrap_or_else(|| Transaction::new(key));
    let transaction = state.join_group(&transaction, key)?;
    let cell = Arc::new(JobCell {
        key,
        id: id.clone(),
        kind,
        driver: config.driver,
        finalize: config.finalize,
        dismiss: config.dismiss,
        progress: ProgressMeter::default(),
        ending: Ending::default(),
    });
    let record = Record {
        cell: cell.clone(),
        status: JobStatus::Created,
        body: Body::NotStarted,
        whereabouts: config.context.clone(),
        context: config.context,
        pause_count: 1 + state.holds_on_all,
        user_paused: false,
        wake_token: false,
        cancel: None,
        result: Ok(()),
        ended_unix_ns: None,
        transaction,
        watchers: Vec::new(),
    };
    state.jobs.insert(key, record);
    if let Some(id) = id {
        state.ids.insert(id, key);
    }
    let status = JobStatus::Created;
    state.emit(key, |job| JobEvent::StatusChange { job, status });
    Ok(cell)
}

/// A letter, then letters, digits, `-`, `.` and `_`; of any length.
fn is_valid_id(id: &str) -> bool {
    let is_inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    id.starts_with(|c: char| c.is_ascii_alphabetic()) && id.chars().all(is_inner)
}
