//! The server's task: accepts clients, and waits for the last one at the end.

use std::{io, rc::Rc, sync::Arc};

use aio::{AioContext, Fd};

use super::{
    Server,
    connection::Connection,
    inbox::Inbox,
    line::Line,
    listen::{self, Listener},
    memory::PayloadMemory,
    negotiate::negotiate,
    signal::{race, until},
};

/// How long no client is accepted after the system could not give us one: each attempt would fail again at once.
const BACK_OFF_NS: u64 = 100_000_000;

/// Tells the server when its task has ended, in whatever way.
pub(super) struct Serving(pub(super) Arc<Server>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.ended();
    }
}

/// Serves clients until the server is stopped and every request has ended.
pub(super) async fn serve(cx: AioContext, listener: Listener, serving: Serving) {
    let server = &serving.0;
    let memory = PayloadMemory::new(cx.buffers().clone());
    while let Some(socket) = next_client(&cx, server, listener.socket()).await {
        listen::tune(&socket, listener.address());
        let Some(line) = server.admit(socket) else {
            break;
        };
        let client = serve_client(cx.clone(), server.clone(), memory.clone(), line);
        drop(cx.spawn(client));
    }
    drop(listener);
    until([server.changed()], || (server.clients() == 0).then_some(())).await;
}

/// Waits for a client, and before that for room for one; `None` once the server is to stop.
async fn next_client(cx: &AioContext, server: &Server, listener: &Fd) -> Option<Fd> {
    loop {
        let stopped = || server.is_stopping().then_some(());
        until([server.changed()], || {
            stopped().or((server.clients() < server.clients_max()).then_some(()))
        })
        .await;
        let accepted = race(cx.accept(listener), until([server.changed()], stopped)).await?;
        match accepted {
            Ok(socket) => return Some(socket),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a client; trying again in a moment");
                let stop = until([server.changed()], stopped);
                race(cx.sleep_ns(BACK_OFF_NS), stop).await?;
            }
        }
    }
}

async fn serve_client(
    cx: AioContext,
    server: Arc<Server>,
    memory: Rc<PayloadMemory>,
    line: Arc<Line>,
) {
    let mut inbox = Inbox::new();
    let handshake = negotiate(&cx, &server, &line, &mut inbox);
    let limit = cx.sleep_ns(server.handshake_ns_max());
    let chosen = race(handshake, limit).await.flatten();
    if let Some(chosen) = chosen {
        Connection::serve(cx, line.clone(), chosen, memory, inbox).await;
    }
    line.close();
    server.leave(&line);
}
