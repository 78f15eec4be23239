//! What ends up in the target: every byte, nothing past the end, holes as holes.

use block::{
    copy::TargetContent,
    nodes::{FaultOp, MemoryOptions},
};
use drivers::backup::BackupOptions;

use super::world::{
    CLUSTER, Disks, MIB, World, cluster, on_each_backend, options, pattern, range, seen, write,
};

const LENGTHS: [u64; 8] = [
    0,
    1,
    511,
    CLUSTER - 1,
    CLUSTER,
    CLUSTER + 1,
    MIB + 513,
    10 * MIB,
];

#[test]
fn every_byte_is_copied_whatever_the_length() {
    on_each_backend(|cx| async move {
        for len in LENGTHS {
            let world = World::full(&cx, len).await;
            let backup = world.back_up(options()).await;

            assert!(
                world.target_bytes().await == pattern(world.whole(), 1),
                "{len} bytes"
            );
            let report = backup.report();
            assert_eq!((report.len_bytes, report.done_bytes), (len, len));
            assert_eq!(report.counters.buffered_bytes, len);
            let progress = backup.job().progress().snapshot();
            assert_eq!((progress.current, progress.total), (len, len));
        }
    });
}

#[test]
fn no_request_goes_past_the_end() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, MIB + 513).await;
        world.back_up(options()).await;

        let requests = [world.at_source.seen(), world.at_target.seen()].concat();
        assert!(requests.iter().all(|(_, range)| range.end() <= MIB + 513));
        let written = world.at_target.seen().into_iter();
        let ends = written.map(|(_, range)| range.end());
        assert_eq!(ends.max(), Some(MIB + 513));
    });
}

#[test]
fn disks_with_blocks_are_copied_to_their_unaligned_end() {
    on_each_backend(|cx| async move {
        for (at_source, at_target) in [(512, 4096), (4096, 512), (4096, 1)] {
            let len = MIB + 3 * 4096;
            let disk = |request_align_bytes| MemoryOptions {
                request_align_bytes,
                ..MemoryOptions::new(len)
            };
            let world =
                World::with_disks(&cx, Disks::with_options(disk(at_source), disk(at_target)));
            let bytes = pattern(world.whole(), 5);
            write(&world.guest, &cx, 0, &bytes).await.unwrap();
            let backup = world.back_up(options()).await;

            assert!(world.target_bytes().await == bytes);
            assert_eq!(backup.report().counters.bounced_bytes, 0);
        }
    });
}

/// One cluster of data in each MiB, from the second on.
async fn sparse(world: &World) {
    for number in [17, 33, 64] {
        let bytes = pattern(cluster(number), 3);
        let at = cluster(number).start();
        write(&world.guest, &world.cx, at, &bytes).await.unwrap();
    }
}

#[test]
fn holes_stay_holes_on_a_target_of_anything() {
    on_each_backend(|cx| async move {
        let world = World::new(&cx, 8 * MIB);
        sparse(&world).await;
        let junk = vec![0xee; usize::try_from(8 * MIB).unwrap()];
        let target = super::world::attach(&world.graph, &world.target);
        write(&target, &cx, 0, &junk).await.unwrap();
        drop(target);
        let backup = world.back_up(options()).await;

        assert!(world.target_bytes().await == world.source_bytes().await);
        let counters = backup.report().counters;
        assert_eq!(counters.buffered_bytes, 3 * CLUSTER);
        assert_eq!(counters.zero_bytes, 8 * MIB - 3 * CLUSTER);
        assert_eq!(counters.skipped_bytes, 0);
        assert_eq!(allocated(&world), 3 * CLUSTER);
    });
}

/// What the memory below the target takes.
fn allocated(world: &World) -> u64 {
    let memory = world.graph.node("target-memory").unwrap();
    let text = format!("{memory:?}");
    let (_, rest) = text.split_once("allocated_bytes: ").unwrap();
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

#[test]
fn a_target_of_zeroes_is_written_no_zeroes() {
    on_each_backend(|cx| async move {
        let world = World::new(&cx, 8 * MIB);
        sparse(&world).await;
        let on_zeroes = BackupOptions {
            target_content: TargetContent::Zero,
            ..options()
        };
        let backup = world.back_up(on_zeroes).await;

        assert!(world.target_bytes().await == world.source_bytes().await);
        assert_eq!(seen(&world.at_target, FaultOp::WriteZeroes), 0);
        assert_eq!(seen(&world.at_target, FaultOp::Discard), 0);
        let counters = backup.report().counters;
        assert_eq!(counters.skipped_bytes, 8 * MIB - 3 * CLUSTER);
        assert_eq!(counters.zero_bytes, 0);
    });
}

#[test]
fn a_large_hole_takes_few_requests() {
    on_each_backend(|cx| async move {
        let world = World::new(&cx, 1 << 40);
        let bytes = pattern(range(0, 10), 1);
        let last = (1 << 40) - 10;
        write(&world.guest, &cx, last, &bytes).await.unwrap();
        let backup = world.back_up(options()).await;

        // Not one for each of sixteen million clusters, but not one for all of them either: a guest
        // that writes into the hole waits for the request that zeroes it.
        let requests = seen(&world.at_target, FaultOp::WriteZeroes);
        assert!((1000..5000).contains(&requests), "{requests} requests");
        assert_eq!(backup.report().counters.buffered_bytes, CLUSTER);
        let target = super::world::attach(&world.graph, &world.target);
        let end = super::world::read(&target, &cx, range(last, 10)).await;
        assert_eq!(end, bytes);
    });
}
