//! A bounded pool of buffers in huge-page slabs, first come first served.

// UNSAFETY: turns a block of a slab into the one buffer that may touch it.
#![expect(
    unsafe_code,
    reason = "hands out memory of the pool's slabs as buffers"
)]

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    io,
    pin::Pin,
    ptr::NonNull,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use super::{
    BUFFER_BYTES_MAX, IoBuf, Mapping,
    buddy::{Buddy, PAGE_BYTES, SLAB_PAGES},
};

/// The buffers of one context: at most so many bytes, in slabs the kernel is told of in advance.
///
/// Cheap to clone; clones are one pool. It may be used on any thread, and buffers be dropped on any;
/// they serve best in requests of their own context, whose kernel side knows them. It outlives its
/// context as long as somebody has a clone, or a buffer.
#[derive(Clone, Debug)]
pub struct BufferPool {
    shared: Arc<PoolShared>,
}

impl BufferPool {
    /// A pool of at most `bytes_max` bytes, at least one slab; memory is mapped as it is first needed.
    pub(crate) fn new(bytes_max: usize) -> Self {
        let slabs_max = bytes_max
            .div_ceil(BUFFER_BYTES_MAX)
            .clamp(1, usize::from(u16::MAX));
        let state = State {
            buddy: Buddy::new(),
            slabs: Vec::new(),
            waiters: VecDeque::new(),
            next_ticket: 0,
        };
        Self {
            shared: Arc::new(PoolShared {
                slabs_max,
                state: Mutex::new(state),
            }),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<PoolShared> {
        &self.shared
    }

    /// Waits for a buffer of `len` bytes, in the order of asking: a small one waits behind a large one.
    ///
    /// A task that holds buffers and waits for more may wait for itself; it had better ask for all at
    /// once, or give back first. Dropping the future gives up the place in the queue.
    ///
    /// # Panics
    ///
    /// When `len` exceeds [`BUFFER_BYTES_MAX`], which no pool could ever give.
    #[must_use]
    pub fn acquire(&self, len: usize) -> Acquire {
        assert!(
            len <= BUFFER_BYTES_MAX,
            "a pool gives buffers of at most {BUFFER_BYTES_MAX} bytes, not {len}"
        );
        Acquire {
            pool: self.shared.clone(),
            len,
            ticket: None,
        }
    }

    /// A buffer of `len` bytes if one is free and nobody waits for one; `None` too when `len`
    /// exceeds [`BUFFER_BYTES_MAX`].
    #[must_use]
    pub fn try_acquire(&self, len: usize) -> Option<IoBuf> {
        let mut state = self.shared.lock();
        if len > BUFFER_BYTES_MAX || !state.waiters.is_empty() {
            return None;
        }
        self.shared.take(&mut state, len)
    }

    /// Most bytes the pool will ever hold: what was configured, rounded up to whole slabs.
    #[must_use]
    pub fn bytes_max(&self) -> usize {
        self.shared.slabs_max * BUFFER_BYTES_MAX
    }

    /// Bytes in buffers that somebody, or the kernel, has now, counted with what each is rounded up to.
    #[must_use]
    pub fn bytes_in_use(&self) -> usize {
        self.shared.lock().buddy.bytes_in_use()
    }
}

/// The pool as its buffers see it: they find back to it from any thread.
pub(crate) struct PoolShared {
    slabs_max: usize,
    state: Mutex<State>,
}

struct State {
    buddy: Buddy,
    slabs: Vec<Mapping>,
    waiters: VecDeque<Waiter>,
    next_ticket: u64,
}

struct Waiter {
    ticket: u64,
    waker: Waker,
}

impl PoolShared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slab that holds `block`.
    pub(super) fn slab_of(block: u32) -> u16 {
        u16::try_from(block / SLAB_PAGES).expect("a pool has at most u16::MAX slabs")
    }

    /// Most slabs the pool will ever have.
    pub(crate) fn slabs_max(&self) -> usize {
        self.slabs_max
    }

    /// Address and length of slab `slab`, which stays mapped as long as the pool or a buffer of it lives.
    pub(crate) fn slab(&self, slab: u16) -> (NonNull<u8>, usize) {
        let state = self.lock();
        let mapping = &state.slabs[usize::from(slab)];
        (mapping.start(), mapping.len())
    }

    /// Takes a block and makes it a buffer; maps another slab if that is needed and allowed.
    fn take(self: &Arc<Self>, state: &mut State, len: usize) -> Option<IoBuf> {
        let order = Buddy::order_of(len);
        let mut block = state.buddy.take(order);
        if block.is_none() && state.slabs.len() < self.slabs_max {
            state
                .grow()
                .inspect_err(|error| tracing::warn!(%error, "cannot map more buffers"))
                .ok()?;
            block = state.buddy.take(order);
        }
        let block = block?;
        let page = usize::try_from(block % SLAB_PAGES).expect("a page number fits an index");
        let slab = state.slabs[usize::from(Self::slab_of(block))].start();
        // SAFETY: a block's pages lie within its slab.
        let start = unsafe { slab.add(page * PAGE_BYTES) };
        // SAFETY: the buddy allocator lends the block to nobody else until it is given back, and
        // the buffer's clone of the pool keeps the slab mapped.
        let mut buf =
            unsafe { IoBuf::pooled(self.clone(), block, start, Buddy::block_bytes(order)) };
        buf.set_len(len);
        Some(buf)
    }

    /// Gives `block` back and wakes who has waited longest. Any thread.
    pub(super) fn give_back(&self, block: u32) {
        let mut state = self.lock();
        state.buddy.give_back(block);
        let waker = state.waiters.front().map(|waiter| waiter.waker.clone());
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl State {
    fn grow(&mut self) -> io::Result<()> {
        self.slabs.push(Mapping::slab()?);
        self.buddy.add_slab();
        Ok(())
    }

    /// Removes the waiter with `ticket`; returns who is first in the queue then.
    fn leave_queue(&mut self, ticket: u64) -> Option<Waker> {
        self.waiters.retain(|waiter| waiter.ticket != ticket);
        self.waiters.front().map(|waiter| waiter.waker.clone())
    }
}

impl fmt::Debug for PoolShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        let (slabs, waiters) = (state.slabs.len(), state.waiters.len());
        f.debug_struct("PoolShared")
            .field("slabs", &slabs)
            .field("slabs_max", &self.slabs_max)
            .field("waiters", &waiters)
            .finish_non_exhaustive()
    }
}

/// Waits for a buffer; made by [`BufferPool::acquire`].
#[derive(Debug)]
pub struct Acquire {
    pool: Arc<PoolShared>,
    len: usize,
    ticket: Option<u64>,
}

impl Future for Acquire {
    type Output = IoBuf;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<IoBuf> {
        let this = &mut *self;
        let mut state = this.pool.lock();
        let first = state.waiters.front().map(|waiter| waiter.ticket);
        if first == this.ticket
            && let Some(buf) = this.pool.take(&mut state, this.len)
        {
            // What is left may do for the next in the queue too.
            let next = this
                .ticket
                .take()
                .and_then(|ticket| state.leave_queue(ticket));
            drop(state);
            if let Some(next) = next {
                next.wake();
            }
            return Poll::Ready(buf);
        }
        let waker = cx.waker().clone();
        match this.ticket {
            Some(ticket) => {
                let waiter = state
                    .waiters
                    .iter_mut()
                    .find(|waiter| waiter.ticket == ticket);
                waiter
                    .expect("a waiter leaves the queue only with its future")
                    .waker = waker;
            }
            None => {
                let ticket = state.next_ticket;
                state.next_ticket += 1;
                state.waiters.push_back(Waiter { ticket, waker });
                this.ticket = Some(ticket);
            }
        }
        Poll::Pending
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let next = self.pool.lock().leave_queue(ticket);
        // A wake-up meant for this future must not be lost on the way.
        if let Some(next) = next {
            next.wake();
        }
    }
}
