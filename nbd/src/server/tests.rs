//! The server's negotiation, option by option.

use super::{MAX_OPTIONS, Negotiation, Outcome, Session};
use crate::option::put_option;
use crate::wire::Fields;
use crate::{
    BlockSizes, ExportInfo, HeaderMode, MAX_OPTION_BYTES, MAX_SKIPPED_OPTION_BYTES, MetaContext,
    ProtocolError, ReplyStyle, TransmissionFlags,
};

const GREETING: &[u8] = b"NBDMAGICIHAVEOPT\0\x03";
const FIXED: u32 = 3;

const ACK: u32 = 1;
const SERVER: u32 = 2;
const INFO: u32 = 3;
const META: u32 = 4;
const ERR_UNSUP: u32 = 0x8000_0001;
const ERR_INVALID: u32 = 0x8000_0003;
const ERR_UNKNOWN: u32 = 0x8000_0006;
const ERR_TOO_BIG: u32 = 0x8000_0009;
const ERR_EXTENDED: u32 = 0x8000_000a;

fn exports() -> Vec<ExportInfo> {
    let disk = ExportInfo {
        name: "disk".into(),
        description: "the disk".into(),
        size_bytes: 1 << 40,
        flags: TransmissionFlags::SEND_FLUSH | TransmissionFlags::SEND_DF,
        block_sizes: BlockSizes {
            minimum_bytes: 512,
            preferred_bytes: 65536,
            maximum_bytes: 1 << 25,
        },
        contexts: vec![
            "base:allocation".into(),
            "qemu:dirty-bitmap:a".into(),
            "qemu:dirty-bitmap:b".into(),
        ],
    };
    let other = ExportInfo {
        name: "ü".into(),
        description: String::new(),
        contexts: Vec::new(),
        ..disk.clone()
    };
    vec![disk, other]
}

/// What came of feeding bytes to a server.
#[derive(Debug, PartialEq)]
struct Run {
    /// All output after the greeting.
    output: Vec<u8>,
    result: Result<(), ProtocolError>,
    outcome: Option<Outcome>,
    /// Bytes that were not taken.
    left: usize,
}

/// Feeds `bytes` in pieces of at most `piece`, fetching all output.
fn run_in_pieces(bytes: &[u8], piece: usize) -> Run {
    let mut server = Negotiation::new();
    assert_eq!(server.take_output(), GREETING);
    let mut run = Run {
        output: Vec::new(),
        result: Ok(()),
        outcome: None,
        left: bytes.len(),
    };
    while run.left > 0 {
        let rest = &bytes[bytes.len() - run.left..];
        match server.input(&rest[..piece.min(rest.len())], &exports()) {
            Ok(taken) => run.left -= taken,
            Err(error) => {
                run.result = Err(error);
                assert_eq!(server.input(b"x", &exports()), Err(error), "errors stay");
                break;
            }
        }
        run.output.extend(server.take_output());
        run.outcome = server.outcome().cloned();
        if run.outcome.is_some() {
            assert_eq!(
                server.input(b"x", &exports()),
                Ok(0),
                "nothing after the end"
            );
            break;
        }
    }
    run
}

fn run(bytes: &[u8]) -> Run {
    run_in_pieces(bytes, bytes.len())
}

/// Client flags and then these options.
fn hello(options: &[(u32, &[u8])]) -> Vec<u8> {
    let mut bytes = FIXED.to_be_bytes().to_vec();
    for (option, data) in options {
        put_option(&mut bytes, *option, data);
    }
    bytes
}

/// Takes the replies in a run's output apart: option, type, data.
#[track_caller]
fn replies(run: &Run) -> Vec<(u32, u32, Vec<u8>)> {
    let mut fields = Fields::new(&run.output);
    let mut replies = Vec::new();
    while !fields.rest().is_empty() {
        assert_eq!(fields.u64(), Some(0x3e889045565a9));
        let (option, kind) = (fields.u32().unwrap(), fields.u32().unwrap());
        replies.push((option, kind, fields.counted().unwrap().to_vec()));
    }
    replies
}

