//! Everything at once, on both backends, with failures injected: what no single test would meet.
//!
//! Four contexts run streams of random operations on themselves and on each other; each operation
//! checks its own result. Contexts are closed, some in the middle of work, and made anew. A watchdog
//! ends the process when an operation takes too long, which is how a lost wake-up shows; so there
//! are also contexts with little or nothing of their own to do, which nothing else would wake. After
//! this storm comes a [calm], a quarter of the time, in which they are asked for one thing at a time.
//!
//! `LONGSHORE_STRESS_SECONDS` and `LONGSHORE_STRESS_SEED` are set by `cargo xtask stress`. With them
//! this is the only test in its process, and descriptors and memory are counted before and after.

mod calm;
mod operations;
mod random;
mod watch;
mod world;

use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use crate::{
    BackendKind, Config, ContextStats, Fd, IoThread, Join, ManualClock,
    backend::{test_ring::TestRing, tests_on_each::each_backend, uring::Entries},
    clock::Clock,
};
use operations::OPERATIONS;
use random::Random;
use watch::{THREAD_PREFIX, Watchdog, Worker, say};
use world::{PLACES, Peer, STREAMS, Stream, Totals, World, lock};

const SECOND_NS: u64 = 1_000_000_000;
/// Most that memory may grow by after the first tenth of a run.
const GROWTH_KIB_MAX: u64 = 64 << 10;

fn number_of(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().expect("the variable is a number"))
}

#[test]
fn a_stress_of_random_operations_loses_nothing_and_leaks_nothing() {
    let seconds = number_of("LONGSHORE_STRESS_SECONDS");
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let fresh = u64::from(time.unwrap().subsec_nanos());
    let seed = number_of("LONGSHORE_STRESS_SEED").unwrap_or(fresh);
    watch::set_seed(seed);
    let backends: Vec<BackendKind> = each_backend().collect();
    if seconds.is_some() {
        say(&format!("seed {seed}, backends {backends:?}"));
        // Clocks, thread-local storage and the like are made once, and stay.
        run(seed, &backends, SECOND_NS / 2);
    }
    let fds = count("/proc/self/fd");
    let time_ns = seconds.map_or(SECOND_NS, |seconds| seconds * SECOND_NS);
    let (world, growth_kib) = run(seed, &backends, time_ns);
    assert_eq!(threads(), 0, "threads were left behind");
    if seconds.is_some() {
        report(&world, &backends);
        say(&format!(
            "memory grew by {growth_kib} KiB after the first tenth"
        ));
        // It has the scratch file.
        drop(world);
        let left = count("/proc/self/fd");
        assert_eq!(left, fds, "descriptors were left open, with seed {seed}");
        assert!(
            growth_kib <= GROWTH_KIB_MAX,
            "memory is lost, with seed {seed}"
        );
    }
}

/// One line for each backend.
fn report(world: &World, backends: &[BackendKind]) {
    for backend in backends {
        let places = || world.places.iter().filter(|it| it.backend == *backend);
        let sum = |of: &dyn Fn(&world::Place) -> u64| places().map(of).sum::<u64>();
        let mut line = format!("{backend:?}:");
        for (at, (name, _)) in OPERATIONS.iter().enumerate() {
            let count = sum(&|place| place.counts[at].load(Ordering::Relaxed));
            write!(line, " {name} {count},").unwrap();
        }
        let ended = [0, 1].map(|how| sum(&|place| place.ended[how].load(Ordering::Relaxed)));
        let [idle, busy] = ended;
        say(&format!("{line} contexts closed idle {idle}, busy {busy}"));
        let mut totals = Totals::default();
        places().for_each(|place| totals.join(&lock(&place.totals)));
        say(&format!("{backend:?}: {totals:?} of those closed idle"));
    }
}

/// Runs everything for so long; returns by how many KiB memory grew after the first tenth.
fn run(seed: u64, backends: &[BackendKind], time_ns: u64) -> (Arc<World>, u64) {
    let world = Arc::new(World::new(seed, backends));
    let start_ns = Clock::Monotonic.now_ns();
    let until_ns = start_ns + time_ns / 4 * 3;
    let watched = world.clone();
    let look = move || {
        watched
            .places
            .iter()
            .map(|it| lock(&it.config).clone())
            .collect()
    };
    let watchdog = Watchdog::start(world.workers.clone(), look);
    let supervisors: Vec<_> = (0..PLACES)
        .map(|place| {
            let world = world.clone();
            let name = format!("{THREAD_PREFIX}{place}");
            let supervise = move || supervise(&world, place, until_ns);
            thread::Builder::new().name(name).spawn(supervise).unwrap()
        })
        .collect();
    wait_until(start_ns + time_ns / 10);
    let settled_kib = resident_kib();
    wait_until(until_ns);
    let growth_kib = resident_kib().saturating_sub(settled_kib);
    for supervisor in supervisors {
        supervisor.join().unwrap();
    }
    calm::run(&world, start_ns + time_ns);
    watchdog.stop();
    (world, growth_kib)
}

fn wait_until(until_ns: u64) {
    while let Some(left_ns @ 1..) = until_ns.checked_sub(Clock::Monotonic.now_ns()) {
        thread::park_timeout(Duration::from_nanos(left_ns));
    }
}

