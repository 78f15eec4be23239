//! Replies: the layout on the wire, and what a client refuses.

use super::{
    ChunkBody, ChunkEnd, ErrorReport, ErrorShape, Reply, ReplyStyle, chunk, data_chunk,
    error_at_chunk, error_chunk, hole_chunk, none_chunk, simple_reply,
};
use crate::{Command, CommandFlags, Errno, HeaderMode, MAX_ERROR_TEXT_BYTES, Request};

const COOKIE: u64 = 0x0123_4567_89ab_cdef;
const STRUCTURED: ReplyStyle = ReplyStyle::Structured;
const DONE: ChunkEnd = ChunkEnd::Done;
const MORE: ChunkEnd = ChunkEnd::More;

fn read(len_bytes: u64) -> Request {
    Request {
        cookie: COOKIE,
        command: Command::Read,
        flags: CommandFlags::NONE,
        offset_bytes: 4096,
        len_bytes,
    }
}

fn body(end: ChunkEnd, body: ChunkBody) -> Reply {
    Reply::Chunk {
        cookie: COOKIE,
        end,
        body,
    }
}

/// The one reply in `bytes`, and its payload.
#[track_caller]
fn decoded(bytes: &[u8]) -> (Reply, &[u8]) {
    let (reply, len) = Reply::decode(STRUCTURED, bytes).unwrap().unwrap();
    for cut in 0..len {
        assert_eq!(Reply::decode(STRUCTURED, &bytes[..cut]), Ok(None), "{cut}");
    }
    (reply, &bytes[len..])
}

#[test]
fn headers_have_the_layout_of_the_protocol() {
    let cookie = b"\x01\x23\x45\x67\x89\xab\xcd\xef";
    let simple = [&b"\x67\x44\x66\x98\0\0\0\x16"[..], cookie].concat();
    assert_eq!(simple_reply(COOKIE, Err(Errno::Inval))[..], simple);
    let none = [&b"\x66\x8e\x33\xef\0\x01\0\0"[..], cookie, b"\0\0\0\0"].concat();
    assert_eq!(none_chunk(COOKIE)[..], none);
    let data = [
        &b"\x66\x8e\x33\xef\0\0\0\x01"[..],
        cookie,
        b"\0\0\x10\x08\0\0\0\0\0\0\x02\0",
    ]
    .concat();
    assert_eq!(data_chunk(COOKIE, 512, 4096, MORE)[..], data);
    let hole = [
        &b"\x66\x8e\x33\xef\0\x01\0\x02"[..],
        cookie,
        b"\0\0\0\x0c\0\0\0\0\0\0\x02\0\0\0\x10\0",
    ]
    .concat();
    assert_eq!(hole_chunk(COOKIE, 512, 4096, DONE)[..], hole);
    let error = [
        &b"\x66\x8e\x33\xef\0\x01\x80\x01"[..],
        cookie,
        b"\0\0\0\x08\0\0\0\x05\0\x02no",
    ]
    .concat();
    assert_eq!(error_chunk(COOKIE, Errno::Io, "no", DONE)[..], error);
    let error_at = [
        &b"\x66\x8e\x33\xef\0\0\x80\x02"[..],
        cookie,
        b"\0\0\0\x0e\0\0\0\x05\0\0\0\0\0\0\0\0\x02\0",
    ]
    .concat();
    assert_eq!(
        error_at_chunk(COOKIE, Errno::Io, 512, "", MORE)[..],
        error_at
    );
}

#[test]
fn every_errno_travels_in_simple_and_structured_replies() {
    for errno in Errno::ALL {
        let simple = ReplyStyle::Simple.error(COOKIE, errno, "not sent");
        let want = Reply::Simple {
            cookie: COOKIE,
            result: Err(errno),
        };
        assert_eq!(decoded(&simple), (want, &[][..]));
        assert_eq!(want.payload_bytes(&read(512)), 0);

        let chunk = STRUCTURED.error(COOKIE, errno, "why");
        let (reply, payload) = decoded(&chunk);
        let shape = ErrorShape::Whole;
        let payload_bytes = 9;
        assert_eq!(
            reply,
            body(
                DONE,
                ChunkBody::Error {
                    shape,
                    payload_bytes
                }
            )
        );
        let report = ErrorReport::decode(shape, payload).unwrap();
        assert_eq!((report.errno, report.offset_bytes), (errno, None));
        assert_eq!(report.text, "why");
    }
}

