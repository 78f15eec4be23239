//! Headers of requests and replies, and the payloads that are read as a whole.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nbd::{
    BlockSizes, BlockStatus, Command, ErrorReport, ErrorShape, ExportLimits, HeaderMode,
    MAX_TRANSFER_BYTES, Reply, ReplyStyle, Request, StatusQuery, TransmissionFlags,
};

/// Reads requests one after the other, as a server does that drops their payloads.
fn requests(mode: HeaderMode, limits: &ExportLimits, bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(Some((request, len))) = Request::decode(mode, rest) {
        assert!(len > 0 && len <= rest.len());
        if request.check(limits).is_ok() && request.command != Command::Disc {
            let end = request.offset_bytes.checked_add(request.len_bytes);
            let end = end.expect("a checked request ends somewhere");
            assert!(end <= limits.size_bytes || request.command == Command::Flush);
            if matches!(request.command, Command::Read | Command::Write) {
                assert!(request.len_bytes <= u64::from(MAX_TRANSFER_BYTES));
            }
            let is_read_only = limits.flags.contains(TransmissionFlags::READ_ONLY);
            assert!(!(is_read_only && request.command.modifies()));
        }
        rest = &rest[len..];
        let payload = usize::try_from(request.payload_bytes(mode)).unwrap_or(usize::MAX);
        let Some(after) = rest.get(payload..) else {
            return;
        };
        let _ = StatusQuery::decode(&rest[..payload]);
        rest = after;
    }
}

/// Reads a reply and what follows it, as a client does.
fn replies(style: ReplyStyle, request: &Request, bytes: &[u8]) {
    let Ok(Some((reply, len))) = Reply::decode(style, bytes) else {
        return;
    };
    assert!(len > 0 && len <= bytes.len());
    let _ = (reply.cookie(), reply.payload_bytes(request));
    let payload = &bytes[len..];
    for shape in [ErrorShape::Whole, ErrorShape::AtOffset, ErrorShape::Unknown] {
        let _ = ErrorReport::decode(shape, payload);
    }
    let _ = BlockStatus::decode(payload);
}

fuzz_target!(|data: &[u8]| {
    let Some((&[flags_high, flags_low, shift], bytes)) = data.split_first_chunk() else {
        return;
    };
    let limits = ExportLimits {
        size_bytes: 1 << 20,
        flags: TransmissionFlags::from_bits(u16::from_be_bytes([flags_high, flags_low])),
        block_sizes: BlockSizes {
            minimum_bytes: 1 << (shift & 15),
            ..BlockSizes::default()
        },
        has_contexts: shift & 16 != 0,
    };
    requests(HeaderMode::Compact, &limits, bytes);
    requests(HeaderMode::Extended, &limits, bytes);
    let Ok(Some((request, len))) = Request::decode(HeaderMode::Compact, bytes) else {
        return;
    };
    for style in [ReplyStyle::Simple, ReplyStyle::Structured] {
        replies(style, &request, &bytes[len..]);
    }
});
