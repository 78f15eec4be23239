//! Properties: what is encoded decodes to itself, and random bytes neither
//! panic, nor are taken beyond what was given, nor grow without bound.

use proptest::collection::vec;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof};
use proptest::{prop_assert, prop_assert_eq, proptest};

use crate::option::put_option;
use crate::{
    BASE_ALLOCATION, BlockSizes, BlockStatus, ChunkBody, ChunkEnd, ClientGoal, ClientNegotiation,
    Command, CommandFlags, Errno, ErrorReport, ErrorShape, ExportInfo, ExportLimits, HeaderMode,
    MAX_TRANSFER_BYTES, Negotiation, Reply, ReplyStyle, Request, StatusExtent, StatusQuery,
    TransmissionFlags, block_status_chunk, data_chunk, error_at_chunk, error_chunk, hole_chunk,
    none_chunk, simple_reply,
};

/// All that one option can make the server say about [`exports`].
const MOST_OUTPUT_BYTES: usize = 1024;

fn exports() -> Vec<ExportInfo> {
    vec![ExportInfo {
        name: "d".into(),
        description: "disk".into(),
        size_bytes: 1 << 20,
        flags: TransmissionFlags::from_bits(u16::MAX),
        block_sizes: BlockSizes::default(),
        contexts: vec![BASE_ALLOCATION.into(), "qemu:dirty-bitmap:x".into()],
    }]
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        Just(Command::Read),
        Just(Command::Write),
        Just(Command::Disc),
        Just(Command::Flush),
        Just(Command::Trim),
        Just(Command::Cache),
        Just(Command::WriteZeroes),
        Just(Command::BlockStatus),
        (8..=u16::MAX).prop_map(Command::Unknown),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let near = prop_oneof![0..1_u64 << 21, any::<u64>()];
    let len = prop_oneof![0..1_u32 << 21, any::<u32>()];
    (any::<u64>(), command(), any::<u16>(), near, len).prop_map(
        |(cookie, command, flags, offset_bytes, len)| Request {
            cookie,
            command,
            flags: CommandFlags::from_bits(flags & 0x3f),
            offset_bytes,
            len_bytes: u64::from(len),
        },
    )
}

fn errno() -> impl Strategy<Value = Errno> {
    (0..Errno::ALL.len()).prop_map(|index| Errno::ALL[index])
}

fn end() -> impl Strategy<Value = ChunkEnd> {
    prop_oneof![Just(ChunkEnd::More), Just(ChunkEnd::Done)]
}

/// Bytes that often look like options with sensible or lying data.
fn client_bytes() -> impl Strategy<Value = Vec<u8>> {
    let data = prop_oneof![
        vec(any::<u8>(), 0..64),
        Just(b"\0\0\0\x01d\0\x03\0\x03\0\x02\0\x01".to_vec()),
        Just(b"\0\0\0\x01d\0\0\0\x01\0\0\0\x0fbase:allocation".to_vec()),
        Just(b"\0\0\0\x01d\0\0\0\0".to_vec()),
        Just(Vec::new()),
        Just(vec![0; 20_000]),
    ];
    let option = prop_oneof![0..13_u32, any::<u32>()];
    let options = vec((option, data), 0..12);
    let head = prop_oneof![Just(3_u32), 0..4_u32];
    (head, options, vec(any::<u8>(), 0..32)).prop_map(|(flags, options, tail)| {
        let mut bytes = flags.to_be_bytes().to_vec();
        for (option, data) in options {
            put_option(&mut bytes, option, &data);
        }
        bytes.extend(tail);
        bytes
    })
}

