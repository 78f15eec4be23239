//! [`ProtocolError`]: why the connection must be dropped.

use crate::option::MAX_SKIPPED_OPTION_BYTES;
use crate::server::MAX_OPTIONS;
use crate::wire::MAX_STRING_BYTES;

/// The peer broke the protocol, or asked for what can only be answered by
/// hanging up.
///
/// After one of these the byte stream has no meaning any more: drop the
/// connection. Mistakes that have an answer (a bad option, a request past the
/// end) never show up here; the answer is in the output or is an
/// [`Errno`](crate::Errno).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A message does not start with the magic number it must have.
    #[error("bad magic number {found:#x} instead of a {expected}")]
    BadMagic {
        /// What kind of message was due.
        expected: &'static str,
        /// The number that stood in its place.
        found: u64,
    },
    /// The client set handshake flags that nobody offered.
    #[error("unknown client flags {0:#x}")]
    UnknownClientFlags(u32),
    /// The peer does not speak fixed newstyle but needs it.
    #[error("peer does not speak fixed newstyle negotiation")]
    NotFixedNewstyle,
    /// The client announced more option data than anybody needs, in bytes.
    #[error("option of {0} bytes, at most {MAX_SKIPPED_OPTION_BYTES} are skipped")]
    OptionTooLong(u32),
    /// The client sent more options than a negotiation can need.
    #[error("more than {MAX_OPTIONS} options")]
    TooManyOptions,
    /// `EXPORT_NAME`, which has no error reply, named something overlong.
    #[error("export name longer than {MAX_STRING_BYTES} bytes")]
    NameTooLong,
    /// `EXPORT_NAME`, which has no error reply, named no export of ours.
    #[error("no such export")]
    UnknownExport,
    /// The server sent a message that cannot stand where it stands.
    #[error("server sent {0}")]
    BadReply(&'static str),
}
