//! Replies of the transmission phase: headers as a server makes them, and
//! [`Reply`] as a client reads them.
//!
//! ```text
//! simple   magic u32  error u32  cookie u64                  [data of a read]
//! chunk    magic u32  flags u16  type u16  cookie u64  length u32   payload
//!            payload of OFFSET_DATA:   offset u64, data
//!                       OFFSET_HOLE:   offset u64, hole length u32
//!                       ERROR:         error u32, text length u16, text
//!                       ERROR_OFFSET:  the same, offset u64
//!                       BLOCK_STATUS:  context u32, (length u32, flags u32)…
//!            with extended headers the offset of the request follows the
//!            cookie, the length has 64 bits, and block status is
//!                       BLOCK_STATUS_EXT: context u32, count u32, (length u64, flags u64)…
//! ```

use crate::errno::Errno;
use crate::error::ProtocolError;
use crate::request::{Command, HeaderMode, MAX_TRANSFER_BYTES, Request};
use crate::status::MAX_STATUS_PAYLOAD_BYTES;
use crate::wire::{
    CHUNK_MAGIC, EXTENDED_CHUNK_MAGIC, Fields, HeaderBytes, MAX_STRING_BYTES, SIMPLE_REPLY_MAGIC,
    display_text,
};

const FLAG_DONE: u16 = 1 << 0;

const TYPE_NONE: u16 = 0;
const TYPE_OFFSET_DATA: u16 = 1;
const TYPE_OFFSET_HOLE: u16 = 2;
pub(crate) const TYPE_BLOCK_STATUS: u16 = 5;
pub(crate) const TYPE_BLOCK_STATUS_EXTENDED: u16 = 6;
const TYPE_ERROR_BIT: u16 = 1 << 15;
const TYPE_ERROR: u16 = TYPE_ERROR_BIT | 1;
const TYPE_ERROR_OFFSET: u16 = TYPE_ERROR_BIT | 2;

/// Longest error text a server sends, in bytes; longer ones are cut.
pub const MAX_ERROR_TEXT_BYTES: usize = 64;

/// Longest error payload a client takes: text, numbers, and room for fields
/// of types to come.
const MAX_ERROR_PAYLOAD_BYTES: u32 = 4096 + 64;
const _: () = assert!(MAX_STRING_BYTES == 4096);

/// Whether replies are simple or come in chunks, as negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyStyle {
    /// One header for each reply; a read that fails after its header cannot
    /// be told.
    Simple,
    /// Chunks that say what they carry; errors come at any point.
    Structured,
}

impl ReplyStyle {
    /// The whole reply to a request that succeeded and has no data, for a client that wants headers of `mode`.
    ///
    /// It is simple wherever the protocol allows that: clients take a simple reply off the socket in
    /// one piece, and a chunk in two.
    pub fn done(self, request: &Request, mode: HeaderMode) -> HeaderBytes {
        let needs_chunk = mode == HeaderMode::Extended || request.command == Command::Read;
        match self {
            ReplyStyle::Structured if needs_chunk => {
                mode.reply_header(request, none_chunk(request.cookie))
            }
            ReplyStyle::Simple | ReplyStyle::Structured => simple_reply(request.cookie, Ok(())),
        }
    }

    /// The whole reply to a request that failed, reads included; the
    /// connection goes on.
    ///
    /// `text` is for people and must not repeat what the client sent; simple
    /// replies have no place for it.
    pub fn error(self, cookie: u64, errno: Errno, text: &str) -> HeaderBytes {
        match self {
            ReplyStyle::Simple => simple_reply(cookie, Err(errno)),
            ReplyStyle::Structured => error_chunk(cookie, errno, text, ChunkEnd::Done),
        }
    }

    /// The header before all the data of a successful read; the caller sends
    /// `request.len_bytes` bytes after it.
    ///
    /// Right for a read of length zero too.
    ///
    /// # Panics
    ///
    /// If the request did not pass [`Request::check`] and is over 4 GiB.
    pub fn read_data(self, request: &Request) -> HeaderBytes {
        let len = u32::try_from(request.len_bytes).expect("checked reads are at most 32 MiB");
        match self {
            ReplyStyle::Simple => simple_reply(request.cookie, Ok(())),
            ReplyStyle::Structured if len == 0 => none_chunk(request.cookie),
            ReplyStyle::Structured => {
                data_chunk(request.cookie, request.offset_bytes, len, ChunkEnd::Done)
            }
        }
    }
}

