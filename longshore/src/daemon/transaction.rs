//! The command `transaction`: several actions at one instant, all or nothing.

use super::command::Command;

/// The commands of this file.
pub(super) fn commands() -> Vec<Command> {
    Vec::new()
}