/// Has one context after the other live at `place`.
fn supervise(world: &Arc<World>, place: usize, until_ns: u64) {
    let listed = world.workers.enter(format!("supervisor of {place}"));
    let mut random = Random::new(world.seed, place as u64);
    while Clock::Monotonic.now_ns() < until_ns {
        live(world, place, &mut random, &listed.1, until_ns);
    }
}

/// How a context is made that meets all kinds of trouble.
///
/// Requests that wait for a peer keep their place in the ring, so it needs one more than there are streams.
fn config(world: &World, place: usize, random: &mut Random, streams: usize) -> Config {
    let backend = world.places[place].backend;
    let submission = 1 << random.below(7);
    let completion_min = match streams {
        0..=1 => 8,
        2..=3 => 16,
        _ => 32,
    };
    let ring = TestRing::Injecting {
        entries: Entries {
            submission,
            completion: (2 * submission).max(completion_min),
        },
        fails: random.below(300),
        seed: random.next(),
    };
    let plain = random.once_in(4);
    Config {
        name: format!("{THREAD_PREFIX}{place}c"),
        backend: Some(backend),
        test_ring: (backend == BackendKind::IoUring && !plain).then_some(ring),
        buffer_bytes_max: (2 << 20) << random.below(3),
        workers_max: random.size(4) + 1,
        poll_max_ns: random.below(3) * 20_000,
        virtual_clock: ManualClock::default(),
        ..Config::default()
    }
}

/// The life of one context.
fn live(world: &Arc<World>, place: usize, random: &mut Random, worker: &Worker, until_ns: u64) {
    worker.begin("starting");
    // Often there is little to do, so that nothing makes up for a wake-up that is lost.
    let count = [0, 1, 1, 2, 3, STREAMS][random.size(6)];
    let config = config(world, place, random, count);
    let clock = config.virtual_clock.clone();
    let told = format!("{place}: {config:?}");
    let thread = IoThread::start(config).expect("a context can be had");
    *lock(&world.places[place].config) = told;
    let handle = thread.handle().clone();
    let interrupts = [0, 2, 5, 50][random.size(4)];
    let set = handle.call(move |_| crate::sys::interrupts::set(interrupts));
    let buffers = handle.call(|cx| cx.buffers().clone());
    set.wait();
    let buffers = buffers.wait();
    let ending = Arc::new(AtomicBool::new(false));
    let streams: Vec<Join<()>> = (0..count)
        .map(|id| {
            let seed = random.next();
            let (world, clock, ending) = (world.clone(), clock.clone(), ending.clone());
            let start = move |cx: crate::AioContext| async move {
                let listed = world.workers.enter(format!("stream {id} of {place}"));
                let scratch = world.scratch.reopen().unwrap();
                let stream = Stream {
                    cx,
                    clock,
                    world: world.clone(),
                    place,
                    id,
                    random: Random::new(seed, 0),
                    scratch: Fd::from(scratch),
                    worker: listed.1.clone(),
                    ending,
                };
                Box::pin(stream.run()).await;
            };
            handle.spawn(start).join()
        })
        .collect();
    let peer = Peer { handle, clock };
    *lock(&world.places[place].peer) = Some(peer);
    worker.end();
    let life_ns = random.below(2 * SECOND_NS) + SECOND_NS / 20;
    wait_until(until_ns.min(Clock::Monotonic.now_ns() + life_ns));
    *lock(&world.places[place].peer) = None;

    let busy = random.once_in(2);
    if !busy {
        worker.begin("waiting for the streams to end");
        ending.store(true, Ordering::Release);
        for stream in streams {
            stream.wait().expect("nobody has closed the context");
        }
        worker.end();
        worker.begin("waiting for requests to end");
        lock(&world.places[place].totals).add(&await_rest(&thread, worker));
        worker.end();
    }
    worker.begin(if busy { "closing, busy" } else { "closing" });
    drop(thread);
    assert_eq!(buffers.bytes_in_use(), 0, "buffers were lost");
    world.places[place].ended[usize::from(busy)].fetch_add(1, Ordering::Relaxed);
    worker.end();
}

/// Waits until nothing is in flight, and returns what was counted; what others do there ends as well.
fn await_rest(thread: &IoThread, worker: &Worker) -> ContextStats {
    loop {
        let stats = thread
            .handle()
            .call(|cx| (cx.stats(), cx.buffers().bytes_in_use()));
        let (stats, bytes) = stats.wait();
        if stats.requests_in_flight == 0 && stats.tasks == 0 && bytes == 0 {
            return stats;
        }
        worker.step(&format!("{stats:?}, {bytes} bytes in use"));
        thread::park_timeout(Duration::from_millis(1));
    }
}

/// Entries of a folder.
fn count(folder: &str) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

/// Threads of this test, but for the calling one.
fn threads() -> usize {
    let is_ours = |task: &std::fs::DirEntry| {
        let name = std::fs::read_to_string(task.path().join("comm"));
        name.is_ok_and(|name| name.starts_with(THREAD_PREFIX))
    };
    let count = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        tasks
            .filter(|task| task.as_ref().is_ok_and(is_ours))
            .count()
    };
    // One that has been joined may still be on its way out of the kernel's list.
    for _ in 0..1000 {
        if count() == 0 {
            return 0;
        }
        thread::park_timeout(Duration::from_millis(5));
    }
    count()
}

/// Memory of the process that is there, in KiB.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap()
}
