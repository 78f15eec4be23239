//! What queries show of block jobs, how they are found, and what is asked of them by name.

use std::sync::Arc;

use aio::{Config, IoThread};
use blockjob::{BlockJob, BlockJobInfo, JobChange, block_jobs, find_block_job};
use job::{
    BoxFuture, CancelMode, JobConfig, JobContext, JobDriver, JobError, JobErrorKind, JobRegistry,
    Trigger,
};

use super::world::{Body, World, run};

/// A job that holds no nodes.
struct Plain;

impl JobDriver for Plain {
    fn kind(&self) -> &'static str {
        "create"
    }

    fn run<'a>(&'a self, _job: &'a JobContext) -> BoxFuture<'a, Result<(), JobError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// A block job that takes no changes, as most, and never ends.
struct Fixed(BlockJob);

impl JobDriver for Fixed {
    fn kind(&self) -> &'static str {
        "fixed"
    }

    fn extension(&self) -> Option<&(dyn std::any::Any + Send + Sync)> {
        Some(&self.0)
    }

    fn run<'a>(&'a self, _job: &'a JobContext) -> BoxFuture<'a, Result<(), JobError>> {
        Box::pin(std::future::pending())
    }
}

impl blockjob::BlockJobDriver for Fixed {}

/// As the control protocol names the members.
fn shown(info: &BlockJobInfo) -> String {
    let job = &info.job;
    let id = job.id.as_deref().unwrap_or("");
    let automatic = [job.finalize, job.dismiss].map(|trigger| trigger == Trigger::Auto);
    format!(
        "type {} device {id} len {} offset {} busy {} paused {} speed {} io-status {} ready {} \
         status {} auto-finalize {} auto-dismiss {} error {:?} actively-synced {:?}",
        job.kind,
        job.progress.total,
        job.progress.current,
        job.is_busy,
        job.is_paused,
        info.speed_bytes_per_s,
        info.io_status.as_str(),
        job.status.is_ready(),
        job.status,
        automatic[0],
        automatic[1],
        job.error.as_ref().map(ToString::to_string),
        info.actively_synced,
    )
}

#[test]
fn a_query_shows_every_member_newest_first() {
    run(|cx| async move {
        let w = World::new(&cx);
        let one = w.job("one", Body::ReadyThenPark, &[]);
        *one.driver.synced.lock().unwrap() = Some(true);
        one.job.progress().work_done(3);
        one.job.progress().set_remaining(4);
        one.block_job.set_speed(5);
        one.job.start().unwrap();
        let driver = w.driver("two", Body::Park);
        let config = JobConfig {
            finalize: Trigger::Manual,
            dismiss: Trigger::Manual,
            ..JobConfig::new("two", driver.clone(), cx.handle().clone())
        };
        let two = w.job_as(config, &driver, &[]);
        two.job.start().unwrap();
        w.settle().await;
        two.job.pause().unwrap();
        let internal = w.driver("internal", Body::Park);
        let config = JobConfig::internal(internal.clone(), cx.handle().clone());
        let internal = w.job_as(config, &internal, &[]);
        let plain = JobConfig::new("plain", Arc::new(Plain), cx.handle().clone());
        let plain = w.jobs.create(plain).unwrap();
        w.settle().await;

        let infos: Vec<_> = block_jobs(&w.jobs).iter().map(shown).collect();
        assert_eq!(
            infos,
            [
                "type test device two len 0 offset 0 busy false paused true speed 0 io-status ok \
                 ready false status paused auto-finalize false auto-dismiss false error None \
                 actively-synced None",
                "type test device one len 7 offset 3 busy false paused false speed 5 io-status ok \
                 ready true status ready auto-finalize true auto-dismiss true error None \
                 actively-synced Some(true)",
            ]
        );

        two.job.cancel(CancelMode::Force).unwrap();
        two.job.wait().await;
        two.block_job.release();
        let ended = shown(&BlockJobInfo::of(&two.job).unwrap());
        let error = "error Some(\"Operation canceled\")";
        assert!(ended.contains(error), "{ended}");
        assert!(BlockJobInfo::of(&plain).is_none());
        plain.discard();
        one.end().await;
        internal.end().await;
    });
}

