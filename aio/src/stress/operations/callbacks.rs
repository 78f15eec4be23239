//! Posts, bottom halves, timers and handlers of descriptors, mostly on other contexts.

use std::{
    cell::RefCell,
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crate::{
    Blocking, Drained, EventNotifier, Fd, FdCallbacks, IoBuf, SendPart, Timer, TimerClock,
    clock::Clock,
    stress::world::{Callback, Peer, Seen, Stream, settled},
};

use super::data::pattern;

/// Far beyond the limit of an operation, and no reason to wake up.
const FAR_NS: u64 = 3_600_000_000_000;

/// Posts arrive, each once, before what is posted after them.
pub(super) async fn posts(stream: &mut Stream) {
    let peer = stream.peer();
    let posts = stream.random.below(50) + 1;
    let count = Arc::new(AtomicU64::new(0));
    for _ in 0..posts {
        let count = count.clone();
        let nests = stream.random.once_in(100);
        peer.handle.schedule(move |cx| {
            count.fetch_add(1, Ordering::Relaxed);
            if nests {
                cx.poll(Blocking::No);
            }
        });
        if stream.random.once_in(20) {
            stream.cx.yield_now().await;
        }
    }
    let counted = peer.handle.call(move |_| count.load(Ordering::Relaxed));
    if let Some(counted) = settled(counted.join().await, &peer) {
        assert_eq!(counted, posts, "posts got lost, or came twice");
    }
}

/// Drops `value` here or at `peer`, so that its callback is never called again, and waits until that is freed.
async fn delete<T: Send + 'static>(stream: &mut Stream, peer: &Peer, value: T, seen: Arc<Seen>) {
    stream.step("deleting");
    if stream.random.once_in(2) {
        drop(value);
    } else {
        let seen = seen.clone();
        peer.handle.schedule(move |_| {
            drop(value);
            seen.gone.store(true, Ordering::Release);
        });
    }
    seen.freed().await;
    seen.gone.store(true, Ordering::Release);
}

pub(super) async fn bottom_half(stream: &mut Stream) {
    let (peer, seen) = (stream.peer(), Arc::new(Seen::default()));
    let callback = Callback(seen.clone());
    let make = peer
        .handle
        .call(move |cx| cx.bottom_half("stress", move |_| callback.run()));
    let Some(bottom_half) = settled(make.join().await, &peer) else {
        return;
    };
    for run in 1..=stream.random.below(30) + 1 {
        seen.wanted.store(run, Ordering::Release);
        match stream.random.below(8) {
            0 => {
                bottom_half.schedule_idle();
                seen.caught_up().await;
            }
            1 => {
                bottom_half.schedule();
                bottom_half.cancel();
                bottom_half.schedule();
            }
            2..4 => {
                bottom_half.schedule();
                seen.caught_up().await;
            }
            _ => bottom_half.schedule(),
        }
    }
    stream.step("last run");
    bottom_half.schedule();
    seen.caught_up().await;
    bottom_half.schedule();
    delete(stream, &peer, bottom_half, seen).await;
}

/// A timer of `peer` that notes each run.
async fn make_timer(peer: &Peer, clock: TimerClock, seen: &Arc<Seen>) -> Option<Timer> {
    let callback = Callback(seen.clone());
    let make = peer
        .handle
        .call(move |cx| cx.timer("stress", clock, move |_| callback.run()));
    settled(make.join().await, peer)
}

/// A timer that other threads arm fires, and not before its time.
pub(super) async fn timer(stream: &mut Stream) {
    let (peer, seen) = (stream.peer(), Arc::new(Seen::default()));
    let deadline_ns = Arc::new(AtomicU64::new(0));
    let (callback, deadline) = (Callback(seen.clone()), deadline_ns.clone());
    let make = peer.handle.call(move |cx| {
        cx.timer("stress", TimerClock::Loop, move |cx| {
            assert!(cx.now_ns() >= deadline.load(Ordering::Acquire), "too early");
            callback.run();
        })
    });
    let Some(timer) = settled(make.join().await, &peer) else {
        return;
    };
    for run in 1..=stream.random.below(6) + 1 {
        if stream.random.once_in(2) {
            // The loop may go to sleep for the later deadline meanwhile.
            let far_ns = Clock::Monotonic.now_ns() + FAR_NS;
            timer.arm_at_ns(far_ns);
            stream.cx.sleep_ns(stream.random.below(200_000)).await;
        }
        let near_ns = Clock::Monotonic.now_ns() + stream.random.below(1_000_000);
        deadline_ns.store(near_ns, Ordering::Release);
        seen.wanted.store(run, Ordering::Release);
        if stream.random.once_in(3) {
            timer.arm_earlier_ns(near_ns);
        } else {
            timer.arm_at_ns(near_ns);
        }
        stream.step("waiting for the timer");
        seen.caught_up().await;
    }
    timer.arm_at_ns(Clock::Monotonic.now_ns() + stream.random.below(100_000));
    delete(stream, &peer, timer, seen).await;
}

