//! What a copy is given to do: parts of the source, within a budget of memory; and what it tells of that.

use std::sync::{Arc, Mutex};

use super::{
    super::{CopyClass, CopyOptions, CopyProgress, InitialSet, SavedBytes, SourceAfter, testing},
    DirtyBitmap,
};
use crate::{
    allocation::ByteRange,
    error::ErrorKind,
    nodes::{FaultAction, FaultOp, FaultRule},
};
use testing::{CLUSTER, Disks, attach, cluster, clusters, on_each_backend, read, settle};

/// Bits of 4 KiB over a disk of this length.
fn bits(len_bytes: u64, dirty: &[ByteRange]) -> DirtyBitmap {
    let mut bits = DirtyBitmap::new(len_bytes, 4096).unwrap();
    for range in dirty {
        bits.set(*range);
    }
    bits
}

fn of_bitmap(bits: DirtyBitmap) -> CopyOptions {
    CopyOptions {
        initial: InitialSet::Bitmap(bits),
        ..CopyOptions::default()
    }
}

const LEN: u64 = 8 * CLUSTER + 13;

#[test]
fn of_a_bitmap_the_clusters_that_it_touches_are_copied_and_no_others() {
    on_each_backend(|cx| async move {
        let disks = Disks::new(LEN);
        disks.fill(&cx, &disks.source, disks.whole(), 7).await;
        let dirty = [
            ByteRange::between(CLUSTER - 1, CLUSTER + 1),
            ByteRange::between(5 * CLUSTER + 100, 5 * CLUSTER + 101),
            ByteRange::between(LEN - 1, LEN),
        ];
        let copy = disks.copy(of_bitmap(bits(LEN, &dirty))).unwrap();
        let total = 3 * CLUSTER + 13;
        let begun = CopyProgress {
            done_bytes: 0,
            remaining_bytes: total,
        };
        assert_eq!(copy.progress(), begun);
        assert!(!copy.needs_copy(clusters(2, 3)));
        // Nothing to do there, for a guest either.
        copy.ensure_copied(&cx, clusters(2, 3)).await.unwrap();
        assert_eq!(disks.at_target.seen(), []);

        while let Some(claim) = copy.claim(disks.whole(), u64::MAX) {
            copy.copy(&cx, claim).await.unwrap();
        }
        assert!(copy.is_complete());
        let ended = CopyProgress {
            done_bytes: total,
            remaining_bytes: 0,
        };
        assert_eq!(copy.progress(), ended);
        let target = disks.content(&cx, &disks.target).await;
        for (number, part) in target.chunks(usize::try_from(CLUSTER).unwrap()).enumerate() {
            let expected = if [0, 1, 5, 8].contains(&number) { 7 } else { 0 };
            assert!(
                part.iter().all(|byte| *byte == expected),
                "cluster {number}"
            );
        }
    });
}

#[test]
fn a_clean_bitmap_leaves_nothing_to_do() {
    let disks = Disks::new(LEN);
    let copy = disks.copy(of_bitmap(bits(LEN, &[]))).unwrap();
    assert!(copy.is_complete());
    assert_eq!(copy.progress(), CopyProgress::default());
    assert!(copy.claim(disks.whole(), u64::MAX).is_none());
}

