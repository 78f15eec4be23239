//! The requests of a context on sockets, and readiness.

use std::{io, net::SocketAddr, ops::Range, os::fd::AsFd, path::PathBuf};

use super::{count, done, new_fd};
use crate::{
    buf::IoBuf,
    context::AioContext,
    fd::Fd,
    op::{Connecting, Message, Op, SendPart, ZeroCopy},
    request::Request,
    sys::{self, SocketAddress},
};

/// Bytes from which a send without a copy is worth its cost.
pub const ZERO_COPY_BYTES_MIN: usize = 16 << 10;

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A socket in the file system.
    Unix(PathBuf),
    /// A port of a machine.
    Ip(SocketAddr),
}

/// Which readiness of a descriptor to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Something can be read, or the peer has gone.
    Readable,
    /// Something can be written, or the peer has gone.
    Writable,
}

/// For all of these see [what holds for every request](#impl-AioContext).
impl AioContext {
    /// Waits for a connection on `listener`.
    ///
    /// Dropping the future never loses a connection silently: one that was accepted too late is closed.
    ///
    /// # Errors
    ///
    /// The system's; `EMFILE` and `ENFILE` when no descriptor is left.
    pub async fn accept(&self, listener: &Fd) -> io::Result<Fd> {
        let op = Op::Accept {
            listener: listener.clone(),
        };
        Request::submit(self, op, |_, result| new_fd(result)).await
    }

    /// Connects a new stream socket to `address`.
    ///
    /// Dropping the future closes the socket. Where the kernel cannot tell when a listener of this
    /// machine has room in its queue, a worker waits for that, for a minute at most.
    ///
    /// # Errors
    ///
    /// The system's, `ECONNREFUSED` and `ETIMEDOUT` among them.
    pub async fn connect(&self, address: &Address) -> io::Result<Fd> {
        let address = match address {
            Address::Unix(path) => SocketAddress::unix(path)?,
            Address::Ip(address) => SocketAddress::ip(*address),
        };
        let socket = Fd::from(sys::new_socket(&address)?);
        let connecting = Connecting {
            address,
            begun: false,
        };
        let op = Op::Connect {
            socket: socket.clone(),
            connecting: Box::new(connecting),
        };
        let connected = Request::submit(self, op, done).await;
        connected.map(|()| socket)
    }

    /// Receives into the bytes `range` of `buf`, as many as there are, at least one.
    ///
    /// The buffer comes back in any case. Zero bytes mean that the peer has closed its side, or that
    /// the range is empty. Dropping the future may lose bytes that had arrived.
    ///
    /// # Errors
    ///
    /// The system's, `ECONNRESET` among them.
    ///
    /// # Panics
    ///
    /// When the range is not within the bytes in use of the buffer.
    pub async fn recv(
        &self,
        socket: &Fd,
        buf: IoBuf,
        range: Range<usize>,
    ) -> (IoBuf, io::Result<usize>) {
        let op = Op::Recv {
            socket: socket.clone(),
            buf,
            range,
        };
        Request::submit(self, op, |op, result| match op {
            Op::Recv { buf, .. } => (buf, count(result)),
            op => unreachable!("a receive comes back as a receive, not {op:?}"),
        })
        .await
    }

    /// Receives until the bytes `range` of `buf` are full.
    ///
    /// The buffer comes back in any case. Dropping the future loses the bytes that had arrived.
    ///
    /// # Errors
    ///
    /// The system's; [`io::ErrorKind::UnexpectedEof`] when the peer closes its side before that.
    ///
    /// # Panics
    ///
    /// As [`recv`](Self::recv).
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
        self.send_message(socket, Message::new(parts)).await
    }

    /// As [`send`](Self::send), and if the kernel can it sends the bytes from where they are, instead
    /// of from a copy of its own.
    ///
    /// That takes longer for small messages, so it is tried from [`ZERO_COPY_BYTES_MIN`] on, and
    /// only on TCP sockets. The first time the kernel says that it had to copy all the same, as it
    /// does between two sockets of one machine, this is `send` for that socket from then on. The
    /// parts come back when the kernel needs them no more: when the peer has acknowledged them.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub async fn send_zc(
        &self,
        socket: &Fd,
        parts: Vec<SendPart>,
    ) -> (Vec<SendPart>, io::Result<()>) {
        let mut message = Message::new(parts);
        if message.len() >= ZERO_COPY_BYTES_MIN && socket.takes_zero_copy() {
            message.zero_copy = ZeroCopy::Wanted;
        }
        self.send_message(socket, message).await
    }

    async fn send_message(&self, socket: &Fd, message: Message) -> (Vec<SendPart>, io::Result<()>) {
        let mut message = Box::new(message);
        while !message.is_sent() {
            let op = Op::Send {
                socket: socket.clone(),
                message,
            };
            let (back, result) = Request::submit(self, op, |op, result| match op {
                Op::Send { message, .. } => (message, result),
                op => unreachable!("a send comes back as a send, not {op:?}"),
            })
            .await;
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
    /// A [handler](Self::add_fd_handler) costs less where readiness is waited for again and again.
    ///
    /// # Errors
    ///
    /// The system's; `EPERM` for regular files, which have no readiness.
    pub async fn ready(&self, fd: &Fd, interest: Interest) -> io::Result<()> {
        let events = match interest {
            Interest::Readable => libc::POLLIN,
            Interest::Writable => libc::POLLOUT,
        };
        sys::check_pollable(fd.as_fd())?;
        let op = Op::Poll {
            fd: fd.clone(),
            events,
        };
        Request::submit(self, op, done).await
    }
}
