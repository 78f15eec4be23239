//! The server's task: accepts clients, and waits for the last one at the end.

use std::{io, rc::Rc, sync::Arc};

use aio::{AioContext, Fd};

use super::{
    connection::Connection,
    host::Handover,
    inbox::Inbox,
    line::Line,
    listen::{self, Listener},
    memory::PayloadMemory,
    negotiate::negotiate,
    server::Server,
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

/// A client that was let in; when this is dropped, it is disconnected and makes room for another.
#[derive(Debug)]
pub(super) struct Client {
    server: Arc<Server>,
    line: Arc<Line>,
}

impl Client {
    /// Its connection.
    pub(super) fn line(&self) -> &Arc<Line> {
        &self.line
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.line.close();
        self.server.leave(&self.line);
    }
}

/// Serves clients until the server is stopped and every request has ended.
pub(super) async fn serve(cx: AioContext, listener: Arc<Listener>, serving: Serving) {
    let server = &serving.0;
    let memory = PayloadMemory::new(cx.buffers().clone());
    while let Some(socket) = next_client(&cx, server, listener.socket()).await {
        listen::tune(&socket, listener.address());
        let Some(line) = server.admit(socket) else {
            break;
        };
        let server = server.clone();
        let client = serve_client(cx.clone(), Client { server, line }, memory.clone());
        drop(cx.spawn(client));
    }
    listener.close();
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
            Err(_) if server.is_stopping() => return None,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a client; trying again in a moment");
                let stop = until([server.changed()], stopped);
                race(cx.sleep_ns(BACK_OFF_NS), stop).await?;
            }
        }
    }
}

async fn serve_client(cx: AioContext, client: Client, memory: Rc<PayloadMemory>) {
    let mut inbox = Inbox::new();
    let handshake = negotiate(&cx, &client.server, &client.line, &mut inbox);
    let limit = cx.sleep_ns(client.server.handshake_ns_max());
    let Some((using, session)) = race(handshake, limit).await.flatten() else {
        return;
    };
    let export = using.export().clone();
    match export.host().filter(|host| !host.is_home()) {
        Some(host) => host.hand_over(Handover {
            using,
            session,
            inbox,
            client,
        }),
        None => {
            let line = client.line.clone();
            Connection::serve(cx, line, (using, session), memory, inbox).await;
        }
    }
}
