//! [`TransmissionFlags`] and [`CommandFlags`]: the two bit sets of the
//! transmission phase.

use std::ops::BitOr;

/// What an export can do, as told to the client at the end of negotiation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TransmissionFlags(u16);

impl TransmissionFlags {
    /// Nothing but plain reads and writes.
    pub const NONE: Self = Self(0);
    /// Always sent; the negotiation adds it.
    pub const HAS_FLAGS: Self = Self(1 << 0);
    /// Writes are refused.
    pub const READ_ONLY: Self = Self(1 << 1);
    /// The flush command is there.
    pub const SEND_FLUSH: Self = Self(1 << 2);
    /// Commands may carry [`CommandFlags::FUA`].
    pub const SEND_FUA: Self = Self(1 << 3);
    /// The medium rotates; schedule accordingly.
    pub const ROTATIONAL: Self = Self(1 << 4);
    /// The trim command is there.
    pub const SEND_TRIM: Self = Self(1 << 5);
    /// The write-zeroes command and [`CommandFlags::NO_HOLE`] are there.
    pub const SEND_WRITE_ZEROES: Self = Self(1 << 6);
    /// Reads may carry [`CommandFlags::DF`]; the negotiation sets it exactly
    /// when replies are structured.
    pub const SEND_DF: Self = Self(1 << 7);
    /// A flush on one connection covers writes of all connections.
    pub const CAN_MULTI_CONN: Self = Self(1 << 8);
    /// The cache command is there.
    pub const SEND_CACHE: Self = Self(1 << 10);
    /// Write-zeroes may carry [`CommandFlags::FAST_ZERO`].
    pub const SEND_FAST_ZERO: Self = Self(1 << 11);
    /// Block status may carry [`CommandFlags::PAYLOAD_LEN`]; the negotiation
    /// sets it exactly when headers are extended.
    pub const BLOCK_STATUS_PAYLOAD: Self = Self(1 << 12);

    /// The set with these bits; unknown ones are kept.
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// The bits as they stand on the wire.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Whether all of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// This set without the members of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl BitOr for TransmissionFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// How a single command is to be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CommandFlags(u16);

impl CommandFlags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// Reply only when what was written is on stable storage.
    pub const FUA: Self = Self(1 << 0);
    /// Write-zeroes must leave the range allocated.
    pub const NO_HOLE: Self = Self(1 << 1);
    /// Answer a read in one data chunk.
    pub const DF: Self = Self(1 << 2);
    /// Answer block status with one extent per context.
    pub const REQ_ONE: Self = Self(1 << 3);
    /// Fail at once unless zeroing is faster than writing.
    pub const FAST_ZERO: Self = Self(1 << 4);
    /// With extended headers: the length is that of the data that follows, not
    /// that of the range. Every write has it on the wire, and no decoded one.
    pub const PAYLOAD_LEN: Self = Self(1 << 5);

    /// The set with these bits; unknown ones are kept.
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// The bits as they stand on the wire.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Whether all of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// This set without the members of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl BitOr for CommandFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
