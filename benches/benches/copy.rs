//! Copies in chunks of 1 MiB from file to file on a disk, past the page cache.

use std::{
    cell::Cell,
    fs::File,
    os::unix::fs::FileExt,
    rc::Rc,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use aio::{AioContext, Fd, IoBuf};
use benches::{CHUNK_BYTES, Loop, Races, Scratch, Side, raw_copy::RawCopier, skipped};

/// Chunks of a file, which a round copies.
const CHUNKS: u64 = 128;
/// How many chunks at once are tried. Both rings race with what is best for the bare one: depth
/// changes the processor time more than anything else does.
const DEPTHS: [u32; 4] = [2, 4, 8, 16];
/// Threads of the pool.
const THREADS: usize = 4;

pub(crate) fn run(races: &mut Races) {
    if !races.wants("copy/disk") {
        return;
    }
    let (from, to) = (Scratch::on_disk(CHUNKS), Scratch::on_disk(CHUNKS));
    let (Some(context), Some(from), Some(to)) = (Loop::best(), from, to) else {
        return;
    };
    let Some((depth, raw)) = best(|depth| raw_ring(&from, &to, depth)) else {
        return skipped("there is no ring with registered memory to compare with");
    };
    races.figure("copy/disk/depth", "chunks at once", || Some(depth.into()));
    let ours = ours(&context, &from, &to, depth);
    let peers = vec![raw, thread_pool(&from, &to)];
    races.race("copy/disk", CHUNKS, ours, peers);
}

/// The fastest of the sides that `make` makes for each of [`DEPTHS`], with its depth.
fn best<'a>(mut make: impl FnMut(u32) -> Option<Side<'a>>) -> Option<(u32, Side<'a>)> {
    let timed = |depth| -> Option<(Duration, u32, Side<'a>)> {
        let mut side = make(depth)?;
        side.run(1);
        Some((side.run(3), depth, side))
    };
    let sides = DEPTHS.into_iter().filter_map(timed);
    let (_, depth, side) = sides.min_by_key(|(took, ..)| *took)?;
    Some((depth, side))
}

fn raw_ring(from: &Scratch, to: &Scratch, depth: u32) -> Option<Side<'static>> {
    let mut copier = RawCopier::new(source(from), target(to), depth).ok()?;
    Some(Side::new("raw_ring", move |rounds| {
        for _ in 0..rounds {
            copier.copy(CHUNKS).expect("scratch files can be copied");
        }
    }))
}

fn source(scratch: &Scratch) -> File {
    scratch.open().expect("a scratch file opens")
}

fn target(scratch: &Scratch) -> File {
    let file = scratch.open_for_writing();
    file.expect("a scratch file opens")
}

fn ours<'a>(context: &'a Loop, from: &Scratch, to: &Scratch, depth: u32) -> Side<'a> {
    let (from, to) = (Fd::from(source(from)), Fd::from(target(to)));
    let registered = [&from, &to].map(|file| context.register_file(file));
    Side::new("aio", move |rounds| {
        // They are registered for as long as this closure lives.
        let _kept = &registered;
        for _ in 0..rounds {
            context.block_on(copy_all(context, &from, &to, depth));
        }
    })
}

async fn copy_all(context: &Loop, from: &Fd, to: &Fd, depth: u32) {
    let next = Rc::new(Cell::new(0));
    let copy = |_| {
        let (from, to) = (from.clone(), to.clone());
        context.spawn(copy((*context).clone(), from, to, next.clone()))
    };
    let tasks: Vec<_> = (0..depth).map(copy).collect();
    for task in tasks {
        task.await;
    }
}

/// Copies one chunk after the other, until there is none left.
async fn copy(context: AioContext, from: Fd, to: Fd, next: Rc<Cell<u64>>) {
    let mut buf: IoBuf = context.buffers().acquire(CHUNK_BYTES).await;
    while next.get() < CHUNKS {
        let offset_bytes = next.replace(next.get() + 1) * (CHUNK_BYTES as u64);
        let (filled, read) = context.read_exact(&from, offset_bytes, buf).await;
        read.expect("a scratch file can be read");
        let (written, wrote) = context.write_all(&to, offset_bytes, filled).await;
        wrote.expect("a scratch file can be written");
        buf = written;
    }
}

/// As many programs do it: a few threads with a buffer each, on ordinary pages.
fn thread_pool(from: &Scratch, to: &Scratch) -> Side<'static> {
    let (from, to) = (source(from), target(to));
    Side::new("thread_pool", move |rounds| {
        for _ in 0..rounds {
            copy_in_threads(&from, &to);
        }
    })
}

fn copy_in_threads(from: &File, to: &File) {
    let next = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| copy_by_calls(from, to, &next));
        }
    });
}

fn copy_by_calls(from: &File, to: &File, next: &AtomicU64) {
    // Its address suits the device, unlike that of a `Vec`.
    let mut buf = IoBuf::heap(CHUNK_BYTES);
    loop {
        let chunk = next.fetch_add(1, Ordering::Relaxed);
        if chunk >= CHUNKS {
            return;
        }
        let offset_bytes = chunk * (CHUNK_BYTES as u64);
        let read = from.read_exact_at(&mut buf, offset_bytes);
        read.expect("a scratch file can be read");
        let wrote = to.write_all_at(&buf, offset_bytes);
        wrote.expect("a scratch file can be written");
    }
}
