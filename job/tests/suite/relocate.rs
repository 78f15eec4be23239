//! Jobs that move to another context: what follows them, what stays, and what the outside sees.

use std::sync::Arc;

use aio::{AioContext, Blocking, Clock, Config, Handle, IoThread, ManualClock, Task};
use job::{
    BoxFuture, CancelMode, Job, JobConfig, JobContext, JobDriver, JobError, JobOutcome, JobStatus,
    Trigger,
};

use crate::world::{Actor, Flag, Log, Part, World, lines};

/// Parks until it is told to end or cancelled, and logs where it is whenever it looks up.
struct Walker {
    log: Log,
    /// The body may end.
    told: Flag,
    /// Keeps the body busy with a task of its context until it is set, if `is_busy` is.
    let_go: Arc<Flag>,
    is_busy: Flag,
}

impl Walker {
    fn note(&self, what: &str) {
        let here = AioContext::current().expect("a context polls this");
        self.log.add(format!("a.{what} {}", here.handle().name()));
    }
}

async fn until_set(cx: AioContext, flag: Arc<Flag>) {
    while !flag.is_set() {
        cx.yield_now().await;
    }
}

impl JobDriver for Walker {
    fn kind(&self) -> &'static str {
        "walker"
    }

    fn run<'a>(&'a self, job: &'a JobContext) -> BoxFuture<'a, Result<(), JobError>> {
        Box::pin(async move {
            self.note("run");
            if self.is_busy.is_set() {
                let let_go = self.let_go.clone();
                job.on_context(|cx| until_set(cx, let_go)).await;
            }
            while !self.told.is_set() && !job.is_cancelled() {
                job.park().await;
                self.note("woke");
            }
            Ok(())
        })
    }

    fn pause(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.note("pause") })
    }

    fn resume(&self) {
        self.note("resume");
    }
}

/// A world with a second context, which the test turns by hand as well.
struct Two {
    world: World,
    other: Option<AioContext>,
    other_clock: ManualClock,
    walker: Arc<Walker>,
}

impl Two {
    fn new() -> Self {
        let world = World::new();
        let (clock, other_clock) = Clock::manual();
        let name = "other".to_owned();
        let config = Config {
            name,
            clock,
            ..Config::default()
        };
        let other = Some(AioContext::new(config).expect("the system has another"));
        let walker = Arc::new(Walker {
            log: world.log.clone(),
            told: Flag::default(),
            let_go: Arc::default(),
            is_busy: Flag::default(),
        });
        Self {
            world,
            other,
            other_clock,
            walker,
        }
    }

    fn other(&self) -> &AioContext {
        self.other.as_ref().expect("it is not closed yet")
    }

    fn main(&self) -> &Handle {
        self.world.context.handle()
    }

    /// A walker on the other context.
    fn create(&self) -> Job {
        self.create_as(|_| ())
    }

    fn create_as(&self, change: impl FnOnce(&mut JobConfig)) -> Job {
        let handle = self.other().handle().clone();
        let mut config = JobConfig::new("a", self.walker.clone(), handle);
        change(&mut config);
        let job = self.world.registry.create(config);
        job.expect("the id is good and free")
    }

    /// One that parks there, with nothing of it logged.
    fn start(&self) -> Job {
        let job = self.create();
        job.start().expect("nobody cancelled it");
        self.settle();
        self.world.log();
        job
    }

    fn settle(&self) {
        for _ in 0..8 {
            if let Some(other) = &self.other {
                other.poll(Blocking::No);
            }
            self.world.settle();
        }
    }

    /// Begins to move a job to the main context, as a task there.
    fn begin_move(&self, job: &Job) -> Task<Result<(), JobError>> {
        let (job, main) = (job.clone(), self.main().clone());
        let context = &self.world.context;
        context.spawn(async move { job.set_context(&main).await })
    }

    /// Moves it all the way, and shows that the other context is not needed any more.
    fn move_to_main(&mut self, job: &Job) {
        let moved = self.begin_move(job);
        self.settle();
        assert!(moved.is_finished());
        self.world.context.block_on(moved).expect("both are open");
        self.close_other();
    }

    fn close_other(&mut self) {
        let other = self.other.take().expect("it is not closed yet");
        assert_eq!(other.stats().tasks, 0, "something of the job is left");
        other.close();
    }

    fn tell(&self, job: &Job) {
        self.walker.told.set();
        job.wake();
        self.settle();
    }
}

impl Drop for Two {
    fn drop(&mut self) {
        if let Some(other) = self.other.take() {
            other.close();
        }
    }
}

/// How the log shows the main context, which has no name of its own.
fn main_line(world: &World, what: &str) -> String {
    format!("a.{what} {}", world.context.handle().name())
}

const GOOD_END: [&str; 5] = ["waiting", "pending", "COMPLETED", "concluded", "null"];

