//! Options as one text: `driver=file,node-name=f,cache.direct=on`.
//!
//! Dots open objects, numbers after dots are the indices of arrays, and a
//! comma in a value is written twice. Every value is a text; what it means is
//! for the type to say that is read from it ([`Qapi::from_keyval`]).

use crate::parser::{Limits, Parser};
use crate::types::{Input, Qapi, Style};
use crate::{Map, QmpError, Value};

/// Most parts that a key may have between its dots.
const PARTS_MAX: usize = 64;

/// Most bytes of such a part.
const PART_BYTES_MAX: usize = 127;

/// What a text says, and in which way.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// An object.
    pub value: Value,
    /// Whether it was JSON, with types, or all its values are texts.
    pub style: Style,
}

impl Options {
    /// Reads a type from it.
    ///
    /// # Errors
    ///
    /// As [`Qapi::read`] has them.
    pub fn read<T: Qapi>(&self) -> Result<T, QmpError> {
        T::read(Input::new(&self.value, self.style))
    }
}

/// Reads options; a text that begins with a brace is JSON.
///
/// The first one may be a value alone if there is an implied key.
///
/// # Errors
///
/// The text is neither, in the words of the reference.
///
/// ```
/// let options = qmp::keyval::parse("null-co,a.b=1,c.0=x,,y", Some("driver")).unwrap();
/// let want = serde_json::json!({"driver": "null-co", "a": {"b": "1"}, "c": ["x,y"]});
/// assert_eq!(options.value, want);
/// ```
pub fn parse(text: &str, implied_key: Option<&str>) -> Result<Options, QmpError> {
    if text.starts_with('{') {
        let value = parse_json(text)?;
        let style = Style::Json;
        return Ok(Options { value, style });
    }
    let mut members = Map::new();
    let (mut rest, mut implied_key) = (text, implied_key);
    while !rest.is_empty() {
        let end = rest.find(['=', ',']).unwrap_or(rest.len());
        let (key, (value, after)) = match (rest[end..].strip_prefix('='), implied_key) {
            (Some(value), _) => (&rest[..end], split_value(value)),
            (None, Some(key)) => {
                let after = rest[end..].strip_prefix(',').unwrap_or_default();
                (key, (rest[..end].to_owned(), after))
            }
            (None, None) => {
                check_key(&rest[..end])?;
                let text = format!("Expected '=' after parameter '{}'", &rest[..end]);
                return Err(QmpError::generic(text));
            }
        };
        insert(&mut members, key, value)?;
        rest = after;
        implied_key = None;
    }
    let mut value = Value::Object(members);
    make_arrays(&mut value, "")?;
    Ok(Options {
        value,
        style: Style::Keyval,
    })
}

/// One object, and nothing behind it.
fn parse_json(text: &str) -> Result<Value, QmpError> {
    let mut parser = Parser::new(Limits::default());
    parser.feed(text.as_bytes());
    // A number at the end is complete only if something follows.
    parser.feed(b"\n");
    let value = parser.next().unwrap_or_else(|| {
        let text = "JSON parse error, premature EOI";
        Err(QmpError::generic(text))
    })?;
    match parser.next() {
        None => Ok(value),
        Some(_) => Err(QmpError::generic("Expecting at most one JSON value")),
    }
}

/// The value up to the next single comma, and what follows that.
fn split_value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(',') {
        value.push_str(before);
        let Some(after_second) = after.strip_prefix(',') else {
            return (value, after);
        };
        value.push(',');
        rest = after_second;
    }
    value.push_str(rest);
    (value, "")
}

/// Puts a value to its place, which the parts of its key lead to.
fn insert(members: &mut Map, key: &str, value: String) -> Result<(), QmpError> {
    check_key(key)?;
    let mut members = members;
    let mut parts = key.split('.').peekable();
    let mut len = 0;
    while let Some(part) = parts.next() {
        len += part.len();
        if parts.peek().is_none() {
            let before = members.insert(part.to_owned(), Value::String(value));
            return match before {
                Some(Value::Object(_)) => Err(inconsistent(key)),
                _ => Ok(()),
            };
        }
        let inner = members
            .entry(part)
            .or_insert_with(|| Value::Object(Map::new()));
        members = inner
            .as_object_mut()
            .ok_or_else(|| inconsistent(&key[..len]))?;
        // The dot.
        len += 1;
    }
    Ok(())
}

