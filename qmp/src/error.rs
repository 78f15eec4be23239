//! [`QmpError`]: what a client reads when a command fails.

use std::fmt;

/// What clients may branch on; most errors are [`Generic`](Self::Generic).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// Everything that has no class of its own.
    Generic,
    /// There is no such command, or not now.
    CommandNotFound,
    /// There is no such node.
    DeviceNotFound,
    /// There is no such block job.
    DeviceNotActive,
}

impl ErrorClass {
    /// The class on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Generic => "GenericError",
            Self::CommandNotFound => "CommandNotFound",
            Self::DeviceNotFound => "DeviceNotFound",
            Self::DeviceNotActive => "DeviceNotActive",
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a command failed, in the words of the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{desc}")]
pub struct QmpError {
    /// For programs.
    pub class: ErrorClass,
    /// For people.
    pub desc: String,
    /// What may be behind it, for people at a terminal; not sent.
    pub hint: Option<String>,
}

impl QmpError {
    /// An error of the class that nearly all have.
    pub fn generic(desc: impl Into<String>) -> Self {
        Self::new(ErrorClass::Generic, desc)
    }

    /// There is no such command, or not now.
    pub fn command_not_found(desc: impl Into<String>) -> Self {
        Self::new(ErrorClass::CommandNotFound, desc)
    }

    /// There is no such node.
    pub fn device_not_found(desc: impl Into<String>) -> Self {
        Self::new(ErrorClass::DeviceNotFound, desc)
    }

    /// There is no such block job.
    pub fn device_not_active(desc: impl Into<String>) -> Self {
        Self::new(ErrorClass::DeviceNotActive, desc)
    }

    /// The command `name` does not exist.
    pub fn unknown_command(name: &str) -> Self {
        Self::command_not_found(format!("The command {name} has not been found"))
    }

    /// The command `name` cannot overtake others.
    pub fn no_oob(name: &str) -> Self {
        Self::generic(format!("The command {name} does not support OOB"))
    }

    /// The argument `name` has to be there.
    pub fn missing(name: &str) -> Self {
        Self::generic(format!("Parameter '{name}' is missing"))
    }

    /// The argument `name` means nothing here.
    pub fn unexpected(name: &str) -> Self {
        Self::generic(format!("Parameter '{name}' is unexpected"))
    }

    /// The argument `name` is of another type than `expected`.
    pub fn invalid_type(name: &str, expected: &str) -> Self {
        let desc = format!("Invalid parameter type for '{name}', expected: {expected}");
        Self::generic(desc)
    }

    /// The argument `name` is none of the values that it may have.
    pub fn invalid_value(name: &str, value: &str) -> Self {
        Self::generic(format!(
            "Parameter '{name}' does not accept value '{value}'"
        ))
    }

    /// The argument `name` is of the right type, but not `expected`.
    pub fn expects(name: &str, expected: &str) -> Self {
        Self::generic(format!("Parameter '{name}' expects {expected}"))
    }

    fn new(class: ErrorClass, desc: impl Into<String>) -> Self {
        let desc = desc.into();
        Self {
            class,
            desc,
            hint: None,
        }
    }
}