#[test]
fn a_bitmap_of_another_length_is_refused() {
    let disks = Disks::new(LEN);
    let refused = disks.copy(of_bitmap(bits(LEN - 1, &[])));
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn what_is_uncopied_includes_what_is_in_flight() {
    on_each_backend(|cx| async move {
        let disks = Disks::new(LEN);
        let copy = disks.copy(CopyOptions::default()).unwrap();
        let first = copy.claim(disks.whole(), CLUSTER).unwrap();
        let second = copy.claim(disks.whole(), CLUSTER).unwrap();
        copy.copy(&cx, second).await.unwrap();

        let uncopied = copy.uncopied().unwrap();
        assert_eq!(uncopied.granularity_bytes(), CLUSTER);
        assert!(uncopied.is_dirty(0) && !uncopied.is_dirty(CLUSTER));
        assert!(uncopied.is_dirty(2 * CLUSTER) && uncopied.is_dirty(LEN - 1));
        let progress = copy.progress();
        assert_eq!(progress.done_bytes, CLUSTER);
        assert_eq!(progress.remaining_bytes, LEN - CLUSTER);
        drop(first);
        assert_eq!(copy.progress(), progress);
    });
}

#[test]
fn the_source_is_discarded_behind_the_copy_and_before_a_guest_writes() {
    on_each_backend(|cx| async move {
        let disks = Disks::new(4 * CLUSTER);
        disks.fill(&cx, &disks.source, disks.whole(), 7).await;
        let options = CopyOptions {
            source_after: SourceAfter::Discarded,
            ..CopyOptions::default()
        };
        let copy = disks.copy(options).unwrap();
        let hold = FaultRule::every(FaultOp::Discard, FaultAction::Hold);
        disks.at_source.add(hold);
        let claim = copy.claim(cluster(1), CLUSTER).unwrap();
        let (working, home) = (copy.clone(), cx.clone());
        let task = cx.spawn(async move { working.copy(&home, claim).await });
        disks.at_source.wait_held(1).await;
        // The target has it; who wants to write there still waits, or the discard would take what he wrote.
        assert!(copy.needs_copy(cluster(1)));
        disks.at_source.release_all();
        task.await.unwrap();
        assert!(!copy.needs_copy(cluster(1)));

        let source = disks.content(&cx, &disks.source).await;
        let inside = usize::try_from(CLUSTER).unwrap()..usize::try_from(2 * CLUSTER).unwrap();
        assert!(source[inside.clone()].iter().all(|byte| *byte == 0));
        let target = disks.content(&cx, &disks.target).await;
        assert!(target[inside].iter().all(|byte| *byte == 7));
    });
}

#[test]
fn a_failed_copy_discards_nothing_and_a_failed_discard_harms_nothing() {
    on_each_backend(|cx| async move {
        let disks = Disks::new(4 * CLUSTER);
        disks.fill(&cx, &disks.source, disks.whole(), 7).await;
        let options = CopyOptions {
            source_after: SourceAfter::Discarded,
            ..CopyOptions::default()
        };
        let copy = disks.copy(options).unwrap();
        let fail = |op| FaultRule::nth(op, 1, FaultAction::Fail { errno: libc::EIO });
        disks.at_target.add(fail(FaultOp::Write));
        disks.at_source.add(fail(FaultOp::Discard));
        let again = || copy.claim(cluster(2), CLUSTER).unwrap();
        copy.copy(&cx, again()).await.unwrap_err();
        let seen = disks.at_source.seen();
        assert!(seen.iter().all(|(op, _)| *op != FaultOp::Discard));
        copy.copy(&cx, again()).await.unwrap();
        assert!(!copy.needs_copy(cluster(2)));
    });
}

#[test]
fn what_is_saved_for_guests_is_told_zeroes_as_nothing_moved() {
    on_each_backend(|cx| async move {
        let disks = Disks::new(4 * CLUSTER);
        disks.fill(&cx, &disks.source, clusters(1, 2), 7).await;
        let copy = disks.copy(CopyOptions::default()).unwrap();
        let told = Arc::<Mutex<Vec<u64>>>::default();
        let log = told.clone();
        let saved: Arc<SavedBytes> = Arc::new(move |bytes, _| log.lock().unwrap().push(bytes));
        copy.tell_saved(&saved);
        copy.ensure_copied(&cx, cluster(0)).await.unwrap();
        let claim = copy.claim(cluster(1), CLUSTER).unwrap();
        let outcome = copy.copy(&cx, claim).await.unwrap();
        assert!(matches!(outcome.class, CopyClass::Copied(_)));
        assert_eq!(*told.lock().unwrap(), [0]);
        copy.ensure_copied(&cx, clusters(1, 2)).await.unwrap();
        assert_eq!(*told.lock().unwrap(), [0, CLUSTER]);
        drop(saved);
        copy.ensure_copied(&cx, disks.whole()).await.unwrap();
    });
}

#[test]
fn buffers_take_no_more_than_their_budget() {
    on_each_backend(|cx| async move {
        let disks = Disks::new(64 * CLUSTER);
        disks.fill(&cx, &disks.source, disks.whole(), 7).await;
        let options = CopyOptions {
            buffer_bytes_max: 33 * CLUSTER,
            ..CopyOptions::default()
        };
        let copy = disks.copy(options).unwrap();
        let hold = FaultRule::every(FaultOp::Read, FaultAction::Hold);
        disks.at_source.add(hold);
        let tasks: Vec<_> = (0..4)
            .map(|_| {
                let claim = copy.claim(disks.whole(), 16 * CLUSTER).unwrap();
                let (copy, home) = (copy.clone(), cx.clone());
                cx.spawn(async move { copy.copy(&home, claim).await })
            })
            .collect();
        settle(&cx).await;
        // Two of one MiB each; the third waits for one of them.
        assert_eq!(disks.at_source.held().len(), 2);
        disks.at_source.release(disks.at_source.held()[0].id);
        settle(&cx).await;
        assert_eq!(disks.at_source.held().len(), 2);
        disks.at_source.clear();
        disks.at_source.release_all();
        for task in tasks {
            task.await.unwrap();
        }
        let target = attach(&disks.graph, &disks.target);
        assert!(read(&target, &cx, disks.whole()).await == vec![7; 64 << 16]);
    });
}

#[test]
fn a_budget_below_one_piece_still_moves_one_at_a_time() {
    on_each_backend(|cx| async move {
        let disks = Disks::new(40 * CLUSTER);
        disks.fill(&cx, &disks.source, disks.whole(), 7).await;
        let options = CopyOptions {
            buffer_bytes_max: 1,
            ..CopyOptions::default()
        };
        let copy = disks.copy(options).unwrap();
        copy.ensure_copied(&cx, disks.whole()).await.unwrap();
        assert!(copy.is_complete());
    });
}
