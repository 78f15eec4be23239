//! `FakeRing`: the kernel's side of a ring, played by a test.
//!
//! It goes by the 64 bytes of a submission entry, as the kernel does: what an entry points to is
//! read when it is submitted, and buffers are written when the operation ends, through raw
//! pointers. It may do all that the kernel may: end operations late, in any order, partly, or with
//! an error that asks for another try; take a part of what is submitted; and run out of room for
//! completions. What it does is decided by a seed.

// UNSAFETY: plays the kernel, which reads and writes the memory that entries point to.
#![expect(unsafe_code, reason = "reads and writes memory that entries point to")]

use std::{
    collections::VecDeque,
    fs::File,
    io, mem,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::fs::FileExt,
    },
    ptr, slice,
    sync::{Arc, Mutex, MutexGuard},
};

use io_uring::{opcode, squeue};

use super::{
    ring::{Cqe, MORE, Ring},
    setup::Entries,
};
use crate::sys;

/// What the fake kernel does, in thousandths of the times it could.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// An enter fails with `EINTR`, `EAGAIN` or `EBUSY`, having done nothing.
    pub(crate) enter_fails: u32,
    /// An enter takes a part of the submission queue.
    pub(crate) partial_submit: u32,
    /// An operation ends with `EINTR`, or `EAGAIN` where that may be.
    pub(crate) again: u32,
    /// A read, write, receive or send is shorter than asked for.
    pub(crate) short: u32,
    /// An operation that could end is kept for later.
    pub(crate) late: u32,
    /// The kernel can be told of so many buffers and files, then memory may not be locked any more.
    pub(crate) registers_max: Option<u32>,
}

/// A submission entry as the kernel sees it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Sqe {
    opcode: u8,
    flags: u8,
    ioprio: u16,
    fd: i32,
    off: u64,
    addr: u64,
    len: u32,
    op_flags: u32,
    user_data: u64,
    buf_index: u16,
    personality: u16,
    file_index: u32,
    addr3: u64,
    pad: u64,
}

const FIXED_FILE: u8 = 1;
const POLL_MULTI: u32 = 1;

/// An operation in the fake kernel.
struct Held {
    sqe: Sqe,
    /// The kernel keeps the file, whatever happens to its number.
    file: File,
    /// What the entry points to besides its buffer, as it was at submission.
    slices: Vec<(u64, usize)>,
}

struct Kernel {
    entries: Entries,
    faults: Faults,
    random: u64,
    /// While true, nothing that could end does.
    holding: bool,
    in_flight: Vec<Held>,
    completed: VecDeque<Cqe>,
    /// Completions without room in the queue.
    overflown: VecDeque<Cqe>,
    files: Vec<Option<File>>,
    event: Option<File>,
    /// Times somebody waited while everything was held.
    waits_while_holding: u64,
}

/// The test's grip on a fake kernel, for one ring.
#[derive(Clone)]
pub(crate) struct FakeKernel(Arc<Mutex<Kernel>>);

