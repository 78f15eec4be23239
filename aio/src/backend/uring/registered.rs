//! What the kernel is told of in advance: the slabs of the context's buffers.

// UNSAFETY: tells the kernel of memory that the pool keeps mapped.
#![expect(unsafe_code, reason = "registers memory with the kernel")]

use std::io;

use super::{Uring, ring::Ring};
use crate::buf::IoBuf;

/// Slabs of the pool that the kernel knows, or that it is told of no more.
#[derive(Debug)]
pub(super) enum Registered {
    Slabs(u16),
    Refused,
}

impl<R: Ring> Uring<R> {
    /// The index under which the kernel knows the slab of `buf`, if it does or can be told now.
    pub(super) fn fixed_index(&mut self, buf: &IoBuf) -> Option<u16> {
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
    fn register(&mut self, slab: u16) -> Registered {
        let (start, len) = self.pool.slab(slab);
        let memory = libc::iovec {
            iov_base: start.as_ptr().cast(),
            iov_len: len,
        };
        // SAFETY: the slab stays mapped as long as the pool, of which `self` holds a clone until the ring is closed.
        let told = unsafe { self.ring.register_buffer(u32::from(slab), memory) };
        match told {
            Ok(()) => Registered::Slabs(slab + 1),
            Err(error) => refused(&error),
        }
    }
}

/// Tells an operator, once, that buffers go unregistered.
pub(super) fn refused(error: &io::Error) -> Registered {
    tracing::info!(%error, "buffers are not registered with the kernel (ulimit -l?); a little more CPU per request");
    Registered::Refused
}
