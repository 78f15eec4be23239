//! Timers: one cancelled and one set among many, and many set, against tokio's and an ordered map.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use aio::{Blocking, Sleep};
use benches::{Loop, Races, RandomBlocks, Side, skipped};
use tokio::runtime::{Builder, Runtime};
use tokio_util::time::{DelayQueue, delay_queue::Key};

/// Deadlines lie at least so far ahead: later than the next call of [`Timers::catch_up`].
const AHEAD_MIN_NS: u64 = 2_000_000_000;
/// They are spread over a minute.
const AHEAD_NS: u64 = 60_000_000_000;
/// Timers of a round in which all are set, and then dropped.
const INSERTS: usize = 1000;

pub(crate) fn run(races: &mut Races) {
    if !races.wants("timer/") {
        return;
    }
    let runtime = Builder::new_current_thread().enable_time().build();
    let runtime = runtime.inspect_err(|error| skipped(format_args!("tokio: {error}")));
    let (Some(context), Ok(runtime)) = (Loop::best(), runtime) else {
        return;
    };
    for (name, live) in [("100k", 100_000), ("1m", 1_000_000)] {
        let churn = format!("timer/churn_{name}");
        if races.wants(&churn) {
            let [ours, peers @ ..] = sides(&context, &runtime, live).map(Table::churn);
            races.race(&churn, 1, ours, peers.into());
        }
        let insert = format!("timer/insert_{name}");
        if races.wants(&insert) {
            let [ours, peers @ ..] = sides(&context, &runtime, live).map(Table::insert);
            races.race(&insert, INSERTS as u64, ours, peers.into());
        }
    }
}

/// Live timers by number, of one kind.
struct Table<'a> {
    name: &'static str,
    random: RandomBlocks,
    timers: Box<dyn Timers + 'a>,
    live: usize,
}

trait Timers {
    /// Lets those end whose time has come. New ones are set from this moment on.
    fn catch_up(&mut self);
    /// Sets one more timer, which ends so long after that moment.
    fn push(&mut self, after_ns: u64);
    /// Drops timer `index`, and sets another in its place.
    fn replace(&mut self, index: usize, after_ns: u64);
    /// Drops all but the first `live`.
    fn truncate(&mut self, live: usize);
}

fn sides<'a>(context: &'a Loop, runtime: &'a Runtime, live: usize) -> [Table<'a>; 4] {
    let sleeps = Sleeps {
        context,
        start_ns: 0,
        sleeps: Vec::new(),
    };
    let tokio = TokioSleeps {
        runtime,
        start: tokio::time::Instant::now(),
        sleeps: Vec::new(),
    };
    let queue = TokioQueue {
        runtime,
        start: tokio::time::Instant::now(),
        keys: Vec::new(),
        queue: DelayQueue::new(),
    };
    [
        Table::new("sleep", live, sleeps),
        Table::new("btree_map", live, Map::default()),
        Table::new("tokio_sleep", live, tokio),
        Table::new("tokio_delay_queue", live, queue),
    ]
}

impl<'a> Table<'a> {
    fn new(name: &'static str, live: usize, timers: impl Timers + 'a) -> Self {
        let timers = Box::new(timers);
        let random = RandomBlocks::over(u64::MAX);
        let mut this = Self {
            name,
            random,
            timers,
            live,
        };
        for _ in 0..live / INSERTS {
            this.timers.catch_up();
            this.push(INSERTS);
        }
        this
    }

    fn push(&mut self, count: usize) {
        for _ in 0..count {
            let (_, after_ns) = self.draw();
            self.timers.push(after_ns);
        }
    }

    /// Which timer goes, and when the new one ends.
    fn draw(&mut self) -> (usize, u64) {
        let bits = self.random.next_bits();
        let index = (u128::from(bits) * self.live as u128) >> 64;
        let index = usize::try_from(index).expect("an index fits");
        (index, AHEAD_MIN_NS + (bits & 0xffff_ffff_ffff) % AHEAD_NS)
    }

    fn churn(mut self) -> Side<'a> {
        Side::timed(self.name, move |rounds| {
            self.timers.catch_up();
            let start = Instant::now();
            for _ in 0..rounds {
                let (index, after_ns) = self.draw();
                self.timers.replace(index, after_ns);
            }
            start.elapsed()
        })
    }

    fn insert(mut self) -> Side<'a> {
        Side::timed(self.name, move |rounds| {
            let round = |_| {
                self.timers.catch_up();
                let start = Instant::now();
                self.push(INSERTS);
                let time = start.elapsed();
                self.timers.truncate(self.live);
                time
            };
            (0..rounds).map(round).sum()
        })
    }
}