/// Whether more chunks of the same reply follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkEnd {
    /// At least one more comes.
    More,
    /// The reply is complete.
    Done,
}

impl ChunkEnd {
    const fn flags(self) -> u16 {
        match self {
            ChunkEnd::More => 0,
            ChunkEnd::Done => FLAG_DONE,
        }
    }
}

/// A simple reply; the data of a successful read follows it.
pub fn simple_reply(cookie: u64, result: Result<(), Errno>) -> HeaderBytes {
    let error = result.map_or_else(Errno::to_wire, |()| 0);
    HeaderBytes::new()
        .with(&SIMPLE_REPLY_MAGIC.to_be_bytes())
        .with(&error.to_be_bytes())
        .with(&cookie.to_be_bytes())
}

/// The chunk that ends a reply and carries nothing.
pub fn none_chunk(cookie: u64) -> HeaderBytes {
    chunk(cookie, TYPE_NONE, ChunkEnd::Done, 0)
}

/// The header of a data chunk; the caller sends `len_bytes` of data after it.
///
/// Send it only when the data is at hand: a failure can be told no more in
/// this chunk, only in an error chunk after all its bytes.
///
/// # Panics
///
/// If `len_bytes` is zero, which the protocol forbids, or within 8 bytes of
/// 4 GiB.
pub fn data_chunk(cookie: u64, offset_bytes: u64, len_bytes: u32, end: ChunkEnd) -> HeaderBytes {
    assert!(len_bytes != 0, "a data chunk carries at least one byte");
    let payload = len_bytes.checked_add(8).expect("reads are at most 32 MiB");
    chunk(cookie, TYPE_OFFSET_DATA, end, payload).with(&offset_bytes.to_be_bytes())
}

/// A chunk that says a range of a read is zero; nothing follows.
///
/// Not for a read with [`CommandFlags::DF`](crate::CommandFlags::DF) unless
/// the hole is all of it.
///
/// # Panics
///
/// If `len_bytes` is zero, which the protocol forbids.
pub fn hole_chunk(cookie: u64, offset_bytes: u64, len_bytes: u32, end: ChunkEnd) -> HeaderBytes {
    assert!(len_bytes != 0, "a hole has at least one byte");
    chunk(cookie, TYPE_OFFSET_HOLE, end, 12)
        .with(&offset_bytes.to_be_bytes())
        .with(&len_bytes.to_be_bytes())
}

/// A chunk that fails the request as a whole; `text` is cut to
/// [`MAX_ERROR_TEXT_BYTES`].
pub fn error_chunk(cookie: u64, errno: Errno, text: &str, end: ChunkEnd) -> HeaderBytes {
    let text = error_text(text);
    let len = u16::from(text_len(text));
    chunk(cookie, TYPE_ERROR, end, 6 + u32::from(len))
        .with(&errno.to_wire().to_be_bytes())
        .with(&len.to_be_bytes())
        .with(text)
}

/// A chunk that fails the request at one byte of its range: data chunks sent
/// before it stay valid up to there. `text` is cut to
/// [`MAX_ERROR_TEXT_BYTES`].
pub fn error_at_chunk(
    cookie: u64,
    errno: Errno,
    offset_bytes: u64,
    text: &str,
    end: ChunkEnd,
) -> HeaderBytes {
    let text = error_text(text);
    let len = u16::from(text_len(text));
    chunk(cookie, TYPE_ERROR_OFFSET, end, 14 + u32::from(len))
        .with(&errno.to_wire().to_be_bytes())
        .with(&len.to_be_bytes())
        .with(text)
        .with(&offset_bytes.to_be_bytes())
}

fn error_text(text: &str) -> &[u8] {
    &text.as_bytes()[..text.floor_char_boundary(MAX_ERROR_TEXT_BYTES)]
}

fn text_len(text: &[u8]) -> u8 {
    u8::try_from(text.len()).expect("error texts are cut to 64 bytes")
}

/// The 20 bytes that open every chunk.
pub(crate) fn chunk(cookie: u64, kind: u16, end: ChunkEnd, payload_bytes: u32) -> HeaderBytes {
    HeaderBytes::new()
        .with(&CHUNK_MAGIC.to_be_bytes())
        .with(&end.flags().to_be_bytes())
        .with(&kind.to_be_bytes())
        .with(&cookie.to_be_bytes())
        .with(&payload_bytes.to_be_bytes())
}

