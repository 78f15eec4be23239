//! The handshake of a new client, up to the export it chooses.

use std::sync::Arc;

use aio::{AioContext, SendPart};
use nbd::{Negotiation, Outcome, Session};

use super::{
    exported::{Exported, Using},
    inbox::Inbox,
    line::Line,
    outbox::put_bytes,
    server::Server,
};

/// Negotiates with a client; `None` when it leaves, breaks the protocol, or chooses too late.
///
/// The caller limits the time.
pub(super) async fn negotiate(
    cx: &AioContext,
    server: &Server,
    line: &Line,
    inbox: &mut Inbox,
) -> Option<(Using, Session)> {
    let mut negotiation = Negotiation::new();
    // The session names its export by its place in what the last step was shown.
    let mut shown: Vec<Arc<Exported>> = Vec::new();
    loop {
        send(cx, line, &negotiation.take_output()).await?;
        match negotiation.outcome() {
            Some(Outcome::Aborted) => return None,
            Some(Outcome::Transmission(session)) => {
                let export = shown.get(session.export)?;
                // In this order, so that whoever removes the export finds this line or keeps it out.
                line.choose(export);
                return Some((export.begin_use()?, session.clone()));
            }
            None => {}
        }
        if inbox.bytes().is_empty() {
            inbox.fill(cx, line).await?;
        }
        let infos: Vec<_>;
        (shown, infos) = server
            .exported()
            .into_iter()
            .filter_map(|export| export.info().map(|info| (export, info)))
            .unzip();
        match negotiation.input(inbox.bytes(), &infos) {
            Ok(taken) => inbox.consume(taken),
            Err(error) => {
                tracing::debug!(%error, "a client breaks the protocol");
                return None;
            }
        }
    }
}

async fn send(cx: &AioContext, line: &Line, bytes: &[u8]) -> Option<()> {
    if bytes.is_empty() {
        return Some(());
    }
    let mut parts: Vec<SendPart> = Vec::new();
    put_bytes(&mut parts, bytes);
    cx.send(line.socket(), parts).await.1.ok()
}
