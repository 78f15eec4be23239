//! What a seed is about: how large the world is, and which of the faults there are at all.
//!
//! Each seed has a few of them. Where everything goes wrong all the time, nothing goes far enough to go
//! wrong in an interesting way.

use block::{ByteRange, Limits};

use crate::{
    chance::Chance,
    disk::{Discards, DiskOptions, Faults, FlushFault, Op, Stuck, Zeroes},
    history::CELL_BYTES,
};

const MIB: u64 = 1 << 20;

/// Kinds of requests that fail together.
const DEATHS: [&[Op]; 6] = [
    &[Op::Read],
    &[Op::Zeroes],
    &[Op::Write, Op::Zeroes],
    &[Op::Flush],
    &[Op::Extent],
    &[Op::Read, Op::Write, Op::Zeroes, Op::Discard, Op::Flush],
];

/// What may happen in one world.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) jobs: JobKinds,
    pub(crate) contexts: usize,
    pub(crate) lines: usize,
    pub(crate) targets_each: usize,
    pub(crate) guests: usize,
    /// Requests of one guest.
    pub(crate) requests: u64,
    /// Requests that a guest has in flight at most.
    pub(crate) depth: u64,
    /// Between two requests of a guest, in nanoseconds.
    pub(crate) think_ns: u64,
    /// Acts of the user.
    pub(crate) acts: u64,
    /// Between two acts, in nanoseconds.
    pub(crate) act_ns: u64,
    pub(crate) lags_one_in: Option<u64>,
    pub(crate) faults: FaultKinds,
    pub(crate) verbs: VerbKinds,
    /// Backups are made by bitmaps, again and again, and many are cancelled.
    pub(crate) is_about_chains: bool,
    /// Guests give up waiting for some of their requests.
    pub(crate) impatient: bool,
    /// Power fails after so many steps.
    pub(crate) power_fails_after: Option<u64>,
}

/// Which jobs there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JobKinds {
    /// Backups.
    Backup,
    /// Mirrors.
    Mirror,
    /// Any.
    #[default]
    All,
}

/// The faults that there are.
#[derive(Clone, Copy, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a set, each member of which is named"
)]
pub(crate) struct FaultKinds {
    pub(crate) at_sources: bool,
    pub(crate) at_targets: bool,
    pub(crate) errors: bool,
    pub(crate) bad_ranges: bool,
    pub(crate) death: bool,
    pub(crate) full: bool,
    pub(crate) stuck: bool,
    pub(crate) spikes: bool,
    pub(crate) flushes: bool,
}

/// What users do.
#[derive(Clone, Copy, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a set, each member of which is named"
)]
pub(crate) struct VerbKinds {
    pub(crate) pauses: bool,
    pub(crate) speeds: bool,
    pub(crate) cancels: bool,
    pub(crate) drains: bool,
    pub(crate) moves: bool,
    pub(crate) changes: bool,
    pub(crate) by_hand: bool,
}

impl Plan {
    pub(crate) fn draw(jobs: JobKinds, chance: &mut Chance) -> Self {
        let contexts = *chance.pick(&[1, 1, 2, 3]);
        let lines = *chance.pick(&[1, 1, 1, 2, 3]);
        let mut sometimes = |count| chance.one_in(count);
        let faulty = !sometimes(4);
        let faults = FaultKinds {
            at_sources: faulty && sometimes(3),
            at_targets: faulty && !sometimes(3),
            errors: sometimes(3),
            bad_ranges: sometimes(6),
            death: sometimes(8),
            full: sometimes(6),
            stuck: sometimes(5),
            spikes: sometimes(3),
            flushes: sometimes(3),
        };
        let verbs = VerbKinds {
            pauses: sometimes(2),
            speeds: sometimes(3),
            cancels: sometimes(3),
            drains: sometimes(3),
            moves: sometimes(3),
            changes: sometimes(2),
            by_hand: sometimes(3),
        };
        Self {
            jobs,
            contexts,
            lines,
            targets_each: *chance.pick(&[1, 1, 2]),
            guests: chance.index(8) + 1,
            requests: chance.scale(10, 150),
            depth: *chance.pick(&[1, 1, 1, 2, 4]),
            think_ns: chance.scale(1_000, 10_000_000),
            acts: chance.scale(3, 40),
            act_ns: chance.scale(100_000, 100_000_000),
            lags_one_in: chance.one_in(3).then(|| chance.scale(10, 1000)),
            faults,
            verbs,
            is_about_chains: jobs != JobKinds::Mirror && chance.one_in(5),
            impatient: chance.one_in(6),
            power_fails_after: chance.one_in(4).then(|| chance.scale(100, 50_000)),
        }
    }

    /// A disk, and whether the target of one this long.
    pub(crate) fn draw_len(chance: &mut Chance) -> u64 {
        let len = match chance.below(4) {
            0 => chance.scale(1 << 16, MIB),
            1 => MIB,
            _ => chance.scale(MIB / 2, 4 * MIB),
        };
        match chance.one_in(3) {
            true => len / CELL_BYTES * CELL_BYTES,
            false => len >> 12 << 12,
        }
    }

    pub(crate) fn draw_disk(len_bytes: u64, chance: &mut Chance) -> DiskOptions {
        let align = *chance.pick(&[1, 512, 512, 4096]);
        DiskOptions {
            limits: Limits {
                len_bytes,
                request_align_bytes: align,
                transfer_bytes_max: *chance.pick(&[64 << 10, 1 << 20, 16 << 20]),
                cluster_bytes: *chance.pick(&[None, None, Some(64 << 10), Some(128 << 10)]),
                read_only: false,
            },
            latency_ns: chance.scale(20_000, 3_000_000),
            scatter_x16: chance.between(4, 32),
            bytes_per_us: chance.scale(50, 5000),
            discards: *chance.pick(&[Discards::Nothing, Discards::Zero]),
            zeroes: *chance.pick(&[Zeroes::Supported, Zeroes::Supported, Zeroes::Unsupported]),
            stuck: *chance.pick(&[Stuck::UntilHealed, Stuck::UntilCancelled]),
        }
    }

    pub(crate) fn draw_faults(&self, len_bytes: u64, chance: &mut Chance) -> Faults {
        let kinds = self.faults;
        let mut faults = Faults::none(chance.fork());
        let mut sometimes = |is_there: bool| is_there && chance.one_in(2);
        let [errors, bad, death, full, stuck, spikes, flushes] = [
            kinds.errors,
            kinds.bad_ranges,
            kinds.death,
            kinds.full,
            kinds.stuck,
            kinds.spikes,
            kinds.flushes,
        ]
        .map(&mut sometimes);
        if errors {
            faults.fails_one_in = Some(chance.scale(5, 500));
        }
        if bad {
            let start = chance.below(len_bytes);
            let len = chance.scale(512, len_bytes / 2);
            faults.bad = Some(ByteRange::between(start, start + len));
        }
        if death {
            faults.dead = DEATHS[chance.index(DEATHS.len())];
        }
        if full {
            faults.capacity_blocks = Some(chance.scale(1, len_bytes / 4096 + 1));
        }
        if stuck {
            faults.stuck_one_in = Some(chance.scale(10, 300));
        }
        if spikes {
            faults.spike_one_in = Some(chance.scale(10, 300));
        }
        if flushes {
            let fault = *chance.pick(&[FlushFault::Once, FlushFault::Drops]);
            faults.flush = Some((chance.between(1, 3), fault));
        }
        faults
    }
}
