//! [`Qapi`]: types that read and write themselves, and say what they are.

mod builtin;
mod macros;
mod names;

use std::fmt;

use crate::schema::{self, Schema};
use crate::{Map, QmpError, Value};

pub use builtin::{Null, Size};
#[doc(hidden)]
pub use names::{kebab, kebab_len};

/// How a type is called in the schema.
pub type TypeName = String;

/// What stands for a type in JSON; alternates choose by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A text, an enumeration value among them.
    String,
    /// A number without a fraction.
    Integer,
    /// Any number.
    Number,
    /// True or false.
    Boolean,
    /// An object.
    Object,
    /// An array.
    Array,
    /// Nothing at all.
    Null,
    /// Whatever it is.
    Any,
}

impl Kind {
    /// Whether `value` is of this kind.
    pub fn fits(self, value: &Value) -> bool {
        match self {
            Self::String => value.is_string(),
            Self::Integer => value.is_i64() || value.is_u64(),
            Self::Number => value.is_number(),
            Self::Boolean => value.is_boolean(),
            Self::Object => value.is_object(),
            Self::Array => value.is_array(),
            Self::Null => value.is_null(),
            Self::Any => true,
        }
    }

    /// Whether a text between commas may stand for it.
    fn is_scalar(self) -> bool {
        match self {
            Self::Integer | Self::Number | Self::Boolean => true,
            Self::String | Self::Object | Self::Array | Self::Null | Self::Any => false,
        }
    }

    /// Its word in errors and in the schema.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Object => "object",
            Self::Array => "array",
            Self::Null => "null",
            Self::Any => "value",
        }
    }
}

/// A type of the protocol.
///
/// The macros of this crate write most implementations.
pub trait Qapi: Sized {
    /// What stands for it in JSON.
    const KIND: Kind;

    /// Reads one.
    ///
    /// # Errors
    ///
    /// In the words of the protocol, with the name of the argument.
    fn read(input: Input<'_>) -> Result<Self, QmpError>;

    /// Writes it as JSON.
    fn write(&self) -> Value;

    /// Enters it into the schema if it is not there yet.
    fn describe(schema: &mut Schema) -> TypeName;

    /// What it is where a member is missing, if that is allowed.
    fn missing() -> Option<Self> {
        None
    }

    /// Writes it as a member of an object, or leaves the member out.
    fn write_member(&self, name: &str, members: &mut Map) {
        members.insert(name.to_owned(), self.write());
    }

    /// Reads a JSON value, such as the arguments of a command.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read) has them.
    fn from_json(value: &Value) -> Result<Self, QmpError> {
        Self::read(Input::new(value, Style::Json))
    }

    /// Reads what [`keyval::parse`](crate::keyval::parse) made of a text.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read) has them.
    fn from_keyval(value: &Value) -> Result<Self, QmpError> {
        Self::read(Input::new(value, Style::Keyval))
    }
}

/// The members of a type that is an object, apart from its braces.
///
/// Implemented by the macros; branches of unions are read through it.
pub trait Members: Qapi {
    /// Takes its members out of an object, and leaves the others.
    ///
    /// # Errors
    ///
    /// As [`Qapi::read`] has them.
    fn read_members(fields: &mut Fields<'_>) -> Result<Self, QmpError>;

    /// Puts its members into an object.
    fn write_members(&self, members: &mut Map);

    /// Says which they are.
    fn describe_members(schema: &mut Schema) -> Vec<schema::Member>;
}

/// The empty object, which most commands return.
pub fn empty() -> Value {
    Value::Object(Map::new())
}

/// Reads an object that has these members and no others.
///
/// # Errors
///
/// As [`Qapi::read`] has them.
pub fn read_object<T: Members>(input: Input<'_>) -> Result<T, QmpError> {
    let mut fields = input.fields()?;
    let object = T::read_members(&mut fields)?;
    fields.finish()?;
    Ok(object)
}

/// Writes an object.
pub fn write_object<T: Members>(object: &T) -> Value {
    let mut members = Map::new();
    object.write_members(&mut members);
    Value::Object(members)
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// JSON: types are as they are.
    Json,
    /// Keys and values between commas: every value is a text.
    Keyval,
}

/// A value to be read, with its name for errors.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    value: &'a Value,
    style: Style,
    path: &'a Path<'a>,
}

/// Where in a request something stands.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Path<'a> {
    Root,
    Member(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

impl<'a> Input<'a> {
    /// A value with nothing around it.
    pub fn new(value: &'a Value, style: Style) -> Self {
        let path = &Path::Root;
        Self { value, style, path }
    }

    /// The value itself.
    pub fn value(self) -> &'a Value {
        self.value
    }

    /// Where it comes from.
    pub fn style(self) -> Style {
        self.style
    }

    /// How errors call it.
    pub fn name(self) -> String {
        let (path, style) = (self.path, self.style);
        Shown { path, style }.to_string()
    }

    /// The text, if it is one.
    ///
    /// # Errors
    ///
    /// It is something else.
    pub fn string(self) -> Result<&'a str, QmpError> {
        let text = self.value.as_str();
        text.ok_or_else(|| self.not_scalar(Kind::String))
    }

