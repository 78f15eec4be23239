//! A request of two nodes at once: the kernel moves bytes from a file below one to a file below the other.
//!
//! It goes through both nodes, and all that are below them on the way to the files, as a read and a write
//! do. But it never waits for admission: a request that is inside one node and waits for another could keep
//! a section from being drained that the other waits for. Whatever stands in its way, it gives up, and its
//! bytes go the way of a read and a write, which tell every error by its side.

use std::{io, sync::atomic::Ordering::Relaxed};

use aio::AioContext;

use crate::{
    allocation::ByteRange,
    graph::child::Child,
    node::DetectZeroes,
    node_driver::{Access, FilePlace, Located, RequestFlags, Way},
    request::align,
};

/// How the kernel is to move bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OffloadKind {
    /// Both files share the blocks from then on, until one of them is written.
    Clone,
    /// By whatever way the file systems have, through memory of the kernel's if there is no other.
    Copy,
}

/// Why bytes were not moved, or not all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// They are not in two files, or not as they are.
    Nowhere,
    /// The kernel cannot do this between these files.
    Never,
    /// Not now: a node is closed, or the kernel failed in a way that a read or a write will tell.
    NotNow,
}

struct Request<'a> {
    cx: &'a AioContext,
    kind: OffloadKind,
    target: &'a Child,
    target_range: ByteRange,
}

/// Has the kernel move `range` of one node to the same number of bytes from `target_bytes` on of another.
///
/// Nobody may change either meanwhile, or the caller moves it again afterwards. Of what was refused,
/// part may be moved all the same. The kernel goes on when the future is dropped, and the nodes do not count it
/// any more: it is to be [carried](crate::request::carried).
pub(crate) async fn offload(
    cx: &AioContext,
    kind: OffloadKind,
    (source, range): (&Child, ByteRange),
    (target, target_bytes): (&Child, u64),
) -> Result<(), Refusal> {
    let request = Request {
        cx,
        kind,
        target,
        target_range: ByteRange::new(target_bytes, range.len()).ok_or(Refusal::Nowhere)?,
    };
    request.read_from(source, range).await
}

impl Request<'_> {
    /// Finds the source's file, holding on to every node on the way.
    async fn read_from(&self, source: &Child, range: ByteRange) -> Result<(), Refusal> {
        let admitted = source.try_enter().ok_or(Refusal::NotNow)?;
        let node = admitted.node();
        let limits = node.limits();
        let checked = node.check(&limits, Some(range));
        if checked.is_err() || !align::is_aligned(&limits, range) {
            return Err(Refusal::Nowhere);
        }
        match node.driver().locate(range, Access::Read) {
            Located::File(place) => {
                self.write_to(self.target, self.target_range, &place)
                    .await?;
            }
            Located::Child {
                child,
                offset_bytes,
            } => {
                let below = ByteRange::new(offset_bytes, range.len()).ok_or(Refusal::Nowhere)?;
                Box::pin(self.read_from(child, below)).await?;
            }
            Located::Nowhere => return Err(Refusal::Nowhere),
        }
        let counters = &node.inner.counters;
        counters.reads.succeeded();
        counters.read_bytes.fetch_add(range.len(), Relaxed);
        counters.moved(Way::Offloaded, range);
        Ok(())
    }

    /// Finds the target's file, and has the kernel do it.
    async fn write_to(
        &self,
        target: &Child,
        range: ByteRange,
        from: &FilePlace<'_>,
    ) -> Result<(), Refusal> {
        if target.may_write(RequestFlags::default()).is_err() {
            return Err(Refusal::Nowhere);
        }
        let mut admitted = target.try_enter().ok_or(Refusal::NotNow)?;
        let node = admitted.node().clone();
        let _passage = node.changing().try_pass().ok_or(Refusal::NotNow)?;
        // From here on the length stays.
        let limits = node.limits();
        let checked = node.check_change(&limits, Some(range));
        let is_looked_at = node.options().detect_zeroes != DetectZeroes::Off;
        if checked.is_err() || !align::is_aligned(&limits, range) || is_looked_at {
            return Err(Refusal::Nowhere);
        }
        admitted.will_write(range);
        match node.driver().locate(range, Access::Write) {
            Located::File(place) => self.move_bytes(from, place, range.len()).await?,
            Located::Child {
                child,
                offset_bytes,
            } => {
                let below = ByteRange::new(offset_bytes, range.len()).ok_or(Refusal::Nowhere)?;
                Box::pin(self.write_to(child, below, from)).await?;
            }
            Located::Nowhere => return Err(Refusal::Nowhere),
        }
        let counters = &node.inner.counters;
        counters.writes.succeeded();
        counters.written_bytes.fetch_add(range.len(), Relaxed);
        counters.moved(Way::Offloaded, range);
        Ok(())
    }

    async fn move_bytes(
        &self,
        from: &FilePlace<'_>,
        to: FilePlace<'_>,
        len_bytes: u64,
    ) -> Result<(), Refusal> {
        if from.identity == to.identity {
            return Err(Refusal::Never);
        }
        let (source, target) = ((&from.fd, from.offset_bytes), (&to.fd, to.offset_bytes));
        let result = match self.kind {
            OffloadKind::Clone => self.cx.clone_file_range(source, target, len_bytes).await,
            OffloadKind::Copy => copy_all(self.cx, source, target, len_bytes).await,
        };
        if let Some(done) = to.done {
            done();
        }
        result.map_err(|error| refusal(&error))
    }
}

/// An end of file before the end of the range is an error: somebody made the file shorter.
async fn copy_all(
    cx: &AioContext,
    (from, from_bytes): (&aio::Fd, u64),
    (to, to_bytes): (&aio::Fd, u64),
    len_bytes: u64,
) -> io::Result<()> {
    let mut done = 0;
    while done < len_bytes {
        let (from, to) = ((from, from_bytes + done), (to, to_bytes + done));
        match cx.copy_file_range(from, to, len_bytes - done).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            moved => done += u64::try_from(moved).unwrap_or(u64::MAX),
        }
    }
    Ok(())
}

/// Whether the kernel says that it cannot, or that it failed.
fn refusal(error: &io::Error) -> Refusal {
    match error.raw_os_error() {
        Some(
            libc::EXDEV
            | libc::EOPNOTSUPP
            | libc::ENOSYS
            | libc::ENOTTY
            | libc::EINVAL
            | libc::EPERM
            | libc::EACCES
            | libc::EBADF
            | libc::EISDIR
            | libc::ETXTBSY,
        ) => Refusal::Never,
        Some(_) | None => Refusal::NotNow,
    }
}

#[cfg(test)]
mod tests;
