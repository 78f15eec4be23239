//! The target of a one-shot backup: never there before it is complete.
//!
//! A file is written as `DST.partial` beside its final place and takes the name when all of it is
//! durable, so whatever is called `DST` is complete. A block device has no name to give it late:
//! see [`device`](super::device).

use std::{
    fs::{self, File, Metadata},
    io,
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    },
    path::{Path, PathBuf},
};

use aio::sys;
use block::{
    ErrorKind,
    nodes::file::{FileNode, FileOptions},
};

use longshore::export::NbdUri;

use super::source::{Source, Storage, refuse_address};
use crate::cli::{
    exit::{Exit, Failure},
    far, units,
};

/// Where a backup will go; nothing has been touched yet.
#[derive(Debug)]
pub(crate) enum Plan {
    /// A file.
    File(FilePlan),
    /// A block device, by its path.
    Device(PathBuf),
    /// An export of an NBD server.
    Far(NbdUri),
}

/// A file that is to be made, or replaced.
#[derive(Debug)]
pub(crate) struct FilePlan {
    /// Where it will be; no symbolic link.
    place: PathBuf,
    partial: PathBuf,
    replaces: Option<Replaced>,
}

/// What a copy takes over from the file in whose place it comes.
#[derive(Clone, Copy, Debug)]
struct Replaced {
    mode: u32,
    user: u32,
    group: u32,
}

impl Plan {
    /// Looks at `path` and refuses what cannot become a copy of `source`.
    pub(crate) fn make(path: &Path, source: &Source) -> Result<Self, Failure> {
        if let Some(uri) = far::uri(path)? {
            if far::uri(&source.path)?.as_ref() == Some(&uri) {
                let text = format!("the target '{}' is the source itself", path.display());
                return Err(Failure::new(Exit::Usage, text));
            }
            return Ok(Self::Far(uri));
        }
        refuse_address(path)?;
        let shown = path.display();
        let refuse = |why: &str| Failure::new(Exit::Usage, format!("the target '{shown}' {why}"));
        let facts = match fs::metadata(path) {
            Ok(facts) => facts,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if fs::symlink_metadata(path).is_ok() {
                    return Err(refuse("is a symbolic link to nothing"));
                }
                return Ok(Self::File(FilePlan::new_file(path, source)?));
            }
            Err(error) => {
                let what = format!("cannot look at the target '{shown}'");
                return Err(Failure::io(what, &error));
            }
        };
        if facts.is_dir() {
            return Err(refuse("is a folder; name a file in it"));
        }
        let Some(storage) = Storage::of(&facts) else {
            return Err(refuse("is neither a regular file nor a block device"));
        };
        if source.storage() == Some(storage) {
            return Err(refuse(
                "is the source itself, under the same or another name",
            ));
        }
        match storage {
            Storage::Device(_) => Ok(Self::Device(path.to_owned())),
            Storage::File(..) => {
                let (has, needs) = (facts.len(), source.len_bytes());
                if has < needs {
                    let why = format!("is smaller than the source, {has} against {needs} bytes");
                    let advice = "Remove it, or give the copy another name.";
                    return Err(refuse(&why).advise(advice));
                }
                Ok(Self::File(FilePlan::replacing(path, &facts, source)?))
            }
        }
    }
}

impl FilePlan {
    fn new_file(path: &Path, source: &Source) -> Result<Self, Failure> {
        let shown = path.display();
        let Some(name) = path.file_name() else {
            let text = format!("the target '{shown}' does not name a file");
            return Err(Failure::new(Exit::Usage, text));
        };
        let folder = path.parent().filter(|folder| *folder != Path::new(""));
        let folder = folder.unwrap_or(Path::new("."));
        let folder = folder.canonicalize().map_err(|error| {
            let what = format!("cannot use the folder of the target '{shown}'");
            Failure::io(what, &error)
        })?;
        Self::beside(folder.join(name), None, source)
    }

    fn replacing(path: &Path, facts: &Metadata, source: &Source) -> Result<Self, Failure> {
        let shown = path.display();
        let place = path
            .canonicalize()
            .map_err(|error| Failure::io(format!("cannot look at the target '{shown}'"), &error))?;
        // Root may write to anything, so the bits are asked first.
        if facts.mode() & 0o222 == 0 {
            let text = format!("the target '{shown}' is read-only");
            return Err(Failure::new(Exit::Denied, text));
        }
        refuse_users(&place, "the target")?;
        let replaced = Replaced {
            mode: facts.mode() & 0o7777,
            user: facts.uid(),
            group: facts.gid(),
        };
        Self::beside(place, Some(replaced), source)
    }