#[test]
fn an_error_in_the_middle_of_a_read_leaves_the_connection_whole() {
    let mut stream = data_chunk(COOKIE, 4096, 512, MORE).to_vec();
    stream.extend_from_slice(&[7; 512]);
    stream.extend_from_slice(&error_at_chunk(COOKIE, Errno::Io, 4608, "bad block", DONE));
    stream.extend_from_slice(&none_chunk(COOKIE + 1));

    let (data, rest) = decoded(&stream);
    assert_eq!(data.payload_bytes(&read(4096)), 512);
    let (error, rest) = decoded(&rest[512..]);
    let Reply::Chunk {
        end: ChunkEnd::Done,
        body: ChunkBody::Error {
            shape,
            payload_bytes,
        },
        ..
    } = error
    else {
        panic!("{error:?}");
    };
    let (payload, rest) = rest.split_at(usize::try_from(payload_bytes).unwrap());
    let report = ErrorReport::decode(shape, payload).unwrap();
    assert_eq!((report.errno, report.offset_bytes), (Errno::Io, Some(4608)));
    assert_eq!(decoded(rest).0.cookie(), COOKIE + 1);
}

#[test]
fn a_whole_read_is_one_header_before_its_data() {
    let simple = ReplyStyle::Simple.read_data(&read(4096));
    assert_eq!(decoded(&simple).0.payload_bytes(&read(4096)), 4096);
    let structured = STRUCTURED.read_data(&read(4096));
    let data = ChunkBody::Data {
        offset_bytes: 4096,
        len_bytes: 4096,
    };
    assert_eq!(decoded(&structured).0, body(DONE, data));
    let empty = STRUCTURED.read_data(&read(0));
    assert_eq!(decoded(&empty).0, body(DONE, ChunkBody::None));
}

#[test]
fn success_without_data_has_no_payload() {
    let write = Request {
        command: Command::Write,
        ..read(4096)
    };
    for style in [ReplyStyle::Simple, STRUCTURED] {
        let header = style.done(&write, HeaderMode::Compact);
        assert_eq!(decoded(&header).0.payload_bytes(&write), 0);
    }
}

#[test]
fn success_without_data_is_a_simple_reply_unless_the_protocol_wants_a_chunk() {
    let write = Request {
        command: Command::Write,
        ..read(4096)
    };
    let simple = simple_reply(COOKIE, Ok(()));
    let chunk = none_chunk(COOKIE);
    for style in [ReplyStyle::Simple, STRUCTURED] {
        assert_eq!(style.done(&write, HeaderMode::Compact), simple);
    }
    assert_eq!(STRUCTURED.done(&read(0), HeaderMode::Compact), chunk);
    let extended = HeaderMode::Extended.reply_header(&write, chunk);
    assert_eq!(STRUCTURED.done(&write, HeaderMode::Extended), extended);
}

#[test]
fn error_texts_are_cut_at_a_whole_character() {
    let long = "ü".repeat(100);
    let (_, payload) = {
        let header = error_at_chunk(COOKIE, Errno::Io, 1, &format!("x{long}"), DONE);
        let (reply, payload) = decoded(&header);
        (reply, payload.to_vec())
    };
    let report = ErrorReport::decode(ErrorShape::AtOffset, &payload).unwrap();
    assert_eq!(report.text.len(), MAX_ERROR_TEXT_BYTES - 1);
    assert_eq!(report.offset_bytes, Some(1));
}

#[test]
fn texts_of_the_server_become_one_printable_line() {
    let payload = b"\0\0\0\x05\0\x08a\x1b[2J\nb\xff";
    let report = ErrorReport::decode(ErrorShape::Whole, payload).unwrap();
    assert_eq!(report.text, "a [2J b\u{fffd}");
}

