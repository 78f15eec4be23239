//! Threads of their own for contexts: `cargo run -p aio --example io_threads`.
//!
//! The main thread has no loop. It starts two threads that have one, has each read and sum up half
//! of a file, changes their parameters while they run, sends a task from one to the other and back,
//! and ends them when nobody holds them.

#![expect(clippy::print_stdout, reason = "an example shows what it did")]

use std::{error::Error, io, io::Write};

use aio::{AioContext, ByteSemaphore, Config, Fd, IoThread, PollParams};

const CHUNK_BYTES: usize = 128 << 10;
const CHUNKS: u64 = 128;

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let mut file = tempfile::tempfile()?;
    for chunk in 0..CHUNKS {
        file.write_all(&vec![(chunk % 251) as u8; CHUNK_BYTES])?;
    }
    let expected: u64 = (0..CHUNKS)
        .map(|chunk| chunk % 251 * CHUNK_BYTES as u64)
        .sum();
    let file = Fd::from(file);

    let threads = [
        IoThread::start(Config::for_io_thread("io0"))?,
        IoThread::start(Config::for_io_thread("io1"))?,
    ];
    // Tasks of both threads share one budget of memory; whoever would exceed it waits its turn.
    let budget = ByteSemaphore::new(8 * CHUNK_BYTES as u64);
    let halves = [0..CHUNKS / 2, CHUNKS / 2..CHUNKS];
    let sums = threads.iter().zip(halves).map(|(thread, chunks)| {
        let (file, budget) = (file.clone(), budget.clone());
        // What comes after this is made on the other thread, so it need not be `Send`.
        let start = move |cx: AioContext| async move {
            let tasks =
                chunks.map(|chunk| cx.spawn(sum(cx.clone(), file.clone(), budget.clone(), chunk)));
            let tasks: Vec<_> = tasks.collect();
            let mut total = 0;
            for task in tasks {
                total += task.await?;
            }
            io::Result::Ok(total)
        };
        thread.handle().spawn(start)
    });
    let sums: Vec<_> = sums.collect();

    // Both at work, and nobody has to stop for this.
    for thread in &threads {
        thread.handle().set_poll_params(PollParams::OFF);
        thread.handle().set_thread_pool_limits(1, 8)?;
    }
    let mut total = 0;
    for sum in sums {
        // Blocks, which a thread without a loop may. It could be awaited as well, on any runtime.
        total += sum.wait()?;
    }
    println!("sum {total}, expected {expected}");
    println!("a task was on {}", travel(&threads).join(", then on "));
    for thread in threads {
        end(thread)?;
    }
    if total == expected {
        Ok(())
    } else {
        Err("the sum is wrong".into())
    }
}

async fn sum(cx: AioContext, file: Fd, budget: ByteSemaphore, chunk: u64) -> io::Result<u64> {
    let _bytes = budget
        .acquire(CHUNK_BYTES as u64)
        .await
        .map_err(io::Error::other)?;
    let buf = cx.buffers().acquire(CHUNK_BYTES).await;
    let (buf, read) = cx.read_exact(&file, chunk * CHUNK_BYTES as u64, buf).await;
    read?;
    Ok(buf.iter().map(|&byte| u64::from(byte)).sum())
}

/// Has a task go from one thread to the other, and back; returns where it was.
fn travel([first, second]: &[IoThread; 2]) -> Vec<String> {
    let (home, away) = (first.handle().clone(), second.handle().clone());
    // It moves, so it keeps no context: where it is, it asks for the one that is there.
    let here = || AioContext::current().map(|cx| cx.handle().name().to_owned());
    let journey = first.handle().spawn_migratable(async move {
        let mut stations = Vec::from_iter(here());
        for next in [&away, &home] {
            aio::reschedule_to(next).await;
            stations.extend(here());
        }
        stations
    });
    journey.wait()
}

/// Ends a thread, which is refused while somebody holds it.
fn end(thread: IoThread) -> Result<(), Box<dyn Error>> {
    let stats = thread
        .handle()
        .call(|cx| (cx.describe(), cx.stats()))
        .wait();
    let (name, (backend, stats)) = (thread.handle().name().to_owned(), stats);
    println!(
        "{name}: {} turns, {} system calls, {backend}",
        stats.turns, stats.enters
    );
    let hold = thread.hold("the example");
    let refused = match thread.delete() {
        Ok(()) => return Err("a thread in use was ended".into()),
        Err(refused) => refused,
    };
    println!("{refused}");
    drop(hold);
    refused.thread.delete()?;
    Ok(())
}
