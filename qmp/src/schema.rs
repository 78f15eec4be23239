//! [`Schema`]: the reply of `query-qmp-schema`, gathered from the types themselves.

use std::any::type_name;
use std::collections::BTreeMap;

use serde_json::json;

use crate::types::{Kind, Members, Qapi, TypeName};
use crate::{Map, Value};

/// One member of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    name: String,
    type_name: TypeName,
    is_optional: bool,
}

impl Member {
    /// The member `name` of the type `T`.
    pub fn of<T: Qapi>(name: &str, schema: &mut Schema) -> Self {
        Self {
            name: name.to_owned(),
            type_name: T::describe(schema),
            is_optional: T::missing().is_some(),
        }
    }

    fn to_value(&self) -> Value {
        let mut value = json!({"name": self.name, "type": self.type_name});
        if self.is_optional {
            // Whatever the default is.
            value["default"] = Value::Null;
        }
        add_features(&mut value, &self.name, Age::Current);
        value
    }
}

/// When a command may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// After all that came before it.
    InBand,
    /// Also at once, if the client says so.
    OutOfBand,
}

/// Whether clients should still use a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// They may.
    Current,
    /// Something else has taken its place.
    Deprecated,
}

/// Says what clients look at before they rely on something; a name that begins with `x-` promises nothing.
fn add_features(entity: &mut Value, name: &str, age: Age) {
    let is_unstable = name.starts_with("x-");
    let features = [
        (is_unstable, "unstable"),
        (age == Age::Deprecated, "deprecated"),
    ];
    let features = features.iter().filter(|(holds, _)| *holds);
    let features: Vec<Value> = features.map(|(_, name)| Value::from(*name)).collect();
    if !features.is_empty() {
        entity["features"] = Value::Array(features);
    }
}

/// What commands and events there are, and all types that they use.
///
/// Types are numbered in the order of their description, as the reference
/// does it, so that nobody relies on their names.
#[derive(Debug, Default)]
pub struct Schema {
    /// What is done, in the order of names' numbers for types.
    entities: Vec<Value>,
    /// Name by Rust's name of the type; one that is here may still be under way.
    names: BTreeMap<String, TypeName>,
}

impl Schema {
    /// A schema of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a command with its arguments and its result.
    pub fn command<A: Qapi, R: Qapi>(&mut self, name: &str, order: Order, age: Age) {
        let (arguments, result) = (A::describe(self), R::describe(self));
        let mut command = json!({
            "name": name,
            "meta-type": "command",
            "arg-type": arguments,
            "ret-type": result,
        });
        if order == Order::OutOfBand {
            command["allow-oob"] = Value::Bool(true);
        }
        add_features(&mut command, name, age);
        self.entities.push(command);
    }

    /// Adds an event with its data.
    pub fn event<D: Qapi>(&mut self, name: &str) {
        let data = D::describe(self);
        let event = json!({"name": name, "meta-type": "event", "arg-type": data});
        self.entities.push(event);
    }

    /// Everything, as the reply has it.
    pub fn into_value(self) -> Value {
        Value::Array(self.entities)
    }

    /// Adds a type that is there from the start.
    pub fn builtin(&mut self, name: &str, kind: Kind) -> TypeName {
        let json_type = match kind {
            Kind::Integer => "int",
            Kind::String
            | Kind::Number
            | Kind::Boolean
            | Kind::Object
            | Kind::Array
            | Kind::Null
            | Kind::Any => kind.as_str(),
        };
        let entity = json!({"name": name, "meta-type": "builtin", "json-type": json_type});
        self.add_once(name, name, entity)
    }

    /// Adds the array of a type.
    pub fn array(&mut self, item: &str) -> TypeName {
        let name = format!("[{item}]");
        let entity = json!({"name": name, "meta-type": "array", "element-type": item});
        self.add_once(&name, &name, entity)
    }

    /// Adds an object.
    pub fn object<T: Members>(&mut self) -> TypeName {
        self.define::<T>("object", |schema| {
            let members = T::describe_members(schema);
            let members: Vec<Value> = members.iter().map(Member::to_value).collect();
            json!({"members": members})
        })
    }

    /// Adds a union: its common members, and by the value of `tag` the others.
    pub fn union<T: Members>(
        &mut self,
        tag: &str,
        branches: impl FnOnce(&mut Self) -> Vec<(&'static str, TypeName)>,
    ) -> TypeName {
        self.define::<T>("object", |schema| {
            let members = T::describe_members(schema);
            let members: Vec<Value> = members.iter().map(Member::to_value).collect();
            let branches = branches(schema).into_iter();
            let variants: Vec<Value> = branches
                .map(|(case, name)| json!({"case": case, "type": name}))
                .collect();
            json!({"members": members, "tag": tag, "variants": variants})
        })
    }

    /// Adds an enumeration.
    pub fn enumeration<T: Qapi>(&mut self, values: impl Iterator<Item = &'static str>) -> TypeName {
        self.define::<T>("enum", |_| {
            let values: Vec<&str> = values.collect();
            let member = |name: &&str| {
                let mut member = json!({"name": name});
                add_features(&mut member, name, Age::Current);
                member
            };
            let members: Vec<Value> = values.iter().map(member).collect();
            json!({"members": members, "values": values})
        })
    }

    /// Adds a choice between types that JSON tells apart.
    pub fn alternate<T: Qapi>(
        &mut self,
        choices: impl FnOnce(&mut Self) -> Vec<TypeName>,
    ) -> TypeName {
        self.define::<T>("alternate", |schema| {
            let choices = choices(schema).into_iter();
            let members: Vec<Value> = choices.map(|name| json!({"type": name})).collect();
            json!({"members": members})
        })
    }

    /// Adds a type with a number for its name, unless it is there or under way.
    fn define<T>(&mut self, kind: &str, describe: impl FnOnce(&mut Self) -> Value) -> TypeName {
        let key = type_name::<T>();
        if let Some(name) = self.names.get(key) {
            return name.clone();
        }
        let name = self.names.len().to_string();
        self.names.insert(key.to_owned(), name.clone());
        let mut entity = Map::new();
        entity.insert("name".to_owned(), Value::from(name.as_str()));
        entity.insert("meta-type".to_owned(), Value::from(kind));
        if let Value::Object(members) = describe(self) {
            entity.extend(members);
        }
        self.entities.push(Value::Object(entity));
        name
    }

    fn add_once(&mut self, key: &str, name: &str, entity: Value) -> TypeName {
        if self.names.insert(key.to_owned(), name.to_owned()).is_none() {
            self.entities.push(entity);
        }
        name.to_owned()
    }
}

#[cfg(test)]
mod tests;
