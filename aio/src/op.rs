//! One operation for the kernel: everything it touches, owned until its completion.

use std::{io::IoSlice, mem, ops::Range, os::fd::OwnedFd};

use crate::{backend::MessageHeader, buf::IoBuf, fd::Fd};

/// Bytes of a [`SendPart::Header`].
pub const HEADER_BYTES_MAX: usize = 64;

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
}

impl Op {
    /// The descriptor the operation works on.
    pub(crate) fn fd(&self) -> &Fd {
        match self {
            Self::Read { file, .. }
            | Self::Write { file, .. }
            | Self::Sync { file, .. }
            | Self::Fallocate { file, .. } => file,
            Self::Poll { fd, .. } => fd,
            Self::Accept { listener } => listener,
            Self::Recv { socket, .. } | Self::Send { socket, .. } => socket,
        }
    }

    /// The `poll(2)` events to wait for when the operation cannot go on; none for those that block a thread.
    pub(crate) fn waits_for(&self) -> i16 {
        match self {
            Self::Poll { events, .. } => *events,
            Self::Accept { .. } | Self::Recv { .. } => libc::POLLIN,
            Self::Send { .. } => libc::POLLOUT,
            Self::Read { .. } | Self::Write { .. } | Self::Sync { .. } | Self::Fallocate { .. } => {
                0
            }
        }
    }
}

/// A piece of a message to send.
#[derive(Debug)]
pub enum SendPart {
    /// A few bytes kept in place: protocol headers.
    Header {
        /// The bytes; only the first `len` count.
        bytes: [u8; HEADER_BYTES_MAX],
        /// How many bytes count.
        len: u8,
    },
    /// A range of a buffer.
    Buf {
        /// The buffer, given back when all is sent.
        buf: IoBuf,
        /// Which of its bytes to send.
        range: Range<usize>,
    },
}

impl SendPart {
    /// A header of the given bytes.
    ///
    /// # Panics
    ///
    /// When there are more than [`HEADER_BYTES_MAX`].
    #[must_use]
    pub fn header(bytes: &[u8]) -> Self {
        let mut inline = [0; HEADER_BYTES_MAX];
        inline[..bytes.len()].copy_from_slice(bytes);
        Self::Header {
            bytes: inline,
            len: u8::try_from(bytes.len()).expect("a header is short"),
        }
    }

    /// All bytes in use of `buf`.
    #[must_use]
    pub fn whole(buf: IoBuf) -> Self {
        let range = 0..buf.len();
        Self::Buf { buf, range }
    }

    /// The bytes to send.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Header { bytes, len } => &bytes[..usize::from(*len)],
            Self::Buf { buf, range } => &buf[range.clone()],
        }
    }
}

/// A message on its way: its parts, and how much of it the kernel has taken.
#[derive(Debug)]
pub(crate) struct Message {
    parts: Vec<SendPart>,
    /// The first part that is not sent whole, and how many of its bytes are.
    next: (usize, usize),
    /// What the kernel is pointed to while it sends.
    header: MessageHeader,
}

impl Message {
    pub(crate) fn new(parts: Vec<SendPart>) -> Self {
        let mut message = Self {
            parts,
            next: (0, 0),
            header: MessageHeader::default(),
        };
        message.advance(0);
        message
    }

    pub(crate) fn into_parts(self) -> Vec<SendPart> {
        self.parts
    }

    /// Whether every byte has been taken.
    pub(crate) fn is_sent(&self) -> bool {
        self.next.0 == self.parts.len()
    }

    /// Notes that the kernel took `len` more bytes.
    pub(crate) fn advance(&mut self, len: usize) {
        let (mut part, mut sent) = self.next;
        sent += len;
        while let Some(bytes) = self
            .parts
            .get(part)
            .map(|part| part.bytes().len())
            .filter(|&bytes| sent >= bytes)
        {
            sent -= bytes;
            part += 1;
        }
        self.next = (part, sent);
    }

    /// Makes the header describe what is left to send. It stays valid until the next call, as long
    /// as the message stays in its box and its parts are not touched.
    pub(crate) fn prepare_header(&mut self) -> &MessageHeader {
        let mut header = mem::take(&mut self.header);
        header.describe(self);
        self.header = header;
        &self.header
    }

    /// What is left to send, in at most `most` slices.
    pub(crate) fn slices(&self, most: usize) -> impl Iterator<Item = IoSlice<'_>> {
        let (first, sent) = self.next;
        let parts = self.parts.iter().skip(first).map(SendPart::bytes);
        parts
            .enumerate()
            .map(move |(at, bytes)| IoSlice::new(if at == 0 { &bytes[sent..] } else { bytes }))
            .take(most)
    }
}

/// What a completed operation brings.
#[derive(Debug)]
pub(crate) enum Value {
    /// A number of bytes, or poll events, or nothing (zero).
    Count(u32),
    /// An accepted connection; dropping the value closes it.
    Accepted(OwnedFd),
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
    use super::{Key, Message, SendPart};
    use crate::buf::IoBuf;

    fn left(message: &Message) -> Vec<u8> {
        message
            .slices(99)
            .flat_map(|slice| slice.to_vec())
            .collect()
    }

    #[test]
    fn a_message_continues_where_the_kernel_stopped() {
        let mut buf = IoBuf::heap(4);
        buf.copy_from_slice(b"body");
        let parts = vec![
            SendPart::header(b""),
            SendPart::header(b"head"),
            SendPart::whole(buf),
            SendPart::header(b""),
        ];
        let mut message = Message::new(parts);

        assert_eq!(left(&message), b"headbody");
        message.advance(3);
        assert_eq!(left(&message), b"dbody");
        message.advance(1);
        assert_eq!(left(&message), b"body");
        message.advance(3);
        assert!(!message.is_sent());
        message.advance(1);
        assert!(message.is_sent());
    }

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
