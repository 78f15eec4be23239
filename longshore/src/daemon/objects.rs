//! Objects: `object-add`, `object-del`, and what can be asked and changed of them by path.

mod properties;
mod secret;
mod throttle;

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use aio::{Config, Handle, IoThread};
use block::nodes::throttle::ThrottleGroup;
use qmp::{QmpError, Value, qapi_struct, qapi_union};

use self::{
    properties::LoopProperties,
    secret::{Secret, SecretProperties},
    throttle::ThrottleGroupProperties,
};
use super::{Daemon, command::Command, error};

/// What `object-add` has made, by id.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    by_id: RefCell<BTreeMap<String, Object>>,
}

/// One of them.
#[derive(Debug)]
enum Object {
    /// A thread with a loop of its own.
    Iothread(IoThread, LoopProperties),
    /// How the main loop behaves.
    MainLoop(Handle, LoopProperties),
    /// Limits that nodes share.
    ThrottleGroup(ThrottleGroup),
    /// Something that nobody is to see.
    Secret(Secret),
}

qapi_union! {
    /// What `object-add` takes.
    pub struct ObjectOptions {
        /// Its name.
        id: String,
    }
    /// What an object is.
    tag qom_type: ObjectType, pub enum ObjectProperties {
        /// A thread with a loop of its own.
        Iothread(IothreadOptions),
        /// How the main loop behaves.
        MainLoop(MainLoopOptions),
        /// Something that nobody is to see.
        Secret(SecretProperties),
        /// Limits that nodes share.
        ThrottleGroup(ThrottleGroupProperties),
    }
}

qapi_struct! {
    /// What a thread is made of.
    pub struct IothreadOptions {
        /// Longest time to look for work before sleeping, in nanoseconds.
        poll_max_ns: Option<i64>,
        /// By what that time grows.
        poll_grow: Option<i64>,
        /// By what that time is divided when it shrinks.
        poll_shrink: Option<i64>,
        /// Most requests in one call of the kernel; zero is no limit.
        aio_max_batch: Option<i64>,
        /// Worker threads that are kept.
        thread_pool_min: Option<i64>,
        /// Most worker threads.
        thread_pool_max: Option<i64>,
    }
}

qapi_struct! {
    /// How the main loop behaves.
    pub struct MainLoopOptions {
        /// Most requests in one call of the kernel; zero is no limit.
        aio_max_batch: Option<i64>,
        /// Worker threads that are kept.
        thread_pool_min: Option<i64>,
        /// Most worker threads.
        thread_pool_max: Option<i64>,
    }
}

qapi_struct! {
    /// The id of an object.
    pub struct ObjectId {
        /// It.
        id: String,
    }
}

qapi_struct! {
    /// A property of an object.
    pub struct PropertyPath {
        /// The object: `/objects/ID`, or its id alone.
        path: String,
        /// The property.
        property: String,
    }
}

qapi_struct! {
    /// A property of an object, and what it is to be.
    pub struct PropertyValue {
        /// The object: `/objects/ID`, or its id alone.
        path: String,
        /// The property.
        property: String,
        /// Its new value.
        value: Value,
    }
}

qapi_struct! {
    /// An object by its path.
    pub struct ObjectPath {
        /// Its path.
        path: String,
    }
}

qapi_struct! {
    /// A type by its name.
    pub struct ObjectTypeName {
        /// Its name.
        typename: String,
    }
}

qapi_struct! {
    /// Which types are asked for.
    pub struct TypeFilter {
        /// Those that implement this type.
        implements: Option<String>,
        /// Whether abstract types are listed.
        r#abstract: Option<bool>,
    }
}

qapi_struct! {
    /// A property as it is listed.
    pub struct PropertyInfo {
        /// Its name.
        name: String,
        /// Its type.
        r#type: String,
    }
}

qapi_struct! {
    /// A type as it is listed.
    pub struct TypeInfo {
        /// Its name.
        name: String,
        /// The type that it is made from.
        parent: String,
    }
}

/// The commands of this file.
pub(super) fn commands() -> Vec<Command> {
    vec![
        Command::new("object-add", object_add),
        Command::new("object-del", object_del),
        Command::new("qom-get", qom_get),
        Command::new("qom-set", qom_set),
        Command::new("qom-list", qom_list),
        Command::new("qom-list-types", qom_list_types),
        Command::new("qom-list-properties", qom_list_properties),
    ]
}

/// The types that there are, as a text for people.
pub(super) fn help() -> String {
    let types = ObjectType::ALL.iter().map(|it| format!("  {it}\n"));
    format!(
        "List of user creatable objects:\n{}",
        types.collect::<String>()
    )
}

/// Refuses what is no identifier: letters, digits and `-._`, with a letter first.
pub(super) fn check_id(id: &str) -> Result<(), QmpError> {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let begins = id.bytes().next();
    let begins = begins.is_some_and(|byte| byte.is_ascii_alphabetic());
    if begins && id.bytes().all(is_inner) {
        return Ok(());
    }
    Err(QmpError::expects("id", "an identifier"))
}