/// Moving a clock by hand makes its timers fire.
pub(super) async fn virtual_timer(stream: &mut Stream) {
    let (peer, seen) = (stream.peer(), Arc::new(Seen::default()));
    let Some(timer) = make_timer(&peer, TimerClock::Virtual, &seen).await else {
        return;
    };
    for run in 1..=stream.random.below(6) + 1 {
        seen.wanted.store(run, Ordering::Release);
        timer.arm_at_ns(peer.clock.now_ns() + 1000);
        if stream.random.once_in(2) {
            stream.cx.sleep_ns(stream.random.below(100_000)).await;
        }
        peer.clock.advance_ns(1000);
        stream.step("waiting for the timer");
        seen.caught_up().await;
    }
    delete(stream, &peer, timer, seen).await;
}

/// A timer that its home thread cancels does not fire any more.
pub(super) async fn cancelled_timer(stream: &mut Stream) {
    let (peer, seen) = (stream.peer(), Arc::new(Seen::default()));
    let Some(timer) = make_timer(&peer, TimerClock::Loop, &seen).await else {
        return;
    };
    seen.wanted.store(1, Ordering::Release);
    timer.arm_at_ns(Clock::Monotonic.now_ns() + stream.random.below(300_000));
    if stream.random.once_in(2) {
        stream.cx.sleep_ns(stream.random.below(300_000)).await;
    }
    let then = seen.clone();
    let cancel = peer.handle.call(move |_| {
        timer.cancel();
        then.gone.store(true, Ordering::Release);
        timer
    });
    let Some(timer) = settled(cancel.join().await, &peer) else {
        return;
    };
    stream.cx.sleep_ns(stream.random.below(500_000)).await;
    delete(stream, &peer, timer, seen).await;
}

/// An event that is set is seen, whatever it came in between.
pub(super) async fn event(stream: &mut Stream) {
    let (peer, seen) = (stream.peer(), Arc::new(Seen::default()));
    let notifier = EventNotifier::new().unwrap();
    let (callback, watched) = (Callback(seen.clone()), notifier.clone());
    let add = move |cx: &crate::AioContext| {
        cx.add_event_notifier(&watched, "stress", move |_| callback.run())
    };
    let added = peer.handle.call(add).join().await;
    let Some(handler) = settled(added, &peer) else {
        return;
    };
    let handler = handler.expect("an event can be watched");
    for run in 1..=stream.random.below(20) + 1 {
        seen.wanted.store(run, Ordering::Release);
        notifier.set();
        if stream.random.once_in(3) {
            stream.step("waiting for the event");
            seen.caught_up().await;
        }
    }
    stream.step("waiting for the last event");
    seen.caught_up().await;
    notifier.set();
    delete(stream, &peer, handler, seen).await;
}

/// Keeps the thread of `peer` busy until that is set; does nothing on that thread itself.
fn hold_up(peer: &Peer, until: Arc<AtomicBool>) {
    let hold = move |_: &crate::AioContext| {
        while !until.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
    };
    if !peer.handle.is_home() {
        peer.handle.schedule(hold);
    }
}

/// Events that happen all at once, more than a tiny ring has room for, are all seen.
pub(super) async fn burst(stream: &mut Stream) {
    let peer = stream.peer();
    let events: Vec<_> = (0..stream.random.below(40) + 1)
        .map(|_| (EventNotifier::new().unwrap(), Arc::new(Seen::default())))
        .collect();
    let watched = events.clone();
    let add = move |cx: &crate::AioContext| {
        let add = |(notifier, seen)| {
            let callback = Callback(seen);
            let added = cx.add_event_notifier(&notifier, "stress", move |_| callback.run());
            added.expect("an event can be watched")
        };
        watched.into_iter().map(add).collect::<Vec<_>>()
    };
    let Some(handlers) = settled(peer.handle.call(add).join().await, &peer) else {
        return;
    };
    for run in 1..=stream.random.below(4) + 1 {
        let all_set = Arc::new(AtomicBool::new(false));
        hold_up(&peer, all_set.clone());
        // Nothing is awaited from here on, so the other is not held up for long.
        for (notifier, seen) in &events {
            seen.wanted.store(run, Ordering::Release);
            notifier.set();
        }
        all_set.store(true, Ordering::Release);
        for (_, seen) in &events {
            stream.step("waiting for the events");
            seen.caught_up().await;
        }
    }
    drop(handlers);
    stream.step("deleting");
    for (_, seen) in &events {
        seen.freed().await;
    }
}

