//! What the copy engine is given to do by a mirror.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use aio::AioContext;
use block::{
    ByteRange,
    copy::{CopyError, Outcome},
    mirror::{Claim, MirrorCopy},
};
use job::{BoxFuture, LocalBoxFuture};

use crate::copy_engine::{Progress, Work};

/// A mirror as the engine sees it.
#[derive(Debug)]
pub(super) struct MirrorWork {
    copy: Arc<MirrorCopy>,
    /// The work counts as complete although so many bytes still differ.
    slack_bytes: AtomicU64,
}

/// An area that differs, and how much of it to copy if it is data.
#[derive(Debug)]
pub(super) struct MirrorClaim {
    claim: Claim,
    data_bytes_max: u64,
}

impl MirrorWork {
    pub(super) fn new(copy: Arc<MirrorCopy>) -> Self {
        Self {
            copy,
            slack_bytes: AtomicU64::new(0),
        }
    }

    /// Has the engine stop when no more than `slack_bytes` differ: under guests that go on writing they may always.
    pub(super) fn allow(&self, slack_bytes: u64) {
        self.slack_bytes.store(slack_bytes, Ordering::Relaxed);
    }

    /// Has the engine stop when no more than twice as much differs as before.
    pub(super) fn allow_twice(&self) {
        let slack_bytes = self.slack_bytes.load(Ordering::Relaxed);
        self.allow(slack_bytes.saturating_mul(2));
    }
}

impl Work for MirrorWork {
    type Claim = MirrorClaim;

    fn claim(&self, max_len_bytes: u64, data_bytes_max: u64) -> Option<MirrorClaim> {
        let claim = self.copy.claim(max_len_bytes)?;
        Some(MirrorClaim {
            claim,
            data_bytes_max,
        })
    }

    fn range_of(claim: &MirrorClaim) -> ByteRange {
        claim.claim.range()
    }

    fn copy<'a>(
        &'a self,
        cx: &'a AioContext,
        claim: MirrorClaim,
    ) -> LocalBoxFuture<'a, Result<Outcome, CopyError>> {
        Box::pin(self.copy.copy(cx, claim.claim, claim.data_bytes_max))
    }

    fn data_bytes_max(&self) -> u64 {
        self.copy.data_bytes_max()
    }

    fn is_complete(&self) -> bool {
        if self.copy.is_synced() {
            return true;
        }
        let slack_bytes = self.slack_bytes.load(Ordering::Relaxed);
        let load = self.copy.load();
        load.dirty_bytes + load.in_flight_bytes <= slack_bytes
    }

    fn progress(&self) -> Progress {
        let load = self.copy.load();
        Progress {
            done_bytes: load.copied_bytes + load.mirrored_bytes,
            remaining_bytes: load.dirty_bytes + load.in_flight_bytes,
        }
    }

    fn landed(&self) -> BoxFuture<'static, ()> {
        Box::pin(self.copy.landed())
    }
}
