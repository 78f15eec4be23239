//! [`World`]: where a comparison runs: the programs that are there, the folders, the images, the sizes.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fs::{self, File},
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::cases::{CASES, Case, Image, Place, Side, Work};

const MIB: u64 = 1 << 20;
/// The folder in memory.
const MEMORY: &str = "/dev/shm";
/// With which the names of our folders begin; the number of the process follows.
const PREFIX: &str = "longshore-compare-";
/// What is to be free beside the images, in MiB.
const SPARE_MIB: u64 = 1024;
/// The programs of others, and the packages of Debian that have them.
const PEERS: [(&str, &str); 7] = [
    ("qemu-storage-daemon", "qemu-system-common"),
    ("qemu-img", "qemu-utils"),
    ("qemu-nbd", "qemu-utils"),
    ("nbdkit", "nbdkit"),
    ("nbdcopy", "libnbd-bin"),
    ("fio", "fio"),
    ("dd", "coreutils"),
];

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    /// The image that is copied, in MiB.
    pub(super) image_mib: u64,
    /// The image that has many holes.
    pub(super) sparse_mib: u64,
    /// The image that has nothing else.
    pub(super) holes_mib: u64,
    /// The images of many jobs.
    pub(super) small_mib: u64,
    /// How many jobs there are at once.
    pub(super) crowd: u64,
    /// How many there are one after the other.
    pub(super) queue: u64,
    /// How long a client is measured.
    pub(super) client_s: u64,
    /// After how long a copy beside a client is given up.
    pub(super) copy_max_s: u64,
}

impl Scale {
    pub(super) const FULL: Self = Self {
        image_mib: 4096,
        sparse_mib: 65_536,
        holes_mib: 1 << 20,
        small_mib: 64,
        crowd: 200,
        queue: 10_000,
        client_s: 2,
        copy_max_s: 60,
    };
    pub(super) const QUICK: Self = Self {
        image_mib: 256,
        sparse_mib: 4096,
        holes_mib: 8192,
        small_mib: 4,
        crowd: 50,
        queue: 200,
        client_s: 1,
        copy_max_s: 4,
    };

    fn len_mib(&self, image: Image) -> u64 {
        match image {
            Image::Full => self.image_mib,
            Image::Sparse => self.sparse_mib,
            Image::Holes => self.holes_mib,
            Image::Small => self.small_mib,
            Image::Tiny => 1,
        }
    }

    /// How much of an image is data.
    pub(super) fn data_mib(&self, image: Image) -> u64 {
        match image {
            Image::Full | Image::Small | Image::Tiny => self.len_mib(image),
            Image::Sparse => self.sparse_mib / 32,
            Image::Holes => 0,
        }
    }
}

/// Dropping it removes all files.
#[derive(Debug)]
pub(super) struct World {
    ours: PathBuf,
    missing: BTreeSet<&'static str>,
    disk: TempDir,
    memory: TempDir,
    pub(super) scale: Scale,
}

impl World {
    /// Images on the disk are below `folder`.
    pub(super) fn new(ours: PathBuf, folder: &Path, scale: Scale) -> Result<Self> {
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let make = |parent: &Path| {
            remove_leftovers(parent)?;
            let made = tempfile::Builder::new().prefix(&prefix).tempdir_in(parent);
            made.with_context(|| format!("no folder in {}", parent.display()))
        };
        let peers = PEERS.iter().map(|(name, _)| *name);
        Ok(Self {
            ours,
            missing: peers.filter(|name| find(name).is_none()).collect(),
            disk: make(folder)?,
            memory: make(Path::new(MEMORY))?,
            scale,
        })
    }

    /// Our program.
    pub(super) fn ours(&self) -> &Path {
        &self.ours
    }

    /// The program of a side.
    pub(super) fn program(&self, side: Side) -> Option<PathBuf> {
        match side.program() {
            Some(peer) => find(peer),
            None => Some(self.ours.clone()),
        }
    }

