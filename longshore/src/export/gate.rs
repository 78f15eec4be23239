//! [`ExportGate`]: how an export keeps quiet while its node is drained.
//!
//! ```text
//!   bit 63              32 31              0
//!      [ drained sections | requests inside ]
//! ```
//!
//! The node's own entrance would hold the requests too. Here they are held before they take memory
//! or are counted as under way, and a client's connection stops being read.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use aio::Handle;
use block::{BlockError, DrainWaker, ErrorKind, Parent};

use super::{
    NodeMoves,
    signal::{Signal, until},
};

const SECTION: u64 = 1 << 32;
const INSIDE: u64 = SECTION - 1;

/// The export as the graph sees it: one user of a node that can be asked to keep quiet.
#[derive(Debug)]
pub(super) struct ExportGate {
    name: String,
    moves: NodeMoves,
    state: AtomicU64,
    opened: Signal,
    drain_waker: DrainWaker,
}

/// A request that is inside the node; it leaves when this is dropped.
#[derive(Debug)]
pub(super) struct Inside(Arc<ExportGate>);

impl ExportGate {
    /// The gate of the export called `name`, which tells `drain_waker` when it has become quiet.
    pub(super) fn new(name: &str, moves: NodeMoves, drain_waker: DrainWaker) -> Self {
        Self {
            name: format!("export '{name}'"),
            moves,
            state: AtomicU64::new(0),
            opened: Signal::default(),
            drain_waker,
        }
    }

    /// Raised when requests may go on, and by whoever gives up waiting.
    pub(super) fn opened(&self) -> &Signal {
        &self.opened
    }

    /// Whether requests may go on.
    pub(super) fn is_open(&self) -> bool {
        self.state.load(Ordering::Acquire) < SECTION
    }

    /// Waits for the gate to open and goes in, unless `given_up` says so first.
    pub(super) async fn enter(self: &Arc<Self>, given_up: impl Fn() -> bool) -> Option<Inside> {
        until([&self.opened], || {
            if given_up() {
                return Some(None);
            }
            self.try_enter().map(Some)
        })
        .await
    }

    /// Counting and looking are one step, so that whoever closes the gate sees all that got in.
    fn try_enter(self: &Arc<Self>) -> Option<Inside> {
        let inside = self.state.fetch_add(1, Ordering::AcqRel) < SECTION;
        // Taken back by its drop.
        let guard = Inside(self.clone());
        inside.then_some(guard)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let before = self.0.state.fetch_sub(1, Ordering::AcqRel);
        if before >= SECTION && before & INSIDE == 1 {
            self.0.drain_waker.kick();
        }
    }
}

impl Parent for ExportGate {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn drained_begin(&self) {
        self.state.fetch_add(SECTION, Ordering::AcqRel);
    }

    fn drained_poll(&self) -> bool {
        self.state.load(Ordering::Acquire) & INSIDE != 0
    }

    fn drained_end(&self) {
        let before = self.state.fetch_sub(SECTION, Ordering::AcqRel);
        assert!(before >= SECTION, "a section ends once");
        if before < 2 * SECTION {
            self.opened.raise();
        }
    }

    /// An export goes on where it is: its requests run there wherever the node is at home. But its user may not want
    /// the node to leave.
    fn check_context_change(&self, _to: &Handle) -> Result<(), BlockError> {
        match self.moves {
            NodeMoves::Allowed => Ok(()),
            NodeMoves::Refused => {
                let what = "Cannot change iothread of active block backend";
                Err(BlockError::new(ErrorKind::Busy, what))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Waker},
    };

    use aio::{AioContext, Config};
    use block::{
        Attachment, ChildRole, Graph, Permissions,
        nodes::{MemoryNode, MemoryOptions},
    };

    use super::{Arc, ExportGate, NodeMoves, Parent};

    fn gate() -> Arc<ExportGate> {
        gate_with(NodeMoves::Allowed)
    }

    fn gate_with(moves: NodeMoves) -> Arc<ExportGate> {
        Arc::new(ExportGate::new("e", moves, Graph::new().drain_waker()))
    }

    fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        }
    }

    #[test]
    fn sections_nest_and_hold_requests_until_the_last_has_ended() {
        let gate = gate();
        let inside = poll_once(gate.enter(|| false)).flatten();
        assert!(inside.is_some());

        gate.drained_begin();
        gate.drained_begin();
        assert!(gate.drained_poll(), "one request is inside");
        drop(inside);
        assert!(!gate.drained_poll());
        gate.drained_end();
        assert!(poll_once(gate.enter(|| false)).is_none());
        gate.drained_end();

        assert!(poll_once(gate.enter(|| false)).flatten().is_some());
        assert_eq!(gate.name(), "export 'e'");
    }

    #[test]
    fn a_refused_request_leaves_nothing_behind() {
        let gate = gate();
        gate.drained_begin();
        assert!(poll_once(gate.enter(|| false)).is_none());
        assert!(!gate.drained_poll());
        let given_up = poll_once(gate.enter(|| true));
        assert!(matches!(given_up, Some(None)));
    }

    #[test]
    fn an_exported_node_moves_to_another_context_without_its_export() {
        let graph = Graph::new();
        let node = graph.add_node(
            Some("disk"),
            MemoryNode::new(MemoryOptions::new(512)).unwrap(),
        );
        let node = node.unwrap();
        let parent: Arc<dyn Parent> = gate();
        let attachment = Attachment::of(&parent, ChildRole::Primary, Permissions::IDLE);
        let _edge = graph.attach(&node, attachment).unwrap();
        let elsewhere = AioContext::new(Config::default()).unwrap();

        elsewhere
            .block_on(graph.set_context(&node, elsewhere.handle()))
            .unwrap();

        assert!(node.context().unwrap().is_same(elsewhere.handle()));
    }

    #[test]
    fn an_export_that_keeps_its_node_refuses_to_let_it_go() {
        let gate = gate_with(NodeMoves::Refused);
        let elsewhere = AioContext::new(Config::default()).unwrap();
        let refused = gate.check_context_change(elsewhere.handle()).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "Cannot change iothread of active block backend"
        );
    }
}