#[test]
fn a_running_job_is_moved_quietly_and_goes_on_there() {
    let mut two = Two::new();
    let job = two.start();
    two.move_to_main(&job);
    let moved = two.world.log();
    two.tell(&job);

    let at_main = |what| main_line(&two.world, what);
    let want = [
        "a.pause other".to_owned(),
        at_main("resume"),
        at_main("woke"),
    ];
    assert_eq!(moved, want);
    assert!(job.context().is_same(two.main()));
    assert_eq!(two.world.log()[0], at_main("woke"));
}

#[test]
fn the_outside_sees_nothing_of_a_move() {
    let mut two = Two::new();
    let job = two.start();
    two.move_to_main(&job);
    let info = job.info();
    two.tell(&job);

    assert!(!info.is_paused && !info.is_busy);
    assert_eq!(two.world.events(), lines("a", GOOD_END));
}

#[test]
fn a_paused_job_moves_and_stays_paused() {
    let mut two = Two::new();
    let job = two.start();
    job.pause().unwrap();
    two.settle();
    two.world.log();

    two.move_to_main(&job);
    let moved = (two.world.log(), job.status());
    job.resume().unwrap();
    two.settle();

    assert_eq!(moved, (vec![], JobStatus::Paused));
    let at_main = |what| main_line(&two.world, what);
    let want = ["a running".to_owned(), at_main("resume"), at_main("woke")];
    assert_eq!(two.world.log(), want);
}

#[test]
fn a_held_job_moves_and_stays_held() {
    let mut two = Two::new();
    let job = two.start();
    let hold = job.hold_paused();
    two.settle();
    two.world.log();

    two.move_to_main(&job);
    let held = (two.world.log(), job.is_quiescent());
    drop(hold);
    two.settle();

    assert_eq!(held, (vec![], true));
    assert_eq!(two.world.log()[0], main_line(&two.world, "resume"));
}

#[test]
fn a_job_that_has_not_started_begins_on_its_new_context() {
    let mut two = Two::new();
    let job = two.create();
    two.world
        .context
        .block_on(job.set_context(two.main()))
        .unwrap();
    two.close_other();
    two.world.log();

    job.start().unwrap();
    two.settle();

    let want = ["a running".to_owned(), main_line(&two.world, "run")];
    assert_eq!(two.world.log(), want);
}

#[test]
fn a_concluded_job_and_a_forgotten_one_move_at_once() {
    let mut two = Two::new();
    let job = two.create_as(|config| config.dismiss = Trigger::Manual);
    job.start().unwrap();
    two.tell(&job);
    assert_eq!(job.status(), JobStatus::Concluded);

    two.world
        .context
        .block_on(job.set_context(two.main()))
        .unwrap();
    two.close_other();
    let concluded = job.context().is_same(two.main());
    job.dismiss().unwrap();
    two.world
        .context
        .block_on(job.set_context(two.main()))
        .unwrap();

    assert!(concluded && job.context().is_same(two.main()));
}

#[test]
fn a_move_waits_for_what_the_body_is_busy_with() {
    let mut two = Two::new();
    two.walker.is_busy.set();
    let job = two.start();

    let moved = two.begin_move(&job);
    two.settle();
    let early = (moved.is_finished(), job.context().is_same(two.main()));
    two.walker.let_go.set();
    two.settle();

    assert_eq!(early, (false, false));
    two.world.context.block_on(moved).unwrap();
    two.close_other();
}

#[test]
fn a_move_that_is_given_up_leaves_the_job_where_it_was() {
    let two = Two::new();
    two.walker.is_busy.set();
    let job = two.start();
    let main = two.main().clone();
    let context = &two.world.context;
    context.block_on(async {
        let gave_up = context.timeout_ns(0, job.set_context(&main)).await;
        gave_up.expect_err("the body is busy");
    });
    two.walker.let_go.set();
    two.settle();

    assert!(job.context().is_same(two.other().handle()));
    assert!(!job.info().is_paused, "it let go of the job");
    assert!(!two.world.log().contains(&"a.pause other".to_owned()));
    job.cancel(CancelMode::Force).unwrap();
    two.settle();
}

#[test]
fn a_job_that_ends_instead_of_pausing_has_moved() {
    let mut two = Two::new();
    two.walker.is_busy.set();
    let job = two.start();
    let moved = two.begin_move(&job);
    two.settle();

    job.cancel(CancelMode::Force).unwrap();
    two.walker.let_go.set();
    two.settle();

    two.world.context.block_on(moved).unwrap();
    assert!(matches!(job.outcome(), Some(JobOutcome::Cancelled(_))));
    two.close_other();
}

