//! Named dirty bitmaps of a node: what has changed since its user last asked.
//!
//! ```text
//!   node ── list ──> cell 'b' ── content        what has changed
//!                             ── successor      the same since a job froze the content
//!                             ── kept           what a transaction may have to put back
//! ```
//!
//! A request that changes the node marks its range, rounded outward, in whatever records: once it has ended,
//! well or not, before its caller hears of it, and before a drain that waits for it returns. So a bitmap that is
//! looked at inside a drained section of its node has all that was written before.
//!
//! The texts of errors are those of the protocol; they come in the order in use, read-only, inconsistent.

use std::{fmt, sync::Arc};

use crate::{
    dirty_bitmap::DirtyBitmap,
    error::{BlockError, ErrorKind},
    node::Node,
};

mod action;
mod frozen;
#[cfg(all(test, loom))]
mod models;
mod state;
#[cfg(test)]
mod tests;

pub(crate) use self::state::Table;
use self::state::{Cell, State};
pub use self::{
    action::{BitmapAction, BitmapRef, PreparedBitmap},
    frozen::{BusyGuard, Frozen},
};

/// Longest name of a bitmap, in bytes.
const NAME_BYTES_MAX: usize = 1023;

/// Granularity where the node has no clusters; the largest that is chosen unasked.
const GRANULARITY_BYTES_DEFAULT: u64 = 64 << 10;

/// The smallest granularity that is chosen unasked.
const GRANULARITY_BYTES_DEFAULT_MIN: u64 = 4 << 10;

/// The bitmaps of one node; see [`Node::bitmaps`]. Any thread.
#[derive(Clone, Copy, Debug)]
pub struct NodeBitmaps<'a> {
    node: &'a Node,
}

/// How a bitmap is to be made; the default records, in granules that suit the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BitmapOptions {
    /// Bytes that one bit stands for, a power of two from 512 up to 2^31. `None` takes the node's cluster size, but
    /// at least 4 KiB and at most 64 KiB, or 64 KiB where the node has no clusters.
    pub granularity_bytes: Option<u64>,
    /// To be stored in the image. No node driver can do that yet, so that it is refused.
    pub persistent: bool,
    /// Records nothing until it is enabled.
    pub disabled: bool,
}

/// A bitmap that its user has stored himself, and gives back to a node that was opened again.
#[derive(Debug)]
pub enum StoredBitmap {
    /// What it held, as long as the node; it records from now on.
    Enabled(DirtyBitmap),
    /// What it held, as long as the node; it does not record.
    Disabled(DirtyBitmap),
    /// It was not stored at the end of its last use, so nothing can be said: it may only be removed.
    Inconsistent {
        /// Bytes that one bit stands for.
        granularity_bytes: u64,
    },
}

/// One bitmap, as a query sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent flags, as clients know them"
)]
pub struct BitmapInfo {
    /// Its name, unique in its node.
    pub name: String,
    /// Dirty granules in bytes; the last counts whole even where the node's end cuts it.
    pub count_bytes: u64,
    /// Bytes that one bit stands for.
    pub granularity_bytes: u64,
    /// Whether changes are recorded, be it beside a frozen content.
    pub is_recording: bool,
    /// Whether an operation uses it, so that others may not.
    pub is_busy: bool,
    /// Whether it was [stored](NodeBitmaps::load).
    pub is_persistent: bool,
    /// Whether its content is unknown; see [`StoredBitmap::Inconsistent`].
    pub is_inconsistent: bool,
}

/// What somebody wants to do with a bitmap, which decides what must hold of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BitmapUse {
    /// Look at its content: it is not in use and not inconsistent.
    Read,
    /// Change it: it is not in use, not read-only and not inconsistent.
    Change,
    /// Remove it: it is not in use and not read-only.
    Remove,
}

/// A named bitmap of a node. Cheap to clone; any thread.
///
/// It keeps the node open, but not the bitmap: once that is removed, all operations say that there is none.
#[derive(Clone)]
pub struct Bitmap {
    node: Node,
    cell: Arc<Cell>,
}

impl Node {
    /// The node's named bitmaps.
    #[must_use]
    pub fn bitmaps(&self) -> NodeBitmaps<'_> {
        NodeBitmaps { node: self }
    }
}