/// Option and type of each reply; error texts are checked to be ours.
#[track_caller]
fn kinds(run: &Run) -> Vec<(u32, u32)> {
    let kind = |(option, kind, data): (u32, u32, Vec<u8>)| {
        if kind & (1 << 31) != 0 {
            assert!(data.len() <= 64 && data.is_ascii(), "{data:?}");
        }
        (option, kind)
    };
    replies(run).into_iter().map(kind).collect()
}

#[track_caller]
fn session(run: &Run) -> &Session {
    match &run.outcome {
        Some(Outcome::Transmission(session)) => session,
        other => panic!("no transmission but {other:?}"),
    }
}

fn info_data(name: &[u8], infos: &[u16]) -> Vec<u8> {
    let mut data = u32::try_from(name.len()).unwrap().to_be_bytes().to_vec();
    data.extend_from_slice(name);
    data.extend_from_slice(&u16::try_from(infos.len()).unwrap().to_be_bytes());
    data.extend(infos.iter().flat_map(|info| info.to_be_bytes()));
    data
}

fn meta_data(name: &[u8], queries: &[&[u8]]) -> Vec<u8> {
    let mut data = Vec::new();
    data.extend_from_slice(&u32::try_from(name.len()).unwrap().to_be_bytes());
    data.extend_from_slice(name);
    data.extend_from_slice(&u32::try_from(queries.len()).unwrap().to_be_bytes());
    for query in queries {
        data.extend_from_slice(&u32::try_from(query.len()).unwrap().to_be_bytes());
        data.extend_from_slice(query);
    }
    data
}

/// Flags as sent: what the export has, without DF unless structured.
fn flags(structured: ReplyStyle) -> [u8; 2] {
    match structured {
        ReplyStyle::Simple => [0, 0b0000_0101],
        ReplyStyle::Structured => [0, 0b1000_0101],
    }
}

fn export_info(style: ReplyStyle) -> Vec<u8> {
    let mut data = vec![0, 0, 0, 0, 1, 0, 0, 0, 0, 0];
    data.extend_from_slice(&flags(style));
    data
}

#[test]
fn go_tells_the_export_and_starts_transmission() {
    let run = run(&hello(&[(7, &info_data(b"disk", &[]))]));
    let want = vec![
        (7, INFO, export_info(ReplyStyle::Simple)),
        (7, ACK, Vec::new()),
    ];
    assert_eq!(replies(&run), want);
    let session = session(&run);
    assert_eq!(session.export, 0);
    assert_eq!(session.limits.size_bytes, 1 << 40);
    assert_eq!(session.limits.block_sizes, exports()[0].block_sizes);
    assert_eq!(session.limits.flags.bits(), 0b101);
    assert!(!session.limits.has_contexts);
    assert_eq!(session.replies, ReplyStyle::Simple);
    assert_eq!(session.headers, HeaderMode::Compact);
    assert_eq!(session.contexts, []);
}

#[test]
fn info_tells_what_is_asked_for_and_goes_on() {
    let query = info_data(b"disk", &[1, 2, 3, 0, 99]);
    let run = run(&hello(&[(6, &query), (6, &query)]));
    let once = [
        (6, INFO, export_info(ReplyStyle::Simple)),
        (6, INFO, b"\0\x01disk".to_vec()),
        (6, INFO, b"\0\x02the disk".to_vec()),
        (6, INFO, b"\0\x03\0\0\x02\0\0\x01\0\0\x02\0\0\0".to_vec()),
        (6, ACK, Vec::new()),
    ];
    assert_eq!(replies(&run), [once.clone(), once].concat());
    assert_eq!(run.outcome, None);
}

#[test]
fn an_absent_description_is_not_told() {
    let run = run(&hello(&[(6, &info_data("ü".as_bytes(), &[2]))]));
    assert_eq!(kinds(&run), [(6, INFO), (6, ACK)]);
}

#[test]
fn unknown_exports_are_refused_and_negotiation_goes_on() {
    for name in [&b"nope"[..], b"", b"DISK", b"disk\0", b"\xff\xfe"] {
        let query = info_data(name, &[3]);
        let run = run(&hello(&[(6, &query), (7, &query), (2, b"")]));
        let want = [(6, ERR_UNKNOWN), (7, ERR_UNKNOWN), (2, ACK)];
        assert_eq!(kinds(&run), want);
    }
}

