//! The limits of throttle groups in the words of the protocol.

use block::nodes::throttle::{ThrottleGroup, ThrottleLimit, ThrottleLimits};
use qmp::{Map, Qapi, QmpError, Value, qapi_struct};

use super::super::error::IntoQmp;

qapi_struct! {
    /// Limits; what is missing stays as it is.
    pub struct Limits {
        /// Bytes a second, of reads and writes together.
        bps_total: Option<i64>,
        /// The same while a burst lasts.
        bps_total_max: Option<i64>,
        /// For how many seconds a burst may last.
        bps_total_max_length: Option<i64>,
        /// Bytes a second that are read.
        bps_read: Option<i64>,
        /// The same while a burst lasts.
        bps_read_max: Option<i64>,
        /// For how many seconds a burst may last.
        bps_read_max_length: Option<i64>,
        /// Bytes a second that are written.
        bps_write: Option<i64>,
        /// The same while a burst lasts.
        bps_write_max: Option<i64>,
        /// For how many seconds a burst may last.
        bps_write_max_length: Option<i64>,
        /// Requests a second.
        iops_total: Option<i64>,
        /// The same while a burst lasts.
        iops_total_max: Option<i64>,
        /// For how many seconds a burst may last.
        iops_total_max_length: Option<i64>,
        /// Reads a second.
        iops_read: Option<i64>,
        /// The same while a burst lasts.
        iops_read_max: Option<i64>,
        /// For how many seconds a burst may last.
        iops_read_max_length: Option<i64>,
        /// Writes a second.
        iops_write: Option<i64>,
        /// The same while a burst lasts.
        iops_write_max: Option<i64>,
        /// For how many seconds a burst may last.
        iops_write_max_length: Option<i64>,
        /// A longer request counts as so many of this length in bytes.
        iops_size: Option<i64>,
    }
}

qapi_struct! {
    /// What a throttle group is made of.
    pub struct ThrottleGroupProperties {
        /// Its limits.
        limits: Option<Limits>,
        /// Bytes a second, of reads and writes together.
        x_bps_total: Option<i64>,
        /// The same while a burst lasts.
        x_bps_total_max: Option<i64>,
        /// For how many seconds a burst may last.
        x_bps_total_max_length: Option<i64>,
        /// Bytes a second that are read.
        x_bps_read: Option<i64>,
        /// The same while a burst lasts.
        x_bps_read_max: Option<i64>,
        /// For how many seconds a burst may last.
        x_bps_read_max_length: Option<i64>,
        /// Bytes a second that are written.
        x_bps_write: Option<i64>,
        /// The same while a burst lasts.
        x_bps_write_max: Option<i64>,
        /// For how many seconds a burst may last.
        x_bps_write_max_length: Option<i64>,
        /// Requests a second.
        x_iops_total: Option<i64>,
        /// The same while a burst lasts.
        x_iops_total_max: Option<i64>,
        /// For how many seconds a burst may last.
        x_iops_total_max_length: Option<i64>,
        /// Reads a second.
        x_iops_read: Option<i64>,
        /// The same while a burst lasts.
        x_iops_read_max: Option<i64>,
        /// For how many seconds a burst may last.
        x_iops_read_max_length: Option<i64>,
        /// Writes a second.
        x_iops_write: Option<i64>,
        /// The same while a burst lasts.
        x_iops_write_max: Option<i64>,
        /// For how many seconds a burst may last.
        x_iops_write_max_length: Option<i64>,
        /// A longer request counts as so many of this length in bytes.
        x_iops_size: Option<i64>,
    }
}

/// Most that a limit may be.
const RATE_MAX: i64 = 1_000_000_000_000_000;

