//! [`Far`]: a disk that the test itself serves, so that it sees the requests of a daemon, and can hold them.

use aio::{Config, IoThread};
use block::{
    ChildRole, Graph, Permission, Permissions,
    nodes::{FaultAction, FaultControl, FaultNode, FaultOp, FaultRule, MemoryNode, MemoryOptions},
};
use longshore::export::{ExportOptions, NbdAddress, NbdServer, NbdServerOptions};
use serde_json::{Value, json};

/// Longer than anything takes; whoever waits so long has found a hang.
const PATIENCE_NS: u64 = 60_000_000_000;

/// A server with one writable export.
pub(crate) struct Far {
    pub(crate) faults: FaultControl,
    /// Held requests would keep the server from its end.
    _release: Release,
    _server: NbdServer,
    thread: IoThread,
    dir: tempfile::TempDir,
}

struct Release(FaultControl);

impl Drop for Release {
    fn drop(&mut self) {
        self.0.release_all();
    }
}

impl Far {
    /// Serves so many zeroes.
    pub(crate) fn new(len_bytes: u64) -> Self {
        let thread = IoThread::start(Config::default()).unwrap();
        let graph = Graph::new();
        let memory = MemoryNode::new(MemoryOptions::new(len_bytes)).unwrap();
        let memory = graph.add_node(Some("memory"), memory).unwrap();
        let faults = FaultControl::new();
        let builder = graph.build_node(Some("disk")).unwrap();
        let uses = Permissions::uses(&[Permission::ConsistentRead]);
        let child = builder.attach(&memory, "file", ChildRole::Filtered, uses);
        let node = builder.finish(FaultNode::new(child.unwrap(), faults.clone()));
        let dir = tempfile::tempdir().unwrap();
        let address = NbdAddress::Unix(dir.path().join("far"));
        let options = NbdServerOptions::default();
        let server = NbdServer::start(thread.handle(), &graph, &address, options).unwrap();
        let export = ExportOptions {
            writable: true,
            ..ExportOptions::new("disk", &node)
        };
        server.add_export(export).unwrap();
        Self {
            _release: Release(faults.clone()),
            faults,
            _server: server,
            thread,
            dir,
        }
    }

    /// What makes a node of it for `blockdev-add`.
    pub(crate) fn node(&self, name: &str) -> Value {
        let path = self.dir.path().join("far");
        let server = json!({ "type": "unix", "path": path });
        json!({ "driver": "nbd", "node-name": name, "server": server, "export": "disk" })
    }

    /// Holds all further requests of this kind.
    pub(crate) fn hold(&self, op: FaultOp) {
        self.faults.add(FaultRule::every(op, FaultAction::Hold));
    }

    /// Waits until a request is held.
    #[track_caller]
    pub(crate) fn wait_held(&self) {
        let faults = self.faults.clone();
        let held = self.thread.handle().spawn(|cx| async move {
            let held = cx.timeout_ns(PATIENCE_NS, faults.wait_held(1)).await;
            held.is_ok()
        });
        assert!(held.wait(), "no such request comes");
    }
}
