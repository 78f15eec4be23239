//! What is asked of a file system for a file that is being made. All of it may block the calling thread.

// UNSAFETY: raw system calls. Each function borrows what it passes for the whole call.
#![expect(
    unsafe_code,
    reason = "calls the system directly where no safe wrapper exists"
)]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use super::{check, offset};

/// Reserves space for the first bytes of a file, which gets at least that long.
///
/// # Errors
///
/// The system's.
pub fn reserve_space(file: BorrowedFd<'_>, len_bytes: u64) -> io::Result<()> {
    nix::fcntl::posix_fallocate(file, 0, offset(len_bytes)?)?;
    Ok(())
}

/// Has the file system overwrite the blocks of an empty file in place, where it would copy them (Btrfs).
///
/// # Errors
///
/// The system's; `ENOTTY` and `EOPNOTSUPP` where there is no such choice.
pub fn overwrite_in_place(file: BorrowedFd<'_>) -> io::Result<()> {
    const FS_IOC_GETFLAGS: libc::c_ulong = 0x8008_6601;
    const FS_IOC_SETFLAGS: libc::c_ulong = 0x4008_6602;
    const FS_NOCOW_FL: libc::c_int = 0x0080_0000;
    // The kernel knows an int here, whatever the number of the request says.
    let mut flags: [libc::c_int; 2] = [0; 2];
    // SAFETY: the request writes one int, or one long at most, of `flags`, borrowed for the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_GETFLAGS, flags.as_mut_ptr()) })?;
    flags[0] |= FS_NOCOW_FL;
    // SAFETY: as above, for reading.
    check(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_SETFLAGS, flags.as_ptr()) })?;
    Ok(())
}

/// Tells the file system in which units to give space to an empty file (XFS).
///
/// # Errors
///
/// The system's; `ENOTTY` and `EOPNOTSUPP` where there is no such choice.
pub fn set_extent_size_hint(file: BorrowedFd<'_>, hint_bytes: u32) -> io::Result<()> {
    const FS_IOC_FSGETXATTR: libc::c_ulong = 0x801c_581f;
    const FS_IOC_FSSETXATTR: libc::c_ulong = 0x401c_5820;
    const FS_XFLAG_EXTSIZE: u32 = 0x800;
    // `struct fsxattr` of `linux/fs.h`: flags, the hint, and five words that stay as they are.
    let mut attributes = [0_u32; 7];
    // SAFETY: the request writes 28 bytes, which `attributes` has, borrowed for the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSGETXATTR, attributes.as_mut_ptr()) })?;
    attributes[0] |= FS_XFLAG_EXTSIZE;
    attributes[1] = hint_bytes;
    // SAFETY: as above, for reading.
    check(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSSETXATTR, attributes.as_ptr()) })?;
    Ok(())
}
