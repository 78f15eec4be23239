//! The engine in a job driver of its own, without a filter.

use std::{
    cell::RefCell,
    sync::{Arc, Mutex},
};

use aio::Config;
use block::{
    Attachment, ChildRole, Graph, Permission, Permissions,
    copy::{BlockCopy, CopyOptions},
    nodes::{MemoryNode, MemoryOptions},
};
use blockjob::BlockJob;
use job::{JobConfig, JobContext, JobDriver, JobError, JobRegistry, LocalBoxFuture};

use super::{CopyEngine, ErrorPolicies};

/// Runs an engine, and notes at each check whether everything was copied.
struct Checking {
    copy: Arc<BlockCopy>,
    engine: CopyEngine,
    checks: Mutex<Vec<bool>>,
}

impl JobDriver for Checking {
    fn kind(&self) -> &'static str {
        "checking"
    }

    fn run<'a>(&'a self, job: &'a JobContext) -> LocalBoxFuture<'a, Result<(), JobError>> {
        Box::pin(async move {
            let checks = RefCell::new(Vec::new());
            let check = || {
                checks.borrow_mut().push(self.copy.is_complete());
                Ok(())
            };
            let result = self.engine.run(job, check).await;
            *self.checks.lock().unwrap() = checks.into_inner();
            result
        })
    }
}

#[test]
fn the_last_check_comes_after_the_last_copy() {
    for len_bytes in [0, 1, 10 << 20] {
        aio::run(Config::default(), |cx| async move {
            let graph = Graph::new();
            let edge = |name| {
                let memory = MemoryNode::new(MemoryOptions::new(len_bytes)).unwrap();
                let node = graph.add_node(Some(name), memory).unwrap();
                let uses = Permissions::uses(&[Permission::ConsistentRead, Permission::Write]);
                let user = Attachment::new("test", ChildRole::Data, uses);
                graph.attach(&node, user).unwrap()
            };
            let (source, target) = (edge("source"), edge("target"));
            let node = source.node();
            let copy = Arc::new(BlockCopy::new(source, target, CopyOptions::default()).unwrap());
            let block_job = BlockJob::new("j", "checking", &graph, cx.handle());
            let engine = CopyEngine::new(copy.clone(), block_job, ErrorPolicies::default(), node);
            let driver = Arc::new(Checking {
                copy,
                engine,
                checks: Mutex::default(),
            });
            let jobs = JobRegistry::new(cx.handle().clone());
            let config = JobConfig::new("j", driver.clone(), cx.handle().clone());
            let job = jobs.create(config).unwrap();
            job.start().unwrap();
            job.wait().await.into_result().unwrap();

            assert_eq!(driver.checks.lock().unwrap().last(), Some(&true));
        })
        .unwrap();
    }
}
