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
    allocation::ByteRange,
    copy::{CopyEdge, CopyError, CopySide, Found},
    error::BlockError,
    node_driver::RequestFlags,
    wait::{First, first_of},
};

/// Most data that a guest's discard copies to the target itself, in bytes.
const DISCARD_DATA_BYTES_MAX: u64 = 1 << 20;

/// How many bytes guests write on both sides before the alarm rings, although nothing differs.
const TOLD_EVERY_BYTES: u64 = 1 << 20;

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
    /// Has each change of a guest's begin `delay_ns` nanoseconds late, so that the copy can keep up; zero for at once.
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

    /// Makes the target equal where a guest has discarded: what the source has there now is for the source to say.
    ///
    /// Zeroes are written as such, and pieces of data between them are copied. Where it is all data, because the
    /// source keeps what it is told to give up, the range is marked, and left to the copy.
    pub(crate) async fn forward_discard(self: &Arc<Self>, cx: &AioContext, taken: Taken) {
        if !taken.needs_target() {
            taken.done();
            return;
        }
        let (copy, home) = (self.clone(), cx.clone());
        let following = async move {
            let (taken, followed) = copy.follow_discard(&home, taken).await;
            match followed {
                Ok(true) => copy.forwarded(taken, Ok(())),
                Err(error) if error.side() == CopySide::Write => {
                    copy.forwarded(taken, Err(error.into_error()));
                }
                // What cannot be read, the copy will find out.
                Ok(false) | Err(_) => drop(taken),
            }
        };
        self.unless_given_up(cx, following).await;
    }

    /// Returns whether the range is equal now.
    async fn follow_discard(
        &self,
        cx: &AioContext,
        mut taken: Taken,
    ) -> (Taken, Result<bool, CopyError>) {
        let range = taken.range();
        let (mut at, mut data_bytes) = (range.start(), 0);
        while at < range.end() {
            let rest = ByteRange::between(at, range.end());
            let looked = self.mover.look(cx, rest, DISCARD_DATA_BYTES_MAX).await;
            let (found, len_bytes) = match looked {
                Ok(looked) => looked,
                Err(error) => return (taken, Err(error)),
            };
            let part = ByteRange::between(at, range.end().min(at.saturating_add(len_bytes)));
            if found == Found::Data {
                data_bytes += part.len();
            }
            if data_bytes > DISCARD_DATA_BYTES_MAX {
                return (taken, Ok(false));
            }
            let done;
            (taken, done) = self.equalise(cx, part, found, taken).await;
            match done {
                Ok((_, len_bytes)) => at += len_bytes,
                Err(error) => return (taken, Err(error)),
            }
        }
        (taken, Ok(true))
    }

    /// The target, if a guest's bytes have to get there.
    fn target_for(&self, taken: &Taken) -> Option<Arc<CopyEdge>> {
        taken.needs_target().then(|| self.target()).flatten()
    }

    fn forwarded(&self, taken: Taken, result: Result<(), BlockError>) {
        match result {
            Ok(()) => {
                let (total, len) = (&self.guests.mirrored_bytes, taken.range().len());
                let before = total.fetch_add(len, Ordering::AcqRel);
                taken.done();
                // Nothing differs, but those who tell how far the mirror is want to know now and then.
                if before / TOLD_EVERY_BYTES != (before + len) / TOLD_EVERY_BYTES {
                    self.ledger.ring();
                }
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
