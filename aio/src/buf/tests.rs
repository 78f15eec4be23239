//! Buffers and their pool.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use super::{BUFFER_ALIGN_BYTES, BUFFER_BYTES_MAX, BufferPool, IoBuf};

#[derive(Default)]
struct CountingWaker(AtomicUsize);

impl Wake for CountingWaker {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_buffer_is_aligned_and_its_bytes_are_its_own() {
    let pool = BufferPool::new(BUFFER_BYTES_MAX);
    let mut bufs: Vec<IoBuf> = (0..8).map(|_| pool.try_acquire(5000).unwrap()).collect();
    for (value, buf) in (0u8..).zip(&mut bufs) {
        buf.fill(value);
    }
    for (value, buf) in (0u8..).zip(&bufs) {
        assert_eq!(buf.as_ptr().align_offset(BUFFER_ALIGN_BYTES), 0);
        assert_eq!((buf.len(), buf.capacity()), (5000, 8192));
        assert!(buf.iter().all(|&byte| byte == value));
    }
}

#[test]
fn the_pool_never_exceeds_its_bound_and_takes_buffers_back() {
    let pool = BufferPool::new(2 * BUFFER_BYTES_MAX);
    let first = pool.try_acquire(BUFFER_BYTES_MAX).unwrap();
    let second = pool.try_acquire(BUFFER_BYTES_MAX).unwrap();

    assert!(pool.try_acquire(1).is_none());
    assert_eq!(pool.bytes_in_use(), pool.bytes_max());
    drop((first, second));
    assert_eq!(pool.bytes_in_use(), 0);
    assert!(pool.try_acquire(BUFFER_BYTES_MAX + 1).is_none());
}

#[test]
fn waiters_are_served_in_order_even_when_a_smaller_request_would_fit() {
    let pool = BufferPool::new(BUFFER_BYTES_MAX);
    let wakes = Arc::new(CountingWaker::default());
    let waker = Waker::from(wakes.clone());
    let mut cx = Context::from_waker(&waker);
    let small = pool.try_acquire(4096).unwrap();
    let mut whole = pin!(pool.acquire(BUFFER_BYTES_MAX));
    let mut page = pin!(pool.acquire(4096));

    assert!(whole.as_mut().poll(&mut cx).is_pending());
    assert!(
        page.as_mut().poll(&mut cx).is_pending(),
        "a page is free, but somebody came first"
    );
    assert!(pool.try_acquire(4096).is_none());

    drop(small);
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
    let Poll::Ready(buf) = whole.as_mut().poll(&mut cx) else {
        panic!("the slab is free")
    };
    assert_eq!(
        wakes.0.load(Ordering::Relaxed),
        2,
        "the next in the queue is told to look"
    );
    drop(buf);
    assert!(page.as_mut().poll(&mut cx).is_ready());
}

#[test]
fn a_waiter_that_gives_up_passes_its_turn_on() {
    let pool = BufferPool::new(BUFFER_BYTES_MAX);
    let wakes = Arc::new(CountingWaker::default());
    let waker = Waker::from(wakes.clone());
    let mut cx = Context::from_waker(&waker);
    let half = pool.try_acquire(BUFFER_BYTES_MAX / 2).unwrap();
    let mut page = pin!(pool.acquire(4096));
    {
        let mut whole = pin!(pool.acquire(BUFFER_BYTES_MAX));
        assert!(whole.as_mut().poll(&mut cx).is_pending());
        assert!(page.as_mut().poll(&mut cx).is_pending());
    }
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
    assert!(page.as_mut().poll(&mut cx).is_ready());
    drop(half);
}

#[test]
fn a_buffer_outlives_its_pool() {
    let pool = BufferPool::new(BUFFER_BYTES_MAX);
    let mut buf = pool.try_acquire(4096).unwrap();
    drop(pool);
    buf.fill(7);
    assert!(buf.iter().all(|&byte| byte == 7));
}

#[test]
#[should_panic(expected = "do not fit")]
fn a_length_beyond_the_capacity_is_our_own_bug() {
    IoBuf::heap(10).set_len(4097);
}
