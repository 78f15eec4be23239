//! The limit of copying: a ring that reads chunks of one file and writes them to another.

// UNSAFETY: as in `raw_ring`: the loop's entries point into memory of its own, and it waits for all.
#![expect(
    unsafe_code,
    reason = "registers memory and pushes submission entries that point to it"
)]

use std::{fs::File, io, os::fd::AsRawFd, process};

use io_uring::{IoUring, SubmissionQueue, opcode, squeue, types};

use crate::{
    raw_memory::Memory,
    raw_ring::{enter, make_ring, whole},
    scratch::CHUNK_BYTES,
};

/// Length of a chunk as entries want it.
const CHUNK_LEN: u32 = 1 << 20;
const _: () = assert!(CHUNK_LEN as usize == CHUNK_BYTES);

const FROM: types::Fixed = types::Fixed(0);
const TO: types::Fixed = types::Fixed(1);

/// Copies a file in chunks, so many at once, with buffers and files registered.
pub struct RawCopier {
    ring: IoUring,
    memory: Memory,
    /// Kept open for whoever looks; the ring has references of its own.
    _files: [File; 2],
    depth: u32,
}

impl RawCopier {
    /// Makes the ring. `depth` is at most 256.
    ///
    /// # Errors
    ///
    /// The system's: no ring, or no memory that may be locked.
    pub fn new(from: File, to: File, depth: u32) -> io::Result<Self> {
        let ring = make_ring()?;
        let memory = Memory::new(depth as usize * CHUNK_BYTES);
        // SAFETY: `memory` outlives every request that names it: `copy` waits for all.
        unsafe { ring.submitter().register_buffers(&[memory.as_iovec()]) }?;
        let files = [from.as_raw_fd(), to.as_raw_fd()];
        ring.submitter().register_files(&files)?;
        Ok(Self {
            ring,
            memory,
            _files: [from, to],
            depth,
        })
    }

    /// Copies the first `chunks` chunks. Nothing is in flight any more when it returns.
    ///
    /// # Errors
    ///
    /// When a chunk was not copied whole.
    ///
    /// # Panics
    ///
    /// When the kernel answers what was not asked, which it does not.
    pub fn copy(&mut self, chunks: u64) -> io::Result<()> {
        let (submitter, submission, mut completion) = self.ring.split();
        let mut queue = CopyQueue {
            submission,
            memory: &self.memory,
            next: 0,
            chunks,
        };
        let mut slots: Vec<Slot> = vec![Slot::Idle; self.depth as usize];
        let mut in_flight = 0_usize;
        for (index, slot) in (0..).zip(&mut slots) {
            *slot = queue.begin(index);
            in_flight += usize::from(*slot != Slot::Idle);
        }
        let mut result = Ok(());
        while in_flight > 0 {
            queue.submission.sync();
            enter(|| submitter.submit_and_wait(1));
            completion.sync();
            for entry in &mut completion {
                let index = entry.user_data();
                let slot = &mut slots[usize::try_from(index).expect("a slot of ours")];
                let moved = whole(&entry, CHUNK_LEN);
                *slot = match *slot {
                    Slot::Reading(offset) if moved.is_ok() => queue.write(index, offset),
                    _ => queue.begin(index),
                };
                result = result.and(moved);
                in_flight -= usize::from(*slot == Slot::Idle);
            }
        }
        result
    }
}

impl std::fmt::Debug for RawCopier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawCopier")
            .field("depth", &self.depth)
            .finish_non_exhaustive()
    }
}

/// What happens to a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Idle,
    /// The chunk at this offset is being read.
    Reading(u64),
    Writing,
}

/// The chunks of one call that are still to be copied.
struct CopyQueue<'a> {
    submission: SubmissionQueue<'a>,
    memory: &'a Memory,
    next: u64,
    chunks: u64,
}

impl CopyQueue<'_> {
    /// Queues the next read, into the idle buffer `slot`.
    fn begin(&mut self, slot: u64) -> Slot {
        if self.next == self.chunks {
            return Slot::Idle;
        }
        let offset_bytes = self.next * u64::from(CHUNK_LEN);
        self.next += 1;
        let start = self.memory.buffer(slot, CHUNK_BYTES);
        let entry = opcode::ReadFixed::new(FROM, start, CHUNK_LEN, 0).offset(offset_bytes);
        self.push(&entry.build().user_data(slot));
        Slot::Reading(offset_bytes)
    }

    /// Queues the write of what buffer `slot` was filled with.
    fn write(&mut self, slot: u64, offset_bytes: u64) -> Slot {
        let start = self.memory.buffer(slot, CHUNK_BYTES).cast_const();
        let entry = opcode::WriteFixed::new(TO, start, CHUNK_LEN, 0).offset(offset_bytes);
        self.push(&entry.build().user_data(slot));
        Slot::Writing
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: the buffer lies within `memory`, which lives until `copy` has seen the completion.
        let pushed = unsafe { self.submission.push(entry) };
        if pushed.is_err() {
            // A buffer may be in flight, so this must not unwind.
            process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::fs::FileExt};

    use super::*;
    use crate::skip::skip;

    #[test]
    fn a_copy_is_the_same_and_ends_where_it_was_told() {
        if make_ring().is_err() {
            return skip("io_uring");
        }
        let (mut from, mut to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        for byte in 1..=5 {
            from.write_all(&vec![byte; CHUNK_BYTES]).unwrap();
            to.write_all(&vec![0; CHUNK_BYTES]).unwrap();
        }
        let seen = to.try_clone().unwrap();
        let mut copier = RawCopier::new(from, to, 2).unwrap();
        copier.copy(4).unwrap();
        for (chunk, byte) in [1, 2, 3, 4, 0].into_iter().enumerate() {
            let mut bytes = vec![9; CHUNK_BYTES];
            seen.read_exact_at(&mut bytes, (chunk * CHUNK_BYTES) as u64)
                .unwrap();
            assert!(bytes.iter().all(|&it| it == byte), "chunk {chunk}");
        }
    }

    #[test]
    fn a_chunk_that_is_not_there_is_told() {
        if make_ring().is_err() {
            return skip("io_uring");
        }
        let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let mut copier = RawCopier::new(from, to, 2).unwrap();
        assert!(copier.copy(3).is_err());
    }
}