/// Bytes of a chunk before its payload, with compact headers.
pub(crate) const CHUNK_BYTES: usize = 20;

impl HeaderMode {
    /// A header of a reply to `request`, as made by [`ReplyStyle`] or as a
    /// chunk, in the layout of this mode.
    pub fn reply_header(self, request: &Request, header: HeaderBytes) -> HeaderBytes {
        match self {
            HeaderMode::Compact => header,
            HeaderMode::Extended => extended(request, &header),
        }
    }
}

/// The same chunk with an extended header.
fn extended(request: &Request, compact: &[u8]) -> HeaderBytes {
    let (header, payload) = compact.split_at(CHUNK_BYTES);
    debug_assert!(
        header.starts_with(&CHUNK_MAGIC.to_be_bytes()),
        "extended headers know no simple replies"
    );
    HeaderBytes::new()
        .with(&EXTENDED_CHUNK_MAGIC.to_be_bytes())
        .with(&header[4..16])
        .with(&request.offset_bytes.to_be_bytes())
        .with(&[0; 4])
        .with(&header[16..])
        .with(payload)
}

/// A reply header as a client reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// A simple reply. A successful read's data follows, as many bytes as the
    /// request asked for; with structured replies no read may be answered so.
    Simple {
        /// Of the request that is answered.
        cookie: u64,
        /// How it went.
        result: Result<(), Errno>,
    },
    /// A chunk of a structured reply.
    Chunk {
        /// Of the request that is answered.
        cookie: u64,
        /// Whether it is the last chunk of the reply.
        end: ChunkEnd,
        /// What it says.
        body: ChunkBody,
    },
}

/// What a chunk says, and what still follows its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkBody {
    /// Nothing; the reply ends. The request succeeded if no error chunk came
    /// before.
    None,
    /// Data of a read follows: `len_bytes` bytes, never zero, at most
    /// [`MAX_TRANSFER_BYTES`].
    Data {
        /// Where they belong in the export.
        offset_bytes: u64,
        /// How many follow.
        len_bytes: u32,
    },
    /// A range of a read is zero; nothing follows.
    Hole {
        /// Where it starts in the export.
        offset_bytes: u64,
        /// Its length, never zero.
        len_bytes: u32,
    },
    /// The request failed; a bounded payload for [`ErrorReport::decode`]
    /// follows.
    Error {
        /// How to read the payload.
        shape: ErrorShape,
        /// How many bytes follow.
        payload_bytes: u32,
    },
    /// A bounded payload for [`BlockStatus::decode`](crate::BlockStatus::decode)
    /// follows.
    BlockStatus {
        /// How many bytes follow.
        payload_bytes: u32,
    },
}

/// Which fields an error payload has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorShape {
    /// Error and text.
    Whole,
    /// Error, text, offset.
    AtOffset,
    /// Error, text, and fields of a type this side does not know.
    Unknown,
}

impl Reply {
    /// Reads the header at the start of `bytes`.
    ///
    /// Returns it with its length in bytes (at most 32), or `None` if more
    /// bytes are needed; [`payload_bytes`](Self::payload_bytes) follow it.
    ///
    /// The caller still has to compare with its own request: that the cookie
    /// is in flight, and that a range lies in it ([`Request::covers`]).
    ///
    /// # Errors
    ///
    /// A [`ProtocolError`] means: drop the connection.
    pub fn decode(style: ReplyStyle, bytes: &[u8]) -> Result<Option<(Self, usize)>, ProtocolError> {
        let mut fields = Fields::new(bytes);
        let reply = match (fields.u32(), style) {
            (None, _) => None,
            (Some(SIMPLE_REPLY_MAGIC), _) => Self::simple(&mut fields),
            (Some(CHUNK_MAGIC), ReplyStyle::Structured) => Self::chunk(&mut fields)?,
            (Some(found), _) => {
                return Err(ProtocolError::BadMagic {
                    expected: "reply",
                    found: u64::from(found),
                });
            }
        };
        Ok(reply.map(|reply| (reply, bytes.len() - fields.rest().len())))
    }

    fn simple(fields: &mut Fields<'_>) -> Option<Self> {
        let result = match fields.u32()? {
            0 => Ok(()),
            error => Err(Errno::from_wire(error)),
        };
        let cookie = fields.u64()?;
        Some(Reply::Simple { cookie, result })
    }

