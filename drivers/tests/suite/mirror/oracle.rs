//! Random guests, each on a thread of its own, and everything that may happen to a mirror meanwhile: at the switch both
//! sides are equal, and afterwards all that was acknowledged is on the side that stays.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use aio::{BackendKind, Config, Handle, IoThread, JoinHandle};
use block::{Attachment, ChildRole, Permissions, mirror::CopyMode};
use drivers::mirror::{Mirror, MirrorOptions};
use job::{CancelMode, JobOutcome, JobRegistry, JobStatus, Trigger};

use super::options;
use crate::{
    instant::carry_out,
    oracle::{Chance, Ticks, Writer, replay, seed},
    world::{CLUSTER, Disks, MIB, Side, Watch, backends, in_memory, pattern, range, read, write},
};

const THREADS: u64 = 3;
/// Writers on each thread, so that their requests overlap there, too.
const WRITERS: u64 = 2;

struct Threads {
    main: IoThread,
    job: IoThread,
    guests: Vec<IoThread>,
}

impl Threads {
    fn start(backend: BackendKind) -> Self {
        let start = |name: &str| {
            let config = Config {
                name: name.to_owned(),
                backend: Some(backend),
                buffer_bytes_max: 8 << 20,
                ..Config::default()
            };
            IoThread::start(config).unwrap()
        };
        Self {
            main: start("main"),
            job: start("job"),
            guests: (0..THREADS).map(|_| start("guest")).collect(),
        }
    }

    fn home(&self) -> &Handle {
        self.main.handle()
    }
}

/// One run: disks, guests above them, and the mirror.
struct Run {
    disks: Disks,
    first: Vec<u8>,
    ticks: Arc<Ticks>,
    go_on: Arc<AtomicBool>,
    guests: Vec<JoinHandle<Writer>>,
}

impl Run {
    /// Guests that write until they are stopped, on a disk that is full.
    fn start(threads: &Threads, len_bytes: u64, seed: u64) -> Self {
        let disks = Disks::new(len_bytes);
        let same = disks.clone();
        let bytes = pattern(disks.whole(), 1);
        let first = bytes.clone();
        let filling = threads.home().spawn(move |cx| async move {
            write(&same.guest(), &cx, 0, &bytes).await.unwrap();
        });
        filling.wait();
        let mut run = Self {
            disks,
            first,
            ticks: Arc::default(),
            go_on: Arc::new(AtomicBool::new(true)),
            guests: Vec::new(),
        };
        for number in 0..THREADS * WRITERS {
            let thread = &threads.guests[in_memory(number % THREADS)];
            run.guests.push(run.guest(thread, number, seed));
        }
        run
    }

    fn guest(&self, thread: &IoThread, number: u64, seed: u64) -> JoinHandle<Writer> {
        let mut writer = Writer::new(number, THREADS * WRITERS, self.disks.len_bytes, seed);
        let guest = self.disks.guest();
        let (ticks, go_on) = (self.ticks.clone(), self.go_on.clone());
        thread.handle().spawn(move |cx| async move {
            while go_on.load(Ordering::SeqCst) {
                let entry = writer.issue(ticks.tick());
                carry_out(&guest, &cx, entry).await;
                writer.acknowledge(ticks.tick());
                // Other threads want their turn on a machine with few processors.
                cx.sleep_ns(20_000).await;
            }
            writer
        })
    }

    /// Lets guests do something more.
    fn go_on_for(&self, ticks: u64) {
        let until = self.ticks.tick() + ticks;
        while self.ticks.tick() < until {
            std::thread::yield_now();
        }
    }

    fn stop(&mut self) -> Vec<Writer> {
        self.go_on.store(false, Ordering::SeqCst);
        self.guests.drain(..).map(JoinHandle::wait).collect()
    }

    /// The content of a side, whoever else uses it. Read below what guests wait at.
    fn content(&self, threads: &Threads, side: Side) -> Vec<u8> {
        let name = match side {
            Side::Source => "source-memory",
            Side::Target => "target-memory",
        };
        let node = self.disks.graph.node(name).unwrap();
        let looks = Attachment::new("onlooker", ChildRole::Primary, Permissions::IDLE);
        let edge = self.disks.graph.attach(&node, looks.staying()).unwrap();
        let whole = range(0, self.disks.len_bytes);
        let reading = threads
            .home()
            .spawn(move |cx| async move { read(&edge, &cx, whole).await });
        reading.wait()
    }

