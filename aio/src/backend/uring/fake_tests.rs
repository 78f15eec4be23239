//! The ring's backend against a kernel that we play.

use std::{
    future::{Future, poll_fn},
    io::{self, Read, Write},
    os::unix::{fs::FileExt, net::UnixStream},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
};

use proptest::prelude::*;

use super::{
    fake::{FakeKernel, Faults},
    setup::Entries,
};
use crate::{
    AioContext, Blocking, BufferPool, Config, Fd, IoBuf, SendPart,
    backend::{test_ring::TestRing, tests_on_each::each_backend},
};

const ROOMY: Entries = Entries {
    submission: 64,
    completion: 256,
};
const TINY: Entries = Entries {
    submission: 4,
    completion: 8,
};

fn context(kernel: &FakeKernel) -> AioContext {
    AioContext::new(Config {
        test_ring: Some(TestRing::Fake(kernel.clone())),
        ..Config::default()
    })
    .unwrap()
}

/// A file whose byte at each offset is known.
fn patterned(len: usize) -> Fd {
    let file = tempfile::tempfile().unwrap();
    let bytes: Vec<u8> = (0..len).map(pattern).collect();
    file.write_all_at(&bytes, 0).unwrap();
    Fd::from(file)
}

fn pattern(at: usize) -> u8 {
    u8::try_from((at / 7 + at / 256) % 251).unwrap()
}

type Boxed<T> = Pin<Box<dyn Future<Output = T>>>;

fn poll<T>(future: &mut Boxed<T>) -> Poll<T> {
    future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
}

/// A buffer of the pool, which nothing in the fake kernel may still use.
fn fresh(cx: &AioContext, kernel: &FakeKernel, len: usize) -> IoBuf {
    let buf = cx.buffers().try_acquire(len).expect("the pool is large");
    let start = buf.as_ptr().addr();
    for (used, used_len) in kernel.memory_in_use() {
        assert!(
            used + used_len <= start || start + buf.capacity() <= used,
            "a buffer was given back while the kernel had it"
        );
    }
    buf
}

#[test]
fn what_is_dropped_in_the_kernel_is_given_back_when_the_kernel_has_ended_it() {
    let kernel = FakeKernel::new(ROOMY, Faults::default(), 1);
    let cx = context(&kernel);
    let file = patterned(1 << 16);
    kernel.hold();
    let mut reads: Vec<Boxed<(IoBuf, io::Result<usize>)>> = (0..8u64)
        .map(|at| {
            let (cx, file, buf) = (cx.clone(), file.clone(), fresh(&cx, &kernel, 4096));
            Box::pin(async move { cx.read(&file, at * 4096, buf).await }) as Boxed<_>
        })
        .collect();
    assert!(reads.iter_mut().all(|read| poll(read).is_pending()));
    cx.poll(Blocking::No);
    assert_eq!(kernel.in_flight(), 8);
    reads.drain(..5);
    cx.poll(Blocking::No);
    assert_eq!(cx.buffers().bytes_in_use(), 8 * 4096);
    for left in (0..8).rev() {
        assert!(kernel.release(left * 3));
        cx.poll(Blocking::No);
        assert_eq!(kernel.in_flight(), left);
    }
    assert_eq!(cx.buffers().bytes_in_use(), 3 * 4096);
    for (at, read) in reads.iter_mut().enumerate() {
        let Poll::Ready((buf, count)) = poll(read) else {
            unreachable!("it was released")
        };
        assert_eq!(count.unwrap(), 4096);
        assert!((0..4096).all(|byte| buf[byte] == pattern((5 + at) * 4096 + byte)));
    }
    cx.close();
}

#[test]
fn what_is_dropped_before_the_kernel_has_it_is_given_back_at_once() {
    let kernel = FakeKernel::new(TINY, Faults::default(), 1);
    let cx = context(&kernel);
    let file = patterned(1 << 16);
    kernel.hold();
    let mut reads: Vec<Boxed<_>> = (0..30u64)
        .map(|at| {
            let (cx, file, buf) = (cx.clone(), file.clone(), fresh(&cx, &kernel, 4096));
            Box::pin(async move { cx.read(&file, at, buf).await }) as Boxed<_>
        })
        .collect();
    assert!(reads.iter_mut().all(|read| poll(read).is_pending()));
    cx.poll(Blocking::No);
    let in_kernel = kernel.in_flight();
    assert!(in_kernel < 8, "completions of all fit the queue");
    reads.clear();
    cx.poll(Blocking::No);
    assert_eq!(cx.buffers().bytes_in_use(), in_kernel * 4096);
    cx.close();
    assert!(kernel.waits_while_holding() > 0);
}

