//! The limit: loops over a ring of our own that do one thing and nothing else.

// UNSAFETY: these loops leave out the ownership that `aio` keeps, to show what it costs. Their
// submission entries point into memory of the loop itself, which waits for all of them.
#![expect(
    unsafe_code,
    reason = "registers memory and pushes submission entries that point to it"
)]

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, RawFd},
    process,
    sync::mpsc,
    thread,
    time::Duration,
};

use io_uring::{IoUring, SubmissionQueue, cqueue, opcode, squeue, types};

use crate::{
    cpu::pin_to,
    raw_memory::Memory,
    scratch::{BLOCK_BYTES, RandomBlocks},
};

/// Most requests at once, which the ring has entries for.
const DEPTH_MAX: u32 = 256;
/// Length of a block as entries want it.
const BLOCK_LEN: u32 = 4096;
const _: () = assert!(BLOCK_LEN as usize == BLOCK_BYTES);

/// A ring set up in the way that is fastest when one thread does everything.
pub(crate) fn make_ring() -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_submit_all();
    builder.build(DEPTH_MAX)
}

/// Reads random blocks of a file, always so many at once, with buffer and file registered.
pub struct RawReader {
    ring: IoUring,
    memory: Memory,
    /// Kept open for whoever looks; the ring has its own reference.
    _file: File,
    blocks: RandomBlocks,
    depth: u32,
}

impl RawReader {
    /// Makes the ring. `depth` is at most 256.
    ///
    /// # Errors
    ///
    /// The system's: no ring, or no memory that may be locked.
    ///
    /// # Panics
    ///
    /// When `depth` is greater.
    pub fn new(file: File, blocks: RandomBlocks, depth: u32) -> io::Result<Self> {
        assert!(depth <= DEPTH_MAX, "the ring has an entry for each");
        let (ring, memory) = (make_ring()?, Memory::new(depth as usize * BLOCK_BYTES));
        // SAFETY: `memory` outlives every request that names it, see its `drop`.
        unsafe { ring.submitter().register_buffers(&[memory.as_iovec()]) }?;
        ring.submitter().register_files(&[file.as_raw_fd()])?;
        Ok(Self {
            ring,
            memory,
            _file: file,
            blocks,
            depth,
        })
    }

    /// Reads `count` blocks. None is in flight any more when it returns.
    ///
    /// # Errors
    ///
    /// When a block did not come whole.
    pub fn read(&mut self, count: u64) -> io::Result<()> {
        let (submitter, submission, mut completion) = self.ring.split();
        let mut queue = ReadQueue {
            submission,
            memory: &self.memory,
            blocks: &mut self.blocks,
            left: count,
        };
        let mut in_flight = 0;
        for slot in 0..u64::from(self.depth) {
            in_flight += queue.next(slot);
        }
        let mut result = Ok(());
        while in_flight > 0 {
            queue.submission.sync();
            enter(|| submitter.submit_and_wait(1));
            completion.sync();
            for entry in &mut completion {
                result = result.and(whole(&entry, BLOCK_LEN));
                in_flight -= 1;
                in_flight += queue.next(entry.user_data());
            }
        }
        result
    }
}

impl std::fmt::Debug for RawReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawReader")
            .field("depth", &self.depth)
            .finish_non_exhaustive()
    }
}

/// The reads of one call that are still to be queued.
struct ReadQueue<'a> {
    submission: SubmissionQueue<'a>,
    memory: &'a Memory,
    blocks: &'a mut RandomBlocks,
    left: u64,
}

impl ReadQueue<'_> {
    /// Queues a read into the buffer `slot`, which no request has; returns how many it queued: one, or none at the end.
    fn next(&mut self, slot: u64) -> u64 {
        if self.left == 0 {
            return 0;
        }
        self.left -= 1;
        let file = types::Fixed(0);
        let entry =
            opcode::ReadFixed::new(file, self.memory.buffer(slot, BLOCK_BYTES), BLOCK_LEN, 0)
                .offset(self.blocks.next_offset())
                .build()
                .user_data(slot);
        // SAFETY: the buffer lies within `memory`, which lives until `read` has seen the completion.
        let pushed = unsafe { self.submission.push(&entry) };
        // A buffer may be in flight, so this must not unwind.
        pushed.map_or_else(|_| process::abort(), |()| 1)
    }
}

/// Enters the kernel; interruptions are for the caller's loop.
pub(crate) fn enter(call: impl FnOnce() -> io::Result<usize>) {
    if let Err(error) = call()
        && error.kind() != io::ErrorKind::Interrupted
    {
        // The kernel may go on to write into the buffers, so nothing here may be given back.
        process::abort();
    }
}

