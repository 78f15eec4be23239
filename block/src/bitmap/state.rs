//! What one named bitmap holds, and the list of those of a node.

use std::sync::{Arc, PoisonError};

use aio::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use super::{BitmapInfo, BitmapUse, not_found};
use crate::{
    allocation::ByteRange,
    dirty_bitmap::DirtyBitmap,
    error::{BlockError, ErrorKind},
    node::Node,
};

/// The bitmaps of one node.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// Bitmaps that record. Requests look at it before they take a lock.
    recording: AtomicUsize,
    /// Oldest first.
    cells: Mutex<Vec<Arc<Cell>>>,
}

/// One bitmap.
#[derive(Debug)]
pub(super) struct Cell {
    name: String,
    state: Mutex<State>,
}

/// The state of one bitmap.
#[derive(Debug)]
pub(super) struct State {
    current: Recorded,
    /// Records in the place of a content that a job has frozen.
    successor: Option<Recorded>,
    /// What transactions may have to put back, oldest first; each goes on recording until it is decided.
    kept: Vec<Kept>,
    next_kept: u64,
    is_in_use: bool,
    is_stored: bool,
    is_inconsistent: bool,
    life: Life,
}

/// Bits, and whether changes are marked in them.
#[derive(Debug)]
struct Recorded {
    content: DirtyBitmap,
    is_enabled: bool,
}

#[derive(Debug)]
struct Kept {
    id: KeptId,
    was: Recorded,
}

/// What one action of a transaction has kept of a bitmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KeptId(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Listed,
    /// A transaction is about to remove it: nobody finds it, its name is taken, and it goes on recording.
    Hidden,
    Removed,
}

impl Table {
    /// Marks a range of a node in every bitmap that records; it is as long as `len_bytes` says when it is asked.
    /// One relaxed load where none records.
    ///
    /// Whoever enables a bitmap and wants a request marked in it makes it known before that request ends, which
    /// makes it see the count, too; a request that ends beside may go either way.
    pub(crate) fn mark(&self, range: ByteRange, len_bytes: impl FnOnce() -> u64) {
        if self.recording.load(Relaxed) == 0 {
            return;
        }
        let len_bytes = len_bytes();
        for cell in self.lock().iter() {
            cell.lock().mark(range, len_bytes);
        }
    }

    pub(super) fn find(&self, name: &str) -> Option<Arc<Cell>> {
        let cells = self.lock();
        cells.iter().find(|cell| cell.name == name).cloned()
    }

    pub(super) fn cells(&self) -> Vec<Arc<Cell>> {
        self.lock().clone()
    }

    /// Lists a new bitmap, if its name is free.
    pub(super) fn list_new(
        &self,
        name: &str,
        state: impl FnOnce() -> Result<State, BlockError>,
    ) -> Result<Arc<Cell>, BlockError> {
        let check = |cells: &[Arc<Cell>]| {
            if !cells.iter().any(|cell| cell.name == name) {
                return Ok(());
            }
            let what = format!("Bitmap already exists: {name}");
            Err(BlockError::new(ErrorKind::Invalid, what))
        };
        check(&self.lock())?;
        // Memory is sought unlocked, since requests wait for the list.
        let state = state()?;
        let mut cells = self.lock();
        check(&cells)?;
        self.count(0, state.records());
        let cell = Arc::new(Cell {
            name: name.to_owned(),
            state: Mutex::new(state),
        });
        cells.push(cell.clone());
        Ok(cell)
    }

    pub(super) fn unlist(&self, cell: &Arc<Cell>) {
        self.lock().retain(|other| !Arc::ptr_eq(other, cell));
    }

    /// Changes one of these bitmaps, and keeps the count right.
    pub(super) fn change<T>(&self, cell: &Cell, action: impl FnOnce(&mut State) -> T) -> T {
        let mut state = cell.lock();
        let before = state.records();
        let value = action(&mut state);
        self.count(before, state.records());
        value
    }

    /// How many record.
    #[cfg(test)]
    pub(super) fn recording_count(&self) -> usize {
        self.recording.load(Relaxed)
    }

