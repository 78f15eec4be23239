//! [`LoopProperties`]: how a loop behaves; and which properties objects have.

use aio::{Handle, PollParams};
use qmp::{Qapi, QmpError, Value};

use super::{IothreadOptions, MainLoopOptions, ObjectType, PropertyInfo, throttle};
use crate::daemon::error;

/// How a loop behaves, as it was set.
#[derive(Clone, Copy, Debug)]
pub(super) struct LoopProperties {
    poll_max_ns: i64,
    poll_grow: i64,
    poll_shrink: i64,
    aio_max_batch: i64,
    thread_pool_min: i64,
    thread_pool_max: i64,
}

/// Those of the main loop.
const OF_MAIN: [&str; 3] = ["aio-max-batch", "thread-pool-min", "thread-pool-max"];

/// Those that a thread has besides.
const OF_THREAD: [&str; 3] = ["poll-max-ns", "poll-grow", "poll-shrink"];

impl Default for LoopProperties {
    fn default() -> Self {
        Self {
            poll_max_ns: 32_768,
            poll_grow: 0,
            poll_shrink: 0,
            aio_max_batch: 0,
            thread_pool_min: 0,
            thread_pool_max: 64,
        }
    }
}

impl LoopProperties {
    /// Those of a new thread.
    pub(super) fn of_thread(options: &IothreadOptions) -> Result<Self, QmpError> {
        Self::default().changed_by(&options.write())
    }

    /// Those of the main loop.
    pub(super) fn of_main(options: &MainLoopOptions) -> Result<Self, QmpError> {
        Self::default().changed_by(&options.write())
    }

    fn changed_by(mut self, options: &Value) -> Result<Self, QmpError> {
        for (name, value) in options.as_object().into_iter().flatten() {
            let value = value.as_i64().unwrap_or(-1);
            if value < 0 {
                let text = format!("{name} value must be in range [0, {}]", i64::MAX);
                return Err(QmpError::generic(text));
            }
            if let Some(field) = self.field(name) {
                *field = value;
            }
        }
        Ok(self)
    }

    fn field(&mut self, name: &str) -> Option<&mut i64> {
        let field = match name {
            "poll-max-ns" => &mut self.poll_max_ns,
            "poll-grow" => &mut self.poll_grow,
            "poll-shrink" => &mut self.poll_shrink,
            "aio-max-batch" => &mut self.aio_max_batch,
            "thread-pool-min" => &mut self.thread_pool_min,
            "thread-pool-max" => &mut self.thread_pool_max,
            _ => return None,
        };
        Some(field)
    }

    /// Has a loop behave so.
    pub(super) fn apply(&self, handle: &Handle) -> Result<(), QmpError> {
        let limits = handle.set_thread_pool_limits(self.thread_pool_min, self.thread_pool_max);
        limits.map_err(|error| QmpError::generic(error::whole_text(&error)))?;
        handle.set_max_batch(u32::try_from(self.aio_max_batch).unwrap_or(u32::MAX));
        handle.set_poll_params(PollParams {
            max_ns: self.poll_max_ns.unsigned_abs(),
            grow: self.poll_grow.unsigned_abs(),
            shrink: self.poll_shrink.unsigned_abs(),
        });
        Ok(())
    }

    /// Sets one property of a loop that runs.
    pub(super) fn set(
        &mut self,
        handle: &Handle,
        property: &str,
        value: &Value,
    ) -> Result<(), QmpError> {
        let one = qmp::Map::from_iter([(property.to_owned(), value.clone())]);
        let options = IothreadOptions::from_json(&Value::Object(one))?;
        let changed = self.changed_by(&options.write())?;
        changed.apply(handle)?;
        *self = changed;
        Ok(())
    }

    /// One property of a thread.
    pub(super) fn get_of_thread(&self, property: &str) -> Option<Value> {
        let mut properties = *self;
        properties.field(property).map(|value| Value::from(*value))
    }

    /// One property of the main loop.
    pub(super) fn get_of_main(&self, property: &str) -> Option<Value> {
        let is_its = OF_MAIN.contains(&property);
        is_its.then(|| self.get_of_thread(property)).flatten()
    }
}

/// What an object of this type has.
pub(super) fn of(kind: ObjectType) -> Vec<PropertyInfo> {
    let ints = |name: &&str| ((*name).to_owned(), "int");
    let own: Vec<(String, &str)> = match kind {
        ObjectType::Iothread => OF_MAIN.iter().chain(&OF_THREAD).map(ints).collect(),
        ObjectType::MainLoop => OF_MAIN.iter().map(ints).collect(),
        ObjectType::Secret => {
            let strings = ["data", "file", "keyid", "iv"];
            let strings = strings.map(|name| (name.to_owned(), "string"));
            let format = ("format".to_owned(), "QCryptoSecretFormat");
            strings.into_iter().chain([format]).collect()
        }
        ObjectType::ThrottleGroup => throttle::properties()
            .map(|name| match name.as_str() {
                "limits" => (name, "ThrottleLimits"),
                _ => (name, "int"),
            })
            .collect(),
    };
    let all = std::iter::once(("type".to_owned(), "string")).chain(own);
    let infos = all.map(|(name, r#type)| PropertyInfo {
        name,
        r#type: r#type.to_owned(),
    });
    infos.collect()
}

/// The type that this one is made from.
pub(super) fn parent(kind: ObjectType) -> &'static str {
    match kind {
        ObjectType::Iothread | ObjectType::MainLoop => "event-loop-base",
        ObjectType::Secret => "secret_common",
        ObjectType::ThrottleGroup => "object",
    }
}
