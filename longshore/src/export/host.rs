//! [`Host`]: the context that serves the clients of an export, if that is not the server's.
//!
//! The server lets a client in and hands it over; a task of the host's context takes it from there. All clients of
//! one export there share one account of memory.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aio::{AioContext, Handle};
use nbd::Session;

use super::{
    connection::Connection,
    exported::Using,
    inbox::Inbox,
    memory::PayloadMemory,
    serve::Client,
    signal::{Signal, until},
};

/// A client after its handshake, on its way to the context that serves it.
#[derive(Debug)]
pub(super) struct Handover {
    pub(super) using: Using,
    pub(super) session: Session,
    pub(super) inbox: Inbox,
    /// Last, so that the server hears that the client has left when all is done.
    pub(super) client: Client,
}

/// Clients are handed over here. Any thread.
#[derive(Debug)]
pub(super) struct Host {
    handle: Handle,
    queue: Mutex<Queue>,
    changed: Signal,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Handover>,
    is_closed: bool,
}

/// Refuses further clients when the host's context is closed under its task.
struct Hosting(Arc<Host>);

impl Drop for Hosting {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Host {
    /// Has clients served on the context behind `handle`.
    pub(super) fn new(handle: &Handle) -> Arc<Self> {
        let host = Arc::new(Self {
            handle: handle.clone(),
            queue: Mutex::default(),
            changed: Signal::default(),
        });
        let hosting = Hosting(host.clone());
        drop(handle.spawn(move |cx| take_in(cx, hosting)));
        host
    }

    /// Whether the caller is on the host's context.
    pub(super) fn is_home(&self) -> bool {
        self.handle.is_home()
    }

    /// Leaves a client to the host; one that comes too late is disconnected.
    pub(super) fn hand_over(&self, handover: Handover) {
        let mut queue = self.queue();
        if queue.is_closed {
            drop(queue);
            return drop(handover);
        }
        queue.waiting.push_back(handover);
        drop(queue);
        self.changed.raise();
    }

    /// Takes no more clients.
    pub(super) fn close(&self) {
        let mut queue = self.queue();
        queue.is_closed = true;
        let left = mem::take(&mut queue.waiting);
        drop(queue);
        drop(left);
        self.changed.raise();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next client; `None` once the host is closed.
    async fn next(&self) -> Option<Handover> {
        until([&self.changed], || {
            let mut queue = self.queue();
            match queue.waiting.pop_front() {
                Some(handover) => Some(Some(handover)),
                None => queue.is_closed.then_some(None),
            }
        })
        .await
    }
}

async fn take_in(cx: AioContext, hosting: Hosting) {
    let memory = PayloadMemory::new(cx.buffers().clone());
    while let Some(handover) = hosting.0.next().await {
        let (cx, memory) = (cx.clone(), memory.clone());
        let spawner = cx.clone();
        drop(spawner.spawn(async move {
            let Handover {
                using,
                session,
                inbox,
                client,
            } = handover;
            let line = client.line().clone();
            Connection::serve(cx, line, (using, session), memory, inbox).await;
            drop(client);
        }));
    }
}
