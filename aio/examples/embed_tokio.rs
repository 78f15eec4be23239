//! A context as a guest of tokio: `cargo run -p aio --example embed_tokio`.
//!
//! A service that lives on tokio copies a file through a context of the same thread, while a timer
//! of tokio's ticks, another thread posts work to the context, and a device signals an event. Tasks
//! of the two await each other's futures.

#![expect(clippy::print_stdout, reason = "an example shows what it did")]

use std::{
    cell::Cell,
    error::Error,
    io::{self, Write},
    rc::Rc,
    time::Duration,
};

use aio::{AioContext, Config, EventNotifier, Fd, ForeignSource, Handle};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::oneshot,
    task::{LocalSet, spawn_blocking, spawn_local},
    time::{MissedTickBehavior, interval},
};

const CHUNK_BYTES: usize = 256 << 10;
const CHUNKS: u64 = 64;

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let cx = AioContext::new(Config::default())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // A context stays on its thread, and so do the tasks that use it: tokio calls that a local set.
    let result = LocalSet::new().block_on(&runtime, service(cx.clone()));
    // The local set has dropped its tasks, and with them all that was watched of the context.
    cx.close();
    result
}

/// All there is to driving a context: turn it whenever its descriptor is readable.
#[expect(
    deprecated,
    reason = "newer tokio wants the word of an `unsafe` block that the descriptor is the source's own; it is"
)]
async fn drive(source: ForeignSource) -> io::Result<()> {
    let source = AsyncFd::with_interest(source, Interest::READABLE)?;
    loop {
        let mut ready = source.readable().await?;
        // tokio sees edges and remembers them. It has to forget this one before the turn, or it
        // would forget what happens during it.
        ready.clear_ready();
        source.get_ref().turn();
    }
}

async fn service(cx: AioContext) -> Result<(), Box<dyn Error>> {
    let driver = spawn_local(drive(cx.foreign_source()?));
    let ticks = Rc::new(Cell::new(0));
    let ticker = spawn_local(tick(ticks.clone()));

    let events = Rc::new(Cell::new(0));
    let device = EventNotifier::new()?;
    let count = events.clone();
    let handler = cx.add_event_notifier(&device, "device", move |_| count.set(count.get() + 1))?;
    let handle = cx.handle().clone();
    let other = spawn_blocking(move || post_from_another_thread(&handle, &device));

    let from = Fd::from(source_file()?);
    let to = Fd::from(tempfile::tempfile()?);
    // A task of the context, whose result is awaited by a task of tokio's.
    let copied_bytes = cx.spawn(copy(cx.clone(), from.clone(), to.clone())).await?;
    // A future of the context, run by tokio itself.
    let checked_bytes = spawn_local(check(cx.clone(), from, to)).await??;

    // And the other way round: a task of the context that awaits tokio's channel.
    let (sender, receiver) = oneshot::channel();
    let answer = cx.spawn(receiver);
    sender
        .send("an answer through tokio")
        .expect("the task waits");
    let answer = answer.await?;

    let posts = other.await?;
    driver.abort();
    ticker.abort();
    drop(handler);
    println!("backend: {}", cx.describe());
    println!("copied {copied_bytes} bytes, checked {checked_bytes}");
    println!("meanwhile {} ticks of tokio's timer", ticks.get());
    println!(
        "{posts} posts of another thread, {} events of a device",
        events.get()
    );
    println!("a task of the context got {answer}");
    Ok(())
}

/// Something else that the thread does, so that one sees that the context does not keep it to itself.
async fn tick(ticks: Rc<Cell<u64>>) {
    let mut every = interval(Duration::from_millis(1));
    every.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        every.tick().await;
        ticks.set(ticks.get() + 1);
    }
}

/// Copies chunk by chunk, with a pause of the context's own now and then.
async fn copy(cx: AioContext, from: Fd, to: Fd) -> io::Result<u64> {
    let mut copied_bytes = 0;
    for chunk in 0..CHUNKS {
        let offset_bytes = chunk * CHUNK_BYTES as u64;
        let buf = cx.buffers().acquire(CHUNK_BYTES).await;
        let (buf, read) = cx.read_exact(&from, offset_bytes, buf).await;
        read?;
        let (buf, written) = cx.write_all(&to, offset_bytes, buf).await;
        written?;
        copied_bytes += buf.len() as u64;
        if chunk % 16 == 15 {
            cx.sleep_ns(2_000_000).await;
        }
    }
    cx.fdatasync(&to).await?;
    Ok(copied_bytes)
}

/// Compares the two files; returns how many bytes are equal.
async fn check(cx: AioContext, from: Fd, to: Fd) -> io::Result<u64> {
    let mut equal_bytes = 0;
    for chunk in 0..CHUNKS {
        let offset_bytes = chunk * CHUNK_BYTES as u64;
        let (ours, theirs) = (
            cx.buffers().acquire(CHUNK_BYTES).await,
            cx.buffers().acquire(CHUNK_BYTES).await,
        );
        let (ours, read) = cx.read_exact(&from, offset_bytes, ours).await;
        read?;
        let (theirs, read) = cx.read_exact(&to, offset_bytes, theirs).await;
        read?;
        if ours[..] != theirs[..] {
            return Err(io::Error::other(format!("chunk {chunk} differs")));
        }
        equal_bytes += ours.len() as u64;
    }
    Ok(equal_bytes)
}

/// What another thread does with the context: it calls functions there, and signals an event.
fn post_from_another_thread(handle: &Handle, device: &EventNotifier) -> u64 {
    let mut posts = 0;
    for _ in 0..100 {
        posts = handle.call(move |_| posts + 1).wait();
        device.set();
    }
    posts
}

/// A file in which no two chunks are equal.
fn source_file() -> io::Result<std::fs::File> {
    let mut file = tempfile::tempfile()?;
    for chunk in 0..CHUNKS {
        let line = format!("chunk {chunk:>9}\n");
        file.write_all(line.repeat(CHUNK_BYTES / line.len()).as_bytes())?;
    }
    Ok(file)
}
