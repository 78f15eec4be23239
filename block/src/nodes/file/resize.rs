//! The length of a file, and its change.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom},
    os::fd::AsFd,
    sync::atomic::Ordering,
};

use aio::{AioContext, Fd};

use super::{FileNode, PAGE_BYTES};
use crate::{
    allocation::ByteRange,
    error::{BlockError, ErrorKind},
};

impl FileNode {
    pub(super) fn len_bytes(&self) -> u64 {
        self.len_bytes.load(Ordering::Relaxed)
    }

    /// Writes behind this offset go through the page cache; a multiple of the page size, or the length.
    pub(super) fn tail_start(&self) -> u64 {
        let len_bytes = self.len_bytes();
        let align = u64::from(self.align_bytes.load(Ordering::Relaxed));
        if len_bytes.is_multiple_of(align) {
            return len_bytes;
        }
        len_bytes - len_bytes % PAGE_BYTES.max(align)
    }

    /// A device keeps its length; but if it has got another one, the node can be told to follow.
    pub(super) async fn resize(&self, cx: &AioContext, len_bytes: u64) -> Result<(), BlockError> {
        let from = len_bytes.min(self.len_bytes());
        let change = self.holes.change(ByteRange::between(from, u64::MAX));
        let (file, is_device) = (self.plain(), self.is_block_device());
        let resized = cx.blocking(move || {
            if is_device {
                follow_device(&file, len_bytes)
            } else {
                set_len(&file, len_bytes)
            }
        });
        let result = resized.await;
        change.finish();
        result?;
        self.len_bytes.store(len_bytes, Ordering::Relaxed);
        Ok(())
    }
}

/// Blocks.
fn set_len(file: &Fd, len_bytes: u64) -> Result<(), BlockError> {
    let failed = |source| BlockError::io("cannot resize the file", source);
    let file = duplicate(file).map_err(failed)?;
    file.set_len(len_bytes).map_err(failed)
}

fn follow_device(file: &Fd, len_bytes: u64) -> Result<(), BlockError> {
    let length = || duplicate(file)?.seek(SeekFrom::End(0));
    let now = length()
        .map_err(|source| BlockError::io("cannot ask for the length of the device", source))?;
    if now == len_bytes {
        return Ok(());
    }
    let what = format!("a device keeps its length, and this one has {now} bytes");
    Err(BlockError::new(ErrorKind::Unsupported, what))
}

fn duplicate(file: &Fd) -> io::Result<File> {
    Ok(File::from(file.as_fd().try_clone_to_owned()?))
}
