//! Opening a file node: what the path is, whether `O_DIRECT` works there, and with which alignment.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, Seek, SeekFrom},
    os::{
        fd::AsFd,
        unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    },
    path::Path,
};

use aio::{IoBuf, sys};

use super::{FileIdentity, FileOptions, OnOffAuto};
use crate::error::{BlockError, ErrorKind};

/// Alignment assumed for `O_DIRECT` where the kernel does not say: no file system asks for more than a page.
const UNKNOWN_ALIGN_BYTES: u32 = 4096;
/// Alignment in memory that every [`IoBuf`] has at least.
const BUFFER_ALIGN_BYTES: u32 = 4096;

/// A file that was opened, and all that was found out about it.
pub(super) struct Opened {
    /// Goes through the page cache. Holds the image locks, so it lives as long as the node.
    pub(super) plain: File,
    /// Bypasses the page cache, where that works.
    pub(super) direct: Option<DirectFile>,
    pub(super) identity: FileIdentity,
    /// Whether the storage is the page cache itself.
    pub(super) in_memory: InMemory,
    /// Whether writes are to be made by threads that block.
    pub(super) writes_block: bool,
    pub(super) len_bytes: u64,
}

/// A descriptor opened with `O_DIRECT`.
pub(super) struct DirectFile {
    pub(super) file: File,
    /// Multiple that offset and length of each request have; a power of two.
    pub(super) align_bytes: u32,
}

/// Whether a file lives in a memory file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InMemory {
    Yes,
    No,
}

pub(super) fn open(options: &FileOptions) -> Result<Opened, BlockError> {
    let path = options.path.as_path();
    let failed = |source| BlockError::io(format!("cannot open '{}'", path.display()), source);

    // Looked at before it is opened: opening a pipe would wait for its other end.
    let found = std::fs::metadata(path).map_err(failed)?;
    check_kind(&found, path)?;
    let mut plain = open_file(options, 0).map_err(failed)?;
    let facts = plain.metadata().map_err(failed)?;
    let identity = check_kind(&facts, path)?;
    let len_bytes = match identity {
        FileIdentity::Regular { .. } => facts.len(),
        FileIdentity::BlockDevice { .. } => plain.seek(SeekFrom::End(0)).map_err(failed)?,
    };
    let in_memory = match identity {
        FileIdentity::Regular { .. } if sys::is_tmpfs(plain.as_fd()).map_err(failed)? => {
            InMemory::Yes
        }
        FileIdentity::Regular { .. } | FileIdentity::BlockDevice { .. } => InMemory::No,
    };
    let direct = open_direct(options, identity, in_memory)?;
    let writes_block = sys::is_fuse(plain.as_fd()).map_err(failed)?;
    Ok(Opened {
        plain,
        direct,
        identity,
        in_memory,
        writes_block,
        len_bytes,
    })
}

fn open_file(options: &FileOptions, flags: i32) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(!options.read_only)
        .custom_flags(flags)
        .open(&options.path)
}

fn check_kind(facts: &Metadata, path: &Path) -> Result<FileIdentity, BlockError> {
    if facts.is_file() {
        return Ok(FileIdentity::Regular {
            device: facts.dev(),
            inode: facts.ino(),
        });
    }
    if facts.file_type().is_block_device() {
        return Ok(FileIdentity::BlockDevice {
            device: facts.rdev(),
        });
    }
    let text = format!(
        "'{}' is neither a regular file nor a block device",
        path.display()
    );
    Err(BlockError::new(ErrorKind::Invalid, text))
}

fn open_direct(
    options: &FileOptions,
    identity: FileIdentity,
    in_memory: InMemory,
) -> Result<Option<DirectFile>, BlockError> {
    let wanted = match (options.direct, in_memory) {
        // Memory has no other cache than itself, but the flag spares each request a thread of the kernel's.
        (OnOffAuto::Off, InMemory::Yes) => OnOffAuto::Auto,
        (wanted, _) => wanted,
    };
    if wanted == OnOffAuto::Off {
        return Ok(None);
    }
    match try_direct(options, identity, in_memory)? {
        Some(direct) => Ok(Some(direct)),
        None if wanted == OnOffAuto::Auto => Ok(None),
        None => {
            let text = format!("'{}' does not take O_DIRECT", options.path.display());
            Err(BlockError::new(ErrorKind::Unsupported, text))
        }
    }
}

/// `None` when the file system or the kernel refuses `O_DIRECT` for this file.
fn try_direct(
    options: &FileOptions,
    identity: FileIdentity,
    in_memory: InMemory,
) -> Result<Option<DirectFile>, BlockError> {
    let failed = |source| {
        let path = options.path.display();
        BlockError::io(format!("cannot open '{path}' with O_DIRECT"), source)
    };
    let flags = match in_memory {
        // A ring hands requests for a memory file system to a worker thread, unless both flags say
        // that waiting is out of the question; there is nothing to wait for.
        InMemory::Yes => libc::O_DIRECT | libc::O_NONBLOCK,
        InMemory::No => libc::O_DIRECT,
    };
    let file = match open_file(options, flags) {
        Ok(file) => file,
        Err(error) if refuses_direct(&error) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let facts = file.metadata().map_err(failed)?;
    if check_kind(&facts, &options.path)? != identity {
        let path = options.path.display();
        let text = format!("'{path}' became another file while it was being opened");
        return Err(BlockError::new(ErrorKind::Busy, text));
    }
    if in_memory == InMemory::Yes {
        return Ok(Some(DirectFile {
            file,
            align_bytes: 1,
        }));
    }
    let Some(align_bytes) = alignment(&file) else {
        return Ok(None);
    };
    Ok(takes_direct_reads(&file, align_bytes).then_some(DirectFile { file, align_bytes }))
}

fn refuses_direct(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOTTY)
    )
}

/// The alignment the kernel asks for; `None` when it says that there is no direct access, or none for our buffers.
fn alignment(file: &File) -> Option<u32> {
    match sys::direct_alignment(file.as_fd()) {
        Ok(Some(known)) => {
            let usable = known.offset_bytes.is_power_of_two()
                && known.memory_bytes <= BUFFER_ALIGN_BYTES
                && known.memory_bytes > 0;
            usable.then_some(known.offset_bytes)
        }
        // Kernels before 6.1 and file systems that do not tell.
        Ok(None) | Err(_) => Some(UNKNOWN_ALIGN_BYTES),
    }
}

/// Some file systems take the flag and then refuse every request.
fn takes_direct_reads(file: &File, align_bytes: u32) -> bool {
    let Ok(len) = usize::try_from(align_bytes) else {
        return false;
    };
    let mut probe = IoBuf::heap(len);
    match file.read_at(&mut probe, 0) {
        Ok(_) => true,
        Err(error) => !refuses_direct(&error),
    }
}
