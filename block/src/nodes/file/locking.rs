//! Byte locks by which programs that open the same image see each other.
//!
//! Each permission has a number. Who uses permission `n` holds a shared lock on byte `100 + n`;
//! who does not let others use it holds one on byte `200 + n`. Locks never exclude each other:
//! an opener takes its own and then looks whether anybody holds a byte that forbids them. QEMU
//! and its tools do the same with the same numbers, so both see each other.

use std::{fs::File, io, os::fd::AsFd, path::Path};

use aio::sys;

use super::{OnOffAuto, Sharing};
use crate::error::{BlockError, ErrorKind};

const USED_BASE: u64 = 100;
const UNSHARED_BASE: u64 = 200;

/// A permission as other programs number it, with the word that an error uses for it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct LockedPermission {
    bit: u64,
    name: &'static str,
}

const CONSISTENT_READ: LockedPermission = LockedPermission {
    bit: 0,
    name: "read",
};
const WRITE: LockedPermission = LockedPermission {
    bit: 1,
    name: "write",
};
const RESIZE: LockedPermission = LockedPermission {
    bit: 3,
    name: "resize",
};

/// Locks `file` for as long as it, or a duplicate of its descriptor, stays open.
///
/// With [`OnOffAuto::Auto`], a file system that has no such locks is no error.
pub(super) fn lock_image(
    file: &File,
    path: &Path,
    read_only: ReadOnly,
    sharing: Sharing,
    locking: OnOffAuto,
) -> Result<(), BlockError> {
    let uses: &[_] = match read_only {
        ReadOnly::Yes => &[CONSISTENT_READ],
        ReadOnly::No => &[CONSISTENT_READ, WRITE],
    };
    let unshares: &[_] = match sharing {
        Sharing::Readers => &[WRITE, RESIZE],
        Sharing::Everyone => &[],
    };
    if locking == OnOffAuto::Off {
        return Ok(());
    }
    match take_and_probe(file, uses, unshares) {
        Ok(()) => Ok(()),
        Err(Refusal::Unsupported(_)) if locking == OnOffAuto::Auto => Ok(()),
        Err(Refusal::Conflict(reason)) => Err(BlockError::new(
            ErrorKind::Locked,
            format!("'{}' is in use: {reason}", path.display()),
        )),
        Err(Refusal::Unsupported(source) | Refusal::System(source)) => Err(BlockError::io(
            format!("cannot lock '{}'", path.display()),
            source,
        )),
    }
}

/// Checks that no other program minds that the file changes its length.
pub(super) fn check_resize(file: &File) -> Result<(), BlockError> {
    // What cannot be asked was not locked either.
    if matches!(held_by_other(file, UNSHARED_BASE + RESIZE.bit), Ok(true)) {
        let what = "another program does not share its 'resize' permission";
        return Err(BlockError::new(ErrorKind::Locked, what));
    }
    Ok(())
}

/// Whether the image is opened for reading only.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadOnly {
    Yes,
    No,
}

enum Refusal {
    Conflict(String),
    Unsupported(io::Error),
    System(io::Error),
}

/// Takes first and looks afterwards: of two that come at once, at least one sees the other.
fn take_and_probe(
    file: &File,
    uses: &[LockedPermission],
    unshares: &[LockedPermission],
) -> Result<(), Refusal> {
    for used in uses {
        take(file, USED_BASE + used.bit)?;
    }
    for unshared in unshares {
        take(file, UNSHARED_BASE + unshared.bit)?;
    }
    for used in uses {
        if held_by_other(file, UNSHARED_BASE + used.bit)? {
            return Err(Refusal::Conflict(format!(
                "another program does not share its '{}' permission",
                used.name
            )));
        }
    }
    for unshared in unshares {
        if held_by_other(file, USED_BASE + unshared.bit)? {
            return Err(Refusal::Conflict(format!(
                "another program has it open with '{}' permission",
                unshared.name
            )));
        }
    }
    Ok(())
}

fn take(file: &File, offset_bytes: u64) -> Result<(), Refusal> {
    sys::lock_byte_shared(file.as_fd(), offset_bytes).map_err(refusal)
}

fn held_by_other(file: &File, offset_bytes: u64) -> Result<bool, Refusal> {
    sys::byte_locked_by_other(file.as_fd(), offset_bytes).map_err(refusal)
}

fn refusal(source: io::Error) -> Refusal {
    match source.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => {
            Refusal::Conflict("another program holds an exclusive lock".to_owned())
        }
        Some(libc::EINVAL | libc::ENOLCK | libc::ENOSYS | libc::EOPNOTSUPP) => {
            Refusal::Unsupported(source)
        }
        _ => Refusal::System(source),
    }
}
