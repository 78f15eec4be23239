//! Submission entries: an operation as the kernel wants to be told of it.

use std::{ops::Range, os::fd::AsRawFd, ptr};

use io_uring::{opcode, squeue, types};

use super::{Uring, ring::Ring};
use crate::{buf::IoBuf, op::Op};

impl<R: Ring> Uring<R> {
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
    pub(super) fn entry(&mut self, op: &mut Op) -> squeue::Entry {
        let fd = types::Fd(op.fd().as_raw_fd());
        match op {
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
            Op::Poll { events, .. } => poll_entry(fd, *events),
            Op::Accept { .. } => opcode::Accept::new(fd, ptr::null_mut(), ptr::null_mut())
                .flags(libc::SOCK_CLOEXEC)
                .build(),
            Op::Recv { buf, range, .. } => {
                let (start, len) = span(buf, range);
                opcode::Recv::new(fd, start, len).build()
            }
            Op::Send { message, .. } => {
                let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
                opcode::SendMsg::new(fd, message.prepare_header().as_ptr())
                    .flags(flags.cast_unsigned())
                    .build()
            }
        }
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
