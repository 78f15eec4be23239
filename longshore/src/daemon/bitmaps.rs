//! Commands for dirty bitmaps.

use super::command::Command;

/// The commands of this file.
pub(super) fn commands() -> Vec<Command> {
    Vec::new()
}
