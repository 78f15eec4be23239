//! Moments of single jobs, told to code of ours.

use std::sync::{Arc, Mutex};

use aio::{Config, IoThread};
use job::{CancelMode, Job, JobConfig, JobMoment, MomentGuard, Trigger};

use crate::world::{Actor, Log, Part, World, lines};

const ALL: [JobMoment; 5] = [
    JobMoment::FinalizeCancelled,
    JobMoment::FinalizeCompleted,
    JobMoment::Pending,
    JobMoment::Ready,
    JobMoment::Idle,
];

/// Logs every moment of `job` as `name <moment>`.
fn log_all(job: &Job, name: &'static str, log: &Log) -> Vec<MomentGuard> {
    let one = |moment| {
        let log = log.clone();
        job.notify_on(moment, move |_| log.add(format!("{name} <{moment:?}>")))
    };
    ALL.map(one).into()
}

#[test]
fn a_moment_comes_after_its_event() {
    let world = World::new();
    let job = world.create_as("a", Part::Converge, |config| {
        config.finalize = Trigger::Manual;
    });
    let _guards = log_all(&job, "a", &world.log);
    job.start().unwrap();
    world.settle();
    let ready = world.events();
    job.complete().unwrap();
    world.settle();
    let pending = world.events();
    job.finalize().unwrap();
    world.settle();

    let want = ["created", "running", "ready", "READY", "<Ready>", "<Idle>"];
    assert_eq!(ready, lines("a", want));
    let want = ["<Idle>", "waiting", "pending", "PENDING", "<Pending>"];
    assert_eq!(pending, lines("a", want));
    let want = ["COMPLETED", "<FinalizeCompleted>", "concluded", "null"];
    assert_eq!(world.events(), lines("a", want));
}

#[test]
fn a_cancelled_job_has_its_own_moment() {
    let world = World::new();
    let job = world.start("a", Part::UntilTold);
    let _guards = log_all(&job, "a", &world.log);
    world.settle();
    world.log();

    job.cancel(CancelMode::Force).unwrap();
    world.settle();

    let want = [
        "<Idle>",
        "aborting",
        "CANCELLED",
        "<FinalizeCancelled>",
        "concluded",
        "null",
    ];
    assert_eq!(world.events(), lines("a", want));
}

#[test]
fn a_job_that_never_started_has_no_moment_of_its_end() {
    let world = World::new();
    let job = world.create("a", Part::EndWell);
    let _guards = log_all(&job, "a", &world.log);
    job.cancel(CancelMode::Force).unwrap();
    world.settle();

    let want = ["created", "aborting", "concluded", "null"];
    assert_eq!(world.events(), lines("a", want));
}

#[test]
fn an_automatic_member_that_waits_for_a_manual_one_has_no_pending_moment() {
    let world = World::new();
    let transaction = world.registry.transaction();
    let member = |id, finalize| {
        let job = world.create_as(id, Part::EndWell, |config| {
            config.transaction = Some(transaction.clone());
            config.finalize = finalize;
        });
        job.start().unwrap();
        job
    };
    let (auto, manual) = (member("a", Trigger::Auto), member("m", Trigger::Manual));
    let _guards = [
        log_all(&auto, "a", &world.log),
        log_all(&manual, "m", &world.log),
    ];
    world.settle();

    let events = world.events();
    let want = ["m pending", "m PENDING", "m <Pending>", "a pending"];
    assert!(events.ends_with(&want.map(str::to_owned)), "{events:?}");
}

#[test]
fn an_internal_job_has_moments_without_events() {
    let world = World::new();
    let (mut config, _actor) = world.config("a", Part::EndWell);
    config.id = None;
    let job = world.registry.create(config).unwrap();
    let _guards = log_all(&job, "a", &world.log);
    job.start().unwrap();
    world.settle();

    assert_eq!(
        world.events(),
        lines("a", ["<Idle>", "<FinalizeCompleted>"])
    );
}

#[test]
fn a_job_is_idle_when_its_body_ceases_to_be_busy() {
    let world = World::new();
    let job = world.start("a", Part::SleepMs(100));
    let _guards = log_all(&job, "a", &world.log);
    world.settle();
    let asleep = world.events();
    job.wake();
    world.settle();
    let asleep_again = world.events();
    job.pause().unwrap();
    world.settle();
    let paused = world.events();
    job.wake();
    world.settle();
    let still_paused = world.events();

    assert_eq!(asleep, lines("a", ["created", "running", "<Idle>"]));
    assert_eq!(asleep_again, lines("a", ["<Idle>"]));
    assert_eq!(paused, lines("a", ["paused", "<Idle>"]));
    assert_eq!(still_paused, Vec::<String>::new());
}

#[test]
fn moments_of_a_body_elsewhere_are_told_on_the_main_context() {
    let world = World::new();
    let thread = IoThread::start(Config::default()).unwrap();
    let actor = Arc::new(Actor::new("a", Part::Converge, world.log.clone()));
    let config = JobConfig::new("a", actor, thread.handle().clone());
    let job = world.registry.create(config).unwrap();
    let (log, home) = (world.log.clone(), world.context.handle().clone());
    let _ready = job.notify_on(JobMoment::Ready, move |job| {
        log.add(format!("a <Ready> {}", home.is_home()));
        job.complete().expect("it is ready");
    });
    job.start().unwrap();
    world.context.block_on(job.wait());

    let events = world.events();
    assert_eq!(events[2..5], lines("a", ["ready", "READY", "<Ready> true"]));
    assert_eq!(events.last().unwrap(), "a null");
}

