//! Dropping everything while reads are in flight: does the kernel write into memory given back?
//!
//! Buffers are marked at the moment in which they are free for something else; what is found
//! overwritten half a second later was written by the kernel after that.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    thread,
    time::Duration,
};

use aio::{Config, Fd, IoBuf};
use benches::{CHUNK_BYTES, Loop, Races, Scratch, rest};
use tokio::sync::oneshot;

use crate::{
    peers::{ForEachPeer, Peer, for_each, start},
    raw_buffer::{Marks, Region},
};

/// Reads that are in flight when all is dropped, each of a chunk.
const READS: u32 = 64;
/// How long the reads run before that: a small part of what they need.
const HEAD_START: Duration = Duration::from_millis(1);
/// How long late writes are waited for.
const PATIENCE: Duration = Duration::from_millis(500);

pub(crate) fn run(races: &mut Races) {
    if !races.wants("drop_in_flight/") {
        return;
    }
    let Some(scratch) = Scratch::on_disk(READS.into()) else {
        return;
    };
    let unit = "bytes written after their buffers were given back";
    races.figure("drop_in_flight/aio", unit, || ours(&scratch));
    let scratch = &scratch;
    for_each(Peers {
        races,
        scratch,
        unit,
    });
}

struct Peers<'a> {
    races: &'a Races,
    scratch: &'a Scratch,
    unit: &'static str,
}

impl ForEachPeer for Peers<'_> {
    type Output = ();

    fn visit<P: Peer>(&mut self) -> Option<()> {
        let name = format!("drop_in_flight/{}", P::NAME);
        self.races
            .figure(&name, self.unit, || theirs::<P>(self.scratch));
        None
    }
}

/// Begins `reads`, lets them run for [`HEAD_START`], and returns those that have not ended then.
async fn begun<F: Future>(reads: Vec<F>) -> Vec<Pin<Box<F>>> {
    let (over, is_over) = oneshot::channel();
    // Another thread wakes us, so that the runtime waits and submits meanwhile.
    thread::spawn(move || {
        rest(HEAD_START);
        over.send(())
    });
    let mut reads: Vec<_> = reads.into_iter().map(Box::pin).collect();
    let mut is_over = pin!(is_over);
    poll_fn(|cx| {
        reads.retain_mut(|read| read.as_mut().poll(cx).is_pending());
        is_over.as_mut().poll(cx)
    })
    .await
    .expect("the other thread tells");
    reads
}

fn theirs<P: Peer>(scratch: &Scratch) -> Option<f64> {
    let peer = start::<P>()?;
    let file = peer.open(scratch).expect("a scratch file opens");
    let region = Region::leak(READS as usize * CHUNK_BYTES);
    let marks = Marks::new(region, CHUNK_BYTES);
    peer.run(async {
        let chunks = (0..).step_by(CHUNK_BYTES).zip(marks.buffers());
        let read = |(offset_bytes, buffer)| P::read(&file, offset_bytes, buffer);
        drop(begun(chunks.map(read).collect()).await);
    });
    drop(file);
    drop(peer);
    rest(PATIENCE);
    Some(marks.written_bytes() as f64)
}

/// What our buffers are filled with when the pool gives them out again.
const MARK: u8 = 0xa5;

fn ours(scratch: &Scratch) -> Option<f64> {
    let context = Loop::with(Config {
        buffer_bytes_max: READS as usize * CHUNK_BYTES,
        ..Config::default()
    })?;
    let file = Fd::from(scratch.open().expect("a scratch file opens"));
    let pool = context.buffers().clone();
    // Whatever the pool gives out is free by its own word.
    let mut free: Vec<IoBuf> = Vec::new();
    let take_free = |free: &mut Vec<IoBuf>| {
        while let Some(mut buf) = pool.try_acquire(CHUNK_BYTES) {
            buf.fill(MARK);
            free.push(buf);
        }
    };
    context.block_on(async {
        let mut reads = Vec::new();
        for chunk in 0..READS {
            let buf = pool.acquire(CHUNK_BYTES).await;
            let offset_bytes = u64::from(chunk) * (CHUNK_BYTES as u64);
            reads.push(context.read(&file, offset_bytes, buf));
        }
        drop(begun(reads).await);
        // The loop goes on for a few turns, and then ends with what is still in flight.
        for _ in 0..READS / 2 {
            take_free(&mut free);
            context.yield_now().await;
        }
    });
    drop(context);
    take_free(&mut free);
    assert_eq!(
        free.len(),
        READS as usize,
        "all buffers are free after the end"
    );
    rest(PATIENCE);
    let written = |buf: &IoBuf| buf.iter().filter(|&&byte| byte != MARK).count();
    Some(free.iter().map(written).sum::<usize>() as f64)
}
