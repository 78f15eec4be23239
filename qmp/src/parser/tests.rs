//! Values of clients, well-formed and not.

use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};
use serde_json::json;

use super::{Limits, Parser};
use crate::Value;

/// Everything that comes out, errors as their texts.
fn parse(bytes: &[u8]) -> Vec<Result<Value, String>> {
    parse_in_pieces(&[bytes], Limits::default())
}

fn parse_in_pieces(pieces: &[&[u8]], limits: Limits) -> Vec<Result<Value, String>> {
    let mut parser = Parser::new(limits);
    let mut found = Vec::new();
    for piece in pieces {
        parser.feed(piece);
        found.extend(parser.by_ref().map(|it| it.map_err(|error| error.desc)));
    }
    found
}

fn error(desc: &str) -> Result<Value, String> {
    Err(format!("JSON parse error, {desc}"))
}

#[test]
fn values_come_out_as_they_went_in() {
    let cases: [(&[u8], Value); 15] = [
        (b"{}", json!({})),
        (b"[]", json!([])),
        (
            b"[1, -2, 0, 1.5, -0.25e+2, 1E3]",
            json!([1, -2, 0, 1.5, -25.0, 1000.0]),
        ),
        (b"[true, false, null]", json!([true, false, null])),
        (
            b"{\"a\": {\"b\": [{}]}, \"c\": 1}",
            json!({"a": {"b": [{}]}, "c": 1}),
        ),
        (b"'it\\'s \"it\"'", json!("it's \"it\"")),
        (
            b"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
            json!("\"\\/\u{8}\u{c}\n\r\t"),
        ),
        (
            b"\"\\u00fc\\ud83d\\ude00\\u0000\"",
            json!("\u{fc}\u{1f600}\0"),
        ),
        (
            b"\"\\ud800\\udc00\\uDBFF\\uDFFF\"",
            json!("\u{10000}\u{10ffff}"),
        ),
        ("\"ü😀\"".as_bytes(), json!("ü😀")),
        (b"[9223372036854775807]", json!([i64::MAX])),
        (b"[18446744073709551615]", json!([u64::MAX])),
        (
            b"[18446744073709551616]",
            json!([18_446_744_073_709_551_616.0]),
        ),
        (
            b"[-9223372036854775809]",
            json!([-9_223_372_036_854_775_809.0]),
        ),
        (b" \t\r\n{ 'a'\n:\r1\t}", json!({"a": 1})),
    ];
    for (text, value) in cases {
        assert_eq!(
            parse(text),
            [Ok(value)],
            "{}",
            String::from_utf8_lossy(text)
        );
    }
}

#[test]
fn several_values_stand_on_one_line() {
    let found = parse(b"{}{}[1]\"a\" true 7 ");
    let want = [
        json!({}),
        json!({}),
        json!([1]),
        json!("a"),
        json!(true),
        json!(7),
    ];
    assert_eq!(found, want.map(Ok));
}

#[test]
fn a_word_or_number_is_complete_when_something_follows() {
    assert_eq!(parse(b"true"), []);
    assert_eq!(parse(b"12"), []);
    assert_eq!(
        parse_in_pieces(&[b"1", b"2", b"\n"], Limits::default()),
        [Ok(json!(12))]
    );
}

#[test]
fn a_mistake_costs_one_value() {
    let cases: [(&[u8], &str); 19] = [
        (b"bad\n", "invalid keyword 'bad'"),
        (b"{\"a\": bad}", "invalid keyword 'bad'"),
        (b"{\"a\" 1}", "missing : in object pair"),
        (b"{1: 1}", "key is not a string in object"),
        (b"{null: 1}", "key is not a string in object"),
        (b"{bad: 1}", "invalid keyword 'bad'"),
        (b"{\"a\": 1 \"b\": 2}", "expected separator in dict"),
        (b"[1 2]", "expected separator in list"),
        (b"{\"a\": 1,}", "expecting value"),
        (b"{\"a\": }", "expecting value"),
        (b"[1,]", "expecting value"),
        (b"[,]", "expecting value"),
        (b"]", "expecting value"),
        (b",", "expecting value"),
        (b"{]", "expecting value"),
        (b"{[}]", "key is not a string in object"),
        (b"{\"a\": 1, \"a\": 2}", "duplicate key"),
        (b"[1e400]", "number is too large"),
        (b"\"\\x\"", "invalid escape sequence in string"),
    ];
    for (text, desc) in cases {
        let found = parse(&[text, b"{}"].concat());
        let want = [error(desc), Ok(json!({}))];
        assert_eq!(found, want, "{}", String::from_utf8_lossy(text));
    }
}

