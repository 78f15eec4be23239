//! The client's negotiation against scripted servers.

use super::{ClientGoal, ClientNegotiation, ClientOutcome, ClientSession, MAX_LISTED_EXPORTS};
use crate::option::{
    OPT_ABORT, OPT_EXPORT_NAME, OPT_GO, OPT_LIST, OPT_SET_META_CONTEXT, OPT_STRUCTURED_REPLY,
    REP_ACK, REP_INFO, REP_META_CONTEXT, REP_SERVER, put_option, put_reply,
};
use crate::{BlockSizes, MetaContext, OptionRefusal, ProtocolError, ReplyStyle};

const ERR_UNSUP: u32 = 0x8000_0001;
const ERR_POLICY: u32 = 0x8000_0002;
const ERR_UNKNOWN: u32 = 0x8000_0006;

const EXPORT_INFO: &[u8] = b"\0\0\0\0\0\0\0\0\x10\0\x01\x01";

fn go(contexts: &[&str]) -> ClientNegotiation {
    ClientNegotiation::new(ClientGoal::Go {
        export: "disk".into(),
        contexts: contexts.iter().map(|&name| name.into()).collect(),
    })
}

fn greeting(flags: u8) -> Vec<u8> {
    [&b"NBDMAGICIHAVEOPT\0"[..], &[flags]].concat()
}

/// A server's words: greeting and these replies (option, type, data).
fn server(replies: &[(u32, u32, &[u8])]) -> Vec<u8> {
    let mut bytes = greeting(3);
    for (option, kind, data) in replies {
        put_reply(&mut bytes, *option, *kind, data);
    }
    bytes
}

/// Feeds it all, in pieces, and returns everything the client said.
fn feed(client: &mut ClientNegotiation, bytes: &[u8], piece: usize) -> Vec<u8> {
    let mut said = Vec::new();
    for part in bytes.chunks(piece) {
        assert_eq!(client.input(part), Ok(part.len()));
        said.extend(client.take_output());
    }
    said
}

/// The error of feeding it all.
#[track_caller]
fn error(client: &mut ClientNegotiation, bytes: &[u8]) -> ProtocolError {
    let error = client.input(bytes).unwrap_err();
    assert_eq!(client.input(b"x"), Err(error), "errors stay");
    assert_eq!(client.outcome(), None);
    error
}

#[track_caller]
fn session(client: &ClientNegotiation) -> &ClientSession {
    match client.outcome() {
        Some(ClientOutcome::Transmission(session)) => session,
        other => panic!("no transmission but {other:?}"),
    }
}

/// Client flags and these options, as the client must say them.
fn says(options: &[(u32, &[u8])]) -> Vec<u8> {
    let mut bytes = b"\0\0\0\x03".to_vec();
    for (option, data) in options {
        put_option(&mut bytes, *option, data);
    }
    bytes
}

const GO_DATA: &[u8] = b"\0\0\0\x04disk\0\x03\0\x01\0\x02\0\x03";
const META_DATA: &[u8] = b"\0\0\0\x04disk\0\0\0\x01\0\0\0\x0fbase:allocation";

#[test]
fn go_with_all_there_is() {
    let bytes = server(&[
        (OPT_STRUCTURED_REPLY, REP_ACK, b""),
        (
            OPT_SET_META_CONTEXT,
            REP_META_CONTEXT,
            b"\0\0\0\x07base:allocation",
        ),
        (OPT_SET_META_CONTEXT, REP_ACK, b""),
        (OPT_GO, REP_INFO, EXPORT_INFO),
        (OPT_GO, REP_INFO, b"\0\x01disk\x07"),
        (OPT_GO, REP_INFO, b"\0\x02a disk"),
        (OPT_GO, REP_INFO, b"\0\x03\0\0\x02\0\0\0\x10\0\0\x10\0\0"),
        (OPT_GO, REP_INFO, b"\0\x63whatever"),
        (OPT_GO, REP_ACK, b""),
    ]);
    for piece in [1, 7, bytes.len()] {
        let mut client = go(&["base:allocation"]);
        let said = feed(&mut client, &bytes, piece);
        let want = says(&[
            (OPT_STRUCTURED_REPLY, b""),
            (OPT_SET_META_CONTEXT, META_DATA),
            (OPT_GO, GO_DATA),
        ]);
        assert_eq!(said, want);
        let session = session(&client);
        assert_eq!(session.limits.size_bytes, 4096);
        assert_eq!(session.limits.flags.bits(), 0x101);
        assert_eq!(session.limits.block_sizes.minimum_bytes, 512);
        assert!(session.limits.has_contexts);
        assert_eq!(session.name.as_deref(), Some("disk "));
        assert_eq!(session.description, "a disk");
        assert_eq!(session.replies, ReplyStyle::Structured);
        let context = MetaContext {
            id: 7,
            name: "base:allocation".into(),
        };
        assert_eq!(session.contexts, [context]);
        assert_eq!(client.input(b"a reply"), Ok(0), "left for transmission");
    }
}

