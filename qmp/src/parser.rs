//! [`Parser`]: bytes of a client in, JSON values out.
//!
//! It follows the reference in what it forgives: strings may stand in single
//! quotes, several values may stand on one line, and after an error it goes
//! on. A byte that fits nowhere ends the value with an error at once; then
//! everything is skipped up to a bracket, comma, colon or control character.
//! A value whose tokens are fine but stand in the wrong order is read to the
//! end of its outermost bracket, and is one error.

mod lexer;
mod string;
mod tree;

use self::lexer::{Kind, Move, State};
use self::tree::Tree;
use crate::{QmpError, Value};

/// What one value of a client may be at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of its tokens, so without white space.
    pub bytes: usize,
    /// Brackets that are open at once.
    ///
    /// Whoever walks over a value does so recursively: each node that is defined
    /// within another one takes some 25 KiB of stack where nothing is optimised.
    /// The threads of `aio` have eight megabytes, one fifth of which that is.
    pub depth: usize,
    /// Tokens, each bracket, comma and colon among them.
    pub tokens: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 16 << 20,
            depth: 64,
            tokens: 1 << 19,
        }
    }
}

/// A buffer that was larger than this is given back after use.
const KEPT_BYTES: usize = 64 << 10;

/// Reads the values that a client sends, one after the other.
///
/// As an iterator it yields what is complete; `None` means that more bytes are
/// wanted. It keeps what it was fed and has not looked at, so feed it again
/// only after `None`.
///
/// ```
/// use qmp::{Limits, Parser, Value};
///
/// let mut parser = Parser::new(Limits::default());
/// parser.feed(b"{'a': 1} bad {\"b\"");
/// assert_eq!(parser.next().unwrap().unwrap(), serde_json::json!({"a": 1}));
/// let error = parser.next().unwrap().unwrap_err();
/// assert_eq!(error.desc, "JSON parse error, invalid keyword 'bad'");
/// assert!(parser.next().is_none());
/// parser.feed(b": null}");
/// assert_eq!(parser.next().unwrap().unwrap()["b"], Value::Null);
/// ```
#[derive(Debug)]
pub struct Parser {
    limits: Limits,
    /// What was fed, and how much of it has been looked at.
    input: Vec<u8>,
    at: usize,
    state: State,
    /// The part of the current token that has been seen.
    token: Vec<u8>,
    /// Sizes of the tokens of the current value, and their number.
    bytes: usize,
    tokens: usize,
    tree: Tree,
}

impl Parser {
    /// A parser that has seen nothing.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            input: Vec::new(),
            at: 0,
            state: State::Start,
            token: Vec::new(),
            bytes: 0,
            tokens: 0,
            tree: Tree::default(),
        }
    }

    /// Takes what has arrived.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.input.drain(..self.at);
        self.at = 0;
        self.input.extend_from_slice(bytes);
    }

    /// Looks at one byte. Returns a value that is complete by it, or cannot be.
    fn step(&mut self, byte: u8) -> Option<Result<Value, QmpError>> {
        match lexer::next(self.state, byte) {
            Move::Skip(state) => {
                self.at += 1;
                self.state = state;
                None
            }
            Move::LookAgain(state) => {
                self.state = state;
                None
            }
            Move::Keep(state) => {
                self.at += 1;
                self.state = state;
                self.token.push(byte);
                let is_too_long = self.bytes + self.token.len() > self.limits.bytes;
                is_too_long.then(|| self.give_up("JSON token size limit exceeded"))
            }
            Move::End(kind) => {
                self.at += 1;
                self.token.push(byte);
                self.end_token(kind)
            }
            Move::EndBefore(kind) => self.end_token(kind),
            Move::Error => {
                self.at += 1;
                self.token.push(byte);
                // A text for people, which the reference ends at the first NUL.
                let seen = self.token.split(|&byte| byte == 0).next();
                let seen = String::from_utf8_lossy(seen.unwrap_or_default()).into_owned();
                Some(self.give_up(&format!("JSON parse error, stray '{seen}'")))
            }
        }
    }

    /// Takes what follows inside of a string, or after an error, at once: these are the places
    /// where many bytes may come. Single steps would do the same.
    fn take_run(&mut self) {
        let rest = &self.input[self.at..];
        let run = &rest[..lexer::run_len(self.state, rest)];
        if self.state == State::Recovery {
            self.at += run.len();
            return;
        }
        // The byte that is too much is for a single step.
        let room = self.limits.bytes.saturating_sub(self.bytes);
        let room = room.saturating_sub(self.token.len());
        let run = &run[..run.len().min(room)];
        self.token.extend_from_slice(run);
        self.at += run.len();
    }

    fn end_token(&mut self, kind: Kind) -> Option<Result<Value, QmpError>> {
        self.state = State::Start;
        self.bytes += self.token.len();
        self.tokens += 1;
        if self.bytes > self.limits.bytes {
            return Some(self.restart(Err("JSON token size limit exceeded")));
        }
        if self.tokens > self.limits.tokens {
            return Some(self.restart(Err("JSON token count limit exceeded")));
        }
        self.tree.push(kind, &self.token);
        if self.tree.depth() > self.limits.depth {
            return Some(self.restart(Err("JSON nesting depth limit exceeded")));
        }
        self.forget_token();
        (!self.tree.is_open()).then(|| self.restart(Ok(())))
    }

    /// Ends the value with an error, and skips to where the next may begin.
    fn give_up(&mut self, desc: &str) -> Result<Value, QmpError> {
        self.state = State::Recovery;
        self.restart(Err(desc))
    }

    /// Makes ready for the next value, and hands out this one, or why it is none.
    fn restart(&mut self, end: Result<(), &str>) -> Result<Value, QmpError> {
        self.forget_token();
        self.bytes = 0;
        self.tokens = 0;
        let tree = std::mem::take(&mut self.tree);
        end.map_err(QmpError::generic)?;
        tree.finish()
    }

    fn forget_token(&mut self) {
        self.token.clear();
        self.token.shrink_to(KEPT_BYTES);
    }
}

impl Iterator for Parser {
    type Item = Result<Value, QmpError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.take_run();
            let Some(&byte) = self.input.get(self.at) else {
                break;
            };
            let done = self.step(byte);
            if done.is_some() {
                return done;
            }
        }
        self.input.clear();
        self.input.shrink_to(KEPT_BYTES);
        self.at = 0;
        None
    }
}

#[cfg(test)]
mod tests;
