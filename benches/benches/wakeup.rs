//! Between threads: posting to a loop that is awake, and waking one that sleeps.

use std::{
    hint, iter,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use aio::{BackendKind, BottomHalf, Config, IoThread};
use benches::{Loop, Races, Side, Stay, pin_to, raw_ring::RawPingPong, skipped, two_cpus};
use crossbeam::{channel, queue::SegQueue};
use tokio::sync::mpsc::unbounded_channel;

use crate::peers;

/// Posts of a round, after which the poster waits until all are done.
const POSTS: u64 = 1000;

pub(crate) fn run(races: &mut Races) {
    if !races.wants("post/") && !races.wants("round_trip/") {
        return;
    }
    let Some([ours, other]) = two_cpus() else {
        return skipped("there is no other processor");
    };
    let _here = Stay::on(ours);
    posts(races, other);
    for (place, cpu) in [("one_cpu", ours), ("two_cpus", other)] {
        for backend in [BackendKind::IoUring, BackendKind::Epoll] {
            round_trips(races, place, cpu, backend);
        }
    }
    for poll_max_us in [50, 200] {
        polled_round_trips(races, other, poll_max_us);
    }
}

fn start(config: Config) -> Option<IoThread> {
    IoThread::start(config)
        .inspect_err(|error| skipped(error))
        .ok()
}

/// Keeps the loop of `thread` on processor `cpu`.
fn pin(thread: &IoThread, cpu: usize) {
    let pinned = thread.handle().spawn(move |_| async move { pin_to(cpu) });
    pinned.wait();
}

/// What a callback does: too little to count, but its box must hold something.
fn do_little(number: u64) {
    hint::black_box(number);
}

type Callback = Box<dyn FnOnce() + Send>;

fn callback(number: u64) -> Callback {
    Box::new(move || do_little(number))
}

/// The time of [`POSTS`] posts.
fn time_posts(post: impl FnMut(u64)) -> Duration {
    let start = Instant::now();
    (0..POSTS).for_each(post);
    start.elapsed()
}

/// Posts while a callback keeps the loop of `thread` busy, `rounds` times; then lets it take them.
///
/// A loop that takes posts meanwhile would slow the poster down by as much as the scheduler likes,
/// so this shows what a post costs by itself.
fn to_busy_loop(thread: &IoThread, rounds: u64, mut post: impl FnMut(u64)) -> Duration {
    let meeting = Arc::new(Barrier::new(2));
    let round = |_| {
        let (busy, done) = (meeting.clone(), meeting.clone());
        thread.handle().schedule(move |_| {
            busy.wait();
            busy.wait();
        });
        meeting.wait();
        let time = time_posts(&mut post);
        // Callbacks run in the order in which they were posted.
        thread.handle().schedule(move |_| {
            done.wait();
        });
        meeting.wait();
        meeting.wait();
        time
    };
    (0..rounds).map(round).sum()
}

/// Posts to a queue that another thread, on processor `cpu`, empties by `take` between the rounds.
fn to_queue(
    cpu: usize,
    rounds: u64,
    mut take: impl FnMut() + Send,
    mut post: impl FnMut(u64),
) -> Duration {
    let meeting = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            pin_to(cpu);
            for _ in 0..rounds {
                meeting.wait();
                take();
                meeting.wait();
            }
        });
        let round = |_| {
            let time = time_posts(&mut post);
            meeting.wait();
            meeting.wait();
            time
        };
        (0..rounds).map(round).sum()
    })
}

fn queues(cpu: usize) -> Vec<Side<'static>> {
    let queue: SegQueue<Callback> = SegQueue::new();
    let seg_queue = Side::timed("seg_queue", move |rounds| {
        let take = || iter::from_fn(|| queue.pop()).for_each(|callback| callback());
        to_queue(cpu, rounds, take, |number| queue.push(callback(number)))
    });
    let channel = Side::timed("mpsc", move |rounds| {
        let (sender, receiver) = mpsc::channel::<Callback>();
        let take = move || receiver.try_iter().for_each(|callback| callback());
        to_queue(cpu, rounds, take, |number| {
            sender.send(callback(number)).expect("the receiver lives");
        })
    });
    let tokio = Side::timed("tokio", move |rounds| {
        let (sender, mut receiver) = unbounded_channel::<Callback>();
        let take = move || iter::from_fn(|| receiver.try_recv().ok()).for_each(|it| it());
        to_queue(cpu, rounds, take, |number| {
            let sent = sender.send(callback(number));
            assert!(sent.is_ok(), "the receiver lives");
        })
    });
    let smol = Side::timed("smol", move |rounds| {
        let (sender, receiver) = smol::channel::unbounded::<Callback>();
        let take = move || iter::from_fn(|| receiver.try_recv().ok()).for_each(|it| it());
        to_queue(cpu, rounds, take, |number| {
            let sent = sender.try_send(callback(number));
            assert!(sent.is_ok(), "the receiver lives");
        })
    });
    vec![seg_queue, channel, tokio, smol]
}