#[test]
fn long_export_names_are_refused_without_an_echo() {
    let longest = info_data(&[b'n'; 4096], &[]);
    let longer = info_data(&[b'n'; 4097], &[]);
    let run = run(&hello(&[
        (7, &info_data(&[b'n'; 3000], &[])),
        (7, &longest),
        (7, &longer),
        (9, &meta_data(&[b'n'; 3000], &[])),
        (7, &info_data(b"disk", &[])),
    ]));
    let want = [
        (7, ERR_UNKNOWN),
        (7, ERR_UNKNOWN),
        (7, ERR_TOO_BIG),
        (9, ERR_INVALID),
        (7, INFO),
        (7, ACK),
    ];
    assert_eq!(kinds(&run), want);
    assert!(run.output.len() < 500, "{} bytes", run.output.len());
}

#[test]
fn malformed_go_is_invalid() {
    for data in [
        &b""[..],
        b"\0\0\0\x04disk",
        b"\0\0\0\x04disk\0\x01",
        b"\0\0\0\x04disk\0\0\0",
        b"\xff\xff\xff\xffdisk\0\0",
    ] {
        assert_eq!(kinds(&run(&hello(&[(7, data)]))), [(7, ERR_INVALID)]);
    }
}

#[test]
fn export_name_answers_with_and_without_zeroes() {
    for (client_flags, zeroes) in [(0_u32, 124), (1, 124), (2, 0), (3, 0)] {
        let mut bytes = client_flags.to_be_bytes().to_vec();
        put_option(&mut bytes, 1, b"disk");
        let run = run(&bytes);
        let mut want = export_info(ReplyStyle::Simple)[2..].to_vec();
        want.extend(vec![0; zeroes]);
        assert_eq!(run.output, want);
        assert_eq!(session(&run).export, 0);
    }
}

#[test]
fn export_name_keeps_what_was_negotiated_before() {
    let contexts = meta_data("disk".as_bytes(), &[b"base:allocation"]);
    let run = run(&hello(&[(8, b""), (10, &contexts), (1, b"disk")]));
    assert_eq!(session(&run).replies, ReplyStyle::Structured);
    assert!(session(&run).limits.has_contexts);
}

#[test]
fn export_name_of_no_export_hangs_up() {
    let run = run(&hello(&[(1, b"nope")]));
    assert_eq!(run.result, Err(ProtocolError::UnknownExport));
    assert_eq!(run.output, b"");
}

#[test]
fn export_name_over_the_limit_hangs_up_before_its_data() {
    let run = run(&hello(&[(1, &[b'x'; 4097])]));
    assert_eq!(run.result, Err(ProtocolError::NameTooLong));
}

#[test]
fn abort_is_acknowledged_and_ends_with_or_without_data() {
    for data in [&b""[..], b"bye"] {
        let run = run(&hello(&[(2, data)]));
        assert_eq!(kinds(&run), [(2, ACK)]);
        assert_eq!(run.outcome, Some(Outcome::Aborted));
    }
}

#[test]
fn list_names_all_exports_with_descriptions() {
    let run = run(&hello(&[(3, b"")]));
    let want = vec![
        (3, SERVER, b"\0\0\0\x04diskthe disk".to_vec()),
        (3, SERVER, b"\0\0\0\x02\xc3\xbc".to_vec()),
        (3, ACK, Vec::new()),
    ];
    assert_eq!(replies(&run), want);
}

#[test]
fn options_without_data_refuse_data_and_go_on() {
    for option in [3, 5, 8] {
        let run = run(&hello(&[(option, b"x"), (2, b"")]));
        assert_eq!(kinds(&run), [(option, ERR_INVALID), (2, ACK)]);
    }
}

#[test]
fn structured_replies_bring_the_df_flag() {
    let go = info_data(b"disk", &[]);
    let run = run(&hello(&[(8, b""), (8, b""), (7, &go)]));
    let want = vec![
        (8, ACK, Vec::new()),
        (8, ACK, Vec::new()),
        (7, INFO, export_info(ReplyStyle::Structured)),
        (7, ACK, Vec::new()),
    ];
    assert_eq!(replies(&run), want);
    assert_eq!(session(&run).replies, ReplyStyle::Structured);
}

#[test]
fn refused_structured_replies_stay_off() {
    let run = run(&hello(&[(8, b"1"), (7, &info_data(b"disk", &[]))]));
    assert_eq!(session(&run).replies, ReplyStyle::Simple);
}

