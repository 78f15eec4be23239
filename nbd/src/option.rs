//! Options of the negotiation: their numbers, the layout of their data and of
//! the replies to them.

use std::fmt;

use crate::wire::{Fields, MAX_STRING_BYTES, OPTION_MAGIC, OPTION_REPLY_MAGIC, len_u32};

pub(crate) const OPT_EXPORT_NAME: u32 = 1;
pub(crate) const OPT_ABORT: u32 = 2;
pub(crate) const OPT_LIST: u32 = 3;
pub(crate) const OPT_STARTTLS: u32 = 5;
pub(crate) const OPT_INFO: u32 = 6;
pub(crate) const OPT_GO: u32 = 7;
pub(crate) const OPT_STRUCTURED_REPLY: u32 = 8;
pub(crate) const OPT_LIST_META_CONTEXT: u32 = 9;
pub(crate) const OPT_SET_META_CONTEXT: u32 = 10;
pub(crate) const OPT_EXTENDED_HEADERS: u32 = 11;

pub(crate) const REP_ACK: u32 = 1;
pub(crate) const REP_SERVER: u32 = 2;
pub(crate) const REP_INFO: u32 = 3;
pub(crate) const REP_META_CONTEXT: u32 = 4;
/// Set in every reply that is an error.
pub(crate) const REP_ERROR_BIT: u32 = 1 << 31;

pub(crate) const INFO_EXPORT: u16 = 0;
pub(crate) const INFO_NAME: u16 = 1;
pub(crate) const INFO_DESCRIPTION: u16 = 2;
pub(crate) const INFO_BLOCK_SIZE: u16 = 3;

/// Bytes before the data of an option: magic, option, length.
pub(crate) const OPTION_HEADER_BYTES: usize = 16;
/// Bytes before the data of an option reply: magic, option, type, length.
pub(crate) const OPTION_REPLY_HEADER_BYTES: usize = 20;

/// Most option data (and option reply data) that is ever held in memory, in
/// bytes; an option with more is refused as too big.
///
/// Room for a name and several context queries of the greatest length.
pub const MAX_OPTION_BYTES: usize = 16 * 1024;

/// Most option data that is read and thrown away, in bytes; a peer that
/// announces more is cut off.
pub const MAX_SKIPPED_OPTION_BYTES: u32 = 1024 * 1024;

/// Why a server refused an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionRefusal {
    /// The server does not know the option.
    Unsupported,
    /// The server knows it but may not.
    Policy,
    /// The data makes no sense, or not at this point.
    Invalid,
    /// The server's platform cannot.
    Platform,
    /// Only over TLS.
    TlsRequired,
    /// There is no export of that name.
    UnknownExport,
    /// The server is going away.
    ShuttingDown,
    /// The client must ask for block sizes first.
    BlockSizeRequired,
    /// The request or its reply is too big.
    TooBig,
    /// Only with extended headers, or not any more once they are in use.
    ExtendedHeaders,
    /// An error the protocol text does not list.
    Other(u32),
}

impl OptionRefusal {
    pub(crate) const fn to_wire(self) -> u32 {
        REP_ERROR_BIT
            | match self {
                Self::Unsupported => 1,
                Self::Policy => 2,
                Self::Invalid => 3,
                Self::Platform => 4,
                Self::TlsRequired => 5,
                Self::UnknownExport => 6,
                Self::ShuttingDown => 7,
                Self::BlockSizeRequired => 8,
                Self::TooBig => 9,
                Self::ExtendedHeaders => 10,
                Self::Other(number) => number,
            }
    }

    pub(crate) const fn from_wire(reply_type: u32) -> Self {
        match reply_type & !REP_ERROR_BIT {
            1 => Self::Unsupported,
            2 => Self::Policy,
            3 => Self::Invalid,
            4 => Self::Platform,
            5 => Self::TlsRequired,
            6 => Self::UnknownExport,
            7 => Self::ShuttingDown,
            8 => Self::BlockSizeRequired,
            9 => Self::TooBig,
            10 => Self::ExtendedHeaders,
            number => Self::Other(number),
        }
    }
}

impl fmt::Display for OptionRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Unsupported => "not supported",
            Self::Policy => "forbidden by policy",
            Self::Invalid => "invalid",
            Self::Platform => "not supported by the server's platform",
            Self::TlsRequired => "TLS required",
            Self::UnknownExport => "no such export",
            Self::ShuttingDown => "server is shutting down",
            Self::BlockSizeRequired => "block sizes must be negotiated",
            Self::TooBig => "too big",
            Self::ExtendedHeaders => "a matter of extended headers",
            Self::Other(number) => return write!(f, "option error {number}"),
        };
        f.write_str(text)
    }
}

/// Data of `INFO` and `GO`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct InfoQuery<'a> {
    pub(crate) name: &'a [u8],
    infos: &'a [u8],
}

impl<'a> InfoQuery<'a> {
    pub(crate) fn parse(data: &'a [u8]) -> Result<Self, OptionRefusal> {
        Self::split(data)
            .ok_or(OptionRefusal::Invalid)
            .and_then(|query| check_name(query.name).map(|()| query))
    }