async fn object_add(daemon: &Rc<Daemon>, options: ObjectOptions) -> Result<(), QmpError> {
    let ObjectOptions { id, qom_type } = options;
    check_id(&id)?;
    daemon.objects.check_new(&id)?;
    let object = match qom_type {
        ObjectProperties::Iothread(options) => iothread(daemon, &id, &options).await?,
        ObjectProperties::MainLoop(options) => main_loop(daemon, &options)?,
        ObjectProperties::Secret(options) => Object::Secret(Secret::load(daemon, options).await?),
        ObjectProperties::ThrottleGroup(options) => {
            Object::ThrottleGroup(throttle::group(&options)?)
        }
    };
    // Another monitor may have been quicker.
    daemon.objects.check_new(&id)?;
    daemon.objects.by_id.borrow_mut().insert(id, object);
    Ok(())
}

async fn iothread(
    daemon: &Daemon,
    id: &str,
    options: &IothreadOptions,
) -> Result<Object, QmpError> {
    let properties = LoopProperties::of_thread(options)?;
    let config = Config::for_io_thread(id);
    let started = daemon.context.blocking(move || IoThread::start(config));
    let thread = started.await.map_err(|error| {
        let text = error::whole_text(&error);
        QmpError::generic(format!("cannot start an iothread: {text}"))
    })?;
    properties.apply(thread.handle())?;
    Ok(Object::Iothread(thread, properties))
}

fn main_loop(daemon: &Daemon, options: &MainLoopOptions) -> Result<Object, QmpError> {
    let objects = daemon.objects.by_id.borrow();
    let mut others = objects.values();
    if others.any(|object| matches!(object, Object::MainLoop(..))) {
        return Err(QmpError::generic("only one main-loop instance allowed"));
    }
    let properties = LoopProperties::of_main(options)?;
    let handle = daemon.context.handle().clone();
    properties.apply(&handle)?;
    Ok(Object::MainLoop(handle, properties))
}

async fn object_del(daemon: &Rc<Daemon>, args: ObjectId) -> Result<(), QmpError> {
    let id = args.id;
    let in_use = || QmpError::generic(format!("object '{id}' is in use, can not be deleted"));
    if daemon.objects.is_home(daemon, &id) {
        return Err(in_use());
    }
    let object = daemon.objects.by_id.borrow_mut().remove(&id);
    let object = object.ok_or_else(|| QmpError::generic(format!("object '{id}' not found")))?;
    let kept = match object {
        Object::Iothread(thread, properties) => {
            // The thread is joined, by somebody who may wait for that.
            let deleted = daemon.context.blocking(move || thread.delete()).await;
            deleted.err().map(|kept| {
                tracing::info!("{kept}");
                Object::Iothread(kept.thread, properties)
            })
        }
        Object::ThrottleGroup(group) if group.is_used() => Some(Object::ThrottleGroup(group)),
        Object::MainLoop(..) | Object::ThrottleGroup(_) | Object::Secret(_) => None,
    };
    match kept {
        None => Ok(()),
        Some(object) => {
            daemon.objects.by_id.borrow_mut().insert(id.clone(), object);
            Err(in_use())
        }
    }
}

async fn qom_get(daemon: &Rc<Daemon>, args: PropertyPath) -> Result<Value, QmpError> {
    daemon.objects.with(&args.path, |object| {
        let value = object.get(&args.property);
        value.ok_or_else(|| object.lacks(&args.property))
    })?
}

async fn qom_set(daemon: &Rc<Daemon>, args: PropertyValue) -> Result<(), QmpError> {
    let mut objects = daemon.objects.by_id.borrow_mut();
    let object = objects.get_mut(id_of(&args.path));
    let object = object.ok_or_else(|| no_object(&args.path))?;
    object.set(&args.property, &args.value)
}

async fn qom_list(daemon: &Rc<Daemon>, args: ObjectPath) -> Result<Vec<PropertyInfo>, QmpError> {
    let info = |name: &str, r#type: &str| PropertyInfo {
        name: name.to_owned(),
        r#type: r#type.to_owned(),
    };
    let mut infos = vec![info("type", "string")];
    match args.path.as_str() {
        "/" => infos.extend(["objects", "chardevs"].map(|it| info(it, "child<container>"))),
        "/objects" => {
            let objects = daemon.objects.by_id.borrow();
            let children = objects.iter();
            infos.extend(children.map(|(id, it)| info(id, &format!("child<{}>", it.kind()))));
        }
        "/chardevs" => infos.extend(
            daemon
                .chardevs
                .ids()
                .iter()
                .map(|id| info(id, "child<chardev>")),
        ),
        path => infos = daemon.objects.with(path, |it| properties::of(it.kind()))?,
    }
    Ok(infos)
}

