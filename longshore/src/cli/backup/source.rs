//! The source of a one-shot backup: that it is there, that nobody writes to it, that nobody did.

use std::{
    fs::{File, Metadata},
    io::{self, Seek, SeekFrom},
    os::{
        fd::AsFd,
        unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use aio::sys;

use block::Node;
use longshore::Engine;

use crate::cli::{
    exit::{Exit, Failure},
    far,
};

/// What a first backup has to be told once: without it, a copy is worth nothing.
const RULE: &str = "A copy is the image at one instant only if nobody writes to it meanwhile, or if all writes go \
through longshore: serve it with `longshore export` to those who write (`longshore demo` shows it), or stop them";

/// An image that was looked at and is held open.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    place: Place,
    len_bytes: u64,
}

/// Where a source is.
#[derive(Debug)]
enum Place {
    /// In a file or on a device.
    Here { file: File, facts: Box<Metadata> },
    /// At an NBD server.
    Far(Node),
}

/// What names the storage itself, whatever the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storage {
    /// A file: number of its file system, and its own there.
    File(u64, u64),
    /// A block device, by its number.
    Device(u64),
}

impl Storage {
    /// The storage behind `facts`; `None` for what is neither a regular file nor a block device.
    pub(crate) fn of(facts: &Metadata) -> Option<Self> {
        if facts.is_file() {
            return Some(Self::File(facts.dev(), facts.ino()));
        }
        let is_device = facts.file_type().is_block_device();
        is_device.then(|| Self::Device(facts.rdev()))
    }
}

impl Source {
    /// Looks at `path` and opens it for reading; an export becomes the node `source`.
    pub(crate) fn examine(path: &Path, engine: &Engine) -> Result<Self, Failure> {
        match far::uri(path)? {
            Some(uri) => {
                let node = far::open_reader(engine, "source", uri)?;
                Ok(Self {
                    path: path.to_owned(),
                    len_bytes: node.len_bytes(),
                    place: Place::Far(node),
                })
            }
            None => Self::examine_file(path),
        }
    }

    pub(super) fn examine_file(path: &Path) -> Result<Self, Failure> {
        refuse_address(path)?;
        let shown = path.display();
        let failed =
            |error: io::Error| Failure::io(format!("cannot open the source '{shown}'"), &error);
        // Looked at before it is opened: opening a pipe would wait for its other end.
        check_kind(&std::fs::metadata(path).map_err(failed)?, path)?;
        let file = File::open(path).map_err(failed)?;
        let facts = file.metadata().map_err(failed)?;
        check_kind(&facts, path)?;
        let len_bytes = if facts.is_file() {
            facts.len()
        } else {
            (&file).seek(SeekFrom::End(0)).map_err(failed)?
        };
        Ok(Self {
            path: path.to_owned(),
            place: Place::Here {
                file,
                facts: Box::new(facts),
            },
            len_bytes,
        })
    }

    /// Its length.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Its node, if it is an export.
    pub(crate) fn node(&self) -> Option<&Node> {
        match &self.place {
            Place::Here { .. } => None,
            Place::Far(node) => Some(node),
        }
    }

    fn here(&self) -> Option<(&File, &Metadata)> {
        match &self.place {
            Place::Here { file, facts } => Some((file, facts)),
            Place::Far(_) => None,
        }
    }

    /// What names the storage.
    pub(crate) fn storage(&self) -> Option<Storage> {
        self.here().and_then(|(_, facts)| Storage::of(facts))
    }

    /// The permission bits, without execution. Those of an export are not known.
    pub(crate) fn mode(&self) -> u32 {
        self.here().map_or(0o600, |(_, facts)| facts.mode() & 0o666)
    }

    /// Bytes of storage that the source takes, as its file system counts; all of a device or an export.
    pub(crate) fn allocated_bytes(&self) -> u64 {
        match self.here() {
            Some((_, facts)) if facts.is_file() => {
                facts.blocks().saturating_mul(512).min(self.len_bytes)
            }
            _ => self.len_bytes,
        }
    }

    /// Bytes in runs of data, counted up to a little over `enough_bytes`; `None` where the file
    /// system does not tell.
    pub(crate) fn data_bytes(&self, enough_bytes: u64) -> Option<u64> {
        let len_bytes = self.len_bytes;
        let (file, facts) = self.here()?;
        if !facts.is_file() {
            return Some(len_bytes);
        }
        let (mut at, mut sum) = (0, 0u64);
        while at < len_bytes && sum <= enough_bytes {
            let Some(data) = sys::seek_data(file.as_fd(), at).ok()? else {
                break;
            };
            let end = sys::seek_hole(file.as_fd(), data).ok()?;
            let end = end.unwrap_or(len_bytes).max(data + 1).min(len_bytes);
            sum = sum.saturating_add(end.saturating_sub(data));
            at = end;
        }
        Some(sum)
    }

