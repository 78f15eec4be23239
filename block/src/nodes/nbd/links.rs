//! [`Links`]: the connections of one node, and what happens while there is none.
//!
//! ```text
//!                    the last connection is lost, and somebody asks
//!            Up ─────────────────────────────────────────────▶ Trying
//!            ▲                                                 │    │ time is over, or cancelled:
//!            └──────────────── the server agrees ──────────────┘    │ all who wait fail
//!            ▲                                                      ▼
//!            └──────── Trying, once only ◀───────── asked ─────── Down
//! ```
//!
//! Nobody tries while nobody asks. A connection lives on the context of the request that it was made for.

use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    sync::{Arc, PoisonError},
    task::Poll,
};

use aio::{
    AioContext, IoBuf,
    sync::{Mutex, MutexGuard},
};
use nbd::{NbdUri, Request};

use super::{
    calls::{Answer, CallError, Ending},
    connection::{Connection, Opened},
    handshake::{HANDSHAKE_MAX_NS, connect},
    terms::Terms,
};
use crate::{error::BlockError, wait::WaitList};

/// How long the first attempt to get a connection may take at least, in nanoseconds.
const FIRST_TRY_NS: u64 = 2_000_000_000;
/// The pause after the first failed attempt, in nanoseconds; each is twice as long as the last.
const PAUSE_NS: u64 = 50_000_000;
const PAUSE_MAX_NS: u64 = 1_000_000_000;
/// Requests in flight on a connection from which on another one is made, if there may be one.
const SHARE: usize = 8;

/// How long to look for a server that is gone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Most connections at once.
    pub(super) connections_max: usize,
    /// How long requests wait for a lost server; zero: not at all.
    pub(super) reconnect_delay_ns: u64,
}

/// The connections of one node. Any thread.
#[derive(Debug)]
pub(super) struct Links {
    server: NbdUri,
    patience: Patience,
    terms: Terms,
    state: Mutex<State>,
    /// Requests wait for a connection, and those who try to make one for the word that nobody wants it.
    changed: WaitList,
}

#[derive(Debug, Default)]
struct State {
    live: Vec<Arc<Connection>>,
    /// Agreed on, and on no context yet.
    parked: Option<Opened>,
    is_trying: bool,
    /// How often it was given up to try, and why the last time.
    failures: u64,
    last_failure: String,
    /// It has been given up, and not worked since.
    is_down: bool,
    more: More,
    /// How often all was cancelled.
    cancels: u64,
}

/// Whether there can be one connection more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum More {
    #[default]
    Perhaps,
    /// It is being made.
    Coming,
    /// The server has refused.
    No,
}

/// Where a request goes.
enum Route {
    To(Arc<Connection>),
    /// It waits until something has changed since so many failures.
    Wait {
        failures: u64,
    },
}

/// What is to be done once the lock is free.
enum Chore {
    Start(Arc<Connection>),
    Reconnect { window_ns: u64 },
    Add,
}

impl Links {
    pub(super) fn new(
        (server, patience): (NbdUri, Patience),
        terms: Terms,
        opened: Opened,
    ) -> Arc<Self> {
        let state = State {
            parked: Some(opened),
            ..State::default()
        };
        Arc::new(Self {
            server,
            patience,
            terms,
            state: Mutex::new(state),
            changed: WaitList::default(),
        })
    }

    pub(super) fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Connections there are now.
    pub(super) fn count(&self) -> usize {
        let state = self.lock();
        state.live.iter().filter(|it| it.is_open()).count() + usize::from(state.parked.is_some())
    }

    /// Has the server do what `request` says, whatever becomes of connections, for as long as that is wanted.
    ///
    /// The buffer comes back in any case, if there was one.
    pub(super) async fn exchange(
        self: &Arc<Self>,
        cx: &AioContext,
        request: Request,
        mut buf: Option<IoBuf>,
    ) -> (Option<IoBuf>, Result<Answer, CallFailure>) {
        let buf_len = buf.as_ref().map(|buf| buf.len());
        let cancels = self.lock().cancels;
        let mut lost_ns = None;
        loop {
            let connection = match self.connection(cx, cancels).await {
                Ok(connection) => connection,
                Err(error) => return (buf, Err(CallFailure::Unreachable(error))),
            };
            let returned = connection.call(request, buf).await;
            let ending = match returned.result {
                Ok(answer) => return (returned.buf, Ok(answer)),
                Err(CallError::Refused { errno, text }) => {
                    return (returned.buf, Err(CallFailure::Refused { errno, text }));
                }
                Err(CallError::Ended(ending)) => ending,
            };
            let is_whole = returned.buf.is_some() || buf_len.is_none();
            buf = returned.buf.or_else(|| buf_len.map(IoBuf::heap));
            if !is_whole || !self.is_worth_another_try(cx, &ending, &mut lost_ns).await {
                return (buf, Err(CallFailure::Unreachable(self.lost(&ending))));
            }
        }
    }

