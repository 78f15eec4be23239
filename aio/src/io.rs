//! The requests of a context: reading and writing files here, the rest in the files below.

mod file;
mod socket;

use std::{io, ops::Range};

use crate::{
    buf::IoBuf,
    context::{AioContext, os_error},
    fd::Fd,
    op::{Call, Direction, Op, Outcome, Value},
    request::Request,
};

pub use file::RegisteredFile;
pub use socket::{Address, Interest, ZERO_COPY_BYTES_MIN};

/// What [`AioContext::fallocate`] does to a range. None of them changes the file's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FallocateMode {
    /// Deallocates: the range reads as zeroes and takes no space.
    PunchHole,
    /// The range reads as zeroes and stays, or becomes, allocated.
    ZeroRange,
    /// Allocates space; contents do not change.
    Allocate,
}

impl FallocateMode {
    fn bits(self) -> i32 {
        libc::FALLOC_FL_KEEP_SIZE
            | match self {
                Self::PunchHole => libc::FALLOC_FL_PUNCH_HOLE,
                Self::ZeroRange => libc::FALLOC_FL_ZERO_RANGE,
                Self::Allocate => 0,
            }
    }
}

fn count(result: Outcome) -> io::Result<usize> {
    match result {
        Ok(Value::Count(count)) => Ok(usize::try_from(count).expect("a 32-bit count fits")),
        Ok(Value::Fd(_)) => unreachable!("only what opens something brings a descriptor"),
        Err(errno) => Err(os_error(errno)),
    }
}

/// The end of what brings nothing.
fn done(_: Op, result: Outcome) -> io::Result<()> {
    count(result).map(drop)
}

fn new_fd(result: Outcome) -> io::Result<Fd> {
    match result {
        Ok(Value::Fd(fd)) => Ok(Fd::from(fd)),
        Ok(Value::Count(_)) => unreachable!("what opens something brings a descriptor"),
        Err(errno) => Err(os_error(errno)),
    }
}

/// Every request here begins when its future is first polled, and owns its buffer and a clone of
/// its descriptor until the kernel is done with both. **Dropping the future of a request abandons
/// its result and nothing else**: the request goes on, and a drop never frees, reuses or closes
/// what the kernel still works on. Requests that wait for a peer are cancelled then, as far as the
/// kernel can. `EINTR` and `EAGAIN` never reach the caller. All are for the home thread, and panic
/// on a context that has been closed, or in a forked child.
impl AioContext {
    /// Reads up to `buf.len()` bytes from `offset_bytes` of `file` into the start of `buf`.
    ///
    /// The buffer comes back in any case, with its length unchanged. Fewer bytes than asked for are an
    /// ordinary result, zero is the end of the file.
    ///
    /// # Errors
    ///
    /// The system's; `EINVAL` where the file is open for direct I/O, and offset, length or buffer are
    /// not aligned to what it asks for.
    pub fn read(
        &self,
        file: &Fd,
        offset_bytes: u64,
        buf: IoBuf,
    ) -> impl Future<Output = (IoBuf, io::Result<usize>)> {
        let range = 0..buf.len();
        self.read_part(file, offset_bytes, buf, range)
    }

    async fn read_part(
        &self,
        file: &Fd,
        offset_bytes: u64,
        buf: IoBuf,
        range: Range<usize>,
    ) -> (IoBuf, io::Result<usize>) {
        let op = Op::Read {
            file: file.clone(),
            offset_bytes,
            buf,
            range,
        };
        Request::submit(self, op, |op, result| match op {
            Op::Read { buf, .. } => (buf, count(result)),
            op => unreachable!("a read comes back as a read, not {op:?}"),
        })
        .await
    }

    /// Writes the bytes of `buf` at `offset_bytes` of `file`.
    ///
    /// The buffer comes back in any case. Fewer bytes than asked for are an ordinary result. The data
    /// is stable after [`fdatasync`](Self::fdatasync) only.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read), and `ENOSPC`.
    pub fn write(
        &self,
        file: &Fd,
        offset_bytes: u64,
        buf: IoBuf,
    ) -> impl Future<Output = (IoBuf, io::Result<usize>)> {
        let range = 0..buf.len();
        self.write_part(file, offset_bytes, buf, range)
    }

    async fn write_part(
        &self,
        file: &Fd,
        offset_bytes: u64,
        buf: IoBuf,
        range: Range<usize>,
    ) -> (IoBuf, io::Result<usize>) {
        let op = Op::Write {
            file: file.clone(),
            offset_bytes,
            buf,
            range,
        };
        Request::submit(self, op, |op, result| match op {
            Op::Write { buf, .. } => (buf, count(result)),
            op => unreachable!("a write comes back as a write, not {op:?}"),
        })
        .await
    }

