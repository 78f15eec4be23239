//! Whether a copy is one moment of a disk, by the record of what the guests did to it.
//!
//! A copy has the first so many requests of each guest. The moments at which a disk looks like that
//! lie between the issue of the last request that it has and the acknowledgement of the first that
//! it has not. The copy is a cut if one moment is common to all guests.

use std::ops::Range;

use crate::{
    Failure,
    writer::{Entry, blocks_of},
};

/// Names the first byte that differs.
pub(crate) fn check_equal(want: &[u8], got: &[u8]) -> Result<(), Failure> {
    if want == got {
        return Ok(());
    }
    if want.len() != got.len() {
        return Err(format!("{} bytes instead of {}", got.len(), want.len()).into());
    }
    let differs = |(want, got): (&u8, &u8)| want != got;
    let at = want.iter().zip(got).position(differs).unwrap_or_default();
    let count = count_different(want, got);
    Err(format!("{count} bytes differ, the first at {at}").into())
}

/// The disk after all that the guests did; each has bytes of its own, so their order among each other is nothing.
pub(crate) fn replay(logs: &[Vec<Entry>], mut disk: Vec<u8>) -> Vec<u8> {
    for entry in logs.iter().flatten() {
        entry.apply(&mut disk);
    }
    disk
}

/// Checks that `copy` is a moment from `called` to `returned`, of a disk that was `first` before.
pub(crate) fn check_cut(
    logs: &[Vec<Entry>],
    first: &[u8],
    copy: &[u8],
    (called, returned): (u64, u64),
) -> Result<(), Failure> {
    let mut all = Vec::new();
    for (number, log) in logs.iter().enumerate() {
        let own: Vec<_> = blocks_of((number, logs.len()), first.len()).collect();
        let moments = moments(log, &own, first, copy);
        if moments.is_empty() {
            return Err(format!("no prefix of what guest {number} did is in the copy").into());
        }
        all.push(moments);
    }
    // The earliest moment of a cut is that of an issue, or of the call.
    let issues = all.iter().flatten().map(|moment| moment.start);
    let mut candidates = issues
        .chain([called])
        .filter(|at| (called..=returned).contains(at));
    let has = |moments: &Vec<Range<u64>>, at| moments.iter().any(|moment| moment.contains(&at));
    if candidates.any(|at| all.iter().all(|moments| has(moments, at))) {
        return Ok(());
    }
    Err(format!("no moment from {called} to {returned} is common to {all:?}").into())
}

/// The moments at which the guest's own blocks were as they are in `copy`.
fn moments(log: &[Entry], own: &[Range<usize>], first: &[u8], copy: &[u8]) -> Vec<Range<u64>> {
    let mut disk = first.to_vec();
    let wrong =
        |disk: &[u8], at: &Range<usize>| count_different(&disk[at.clone()], &copy[at.clone()]);
    let mut wrong_bytes: usize = own.iter().map(|block| wrong(&disk, block)).sum();
    let mut found = Vec::new();
    let mut issued = 0;
    for entry in log {
        if wrong_bytes == 0 {
            found.push(issued..entry.acknowledged);
        }
        wrong_bytes -= wrong(&disk, &entry.at);
        entry.apply(&mut disk);
        wrong_bytes += wrong(&disk, &entry.at);
        issued = entry.issued;
    }
    if wrong_bytes == 0 {
        found.push(issued..u64::MAX);
    }
    found
}

fn count_different(a: &[u8], b: &[u8]) -> usize {
    if a == b {
        return 0;
    }
    a.iter().zip(b).filter(|(a, b)| a != b).count()
}
