//! [`NewFile`]: a file that is being made, or emptied and made anew.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::PathBuf,
};

use aio::{Fd, sys};

use super::{FileIdentity, locking::ImageLocks};
use crate::{
    error::{BlockError, ErrorKind},
    graph::permission::{Permission, Permissions},
};

/// Zeroes that are written in one go.
const PIECE_BYTES: usize = 4 << 20;

/// Whether a new file has its space from the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preallocation {
    /// It is one hole.
    #[default]
    Off,
    /// The file system reserves it.
    Reserved,
    /// It is written with zeroes.
    Written,
}

/// What a new file is to be.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Where it is to be. A regular file that is there loses what it holds.
    pub path: PathBuf,
    /// How long it is to be.
    pub len_bytes: u64,
    /// Whether it has its space from the start.
    pub preallocation: Preallocation,
    /// Have the file system overwrite blocks in place, where that is its choice.
    pub in_place: bool,
    /// In which units the file system is to give it space, where that is our choice.
    pub extent_hint_bytes: Option<u32>,
    /// What must not be emptied: files that have nodes, whose locks nobody holds while they are idle.
    pub spared: Vec<(FileIdentity, String)>,
}

impl CreateOptions {
    /// A hole of that length.
    pub fn new(path: impl Into<PathBuf>, len_bytes: u64) -> Self {
        Self {
            path: path.into(),
            len_bytes,
            preallocation: Preallocation::Off,
            in_place: false,
            extent_hint_bytes: None,
            spared: Vec::new(),
        }
    }
}

/// A file of its full length; all calls block.
///
/// A file that somebody uses is left as it is.
#[derive(Debug)]
pub struct NewFile {
    file: File,
    left_bytes: u64,
}

impl NewFile {
    /// Makes the file. One whose space is to be [written](Preallocation::Written) is not complete yet.
    ///
    /// # Errors
    ///
    /// - [`Busy`](ErrorKind::Busy): it has a node.
    /// - [`Locked`](ErrorKind::Locked): another program has it open.
    /// - [`Io`](ErrorKind::Io) and others by errno: the system refused, or it is no regular file.
    pub fn create(options: &CreateOptions) -> Result<Self, BlockError> {
        let file = open(options)?;
        let uses = [Permission::Write, Permission::Resize];
        let alone = Permissions::uses(&uses).unsharing(&uses);
        let holder = file.try_clone().map_err(cannot_resize)?;
        ImageLocks::claim(&Fd::from(holder), options.path.clone(), alone)?;
        set_len(&file, 0)?;
        // These are wishes, and few file systems know them.
        if options.in_place {
            let _ = sys::overwrite_in_place(file.as_fd());
        }
        if let Some(hint_bytes) = options.extent_hint_bytes {
            let _ = sys::set_extent_size_hint(file.as_fd(), hint_bytes);
        }
        let mut left_bytes = 0;
        match options.preallocation {
            Preallocation::Off => set_len(&file, options.len_bytes)?,
            Preallocation::Reserved if options.len_bytes == 0 => {}
            Preallocation::Reserved => {
                let reserved = sys::reserve_space(file.as_fd(), options.len_bytes);
                reserved
                    .map_err(|source| give_up(&file, "Could not preallocate new data", source))?;
            }
            Preallocation::Written => {
                set_len(&file, options.len_bytes)?;
                left_bytes = options.len_bytes;
            }
        }
        Ok(Self { file, left_bytes })
    }

    /// Whether zeroes are left to be written.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.left_bytes == 0
    }

    /// Writes a piece of them. After the last one they are on the storage.
    ///
    /// # Errors
    ///
    /// The system's; then the file is empty again.
    pub fn write_piece(&mut self) -> Result<(), BlockError> {
        let left = usize::try_from(self.left_bytes).unwrap_or(usize::MAX);
        // Pages that nobody writes to are all the same one; as a constant they would be part of the program.
        let piece = vec![0; left.min(PIECE_BYTES)];
        let mut written = (&self.file).write_all(&piece);
        self.left_bytes -= u64::try_from(piece.len()).unwrap_or(self.left_bytes);
        if self.left_bytes == 0 {
            written = written.and_then(|()| self.file.sync_data());
        }
        let what = "Could not write zeros for preallocation";
        written.map_err(|source| give_up(&self.file, what, source))
    }
}

