//! Rust source seen without its comments, its literals, its tests: enough of a lexer for tidy.

use std::ops::Range;

/// A source text taken apart. Each part has the lines of the whole, so that line numbers agree.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    /// The code, with comments and literals blanked.
    pub(crate) code: String,
    /// The comments, with everything else blanked.
    pub(crate) comments: String,
}

/// Takes `text` apart.
pub(crate) fn split(text: &str) -> Parts {
    let chars: Vec<char> = text.chars().collect();
    let mut parts = Parts::default();
    let mut at = 0;
    while at < chars.len() {
        let hidden_len = comment_or_literal_len(&chars, at);
        let is_comment = hidden_len > 0 && chars[at] == '/';
        for &c in &chars[at..at + hidden_len.max(1)] {
            let blank = if c == '\n' { '\n' } else { ' ' };
            parts.code.push(if hidden_len > 0 { blank } else { c });
            parts.comments.push(if is_comment { c } else { blank });
        }
        at += hidden_len.max(1);
    }
    parts
}

/// How many characters the comment or literal beginning at `at` has; 0 where none begins.
fn comment_or_literal_len(chars: &[char], at: usize) -> usize {
    let rest = &chars[at..];
    match rest {
        ['/', '/', ..] => rest.iter().take_while(|&&c| c != '\n').count(),
        ['/', '*', ..] => block_comment_len(rest),
        ['"', ..] => quoted_len(rest, '"'),
        ['\'', '\\', ..] => quoted_len(rest, '\''),
        ['\'', _, '\'', ..] => 3,
        ['r', ..] if may_open_raw(&chars[..at]) => raw_string_len(rest),
        _ => 0,
    }
}

fn block_comment_len(rest: &[char]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => depth += 1,
            ['*', '/', ..] => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            break;
        }
    }
    at.min(rest.len())
}

fn quoted_len(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// Whether an `r` after `before` can open a raw string: as a word of its own, or after `b` or `c`.
fn may_open_raw(before: &[char]) -> bool {
    let word_len = before.iter().rev().take_while(|&&c| is_word(c)).count();
    matches!(before[before.len() - word_len..], [] | ['b' | 'c'])
}

fn raw_string_len(rest: &[char]) -> usize {
    let hashes = rest[1..].iter().take_while(|&&c| c == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        return 0; // A raw identifier, or just a word that begins with r.
    }
    let body = 2 + hashes;
    let closes = |at: usize| {
        let after = rest[at + 1..].iter().take_while(|&&c| c == '#').count();
        rest[at] == '"' && after >= hashes
    };
    let end = (body..rest.len()).find(|&at| closes(at));
    end.map_or(rest.len(), |at| at + 1 + hashes)
}

/// Where `code` has items that exist in tests only, from their attribute to their end.
pub(crate) fn test_items(code: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = code[from..].find("#[cfg(").map(|at| at + from) {
        let attribute_end = code[at..].find(']').map_or(code.len(), |end| at + end + 1);
        from = attribute_end;
        if is_test_cfg(&code[at..attribute_end]) {
            from = item_end(code, attribute_end);
            found.push(at..from);
        }
    }
    found
}

/// Whether what carries `attribute` builds for tests only.
fn is_test_cfg(attribute: &str) -> bool {
    let predicate = attribute.strip_prefix("#[cfg(");
    predicate
        .and_then(|rest| rest.strip_suffix(")]"))
        .is_some_and(holds_in_tests_only)
}

fn holds_in_tests_only(predicate: &str) -> bool {
    let predicate = predicate.trim();
    let Some((operator, operands)) = predicate.split_once('(') else {
        return predicate == "test";
    };
    let operands = operands.trim_end().strip_suffix(')').unwrap_or(operands);
    match operator {
        "all" => operands_of(operands).any(holds_in_tests_only),
        "any" => operands_of(operands).all(holds_in_tests_only),
        _ => false,
    }
}

/// Splits at the commas that stand outside brackets.
fn operands_of(operands: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_u32;
    operands.split(move |c: char| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
}

/// Where the item ends that begins at `start`: behind its `;`, or behind the brace that closes it.
fn item_end(code: &str, start: usize) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(start) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 && matches!(byte, b';' | b'}') {
            return at + 1;
        }
    }
    code.len()
}

