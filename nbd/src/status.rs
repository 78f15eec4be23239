//! Block status: extents of one metadata context, written by a server and
//! read by a client.

use crate::error::ProtocolError;
use crate::flags::CommandFlags;
use crate::reply::{CHUNK_BYTES, ChunkEnd, TYPE_BLOCK_STATUS, TYPE_BLOCK_STATUS_EXTENDED, chunk};
use crate::request::{HeaderMode, Request};
use crate::wire::Fields;

/// Flag of `base:allocation`: not allocated in the storage below.
pub const STATE_HOLE: u32 = 1 << 0;
/// Flag of `base:allocation`: reads as zero.
pub const STATE_ZERO: u32 = 1 << 1;
/// Flag of `qemu:dirty-bitmap:…`: dirty.
pub const STATE_DIRTY: u32 = 1 << 0;

/// Most extents a server puts into one chunk.
///
/// Replies may be shorter than asked for; the client asks on from there.
pub const MAX_STATUS_EXTENTS: usize = 4096;

/// Longest block status payload a client takes, in bytes.
pub(crate) const MAX_STATUS_PAYLOAD_BYTES: u32 = 4 + 8 * 128 * 1024;

/// Extents that do not fit 32 bits are cut to this: it is a multiple of every
/// block size, so what follows stays aligned.
const LONGEST_EXTENT_BYTES: u32 = 1 << 31;

/// A run of bytes with the same flags in one metadata context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusExtent {
    /// Its length in bytes.
    pub len_bytes: u64,
    /// What the context says of it, such as [`STATE_HOLE`] | [`STATE_ZERO`].
    pub flags: u32,
}

/// Appends one whole chunk with the extents of context `context_id`, from the
/// start of the request's range.
///
/// Give as many extents as are known; the chunk takes what the protocol
/// allows: up to the first that reaches the end of the request, exactly one
/// within the request for [`CommandFlags::REQ_ONE`], at most
/// [`MAX_STATUS_EXTENTS`]. Extents of length zero are skipped, and an extent
/// too long for its field is cut and ends the list.
///
/// Send one for each context of the session, the last with
/// [`ChunkEnd::Done`].
///
/// # Panics
///
/// If no extent has a length, or the request's is zero (which
/// [`Request::check`] refuses): a reply must say something.
pub fn block_status_chunk(
    out: &mut Vec<u8>,
    request: &Request,
    context_id: u32,
    extents: &[StatusExtent],
    end: ChunkEnd,
) {
    let mut list = Vec::new();
    let count = put_extents(&mut list, HeaderMode::Compact, request, extents);
    assert!(count != 0, "block status needs an extent with a length");
    let header = chunk(request.cookie, TYPE_BLOCK_STATUS, end, 4 + 8 * count);
    out.extend_from_slice(&header);
    out.extend_from_slice(&context_id.to_be_bytes());
    out.extend_from_slice(&list);
}

/// The same with extended headers, where no extent is too long.
///
/// # Panics
///
/// As [`block_status_chunk`].
pub fn extended_status_chunk(
    out: &mut Vec<u8>,
    request: &Request,
    context_id: u32,
    extents: &[StatusExtent],
    end: ChunkEnd,
) {
    let mut list = Vec::new();
    let count = put_extents(&mut list, HeaderMode::Extended, request, extents);
    assert!(count != 0, "block status needs an extent with a length");
    let payload_bytes = 8 + 16 * count;
    let header = chunk(
        request.cookie,
        TYPE_BLOCK_STATUS_EXTENDED,
        end,
        payload_bytes,
    );
    debug_assert_eq!(header.len(), CHUNK_BYTES, "a header without payload");
    out.extend_from_slice(&HeaderMode::Extended.reply_header(request, header));
    out.extend_from_slice(&context_id.to_be_bytes());
    out.extend_from_slice(&count.to_be_bytes());
    out.extend_from_slice(&list);
}

