//! A message to send: its parts, and how far it has come.

use std::{io::IoSlice, mem, ops::Range};

use crate::{backend::MessageHeader, buf::IoBuf};

/// Most bytes of a [`SendPart::Header`].
pub const HEADER_BYTES_MAX: usize = 64;

/// A piece of a message to [send](crate::AioContext::send). The bytes belong to the request until they
/// come back with its result.
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
        /// Which of its bytes to send; a range beyond the bytes in use panics.
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
    pub(crate) zero_copy: ZeroCopy,
}

/// Whether the kernel sends a message from where it is, instead of from a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ZeroCopy {
    No,
    Wanted,
    /// It has, with this result, and has yet to tell when it needs the bytes no more.
    Sent(i32),
}

impl Message {
    pub(crate) fn new(parts: Vec<SendPart>) -> Self {
        let mut message = Self {
            parts,
            next: (0, 0),
            header: MessageHeader::default(),
            zero_copy: ZeroCopy::No,
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

    /// Bytes of all parts.
    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.bytes().len()).sum()
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

#[cfg(test)]
mod tests {
    use super::{Message, SendPart};
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
}
