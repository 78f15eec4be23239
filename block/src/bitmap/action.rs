//! Changes of bitmaps as parts of a transaction: made at once, and undone if another part fails.

use super::{Bitmap, BitmapOptions, BitmapUse, State, state::KeptId};
use crate::{error::BlockError, node::Node};

/// A bitmap by name, which an earlier action of the same transaction may have to add first.
#[derive(Clone, Debug)]
pub struct BitmapRef {
    /// Its node.
    pub node: Node,
    /// Its name.
    pub name: String,
}

/// One change of a bitmap.
#[derive(Clone, Debug)]
pub enum BitmapAction {
    /// As [`NodeBitmaps::add`](super::NodeBitmaps::add).
    Add(BitmapRef, BitmapOptions),
    /// As [`NodeBitmaps::remove`](super::NodeBitmaps::remove).
    Remove(BitmapRef),
    /// As [`Bitmap::clear`].
    Clear(BitmapRef),
    /// As [`Bitmap::enable`].
    Enable(BitmapRef),
    /// As [`Bitmap::disable`].
    Disable(BitmapRef),
    /// As [`Bitmap::merge`].
    Merge {
        /// What is added to.
        target: BitmapRef,
        /// What is added.
        sources: Vec<BitmapRef>,
    },
}

impl BitmapAction {
    /// Makes the change, so that later actions find it made. Any thread.
    ///
    /// Actions of a transaction are prepared in their order. If one fails, those before it are aborted in reverse.
    /// A bitmap that is to be removed is hidden until the commit; its name is taken, and it goes on recording.
    ///
    /// # Errors
    ///
    /// Those of the method that does the same; nothing has changed then. All but adding and removing also give
    /// [`NoSpace`](crate::ErrorKind::NoSpace) if there is no memory to keep what was there.
    pub fn prepare(self) -> Result<PreparedBitmap, BlockError> {
        let undo = match self {
            Self::Add(BitmapRef { node, name }, options) => {
                Undo::Add(node.bitmaps().add(&name, options)?)
            }
            Self::Remove(bitmap) => Undo::Remove(bitmap.hide()?),
            Self::Clear(bitmap) => bitmap.change(|state| {
                state.clear();
                Ok(())
            })?,
            Self::Enable(bitmap) => bitmap.change(|state| {
                state.enable();
                Ok(())
            })?,
            Self::Disable(bitmap) => bitmap.change(|state| {
                state.disable();
                Ok(())
            })?,
            Self::Merge { target, sources } => {
                let bitmap = target.find()?;
                let sources: Result<Vec<_>, _> = sources.iter().map(BitmapRef::find).collect();
                let sum = bitmap.sum_of(&sources?)?;
                target.change(|state| state.merge(&sum))?
            }
        };
        Ok(PreparedBitmap { undo: Some(undo) })
    }
}

impl BitmapRef {
    fn find(&self) -> Result<Bitmap, BlockError> {
        self.node.bitmaps().find(&self.name)
    }

    fn hide(&self) -> Result<Bitmap, BlockError> {
        let bitmap = self.find()?;
        bitmap.change(BitmapUse::Remove, |state| {
            state.hide();
            Ok(())
        })?;
        Ok(bitmap)
    }

    /// Changes the bitmap, and keeps what it was.
    fn change(
        &self,
        action: impl FnOnce(&mut State) -> Result<(), BlockError>,
    ) -> Result<Undo, BlockError> {
        let bitmap = self.find()?;
        let kept = bitmap.change(BitmapUse::Change, |state| {
            let kept = state.keep()?;
            action(state).inspect_err(|_| state.forget_kept(kept))?;
            Ok(kept)
        })?;
        Ok(Undo::Change(bitmap, kept))
    }
}

/// A change that is made and can still be undone, which dropping it does. Any thread.
///
/// What requests have changed in the meantime is marked either way.
#[derive(Debug)]
#[must_use = "a change is undone when this is dropped"]
pub struct PreparedBitmap {
    undo: Option<Undo>,
}

#[derive(Debug)]
enum Undo {
    Add(Bitmap),
    Remove(Bitmap),
    Change(Bitmap, KeptId),
}

impl PreparedBitmap {
    /// The change stays.
    pub fn commit(mut self) {
        match self.undo.take() {
            Some(Undo::Remove(bitmap)) => bitmap.remove_now(),
            Some(Undo::Change(bitmap, kept)) => bitmap.always(|state| state.forget_kept(kept)),
            Some(Undo::Add(_)) | None => {}
        }
    }

    /// All is as if the change had not been made.
    pub fn abort(self) {
        drop(self);
    }
}

impl Drop for PreparedBitmap {
    fn drop(&mut self) {
        match self.undo.take() {
            Some(Undo::Add(bitmap)) => bitmap.remove_now(),
            Some(Undo::Remove(bitmap)) => bitmap.always(State::show),
            Some(Undo::Change(bitmap, kept)) => bitmap.always(|state| state.put_back(kept)),
            None => {}
        }
    }
}
