//! The types that the protocol has from the start.

use super::{Fields, Input, Kind, Members, Qapi, Style, TypeName, empty};
use crate::schema::{self, Schema};
use crate::{Map, QmpError, Value, keyval};

/// A number of bytes; between commas it may have a suffix, as in `64K`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

/// JSON's `null`, for alternates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Null;

impl Qapi for String {
    const KIND: Kind = Kind::String;

    fn read(input: Input<'_>) -> Result<Self, QmpError> {
        input.string().map(str::to_owned)
    }

    fn write(&self) -> Value {
        Value::String(self.clone())
    }

    fn describe(schema: &mut Schema) -> TypeName {
        schema.builtin("str", Kind::String)
    }
}

impl Qapi for bool {
    const KIND: Kind = Kind::Boolean;

    fn read(input: Input<'_>) -> Result<Self, QmpError> {
        if let Some(text) = input.text() {
            return keyval::switch(text).ok_or_else(|| input.expects("'on' or 'off'"));
        }
        let value = input.value().as_bool();
        value.ok_or_else(|| input.not_scalar(Self::KIND))
    }

    fn write(&self) -> Value {
        Value::Bool(*self)
    }

    fn describe(schema: &mut Schema) -> TypeName {
        schema.builtin("bool", Kind::Boolean)
    }
}

impl Qapi for f64 {
    const KIND: Kind = Kind::Number;

    fn read(input: Input<'_>) -> Result<Self, QmpError> {
        if let Some(text) = input.text() {
            let number = text.parse().ok().filter(|number: &f64| number.is_finite());
            return number.ok_or_else(|| input.expects("number"));
        }
        let number = input.value().as_f64();
        number.ok_or_else(|| input.not_scalar(Self::KIND))
    }

    fn write(&self) -> Value {
        Value::from(*self)
    }

    fn describe(schema: &mut Schema) -> TypeName {
        schema.builtin("number", Kind::Number)
    }
}

impl Qapi for i64 {
    const KIND: Kind = Kind::Integer;

    fn read(input: Input<'_>) -> Result<Self, QmpError> {
        if let Some(text) = input.text() {
            let number = keyval::integer(text).and_then(|number| number.try_into().ok());
            return number.ok_or_else(|| input.expects("integer"));
        }
        let number = input.value().as_i64();
        number.ok_or_else(|| input.not_scalar(Self::KIND))
    }

    fn write(&self) -> Value {
        Value::from(*self)
    }

    fn describe(schema: &mut Schema) -> TypeName {
        schema.builtin("int", Kind::Integer)
    }
}

/// Reads an unsigned number, which errors call `name` if it does not fit.
fn unsigned<T: TryFrom<i128>>(input: Input<'_>, name: &str) -> Result<T, QmpError> {
    let number = match (input.text(), input.value()) {
        (Some(text), _) => keyval::integer(text).ok_or_else(|| input.expects("integer"))?,
        (None, value) => {
            let signed = value.as_i64().map(i128::from);
            let number = signed.or_else(|| value.as_u64().map(i128::from));
            number.ok_or_else(|| match input.style() {
                Style::Json => input.expects("uint64"),
                Style::Keyval => input.not_scalar(Kind::Integer),
            })?
        }
    };
    T::try_from(number).map_err(|_| input.expects(name))
}

/// The unsigned types, which differ in size and in what errors call them.
macro_rules! unsigned {
    ($($type:ty, $name:literal;)+) => {$(
        impl Qapi for $type {
            const KIND: Kind = Kind::Integer;

            fn read(input: Input<'_>) -> Result<Self, QmpError> {
                unsigned(input, $name)
            }

            fn write(&self) -> Value {
                Value::from(*self)
            }

            fn describe(schema: &mut Schema) -> TypeName {
                schema.builtin("int", Kind::Integer)
            }
        }
    )+};
}

unsigned! {
    u64, "uint64";
    u32, "uint32_t";
    u16, "uint16_t";
    u8, "uint8_t";
}

impl Qapi for Size {
    const KIND: Kind = Kind::Integer;

