//! Operations that are asked for now and then: boxed, so that they do not make the others larger.

use std::ffi::CString;

use crate::{backend::Slices, buf::IoBuf, fd::Fd, sys::StatusBuffer};

/// An operation that is asked for now and then.
#[derive(Debug)]
pub(crate) enum Call {
    /// Reads or writes several buffers at once.
    Vectored {
        direction: Direction,
        file: Fd,
        offset_bytes: u64,
        bufs: Vec<IoBuf>,
        /// What the kernel is pointed to meanwhile.
        slices: Slices,
    },
    /// `statx` of an open file.
    Status { file: Fd, status: StatusBuffer },
    /// `openat`, of the current folder if no other is given.
    Open {
        folder: Option<Fd>,
        path: CString,
        flags: i32,
        mode: u32,
    },
    /// `copy_file_range`.
    Copy(Transfer),
    /// `FICLONERANGE`.
    Clone(Transfer),
    /// `splice`.
    Splice(Transfer),
    /// Discards a range of a block device.
    Discard {
        device: Fd,
        offset_bytes: u64,
        len_bytes: u64,
    },
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

/// Bytes on their way from one descriptor to another. A pipe has no offset.
#[derive(Debug)]
pub(crate) struct Transfer {
    pub(crate) from: Fd,
    pub(crate) from_bytes: Option<u64>,
    pub(crate) to: Fd,
    pub(crate) to_bytes: Option<u64>,
    pub(crate) len_bytes: usize,
}

impl Call {
    /// The descriptor it works on, the first if there are two; none if it opens one.
    pub(super) fn fd(&self) -> Option<&Fd> {
        match self {
            Self::Vectored { file, .. } | Self::Status { file, .. } => Some(file),
            Self::Open { folder, .. } => folder.as_ref(),
            Self::Copy(transfer) | Self::Clone(transfer) | Self::Splice(transfer) => {
                Some(&transfer.from)
            }
            Self::Discard { device, .. } => Some(device),
        }
    }

    /// Points the kernel to the buffers, as far as one call takes them.
    pub(crate) fn prepare_slices(&mut self) -> Option<&Slices> {
        let Self::Vectored { bufs, slices, .. } = self else {
            return None;
        };
        slices.point_to(bufs);
        Some(slices)
    }
}