    fn split(data: &'a [u8]) -> Option<Self> {
        let mut fields = Fields::new(data);
        let name = fields.counted()?;
        let count = usize::from(fields.u16()?);
        let infos = fields.bytes(count * 2)?;
        fields.rest().is_empty().then_some(Self { name, infos })
    }

    pub(crate) fn asks_for(&self, info: u16) -> bool {
        let wanted = info.to_be_bytes();
        self.infos.chunks_exact(2).any(|asked| asked == wanted)
    }
}

/// Data of `LIST_META_CONTEXT` and `SET_META_CONTEXT`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MetaQuery<'a> {
    pub(crate) name: &'a [u8],
    /// Each at least four bytes of option data, so their number is bounded.
    pub(crate) queries: Vec<&'a [u8]>,
}

impl<'a> MetaQuery<'a> {
    pub(crate) fn parse(data: &'a [u8]) -> Result<Self, OptionRefusal> {
        Self::split(data)
            .ok_or(OptionRefusal::Invalid)
            .and_then(|query| check_name(query.name).map(|()| query))
    }

    fn split(data: &'a [u8]) -> Option<Self> {
        let mut fields = Fields::new(data);
        let name = fields.counted()?;
        let count = fields.u32()?;
        let mut queries = Vec::new();
        for _ in 0..count {
            queries.push(fields.counted()?);
        }
        fields.rest().is_empty().then_some(Self { name, queries })
    }
}

fn check_name(name: &[u8]) -> Result<(), OptionRefusal> {
    if name.len() > MAX_STRING_BYTES {
        Err(OptionRefusal::TooBig)
    } else {
        Ok(())
    }
}

/// Appends an option as a client sends it.
pub(crate) fn put_option(out: &mut Vec<u8>, option: u32, data: &[u8]) {
    out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&len_u32(data.len()).to_be_bytes());
    out.extend_from_slice(data);
}

/// Appends a reply to `option` as a server sends it.
pub(crate) fn put_reply(out: &mut Vec<u8>, option: u32, reply_type: u32, data: &[u8]) {
    out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&reply_type.to_be_bytes());
    out.extend_from_slice(&len_u32(data.len()).to_be_bytes());
    out.extend_from_slice(data);
}

#[cfg(test)]
mod tests {
    use super::{InfoQuery, MetaQuery, OptionRefusal};

    #[test]
    fn refusals_keep_their_numbers() {
        for number in (1..=10).chain([77]) {
            let wire = 0x8000_0000 + number;
            assert_eq!(OptionRefusal::from_wire(wire).to_wire(), wire);
        }
    }

    #[test]
    fn an_info_query_must_fill_its_data_exactly() {
        let whole = b"\0\0\0\x04disk\0\x02\0\x03\0\x01";
        let query = InfoQuery::parse(whole).unwrap();
        assert_eq!(query.name, b"disk");
        assert_eq!(
            [0, 1, 2, 3].map(|info| query.asks_for(info)),
            [false, true, false, true]
        );
        for cut in 0..whole.len() {
            let refusal = InfoQuery::parse(&whole[..cut]).unwrap_err();
            assert_eq!(refusal, OptionRefusal::Invalid);
        }
        let mut longer = whole.to_vec();
        longer.push(0);
        assert_eq!(InfoQuery::parse(&longer), Err(OptionRefusal::Invalid));
    }

    #[test]
    fn a_meta_query_must_fill_its_data_exactly() {
        let whole = b"\0\0\0\x01d\0\0\0\x02\0\0\0\x02a:\0\0\0\x03b:c";
        let query = MetaQuery::parse(whole).unwrap();
        assert_eq!(query.name, b"d");
        assert_eq!(query.queries, [&b"a:"[..], b"b:c"]);
        for cut in 0..whole.len() {
            let refusal = MetaQuery::parse(&whole[..cut]).unwrap_err();
            assert_eq!(refusal, OptionRefusal::Invalid);
        }
        let mut longer = whole.to_vec();
        longer.push(0);
        assert_eq!(MetaQuery::parse(&longer), Err(OptionRefusal::Invalid));
    }

    #[test]
    fn lying_lengths_are_invalid_and_cost_no_memory() {
        for data in [
            &b"\xff\xff\xff\xff"[..],
            b"\0\0\0\x04disk\xff\xff\xff\xff",
            b"\0\0\0\x04disk\0\0\0\x01\xff\xff\xff\xffbase:allocation",
        ] {
            assert_eq!(MetaQuery::parse(data), Err(OptionRefusal::Invalid));
        }
    }

    #[test]
    fn a_name_over_the_limit_is_too_big() {
        let mut data = 4097_u32.to_be_bytes().to_vec();
        data.extend_from_slice(&[b'x'; 4097]);
        data.extend_from_slice(&[0, 0]);
        assert_eq!(InfoQuery::parse(&data), Err(OptionRefusal::TooBig));
        data.extend_from_slice(&[0, 0]);
        assert_eq!(MetaQuery::parse(&data), Err(OptionRefusal::TooBig));
    }
}
