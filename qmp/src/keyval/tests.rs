//! Options, well-formed and not.

use proptest::prelude::{ProptestConfig, any, prop_assert_eq, proptest};
use serde_json::json;

use super::{integer, parse, size, switch};
use crate::Value;

fn parsed(text: &str) -> Value {
    parse(text, None).unwrap().value
}

#[test]
fn keys_lead_to_their_places() {
    let cases = [
        ("", json!({})),
        ("a=1", json!({"a": "1"})),
        ("a=1,b=,", json!({"a": "1", "b": ""})),
        ("a=x,,y,b=,,", json!({"a": "x,y", "b": ","})),
        ("a=b=c", json!({"a": "b=c"})),
        ("a=1,a=2", json!({"a": "2"})),
        ("a.b.c=1,a.d=2", json!({"a": {"b": {"c": "1"}, "d": "2"}})),
        ("a.1=y,a.0=x", json!({"a": ["x", "y"]})),
        (
            "a.0.b=x,a.0.c=y,a.1.b=z",
            json!({"a": [{"b": "x", "c": "y"}, {"b": "z"}]}),
        ),
        (r#"{"a": [1, "x"]}"#, json!({"a": [1, "x"]})),
    ];
    for (text, value) in cases {
        assert_eq!(parsed(text), value, "{text}");
    }
}

#[test]
fn the_first_value_may_have_no_key() {
    let value = |text: &str| parse(text, Some("k")).unwrap().value;
    assert_eq!(value("x,a=1"), json!({"k": "x", "a": "1"}));
    assert_eq!(value("a=1"), json!({"a": "1"}));
    for (text, desc) in [
        ("a=1,x", "Expected '=' after parameter 'x'"),
        ("x,,y=1", "Invalid parameter ''"),
    ] {
        assert_eq!(parse(text, Some("k")).unwrap_err().desc, desc);
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let cases = [
        ("a", "Expected '=' after parameter 'a'"),
        ("=1", "Invalid parameter ''"),
        (".a=1", "Invalid parameter '.a'"),
        ("a.=1", "Invalid parameter 'a.'"),
        ("a..b=1", "Invalid parameter 'a..b'"),
        ("a b=1", "Invalid parameter 'a b'"),
        ("_a=1", "Invalid parameter '_a'"),
        ("0=1", "Invalid parameter '0'"),
        ("a=1,a.b=2", "Parameters 'a.*' used inconsistently"),
        ("a.b=2,a=1", "Parameters 'a.*' used inconsistently"),
        ("a.b=2,a.0=1", "Parameters 'a.*' used inconsistently"),
        ("a.1=x", "Parameter 'a.0' missing"),
        ("a.99999999999999999999=x", "Parameter 'a.0' missing"),
    ];
    for (text, desc) in cases {
        assert_eq!(parse(text, None).unwrap_err().desc, desc, "{text}");
    }
    for (text, desc) in [
        ("{", "JSON parse error, premature EOI"),
        ("{\"a\": 1", "JSON parse error, premature EOI"),
        ("{} {}", "Expecting at most one JSON value"),
        ("{'a': 1} x", "Expecting at most one JSON value"),
    ] {
        assert_eq!(parse(text, None).unwrap_err().desc, desc, "{text}");
    }
    let long = "a".repeat(127);
    assert!(parse(&format!("{long}.{long}=1"), None).is_ok());
    for (key, name) in [
        (format!("{long}a"), "Parameter"),
        (format!("b.{long}a.c"), "Parameter fragment"),
    ] {
        let error = parse(&format!("{key}=1"), None).unwrap_err();
        assert_eq!(error.desc, format!("{name} '{long}a' is too long"));
    }
    let deep = format!("{}=1", vec!["a"; 100].join("."));
    assert!(parse(&deep, None).is_err());
}

#[test]
fn texts_are_numbers_sizes_and_switches() {
    let numbers = [
        "0", "7", "-7", "+7", "0x1F", "010", "", "-", "--1", "1x", "0x", "09",
    ];
    let want = [Some(0), Some(7), Some(-7), Some(7), Some(31), Some(8)];
    for (text, want) in numbers.into_iter().zip(want.into_iter().chain([None; 6])) {
        assert_eq!(integer(text), want, "{text}");
    }
    for (text, want) in [
        ("0", Some(0)),
        ("512", Some(512)),
        ("64k", Some(64 << 10)),
        ("1.5G", Some(3 << 29)),
        ("0x200", Some(512)),
        ("7B", Some(7)),
        ("15.5E", Some(31 << 59)),
        ("18446744073709551615", Some(u64::MAX)),
        ("18446744073709551616", None),
        ("16E", None),
        ("-1", None),
        ("1.5", None),
        ("1.5B", None),
        ("k", None),
        ("", None),
        ("1kk", None),
        ("1.2.3k", None),
    ] {
        assert_eq!(size(text), want, "{text}");
    }
    assert_eq!(
        [switch("on"), switch("no"), switch("On")],
        [Some(true), Some(false), None]
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_it_panic(text in "[ab0-2.,=x-]{0,40}", other in any::<String>()) {
        let _ = (parse(&text, None), parse(&text, Some("k")), parse(&other, Some("k")));
        let _ = (size(&other), integer(&other), switch(&other));
        let _ = (size(&text), integer(&text));
    }

    #[test]
    fn a_value_comes_back_whatever_is_in_it(value in any::<String>()) {
        let text = format!("a={},b=1", value.replace(',', ",,"));
        prop_assert_eq!(parsed(&text), json!({"a": value, "b": "1"}));
    }
}
