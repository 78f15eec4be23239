//! The bitmap against a set of granule numbers.

use std::collections::BTreeSet;

use proptest::prelude::{ProptestConfig, Strategy, any, prop, prop_assert_eq, proptest};

use super::{
    DirtyBitmap, Run,
    levels::{Levels, Wanted, inspect::looks_taken_by},
};
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
fn museum_40_merging_an_empty_source_keeps_the_count() {
    let mut bitmap = DirtyBitmap::new(1 << 20, GRANULE).unwrap();
    bitmap.set(range(0, 4096));
    for granularity in [GRANULE, 65536] {
        let empty = DirtyBitmap::new(1 << 20, granularity).unwrap();
        bitmap.merge(&empty).unwrap();
        assert_eq!(bitmap.count_bytes(), 4096);

        let mut other = empty;
        other.merge(&bitmap).unwrap();
        assert_eq!(other.count_bytes(), granularity.max(4096));
        assert!(!other.is_clean());
    }
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

    fn run(&self, from: u64) -> Option<Run> {
        let is_dirty = self.dirty.contains(&(from / GRANULE));
        let change = if is_dirty {
            self.next_zero(from)
        } else {
            self.next_dirty(from)
        };
        let range = ByteRange::between(from, change.unwrap_or(self.len_bytes));
        (!range.is_empty()).then_some(Run { range, is_dirty })
    }

    fn granules_of(&self, range: ByteRange) -> std::ops::Range<u64> {
        let end = range.end().min(self.len_bytes).div_ceil(GRANULE);
        let start = range.start() / GRANULE;
        if range.is_empty() { 0..0 } else { start..end }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Set(u64, u64),
    Clear(u64, u64),
    Truncate(u64),
    /// Merges a bitmap with this area, whose granules are so many times as large.
    Merge(u64, u64, u64),
    /// Takes this area out and puts it back, into a bitmap where it is all dirty.
    Carry(u64, u64),
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

fn steps(max: u64) -> impl Strategy<Value = Vec<Step>> {
    let range = (bytes_up_to(max), bytes_up_to(max));
    let step = (range, 0..11_u8).prop_map(|((a, b), what)| {
        let (start, end) = (a.min(b), a.max(b));
        match what {
            0..4 => Step::Set(start, end),
            4..8 => Step::Clear(start, end),
            8 => Step::Truncate(a),
            9 => Step::Merge(start, end, 1 << (b % 4)),
            _ => Step::Carry(start, end),
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
            model.dirty.extend(model.granules_of(area));
            let added = u64::try_from(model.dirty.len() - before).unwrap() * GRANULE;
            assert_eq!(bitmap.set(area), added);
        }
        Step::Clear(start, end) => {
            let start = (start / GRANULE * GRANULE).min(len);
            let whole = end / GRANULE * GRANULE;
            let end = if end >= len { len } else { whole };
            let area = ByteRange::between(start, end);
            let before = model.dirty.len();
            let gone = model.granules_of(area);
            model.dirty.retain(|granule| !gone.contains(granule));
            let removed = u64::try_from(before - model.dirty.len()).unwrap() * GRANULE;
            assert_eq!(bitmap.clear(area), removed);
        }
        Step::Truncate(len_bytes) => {
            bitmap.truncate(len_bytes).unwrap();
            model.len_bytes = len_bytes;
            let end = len_bytes.div_ceil(GRANULE);
            model.dirty.retain(|granule| *granule < end);
        }
        Step::Merge(start, end, times) => {
            let mut other = DirtyBitmap::new(len, GRANULE * times).unwrap();
            let area = ByteRange::between(start.min(len), end.min(len));
            other.set(area);
            bitmap.merge(&other).unwrap();
            let wide = area.widened(GRANULE * times, len);
            if !area.is_empty() {
                model.dirty.extend(model.granules_of(wide));
            }
            let mut coarse = DirtyBitmap::new(len, GRANULE * times).unwrap();
            coarse.merge(bitmap).unwrap();
            let wanted: BTreeSet<_> = model.dirty.iter().map(|granule| granule / times).collect();
            let count = u64::try_from(wanted.len()).unwrap() * GRANULE * times;
            assert_eq!(coarse.count_bytes(), count);
        }
        Step::Carry(start, end) => {
            let align = bitmap.chunk_align_bytes();
            let whole = |offset: u64| {
                let down = offset / align * align;
                if offset >= len { len } else { down }
            };
            let area = ByteRange::between(whole(start), whole(end));
            let before = bitmap.try_clone().unwrap();
            let bytes = bitmap.serialise(area);
            bitmap.set(area);
            bitmap.deserialise(area, &bytes).unwrap();
            assert!(*bitmap == before);
        }
    }
}

fn check(
    len_bytes: u64,
    steps: &[Step],
    queries: &[(u64, u64)],
) -> Result<(), proptest::test_runner::TestCaseError> {
    let mut bitmap = DirtyBitmap::new(len_bytes, GRANULE).unwrap();
    let mut model = Model {
        len_bytes,
        dirty: BTreeSet::new(),
    };
    for step in steps {
        apply(step, &mut bitmap, &mut model);
        let count = u64::try_from(model.dirty.len()).unwrap() * GRANULE;
        prop_assert_eq!(bitmap.count_bytes(), count);
        prop_assert_eq!(bitmap.is_clean(), count == 0);
        bitmap.bits.assert_sound();
    }
    for &(from, max) in queries {
        prop_assert_eq!(bitmap.next_dirty(from), model.next_dirty(from));
        prop_assert_eq!(bitmap.next_zero(from), model.next_zero(from));
        prop_assert_eq!(bitmap.next_dirty_area(from, max), model.area(from, max));
        prop_assert_eq!(bitmap.status_run(from), model.run(from));
        let is_dirty = model.next_dirty(from) == Some(from);
        prop_assert_eq!(bitmap.is_dirty(from), is_dirty);
    }
    Ok(())
}

/// The first bit at or after `from` that is as wanted, found word by word.
fn plain_next(bits: &Levels, len: u64, from: u64, wanted: Wanted) -> Option<u64> {
    let is_wanted = |bit: &u64| {
        let word = bits.words()[usize::try_from(bit / 64).unwrap()];
        (word >> (bit % 64) & 1 == 1) == (wanted == Wanted::One)
    };
    let mut bit = from;
    while bit < len {
        let word = bits.words()[usize::try_from(bit / 64).unwrap()];
        let dull = if wanted == Wanted::One { 0 } else { u64::MAX };
        if word == dull {
            bit = (bit / 64 + 1) * 64;
        } else if is_wanted(&bit) {
            return Some(bit);
        } else {
            bit += 1;
        }
    }
    None
}

/// So many that there are two levels of summaries.
const DEEP_BITS: u64 = (1 << 20) + 12_345;

proptest! {
    #[test]
    fn the_bitmap_is_a_set_of_granules(
        len_bytes in bytes_up_to(200 * GRANULE),
        steps in steps(200 * GRANULE),
        queries in prop::collection::vec((bytes_up_to(210 * GRANULE), bytes_up_to(210 * GRANULE)), 10),
    ) {
        check(len_bytes, &steps, &queries)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_bitmap_with_summaries_is_a_set_of_granules(
        len_bytes in bytes_up_to(20_000 * GRANULE),
        steps in steps(20_000 * GRANULE),
        queries in prop::collection::vec((bytes_up_to(20_000 * GRANULE), bytes_up_to(9_000 * GRANULE)), 10),
    ) {
        check(len_bytes, &steps, &queries)?;
    }

    #[test]
    fn summaries_of_summaries_hide_nothing(
        steps in prop::collection::vec((0..DEEP_BITS, 0..DEEP_BITS, 0..20_u32, any::<bool>()), 1..12),
        queries in prop::collection::vec(0..DEEP_BITS, 10),
        (longer, shorter) in (DEEP_BITS..2 * DEEP_BITS, 0..DEEP_BITS),
    ) {
        let mut bits = Levels::new(DEEP_BITS).unwrap();
        let mut others = Levels::new(DEEP_BITS).unwrap();
        for (first, len, shrink, is_set) in steps {
            let end = DEEP_BITS.min(first + (len >> shrink));
            if is_set {
                bits.set(first, end);
            } else {
                bits.clear(first, end);
                others.set(first, end);
            }
        }
        bits.assert_sound();
        let check = |bits: &Levels, len: u64| {
            for &from in &queries {
                for wanted in [Wanted::One, Wanted::Zero] {
                    assert_eq!(bits.next(from, len, wanted), plain_next(bits, len, from, wanted));
                    let near = from.saturating_add(len / 8).min(len);
                    assert_eq!(bits.next(from, near, wanted), plain_next(bits, near, from, wanted));
                }
            }
        };
        check(&bits, DEEP_BITS);
        let union: Vec<_> = bits.words().iter().zip(others.words()).map(|(a, b)| a | b).collect();
        bits.merge(&others);
        prop_assert_eq!(bits.words(), union);
        bits.assert_sound();
        for len in [longer, shorter] {
            bits.resize(len).unwrap();
            bits.assert_sound();
            check(&bits, len);
        }
        prop_assert_eq!(bits.try_clone().unwrap(), bits);
    }
}

/// 1 TiB in granules of 64 KiB.
fn large() -> DirtyBitmap {
    DirtyBitmap::new(1 << 40, 65536).unwrap()
}

#[test]
fn searches_look_at_few_words_however_far_they_go() {
    let mut bitmap = large();
    let far = (1 << 40) - 65536;
    let sparse = |bitmap: &DirtyBitmap| {
        looks_taken_by(|| {
            assert_eq!(bitmap.next_dirty(0), Some(far));
            assert_eq!(bitmap.next_dirty_area(0, u64::MAX).unwrap().start(), far);
            assert_eq!(bitmap.status_run(0).unwrap().range.len(), far);
        })
    };
    bitmap.set(range(far, 1));
    assert!(sparse(&bitmap) < 1000, "{} words", sparse(&bitmap));

    bitmap.set(range(0, 1 << 40));
    bitmap.clear(range(far, 65536));
    let dense = looks_taken_by(|| {
        assert_eq!(bitmap.next_zero(0), Some(far));
        assert_eq!(bitmap.next_dirty_area(0, u64::MAX), Some(range(0, far)));
        assert_eq!(bitmap.status_run(0).unwrap().range.len(), far);
    });
    assert!(dense < 1000, "{dense} words of 262144");
}

#[test]
fn marking_a_granule_looks_at_few_words() {
    let mut bitmap = large();
    let first = looks_taken_by(|| {
        bitmap.set(range(1 << 39, 1));
    });
    let second = looks_taken_by(|| {
        bitmap.set(range((1 << 39) + 65536, 1));
    });
    assert!(first <= 4 && second <= 2, "{first} and {second}");
}

#[test]
fn a_bitmap_takes_a_bit_for_a_granule_and_5_percent_at_most() {
    let mut sizes: Vec<u64> = (0..1500).map(|words| words * 64).collect();
    sizes.extend([1 << 18, 8192 * 64 + 1, 1 << 24, 10_000_001]);
    for granules in sizes {
        let bitmap = DirtyBitmap::new(granules * GRANULE, GRANULE).unwrap();
        let bits = granules.div_ceil(64) * 8;
        let taken = bitmap.memory_bytes();
        assert!(
            taken * 100 <= bits * 105,
            "{taken} bytes for {granules} bits"
        );
    }
    assert!(large().memory_bytes() < (2 << 20) * 104 / 100);
}

#[test]
fn memory_is_given_back_when_a_bitmap_shrinks() {
    let mut bitmap = large();
    bitmap.truncate(1 << 30).unwrap();
    assert!(bitmap.memory_bytes() <= (1 << 30) / 65536 / 8 * 105 / 100);
}

#[test]
fn n07_a_bitmap_that_cannot_grow_stays_as_it_is() {
    let mut bitmap = DirtyBitmap::new(1 << 20, GRANULE).unwrap();
    bitmap.set(range(4096, 1));
    let before = bitmap.try_clone().unwrap();
    assert!(bitmap.truncate(u64::MAX).is_err());
    assert!(bitmap == before);
}

#[test]
fn bytes_that_are_not_a_bitmap_are_refused() {
    let mut bitmap = DirtyBitmap::new(100 * GRANULE, GRANULE).unwrap();
    let whole = range(0, 100 * GRANULE);
    let mut bytes = bitmap.serialise(whole);
    assert_eq!(bytes.len(), 16);
    assert!(bitmap.deserialise(whole, &bytes[1..]).is_err());
    assert!(bitmap.deserialise(whole, &bytes[8..]).is_err());
    bytes[12] = 1 << 4;
    assert!(bitmap.deserialise(whole, &bytes).is_err(), "bit 100 of 100");
    assert!(bitmap.is_clean());
    bytes[12] = 1 << 3;
    bitmap.deserialise(whole, &bytes).unwrap();
    assert_eq!(bitmap.next_dirty(0), Some(99 * GRANULE));
}

#[test]
#[should_panic(expected = "are not parts of 32768 bytes")]
fn parts_start_at_whole_words() {
    let bitmap = DirtyBitmap::new(100 * GRANULE, GRANULE).unwrap();
    drop(bitmap.serialise(range(GRANULE, 99 * GRANULE)));
}

/// Compared with `sha256sum` of the same bytes.
#[test]
fn the_hash_is_that_of_the_bits_alone() {
    let hex = |bitmap: &DirtyBitmap| -> String {
        let hash = bitmap.sha256();
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let mut bitmap = DirtyBitmap::new(70 * GRANULE, GRANULE).unwrap();
    bitmap.set(range(0, 1));
    bitmap.set(range(65 * GRANULE, 1));
    assert_eq!(
        hex(&bitmap),
        "0c730b69905c5ef7a4ca5269f72365400bde2dd2c04eaf9bbb3d1c4a265a0131"
    );
    let empty = DirtyBitmap::new(0, GRANULE).unwrap();
    let one_word = DirtyBitmap::new(GRANULE, GRANULE).unwrap();
    assert_eq!(
        hex(&empty),
        "af5570f5a1810b7af78caf4bc70a660f0df51e42baf91d4de5b2328de0e83dfc"
    );
    assert_eq!(hex(&one_word), hex(&empty));
    assert_eq!(
        hex(&large()),
        "5647f05ec18958947d32874eeb788fa396a05d0bab7c1b71f112ceb7e9b31eee"
    );
}
