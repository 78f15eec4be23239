//! The cases: what is done, by whom, and which figures are to be reached.

use std::fmt;

/// One thing that several programs do in turns.
#[derive(Debug)]
pub(super) struct Case {
    /// Its number among the targets.
    pub(super) target: &'static str,
    pub(super) name: &'static str,
    pub(super) place: Place,
    pub(super) work: Work,
    /// Ours first.
    pub(super) sides: &'static [Side],
    pub(super) bounds: &'static [Bound],
}

/// Where the images are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Disk,
    Memory,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    /// Copies an image while nobody uses it.
    Copy(Job, Image),
    /// Copies an image to which a client writes 4 KiB at random places, so many at a time.
    Guest(Job, u32),
    /// Serves a client that reads or writes at random places.
    Random {
        access: Access,
        depth: u32,
        connections: u32,
    },
    /// Serves so many connections that read 256 KiB after 256 KiB, sixteen at a time.
    Sequential(u32),
    /// Serves `nbdcopy`, which reads all.
    ReadAll(u32),
    /// Starts, and does nothing.
    Start,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Job {
    Backup,
    /// A backup of one piece of 64 KiB in a hundred, as a bitmap says.
    Incremental,
    Mirror,
    MirrorWriteBlocking,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Image {
    /// Random bytes all over.
    Full,
    /// A thirty-second of it is data, in pieces of 1 MiB.
    Sparse,
    /// No data at all.
    Holes,
}

/// A program, and how it is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    Longshore,
    /// The reference past the page cache, by `io_uring`.
    Qsd,
    /// The same, with its export and its jobs on a thread apart from that of its monitor.
    QsdIothread,
    /// As [`QsdIothread`](Self::QsdIothread), and its backup has one worker.
    QsdOneWorker,
    /// The reference as it comes: through the page cache, by threads.
    QsdDefaults,
    QemuImg,
    QemuNbd,
    Nbdkit,
    Dd,
    /// The simplest that does nothing else: fio reads one file and writes the other.
    Limit,
}

impl Side {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Longshore => "longshore",
            Self::Qsd => "qsd",
            Self::QsdIothread => "qsd, iothread",
            Self::QsdOneWorker => "qsd, 1 worker",
            Self::QsdDefaults => "qsd, defaults",
            Self::QemuImg => "qemu-img",
            Self::QemuNbd => "qemu-nbd",
            Self::Nbdkit => "nbdkit",
            Self::Dd => "dd",
            Self::Limit => "limit",
        }
    }

    /// The program of others that it is, if it is one.
    pub(super) fn program(self) -> Option<&'static str> {
        match self {
            Self::Longshore => None,
            Self::Qsd | Self::QsdIothread | Self::QsdOneWorker | Self::QsdDefaults => {
                Some("qemu-storage-daemon")
            }
            Self::QemuImg => Some("qemu-img"),
            Self::QemuNbd => Some("qemu-nbd"),
            Self::Nbdkit => Some("nbdkit"),
            Self::Dd => Some("dd"),
            Self::Limit => Some("fio"),
        }
    }
}

impl Work {
    /// The program of others that all sides need.
    pub(super) fn program(self) -> Option<&'static str> {
        match self {
            Self::Copy(Job::Incremental, _) => Some("fio"),
            Self::Copy(..) | Self::Start => None,
            Self::Guest(..) | Self::Random { .. } | Self::Sequential(_) => Some("fio"),
            Self::ReadAll(_) => Some("nbdcopy"),
        }
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Measure {
    Wall,
    Rate,
    Iops,
    IopsAlone,
    /// How many requests a second there are, as a share of those there are without a copy.
    IopsKept,
    P99,
    AddedP99,
    Cpu,
    Peak,
    Startup,
    Idle,
    Binary,
}

impl Measure {
    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::Wall => "s",
            Self::Rate => "MiB/s",
            Self::Iops | Self::IopsAlone => "/s",
            Self::IopsKept => "",
            Self::P99 | Self::AddedP99 | Self::Startup => "ms",
            Self::Cpu => "s/GiB",
            Self::Peak | Self::Idle | Self::Binary => "MiB",
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wall => "wall time",
            Self::Rate => "throughput",
            Self::Iops => "requests",
            Self::IopsAlone => "requests without a copy",
            Self::IopsKept => "share of them kept",
            Self::P99 => "p99",
            Self::AddedP99 => "p99 more than without a copy",
            Self::Cpu => "CPU",
            Self::Peak => "peak memory",
            Self::Startup => "start to greeting",
            Self::Idle => "idle memory",
            Self::Binary => "program without symbols",
        })
    }
}

