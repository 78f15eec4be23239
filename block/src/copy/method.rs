//! Which way the data of a copy goes: what the two nodes can is found out by trying, what is faster by measuring.
//!
//! Sharing blocks is tried first, and kept where it works. Otherwise the kernel's own copy and
//! reading and writing take turns at first, some requests each, and the kernel's copy goes on if it
//! takes half the time; after [`TRY_AGAIN_BYTES`] they are compared again, since devices and their load change.
//!
//! What is compared is what a request takes divided by how many are in flight: by Little's law that is
//! what it adds to the time of the copy, however many the pace lets out. Requests count only if none of
//! the other way was in flight when they began.

use std::sync::PoisonError;

use aio::sync::{Mutex, MutexGuard};

use crate::{
    allocation::ByteRange,
    node::offload::{OffloadKind, Refusal},
};

/// What the kernel is asked to move begins and ends at a multiple of this: no file system has larger blocks.
pub(super) const ALIGN_BYTES: u64 = 64 << 10;
/// Data of one request that is not known to share blocks soon, unless somebody wants more.
const CHUNK_BYTES: u64 = 1 << 20;
/// Most bytes that share blocks by one request.
const CLONE_BYTES_MAX: u64 = 256 << 20;
/// How long such a request may take, in nanoseconds: requests of guests on the same file wait for it.
const CLONE_NS: u64 = 4_000_000;
/// Requests of one way that are compared with as many of the other.
const SAMPLES: usize = 16;
/// Requests of one way before it is the other's turn, and the comparison may be over if one is hopeless.
const TURN: usize = 4;
/// In hundredths of the other's time, what is hopeless.
const HOPELESS_PERCENT: u64 = 150;
/// Data after which the ways are compared again.
const TRY_AGAIN_BYTES: u64 = 16 << 30;
/// The kernel's copy is used if it takes at most so many hundredths of the time of reading and writing.
///
/// It costs threads and processor time of the kernel: on tmpfs with two processors twice as much for no gain.
const COPY_WINS_PERCENT: u64 = 50;
/// Claims that are read and written before nodes are asked again whether bytes are in files: at first, and at most.
const BACKOFF: (u64, u64) = (8, 1024);

/// How data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Offload(OffloadKind),
    ReadWrite,
}

/// What is known of a pair of nodes. Any thread.
#[derive(Debug)]
pub(super) struct Methods {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Blocks can be shared, as far as is known.
    clones: bool,
    clone_bytes: u64,
    /// The kernel can copy, as far as is known.
    copies: bool,
    trial: Trial,
    /// Data since the last comparison.
    since_bytes: u64,
    /// Claims for which nobody asks, and how many it will be the next time.
    skip: u64,
    backoff: u64,
    /// Requests in flight that the kernel copies, and that are read and written.
    in_flight: [u64; 2],
}

/// The comparison of the kernel's copy with reading and writing.
#[derive(Debug)]
enum Trial {
    /// Costs of requests of both ways, whose turn it is, and how many of them have counted in this turn.
    Running {
        costs: [Vec<u64>; 2],
        turn: usize,
        counted: usize,
    },
    Decided(Method),
}

const COPY: usize = 0;
const READ_WRITE: usize = 1;

/// A request under way by one method; it ends with [`Methods::moved`] or [`Methods::refused`].
#[derive(Debug)]
pub(super) struct Attempt<'a> {
    methods: &'a Methods,
    pub(super) method: Method,
    /// How many were in flight when it began, if all of them went the same way.
    beside: Option<u64>,
}

