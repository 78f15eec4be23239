//! One turn: a side does the work of a case once, and what that took is measured.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::net::UnixStream,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};

use super::{
    cases::{Access, Case, Image, Job, Measure, Place, Side, Work},
    daemon::{Cache, Daemon, End, uri},
    fio::{self, Client, Found, Load, Sample},
    jobs,
    process::{Running, ended_children_cpu, pause},
    world::World,
};

/// How long a server may take to listen.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// How long a client writes before the copy begins, and how long a daemon is left alone before it is idle.
const SETTLED_AFTER: Duration = Duration::from_millis(500);
/// A mirror that takes so many times as long beside a client as without one is given up, a little later.
const SLOWDOWN_MAX: u32 = 3;
const SLACK: Duration = Duration::from_secs(1);
/// A copy that nobody disturbs.
const COPY_MAX: Duration = Duration::from_secs(120);
const MIB_PER_GIB: f64 = 1024.0;
const KIB_PER_MIB: f64 = 1024.0;

/// What was found.
#[derive(Clone, Debug, Default)]
pub(super) struct Turn {
    pub(super) figures: BTreeMap<Measure, f64>,
    /// Writes of a client during a copy: seconds since that began, and milliseconds that they took.
    pub(super) trace: Vec<(f64, f64)>,
    /// Whether the copy had to be given up.
    pub(super) is_given_up: bool,
}

impl Turn {
    pub(super) fn set(&mut self, measure: Measure, value: f64) {
        self.figures.insert(measure, value);
    }

    pub(super) fn set_cpu(&mut self, cpu: Duration, moved_mib: f64) {
        if moved_mib > 0.0 {
            self.set(Measure::Cpu, cpu.as_secs_f64() / (moved_mib / MIB_PER_GIB));
        }
    }

    pub(super) fn set_peak(&mut self, running: &mut Running) {
        let peak_mib = running.peak_kib() as f64 / KIB_PER_MIB;
        self.set(Measure::Peak, peak_mib);
    }

    /// What became of a client's writes in so long a time, and what they were before.
    fn set_writes(&mut self, writes: &[Sample], wall: Duration, alone: Found) {
        let iops = writes.len() as f64 / wall.as_secs_f64();
        let p99_ms = fio::percentile_ms(writes, 99);
        self.set(Measure::Iops, iops);
        self.set(Measure::IopsAlone, alone.iops);
        self.set(Measure::IopsKept, iops / alone.iops);
        self.set(Measure::P99, p99_ms);
        self.set(Measure::AddedP99, p99_ms - alone.p99_ms);
    }

    pub(super) fn set_copy(&mut self, wall: Duration, moved_mib: f64) {
        self.set(Measure::Wall, wall.as_secs_f64());
        if moved_mib > 0.0 {
            self.set(Measure::Rate, moved_mib / wall.as_secs_f64());
        }
    }
}

/// Has a side do the work of a case.
pub(super) fn take(world: &World, case: &Case, side: Side) -> Result<Turn> {
    match (case.work, side) {
        (Work::Copy(_, image), Side::QemuImg | Side::Dd | Side::Limit) => {
            copy_by_tool(world, (case.place, image), side)
        }
        (Work::Copy(job, image), _) => copy(world, (case.place, image), (job, side)),
        (Work::Guest(job, depth), _) => guest(world, case.place, (job, depth), side),
        (Work::Random { .. } | Work::Sequential(_), _) => serve(world, case, side),
        (Work::ReadAll(connections), _) => read_all(world, case.place, connections, side),
        (Work::Reflink, _) => copy(world, (case.place, Image::Full), (Job::Backup, side)),
        (Work::Latency, _) => jobs::latency(world, case.place, side),
        (Work::Crowd, _) => jobs::crowd(world, case.place, side),
        (Work::Queue, _) => jobs::queue(world, case.place, side),
        (Work::Start, _) => start(world, side),
    }
}

