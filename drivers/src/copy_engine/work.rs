//! What an engine copies: books that give out areas, and the means to move them.

use std::fmt;

use aio::AioContext;
use block::{
    ByteRange,
    copy::{BlockCopy, Claim, CopyError, CopyProgress, Outcome},
};
use job::{BoxFuture, LocalBoxFuture};

/// A copy that gives out its work piece by piece. Any thread.
pub(crate) trait Work: Send + Sync + fmt::Debug + 'static {
    /// An area that its holder alone copies. Dropping it gives the area back.
    type Claim: Send + 'static;

    /// The next area, of at most `max_len_bytes` and of at most `data_bytes_max` if it is data, but at least one unit.
    ///
    /// `None` when there is nothing to give out; some may be in flight.
    fn claim(&self, max_len_bytes: u64, data_bytes_max: u64) -> Option<Self::Claim>;

    /// What is claimed; never empty.
    fn range_of(claim: &Self::Claim) -> ByteRange;

    /// Copies what was claimed, or the first part of it and gives the rest back.
    fn copy<'a>(
        &'a self,
        cx: &'a AioContext,
        claim: Self::Claim,
    ) -> LocalBoxFuture<'a, Result<Outcome, CopyError>>;

    /// Most data of one area as things stand, if nothing asks for less: more than usual where it need not be moved.
    fn data_bytes_max(&self) -> u64;

    /// Whether nothing is left to copy and nothing in flight, whoever copies.
    fn is_complete(&self) -> bool;

    /// Bytes copied so far, and bytes that are not yet; what is in flight is not.
    fn progress(&self) -> Progress;

    /// Waits until something that is in flight now has been copied or given back; if nothing is, it is ready at once.
    fn landed(&self) -> BoxFuture<'static, ()>;
}

/// How far a copy is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) done_bytes: u64,
    pub(crate) remaining_bytes: u64,
}

impl Work for BlockCopy {
    type Claim = Claim;

    fn claim(&self, max_len_bytes: u64, data_bytes_max: u64) -> Option<Claim> {
        let whole = ByteRange::between(0, self.len_bytes());
        let claim = self.claim(whole, max_len_bytes)?;
        Some(claim.with_data_max(data_bytes_max))
    }

    fn range_of(claim: &Claim) -> ByteRange {
        claim.range()
    }

    fn copy<'a>(
        &'a self,
        cx: &'a AioContext,
        claim: Claim,
    ) -> LocalBoxFuture<'a, Result<Outcome, CopyError>> {
        Box::pin(self.copy(cx, claim))
    }

    fn data_bytes_max(&self) -> u64 {
        self.data_bytes_max()
    }

    fn is_complete(&self) -> bool {
        self.is_complete()
    }

    fn progress(&self) -> Progress {
        let CopyProgress {
            done_bytes,
            remaining_bytes,
        } = self.progress();
        Progress {
            done_bytes,
            remaining_bytes,
        }
    }

    fn landed(&self) -> BoxFuture<'static, ()> {
        Box::pin(self.landed())
    }
}
