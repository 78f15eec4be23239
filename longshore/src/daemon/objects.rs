//! Objects: `object-add`, `object-del` and what is asked of them.

use aio::Handle;
use block::nodes::ThrottleGroup;
use qmp::QmpError;

use super::command::Command;

/// What `object-add` has made, by id.
#[derive(Debug, Default)]
pub(crate) struct Objects {}

impl Objects {
    /// The throttle group of that id.
    pub(super) fn throttle_group(&self, _id: &str) -> Option<ThrottleGroup> {
        None
    }

    /// The loop of the iothread of that id.
    pub(super) fn iothread(&self, _id: &str) -> Option<Handle> {
        None
    }
}

/// The commands of this file.
pub(super) fn commands() -> Vec<Command> {
    Vec::new()
}

/// The types that there are, as a text for people.
pub(super) fn help() -> String {
    "List of user creatable objects:\n  iothread\n  main-loop\n  secret\n  throttle-group\n"
        .to_owned()
}

/// Refuses what is no identifier: letters, digits and `-._`, with a letter first.
pub(super) fn check_id(id: &str) -> Result<(), QmpError> {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let begins = id
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic());
    if begins && id.bytes().all(is_inner) {
        return Ok(());
    }
    Err(QmpError::expects("id", "an identifier"))
}