    fn beside(
        place: PathBuf,
        replaces: Option<Replaced>,
        source: &Source,
    ) -> Result<Self, Failure> {
        let mut partial = place.clone().into_os_string();
        partial.push(".partial");
        let plan = Self {
            place,
            partial: PathBuf::from(partial),
            replaces,
        };
        plan.check_left_over(source)?;
        Ok(plan)
    }

    /// What an earlier run left may go, if that is what it is.
    fn check_left_over(&self, source: &Source) -> Result<(), Failure> {
        let shown = self.partial.display();
        let facts = match fs::symlink_metadata(&self.partial) {
            Ok(facts) => facts,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Failure::io(format!("cannot look at '{shown}'"), &error)),
        };
        if !facts.is_file() || Storage::of(&facts) == source.storage() {
            let text = format!("'{shown}' is in the way: an incomplete copy would have that name");
            return Err(Failure::new(Exit::Usage, text).advise("Move it, or name another target."));
        }
        refuse_users(
            &self.partial,
            "a backup to the same target is under way: its",
        )
    }

    fn folder(&self) -> &Path {
        self.partial.parent().unwrap_or(Path::new("/"))
    }

    /// Refuses, where it can be known, a source whose data does not fit.
    pub(crate) fn check_space(&self, source: &Source) -> Result<(), Failure> {
        let folder = self.folder();
        let Ok(free) = sys::free_bytes(folder) else {
            return Ok(());
        };
        let left_over = fs::symlink_metadata(&self.partial).map_or(0, |facts| facts.blocks() * 512);
        let free = free.saturating_add(left_over);
        if source.allocated_bytes() <= free {
            return Ok(());
        }
        // Storage that was reserved and never written need not be copied.
        match source.data_bytes(free) {
            Some(needed) if needed > free => {
                let text = format!(
                    "'{}' has no room for the copy: {} are free, and the source has more data than that, {}",
                    folder.display(),
                    units::bytes(free),
                    units::bytes(source.allocated_bytes()),
                );
                Err(Failure::new(Exit::Space, text))
            }
            _ => Ok(()),
        }
    }

    /// Makes the file under its preliminary name: `len_bytes` of hole.
    pub(crate) fn create(self, source: &Source) -> Result<Partial, Failure> {
        let shown = self.partial.display();
        let failed = |error: io::Error| Failure::io(format!("cannot make '{shown}'"), &error);
        // Opened now, so that nothing can be missing when the name is to be made durable.
        let folder = File::open(self.folder()).map_err(failed)?;
        match fs::remove_file(&self.partial) {
            Ok(()) => tracing::info!(path = %shown, "removed what an earlier run left"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Failure::io(format!("cannot replace '{shown}'"), &error)),
        }
        // A copy is no more public than the image, and its maker can write to it.
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(source.mode() | 0o600)
            .open(&self.partial)
            .map_err(failed)?;
        let facts = file.metadata().map_err(failed)?;
        let partial = Partial {
            storage: Storage::of(&facts),
            plan: self,
            file,
            folder,
            is_kept: false,
        };
        let sized = partial.file.set_len(source.len_bytes());
        sized.map_err(|error| {
            let shown = partial.plan.partial.display();
            Failure::io(format!("cannot give '{shown}' its length"), &error)
        })?;
        Ok(partial)
    }
}

/// A copy under its preliminary name. Dropping it removes it, unless it was published.
#[derive(Debug)]
pub(crate) struct Partial {
    plan: FilePlan,
    file: File,
    folder: File,
    storage: Option<Storage>,
    is_kept: bool,
}

impl Partial {
    /// Where it is now.
    pub(crate) fn path(&self) -> &Path {
        &self.plan.partial
    }

    /// Where it will be.
    pub(crate) fn place(&self) -> &Path {
        &self.plan.place
    }

    /// Whether something is at the final place already.
    pub(crate) fn replaces(&self) -> bool {
        self.plan.replaces.is_some()
    }

