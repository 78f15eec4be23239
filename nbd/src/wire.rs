//! Magic numbers, and the few helpers that put bytes together and take them
//! apart; all numbers are big-endian.

use std::fmt;
use std::ops::Deref;

/// Opens the greeting: `NBDMAGIC`.
pub(crate) const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Follows in the greeting and opens each option: `IHAVEOPT`.
pub(crate) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Opens each reply to an option.
pub(crate) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Opens a request.
pub(crate) const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Opens a request with an extended header.
pub(crate) const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// Opens a simple reply.
pub(crate) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Opens a chunk of a structured reply.
pub(crate) const CHUNK_MAGIC: u32 = 0x668e_33ef;
/// Opens a chunk with an extended header.
pub(crate) const EXTENDED_CHUNK_MAGIC: u32 = 0x6e8a_278c;

/// Handshake flag, and its echo by the client: fixed newstyle.
pub(crate) const FIXED_NEWSTYLE: u16 = 1 << 0;
/// Handshake flag, and its echo by the client: no 124 zeroes.
pub(crate) const NO_ZEROES: u16 = 1 << 1;
/// The padding after the answer to `EXPORT_NAME`, unless negotiated away.
pub(crate) const EXPORT_NAME_ZEROES: usize = 124;

/// Longest string of the protocol (names, descriptions, messages), in bytes.
pub const MAX_STRING_BYTES: usize = 4096;

/// Longest header made here: an error chunk with text and offset, rounded up.
const MAX_HEADER_BYTES: usize = 112;

/// A header ready to send, kept inline so that a reply costs no allocation.
///
/// Dereferences to its bytes.
#[derive(Clone, Copy)]
#[must_use = "a header that is not sent is a lost message"]
pub struct HeaderBytes {
    bytes: [u8; MAX_HEADER_BYTES],
    len: usize,
}

impl HeaderBytes {
    pub(crate) const fn new() -> Self {
        Self {
            bytes: [0; MAX_HEADER_BYTES],
            len: 0,
        }
    }

    /// Appends `part`; every header made here fits by its definition.
    pub(crate) fn with(mut self, part: &[u8]) -> Self {
        let end = self.len + part.len();
        self.bytes[self.len..end].copy_from_slice(part);
        self.len = end;
        self
    }
}

impl Deref for HeaderBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl AsRef<[u8]> for HeaderBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for HeaderBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HeaderBytes").field(&&self[..]).finish()
    }
}

impl PartialEq for HeaderBytes {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl Eq for HeaderBytes {}

/// Takes numbers and strings off the front of a message; `None` means that
/// the message is shorter than it claims.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*head)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A string after its 32-bit length.
    pub(crate) fn counted(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.bytes(usize::try_from(len).ok()?)
    }

    /// What has not been taken.
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

/// Appends `text` after its 32-bit length.
///
/// Text longer than the protocol's strings is cut, so the length always fits.
pub(crate) fn put_counted(out: &mut Vec<u8>, text: &[u8]) {
    let text = &text[..text.len().min(MAX_STRING_BYTES)];
    out.extend_from_slice(&len_u32(text.len()).to_be_bytes());
    out.extend_from_slice(text);
}

/// A length of a message made here, which is bounded far below 4 GiB.
pub(crate) fn len_u32(len: usize) -> u32 {
    u32::try_from(len).expect("messages made here are bounded to some kilobytes")
}

/// Moves bytes from `input` to `gathered` until it holds `need`; says whether
/// it does.
pub(crate) fn gather(gathered: &mut Vec<u8>, need: usize, input: &mut &[u8]) -> bool {
    let missing = need.saturating_sub(gathered.len()).min(input.len());
    let (head, rest) = input.split_at(missing);
    gathered.extend_from_slice(head);
    *input = rest;
    gathered.len() >= need
}

/// Text from a peer made fit for a terminal or a log: valid, one line, short.
pub(crate) fn display_text(bytes: &[u8]) -> String {
    let bytes = &bytes[..bytes.len().min(MAX_STRING_BYTES)];
    String::from_utf8_lossy(bytes)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
