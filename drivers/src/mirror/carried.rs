//! The source's named bitmaps, carried over to the target that takes its place.

use block::{
    BlockError, Node,
    bitmap::{Bitmap, BitmapOptions},
};

/// Bitmaps that the target has got; dropped, it loses them again.
pub(super) struct Carried {
    target: Node,
    added: Vec<Bitmap>,
}

/// Gives the target all bitmaps of the source, with what they hold. Nobody may write to either meanwhile. The one
/// called `emptied` will hold nothing, since the target has it all.
///
/// All or none: one that is in use, or whose name the target has already, is an error.
pub(super) fn carry(
    (source, target): (&Node, &Node),
    emptied: Option<&str>,
) -> Result<Carried, BlockError> {
    let mut carried = Carried {
        target: target.clone(),
        added: Vec::new(),
    };
    // The oldest first, so that the target lists them in the same order.
    for bitmap in source.bitmaps().list().iter().rev() {
        let info = bitmap.info();
        let options = BitmapOptions {
            granularity_bytes: Some(info.granularity_bytes),
            disabled: !info.is_recording,
            ..BitmapOptions::default()
        };
        let copy = target.bitmaps().add(&info.name, options)?;
        carried.added.push(copy.clone());
        if emptied != Some(bitmap.name()) {
            copy.merge(std::slice::from_ref(bitmap))?;
        }
    }
    Ok(carried)
}

impl Carried {
    /// They stay.
    pub(super) fn keep(mut self) {
        self.added.clear();
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        for bitmap in self.added.drain(..) {
            if let Err(error) = self.target.bitmaps().remove(bitmap.name()) {
                tracing::debug!(%error, "a bitmap that was carried over is in use");
            }
        }
    }
}
