//! Setting a ring up: what is asked of the kernel, what is needed, and why it cannot be had.

use std::io;

use io_uring::{IoUring, Probe, opcode};

/// How large the queues of a ring are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entries {
    pub(crate) submission: u32,
    pub(crate) completion: u32,
}

impl Entries {
    /// For a submission queue of `entries`, rounded up to a power of two: a completion queue with
    /// room for many batches, since what is in flight must fit.
    pub(crate) fn new(entries: u32) -> Self {
        let submission = entries.clamp(1, 1 << 15).next_power_of_two();
        Self {
            submission,
            completion: 16 * submission,
        }
    }
}

/// The operations that we cannot do without; for the others there are workers.
const OPCODES: [u8; 11] = [
    opcode::Read::CODE,
    opcode::Write::CODE,
    opcode::ReadFixed::CODE,
    opcode::WriteFixed::CODE,
    opcode::Fsync::CODE,
    opcode::Fallocate::CODE,
    opcode::PollAdd::CODE,
    opcode::Accept::CODE,
    opcode::Recv::CODE,
    opcode::SendMsg::CODE,
    opcode::AsyncCancel::CODE,
];

/// How the ring was set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setup {
    /// `DEFER_TASKRUN` and what goes with it: completions are made on this thread only.
    Deferred,
    /// A plain ring, for kernels before 6.1.
    Plain,
}

/// Makes a ring with the best set-up the kernel takes.
pub(super) fn make_ring(entries: Entries) -> io::Result<(IoUring, Setup)> {
    let mut builder = IoUring::builder();
    builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_taskrun_flag();
    builder
        .setup_submit_all()
        .setup_cqsize(entries.completion)
        .setup_clamp()
        .dontfork();
    match builder.build(entries.submission) {
        Ok(ring) => Ok((ring, Setup::Deferred)),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            let ring = IoUring::builder()
                .setup_cqsize(entries.completion)
                .setup_clamp()
                .dontfork()
                .build(entries.submission)?;
            Ok((ring, Setup::Plain))
        }
        Err(error) => Err(error),
    }
}

/// What the kernel knows, if it is all that we cannot do without.
pub(super) fn check_opcodes(ring: &IoUring) -> io::Result<Probe> {
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    match OPCODES.into_iter().find(|&code| !probe.is_supported(code)) {
        Some(_) => Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
        None => Ok(probe),
    }
}

/// Whether a ring can be had here.
pub(crate) fn probe() -> io::Result<()> {
    let (ring, _) = make_ring(Entries::new(1))?;
    check_opcodes(&ring)?;
    Ok(())
}

/// What an operator needs to know when no ring can be had.
pub(crate) fn why_not(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => "this kernel has no io_uring".to_owned(),
        Some(libc::EPERM) => "it is switched off (kernel.io_uring_disabled, or a seccomp filter such as a container's)".to_owned(),
        Some(libc::ENOMEM) => "the limit on locked memory (ulimit -l) is too low".to_owned(),
        Some(libc::EMFILE | libc::ENFILE) => "no file descriptor is left (ulimit -n)".to_owned(),
        Some(libc::EOPNOTSUPP) => "this kernel's io_uring lacks an operation that is needed (Linux 5.19 or later has all)".to_owned(),
        _ => "the ring could not be set up".to_owned(),
    }
}
