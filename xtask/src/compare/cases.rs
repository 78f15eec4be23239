//! What a case is: what is done, by whom, and which figures are to be reached.

mod table;

use std::fmt;

pub(super) use table::CASES;

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
    /// Copies an image to a file that can share its blocks.
    Reflink,
    /// Pauses and cancels backups.
    Latency,
    /// Many backups at once.
    Crowd,
    /// Very many small backups, one after the other.
    Queue,
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
    /// Random bytes, of which one of many jobs copies all.
    Small,
    /// The same for very many jobs.
    Tiny,
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

impl Image {
    pub(super) const ALL: [Self; 5] = [
        Self::Full,
        Self::Sparse,
        Self::Holes,
        Self::Small,
        Self::Tiny,
    ];

    /// Whether all of it is data; a target then has its blocks already.
    pub(super) fn is_full(self) -> bool {
        !matches!(self, Self::Sparse | Self::Holes)
    }
}

impl Work {
    /// What is copied or served.
    pub(super) fn image(self) -> Option<Image> {
        match self {
            Self::Copy(_, image) => Some(image),
            Self::Guest(..)
            | Self::Random { .. }
            | Self::Sequential(_)
            | Self::ReadAll(_)
            | Self::Reflink
            | Self::Latency => Some(Image::Full),
            Self::Crowd => Some(Image::Small),
            Self::Queue => Some(Image::Tiny),
            Self::Start => None,
        }
    }

    /// Whether it writes an image to another.
    pub(super) fn has_target(self) -> bool {
        match self {
            Self::Copy(..) | Self::Guest(..) | Self::Reflink | Self::Latency | Self::Queue => true,
            // It makes more than one.
            Self::Crowd => false,
            Self::Random { .. } | Self::Sequential(_) | Self::ReadAll(_) | Self::Start => false,
        }
    }

    /// Whether the first turn of a side differs from the others.
    pub(super) fn needs_warm_up(self) -> bool {
        !matches!(self, Self::Start)
    }

    /// The program of others that all sides need.
    pub(super) fn program(self) -> Option<&'static str> {
        match self {
            Self::Copy(Job::Incremental, _) => Some("fio"),
            Self::Copy(..)
            | Self::Reflink
            | Self::Latency
            | Self::Crowd
            | Self::Queue
            | Self::Start => None,
            Self::Guest(..) | Self::Random { .. } | Self::Sequential(_) => Some("fio"),
            Self::ReadAll(_) => Some("nbdcopy"),
        }
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Measure {
    Wall,
    /// The wall time of the same copy without a client.
    Quiet,
    /// How many times as long a copy takes beside a client.
    Slowdown,
    Rate,
    Iops,
    IopsAlone,
    /// How many requests a second there are, as a share of those there are without a copy.
    IopsKept,
    P99,
    AddedP99,
    PauseP50,
    PauseP99,
    CancelP50,
    CancelP99,
    Cpu,
    CpuOfJob,
    Peak,
    Growth,
    Startup,
    Idle,
    Binary,
}

impl Measure {
    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::Wall | Self::Quiet => "s",
            Self::Rate => "MiB/s",
            Self::Iops | Self::IopsAlone => "/s",
            Self::IopsKept | Self::Slowdown => "",
            Self::P99 | Self::AddedP99 | Self::Startup | Self::CpuOfJob => "ms",
            Self::PauseP50 | Self::PauseP99 | Self::CancelP50 | Self::CancelP99 => "ms",
            Self::Cpu => "s/GiB",
            Self::Peak | Self::Growth | Self::Idle | Self::Binary => "MiB",
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wall => "wall time",
            Self::Quiet => "wall time without a client",
            Self::Slowdown => "wall time over that without a client",
            Self::Rate => "throughput",
            Self::Iops => "requests",
            Self::IopsAlone => "requests without a copy",
            Self::IopsKept => "share of them kept",
            Self::P99 => "p99",
            Self::AddedP99 => "p99 more than without a copy",
            Self::PauseP50 => "time to pause",
            Self::PauseP99 => "time to pause, p99",
            Self::CancelP50 => "time to cancel",
            Self::CancelP99 => "time to cancel, p99",
            Self::Cpu => "CPU",
            Self::CpuOfJob => "CPU of a job",
            Self::Peak => "peak memory",
            Self::Growth => "memory more than after a tenth",
            Self::Startup => "start to greeting",
            Self::Idle => "idle memory",
            Self::Binary => "program without symbols",
        })
    }
}

/// What is to be reached: of our figure over that of `peer`, or of ours alone.
#[derive(Debug)]
pub(super) struct Bound {
    /// Its number among the targets, where it is not that of the case.
    pub(super) target: Option<&'static str>,
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
