//! Reading the instant itself: from the target what was saved there, and from the source what nobody has changed.
//!
//! A read from the source freezes what it reads: a guest that wants to write there first has the old data saved, and
//! then waits for such reads. Later reads find the cluster copied, so the guest is not overtaken.

use std::sync::{Mutex, MutexGuard, PoisonError};

use aio::{AioContext, IoBuf};

use super::{
    BlockCopy, CopyError, CopySide, InitialSet, SpaceBudget, given_up,
    ledger::{Ledger, Whereabouts},
    mover::Found,
};
use crate::{
    allocation::{AllocationStatus, ByteRange, Extent},
    dirty_bitmap::DirtyBitmap,
    error::BlockError,
    node_driver::{Transferred, Way},
};

/// Which bytes of the instant can be read.
#[derive(Debug)]
pub(super) enum Readable {
    /// None, because the copy leaves out what the source has from elsewhere.
    Nothing,
    /// All but those that readers have discarded.
    AllBut(Mutex<Option<DirtyBitmap>>),
    /// These, rounded to clusters.
    Only(Mutex<DirtyBitmap>),
}

impl Readable {
    /// For a copy that begins with this set, which `ledger` has as clusters.
    pub(super) fn of(initial: &InitialSet, ledger: &Ledger) -> Result<Self, BlockError> {
        Ok(match initial {
            InitialSet::All => Self::AllBut(Mutex::default()),
            InitialSet::Top => Self::Nothing,
            InitialSet::Bitmap(_) => Self::Only(Mutex::new(ledger.uncopied()?)),
        })
    }
}

impl BlockCopy {
    /// What bounds the bytes in the target, if that is scratch space.
    #[must_use]
    pub fn budget(&self) -> Option<&SpaceBudget> {
        self.budget.as_ref()
    }

    /// Waits until there is room for what is about to be copied, or says that there is none.
    pub(super) async fn take_room(&self, range: ByteRange, found: Found) -> Result<(), CopyError> {
        match &self.budget {
            Some(budget) if found == Found::Data => {
                let room = budget.take(range).await;
                room.map_err(|error| CopyError::new(CopySide::Write, error))
            }
            _ => Ok(()),
        }
    }

    /// Waits until nobody reads the instant from the source in `range`, for a guest whose old data is saved.
    pub(crate) async fn thawed(&self, range: ByteRange) {
        while let Some(thawed) = self.ledger.thawed(range) {
            thawed.await;
        }
    }

    /// Fills `buf` with the bytes of the instant.
    pub(crate) async fn read_instant(
        &self,
        cx: &AioContext,
        offset_bytes: u64,
        mut buf: IoBuf,
    ) -> Transferred {
        let len = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        let range = ByteRange::between(offset_bytes, offset_bytes.saturating_add(len));
        if let Err(error) = self.check_readable(range) {
            return (buf, Err(error));
        }
        let mut at = offset_bytes;
        let mut dearest = Way::Offloaded;
        while at < range.end() {
            let rest = ByteRange::between(at, range.end());
            let whereabouts = self.ledger.locate(rest);
            let piece = whereabouts.range();
            if piece == range {
                return self.read_at(cx, &whereabouts, buf).await;
            }
            let start = in_memory(at - offset_bytes);
            let part = start..start + in_memory(piece.len());
            let (filled, way) = self
                .read_at(cx, &whereabouts, IoBuf::heap(part.len()))
                .await;
            match way {
                Ok(way) => dearest = dearest.max(way).max(Way::Bounced),
                Err(error) => return (buf, Err(error)),
            }
            buf[part].copy_from_slice(&filled);
            at = piece.end();
        }
        (buf, Ok(dearest))
    }

    async fn read_at(&self, cx: &AioContext, place: &Whereabouts, buf: IoBuf) -> Transferred {
        let start = place.range().start();
        let edge = match place {
            Whereabouts::Source(_) => self.source(),
            Whereabouts::Target(_) => self.target(),
        };
        match edge {
            Some(edge) => edge.read(cx, start, buf).await,
            None => (buf, Err(given_up())),
        }
    }

    /// What the instant has at the start of `range`.
    pub(crate) async fn extent_of_instant(
        &self,
        cx: &AioContext,
        range: ByteRange,
    ) -> Result<Extent, BlockError> {
        let range = self.readable_start(range)?;
        let place = self.ledger.locate(range);
        let (edge, is_saved) = match &place {
            Whereabouts::Source(_) => (self.source(), false),
            Whereabouts::Target(_) => (self.target(), true),
        };
        let edge = edge.ok_or_else(given_up)?;
        let extent = edge.extent(cx, place.range()).await?;
        let status = match extent.status {
            // What was saved is the instant's own, wherever the scratch node has it from.
            AllocationStatus::Unallocated if is_saved => AllocationStatus::Data,
            status => status,
        };
        Ok(Extent { status, ..extent })
    }