    fn mirror(&self, threads: &Threads, jobs: &JobRegistry, options: MirrorOptions) -> Mirror {
        let (disks, jobs) = (self.disks.clone(), jobs.clone());
        let job_home = threads.job.handle().clone();
        let starting = threads.home().spawn(move |_| async move {
            let nodes = (&disks.source, &disks.target);
            Mirror::start((&disks.graph, &jobs), &job_home, nodes, options).await
        });
        starting.wait().unwrap()
    }
}

/// Waits until the job's status is one of these.
fn until_status(mirror: &Mirror, wanted: impl Fn(JobStatus) -> bool) {
    while !wanted(mirror.job().status()) {
        std::thread::yield_now();
    }
}

fn random_mode(chance: &mut Chance) -> CopyMode {
    CopyMode::ALL[in_memory(chance.below(2))]
}

/// Pauses, resumes, drains, moves, changes speed and mode. What comes too late is refused, as it should be.
fn play_with(threads: &Threads, run: &Run, mirror: &Mirror, chance: &mut Chance) {
    for _ in 0..20 {
        match chance.below(7) {
            0 => drop(mirror.job().pause()),
            1 => drop(mirror.set_speed((8 + chance.below(100)) * MIB)),
            2 => drop(mirror.job().resume()),
            3 => {
                let places = [&threads.main, &threads.job, &threads.guests[0]];
                let place = places[in_memory(chance.below(3))].handle().clone();
                let job = mirror.job().clone();
                let moving = threads.home().spawn(move |_| async move {
                    job.set_context(&place).await.expect("no thread ends here");
                });
                moving.wait();
            }
            4 => {
                let (disks, side) = (run.disks.clone(), Side::BOTH[in_memory(chance.below(2))]);
                let draining = threads.home().spawn(move |cx| async move {
                    let section = disks.drain(disks.node(side)).await;
                    cx.yield_now().await;
                    drop(section);
                });
                draining.wait();
            }
            _ => drop(mirror.set_copy_mode(random_mode(chance))),
        }
        run.go_on_for(1 + chance.below(20));
    }
    drop(mirror.job().resume());
    drop(mirror.set_speed(0));
}

fn random_options(chance: &mut Chance, threads: &Threads) -> MirrorOptions {
    let contexts = [&threads.job, &threads.guests[1]].map(|thread| thread.handle().clone());
    MirrorOptions {
        copy_mode: random_mode(chance),
        granularity_bytes: [None, Some(512), Some(4096), Some(MIB)][in_memory(chance.below(4))],
        contexts: contexts[..in_memory(chance.below(2) * 2)].to_vec(),
        finalize: Trigger::Manual,
        ..options()
    }
}

/// How a mirror is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Complete,
    Keep,
}

/// Brings a mirror under load to its end, and looks at both sides while guests are held up.
fn end(threads: &Threads, run: &Run, mirror: &Mirror, how: End) {
    until_status(mirror, |status| {
        status == JobStatus::Ready || status.is_completed()
    });
    run.go_on_for(50);
    match how {
        End::Complete => mirror.job().complete().unwrap(),
        End::Keep => mirror.job().cancel(CancelMode::Soft).unwrap(),
    }
    until_status(mirror, |status| {
        status == JobStatus::Pending || status == JobStatus::Concluded
    });
    assert_eq!(mirror.job().status(), JobStatus::Pending);
    let source = run.content(threads, Side::Source);
    let target = run.content(threads, Side::Target);
    assert!(source == target, "they differ at the switch");
    mirror.job().finalize().unwrap();
    let outcome = mirror.job().wait_blocking();
    assert!(matches!(outcome, JobOutcome::Completed), "{outcome:?}");
    run.go_on_for(50);
    let left = match how {
        End::Complete => (Side::Source, source),
        End::Keep => (Side::Target, target),
    };
    let after = run.content(threads, left.0);
    assert!(left.1 == after, "{:?} changes after the end", left.0);
}