#[test]
fn a_server_without_structured_replies_is_taken_as_it_is() {
    let bytes = server(&[
        (OPT_STRUCTURED_REPLY, ERR_UNSUP, b"what?"),
        (OPT_GO, REP_INFO, EXPORT_INFO),
        (OPT_GO, REP_ACK, b""),
    ]);
    let mut client = go(&["base:allocation"]);
    let said = feed(&mut client, &bytes, 1000);
    assert_eq!(
        said,
        says(&[(OPT_STRUCTURED_REPLY, b""), (OPT_GO, GO_DATA)])
    );
    assert_eq!(session(&client).replies, ReplyStyle::Simple);
    assert_eq!(session(&client).contexts, []);
    assert_eq!(session(&client).limits.block_sizes, BlockSizes::default());
}

#[test]
fn a_server_without_contexts_gives_none() {
    for refusal in [REP_ACK, ERR_UNSUP, ERR_UNKNOWN] {
        let bytes = server(&[
            (OPT_STRUCTURED_REPLY, REP_ACK, b""),
            (OPT_SET_META_CONTEXT, refusal, b""),
            (OPT_GO, REP_INFO, EXPORT_INFO),
            (OPT_GO, REP_ACK, b""),
        ]);
        let mut client = go(&["base:allocation"]);
        let _ = feed(&mut client, &bytes, 1000);
        assert!(!session(&client).limits.has_contexts);
    }
}

#[test]
fn contexts_of_a_failed_set_do_not_count() {
    let bytes = server(&[
        (OPT_STRUCTURED_REPLY, REP_ACK, b""),
        (
            OPT_SET_META_CONTEXT,
            REP_META_CONTEXT,
            b"\0\0\0\x07base:allocation",
        ),
        (OPT_SET_META_CONTEXT, ERR_POLICY, b""),
        (OPT_GO, REP_INFO, EXPORT_INFO),
        (OPT_GO, REP_ACK, b""),
    ]);
    let mut client = go(&["base:allocation"]);
    let _ = feed(&mut client, &bytes, 1000);
    assert_eq!(session(&client).contexts, []);
}

#[test]
fn without_go_the_old_way_is_taken() {
    for (flags, zeroes) in [(3, 0), (1, 124)] {
        let mut bytes = greeting(flags);
        put_reply(&mut bytes, OPT_STRUCTURED_REPLY, ERR_UNSUP, b"");
        put_reply(&mut bytes, OPT_GO, ERR_UNSUP, b"");
        bytes.extend_from_slice(&EXPORT_INFO[2..]);
        bytes.extend(vec![0; zeroes]);
        for piece in [1, bytes.len()] {
            let mut client = go(&[]);
            let said = feed(&mut client, &bytes, piece);
            let mut want = says(&[
                (OPT_STRUCTURED_REPLY, b""),
                (OPT_GO, GO_DATA),
                (OPT_EXPORT_NAME, b"disk"),
            ]);
            want[3] = flags;
            assert_eq!(said, want);
            assert_eq!(session(&client).limits.size_bytes, 4096);
        }
    }
}

#[test]
fn a_refused_export_ends_with_a_goodbye() {
    let bytes = server(&[
        (OPT_STRUCTURED_REPLY, REP_ACK, b""),
        (OPT_GO, ERR_UNKNOWN, b"no\nsuch\x1bthing"),
    ]);
    let mut client = go(&[]);
    let said = feed(&mut client, &bytes, 1000);
    let refused = ClientOutcome::Refused {
        refusal: OptionRefusal::UnknownExport,
        text: "no such thing".into(),
    };
    assert_eq!(client.outcome(), Some(&refused));
    let want = says(&[
        (OPT_STRUCTURED_REPLY, b""),
        (OPT_GO, GO_DATA),
        (OPT_ABORT, b""),
    ]);
    assert_eq!(said, want);
}

#[test]
fn exports_are_listed_with_their_descriptions() {
    let bytes = server(&[
        (OPT_LIST, REP_SERVER, b"\0\0\0\x01aone"),
        (OPT_LIST, REP_SERVER, "\0\0\0\x02ü".as_bytes()),
        (OPT_LIST, REP_ACK, b""),
    ]);
    for piece in [1, bytes.len()] {
        let mut client = ClientNegotiation::new(ClientGoal::List);
        let said = feed(&mut client, &bytes, piece);
        assert_eq!(said, says(&[(OPT_LIST, b""), (OPT_ABORT, b"")]));
        let Some(ClientOutcome::Listed(exports)) = client.outcome() else {
            panic!("no list");
        };
        let pairs: Vec<_> = exports
            .iter()
            .map(|export| (&export.name[..], &export.description[..]))
            .collect();
        assert_eq!(pairs, [("a", "one"), ("ü", "")]);
    }
}