impl NodeBitmaps<'_> {
    /// Adds a clean bitmap as long as the node.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Invalid`]: the name is empty, longer than 1023 bytes or taken, or the granularity is no power
    ///   of two from 512 up to 2^31.
    /// - [`ErrorKind::Unsupported`]: it is to be persistent.
    /// - [`ErrorKind::NoSpace`]: there is no memory for so many bits.
    pub fn add(&self, name: &str, options: BitmapOptions) -> Result<Bitmap, BlockError> {
        if name.is_empty() {
            return Err(invalid("Bitmap name cannot be empty"));
        }
        let granularity_bytes = options
            .granularity_bytes
            .unwrap_or_else(|| default_granularity_bytes(self.node));
        DirtyBitmap::check_granularity(granularity_bytes)?;
        if options.persistent {
            let node = self.node.name();
            let what = format!("Can't store persistent bitmaps to {node}: Operation not supported");
            return Err(BlockError::new(ErrorKind::Unsupported, what));
        }
        self.list_new(name, || {
            let content = DirtyBitmap::new(self.node.len_bytes(), granularity_bytes)?;
            let state = State::new(content);
            Ok(if options.disabled {
                state.disabled()
            } else {
                state
            })
        })
    }

    /// Adds a bitmap that its user has stored. While the node is read-only, so is the bitmap.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Invalid`]: the name is empty, longer than 1023 bytes or taken, the granularity cannot be, or
    ///   the content is not as long as the node.
    /// - [`ErrorKind::NoSpace`]: there is no memory for so many bits.
    pub fn load(&self, name: &str, stored: StoredBitmap) -> Result<Bitmap, BlockError> {
        if name.is_empty() {
            return Err(invalid("Bitmap name cannot be empty"));
        }
        let len_bytes = self.node.len_bytes();
        self.list_new(name, || match stored {
            StoredBitmap::Enabled(content) => fitting(content, len_bytes).map(State::stored),
            StoredBitmap::Disabled(content) => {
                fitting(content, len_bytes).map(|state| state.stored().disabled())
            }
            StoredBitmap::Inconsistent { granularity_bytes } => {
                let content = DirtyBitmap::new(len_bytes, granularity_bytes)?;
                Ok(State::new(content).stored().inconsistent())
            }
        })
    }

    /// The bitmap called `name`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`]: there is none.
    pub fn find(&self, name: &str) -> Result<Bitmap, BlockError> {
        let found = self.table().find(name);
        let cell = found.filter(|cell| cell.is_listed());
        cell.map(|cell| self.handle(cell))
            .ok_or_else(|| not_found(name))
    }

    /// Removes the bitmap called `name`, an inconsistent one too.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`]: there is none.
    /// - [`ErrorKind::Busy`]: an operation uses it.
    /// - [`ErrorKind::ReadOnly`]: it is stored, and the node is read-only.
    pub fn remove(&self, name: &str) -> Result<(), BlockError> {
        let bitmap = self.find(name)?;
        bitmap.change(BitmapUse::Remove, |state| {
            state.remove();
            Ok(())
        })?;
        self.table().unlist(&bitmap.cell);
        Ok(())
    }

    /// All bitmaps, the newest first.
    #[must_use]
    pub fn list(&self) -> Vec<Bitmap> {
        let cells = self.table().cells();
        let listed = cells.into_iter().rev().filter(|cell| cell.is_listed());
        listed.map(|cell| self.handle(cell)).collect()
    }

    /// Whether the bitmaps can follow a change of the node's length.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Busy`]: an operation uses one of them.
    pub(crate) fn check_resize(&self) -> Result<(), BlockError> {
        let cells = self.table().cells();
        cells
            .iter()
            .try_for_each(|cell| cell.lock().check_free(cell.name()))
    }

    /// Makes all bitmaps as long as the node is to be: what is new is clean, what is past the end is forgotten.
    ///
    /// Before a node grows, and after it has shrunk. Whoever changes a node's length asks
    /// [`NodeBitmaps::check_resize`] first. Should a bitmap be missed, it follows when it is next used or marked.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoSpace`]: there is no memory for so many bits, which is never so for fewer.
    pub(crate) fn resize(&self, len_bytes: u64) -> Result<(), BlockError> {
        let cells = self.table().cells();
        cells
            .iter()
            .try_for_each(|cell| cell.lock().follow(len_bytes))
    }

    fn list_new(
        &self,
        name: &str,
        state: impl FnOnce() -> Result<State, BlockError>,
    ) -> Result<Bitmap, BlockError> {
        let cell = self.table().list_new(name, || {
            if name.len() > NAME_BYTES_MAX {
                return Err(invalid(format!("Bitmap name too long: {name}")));
            }
            state()
        })?;
        Ok(self.handle(cell))
    }

    fn handle(&self, cell: Arc<Cell>) -> Bitmap {
        Bitmap {
            node: self.node.clone(),
            cell,
        }
    }

    fn table(&self) -> &Table {
        &self.node.inner.bitmaps
    }
}

