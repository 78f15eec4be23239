//! Where bytes of a file node are, for the kernel to move them from file to file.

use super::FileNode;
use crate::{
    allocation::ByteRange,
    node_driver::{Access, FilePlace, Located, Way},
};

impl FileNode {
    /// The descriptor is the one that reads and writes go through, so that both see the same page cache.
    ///
    /// Nowhere are block devices, which the kernel does not copy by itself, and the unaligned end of
    /// a file that is otherwise written past the page cache.
    pub(super) fn place(&self, range: ByteRange, access: Access) -> Located<'_> {
        let files = self.files.load();
        if self.is_block_device() || range.end() > self.tail_start() {
            return Located::Nowhere;
        }
        let fd = match &files.direct {
            // What is in memory anyway is copied from page to page by the descriptor without O_DIRECT only.
            Some(direct) if self.direct_way == Way::Direct => &direct.file,
            Some(_) | None => &files.plain,
        };
        let done = (access == Access::Write).then(|| {
            let change = self.holes.change(range);
            Box::new(|| change.finish()) as Box<dyn FnOnce() + Send>
        });
        Located::File(FilePlace {
            fd: fd.clone(),
            offset_bytes: range.start(),
            identity: self.identity,
            done,
        })
    }
}
