//! What a mirror does with the requests of guests: when their turn comes, and how they get to the target.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use aio::{AioContext, IoBuf};

use super::{
    CopyMode, MirrorCopy, Unmap,
    ledger::{Taken, Tracked},
};
use crate::{
    allocation::{AllocationStatus, ByteRange},
    copy::CopyEdge,
    error::BlockError,
    node_driver::RequestFlags,
    wait::{First, first_of},
};

/// What guests do, in numbers, and how they are slowed down.
#[derive(Debug, Default)]
pub(super) struct Guests {
    mirrored_bytes: AtomicU64,
    delay_ns: AtomicU64,
}

impl Guests {
    pub(super) fn mirrored_bytes(&self) -> u64 {
        self.mirrored_bytes.load(Ordering::Acquire)
    }
}

/// How a guest's request is kept account of. Until it is dropped or done, the request is under way.
pub(crate) enum Turn<'a> {
    /// Not at all: nobody wants the mirror any more.
    Pass,
    /// Its range is marked when this is dropped, after the request.
    Track(#[expect(dead_code, reason = "held for its drop")] Tracked<'a>),
    /// It is to write both sides.
    Both(Taken),
}

impl MirrorCopy {
    /// Has each change of a guest's begin `delay_ns` nanoseconds late, so that the copy can keep up; zero for not at all.
    pub fn set_guest_delay_ns(&self, delay_ns: u64) {
        self.guests.delay_ns.store(delay_ns, Ordering::Release);
    }

    /// Waits until a guest may change `range` of the source, by the mode of this moment.
    pub(crate) async fn admit(&self, cx: &AioContext, range: ByteRange) -> Turn<'_> {
        let delay_ns = self.guests.delay_ns.load(Ordering::Acquire);
        if delay_ns > 0 {
            first_of(cx.sleep_ns(delay_ns), self.ledger.given_up()).await;
        }
        if self.is_given_up() {
            return Turn::Pass;
        }
        match self.mode() {
            CopyMode::Background => Turn::Track(self.ledger.track(range)),
            CopyMode::WriteBlocking => match self.ledger.take(range).await {
                Some(taken) => Turn::Both(taken),
                None => Turn::Pass,
            },
        }
    }

    /// Writes to the target what a guest has written to the source. The buffer comes back, or one like it if nobody
    /// wants to wait for the target any more.
    ///
    /// Failures are noted, and no concern of the guest's.
    pub(crate) async fn forward_write(
        self: &Arc<Self>,
        cx: &AioContext,
        offset_bytes: u64,
        buf: IoBuf,
        taken: Taken,
    ) -> IoBuf {
        let Some(target) = self.target_for(&taken) else {
            taken.done();
            return buf;
        };
        let len = buf.len();
        let range = taken.range();
        self.ledger.target_changes(range);
        let (copy, home) = (self.clone(), cx.clone());
        let writing = async move {
            let flags = RequestFlags::default();
            let (buf, written) = target.write(&home, offset_bytes, buf, flags).await;
            copy.forwarded(taken, written.map(drop));
            buf
        };
        let buf = self.unless_given_up(cx, writing).await;
        buf.unwrap_or_else(|| IoBuf::heap(len))
    }

    /// Makes the target zero where a guest has made the source so.
    pub(crate) async fn forward_zeroes(
        self: &Arc<Self>,
        cx: &AioContext,
        flags: RequestFlags,
        taken: Taken,
    ) {
        let range = taken.range();
        let target = self.target_for(&taken);
        let target = target.filter(|_| !self.ledger.is_target_zero(range));
        let Some(target) = target else {
            taken.done();
            return;
        };
        let (copy, home) = (self.clone(), cx.clone());
        let flags = RequestFlags {
            may_unmap: flags.may_unmap && self.unmap == Unmap::Allowed,
            ..RequestFlags::default()
        };
        let zeroing = async move {
            let zeroed = target.write_zeroes(&home, range, flags).await;
            if zeroed.is_ok() {
                copy.ledger.target_zeroed(range);
            }
            copy.forwarded(taken, zeroed);
        };
        self.unless_given_up(cx, zeroing).await;
    }

    /// Does to the target what a guest's discard has done to the source: where that reads as zero now, zeroes.
    /// Where it does not, or not all over, the range is marked, for the copy to find out.
    pub(crate) async fn forward_discard(
        self: &Arc<Self>,
        cx: &AioContext,
        source: &CopyEdge,
        taken: Taken,
    ) {
        let range = taken.range();
        let reads_zero = match source.extent(cx, range).await {
            Ok(extent) => {
                extent.status == AllocationStatus::Zero && extent.len_bytes >= range.len()
            }
            Err(_) => false,
        };
        if reads_zero {
            let flags = RequestFlags {
                may_unmap: true,
                ..RequestFlags::default()
            };
            self.forward_zeroes(cx, flags, taken).await;
        }
    }

    /// The target, if a guest's bytes have to get there.
    fn target_for(&self, taken: &Taken) -> Option<Arc<CopyEdge>> {
        taken.needs_target().then(|| self.target()).flatten()
    }

    fn forwarded(&self, taken: Taken, result: Result<(), BlockError>) {
        match result {
            Ok(()) => {
                let bytes = &self.guests.mirrored_bytes;
                bytes.fetch_add(taken.range().len(), Ordering::AcqRel);
                taken.done();
            }
            Err(error) => {
                // Marked first, so that whoever hears of the error finds what to do.
                drop(taken);
                self.note_guest_error(error);
            }
        }
    }

    /// Awaits a request at the target; leaves it to itself once nobody wants the mirror any more.
    async fn unless_given_up<T: 'static>(
        &self,
        cx: &AioContext,
        request: impl Future<Output = T> + 'static,
    ) -> Option<T> {
        let mut request = Box::pin(request);
        match first_of(request.as_mut(), self.ledger.given_up()).await {
            First::Left(value) => Some(value),
            First::Right(()) => {
                drop(cx.spawn(request));
                None
            }
        }
    }
}