#[test]
fn closing_waits_for_what_the_kernel_holds() {
    let kernel = FakeKernel::new(ROOMY, Faults::default(), 3);
    let cx = context(&kernel);
    let pool: BufferPool = cx.buffers().clone();
    let file = patterned(1 << 16);
    kernel.hold();
    let task = cx.clone();
    drop(cx.spawn(async move {
        let buf = task.buffers().acquire(4096).await;
        drop(task.write_all(&file, 0, buf).await);
    }));
    cx.poll(Blocking::No);
    cx.poll(Blocking::No);
    assert_eq!((kernel.in_flight(), pool.bytes_in_use()), (1, 4096));
    cx.close();
    assert_eq!((kernel.in_flight(), pool.bytes_in_use()), (0, 0));
    assert_eq!(kernel.waits_while_holding(), 1);
}

#[test]
fn a_write_that_is_to_block_is_made_by_a_thread_and_not_by_the_kernels_ring() {
    let kernel = FakeKernel::new(ROOMY, Faults::default(), 5);
    let cx = context(&kernel);
    let file = patterned(1 << 16);
    file.set_writes_block();
    kernel.hold();
    let buf = fresh(&cx, &kernel, 4096);
    // A ring that is held would end neither this write nor the read.
    let (buf, count) = cx.block_on(cx.write(&file, 8192, buf));
    assert_eq!(count.unwrap(), 4096);
    let mut read: Boxed<(IoBuf, io::Result<usize>)> = {
        let (cx, file) = (cx.clone(), file.clone());
        Box::pin(async move { cx.read(&file, 8192, buf).await })
    };
    assert!(poll(&mut read).is_pending());
    cx.poll(Blocking::No);
    assert_eq!(kernel.in_flight(), 1);
    assert!(kernel.release(0));
    cx.poll(Blocking::No);
    assert!(poll(&mut read).is_ready());
    cx.close();
}

#[test]
fn a_dropped_receive_that_was_to_be_tried_again_is_not() {
    let faults = Faults {
        again: 1000,
        ..Faults::default()
    };
    let kernel = FakeKernel::new(ROOMY, faults, 1);
    let cx = context(&kernel);
    cx.set_max_batch(1);
    let (ours, theirs) = UnixStream::pair().unwrap();
    (&theirs).write_all(b"x").unwrap();
    let fd = Fd::from(ours.try_clone().unwrap());
    let mut receives: Boxed<_> = {
        let (cx, buf) = (cx.clone(), fresh(&cx, &kernel, 4096));
        Box::pin(async move { cx.recv(&fd, buf, 0..4096).await })
    };
    // It is submitted at once, and ends with EINTR, which nobody has seen yet.
    assert!(poll(&mut receives).is_pending());
    assert_eq!((&ours).read(&mut [0; 9]).unwrap(), 1);
    drop(receives);
    let mut turns = 0;
    while cx.stats().requests_in_flight > 0 {
        cx.poll(Blocking::No);
        turns += 1;
        assert!(turns < 100, "it waits for more");
    }
    assert_eq!(cx.buffers().bytes_in_use(), 0);
    cx.close();
}

#[test]
fn watches_are_armed_again_after_the_completion_queue_has_overflown() {
    let kernel = FakeKernel::new(TINY, Faults::default(), 9);
    let cx = context(&kernel);
    let pairs: Vec<_> = (0..20).map(|_| UnixStream::pair().unwrap()).collect();
    let keys: Vec<_> = pairs
        .iter()
        .map(|(ours, _)| {
            let fd = Fd::from(ours.try_clone().unwrap());
            let mut requests = cx.requests().borrow_mut();
            requests.watch(&fd, libc::POLLIN).unwrap()
        })
        .collect();
    for _ in 0..3 {
        for (_, theirs) in &pairs {
            (&*theirs).write_all(b"x").unwrap();
        }
        let mut missing = keys.clone();
        while !missing.is_empty() {
            let mut events = crate::backend::Events::default();
            let mut requests = cx.requests().borrow_mut();
            requests.wait(crate::backend::Wait::Ns(1_000_000_000), &mut events);
            for (key, _) in events.ready {
                missing.retain(|other| *other != key);
            }
        }
        for (ours, _) in &pairs {
            ours.set_nonblocking(true).unwrap();
            while (&*ours).read(&mut [0; 9]).is_ok() {}
        }
    }
    assert!(cx.stats().cq_overflows > 0);
    cx.close();
}

