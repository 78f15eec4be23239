//! The requests of a context that open, look at, copy and discard files, and files it knows well.

use std::{ffi::CString, io, os::unix::ffi::OsStrExt, path::Path};

use super::{count, new_fd};
use crate::{
    context::AioContext,
    fd::Fd,
    op::{Call, Op, Outcome, Transfer},
    request::Request,
    sys::{FileStatus, StatusBuffer},
};

/// Copies and splices move at most so many bytes at once; the count they bring says how many it were.
const TRANSFER_BYTES_MAX: u64 = 1 << 30;

fn transfer(from: (&Fd, Option<u64>), to: (&Fd, Option<u64>), len_bytes: u64) -> Transfer {
    let len_bytes = usize::try_from(len_bytes.min(TRANSFER_BYTES_MAX));
    Transfer {
        from: from.0.clone(),
        from_bytes: from.1,
        to: to.0.clone(),
        to_bytes: to.1,
        len_bytes: len_bytes.expect("a GiB fits"),
    }
}

impl AioContext {
    pub(super) async fn call(&self, call: Call) -> (Box<Call>, Outcome) {
        let op = Op::Call(Box::new(call));
        Request::submit(self, op, |op, result| match op {
            Op::Call(call) => (call, result),
            op => unreachable!("a call comes back as a call, not {op:?}"),
        })
        .await
    }

    /// Opens `path`: in `folder`, or in the current folder, if it is relative.
    ///
    /// `flags` and `mode` are those of `open(2)`; the descriptor is closed on exec in any case.
    /// Dropping the future loses no descriptor: one that is opened too late is closed.
    ///
    /// # Errors
    ///
    /// The system's; `EINVAL` too for a path with a zero byte.
    pub async fn open_at(
        &self,
        folder: Option<&Fd>,
        path: &Path,
        flags: i32,
        mode: u32,
    ) -> io::Result<Fd> {
        let call = Call::Open {
            folder: folder.cloned(),
            path: CString::new(path.as_os_str().as_bytes())?,
            flags: flags | libc::O_CLOEXEC,
            mode,
        };
        new_fd(self.call(call).await.1)
    }

    /// What `file` is, and how it is best read and written.
    ///
    /// # Errors
    ///
    /// The system's.
    pub async fn file_status(&self, file: &Fd) -> io::Result<FileStatus> {
        let call = Call::Status {
            file: file.clone(),
            status: StatusBuffer::new(),
        };
        let (call, result) = self.call(call).await;
        count(result)?;
        match *call {
            Call::Status { status, .. } => Ok(status.status()),
            call => unreachable!("a call comes back as it was, not {call:?}"),
        }
    }

    /// Copies up to `len_bytes` from one place to another without bringing them here:
    /// `copy_file_range(2)`, which shares the blocks where the file system can.
    ///
    /// Returns how many bytes were copied. Fewer than asked for are an ordinary result, zero is the
    /// end of the file.
    ///
    /// # Errors
    ///
    /// The system's, `EXDEV`, `EOPNOTSUPP` and `EINVAL` among them where it cannot.
    pub async fn copy_file_range(
        &self,
        (from, from_bytes): (&Fd, u64),
        (to, to_bytes): (&Fd, u64),
        len_bytes: u64,
    ) -> io::Result<usize> {
        let call = transfer((from, Some(from_bytes)), (to, Some(to_bytes)), len_bytes);
        count(self.call(Call::Copy(call)).await.1)
    }

    /// Makes `len_bytes` of one file share the blocks of another (`FICLONERANGE`), all of them or an
    /// error: no data moves, and what is written to either later is its own again.
    ///
    /// The file systems that can do so (XFS, Btrfs) want offsets and length to be multiples of
    /// their block size, but for a range that ends where its file does. Whatever is dirty in the page
    /// cache is written first, and requests on either file wait meanwhile. A worker makes the
    /// call; dropping the future neither cancels it nor lets go of the descriptors before it returns.
    ///
    /// # Errors
    ///
    /// The system's: `EOPNOTSUPP` where blocks cannot be shared, `EXDEV` between two file systems,
    /// `EINVAL` for a range that is unaligned, past the end, or overlaps itself.
    pub async fn clone_file_range(
        &self,
        (from, from_bytes): (&Fd, u64),
        (to, to_bytes): (&Fd, u64),
        len_bytes: u64,
    ) -> io::Result<()> {
        let too_long = |_| io::Error::from_raw_os_error(libc::EFBIG);
        let call = Transfer {
            from: from.clone(),
            from_bytes: Some(from_bytes),
            to: to.clone(),
            to_bytes: Some(to_bytes),
            len_bytes: usize::try_from(len_bytes).map_err(too_long)?,
        };
        count(self.call(Call::Clone(call)).await.1).map(drop)
    }

    /// Moves up to `len_bytes` between a pipe and something else: `splice(2)`. A pipe has no offset.
    ///
    /// Returns how many bytes were moved. It waits while the pipe is empty, or full; dropping the
    /// future may lose bytes then. Without a ring a worker does the waiting, whom
    /// [`close`](Self::close) waits for: end it by closing the other end of the pipe.
    ///
    /// # Errors
    ///
    /// The system's.
    pub async fn splice(
        &self,
        from: (&Fd, Option<u64>),
        to: (&Fd, Option<u64>),
        len_bytes: u64,
    ) -> io::Result<usize> {
        let call = transfer(from, to, len_bytes);
        count(self.call(Call::Splice(call)).await.1)
    }

    /// Tells a block device that a range of it is not needed any more.
    ///
    /// # Errors
    ///
    /// The system's; `EOPNOTSUPP` for what is no block device, or one that cannot.
    pub async fn discard(&self, device: &Fd, offset_bytes: u64, len_bytes: u64) -> io::Result<()> {
        let call = Call::Discard {
            device: device.clone(),
            offset_bytes,
            len_bytes,
        };
        count(self.call(call).await.1).map(drop)
    }

    /// Makes the kernel know `file` in advance, where it can: requests on this [`Fd`] and its clones
    /// cost less then, for as long as the guard lives.
    ///
    /// One context at a time knows a file. Where that is not possible, or the table is full, the
    /// guard does nothing.
    ///
    /// # Panics
    ///
    /// When the context has been closed.
    pub fn register_file(&self, file: &Fd) -> RegisteredFile {
        let place = self.requests().borrow_mut().register_file(file);
        RegisteredFile {
            context: self.clone(),
            file: file.clone(),
            place,
        }
    }

    /// Bounds how many requests gather before the kernel is told of them; zero, the default, is as
    /// many as the ring's submission queue holds. May be changed at any time.
    ///
    /// # Panics
    ///
    /// When the context has been closed.
    pub fn set_max_batch(&self, requests: u32) {
        self.requests().borrow_mut().set_max_batch(requests);
    }
}

/// A file that the kernel knows in advance; made by [`AioContext::register_file`].
///
/// For the home thread. Dropping it ends that, as soon as no request in flight goes by it any more.
#[derive(Debug)]
#[must_use = "the file is registered for as long as this lives"]
pub struct RegisteredFile {
    context: AioContext,
    file: Fd,
    place: Option<u16>,
}

impl RegisteredFile {
    /// Whether the kernel does know the file.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        self.place.is_some()
    }
}

impl Drop for RegisteredFile {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            let mut requests = self.context.requests().borrow_mut();
            requests.unregister_file(&self.file, place);
        }
    }
}
