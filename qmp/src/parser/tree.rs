//! Tokens become a value, or the first error in their order.

use serde_json::Number;

use super::lexer::Kind;
use super::string;
use crate::{Map, QmpError, Value};

/// One value while its tokens arrive.
///
/// It is open as long as brackets are, whether or not they match: so that one
/// mistake in the middle of a value costs that value and not the next.
#[derive(Debug, Default)]
pub(super) struct Tree {
    braces: i64,
    brackets: i64,
    /// What is open, outermost first.
    open: Vec<Frame>,
    /// What may come next inside of the last one.
    wants: Wants,
    root: Option<Value>,
    /// The first thing that was wrong; what follows is only counted.
    error: Option<QmpError>,
}

#[derive(Debug)]
enum Frame {
    Array(Vec<Value>),
    /// With the name of the member whose value comes next.
    Object(Map, String),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Wants {
    #[default]
    Value,
    FirstValueOrEnd,
    FirstNameOrEnd,
    Name,
    Colon,
    CommaOrEnd,
}

impl Tree {
    /// Takes the next token.
    pub(super) fn push(&mut self, kind: Kind, token: &[u8]) {
        match kind {
            Kind::ObjectStart => self.braces += 1,
            Kind::ObjectEnd => self.braces -= 1,
            Kind::ArrayStart => self.brackets += 1,
            Kind::ArrayEnd => self.brackets -= 1,
            _ => {}
        }
        if self.error.is_some() {
            return;
        }
        if let Err(error) = self.grow(kind, token) {
            self.error = Some(error);
            self.open = Vec::new();
        }
    }

    /// How many brackets are open.
    pub(super) fn depth(&self) -> usize {
        usize::try_from(self.braces + self.brackets).unwrap_or_default()
    }

    /// Whether more tokens belong to the value.
    pub(super) fn is_open(&self) -> bool {
        let (braces, brackets) = (self.braces, self.brackets);
        (braces > 0 || brackets > 0) && braces >= 0 && brackets >= 0
    }

    /// The value, or what was wrong first.
    pub(super) fn finish(self) -> Result<Value, QmpError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        self.root.ok_or_else(|| error("expecting value"))
    }

    fn grow(&mut self, kind: Kind, token: &[u8]) -> Result<(), QmpError> {
        match self.wants {
            Wants::FirstValueOrEnd if kind == Kind::ArrayEnd => self.close(),
            Wants::FirstNameOrEnd if kind == Kind::ObjectEnd => self.close(),
            Wants::Value | Wants::FirstValueOrEnd => self.value(kind, token),
            Wants::FirstNameOrEnd | Wants::Name => self.name(kind, token),
            Wants::Colon if kind == Kind::Colon => {
                self.wants = Wants::Value;
                Ok(())
            }
            Wants::Colon => Err(error("missing : in object pair")),
            Wants::CommaOrEnd => self.comma_or_end(kind),
        }
    }

    fn value(&mut self, kind: Kind, token: &[u8]) -> Result<(), QmpError> {
        let value = match kind {
            Kind::ObjectStart => {
                self.open.push(Frame::Object(Map::new(), String::new()));
                self.wants = Wants::FirstNameOrEnd;
                return Ok(());
            }
            Kind::ArrayStart => {
                self.open.push(Frame::Array(Vec::new()));
                self.wants = Wants::FirstValueOrEnd;
                return Ok(());
            }
            Kind::String => Value::String(string::decode(token)?),
            Kind::Integer => integer(token)?,
            Kind::Float => float(token)?,
            Kind::Keyword => keyword(token)?,
            Kind::ObjectEnd | Kind::ArrayEnd | Kind::Colon | Kind::Comma => {
                return Err(error("expecting value"));
            }
        };
        self.place(value)
    }

    fn name(&mut self, kind: Kind, token: &[u8]) -> Result<(), QmpError> {
        match kind {
            Kind::String => {}
            Kind::ObjectEnd | Kind::ArrayEnd | Kind::Colon | Kind::Comma => {
                return Err(error("expecting value"));
            }
            Kind::Keyword => {
                keyword(token)?;
                return Err(error("key is not a string in object"));
            }
            _ => return Err(error("key is not a string in object")),
        }
        if let Some(Frame::Object(_, name)) = self.open.last_mut() {
            *name = string::decode(token)?;
        }
        self.wants = Wants::Colon;
        Ok(())
    }

    fn comma_or_end(&mut self, kind: Kind) -> Result<(), QmpError> {
        match (self.open.last(), kind) {
            (Some(Frame::Array(_)), Kind::ArrayEnd)
            | (Some(Frame::Object(..)), Kind::ObjectEnd) => self.close(),
            (Some(Frame::Array(_)), Kind::Comma) => {
                self.wants = Wants::Value;
                Ok(())
            }
            (Some(Frame::Object(..)), Kind::Comma) => {
                self.wants = Wants::Name;
                Ok(())
            }
            (Some(Frame::Array(_)), _) => Err(error("expected separator in list")),
            _ => Err(error("expected separator in dict")),
        }
    }

    fn close(&mut self) -> Result<(), QmpError> {
        match self.open.pop() {
            Some(Frame::Array(items)) => self.place(Value::Array(items)),
            Some(Frame::Object(members, _)) => self.place(Value::Object(members)),
            None => Err(error("expecting value")),
        }
    }

    /// Puts a complete value where it belongs.
    fn place(&mut self, value: Value) -> Result<(), QmpError> {
        self.wants = Wants::CommaOrEnd;
        match self.open.last_mut() {
            None => self.root = Some(value),
            Some(Frame::Array(items)) => items.push(value),
            Some(Frame::Object(members, name)) => {
                let before = members.insert(std::mem::take(name), value);
                if before.is_some() {
                    return Err(error("duplicate key"));
                }
            }
        }
        Ok(())
    }
}

/// An integer, or the nearest float if none of ours holds it.
fn integer(token: &[u8]) -> Result<Value, QmpError> {
    let text = String::from_utf8_lossy(token);
    if let Ok(number) = text.parse::<i64>() {
        return Ok(number.into());
    }
    if let Ok(number) = text.parse::<u64>() {
        return Ok(number.into());
    }
    float(token)
}

fn float(token: &[u8]) -> Result<Value, QmpError> {
    let text = String::from_utf8_lossy(token);
    let number = text.parse().ok().and_then(Number::from_f64);
    // The reference takes infinity, and then writes what no parser reads.
    let number = number.ok_or_else(|| error("number is too large"))?;
    Ok(Value::Number(number))
}

fn keyword(token: &[u8]) -> Result<Value, QmpError> {
    match token {
        b"true" => Ok(Value::Bool(true)),
        b"false" => Ok(Value::Bool(false)),
        b"null" => Ok(Value::Null),
        _ => {
            let seen = String::from_utf8_lossy(token);
            Err(error(&format!("invalid keyword '{seen}'")))
        }
    }
}

fn error(what: &str) -> QmpError {
    QmpError::generic(format!("JSON parse error, {what}"))
}
