//! Random jobs in a row on an image that four guests write over NBD, each copy compared with its instant:
//! `cargo run --release --example soak`.
//!
//! Nothing that is checked does the checking: the guests speak NBD by themselves, over a socket of
//! the standard library, and the files are compared by plain reads. What a round does is drawn:
//!
//! - A backup for which the guests hold still, with no request in flight, while the image is read and the
//!   backup starts. The target must be what was read, byte for byte.
//! - A backup or a mirror under guests that go on. The copy must be a cut: what each guest had done at one
//!   moment between the call of the start (of the end, for a mirror) and its return, the same for all of them. A
//!   mirror changes its mode meanwhile, is paused, and may move the guests to its target; then all that they did must
//!   be there, and the old image is the cut.
//! - A backup or a mirror that is cancelled half way.
//!
//! Whatever happens, the disk that guests end on must be what they wrote. Each round has an engine and an export of
//! its own; the backends take turns, and targets are new or have the last copy in them.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that tells how it goes"
)]

use std::{
    collections::BTreeMap,
    env,
    error::Error,
    fs::{self, File},
    hash::{BuildHasher, RandomState},
    io::{self, Write as _},
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use aio::BackendKind;
use block::{copy::TargetContent, nodes::FileOptions};
use longshore::{
    Engine, EngineConfig,
    export::{ExportOptions, NbdAddress, NbdServer, NbdServerOptions},
};

mod crowd;
mod cut;
mod guest;
mod job;
mod writer;

use crowd::Crowd;
use job::{Act, Ended, Moment};
use writer::{Chance, Entry, Writer};

const USAGE: &str = "usage: soak [--rounds N | --seconds N] [--seed N] [--size BYTES] [--folder DIR] \
                     [--image PATH --target PATH]";
const WRITERS: usize = 4;
const MIB: usize = 1 << 20;

type Failure = Box<dyn Error + Send + Sync>;

struct Plan {
    end: End,
    seed: u64,
    size: usize,
    folder: PathBuf,
    /// Whether the folder is ours, and goes with us.
    is_own_folder: bool,
    /// A file or a block device.
    image: PathBuf,
    /// Likewise.
    target: PathBuf,
}

/// When to stop.
enum End {
    Rounds(u64),
    After(Duration),
}

impl End {
    fn is_reached(&self, rounds: u64, started: Instant) -> bool {
        match self {
            Self::Rounds(most) => rounds >= *most,
            Self::After(time) => started.elapsed() >= *time,
        }
    }
}

impl Plan {
    fn from_args() -> Result<Self, Failure> {
        let folder = env::temp_dir().join(format!("longshore-soak-{}", std::process::id()));
        let mut plan = Self {
            end: End::Rounds(100),
            seed: RandomState::new().hash_one(0),
            size: 256 * MIB,
            image: folder.join("image.raw"),
            target: folder.join("target.raw"),
            is_own_folder: true,
            folder,
        };
        let mut args = env::args().skip(1);
        while let Some(name) = args.next() {
            let value = args.next().ok_or(USAGE)?;
            match name.as_str() {
                "--rounds" => plan.end = End::Rounds(value.parse()?),
                "--seconds" => plan.end = End::After(Duration::from_secs(value.parse()?)),
                "--seed" => plan.seed = value.parse()?,
                "--size" => plan.size = value.parse()?,
                "--folder" => plan.use_folder(value.into()),
                "--image" => plan.image = value.into(),
                "--target" => plan.target = value.into(),
                _ => return Err(USAGE.into()),
            }
        }
        Ok(plan)
    }

    fn use_folder(&mut self, folder: PathBuf) {
        self.image = folder.join("image.raw");
        self.target = folder.join("target.raw");
        self.is_own_folder = false;
        self.folder = folder;
    }

    /// Whether disk and copy are devices, which have their length and are never new.
    fn has_devices(&self) -> bool {
        let kind = |path: &Path| fs::metadata(path).map(|it| it.file_type().is_block_device());
        kind(&self.image).unwrap_or(false) && kind(&self.target).unwrap_or(false)
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("nbd.sock")
    }
}

/// What is different about one round.
#[derive(Clone, Copy)]
struct Round {
    seed: u64,
    act: Act,
    backend: BackendKind,
    target_content: TargetContent,
}

fn main() -> ExitCode {
    let plan = match Plan::from_args() {
        Ok(plan) => plan,
        Err(failure) => {
            eprintln!("{failure}");
            return ExitCode::from(2);
        }
    };
    match soak(&plan) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!(
                "{failure}\nseed {}, files in {}",
                plan.seed,
                plan.folder.display()
            );
            ExitCode::FAILURE
        }
    }
}

