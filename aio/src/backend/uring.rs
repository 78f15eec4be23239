//! `io_uring`: one ring for disk, sockets, readiness and wake-ups.
//!
//! Ownership: an operation moves into `ops` when it is submitted and out of it when its last
//! completion has arrived; nothing else removes it. Closing a ring does *not* stop operations in
//! flight, so dropping this backend waits for them first.

// UNSAFETY: submission entries carry raw pointers into what the operations own. This module alone
// ties the life of that memory to the completions.
#![expect(
    unsafe_code,
    reason = "pushes submission entries that point into owned operations"
)]

mod message;
mod setup;

use std::{
    collections::VecDeque,
    fmt, io,
    mem::{self, ManuallyDrop},
    ops::Range,
    os::fd::{AsFd, AsRawFd},
    ptr,
    sync::Arc,
    time::{Duration, Instant},
};

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use crate::{
    backend::{Backend, BackendKind, Wait},
    buf::{IoBuf, PoolShared},
    op::{Completion, Key, Op, Value},
    shared::Shared,
    sys::{self, Blocking},
};
use message::MessageHeader;
use setup::{Setup, check_opcodes, make_ring};
pub(crate) use setup::{probe, why_not};

/// Room in the completion queue that operations leave for kicks and cancellations.
const CQ_SPARE: u32 = 64;
/// How long a ring that is dropped waits for the kernel to finish what is in flight.
const DRAIN_MAX: Duration = Duration::from_secs(30);

/// User data of the read that waits on the context's eventfd. Operation keys have a smaller generation.
const KICK: u64 = u64::MAX;
/// User data of cancellations, whose own results nobody needs.
const CANCEL: u64 = u64::MAX - 1;

/// An operation the kernel works on, with the memory its submission entry points to besides.
struct InKernel {
    op: Op,
    generation: u32,
    /// Kept where it is until the completion: the entry points to it.
    _message: Option<Box<MessageHeader>>,
}

/// One ring and everything the kernel may touch on its behalf.
pub(crate) struct Uring {
    ring: ManuallyDrop<IoUring>,
    setup: Setup,
    shared: Arc<Shared>,
    pool: Arc<PoolShared>,
    /// By request index. A slot is filled from submission to completion.
    ops: ManuallyDrop<Vec<Option<InKernel>>>,
    in_kernel: usize,
    /// Operations handed to the kernel at once; the completion queue, as large as it came out, then never overflows.
    in_kernel_max: usize,
    /// Completions between the ring and their operations, empty between turns: kept for its memory.
    arrived: Vec<(u64, i32)>,
    /// Operations that found no room: they wait for it in order.
    backlog: VecDeque<(Key, Op)>,
    cancels: VecDeque<Key>,
    /// The eventfd's count lands here.
    kick_count: ManuallyDrop<Box<[u8; 8]>>,
    kick_armed: bool,
    /// Slabs of the pool that the kernel knows, or the reason why it is told of no more.
    slabs: Registered,
}

#[derive(Debug)]
enum Registered {
    Slabs(u16),
    Refused,
}

impl Uring {
    pub(crate) fn new(shared: Arc<Shared>, pool: Arc<PoolShared>) -> io::Result<Self> {
        let (ring, setup) = make_ring()?;
        check_opcodes(&ring)?;
        let table = u32::try_from(pool.slabs_max()).map_err(io::Error::other)?;
        let slabs = match ring.submitter().register_buffers_sparse(table) {
            Ok(()) => Registered::Slabs(0),
            Err(error) => refused(&error),
        };
        let in_kernel_max = ring.params().cq_entries().saturating_sub(CQ_SPARE).max(1);
        let in_kernel_max = usize::try_from(in_kernel_max).map_err(io::Error::other)?;
        Ok(Self {
            ring: ManuallyDrop::new(ring),
            setup,
            shared,
            pool,
            ops: ManuallyDrop::new(Vec::new()),
            in_kernel: 0,
            in_kernel_max,
            arrived: Vec::new(),
            backlog: VecDeque::new(),
            cancels: VecDeque::new(),
            kick_count: ManuallyDrop::new(Box::new([0; 8])),
            kick_armed: false,
            slabs,
        })
    }

