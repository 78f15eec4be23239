//! Bytes moved, read or discarded by calls that nix does not offer.

// UNSAFETY: raw system calls. Each function borrows what it passes for the whole call.
#![expect(
    unsafe_code,
    reason = "calls the system directly where no safe wrapper exists"
)]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

use super::{check, offset};
use crate::op::Transfer;

/// Reads what is in memory already; `EAGAIN` if nothing is.
pub(crate) fn read_now(
    file: BorrowedFd<'_>,
    offset_bytes: u64,
    buf: &mut [u8],
) -> io::Result<usize> {
    let slice = libc::iovec {
        iov_base: buf.as_mut_ptr().cast(),
        iov_len: buf.len(),
    };
    let at = offset(offset_bytes)?;
    // SAFETY: `slice` describes `buf`; both are borrowed for the call.
    let count =
        unsafe { libc::preadv2(file.as_raw_fd(), &raw const slice, 1, at, libc::RWF_NOWAIT) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// `copy_file_range`. Blocks the calling thread.
pub(crate) fn copy_range(transfer: &Transfer) -> io::Result<usize> {
    let mut from = transfer.from_bytes.map(offset).transpose()?;
    let mut to = transfer.to_bytes.map(offset).transpose()?;
    // SAFETY: the offsets are null or live in this frame.
    let count = unsafe {
        libc::copy_file_range(
            transfer.from.as_raw_fd(),
            from.as_mut().map_or(ptr::null_mut(), ptr::from_mut),
            transfer.to.as_raw_fd(),
            to.as_mut().map_or(ptr::null_mut(), ptr::from_mut),
            transfer.len_bytes,
            0,
        )
    };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// `FICLONERANGE`: makes a range of one file share the blocks of another's. Blocks the calling thread.
///
/// A length of zero would mean "to the end" to the kernel; here it is nothing.
pub(crate) fn clone_range(transfer: &Transfer) -> io::Result<()> {
    const FICLONERANGE: libc::c_ulong = 0x4020_940d;
    if transfer.len_bytes == 0 {
        return Ok(());
    }
    let at = |offset_bytes: Option<u64>| offset(offset_bytes.unwrap_or(0));
    let request = CloneRange {
        from: i64::from(transfer.from.as_raw_fd()),
        from_bytes: at(transfer.from_bytes)?.cast_unsigned(),
        len_bytes: u64::try_from(transfer.len_bytes).map_err(io::Error::other)?,
        to_bytes: at(transfer.to_bytes)?.cast_unsigned(),
    };
    let to = transfer.to.as_raw_fd();
    // SAFETY: the request reads one `file_clone_range`, borrowed for the call.
    check(unsafe { libc::ioctl(to, FICLONERANGE, &raw const request) })?;
    Ok(())
}

/// `struct file_clone_range` of `linux/fs.h`.
#[repr(C)]
struct CloneRange {
    from: i64,
    from_bytes: u64,
    len_bytes: u64,
    to_bytes: u64,
}

/// `splice`. Blocks the calling thread while a pipe is empty, or full.
pub(crate) fn splice(transfer: &Transfer) -> io::Result<usize> {
    let mut from = transfer.from_bytes.map(offset).transpose()?;
    let mut to = transfer.to_bytes.map(offset).transpose()?;
    // SAFETY: the offsets are null or live in this frame.
    let count = unsafe {
        libc::splice(
            transfer.from.as_raw_fd(),
            from.as_mut().map_or(ptr::null_mut(), ptr::from_mut),
            transfer.to.as_raw_fd(),
            to.as_mut().map_or(ptr::null_mut(), ptr::from_mut),
            transfer.len_bytes,
            0,
        )
    };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Discards a range of a block device. Blocks the calling thread.
///
/// # Errors
///
/// The system's, `EOPNOTSUPP` among them where the device cannot discard.
pub fn discard_device(device: BorrowedFd<'_>, offset_bytes: u64, len_bytes: u64) -> io::Result<()> {
    const BLKDISCARD: libc::c_ulong = 0x1277;
    let range = [offset_bytes, len_bytes];
    // SAFETY: the request reads two u64, borrowed for the call.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKDISCARD, range.as_ptr()) })?;
    Ok(())
}