    /// Reads into `bufs`, one after the other, from `offset_bytes` of `file`: one request, as `preadv(2)`.
    ///
    /// The buffers come back in any case. Fewer bytes than asked for are an ordinary result; a
    /// request takes at most 1024 buffers.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read); `EINVAL` for more buffers than that.
    pub async fn read_vectored(
        &self,
        file: &Fd,
        offset_bytes: u64,
        bufs: Vec<IoBuf>,
    ) -> (Vec<IoBuf>, io::Result<usize>) {
        self.vectored(Direction::Read, file, offset_bytes, bufs)
            .await
    }

    /// Writes the bytes of `bufs`, one after the other, at `offset_bytes` of `file`: one request, as
    /// `pwritev(2)`.
    ///
    /// The buffers come back in any case. Fewer bytes than asked for are an ordinary result; a
    /// request takes at most 1024 buffers.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write); `EINVAL` for more buffers than that.
    pub async fn write_vectored(
        &self,
        file: &Fd,
        offset_bytes: u64,
        bufs: Vec<IoBuf>,
    ) -> (Vec<IoBuf>, io::Result<usize>) {
        self.vectored(Direction::Write, file, offset_bytes, bufs)
            .await
    }

    async fn vectored(
        &self,
        direction: Direction,
        file: &Fd,
        offset_bytes: u64,
        bufs: Vec<IoBuf>,
    ) -> (Vec<IoBuf>, io::Result<usize>) {
        let call = Call::Vectored {
            direction,
            file: file.clone(),
            offset_bytes,
            bufs,
            slices: Default::default(),
        };
        let (call, result) = self.call(call).await;
        match *call {
            Call::Vectored { bufs, .. } => (bufs, count(result)),
            call => unreachable!("a call comes back as it was, not {call:?}"),
        }
    }

    /// Fills `buf` from `offset_bytes` of `file`, however many requests that takes.
    ///
    /// The buffer comes back in any case; after an error its contents mean nothing.
    ///
    /// # Errors
    ///
    /// The system's; [`io::ErrorKind::UnexpectedEof`] when the file ends before the buffer does.
    pub async fn read_exact(
        &self,
        file: &Fd,
        offset_bytes: u64,
        mut buf: IoBuf,
    ) -> (IoBuf, io::Result<()>) {
        let (mut done, len) = (0, buf.len());
        while done < len {
            let at = offset_bytes + as_offset(done);
            let (back, result) = self.read_part(file, at, buf, done..len).await;
            buf = back;
            match result {
                Ok(0) => return (buf, Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => done += count,
                Err(error) => return (buf, Err(error)),
            }
        }
        (buf, Ok(()))
    }

    /// Writes all bytes of `buf` at `offset_bytes` of `file`, however many requests that takes.
    ///
    /// The buffer comes back in any case; after an error, or when the future was dropped, any part may
    /// have been written.
    ///
    /// # Errors
    ///
    /// The system's; [`io::ErrorKind::WriteZero`] when the file takes no more.
    pub async fn write_all(
        &self,
        file: &Fd,
        offset_bytes: u64,
        mut buf: IoBuf,
    ) -> (IoBuf, io::Result<()>) {
        let (mut done, len) = (0, buf.len());
        while done < len {
            let at = offset_bytes + as_offset(done);
            let (back, result) = self.write_part(file, at, buf, done..len).await;
            buf = back;
            match result {
                Ok(0) => return (buf, Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => done += count,
                Err(error) => return (buf, Err(error)),
            }
        }
        (buf, Ok(()))
    }

    /// Makes the data of `file` that was written before stable.
    ///
    /// # Errors
    ///
    /// The system's. After a failure the data is in an unknown state: a later success does not undo it.
    pub async fn fdatasync(&self, file: &Fd) -> io::Result<()> {
        self.sync(file.clone(), true).await
    }

    /// Makes the data and the metadata of `file` stable.
    ///
    /// # Errors
    ///
    /// As [`fdatasync`](Self::fdatasync).
    pub async fn fsync(&self, file: &Fd) -> io::Result<()> {
        self.sync(file.clone(), false).await
    }

    #[expect(
        clippy::fn_params_excessive_bools,
        reason = "the operation's own field, private to this file"
    )]
    async fn sync(&self, file: Fd, data_only: bool) -> io::Result<()> {
        Request::submit(self, Op::Sync { file, data_only }, done).await
    }

    /// Allocates, zeroes or punches a range of `file`, in bytes, as `fallocate(2)` does.
    ///
    /// # Errors
    ///
    /// The system's, `EOPNOTSUPP` among them where the file system cannot.
    pub async fn fallocate(
        &self,
        file: &Fd,
        mode: FallocateMode,
        offset_bytes: u64,
        len_bytes: u64,
    ) -> io::Result<()> {
        let op = Op::Fallocate {
            file: file.clone(),
            mode: mode.bits(),
            offset_bytes,
            len_bytes,
        };
        Request::submit(self, op, done).await
    }
}

/// A count of bytes in a buffer as an offset.
fn as_offset(len: usize) -> u64 {
    u64::try_from(len).expect("a length fits an offset")
}
