//! What a body has others do: tasks of its context, calls that block, futures that may never end.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
};

use job::{
    BoxFuture, CancelMode, Job, JobConfig, JobContext, JobDriver, JobError, JobOutcome, JobStatus,
};

use crate::world::{Flag, World, lines};

/// A body in a test's own words.
type Body =
    Box<dyn for<'a> Fn(&'a JobContext) -> BoxFuture<'a, Result<(), JobError>> + Send + Sync>;

struct Script {
    world_log: crate::world::Log,
    body: Body,
}

impl JobDriver for Script {
    fn kind(&self) -> &'static str {
        "script"
    }

    fn run<'a>(&'a self, job: &'a JobContext) -> BoxFuture<'a, Result<(), JobError>> {
        (self.body)(job)
    }

    fn pause(&self) -> BoxFuture<'_, ()> {
        self.world_log.add("a.pause".to_owned());
        Box::pin(std::future::ready(()))
    }

    fn resume(&self) {
        self.world_log.add("a.resume".to_owned());
    }
}

/// Starts a job with this body, and lets it come to its first wait.
fn start(
    world: &World,
    body: impl for<'a> Fn(&'a JobContext) -> BoxFuture<'a, Result<(), JobError>> + Send + Sync + 'static,
) -> Job {
    let driver = Script {
        world_log: world.log.clone(),
        body: Box::new(body),
    };
    let config = JobConfig::new("a", Arc::new(driver), world.context.handle().clone());
    let job = world.registry.create(config).expect("the id is free");
    job.start().expect("nobody cancelled it");
    world.settle();
    job
}

/// Sets a flag when it is dropped.
struct Tells(Arc<Flag>);

impl Drop for Tells {
    fn drop(&mut self) {
        self.0.set();
    }
}

#[test]
fn a_task_on_the_context_may_hold_what_is_not_send_and_brings_its_result() {
    let world = World::new();
    let job = start(&world, |job| {
        Box::pin(async move {
            let sum = job.on_context(|cx| async move {
                let kept = std::rc::Rc::new(40);
                cx.yield_now().await;
                *kept + 1
            });
            let spawned = job.spawn(|cx| async move { u64::from(cx.handle().is_home()) });
            match sum.await + spawned.await {
                42 => Ok(()),
                other => Err(JobError::failed(other.to_string())),
            }
        })
    });

    assert!(matches!(job.outcome(), Some(JobOutcome::Completed)));
}

#[test]
fn a_call_that_blocks_runs_on_another_thread_and_the_job_is_busy_meanwhile() {
    let world = World::new();
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let gate = Arc::new(std::sync::Mutex::new(gate));
    let job = start(&world, move |job| {
        let gate = gate.clone();
        Box::pin(async move {
            let wait = move || {
                let _ = gate.lock().expect("one thread has it").recv();
                std::thread::current().id()
            };
            let worker = job.blocking(wait).await;
            assert_ne!(worker, std::thread::current().id());
            Ok(())
        })
    });
    let is_busy = job.info().is_busy;
    go.send(()).unwrap();
    let outcome = world.context.block_on(job.wait());

    assert!(is_busy && matches!(outcome, JobOutcome::Completed));
}

#[test]
fn a_future_that_is_ready_is_not_cancelled() {
    let world = World::new();
    let job = start(&world, |job| {
        Box::pin(async move {
            let told = job.or_cancelled(job.yield_now()).await;
            told.ok_or_else(JobError::cancelled)
        })
    });

    assert!(matches!(job.outcome(), Some(JobOutcome::Completed)));
}

#[test]
fn a_force_cancel_drops_what_never_ends_and_nothing_less_does() {
    let world = World::new();
    let dropped = Arc::<Flag>::default();
    let tells = dropped.clone();
    let job = start(&world, move |job| {
        let guard = Tells(tells.clone());
        Box::pin(async move {
            let stuck = job.on_context(|_| async move {
                let _guard = guard;
                std::future::pending::<()>().await;
            });
            let never = job.or_cancelled(stuck).await;
            assert!(never.is_none());
            Ok(())
        })
    });
    job.pause().unwrap();
    job.wake();
    world.settle();
    let early = (job.outcome().is_some(), dropped.is_set());
    job.cancel(CancelMode::Force).unwrap();
    world.settle();

    assert_eq!(early, (false, false));
    assert!(matches!(job.outcome(), Some(JobOutcome::Cancelled(_))));
    assert!(
        dropped.is_set(),
        "the task goes with the future that waited for it"
    );
}

#[test]
fn what_is_cancelled_already_is_not_begun() {
    let world = World::new();
    let job = start(&world, |job| {
        Box::pin(async move {
            job.park().await;
            let begun = job.or_cancelled(async { unreachable!("the job is cancelled") });
            assert!(begun.await.is_none());
            Ok::<(), JobError>(())
        })
    });
    job.cancel(CancelMode::Force).unwrap();
    world.settle();

    assert!(matches!(job.outcome(), Some(JobOutcome::Cancelled(_))));
}

/// Polls a future once, and drops it.
async fn once(future: impl Future<Output = ()>) {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let _ = future.as_mut().poll(cx);
        Poll::Ready(())
    })
    .await;
}

#[test]
fn a_wait_that_is_dropped_leaves_the_job_as_if_it_had_ended() {
    let world = World::new();
    let job = start(&world, |job| {
        Box::pin(async move {
            job.job().pause().expect("it runs");
            once(job.pause_point()).await;
            job.job().resume().expect("it is paused");
            job.become_ready();
            Ok(())
        })
    });

    assert_eq!(job.status(), JobStatus::Null);
    let want = [
        "created", "running", ".pause", "paused", "running", ".resume", "ready", "READY",
    ];
    assert_eq!(world.log()[..8], lines("a", want));
}

#[test]
fn a_wake_up_is_not_lost_with_the_wait_that_it_came_for() {
    let world = World::new();
    let job = start(&world, |job| {
        Box::pin(async move {
            once(async {
                let mut park = pin!(job.park());
                poll_fn(|cx| Poll::Ready(park.as_mut().poll(cx).is_ready())).await;
                job.job().wake();
            })
            .await;
            job.park().await;
            Ok(())
        })
    });

    assert!(matches!(job.outcome(), Some(JobOutcome::Completed)));
}

#[test]
fn a_sleep_that_is_dropped_does_not_end_the_next_wait() {
    let world = World::new();
    let job = start(&world, |job| {
        Box::pin(async move {
            once(job.sleep_ns(1_000_000)).await;
            job.park().await;
            Ok(())
        })
    });
    world.advance_ms(2);
    let early = job.outcome().is_some();
    job.wake();
    world.settle();

    assert!(!early);
    assert!(matches!(job.outcome(), Some(JobOutcome::Completed)));
}
