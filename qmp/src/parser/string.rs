//! Strings: quotes and escapes off.

use crate::QmpError;

/// The text of a token with its quotes.
pub(super) fn decode(token: &[u8]) -> Result<String, QmpError> {
    let inner = token.get(1..token.len().saturating_sub(1));
    let text = std::str::from_utf8(inner.unwrap_or_default());
    let text = text.map_err(|_| error("invalid UTF-8 sequence in string"))?;
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        decoded.push_str(plain);
        let (character, after) = escape(escaped)?;
        decoded.push(character);
        rest = after;
    }
    decoded.push_str(rest);
    Ok(decoded)
}

/// The character that follows a backslash stands for, and what comes after it.
fn escape(text: &str) -> Result<(char, &str), QmpError> {
    let mut characters = text.chars();
    let first = characters.next().unwrap_or_default();
    let character = match first {
        '"' | '\'' | '\\' | '/' => first,
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'u' => return code_point(characters.as_str()),
        _ => return Err(error("invalid escape sequence in string")),
    };
    Ok((character, characters.as_str()))
}

/// Reads what follows `\u`, and the second half of a pair if there is one.
fn code_point(text: &str) -> Result<(char, &str), QmpError> {
    let no_character = || {
        let seen: String = text.chars().take(4).collect();
        error(&format!("\\u{seen} is not a valid Unicode character"))
    };
    let (first, rest) = hex4(text).ok_or_else(no_character)?;
    let low = rest.strip_prefix("\\u").and_then(hex4);
    let (second, rest) = match (first, low) {
        (0xD800..=0xDBFF, Some((second, rest))) => (Some(second), rest),
        _ => (None, rest),
    };
    let mut decoded = char::decode_utf16([first].into_iter().chain(second));
    match (decoded.next(), decoded.next()) {
        (Some(Ok(character)), None) => Ok((character, rest)),
        _ => Err(no_character()),
    }
}

fn hex4(text: &str) -> Option<(u16, &str)> {
    let (digits, rest) = text.split_at_checked(4)?;
    let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = is_hex.then(|| u16::from_str_radix(digits, 16).ok())??;
    Some((number, rest))
}

fn error(what: &str) -> QmpError {
    QmpError::generic(format!("JSON parse error, {what}"))
}