    /// Whether a program of others is here.
    pub(super) fn has(&self, program: Option<&str>) -> bool {
        program.is_none_or(|name| !self.missing.contains(name))
    }

    /// What is missing here, and which package has it.
    pub(super) fn missing(&self) -> Vec<String> {
        let missing = PEERS.iter().filter(|(name, _)| !self.has(Some(name)));
        let missing = missing.map(|(name, package)| format!("{name} (Debian package {package})"));
        missing.collect()
    }

    /// Where small files are, such as sockets and logs.
    pub(super) fn scratch(&self) -> &Path {
        self.memory.path()
    }

    fn folder(&self, place: Place) -> &Path {
        match place {
            Place::Disk => self.disk.path(),
            Place::Memory => self.memory.path(),
        }
    }

    /// An image to copy, which is made when it is first asked for.
    pub(super) fn source(&self, place: Place, image: Image) -> Result<PathBuf> {
        let path = self.folder(place).join(format!("source {image:?}"));
        if !path.exists() {
            self.make_source(&path, image)?;
        }
        Ok(path)
    }

    fn make_source(&self, path: &Path, image: Image) -> Result<()> {
        let (len_mib, data_mib) = (self.scale.len_mib(image), self.scale.data_mib(image));
        let file = File::create(path)?;
        file.set_len(len_mib * MIB)?;
        let random = Random::new();
        let step_mib = len_mib.checked_div(data_mib).unwrap_or(1);
        for at in 0..data_mib {
            file.write_all_at(random.mebibyte(at), at * step_mib * MIB)?;
        }
        settle(path)
    }

    /// An image to copy to: of a full one all blocks are there already, of others none.
    pub(super) fn target(&self, place: Place, image: Image) -> Result<PathBuf> {
        let path = self.folder(place).join(format!("target {image:?}"));
        self.make_target(&path, image)?;
        Ok(path)
    }

    /// One that has no blocks, whatever the image, until it is dropped.
    pub(super) fn empty_target(&self, place: Place, image: Image) -> Result<()> {
        let file = File::create(self.folder(place).join(format!("target {image:?}")))?;
        Ok(file.set_len(self.scale.len_mib(image) * MIB)?)
    }

    /// Has the target made anew when it is needed again.
    pub(super) fn drop_target(&self, place: Place, image: Image) -> Result<()> {
        let path = self.folder(place).join(format!("target {image:?}"));
        Ok(fs::remove_file(path)?)
    }

    /// One of many of these.
    pub(super) fn numbered_target(
        &self,
        place: Place,
        image: Image,
        number: u64,
    ) -> Result<PathBuf> {
        let name = format!("target {image:?} {number}");
        let path = self.folder(place).join(name);
        self.make_target(&path, image)?;
        Ok(path)
    }

    fn make_target(&self, path: &Path, image: Image) -> Result<()> {
        if image.is_full() && path.exists() {
            return Ok(());
        }
        let mut file = File::create(path)?;
        if image.is_full() {
            let zeros = vec![0; usize::try_from(MIB)?];
            for _ in 0..self.scale.len_mib(image) {
                file.write_all(&zeros)?;
            }
        }
        file.set_len(self.scale.len_mib(image) * MIB)?;
        settle(path)
    }

    /// Has nothing of a turn go on in the next one, or help it.
    pub(super) fn settle(&self, place: Place, image: Image) -> Result<()> {
        if place == Place::Disk {
            settle(&self.source(place, image)?)?;
            settle(&self.folder(place).join(format!("target {image:?}")))?;
        }
        Ok(())
    }

    /// Removes the images that none of these cases uses.
    pub(super) fn tidy(&self, later: &[usize]) -> Result<()> {
        let used: Vec<(Place, Image)> = later
            .iter()
            .filter_map(|index| Some((CASES[*index].place, CASES[*index].work.image()?)))
            .collect();
        let places = [Place::Disk, Place::Memory].into_iter();
        let all = places.flat_map(|place| Image::ALL.map(|image| (place, image)));
        for (place, image) in all.filter(|it| !used.contains(it)) {
            self.remove(place, image)?;
        }
        Ok(())
    }