/// Makes the images of a case, which is no part of any turn.
pub(super) fn prepare(world: &World, case: &Case) -> Result<()> {
    let Some(image) = case.work.image() else {
        return Ok(());
    };
    world.source(case.place, image)?;
    if matches!(case.work, Work::Reflink) {
        // Blocks that the target had would have to be given up first.
        world.empty_target(case.place, image)?;
    } else if case.work.has_target() {
        world.target(case.place, image)?;
    }
    if matches!(case.work, Work::Crowd) {
        for number in 0..world.scale.crowd {
            world.numbered_target(case.place, image, number)?;
        }
    }
    Ok(())
}

/// Has nothing of a turn go on in the next one, or help it.
pub(super) fn settle(world: &World, case: &Case, side: Side) -> Result<()> {
    match (case.work, side) {
        (Work::Copy(_, image), Side::QsdDefaults) => world.settle(case.place, image),
        (Work::Reflink, _) => world.drop_target(case.place, Image::Full),
        _ => Ok(()),
    }
}

fn copy(world: &World, (place, image): (Place, Image), (job, side): (Job, Side)) -> Result<Turn> {
    let source = world.source(place, image)?;
    let target = world.target(place, image)?;
    let mut daemon = Daemon::start(world, side)?;
    daemon.open("source", &source, Cache::Direct)?;
    daemon.open("target", &target, Cache::Direct)?;
    let mut moved_mib = world.scale.data_mib(image);
    if job == Job::Incremental {
        daemon.record("source")?;
        let address = daemon.export("source")?;
        fio::scatter(world, &address, moved_mib)?;
        daemon.stop_serving()?;
        moved_mib = moved_mib.div_ceil(100);
    }
    let (start, cpu) = (Instant::now(), daemon.running.cpu());
    daemon.begin(job)?;
    ensure!(
        daemon.finish(COPY_MAX)? == End::Done,
        "the copy does not end"
    );
    let mut turn = Turn::default();
    turn.set_copy(start.elapsed(), moved_mib as f64);
    turn.set_cpu(daemon.running.cpu() - cpu, moved_mib as f64);
    turn.set_peak(&mut daemon.running);
    daemon.quit()?;
    Ok(turn)
}

fn copy_by_tool(world: &World, (place, image): (Place, Image), side: Side) -> Result<Turn> {
    let source = world.source(place, image)?;
    let target = world.target(place, image)?;
    let moved_mib = world.scale.data_mib(image) as f64;
    let mut turn = Turn::default();
    if side == Side::Limit {
        let found = fio::limit(world, (&source, &target))?;
        turn.set_copy(Duration::from_secs_f64(found.took_s), moved_mib);
        return Ok(turn);
    }
    let mut command;
    if side == Side::QemuImg {
        command = Command::new("qemu-img");
        command.args(["convert", "-n", "-W", "-f", "raw", "-O", "raw"]);
        command
            .args(["-t", "none", "-T", "none"])
            .args([source, target]);
    } else {
        command = Command::new("dd");
        command.args(["bs=1M", "iflag=direct", "oflag=direct", "conv=notrunc"]);
        command.arg(format!("if={}", source.display()));
        command.arg(format!("of={}", target.display()));
    }
    let cpu = ended_children_cpu();
    let start = Instant::now();
    let mut running = Running::start(&mut command, world.scratch())?;
    running.wait()?;
    turn.set_copy(start.elapsed(), moved_mib);
    turn.set_cpu(ended_children_cpu() - cpu, moved_mib);
    turn.set_peak(&mut running);
    Ok(turn)
}