    /// Makes sure that nobody has the source open for writing, as far as the system tells.
    ///
    /// Image locks are taken later, by the node. This finds those who write and take none.
    pub(crate) fn refuse_writers(&self) -> Result<(), Failure> {
        let shown = self.path.display();
        let Some((file, facts)) = self.here() else {
            let text = format!("the server of '{shown}' does not tell whether others write to it");
            let advice = "If nobody writes to it, say so with --offline.";
            return Err(Failure::new(Exit::Unsupported, text).advise(advice));
        };
        let has_writer = match Storage::of(facts) {
            Some(Storage::File(..)) => sys::has_writer(file.as_fd()),
            _ => is_claimed(&self.path),
        };
        match has_writer {
            Ok(false) => {}
            Ok(true) => {
                let text = format!("'{shown}' is in use: another program has it open for writing");
                return Err(Failure::new(Exit::Locked, text).advise(format!(
                    "{RULE}, and pass --offline if longshore still sees them."
                )));
            }
            // Not our file, or a file system without leases: the image locks have to do.
            Err(error) => tracing::debug!(%error, "cannot ask who else has the source open"),
        }
        // On a descriptor of its own, so that the lock goes again.
        let probe = File::open(&self.path)
            .map_err(|error| Failure::io(format!("cannot open the source '{shown}'"), &error))?;
        match sys::lock_byte_shared(probe.as_fd(), LOCK_PROBE_BYTE) {
            Ok(()) => Ok(()),
            Err(error) if is_conflict(&error) => Err(locked(&self.path)),
            Err(_) => {
                let text = format!("the file system of '{shown}' has no locks to keep writers out");
                let advice = format!("{RULE}. If nobody writes to it, say so with --offline.");
                Err(Failure::new(Exit::Unsupported, text).advise(advice))
            }
        }
    }

    /// Makes sure that the source is what it was when it was looked at first.
    pub(crate) fn check_unchanged(&self) -> Result<(), Failure> {
        let shown = self.path.display();
        let Some((file, facts)) = self.here() else {
            return Ok(());
        };
        let now = file.metadata().map_err(|error| {
            Failure::io(format!("cannot look at the source '{shown}' again"), &error)
        })?;
        let stamp = |facts: &Metadata| {
            let modified = (facts.mtime(), facts.mtime_nsec());
            (facts.len(), modified, (facts.ctime(), facts.ctime_nsec()))
        };
        if !facts.is_file() || stamp(&now) == stamp(facts) {
            return Ok(());
        }
        let text =
            format!("'{shown}' was changed during the backup, so the copy is of no one instant");
        Err(Failure::new(Exit::Failed, text).advise(format!("{RULE}.")))
    }
}

/// The byte on which users of an image say that they read it.
const LOCK_PROBE_BYTE: u64 = 100;

fn is_conflict(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES))
}

/// The refusal of an image that another program has locked.
pub(crate) fn locked(path: &Path) -> Failure {
    let text = format!(
        "'{}' is locked by another program that writes to it",
        path.display()
    );
    Failure::new(Exit::Locked, text).advise(format!("{RULE}."))
}

/// Whether the kernel or somebody else has a block device for himself: mounted, part of another device.
fn is_claimed(path: &Path) -> io::Result<bool> {
    let claim = File::options()
        .read(true)
        .custom_flags(libc::O_EXCL)
        .open(path);
    match claim {
        Ok(_) => Ok(false),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(true),
        Err(error) => Err(error),
    }
}

fn check_kind(facts: &Metadata, path: &Path) -> Result<(), Failure> {
    if Storage::of(facts).is_some() {
        return Ok(());
    }
    let text = format!(
        "'{}' is neither a regular file nor a block device",
        path.display()
    );
    Err(Failure::new(Exit::Usage, text))
}

/// Refuses what is an address of nothing we know, instead of looking for a file of that name.
pub(crate) fn refuse_address(path: &Path) -> Result<(), Failure> {
    let text = path.to_string_lossy();
    if text == "-" || text.contains("://") || text.starts_with("json:") {
        let text = format!(
            "'{text}' is no file: longshore reads and writes files, block devices and NBD exports so far"
        );
        return Err(Failure::new(Exit::Unsupported, text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn data_is_counted_without_holes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8 << 20).unwrap();
        file.as_file().write_all_at(&[1; 65536], 1 << 20).unwrap();
        let source = Source::examine_file(file.path()).unwrap();
        let counted = source.data_bytes(u64::MAX).unwrap();
        assert!((65536..8 << 20).contains(&counted), "{counted}");
    }

    #[test]
    fn a_source_that_somebody_wrote_to_is_noticed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().write_all_at(&[1; 512], 0).unwrap();
        let source = Source::examine_file(file.path()).unwrap();
        source.check_unchanged().unwrap();
        // The clock of a file system may have a coarse grain; a new length needs none.
        file.as_file().write_all_at(&[2; 513], 0).unwrap();
        let failure = source.check_unchanged().unwrap_err();
        assert_eq!(failure.exit, Exit::Failed);
        assert!(failure.text.contains("was changed during the backup"));
    }

    #[test]
    fn addresses_are_no_files() {
        for text in ["nbd://host/x", "-", "json:{}", "s3://bucket/x"] {
            let failure = refuse_address(Path::new(text)).unwrap_err();
            assert_eq!(failure.exit, Exit::Unsupported);
        }
    }
}