#[test]
fn idle_receives_keep_no_room_from_storage_whatever_the_size_of_the_ring() {
    let kernel = FakeKernel::new(TINY, Faults::default(), 11);
    let cx = context(&kernel);
    let file = patterned(1 << 16);
    let pairs: Vec<_> = (0..40).map(|_| UnixStream::pair().unwrap()).collect();
    let receives: Vec<_> = pairs
        .iter()
        .map(|(ours, _)| {
            let (cx, ours) = (cx.clone(), Fd::from(ours.try_clone().unwrap()));
            cx.clone()
                .spawn(async move { cx.recv(&ours, IoBuf::heap(1), 0..1).await.1.unwrap() })
        })
        .collect();
    cx.block_on(async {
        for at in 0..8u64 {
            let (_, read) = cx.read(&file, at * 4096, IoBuf::heap(4096)).await;
            assert_eq!(read.unwrap(), 4096);
        }
    });
    assert_eq!(kernel.in_flight(), 40);
    // More end at once than the queue holds.
    for (_, theirs) in &pairs {
        (&*theirs).write_all(b"x").unwrap();
    }
    cx.block_on(async {
        for receive in receives {
            assert_eq!(receive.await, 1);
        }
    });
    assert!(cx.stats().cq_overflows > 0);
    cx.close();
}

#[derive(Clone, Debug)]
enum Step {
    Read { at: usize, len: usize },
    Write { len: usize, byte: u8 },
    Echo { len: usize },
    Drop(usize),
    Turn,
    Release(usize),
    Hold,
    LetGo,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..60_000usize, 1..9000usize).prop_map(|(at, len)| Step::Read { at, len }),
        4 => (1..9000usize, any::<u8>()).prop_map(|(len, byte)| Step::Write { len, byte }),
        2 => (1..9000usize).prop_map(|len| Step::Echo { len }),
        4 => any::<usize>().prop_map(Step::Drop),
        6 => Just(Step::Turn),
        3 => any::<usize>().prop_map(Step::Release),
        1 => Just(Step::Hold),
        1 => Just(Step::LetGo),
    ]
}

fn faults() -> impl Strategy<Value = Faults> {
    let some = || prop_oneof![Just(0u32), 1..500u32];
    (some(), some(), some(), some(), some()).prop_map(|(a, b, c, d, e)| Faults {
        enter_fails: a,
        partial_submit: b,
        again: c,
        short: d,
        late: e,
        registers_max: None,
    })
}

/// What a run of random steps works on.
struct Run {
    kernel: FakeKernel,
    cx: AioContext,
    file: Fd,
    /// Where the next write goes; no two touch the same bytes.
    end: u64,
    futures: Vec<Boxed<()>>,
}

impl Run {
    fn start(&mut self, future: impl Future<Output = ()> + 'static) {
        let mut future: Boxed<()> = Box::pin(future);
        if poll(&mut future).is_pending() {
            self.futures.push(future);
        }
    }

    fn read(&mut self, at: usize, len: usize) {
        let (cx, file) = (self.cx.clone(), self.file.clone());
        let buf = fresh(&self.cx, &self.kernel, len);
        self.start(async move {
            let (buf, read) = cx.read_exact(&file, at as u64, buf).await;
            read.unwrap();
            assert!((0..len).all(|byte| buf[byte] == pattern(at + byte)));
        });
    }

    fn write(&mut self, len: usize, byte: u8) {
        let (cx, file, at) = (self.cx.clone(), self.file.clone(), self.end);
        self.end += len as u64;
        let mut buf = fresh(&self.cx, &self.kernel, len);
        buf.fill(byte);
        self.start(async move {
            let (buf, written) = cx.write_all(&file, at, buf).await;
            written.unwrap();
            let (buf, read) = cx.read_exact(&file, at, buf).await;
            read.unwrap();
            assert!(buf.iter().all(|&read| read == byte));
        });
    }