fn check_key(key: &str) -> Result<(), QmpError> {
    let invalid = || QmpError::generic(format!("Invalid parameter '{key}'"));
    let is_name = |part: &str| {
        let mut bytes = part.bytes();
        let is_first = |byte: u8| byte.is_ascii_alphabetic();
        let is_next = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        bytes.next().is_some_and(is_first) && bytes.all(is_next)
    };
    let is_index = |part: &str| !part.is_empty() && part.bytes().all(|it| it.is_ascii_digit());
    for (position, part) in key.split('.').enumerate() {
        let is_valid = is_name(part) || (position > 0 && is_index(part));
        if !is_valid || position >= PARTS_MAX {
            return Err(invalid());
        }
        if part.len() > PART_BYTES_MAX {
            let fragment = if part == key { "" } else { " fragment" };
            let text = format!("Parameter{fragment} '{part}' is too long");
            return Err(QmpError::generic(text));
        }
    }
    Ok(())
}

/// Objects whose members are numbered become arrays. `prefix` ends with a dot, or is empty.
fn make_arrays(value: &mut Value, prefix: &str) -> Result<(), QmpError> {
    let Value::Object(members) = value else {
        return Ok(());
    };
    for (name, member) in members.iter_mut() {
        make_arrays(member, &format!("{prefix}{name}."))?;
    }
    let is_index = |name: &String| name.starts_with(|first: char| first.is_ascii_digit());
    let indices = members.keys().filter(|name| is_index(name)).count();
    if indices == 0 {
        return Ok(());
    }
    if indices < members.len() {
        return Err(inconsistent(prefix.trim_end_matches('.')));
    }
    let mut items: Vec<Option<Value>> = vec![None; indices];
    for (name, member) in std::mem::take(members) {
        let index = name.parse().unwrap_or(usize::MAX);
        // An index that is too large leaves another one free.
        if let Some(item) = items.get_mut(index) {
            *item = Some(member);
        }
    }
    let missing = |index: usize| QmpError::generic(format!("Parameter '{prefix}{index}' missing"));
    let items = items.into_iter().enumerate();
    let items = items.map(|(index, item)| item.ok_or_else(|| missing(index)));
    *value = Value::Array(items.collect::<Result<_, _>>()?);
    Ok(())
}

fn inconsistent(key: &str) -> QmpError {
    QmpError::generic(format!("Parameters '{key}.*' used inconsistently"))
}

/// What a text says about a switch.
pub fn switch(text: &str) -> Option<bool> {
    match text {
        "on" | "yes" | "true" | "y" => Some(true),
        "off" | "no" | "false" | "n" => Some(false),
        _ => None,
    }
}

/// An integer, also in hexadecimal (`0x`) and octal (`0`).
pub fn integer(text: &str) -> Option<i128> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let hex = digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"));
    let (digits, radix) = match (hex, digits.strip_prefix('0')) {
        (Some(digits), _) => (digits, 16),
        (None, Some(octal)) if !octal.is_empty() => (octal, 8),
        (None, _) => (digits, 10),
    };
    // A second sign would be taken otherwise.
    let is_number = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = is_number.then(|| i128::from_str_radix(digits, radix).ok())??;
    number.checked_mul(sign)
}

/// A number of bytes, perhaps with a suffix, and then perhaps with a fraction: `1.5G`.
pub fn size(text: &str) -> Option<u64> {
    let last = text.chars().next_back()?;
    let is_hex = text.starts_with("0x") || text.starts_with("0X");
    let shift: u32 = match last.to_ascii_uppercase() {
        _ if is_hex => return integer(text)?.try_into().ok(),
        'B' => 0,
        'K' => 10,
        'M' => 20,
        'G' => 30,
        'T' => 40,
        'P' => 50,
        'E' => 60,
        _ => {
            return text
                .bytes()
                .all(|it| it.is_ascii_digit())
                .then(|| text.parse().ok())?;
        }
    };
    let number = &text[..text.len() - 1];
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
    if !is_number(whole)
        || !is_number(fraction)
        || fraction.len() > 18
        || number.contains('.') && shift == 0
    {
        return None;
    }
    let unit = 1_u128 << shift;
    let whole = whole.parse::<u64>().ok()?;
    let digits = u32::try_from(fraction.len()).ok()?;
    let part = fraction.parse::<u128>().ok()? * unit / 10_u128.pow(digits);
    u64::try_from(u128::from(whole) * unit + part).ok()
}

#[cfg(test)]
mod tests;