    /// Gives the copy its name. All its data is durable already.
    pub(crate) fn publish(mut self) -> Result<(), Failure> {
        let place = self.plan.place.display().to_string();
        let failed = |error: io::Error| Failure::io(format!("cannot finish '{place}'"), &error);
        if !self.is_ours() {
            let text = format!(
                "'{}' was replaced by another program meanwhile",
                self.path().display()
            );
            return Err(Failure::new(Exit::Failed, text));
        }
        if let Some(replaced) = self.plan.replaces {
            // Where it may not be given away, it stays ours.
            let _ = fchown(&self.file, Some(replaced.user), Some(replaced.group));
            let permissions = fs::Permissions::from_mode(replaced.mode);
            self.file.set_permissions(permissions).map_err(failed)?;
        }
        self.file.sync_all().map_err(failed)?;
        fs::rename(&self.plan.partial, &self.plan.place).map_err(failed)?;
        self.is_kept = true;
        self.folder.sync_all().map_err(|error| {
            let what = format!("'{place}' is complete, but its name may not survive a power cut");
            Failure::io(what, &error)
        })
    }

    /// Whether the preliminary name still means the file that was made under it.
    pub(crate) fn is_ours(&self) -> bool {
        let facts = fs::symlink_metadata(&self.plan.partial);
        facts.is_ok_and(|facts| Storage::of(&facts) == self.storage)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if self.is_kept || !self.is_ours() {
            return;
        }
        if let Err(error) = fs::remove_file(&self.plan.partial) {
            tracing::error!(path = %self.plan.partial.display(), %error, "cannot remove an incomplete copy");
        }
    }
}

/// Refuses a file that another program writes to, by its locks or by its open descriptors.
fn refuse_users(path: &Path, what: &str) -> Result<(), Failure> {
    let shown = path.display();
    let in_use = || {
        Failure::new(
            Exit::Locked,
            format!("{what} '{shown}' is in use by another program"),
        )
    };
    let failed = |error: &io::Error| Failure::io(format!("cannot open {what} '{shown}'"), error);
    let file = File::open(path).map_err(|error| failed(&error))?;
    match sys::has_writer(file.as_fd()) {
        Ok(true) => return Err(in_use()),
        Ok(false) => {}
        Err(error) => tracing::debug!(%error, "cannot ask who else has the target open"),
    }
    match FileNode::open(&FileOptions::new(path)) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::Locked => Err(in_use()),
        Err(error) => Err(Failure::block(
            format!("cannot use {what} '{shown}'"),
            &error,
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> (tempfile::TempDir, Source) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.img");
        fs::write(&path, [7; 1000]).unwrap();
        (folder, Source::examine_file(&path).unwrap())
    }

    fn file_plan(path: &Path, source: &Source) -> FilePlan {
        match Plan::make(path, source).unwrap() {
            Plan::File(plan) => plan,
            plan => panic!("{plan:?} is no file"),
        }
    }

    #[test]
    fn a_copy_has_its_name_only_once_it_is_published() {
        let (folder, source) = world();
        let target = folder.path().join("b.img");
        let partial = file_plan(&target, &source).create(&source).unwrap();
        assert!(!target.exists());
        partial.publish().unwrap();
        assert_eq!(fs::metadata(&target).unwrap().len(), 1000);
        assert!(!folder.path().join("b.img.partial").exists());
    }

    #[test]
    fn a_copy_that_is_given_up_leaves_nothing() {
        let (folder, source) = world();
        let target = folder.path().join("b.img");
        drop(file_plan(&target, &source).create(&source).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_name_that_was_taken_over_is_left_alone() {
        let (folder, source) = world();
        let target = folder.path().join("b.img");
        let partial = file_plan(&target, &source).create(&source).unwrap();
        let name = partial.path().to_owned();
        fs::remove_file(&name).unwrap();
        fs::write(&name, "somebody else's").unwrap();
        let failure = partial.publish().unwrap_err();
        assert!(failure.text.contains("replaced by another program"));
        assert_eq!(fs::read(&name).unwrap(), b"somebody else's");
        assert!(!target.exists());
    }

    #[test]
    fn what_is_replaced_gives_its_mode_and_a_link_stays_a_link() {
        let (folder, source) = world();
        let (real, link) = (folder.path().join("real.img"), folder.path().join("link"));
        fs::write(&real, [0; 2000]).unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let partial = file_plan(&link, &source).create(&source).unwrap();
        partial.publish().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        let facts = fs::metadata(&real).unwrap();
        assert_eq!((facts.len(), facts.mode() & 0o777), (1000, 0o640));
    }

    #[test]
    fn the_source_is_no_left_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.img.partial");
        fs::write(&path, [7; 1000]).unwrap();
        let source = Source::examine_file(&path).unwrap();
        let failure = Plan::make(&folder.path().join("a.img"), &source).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(path.exists());
    }
}
