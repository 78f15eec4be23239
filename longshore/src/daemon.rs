//! The daemon: takes qemu-storage-daemon's command line, speaks its QMP, and serves NBD.
//!
//! ```text
//!   options ──▶ the commands of QMP, one after the other ──▶ ready ──▶ until quit or a signal ──▶ the end
//!
//!   chardev ──▶ monitor ──▶ command ──▶ nodes, bitmaps, jobs, transaction, exports, objects
//!                   ◀── events ◀── whatever happens, on any thread
//! ```
//!
//! All of it lives on the engine's loop thread. The command line runs the same functions as QMP does.

mod base64;
mod bitmaps;
mod chardev;
mod command;
mod config;
mod error;
mod events;
mod exports;
mod jobs;
mod misc;
mod monitor;
mod nodes;
mod objects;
mod options;
mod process;
mod transaction;

use std::{
    cell::{Cell, RefCell},
    future::Future,
    os::fd::OwnedFd,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use aio::{AioContext, AioError, Fd, Interest, Task, TimerClock};
use job::JobRegistry;
use qmp::{QmpError, keyval::Options};

use crate::{
    engine::{Engine, EngineConfig},
    export::signal::{Signal, race, until},
};

pub use self::options::{BACKGROUND_OPTION, Background, CommandLine, LineError, Wanted};
use self::{
    chardev::Chardevs, command::Commands, events::Events, exports::Exports, jobs::Jobs,
    monitor::Monitors, nodes::Nodes, objects::Objects, process::Process,
};

/// Longest time that the end waits for one thing after the other: jobs, exports, nodes.
const END_STEP_NS_MAX: u64 = 5_000_000_000;

/// Longest time that the end waits for clients to take what they were sent.
const LAST_WORDS_NS_MAX: u64 = 1_000_000_000;

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DaemonError {
    /// There is no loop to be had.
    #[error("cannot start the event loop")]
    Loop(#[from] AioError),
    /// What the command line asks for was refused.
    #[error("{option}: {text}")]
    Option {
        /// The option as it was given.
        option: String,
        /// Why.
        text: String,
    },
    /// What the process needs besides cannot be had.
    #[error("{0}")]
    Process(String),
}

/// How far the daemon has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// The command line is being carried out.
    Starting,
    /// It serves.
    Serving,
    /// It was told to end.
    EndWanted,
    /// Nothing is served any more, and all jobs have ended.
    WoundUp,
}

/// The daemon as its parts see it. On the loop thread.
#[derive(Debug)]
pub(crate) struct Daemon {
    context: AioContext,
    /// The graph, the jobs and the loop.
    engine: Engine,
    stage: Cell<Stage>,
    /// Raised when the stage changes.
    changed: Signal,
    commands: Commands,
    events: Arc<Events>,
    monitors: Monitors,
    chardevs: Chardevs,
    objects: Objects,
    nodes: Nodes,
    jobs: Jobs,
    exports: Exports,
    /// What the system knows of the daemon, once it is ready.
    process: RefCell<Option<Process>>,
}

/// Runs a command line to the end of its daemon. Blocks the calling thread.
///
/// `signals` becomes readable when the daemon is to end, as a signal descriptor does.
///
/// # Errors
///
/// [`DaemonError`]: it could not start, and nothing of it is left.
pub fn run(line: CommandLine, signals: OwnedFd) -> Result<(), DaemonError> {
    let engine = Engine::start(EngineConfig::default())?;
    let daemon = engine.clone();
    let served = engine
        .handle()
        .spawn(move |context| serve(context, daemon, line, Fd::from(signals)));
    served.wait()
}

async fn serve(
    context: AioContext,
    engine: Engine,
    line: CommandLine,
    signals: Fd,
) -> Result<(), DaemonError> {
    let daemon = Daemon::new(context, engine);
    let _subscription = events::follow_jobs(&daemon);
    drop(daemon.spawn(events::pass_on));
    drop(daemon.spawn(|daemon| heed(daemon, signals)));
    let started = race(daemon.start(&line), daemon.end_wanted()).await;
    if let Some(Ok(())) = started {
        daemon.end_wanted().await;
    }
    daemon.want_end();
    daemon.wind_up().await;
    started.unwrap_or(Ok(()))
}

/// Has the daemon end when a signal comes.
async fn heed(daemon: Rc<Daemon>, signals: Fd) {
    match daemon.context.ready(&signals, Interest::Readable).await {
        Ok(()) => daemon.want_end(),
        Err(error) => tracing::warn!(%error, "signals cannot be heard"),
    }
}

impl Daemon {
    fn new(context: AioContext, engine: Engine) -> Rc<Self> {
        Rc::new(Self {
            context,
            engine,
            stage: Cell::new(Stage::Starting),
            changed: Signal::default(),
            commands: Commands::all(),
            events: Arc::default(),
            monitors: Monitors::default(),
            chardevs: Chardevs::default(),
            objects: Objects::default(),
            nodes: Nodes::default(),
            jobs: Jobs::default(),
            exports: Exports::default(),
            process: RefCell::default(),
        })
    }

    /// Carries out the command line, option by option, and says that all is ready.
    async fn start(self: &Rc<Self>, line: &CommandLine) -> Result<(), DaemonError> {
        process::adopt_sockets(self)?;
        for option in line.options() {
            let done = self.carry_out(option.command(), option.arguments()).await;
            done.map_err(|error| DaemonError::Option {
                option: option.to_string(),
                text: match error.hint {
                    Some(hint) => format!("{}\n{hint}", error.desc),
                    None => error.desc,
                },
            })?;
        }
        let process = Process::ready(line)?;
        *self.process.borrow_mut() = Some(process);
        self.stage.set(Stage::Serving);
        self.changed.raise();
        Ok(())
    }

    /// Runs a command as the command line gives it.
    async fn carry_out(self: &Rc<Self>, name: &str, options: Options) -> Result<(), QmpError> {
        let command = self.commands.of_line(name).ok_or_else(|| {
            QmpError::generic("this daemon has nothing for that option".to_owned())
        })?;
        command
            .run(self, options.style, options.value)
            .await
            .map(drop)
    }

    /// Ends what is served, in the order that loses nothing, each step for a bounded time.
    async fn wind_up(self: &Rc<Self>) {
        process::notify("STOPPING=1");
        self.step("exports", exports::close_all(self)).await;
        self.step("jobs", jobs::end_all(self)).await;
        self.step("nodes", nodes::close_all(self)).await;
        self.stage.set(Stage::WoundUp);
        self.changed.raise();
        self.deliver_events();
        let last_words = self.monitors.all_sent();
        if self
            .context
            .timeout_ns(LAST_WORDS_NS_MAX, last_words)
            .await
            .is_err()
        {
            tracing::info!("a client does not take what it was sent last");
        }
        self.monitors.close_all();
        self.chardevs.close_all();
        drop(self.process.take());
    }

    async fn step(&self, what: &str, step: impl Future<Output = ()>) {
        if self
            .context
            .timeout_ns(END_STEP_NS_MAX, step)
            .await
            .is_err()
        {
            tracing::warn!("{what} do not end; they are left to themselves");
        }
    }

    /// Has the daemon end soon.
    fn want_end(&self) {
        if self.stage.get() < Stage::EndWanted {
            self.stage.set(Stage::EndWanted);
            self.changed.raise();
        }
    }

    /// Whether the daemon is to end: nothing new begins then.
    fn is_ending(&self) -> bool {
        self.stage.get() >= Stage::EndWanted
    }

    /// Waits until the command line has been carried out.
    async fn started(&self) {
        let is_started = || (self.stage.get() > Stage::Starting).then_some(());
        until([&self.changed], is_started).await;
    }

    async fn end_wanted(&self) {
        until([&self.changed], || self.is_ending().then_some(())).await;
    }

    /// Waits until nothing is served any more.
    async fn wound_up(&self) {
        let is_wound_up = || (self.stage.get() == Stage::WoundUp).then_some(());
        until([&self.changed], is_wound_up).await;
    }

    /// Passes on to the monitors what has happened so far.
    fn deliver_events(&self) {
        let now_ns = self.context.clock_now_ns(TimerClock::Wall);
        let now = Duration::from_nanos(now_ns);
        for event in self.events.take() {
            let at = (now.as_secs(), now.subsec_micros());
            self.monitors.tell(&event, at);
        }
    }

    /// Runs a task that needs the daemon.
    fn spawn<F: Future<Output = ()> + 'static>(
        self: &Rc<Self>,
        start: impl FnOnce(Rc<Self>) -> F,
    ) -> Task<()> {
        self.context.spawn(start(self.clone()))
    }

    /// The list of jobs.
    fn registry(&self) -> &JobRegistry {
        self.engine.jobs()
    }
}