/// Appends the extents the protocol allows and returns their number.
fn put_extents(
    out: &mut Vec<u8>,
    mode: HeaderMode,
    request: &Request,
    extents: &[StatusExtent],
) -> u32 {
    let req_one = request.flags.contains(CommandFlags::REQ_ONE);
    let most = if req_one { 1 } else { MAX_STATUS_EXTENTS };
    let mut left = request.len_bytes;
    let mut count = 0;
    let with_length = extents.iter().filter(|extent| extent.len_bytes != 0);
    for extent in with_length.take(most) {
        if left == 0 {
            break;
        }
        let wanted = if req_one {
            extent.len_bytes.min(left)
        } else {
            extent.len_bytes
        };
        count += 1;
        if mode == HeaderMode::Extended {
            out.extend_from_slice(&wanted.to_be_bytes());
            out.extend_from_slice(&u64::from(extent.flags).to_be_bytes());
        } else {
            let len = u32::try_from(wanted).unwrap_or(LONGEST_EXTENT_BYTES);
            out.extend_from_slice(&len.to_be_bytes());
            out.extend_from_slice(&extent.flags.to_be_bytes());
            if u64::from(len) != wanted {
                break;
            }
        }
        left = left.saturating_sub(wanted);
    }
    count
}

/// What a block status with [`CommandFlags::PAYLOAD_LEN`] asks: the length of
/// its range, and which of the agreed contexts to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusQuery {
    /// Length of the range.
    pub len_bytes: u64,
    /// The contexts; at least one, each once.
    pub context_ids: Vec<u32>,
}

impl StatusQuery {
    /// Longest payload that can make sense for so many agreed contexts.
    pub fn max_bytes(contexts: usize) -> u64 {
        u64::try_from(contexts)
            .ok()
            .and_then(|contexts| contexts.checked_mul(4)?.checked_add(8))
            .unwrap_or(u64::MAX)
    }

    /// Reads a whole payload; `None` if it makes no sense.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(payload);
        let len_bytes = fields.u64()?;
        let mut context_ids = Vec::new();
        while !fields.rest().is_empty() {
            let id = fields.u32()?;
            if context_ids.contains(&id) {
                return None;
            }
            context_ids.push(id);
        }
        (!context_ids.is_empty()).then_some(Self {
            len_bytes,
            context_ids,
        })
    }
}

/// The payload of a block status chunk, as a client reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockStatus {
    /// Which agreed context it is about.
    pub context_id: u32,
    /// At least one extent, each with a length; the first starts where the
    /// request does. The last may reach past the request, even past the
    /// export.
    pub extents: Vec<StatusExtent>,
}

impl BlockStatus {
    /// Reads a whole block status payload.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::BadReply`] if there is no extent, an extent without
    /// length, or a broken one.
    pub fn decode(payload: &[u8]) -> Result<Self, ProtocolError> {
        Self::fields(payload).ok_or(ProtocolError::BadReply("a malformed block status"))
    }

