//! Single messages of the client's negotiation: read, checked and written
//! without state.

use super::{ClientOutcome, ListedExport};
use crate::error::ProtocolError;
use crate::export::BlockSizes;
use crate::option::{MAX_OPTION_BYTES, OptionRefusal, REP_ERROR_BIT};
use crate::wire::{
    Fields, MAX_STRING_BYTES, OPTION_REPLY_MAGIC, display_text, len_u32, put_counted,
};

/// A reply to an option, taken apart.
pub(super) struct OptionReply<'a> {
    pub(super) kind: u32,
    pub(super) data: &'a [u8],
}

impl OptionReply<'_> {
    pub(super) const fn is_error(&self) -> bool {
        self.kind & REP_ERROR_BIT != 0
    }

    pub(super) fn refused(&self) -> ClientOutcome {
        ClientOutcome::Refused {
            refusal: OptionRefusal::from_wire(self.kind),
            text: display_text(self.data),
        }
    }
}

pub(super) const fn unexpected() -> ProtocolError {
    ProtocolError::BadReply("an unexpected or malformed option reply")
}

/// Length of the data of the reply that `gathered` begins with; zero until
/// its header is whole.
pub(super) fn reply_data_bytes(option: u32, gathered: &[u8]) -> Result<usize, ProtocolError> {
    let mut fields = Fields::new(gathered);
    let head = (fields.u64(), fields.u32(), fields.u32(), fields.u32());
    let (Some(magic), Some(answered), Some(_), Some(len)) = head else {
        return Ok(0);
    };
    if magic != OPTION_REPLY_MAGIC {
        return Err(ProtocolError::BadMagic {
            expected: "option reply",
            found: magic,
        });
    }
    match usize::try_from(len) {
        Ok(len) if answered == option && len <= MAX_OPTION_BYTES => Ok(len),
        _ => Err(unexpected()),
    }
}

/// Data of `SET_META_CONTEXT`; drops the contexts that find no room in it.
pub(super) fn meta_query(export: &str, contexts: &mut Vec<String>) -> Vec<u8> {
    let mut data = Vec::new();
    put_counted(&mut data, export.as_bytes());
    let mut room = MAX_OPTION_BYTES - data.len() - 4;
    contexts.retain(|name| match room.checked_sub(4 + name.len()) {
        Some(left) if name.len() <= MAX_STRING_BYTES => {
            room = left;
            true
        }
        _ => false,
    });
    data.extend_from_slice(&len_u32(contexts.len()).to_be_bytes());
    for name in contexts {
        put_counted(&mut data, name.as_bytes());
    }
    data
}

pub(super) fn block_sizes(mut fields: Fields<'_>) -> Result<BlockSizes, ProtocolError> {
    let sizes = (fields.u32(), fields.u32(), fields.u32(), fields.rest());
    let (Some(minimum_bytes), Some(preferred_bytes), Some(maximum_bytes), []) = sizes else {
        return Err(unexpected());
    };
    let sizes = BlockSizes {
        minimum_bytes,
        preferred_bytes,
        maximum_bytes,
    };
    if sizes.is_valid() {
        Ok(sizes)
    } else {
        Err(ProtocolError::BadReply("impossible block sizes"))
    }
}

pub(super) fn listed_export(data: &[u8]) -> Option<ListedExport> {
    let mut fields = Fields::new(data);
    let name = fields.counted()?;
    if name.len() > MAX_STRING_BYTES {
        return None;
    }
    Some(ListedExport {
        name: String::from_utf8(name.to_vec()).ok()?,
        description: display_text(fields.rest()),
    })
}