impl Methods {
    /// Nothing is known.
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                clones: true,
                clone_bytes: CHUNK_BYTES,
                copies: true,
                trial: Trial::begin(),
                since_bytes: 0,
                skip: 0,
                backoff: BACKOFF.0,
                in_flight: [0; 2],
            }),
        }
    }

    /// Reading and writing, always.
    pub(super) fn none() -> Self {
        let methods = Self::new();
        let mut state = methods.lock();
        (state.clones, state.copies) = (false, false);
        drop(state);
        methods
    }

    /// Most data of one request as things stand, if there is no need for smaller ones.
    pub(super) fn data_bytes_max(&self) -> u64 {
        let state = self.lock();
        if state.clones && state.skip == 0 {
            state.clone_bytes
        } else {
            CHUNK_BYTES
        }
    }

    /// Chooses how the data of a range goes.
    pub(super) fn attempt(&self) -> Attempt<'_> {
        let mut state = self.lock();
        let method = state.choose();
        let beside = method.index().and_then(|way| {
            let others = state.in_flight[1 - way];
            state.in_flight[way] += 1;
            (others == 0).then_some(state.in_flight[way])
        });
        Attempt {
            methods: self,
            method,
            beside,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt<'_> {
    /// It moved `len_bytes` within `took_ns` nanoseconds.
    pub(super) fn moved(self, len_bytes: u64, took_ns: u64) {
        let mut state = self.methods.lock();
        match self.method {
            Method::Offload(OffloadKind::Clone) => state.cloned(len_bytes, took_ns),
            Method::Offload(OffloadKind::Copy) | Method::ReadWrite => {
                state.moved(self.method, self.beside, (len_bytes, took_ns));
            }
        }
    }

    /// It did not; the range must be read and written.
    pub(super) fn refused(self, refusal: Refusal) {
        let mut state = self.methods.lock();
        match (refusal, self.method) {
            (Refusal::Never, Method::Offload(OffloadKind::Clone)) => state.clones = false,
            (Refusal::Never, Method::Offload(OffloadKind::Copy)) => state.copies = false,
            (Refusal::Nowhere, _) => {
                state.skip = state.backoff;
                state.backoff = (state.backoff * 2).min(BACKOFF.1);
            }
            (Refusal::Never, Method::ReadWrite) | (Refusal::NotNow, _) => {}
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if let Some(way) = self.method.index() {
            self.methods.lock().in_flight[way] -= 1;
        }
    }
}

impl Method {
    /// Its place in a pair of those that are compared.
    fn index(self) -> Option<usize> {
        match self {
            Self::Offload(OffloadKind::Copy) => Some(COPY),
            Self::ReadWrite => Some(READ_WRITE),
            Self::Offload(OffloadKind::Clone) => None,
        }
    }
}

impl State {
    fn choose(&mut self) -> Method {
        if self.skip > 0 {
            self.skip -= 1;
            return Method::ReadWrite;
        }
        if self.clones {
            return Method::Offload(OffloadKind::Clone);
        }
        if !self.copies {
            return Method::ReadWrite;
        }
        if self.since_bytes >= TRY_AGAIN_BYTES {
            self.since_bytes = 0;
            self.trial = Trial::begin();
        }
        match self.trial {
            Trial::Decided(method) => method,
            Trial::Running { turn: COPY, .. } => Method::Offload(OffloadKind::Copy),
            Trial::Running { .. } => Method::ReadWrite,
        }
    }

    /// Larger requests as long as they are short.
    fn cloned(&mut self, len_bytes: u64, took_ns: u64) {
        self.backoff = BACKOFF.0;
        if took_ns > CLONE_NS {
            self.clone_bytes = (len_bytes / 2 / CHUNK_BYTES * CHUNK_BYTES).max(CHUNK_BYTES);
        } else if len_bytes >= self.clone_bytes && took_ns < CLONE_NS / 2 {
            self.clone_bytes = (self.clone_bytes * 2).min(CLONE_BYTES_MAX);
        }
    }

    fn moved(&mut self, method: Method, beside: Option<u64>, (len_bytes, took_ns): (u64, u64)) {
        self.since_bytes = self.since_bytes.saturating_add(len_bytes);
        if let (Some(way), Some(beside)) = (method.index(), beside)
            && self.copies
            && len_bytes >= ALIGN_BYTES
        {
            // Per 64 KiB, in sixteenths of a nanosecond: small enough for sums, large enough for what is fast.
            let cost = took_ns.saturating_mul(16) / beside.max(1) / (len_bytes / ALIGN_BYTES);
            self.trial.note(way, cost);
        }
    }
}

impl Trial {
    fn begin() -> Self {
        Self::Running {
            costs: [Vec::new(), Vec::new()],
            turn: COPY,
            counted: 0,
        }
    }

    fn note(&mut self, way: usize, cost: u64) {
        let Self::Running {
            costs,
            turn,
            counted,
        } = self
        else {
            return;
        };
        if way != *turn {
            return;
        }
        costs[way].push(cost);
        *counted += 1;
        if *counted == TURN {
            (*turn, *counted) = (1 - way, 0);
        }
        let fewest = costs[COPY].len().min(costs[READ_WRITE].len());
        if fewest < TURN {
            return;
        }
        let [copy, read_write] = costs.each_mut().map(|costs| median(costs));
        let is_hopeless = copy > read_write.saturating_mul(HOPELESS_PERCENT) / 100;
        if fewest < SAMPLES && !is_hopeless {
            return;
        }
        let copy_wins = copy <= read_write.saturating_mul(COPY_WINS_PERCENT) / 100;
        *self = Self::Decided(if copy_wins {
            Method::Offload(OffloadKind::Copy)
        } else {
            Method::ReadWrite
        });
    }
}

fn median(costs: &mut [u64]) -> u64 {
    costs.sort_unstable();
    costs[costs.len() / 2]
}

/// The part of `range` that the kernel may be asked to move, its start; nothing if that begins within a block.
pub(super) fn part_for_kernel(range: ByteRange) -> Option<ByteRange> {
    let end = range.end() / ALIGN_BYTES * ALIGN_BYTES;
    let fits = range.start().is_multiple_of(ALIGN_BYTES) && end > range.start();
    fits.then(|| ByteRange::between(range.start(), end))
}

#[cfg(test)]
mod tests;
