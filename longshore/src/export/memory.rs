//! [`PayloadMemory`]: how much memory all clients of a server may hold for data on its way.
//!
//! What a client holds depends on that client alone: one that does not read its replies holds on to
//! them for ever. So nobody may take more than is left for the others, which makes one such client
//! stop at half of the memory, two at a third each, and so on. A client that finds nothing left and holds
//! nothing gets a small buffer outside the account, so that each of them can always do one request.
//!
//! Nobody waits for the pool itself: the account bounds what is asked of it, and what it does not
//! have comes from the system. Hence there is no cycle of those who hold and those who wait.

use std::{cell::Cell, rc::Rc};

use aio::{BUFFER_BYTES_MAX, BufferPool, IoBuf};

use super::{
    line::Line,
    signal::{Signal, until},
};

/// The buffer of a client for which nothing else is left.
const RESERVE_BYTES: usize = 256 << 10;
/// A client that has so many bytes of replies to take does not need more of them yet. What is read shortly before it is
/// sent is still in the processor's cache then.
const READY_BYTES: usize = 2 << 20;
/// Most bytes one client may hold, however much memory there is.
const CLIENT_BYTES_MAX: usize = 64 << 20;

/// The account of one server; it lives on the server's context.
#[derive(Debug)]
pub(super) struct PayloadMemory {
    pool: BufferPool,
    limit: usize,
    used: Cell<usize>,
    freed: Signal,
}

/// What one client has of the account.
#[derive(Debug, Default)]
pub(super) struct Share {
    held: Cell<usize>,
    /// What of it waits to be sent.
    ready: Cell<usize>,
}

impl Share {
    /// Whether the client is so far behind with taking replies that nothing more is read for it.
    pub(super) fn is_behind(&self) -> bool {
        self.ready.get() >= READY_BYTES
    }
}

/// A part of the account that a client holds; given back when this is dropped.
#[derive(Debug)]
pub(super) struct Charge {
    memory: Rc<PayloadMemory>,
    share: Rc<Share>,
    held: usize,
    /// Zero for a reserve.
    charged: usize,
    is_ready: bool,
}

impl Charge {
    /// The data is there, and waits to be sent.
    pub(super) fn ready(&mut self) {
        debug_assert!(!self.is_ready, "data becomes ready once");
        self.is_ready = true;
        self.share.ready.set(self.share.ready.get() + self.held);
    }
}

impl PayloadMemory {
    /// The account of a server that works with `pool`: half of it, and the other half is for jobs and filters.
    pub(super) fn new(pool: BufferPool) -> Rc<Self> {
        let limit = pool.bytes_max() / 2;
        Rc::new(Self {
            pool,
            limit,
            used: Cell::new(0),
            freed: Signal::default(),
        })
    }

    /// A buffer for `want` bytes, or for fewer when there are many or memory is short.
    ///
    /// Waits while the client holds its share; `None` when its connection is closed meanwhile.
    pub(super) async fn take(
        self: &Rc<Self>,
        line: &Line,
        share: &Rc<Share>,
        want: u64,
    ) -> Option<(IoBuf, Charge)> {
        let want =
            usize::try_from(want).map_or(BUFFER_BYTES_MAX, |want| want.min(BUFFER_BYTES_MAX));
        let signals = [&self.freed, line.changed()];
        until(signals, || {
            if line.is_closed() {
                return Some(None);
            }
            self.try_take(share, want).map(Some)
        })
        .await
    }

    fn try_take(self: &Rc<Self>, share: &Rc<Share>, want: usize) -> Option<(IoBuf, Charge)> {
        // The pool deals in powers of two.
        let need = want.next_power_of_two().max(aio::BUFFER_ALIGN_BYTES);
        let (held, left) = (share.held.get(), self.limit - self.used.get());
        if held + need <= left.min(CLIENT_BYTES_MAX) {
            let buf = self.pool.try_acquire(want);
            let buf = buf.unwrap_or_else(|| IoBuf::heap(want));
            return Some((buf, self.charge(share, need, need)));
        }
        if held > 0 {
            return None;
        }
        let reserve = want.min(RESERVE_BYTES);
        Some((IoBuf::heap(reserve), self.charge(share, reserve.max(1), 0)))
    }

