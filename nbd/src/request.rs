//! [`Request`]: the header of a request, its two ways over the wire, and the
//! check every request must pass.

use crate::errno::Errno;
use crate::error::ProtocolError;
use crate::export::ExportLimits;
use crate::flags::{CommandFlags, TransmissionFlags};
use crate::wire::{EXTENDED_REQUEST_MAGIC, Fields, HeaderBytes, REQUEST_MAGIC};

/// Longest read or write that is ever served or asked for, in bytes.
pub const MAX_TRANSFER_BYTES: u32 = 32 * 1024 * 1024;

/// Which layout the headers of the transmission phase have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeaderMode {
    /// Lengths have 32 bits; a request header is 28 bytes.
    Compact,
    /// Lengths have 64 bits; a request header is 32 bytes, as is that of a
    /// chunk, and all replies come in chunks.
    Extended,
}

impl HeaderMode {
    /// Bytes of a request header.
    pub const fn request_bytes(self) -> usize {
        match self {
            HeaderMode::Compact => 28,
            HeaderMode::Extended => 32,
        }
    }

    const fn request_magic(self) -> u32 {
        match self {
            HeaderMode::Compact => REQUEST_MAGIC,
            HeaderMode::Extended => EXTENDED_REQUEST_MAGIC,
        }
    }
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    /// Send data.
    Read,
    /// Store the data that follows the header.
    Write,
    /// The client leaves: finish and answer what is in flight, then close.
    Disc,
    /// Push written data to stable storage.
    Flush,
    /// The range is no longer needed.
    Trim,
    /// The range will be needed soon.
    Cache,
    /// The range must read as zero.
    WriteZeroes,
    /// Report extents of the agreed metadata contexts.
    BlockStatus,
    /// Something this side does not know; the check refuses it.
    Unknown(u16),
}

impl Command {
    const fn to_wire(self) -> u16 {
        match self {
            Command::Read => 0,
            Command::Write => 1,
            Command::Disc => 2,
            Command::Flush => 3,
            Command::Trim => 4,
            Command::Cache => 5,
            Command::WriteZeroes => 6,
            Command::BlockStatus => 7,
            Command::Unknown(number) => number,
        }
    }

    const fn from_wire(number: u16) -> Self {
        match number {
            0 => Command::Read,
            1 => Command::Write,
            2 => Command::Disc,
            3 => Command::Flush,
            4 => Command::Trim,
            5 => Command::Cache,
            6 => Command::WriteZeroes,
            7 => Command::BlockStatus,
            number => Command::Unknown(number),
        }
    }

    /// Whether the command changes the export's content.
    pub const fn modifies(self) -> bool {
        matches!(self, Command::Write | Command::Trim | Command::WriteZeroes)
    }
}

/// The header of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Chosen by the client, returned in every reply, otherwise opaque.
    pub cookie: u64,
    /// What to do.
    pub command: Command,
    /// How to do it.
    pub flags: CommandFlags,
    /// First byte of the range.
    pub offset_bytes: u64,
    /// Length of the range; with compact headers below 4 GiB.
    pub len_bytes: u64,
}

impl Request {
    /// Reads the header at the start of `bytes`.
    ///
    /// Returns it with its length in bytes, or `None` if more bytes are
    /// needed. [`payload_bytes`](Self::payload_bytes) of data follow it. That a
    /// write has data needs no flag: an extended one is shown without it.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::BadMagic`], as soon as four bytes are there.
    pub fn decode(mode: HeaderMode, bytes: &[u8]) -> Result<Option<(Self, usize)>, ProtocolError> {
        let mut fields = Fields::new(bytes);
        match fields.u32() {
            None => return Ok(None),
            Some(magic) if magic == mode.request_magic() => {}
            Some(found) => {
                return Err(ProtocolError::BadMagic {
                    expected: "request",
                    found: u64::from(found),
                });
            }
        }
        Ok(Self::fields(mode, fields).map(|request| (request, mode.request_bytes())))
    }

    fn fields(mode: HeaderMode, mut fields: Fields<'_>) -> Option<Self> {
        let mut request = Self {
            flags: CommandFlags::from_bits(fields.u16()?),
            command: Command::from_wire(fields.u16()?),
            cookie: fields.u64()?,
            offset_bytes: fields.u64()?,
            len_bytes: match mode {
                HeaderMode::Compact => u64::from(fields.u32()?),
                HeaderMode::Extended => fields.u64()?,
            },
        };
        if mode == HeaderMode::Extended && request.command == Command::Write {
            request.flags = request.flags.without(CommandFlags::PAYLOAD_LEN);
        }
        Some(request)
    }

    /// The header as a client sends it, before the data of a write.
    ///
    /// # Panics
    ///
    /// If the length does not fit the header; a request that passed
    /// [`check`](Self::check) of its own session fits, except for a trim,
    /// write-zeroes, cache or block status of 4 GiB or more, which the caller
    /// must split.
    pub fn encode(&self, mode: HeaderMode) -> HeaderBytes {
        let flags = match mode {
            HeaderMode::Extended if self.command == Command::Write => {
                self.flags | CommandFlags::PAYLOAD_LEN
            }
            HeaderMode::Compact | HeaderMode::Extended => self.flags,
        };
        let header = HeaderBytes::new()
            .with(&mode.request_magic().to_be_bytes())
            .with(&flags.bits().to_be_bytes())
            .with(&self.command.to_wire().to_be_bytes())
            .with(&self.cookie.to_be_bytes())
            .with(&self.offset_bytes.to_be_bytes());
        match mode {
            HeaderMode::Compact => {
                let len = u32::try_from(self.len_bytes).expect("compact requests are below 4 GiB");
                header.with(&len.to_be_bytes())
            }
            HeaderMode::Extended => header.with(&self.len_bytes.to_be_bytes()),
        }
    }