    fn count(&self, before: usize, after: usize) {
        self.recording.fetch_add(after, Relaxed);
        self.recording.fetch_sub(before, Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Cell>>> {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cell {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_listed(&self) -> bool {
        self.lock().life == Life::Listed
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A bitmap that records from now on.
    pub(super) fn new(content: DirtyBitmap) -> Self {
        Self {
            current: Recorded {
                content,
                is_enabled: true,
            },
            successor: None,
            kept: Vec::new(),
            next_kept: 0,
            is_in_use: false,
            is_stored: false,
            is_inconsistent: false,
            life: Life::Listed,
        }
    }

    /// The same, disabled.
    pub(super) fn disabled(mut self) -> Self {
        self.disable();
        self
    }

    /// The same, as one that was stored.
    pub(super) fn stored(self) -> Self {
        Self {
            is_stored: true,
            ..self
        }
    }

    /// The same, as one of which nothing is known.
    pub(super) fn inconsistent(self) -> Self {
        Self {
            is_inconsistent: true,
            ..self.disabled()
        }
    }

    /// Whether the bitmap, which is one of `node`, may be used so.
    pub(super) fn check(
        &self,
        wanted: BitmapUse,
        name: &str,
        node: &Node,
    ) -> Result<(), BlockError> {
        if self.life == Life::Removed {
            return Err(not_found(name));
        }
        self.check_free(name)?;
        if wanted != BitmapUse::Read && self.is_stored && node.is_read_only() {
            let what = format!("Bitmap '{name}' is readonly and cannot be modified");
            return Err(BlockError::new(ErrorKind::ReadOnly, what));
        }
        if wanted != BitmapUse::Remove && self.is_inconsistent {
            let what = format!("Bitmap '{name}' is inconsistent and cannot be used");
            return Err(BlockError::new(ErrorKind::Invalid, what));
        }
        Ok(())
    }

    pub(super) fn check_free(&self, name: &str) -> Result<(), BlockError> {
        if !self.is_busy() {
            return Ok(());
        }
        let what =
            format!("Bitmap '{name}' is currently in use by another operation and cannot be used");
        Err(BlockError::new(ErrorKind::Busy, what))
    }

    pub(super) fn info(&self, name: &str) -> BitmapInfo {
        BitmapInfo {
            name: name.to_owned(),
            count_bytes: self.current.content.count_bytes(),
            granularity_bytes: self.current.content.granularity_bytes(),
            is_recording: self.recorder().is_enabled,
            is_busy: self.is_busy(),
            is_persistent: self.is_stored,
            is_inconsistent: self.is_inconsistent,
        }
    }

    pub(super) fn content(&self) -> &DirtyBitmap {
        &self.current.content
    }

    pub(super) fn enable(&mut self) {
        self.current.is_enabled = true;
    }

    pub(super) fn disable(&mut self) {
        self.current.is_enabled = false;
    }

    pub(super) fn clear(&mut self) {
        self.current.content.clear_all();
    }

    pub(super) fn merge(&mut self, other: &DirtyBitmap) -> Result<(), BlockError> {
        self.current.content.merge(other)
    }

    pub(super) fn remove(&mut self) {
        self.life = Life::Removed;
        self.kept.clear();
    }

    pub(super) fn hide(&mut self) {
        self.life = Life::Hidden;
    }

    pub(super) fn show(&mut self) {
        self.life = Life::Listed;
    }

    pub(super) fn begin_use(&mut self) {
        self.is_in_use = true;
    }

    pub(super) fn end_use(&mut self) {
        self.is_in_use = false;
    }

    /// From now on changes are recorded beside the content.
    pub(super) fn freeze(&mut self) -> Result<(), BlockError> {
        self.successor = Some(Recorded {
            content: self.current.content.new_like()?,
            is_enabled: self.current.is_enabled,
        });
        self.current.is_enabled = false;
        Ok(())
    }

    /// What was recorded beside a frozen content takes its place.
    pub(super) fn abdicate(&mut self) {
        if let Some(successor) = self.successor.take() {
            self.current = successor;
        }
    }

    /// What was recorded beside a frozen content takes its place, together with what is left of it. Nothing happens
    /// if that is of another length.
    pub(super) fn abdicate_but(&mut self, left: &DirtyBitmap) {
        let successor = self.successor.as_mut();
        if successor.is_some_and(|successor| successor.content.merge(left).is_ok()) {
            self.abdicate();
        }
    }

    /// What was recorded beside a frozen content is added to it.
    pub(super) fn reclaim(&mut self) {
        if let Some(successor) = self.successor.take() {
            let merged = self.current.content.merge(&successor.content);
            merged.expect("all parts of a bitmap are of one length");
            self.current.is_enabled = successor.is_enabled;
        }
    }

    /// Keeps what is there now, to be put back if the transaction that asks for it fails.
    pub(super) fn keep(&mut self) -> Result<KeptId, BlockError> {
        let was = Recorded {
            content: self.current.content.try_clone()?,
            is_enabled: self.current.is_enabled,
        };
        let id = KeptId(self.next_kept);
        self.next_kept += 1;
        self.kept.push(Kept { id, was });
        Ok(id)
    }

    pub(super) fn forget_kept(&mut self, id: KeptId) {
        self.kept.retain(|kept| kept.id != id);
    }

    /// Puts back what was kept, and forgets what was kept later, which is of a time that never was.
    pub(super) fn put_back(&mut self, id: KeptId) {
        let Some(index) = self.kept.iter().position(|kept| kept.id == id) else {
            return;
        };
        self.kept.truncate(index + 1);
        if let Some(kept) = self.kept.pop() {
            self.current = kept.was;
        }
    }

    /// Makes all parts as long as the node is, or is to be.
    pub(super) fn follow(&mut self, len_bytes: u64) -> Result<(), BlockError> {
        self.parts()
            .try_for_each(|part| part.content.truncate(len_bytes))
    }

    /// Marks a range of a node that is `len_bytes` long by now.
    fn mark(&mut self, range: ByteRange, len_bytes: u64) {
        // The node may have grown without telling its bitmaps, or shrunk since the request.
        let is_short = range.end().min(len_bytes) > self.current.content.len_bytes();
        if is_short && self.follow(len_bytes).is_err() {
            self.is_inconsistent = true;
        }
        for part in self.parts().filter(|part| part.is_enabled) {
            part.mark(range);
        }
    }

    fn parts(&mut self) -> impl Iterator<Item = &mut Recorded> {
        let kept = self.kept.iter_mut().map(|kept| &mut kept.was);
        let current = std::iter::once(&mut self.current);
        current.chain(&mut self.successor).chain(kept)
    }

    /// One if a request has to mark something here.
    fn records(&self) -> usize {
        let kept = self.kept.iter().any(|kept| kept.was.is_enabled);
        usize::from(self.life != Life::Removed && (kept || self.recorder().is_enabled))
    }

    fn recorder(&self) -> &Recorded {
        self.successor.as_ref().unwrap_or(&self.current)
    }

    fn is_busy(&self) -> bool {
        self.is_in_use || self.successor.is_some() || self.life == Life::Hidden
    }
}

impl Recorded {
    /// Marks what it has of a range.
    fn mark(&mut self, range: ByteRange) {
        let end = range.end().min(self.content.len_bytes());
        self.content
            .set(ByteRange::between(range.start().min(end), end));
    }
}
