//! Random reads of 4 KiB, 64 at a time: `aio` against a raw ring that does only this, and runtimes.

use std::{fs::File, os::unix::fs::FileExt};

use aio::BackendKind;
use benches::{
    BLOCK_BYTES, DEPTH, Loop, Races, RandomBlocks, Scratch, Side, direct_reads,
    raw_counter::{Counter, Event},
    raw_ring::RawReader,
    skipped,
};

use crate::peers;

/// Reads of a round: enough that beginning and end of a round do not count.
const READS: u64 = 1024;
const FILE_MIB: u64 = 64;

pub(crate) fn run(races: &mut Races) {
    let storages = [
        ("tmpfs", Scratch::in_memory as fn(u64) -> Option<Scratch>),
        ("disk", Scratch::on_disk),
    ];
    for (storage, make) in storages {
        let name = |what: &str| format!("{what}/{storage}/");
        if !races.wants(&name("disk_read")) && !races.wants(&name("system_calls")) {
            continue;
        }
        let Some(scratch) = make(FILE_MIB) else {
            continue;
        };
        for backend in [BackendKind::IoUring, BackendKind::Epoll] {
            reads(races, &scratch, backend);
        }
        system_calls(races, &scratch);
    }
}

fn reads(races: &mut Races, scratch: &Scratch, backend: BackendKind) {
    let name = format!("disk_read/{}/{backend}", scratch.name());
    if !races.wants(&name) {
        return;
    }
    let open = || scratch.open().expect("a scratch file opens");
    let Ok(mut raw) = RawReader::new(open(), scratch.blocks(), DEPTH) else {
        skipped("there is no ring with registered memory to compare with");
        return;
    };
    let raw = Side::new("raw_ring", |rounds| {
        raw.read(rounds * READS)
            .expect("a scratch file can be read");
    });
    let (Some(context), Some(ring)) = (Loop::on(backend), Loop::best()) else {
        return;
    };
    let mut sides = vec![raw];
    if scratch.name() == "tmpfs" {
        sides.push(pread(open(), scratch.blocks()));
    }
    if backend == BackendKind::Epoll && ring.backend() == BackendKind::IoUring {
        sides.push(direct_reads("aio_on_io_uring", &ring, scratch, READS));
    }
    if backend == BackendKind::IoUring {
        sides.extend(peers::random_reads(scratch, READS));
    }
    races.race(
        &name,
        READS,
        direct_reads("aio", &context, scratch, READS),
        sides,
    );
}

/// One read after the other by system calls: all there is to gain where nothing waits.
fn pread(file: File, mut blocks: RandomBlocks) -> Side<'static> {
    let mut buf = vec![0; BLOCK_BYTES];
    Side::new("pread", move |rounds| {
        for _ in 0..rounds * READS {
            file.read_exact_at(&mut buf, blocks.next_offset())
                .expect("a scratch file can be read");
        }
    })
}

/// How often the kernel is entered for a read, and how often it hands one to a thread of its own.
fn system_calls(races: &mut Races, scratch: &Scratch) {
    const ROUNDS: u64 = 64;
    let name = |what: &str| format!("system_calls/{}/{what}_per_read", scratch.name());
    let measure = |count: &dyn Fn(&Loop) -> Option<u64>| {
        let context = Loop::on(BackendKind::IoUring)?;
        let mut side = direct_reads("aio", &context, scratch, READS);
        // What is only done once is done before.
        side.run(1);
        let before = count(&context)?;
        side.run(ROUNDS);
        let after = count(&context)?;
        Some((after - before) as f64 / (ROUNDS * READS) as f64)
    };
    races.figure(&name("enters_by_our_count"), "calls", || {
        measure(&|context| Some(context.stats().enters))
    });
    let events = [
        ("enters", Event::IoUringEnter),
        ("punts", Event::IoUringPunt),
    ];
    for (what, event) in events {
        let name = name(what);
        races.figure(&name, "calls", || {
            let counter = Counter::start(event);
            let counter = counter.inspect_err(|error| skipped(format_args!("{name}: {error}")));
            let counter = counter.ok()?;
            measure(&|_| Some(counter.count()))
        });
    }
}
