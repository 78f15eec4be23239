//! Handlers of descriptors: callbacks for readiness, and for polling from user space.
//!
//! Readiness is level-triggered: a handler that leaves data on its descriptor is called again. The
//! ring underneath reports edges, so after a call the loop looks again, for all handlers of a turn
//! at once, unless the handler says that it has [drained](Drained::Yes) the descriptor.

use std::{collections::VecDeque, fmt, io, mem, rc::Rc, sync::Arc};

use slab::Slab;

use crate::{
    context::AioContext,
    fd::Fd,
    inbox::Node,
    op::WatchKey,
    polling::Polled,
    shared::{Posted, Shared, What},
    sys::EventFd,
};

/// What a handler knows of its descriptor when it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Nothing was left: the last call on the descriptor said `EAGAIN`, or took all there was. The
    /// loop need not look again. Said wrongly, the rest waits for the next event.
    Yes,
    /// Something may be left; the loop looks, and calls again if so.
    Maybe,
}

impl Drained {
    /// What two callbacks know together.
    pub(crate) fn and(self, other: Self) -> Self {
        if self == Self::Yes { other } else { self }
    }
}

impl From<()> for Drained {
    fn from((): ()) -> Self {
        Self::Maybe
    }
}

pub(crate) type Ready = Box<dyn FnMut(&AioContext) -> Drained>;
pub(crate) type Probe = Rc<dyn Fn() -> bool>;
pub(crate) type PollReady = Box<dyn FnMut(&AioContext)>;
type Notice = Rc<dyn Fn()>;

/// The callbacks of one descriptor; those left out are not called. They run on the home thread, and
/// may do what they like there, a nested turn of the loop and the drop of their handler included.
///
/// A hang-up or an error of the descriptor calls the callback for reading, and an error the one for
/// writing too; reading comes first.
#[derive(Default)]
pub struct FdCallbacks {
    name: &'static str,
    callbacks: Callbacks,
    poll: Option<Probe>,
    notices: Notices,
}

/// The callbacks that are taken out while one of them runs.
#[derive(Default)]
pub(crate) struct Callbacks {
    pub(crate) read: Option<Ready>,
    pub(crate) write: Option<Ready>,
    pub(crate) poll_ready: Option<PollReady>,
}

/// Who is told when polling from user space begins and ends.
#[derive(Clone, Default)]
pub(crate) struct Notices {
    pub(crate) begin: Option<Notice>,
    pub(crate) end: Option<Notice>,
}

impl FdCallbacks {
    /// No callbacks yet. The name is for debugging.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            ..Self::default()
        }
    }

    /// Calls `callback` when the descriptor can be read, its peer has hung up, or it has an error.
    ///
    /// It returns a [`Drained`], or nothing if it does not know.
    #[must_use]
    pub fn on_readable<D: Into<Drained>>(
        mut self,
        mut callback: impl FnMut(&AioContext) -> D + 'static,
    ) -> Self {
        self.callbacks.read = Some(Box::new(move |context| callback(context).into()));
        self
    }

    /// Calls `callback` when the descriptor can be written, or has an error.
    #[must_use]
    pub fn on_writable<D: Into<Drained>>(
        mut self,
        mut callback: impl FnMut(&AioContext) -> D + 'static,
    ) -> Self {
        self.callbacks.write = Some(Box::new(move |context| callback(context).into()));
        self
    }

    /// Lets the loop see readiness in memory while it polls before a sleep: `poll` says whether
    /// there is something to do, without a system call and without changing anything, and then
    /// `ready` is called to do it.
    #[must_use]
    pub fn on_poll(
        mut self,
        poll: impl Fn() -> bool + 'static,
        ready: impl FnMut(&AioContext) + 'static,
    ) -> Self {
        self.poll = Some(Rc::new(poll));
        self.callbacks.poll_ready = Some(Box::new(ready));
        self
    }

    /// Has `begin` called when the loop begins to poll from user space, and `end` when it goes over
    /// to waiting for the descriptor; between them the peer need not signal it. After `end` the
    /// loop polls once more, so that what came in between is seen.
    ///
    /// A handler removed meanwhile gets no `end`.
    #[must_use]
    pub fn on_poll_mode(mut self, begin: impl Fn() + 'static, end: impl Fn() + 'static) -> Self {
        self.notices = Notices {
            begin: Some(Rc::new(begin)),
            end: Some(Rc::new(end)),
        };
        self
    }

    /// The `poll(2)` events to watch for.
    pub(crate) fn events(&self) -> i16 {
        let read = self.callbacks.read.as_ref().map_or(0, |_| libc::POLLIN);
        let write = self.callbacks.write.as_ref().map_or(0, |_| libc::POLLOUT);
        read | write
    }
}

impl fmt::Debug for FdCallbacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FdCallbacks")
            .field("name", &self.name)
            .field("events", &self.events())
            .finish_non_exhaustive()
    }
}

/// Names a handler: its place in the table, and the generation that tells it from earlier ones there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FdHandlerKey {
    index: usize,
    generation: u64,
}