/// Whether a request moved all of its `len` bytes.
pub(crate) fn whole(entry: &cqueue::Entry, len: u32) -> io::Result<()> {
    if entry.result() == len.cast_signed() {
        Ok(())
    } else {
        Err(failure(entry))
    }
}

fn failure(entry: &cqueue::Entry) -> io::Error {
    match u32::try_from(entry.result()) {
        Ok(count) => io::Error::other(format!("only {count} bytes of a block were moved")),
        Err(_) => io::Error::from_raw_os_error(entry.result().wrapping_neg()),
    }
}

const PING: u64 = 1;
const PONG: u64 = 2;
const STOP: u64 = 3;
/// A round trip that takes longer has failed.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Two threads that wake each other by messages from ring to ring.
///
/// It is used on the thread that made it; its other thread ends when it is dropped.
pub struct RawPingPong {
    ring: IoUring,
    other: RawFd,
    thread: Option<thread::JoinHandle<()>>,
}

impl RawPingPong {
    /// Starts the other thread, on processor `cpu`.
    ///
    /// # Errors
    ///
    /// The system's: no ring, or no thread.
    ///
    /// # Panics
    ///
    /// Never, unless the new thread does, which would be a bug of ours.
    pub fn new(cpu: usize) -> io::Result<Self> {
        let ring = make_ring()?;
        let us = ring.as_raw_fd();
        let (made, result) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().spawn(move || {
            pin_to(cpu);
            match make_ring() {
                Ok(mut ring) => {
                    // The maker waits for this message, so it is there to take it.
                    drop(made.send(Ok(ring.as_raw_fd())));
                    answer(&mut ring, us);
                }
                Err(error) => drop(made.send(Err(error))),
            }
        })?;
        let other = result.recv().expect("the new thread says how it went")?;
        Ok(Self {
            ring,
            other,
            thread: Some(thread),
        })
    }

    /// Wakes the other thread and sleeps until it has answered.
    ///
    /// # Errors
    ///
    /// The system's; `ETIME` when there is no answer.
    pub fn round_trip(&mut self) -> io::Result<()> {
        push_message(&mut self.ring, self.other, PING);
        let timeout = types::Timespec::from(ANSWER_MAX);
        let args = types::SubmitArgs::new().timespec(&timeout);
        loop {
            match self.ring.submitter().submit_with_args(1, &args) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                Ok(_) | Err(_) => {}
            }
            if let Some(entry) = self.ring.completion().next() {
                return match entry.user_data() {
                    PONG => Ok(()),
                    _ => Err(failure(&entry)),
                };
            }
        }
    }
}

/// The other thread: answers each `PING` to the ring `us` until it is told to stop.
fn answer(ring: &mut IoUring, us: RawFd) {
    loop {
        enter(|| ring.submit_and_wait(1));
        let Some(entry) = ring.completion().next() else {
            continue;
        };
        match entry.user_data() {
            PING => push_message(ring, us, PONG),
            _ => return,
        }
    }
}

/// Queues a message to another ring, whose success leaves no completion here.
fn push_message(ring: &mut IoUring, to: RawFd, user_data: u64) {
    let entry = opcode::MsgRingData::new(types::Fd(to), 0, user_data, None)
        .build()
        .flags(squeue::Flags::SKIP_SUCCESS);
    // SAFETY: a message points to no memory.
    let pushed = unsafe { ring.submission().push(&entry) };
    pushed.expect("one message is under way at a time");
}

impl Drop for RawPingPong {
    fn drop(&mut self) {
        push_message(&mut self.ring, self.other, STOP);
        enter(|| self.ring.submit());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has told so already.
            drop(thread.join());
        }
    }
}

impl std::fmt::Debug for RawPingPong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawPingPong").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::skip::skip;

    #[test]
    fn a_reader_reads_what_it_was_asked_for() {
        if make_ring().is_err() {
            return skip("io_uring");
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 1 << 20]).unwrap();
        let mut reader = RawReader::new(file, RandomBlocks::over(1 << 20), 64).unwrap();
        reader.read(1000).unwrap();
        reader.read(3).unwrap();
        // SAFETY: the memory is the reader's, and no request is in flight.
        let first = unsafe { reader.memory.buffer(0, BLOCK_BYTES).read() };
        assert_eq!(first, 7);
    }

    #[test]
    fn a_read_past_the_end_is_told() {
        if make_ring().is_err() {
            return skip("io_uring");
        }
        let empty = tempfile::tempfile().unwrap();
        let mut reader = RawReader::new(empty, RandomBlocks::over(1 << 20), 64).unwrap();
        assert!(reader.read(100).is_err());
    }

    #[test]
    fn a_message_comes_back() {
        let Ok(mut pair) = RawPingPong::new(0) else {
            return skip("io_uring");
        };
        for _ in 0..100 {
            pair.round_trip().unwrap();
        }
    }
}