    fn remove(&self, place: Place, image: Image) -> Result<()> {
        let roles = [format!("source {image:?}"), format!("target {image:?}")];
        for entry in fs::read_dir(self.folder(place))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if roles.iter().any(|role| name.starts_with(role)) {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// Why a case cannot be done here by anybody, if so.
    pub(super) fn obstacle(&self, case: &Case) -> Result<Option<String>> {
        let program = case.work.program();
        if let Some(program) = program.filter(|name| !self.has(Some(name))) {
            return Ok(Some(format!("needs {program}")));
        }
        match case.work {
            Work::Reflink if !self.shares_blocks()? => {
                let kind = disk(self.disk.path());
                Ok(Some(format!("files on {kind} cannot share blocks")))
            }
            Work::Crowd => Ok(self.lack_of_memory()),
            _ => Ok(None),
        }
    }

    fn shares_blocks(&self) -> Result<bool> {
        let paths = ["shared", "sharer"].map(|name| self.disk.path().join(name));
        fs::write(&paths[0], vec![1; 1 << 16])?;
        let mut cp = Command::new("cp");
        let copied = cp.arg("--reflink=always").args(&paths).output()?;
        for path in paths {
            // The copy may not have come to be.
            drop(fs::remove_file(path));
        }
        Ok(copied.status.success())
    }

    fn lack_of_memory(&self) -> Option<String> {
        let needed_mib = (self.scale.crowd + 1) * self.scale.small_mib + SPARE_MIB;
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let free = memory
            .lines()
            .find_map(|it| it.strip_prefix("MemAvailable:"))?;
        let free_kib: u64 = free.split_whitespace().next()?.parse().ok()?;
        let lacks = free_kib / 1024 < needed_mib;
        lacks.then(|| format!("needs {needed_mib} MiB of free memory"))
    }

    /// The machine, and the versions of the programs.
    pub(super) fn machine(&self, folder: &Path) -> BTreeMap<&'static str, String> {
        let mut machine = BTreeMap::new();
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
        let model = model
            .unwrap_or("unknown")
            .trim_start_matches([' ', '\t', ':']);
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        machine.insert("processors", format!("{count} × {model}"));
        let kernel = read("/proc/sys/kernel/osrelease");
        machine.insert("kernel", format!("Linux {}", kernel.trim()));
        machine.insert("disk", disk(folder));
        let mut date = Command::new("date");
        let date = date.args(["-u", "+%B %Y"]).env("LC_ALL", "C");
        machine.insert("date", first_line(date));
        for (name, _) in PEERS.iter().filter(|(name, _)| self.has(Some(name))) {
            let version = first_line(Command::new(name).arg("--version"));
            machine.insert(name, version);
        }
        let version = first_line(Command::new(&self.ours).arg("--version"));
        machine.insert("longshore", version);
        machine
    }
}

/// Removes the folders of runs that were killed, which may be large.
fn remove_leftovers(parent: &Path) -> Result<()> {
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let process = process.and_then(|rest| rest.split_once('-'));
        let is_left = |process: &str| !Path::new("/proc").join(process).exists();
        if process.is_some_and(|(process, _)| is_left(process)) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Has all of a file written, which is no work of those who are measured, and nothing of it in the page cache.
fn settle(path: &Path) -> Result<()> {
    File::open(path)?.sync_all()?;
    let mut dd = Command::new("dd");
    dd.arg(format!("if={}", path.display()));
    // It is advice: what cannot follow it is measured as it is.
    drop(dd.args(["iflag=nocache", "count=0"]).output());
    Ok(())
}

/// The kind of file system that a folder is on.
fn disk(folder: &Path) -> String {
    let mut findmnt = Command::new("findmnt");
    first_line(findmnt.args(["-no", "FSTYPE", "-T"]).arg(folder))
}

fn first_line(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout);
    let text = String::from_utf8_lossy(&output.unwrap_or_default()).into_owned();
    text.lines().next().unwrap_or("unknown").to_owned()
}

fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let mut found = env::split_paths(&path).map(|folder| folder.join(program));
    found.find(|path| path.is_file())
}