    /// Whether a request whose connection has ended is made again. May take a moment.
    async fn is_worth_another_try(
        &self,
        cx: &AioContext,
        ending: &Ending,
        lost_ns: &mut Option<u64>,
    ) -> bool {
        match ending {
            Ending::Homeless => return true,
            Ending::Broken(_) | Ending::Cancelled => return false,
            Ending::Lost(_) => {}
        }
        let delay_ns = self.patience.reconnect_delay_ns;
        let now_ns = cx.now_ns();
        match *lost_ns {
            None => {
                *lost_ns = Some(now_ns);
                delay_ns > 0
            }
            // A server that goes away whenever it is asked is not asked without end.
            Some(since_ns) => {
                cx.sleep_ns(PAUSE_NS).await;
                now_ns.saturating_sub(since_ns) < delay_ns
            }
        }
    }

    fn lost(&self, ending: &Ending) -> BlockError {
        unreachable_server(&self.server, &ending.to_string())
    }

    /// Where a request goes that began after so many cancels, and what there is to do first.
    fn route(&self, cx: &AioContext, cancels: u64) -> Result<(Route, Option<Chore>), BlockError> {
        let mut state = self.lock();
        if state.cancels != cancels {
            return Err(self.lost(&Ending::Cancelled));
        }
        Ok(state.route(cx, &self.patience))
    }

    /// A connection for a request that began after so many cancels.
    async fn connection(
        self: &Arc<Self>,
        cx: &AioContext,
        cancels: u64,
    ) -> Result<Arc<Connection>, BlockError> {
        loop {
            let (route, chore) = self.route(cx, cancels)?;
            if let Some(chore) = chore {
                self.begin(cx, chore);
            }
            let seen = match route {
                Route::To(connection) => return Ok(connection),
                Route::Wait { failures } => failures,
            };
            let news = || {
                let state = self.lock();
                !state.is_trying || state.failures != seen || state.cancels != cancels
            };
            self.changed.until(news).await;
            let state = self.lock();
            if state.cancels == cancels && state.failures != seen {
                return Err(unreachable_server(&self.server, &state.last_failure));
            }
        }
    }

    fn begin(self: &Arc<Self>, cx: &AioContext, chore: Chore) {
        match chore {
            Chore::Start(connection) => connection.start(cx),
            Chore::Reconnect { window_ns } => {
                let attempt = Attempt::new(self);
                drop(cx.spawn(attempt.reconnect(cx.clone(), window_ns)));
            }
            Chore::Add => {
                let addition = Addition::new(self);
                drop(cx.spawn(addition.run(cx.clone())));
            }
        }
    }

    /// Fails all that is in flight, or waits for a connection. Any thread.
    pub(super) fn cancel(&self) {
        let mut state = self.lock();
        state.cancels += 1;
        state.is_down = true;
        let live = std::mem::take(&mut state.live);
        drop(state);
        for connection in live {
            connection.cut(Ending::Cancelled);
        }
        self.changed.wake_all();
    }

    /// Says good-bye. Nothing is asked afterwards.
    pub(super) fn leave(&self) {
        let mut state = self.lock();
        state.cancels += 1;
        let live = std::mem::take(&mut state.live);
        let parked = state.parked.take();
        drop(state);
        drop(parked);
        for connection in live {
            connection.leave();
        }
        self.changed.wake_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that agrees with what is known of the export; `None` when nobody wants it any more.
    async fn try_once(
        &self,
        cx: &AioContext,
        (cancels, limit_ns): (u64, u64),
    ) -> Option<Result<Opened, BlockError>> {
        let server = (&self.server.address, self.server.export.as_str());
        let connecting = connect(cx, server, limit_ns.min(HANDSHAKE_MAX_NS));
        let unwanted = self.changed.until(|| self.lock().cancels != cancels);
        let opened = unless(unwanted, connecting).await?;
        Some(opened.and_then(|opened| {
            self.terms.check(&opened.session)?;
            Ok(opened)
        }))
    }
}

/// Why a request has no answer.
#[derive(Debug)]
pub(super) enum CallFailure {
    /// The server does not want to.
    Refused {
        /// The reason.
        errno: nbd::Errno,
        /// The server's words; may be empty.
        text: String,
    },
    /// There is no server to ask.
    Unreachable(BlockError),
}

fn unreachable_server(server: &NbdUri, why: &str) -> BlockError {
    let source = io::Error::from_raw_os_error(libc::EIO);
    BlockError::io(format!("no connection to {server}: {why}"), source)
}

impl State {
    /// Where a request goes that is made on `cx`, and what must be begun for that.
    fn route(&mut self, cx: &AioContext, patience: &Patience) -> (Route, Option<Chore>) {
        self.live.retain(|connection| connection.is_open());
        if let Some(opened) = self.parked.take() {
            let connection = Connection::new(cx, opened);
            self.live.push(connection.clone());
            return (
                Route::To(connection.clone()),
                Some(Chore::Start(connection)),
            );
        }
        let at_home = |it: &&Arc<Connection>| it.home().is_same(cx.handle());
        let load = |it: &&Arc<Connection>| it.load();
        let ours = self.live.iter().filter(at_home).min_by_key(load);
        let best = ours.or_else(|| self.live.iter().min_by_key(load));
        let Some(best) = best.cloned() else {
            return self.wait(patience);
        };
        let is_busy = ours.is_none_or(|ours| ours.load() >= SHARE);
        let has_room = self.live.len() < patience.connections_max;
        if !is_busy || !has_room || self.more != More::Perhaps {
            return (Route::To(best), None);
        }
        self.more = More::Coming;
        (Route::To(best), Some(Chore::Add))
    }