fn guest(world: &World, place: Place, (job, depth): (Job, u32), side: Side) -> Result<Turn> {
    let source = world.source(place, Image::Full)?;
    let target = world.target(place, Image::Full)?;
    let mut daemon = Daemon::start(world, side)?;
    daemon.open("source", &source, Cache::Direct)?;
    daemon.open("target", &target, Cache::Direct)?;
    let address = daemon.export("source")?;
    let mut turn = Turn::default();
    let mut patience = Duration::from_secs(world.scale.copy_max_s);
    if matches!(job, Job::Mirror | Job::MirrorWriteBlocking) {
        let start = Instant::now();
        daemon.begin(job)?;
        ensure!(daemon.finish(COPY_MAX)? == End::Done, "no copy ends");
        let quiet = start.elapsed();
        turn.set(Measure::Quiet, quiet.as_secs_f64());
        patience = patience.min(quiet * SLOWDOWN_MAX + SLACK);
    }
    let mut load = Load {
        access: "randwrite",
        block_kib: 4,
        depth,
        connections: 1,
        seconds: world.scale.client_s,
    };
    let alone = fio::load(world, &address, &load)?;
    // Until it is interrupted, unless all goes wrong.
    load.seconds = 2 * (world.scale.copy_max_s + PATIENCE.as_secs());
    let client = Client::start(world, &address, &load)?;
    pause(SETTLED_AFTER);
    let cpu = daemon.running.cpu();
    let (start, since_ms) = (Instant::now(), epoch_ms()?);
    daemon.begin(job)?;
    let end = daemon.until_ready(patience)?;
    let (wall, until_ms) = (start.elapsed(), epoch_ms()?);
    turn.is_given_up = end == End::TooSlow;
    turn.set(Measure::Wall, wall.as_secs_f64());
    if let Some(quiet) = turn.figures.get(&Measure::Quiet) {
        turn.set(Measure::Slowdown, wall.as_secs_f64() / quiet);
    }
    if end == End::Done {
        let moved_mib = world.scale.image_mib as f64;
        turn.set_cpu(daemon.running.cpu() - cpu, moved_mib);
    }
    turn.set_peak(&mut daemon.running);
    let mut writes = client.end()?;
    writes.retain(|write| (since_ms..until_ms).contains(&write.at_ms));
    turn.set_writes(&writes, wall, alone);
    turn.trace = trace(&writes, since_ms);
    // The daemon may still be busy with a copy that was given up, or a mirror: it is not asked to quit.
    Ok(turn)
}

/// The worst write of each fiftieth of a second.
fn trace(writes: &[Sample], since_ms: u64) -> Vec<(f64, f64)> {
    const SLOT_MS: u64 = 20;
    let mut worst = BTreeMap::<u64, f64>::new();
    for write in writes {
        let slot = worst.entry((write.at_ms - since_ms) / SLOT_MS).or_default();
        *slot = slot.max(write.latency_ms);
    }
    let second = |slot: u64| (slot * SLOT_MS) as f64 / 1e3;
    let points = worst.into_iter().map(|(slot, worst)| (second(slot), worst));
    points.collect()
}

fn serve(world: &World, case: &Case, side: Side) -> Result<Turn> {
    let (access, block_kib, depth, connections) = match case.work {
        Work::Random {
            access: Access::Read,
            depth,
            connections,
        } => ("randread", 4, depth, connections),
        Work::Random {
            depth, connections, ..
        } => ("randwrite", 4, depth, connections),
        Work::Sequential(connections) => ("read", 256, 16, connections),
        _ => bail!("{} is no case of fio's", case.name),
    };
    let load = Load {
        access,
        block_kib,
        depth,
        connections,
        seconds: world.scale.client_s,
    };
    let mut server = Server::start(world, case.place, side)?;
    let cpu = server.running().cpu();
    let found = fio::load(world, &server.address, &load)?;
    let mut turn = Turn::default();
    if matches!(case.work, Work::Sequential(_)) {
        turn.set(Measure::Rate, found.mib_per_s);
    } else {
        turn.set(Measure::Iops, found.iops);
        turn.set(Measure::P99, found.p99_ms);
    }
    turn.set_cpu(server.running().cpu() - cpu, found.moved_mib);
    Ok(turn)
}