impl FakeKernel {
    /// A kernel whose ring has so many entries, and that does what the seed and the faults say.
    pub(crate) fn new(entries: Entries, faults: Faults, seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Kernel {
            entries,
            faults,
            random: seed | 1,
            holding: false,
            in_flight: Vec::new(),
            completed: VecDeque::new(),
            overflown: VecDeque::new(),
            files: Vec::new(),
            event: None,
            waits_while_holding: 0,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Kernel> {
        self.0.lock().unwrap()
    }

    /// The ring to it. There is to be one.
    pub(crate) fn ring(&self) -> FakeRing {
        FakeRing {
            kernel: self.clone(),
            submission: VecDeque::new(),
        }
    }

    /// From now on nothing ends, but for what is cancelled and what [`Self::release`] says.
    pub(crate) fn hold(&self) {
        self.lock().holding = true;
    }

    /// From now on operations end again.
    pub(crate) fn let_go(&self) {
        self.lock().holding = false;
    }

    /// Ends one operation on storage, the one at `at` modulo their number; returns whether there was one.
    pub(crate) fn release(&self, at: usize) -> bool {
        let mut kernel = self.lock();
        let storage: Vec<usize> = (0..kernel.in_flight.len())
            .filter(|&at| kernel.in_flight[at].waits_for() == 0)
            .collect();
        if storage.is_empty() {
            return false;
        }
        let chosen = storage[at % storage.len()];
        kernel.finish(chosen);
        true
    }

    /// The memory that operations in flight may still read or write: addresses and lengths.
    pub(crate) fn memory_in_use(&self) -> Vec<(usize, usize)> {
        let kernel = self.lock();
        let buffers = kernel.in_flight.iter().flat_map(|held| held.memory());
        buffers.collect()
    }

    /// Operations in flight, but for the ring's own.
    pub(crate) fn in_flight(&self) -> usize {
        let kernel = self.lock();
        let all = kernel.in_flight.iter();
        all.filter(|held| held.sqe.user_data < 1 << 62).count()
    }

    /// Times the ring waited although everything was held.
    pub(crate) fn waits_while_holding(&self) -> u64 {
        self.lock().waits_while_holding
    }
}

impl std::fmt::Debug for FakeKernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kernel = self.lock();
        f.debug_struct("FakeKernel")
            .field("in_flight", &kernel.in_flight.len())
            .field("faults", &kernel.faults)
            .finish_non_exhaustive()
    }
}

impl Held {
    /// The `poll(2)` events that must hold before it can end; none for storage.
    fn waits_for(&self) -> i16 {
        match self.sqe.opcode {
            opcode::PollAdd::CODE => i16::try_from(self.sqe.op_flags & 0x7fff).unwrap(),
            opcode::Accept::CODE | opcode::Recv::CODE => libc::POLLIN,
            opcode::SendMsg::CODE => libc::POLLOUT,
            // The read on the eventfd is the one without a place.
            opcode::Read::CODE if self.sqe.user_data == super::KICK => libc::POLLIN,
            _ => 0,
        }
    }

    fn is_multishot(&self) -> bool {
        self.sqe.opcode == opcode::PollAdd::CODE && self.sqe.len & POLL_MULTI != 0
    }

    fn memory(&self) -> Vec<(usize, usize)> {
        let own = match self.sqe.opcode {
            opcode::Read::CODE
            | opcode::Write::CODE
            | opcode::ReadFixed::CODE
            | opcode::WriteFixed::CODE
            | opcode::Recv::CODE => Some((self.sqe.addr, usize::try_from(self.sqe.len).unwrap())),
            _ => None,
        };
        let all = self.slices.iter().copied().chain(own);
        all.map(|(start, len)| (usize::try_from(start).unwrap(), len))
            .collect()
    }

    /// What of the operation's buffer is used, if it is to be `len` bytes: the kernel's view of it.
    fn buffer(&self, len: usize) -> &'static mut [u8] {
        let start = ptr::with_exposed_provenance_mut(usize::try_from(self.sqe.addr).unwrap());
        // SAFETY: the buffer is the kernel's from submission to completion, as the backend vouches.
        unsafe { slice::from_raw_parts_mut(start, len) }
    }
}

