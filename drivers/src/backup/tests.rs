//! What cannot be seen from outside: that nothing of a backup outlives its handles.

use aio::Config;
use block::{
    Graph,
    nodes::{MemoryNode, MemoryOptions},
};
use job::{CancelMode, JobRegistry};

use super::{Backup, BackupOptions};

#[test]
fn an_ended_backup_keeps_nothing_alive() {
    let ends = [false, true].map(|is_cancelled| {
        aio::run(Config::default(), |cx| async move {
            let graph = Graph::new();
            let jobs = JobRegistry::new(cx.handle().clone());
            let memory = || MemoryNode::new(MemoryOptions::new(1 << 20)).unwrap();
            let source = graph.add_node(Some("source"), memory()).unwrap();
            let target = graph.add_node(Some("target"), memory()).unwrap();
            let options = BackupOptions::new("b");
            let nodes = (&source, &target);
            let backup = Backup::start((&graph, &jobs), cx.handle(), nodes, options)
                .await
                .unwrap();
            if is_cancelled {
                backup.job().cancel(CancelMode::Force).unwrap();
            }
            backup.job().wait().await;
            // The task that completed the job has its handles dropped by then.
            cx.yield_now().await;
            let driver = std::sync::Arc::downgrade(&backup.driver);
            drop(backup);
            driver.upgrade().is_none()
        })
        .unwrap()
    });
    assert_eq!(ends, [true, true]);
}
