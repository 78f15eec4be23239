//! Sends of one length, one after the other, with a copy by the kernel or without.

// UNSAFETY: as in `raw_ring`: entries point into memory of this value, which waits for all of them.
#![expect(
    unsafe_code,
    reason = "registers memory and pushes submission entries that point to it"
)]

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    process,
};

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use crate::{
    raw_memory::Memory,
    raw_ring::{enter, make_ring},
};

/// Most sends without a copy whose bytes the kernel may still need.
const UNANSWERED_MAX: u32 = 64;
/// Asks for the notification to say whether the bytes were copied all the same.
const REPORT_USAGE: u16 = 8;
/// The notification's word for that.
const COPIED: i32 = i32::MIN;

/// How to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The kernel copies what it sends.
    Copy,
    /// The kernel sends from where the bytes are, which it knows by registration.
    ZeroCopy,
}

/// Sends from registered memory over a stream socket.
pub struct RawSender {
    ring: IoUring,
    memory: Memory,
    socket: OwnedFd,
    /// Notifications that are still to come.
    unanswered: u32,
    copied: u64,
}

impl RawSender {
    /// Makes the ring, for sends of at most `len_max` bytes.
    ///
    /// # Errors
    ///
    /// The system's: no ring, or no memory that may be locked.
    pub fn new(socket: OwnedFd, len_max: usize) -> io::Result<Self> {
        let ring = make_ring()?;
        let memory = Memory::new(len_max);
        // SAFETY: `memory` outlives every request that names it: dropping this waits for all.
        unsafe { ring.submitter().register_buffers(&[memory.as_iovec()]) }?;
        Ok(Self {
            ring,
            memory,
            socket,
            unanswered: 0,
            copied: 0,
        })
    }

    /// How many sends without a copy were copied by the kernel all the same.
    #[must_use]
    pub fn copied(&self) -> u64 {
        self.copied
    }

    /// Sends `len` bytes, `count` times.
    ///
    /// # Errors
    ///
    /// The system's: `EOPNOTSUPP` where a socket cannot send without a copy.
    pub fn send(&mut self, how: How, len: u32, count: u64) -> io::Result<()> {
        for _ in 0..count {
            self.push(&self.entry(how, len));
            let sent = self.sent()?;
            if sent != len {
                return Err(io::Error::other("a stream takes all there is"));
            }
            while self.unanswered > UNANSWERED_MAX {
                self.turn();
            }
        }
        Ok(())
    }

    fn entry(&self, how: How, len: u32) -> squeue::Entry {
        let socket = types::Fd(self.socket.as_raw_fd());
        let start = self.memory.buffer(0, self.memory.len_bytes());
        match how {
            How::Copy => opcode::Send::new(socket, start, len)
                .flags(libc::MSG_WAITALL)
                .build(),
            How::ZeroCopy => opcode::SendZc::new(socket, start, len)
                .flags(libc::MSG_WAITALL)
                .buf_index(Some(0))
                .zc_flags(REPORT_USAGE)
                .build(),
        }
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: the buffer lies within `memory`, which lives until every answer has come.
        let pushed = unsafe { self.ring.submission().push(entry) };
        // A buffer may be in flight, so this must not unwind.
        pushed.unwrap_or_else(|_| process::abort());
    }

    /// Waits for the result of the one send that is under way, and counts notifications meanwhile.
    fn sent(&mut self) -> io::Result<u32> {
        loop {
            if let Some(result) = self.turn() {
                return u32::try_from(result)
                    .map_err(|_| io::Error::from_raw_os_error(result.wrapping_neg()));
            }
        }
    }

    fn turn(&mut self) -> Option<i32> {
        let (submitter, mut submission, mut completion) = self.ring.split();
        submission.sync();
        enter(|| submitter.submit_and_wait(1));
        completion.sync();
        let mut sent = None;
        for entry in &mut completion {
            if cqueue::notif(entry.flags()) {
                self.unanswered -= 1;
                self.copied += u64::from(entry.result() == COPIED);
            } else {
                self.unanswered += u32::from(cqueue::more(entry.flags()));
                sent = Some(entry.result());
            }
        }
        sent
    }
}

impl Drop for RawSender {
    fn drop(&mut self) {
        while self.unanswered > 0 {
            self.turn();
        }
    }
}

impl std::fmt::Debug for RawSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawSender").finish_non_exhaustive()
    }
}
