//! The bitmap against a set of granule numbers.

use std::collections::BTreeSet;

use proptest::prelude::{Strategy, prop, prop_assert_eq, proptest};

use super::DirtyBitmap;
use crate::allocation::ByteRange;

const GRANULE: u64 = 512;

fn range(start: u64, len: u64) -> ByteRange {
    ByteRange::new(start, len).unwrap()
}

#[test]
fn setting_rounds_outward() {
    let mut bitmap = DirtyBitmap::new(10_000, 1024).unwrap();

    let added = bitmap.set(range(1023, 2));

    assert_eq!(added, 2048);
    assert!(bitmap.is_dirty(0) && bitmap.is_dirty(2047));
    assert!(!bitmap.is_dirty(2048));
    assert_eq!(bitmap.set(range(0, 1)), 0, "already dirty");
}

#[test]
#[should_panic(expected = "do not cover whole granules")]
fn clearing_part_of_a_granule_is_refused() {
    let mut bitmap = DirtyBitmap::new(10_000, 1024).unwrap();
    bitmap.clear(range(0, 1000));
}

#[test]
fn clearing_up_to_an_unaligned_end_is_allowed() {
    let mut bitmap = DirtyBitmap::new(10_000, 1024).unwrap();
    bitmap.set(range(9_999, 1));

    assert_eq!(bitmap.count_bytes(), 1024, "the last granule counts whole");
    assert_eq!(bitmap.clear(range(9216, 784)), 1024);
    assert!(bitmap.is_clean());
}

#[test]
fn an_area_never_passes_the_end() {
    let mut bitmap = DirtyBitmap::new(10_000, 1024).unwrap();
    bitmap.set(range(0, 10_000));

    assert_eq!(bitmap.next_dirty_area(0, u64::MAX), Some(range(0, 10_000)));
    assert_eq!(bitmap.next_dirty_area(5, 10), Some(range(5, 10)));
    assert_eq!(bitmap.next_dirty_area(10_000, 1), None);
    assert_eq!(bitmap.next_zero(0), None);
}

#[test]
fn merging_an_empty_source_keeps_the_count() {
    let mut bitmap = DirtyBitmap::new(1 << 20, GRANULE).unwrap();
    bitmap.set(range(0, 4096));

    bitmap
        .merge(&DirtyBitmap::new(1 << 20, 65536).unwrap())
        .unwrap();

    assert_eq!(bitmap.count_bytes(), 4096);
}

#[test]
fn merging_rounds_to_each_granularity() {
    let mut fine = DirtyBitmap::new(100_000, GRANULE).unwrap();
    let mut coarse = DirtyBitmap::new(100_000, 65536).unwrap();
    fine.set(range(70_000, 1));

    coarse.merge(&fine).unwrap();
    assert_eq!(
        coarse.next_dirty_area(0, u64::MAX),
        Some(range(65536, 34464))
    );

    fine.merge(&coarse).unwrap();
    assert_eq!(fine.next_dirty_area(0, u64::MAX), Some(range(65536, 34464)));
}

#[test]
fn bitmaps_of_other_lengths_do_not_merge() {
    let mut bitmap = DirtyBitmap::new(1024, GRANULE).unwrap();
    assert!(
        bitmap
            .merge(&DirtyBitmap::new(1025, GRANULE).unwrap())
            .is_err()
    );
}

#[test]
fn absurd_sizes_are_errors() {
    assert!(DirtyBitmap::new(u64::MAX, GRANULE).is_err());
    assert!(DirtyBitmap::new(1024, 0).is_err());
    assert!(DirtyBitmap::new(1024, 256).is_err());
    assert!(DirtyBitmap::new(1024, 1000).is_err());
    assert!(DirtyBitmap::new(1024, 1 << 32).is_err());
    assert!(
        DirtyBitmap::new(0, GRANULE)
            .unwrap()
            .next_dirty(0)
            .is_none()
    );
}

/// What the bitmap should be, granule by granule.
struct Model {
    len_bytes: u64,
    dirty: BTreeSet<u64>,
}