/// What is to be reached: of our figure over that of `peer`, or of ours alone.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) measure: Measure,
    pub(super) peer: Option<Side>,
    pub(super) within: Within,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Within {
    AtMost(f64),
    AtLeast(f64),
}

impl Within {
    pub(super) fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }
}

impl fmt::Display for Within {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "≤ {most}"),
            Self::AtLeast(least) => write!(f, "≥ {least}"),
        }
    }
}

const fn at_most(measure: Measure, peer: Side, most: f64) -> Bound {
    Bound {
        measure,
        peer: Some(peer),
        within: Within::AtMost(most),
    }
}

const fn at_least(measure: Measure, peer: Side, least: f64) -> Bound {
    Bound {
        measure,
        peer: Some(peer),
        within: Within::AtLeast(least),
    }
}

const fn ours(measure: Measure, within: Within) -> Bound {
    Bound {
        measure,
        peer: None,
        within,
    }
}

const COPY_BOUNDS: &[Bound] = &[
    at_most(Measure::Wall, Side::Qsd, 0.7),
    at_least(Measure::Rate, Side::Limit, 0.95),
    at_most(Measure::Cpu, Side::Qsd, 0.1),
    at_most(Measure::Peak, Side::Qsd, 0.5),
];
const COPY_MEMORY_BOUNDS: &[Bound] = &[
    at_most(Measure::Wall, Side::Qsd, 0.6),
    at_most(Measure::Cpu, Side::Qsd, 0.6),
];
const COPIERS: &[Side] = &[
    Side::Longshore,
    Side::Qsd,
    Side::QsdDefaults,
    Side::QemuImg,
    Side::Dd,
    Side::Limit,
];
const DAEMONS: &[Side] = &[Side::Longshore, Side::Qsd];
const GUEST_HOSTS: &[Side] = &[Side::Longshore, Side::Qsd, Side::QsdIothread];
const BACKUP_HOSTS: &[Side] = &[
    Side::Longshore,
    Side::Qsd,
    Side::QsdIothread,
    Side::QsdOneWorker,
];
const SERVERS: &[Side] = &[
    Side::Longshore,
    Side::QsdDefaults,
    Side::QsdIothread,
    Side::QemuNbd,
    Side::Nbdkit,
];
const RANDOM_BOUNDS: &[Bound] = &[
    at_least(Measure::Iops, Side::QsdDefaults, 2.0),
    at_least(Measure::Iops, Side::Nbdkit, 1.0),
];
const STREAM_BOUNDS: &[Bound] = &[
    at_least(Measure::Rate, Side::QsdDefaults, 2.0),
    at_least(Measure::Rate, Side::Nbdkit, 1.0),
    at_most(Measure::Cpu, Side::QsdDefaults, 0.7),
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
        sides: COPIERS,
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
        sides: &[Side::Longshore, Side::Qsd, Side::QemuImg],
        bounds,
    }
}

const fn guest(name: &'static str, (job, depth): (Job, u32), bounds: &'static [Bound]) -> Case {
    let sides = match job {
        Job::Backup => BACKUP_HOSTS,
        Job::Incremental | Job::Mirror | Job::MirrorWriteBlocking => GUEST_HOSTS,
    };
    Case {
        target: if depth == 1 { "J5" } else { "J6" },
        name,
        place: Place::Disk,
        work: Work::Guest(job, depth),
        sides,
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
        sides: SERVERS,
        bounds: RANDOM_BOUNDS,
    }
}

const fn stream(name: &'static str, work: Work, bounds: &'static [Bound]) -> Case {
    Case {
        target: "E2",
        name,
        place: Place::Memory,
        work,
        sides: SERVERS,
        bounds,
    }
}

/// All of them, in the order in which they run.
pub(super) const CASES: &[Case] = &[
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
        &[ours(Measure::IopsKept, Within::AtLeast(0.5))],
    ),
    guest(
        "guest/16/write_blocking",
        (Job::MirrorWriteBlocking, 16),
        &[],
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
];
