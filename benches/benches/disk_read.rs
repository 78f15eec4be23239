//! Random reads of 4 KiB, 64 at a time: `aio` against a raw ring that does only this.
#![forbid(unsafe_code)]

use std::{fs::File, os::unix::fs::FileExt};

use aio::{BackendKind, Fd};
use benches::{
    BLOCK_BYTES, DEPTH, Loop, Races, RandomBlocks, Scratch, Side, random_reads,
    raw_ring::RawReader, skipped,
};

/// Reads of a round: enough that beginning and end of a round do not count.
const READS: u64 = 1024;
const FILE_MIB: u64 = 64;

fn main() {
    benches::races(|races| {
        let storages = [Scratch::in_memory(FILE_MIB), Scratch::on_disk(FILE_MIB)];
        for scratch in storages.iter().flatten() {
            for backend in [BackendKind::IoUring, BackendKind::Epoll] {
                reads(races, scratch, backend);
            }
        }
    });
}

fn reads(races: &mut Races, scratch: &Scratch, backend: BackendKind) {
    let open = || scratch.open().expect("a scratch file opens");
    let Ok(mut raw) = RawReader::new(open(), scratch.blocks(), DEPTH) else {
        skipped("there is no ring with registered memory to compare with");
        return;
    };
    let Some(context) = Loop::on(backend) else {
        return;
    };
    let file = Fd::from(open());
    let ours = random_reads("aio", &context, scratch, READS, move |cx, offset, buf| {
        let file = file.clone();
        async move {
            let (buf, count) = cx.read(&file, offset, buf).await;
            assert_eq!(count.ok(), Some(BLOCK_BYTES), "a scratch file can be read");
            buf
        }
    });
    let raw = Side::new("raw_ring", |rounds| {
        raw.read(rounds * READS)
            .expect("a scratch file can be read");
    });
    let mut peers = vec![raw];
    if scratch.name() == "tmpfs" {
        peers.push(pread(open(), scratch.blocks()));
    }
    let name = format!("disk_read/{}/{backend}", scratch.name());
    races.race(&name, READS, ours, peers);
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