/// Feeds a server in the given pieces; returns all it said and how it ended.
fn run_server(bytes: &[u8], pieces: &[usize]) -> (Vec<u8>, String) {
    let mut server = Negotiation::new();
    let mut said = server.take_output();
    let mut rest = bytes;
    let mut pieces = pieces.iter().cycle();
    while !rest.is_empty() && server.outcome().is_none() {
        let piece = (*pieces.next().unwrap()).min(rest.len());
        match server.input(&rest[..piece], &exports()) {
            Ok(taken) => {
                assert!(taken <= piece);
                rest = &rest[taken..];
            }
            Err(error) => return (said, error.to_string()),
        }
        let output = server.take_output();
        assert!(output.len() <= MOST_OUTPUT_BYTES);
        said.extend(output);
    }
    (said, format!("{:?} {}", server.outcome(), rest.len()))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_request_decodes_to_itself(request in request(), tail in vec(any::<u8>(), 0..8)) {
        let mut bytes = request.encode(HeaderMode::Compact).to_vec();
        bytes.extend(&tail);
        let decoded = Request::decode(HeaderMode::Compact, &bytes);
        prop_assert_eq!(decoded, Ok(Some((request, 28))));

        let mut bytes = request.encode(HeaderMode::Extended).to_vec();
        bytes.extend(tail);
        let decoded = Request::decode(HeaderMode::Extended, &bytes);
        let mut want = request;
        if want.command == Command::Write {
            want.flags = want.flags.without(CommandFlags::PAYLOAD_LEN);
        }
        prop_assert_eq!(decoded, Ok(Some((want, 32))));
    }

    #[test]
    fn a_checked_request_lies_within_the_export(
        request in request(),
        size_bytes in 0..1_u64 << 21,
        flags in any::<u16>(),
        shift in 0..13_u32,
    ) {
        let limits = ExportLimits {
            size_bytes,
            flags: TransmissionFlags::from_bits(flags),
            block_sizes: BlockSizes { minimum_bytes: 1 << shift, ..BlockSizes::default() },
            has_contexts: true,
        };
        if request.check(&limits).is_ok() && request.command != Command::Disc {
            let end = request.offset_bytes.checked_add(request.len_bytes).unwrap();
            prop_assert!(end <= size_bytes);
            prop_assert_eq!((request.offset_bytes | request.len_bytes) % (1 << shift), 0);
            let payload_bytes = request.payload_bytes(HeaderMode::Extended);
            prop_assert!(payload_bytes <= u64::from(MAX_TRANSFER_BYTES));
            let read_only = limits.flags.contains(TransmissionFlags::READ_ONLY);
            prop_assert!(!(read_only && request.command.modifies()));
        }
    }

    #[test]
    fn replies_decode_to_themselves(
        cookie in any::<u64>(),
        offset_bytes in any::<u64>(),
        len_bytes in 1..=MAX_TRANSFER_BYTES,
        errno in errno(),
        end in end(),
    ) {
        let chunk = |end, body| Reply::Chunk { cookie, end, body };
        let simple = |result| Reply::Simple { cookie, result };
        let cases = [
            (simple_reply(cookie, Ok(())), simple(Ok(()))),
            (simple_reply(cookie, Err(errno)), simple(Err(errno))),
            (none_chunk(cookie), chunk(ChunkEnd::Done, ChunkBody::None)),
            (
                data_chunk(cookie, offset_bytes, len_bytes, end),
                chunk(end, ChunkBody::Data { offset_bytes, len_bytes }),
            ),
            (
                hole_chunk(cookie, offset_bytes, len_bytes, end),
                chunk(end, ChunkBody::Hole { offset_bytes, len_bytes }),
            ),
        ];
        for (bytes, want) in cases {
            let decoded = Reply::decode(ReplyStyle::Structured, &bytes);
            prop_assert_eq!(decoded, Ok(Some((want, bytes.len()))));
        }
    }

    #[test]
    fn errors_decode_to_themselves(
        cookie in any::<u64>(),
        offset in any::<u64>(),
        errno in errno(),
        text in "[a-zü ]{0,90}",
        end in end(),
    ) {
        for (bytes, want) in [
            (error_chunk(cookie, errno, &text, end), None),
            (error_at_chunk(cookie, errno, offset, &text, end), Some(offset)),
        ] {
            let (reply, len) = Reply::decode(ReplyStyle::Structured, &bytes).unwrap().unwrap();
            let Reply::Chunk { body: ChunkBody::Error { shape, payload_bytes }, .. } = reply else {
                panic!("{reply:?}");
            };
            prop_assert_eq!(bytes.len() - len, usize::try_from(payload_bytes).unwrap());
            let report = ErrorReport::decode(shape, &bytes[len..]).unwrap();
            prop_assert_eq!((report.errno, report.offset_bytes), (errno, want));
            prop_assert!(text.starts_with(&report.text));
        }
    }

    #[test]
    fn block_status_keeps_the_rules_of_the_protocol(
        len_bytes in 1..=u32::MAX,
        lens in vec(prop_oneof![1..10_000_u64, any::<u64>()], 1..20),
        flags in prop_oneof![Just(CommandFlags::NONE), Just(CommandFlags::REQ_ONE)],
    ) {
        let wanted = u64::from(len_bytes);
        let request = Request {
            cookie: 1,
            command: Command::BlockStatus,
            flags,
            offset_bytes: 0,
            len_bytes: wanted,
        };
        let extent = |len_bytes: u64| StatusExtent { len_bytes: len_bytes.max(1), flags: 1 };
        let given: Vec<_> = lens.into_iter().map(extent).collect();
        let mut out = Vec::new();
        block_status_chunk(&mut out, &request, 5, &given, ChunkEnd::Done);
        let (reply, header) = Reply::decode(ReplyStyle::Structured, &out).unwrap().unwrap();
        prop_assert_eq!(reply.payload_bytes(&request), (out.len() - header) as u64);
        let told = BlockStatus::decode(&out[header..]).unwrap().extents;
        let before_last: u64 = told[..told.len() - 1].iter().map(|e| e.len_bytes).sum();
        prop_assert!(before_last < wanted);
        if flags == CommandFlags::REQ_ONE {
            prop_assert!(told.len() == 1 && told[0].len_bytes <= wanted);
        }
        for (told, given) in told.iter().zip(&given) {
            prop_assert!(told.len_bytes <= given.len_bytes);
        }
    }

    #[test]
    fn a_server_takes_options_in_any_pieces_alike(
        bytes in client_bytes(),
        pieces in vec(1..40_usize, 1..8),
    ) {
        let whole = run_server(&bytes, &[bytes.len()]);
        prop_assert_eq!(run_server(&bytes, &pieces), whole);
    }

    #[test]
    fn a_server_survives_random_bytes(
        fixed in any::<bool>(),
        bytes in vec(any::<u8>(), 0..200),
    ) {
        let head: &[u8] = if fixed { b"\0\0\0\x03IHAVEOPT" } else { b"" };
        let _ = run_server(&[head, &bytes].concat(), &[13]);
    }

    #[test]
    fn a_client_survives_random_bytes(
        bytes in vec(any::<u8>(), 0..200),
        replies in vec((prop_oneof![Just(8_u32), Just(10), Just(7), Just(3)], 0..6_u32, vec(0..4_u8, 0..20)), 0..8),
        list in any::<bool>(),
    ) {
        let goal = if list {
            ClientGoal::List
        } else {
            ClientGoal::Go { export: "d".into(), contexts: vec![BASE_ALLOCATION.into()] }
        };
        let mut script = b"NBDMAGICIHAVEOPT\0\x03".to_vec();
        for (option, kind, data) in replies {
            crate::option::put_reply(&mut script, option, kind, &data);
        }
        for bytes in [&bytes, &[&script[..], &bytes].concat()] {
            let mut client = ClientNegotiation::new(goal.clone());
            if let Ok(taken) = client.input(bytes) {
                prop_assert!(taken <= bytes.len());
            }
            prop_assert!(client.take_output().len() <= MOST_OUTPUT_BYTES);
        }
    }

    #[test]
    fn decoders_survive_random_bytes(magic in 0..5_u8, bytes in vec(any::<u8>(), 0..80)) {
        let head: &[u8] = match magic {
            0 => b"",
            1 => b"\x25\x60\x95\x13",
            2 => b"\x67\x44\x66\x98",
            3 => b"\x21\xe4\x1c\x71",
            _ => b"\x66\x8e\x33\xef\0\x01",
        };
        let bytes = [head, &bytes].concat();
        if let Ok(Some((request, len))) = Request::decode(HeaderMode::Compact, &bytes) {
            prop_assert!(len <= bytes.len());
            prop_assert_eq!(&request.encode(HeaderMode::Compact)[..], &bytes[..len]);
        }
        let _ = Request::decode(HeaderMode::Extended, &bytes);
        let _ = StatusQuery::decode(&bytes);
        for style in [ReplyStyle::Simple, ReplyStyle::Structured] {
            if let Ok(Some((_, len))) = Reply::decode(style, &bytes) {
                prop_assert!(len <= bytes.len() && len <= 32);
            }
        }
        for shape in [ErrorShape::Whole, ErrorShape::AtOffset, ErrorShape::Unknown] {
            let _ = ErrorReport::decode(shape, &bytes);
        }
        let _ = BlockStatus::decode(&bytes);
    }
}
