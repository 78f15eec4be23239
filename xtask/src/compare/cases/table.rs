//! The table of cases: who takes part, and which figures are to be reached.

use super::{Access, Bound, Case, Image, Job, Measure, Place, Side, Within, Work};

const fn at_most(measure: Measure, peer: Side, most: f64) -> Bound {
    Bound {
        target: None,
        measure,
        peer: Some(peer),
        within: Within::AtMost(most),
    }
}

const fn at_least(measure: Measure, peer: Side, least: f64) -> Bound {
    Bound {
        target: None,
        measure,
        peer: Some(peer),
        within: Within::AtLeast(least),
    }
}

const fn ours(measure: Measure, within: Within) -> Bound {
    Bound {
        target: None,
        measure,
        peer: None,
        within,
    }
}

/// A bound of another target than its case.
const fn of(target: &'static str, bound: Bound) -> Bound {
    Bound {
        target: Some(target),
        ..bound
    }
}

const COPY_BOUNDS: &[Bound] = &[
    at_most(Measure::Wall, Side::Qsd, 0.7),
    at_least(Measure::Rate, Side::Limit, 0.95),
    at_most(Measure::Cpu, Side::Qsd, 0.1),
    of("J11", at_most(Measure::Peak, Side::Qsd, 0.5)),
];
const COPY_MEMORY_BOUNDS: &[Bound] = &[
    at_most(Measure::Wall, Side::Qsd, 0.6),
    at_most(Measure::Cpu, Side::Qsd, 0.6),
];
/// Tools copy once; a mirror is no other work for them.
const COPIERS: &[Side] = &[
    Side::Longshore,
    Side::Qsd,
    Side::QsdDefaults,
    Side::QemuImg,
    Side::Dd,
    Side::Limit,
];
const MIRRORS: &[Side] = &[Side::Longshore, Side::Qsd, Side::QsdDefaults, Side::Limit];
const DAEMONS: &[Side] = &[Side::Longshore, Side::Qsd];
const SERVERS: &[Side] = &[
    Side::Longshore,
    Side::QsdDefaults,
    Side::QsdIothread,
    Side::Nbdkit,
];
/// `qemu-nbd` is named by no target, and shows once how it does.
const SERVERS_AND_QEMU_NBD: &[Side] = &[
    Side::Longshore,
    Side::QsdDefaults,
    Side::QsdIothread,
    Side::QemuNbd,
    Side::Nbdkit,
];
const STREAMERS: &[Side] = &[Side::Longshore, Side::QsdDefaults, Side::Nbdkit];
const RANDOM_BOUNDS: &[Bound] = &[
    at_least(Measure::Iops, Side::QsdDefaults, 2.0),
    at_least(Measure::Iops, Side::Nbdkit, 1.0),
];
const STREAM_BOUNDS: &[Bound] = &[
    at_least(Measure::Rate, Side::QsdDefaults, 2.0),
    at_least(Measure::Rate, Side::Nbdkit, 1.0),
    at_most(Measure::Cpu, Side::QsdDefaults, 0.7),
];
const JOBS_BOUNDS: &[Bound] = &[
    at_most(Measure::Wall, Side::Qsd, 0.5),
    at_most(Measure::Peak, Side::Qsd, 0.5),
    ours(Measure::Growth, Within::AtMost(1.0)),
];
const READ_ALL_BOUNDS: &[Bound] = &[
    at_least(Measure::Rate, Side::QsdDefaults, 1.0),
    at_least(Measure::Rate, Side::Nbdkit, 1.0),
    at_most(Measure::Cpu, Side::QsdDefaults, 0.7),
];

const fn copy(name: &'static str, target: &'static str, job: Job) -> Case {
    Case {
        target,
        name,
        place: Place::Disk,
        work: Work::Copy(job, Image::Full),
        sides: match job {
            Job::Backup | Job::Incremental => COPIERS,
            Job::Mirror | Job::MirrorWriteBlocking => MIRRORS,
        },
        bounds: COPY_BOUNDS,
    }
}

const fn in_memory(case: Case) -> Case {
    Case {
        place: Place::Memory,
        bounds: COPY_MEMORY_BOUNDS,
        ..case
    }
}

/// A mirror, since the backup of the reference allocates what it zeroes.
const fn sparse(name: &'static str, image: Image, bounds: &'static [Bound]) -> Case {
    Case {
        target: "J3",
        name,
        place: Place::Disk,
        work: Work::Copy(Job::Mirror, image),
        sides: DAEMONS,
        bounds,
    }
}

const fn guest(name: &'static str, (job, depth): (Job, u32), bounds: &'static [Bound]) -> Case {
    Case {
        target: if depth == 1 { "J5" } else { "J6" },
        name,
        place: Place::Disk,
        work: Work::Guest(job, depth),
        sides: if depth == 1 {
            &[Side::Longshore, Side::Qsd, Side::QsdOneWorker]
        } else {
            DAEMONS
        },
        bounds,
    }
}