    /// The index under which the kernel knows the slab of `buf`, if it does or can be told now.
    fn fixed_index(&mut self, buf: &IoBuf) -> Option<u16> {
        let slab = buf.slab_in(&self.pool)?;
        loop {
            match self.slabs {
                Registered::Slabs(known) if slab < known => return Some(slab),
                Registered::Slabs(known) => self.slabs = self.register(known),
                Registered::Refused => return None,
            }
        }
    }

    /// Tells the kernel of slab `slab`.
    fn register(&self, slab: u16) -> Registered {
        let (start, len) = self.pool.slab(slab);
        let memory = libc::iovec {
            iov_base: start.as_ptr().cast(),
            iov_len: len,
        };
        // SAFETY: the slab stays mapped as long as the pool, of which `self` holds a clone until the ring is closed.
        let told = unsafe {
            self.ring
                .submitter()
                .register_buffers_update(u32::from(slab), &[memory], None)
        };
        match told {
            Ok(()) => Registered::Slabs(slab + 1),
            Err(error) => refused(&error),
        }
    }

    fn read_entry(
        &mut self,
        fd: types::Fd,
        at: u64,
        buf: &mut IoBuf,
        range: &Range<usize>,
    ) -> squeue::Entry {
        let (start, len) = span(buf, range);
        match self.fixed_index(buf) {
            Some(index) => opcode::ReadFixed::new(fd, start, len, index)
                .offset(at)
                .build(),
            None => opcode::Read::new(fd, start, len).offset(at).build(),
        }
    }

    fn write_entry(
        &mut self,
        fd: types::Fd,
        at: u64,
        buf: &mut IoBuf,
        range: &Range<usize>,
    ) -> squeue::Entry {
        let (start, len) = span(buf, range);
        match self.fixed_index(buf) {
            Some(index) => opcode::WriteFixed::new(fd, start, len, index)
                .offset(at)
                .build(),
            None => opcode::Write::new(fd, start, len).offset(at).build(),
        }
    }

    /// Builds the submission entry of `op`, which points into what `op` owns.
    fn entry(&mut self, op: &mut Op) -> (squeue::Entry, Option<Box<MessageHeader>>) {
        let fd = types::Fd(op.fd().as_raw_fd());
        let entry = match op {
            Op::Read {
                offset_bytes,
                buf,
                range,
                ..
            } => self.read_entry(fd, *offset_bytes, buf, range),
            Op::Write {
                offset_bytes,
                buf,
                range,
                ..
            } => self.write_entry(fd, *offset_bytes, buf, range),
            Op::Sync { data_only, .. } => {
                let flags = if *data_only {
                    types::FsyncFlags::DATASYNC
                } else {
                    types::FsyncFlags::empty()
                };
                opcode::Fsync::new(fd).flags(flags).build()
            }
            Op::Fallocate {
                mode,
                offset_bytes,
                len_bytes,
                ..
            } => opcode::Fallocate::new(fd, *len_bytes)
                .offset(*offset_bytes)
                .mode(*mode)
                .build(),
            Op::Poll { events, .. } => {
                opcode::PollAdd::new(fd, u32::from(events.cast_unsigned())).build()
            }
            Op::Accept { .. } => opcode::Accept::new(fd, ptr::null_mut(), ptr::null_mut())
                .flags(libc::SOCK_CLOEXEC)
                .build(),
            Op::Recv { buf, range, .. } => {
                let (start, len) = span(buf, range);
                opcode::Recv::new(fd, start, len).build()
            }
            Op::Send { message, .. } => {
                let header = MessageHeader::new(message);
                let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
                let entry = opcode::SendMsg::new(fd, header.as_ptr())
                    .flags(flags.cast_unsigned())
                    .build();
                return (entry, Some(header));
            }
        };
        (entry, None)
    }

    /// Hands `op` to the kernel; there is room for its entry and its completion.
    fn push(&mut self, key: Key, mut op: Op) {
        let (entry, message) = self.entry(&mut op);
        let at = key.at();
        if self.ops.len() <= at {
            self.ops.resize_with(at + 1, || None);
        }
        debug_assert!(
            self.ops[at].is_none(),
            "a request index is reused only after its completion"
        );
        self.ops[at] = Some(InKernel {
            op,
            generation: key.generation,
            _message: message,
        });
        self.in_kernel += 1;
        self.push_entry(&entry.user_data(key.to_bits()));
    }

