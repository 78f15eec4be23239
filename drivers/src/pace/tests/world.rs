//! One device, one guest and one copy, without a clock of their own: events in their order.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use block::LatencyHistogram;

use crate::pace::{Pace, PaceLimits, Seen};

const GUEST_BYTES: u64 = 4096;
const S: u64 = 1_000_000_000;

/// Works on one request after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Device {
    pub(super) mib_per_s: u64,
    /// What each request takes besides its bytes.
    pub(super) each_ns: u64,
}

impl Device {
    pub(super) fn takes_ns(self, len_bytes: u64) -> u64 {
        self.each_ns + len_bytes * S / (self.mib_per_s << 20)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    GuestWrote { started_ns: u64 },
    CopyRead { len_bytes: u64, started_ns: u64 },
    CopyWrote { len_bytes: u64, started_ns: u64 },
    LookAgain,
}

pub(super) struct World {
    pub(super) device: Device,
    /// For how long it stands still now and then, whoever uses it, in nanoseconds.
    pub(super) stall_ns: u64,
    /// How much later a guest hears of each write that begins beside the copy, however little that has in flight.
    pub(super) beside_ns: u64,
    pub(super) pace: Pace,
    pub(super) now_ns: u64,
    copies: bool,
    free_at_ns: u64,
    stall_at_ns: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    events_ever: u64,
    in_flight: u32,
    in_flight_bytes: u64,
    guest_requests: u64,
    guest_sleeps: bool,
    depth: usize,
    seen: LatencyHistogram,
    measured: LatencyHistogram,
    copied: BTreeMap<u64, u64>,
    forgot_at_ns: u64,
    random: u64,
}

impl World {
    pub(super) fn new(device: Device, depth: usize, seed: u64, budget_ns: Option<u64>) -> Self {
        let limits = PaceLimits {
            guest_latency_ns: budget_ns,
            ..PaceLimits::default()
        };
        let mut world = Self {
            device,
            stall_ns: 0,
            beside_ns: 0,
            pace: Pace::new(limits),
            now_ns: 0,
            copies: true,
            free_at_ns: 0,
            stall_at_ns: 0,
            events: BinaryHeap::new(),
            events_ever: 0,
            in_flight: 0,
            in_flight_bytes: 0,
            guest_requests: 0,
            guest_sleeps: false,
            depth,
            seen: LatencyHistogram::default(),
            measured: LatencyHistogram::default(),
            copied: BTreeMap::new(),
            forgot_at_ns: 0,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        };
        world.resume_guest();
        world
    }

    pub(super) fn without_copy(device: Device, depth: usize, seed: u64) -> Self {
        let mut world = Self::new(device, depth, seed, None);
        world.copies = false;
        world
    }

    pub(super) fn pause_guest(&mut self) {
        self.guest_sleeps = true;
    }

    pub(super) fn resume_guest(&mut self) {
        self.guest_sleeps = false;
        for _ in 0..self.depth {
            self.guest_writes();
        }
    }

    pub(super) fn run(&mut self, for_ns: u64) {
        let end_ns = self.now_ns + for_ns;
        self.launch();
        while let Some(Reverse((at_ns, _, event))) = self.events.pop() {
            if at_ns > end_ns {
                self.post(at_ns, event);
                break;
            }
            self.now_ns = at_ns;
            self.happens(event);
            self.launch();
        }
        self.now_ns = end_ns;
    }

    /// Measures from now on.
    pub(super) fn forget(&mut self) {
        self.measured = LatencyHistogram::default();
        self.copied.clear();
        self.forgot_at_ns = self.now_ns;
    }

    /// What guest writes have taken, by the 99th of a hundred.
    pub(super) fn p99_ns(&self) -> u64 {
        self.measured.quantile_ns(990).expect("a guest has written")
    }

    /// Bytes copied in the worst second, and in each on the average.
    pub(super) fn copied_each_s(&self) -> (u64, u64) {
        let seconds = self.forgot_at_ns / S..self.now_ns / S;
        let count = seconds.end - seconds.start;
        let each = seconds.map(|second| self.copied.get(&second).copied().unwrap_or(0));
        let each: Vec<u64> = each.collect();
        let least = each.iter().copied().min().unwrap_or(0);
        (least, each.iter().sum::<u64>() / count.max(1))
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::GuestWrote { started_ns } => {
                let took_ns = self.now_ns - started_ns;
                self.seen.note(took_ns);
                self.measured.note(took_ns);
                if !self.guest_sleeps {
                    self.guest_writes();
                }
            }
            Event::CopyRead {
                len_bytes,
                started_ns,
            } => {
                let wrote = Event::CopyWrote {
                    len_bytes,
                    started_ns,
                };
                self.serve(len_bytes, wrote);
            }
            Event::CopyWrote {
                len_bytes,
                started_ns,
            } => {
                self.in_flight -= 1;
                self.in_flight_bytes -= len_bytes;
                *self.copied.entry(self.now_ns / S).or_default() += len_bytes;
                let took_ns = self.now_ns - started_ns;
                self.pace.learn(len_bytes, took_ns, self.now_ns);
            }
            Event::LookAgain => {}
        }
    }

    fn guest_writes(&mut self) {
        self.guest_requests += 1;
        let started_ns = self.now_ns;
        let later_ns = match self.in_flight {
            0 => 0,
            _ => self.beside_ns,
        };
        let done_ns = self.done_at_ns(GUEST_BYTES);
        self.post(done_ns + later_ns, Event::GuestWrote { started_ns });
    }

    /// As an engine does.
    fn launch(&mut self) {
        while self.copies {
            let Self { pace, seen, .. } = self;
            let seen = Seen {
                requests: self.guest_requests,
                writes: || seen.clone(),
                in_flight: self.in_flight,
            };
            pace.guest(seen, self.now_ns);
            let rest_ns = self.pace.rest_ns(self.now_ns);
            if rest_ns > 0 {
                self.post(self.now_ns + rest_ns, Event::LookAgain);
                return;
            }
            let plan = self.pace.plan(self.now_ns);
            if !plan.has_room(self.in_flight, self.in_flight_bytes) {
                return;
            }
            self.in_flight += 1;
            self.in_flight_bytes += plan.chunk_bytes;
            let (len_bytes, started_ns) = (plan.chunk_bytes, self.now_ns);
            let read = Event::CopyRead {
                len_bytes,
                started_ns,
            };
            self.serve(len_bytes, read);
        }
    }

    /// The device takes a request, which ends with `event`.
    fn serve(&mut self, len_bytes: u64, event: Event) {
        let done_ns = self.done_at_ns(len_bytes);
        self.post(done_ns, event);
    }

    /// When the device will have done one more request.
    fn done_at_ns(&mut self, len_bytes: u64) -> u64 {
        let mut takes_ns = self.device.takes_ns(len_bytes);
        // A third more or less, and now and then a long one.
        takes_ns = takes_ns * (170 + self.random() % 170) / 256;
        if self.random().is_multiple_of(500) {
            takes_ns *= 3;
        }
        if self.now_ns >= self.stall_at_ns {
            self.stall_at_ns = self.now_ns + S / 20 + self.random() % (S / 10);
            takes_ns += self.stall_ns;
        }
        self.free_at_ns = self.free_at_ns.max(self.now_ns) + takes_ns;
        self.free_at_ns
    }

    fn post(&mut self, at_ns: u64, event: Event) {
        self.events_ever += 1;
        self.events.push(Reverse((at_ns, self.events_ever, event)));
    }

    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}
