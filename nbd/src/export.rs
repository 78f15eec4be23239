//! [`ExportInfo`]: what a server tells about an export; [`ExportLimits`]:
//! what requests are checked against.

use crate::TransmissionFlags;
use crate::request::MAX_TRANSFER_BYTES;

/// The one metadata context the protocol itself defines.
pub const BASE_ALLOCATION: &str = "base:allocation";

/// The metadata context that says in which layer the bytes are: 1 is the
/// exported node, 0 nowhere.
pub const ALLOCATION_DEPTH: &str = "qemu:allocation-depth";

/// What stands before the name of a dirty bitmap in that of its context.
pub const DIRTY_BITMAP: &str = "qemu:dirty-bitmap:";

/// An export as the negotiation shows it to clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportInfo {
    /// The name clients ask for, at most [`MAX_STRING_BYTES`] long.
    ///
    /// A client that names no export asks for the one whose name is empty.
    ///
    /// [`MAX_STRING_BYTES`]: crate::MAX_STRING_BYTES
    pub name: String,
    /// One line for people; empty means none. Same limit as the name.
    pub description: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// What the export can do; `HAS_FLAGS` and `SEND_DF` are filled in.
    pub flags: TransmissionFlags,
    /// Alignment and size limits of requests.
    pub block_sizes: BlockSizes,
    /// Names of the metadata contexts block status can be asked for:
    /// [`BASE_ALLOCATION`], `qemu:dirty-bitmap:…`.
    pub contexts: Vec<String>,
}

/// What a server asks of offset and length of requests, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSizes {
    /// Offsets and lengths are multiples of this power of two, at most 65536.
    pub minimum_bytes: u32,
    /// Requests of this size and alignment are fast; a power of two of at
    /// least 512 and the minimum.
    pub preferred_bytes: u32,
    /// Longest read or write; a multiple of the minimum, or `u32::MAX`.
    pub maximum_bytes: u32,
}

impl BlockSizes {
    /// Whether these sizes are such as the protocol allows.
    pub fn is_valid(self) -> bool {
        let (min, preferred, max) = (self.minimum_bytes, self.preferred_bytes, self.maximum_bytes);
        min.is_power_of_two()
            && min <= 65536
            && preferred.is_power_of_two()
            && preferred >= min.max(512)
            && max != 0
            && (max == u32::MAX || max.is_multiple_of(min))
    }
}

impl Default for BlockSizes {
    /// Any alignment, pages preferred, 32 MiB at most.
    fn default() -> Self {
        Self {
            minimum_bytes: 1,
            preferred_bytes: 4096,
            maximum_bytes: MAX_TRANSFER_BYTES,
        }
    }
}

/// A metadata context that both sides agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaContext {
    /// Stands for the context in block status replies of this connection.
    pub id: u32,
    /// Its full name, such as `base:allocation`.
    pub name: String,
}

/// What [`Request::check`](crate::Request::check) holds a request against.
///
/// The server gets it from the negotiation and may lower or raise the size
/// later; a client gets the server's and can check before it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportLimits {
    /// Size of the export in bytes.
    pub size_bytes: u64,
    /// The flags the client was told.
    pub flags: TransmissionFlags,
    /// Alignment and size limits.
    pub block_sizes: BlockSizes,
    /// Whether at least one metadata context was agreed on, without which
    /// block status is refused.
    pub has_contexts: bool,
}

#[cfg(test)]
mod tests {
    use super::BlockSizes;

    fn sizes(minimum_bytes: u32, preferred_bytes: u32, maximum_bytes: u32) -> BlockSizes {
        BlockSizes {
            minimum_bytes,
            preferred_bytes,
            maximum_bytes,
        }
    }

    #[test]
    fn block_sizes_follow_the_protocol() {
        assert!(BlockSizes::default().is_valid());
        assert!(sizes(512, 512, 512).is_valid());
        assert!(sizes(65536, 65536, u32::MAX).is_valid());
        for bad in [
            sizes(0, 512, 512),
            sizes(3, 512, 513),
            sizes(131_072, 131_072, 131_072),
            sizes(1, 256, 4096),
            sizes(4096, 512, 4096),
            sizes(512, 768, 4096),
            sizes(512, 512, 1000),
            sizes(1, 512, 0),
        ] {
            assert!(!bad.is_valid(), "{bad:?}");
        }
    }
}
