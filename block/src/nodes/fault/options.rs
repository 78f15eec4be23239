//! [`FaultOptions`]: faults and limits as they are written down for a whole node, in the terms of `blkdebug`.

use std::{fmt, str::FromStr};

use super::FaultOp;
use crate::{
    error::{BlockError, ErrorKind},
    node_driver::Limits,
};

/// What happens in a node, for rules that wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultEvent {
    /// `none`: the node is made.
    Made,
    /// `read_aio`: a read arrives.
    Read,
    /// `pwritev`: a write arrives.
    Write,
    /// `pwritev_zero`: a write of zeroes arrives.
    WriteZeroes,
    /// `pwritev_done`: a write, of zeroes or data, has ended.
    Written,
    /// `flush_to_disk`: a flush arrives.
    Flush,
}

impl FaultEvent {
    const ALL: [Self; 6] = [
        Self::Made,
        Self::Read,
        Self::Write,
        Self::WriteZeroes,
        Self::Written,
        Self::Flush,
    ];

    /// What it is called in options.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Made => "none",
            Self::Read => "read_aio",
            Self::Write => "pwritev",
            Self::WriteZeroes => "pwritev_zero",
            Self::Written => "pwritev_done",
            Self::Flush => "flush_to_disk",
        }
    }

    /// The event of a request that arrives.
    pub(super) fn of(op: FaultOp) -> Option<Self> {
        match op {
            FaultOp::Read => Some(Self::Read),
            FaultOp::Write => Some(Self::Write),
            FaultOp::WriteZeroes => Some(Self::WriteZeroes),
            FaultOp::Flush => Some(Self::Flush),
            FaultOp::Discard | FaultOp::Extent => None,
        }
    }
}

impl fmt::Display for FaultEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for FaultEvent {
    type Err = BlockError;

    fn from_str(name: &str) -> Result<Self, BlockError> {
        let named = Self::ALL.into_iter().find(|event| event.name() == name);
        named.ok_or_else(|| {
            BlockError::new(ErrorKind::Invalid, format!("no event is called '{name}'"))
        })
    }
}

/// `inject-error`: from an event on, requests fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InjectError {
    /// The event that brings the rule into force, and takes those of other events out of force.
    pub event: FaultEvent,
    /// Only if the node is in this state then; zero: in any.
    pub state: u32,
    /// `iotype`: the requests that fail; `None`: all but extent queries.
    pub op: Option<FaultOp>,
    /// `errno`: the error number they fail with.
    pub errno: i32,
    /// `sector`, in bytes: only requests that cover this byte.
    pub offset_bytes: Option<u64>,
    /// Only the first one fails.
    pub once: bool,
    /// It fails where it arrives, and not a turn of the loop later.
    pub immediately: bool,
}

impl InjectError {
    /// Every request but extent queries fails with `EIO`, as long as the rule is in force.
    #[must_use]
    pub fn at(event: FaultEvent) -> Self {
        Self {
            event,
            state: 0,
            op: None,
            errno: libc::EIO,
            offset_bytes: None,
            once: false,
            immediately: false,
        }
    }
}

/// `set-state`: an event moves the node from one state to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetState {
    /// The event.
    pub event: FaultEvent,
    /// Only from this state; zero: from any. A node begins in state 1.
    pub state: u32,
    /// `new_state`.
    pub new_state: u32,
}

/// Faults and limits of a [`FaultNode`](super::FaultNode). Zero leaves a limit as the child has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultOptions {
    /// Rules that make requests fail.
    pub inject_error: Vec<InjectError>,
    /// Rules that change the state.
    pub set_state: Vec<SetState>,
    /// Multiple that requests have, in bytes.
    pub align: u32,
    /// Longest read or write, in bytes.
    pub max_transfer: u32,
    /// Shorter writes of zeroes are not supported, in bytes.
    pub opt_write_zero: u32,
    /// Longest write of zeroes that the child sees, in bytes.
    pub max_write_zero: u32,
    /// Shorter discards do nothing, in bytes.
    pub opt_discard: u32,
    /// Longest discard that the child sees, in bytes.
    pub max_discard: u32,
}

impl FaultOptions {
    /// The limits of a node with these options above a child with limits `below`.
    pub(super) fn limits(&self, below: Limits) -> Limits {
        let align = self.align.max(below.request_align_bytes);
        let most = match self.max_transfer {
            0 => below.transfer_bytes_max,
            max => max.min(below.transfer_bytes_max),
        };
        Limits {
            request_align_bytes: align,
            transfer_bytes_max: (most / align * align).max(align),
            ..below
        }
    }

    pub(super) fn check(&self, below: Limits) -> Result<(), BlockError> {
        let invalid = |what: String| Err(BlockError::new(ErrorKind::Invalid, what));
        if self.align > 0 && (!self.align.is_power_of_two() || self.align > 64 << 10) {
            return invalid(format!("Cannot meet constraints with align {}", self.align));
        }
        let align = self.align.max(below.request_align_bytes);
        for (name, value) in [
            ("max-transfer", self.max_transfer),
            ("opt-write-zero", self.opt_write_zero),
            ("max-write-zero", self.max_write_zero),
            ("opt-discard", self.opt_discard),
            ("max-discard", self.max_discard),
        ] {
            if !value.is_multiple_of(align) {
                return invalid(format!("Cannot meet constraints with {name} {value}"));
            }
        }
        Ok(())
    }
}
