//! One operation for the kernel: everything it touches, owned until its completion.

mod call;
mod message;

use std::{ops::Range, os::fd::OwnedFd};

pub(crate) use call::{Call, Direction, Transfer};
pub use message::{HEADER_BYTES_MAX, SendPart};
pub(crate) use message::{Message, ZeroCopy};

use crate::{buf::IoBuf, fd::Fd, sys::SocketAddress};

/// An operation with all that the kernel may touch on its behalf.
///
/// The table of requests keeps this value from submission to completion; only a worker that runs the
/// operation takes it out meanwhile. Memory the kernel is told of lives behind a pointer (`IoBuf`,
/// `Box`, `Vec`), so moving the value, when the table grows, is harmless.
#[derive(Debug)]
pub(crate) enum Op {
    /// Reads into the bytes `range` of `buf` from `offset_bytes` of `file`.
    Read {
        file: Fd,
        offset_bytes: u64,
        buf: IoBuf,
        range: Range<usize>,
    },
    /// Writes the bytes `range` of `buf` at `offset_bytes` of `file`.
    Write {
        file: Fd,
        offset_bytes: u64,
        buf: IoBuf,
        range: Range<usize>,
    },
    /// `fdatasync`, or `fsync` with the metadata.
    Sync { file: Fd, data_only: bool },
    /// `fallocate` with the mode's bits.
    Fallocate {
        file: Fd,
        mode: i32,
        offset_bytes: u64,
        len_bytes: u64,
    },
    /// Waits for any of the `poll(2)` events.
    Poll { fd: Fd, events: i16 },
    /// Accepts a connection.
    Accept { listener: Fd },
    /// Receives into the bytes `range` of `buf`.
    Recv {
        socket: Fd,
        buf: IoBuf,
        range: Range<usize>,
    },
    /// Sends what is left of a message.
    Send { socket: Fd, message: Box<Message> },
    /// Connects a socket.
    Connect {
        socket: Fd,
        connecting: Box<Connecting>,
    },
    /// What is asked for now and then.
    Call(Box<Call>),
}

/// Where to connect to, and how far that is.
#[derive(Debug)]
pub(crate) struct Connecting {
    pub(crate) address: SocketAddress,
    /// It was tried before, so that "connected already" is success.
    pub(crate) begun: bool,
}

impl Op {
    /// The descriptor the operation works on, the first if there are two; none if it opens one.
    pub(crate) fn fd(&self) -> Option<&Fd> {
        match self {
            Self::Read { file, .. }
            | Self::Write { file, .. }
            | Self::Sync { file, .. }
            | Self::Fallocate { file, .. } => Some(file),
            Self::Poll { fd, .. } => Some(fd),
            Self::Accept { listener } => Some(listener),
            Self::Recv { socket, .. }
            | Self::Send { socket, .. }
            | Self::Connect { socket, .. } => Some(socket),
            Self::Call(call) => call.fd(),
        }
    }

    /// The `poll(2)` events to wait for when the operation cannot go on; none for those that block a thread.
    pub(crate) fn waits_for(&self) -> i16 {
        match self {
            Self::Poll { events, .. } => *events,
            Self::Accept { .. } | Self::Recv { .. } => libc::POLLIN,
            Self::Send { .. } | Self::Connect { .. } => libc::POLLOUT,
            Self::Read { .. }
            | Self::Write { .. }
            | Self::Sync { .. }
            | Self::Fallocate { .. }
            | Self::Call(_) => 0,
        }
    }

    /// Whether it may wait for ever, so that it is cancelled when nobody waits for it. Storage
    /// requests run to their end.
    pub(crate) fn waits_for_peer(&self) -> bool {
        self.waits_for() != 0
            || matches!(self, Self::Call(call) if matches!(**call, Call::Splice(_)))
    }

    /// Whether its value is a descriptor.
    pub(crate) fn brings_fd(&self) -> bool {
        matches!(self, Self::Accept { .. })
            || matches!(self, Self::Call(call) if matches!(**call, Call::Open { .. }))
    }
}

/// What a completed operation brings.
#[derive(Debug)]
pub(crate) enum Value {
    /// A number of bytes, or poll events, or nothing (zero).
    Count(u32),
    /// A new descriptor; dropping the value closes it.
    Fd(OwnedFd),
}

/// How an operation ended: its value, or the system's error number.
pub(crate) type Outcome = Result<Value, i32>;

/// The end of an operation that a worker has run: its key, what it owned, and how it ended.
#[derive(Debug)]
pub(crate) struct Completion {
    pub(crate) key: Key,
    pub(crate) op: Op,
    pub(crate) result: Outcome,
}

/// Names something in a table: its place there, and the generation that tells it from earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl Key {
    /// Generations pass through the kernel in so many bits; the rest tells what kind of thing is meant.
    const GENERATION_BITS: u32 = 30;

    /// The generation after `generation`, never zero.
    pub(crate) fn next_generation(generation: u32) -> u32 {
        let next = (generation + 1) % (1 << Self::GENERATION_BITS);
        next.max(1)
    }

    /// The key as the low 62 of the bits that travel through the kernel.
    pub(crate) fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The key that [`Self::to_bits`] made.
    pub(crate) fn from_bits(bits: u64) -> Self {
        let index = u32::try_from(bits & u64::from(u32::MAX)).expect("masked to 32 bits");
        let generation = bits >> 32 & ((1 << Self::GENERATION_BITS) - 1);
        let generation = u32::try_from(generation).expect("masked to 30 bits");
        Self { index, generation }
    }

    /// The place in a table.
    pub(crate) fn at(self) -> usize {
        usize::try_from(self.index).expect("a 32-bit index fits")
    }
}

/// Names a descriptor that a backend watches. Its index is small, and used by one watch at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WatchKey(pub(crate) Key);

#[cfg(test)]
mod tests {
    use super::Key;

    #[test]
    fn a_key_survives_the_kernel() {
        let key = Key {
            index: 7,
            generation: (1 << 30) - 1,
        };
        assert_eq!(Key::next_generation(key.generation), 1);
        assert_eq!(Key::from_bits(key.to_bits()), key);
    }
}