    /// The clusters that lie wholly in `range` will be read no more: they need not be saved, and their room is free.
    ///
    /// # Errors
    ///
    /// Whatever the target says to a discard. The clusters are readable no more all the same.
    pub(crate) async fn discard_instant(
        &self,
        cx: &AioContext,
        range: ByteRange,
    ) -> Result<(), BlockError> {
        let unit = self.cluster_bytes();
        let end = match range.end() == self.len_bytes() {
            true => range.end(),
            false => range.end() / unit * unit,
        };
        let whole = ByteRange::between(range.start().next_multiple_of(unit), end);
        if whole.is_empty() {
            return Ok(());
        }
        self.make_unreadable(whole)?;
        self.ledger.forget(whole);
        if self.budget.is_some() && self.ledger.landed(whole).is_some() {
            self.free_idle(cx, whole).await?;
        }
        // What is being saved there still lands, and would keep its room.
        while let Some(landed) = self.ledger.landed(whole) {
            landed.await;
            self.ledger.forget(whole);
        }
        let target = self.target().ok_or_else(given_up)?;
        target.discard(cx, whole).await?;
        if let Some(budget) = &self.budget {
            budget.give_back(whole);
        }
        Ok(())
    }

    /// Frees the clusters of `range` that nobody is saving: who is saving the others may be waiting for their room.
    async fn free_idle(&self, cx: &AioContext, range: ByteRange) -> Result<(), BlockError> {
        let unit = self.cluster_bytes();
        let mut at = range.start();
        while at < range.end() {
            let end = at.saturating_add(unit).min(range.end());
            let cluster = ByteRange::between(at, end);
            at = end;
            if self.ledger.landed(cluster).is_some() {
                continue;
            }
            let target = self.target().ok_or_else(given_up)?;
            target.discard(cx, cluster).await?;
            if let Some(budget) = &self.budget {
                budget.give_back(cluster);
            }
        }
        Ok(())
    }

    fn check_readable(&self, range: ByteRange) -> Result<(), BlockError> {
        match self.readable_start(range)? == range {
            true => Ok(()),
            false => Err(not_readable(range)),
        }
    }

    /// The part that `range` begins with and that can be read; an error if that is none of it.
    fn readable_start(&self, range: ByteRange) -> Result<ByteRange, BlockError> {
        let until = match &self.readable {
            Readable::Nothing => range.start(),
            Readable::AllBut(gone) => {
                let gone = lock(gone);
                let next = gone
                    .as_ref()
                    .and_then(|gone| gone.next_dirty(range.start()));
                next.unwrap_or(range.end())
            }
            Readable::Only(set) => {
                let set = lock(set);
                match set.is_dirty(range.start()) {
                    true => set.next_zero(range.start()).unwrap_or(range.end()),
                    false => range.start(),
                }
            }
        };
        let readable = ByteRange::between(range.start(), until.min(range.end()));
        match readable.is_empty() {
            true => Err(not_readable(range)),
            false => Ok(readable),
        }
    }

    fn make_unreadable(&self, range: ByteRange) -> Result<(), BlockError> {
        match &self.readable {
            Readable::Nothing => {}
            Readable::AllBut(gone) => {
                let mut gone = lock(gone);
                if gone.is_none() {
                    *gone = Some(DirtyBitmap::new(self.len_bytes(), self.cluster_bytes())?);
                }
                if let Some(gone) = gone.as_mut() {
                    gone.set(range);
                }
            }
            Readable::Only(set) => {
                lock(set).clear(range);
            }
        }
        Ok(())
    }
}

impl Whereabouts {
    fn range(&self) -> ByteRange {
        match self {
            Self::Source(frozen) => frozen.range(),
            Self::Target(range) => *range,
        }
    }
}

fn not_readable(range: ByteRange) -> BlockError {
    let source = std::io::Error::from_raw_os_error(libc::EACCES);
    BlockError::io(
        "these bytes are not, or no longer, part of the snapshot",
        source,
    )
    .at(range)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn in_memory(len_bytes: u64) -> usize {
    usize::try_from(len_bytes).expect("a request fits memory")
}
