//! The oracle against small histories whose right and wrong contents are known.

use block::ByteRange;

use super::{CELL_BYTES, Change, History};

const LEN: u64 = 4 * CELL_BYTES;

fn whole() -> ByteRange {
    ByteRange::between(0, LEN)
}

/// Bytes with the stamps of these requests, cell by cell; zero stands for zeroes.
fn bytes(stamps: [u32; 4]) -> Vec<u8> {
    let cell = |(number, stamp): (u64, u32)| {
        let range = ByteRange::between(number * CELL_BYTES, (number + 1) * CELL_BYTES);
        match stamp {
            0 => vec![0; 64],
            stamp => History::stamp(stamp, range),
        }
    };
    (0..).zip(stamps).flat_map(cell).collect()
}

#[test]
fn a_read_sees_what_was_acknowledged_or_what_is_in_flight_and_nothing_older() {
    let mut history = History::new(LEN);
    let first = history.issue(Change::Stamp, whole(), 1);
    history.succeed(first, 2);
    let second = history.issue(Change::Stamp, whole(), 3);

    let mut read = |stamps, at| history.check_read((0, &bytes(stamps)), at).is_ok();
    assert!(read([first, first, second, first], (4, 5)));
    assert!(!read([0; 4], (4, 5)), "zeroes were overwritten");
    assert!(!read([9; 4], (4, 5)), "nobody wrote that");
    assert!(
        !read([first, first, first, first], (6, 7)),
        "the third cell was seen to have changed"
    );
}

#[test]
fn what_failed_may_have_happened_and_may_not() {
    let mut history = History::new(LEN);
    let failed = history.issue(Change::Stamp, whole(), 1);
    history.fail(failed, 2);
    let mut read = |stamps, at| history.check_read((0, &bytes(stamps)), at).is_ok();
    assert!(read([0, 0, failed, 0], (3, 4)));
    let later = history.issue(Change::Stamp, whole(), 5);
    history.succeed(later, 6);
    let wrong = history.check_read((0, &bytes([failed; 4])), (7, 8));
    assert!(wrong.is_err(), "it had ended before the other began");
}

#[test]
fn bytes_of_another_place_are_garbage() {
    let mut history = History::new(LEN);
    let first = history.issue(Change::Stamp, whole(), 1);
    history.succeed(first, 2);
    let mut moved = bytes([first; 4]);
    moved.rotate_left(64);
    assert!(history.check_read((0, &moved), (3, 4)).is_err());
}

#[test]
fn a_copy_is_a_cut_if_one_moment_explains_all_of_it() {
    let mut history = History::new(LEN);
    let half = |number: u64| ByteRange::between(number * 128, number * 128 + 128);
    let one = history.issue(Change::Stamp, half(0), 1);
    history.succeed(one, 2);
    let two = history.issue(Change::Stamp, half(1), 3);
    history.succeed(two, 4);

    let cut = |stamps| history.cut(&bytes(stamps), (0, 9));
    assert_eq!(cut([0; 4]), Ok((0, 2)));
    assert_eq!(cut([one, one, 0, 0]), Ok((1, 4)));
    assert_eq!(cut([one, one, two, two]), Ok((3, 9)));
    assert!(cut([0, 0, two, two]).is_err(), "the first was before");
    assert!(history.cut(&bytes([0; 4]), (3, 9)).is_err(), "too late");
    assert!(
        history.cut(&bytes([one, one, two, two]), (0, 2)).is_err(),
        "too early"
    );
}

#[test]
fn what_was_flushed_is_left_by_a_power_loss() {
    let mut history = History::new(LEN);
    let first = history.issue(Change::Stamp, whole(), 1);
    history.succeed(first, 2);
    history.flushed(3, 4);
    let second = history.issue(Change::Stamp, whole(), 5);
    history.succeed(second, 6);

    let left = |stamps| history.check_left(&bytes(stamps), 9).is_ok();
    assert!(left([first, second, first, second]));
    assert!(!left([0, second, second, second]));
}

#[test]
fn a_flush_is_about_what_had_ended_when_it_began() {
    let mut history = History::new(LEN);
    let first = history.issue(Change::Stamp, whole(), 1);
    history.succeed(first, 4);
    history.flushed(3, 5);
    assert!(history.check_left(&bytes([0; 4]), 9).is_ok());
    history.flushed(6, 7);
    assert!(history.check_left(&bytes([0; 4]), 9).is_err());
}