    fn read(input: Input<'_>) -> Result<Self, QmpError> {
        let size = match input.text() {
            Some(text) => keyval::size(text).ok_or_else(|| input.expects("size"))?,
            None => u64::read(input)?,
        };
        Ok(Self(size))
    }

    fn write(&self) -> Value {
        Value::from(self.0)
    }

    fn describe(schema: &mut Schema) -> TypeName {
        schema.builtin("int", Kind::Integer)
    }
}

impl Qapi for Null {
    const KIND: Kind = Kind::Null;

    fn read(input: Input<'_>) -> Result<Self, QmpError> {
        match (input.value(), input.text()) {
            // Between commas there is no other way to write it.
            (Value::Null, _) | (_, Some("")) => Ok(Self),
            _ => Err(input.invalid_type(Self::KIND.as_str())),
        }
    }

    fn write(&self) -> Value {
        Value::Null
    }

    fn describe(schema: &mut Schema) -> TypeName {
        schema.builtin("null", Kind::Null)
    }
}

impl Qapi for Value {
    const KIND: Kind = Kind::Any;

    fn read(input: Input<'_>) -> Result<Self, QmpError> {
        Ok(input.value().clone())
    }

    fn write(&self) -> Value {
        self.clone()
    }

    fn describe(schema: &mut Schema) -> TypeName {
        schema.builtin("any", Kind::Any)
    }
}

impl Qapi for Map {
    const KIND: Kind = Kind::Object;

    fn read(input: Input<'_>) -> Result<Self, QmpError> {
        let members = input.value().as_object();
        let members = members.ok_or_else(|| input.invalid_type(Self::KIND.as_str()))?;
        Ok(members.clone())
    }

    fn write(&self) -> Value {
        Value::Object(self.clone())
    }

    fn describe(schema: &mut Schema) -> TypeName {
        schema.builtin("any", Kind::Any)
    }
}

/// No members at all.
impl Qapi for () {
    const KIND: Kind = Kind::Object;

    fn read(input: Input<'_>) -> Result<Self, QmpError> {
        input.fields()?.finish()
    }

    fn write(&self) -> Value {
        empty()
    }

    fn describe(schema: &mut Schema) -> TypeName {
        schema.object::<Self>()
    }
}

impl Members for () {
    fn read_members(_: &mut Fields<'_>) -> Result<Self, QmpError> {
        Ok(())
    }

    fn write_members(&self, _: &mut Map) {}

    fn describe_members(_: &mut Schema) -> Vec<schema::Member> {
        Vec::new()
    }
}

/// As a member, it may be missing.
impl<T: Qapi> Qapi for Option<T> {
    const KIND: Kind = T::KIND;

    fn read(input: Input<'_>) -> Result<Self, QmpError> {
        T::read(input).map(Some)
    }

    fn write(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::write)
    }

    fn describe(schema: &mut Schema) -> TypeName {
        T::describe(schema)
    }

    fn missing() -> Option<Self> {
        Some(None)
    }

    fn write_member(&self, name: &str, members: &mut Map) {
        if let Some(value) = self {
            value.write_member(name, members);
        }
    }
}

impl<T: Qapi> Qapi for Vec<T> {
    const KIND: Kind = Kind::Array;

    fn read(input: Input<'_>) -> Result<Self, QmpError> {
        input.items()
    }

    fn write(&self) -> Value {
        self.iter().map(T::write).collect()
    }

    fn describe(schema: &mut Schema) -> TypeName {
        let item = T::describe(schema);
        schema.array(&item)
    }
}

impl<T: Qapi> Qapi for Box<T> {
    const KIND: Kind = T::KIND;

    fn read(input: Input<'_>) -> Result<Self, QmpError> {
        T::read(input).map(Self::new)
    }

    fn write(&self) -> Value {
        T::write(self)
    }

    fn describe(schema: &mut Schema) -> TypeName {
        T::describe(schema)
    }
}

impl<T: Members> Members for Box<T> {
    fn read_members(fields: &mut Fields<'_>) -> Result<Self, QmpError> {
        T::read_members(fields).map(Self::new)
    }

    fn write_members(&self, members: &mut Map) {
        T::write_members(self, members);
    }

    fn describe_members(schema: &mut Schema) -> Vec<schema::Member> {
        T::describe_members(schema)
    }
}