#[test]
fn a_job_that_is_cancelled_on_its_way_arrives_first() {
    let mut two = Two::new();
    let job = two.start();
    let hold = job.hold_paused();
    two.settle();
    two.world.log();

    let moved = two.begin_move(&job);
    // Only the main context turns, so the body does not know yet that it is to go.
    two.world.settle();
    let early = moved.is_finished();
    job.cancel(CancelMode::Force).unwrap();
    two.settle();

    assert!(!early);
    two.world.context.block_on(moved).unwrap();
    two.close_other();
    drop(hold);
    assert_eq!(two.world.log()[0], main_line(&two.world, "resume"));
    assert!(matches!(job.outcome(), Some(JobOutcome::Cancelled(_))));
}

#[test]
fn of_two_moves_at_once_the_later_one_stands_and_both_end() {
    let two = Two::new();
    let job = two.start();
    let there = two.begin_move(&job);
    let (back_job, other) = (job.clone(), two.other().handle().clone());
    let context = &two.world.context;
    let back = context.spawn(async move { back_job.set_context(&other).await });
    two.settle();

    assert!(there.is_finished() && back.is_finished());
    assert!(job.context().is_same(two.other().handle()));
    two.world.log();
    job.wake();
    two.settle();
    assert_eq!(two.world.log(), ["a.woke other"]);
    job.cancel(CancelMode::Force).unwrap();
    two.settle();
}

#[test]
fn a_sleep_goes_on_by_the_clock_of_the_new_context() {
    let mut two = Two::new();
    let actor = Arc::new(Actor::new("a", Part::SleepMs(100), two.world.log.clone()));
    let config = JobConfig::new("a", actor, two.other().handle().clone());
    let job = two.world.registry.create(config).unwrap();
    job.start().unwrap();
    two.settle();
    two.world.clock.advance_ns(40_000_000);
    two.other_clock.advance_ns(40_000_000);
    two.settle();
    two.world.log();

    two.move_to_main(&job);
    let moved = two.world.log();
    two.world.advance_ms(59);
    let early = two.world.log();
    two.world.advance_ms(1);

    assert_eq!(moved, lines("a", [".pause", ".resume", ".woke 40"]));
    assert_eq!(early, Vec::<String>::new());
    assert_eq!(two.world.log()[0], "a.woke 100");
}

#[test]
fn a_job_that_moves_to_a_closed_context_fails_and_says_so() {
    let world = World::new();
    let two = Two::new();
    let gone = IoThread::start(Config::default()).unwrap();
    let target = gone.handle().clone();
    drop(gone);
    let job = two.start();
    let (moving, to) = (job.clone(), target.clone());
    let context = &two.world.context;
    let moved = context.spawn(async move { moving.set_context(&to).await });
    two.settle();

    let lost = "the context of the job was closed";
    let error = two.world.context.block_on(moved).unwrap_err();
    assert_eq!(error.to_string(), lost);
    let outcome = job.outcome().expect("the body is gone");
    assert_eq!(outcome.error().unwrap().to_string(), lost);
    drop(world);
}

#[test]
fn a_body_that_moves_all_the_time_hears_every_verb() {
    let world = World::new();
    let threads = ["one", "two", "user"].map(|name| {
        let name = name.to_owned();
        let config = Config {
            name,
            ..Config::default()
        };
        IoThread::start(config).expect("the system has threads")
    });
    let [one, two, user] = threads;
    let actor = Arc::new(Actor::new("a", Part::UntilTold, world.log.clone()));
    let config = JobConfig::new("a", actor, one.handle().clone());
    let job = world.registry.create(config).unwrap();
    job.start().unwrap();

    let places = [two.handle(), world.context.handle(), one.handle()].map(Clone::clone);
    let (mover, storm) = (job.clone(), job.clone());
    let moves = user.handle().spawn(|_| async move {
        for place in places.iter().cycle().take(300) {
            mover.set_context(place).await.expect("all are open");
        }
        mover.set_context(&places[1]).await.expect("it is open");
    });
    let verbs = std::thread::spawn(move || {
        for _ in 0..300 {
            storm.pause().unwrap();
            let hold = storm.hold_paused();
            storm.wake();
            storm.resume().unwrap();
            drop(hold);
        }
    });
    world.context.block_on(moves);
    verbs.join().unwrap();
    // The body is on the main context now: the others are not needed.
    drop((one, two, user));
    job.cancel(CancelMode::Force).unwrap();
    let outcome = world.context.block_on(job.wait());

    assert!(matches!(outcome, JobOutcome::Cancelled(_)));
    let events = world.events();
    let end = lines("a", ["aborting", "CANCELLED", "concluded", "null"]);
    assert!(events.ends_with(&end), "{events:?}");
    let pauses = events[2..events.len() - 4].iter();
    let want = ["a paused", "a running"].iter().cycle();
    assert!(
        pauses.zip(want).all(|(got, want)| got == want),
        "{events:?}"
    );
}