#[test]
fn starttls_and_unknown_options_are_unsupported() {
    let run = run(&hello(&[
        (5, b""),
        (4, b"disk"),
        (12, &[7; 5000]),
        (0, b""),
        (u32::MAX, b"???"),
        (2, b""),
    ]));
    let want = [
        (5, ERR_UNSUP),
        (4, ERR_UNSUP),
        (12, ERR_UNSUP),
        (0, ERR_UNSUP),
        (u32::MAX, ERR_UNSUP),
        (2, ACK),
    ];
    assert_eq!(kinds(&run), want);
}

#[test]
fn extended_headers_bring_structured_replies_and_contexts_along() {
    let query = meta_data(b"disk", &[b"base:allocation"]);
    let run = run(&hello(&[
        (11, b""),
        (10, &query),
        (7, &info_data(b"disk", &[])),
    ]));
    let session = session(&run);
    assert_eq!(
        (session.headers, session.replies),
        (HeaderMode::Extended, ReplyStyle::Structured)
    );
    assert_eq!(session.contexts.len(), 1);
    let flags = session.limits.flags;
    assert!(flags.contains(TransmissionFlags::BLOCK_STATUS_PAYLOAD));
}

#[test]
fn extended_headers_come_once_without_data_and_stay() {
    let run = run(&hello(&[
        (11, b"1"),
        (8, b""),
        (11, b""),
        (11, b""),
        (8, b""),
        (7, &info_data(b"disk", &[])),
    ]));
    let want = [
        (11, ERR_INVALID),
        (8, ACK),
        (11, ACK),
        (11, ERR_INVALID),
        (8, ERR_EXTENDED),
    ];
    assert_eq!(kinds(&run)[..5], want);
    assert_eq!(session(&run).headers, HeaderMode::Extended);
}

#[test]
fn a_client_without_extended_headers_is_not_told_what_needs_them() {
    let run = run(&hello(&[(8, b""), (7, &info_data(b"disk", &[]))]));
    let session = session(&run);
    assert_eq!(session.headers, HeaderMode::Compact);
    let flags = session.limits.flags;
    assert!(!flags.contains(TransmissionFlags::BLOCK_STATUS_PAYLOAD));
}

#[test]
fn contexts_need_structured_replies() {
    let query = meta_data(b"disk", &[b"base:allocation"]);
    let run = run(&hello(&[(9, &query), (10, &query)]));
    assert_eq!(kinds(&run), [(9, ERR_INVALID), (10, ERR_INVALID)]);
}

#[track_caller]
fn listed(option: u32, queries: &[&[u8]]) -> Vec<String> {
    let run = run(&hello(&[(8, b""), (option, &meta_data(b"disk", queries))]));
    let mut replies = replies(&run).split_off(1);
    assert_eq!(replies.pop(), Some((option, ACK, Vec::new())));
    let name = |(reply_option, kind, data): (u32, u32, Vec<u8>)| {
        assert_eq!((reply_option, kind), (option, META));
        String::from_utf8(data[4..].to_vec()).unwrap()
    };
    replies.into_iter().map(name).collect()
}

#[test]
fn contexts_are_listed_whole_by_wildcard_and_by_name() {
    let all = [
        "base:allocation",
        "qemu:dirty-bitmap:a",
        "qemu:dirty-bitmap:b",
    ];
    assert_eq!(listed(9, &[]), all);
    assert_eq!(listed(9, &[b"base:"]), all[..1]);
    assert_eq!(listed(9, &[b"qemu:"]), all[1..]);
    assert_eq!(listed(9, &[b"qemu:dirty-bitmap:"]), all[1..]);
    assert_eq!(
        listed(9, &[b"qemu:dirty-bitmap:b", b"qemu:dirty-bitmap:b"]),
        all[2..]
    );
    assert_eq!(
        listed(9, &[b"x:", b"", b"base", b"qemu:dirty", b":"]),
        [""; 0]
    );
}