impl Kernel {
    /// A number below `below`.
    fn roll(&mut self, below: u32) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        u32::try_from(self.random % u64::from(below)).unwrap()
    }

    fn chance(&mut self, thousandths: u32) -> bool {
        thousandths > 0 && self.roll(1000) < thousandths
    }

    /// A length that is cut now and then.
    fn shortened(&mut self, len: usize) -> usize {
        let cut = len > 1 && self.chance(self.faults.short);
        let most = u32::try_from(len).unwrap();
        if cut {
            usize::try_from(1 + self.roll(most - 1)).unwrap()
        } else {
            len
        }
    }

    /// Whether the kernel may be told of one thing more.
    fn registers(&mut self) -> io::Result<()> {
        match &mut self.faults.registers_max {
            None => Ok(()),
            Some(0) => Err(io::Error::from_raw_os_error(libc::ENOMEM)),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    fn submit(&mut self, sqe: Sqe) {
        let same = |held: &Held| held.sqe.user_data == sqe.user_data;
        assert!(
            !self.in_flight.iter().any(same) || sqe.opcode == opcode::AsyncCancel::CODE,
            "a slot is used again before its operation has ended"
        );
        if sqe.opcode == opcode::AsyncCancel::CODE {
            return self.cancel(sqe);
        }
        let file = if sqe.flags & FIXED_FILE != 0 {
            let place = usize::try_from(sqe.fd).unwrap();
            let file = self.files[place].as_ref().expect("a registered file");
            file.try_clone().unwrap()
        } else {
            // SAFETY: borrowed for this statement; a wrong number makes the copy fail.
            let fd = unsafe { BorrowedFd::borrow_raw(sqe.fd) };
            match fd.try_clone_to_owned() {
                Ok(fd) => File::from(fd),
                Err(error) => return self.post(sqe, errno(&error), 0),
            }
        };
        let slices = if sqe.opcode == opcode::SendMsg::CODE {
            slices_of(sqe.addr)
        } else {
            Vec::new()
        };
        self.in_flight.push(Held { sqe, file, slices });
    }

    fn cancel(&mut self, sqe: Sqe) {
        let target = |held: &Held| held.sqe.user_data == sqe.addr;
        let result = match self.in_flight.iter().position(target) {
            // What has begun on storage runs to its end.
            Some(at) if self.in_flight[at].waits_for() == 0 => -libc::EALREADY,
            Some(at) => {
                let held = self.in_flight.remove(at);
                self.post(held.sqe, -libc::ECANCELED, 0);
                0
            }
            None => -libc::ENOENT,
        };
        self.post(sqe, result, 0);
    }

    /// Brings a completion; if there is no room it must wait, and a multishot poll ends.
    fn post(&mut self, sqe: Sqe, result: i32, flags: u32) {
        let cqe = Cqe {
            user_data: sqe.user_data,
            result,
            flags,
        };
        if self.completed.len() < usize::try_from(self.entries.completion).unwrap()
            && self.overflown.is_empty()
        {
            self.completed.push_back(cqe);
        } else {
            self.overflown.push_back(Cqe { flags: 0, ..cqe });
            self.in_flight
                .retain(|held| held.sqe.user_data != sqe.user_data);
        }
        if let Some(event) = &self.event {
            io::Write::write_all(&mut &*event, &1u64.to_ne_bytes()).unwrap();
        }
    }

    fn flush_overflown(&mut self) {
        let entries = usize::try_from(self.entries.completion).unwrap();
        while self.completed.len() < entries
            && let Some(cqe) = self.overflown.pop_front()
        {
            self.completed.push_back(cqe);
        }
    }

    /// Ends what can end now, in any order.
    fn progress(&mut self) {
        let mut at = 0;
        while at < self.in_flight.len() {
            // Another one takes the place of what ends, so the order is any.
            if !self.may_end(at) {
                at += 1;
                continue;
            }
            if self.in_flight[at].is_multishot() {
                let (sqe, holds) = (self.in_flight[at].sqe, self.holds(at));
                let before = self.in_flight.len();
                self.post(sqe, i32::from(holds), MORE);
                at += usize::from(self.in_flight.len() == before);
            } else {
                self.finish(at);
            }
        }
    }

    fn holds(&self, at: usize) -> i16 {
        let held = &self.in_flight[at];
        sys::poll(held.file.as_fd(), held.waits_for()).unwrap()
    }

    fn may_end(&mut self, at: usize) -> bool {
        let held = &self.in_flight[at];
        let (user_data, waits_for) = (held.sqe.user_data, held.waits_for());
        if held.is_multishot() && self.completed.iter().any(|cqe| cqe.user_data == user_data) {
            return false;
        }
        if self.holding && waits_for == 0 {
            return false;
        }
        if waits_for != 0 && self.holds(at) == 0 {
            return false;
        }
        !self.chance(self.faults.late)
    }

    /// Ends one operation.
    fn finish(&mut self, at: usize) {
        let held = self.in_flight.swap_remove(at);
        let ours = held.sqe.user_data >= 1 << 62;
        let again = !ours && self.chance(self.faults.again);
        let result = if again && held.waits_for() == 0 && self.roll(4) == 0 {
            -libc::EAGAIN
        } else if again {
            -libc::EINTR
        } else {
            match self.perform(&held) {
                Ok(value) => value,
                Err(error) => errno(&error),
            }
        };
        self.post(held.sqe, result, 0);
    }

    fn perform(&mut self, held: &Held) -> io::Result<i32> {
        let sqe = &held.sqe;
        let len = self.shortened(usize::try_from(sqe.len).unwrap());
        let count = |count: usize| i32::try_from(count).unwrap();
        match sqe.opcode {
            opcode::Read::CODE if sqe.user_data == super::KICK => {
                let taken = io::Read::read(&mut &held.file, held.buffer(8))?;
                Ok(count(taken))
            }
            opcode::Read::CODE | opcode::ReadFixed::CODE => {
                held.file.read_at(held.buffer(len), sqe.off).map(count)
            }
            opcode::Write::CODE | opcode::WriteFixed::CODE => {
                held.file.write_at(held.buffer(len), sqe.off).map(count)
            }
            opcode::Fsync::CODE => held.file.sync_data().map(|()| 0),
            opcode::Fallocate::CODE => {
                let mode = i32::try_from(sqe.len).unwrap();
                let mode = nix::fcntl::FallocateFlags::from_bits_retain(mode);
                let (at, len) = (sys::offset(sqe.off)?, sys::offset(sqe.addr)?);
                nix::fcntl::fallocate(&held.file, mode, at, len)?;
                Ok(0)
            }
            opcode::PollAdd::CODE => sys::poll(held.file.as_fd(), held.waits_for()).map(i32::from),
            opcode::Accept::CODE => {
                let accepted = sys::accept(held.file.as_fd())?;
                Ok(std::os::fd::IntoRawFd::into_raw_fd(accepted))
            }
            opcode::Recv::CODE => sys::recv_now(held.file.as_fd(), held.buffer(len)).map(count),
            opcode::SendMsg::CODE => self.send(held),
            code => unreachable!("the backend was told that there is no operation {code}"),
        }
    }

    fn send(&mut self, held: &Held) -> io::Result<i32> {
        let mut bytes = Vec::new();
        for &(start, len) in &held.slices {
            let start = ptr::with_exposed_provenance::<u8>(usize::try_from(start).unwrap());
            // SAFETY: the slices are the kernel's until the completion, as the backend vouches.
            bytes.extend_from_slice(unsafe { slice::from_raw_parts(start, len) });
        }
        let len = self.shortened(bytes.len());
        let flags =
            nix::sys::socket::MsgFlags::MSG_DONTWAIT | nix::sys::socket::MsgFlags::MSG_NOSIGNAL;
        let sent = nix::sys::socket::send(held.file.as_raw_fd(), &bytes[..len], flags)?;
        Ok(i32::try_from(sent).unwrap())
    }

    /// What a sleeping kernel waits for: the descriptors of operations that wait for a peer.
    fn wait_list(&self) -> Vec<libc::pollfd> {
        let waits = self.in_flight.iter().filter(|held| held.waits_for() != 0);
        waits
            .map(|held| libc::pollfd {
                fd: held.file.as_raw_fd(),
                events: held.waits_for(),
                revents: 0,
            })
            .collect()
    }

    /// Whether something on storage can end without anybody's help.
    fn has_storage(&self) -> bool {
        self.in_flight.iter().any(|held| held.waits_for() == 0)
    }
}

fn errno(error: &io::Error) -> i32 {
    -error.raw_os_error().unwrap_or(libc::EIO)
}

/// The slices of the `msghdr` at `header`.
fn slices_of(header: u64) -> Vec<(u64, usize)> {
    let header = ptr::with_exposed_provenance::<libc::msghdr>(usize::try_from(header).unwrap());
    // SAFETY: the entry is being submitted, so that what it points to is there to be read.
    let header = unsafe { header.read() };
    // SAFETY: as above; the header says how many there are.
    let slices = unsafe { slice::from_raw_parts(header.msg_iov, header.msg_iovlen) };
    slices
        .iter()
        .map(|slice| {
            (
                u64::try_from(slice.iov_base.expose_provenance()).unwrap(),
                slice.iov_len,
            )
        })
        .collect()
}

/// A ring to a fake kernel.
#[derive(Debug)]
pub(crate) struct FakeRing {
    kernel: FakeKernel,
    /// Entries that the kernel has not taken.
    submission: VecDeque<Sqe>,
}

impl Ring for FakeRing {
    fn describe(&self) -> &'static str {
        "fake"
    }

    fn cq_entries(&self) -> u32 {
        self.kernel.lock().entries.completion
    }

    fn unsubmitted(&mut self) -> usize {
        self.submission.len()
    }

    unsafe fn push(&mut self, entry: &squeue::Entry) -> bool {
        const { assert!(size_of::<Sqe>() == size_of::<squeue::Entry>()) };
        let room = usize::try_from(self.kernel.lock().entries.submission).unwrap();
        if self.submission.len() >= room {
            return false;
        }
        // SAFETY: an entry is 64 bytes of the kernel's layout, all of them numbers.
        let sqe = unsafe { mem::transmute_copy::<squeue::Entry, Sqe>(entry) };
        self.submission.push_back(sqe);
        true
    }

    fn needs_enter(&mut self) -> bool {
        let kernel = self.kernel.lock();
        !self.submission.is_empty() || !kernel.overflown.is_empty() || !kernel.in_flight.is_empty()
    }

    fn has_completions(&mut self) -> bool {
        !self.kernel.lock().completed.is_empty()
    }

    fn enter(&mut self, want: u32, timeout_ns: Option<u64>) -> io::Result<()> {
        let mut kernel = self.kernel.lock();
        let faults = kernel.faults;
        if kernel.chance(faults.enter_fails) {
            let errnos = [libc::EINTR, libc::EAGAIN, libc::EBUSY];
            let chosen = usize::try_from(kernel.roll(3)).unwrap();
            return Err(io::Error::from_raw_os_error(errnos[chosen]));
        }
        let mut take = self.submission.len();
        if take > 1 && kernel.chance(faults.partial_submit) {
            take = usize::try_from(kernel.roll(u32::try_from(take).unwrap())).unwrap();
        }
        for sqe in self.submission.drain(..take) {
            kernel.submit(sqe);
        }
        kernel.progress();
        kernel.flush_overflown();
        if want == 0 || !self.submission.is_empty() || !kernel.completed.is_empty() {
            return Ok(());
        }
        if kernel.has_storage() {
            // Time passes: even what is held ends some day.
            let holding = mem::replace(&mut kernel.holding, false);
            kernel.waits_while_holding += u64::from(holding);
            kernel.progress();
            kernel.holding = holding;
            return Ok(());
        }
        let mut waits = kernel.wait_list();
        drop(kernel);
        sys::poll_many(&mut waits, timeout_ns)?;
        let mut kernel = self.kernel.lock();
        kernel.progress();
        kernel.flush_overflown();
        Ok(())
    }

    fn reap(&mut self, cqes: &mut Vec<Cqe>) {
        cqes.extend(self.kernel.lock().completed.drain(..));
    }

    fn is_overflown(&mut self) -> bool {
        !self.kernel.lock().overflown.is_empty()
    }

    fn supports(&self, opcode: u8) -> bool {
        ![
            opcode::Readv::CODE,
            opcode::Writev::CODE,
            opcode::Statx::CODE,
            opcode::OpenAt::CODE,
            opcode::Connect::CODE,
            opcode::Splice::CODE,
            opcode::SendMsgZc::CODE,
        ]
        .contains(&opcode)
    }

    fn register_files(&mut self, len: u32) -> io::Result<()> {
        let len = usize::try_from(len).unwrap();
        self.kernel.lock().files.resize_with(len, || None);
        Ok(())
    }

    fn register_file(&mut self, at: u32, file: RawFd) -> io::Result<()> {
        let at = usize::try_from(at).unwrap();
        let mut kernel = self.kernel.lock();
        if file != -1 {
            kernel.registers()?;
        }
        kernel.files[at] = match file {
            -1 => None,
            // SAFETY: borrowed for this statement, by a caller who has it open.
            file => Some(
                unsafe { BorrowedFd::borrow_raw(file) }
                    .try_clone_to_owned()?
                    .into(),
            ),
        };
        Ok(())
    }

    fn register_buffers(&mut self, _len: u32) -> io::Result<()> {
        self.kernel.lock().registers()
    }

    unsafe fn register_buffer(&mut self, _at: u32, _memory: libc::iovec) -> io::Result<()> {
        self.kernel.lock().registers()
    }

    fn register_eventfd(&mut self, event: RawFd) -> io::Result<()> {
        // SAFETY: borrowed for this statement, by a caller who has it open.
        let event: OwnedFd = unsafe { BorrowedFd::borrow_raw(event) }.try_clone_to_owned()?;
        self.kernel.lock().event = Some(event.into());
        Ok(())
    }

    fn unregister_eventfd(&mut self) -> io::Result<()> {
        self.kernel.lock().event = None;
        Ok(())
    }

    fn cancel_all(&mut self) -> io::Result<()> {
        let mut kernel = self.kernel.lock();
        let waiting: Vec<u64> = kernel
            .in_flight
            .iter()
            .filter(|held| held.waits_for() != 0)
            .map(|held| held.sqe.user_data)
            .collect();
        for user_data in waiting {
            let target = |held: &Held| held.sqe.user_data == user_data;
            if let Some(at) = kernel.in_flight.iter().position(target) {
                let held = kernel.in_flight.remove(at);
                kernel.post(held.sqe, -libc::ECANCELED, 0);
            }
        }
        Ok(())
    }
}