/// The one bit of a handler's node: it was dropped on another thread.
pub(crate) const DROPPED: u32 = 1;

/// Keeps the callbacks of a descriptor registered; made by [`AioContext::add_fd_handler`].
///
/// Dropping it removes them, on any thread. Dropped on the home thread, none of them is called any
/// more, not even for an event that had happened; dropped elsewhere, that holds from a later turn of
/// the loop on. It may be dropped from within one of its callbacks.
pub struct FdHandler {
    name: &'static str,
    node: Arc<Node<Posted>>,
}

impl FdHandler {
    pub(crate) fn key(&self) -> FdHandlerKey {
        key_of(&self.node)
    }
}

/// The handler that a node posts.
pub(crate) fn key_of(node: &Node<Posted>) -> FdHandlerKey {
    match node.what.what {
        What::FdHandler(key) => key,
        _ => unreachable!("a handler's node is one of a handler"),
    }
}

impl Drop for FdHandler {
    fn drop(&mut self) {
        let shared = &self.node.what.shared;
        let key = self.key();
        let at_home = shared.at_home(|local| local.dropped_handlers.push(key));
        if at_home.is_none() {
            shared.raise(&self.node, DROPPED);
        }
    }
}

impl fmt::Debug for FdHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FdHandler")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// One handler as its home thread keeps it.
pub(crate) struct Handler {
    generation: u64,
    name: &'static str,
    watch: Option<WatchKey>,
    /// Events that have come and not been dispatched.
    events: i16,
    /// Its poll callback has said that it is ready.
    polled_ready: Readiness,
    /// Whether it is in the list of those to be dispatched.
    queued: Readiness,
    /// Absent while one of them runs.
    callbacks: Option<Callbacks>,
    pub(crate) poll: Option<Probe>,
    pub(crate) notices: Notices,
    pub(crate) polled: Polled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readiness {
    No,
    Yes,
}

impl Handler {
    /// Whether one of its callbacks is being called.
    pub(crate) fn is_running(&self) -> bool {
        self.callbacks.is_none()
    }
}

/// What is to be dispatched for a handler.
pub(crate) struct Dispatch {
    pub(crate) callbacks: Callbacks,
    pub(crate) events: i16,
    pub(crate) poll_ready: bool,
}

/// The handlers of a context.
#[derive(Default)]
pub(crate) struct FdHandlerTable {
    handlers: Slab<Handler>,
    /// By the index of a watch: its handler.
    by_watch: Vec<Option<(WatchKey, FdHandlerKey)>>,
    generation: u64,
    /// Handlers to be dispatched; here, so that a nested turn goes on with them.
    ready: VecDeque<FdHandlerKey>,
    /// How many have a poll callback.
    polling: usize,
}

/// What is left of a handler that was removed: the watch to end, the rest to drop outside of any borrow.
pub(crate) struct Removed {
    pub(crate) watch: Option<WatchKey>,
    _callbacks: (Option<Callbacks>, Option<Probe>, Notices),
}

impl FdHandlerTable {
    /// Takes a handler in; its watch comes by [`Self::set_watch`].
    pub(crate) fn insert(&mut self, shared: &Arc<Shared>, callbacks: FdCallbacks) -> FdHandler {
        self.generation += 1;
        let generation = self.generation;
        let entry = self.handlers.vacant_entry();
        let key = FdHandlerKey {
            index: entry.key(),
            generation,
        };
        self.polling += usize::from(callbacks.poll.is_some());
        let name = callbacks.name;
        entry.insert(Handler {
            generation,
            name,
            watch: None,
            events: 0,
            polled_ready: Readiness::No,
            queued: Readiness::No,
            callbacks: Some(callbacks.callbacks),
            poll: callbacks.poll,
            notices: callbacks.notices,
            polled: Polled::default(),
        });
        let node = Arc::new(Node::new(Posted {
            shared: shared.clone(),
            what: What::FdHandler(key),
        }));
        FdHandler { name, node }
    }

    pub(crate) fn handler(&mut self, key: FdHandlerKey) -> Option<&mut Handler> {
        let handler = self.handlers.get_mut(key.index)?;
        (handler.generation == key.generation).then_some(handler)
    }

    pub(crate) fn set_watch(&mut self, key: FdHandlerKey, watch: WatchKey) {
        if let Some(handler) = self.handler(key) {
            handler.watch = Some(watch);
        }
        let at = watch.0.at();
        if self.by_watch.len() <= at {
            self.by_watch.resize(at + 1, None);
        }
        self.by_watch[at] = Some((watch, key));
    }

    /// Notes events of a watch; those of a watch that was ended are ignored.
    pub(crate) fn note(&mut self, watch: WatchKey, events: i16) {
        let known = self.by_watch.get(watch.0.at()).copied().flatten();
        let Some((_, key)) = known.filter(|(known, _)| *known == watch) else {
            return;
        };
        if let Some(handler) = self.handler(key) {
            handler.events |= events;
            self.queue(key);
        }
    }