#[test]
fn what_fits_nowhere_ends_the_value_at_once() {
    let cases: [(&[u8], &str); 9] = [
        (b"\x01", "stray '\x01'"),
        (b"\0", "stray ''"),
        (b"\xff", "stray '\u{fffd}'"),
        (b"{\"a\": \x01", "stray '\x01'"),
        (b"{\"a\": \"b\n", "stray '\"b\n'"),
        (b"{\"a\xff", "stray '\"a\u{fffd}'"),
        (b"01 \n", "stray '01'"),
        (b"-x \n", "stray '-x'"),
        (b"%p \t p\n", "stray '%'"),
    ];
    for (text, desc) in cases {
        let found = parse(&[text, b"{}"].concat());
        let want = [error(desc), Ok(json!({}))];
        assert_eq!(found, want, "{}", String::from_utf8_lossy(text));
    }
}

#[test]
fn broken_utf8_in_a_string_is_an_error() {
    for bad in [
        &b"\xc0\x80"[..],
        b"\xed\xa0\x80",
        b"\xf8\x88",
        b"\xe2\x82",
        b"\x80",
    ] {
        let found = parse(&[b"{\"a\": \"", bad, b"\"}[]"].concat());
        let want = [error("invalid UTF-8 sequence in string"), Ok(json!([]))];
        assert_eq!(found, want, "{bad:x?}");
    }
}

#[test]
fn half_of_a_pair_is_no_character() {
    for text in [
        "\\ud83d",
        "\\ude00",
        "\\ud83d\\u0041",
        "\\ud83dx",
        "\\u12",
        "\\u+123",
        "\\u12ü4",
    ] {
        let found = parse(format!("['{text}']{{}}").as_bytes());
        let seen: String = text.chars().take(6).collect();
        let desc = format!("{seen} is not a valid Unicode character");
        assert_eq!(found, [error(&desc), Ok(json!({}))], "{text}");
    }
}

#[test]
fn limits_hold_and_the_parser_goes_on() {
    let limits = Limits {
        bytes: 10,
        depth: 3,
        tokens: 5,
    };
    let cases: [(&[u8], &str); 4] = [
        (b"\"aaaaaaaaaa", "JSON token size limit exceeded"),
        (b"['aaa','bbb'", "JSON token size limit exceeded"),
        (b"[[[[", "JSON nesting depth limit exceeded"),
        (b"[1,1,1", "JSON token count limit exceeded"),
    ];
    for (text, desc) in cases {
        let found = parse_in_pieces(&[text, b"\x01{}"], limits);
        let want = Err(desc.to_owned());
        assert_eq!(
            found.first(),
            Some(&want),
            "{}",
            String::from_utf8_lossy(text)
        );
        assert_eq!(found.last(), Some(&Ok(json!({}))), "{found:?}");
    }
    let at_limit = parse_in_pieces(
        &[b"[[[1]]]", b"'12345678'"],
        Limits {
            tokens: 7,
            ..limits
        },
    );
    assert_eq!(at_limit, [Ok(json!([[[1]]])), Ok(json!("12345678"))]);
}

#[test]
fn an_endless_string_takes_bounded_memory() {
    let mut parser = Parser::new(Limits {
        bytes: 1 << 20,
        ..Limits::default()
    });
    parser.feed(b"{\"execute\":\"");
    let mut errors = 0;
    for _ in 0..64 {
        parser.feed(&[b'x'; 64 << 10]);
        errors += parser.by_ref().count();
        assert!(parser.token.capacity() <= 4 << 20 && parser.input.capacity() <= 1 << 20);
    }
    assert_eq!(errors, 1);
}

/// Bytes of which more are right than by chance.
fn bytes() -> impl proptest::strategy::Strategy<Value = Vec<u8>> {
    let likely = b"{}[]:,\"'\\ \n0123456789eE.+-truefalsnu\x01\0\xff\xc3\xbcd8";
    let byte = proptest::prop_oneof![
        9 => proptest::sample::select(likely.to_vec()),
        1 => any::<u8>(),
    ];
    vec(byte, 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_does_not_matter_how_bytes_arrive(bytes in bytes(), piece in 1..20_usize) {
        let limits = Limits { bytes: 40, depth: 4, tokens: 20 };
        let whole = parse_in_pieces(&[&bytes], limits);
        let pieces: Vec<&[u8]> = bytes.chunks(piece).collect();
        prop_assert_eq!(parse_in_pieces(&pieces, limits), whole);
    }

    #[test]
    fn no_bytes_make_it_lose_its_way(bytes in bytes()) {
        // A control character ends what was begun, whatever that was.
        let found = parse(&[&bytes, &b"\x01{'a': 1}"[..]].concat());
        prop_assert_eq!(found.last(), Some(&Ok(json!({"a": 1}))));
        prop_assert!(found.len() > 1);
    }

    #[test]
    fn what_serde_json_reads_we_read_alike(bytes in bytes()) {
        if let Ok(value) = serde_json::from_slice::<Value>(&bytes) {
            let found = parse(&[&bytes, &b"\n"[..]].concat());
            let has_twins = found.first().is_some_and(|it| *it == error("duplicate key"));
            prop_assert!(has_twins || found == [Ok(value)]);
        }
    }
}