impl Bitmap {
    /// The node it belongs to.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.cell.name()
    }

    /// What a query shows of it; of a removed one, how it was.
    #[must_use]
    pub fn info(&self) -> BitmapInfo {
        self.cell.lock().info(self.name())
    }

    /// Checks that it may be used so, now.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::NotFound`]: it was removed.
    /// - [`ErrorKind::Busy`]: an operation uses it.
    /// - [`ErrorKind::ReadOnly`]: it is stored, and the node is read-only.
    /// - [`ErrorKind::Invalid`]: it is inconsistent.
    pub fn check(&self, wanted: BitmapUse) -> Result<(), BlockError> {
        self.change(wanted, |_| Ok(()))
    }

    /// Records what changes from now on. Does nothing to one that does so.
    ///
    /// # Errors
    ///
    /// As [`Bitmap::check`] for [`BitmapUse::Change`].
    pub fn enable(&self) -> Result<(), BlockError> {
        self.change(BitmapUse::Change, |state| {
            state.enable();
            Ok(())
        })
    }

    /// Records nothing from now on; what it has stays.
    ///
    /// # Errors
    ///
    /// As [`Bitmap::check`] for [`BitmapUse::Change`].
    pub fn disable(&self) -> Result<(), BlockError> {
        self.change(BitmapUse::Change, |state| {
            state.disable();
            Ok(())
        })
    }

    /// Forgets all changes so far.
    ///
    /// # Errors
    ///
    /// As [`Bitmap::check`] for [`BitmapUse::Change`].
    pub fn clear(&self) -> Result<(), BlockError> {
        self.change(BitmapUse::Change, |state| {
            state.clear();
            Ok(())
        })
    }

    /// Adds all that is dirty in `sources`, which may be of other nodes and granularities, or this one. All or
    /// nothing; with no sources, nothing. It may be disabled.
    ///
    /// # Errors
    ///
    /// As [`Bitmap::check`], for [`BitmapUse::Change`] of this one and for [`BitmapUse::Read`] of the sources, and
    ///
    /// - [`ErrorKind::Invalid`]: a source has another length.
    /// - [`ErrorKind::NoSpace`]: there is no memory for one more bitmap.
    pub fn merge(&self, sources: &[Self]) -> Result<(), BlockError> {
        let sum = self.sum_of(sources)?;
        self.change(BitmapUse::Change, |state| state.merge(&sum))
    }

    /// A copy of its content. To have all that was written before, hold a drained section of the node.
    ///
    /// # Errors
    ///
    /// As [`Bitmap::check`] for [`BitmapUse::Read`], and [`ErrorKind::NoSpace`]: there is no memory for one more.
    pub fn snapshot(&self) -> Result<DirtyBitmap, BlockError> {
        self.change(BitmapUse::Read, |state| state.content().try_clone())
    }

    /// Keeps others from using it, while it goes on recording: for an export that shows it.
    ///
    /// # Errors
    ///
    /// As [`Bitmap::check`] for [`BitmapUse::Read`].
    pub fn mark_busy(&self) -> Result<BusyGuard, BlockError> {
        BusyGuard::new(self)
    }

    /// Lets a job have the content, while what changes from now on is recorded beside it.
    ///
    /// A bitmap that was disabled records nothing beside it either. Freeze inside a drained section of the node: what
    /// was written before is in the content, what is written after it is beside.
    ///
    /// # Errors
    ///
    /// As [`Bitmap::check`] for [`BitmapUse::Read`], and [`ErrorKind::NoSpace`]: there is no memory for one more.
    pub fn freeze(&self) -> Result<Frozen, BlockError> {
        Frozen::new(self)
    }

    /// All that is dirty in `sources`, in granules of this one.
    fn sum_of(&self, sources: &[Self]) -> Result<DirtyBitmap, BlockError> {
        let mut sum = self.change(BitmapUse::Change, |state| state.content().new_like())?;
        for source in sources {
            source.change(BitmapUse::Read, |state| sum.merge(state.content()))?;
        }
        Ok(sum)
    }

    /// Removes it, whatever its state.
    fn remove_now(&self) {
        self.always(State::remove);
        self.node.inner.bitmaps.unlist(&self.cell);
    }

    /// Does something to the bitmap, if it may be used so.
    fn change<T>(
        &self,
        wanted: BitmapUse,
        action: impl FnOnce(&mut State) -> Result<T, BlockError>,
    ) -> Result<T, BlockError> {
        self.always(|state| {
            state.check(wanted, self.name(), &self.node)?;
            state.follow(self.node.len_bytes())?;
            action(state)
        })
    }

    /// Does something to the bitmap, whatever its state.
    fn always<T>(&self, action: impl FnOnce(&mut State) -> T) -> T {
        self.node.inner.bitmaps.change(&self.cell, action)
    }
}

impl PartialEq for Bitmap {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.cell, &other.cell)
    }
}

impl Eq for Bitmap {}

impl fmt::Debug for Bitmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bitmap")
            .field("node", &self.node.name())
            .field("info", &self.info())
            .finish_non_exhaustive()
    }
}

fn default_granularity_bytes(node: &Node) -> u64 {
    let cluster_bytes = node.limits().cluster_bytes.map(u64::from);
    cluster_bytes.map_or(GRANULARITY_BYTES_DEFAULT, |bytes| {
        bytes.clamp(GRANULARITY_BYTES_DEFAULT_MIN, GRANULARITY_BYTES_DEFAULT)
    })
}

/// A bitmap with this content, if that is as long as its node.
fn fitting(content: DirtyBitmap, len_bytes: u64) -> Result<State, BlockError> {
    if content.len_bytes() == len_bytes {
        return Ok(State::new(content));
    }
    Err(invalid(format!(
        "a bitmap of {} bytes does not fit a node of {len_bytes} bytes",
        content.len_bytes()
    )))
}

fn invalid(what: impl Into<String>) -> BlockError {
    BlockError::new(ErrorKind::Invalid, what)
}

fn not_found(name: &str) -> BlockError {
    let what = format!("Dirty bitmap '{name}' not found");
    BlockError::new(ErrorKind::NotFound, what)
}
