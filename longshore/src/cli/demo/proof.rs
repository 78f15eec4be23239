//! The proof that a copy is the image at one instant. Only std and a hash; shares nothing with what made the copy.
//!
//! Writes go on all the time, so the instant shows in the copy itself: of each writer it must have
//! a first part of his writes, and nothing behind it. From the log and the image's first content
//! the whole copy is built again and compared byte for byte. What is checked:
//!
//! 1. The copy has the image's length.
//! 2. Of each writer, all that he had been told is written before the backup was asked for is in it,
//!    and nothing that he began after the backup had said that it began.
//! 3. If one writer's write is in it, so is each that was over when this one began, whoever made it.
//! 4. Every byte is what the writes up to there, and no others, make of the first content.
//!
//! Only then is there one instant at which the image was what the copy is.

use std::{fmt, fs::File, io, os::unix::fs::FileExt, path::Path};

use super::{
    guest::{Log, Stamp, WRITERS},
    image::{BLOCK_BYTES, Block, Image, bytes_of},
};

/// Bytes of a stamp at the start of a block.
const STAMP_BYTES: usize = 32;
/// Blocks read at once.
const READ_BLOCKS: u64 = 256;

/// What is known of the instant: the ticks around the command that took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Before the backup was asked for.
    pub(crate) asked: u64,
    /// After it had said that it began.
    pub(crate) begun: u64,
}

/// A copy that is proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proven {
    /// How many writes of each writer are in it.
    pub(crate) included: Vec<usize>,
    /// Checksum of the content that was built again, in hexadecimal digits.
    pub(crate) blake3: String,
}

/// Why a copy is not the image at one instant.
#[derive(Debug)]
pub(crate) enum Flaw {
    /// It could not be read.
    Unreadable(io::Error),
    /// It is longer or shorter than the image.
    Length { has: u64, wants: u64 },
    /// A block bears a stamp that nobody wrote there.
    Foreign { block: u64 },
    /// Too few or too many writes of one writer.
    Bounds {
        writer: usize,
        included: usize,
        least: usize,
        most: usize,
    },
    /// One write is in it, and another that was over when it began is not.
    Order { included: usize, missing: usize },
    /// A byte that is not what it should be.
    Content { offset_bytes: u64 },
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => write!(f, "it cannot be read: {error}"),
            Self::Length { has, wants } => write!(f, "it has {has} bytes instead of {wants}"),
            Self::Foreign { block } => {
                write!(f, "block {block} bears a stamp that nobody wrote there")
            }
            Self::Bounds {
                writer,
                included,
                least,
                most,
            } => write!(
                f,
                "of writer {writer} the first {included} writes are in it, and it should be {least} to {most}"
            ),
            Self::Order { included, missing } => write!(
                f,
                "a write of writer {included} is in it, and one of writer {missing} that was over before is not"
            ),
            Self::Content { offset_bytes } => {
                write!(
                    f,
                    "byte {offset_bytes} is not what the writes up to the instant make of it"
                )
            }
        }
    }
}

impl From<io::Error> for Flaw {
    fn from(error: io::Error) -> Self {
        Self::Unreadable(error)
    }
}

/// Proves that the file at `path` is `image`, as the guest wrote to it by `logs`, at the instant that was `taken`.
pub(crate) fn prove_copy(
    path: &Path,
    image: Image,
    logs: &[Log],
    taken: Taken,
) -> Result<Proven, Flaw> {
    let copy = open(path, image)?;
    let included = find_included(&copy, image, logs)?;
    for (writer, (log, &included)) in logs.iter().zip(&included).enumerate() {
        let least = log.partition_point(|write| write.acknowledged < taken.asked);
        let most = log.partition_point(|write| write.issued < taken.begun);
        if included < least || included > most {
            return Err(Flaw::Bounds {
                writer,
                included,
                least,
                most,
            });
        }
    }
    check_order(logs, &included)?;
    let blake3 = check_content(&copy, image, logs, &included)?;
    Ok(Proven { included, blake3 })
}

/// Proves that the file at `path` has every write of `logs`, and gives its checksum.
pub(crate) fn prove_live(path: &Path, image: Image, logs: &[Log]) -> Result<String, Flaw> {
    let all: Vec<usize> = logs.iter().map(Vec::len).collect();
    check_content(&open(path, image)?, image, logs, &all)
}

