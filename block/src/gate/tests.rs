//! What a gate promises, seen by one thread, and a storm of many.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use super::{Gate, RequestGuard};
use crate::testing::block_on;

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn an_open_gate_lets_in_at_once() {
    let gate = Gate::default();
    let guard = RequestGuard::try_enter(&gate);
    assert_eq!(gate.inside(), 1);
    drop(guard);
    assert_eq!(gate.inside(), 0);
}

#[test]
fn a_closed_gate_holds_new_requests_until_the_last_open() {
    let gate = Gate::default();
    gate.close();
    gate.close();
    let mut entering = pin!(RequestGuard::enter(&gate));

    assert!(poll(&mut entering).is_pending());
    gate.open();
    assert!(poll(&mut entering).is_pending());
    gate.open();

    assert!(poll(&mut entering).is_ready());
}

#[test]
fn emptiness_is_reached_when_the_last_request_leaves() {
    let gate = Gate::default();
    let (first, second) = (
        RequestGuard::try_enter(&gate),
        RequestGuard::try_enter(&gate),
    );
    gate.close();
    let mut emptied = pin!(gate.wait_empty());

    assert!(poll(&mut emptied).is_pending());
    drop(first);
    assert!(poll(&mut emptied).is_pending());
    drop(second);

    assert!(poll(&mut emptied).is_ready());
}

#[test]
fn dropping_a_waiter_leaves_neither_waker_nor_count() {
    let gate = Gate::default();
    gate.close();
    {
        let mut entering = pin!(RequestGuard::enter(&gate));
        assert!(poll(&mut entering).is_pending());
        assert_eq!(gate.outside.len(), 1);
    }
    assert_eq!(gate.outside.len(), 0);
    assert_eq!(gate.inside(), 0);
}

#[test]
fn a_waiter_that_lost_interest_goes_away_while_the_gate_stays_closed() {
    let gate = Gate::default();
    gate.close();
    let wanted = std::cell::Cell::new(true);
    let mut entering = pin!(RequestGuard::enter_if(&gate, || wanted.get()));
    assert!(poll(&mut entering).is_pending());

    wanted.set(false);
    gate.ask_again();

    assert!(matches!(poll(&mut entering), Poll::Ready(None)));
    assert_eq!(gate.inside(), 0);
}

#[test]
fn a_storm_of_threads_never_meets_the_one_who_closed() {
    let gate = Arc::new(Gate::default());
    let value = Arc::new(AtomicU64::new(0));
    let serve = async |gate: &Gate, value: &AtomicU64| {
        let _inside = RequestGuard::enter(gate).await;
        value.fetch_add(1, Ordering::Relaxed);
    };
    let threads = [(); 4].map(|()| {
        let (gate, value) = (gate.clone(), value.clone());
        std::thread::spawn(move || (0..2000).for_each(|_| block_on(serve(&gate, &value))))
    });
    for _ in 0..200 {
        block_on(async {
            gate.close();
            gate.wait_empty().await;
            let before = value.load(Ordering::Relaxed);
            std::thread::yield_now();
            assert_eq!(value.load(Ordering::Relaxed), before);
            gate.open();
        });
    }
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(value.load(Ordering::Relaxed), 8000);
}
