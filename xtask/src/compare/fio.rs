//! fio: as the client of exports, and as what a machine can do.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    process::{Running, pause},
    world::World,
};

/// How often it is looked whether a client has begun.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What fio is to do with an export.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// fio's word for it, such as `randread`.
    pub(super) access: &'static str,
    pub(super) block_kib: u64,
    pub(super) depth: u32,
    pub(super) connections: u32,
    /// At most so long.
    pub(super) seconds: u64,
}

/// What it found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Found {
    pub(super) iops: f64,
    pub(super) mib_per_s: f64,
    pub(super) p99_ms: f64,
    /// All that went one way or the other.
    pub(super) moved_mib: f64,
    /// The longest of the jobs, in seconds.
    pub(super) took_s: f64,
}

/// A request that has ended, and how long it took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    /// Since 1970.
    pub(super) at_ms: u64,
    pub(super) latency_ms: f64,
}

/// A client of an export that runs meanwhile and keeps a record of each write.
#[derive(Debug)]
pub(super) struct Client {
    running: Running,
    log: PathBuf,
}

/// Uses an export, and waits until that has been done.
pub(super) fn load(world: &World, uri: &str, load: &Load) -> Result<Found> {
    let mut command = client(uri, load);
    finish(world, &mut command)
}

/// Writes one in a hundred blocks of 64 KiB of an export of so many MiB.
pub(super) fn scatter(world: &World, uri: &str, len_mib: u64) -> Result<()> {
    let mut command = fio();
    command.args([
        "--name=scatter",
        "--ioengine=nbd",
        "--rw=randwrite",
        "--bs=64k",
    ]);
    command.args(["--iodepth=16", "--randseed=7"]);
    command.arg(format!("--uri={uri}"));
    command.arg(format!("--io_size={}", len_mib.div_ceil(100) << 20));
    finish(world, &mut command).map(drop)
}

/// Reads one file and writes the other as fast as the machine can.
pub(super) fn limit(world: &World, (source, target): (&Path, &Path)) -> Result<Found> {
    let mut command = fio();
    command.args([
        "--ioengine=io_uring",
        "--direct=1",
        "--bs=1M",
        "--iodepth=8",
    ]);
    command.args([
        "--fixedbufs=1",
        "--scramble_buffers=0",
        "--allow_file_create=0",
    ]);
    for (access, path) in [("read", source), ("write", target)] {
        command.arg(format!("--name={access}"));
        command.arg(format!("--rw={access}"));
        command.arg(format!("--filename={}", path.display()));
        command.arg(format!("--size={}M", world.scale.image_mib));
    }
    finish(world, &mut command)
}

/// All that it does is in one process, which can be ended.
fn fio() -> Command {
    let mut command = Command::new("fio");
    command.arg("--thread");
    command
}

fn client(uri: &str, load: &Load) -> Command {
    let mut command = fio();
    command.args([
        "--name=client",
        "--ioengine=nbd",
        "--time_based=1",
        "--group_reporting",
    ]);
    command.arg(format!("--rw={}", load.access));
    command.arg(format!("--uri={uri}"));
    command.arg(format!("--bs={}k", load.block_kib));
    command.arg(format!("--iodepth={}", load.depth));
    command.arg(format!("--numjobs={}", load.connections));
    command.arg(format!("--runtime={}", load.seconds));
    command
}

/// Starts it where its logs may lie, and reads what it found.
fn finish(world: &World, command: &mut Command) -> Result<Found> {
    let output = world.scratch().join("fio.json");
    command.current_dir(world.scratch());
    command
        .arg("--output-format=json")
        .arg(format!("--output={}", output.display()));
    Running::start(command, world.scratch())?.wait()?;
    parse(&fs::read_to_string(output)?)
}

impl Client {
    pub(super) fn start(world: &World, uri: &str, load: &Load) -> Result<Self> {
        let log = world.scratch().join("client");
        let mut command = client(uri, load);
        command.arg(format!("--write_lat_log={}", log.display()));
        command.args([
            "--log_unix_epoch=1",
            "--output-format=json",
            "--output=/dev/null",
        ]);
        command.current_dir(world.scratch());
        // It leaves a file with what that printed, just before it begins.
        command.arg("--exec_prerun=true");
        let begun = world.scratch().join("client.prerun.txt");
        drop(fs::remove_file(&begun));
        let mut running = Running::start(&mut command, world.scratch())?;
        while !begun.exists() {
            running.demand_alive()?;
            pause(LOOK_EVERY);
        }
        Ok(Self {
            running,
            log: log.with_file_name("client_lat.1.log"),
        })
    }

