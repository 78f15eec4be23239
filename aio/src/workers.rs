//! Disk operations as a worker thread runs them.

use std::{io, os::fd::AsFd};

use nix::fcntl::FallocateFlags;

use crate::{
    op::{Op, Value},
    sys::offset,
};

/// Runs a disk operation to its end. Blocks the calling thread.
pub(crate) fn run(op: &mut Op) -> Result<Value, i32> {
    loop {
        match attempt(op) {
            Ok(count) => {
                return Ok(Value::Count(
                    u32::try_from(count).expect("one call moves less than 4 GiB"),
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.raw_os_error().unwrap_or(libc::EIO)),
        }
    }
}

fn attempt(op: &mut Op) -> io::Result<usize> {
    match op {
        Op::Read {
            file,
            offset_bytes,
            buf,
            range,
        } => Ok(nix::sys::uio::pread(
            file.as_fd(),
            &mut buf[range.clone()],
            offset(*offset_bytes)?,
        )?),
        Op::Write {
            file,
            offset_bytes,
            buf,
            range,
        } => Ok(nix::sys::uio::pwrite(
            file.as_fd(),
            &buf[range.clone()],
            offset(*offset_bytes)?,
        )?),
        Op::Sync {
            file,
            data_only: true,
        } => nix::unistd::fdatasync(file.as_fd())
            .map(|()| 0)
            .map_err(Into::into),
        Op::Sync {
            file,
            data_only: false,
        } => nix::unistd::fsync(file.as_fd())
            .map(|()| 0)
            .map_err(Into::into),
        Op::Fallocate {
            file,
            mode,
            offset_bytes,
            len_bytes,
        } => {
            let mode = FallocateFlags::from_bits_retain(*mode);
            nix::fcntl::fallocate(
                file.as_fd(),
                mode,
                offset(*offset_bytes)?,
                offset(*len_bytes)?,
            )?;
            Ok(0)
        }
        Op::Poll { .. } | Op::Accept { .. } | Op::Recv { .. } | Op::Send { .. } => {
            unreachable!("workers run disk operations")
        }
    }
}