    /// Notes that a handler's poll callback has found something.
    pub(crate) fn note_polled(&mut self, key: FdHandlerKey) {
        if let Some(handler) = self.handler(key) {
            handler.polled_ready = Readiness::Yes;
            self.queue(key);
        }
    }

    fn queue(&mut self, key: FdHandlerKey) {
        let Some(handler) = self.handler(key) else {
            return;
        };
        // One that runs further out on the stack is queued when it returns.
        if handler.callbacks.is_some() && handler.queued == Readiness::No {
            handler.queued = Readiness::Yes;
            self.ready.push_back(key);
        }
    }

    /// Handlers that wait to be dispatched.
    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Those that wait to be dispatched and can be polled, for adapting their polling.
    pub(crate) fn each_ready(&mut self, mut visit: impl FnMut(&mut Handler)) {
        for key in &self.ready {
            if let Some(handler) = self.handlers.get_mut(key.index)
                && handler.poll.is_some()
            {
                visit(handler);
            }
        }
    }

    /// Takes the next ready handler's callbacks out to be called; `None` when the list is empty.
    pub(crate) fn next_ready(&mut self) -> Option<(FdHandlerKey, Dispatch)> {
        loop {
            let key = self.ready.pop_front()?;
            let Some(handler) = self.handler(key) else {
                continue;
            };
            handler.queued = Readiness::No;
            let events = mem::take(&mut handler.events);
            let polled = mem::replace(&mut handler.polled_ready, Readiness::No);
            let Some(callbacks) = handler.callbacks.take() else {
                continue;
            };
            let dispatch = Dispatch {
                callbacks,
                events,
                poll_ready: polled == Readiness::Yes,
            };
            return Some((key, dispatch));
        }
    }

    /// Puts callbacks back that have returned; gives them to the caller to drop if the handler is gone.
    pub(crate) fn put_back(
        &mut self,
        key: FdHandlerKey,
        callbacks: Callbacks,
    ) -> Result<Option<WatchKey>, Callbacks> {
        let Some(handler) = self.handler(key) else {
            return Err(callbacks);
        };
        handler.callbacks = Some(callbacks);
        let watch = handler.watch;
        if handler.events != 0 || handler.polled_ready == Readiness::Yes {
            self.queue(key);
        }
        Ok(watch)
    }

    /// Removes a handler; its events are forgotten.
    pub(crate) fn remove(&mut self, key: FdHandlerKey) -> Option<Removed> {
        self.handler(key)?;
        let handler = self.handlers.remove(key.index);
        self.polling -= usize::from(handler.poll.is_some());
        if let Some(watch) = handler.watch {
            self.by_watch[watch.0.at()] = None;
        }
        Some(Removed {
            watch: handler.watch,
            _callbacks: (handler.callbacks, handler.poll, handler.notices),
        })
    }

    /// Whether any handler can be polled from user space.
    pub(crate) fn has_polling(&self) -> bool {
        self.polling > 0
    }

    /// The handlers that can be polled from user space.
    pub(crate) fn each_polling(&mut self, mut visit: impl FnMut(FdHandlerKey, &mut Handler)) {
        for (index, handler) in &mut self.handlers {
            if handler.poll.is_some() {
                let key = FdHandlerKey {
                    index,
                    generation: handler.generation,
                };
                visit(key, handler);
            }
        }
    }

    /// Takes every handler out, for the caller to drop.
    pub(crate) fn take_all(&mut self) -> Self {
        let generation = self.generation;
        mem::replace(
            self,
            Self {
                generation,
                ..Self::default()
            },
        )
    }
}

impl fmt::Debug for FdHandlerTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self
            .handlers
            .iter()
            .map(|(_, handler)| handler.name)
            .collect();
        f.debug_struct("FdHandlerTable")
            .field("handlers", &names)
            .finish_non_exhaustive()
    }
}

/// An event between threads or processes: set on one side, taken on the other (an eventfd).
///
/// Cheap to clone; every clone is the same event. All methods may be called on any thread. Handlers
/// are attached by [`AioContext::add_event_notifier`]; dropping the last clone closes the descriptor,
/// once no handler has it any more.
#[derive(Clone, Debug)]
pub struct EventNotifier {
    event: Arc<EventFd>,
    fd: Fd,
}

impl EventNotifier {
    /// An event that is not set.
    ///
    /// # Errors
    ///
    /// The system's, when no descriptor can be had.
    pub fn new() -> io::Result<Self> {
        let event = EventFd::non_blocking()?;
        let fd = event.duplicate()?;
        Ok(Self {
            event: Arc::new(event),
            fd,
        })
    }

    /// Sets the event; setting it again before it is taken is one event. Never blocks.
    pub fn set(&self) {
        self.event.signal();
    }

    /// Takes the event; returns whether it was set. Never blocks. Of several that ask, one gets it.
    #[must_use]
    pub fn test_and_clear(&self) -> bool {
        self.event.try_take()
    }

    /// The descriptor, readable while the event is set: for other processes and other loops.
    #[must_use]
    pub fn fd(&self) -> &Fd {
        &self.fd
    }
}