    fn charge(self: &Rc<Self>, share: &Rc<Share>, held: usize, charged: usize) -> Charge {
        share.held.set(share.held.get() + held);
        self.used.set(self.used.get() + charged);
        Charge {
            memory: self.clone(),
            share: share.clone(),
            held,
            charged,
            is_ready: false,
        }
    }

    /// Raised when somebody gives something back.
    pub(super) fn freed(&self) -> &Signal {
        &self.freed
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.share.held.set(self.share.held.get() - self.held);
        if self.is_ready {
            self.share.ready.set(self.share.ready.get() - self.held);
        }
        let used = &self.memory.used;
        used.set(used.get() - self.charged);
        self.memory.freed.raise();
    }
}

#[cfg(test)]
mod tests {
    use super::{PayloadMemory, RESERVE_BYTES, Rc, Share};

    const MIB: usize = 1 << 20;

    fn memory(pool_bytes: usize) -> (aio::AioContext, Rc<PayloadMemory>) {
        let config = aio::Config {
            buffer_bytes_max: pool_bytes,
            ..aio::Config::default()
        };
        let cx = aio::AioContext::new(config).unwrap();
        let memory = PayloadMemory::new(cx.buffers().clone());
        (cx, memory)
    }

    /// Takes buffers of `want` bytes until none is to be had.
    fn take_all(memory: &Rc<PayloadMemory>, share: &Rc<Share>, want: usize) -> Vec<super::Charge> {
        let taken = std::iter::from_fn(|| memory.try_take(share, want).map(|(_, charge)| charge));
        taken.take(10_000).collect()
    }

    #[test]
    fn a_client_is_behind_while_replies_of_two_mebibytes_wait_to_be_sent() {
        let (_cx, memory) = memory(64 * MIB);
        let share = Rc::new(Share::default());
        let mut charges = take_all(&memory, &share, MIB);
        assert!(!share.is_behind(), "nothing is there yet");
        charges[0].ready();
        assert!(!share.is_behind());
        charges[1].ready();
        assert!(share.is_behind());
        drop(charges.swap_remove(1));
        assert!(!share.is_behind());
        drop(charges);
        assert_eq!((share.held.get(), share.ready.get()), (0, 0));
    }

    #[test]
    fn a_greedy_client_stops_at_half_and_the_next_at_half_of_the_rest() {
        let (_cx, memory) = memory(64 * MIB);
        let shares = [0; 2].map(|_| Rc::new(Share::default()));

        let first = take_all(&memory, &shares[0], MIB);
        let second = take_all(&memory, &shares[1], MIB);

        assert_eq!((first.len(), second.len()), (16, 8));
        drop(first);
        assert_eq!(shares[0].held.get(), 0);
        drop(second);
        assert_eq!(memory.used.get(), 0);
    }

    #[test]
    fn whoever_holds_nothing_always_gets_something_and_then_waits() {
        let (_cx, memory) = memory(4 * MIB);
        let hogs: Vec<_> = (0..100)
            .map(|_| take_all(&memory, &Rc::new(Share::default()), 4096))
            .collect();
        let share = Rc::new(Share::default());

        let (buf, charge) = memory.try_take(&share, 2 * MIB).unwrap();
        assert_eq!(buf.len(), RESERVE_BYTES);
        assert!(memory.try_take(&share, 4096 * 64).is_none());
        drop(charge);
        assert!(memory.try_take(&share, 2 * MIB).is_some());
        assert!(hogs.iter().all(|hog| !hog.is_empty()));
    }
}
