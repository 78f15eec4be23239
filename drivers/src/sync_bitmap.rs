//! The bitmap that a job takes its work from: frozen at the job's instant, and decided at its end.

use block::{
    BlockError, ByteRange, DirtyBitmap, Node,
    bitmap::{BitmapUse, Frozen},
};

/// What becomes of the bitmap of a job at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BitmapMode {
    /// If the job ended well, only what was written since its start remains; otherwise all is kept.
    OnSuccess,
    /// All is kept, however the job ends.
    Never,
    /// What the target has is forgotten, however the job ends: what is clean then is in the target, and stable there.
    Always,
}

impl BitmapMode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::OnSuccess, Self::Never, Self::Always];

    /// The name that clients use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OnSuccess => "on-success",
            Self::Never => "never",
            Self::Always => "always",
        }
    }

    /// The mode with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == name)
    }
}

/// Granularity in which a whole disk is said to be dirty in a bitmap that takes next to no memory.
const COARSE_BYTES: u64 = 1 << 31;

/// A bitmap that a job works on. Dropped undecided, it is as if there had been no job.
#[derive(Debug)]
pub(crate) struct SyncBitmap {
    frozen: Frozen,
    mode: BitmapMode,
}

impl SyncBitmap {
    /// Freezes the bitmap of `node`, inside a drained section of it.
    pub(crate) fn freeze(node: &Node, name: &str, mode: BitmapMode) -> Result<Self, BlockError> {
        let bitmap = node.bitmaps().find(name)?;
        if mode != BitmapMode::Never {
            bitmap.check(BitmapUse::Change)?;
        }
        let frozen = bitmap.freeze()?;
        Ok(Self { frozen, mode })
    }

    pub(crate) fn mode(&self) -> BitmapMode {
        self.mode
    }

    /// What was dirty at the job's instant.
    pub(crate) fn content(&self) -> Result<DirtyBitmap, BlockError> {
        self.frozen.snapshot()
    }

    /// The job ended well.
    pub(crate) fn commit(self) {
        match self.mode {
            BitmapMode::OnSuccess | BitmapMode::Always => self.frozen.abdicate(),
            BitmapMode::Never => self.frozen.reclaim(),
        }
    }

    /// The job ended well, and the target has all that was written up to now, since nothing is written meanwhile.
    pub(crate) fn commit_up_to_now(self) {
        let (bitmap, mode) = (self.frozen.bitmap().clone(), self.mode);
        self.commit();
        if mode != BitmapMode::Never
            && let Err(error) = bitmap.clear()
        {
            tracing::debug!(%error, "a bitmap keeps what a mirror has copied");
        }
    }

    /// The name of the bitmap.
    pub(crate) fn name(&self) -> &str {
        self.frozen.bitmap().name()
    }

    /// The job failed, and `lacking` is what the target lacks.
    pub(crate) fn abort(self, lacking: &Lacking) {
        match (self.mode, lacking) {
            (BitmapMode::OnSuccess | BitmapMode::Never, _) | (_, Lacking::Content) => {
                self.frozen.reclaim();
            }
            (BitmapMode::Always, Lacking::Nothing) => self.frozen.abdicate(),
            (BitmapMode::Always, Lacking::Part(part)) => self.frozen.reclaim_with(part),
            (BitmapMode::Always, Lacking::Everything) => {
                let len_bytes = self.frozen.bitmap().node().len_bytes();
                self.frozen.reclaim_with(&everything(len_bytes));
            }
        }
    }
}

/// What a target lacks at the end of a job, be it because it is not stable there.
#[derive(Debug)]
pub(crate) enum Lacking {
    Nothing,
    Part(DirtyBitmap),
    /// What the bitmap had at the start.
    Content,
    /// The whole disk.
    Everything,
}

fn everything(len_bytes: u64) -> DirtyBitmap {
    let all = DirtyBitmap::new(len_bytes, COARSE_BYTES);
    let mut all = all.expect("a bit for 2 GiB of a node that has finer bitmaps finds its memory");
    all.set(ByteRange::between(0, len_bytes));
    all
}