    fn wait(&mut self, patience: &Patience) -> (Route, Option<Chore>) {
        let route = Route::Wait {
            failures: self.failures,
        };
        if self.is_trying {
            return (route, None);
        }
        self.is_trying = true;
        let window_ns = if self.is_down {
            0
        } else {
            patience.reconnect_delay_ns
        };
        (route, Some(Chore::Reconnect { window_ns }))
    }
}

/// Tries to reach a lost server. Dropped at the end, or with its context.
struct Attempt {
    links: Arc<Links>,
    cancels: u64,
}

impl Attempt {
    fn new(links: &Arc<Links>) -> Self {
        let cancels = links.lock().cancels;
        Self {
            links: links.clone(),
            cancels,
        }
    }

    async fn reconnect(self, cx: AioContext, window_ns: u64) {
        let links = &self.links;
        let deadline_ns = cx.now_ns().saturating_add(window_ns);
        let mut pause_ns = PAUSE_NS;
        let mut limit_ns = window_ns.max(FIRST_TRY_NS);
        loop {
            let error = match links.try_once(&cx, (self.cancels, limit_ns)).await {
                Some(Ok(opened)) => return self.succeed(&cx, opened),
                Some(Err(error)) => error,
                // Those who waited see that for themselves, and others try again.
                None => return,
            };
            if cx.now_ns().saturating_add(pause_ns) >= deadline_ns {
                return self.fail(&whole_text(&error));
            }
            let unwanted = || links.lock().cancels != self.cancels;
            let unwanted = links.changed.until(unwanted);
            if unless(unwanted, cx.sleep_ns(pause_ns)).await.is_none() {
                return;
            }
            pause_ns = (2 * pause_ns).min(PAUSE_MAX_NS);
            limit_ns = deadline_ns.saturating_sub(cx.now_ns());
        }
    }

    fn succeed(&self, cx: &AioContext, opened: Opened) {
        let connection = Connection::new(cx, opened);
        let mut state = self.links.lock();
        if state.cancels != self.cancels {
            return;
        }
        state.live.push(connection.clone());
        state.is_down = false;
        state.more = More::Perhaps;
        drop(state);
        connection.start(cx);
    }

    fn fail(&self, why: &str) {
        let mut state = self.links.lock();
        state.failures += 1;
        why.clone_into(&mut state.last_failure);
        state.is_down = true;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.links.lock().is_trying = false;
        self.links.changed.wake_all();
    }
}

/// Makes one connection more. Nobody waits for it, since a server that takes no more may not even say so.
struct Addition {
    links: Arc<Links>,
    cancels: u64,
    outcome: More,
}

impl Addition {
    fn new(links: &Arc<Links>) -> Self {
        let cancels = links.lock().cancels;
        Self {
            links: links.clone(),
            cancels,
            outcome: More::Perhaps,
        }
    }

    async fn run(mut self, cx: AioContext) {
        let tried = self
            .links
            .try_once(&cx, (self.cancels, HANDSHAKE_MAX_NS))
            .await;
        let Some(tried) = tried else {
            return;
        };
        let Ok(opened) = tried else {
            self.outcome = More::No;
            return;
        };
        let connection = Connection::new(&cx, opened);
        let mut state = self.links.lock();
        if state.cancels == self.cancels {
            state.live.push(connection.clone());
            drop(state);
            connection.start(&cx);
        }
    }
}

impl Drop for Addition {
    fn drop(&mut self) {
        self.links.lock().more = self.outcome;
    }
}

/// The error and its cause.
pub(super) fn whole_text(error: &BlockError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// The result of `work`, or `None` if `end` is there first; the other one is dropped.
pub(super) async fn unless<T>(
    end: impl Future<Output = ()>,
    work: impl Future<Output = T>,
) -> Option<T> {
    let (mut end, mut work) = (pin!(end), pin!(work));
    poll_fn(|cx| {
        if let Poll::Ready(value) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(value));
        }
        end.as_mut().poll(cx).map(|()| None)
    })
    .await
}