#[test]
fn a_main_context_that_is_late_is_told_once_that_a_job_is_idle() {
    let world = World::new();
    let thread = IoThread::start(Config::default()).unwrap();
    let actor = Arc::new(Actor::new("a", Part::SleepMs(3_600_000), world.log.clone()));
    let config = JobConfig::new("a", actor, thread.handle().clone());
    let job = world.registry.create(config).unwrap();
    let _guards = log_all(&job, "a", &world.log);
    job.start().unwrap();
    // Two turns of the thread after each wake-up, while the main loop does not turn.
    for _ in 0..5 {
        job.wake();
        thread.handle().call(|_| ()).wait();
        thread.handle().call(|_| ()).wait();
    }
    let meanwhile = world.log();
    world.settle();

    let woke = meanwhile.iter().filter(|line| line.contains("a.woke"));
    assert!(woke.count() > 1, "{meanwhile:?}");
    assert_eq!(world.events(), lines("a", ["<Idle>"]));
    job.cancel(CancelMode::Force).unwrap();
    world.context.block_on(job.wait());
}

#[test]
fn what_a_callback_does_is_told_after_it() {
    let world = World::new();
    let job = world.create_as("a", Part::Converge, |config| {
        config.finalize = Trigger::Manual;
        config.dismiss = Trigger::Manual;
    });
    let log = world.log.clone();
    let note = move |word: &str| log.add(format!("a <{word}>"));
    let (log_ready, log_pending, log_done) = (note.clone(), note.clone(), note);
    let _guards = [
        job.notify_on(JobMoment::Ready, move |job| {
            job.pause().expect("the body lives");
            job.resume().expect("it is paused");
            job.complete().expect("it is ready");
            log_ready("asked to complete");
        }),
        job.notify_on(JobMoment::Pending, move |job| {
            job.finalize().expect("it is pending");
            log_pending("finalized");
        }),
        job.notify_on(JobMoment::FinalizeCompleted, move |job| {
            job.dismiss().expect("it is concluded by now");
            log_done("dismissed");
        }),
    ];
    job.start().unwrap();
    world.settle();

    let want = [
        "created",
        "running",
        "ready",
        "READY",
        "<asked to complete>",
        "waiting",
        "pending",
        "PENDING",
        "<finalized>",
        "COMPLETED",
        "<dismissed>",
        "concluded",
        "null",
    ];
    assert_eq!(world.events(), lines("a", want));
}

#[test]
fn a_callback_may_cancel_the_job_and_drop_its_own_guard() {
    let world = World::new();
    let job = world.start("a", Part::SleepMs(100));
    let own = Arc::new(Mutex::new(None));
    let (log, taken) = (world.log.clone(), own.clone());
    let guard = job.notify_on(JobMoment::Idle, move |job| {
        let guard: Option<MomentGuard> = taken.lock().expect("nobody panics").take();
        drop(guard);
        log.add("a <once>".to_owned());
        job.cancel(CancelMode::Force).expect("it lives");
    });
    *own.lock().unwrap() = Some(guard);
    world.settle();

    let want = [
        "created",
        "running",
        "<once>",
        "aborting",
        "CANCELLED",
        "concluded",
        "null",
    ];
    assert_eq!(world.events(), lines("a", want));
}

#[test]
fn a_dropped_guard_ends_it_even_for_a_moment_that_is_on_its_way() {
    let world = World::new();
    let job = world.start("a", Part::Converge);
    let (log, guard) = (world.log.clone(), Arc::new(Mutex::new(None)));
    let own = job.notify_on(JobMoment::Ready, move |_| log.add("a <Ready>".to_owned()));
    *guard.lock().unwrap() = Some(own);
    // Hears of READY first, whose moment is queued by then.
    let taken = guard.clone();
    let _subscription = world.registry.subscribe(move |event| {
        if matches!(event, job::JobEvent::Ready(_)) {
            drop(taken.lock().expect("nobody panics").take());
        }
    });
    world.settle();

    assert_eq!(
        world.events(),
        lines("a", ["created", "running", "ready", "READY"])
    );
}

#[test]
fn a_callback_goes_with_its_job_or_its_guard() {
    let world = World::new();
    let held = Arc::new(());
    let keep = |job: &Job| {
        let held = held.clone();
        job.notify_on(JobMoment::Ready, move |_| drop(held.clone()))
    };
    let (ended, living) = (
        world.start("a", Part::EndWell),
        world.start("b", Part::UntilTold),
    );
    let (kept, dropped) = (keep(&ended), keep(&living));
    assert_eq!(Arc::strong_count(&held), 3);

    world.settle();
    drop(dropped);
    let _too_late = keep(&ended);

    assert_eq!(Arc::strong_count(&held), 1);
    drop(kept);
}
