//! Counts what the kernel does for one thread, by its tracepoints.

// UNSAFETY: the call that opens a counter has no wrapper, and returns a number for a descriptor.
#![expect(
    unsafe_code,
    reason = "opens a counter, which only a bare system call can"
)]

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read},
    os::fd::FromRawFd,
};

/// What can be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A call of `io_uring_enter`.
    IoUringEnter,
    /// A request of a ring that the kernel hands to a thread of its own.
    IoUringPunt,
}

impl Event {
    fn path(self) -> &'static str {
        match self {
            Self::IoUringEnter => "syscalls/sys_enter_io_uring_enter",
            Self::IoUringPunt => "io_uring/io_uring_queue_async_work",
        }
    }
}

/// A running count of one event on the calling thread.
#[derive(Debug)]
pub struct Counter(File);

/// A count cannot be had here, usually because only root may count.
#[derive(Debug)]
pub struct CannotCount(String);

impl fmt::Display for CannotCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CannotCount {}

impl Counter {
    /// Counts from now on, on the calling thread.
    ///
    /// # Errors
    ///
    /// [`CannotCount`] where the kernel does not show its tracepoints, or not to us.
    pub fn start(event: Event) -> Result<Self, CannotCount> {
        let folder = "/sys/kernel/tracing";
        let path = format!("{folder}/events/{}/id", event.path());
        let id = fs::read_to_string(&path).map_err(|error| {
            CannotCount(format!(
                "{path}: {error} (root: mount -t tracefs tracefs {folder})"
            ))
        })?;
        let id = id.trim().parse();
        let id = id.map_err(|error| CannotCount(format!("{path}: {error}")))?;
        open(id)
            .map(Self)
            .map_err(|error| CannotCount(format!("perf_event_open: {error}")))
    }

    /// What was counted until now.
    ///
    /// # Panics
    ///
    /// When the kernel takes the counter away, which it does not.
    #[must_use]
    pub fn count(&self) -> u64 {
        let mut bytes = [0; 8];
        let read = (&self.0).read_exact(&mut bytes);
        read.expect("a counter can be read");
        u64::from_ne_bytes(bytes)
    }
}

/// The first version of what the kernel calls `perf_event_attr`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_kind: u32,
    breakpoint_address: u64,
}

const SIZE: u32 = 64;
const _: () = assert!(size_of::<Attributes>() == SIZE as usize);

/// The kernel's word for an event that is a tracepoint.
const TRACEPOINT: u32 = 2;

const CLOSE_ON_EXEC: libc::c_ulong = 8;

fn open(id: u64) -> io::Result<File> {
    let attributes = Attributes {
        kind: TRACEPOINT,
        size: SIZE,
        config: id,
        ..Attributes::default()
    };
    let (this_thread, any_cpu, no_group) = (0_i32, -1_i32, -1_i32);
    // SAFETY: the kernel reads `SIZE` bytes of `attributes` during the call, and keeps no pointer.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            this_thread,
            any_cpu,
            no_group,
            CLOSE_ON_EXEC,
        )
    };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call returned this descriptor just now, so nobody else has it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{raw_ring::make_ring, skip::skip};

    #[test]
    fn calls_are_counted_one_by_one() {
        let (Ok(ring), Ok(counter)) = (make_ring(), Counter::start(Event::IoUringEnter)) else {
            return skip("io_uring and root (tracepoints)");
        };
        for _ in 0..3 {
            ring.submitter().submit_and_wait(0).unwrap();
        }
        assert_eq!(counter.count(), 3);
    }
}