fn open(options: &CreateOptions) -> Result<File, BlockError> {
    let path = &options.path;
    let failed = |source| BlockError::io(format!("Could not create '{}'", path.display()), source);
    if fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        return Err(cannot_resize(io::Error::from_raw_os_error(libc::EINVAL)));
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    let facts = file.metadata().map_err(failed)?;
    let identity = FileIdentity::Regular {
        device: facts.dev(),
        inode: facts.ino(),
    };
    if let Some((_, node)) = options.spared.iter().find(|(it, _)| *it == identity) {
        let text = format!("'{}' is in use by node '{node}'", path.display());
        return Err(BlockError::new(ErrorKind::Busy, text));
    }
    Ok(file)
}

fn set_len(file: &File, len_bytes: u64) -> Result<(), BlockError> {
    // No offset of the system is that far away, and the standard library would say it in its own words.
    if i64::try_from(len_bytes).is_err() {
        return Err(cannot_resize(io::Error::from_raw_os_error(libc::EINVAL)));
    }
    file.set_len(len_bytes).map_err(cannot_resize)
}

fn cannot_resize(source: io::Error) -> BlockError {
    BlockError::io("Could not resize file", source)
}

/// Gives back the space that was had so far.
fn give_up(file: &File, what: &str, source: io::Error) -> BlockError {
    // The file is of no use either way, and the first error is the one that tells why.
    let _ = file.set_len(0);
    BlockError::io(what, source)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt},
        path::PathBuf,
    };

    use super::{CreateOptions, NewFile, Preallocation};
    use crate::{
        error::ErrorKind,
        nodes::{FileNode, FileOptions},
    };

    fn at(folder: &tempfile::TempDir) -> PathBuf {
        folder.path().join("disk")
    }

    fn made(options: &CreateOptions) -> fs::Metadata {
        let mut file = NewFile::create(options).unwrap();
        while !file.is_complete() {
            file.write_piece().unwrap();
        }
        fs::metadata(&options.path).unwrap()
    }

    #[test]
    fn a_new_file_is_as_long_as_wanted_and_has_its_space_if_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let mut options = CreateOptions::new(at(&folder), 5_000_001);
        options.in_place = true;
        options.extent_hint_bytes = Some(1 << 20);
        for (preallocation, has_space) in [
            (Preallocation::Off, false),
            (Preallocation::Reserved, true),
            (Preallocation::Written, true),
        ] {
            options.preallocation = preallocation;
            let facts = made(&options);
            assert_eq!(facts.len(), 5_000_001);
            assert_eq!(
                facts.blocks() * 512 >= 5_000_001,
                has_space,
                "{preallocation:?}"
            );
            assert_eq!(facts.permissions().mode() & 0o777 & !0o644, 0);
            options.len_bytes = 0;
            assert_eq!(made(&options).len(), 0);
            options.len_bytes = 5_000_001;
        }
    }

    #[test]
    fn what_was_in_the_file_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(at(&folder), [7; 9000]).unwrap();
        made(&CreateOptions::new(at(&folder), 8192));
        assert_eq!(fs::read(at(&folder)).unwrap(), [0; 8192]);
    }

    #[test]
    fn a_file_that_somebody_uses_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(at(&folder), [7; 4096]).unwrap();
        let node = FileNode::open(&FileOptions::new(at(&folder))).unwrap();
        let mut options = CreateOptions::new(at(&folder), 8192);
        let error = NewFile::create(&options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked);
        assert_eq!(error.to_string(), "Failed to get \"write\" lock");
        options.spared = vec![(node.identity(), "disk".to_owned())];
        drop(node);
        let error = NewFile::create(&options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert_eq!(fs::read(at(&folder)).unwrap(), [7; 4096]);
    }

    #[test]
    fn what_no_file_can_be_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let cases = [
            (folder.path().to_owned(), 1, "Could not create"),
            (folder.path().join("no/disk"), 1, "Could not create"),
            (PathBuf::from("/dev/null"), 1, "Could not resize file"),
            (at(&folder), u64::MAX, "Could not resize file"),
            (
                at(&folder),
                i64::MAX.unsigned_abs(),
                "Could not resize file",
            ),
        ];
        for (path, len_bytes, want) in cases {
            let error = NewFile::create(&CreateOptions::new(path, len_bytes)).unwrap_err();
            assert!(error.to_string().starts_with(want), "{error}");
        }
        let mut options = CreateOptions::new(at(&folder), u64::MAX);
        options.preallocation = Preallocation::Reserved;
        let error = NewFile::create(&options).unwrap_err();
        assert_eq!(error.to_string(), "Could not preallocate new data");
        assert_eq!(fs::metadata(at(&folder)).unwrap().len(), 0);
    }
}