/// `code` with `ranges` blanked.
pub(crate) fn without(code: &str, ranges: &[Range<usize>]) -> String {
    let hidden = |at: usize| ranges.iter().any(|range| range.contains(&at));
    let blank = |(at, c): (usize, char)| if c != '\n' && hidden(at) { ' ' } else { c };
    code.char_indices().map(blank).collect()
}

/// The words (identifiers, keywords, numbers) of `code`.
pub(crate) fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !is_word(c))
        .filter(|word| !word.is_empty())
}

/// Whether `c` can be part of an identifier.
pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The modules that `code` declares without a body.
pub(crate) fn declared_modules(code: &str) -> Vec<&str> {
    let declared = |statement: &str| -> Option<usize> {
        let (before, name) = statement.rsplit_once("mod ")?;
        let alone = !before.ends_with(is_word);
        let is_name = !name.is_empty() && name.chars().all(is_word);
        (alone && is_name).then_some(name.len())
    };
    let statements = code
        .split_inclusive(';')
        .filter_map(|it| it.strip_suffix(';'));
    statements
        .filter_map(|it| Some(&it[it.len() - declared(it)?..]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(text: &str) -> String {
        let code = split(text).code;
        without(&code, &test_items(&code))
    }

    #[test]
    fn comments_and_literals_are_no_code() {
        let text = "a // b\n/* c /* d */ e */ f \"g \\\" h\" 'i' '\\'' j\n";
        let parts = split(text);
        assert_eq!(words(&parts.code).collect::<String>(), "afj");
        assert_eq!(words(&parts.comments).collect::<String>(), "bcde");
        assert_eq!(parts.code.lines().count(), text.lines().count());
    }

    #[test]
    fn raw_strings_end_at_their_own_hashes() {
        let text = "a r#\"b \" c\"# d br\"e\\\" f r##\"g\"# h\"## r#fn var\"i\"";
        let code = split(text).code;
        assert_eq!(
            words(&code).collect::<Vec<_>>(),
            ["a", "d", "b", "f", "r", "fn", "var"]
        );
    }

    #[test]
    fn a_lifetime_is_not_a_character() {
        let code = split("fn f<'a>(x: &'a str, y: &'static str) { unsafe {} }").code;
        assert!(words(&code).any(|word| word == "unsafe"));
    }

    #[test]
    fn an_unfinished_literal_reaches_to_the_end() {
        for text in ["\"a", "r#\"a", "/* a", "'\\", "\"\\", "// a"] {
            assert_eq!(split(text).code.trim(), "", "{text}");
        }
    }

    #[test]
    fn items_for_tests_are_hidden_and_what_follows_is_not() {
        let text = "#[cfg(test)]\nmod tests { fn a() { if b {} } }\nfn c() {}\n\
                    #[cfg(all(test, loom))] mod d;\n#[cfg(test)] fn e(x: [u8; 2]) {}\nfn f() {}";
        let left = product(text);
        assert_eq!(words(&left).collect::<Vec<_>>(), ["fn", "c", "fn", "f"]);
    }

    #[test]
    fn only_what_builds_for_tests_alone_is_a_test() {
        for cfg in [
            "test",
            "all(test, not(loom))",
            "all(loom, test)",
            "any(test, all(a, test))",
        ] {
            assert!(
                !product(&format!("#[cfg({cfg})] fn a() {{}}")).contains("fn a"),
                "{cfg}"
            );
        }
        for cfg in [
            "not(test)",
            "any(test, b)",
            "all(not(test), b)",
            "loom",
            "test_b",
        ] {
            assert!(
                product(&format!("#[cfg({cfg})] fn a() {{}}")).contains("fn a"),
                "{cfg}"
            );
        }
    }

    #[test]
    fn modules_with_a_body_are_not_declared_elsewhere() {
        let code =
            "mod a;\npub(crate) mod b_2;\nmod c { fn d() { e; } }\nuse mod_f;\nlet amod = 1;";
        assert_eq!(declared_modules(code), ["a", "b_2"]);
    }
}