#[test]
fn malformed_error_payloads_are_refused() {
    for (shape, payload) in [
        (ErrorShape::Whole, &b""[..]),
        (ErrorShape::Whole, b"\0\0\0\0\0\0"),
        (ErrorShape::Whole, b"\0\0\0\x05\0\x02x"),
        (ErrorShape::AtOffset, b"\0\0\0\x05\0\0\0\0\0\0"),
    ] {
        assert!(ErrorReport::decode(shape, payload).is_err(), "{payload:?}");
    }
}

#[test]
fn errors_of_unknown_type_and_number_are_still_errors() {
    let mut bytes = chunk(COOKIE, 0xff00, DONE, 20).to_vec();
    bytes.extend_from_slice(b"\0\0\x03\xe7\0\x02ohand 12 bytes");
    let (reply, payload) = decoded(&bytes);
    assert_eq!(reply.payload_bytes(&read(512)), 20);
    let report = ErrorReport::decode(ErrorShape::Unknown, payload).unwrap();
    assert_eq!((report.errno, &report.text[..]), (Errno::Inval, "oh"));
}

#[test]
fn chunks_a_server_must_not_send_hang_up() {
    for (kind, end, len) in [
        (0, DONE, 1),
        (0, MORE, 0),
        (1, DONE, 8),
        (1, DONE, 32 * 1024 * 1024 + 9),
        (1, DONE, u32::MAX),
        (2, DONE, 11),
        (2, DONE, 13),
        (3, DONE, 0),
        (5, DONE, 4),
        (5, DONE, u32::MAX),
        (6, DONE, 16),
        (0x8001, DONE, 5),
        (0x8001, DONE, 1 << 20),
    ] {
        let mut bytes = chunk(COOKIE, kind, end, len).to_vec();
        bytes.extend_from_slice(&[1; 32]);
        assert!(Reply::decode(STRUCTURED, &bytes).is_err(), "{kind} {len}");
    }
    let mut empty_hole = chunk(COOKIE, 2, DONE, 12).to_vec();
    empty_hole.extend_from_slice(&[0; 12]);
    assert!(Reply::decode(STRUCTURED, &empty_hole).is_err());
}

#[test]
fn chunks_without_structured_replies_and_bad_magic_hang_up() {
    assert!(Reply::decode(ReplyStyle::Simple, &none_chunk(COOKIE)).is_err());
    assert!(Reply::decode(STRUCTURED, b"HTTP/1.1 400").is_err());
    assert_eq!(Reply::decode(STRUCTURED, b"\x67\x44\x66"), Ok(None));
}

#[test]
#[should_panic(expected = "at least one byte")]
fn an_empty_data_chunk_is_our_bug() {
    let _ = data_chunk(COOKIE, 0, 0, DONE);
}

#[test]
fn extended_headers_have_the_layout_of_the_protocol() {
    let request = Request {
        offset_bytes: 0x1122_3344_5566_7788,
        ..read(4096)
    };
    let mode = HeaderMode::Extended;
    let done = mode.reply_header(&request, none_chunk(COOKIE));
    let mut want = b"\x6e\x8a\x27\x8c\0\x01\0\0".to_vec();
    want.extend_from_slice(&COOKIE.to_be_bytes());
    want.extend_from_slice(b"\x11\x22\x33\x44\x55\x66\x77\x88\0\0\0\0\0\0\0\0");
    assert_eq!(done[..], want[..]);

    let compact = data_chunk(COOKIE, 512, 4096, DONE);
    let data = mode.reply_header(&request, compact);
    assert_eq!(data[24..32], 4104_u64.to_be_bytes());
    assert_eq!(data[32..], compact[20..], "the payload is the same");

    let longest = "x".repeat(MAX_ERROR_TEXT_BYTES);
    let error = error_at_chunk(COOKIE, Errno::Io, 7, &longest, DONE);
    assert_eq!(mode.reply_header(&request, error).len(), error.len() + 12);
    let same = HeaderMode::Compact.reply_header(&request, compact);
    assert_eq!(same, compact);
}
