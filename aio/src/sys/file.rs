//! Questions about files, and locks on them; all of them may block the calling thread.

use std::{io, os::fd::BorrowedFd, path::Path};

/// An offset as the system types it.
pub(crate) fn offset(offset_bytes: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset_bytes).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))
}

/// Free bytes that an unprivileged user may have in the file system of `path`.
///
/// # Errors
///
/// The system's.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = nix::sys::statvfs::statvfs(path)?;
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

/// First byte of data at or behind `offset_bytes`; `None` when only a hole is left. Blocks the calling thread.
///
/// # Errors
///
/// The system's; `EINVAL` where the file system cannot tell.
pub fn seek_data(file: BorrowedFd<'_>, offset_bytes: u64) -> io::Result<Option<u64>> {
    seek(file, offset_bytes, nix::unistd::Whence::SeekData)
}

/// First byte of a hole at or behind `offset_bytes`, the end of the file at the latest; `None` when
/// the offset is not before the end.
/// Blocks the calling thread.
///
/// # Errors
///
/// The system's; `EINVAL` where the file system cannot tell.
pub fn seek_hole(file: BorrowedFd<'_>, offset_bytes: u64) -> io::Result<Option<u64>> {
    seek(file, offset_bytes, nix::unistd::Whence::SeekHole)
}

fn seek(
    file: BorrowedFd<'_>,
    offset_bytes: u64,
    whence: nix::unistd::Whence,
) -> io::Result<Option<u64>> {
    match nix::unistd::lseek(file, offset(offset_bytes)?, whence) {
        Ok(found) => u64::try_from(found)
            .map(Some)
            .map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW)),
        Err(nix::errno::Errno::ENXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether `file` lives in a memory file system (tmpfs).
///
/// # Errors
///
/// The system's.
pub fn is_tmpfs(file: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(nix::sys::statfs::fstatfs(file)?.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC)
}

/// Whether `file` is served by a process of its machine (FUSE).
///
/// # Errors
///
/// The system's.
pub fn is_fuse(file: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(nix::sys::statfs::fstatfs(file)?.filesystem_type() == nix::sys::statfs::FUSE_SUPER_MAGIC)
}

/// Takes a shared lock on one byte, owned by the open file description. Does not wait.
///
/// # Errors
///
/// The system's; `EAGAIN` or `EACCES` when somebody else has an exclusive lock there.
pub fn lock_byte_shared(file: BorrowedFd<'_>, offset_bytes: u64) -> io::Result<()> {
    set_lock(file, &byte_lock(libc::F_RDLCK, offset_bytes)?)
}

/// Gives back the lock that the open file description has on the byte, if it has one.
///
/// # Errors
///
/// The system's.
pub fn unlock_byte(file: BorrowedFd<'_>, offset_bytes: u64) -> io::Result<()> {
    set_lock(file, &byte_lock(libc::F_UNLCK, offset_bytes)?)
}

fn set_lock(file: BorrowedFd<'_>, lock: &libc::flock) -> io::Result<()> {
    nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_OFD_SETLK(lock))?;
    Ok(())
}

/// Whether another open file description has any lock on the byte.
///
/// # Errors
///
/// The system's.
pub fn byte_locked_by_other(file: BorrowedFd<'_>, offset_bytes: u64) -> io::Result<bool> {
    let mut lock = byte_lock(libc::F_WRLCK, offset_bytes)?;
    nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(libc::c_int::from(lock.l_type) != libc::F_UNLCK)
}

fn byte_lock(kind: libc::c_int, offset_bytes: u64) -> io::Result<libc::flock> {
    let invalid = |_| io::Error::from_raw_os_error(libc::EINVAL);
    Ok(libc::flock {
        l_type: libc::c_short::try_from(kind).map_err(invalid)?,
        l_whence: libc::c_short::try_from(libc::SEEK_SET).map_err(invalid)?,
        l_start: offset(offset_bytes)?,
        l_len: 1,
        l_pid: 0,
    })
}