#[test]
fn a_refused_list_ends_with_a_goodbye() {
    let mut client = ClientNegotiation::new(ClientGoal::List);
    let _ = feed(&mut client, &server(&[(OPT_LIST, ERR_POLICY, b"")]), 1000);
    let refused = ClientOutcome::Refused {
        refusal: OptionRefusal::Policy,
        text: String::new(),
    };
    assert_eq!(client.outcome(), Some(&refused));
}

#[test]
fn an_endless_list_hangs_up() {
    let entry: (u32, u32, &[u8]) = (OPT_LIST, REP_SERVER, b"\0\0\0\x01a");
    let mut client = ClientNegotiation::new(ClientGoal::List);
    let bytes = server(&vec![entry; MAX_LISTED_EXPORTS + 1]);
    assert!(matches!(
        error(&mut client, &bytes),
        ProtocolError::BadReply(_)
    ));
}

#[test]
fn strangers_are_not_taken_for_servers() {
    let oldstyle = b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53\0\0";
    let error_of = |bytes: &[u8]| error(&mut go(&[]), bytes);
    assert_eq!(error_of(oldstyle), ProtocolError::NotFixedNewstyle);
    assert_eq!(error_of(&greeting(0)), ProtocolError::NotFixedNewstyle);
    assert_eq!(error_of(&greeting(2)), ProtocolError::NotFixedNewstyle);
    let http = error_of(b"HTTP/1.1 400 Bad Request\r\n");
    assert!(matches!(http, ProtocolError::BadMagic { .. }));
}

#[test]
fn replies_that_do_not_fit_hang_up() {
    let ack: (u32, u32, &[u8]) = (OPT_STRUCTURED_REPLY, REP_ACK, b"");
    let meta = OPT_SET_META_CONTEXT;
    let chosen: (u32, u32, &[u8]) = (meta, REP_META_CONTEXT, b"\0\0\0\x01base:allocation");
    let scripts: [&[(u32, u32, &[u8])]; 14] = [
        &[(OPT_GO, REP_ACK, b"")],
        &[(OPT_STRUCTURED_REPLY, REP_INFO, EXPORT_INFO)],
        &[(OPT_STRUCTURED_REPLY, ERR_UNSUP, &[b'x'; 20_000])],
        &[ack, chosen, chosen],
        &[ack, (meta, REP_META_CONTEXT, b"\0\0\0\x01base:other")],
        &[ack, (meta, REP_META_CONTEXT, b"\0\0")],
        &[ack, (meta, REP_SERVER, b"")],
        &[ack, (meta, REP_ACK, b""), (OPT_GO, REP_ACK, b"")],
        &[ack, (meta, REP_ACK, b""), (OPT_GO, REP_INFO, b"")],
        &[
            ack,
            (meta, REP_ACK, b""),
            (OPT_GO, REP_INFO, &EXPORT_INFO[..11]),
        ],
        &[
            ack,
            (meta, REP_ACK, b""),
            (OPT_GO, REP_INFO, b"\0\0\0\0\0\0\0\0\x10\0\0\0"),
        ],
        &[
            ack,
            (meta, REP_ACK, b""),
            (OPT_GO, REP_INFO, b"\0\x03\0\0\x02\0\0\0\x10"),
        ],
        &[
            ack,
            (meta, REP_ACK, b""),
            (OPT_GO, REP_INFO, b"\0\x03\0\0\0\x03\0\0\x10\0\0\x10\0\0"),
        ],
        &[ack, (meta, REP_ACK, b""), (OPT_GO, 77, b"")],
    ];
    for script in scripts {
        let found = error(&mut go(&["base:allocation"]), &server(script));
        assert!(matches!(found, ProtocolError::BadReply(_)), "{script:?}");
    }
    let mut bytes = server(&[ack]);
    bytes[18] ^= 1;
    let found = error(&mut go(&[]), &bytes);
    assert!(matches!(found, ProtocolError::BadMagic { .. }));
}

#[test]
fn endless_infos_hang_up() {
    let info: (u32, u32, &[u8]) = (OPT_GO, REP_INFO, EXPORT_INFO);
    let mut script = vec![(OPT_STRUCTURED_REPLY, REP_ACK, &b""[..])];
    script.extend(vec![info; 65]);
    let found = error(&mut go(&[]), &server(&script));
    assert!(matches!(found, ProtocolError::BadReply(_)));
}

#[test]
fn contexts_beyond_one_option_are_not_asked_for() {
    let names: Vec<String> = (0..100).map(|n| format!("x:{n:0>300}")).collect();
    let names: Vec<&str> = names.iter().map(|name| &name[..]).collect();
    let mut client = go(&names);
    let said = feed(
        &mut client,
        &server(&[(OPT_STRUCTURED_REPLY, REP_ACK, b"")]),
        1000,
    );
    assert!(said.len() <= crate::MAX_OPTION_BYTES + 36);
    assert!(client.wanted_contexts.len() > 50);
}