/// The first poll of a timer sets it.
fn set<F: Future<Output = ()>>(timer: Pin<&mut F>) {
    let polled = timer.poll(&mut Context::from_waker(Waker::noop()));
    assert_eq!(polled, Poll::Pending, "it ends later");
}

struct Sleeps<'a> {
    context: &'a Loop,
    start_ns: u64,
    sleeps: Vec<Sleep>,
}

impl Sleeps<'_> {
    fn make(&self, after_ns: u64) -> Sleep {
        let mut sleep = self.context.sleep_until_ns(self.start_ns + after_ns);
        set(Pin::new(&mut sleep));
        sleep
    }
}

impl Timers for Sleeps<'_> {
    fn catch_up(&mut self) {
        self.context.poll(Blocking::No);
        self.start_ns = self.context.now_ns();
    }

    fn push(&mut self, after_ns: u64) {
        let sleep = self.make(after_ns);
        self.sleeps.push(sleep);
    }

    fn replace(&mut self, index: usize, after_ns: u64) {
        self.sleeps[index] = self.make(after_ns);
    }

    fn truncate(&mut self, live: usize) {
        self.sleeps.truncate(live);
    }
}

/// A bare ordered map from deadlines to wakers.
#[derive(Default)]
struct Map {
    map: BTreeMap<(u64, u64), Waker>,
    keys: Vec<(u64, u64)>,
    number: u64,
    start_ns: u64,
}

impl Map {
    fn insert(&mut self, after_ns: u64) -> (u64, u64) {
        self.number += 1;
        let key = (self.start_ns + after_ns, self.number);
        self.map.insert(key, Waker::noop().clone());
        key
    }
}

impl Timers for Map {
    fn catch_up(&mut self) {
        // It has no clock, and what has ended leaves it when it is replaced.
        self.start_ns += 1_000_000;
    }

    fn push(&mut self, after_ns: u64) {
        let key = self.insert(after_ns);
        self.keys.push(key);
    }

    fn replace(&mut self, index: usize, after_ns: u64) {
        let new = self.insert(after_ns);
        let old = std::mem::replace(&mut self.keys[index], new);
        drop(self.map.remove(&old));
    }

    fn truncate(&mut self, live: usize) {
        for key in self.keys.drain(live..) {
            drop(self.map.remove(&key));
        }
    }
}

struct TokioSleeps<'a> {
    runtime: &'a Runtime,
    start: tokio::time::Instant,
    sleeps: Vec<Pin<Box<tokio::time::Sleep>>>,
}

impl TokioSleeps<'_> {
    fn make(&self, after_ns: u64) -> tokio::time::Sleep {
        let _inside = self.runtime.enter();
        tokio::time::sleep_until(self.start + Duration::from_nanos(after_ns))
    }
}

impl Timers for TokioSleeps<'_> {
    fn catch_up(&mut self) {
        self.runtime.block_on(tokio::task::yield_now());
        self.start = tokio::time::Instant::now();
    }

    fn push(&mut self, after_ns: u64) {
        let mut sleep = Box::pin(self.make(after_ns));
        set(sleep.as_mut());
        self.sleeps.push(sleep);
    }

    fn replace(&mut self, index: usize, after_ns: u64) {
        let sleep = self.make(after_ns);
        // In place, which saves it the allocation.
        self.sleeps[index].set(sleep);
        set(self.sleeps[index].as_mut());
    }

    fn truncate(&mut self, live: usize) {
        self.sleeps.truncate(live);
    }
}

struct TokioQueue<'a> {
    runtime: &'a Runtime,
    start: tokio::time::Instant,
    keys: Vec<Key>,
    queue: DelayQueue<()>,
}

impl TokioQueue<'_> {
    fn insert(&mut self, after_ns: u64) -> Key {
        let _inside = self.runtime.enter();
        let deadline = self.start + Duration::from_nanos(after_ns);
        self.queue.insert_at((), deadline)
    }
}

impl Timers for TokioQueue<'_> {
    fn catch_up(&mut self) {
        self.runtime.block_on(tokio::task::yield_now());
        self.start = tokio::time::Instant::now();
    }

    fn push(&mut self, after_ns: u64) {
        let key = self.insert(after_ns);
        self.keys.push(key);
    }

    fn replace(&mut self, index: usize, after_ns: u64) {
        let new = self.insert(after_ns);
        let old = std::mem::replace(&mut self.keys[index], new);
        self.queue.remove(&old);
    }

    fn truncate(&mut self, live: usize) {
        for key in self.keys.drain(live..) {
            self.queue.remove(&key);
        }
    }
}
