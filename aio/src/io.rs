//! The requests of a context: disk, sockets, readiness.

use std::{io, ops::Range, os::fd::AsFd};

use crate::{
    buf::IoBuf,
    context::{AioContext, os_error},
    fd::Fd,
    op::{Message, Op, SendPart, Value},
    request::Request,
};

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

/// Which readiness of a descriptor to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Something can be read, or the peer has gone.
    Readable,
    /// Something can be written, or the peer has gone.
    Writable,
}

fn count(result: Result<Value, i32>) -> io::Result<usize> {
    match result {
        Ok(Value::Count(count)) => Ok(usize::try_from(count).expect("a 32-bit count fits")),
        Ok(Value::Accepted(_)) => unreachable!("only an accept brings a descriptor"),
        Err(errno) => Err(os_error(errno)),
    }
}

/// Every request here owns its buffer and a clone of its descriptor until the kernel is done with
/// both. **Dropping the future of a request abandons its result and nothing else**: the request goes
/// on, and a drop never frees, reuses or closes what the kernel still works on. Requests that wait
/// for a peer are cancelled then, as far as the kernel can. `EINTR` and `EAGAIN` never reach the
/// caller. All are for the home thread.
impl AioContext {
    /// Reads up to `buf.len()` bytes from `offset_bytes` of `file` into the start of `buf`.
    ///
    /// The buffer comes back in any case. Fewer bytes than asked for are an ordinary result, zero
    /// is the end of the file.
    pub async fn read(
        &self,
        file: &Fd,
        offset_bytes: u64,
        buf: IoBuf,
    ) -> (IoBuf, io::Result<usize>) {
        let range = 0..buf.len();
        self.read_part(file, offset_bytes, buf, range).await
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
        match Request::submit(self, op).await {
            (Op::Read { buf, .. }, result) => (buf, count(result)),
            (op, _) => unreachable!("a read comes back as a read, not {op:?}"),
        }
    }

    /// Writes the bytes of `buf` at `offset_bytes` of `file`.
    ///
    /// The buffer comes back in any case. Fewer bytes than asked for are an ordinary result.
    pub async fn write(
        &self,
        file: &Fd,
        offset_bytes: u64,
        buf: IoBuf,
    ) -> (IoBuf, io::Result<usize>) {
        let range = 0..buf.len();
        self.write_part(file, offset_bytes, buf, range).await
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
        match Request::submit(self, op).await {
            (Op::Write { buf, .. }, result) => (buf, count(result)),
            (op, _) => unreachable!("a write comes back as a write, not {op:?}"),
        }
    }

    /// Fills `buf` from `offset_bytes` of `file`, however many requests that takes.
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
        count(Request::submit(self, Op::Sync { file, data_only }).await.1).map(drop)
    }

    /// Allocates, zeroes or punches a range of `file`, in bytes.
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
        count(Request::submit(self, op).await.1).map(drop)
    }

    /// Waits for a connection on `listener`.
    ///
    /// Dropping the future never loses a connection silently: one that was accepted too late is closed.
    ///
    /// # Errors
    ///
    /// The system's; `EMFILE` and `ENFILE` when no descriptor is left.
    pub async fn accept(&self, listener: &Fd) -> io::Result<Fd> {
        match Request::submit(
            self,
            Op::Accept {
                listener: listener.clone(),
            },
        )
        .await
        .1
        {
            Ok(Value::Accepted(fd)) => Ok(Fd::from(fd)),
            Ok(Value::Count(_)) => unreachable!("an accept brings a descriptor"),
            Err(errno) => Err(os_error(errno)),
        }
    }

    /// Receives into the bytes `range` of `buf`, as many as there are, at least one.
    ///
    /// The buffer comes back in any case. Zero bytes mean that the peer has closed its side.
    /// Dropping the future may lose bytes that had arrived.
    pub async fn recv(
        &self,
        socket: &Fd,
        buf: IoBuf,
        range: Range<usize>,
    ) -> (IoBuf, io::Result<usize>) {
        match Request::submit(
            self,
            Op::Recv {
                socket: socket.clone(),
                buf,
                range,
            },
        )
        .await
        {
            (Op::Recv { buf, .. }, result) => (buf, count(result)),
            (op, _) => unreachable!("a receive comes back as a receive, not {op:?}"),
        }
    }

    /// Receives until the bytes `range` of `buf` are full.
    ///
    /// # Errors
    ///
    /// The system's; [`io::ErrorKind::UnexpectedEof`] when the peer closes its side before that.
    pub async fn recv_exact(
        &self,
        socket: &Fd,
        mut buf: IoBuf,
        range: Range<usize>,
    ) -> (IoBuf, io::Result<()>) {
        let Range { mut start, end } = range;
        while start < end {
            let (back, result) = self.recv(socket, buf, start..end).await;
            buf = back;
            match result {
                Ok(0) => return (buf, Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => start += count,
                Err(error) => return (buf, Err(error)),
            }
        }
        (buf, Ok(()))
    }

    /// Sends all parts, in order, as one message.
    ///
    /// The parts come back in any case. Two sends on one socket at once would mix their bytes:
    /// the caller keeps them apart. Dropping the future leaves part of the message sent.
    ///
    /// # Errors
    ///
    /// The system's, `EPIPE` among them when the peer has gone.
    pub async fn send(&self, socket: &Fd, parts: Vec<SendPart>) -> (Vec<SendPart>, io::Result<()>) {
        let mut message = Box::new(Message::new(parts));
        while !message.is_sent() {
            let op = Op::Send {
                socket: socket.clone(),
                message,
            };
            let (op, result) = Request::submit(self, op).await;
            let Op::Send { message: back, .. } = op else {
                unreachable!("a send comes back as a send, not {op:?}")
            };
            message = back;
            match count(result) {
                Ok(count) => message.advance(count),
                Err(error) => return (message.into_parts(), Err(error)),
            }
        }
        (message.into_parts(), Ok(()))
    }

    /// Waits until `fd` is ready. Level-triggered: it is ready at once for as long as it stays so.
    ///
    /// # Errors
    ///
    /// The system's; `EPERM` for regular files, which have no readiness.
    pub async fn ready(&self, fd: &Fd, interest: Interest) -> io::Result<()> {
        let events = match interest {
            Interest::Readable => libc::POLLIN,
            Interest::Writable => libc::POLLOUT,
        };
        crate::sys::check_pollable(fd.as_fd())?;
        count(
            Request::submit(
                self,
                Op::Poll {
                    fd: fd.clone(),
                    events,
                },
            )
            .await
            .1,
        )
        .map(drop)
    }
}

/// A count of bytes in a buffer as an offset.
fn as_offset(len: usize) -> u64 {
    u64::try_from(len).expect("a length fits an offset")
}
