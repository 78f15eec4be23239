//! Operations that block, as a worker thread runs them.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::AsFd,
};

use nix::{
    fcntl::{AT_FDCWD, FallocateFlags, OFlag},
    sys::stat::Mode,
    sys::uio,
};

use crate::{
    op::{Call, Connecting, Direction, Op, Outcome, Value},
    sys::{self, SLICES_MAX, offset},
};

/// Runs an operation to its end. Blocks the calling thread.
pub(crate) fn run(op: &mut Op) -> Outcome {
    loop {
        match attempt(op) {
            Ok(value) => return Ok(value),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.raw_os_error().unwrap_or(libc::EIO)),
        }
    }
}

fn attempt(op: &mut Op) -> io::Result<Value> {
    match op {
        Op::Read {
            file,
            offset_bytes,
            buf,
            range,
        } => {
            let (bytes, at) = (&mut buf[range.clone()], offset(*offset_bytes)?);
            Ok(count(uio::pread(file.as_fd(), bytes, at)?))
        }
        Op::Write {
            file,
            offset_bytes,
            buf,
            range,
        } => {
            let (bytes, at) = (&buf[range.clone()], offset(*offset_bytes)?);
            Ok(count(uio::pwrite(file.as_fd(), bytes, at)?))
        }
        Op::Sync {
            file,
            data_only: true,
        } => {
            nix::unistd::fdatasync(file.as_fd())?;
            Ok(count(0))
        }
        Op::Sync {
            file,
            data_only: false,
        } => {
            nix::unistd::fsync(file.as_fd())?;
            Ok(count(0))
        }
        Op::Fallocate {
            file,
            mode,
            offset_bytes,
            len_bytes,
        } => {
            let mode = FallocateFlags::from_bits_retain(*mode);
            let (at, len) = (offset(*offset_bytes)?, offset(*len_bytes)?);
            nix::fcntl::fallocate(file.as_fd(), mode, at, len)?;
            Ok(count(0))
        }
        Op::Connect { socket, connecting } => {
            let Connecting { address, begun } = &mut **connecting;
            let again = std::mem::replace(begun, true);
            match sys::connect_waiting(socket.as_fd(), address) {
                Err(error) if again && error.raw_os_error() == Some(libc::EISCONN) => Ok(count(0)),
                connected => connected.map(|()| count(0)),
            }
        }
        Op::Call(call) => attempt_call(call),
        Op::Poll { .. } | Op::Accept { .. } | Op::Recv { .. } | Op::Send { .. } => {
            unreachable!("workers run what blocks")
        }
    }
}

fn attempt_call(call: &mut Call) -> io::Result<Value> {
    match call {
        Call::Vectored {
            direction,
            file,
            offset_bytes,
            bufs,
            ..
        } => {
            let at = offset(*offset_bytes)?;
            let moved = match direction {
                Direction::Read => {
                    let slices = bufs.iter_mut().take(SLICES_MAX);
                    let mut slices: Vec<_> = slices.map(|buf| IoSliceMut::new(buf)).collect();
                    uio::preadv(file.as_fd(), &mut slices, at)?
                }
                Direction::Write => {
                    let slices = bufs.iter().take(SLICES_MAX);
                    let slices: Vec<_> = slices.map(|buf| IoSlice::new(buf)).collect();
                    uio::pwritev(file.as_fd(), &slices, at)?
                }
            };
            Ok(count(moved))
        }
        Call::Status { file, status } => {
            status.fill(file.as_fd())?;
            Ok(count(0))
        }
        Call::Open {
            folder,
            path,
            flags,
            mode,
        } => {
            let folder = folder.as_ref().map_or(AT_FDCWD, AsFd::as_fd);
            let flags = OFlag::from_bits_retain(*flags);
            let mode = Mode::from_bits_retain(*mode);
            Ok(Value::Fd(nix::fcntl::openat(
                folder,
                path.as_c_str(),
                flags,
                mode,
            )?))
        }
        Call::Copy(transfer) => Ok(count(sys::copy_range(transfer)?)),
        Call::Clone(transfer) => sys::clone_range(transfer).map(|()| count(0)),
        Call::Splice(transfer) => Ok(count(sys::splice(transfer)?)),
        Call::Discard {
            device,
            offset_bytes,
            len_bytes,
        } => match sys::discard_device(device.as_fd(), *offset_bytes, *len_bytes) {
            Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => {
                Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))
            }
            discarded => discarded.map(|()| count(0)),
        },
    }
}

fn count(len: usize) -> Value {
    Value::Count(u32::try_from(len).expect("one call moves less than 4 GiB"))
}