    fn fields(payload: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(payload);
        let context_id = fields.u32()?;
        let mut extents = Vec::with_capacity(fields.rest().len() / 8);
        while !fields.rest().is_empty() {
            extents.push(StatusExtent {
                len_bytes: fields.u32().filter(|len| *len != 0).map(u64::from)?,
                flags: fields.u32()?,
            });
        }
        (!extents.is_empty()).then_some(Self {
            context_id,
            extents,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        BlockStatus, MAX_STATUS_EXTENTS, STATE_HOLE, STATE_ZERO, StatusExtent, StatusQuery,
        block_status_chunk, extended_status_chunk,
    };
    use crate::{ChunkBody, ChunkEnd, Command, CommandFlags, Reply, ReplyStyle, Request};

    const GIB: u64 = 1 << 30;

    fn request(len_bytes: u64, flags: CommandFlags) -> Request {
        Request {
            cookie: 9,
            command: Command::BlockStatus,
            flags,
            offset_bytes: 4096,
            len_bytes,
        }
    }

    fn extents(lens: &[u64]) -> Vec<StatusExtent> {
        (0..)
            .zip(lens)
            .map(|(flags, &len_bytes)| StatusExtent { len_bytes, flags })
            .collect()
    }

    /// What a client gets to see of `given`.
    #[track_caller]
    fn told(request: Request, given: &[StatusExtent]) -> Vec<StatusExtent> {
        let mut out = b"before".to_vec();
        block_status_chunk(&mut out, &request, 3, given, ChunkEnd::Done);
        let (reply, header) = Reply::decode(ReplyStyle::Structured, &out[6..])
            .unwrap()
            .unwrap();
        let payload = &out[6 + header..];
        let payload_bytes = u32::try_from(payload.len()).unwrap();
        assert_eq!(
            reply,
            Reply::Chunk {
                cookie: 9,
                end: ChunkEnd::Done,
                body: ChunkBody::BlockStatus { payload_bytes }
            }
        );
        let status = BlockStatus::decode(payload).unwrap();
        assert_eq!(status.context_id, 3);
        status.extents
    }

    #[test]
    fn extents_come_back_as_given() {
        let given = [
            StatusExtent {
                len_bytes: 4096,
                flags: STATE_HOLE | STATE_ZERO,
            },
            StatusExtent {
                len_bytes: 512,
                flags: 0,
            },
        ];
        assert_eq!(told(request(8192, CommandFlags::NONE), &given), given);
    }

    #[test]
    fn the_list_ends_with_the_extent_that_reaches_the_end_of_the_request() {
        let given = extents(&[4096, 8192, 512]);
        let plain = request(8192, CommandFlags::NONE);
        assert_eq!(told(plain, &given), given[..2]);
        assert_eq!(told(request(4096, CommandFlags::NONE), &given), given[..1]);
    }

    #[test]
    fn req_one_gets_exactly_one_extent_within_the_request() {
        let one = request(1000, CommandFlags::REQ_ONE);
        assert_eq!(told(one, &extents(&[4096, 512])), extents(&[1000]));
        assert_eq!(told(one, &extents(&[10, 512])), extents(&[10]));
    }

    #[test]
    fn extents_without_length_are_skipped() {
        let plain = request(4096, CommandFlags::NONE);
        let given = extents(&[0, 512, 0, 512]);
        assert_eq!(told(plain, &given), [given[1], given[3]]);
        let one = request(4096, CommandFlags::REQ_ONE);
        assert_eq!(told(one, &given), [given[1]]);
    }

    #[test]
    fn an_extent_over_the_field_is_cut_aligned_and_ends_the_list() {
        let plain = request(4 * GIB - 1, CommandFlags::NONE);
        assert_eq!(
            told(plain, &extents(&[1024 * GIB, 512])),
            extents(&[2 * GIB])
        );
        let given = extents(&[512, 1024 * GIB, 512]);
        assert_eq!(told(plain, &given), extents(&[512, 2 * GIB]));
    }

    #[test]
    fn a_chunk_has_a_bounded_number_of_extents() {
        let given = extents(&vec![1; MAX_STATUS_EXTENTS + 10]);
        let plain = request(GIB, CommandFlags::NONE);
        assert_eq!(told(plain, &given), given[..MAX_STATUS_EXTENTS]);
    }

    #[test]
    fn extended_extents_are_as_long_as_they_are() {
        let given = extents(&[4096, 1024 * GIB, 512]);
        let asked = request(1024 * GIB + 8192, CommandFlags::NONE);
        let mut out = b"before".to_vec();
        extended_status_chunk(&mut out, &asked, 3, &given, ChunkEnd::Done);
        assert_eq!(out[6..14], *b"\x6e\x8a\x27\x8c\0\x01\0\x06");
        assert_eq!(out[22..30], 4096_u64.to_be_bytes(), "the request's offset");
        assert_eq!(out[30..38], 56_u64.to_be_bytes(), "of payload");
        assert_eq!(out[38..46], *b"\0\0\0\x03\0\0\0\x03");
        let told: Vec<u64> = out[46..]
            .chunks(8)
            .map(|field| u64::from_be_bytes(field.try_into().unwrap()))
            .collect();
        assert_eq!(told, [4096, 0, 1024 * GIB, 1, 512, 2]);
    }

    #[test]
    fn a_query_names_each_context_once() {
        let query = StatusQuery::decode(b"\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0");
        let want = StatusQuery {
            len_bytes: 4 * GIB,
            context_ids: vec![2, 0],
        };
        assert_eq!(query, Some(want));
        assert_eq!(StatusQuery::max_bytes(2), 16);
        for bad in [
            &b""[..],
            b"\0\0\0\x01\0\0\0\0",
            b"\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\x02",
            b"\0\0\0\x01\0\0\0\0\0\0\0\x02\0",
        ] {
            assert_eq!(StatusQuery::decode(bad), None);
        }
    }

    #[test]
    #[should_panic(expected = "needs an extent")]
    fn a_reply_without_extents_is_our_bug() {
        let plain = request(4096, CommandFlags::NONE);
        block_status_chunk(&mut Vec::new(), &plain, 0, &[], ChunkEnd::Done);
    }

    #[test]
    fn a_client_refuses_malformed_status() {
        for payload in [
            &b""[..],
            b"\0\0\0\x01",
            b"\0\0\0\x01\0\0\0\x01",
            b"\0\0\0\x01\0\0\0\0\0\0\0\0",
            b"\0\0\0\x01\0\0\0\x01\0\0\0\0\0",
        ] {
            assert!(BlockStatus::decode(payload).is_err(), "{payload:?}");
        }
    }
}