#[test]
fn contexts_are_set_by_full_name_only() {
    assert_eq!(listed(10, &[b"base:allocation"]), ["base:allocation"]);
    let both: [&[u8]; 3] = [b"qemu:dirty-bitmap:b", b"foo:bar", b"base:allocation"];
    assert_eq!(
        listed(10, &both),
        ["base:allocation", "qemu:dirty-bitmap:b"]
    );
    assert_eq!(listed(10, &[]), [""; 0]);
    assert_eq!(listed(10, &[b"base:", b"qemu:", b"", b"base:x"]), [""; 0]);
}

#[test]
fn set_contexts_have_ids_of_their_own_and_reach_the_session() {
    let set = meta_data(b"disk", &[b"qemu:dirty-bitmap:b", b"base:allocation"]);
    let run = run(&hello(&[
        (8, b""),
        (10, &set),
        (7, &info_data(b"disk", &[])),
    ]));
    let want = [(0, "base:allocation"), (2, "qemu:dirty-bitmap:b")].map(|(id, name)| MetaContext {
        id,
        name: name.into(),
    });
    assert_eq!(session(&run).contexts, want);
    assert!(session(&run).limits.has_contexts);
    let told = &replies(&run)[1..3];
    assert_eq!(told[0].2, b"\0\0\0\0base:allocation");
    assert_eq!(told[1].2, b"\0\0\0\x02qemu:dirty-bitmap:b");
}

#[test]
fn contexts_do_not_outlive_another_choice() {
    let set = meta_data(b"disk", &[b"base:allocation"]);
    let go = info_data(b"disk", &[]);
    let oversized = vec![0; MAX_OPTION_BYTES + 1];
    for spoiler in [
        &meta_data(b"disk", &[])[..],
        &meta_data(b"nope", &[b"base:allocation"]),
        b"malformed",
        &oversized,
    ] {
        let run = run(&hello(&[(8, b""), (10, &set), (10, spoiler), (7, &go)]));
        assert_eq!(session(&run).contexts, []);
        assert!(!session(&run).limits.has_contexts);
    }
    let other = info_data("ü".as_bytes(), &[]);
    let run = run(&hello(&[(8, b""), (10, &set), (7, &other)]));
    assert_eq!(session(&run).contexts, [], "set for another export");
}

#[test]
fn contexts_of_unknown_exports_and_malformed_queries_are_refused() {
    let lying = b"\0\0\0\x04disk\0\0\0\x01\xff\xff\xff\xffbase:allocation";
    for option in [9, 10] {
        let run = run(&hello(&[
            (8, b""),
            (option, &meta_data(b"nope", &[])),
            (option, lying),
            (option, b""),
        ]));
        let want = [
            (8, ACK),
            (option, ERR_UNKNOWN),
            (option, ERR_INVALID),
            (option, ERR_INVALID),
        ];
        assert_eq!(kinds(&run), want);
    }
}

#[test]
fn oversized_options_are_skipped_without_being_held() {
    for option in [6, 7, 9, 10] {
        let mut server = Negotiation::new();
        let _ = server.take_output();
        let most = usize::try_from(MAX_SKIPPED_OPTION_BYTES).unwrap();
        let mut bytes = hello(&[(option, &vec![0; most])]);
        put_option(&mut bytes, 2, b"");
        let mut rest = &bytes[..];
        let mut output = Vec::new();
        while server.outcome().is_none() {
            let taken = server
                .input(&rest[..rest.len().min(1000)], &exports())
                .unwrap();
            rest = &rest[taken..];
            assert!(server.gathered.capacity() <= 1000, "data was held");
            output.extend(server.take_output());
        }
        let run = Run {
            output,
            result: Ok(()),
            outcome: None,
            left: 0,
        };
        assert_eq!(kinds(&run), [(option, ERR_TOO_BIG), (2, ACK)]);
    }
}

#[test]
fn the_largest_option_that_is_held_is_answered() {
    let padding = vec![b'x'; MAX_OPTION_BYTES - 16];
    let query = meta_data(b"disk", &[&padding]);
    assert_eq!(query.len(), MAX_OPTION_BYTES);
    let run = run(&hello(&[(8, b""), (9, &query)]));
    assert_eq!(kinds(&run), [(8, ACK), (9, ACK)]);
}

