//! What we are measured against: other runtimes, each behind the same few calls.

mod on_compio;
mod on_monoio;
mod on_smol;
mod on_tokio;

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    io,
    rc::Rc,
    task::Poll,
    thread,
};

use ::tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use benches::{BLOCK_BYTES, DEPTH, RandomBlocks, Scratch, Side, pin_to, skipped};

use crate::raw_buffer::{Buffer, Region};

pub(crate) use on_compio::OnCompio;
pub(crate) use on_monoio::OnMonoio;
pub(crate) use on_smol::OnSmol;
pub(crate) use on_tokio::OnTokio;

/// A runtime on the calling thread.
pub(crate) trait Peer: Sized + 'static {
    /// What results call it.
    const NAME: &'static str;
    /// An open file.
    type File: Clone + 'static;

    fn start() -> io::Result<Self>;

    /// Runs `future` to its end, and with it what it spawns.
    fn run<F: Future>(&self, future: F) -> F::Output;

    /// Starts a task; called within [`run`](Self::run) only. What is returned waits for its end.
    fn spawn(
        &self,
        future: impl Future<Output = ()> + 'static,
    ) -> impl Future<Output = ()> + 'static;

    /// Opens `scratch` for reading.
    fn open(&self, scratch: &Scratch) -> io::Result<Self::File>;

    /// Reads what fills `buffer`, and gives that back.
    fn read(
        file: &Self::File,
        offset_bytes: u64,
        buffer: Buffer,
    ) -> impl Future<Output = Buffer> + 'static;
}

/// Starts a peer, or says why it cannot be had.
pub(crate) fn start<P: Peer>() -> Option<P> {
    P::start()
        .inspect_err(|error| skipped(format_args!("{}: {error}", P::NAME)))
        .ok()
}

/// Something that is to be done with each peer.
pub(crate) trait ForEachPeer {
    type Output;

    fn visit<P: Peer>(&mut self) -> Option<Self::Output>;
}

/// Does it with each peer that can be had.
pub(crate) fn for_each<V: ForEachPeer>(mut visitor: V) -> Vec<V::Output> {
    let all = [
        visitor.visit::<OnTokio>(),
        visitor.visit::<OnMonoio>(),
        visitor.visit::<OnCompio>(),
        visitor.visit::<OnSmol>(),
    ];
    all.into_iter().flatten().collect()
}

/// Sides that read random blocks of `scratch`, [`DEPTH`] at a time and `units` in a round.
pub(crate) fn random_reads(scratch: &Scratch, units: u64) -> Vec<Side<'static>> {
    for_each(RandomReads { scratch, units })
}

struct RandomReads<'a> {
    scratch: &'a Scratch,
    units: u64,
}

impl ForEachPeer for RandomReads<'_> {
    type Output = Side<'static>;

    fn visit<P: Peer>(&mut self) -> Option<Side<'static>> {
        let peer = start::<P>()?;
        let file = peer.open(self.scratch);
        let file = file.inspect_err(|error| skipped(format_args!("{}: {error}", P::NAME)));
        let file = file.ok()?;
        let buffers = Region::leak(DEPTH as usize * BLOCK_BYTES);
        let work = Rc::new(Work {
            left: Cell::new(0),
            blocks: RefCell::new(self.scratch.blocks()),
            buffers: RefCell::new(buffers.cut(BLOCK_BYTES)),
        });
        let units = self.units;
        Some(Side::new(P::NAME, move |rounds| {
            work.left.set(rounds * units);
            peer.run(in_tasks(&peer, DEPTH, || {
                read_often::<P>(file.clone(), work.clone())
            }));
        }))
    }
}

/// Runs `count` tasks side by side to their end.
async fn in_tasks<P: Peer, F>(peer: &P, count: u32, task: impl Fn() -> F)
where
    F: Future<Output = ()> + 'static,
{
    let tasks: Vec<_> = (0..count).map(|_| peer.spawn(task())).collect();
    for task in tasks {
        task.await;
    }
}

/// Reads of one call that are still to be made, and the buffers for them.
struct Work {
    left: Cell<u64>,
    blocks: RefCell<RandomBlocks>,
    buffers: RefCell<Vec<Buffer>>,
}

impl Work {
    fn next_offset(&self) -> Option<u64> {
        self.left.set(self.left.get().checked_sub(1)?);
        Some(self.blocks.borrow_mut().next_offset())
    }
}

async fn read_often<P: Peer>(file: P::File, work: Rc<Work>) {
    let buffer = work.buffers.borrow_mut().pop();
    let mut buffer = buffer.expect("there is one for each task");
    while let Some(offset_bytes) = work.next_offset() {
        buffer = P::read(&file, offset_bytes, buffer).await;
    }
    work.buffers.borrow_mut().push(buffer);
}

/// Lets other tasks have a turn: the same on every runtime, whatever its own yield does besides.
async fn yield_once() {
    let mut has_yielded = false;
    let yielded = poll_fn(|cx| {
        if has_yielded {
            return Poll::Ready(());
        }
        has_yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    });
    yielded.await;
}

/// Sides on which each of `count` tasks yields once a round.
pub(crate) fn yields(count: u32) -> Vec<Side<'static>> {
    for_each(Yields { count })
}

struct Yields {
    count: u32,
}

impl ForEachPeer for Yields {
    type Output = Side<'static>;

    fn visit<P: Peer>(&mut self) -> Option<Side<'static>> {
        let (peer, count) = (start::<P>()?, self.count);
        Some(Side::new(P::NAME, move |rounds| {
            peer.run(in_tasks(&peer, count, || yield_often(rounds)));
        }))
    }
}

async fn yield_often(times: u64) {
    for _ in 0..times {
        yield_once().await;
    }
}

/// Sides that wake a second thread, on processor `cpu`, which wakes them.
///
/// All use tokio's channel, so that what differs is the runtime.
pub(crate) fn round_trips(cpu: usize) -> Vec<Side<'static>> {
    for_each(RoundTrips { cpu })
}

struct RoundTrips {
    cpu: usize,
}

impl ForEachPeer for RoundTrips {
    type Output = Side<'static>;

    fn visit<P: Peer>(&mut self) -> Option<Side<'static>> {
        let peer = start::<P>()?;
        let mut echo = Echo::start::<P>(self.cpu);
        Some(Side::new(P::NAME, move |rounds| {
            peer.run(echo.round_trips(rounds));
        }))
    }
}

/// A second thread that answers, on a runtime of its own.
struct Echo {
    /// `None` when it is to end.
    pings: Option<UnboundedSender<()>>,
    pongs: UnboundedReceiver<()>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Echo {
    fn start<P: Peer>(cpu: usize) -> Self {
        let (pings, pinged) = unbounded_channel();
        let (pong, pongs) = unbounded_channel();
        let thread = thread::spawn(move || {
            pin_to(cpu);
            let peer = P::start().expect("there was one on the first thread");
            peer.run(answer(pinged, pong));
        });
        Self {
            pings: Some(pings),
            pongs,
            thread: Some(thread),
        }
    }

    async fn round_trips(&mut self, count: u64) {
        for _ in 0..count {
            let sent = self.pings.as_ref().is_some_and(|it| it.send(()).is_ok());
            assert!(sent, "the echo lives");
            self.pongs.recv().await.expect("the echo lives");
        }
    }
}

/// The second thread: answers until there is nobody who asks.
async fn answer(mut pinged: UnboundedReceiver<()>, pong: UnboundedSender<()>) {
    while pinged.recv().await.is_some() && pong.send(()).is_ok() {}
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.pings = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has told so already.
            drop(thread.join());
        }
    }
}