/// A ring whose enter fails now and then, having done nothing, by a seed.
#[derive(Debug)]
pub(crate) struct Injecting<R> {
    ring: R,
    random: u64,
    /// How often an enter fails, in thousandths.
    fails: u64,
}

impl<R: Ring> Injecting<R> {
    pub(crate) fn new(ring: R, fails: u64, seed: u64) -> Self {
        Self {
            ring,
            random: seed | 1,
            fails,
        }
    }
}

impl<R: Ring> Ring for Injecting<R> {
    fn describe(&self) -> &'static str {
        "a ring with injected failures"
    }

    fn cq_entries(&self) -> u32 {
        self.ring.cq_entries()
    }

    fn unsubmitted(&mut self) -> usize {
        self.ring.unsubmitted()
    }

    unsafe fn push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: passed on to the caller.
        unsafe { self.ring.push(entry) }
    }

    fn needs_enter(&mut self) -> bool {
        self.ring.needs_enter()
    }

    fn has_completions(&mut self) -> bool {
        self.ring.has_completions()
    }

    fn enter(&mut self, want: u32, timeout_ns: Option<u64>) -> io::Result<()> {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        if self.random % 1000 < self.fails {
            let errno = match self.random >> 32 & 3 {
                0 => libc::EINTR,
                1 => libc::EAGAIN,
                _ => libc::EBUSY,
            };
            return Err(io::Error::from_raw_os_error(errno));
        }
        self.ring.enter(want, timeout_ns)
    }

    fn reap(&mut self, cqes: &mut Vec<Cqe>) {
        self.ring.reap(cqes);
    }

    fn is_overflown(&mut self) -> bool {
        self.ring.is_overflown()
    }

    fn supports(&self, opcode: u8) -> bool {
        self.ring.supports(opcode)
    }

    fn register_files(&mut self, len: u32) -> io::Result<()> {
        self.ring.register_files(len)
    }

    fn register_file(&mut self, at: u32, file: RawFd) -> io::Result<()> {
        self.ring.register_file(at, file)
    }

    fn register_buffers(&mut self, len: u32) -> io::Result<()> {
        self.ring.register_buffers(len)
    }

    unsafe fn register_buffer(&mut self, at: u32, memory: libc::iovec) -> io::Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { self.ring.register_buffer(at, memory) }
    }

    fn register_eventfd(&mut self, event: RawFd) -> io::Result<()> {
        self.ring.register_eventfd(event)
    }

    fn unregister_eventfd(&mut self) -> io::Result<()> {
        self.ring.unregister_eventfd()
    }

    fn cancel_all(&mut self) -> io::Result<()> {
        self.ring.cancel_all()
    }
}