#[test]
fn an_unknown_block_job_has_a_text_of_its_own() {
    run(|cx| async move {
        let w = World::new(&cx);
        let j = w.job("j", Body::Park, &[]);
        let plain = JobConfig::new("plain", Arc::new(Plain), cx.handle().clone());
        let plain = w.jobs.create(plain).unwrap();

        let (job, _block_job) = find_block_job(&w.jobs, "j").unwrap();
        assert_eq!(job.id(), Some("j"));
        for id in ["plain", "nobody"] {
            let error = find_block_job(&w.jobs, id).unwrap_err();
            assert_eq!(error.kind(), JobErrorKind::NotFound);
            assert_eq!(error.to_string(), format!("Block job '{id}' not found"));
        }
        plain.discard();
        j.end().await;
    });
}

#[test]
fn a_soft_cancel_of_a_job_that_its_user_paused_is_refused() {
    run(|cx| async move {
        let w = World::new(&cx);
        let j = w.job("j", Body::Park, &[]);
        j.job.start().unwrap();
        j.job.pause().unwrap();
        let (job, _) = find_block_job(&w.jobs, "j").unwrap();

        let refused = job.cancel(CancelMode::Soft).unwrap_err();

        let text = "The block job for device 'j' is currently paused";
        assert_eq!(refused.to_string(), text);
        assert!(!job.is_cancel_requested());
        j.end().await;
    });
}

#[test]
fn a_change_is_for_jobs_of_its_kind_only() {
    run(|cx| async move {
        let w = World::new(&cx);
        let mut j = w.job("j", Body::Park, &[]);
        let change = |kind| j.block_job.change(&JobChange::new(kind, 7_u32));

        change("test").unwrap();
        assert_eq!(j.driver.heard(), ["change 7"]);
        let other = change("mirror").unwrap_err();
        assert_eq!(other.kind(), JobErrorKind::Refused);
        let text = "Job 'j' is of type 'test', not 'mirror'";
        assert_eq!(other.to_string(), text);
        let odd = j.block_job.change(&JobChange::new("test", "seven"));
        assert_eq!(odd.unwrap_err().to_string(), "not a number");
        assert!(j.driver.heard().is_empty());

        j.edges.clear();
        j.job.start().unwrap();
        j.job.cancel(CancelMode::Force).unwrap();
        j.job.wait().await;
        let late = j.block_job.change(&JobChange::new("test", 8_u32));
        assert_eq!(late.unwrap_err().to_string(), "Job not found");
        assert!(j.driver.heard().is_empty());
    });
}

#[test]
fn a_panic_in_a_hook_of_a_block_job_would_name_it() {
    run(|cx| async move {
        let w = World::new(&cx);
        let node = w.node("main");
        let j = w.job("j", Body::Park, &[&node]);
        j.job.start().unwrap();
        w.settle().await;

        drop(w.graph.drain(std::slice::from_ref(&node)).await);
        w.graph.set_context(&node, cx.handle()).await.unwrap();
        j.block_job.set_speed(1000);
        j.block_job.change(&JobChange::new("test", 7_u32)).unwrap();
        assert_eq!(block_jobs(&w.jobs).len(), 1);

        let hooks = [
            "actively_synced",
            "attached_context",
            "change",
            "detach_context",
            "drain",
            "drained_poll",
            "set_speed",
        ];
        let want = hooks.map(|hook| format!("job 'j' (test), in '{hook}'"));
        let called_as = j.driver.called_as.lock().unwrap().clone();
        assert_eq!(Vec::from_iter(called_as), want);
        j.end().await;
    });
}

#[test]
fn a_kind_without_changes_refuses_them() {
    run(|cx| async move {
        let w = World::new(&cx);
        let driver = Arc::new(Fixed(BlockJob::new("f", "fixed", &w.graph)));
        let config = JobConfig::new("f", driver.clone(), cx.handle().clone());
        let job = w.jobs.create(config).unwrap();
        driver.0.bind(&job, &driver);

        let refused = driver.0.change(&JobChange::new("fixed", ())).unwrap_err();

        assert_eq!(refused.to_string(), "Job type does not support change");
        job.discard();
    });
}

#[test]
fn a_registry_that_goes_while_a_job_runs_leaves_nothing_behind() {
    let main = IoThread::start(Config::default()).unwrap();
    let graph = block::Graph::new();
    let jobs = JobRegistry::new(main.handle().clone());
    let driver = Arc::new(Fixed(BlockJob::new("f", "fixed", &graph)));
    let config = JobConfig::new("f", driver.clone(), main.handle().clone());
    let job = jobs.create(config).unwrap();
    driver.0.bind(&job, &driver);
    job.start().unwrap();
    let gone = Arc::downgrade(&driver);

    drop((job, driver, jobs));
    main.delete().unwrap();

    assert!(gone.upgrade().is_none());
}