/// A group with these properties.
pub(super) fn group(properties: &ThrottleGroupProperties) -> Result<ThrottleGroup, QmpError> {
    let mut members = match properties.write() {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    let mut limits = ThrottleLimits::default();
    if let Some(Value::Object(all)) = members.remove("limits") {
        change(&mut limits, &all)?;
    }
    change(&mut limits, &members)?;
    ThrottleGroup::new(limits).map_err(IntoQmp::into_qmp)
}

/// Sets `limits` of a group, or one of its `x-` properties.
pub(super) fn set(group: &ThrottleGroup, property: &str, value: &Value) -> Result<(), QmpError> {
    let one = Map::from_iter([(property.to_owned(), value.clone())]);
    // Read as the type that it is, so that refusals are the same.
    ThrottleGroupProperties::from_json(&Value::Object(one.clone()))?;
    let mut limits = group.limits();
    match value {
        Value::Object(all) => change(&mut limits, all)?,
        _ => change(&mut limits, &one)?,
    }
    group.set_limits(limits).map_err(IntoQmp::into_qmp)
}

/// One property of a group.
pub(super) fn get(group: &ThrottleGroup, property: &str) -> Option<Value> {
    let mut limits = group.limits();
    if property == "limits" {
        let names = NAMES.iter().map(|name| (*name).to_owned());
        let all = names.filter_map(|name| {
            let value = show(&name, *field(&mut limits, &name)?);
            Some((name, value))
        });
        return Some(Value::Object(all.collect()));
    }
    let name = property.strip_prefix("x-")?;
    field(&mut limits, name).map(|value| show(name, *value))
}

/// A burst that was not given a length lasts for a second.
fn show(name: &str, value: u64) -> Value {
    let value = match value {
        0 if name.ends_with("-max-length") => 1,
        value => value,
    };
    Value::from(value)
}

/// The names of all properties.
pub(super) fn properties() -> impl Iterator<Item = String> {
    let limits = std::iter::once("limits".to_owned());
    limits.chain(NAMES.iter().map(|name| format!("x-{name}")))
}

fn change(limits: &mut ThrottleLimits, members: &Map) -> Result<(), QmpError> {
    for (name, value) in members {
        let value = value.as_i64().unwrap_or_default();
        if !(0..=RATE_MAX).contains(&value) {
            let text = format!("bps/iops/max values must be within [0, {RATE_MAX}]");
            return Err(QmpError::generic(text));
        }
        if name.ends_with("-max-length") && value == 0 {
            return Err(QmpError::generic("burst length cannot be 0"));
        }
        let name = name.strip_prefix("x-").unwrap_or(name);
        if let Some(field) = field(limits, name) {
            *field = value.unsigned_abs();
        }
    }
    Ok(())
}

/// Every limit by its name in the protocol.
const NAMES: [&str; 19] = [
    "bps-total",
    "bps-total-max",
    "bps-total-max-length",
    "bps-read",
    "bps-read-max",
    "bps-read-max-length",
    "bps-write",
    "bps-write-max",
    "bps-write-max-length",
    "iops-total",
    "iops-total-max",
    "iops-total-max-length",
    "iops-read",
    "iops-read-max",
    "iops-read-max-length",
    "iops-write",
    "iops-write-max",
    "iops-write-max-length",
    "iops-size",
];

fn field<'a>(limits: &'a mut ThrottleLimits, name: &str) -> Option<&'a mut u64> {
    if name == "iops-size" {
        return Some(&mut limits.request_bytes);
    }
    let (base, part): (&str, fn(&mut ThrottleLimit) -> &mut u64) =
        match (name.strip_suffix("-max-length"), name.strip_suffix("-max")) {
            (Some(base), _) => (base, |limit| &mut limit.burst_s),
            (None, Some(base)) => (base, |limit| &mut limit.burst_per_s),
            (None, None) => (name, |limit| &mut limit.per_s),
        };
    let limit = match base {
        "bps-total" => &mut limits.bytes_total,
        "bps-read" => &mut limits.bytes_read,
        "bps-write" => &mut limits.bytes_write,
        "iops-total" => &mut limits.requests_total,
        "iops-read" => &mut limits.requests_read,
        "iops-write" => &mut limits.requests_write,
        _ => return None,
    };
    Some(part(limit))
}