async fn qom_list_types(_: &Rc<Daemon>, args: TypeFilter) -> Result<Vec<TypeInfo>, QmpError> {
    let wanted = args.implements.unwrap_or_else(|| "object".to_owned());
    let types = ObjectType::ALL.iter().map(|kind| TypeInfo {
        name: kind.to_string(),
        parent: properties::parent(*kind).to_owned(),
    });
    let fits = |info: &TypeInfo| {
        ["object", "user-creatable", &info.parent, &info.name].contains(&wanted.as_str())
    };
    Ok(types.filter(fits).collect())
}

async fn qom_list_properties(
    _: &Rc<Daemon>,
    args: ObjectTypeName,
) -> Result<Vec<PropertyInfo>, QmpError> {
    let mut kinds = ObjectType::ALL.iter();
    let kind = kinds.find(|kind| kind.as_str() == args.typename);
    let kind = kind.ok_or_else(|| {
        QmpError::device_not_found(format!("Class '{}' not found", args.typename))
    })?;
    Ok(properties::of(*kind))
}

fn id_of(path: &str) -> &str {
    path.strip_prefix("/objects/").unwrap_or(path)
}

fn no_object(path: &str) -> QmpError {
    QmpError::device_not_found(format!("Device '{path}' not found"))
}

impl Objects {
    /// The loop of the iothread `id`. `object-del` refuses while nodes are there.
    pub(super) fn iothread(&self, id: &str) -> Option<Handle> {
        match self.by_id.borrow().get(id) {
            Some(Object::Iothread(thread, _)) => Some(thread.handle().clone()),
            _ => None,
        }
    }

    /// The throttle group `id`. `object-del` refuses while a node belongs to it.
    pub(super) fn throttle_group(&self, id: &str) -> Option<ThrottleGroup> {
        match self.by_id.borrow().get(id) {
            Some(Object::ThrottleGroup(group)) => Some(group.clone()),
            _ => None,
        }
    }

    /// Whether that is an iothread that nodes live on, or jobs, which follow their nodes; or where clients of an export
    /// are served.
    fn is_home(&self, daemon: &Daemon, id: &str) -> bool {
        let objects = self.by_id.borrow();
        let Some(Object::Iothread(thread, _)) = objects.get(id) else {
            return false;
        };
        let nodes = daemon.engine.graph().nodes();
        let homes = nodes.iter().filter_map(block::Node::context);
        homes.into_iter().any(|home| home.is_same(thread.handle()))
            || daemon.exports.are_served_on(thread.handle())
    }

    /// Why the secret `key` is not used to decrypt another.
    fn refuse_key(&self, key: &str) -> QmpError {
        let text = match self.by_id.borrow().get(key) {
            None => format!("No secret with id '{key}'"),
            Some(Object::Secret(_)) => {
                "encrypted secrets are not supported; give the secret in a file".to_owned()
            }
            Some(_) => format!("Object with id '{key}' is not a secret"),
        };
        QmpError::generic(text)
    }

    fn check_new(&self, id: &str) -> Result<(), QmpError> {
        if !self.by_id.borrow().contains_key(id) {
            return Ok(());
        }
        let text = format!("attempt to add duplicate property '{id}' to object (type 'container')");
        Err(QmpError::generic(text))
    }

    fn with<T>(&self, path: &str, look: impl FnOnce(&Object) -> T) -> Result<T, QmpError> {
        let objects = self.by_id.borrow();
        let object = objects.get(id_of(path)).ok_or_else(|| no_object(path))?;
        Ok(look(object))
    }
}

impl Object {
    fn kind(&self) -> ObjectType {
        match self {
            Self::Iothread(..) => ObjectType::Iothread,
            Self::MainLoop(..) => ObjectType::MainLoop,
            Self::ThrottleGroup(_) => ObjectType::ThrottleGroup,
            Self::Secret(_) => ObjectType::Secret,
        }
    }

    fn get(&self, property: &str) -> Option<Value> {
        if property == "type" {
            return Some(Value::from(self.kind().as_str()));
        }
        match self {
            Self::Iothread(_, properties) => properties.get_of_thread(property),
            Self::MainLoop(_, properties) => properties.get_of_main(property),
            Self::ThrottleGroup(group) => throttle::get(group, property),
            Self::Secret(secret) => secret.get(property),
        }
    }

    fn set(&mut self, property: &str, value: &Value) -> Result<(), QmpError> {
        if self.get(property).is_none() {
            return Err(self.lacks(property));
        }
        let fixed = Err(QmpError::generic(format!(
            "Property '{}.{property}' is not writable",
            self.kind()
        )));
        match self {
            _ if property == "type" => fixed,
            Self::Iothread(thread, properties) => properties.set(thread.handle(), property, value),
            Self::MainLoop(handle, properties) => properties.set(handle, property, value),
            Self::ThrottleGroup(group) => throttle::set(group, property, value),
            Self::Secret(_) => fixed,
        }
    }

    fn lacks(&self, property: &str) -> QmpError {
        QmpError::generic(format!("Property '{}.{property}' not found", self.kind()))
    }
}