    /// Sends a message to itself.
    fn echo(&mut self, len: usize) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (ours, theirs) = (Rc::new(Fd::from(ours)), Fd::from(theirs));
        let (cx, sender) = (self.cx.clone(), ours.clone());
        let mut sent = fresh(&self.cx, &self.kernel, len);
        sent.fill(7);
        self.start(async move {
            let parts = vec![SendPart::header(b"head"), SendPart::whole(sent)];
            let sent = cx.send(&sender, parts).await.1;
            // Its receiver may have been dropped.
            assert!(sent.is_ok() || Rc::strong_count(&sender) == 1);
        });
        let cx = self.cx.clone();
        let received = fresh(&self.cx, &self.kernel, len + 4);
        self.start(async move {
            let (received, result) = cx.recv_exact(&theirs, received, 0..len + 4).await;
            // Its sender may have been dropped.
            if result.is_ok() {
                assert_eq!(&received[..4], b"head");
                assert!(received[4..].iter().all(|&byte| byte == 7));
            }
            drop(ours);
        });
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Read { at, len } => self.read(at, len.min(65_536 - at)),
            Step::Write { len, byte } => self.write(len, byte),
            Step::Echo { len } => self.echo(len),
            Step::Drop(_) if self.futures.is_empty() => {}
            Step::Drop(at) => drop(self.futures.swap_remove(at % self.futures.len())),
            Step::Turn => {
                self.cx.poll(Blocking::No);
                self.futures.retain_mut(|future| poll(future).is_pending());
            }
            Step::Release(at) => drop(self.kernel.release(at)),
            Step::Hold => self.kernel.hold(),
            Step::LetGo => self.kernel.let_go(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn whatever_is_dropped_and_whatever_the_kernel_does_no_byte_is_wrong_and_no_buffer_lost(
        steps in prop::collection::vec(step(), 1..120),
        faults in faults(),
        tiny in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let kernel = FakeKernel::new(if tiny { TINY } else { ROOMY }, faults, seed);
        let cx = context(&kernel);
        let pool = cx.buffers().clone();
        let file = patterned(65_536);
        let futures = Vec::new();
        let mut run = Run { kernel: kernel.clone(), cx: cx.clone(), file, end: 65_536, futures };
        for step in &steps {
            run.take(step);
        }
        // A few are waited for, the rest is dropped with the context.
        kernel.let_go();
        run.futures.truncate(run.futures.len() / 2 + 1);
        let mut turns = 0;
        while !run.futures.is_empty() && turns < 50 {
            run.take(&Step::Turn);
            turns += 1;
        }
        run.futures.clear();
        drop(run);
        cx.close();
        prop_assert_eq!(pool.bytes_in_use(), 0);
        prop_assert_eq!(kernel.in_flight(), 0);
    }
}

#[test]
fn a_kernel_that_locks_no_more_memory_is_told_of_nothing_and_all_works_as_before() {
    for registers_max in 0..4 {
        let faults = Faults {
            registers_max: Some(registers_max),
            ..Faults::default()
        };
        let kernel = FakeKernel::new(ROOMY, faults, 5);
        let cx = context(&kernel);
        let file = patterned(65_536);
        // One more for the table of buffers, two for what lies in two slabs.
        let bufs: Vec<_> = (0..3).map(|_| fresh(&cx, &kernel, 1 << 20)).collect();
        let guard = cx.register_file(&file);
        cx.block_on(async {
            for buf in bufs {
                let (buf, read) = cx.read(&file, 0, buf).await;
                assert_eq!(read.unwrap(), 65_536);
                assert!((0..65_536).all(|at| buf[at] == pattern(at)));
            }
        });
        let told = cx.describe();
        assert!(told.contains("not registered"), "{told}");
        assert_eq!(guard.is_registered(), registers_max > 1);
        works_on(&cx);
    }
}

#[test]
fn a_whole_context_runs_on_a_fake_kernel_that_does_its_worst() {
    let faults = Faults {
        enter_fails: 100,
        partial_submit: 200,
        again: 200,
        short: 300,
        late: 300,
        registers_max: None,
    };
    for (seed, entries) in [(1, ROOMY), (2, TINY), (3, TINY)] {
        let kernel = FakeKernel::new(entries, faults, seed);
        works_on(&context(&kernel));
    }
}

#[test]
fn what_found_no_room_because_the_ring_could_not_be_entered_is_not_slept_upon() {
    const ONE: Entries = Entries {
        submission: 1,
        completion: 16,
    };
    let faults = Faults {
        enter_fails: 500,
        ..Faults::default()
    };
    for seed in 1..100 {
        let cx = context(&FakeKernel::new(ONE, faults, seed));
        let (silent, _peer) = UnixStream::pair().unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (silent, ours) = (Fd::from(silent), Fd::from(ours));
        theirs.write_all(b"x").unwrap();
        cx.block_on(async {
            // Takes the ring's only entry; what comes behind it needs another.
            let mut first = pin!(cx.recv(&silent, IoBuf::heap(1), 0..1));
            let first = poll_fn(|cx| Poll::Ready(first.as_mut().poll(cx).is_pending()));
            assert!(first.await);
            let second = cx.recv(&ours, IoBuf::heap(1), 0..1);
            let slept = "asleep while an operation was not with the kernel";
            let (_, received) = cx.timeout_ns(10_000_000_000, second).await.expect(slept);
            assert_eq!(received.unwrap(), 1);
        });
        cx.close();
    }
}

#[test]
fn a_whole_context_runs_on_a_tiny_ring_that_cannot_be_entered_now_and_then() {
    if each_backend().all(|backend| backend == crate::BackendKind::Epoll) {
        return;
    }
    for seed in 1..4 {
        let ring = TestRing::Injecting {
            entries: TINY,
            fails: 300,
            seed,
        };
        let cx = AioContext::new(Config {
            test_ring: Some(ring),
            ..Config::default()
        });
        works_on(&cx.unwrap());
    }
}

/// The ring takes the receive, and nothing more for now: not what would end the sleep.
#[test]
fn a_loop_does_not_sleep_while_the_ring_has_no_room_for_its_kick() {
    if each_backend().all(|backend| backend == crate::BackendKind::Epoll) {
        return;
    }
    let entries = Entries {
        submission: 1,
        completion: 8,
    };
    for seed in 1..20 {
        let ring = TestRing::Injecting {
            entries,
            fails: 500,
            seed,
        };
        let cx = AioContext::new(Config {
            test_ring: Some(ring),
            ..Config::default()
        });
        let cx = cx.unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (ours, handle) = (Fd::from(ours), cx.handle().clone());
        let other = std::thread::spawn(move || {
            for _ in 0..20 {
                handle.call(|_| ()).wait();
                theirs.write_all(b"x").unwrap();
            }
        });
        cx.block_on(async {
            for _ in 0..20 {
                let (_, count) = cx.recv(&ours, IoBuf::heap(1), 0..1).await;
                assert_eq!(count.unwrap(), 1);
            }
        });
        other.join().unwrap();
        cx.close();
    }
}

#[test]
fn a_whole_context_runs_on_epoll_whose_waits_are_interrupted() {
    crate::sys::interrupts::set(3);
    let cx = AioContext::new(Config {
        backend: Some(crate::BackendKind::Epoll),
        ..Config::default()
    });
    works_on(&cx.unwrap());
    crate::sys::interrupts::set(0);
}

/// Reads, writes, sends, sleeps, and is woken from another thread.
fn works_on(cx: &AioContext) {
    let file = patterned(65_536);
    let tasks: Vec<_> = (0..40usize)
        .map(|at| {
            let (cx, file) = (cx.clone(), file.clone());
            cx.clone().spawn(async move {
                let buf = cx.buffers().acquire(1000).await;
                let (buf, read) = cx.read_exact(&file, at as u64 * 1000, buf).await;
                read.unwrap();
                assert!((0..1000).all(|byte| buf[byte] == pattern(at * 1000 + byte)));
                cx.sleep_ns(10_000).await;
                let (_, written) = cx.write_all(&file, at as u64 * 1000, buf).await;
                written.unwrap();
                cx.blocking(|| ()).await;
            })
        })
        .collect();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (ours, theirs) = (Fd::from(ours), Fd::from(theirs));
    let receives = {
        let cx = cx.clone();
        cx.clone().spawn(async move {
            let (_, result) = cx
                .recv_exact(&theirs, IoBuf::heap(500_000), 0..500_000)
                .await;
            result.unwrap();
        })
    };
    cx.block_on(async {
        let parts = vec![SendPart::whole(IoBuf::heap(500_000))];
        cx.send(&ours, parts).await.1.unwrap();
        receives.await;
        for task in tasks {
            task.await;
        }
        poll_fn(|_| Poll::Ready(())).await;
    });
    assert_eq!(cx.buffers().bytes_in_use(), 0);
    cx.clone().close();
}