fn read_all(world: &World, place: Place, connections: u32, side: Side) -> Result<Turn> {
    let mut server = Server::start(world, place, side)?;
    let mut command = Command::new("nbdcopy");
    command.arg(format!("--connections={connections}"));
    command.args([&server.address, "null:"]);
    let cpu = server.running().cpu();
    let start = Instant::now();
    Running::start(&mut command, world.scratch())?.wait()?;
    let moved_mib = world.scale.image_mib as f64;
    let mut turn = Turn::default();
    turn.set_copy(start.elapsed(), moved_mib);
    turn.set_cpu(server.running().cpu() - cpu, moved_mib);
    turn.set_peak(server.running());
    Ok(turn)
}

fn start(world: &World, side: Side) -> Result<Turn> {
    let daemon = Daemon::start(world, side)?;
    let mut turn = Turn::default();
    turn.set(Measure::Startup, daemon.startup.as_secs_f64() * 1e3);
    pause(SETTLED_AFTER);
    let idle_kib = daemon.running.status_kib("VmRSS:");
    let idle_kib = idle_kib.context("the daemon has gone")?;
    turn.set(Measure::Idle, idle_kib as f64 / KIB_PER_MIB);
    turn.set(
        Measure::Binary,
        program_kib(world, side)? as f64 / KIB_PER_MIB,
    );
    daemon.quit()?;
    Ok(turn)
}

/// How long the program is without what only debuggers read, which programs of distributions lack.
fn program_kib(world: &World, side: Side) -> Result<u64> {
    let program = world.program(side).context("the program has gone")?;
    let stripped = world.scratch().join("stripped");
    let mut strip = Command::new("strip");
    let status = strip.arg("-o").arg(&stripped).arg(&program).status();
    let is_stripped = status.is_ok_and(|status| status.success());
    let len = fs::metadata(if is_stripped { &stripped } else { &program })?.len();
    Ok(len / 1024)
}

/// Something that serves the source to clients. Dropping it ends it.
#[derive(Debug)]
struct Server {
    kind: Kind,
    address: String,
}

#[derive(Debug)]
enum Kind {
    Daemon(Box<Daemon>),
    Tool(Running),
}

impl Server {
    fn start(world: &World, place: Place, side: Side) -> Result<Self> {
        let source = world.source(place, Image::Full)?;
        if !matches!(side, Side::QemuNbd | Side::Nbdkit) {
            let mut daemon = Daemon::start(world, side)?;
            daemon.open("source", &source, Cache::AsItComes)?;
            let address = daemon.export("source")?;
            let kind = Kind::Daemon(Box::new(daemon));
            return Ok(Self { kind, address });
        }
        let socket = world.scratch().join("nbd");
        // One of an earlier server; there may be none.
        drop(fs::remove_file(&socket));
        let mut command = tool(side, &socket, &source);
        let mut running = Running::start(&mut command, world.scratch())?;
        let start = Instant::now();
        while UnixStream::connect(&socket).is_err() {
            running.demand_alive()?;
            ensure!(
                start.elapsed() < PATIENCE,
                "{} does not listen",
                side.name()
            );
            pause(LOOK_EVERY);
        }
        Ok(Self {
            kind: Kind::Tool(running),
            address: uri("", &socket),
        })
    }

    fn running(&mut self) -> &mut Running {
        match &mut self.kind {
            Kind::Daemon(daemon) => &mut daemon.running,
            Kind::Tool(running) => running,
        }
    }
}

fn tool(side: Side, socket: &PathBuf, source: &PathBuf) -> Command {
    let mut command = Command::new(side.program().unwrap_or_default());
    if side == Side::QemuNbd {
        command.args(["--format=raw", "--persistent", "--shared=0", "--socket"]);
        command.args([socket, source]);
    } else {
        command.args(["--foreground", "--unix"]).arg(socket);
        command.arg("file").arg(source);
    }
    command
}

fn epoch_ms() -> Result<u64> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(u64::try_from(since.as_millis())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_has_the_worst_write_of_each_slot() {
        let write = |at_ms, latency_ms| Sample { at_ms, latency_ms };
        let writes = [write(1000, 1.0), write(1019, 3.0), write(1045, 2.0)];
        assert_eq!(trace(&writes, 1000), [(0.0, 3.0), (0.04, 2.0)]);
    }
}