    /// Puts an entry into the submission queue, making room by submitting what is there.
    fn push_entry(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: all an entry points to is owned by `ops`, or is `kick_count`; both outlive the completion.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return;
            }
            if let Err(error) = self.ring.submit() {
                tracing::trace!(%error, "submitting to make room");
            }
        }
    }

    /// Moves as much of the backlog into the submission queue as there is room for.
    fn refill(&mut self) {
        if !self.kick_armed {
            self.kick_armed = true;
            let (fd, start) = (
                types::Fd(self.shared.event().as_raw_fd()),
                self.kick_count.as_mut_ptr(),
            );
            self.push_entry(&opcode::Read::new(fd, start, 8).build().user_data(KICK));
        }
        while let Some(key) = self.cancels.pop_front() {
            self.push_entry(
                &opcode::AsyncCancel::new(key.to_bits())
                    .build()
                    .user_data(CANCEL),
            );
        }
        while self.in_kernel < self.in_kernel_max
            && let Some((key, op)) = self.backlog.pop_front()
        {
            self.push(key, op);
        }
    }

    /// Enters the kernel if there is anything to say or to wait for.
    fn enter(&mut self, wait: Wait) {
        let submitter_has_work = {
            let submission = self.ring.submission();
            !submission.is_empty() || submission.taskrun() || submission.cq_overflow()
        };
        let entered = match wait {
            Wait::No if submitter_has_work => self.ring.submit(),
            Wait::No => return,
            Wait::Ns(ns) => {
                let timeout = types::Timespec::from(Duration::from_nanos(ns));
                self.ring
                    .submitter()
                    .submit_with_args(1, &types::SubmitArgs::new().timespec(&timeout))
            }
            Wait::Forever => self.ring.submit_and_wait(1),
        };
        // EINTR and ETIME are ordinary; EBUSY and EAGAIN go away once completions are taken, which comes next.
        if let Err(error) = entered {
            tracing::trace!(%error, "io_uring_enter came back early");
        }
    }

    /// Moves arrived completions out of the ring. Runs nobody's code.
    fn reap(&mut self, completions: &mut Vec<Completion>) {
        let mut arrived = mem::take(&mut self.arrived);
        let entries = self.ring.completion();
        arrived.extend(entries.map(|entry: cqueue::Entry| (entry.user_data(), entry.result())));
        for (user_data, result) in arrived.drain(..) {
            match user_data {
                KICK => self.kick_armed = false,
                CANCEL => {}
                bits => self.finish(Key::from_bits(bits), result, completions),
            }
        }
        self.arrived = arrived;
    }

    fn finish(&mut self, key: Key, result: i32, completions: &mut Vec<Completion>) {
        let slot = self
            .ops
            .get_mut(key.at())
            .and_then(|slot| slot.take_if(|held| held.generation == key.generation));
        let Some(InKernel { op, .. }) = slot else {
            unreachable!("a completion carries the key of an operation in flight, not {key:?}");
        };
        self.in_kernel -= 1;
        if retry_at_once(&op, result) {
            self.backlog.push_back((key, op));
            return;
        }
        let result = match (&op, u32::try_from(result)) {
            // SAFETY: the completion of an accept brings a descriptor that nobody else owns.
            (Op::Accept { .. }, Ok(_)) => Ok(Value::Accepted(unsafe { sys::adopt(result) })),
            (_, Ok(count)) => Ok(Value::Count(count)),
            (_, Err(_)) => Err(result.wrapping_neg()),
        };
        completions.push(Completion { key, op, result });
    }
}

/// Whether a result only means that the operation must be tried again.
fn retry_at_once(op: &Op, result: i32) -> bool {
    if op.is_disk() {
        // EAGAIN from storage is for the context to deal with, on a thread that may block.
        return result == -libc::EINTR;
    }
    if result == -libc::EAGAIN {
        // The ring does the waiting; a socket that is non-blocking by flag would come back at once for ever.
        return sys::set_blocking(op.fd().as_fd(), Blocking::Yes).is_ok();
    }
    result == -libc::EINTR
}