#[test]
fn both_sides_are_equal_at_the_switch_and_nothing_acknowledged_is_lost() {
    let seed = seed();
    let watch = Watch::start();
    for backend in backends() {
        let threads = Threads::start(backend);
        let jobs = JobRegistry::new(threads.home().clone());
        let mut chance = Chance::new(seed);
        for number in 0..10 {
            let len = [MIB + 513, 3 * MIB, 9 * CLUSTER - 1][number % 3];
            let how = [End::Complete, End::Keep][number % 2];
            let mut run = Run::start(&threads, len, chance.below(u64::MAX));
            let options = random_options(&mut chance, &threads);
            let mirror = run.mirror(&threads, &jobs, options);
            if number % 5 > 0 {
                play_with(&threads, &run, &mirror, &mut chance);
            }
            // Under so many guests the background may never catch up, which is theirs to decide.
            let _ = mirror.set_copy_mode(CopyMode::WriteBlocking);
            end(&threads, &run, &mirror, how);
            let logs = run.stop();
            let stays = match how {
                End::Complete => Side::Target,
                End::Keep => Side::Source,
            };
            let content = run.content(&threads, stays);
            assert!(
                content == replay(&logs, &run.first),
                "{how:?} lost something"
            );
            drop(mirror);
            assert_eq!(run.disks.graph.nodes().len(), 4);
        }
    }
    watch.end();
}

#[test]
fn a_mirror_in_the_background_completes_under_guests_that_go_on_writing() {
    let seed = seed();
    let watch = Watch::start();
    for backend in backends() {
        let threads = Threads::start(backend);
        let jobs = JobRegistry::new(threads.home().clone());
        let mut run = Run::start(&threads, 2 * MIB, seed);
        let options = MirrorOptions {
            finalize: Trigger::Manual,
            ..options()
        };
        let mirror = run.mirror(&threads, &jobs, options);
        end(&threads, &run, &mirror, End::Complete);
        let logs = run.stop();
        let content = run.content(&threads, Side::Target);
        assert!(content == replay(&logs, &run.first));
    }
    watch.end();
}

#[test]
fn mirrors_back_and_forth_under_guests_lose_nothing() {
    let seed = seed();
    let watch = Watch::start();
    for backend in backends() {
        let threads = Threads::start(backend);
        let jobs = JobRegistry::new(threads.home().clone());
        let mut chance = Chance::new(seed);
        let mut run = Run::start(&threads, MIB, seed);
        for _ in 0..4 {
            let options = MirrorOptions {
                copy_mode: random_mode(&mut chance),
                ..options()
            };
            let mirror = run.mirror(&threads, &jobs, options);
            until_status(&mirror, |status| status == JobStatus::Ready);
            mirror.job().complete().unwrap();
            assert!(matches!(
                mirror.job().wait_blocking(),
                JobOutcome::Completed
            ));
            run.go_on_for(20);
            let disks = &mut run.disks;
            std::mem::swap(&mut disks.source, &mut disks.target);
        }
        let logs = run.stop();
        let content = run.content(&threads, Side::Source);
        assert!(content == replay(&logs, &run.first));
    }
    watch.end();
}

#[test]
fn a_forced_cancel_at_any_time_leaves_guests_with_all_they_wrote() {
    let seed = seed();
    let watch = Watch::start();
    for backend in backends() {
        let threads = Threads::start(backend);
        let jobs = JobRegistry::new(threads.home().clone());
        let mut chance = Chance::new(seed);
        for _ in 0..10 {
            let mut run = Run::start(&threads, MIB, chance.below(u64::MAX));
            let options = random_options(&mut chance, &threads);
            let mirror = run.mirror(&threads, &jobs, options);
            run.go_on_for(chance.below(300));
            if chance.below(2) == 0 {
                drop(mirror.job().complete());
                run.go_on_for(chance.below(10));
            }
            mirror.job().cancel(CancelMode::Force).unwrap();
            let outcome = mirror.job().wait_blocking();
            assert!(matches!(outcome, JobOutcome::Cancelled(_)), "{outcome:?}");
            run.go_on_for(20);
            let logs = run.stop();
            let content = run.content(&threads, Side::Source);
            assert!(content == replay(&logs, &run.first));
            assert_eq!(run.disks.graph.nodes().len(), 4);
        }
    }
    watch.end();
}