    /// How many bytes of data follow the header on the wire.
    ///
    /// A request that is refused still has them: read and drop them (in small
    /// pieces) before the next header. The number is the client's word; where
    /// it is over 4 GiB, which only extended headers can say, leave the client.
    pub const fn payload_bytes(&self, mode: HeaderMode) -> u64 {
        match (self.command, mode) {
            (Command::Write, _) => self.len_bytes,
            (_, HeaderMode::Extended) if self.flags.contains(CommandFlags::PAYLOAD_LEN) => {
                self.len_bytes
            }
            _ => 0,
        }
    }

    /// Whether `len_bytes` from `offset_bytes` lie within this request, as
    /// each chunk of the reply to a read must.
    pub fn covers(&self, offset_bytes: u64, len_bytes: u64) -> bool {
        offset_bytes
            .checked_sub(self.offset_bytes)
            .and_then(|start| start.checked_add(len_bytes))
            .is_some_and(|end| end <= self.len_bytes)
    }

    /// Tests the request against what the client was told.
    ///
    /// Afterwards the range lies within the export, a read or write is at
    /// most [`MAX_TRANSFER_BYTES`] long, and the command and each of its
    /// flags were offered. A length of zero passes for all commands but block
    /// status. [`Command::Disc`] always passes.
    ///
    /// # Errors
    ///
    /// The [`Errno`] to reply with; the connection goes on.
    pub fn check(&self, limits: &ExportLimits) -> Result<(), Errno> {
        if self.command == Command::Disc {
            return Ok(());
        }
        self.check_flags(limits.flags)?;
        self.check_command(limits)?;
        self.check_range(limits)
    }

    fn check_flags(&self, offered: TransmissionFlags) -> Result<(), Errno> {
        let mut allowed = CommandFlags::NONE;
        let mut allow = |needs: TransmissionFlags, flag: CommandFlags| {
            if offered.contains(needs) {
                allowed = allowed | flag;
            }
        };
        // The protocol wants FUA taken on every command, also on those that
        // write nothing.
        allow(TransmissionFlags::SEND_FUA, CommandFlags::FUA);
        match self.command {
            Command::Read => allow(TransmissionFlags::SEND_DF, CommandFlags::DF),
            Command::WriteZeroes => {
                allow(TransmissionFlags::SEND_WRITE_ZEROES, CommandFlags::NO_HOLE);
                allow(TransmissionFlags::SEND_FAST_ZERO, CommandFlags::FAST_ZERO);
            }
            Command::BlockStatus => allow(TransmissionFlags::NONE, CommandFlags::REQ_ONE),
            _ => {}
        }
        allowed
            .contains(self.flags)
            .then_some(())
            .ok_or(Errno::Inval)
    }

    fn check_command(&self, limits: &ExportLimits) -> Result<(), Errno> {
        let flags = limits.flags;
        if self.command.modifies() && flags.contains(TransmissionFlags::READ_ONLY) {
            return Err(Errno::Perm);
        }
        let offered = match self.command {
            Command::Read | Command::Write | Command::Disc => true,
            Command::Flush => flags.contains(TransmissionFlags::SEND_FLUSH),
            Command::Trim => flags.contains(TransmissionFlags::SEND_TRIM),
            Command::Cache => flags.contains(TransmissionFlags::SEND_CACHE),
            Command::WriteZeroes => flags.contains(TransmissionFlags::SEND_WRITE_ZEROES),
            Command::BlockStatus => limits.has_contexts && self.len_bytes != 0,
            Command::Unknown(_) => false,
        };
        offered.then_some(()).ok_or(Errno::Inval)
    }

    fn check_range(&self, limits: &ExportLimits) -> Result<(), Errno> {
        if self.command == Command::Flush {
            let empty = self.offset_bytes == 0 && self.len_bytes == 0;
            return empty.then_some(()).ok_or(Errno::Inval);
        }
        let sizes = limits.block_sizes;
        if matches!(self.command, Command::Read | Command::Write) {
            let max = u64::from(sizes.maximum_bytes.min(MAX_TRANSFER_BYTES));
            if self.len_bytes > max {
                return Err(Errno::Inval);
            }
        }
        let past_end = match self.command {
            Command::Write | Command::WriteZeroes => Errno::NoSpc,
            _ => Errno::Inval,
        };
        let end = self.offset_bytes.checked_add(self.len_bytes);
        if end.is_none_or(|end| end > limits.size_bytes) {
            return Err(past_end);
        }
        let align = u64::from(sizes.minimum_bytes.max(1));
        let aligned =
            self.offset_bytes.is_multiple_of(align) && self.len_bytes.is_multiple_of(align);
        aligned.then_some(()).ok_or(Errno::Inval)
    }
}

#[cfg(test)]
mod tests;