/// Bytes that no program can make smaller: xorshift. Each mebibyte begins elsewhere in them, so that no two blocks of
/// an image are the same, and they need not be made for each image anew.
struct Random(Vec<u8>);

impl Random {
    const LEN_MIB: u64 = 4;
    /// Odd, so that no block begins where another did.
    const STEP: u64 = 1_234_577;

    fn new() -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let bytes = (0..Self::LEN_MIB * MIB / 8).flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        Self(bytes.collect())
    }

    fn mebibyte(&self, number: u64) -> &[u8] {
        let start = number * Self::STEP % ((Self::LEN_MIB - 1) * MIB);
        let start = usize::try_from(start).expect("it is below the length of a vector");
        &self.0[start..][..1 << 20]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Scale = Scale {
        image_mib: 2,
        sparse_mib: 64,
        holes_mib: 64,
        small_mib: 1,
        crowd: 2,
        queue: 1,
        client_s: 1,
        copy_max_s: 1,
    };

    fn world(folder: &Path) -> World {
        World::new(PathBuf::from("ours"), folder, SMALL).unwrap()
    }

    #[test]
    fn images_have_the_data_that_they_should_and_go_with_the_world() {
        let folder = tempfile::tempdir().unwrap();
        let world = world(folder.path());

        let images = [Image::Full, Image::Sparse, Image::Holes];
        let sources = images.map(|image| world.source(Place::Disk, image).unwrap());
        let target = world.target(Place::Disk, Image::Full).unwrap();

        let len = |path: &Path| fs::metadata(path).unwrap().len() / MIB;
        assert_eq!(sources.each_ref().map(|path| len(path)), [2, 64, 64]);
        assert_eq!(len(&target), 2);
        let sparse = fs::read(&sources[1]).unwrap();
        let data = sparse
            .chunks(1 << 20)
            .map(|chunk| chunk.iter().any(|byte| *byte != 0));
        let data: Vec<usize> = data.enumerate().filter(|it| it.1).map(|it| it.0).collect();
        assert_eq!(data, [0, 32]);
        drop(world);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn images_stay_as_long_as_a_later_case_uses_them() {
        let folder = tempfile::tempdir().unwrap();
        let world = world(folder.path());
        let images = [Image::Full, Image::Holes];
        let sources = images.map(|image| world.source(Place::Disk, image).unwrap());
        let crowd = world.numbered_target(Place::Memory, Image::Small, 1);
        let crowd = crowd.unwrap();
        let number = |name| CASES.iter().position(|case| case.name == name).unwrap();

        world
            .tidy(&[number("copy/holes"), number("jobs/at_once")])
            .unwrap();
        let stay = |path: &PathBuf| path.exists();
        assert_eq!(sources.each_ref().map(stay), [false, true]);
        assert!(crowd.exists());
        world.tidy(&[]).unwrap();
        assert!(!sources[1].exists() && !crowd.exists());
    }

    #[test]
    fn blocks_are_not_shared_where_files_cannot() {
        let folder = tempfile::tempdir_in(MEMORY).unwrap();
        let world = world(folder.path());
        let case = CASES.iter().find(|case| case.name == "copy/reflink");
        let why = world.obstacle(case.unwrap()).unwrap();
        assert!(why.unwrap().contains("cannot share blocks"));
    }

    #[test]
    fn folders_of_killed_runs_go_and_those_of_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let ours = format!("{PREFIX}{}-x", std::process::id());
        // No process has a number like this.
        let left = format!("{PREFIX}99999999-x");
        for name in [ours.as_str(), left.as_str(), "another"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }

        remove_leftovers(folder.path()).unwrap();

        let names = fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<_> = names.map(|it| it.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["another", ours.as_str()]);
    }
}
