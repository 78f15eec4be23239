//! Opening the file of a node again, with other options, while the node stays what it is.

use std::sync::{Arc, atomic::Ordering};

use aio::Fd;

use super::{Direct, FileNode, FileOptions, Files, open};
use crate::error::{BlockError, ErrorKind};

/// A second opening of a node's file, which has changed nothing yet.
#[derive(Debug)]
pub struct Reopening {
    files: Files,
    align_bytes: u32,
    options: FileOptions,
}

impl FileNode {
    /// Opens the file a second time: for writing, for reading only, or with `O_DIRECT` or without. Locks nothing.
    ///
    /// Waits for the file system, as [`open`](Self::open) does.
    ///
    /// # Errors
    ///
    /// As those of [`open`](Self::open), and [`Busy`](ErrorKind::Busy) when the path means another file by now.
    pub fn reopen(&self, options: &FileOptions) -> Result<Reopening, BlockError> {
        let opened = open::open(options)?;
        if opened.identity != self.identity {
            let text = format!("'{}' is another file by now", options.path.display());
            return Err(BlockError::new(ErrorKind::Busy, text));
        }
        let (files, align_bytes) = Files::of(opened);
        Ok(Reopening {
            files,
            align_bytes,
            options: options.clone(),
        })
    }

    /// Uses the second opening from now on. The caller drains the node, so that no request sees both.
    ///
    /// # Errors
    ///
    /// [`Io`](ErrorKind::Io) when the system has no locks left; nothing has changed then.
    pub fn switch_to(&self, reopening: Reopening) -> Result<(), BlockError> {
        let Reopening {
            files,
            align_bytes,
            options,
        } = reopening;
        if let Some(locks) = &self.locks {
            locks.move_to(&files.plain)?;
        }
        self.files.store(Arc::new(files));
        self.align_bytes.store(align_bytes, Ordering::Relaxed);
        self.read_only.store(options.read_only, Ordering::Relaxed);
        Ok(())
    }
}

impl Files {
    /// The descriptors, and the alignment that requests have to have.
    pub(super) fn of(opened: open::Opened) -> (Self, u32) {
        let align_bytes = opened.direct.as_ref().map_or(1, |file| file.align_bytes);
        let files = Self {
            plain: Fd::from(opened.plain),
            direct: opened.direct.map(|file| Direct {
                align_bytes: usize::try_from(file.align_bytes)
                    .expect("an alignment of 32 bits fits memory"),
                file: Fd::from(file.file),
            }),
        };
        if opened.writes_block {
            let direct = files.direct.as_ref().map(|direct| &direct.file);
            let all = direct.into_iter().chain([&files.plain]);
            all.for_each(Fd::set_writes_block);
        }
        (files, align_bytes)
    }
}
