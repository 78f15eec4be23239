//! Small decisions behind the server's answers; none of them has state.

use crate::export::ExportInfo;
use crate::flags::TransmissionFlags;
use crate::option::{
    OPT_EXPORT_NAME, OPT_GO, OPT_INFO, OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT, OptionRefusal,
};
use crate::reply::ReplyStyle;
use crate::request::HeaderMode;
use crate::wire::MAX_STRING_BYTES;

/// Whether an option means nothing without its data.
pub(super) const fn carries_data(option: u32) -> bool {
    matches!(
        option,
        OPT_EXPORT_NAME | OPT_INFO | OPT_GO | OPT_LIST_META_CONTEXT | OPT_SET_META_CONTEXT
    )
}

pub(super) const fn refusal_text(refusal: OptionRefusal) -> &'static str {
    match refusal {
        OptionRefusal::UnknownExport => "no such export",
        OptionRefusal::TooBig => "export name is too long",
        _ => "malformed option, or structured replies not negotiated",
    }
}

pub(super) fn find(exports: &[ExportInfo], name: &[u8]) -> Option<usize> {
    exports
        .iter()
        .position(|export| export.name.as_bytes() == name)
}

/// Whether a `LIST_META_CONTEXT` query shows the context `name`: by its full
/// name, or as a wildcard by everything up to one of its colons.
pub(super) fn lists(query: &[u8], name: &str) -> bool {
    query == name.as_bytes() || (query.ends_with(b":") && name.as_bytes().starts_with(query))
}

pub(super) fn offered_flags(
    flags: TransmissionFlags,
    replies: ReplyStyle,
    headers: HeaderMode,
) -> TransmissionFlags {
    let mut offered = flags | TransmissionFlags::HAS_FLAGS;
    offered = match replies {
        ReplyStyle::Structured => offered | TransmissionFlags::SEND_DF,
        ReplyStyle::Simple => offered.without(TransmissionFlags::SEND_DF),
    };
    offered = match headers {
        HeaderMode::Extended => offered | TransmissionFlags::BLOCK_STATUS_PAYLOAD,
        HeaderMode::Compact => offered.without(TransmissionFlags::BLOCK_STATUS_PAYLOAD),
    };
    if !offered.contains(TransmissionFlags::SEND_WRITE_ZEROES) {
        offered = offered.without(TransmissionFlags::SEND_FAST_ZERO);
    }
    offered
}

pub(super) fn text_info(info: u16, text: &str) -> Vec<u8> {
    let mut data = info.to_be_bytes().to_vec();
    data.extend_from_slice(bounded(text));
    data
}

/// `text` as bytes, cut to what the protocol allows a string.
pub(super) fn bounded(text: &str) -> &[u8] {
    &text.as_bytes()[..text.floor_char_boundary(MAX_STRING_BYTES)]
}