fn open(path: &Path, image: Image) -> Result<File, Flaw> {
    let file = File::open(path)?;
    let (has, wants) = (file.metadata()?.len(), image.len_bytes());
    if has != wants {
        return Err(Flaw::Length { has, wants });
    }
    Ok(file)
}

/// How many writes of each writer the copy has, going by the latest stamp of each.
///
/// The last write that is in it was the last to its block, so its stamp is there to be seen.
fn find_included(copy: &File, image: Image, logs: &[Log]) -> Result<Vec<usize>, Flaw> {
    let mut included = vec![0; logs.len()];
    let mut start = [0; STAMP_BYTES];
    for slot in 0..image.slots() {
        let block = Image::slot_block(slot);
        copy.read_exact_at(&mut start, bytes_of(block))?;
        let Some(stamp) = Stamp::read(&start) else {
            continue;
        };
        let sequence = usize::try_from(stamp.sequence).unwrap_or(usize::MAX);
        let writer = usize::try_from(stamp.writer).unwrap_or(usize::MAX);
        let logged = logs.get(writer).and_then(|log| log.get(sequence));
        if stamp.block != block || logged.is_none_or(|write| write.block != block) {
            return Err(Flaw::Foreign { block });
        }
        included[writer] = included[writer].max(sequence + 1);
    }
    Ok(included)
}

/// Of any two writes of which one was over when the other began, the copy has the first if it has the second.
///
/// Each writer's writes are one after the other, so his last in it and his first not in it decide.
fn check_order(logs: &[Log], included: &[usize]) -> Result<(), Flaw> {
    for (one, log) in logs.iter().enumerate() {
        let Some(last) = included[one].checked_sub(1).and_then(|last| log.get(last)) else {
            continue;
        };
        for (other, log) in logs.iter().enumerate() {
            let first_missing = log.get(included[other]);
            if first_missing.is_some_and(|missing| missing.acknowledged < last.issued) {
                return Err(Flaw::Order {
                    included: one,
                    missing: other,
                });
            }
        }
    }
    Ok(())
}

/// Builds the content again from the first content and the writes, and compares.
fn check_content(
    copy: &File,
    image: Image,
    logs: &[Log],
    included: &[usize],
) -> Result<String, Flaw> {
    let latest = latest_writes(image, logs, included);
    let mut hasher = blake3::Hasher::new();
    let read_bytes = usize::try_from(bytes_of(READ_BLOCKS)).unwrap_or(BLOCK_BYTES);
    let (mut has, mut wants) = (vec![0; read_bytes], vec![0; read_bytes]);
    for first in (0..image.blocks()).step_by(usize::try_from(READ_BLOCKS).unwrap_or(1)) {
        copy.read_exact_at(&mut has, bytes_of(first))?;
        let (blocks, _) = wants.as_chunks_mut::<BLOCK_BYTES>();
        for (block, content) in (first..).zip(blocks) {
            fill(block, &latest, content);
        }
        if has != wants {
            let index = has.iter().zip(&wants).position(|(a, b)| a != b);
            let index = index.and_then(|index| u64::try_from(index).ok());
            let offset_bytes = bytes_of(first) + index.unwrap_or(0);
            return Err(Flaw::Content { offset_bytes });
        }
        hasher.update(&wants);
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// For each slot the last write to it that counts.
fn latest_writes(image: Image, logs: &[Log], included: &[usize]) -> Vec<Option<Stamp>> {
    let slots = usize::try_from(image.slots()).unwrap_or(0);
    let mut latest = vec![None; slots];
    for (writer, (log, &included)) in (0..WRITERS).zip(logs.iter().zip(included)) {
        for (sequence, write) in (0..).zip(&log[..included]) {
            let slot = Image::slot_of(write.block).and_then(|slot| usize::try_from(slot).ok());
            if let Some(place) = slot.and_then(|slot| latest.get_mut(slot)) {
                *place = Some(Stamp {
                    writer,
                    sequence,
                    block: write.block,
                });
            }
        }
    }
    latest
}

fn fill(block: u64, latest: &[Option<Stamp>], content: &mut Block) {
    let slot = Image::slot_of(block).and_then(|slot| usize::try_from(slot).ok());
    match slot.and_then(|slot| *latest.get(slot)?) {
        Some(stamp) => stamp.fill(content),
        None => Image::fill(block, content),
    }
}

#[cfg(test)]
mod tests;