fn refused(error: &io::Error) -> Registered {
    tracing::info!(%error, "buffers are not registered with the kernel (ulimit -l?); a little more CPU per request");
    Registered::Refused
}

/// Address and length of a range of a buffer, as a submission entry wants them.
fn span(buf: &mut IoBuf, range: &Range<usize>) -> (*mut u8, u32) {
    let bytes = &mut buf[range.clone()];
    let len = u32::try_from(bytes.len()).expect("one request moves less than 4 GiB");
    (bytes.as_mut_ptr(), len)
}

impl Backend for Uring {
    fn kind(&self) -> BackendKind {
        BackendKind::IoUring
    }

    fn describe(&self) -> String {
        let setup = match self.setup {
            Setup::Deferred => "DEFER_TASKRUN, SINGLE_ISSUER",
            Setup::Plain => "plain ring",
        };
        let buffers = match self.slabs {
            Registered::Slabs(_) => "registered buffers",
            Registered::Refused => "buffers not registered",
        };
        format!("io_uring ({setup}, {buffers})")
    }

    fn runs_disk(&self) -> bool {
        true
    }

    fn submit(&mut self, key: Key, op: Op) {
        if self.backlog.is_empty() && self.in_kernel < self.in_kernel_max {
            self.push(key, op);
        } else {
            self.backlog.push_back((key, op));
        }
    }

    fn cancel(&mut self, key: Key) {
        // The entry goes behind the operation's own, so the kernel knows what is meant. Storage
        // requests run to their end.
        let held = self
            .ops
            .get(key.at())
            .and_then(Option::as_ref)
            .filter(|held| held.generation == key.generation);
        if held.is_some_and(|held| !held.op.is_disk()) {
            self.cancels.push_back(key);
        }
    }

    fn has_news(&mut self) -> bool {
        let submission = self.ring.submission();
        let deferred = submission.taskrun() || submission.cq_overflow();
        drop(submission);
        deferred || !self.ring.completion().is_empty()
    }

    fn wait(&mut self, wait: Wait, completions: &mut Vec<Completion>) {
        self.refill();
        let wait = if self.ring.completion().is_empty() {
            wait
        } else {
            Wait::No
        };
        self.enter(wait);
        self.reap(completions);
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.backlog.clear();
        // The kernel cancels only what it has been told of.
        self.enter(Wait::No);
        let everything = types::CancelBuilder::any();
        if let Err(error) = self.ring.submitter().register_sync_cancel(None, everything) {
            tracing::trace!(%error, "nothing was left to cancel");
        }
        let give_up = Instant::now() + DRAIN_MAX;
        let mut completions = Vec::new();
        while self.in_kernel > 0 && Instant::now() < give_up {
            // Never `refill` here: the kick must not be armed again.
            self.enter(Wait::Ns(100_000_000));
            self.reap(&mut completions);
            self.backlog.clear();
            completions.clear();
        }
        if self.in_kernel > 0 || self.kick_armed && !self.drain_kick() {
            // What the kernel may still write to must stay mapped for good.
            tracing::error!(
                in_flight = self.in_kernel,
                "the kernel does not finish; its memory is leaked"
            );
            return;
        }
        // SAFETY: dropped once, here; the kernel is done with everything.
        unsafe { ManuallyDrop::drop(&mut self.ring) };
        // SAFETY: as above.
        unsafe { ManuallyDrop::drop(&mut self.ops) };
        // SAFETY: as above.
        unsafe { ManuallyDrop::drop(&mut self.kick_count) };
    }
}

impl Uring {
    /// Waits for the cancelled read on the eventfd to end.
    fn drain_kick(&mut self) -> bool {
        let give_up = Instant::now() + Duration::from_secs(1);
        self.shared.event().signal();
        while mem::take(&mut self.kick_armed) && Instant::now() < give_up {
            self.kick_armed = true;
            self.enter(Wait::Ns(10_000_000));
            self.reap(&mut Vec::new());
        }
        !self.kick_armed
    }
}

impl fmt::Debug for Uring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uring")
            .field("setup", &self.setup)
            .field("in_kernel", &self.in_kernel)
            .field("backlog", &self.backlog.len())
            .finish_non_exhaustive()
    }
}