    fn chunk(fields: &mut Fields<'_>) -> Result<Option<Self>, ProtocolError> {
        let (flags, kind, cookie, len) = (fields.u16(), fields.u16(), fields.u64(), fields.u32());
        let (Some(flags), Some(kind), Some(cookie), Some(len)) = (flags, kind, cookie, len) else {
            return Ok(None);
        };
        let end = if flags & FLAG_DONE == 0 {
            ChunkEnd::More
        } else {
            ChunkEnd::Done
        };
        let body = match kind {
            TYPE_NONE if len == 0 && end == ChunkEnd::Done => Some(ChunkBody::None),
            TYPE_OFFSET_DATA if (9..=MAX_TRANSFER_BYTES + 8).contains(&len) => {
                fields.u64().map(|offset_bytes| ChunkBody::Data {
                    offset_bytes,
                    len_bytes: len - 8,
                })
            }
            TYPE_OFFSET_HOLE if len == 12 => hole_body(fields)?,
            TYPE_BLOCK_STATUS if (12..=MAX_STATUS_PAYLOAD_BYTES).contains(&len) => {
                Some(ChunkBody::BlockStatus { payload_bytes: len })
            }
            _ if kind & TYPE_ERROR_BIT != 0 && (6..=MAX_ERROR_PAYLOAD_BYTES).contains(&len) => {
                Some(ChunkBody::Error {
                    shape: error_shape(kind),
                    payload_bytes: len,
                })
            }
            _ => return Err(ProtocolError::BadReply("a chunk of bad type or length")),
        };
        Ok(body.map(|body| Reply::Chunk { cookie, end, body }))
    }

    /// Of the request that is answered.
    pub const fn cookie(&self) -> u64 {
        match self {
            Reply::Simple { cookie, .. } | Reply::Chunk { cookie, .. } => *cookie,
        }
    }

    /// How many bytes follow the header, given the request it answers.
    pub fn payload_bytes(&self, request: &Request) -> u64 {
        match self {
            Reply::Simple { result: Ok(()), .. } => match request.command {
                Command::Read => request.len_bytes,
                _ => 0,
            },
            Reply::Simple { result: Err(_), .. } => 0,
            Reply::Chunk { body, .. } => match body {
                ChunkBody::None | ChunkBody::Hole { .. } => 0,
                ChunkBody::Data { len_bytes, .. } => u64::from(*len_bytes),
                ChunkBody::Error { payload_bytes, .. }
                | ChunkBody::BlockStatus { payload_bytes } => u64::from(*payload_bytes),
            },
        }
    }
}

fn hole_body(fields: &mut Fields<'_>) -> Result<Option<ChunkBody>, ProtocolError> {
    match (fields.u64(), fields.u32()) {
        (Some(_), Some(0)) => Err(ProtocolError::BadReply("an empty hole")),
        (Some(offset_bytes), Some(len_bytes)) => Ok(Some(ChunkBody::Hole {
            offset_bytes,
            len_bytes,
        })),
        _ => Ok(None),
    }
}

const fn error_shape(kind: u16) -> ErrorShape {
    match kind {
        TYPE_ERROR => ErrorShape::Whole,
        TYPE_ERROR_OFFSET => ErrorShape::AtOffset,
        _ => ErrorShape::Unknown,
    }
}

/// The payload of an error chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorReport {
    /// What went wrong.
    pub errno: Errno,
    /// At which byte of the export, if the server said so.
    pub offset_bytes: Option<u64>,
    /// The server's words, as one printable line; may be empty.
    pub text: String,
}

impl ErrorReport {
    /// Reads a whole error payload.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::BadReply`] if lengths do not agree or the error is
    /// zero.
    pub fn decode(shape: ErrorShape, payload: &[u8]) -> Result<Self, ProtocolError> {
        Self::fields(shape, payload).ok_or(ProtocolError::BadReply("a malformed error chunk"))
    }

    fn fields(shape: ErrorShape, payload: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(payload);
        let error = fields.u32().filter(|error| *error != 0)?;
        let len = usize::from(fields.u16()?);
        let text = fields.bytes(len)?;
        if len > MAX_STRING_BYTES {
            return None;
        }
        let offset_bytes = match shape {
            ErrorShape::AtOffset => Some(fields.u64()?),
            ErrorShape::Whole | ErrorShape::Unknown => None,
        };
        Some(Self {
            errno: Errno::from_wire(error),
            offset_bytes,
            text: display_text(text),
        })
    }
}

#[cfg(test)]
mod tests;