fn soak(plan: &Plan) -> Result<(), Failure> {
    fs::create_dir_all(&plan.folder)?;
    let mut chance = Chance::new(plan.seed);
    make_image(plan, &mut chance)?;
    let backends: Vec<_> = match aio::probe_io_uring() {
        Ok(_) => vec![BackendKind::IoUring, BackendKind::Epoll],
        Err(_) => vec![BackendKind::Epoll],
    };
    let (started, mut writes, mut per_backend) = (Instant::now(), 0, [0, 0]);
    let (mut number, mut acts) = (0, BTreeMap::new());
    while !plan.end.is_reached(number, started) {
        let turn = usize::try_from(number)?;
        number += 1;
        let round = Round {
            seed: chance.next(),
            act: Act::draw(&mut chance),
            backend: backends[turn % backends.len()],
            target_content: match chance.below(2) {
                0 if !plan.has_devices() => TargetContent::Zero,
                _ => TargetContent::Unknown,
            },
        };
        let name = round.act.to_string();
        writes += one_round(plan, round)
            .map_err(|failure| format!("round {number} ({name}, {}): {failure}", round.backend))?;
        per_backend[usize::from(round.backend == BackendKind::Epoll)] += 1;
        *acts.entry(name).or_insert(0_u64) += 1;
        if number % 10 == 0 {
            let seconds = started.elapsed().as_secs_f64();
            println!("{number} jobs, {writes} guest writes, {seconds:.1} s");
        }
    }
    clear(plan)?;
    let acts: Vec<_> = acts
        .iter()
        .map(|(act, count)| format!("{count} {act}"))
        .collect();
    println!(
        "{number} of {number} jobs equal their instant ({} io_uring, {} epoll) under {writes} guest writes, seed {}: {}",
        per_backend[0],
        per_backend[1],
        plan.seed,
        acts.join(", ")
    );
    Ok(())
}

/// Removes what was made.
fn clear(plan: &Plan) -> io::Result<()> {
    if plan.is_own_folder {
        return fs::remove_dir_all(&plan.folder);
    }
    if !plan.has_devices() {
        fs::remove_file(&plan.image)?;
        fs::remove_file(&plan.target)?;
    }
    Ok(())
}

/// Data and holes in turns.
fn make_image(plan: &Plan, chance: &mut Chance) -> io::Result<()> {
    let size = plan.size;
    let mut options = File::options();
    options.write(true);
    if !plan.has_devices() {
        options.create(true).truncate(true);
    }
    let mut file = options.open(&plan.image)?;
    if !plan.has_devices() {
        file.set_len(size as u64)?;
    }
    let mut at = 0;
    while at < size {
        let len = (1 + chance.below(4 * MIB)).min(size - at);
        if chance.below(2) == 0 {
            io::Seek::seek(&mut file, io::SeekFrom::Start(at as u64))?;
            file.write_all(&writer::stamped(chance.next(), len))?;
        }
        at += len;
    }
    Ok(())
}

/// One job and its check; returns how many requests the guests made.
fn one_round(plan: &Plan, round: Round) -> Result<usize, Failure> {
    let is_new = round.target_content == TargetContent::Zero || !plan.target.exists();
    if is_new && !plan.has_devices() {
        File::create(&plan.target)?.set_len(plan.size as u64)?;
    }
    let first = fs::read(&plan.image)?;
    let (logs, ended) = run_guests(plan, round)?;
    let (live, copy) = if ended.guests_moved {
        (&plan.target, &plan.image)
    } else {
        (&plan.image, &plan.target)
    };
    match ended.moment {
        Moment::Nothing => {}
        Moment::Read(image) => cut::check_equal(&image, &fs::read(copy)?)?,
        Moment::Between(called, returned) => {
            cut::check_cut(&logs, &first, &fs::read(copy)?, (called, returned))?;
        }
    }
    let written = cut::replay(&logs, first);
    cut::check_equal(&written, &fs::read(live)?)
        .map_err(|failure| format!("the disk is not what the guests wrote: {failure}"))?;
    Ok(logs.iter().map(Vec::len).sum())
}

/// Guests write before, during and after a job; returns what each of them did.
fn run_guests(plan: &Plan, round: Round) -> Result<(Vec<Vec<Entry>>, Ended), Failure> {
    let engine = Engine::start(EngineConfig {
        backend: Some(round.backend),
        ..EngineConfig::default()
    })?;
    let open = |name, path| engine.open_file(Some(name), &FileOptions::new(path));
    let source = open("source", &plan.image)?.node;
    let target = open("target", &plan.target)?.node;
    let address = NbdAddress::Unix(plan.socket());
    let options = NbdServerOptions::default();
    let server = NbdServer::start(engine.handle(), engine.graph(), &address, options)?;
    server.add_export(ExportOptions {
        writable: true,
        ..ExportOptions::new("disk", &source)
    })?;

    let (crowd, socket) = (Crowd::new(WRITERS), plan.socket());
    let (logs, ended) = thread::scope(|scope| {
        let guests: Vec<_> = (0..WRITERS)
            .map(|number| Writer::new((number, WRITERS), plan.size, round.seed))
            .map(|writer| scope.spawn(|| writer.run(&socket, &crowd)))
            .collect();
        let ended = job::run(plan, round, &engine, (&source, &target), &crowd);
        crowd.stop();
        let logs: Result<Vec<_>, Failure> = guests
            .into_iter()
            .map(|guest| {
                guest
                    .join()
                    .unwrap_or_else(|_| Err("a guest panicked".into()))
            })
            .collect();
        (logs, ended)
    });
    server.stop();
    let ended = ended?;
    Ok((logs?, ended))
}
