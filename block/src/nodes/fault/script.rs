//! [`Script`]: which request fails by the rules of [`FaultOptions`], given what happens in which order.

use super::{FaultEvent, FaultOp, FaultOptions, InjectError, SetState};
use crate::allocation::ByteRange;

/// How a request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) errno: i32,
    pub(super) immediately: bool,
}

/// The rules of a node, the state it is in, and the rules that are in force.
#[derive(Debug)]
pub(super) struct Script {
    inject_error: Vec<InjectError>,
    set_state: Vec<SetState>,
    state: u32,
    in_force: Vec<InjectError>,
}

impl Script {
    pub(super) fn new(options: &FaultOptions) -> Self {
        let mut script = Self {
            inject_error: options.inject_error.clone(),
            set_state: options.set_state.clone(),
            state: 1,
            in_force: Vec::new(),
        };
        script.happens(FaultEvent::Made);
        script
    }

    /// Whether there is nothing to look at.
    pub(super) fn is_empty(&self) -> bool {
        self.inject_error.is_empty()
    }

    /// Brings rules into force, and changes the state after that.
    pub(super) fn happens(&mut self, event: FaultEvent) {
        let state = self.state;
        let fits = |at: FaultEvent, of: u32| at == event && (of == 0 || of == state);
        let mut injected = self
            .inject_error
            .iter()
            .filter(|rule| fits(rule.event, rule.state))
            .peekable();
        if injected.peek().is_some() {
            self.in_force = injected.copied().collect();
        }
        let mut moves = self.set_state.iter().rev();
        if let Some(last) = moves.find(|rule| fits(rule.event, rule.state)) {
            self.state = last.new_state;
        }
    }

    /// How a request fails that arrives now, if it does.
    pub(super) fn verdict(&mut self, op: FaultOp, range: ByteRange) -> Option<Failure> {
        let fits = |rule: &InjectError| {
            let is_meant = match rule.op {
                Some(only) => only == op,
                None => op != FaultOp::Extent,
            };
            let covers = |byte| ByteRange::new(byte, 1).is_some_and(|byte| range.contains(byte));
            is_meant && rule.offset_bytes.is_none_or(covers)
        };
        let index = self.in_force.iter().position(fits)?;
        let rule = self.in_force[index];
        if rule.once {
            self.in_force.remove(index);
        }
        Some(Failure {
            errno: rule.errno,
            immediately: rule.immediately,
        })
    }
}