#[test]
fn huge_options_hang_up_at_once() {
    for (option, len) in [
        (7, u32::MAX),
        (3, MAX_SKIPPED_OPTION_BYTES + 1),
        (99, u32::MAX),
        (2, 1 << 31),
    ] {
        let mut bytes = hello(&[(option, b"")]);
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&len.to_be_bytes());
        assert_eq!(run(&bytes).result, Err(ProtocolError::OptionTooLong(len)));
    }
}

#[test]
fn endless_options_hang_up() {
    let options = vec![(99, &b""[..]); usize::try_from(MAX_OPTIONS).unwrap() + 1];
    let run = run(&hello(&options));
    assert_eq!(run.result, Err(ProtocolError::TooManyOptions));
    assert_eq!(replies(&run).len(), options.len() - 1);
}

#[test]
fn unknown_client_flags_hang_up() {
    for flags in [4_u32, 0x8000_0000, u32::MAX, 0x0001_0001] {
        let run = run(&flags.to_be_bytes());
        assert_eq!(run.result, Err(ProtocolError::UnknownClientFlags(flags)));
    }
}

#[test]
fn without_fixed_newstyle_only_export_name_is_there() {
    let mut bytes = 0_u32.to_be_bytes().to_vec();
    put_option(&mut bytes, 3, b"");
    assert_eq!(run(&bytes).result, Err(ProtocolError::NotFixedNewstyle));
}

#[test]
fn bad_option_magic_hangs_up() {
    let mut bytes = hello(&[(3, b"")]);
    bytes[4] ^= 1;
    let error = run(&bytes).result.unwrap_err();
    assert!(matches!(
        error,
        ProtocolError::BadMagic {
            expected: "option",
            ..
        }
    ));
}

#[test]
fn strangers_of_other_protocols_are_sent_away() {
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        &[0; 64],
        &[0xff; 64],
    ] {
        assert!(run(bytes).result.is_err(), "{bytes:?}");
    }
}

#[test]
fn nothing_is_taken_while_output_waits() {
    let mut server = Negotiation::new();
    let bytes = hello(&[(3, b""), (3, b"")]);
    assert_eq!(server.input(&bytes, &exports()), Ok(0));
    let _ = server.take_output();
    assert_eq!(server.input(&bytes, &exports()), Ok(20));
    assert_eq!(server.input(&bytes[20..], &exports()), Ok(0));
}

#[test]
fn bytes_after_the_end_are_left_for_transmission() {
    let mut bytes = hello(&[(7, &info_data(b"disk", &[]))]);
    bytes.extend_from_slice(b"a request");
    assert_eq!(run(&bytes).left, 9);
}

#[test]
fn byte_by_byte_gives_the_same_as_one_piece() {
    let set = meta_data(b"disk", &[b"base:allocation"]);
    let oversized = vec![0; MAX_OPTION_BYTES + 1];
    let whole = hello(&[
        (8, b""),
        (3, b""),
        (3, b"x"),
        (10, &set),
        (9, &oversized),
        (99, b"unknown"),
        (6, &info_data(b"disk", &[0, 1, 2, 3])),
        (7, &info_data(b"nope", &[])),
        (7, &info_data(b"disk", &[3])),
    ]);
    let want = run(&whole);
    assert!(want.outcome.is_some());
    for piece in [1, 2, 3, 7, 16, 1000] {
        assert_eq!(run_in_pieces(&whole, piece), want, "pieces of {piece}");
    }
}

#[test]
fn exports_may_change_between_calls() {
    let mut server = Negotiation::new();
    let _ = server.take_output();
    let go = hello(&[(7, &info_data(b"disk", &[]))]);
    let taken = server.input(&go, &[]).unwrap();
    assert_eq!(taken, go.len());
    assert!(server.outcome().is_none());
    let _ = server.take_output();
    server.input(&go[4..], &exports()).unwrap();
    assert!(server.outcome().is_some());
}

#[test]
fn flags_that_hang_on_others_go_with_them() {
    let mut export = exports().remove(0);
    export.flags = TransmissionFlags::SEND_FAST_ZERO;
    let mut server = Negotiation::new();
    let _ = server.take_output();
    let go = hello(&[(7, &info_data(b"disk", &[]))]);
    server.input(&go, &[export]).unwrap();
    let Some(Outcome::Transmission(session)) = server.outcome() else {
        panic!("no transmission");
    };
    assert_eq!(session.limits.flags, TransmissionFlags::HAS_FLAGS);
}
