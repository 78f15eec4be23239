//! Which token a byte belongs to: a state machine over single bytes.

/// What was seen of the current token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing.
    Start,
    /// A string that began with this quote.
    String(u8),
    /// The same, and a backslash at the end.
    Escape(u8),
    /// A minus.
    Minus,
    /// A zero, after which no digit may stand.
    Zero,
    /// A number without point and exponent.
    Digits,
    /// A number that ends with a point.
    Point,
    /// A number with digits after its point.
    Fraction,
    /// A number that ends with an `e`.
    ExponentMark,
    /// A number that ends with the sign of its exponent.
    ExponentSign,
    /// A number with digits in its exponent.
    Exponent,
    /// Small letters.
    Keyword,
    /// An error, after which nothing has begun yet.
    Recovery,
}

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    ObjectStart,
    ObjectEnd,
    ArrayStart,
    ArrayEnd,
    Colon,
    Comma,
    String,
    Integer,
    Float,
    Keyword,
}

/// What a byte does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    /// It belongs to no token.
    Skip(State),
    /// It is the next one of the token.
    Keep(State),
    /// It is the last one of the token.
    End(Kind),
    /// The token ended before it; it is to be looked at again.
    EndBefore(Kind),
    /// It is to be looked at again in another state.
    LookAgain(State),
    /// It fits nowhere.
    Error,
}

/// What `byte` does after what was seen.
pub(super) fn next(state: State, byte: u8) -> Move {
    match state {
        State::Start => start(byte),
        State::String(quote) => string(quote, byte),
        State::Escape(quote) if is_text(byte) => Move::Keep(State::String(quote)),
        State::Keyword => match byte {
            b'a'..=b'z' => Move::Keep(State::Keyword),
            _ => Move::EndBefore(Kind::Keyword),
        },
        State::Recovery => match byte {
            b'{' | b'}' | b'[' | b']' | b',' | b':' => Move::LookAgain(State::Start),
            b'\t' => Move::Skip(State::Recovery),
            _ if is_text(byte) => Move::Skip(State::Recovery),
            _ => Move::LookAgain(State::Start),
        },
        State::Escape(_) => Move::Error,
        State::Minus
        | State::Zero
        | State::Digits
        | State::Point
        | State::Fraction
        | State::ExponentMark
        | State::ExponentSign
        | State::Exponent => number(state, byte),
    }
}

/// How many of `bytes` change nothing about the state, where they may be many.
pub(super) fn run_len(state: State, bytes: &[u8]) -> usize {
    let end = match state {
        State::String(quote) => bytes
            .iter()
            .position(|&byte| byte == quote || byte == b'\\' || !is_text(byte)),
        State::Recovery => bytes
            .iter()
            .position(|&byte| next(State::Recovery, byte) != Move::Skip(State::Recovery)),
        _ => Some(0),
    };
    end.unwrap_or(bytes.len())
}

fn start(byte: u8) -> Move {
    match byte {
        b' ' | b'\t' | b'\r' | b'\n' => Move::Skip(State::Start),
        b'{' => Move::End(Kind::ObjectStart),
        b'}' => Move::End(Kind::ObjectEnd),
        b'[' => Move::End(Kind::ArrayStart),
        b']' => Move::End(Kind::ArrayEnd),
        b':' => Move::End(Kind::Colon),
        b',' => Move::End(Kind::Comma),
        b'"' | b'\'' => Move::Keep(State::String(byte)),
        b'-' => Move::Keep(State::Minus),
        b'0' => Move::Keep(State::Zero),
        b'1'..=b'9' => Move::Keep(State::Digits),
        b'a'..=b'z' => Move::Keep(State::Keyword),
        _ => Move::Error,
    }
}

fn string(quote: u8, byte: u8) -> Move {
    match byte {
        b'\\' => Move::Keep(State::Escape(quote)),
        _ if byte == quote => Move::End(Kind::String),
        _ if is_text(byte) => Move::Keep(State::String(quote)),
        _ => Move::Error,
    }
}

fn number(state: State, byte: u8) -> Move {
    let is_integer = matches!(state, State::Zero | State::Digits);
    match (state, byte) {
        (State::Minus, b'0') => Move::Keep(State::Zero),
        (State::Minus, b'1'..=b'9') | (State::Digits, b'0'..=b'9') => Move::Keep(State::Digits),
        (State::Minus, _) | (State::Zero, b'0'..=b'9') => Move::Error,
        (State::Zero | State::Digits, b'.') => Move::Keep(State::Point),
        (State::Point | State::Fraction, b'0'..=b'9') => Move::Keep(State::Fraction),
        (State::Zero | State::Digits | State::Fraction, b'e' | b'E') => {
            Move::Keep(State::ExponentMark)
        }
        (State::ExponentMark, b'+' | b'-') => Move::Keep(State::ExponentSign),
        (State::ExponentMark | State::ExponentSign | State::Exponent, b'0'..=b'9') => {
            Move::Keep(State::Exponent)
        }
        (State::Point | State::ExponentMark | State::ExponentSign, _) => Move::Error,
        _ if is_integer => Move::EndBefore(Kind::Integer),
        _ => Move::EndBefore(Kind::Float),
    }
}

/// Whether `byte` may stand in a string; the others let a parser find its feet again.
fn is_text(byte: u8) -> bool {
    (0x20..=0xFD).contains(&byte)
}
