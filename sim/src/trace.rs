//! What happens in a world: the last events, a hash of all, and the first thing that must not happen.
//!
//! One world runs on a thread at a time, so that its trace is the thread's: node drivers, callbacks and
//! the hook of a panic find it there.

use std::{
    cell::RefCell,
    collections::VecDeque,
    fmt,
    hash::{Hash, Hasher},
};

use aio::ManualClock;
use job::JobStatus;

use crate::disk::Op;

/// How many events are kept for whoever looks at a failure.
const KEPT: usize = 60;

/// Something that happened.
#[derive(Clone, Debug, Hash)]
pub(crate) enum Event {
    /// A disk was given a request.
    Submit {
        disk: usize,
        id: u64,
        op: Op,
        at: (u64, u64),
    },
    /// A disk is done with a request.
    Done {
        disk: usize,
        id: u64,
        errno: Option<i32>,
    },
    /// A guest began a request.
    Issue {
        guest: usize,
        request: u32,
        op: Op,
        at: (u64, u64),
    },
    /// A guest has its reply.
    Ack {
        guest: usize,
        request: u32,
        ok: bool,
    },
    /// A job changed.
    Job { job: String, status: JobStatus },
    /// What else is told of a job.
    Told { job: String, what: String },
    /// The user did something.
    User { what: String },
    /// Something of the world itself.
    World { what: &'static str },
}

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// As in D1 to D12.
    pub invariant: &'static str,
    /// What is wrong.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.text)
    }
}

#[derive(Default)]
struct Trace {
    seed: u64,
    clock: ManualClock,
    hash: Fnv,
    count: u64,
    kept: VecDeque<(u64, Event)>,
    kept_max: usize,
    violation: Option<Violation>,
}

thread_local! {
    static TRACE: RefCell<Trace> = RefCell::default();
}

/// How many events a trace keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The last.
    Last,
    /// Every one.
    All,
}

/// What is left of a trace.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) hash: u64,
    pub(crate) events: u64,
    pub(crate) violation: Option<Violation>,
}

/// Begins the trace of a world.
pub(crate) fn begin(seed: u64, clock: &ManualClock, keep: Keep) {
    let trace = Trace {
        seed,
        clock: clock.clone(),
        kept_max: match keep {
            Keep::Last => KEPT,
            Keep::All => usize::MAX,
        },
        ..Trace::default()
    };
    TRACE.replace(trace);
}

/// How it ended.
pub(crate) fn end() -> Ended {
    TRACE.with_borrow(|trace| Ended {
        hash: trace.hash.0,
        events: trace.count,
        violation: trace.violation.clone(),
    })
}

/// Takes an event in.
pub(crate) fn note(event: Event) {
    TRACE.with_borrow_mut(|trace| {
        let now_ns = trace.clock.now_ns();
        trace.count += 1;
        (now_ns, &event).hash(&mut trace.hash);
        if trace.kept.len() >= trace.kept_max {
            trace.kept.pop_front();
        }
        trace.kept.push_back((now_ns, event));
    });
}

/// Takes in what nobody wants to read, for the hash alone.
pub(crate) fn mix(what: impl Hash) {
    TRACE.with_borrow_mut(|trace| what.hash(&mut trace.hash));
}

/// Says that an invariant does not hold. The first counts.
pub(crate) fn violated(invariant: &'static str, text: impl Into<String>) {
    TRACE.with_borrow_mut(|trace| {
        let text = text.into();
        trace.violation.get_or_insert(Violation { invariant, text });
    });
}

/// Whether an invariant has not held.
pub(crate) fn is_violated() -> bool {
    TRACE.with_borrow(|trace| trace.violation.is_some())
}

/// The seed of this thread's world, and the events that were kept, a line each.
#[must_use]
pub fn last_events() -> (u64, Vec<String>) {
    // Whoever panics may be noting an event.
    let read = TRACE.with(|trace| {
        let trace = trace.try_borrow().ok()?;
        let line = |(now_ns, event): &(u64, Event)| {
            let (s, ns) = (now_ns / 1_000_000_000, now_ns % 1_000_000_000);
            format!("{s:>4}.{ns:09} {event:?}")
        };
        Some((trace.seed, trace.kept.iter().map(line).collect()))
    });
    read.unwrap_or_default()
}

/// A hash that is the same in every process. (Fowler, Noll and Vo's, by words of 64 bits.)
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0 ^ word)
            .wrapping_mul(0x0100_0000_01b3)
            .rotate_left(23);
    }
}