impl Model {
    fn next(&self, from: u64, wanted: impl Fn(&u64) -> bool) -> Option<u64> {
        let end = self.len_bytes.div_ceil(GRANULE);
        (from / GRANULE..end)
            .find(wanted)
            .map(|granule| (granule * GRANULE).max(from))
            .filter(|&found| found < self.len_bytes)
    }

    fn next_dirty(&self, from: u64) -> Option<u64> {
        self.next(from, |granule| self.dirty.contains(granule))
    }

    fn next_zero(&self, from: u64) -> Option<u64> {
        self.next(from, |granule| !self.dirty.contains(granule))
    }

    fn area(&self, from: u64, max: u64) -> Option<ByteRange> {
        let start = self.next_dirty(from)?;
        let end = self.next_zero(start).unwrap_or(self.len_bytes);
        let area = ByteRange::between(start, end.min(start + max));
        (!area.is_empty()).then_some(area)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Set(u64, u64),
    Clear(u64, u64),
}

/// Lengths round words and granules, where the mistakes live.
fn bytes_up_to(max: u64) -> impl Strategy<Value = u64> {
    (0..=max).prop_flat_map(move |any| {
        prop::sample::select(vec![
            any,
            any / GRANULE * GRANULE,
            any / (64 * GRANULE) * (64 * GRANULE),
        ])
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let max = 200 * GRANULE;
    let step = (bytes_up_to(max), bytes_up_to(max), prop::bool::ANY).prop_map(|(a, b, set)| {
        let (start, end) = (a.min(b), a.max(b));
        if set {
            Step::Set(start, end)
        } else {
            Step::Clear(start, end)
        }
    });
    prop::collection::vec(step, 1..20)
}

fn apply(step: &Step, bitmap: &mut DirtyBitmap, model: &mut Model) {
    let len = model.len_bytes;
    match *step {
        Step::Set(start, end) => {
            let area = ByteRange::between(start.min(len), end.min(len));
            let before = model.dirty.len();
            if !area.is_empty() {
                model
                    .dirty
                    .extend(area.start() / GRANULE..area.end().div_ceil(GRANULE));
            }
            let added = u64::try_from(model.dirty.len() - before).unwrap() * GRANULE;
            assert_eq!(bitmap.set(area), added);
        }
        Step::Clear(start, end) => {
            let start = (start / GRANULE * GRANULE).min(len);
            let end = if end >= len {
                len
            } else {
                end / GRANULE * GRANULE
            };
            let area = ByteRange::between(start, end);
            let before = model.dirty.len();
            let gone = area.start() / GRANULE..area.end().div_ceil(GRANULE);
            model
                .dirty
                .retain(|granule| area.is_empty() || !gone.contains(granule));
            let removed = u64::try_from(before - model.dirty.len()).unwrap() * GRANULE;
            assert_eq!(bitmap.clear(area), removed);
        }
    }
}

proptest! {
    #[test]
    fn the_bitmap_is_a_set_of_granules(
        len_bytes in bytes_up_to(200 * GRANULE),
        steps in steps(),
        queries in prop::collection::vec((bytes_up_to(210 * GRANULE), bytes_up_to(210 * GRANULE)), 10),
    ) {
        let mut bitmap = DirtyBitmap::new(len_bytes, GRANULE).unwrap();
        let mut model = Model { len_bytes, dirty: BTreeSet::new() };
        for step in &steps {
            apply(step, &mut bitmap, &mut model);
            prop_assert_eq!(bitmap.count_bytes(), u64::try_from(model.dirty.len()).unwrap() * GRANULE);
        }
        for (from, max) in queries {
            prop_assert_eq!(bitmap.next_dirty(from), model.next_dirty(from));
            prop_assert_eq!(bitmap.next_zero(from), model.next_zero(from));
            prop_assert_eq!(bitmap.next_dirty_area(from, max), model.area(from, max));
            prop_assert_eq!(bitmap.is_dirty(from), model.next_dirty(from) == Some(from));
        }
    }
}
