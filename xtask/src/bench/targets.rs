//! The figures that the event loop and the jobs are to reach.

/// One bound.
#[derive(Debug)]
pub(super) struct Target {
    /// Its number among the targets.
    pub(super) id: &'static str,
    /// The race with our side and, for a ratio, the peer.
    pub(super) name: &'static str,
    pub(super) measure: Measure,
    /// Of the median.
    pub(super) at_most: f64,
}

/// What of a race is bounded.
#[derive(Debug, Clone, Copy)]
pub(super) enum Measure {
    /// The ratio of times. A share of the limit's speed is one over it.
    Time,
    /// The ratio of processor times.
    Cpu,
    /// Our figure.
    Figure,
    /// Its processor time: where nothing ever waits, and others only get in the way.
    CpuFigure,
}

const fn time(id: &'static str, name: &'static str, at_most: f64) -> Target {
    let measure = Measure::Time;
    Target {
        id,
        name,
        measure,
        at_most,
    }
}

const fn cpu(id: &'static str, name: &'static str, at_most: f64) -> Target {
    let measure = Measure::Cpu;
    Target {
        id,
        name,
        measure,
        at_most,
    }
}

const fn figure(id: &'static str, name: &'static str, at_most: f64) -> Target {
    let measure = Measure::Figure;
    Target {
        id,
        name,
        measure,
        at_most,
    }
}

const fn cpu_figure(id: &'static str, name: &'static str, at_most: f64) -> Target {
    let measure = Measure::CpuFigure;
    Target {
        id,
        name,
        measure,
        at_most,
    }
}

pub(super) const TARGETS: [Target; 52] = [
    time("L1", "disk_read/disk/io_uring/aio/raw_ring", 1.0 / 0.98),
    cpu("L1", "disk_read/disk/io_uring/aio/raw_ring", 1.1),
    time("L1", "disk_read/tmpfs/io_uring/aio/raw_ring", 1.0 / 0.95),
    time("L2", "node/raw_over_file/raw_over_file/aio", 1.0 / 0.93),
    time("L2", "node/raw_over_file/raw_over_file/qemu_img", 1.0 / 1.4),
    cpu_figure("L3", "yield/1/task", 15.0),
    cpu_figure("L3", "yield/100/task", 15.0),
    cpu_figure("L3", "bottom_half/100/bottom_half", 20.0),
    figure("L4", "post/bottom_half/bottom_half", 25.0),
    time("L4", "round_trip/two_cpus/io_uring/loops/msg_ring", 1.08),
    figure("L4", "round_trip/polling_50us/loops", 1000.0),
    cpu_figure("L5", "timer/churn_100k/sleep", 45.0),
    cpu_figure("L5", "timer/churn_1m/sleep", 150.0),
    time("L6", "readiness/10_of_100/handlers/epoll_edge", 0.6),
    time("L6", "readiness/1_of_1/handlers/epoll_edge", 0.75),
    figure("L7", "system_calls/tmpfs/enters_per_read", 0.05),
    figure("L7", "system_calls/disk/enters_per_read", 0.05),
    figure("L7", "system_calls/tmpfs/punts_per_read", 0.0),
    figure("L7", "system_calls/disk/punts_per_read", 0.0),
    figure("L8", "idle/io_uring/turns", 0.0),
    // What telling the time twice costs, and not a wake-up.
    figure("L8", "idle/io_uring/cpu", 50.0),
    figure("L8", "idle/epoll/turns", 0.0),
    figure("L8", "idle/epoll/cpu", 50.0),
    time("L9", "copy/disk/aio/raw_ring", 1.0 / 0.97),
    cpu("L9", "copy/disk/aio/raw_ring", 1.25),
    time("L10", "disk_read/disk/epoll/aio/aio_on_io_uring", 1.0 / 0.8),
    cpu("L10", "disk_read/disk/epoll/aio/aio_on_io_uring", 5.0),
    figure("L11", "drop_in_flight/aio", 0.0),
    time("J1", "jobs/copies/disk/wall/ours/qsd_direct", 0.7),
    time("J1", "jobs/copies/disk/wall/ours/raw_ring", 1.0 / 0.95),
    time("J1", "jobs/copies/disk/cpu/ours/qsd_direct", 0.1),
    time("J1", "jobs/copies/disk_mirror/wall/ours/qsd_direct", 0.7),
    time("J1", "jobs/copies/disk_mirror/cpu/ours/qsd_direct", 0.1),
    time("J2", "jobs/copies/tmpfs/wall/ours/qsd_defaults", 0.6),
    time("J2", "jobs/copies/tmpfs/cpu/ours/qsd_defaults", 0.6),
    time("J2", "jobs/copies/tmpfs/wall/ours_on_two/qsd_defaults", 0.4),
    time("J2", "jobs/copies/tmpfs_mirror/wall/ours/qsd_defaults", 0.6),
    time("J3", "jobs/copies/sparse/wall/ours/qsd_direct", 0.5),
    figure("J3", "jobs/copies/holes/wall/ours", 1.0),
    time("J5", "jobs/writers/1/backup/time_per_write/ours/qsd", 0.01),
    figure("J5", "jobs/writers/1/backup/added_p99/ours", 2.0),
    time("J5", "jobs/writers/1/backup/wall/ours/qsd", 1.0),
    time(
        "J6",
        "jobs/writers/16/backup/time_per_write/ours/alone",
        2.0,
    ),
    time(
        "J6",
        "jobs/writers/16/background/time_per_write/ours/alone",
        2.0,
    ),
    // Both sides are on one disk, which has to write all of it twice.
    time(
        "J6",
        "jobs/writers/16/write_blocking/time_per_write/ours/alone",
        2.5,
    ),
    time(
        "J7",
        "jobs/writers/16/background/wall/ours_converging/quiet",
        3.0,
    ),
    time("J8", "jobs/copies/incremental/wall/ours/qsd_iothread", 0.7),
    time("J9", "jobs/latency/pause_p99/ours/qsd_iothread", 0.5),
    time("J9", "jobs/latency/cancel_p99/ours/qsd_iothread", 0.5),
    // Eleven bytes for each of 90,000 jobs would be a leak; the allocator's own moods are less.
    figure("J10", "jobs/many/long/growth_kib", 1024.0),
    time("J11", "jobs/copies/disk/peak/ours/qsd_direct", 0.5),
    time("J11", "jobs/copies/disk_mirror/peak/ours/qsd_direct", 0.5),
];
