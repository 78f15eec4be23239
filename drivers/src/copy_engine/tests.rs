//! The engine in a job driver of its own, without a filter.

use std::{
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use aio::{AioContext, Config};
use block::{
    Attachment, ByteRange, ChildRole, Graph, Permission, Permissions,
    copy::{BlockCopy, Claim, CopyOptions},
    nodes::{MemoryNode, MemoryOptions},
};
use blockjob::BlockJob;
use job::{BoxFuture, JobConfig, JobContext, JobDriver, JobError, JobRegistry};

use super::{CopyEngine, EngineOptions};

const LEN: u64 = 1 << 20;

/// Runs an engine beside a guest on another thread, which has claimed everything: it copies that, and
/// breaks the snapshot, just after the engine has looked at the snapshot for the first time.
struct Racing {
    copy: Arc<BlockCopy>,
    engine: CopyEngine<BlockCopy>,
    claim: Mutex<Option<Claim>>,
}

impl Racing {
    fn look(&self) -> Result<(), JobError> {
        let Some(claim) = self.claim.lock().unwrap().take() else {
            return Err(JobError::failed("broken"));
        };
        let cx = AioContext::current().expect("the engine runs on one");
        let copying = pin!(self.copy.copy(&cx, claim));
        let polled = copying.poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Ready(Ok(_))), "memory needs no wait");
        assert!(self.copy.is_complete());
        Ok(())
    }
}

impl JobDriver for Racing {
    fn kind(&self) -> &'static str {
        "racing"
    }

    fn run<'a>(&'a self, job: &'a JobContext) -> BoxFuture<'a, Result<(), JobError>> {
        Box::pin(self.engine.run(job, || self.look()))
    }
}

#[test]
fn the_last_look_at_the_snapshot_comes_after_all_is_seen_to_be_copied() {
    aio::run(Config::default(), |cx| async move {
        let graph = Graph::new();
        let edge = |name| {
            let memory = MemoryNode::new(MemoryOptions::new(LEN)).unwrap();
            let node = graph.add_node(Some(name), memory).unwrap();
            let uses = Permissions::uses(&[Permission::ConsistentRead, Permission::Write]);
            let user = Attachment::new("test", ChildRole::Data, uses);
            graph.attach(&node, user).unwrap()
        };
        let (source, target) = (edge("source"), edge("target"));
        let node = source.node();
        let copy = Arc::new(BlockCopy::new(source, target, CopyOptions::default()).unwrap());
        let claim = copy.claim(ByteRange::between(0, LEN), LEN);
        let block_job = BlockJob::new("j", "racing", &graph);
        let engine = CopyEngine::new(copy.clone(), block_job, EngineOptions::default(), node);
        let driver = Arc::new(Racing {
            copy,
            engine,
            claim: Mutex::new(claim),
        });
        let jobs = JobRegistry::new(cx.handle().clone());
        let job = jobs
            .create(JobConfig::new("j", driver, cx.handle().clone()))
            .unwrap();
        job.start().unwrap();
        let error = job.wait().await.into_result().unwrap_err();

        assert_eq!(error.to_string(), "broken");
    })
    .unwrap();
}