fn posts(races: &mut Races, cpu: usize) {
    let Some(thread) = start(Config::default()) else {
        return;
    };
    pin(&thread, cpu);
    let ours = Side::timed("one_shot", |rounds| {
        to_busy_loop(&thread, rounds, |number| {
            thread.handle().schedule(move |_| do_little(number));
        })
    });
    races.race("post/one_shot", POSTS, ours, queues(cpu));

    let make = |cx: aio::AioContext| async move {
        let bottom_half = |number| cx.bottom_half("count", move |_| do_little(number));
        (0..POSTS).map(bottom_half).collect::<Vec<_>>()
    };
    let bottom_halves: Vec<BottomHalf> = thread.handle().spawn(make).wait();
    let ours = Side::timed("bottom_half", |rounds| {
        let mut next = bottom_halves.iter().cycle();
        to_busy_loop(&thread, rounds, |_| {
            next.next().expect("a cycle goes on").schedule();
        })
    });
    races.race("post/bottom_half", POSTS, ours, queues(cpu));
}

/// From the loop of this thread to that of `thread` and back.
fn loops<'a>(context: &'a Loop, thread: &'a IoThread) -> Side<'a> {
    Side::new("loops", move |rounds| {
        for _ in 0..rounds {
            context.block_on(thread.handle().spawn(|_| async {}));
        }
    })
}

fn round_trips(races: &mut Races, place: &str, cpu: usize, backend: BackendKind) {
    let name = format!("round_trip/{place}/{backend}");
    if !races.wants(&name) {
        return;
    }
    let config = Config {
        backend: Some(backend),
        ..Config::default()
    };
    let (Some(context), Some(thread)) = (Loop::with(config.clone()), start(config)) else {
        return;
    };
    thread
        .handle()
        .spawn(move |_| async move { pin_to(cpu) })
        .wait();
    let pair = ParkedPair::start(cpu);
    let mut peers = vec![Side::new("park", |rounds| {
        (0..rounds).for_each(|_| pair.round_trip());
    })];
    if let Ok(mut rings) = RawPingPong::new(cpu) {
        peers.push(Side::new("msg_ring", move |rounds| {
            for _ in 0..rounds {
                rings.round_trip().expect("the other thread answers");
            }
        }));
    }
    if backend == BackendKind::IoUring {
        peers.extend(peers::round_trips(cpu));
    }
    races.race(&name, 1, loops(&context, &thread), peers);
}

/// The same with loops that look for work a while before they sleep.
fn polled_round_trips(races: &mut Races, cpu: usize, poll_max_us: u64) {
    let name = format!("round_trip/polling_{poll_max_us}us");
    if !races.wants(&name) {
        return;
    }
    let config = Config {
        poll_max_ns: poll_max_us * 1000,
        ..Config::default()
    };
    let (Some(context), Some(thread)) = (Loop::with(config.clone()), start(config)) else {
        return;
    };
    thread
        .handle()
        .spawn(move |_| async move { pin_to(cpu) })
        .wait();
    let (ping, pings) = channel::bounded::<()>(1);
    let (pong, pongs) = channel::bounded::<()>(1);
    let echo = thread::spawn(move || {
        pin_to(cpu);
        let sent = |()| pong.send(()).is_ok();
        pings.iter().all(sent)
    });
    let channels = Side::new("channel", |rounds| {
        for _ in 0..rounds {
            ping.send(()).expect("the echo lives");
            pongs.recv().expect("the echo lives");
        }
    });
    races.race(&name, 1, loops(&context, &thread), vec![channels]);
    drop(ping);
    assert!(echo.join().is_ok_and(|all_sent| all_sent), "the echo ends");
}

/// Two threads that wake each other as the standard library does it, by a futex.
struct ParkedPair {
    shared: Arc<Turn>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Turn {
    is_theirs: AtomicBool,
    stop: AtomicBool,
}

impl Turn {
    /// The other thread: answers `us` until it is told to stop.
    fn answer(&self, us: &thread::Thread) {
        while !self.stop.load(Ordering::Acquire) {
            while !self.is_theirs.load(Ordering::Acquire) {
                thread::park();
            }
            self.is_theirs.store(false, Ordering::Release);
            us.unpark();
        }
    }
}

impl ParkedPair {
    fn start(cpu: usize) -> Self {
        let shared = Arc::<Turn>::default();
        let (turn, us) = (shared.clone(), thread::current());
        let thread = thread::spawn(move || {
            pin_to(cpu);
            turn.answer(&us);
        });
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// Only on the thread that has called `start`.
    fn round_trip(&self) {
        self.shared.is_theirs.store(true, Ordering::Release);
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
        while self.shared.is_theirs.load(Ordering::Acquire) {
            thread::park();
        }
    }
}

impl Drop for ParkedPair {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.is_theirs.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A thread that panicked has told so already.
            drop(thread.join());
        }
    }
}