/// Takes some of what is there, and compares it with what was sent.
fn take_some(mut socket: &UnixStream, seen: &Seen, most: usize) -> Drained {
    let mut bytes = [0; 512];
    for _ in 0..3 {
        let count = match socket.read(&mut bytes[..most]) {
            Ok(0) => return Drained::Maybe,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Drained::Yes,
            Err(error) => panic!("receiving: {error}"),
        };
        let start = seen.ran.load(Ordering::Relaxed);
        for (at, &byte) in (start..).zip(&bytes[..count]) {
            assert_eq!(byte, pattern(0, at), "another byte at {at}");
        }
        seen.ran.store(start + count as u64, Ordering::Release);
    }
    Drained::Maybe
}

/// A handler that takes a part at a time sees every byte.
pub(super) async fn readable(stream: &mut Stream) {
    let (peer, seen) = (stream.peer(), Arc::new(Seen::default()));
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let most = stream.random.size(500) + 12;
    let callback = Callback(seen.clone());
    let add = move |cx: &crate::AioContext| {
        let fd = Fd::from(theirs.try_clone().unwrap());
        let read = move |_: &crate::AioContext| {
            let seen = &callback.0;
            assert!(!seen.gone.load(Ordering::Acquire), "called after its end");
            let drained = take_some(&theirs, seen, most);
            seen.bell.ring();
            drained
        };
        cx.add_fd_handler(&fd, FdCallbacks::new("stress").on_readable(read))
    };
    let added = peer.handle.call(add).join().await;
    let Some(handler) = settled(added, &peer) else {
        return;
    };
    let handler = handler.expect("a socket can be watched");
    let ours = Fd::from(ours);
    let mut sent = 0;
    for _ in 0..stream.random.below(10) + 1 {
        let len = stream.random.size(6000) + 1;
        let mut buf = IoBuf::heap(len);
        for (at, byte) in (sent..).zip(&mut *buf) {
            *byte = pattern(0, at);
        }
        sent += len as u64;
        seen.wanted.store(sent, Ordering::Release);
        stream.step("sending");
        let (_, result) = stream.cx.send(&ours, vec![SendPart::whole(buf)]).await;
        if result.is_err() {
            assert!(peer.is_closed(), "sending: {result:?}");
            return;
        }
        if stream.random.once_in(2) {
            stream.step("waiting for the bytes");
            seen.caught_up().await;
        }
    }
    stream.step("waiting for the last bytes");
    seen.caught_up().await;
    delete(stream, &peer, handler, seen).await;
}

/// A handler that fills a socket, and removes itself when it has sent all.
pub(super) async fn writable(stream: &mut Stream) {
    let (peer, seen) = (stream.peer(), Arc::new(Seen::default()));
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let total = stream.random.below(600_000) + 1;
    let callback = Callback(seen.clone());
    let add = move |cx: &crate::AioContext| {
        let fd = Fd::from(theirs.try_clone().unwrap());
        let own = Rc::new(RefCell::new(None));
        let slot = own.clone();
        let write = move |_: &crate::AioContext| {
            let seen = &callback.0;
            assert!(!seen.gone.load(Ordering::Acquire), "called after its end");
            let start = seen.ran.load(Ordering::Relaxed);
            let count = usize::try_from((total - start).min(50_000)).unwrap();
            let bytes: Vec<u8> = (start..).take(count).map(|at| pattern(0, at)).collect();
            match (&theirs).write(&bytes) {
                Ok(count) => seen.ran.store(start + count as u64, Ordering::Release),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Drained::Yes,
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                Err(error) => panic!("sending: {error}"),
            }
            if seen.ran.load(Ordering::Relaxed) == total {
                seen.gone.store(true, Ordering::Release);
                drop(own.borrow_mut().take());
            }
            Drained::Maybe
        };
        let handler = cx.add_fd_handler(&fd, FdCallbacks::new("stress").on_writable(write));
        *slot.borrow_mut() = Some(handler.expect("a socket can be watched"));
    };
    let added = peer.handle.call(add).join().await;
    if settled(added, &peer).is_none() {
        return;
    }
    let ours = Fd::from(ours);
    let mut received = 0;
    while received < total {
        let len = stream.random.size(40_000) + 1;
        let (buf, result) = stream.cx.recv(&ours, IoBuf::heap(len), 0..len).await;
        let count = result.unwrap();
        if count == 0 {
            assert!(peer.is_closed(), "the sender stopped before the end");
            return;
        }
        for (at, &byte) in (received..).zip(&buf[..count]) {
            assert_eq!(byte, pattern(0, at), "another byte at {at}");
        }
        received += count as u64;
    }
    stream.step("deleting");
    seen.freed().await;
}