    /// The text between commas that a number or a switch is to be read from.
    pub(crate) fn text(self) -> Option<&'a str> {
        match self.style {
            Style::Keyval => self.value.as_str(),
            Style::Json => None,
        }
    }

    /// It is no text, number or switch; `expected` is what it should be.
    pub(crate) fn not_scalar(self, expected: Kind) -> QmpError {
        match self.style {
            Style::Keyval => {
                let desc = format!("Parameters '{}.*' are unexpected", self.name());
                QmpError::generic(desc)
            }
            Style::Json => self.invalid_type(expected.as_str()),
        }
    }

    /// The members, if it is an object.
    ///
    /// # Errors
    ///
    /// It is something else.
    pub fn fields(self) -> Result<Fields<'a>, QmpError> {
        let members = self.value.as_object();
        Ok(Fields {
            members: members.ok_or_else(|| self.invalid_type(Kind::Object.as_str()))?,
            style: self.style,
            path: self.path,
            taken: Vec::new(),
        })
    }

    /// The items, if it is an array.
    ///
    /// # Errors
    ///
    /// It is something else, or an item is not a `T`.
    pub fn items<T: Qapi>(self) -> Result<Vec<T>, QmpError> {
        let items = self.value.as_array();
        let items = items.ok_or_else(|| self.invalid_type(Kind::Array.as_str()))?;
        let read = |(index, value)| {
            let path = &Path::Item(self.path, index);
            let style = self.style;
            T::read(Input { value, style, path })
        };
        items.iter().enumerate().map(read).collect()
    }

    /// Whether an alternate takes it for a `T`; `None` if it is none of any type.
    ///
    /// A text between commas is read as a number or a switch if nothing else of
    /// the alternate is a text.
    pub fn choose(self, kinds: &[Kind]) -> Option<usize> {
        let fits = |kind: &Kind| kind.fits(self.value);
        let exact = kinds.iter().position(fits);
        let is_text = self.style == Style::Keyval && self.value.is_string();
        exact.or_else(|| kinds.iter().position(|kind| is_text && kind.is_scalar()))
    }

    /// It is of another type than `expected`.
    pub fn invalid_type(self, expected: &str) -> QmpError {
        QmpError::invalid_type(&self.name(), expected)
    }

    /// It is none of the texts that it may be.
    ///
    /// Of the name, only the last part is told, as the reference does it.
    pub fn invalid_value(self, value: &str) -> QmpError {
        QmpError::invalid_value(&self.last_name(), value)
    }

    /// It is of none of the types of this alternate.
    ///
    /// Of the name, only the last part is told, as the reference does it.
    pub fn invalid_choice(self, alternate: &str) -> QmpError {
        QmpError::invalid_type(&self.last_name(), alternate)
    }

    /// The name without what it is in; items have none of their own.
    fn last_name(self) -> String {
        match *self.path {
            Path::Member(_, name) => name.to_owned(),
            Path::Root | Path::Item(..) => self.name(),
        }
    }

    /// It is of the right type, but not `expected`.
    pub fn expects(self, expected: &str) -> QmpError {
        QmpError::expects(&self.name(), expected)
    }
}

/// The members of an object while they are read.
#[derive(Debug)]
pub struct Fields<'a> {
    members: &'a Map,
    style: Style,
    path: &'a Path<'a>,
    taken: Vec<&'static str>,
}

impl Fields<'_> {
    /// Reads the member `name`.
    ///
    /// # Errors
    ///
    /// It is missing and may not, or is no `T`.
    pub fn member<T: Qapi>(&mut self, name: &'static str) -> Result<T, QmpError> {
        self.taken.push(name);
        let path = &Path::Member(self.path, name);
        let style = self.style;
        match self.members.get(name) {
            Some(value) => T::read(Input { value, style, path }),
            None => T::missing().ok_or_else(|| {
                let name = Shown { path, style }.to_string();
                QmpError::missing(&name)
            }),
        }
    }

    /// Ends the object.
    ///
    /// # Errors
    ///
    /// There are members that nobody has read.
    pub fn finish(self) -> Result<(), QmpError> {
        let is_left = |(name, _): &(&String, &Value)| !self.taken.contains(&name.as_str());
        let Some((name, _)) = self.members.iter().find(is_left) else {
            return Ok(());
        };
        let (path, style) = (&Path::Member(self.path, name), self.style);
        let name = Shown { path, style }.to_string();
        Err(QmpError::unexpected(&name))
    }
}

/// A path as errors have it.
struct Shown<'a> {
    path: &'a Path<'a>,
    style: Style,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let style = self.style;
        match *self.path {
            Path::Root => f.write_str("arguments"),
            Path::Member(Path::Root, name) => f.write_str(name),
            Path::Member(path, name) => write!(f, "{}.{name}", Shown { path, style }),
            Path::Item(path, index) if style == Style::Keyval => {
                write!(f, "{}.{index}", Shown { path, style })
            }
            Path::Item(path, index) => write!(f, "{}[{index}]", Shown { path, style }),
        }
    }
}

#[cfg(test)]
mod tests;