const fn random(name: &'static str, access: Access, depth: u32, connections: u32) -> Case {
    Case {
        target: "E1",
        name,
        place: Place::Memory,
        work: Work::Random {
            access,
            depth,
            connections,
        },
        sides: if depth == 16 && connections == 1 {
            SERVERS_AND_QEMU_NBD
        } else {
            SERVERS
        },
        bounds: RANDOM_BOUNDS,
    }
}

const fn stream(name: &'static str, work: Work, bounds: &'static [Bound]) -> Case {
    Case {
        target: "E2",
        name,
        place: Place::Memory,
        work,
        sides: STREAMERS,
        bounds,
    }
}

const fn jobs(name: &'static str, work: Work) -> Case {
    Case {
        target: "J10",
        name,
        place: Place::Memory,
        work,
        sides: DAEMONS,
        bounds: JOBS_BOUNDS,
    }
}

/// All of them, in the order in which they run.
pub(in crate::compare) const CASES: &[Case] = &[
    Case {
        target: "E3",
        name: "start",
        place: Place::Memory,
        work: Work::Start,
        sides: DAEMONS,
        bounds: &[
            at_most(Measure::Startup, Side::Qsd, 0.5),
            at_most(Measure::Idle, Side::Qsd, 0.7),
        ],
    },
    copy("copy/disk/backup", "J1", Job::Backup),
    copy("copy/disk/mirror", "J1", Job::Mirror),
    in_memory(copy("copy/memory/backup", "J2", Job::Backup)),
    in_memory(copy("copy/memory/mirror", "J2", Job::Mirror)),
    sparse(
        "copy/sparse",
        Image::Sparse,
        &[at_most(Measure::Wall, Side::Qsd, 0.5)],
    ),
    sparse(
        "copy/holes",
        Image::Holes,
        &[ours(Measure::Wall, Within::AtMost(1.0))],
    ),
    Case {
        target: "J8",
        name: "copy/incremental",
        place: Place::Disk,
        work: Work::Copy(Job::Incremental, Image::Full),
        sides: DAEMONS,
        bounds: &[at_most(Measure::Wall, Side::Qsd, 0.7)],
    },
    Case {
        target: "J4",
        name: "copy/reflink",
        place: Place::Disk,
        work: Work::Reflink,
        sides: DAEMONS,
        bounds: &[ours(Measure::Wall, Within::AtMost(0.1))],
    },
    Case {
        target: "J9",
        name: "jobs/latency",
        place: Place::Disk,
        work: Work::Latency,
        sides: DAEMONS,
        bounds: &[
            at_most(Measure::PauseP99, Side::Qsd, 0.5),
            at_most(Measure::CancelP99, Side::Qsd, 0.5),
        ],
    },
    guest(
        "guest/1/backup",
        (Job::Backup, 1),
        &[
            at_least(Measure::Iops, Side::Qsd, 100.0),
            ours(Measure::AddedP99, Within::AtMost(2.0)),
            at_most(Measure::Wall, Side::Qsd, 1.0),
        ],
    ),
    guest(
        "guest/16/backup",
        (Job::Backup, 16),
        &[ours(Measure::IopsKept, Within::AtLeast(0.5))],
    ),
    guest(
        "guest/16/mirror",
        (Job::Mirror, 16),
        &[
            ours(Measure::IopsKept, Within::AtLeast(0.5)),
            of("J7", ours(Measure::Slowdown, Within::AtMost(3.0))),
        ],
    ),
    guest(
        "guest/16/write_blocking",
        (Job::MirrorWriteBlocking, 16),
        // Each write goes to two images on one disk: 0.8 of half.
        &[
            ours(Measure::IopsKept, Within::AtLeast(0.4)),
            of("J7", ours(Measure::Slowdown, Within::AtMost(3.0))),
        ],
    ),
    random("serve/read/1", Access::Read, 1, 1),
    random("serve/read/16", Access::Read, 16, 1),
    random("serve/read/64", Access::Read, 64, 1),
    random("serve/read/16x4", Access::Read, 16, 4),
    random("serve/write/1", Access::Write, 1, 1),
    random("serve/write/16", Access::Write, 16, 1),
    random("serve/write/64", Access::Write, 64, 1),
    random("serve/write/16x4", Access::Write, 16, 4),
    stream("serve/stream/1", Work::Sequential(1), STREAM_BOUNDS),
    stream("serve/stream/4", Work::Sequential(4), STREAM_BOUNDS),
    stream("serve/nbdcopy/1", Work::ReadAll(1), READ_ALL_BOUNDS),
    stream("serve/nbdcopy/4", Work::ReadAll(4), READ_ALL_BOUNDS),
    // Last, when the memory is free of other images.
    jobs("jobs/one_by_one", Work::Queue),
    jobs("jobs/at_once", Work::Crowd),
];
