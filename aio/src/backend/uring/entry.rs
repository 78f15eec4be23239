//! Submission entries: an operation as the kernel wants to be told of it.

use std::{
    ops::Range,
    os::fd::{AsRawFd, RawFd},
    ptr,
};

use io_uring::{opcode, squeue, types};

use super::{Uring, ring::Ring};
use crate::{
    buf::IoBuf,
    fd::Fd,
    op::{Call, Direction, Op, Transfer, ZeroCopy},
    sys::StatusBuffer,
};

/// Has the kernel tell, when it needs the bytes no more, whether it has copied them.
const SEND_ZC_REPORT_USAGE: u16 = 1 << 3;

/// The operation of the ring's that does `op`; none if a worker must.
pub(super) fn opcode_of(op: &Op) -> Option<u8> {
    Some(match op {
        Op::Read { .. } => opcode::Read::CODE,
        Op::Write { .. } => opcode::Write::CODE,
        Op::Sync { .. } => opcode::Fsync::CODE,
        Op::Fallocate { .. } => opcode::Fallocate::CODE,
        Op::Poll { .. } => opcode::PollAdd::CODE,
        Op::Accept { .. } => opcode::Accept::CODE,
        Op::Recv { .. } => opcode::Recv::CODE,
        Op::Send { .. } => opcode::SendMsg::CODE,
        Op::Connect { .. } => opcode::Connect::CODE,
        Op::Call(call) => match **call {
            Call::Vectored {
                direction: Direction::Read,
                ..
            } => opcode::Readv::CODE,
            Call::Vectored {
                direction: Direction::Write,
                ..
            } => opcode::Writev::CODE,
            Call::Status { .. } => opcode::Statx::CODE,
            Call::Open { .. } => opcode::OpenAt::CODE,
            Call::Splice(_) => opcode::Splice::CODE,
            Call::Copy(_) | Call::Clone(_) | Call::Discard { .. } => return None,
        },
    })
}

impl<R: Ring> Uring<R> {
    /// Builds the submission entry of `op`, which points into what `op` owns; `file` is its descriptor
    /// as the kernel is to be told of it.
    pub(super) fn entry(&mut self, op: &mut Op, file: types::Fd) -> squeue::Entry {
        match op {
            Op::Read {
                offset_bytes,
                buf,
                range,
                ..
            } => self.read_entry(file, *offset_bytes, buf, range),
            Op::Write {
                offset_bytes,
                buf,
                range,
                ..
            } => self.write_entry(file, *offset_bytes, buf, range),
            Op::Sync { data_only, .. } => {
                let flags = if *data_only {
                    types::FsyncFlags::DATASYNC
                } else {
                    types::FsyncFlags::empty()
                };
                opcode::Fsync::new(file).flags(flags).build()
            }
            Op::Fallocate {
                mode,
                offset_bytes,
                len_bytes,
                ..
            } => opcode::Fallocate::new(file, *len_bytes)
                .offset(*offset_bytes)
                .mode(*mode)
                .build(),
            Op::Poll { events, .. } => poll_entry(file, *events),
            Op::Accept { .. } => opcode::Accept::new(file, ptr::null_mut(), ptr::null_mut())
                .flags(libc::SOCK_CLOEXEC)
                .build(),
            Op::Recv { buf, range, .. } => {
                let (start, len) = span(buf, range);
                opcode::Recv::new(file, start, len).build()
            }
            Op::Send { message, .. } => {
                let flags = (libc::MSG_NOSIGNAL | libc::MSG_WAITALL).cast_unsigned();
                let zero_copy = message.zero_copy == ZeroCopy::Wanted;
                let header = message.prepare_header().as_ptr();
                if zero_copy {
                    let send = opcode::SendMsgZc::new(file, header).flags(flags);
                    send.ioprio(SEND_ZC_REPORT_USAGE).build()
                } else {
                    opcode::SendMsg::new(file, header).flags(flags).build()
                }
            }
            Op::Connect { connecting, .. } => {
                connecting.begun = true;
                let (start, len) = connecting.address.as_raw();
                opcode::Connect::new(file, start, len).build()
            }
            Op::Call(call) => call_entry(call, file),
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
}

fn call_entry(call: &mut Call, file: types::Fd) -> squeue::Entry {
    call.prepare_slices();
    match call {
        Call::Vectored {
            direction,
            offset_bytes,
            slices,
            ..
        } => {
            let (start, len) = slices.as_raw();
            match direction {
                Direction::Read => opcode::Readv::new(file, start, len)
                    .offset(*offset_bytes)
                    .build(),
                Direction::Write => opcode::Writev::new(file, start, len)
                    .offset(*offset_bytes)
                    .build(),
            }
        }
        Call::Status { status, .. } => {
            let (path, flags) = StatusBuffer::of_itself();
            opcode::Statx::new(file, path, status.as_mut_ptr().cast())
                .flags(flags)
                .mask(StatusBuffer::mask())
                .build()
        }
        Call::Open {
            path, flags, mode, ..
        } => opcode::OpenAt::new(file, path.as_ptr())
            .flags(*flags)
            .mode(*mode)
            .build(),
        Call::Splice(transfer) => splice_entry(transfer),
        Call::Copy(_) | Call::Clone(_) | Call::Discard { .. } => {
            unreachable!("workers do what has no opcode")
        }
    }
}

fn splice_entry(transfer: &Transfer) -> squeue::Entry {
    // What is beyond the largest offset fails in the kernel.
    let at = |offset_bytes: Option<u64>| {
        offset_bytes.map_or(-1, |offset| i64::try_from(offset).unwrap_or(i64::MAX))
    };
    let raw = |fd: &Fd| types::Fd(fd.as_raw_fd());
    let len = u32::try_from(transfer.len_bytes).unwrap_or(u32::MAX);
    opcode::Splice::new(
        raw(&transfer.from),
        at(transfer.from_bytes),
        raw(&transfer.to),
        at(transfer.to_bytes),
        len,
    )
    .build()
}

/// The number of the operation's descriptor; the current folder's if it has none.
pub(super) fn raw_fd(op: &Op) -> RawFd {
    op.fd().map_or(libc::AT_FDCWD, AsRawFd::as_raw_fd)
}

/// Whether the operation may name its file by a place in the ring's table.
pub(super) fn may_be_fixed(op: &Op) -> bool {
    match op {
        Op::Call(call) => matches!(**call, Call::Vectored { .. }),
        _ => true,
    }
}

/// Address and length of a range of a buffer, as a submission entry wants them.
fn span(buf: &mut IoBuf, range: &Range<usize>) -> (*mut u8, u32) {
    let bytes = &mut buf[range.clone()];
    let len = u32::try_from(bytes.len()).expect("one request moves less than 4 GiB");
    (bytes.as_mut_ptr(), len)
}

/// A poll that ends with the first of the events.
pub(super) fn poll_entry(fd: types::Fd, events: i16) -> squeue::Entry {
    opcode::PollAdd::new(fd, u32::from(events.cast_unsigned())).build()
}