    /// Ends it; what it wrote, in order.
    pub(super) fn end(mut self) -> Result<Vec<Sample>> {
        self.running.demand_alive()?;
        self.running.interrupt()?;
        let log = fs::read_to_string(&self.log);
        let log = log.with_context(|| format!("fio left no {}", self.log.display()))?;
        drop(fs::remove_file(&self.log));
        Ok(samples(&log))
    }
}

/// The percentile of what so many samples took, in milliseconds.
pub(super) fn percentile_ms(samples: &[Sample], percent: usize) -> f64 {
    let times = samples.iter().map(|sample| sample.latency_ms);
    percentile(times.collect(), percent)
}

/// The percentile of some figures; the greatest where there are few.
pub(super) fn percentile(mut figures: Vec<f64>, percent: usize) -> f64 {
    figures.sort_by(f64::total_cmp);
    let at = (figures.len() * percent).div_ceil(100);
    figures.get(at.saturating_sub(1)).copied().unwrap_or(0.0)
}

/// Reads fio's JSON, which may have warnings before it.
fn parse(text: &str) -> Result<Found> {
    let start = text.find('{').context("fio gave no JSON")?;
    let whole: Value = serde_json::from_str(&text[start..]).context("fio gave odd JSON")?;
    let jobs = whole["jobs"].as_array().context("fio had no jobs")?;
    let mut found = Found::default();
    let sides = jobs.iter().flat_map(|job| [&job["read"], &job["write"]]);
    for side in sides {
        let number = |name: &str| side[name].as_f64().unwrap_or(0.0);
        found.iops += number("iops");
        found.moved_mib += number("io_bytes") / f64::from(1 << 20);
        found.took_s = found.took_s.max(number("runtime") / 1e3);
        let p99_ns = side["clat_ns"]["percentile"]["99.000000"].as_f64();
        found.p99_ms = found.p99_ms.max(p99_ns.unwrap_or(0.0) / 1e6);
    }
    if found.took_s > 0.0 {
        found.mib_per_s = found.moved_mib / found.took_s;
    }
    Ok(found)
}

/// Reads fio's log of latencies: milliseconds, nanoseconds, and more that we do not need.
fn samples(log: &str) -> Vec<Sample> {
    let sample = |line: &str| {
        let mut fields = line.split(", ");
        let at_ms = fields.next()?.trim().parse().ok()?;
        let latency = Duration::from_nanos(fields.next()?.trim().parse().ok()?);
        Some(Sample {
            at_ms,
            latency_ms: latency.as_secs_f64() * 1e3,
        })
    };
    log.lines().filter_map(sample).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = r#"fio: a warning
{"fio version": "fio-3.33", "jobs": [
  {"jobname": "read", "read": {"iops": 1000.5, "io_bytes": 4194304, "runtime": 2000,
     "clat_ns": {"percentile": {"99.000000": 1500000}}},
   "write": {"iops": 0.0, "io_bytes": 0, "runtime": 0, "clat_ns": {}}},
  {"jobname": "write", "read": {"iops": 0, "io_bytes": 0, "runtime": 0},
   "write": {"iops": 10, "io_bytes": 4194304, "runtime": 4000,
     "clat_ns": {"percentile": {"99.000000": 2500000}}}}
]}"#;

    #[test]
    fn what_fio_says_is_read() {
        let found = parse(OUTPUT).unwrap();
        let want = Found {
            iops: 1010.5,
            mib_per_s: 2.0,
            p99_ms: 2.5,
            moved_mib: 8.0,
            took_s: 4.0,
        };
        assert_eq!(found, want);
        assert!(parse("fio: no such engine").is_err());
    }

    #[test]
    fn logs_of_latencies_are_read() {
        let log = "1763740000001, 250000, 1, 4096, 0\n\n1763740000002, 1000000, 1, 4096, 8192, 3\n";
        let samples = samples(log);
        let latencies: Vec<f64> = samples.iter().map(|it| it.latency_ms).collect();
        assert_eq!(latencies, [0.25, 1.0]);
        assert_eq!(samples[1].at_ms, 1_763_740_000_002);
        assert_eq!(percentile_ms(&samples, 99), 1.0);
        assert_eq!(percentile_ms(&samples, 50), 0.25);
        assert_eq!(percentile_ms(&[], 99), 0.0);
    }
}
