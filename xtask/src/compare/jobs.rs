//! Turns about jobs: how soon they pause and end, and what many of them take.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{
    cases::{Image, Job, Measure, Place, Side},
    daemon::{Cache, Daemon, JOB, Told},
    fio::percentile,
    process::pause,
    turn::Turn,
    world::World,
};

/// So many backups are paused and cancelled in a turn, or as many as begin in so long a time.
const CYCLES: u64 = 20;
const CYCLES_MAX: Duration = Duration::from_secs(6);
/// A backup runs this long before it is paused or cancelled, and a part more: long enough for its requests to be as
/// many as they will be.
const RUN: Duration = Duration::from_millis(50);
const RUN_MORE_MS: u64 = 60;
/// It stays paused for so long.
const STAY: Duration = Duration::from_millis(5);
/// How long many jobs may take.
const JOBS_MAX: Duration = Duration::from_secs(120);

/// Milliseconds from a command until what it asks for has been told.
#[derive(Debug, Default)]
struct Latencies {
    pauses: Vec<f64>,
    cancels: Vec<f64>,
}

/// Pauses and cancels backups at full speed.
pub(super) fn latency(world: &World, place: Place, side: Side) -> Result<Turn> {
    let mut daemon = Daemon::start(world, side)?;
    daemon.open("source", &world.source(place, Image::Full)?, Cache::Direct)?;
    daemon.open("target", &world.target(place, Image::Full)?, Cache::Direct)?;
    let (mut found, start) = (Latencies::default(), Instant::now());
    for number in 0..CYCLES {
        if start.elapsed() < CYCLES_MAX {
            cycle(&mut daemon, number, &mut found)?;
        }
    }
    let mut turn = Turn::default();
    let verbs = [
        (found.pauses, (Measure::PauseP50, Measure::PauseP99)),
        (found.cancels, (Measure::CancelP50, Measure::CancelP99)),
    ];
    for (times, (middle, worst)) in verbs {
        ensure!(!times.is_empty(), "all copies had ended before");
        turn.set(middle, percentile(times.clone(), 50));
        turn.set(worst, percentile(times, 99));
    }
    daemon.quit()?;
    Ok(turn)
}

/// One backup. Nothing is asked before a verb: an answer would show that the daemon is listening just now.
fn cycle(daemon: &mut Daemon, number: u64, found: &mut Latencies) -> Result<()> {
    // Not always at the same point of the copy.
    let run = |salt: u64| pause(RUN + Duration::from_millis((number * 37 + salt) % RUN_MORE_MS));
    daemon.begin(Job::Backup)?;
    run(0);
    let paused = daemon.timed("job-pause", json!({"id": JOB}), "paused")?;
    found.pauses.extend(paused.ms());
    if matches!(paused, Told::InTime(_)) {
        pause(STAY);
        daemon.timed("job-resume", json!({"id": JOB}), "running")?;
        run(19);
        let force = json!({"device": JOB, "force": true});
        let cancelled = daemon.timed("block-job-cancel", force, "concluded")?;
        found.cancels.extend(cancelled.ms());
    }
    daemon.until_no_jobs()
}

/// Has so many backups run at once, each of an image of its own to another; the source is one file.
pub(super) fn crowd(world: &World, place: Place, side: Side) -> Result<Turn> {
    let source = world.source(place, Image::Small)?;
    let mut daemon = Daemon::start(world, side)?;
    let count = world.scale.crowd;
    for number in 0..count {
        let target = world.numbered_target(place, Image::Small, number)?;
        daemon.open_to_read(&format!("source{number}"), &source)?;
        daemon.open(&format!("target{number}"), &target, Cache::Direct)?;
    }
    let (start, cpu) = (Instant::now(), daemon.running.cpu());
    for number in 0..count {
        let nodes = (&*format!("source{number}"), &*format!("target{number}"));
        daemon.send_backup(&format!("job{number}"), nodes)?;
    }
    daemon.until_ended(count, JOBS_MAX)?;
    let moved_mib = (world.scale.data_mib(Image::Small) * count) as f64;
    let mut turn = Turn::default();
    turn.set_copy(start.elapsed(), moved_mib);
    turn.set_cpu(daemon.running.cpu() - cpu, moved_mib);
    turn.set_peak(&mut daemon.running);
    daemon.quit()?;
    Ok(turn)
}

/// Runs many small backups, one after the other.
pub(super) fn queue(world: &World, place: Place, side: Side) -> Result<Turn> {
    let mut daemon = Daemon::start(world, side)?;
    daemon.open_to_read("source", &world.source(place, Image::Tiny)?)?;
    daemon.open("target", &world.target(place, Image::Tiny)?, Cache::Direct)?;
    let count = world.scale.queue;
    let (start, cpu) = (Instant::now(), daemon.running.cpu());
    let mut early_kib = None;
    for number in 0..count {
        daemon.send_backup(JOB, ("source", "target"))?;
        daemon.until_ended(1, JOBS_MAX)?;
        if number == count / 10 {
            early_kib = daemon.running.status_kib("VmRSS:");
        }
    }
    let mut turn = Turn::default();
    turn.set(Measure::Wall, start.elapsed().as_secs_f64());
    let used = daemon.running.cpu() - cpu;
    turn.set(Measure::CpuOfJob, used.as_secs_f64() * 1e3 / count as f64);
    turn.set_peak(&mut daemon.running);
    let late_kib = daemon.running.status_kib("VmRSS:");
    let (early, late) = early_kib.zip(late_kib).context("the daemon has gone")?;
    turn.set(Measure::Growth, late.saturating_sub(early) as f64 / 1024.0);
    daemon.quit()?;
    Ok(turn)
}
