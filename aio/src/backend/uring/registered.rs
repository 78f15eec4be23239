//! What the kernel is told of in advance: the slabs of the context's buffers, and files.

// UNSAFETY: tells the kernel of memory that the pool keeps mapped.
#![expect(unsafe_code, reason = "registers memory with the kernel")]

use std::{
    io,
    os::fd::AsRawFd,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{Uring, ring::Ring};
use crate::{buf::IoBuf, fd::Fd};

/// Places of the table of files.
const FILES: u16 = 1024;

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

/// The ring's table of files.
#[derive(Debug)]
pub(super) struct Files {
    /// Tells the ring from every other one of the process, ever; never zero.
    ring: u32,
    /// By place. None are there until the first file is registered.
    places: Vec<Place>,
    free: Vec<u16>,
    refused: bool,
}

#[derive(Debug, Default)]
struct Place {
    /// Operations in the kernel that name the file by its place.
    users: u32,
    /// The place is to be emptied as soon as it has no users.
    unwanted: bool,
}

impl Files {
    pub(super) fn new() -> Self {
        static RINGS: AtomicU32 = AtomicU32::new(1);
        Self {
            ring: RINGS.fetch_add(1, Ordering::Relaxed),
            places: Vec::new(),
            free: Vec::new(),
            refused: false,
        }
    }

    /// Has the ring know `fd`; returns its place, if there is one.
    pub(super) fn register(&mut self, ring: &mut impl Ring, fd: &Fd) -> Option<u16> {
        if self.places.is_empty() && !self.refused {
            match ring.register_files(u32::from(FILES)) {
                Ok(()) => {
                    self.places.resize_with(usize::from(FILES), Place::default);
                    self.free.extend((0..FILES).rev());
                }
                Err(error) => {
                    tracing::info!(%error, "files are not registered with the kernel");
                    self.refused = true;
                }
            }
        }
        let place = *self.free.last()?;
        if !fd.set_registered(self.ring, place) {
            return None;
        }
        if let Err(error) = ring.register_file(u32::from(place), fd.as_raw_fd()) {
            tracing::debug!(%error, "a file is not registered with the kernel");
            fd.set_unregistered();
            return None;
        }
        self.free.pop();
        Some(place)
    }

    /// Ends what [`Self::register`] has begun, once the last operation that names the place has ended.
    pub(super) fn unregister(&mut self, ring: &mut impl Ring, fd: &Fd, place: u16) {
        fd.set_unregistered();
        self.places[usize::from(place)].unwanted = true;
        self.empty_if_unused(ring, place);
    }

    /// The place of the file, for one operation; [`Self::used`] must follow when it has ended.
    pub(super) fn begin_use(&mut self, fd: Option<&Fd>) -> Option<u16> {
        let place = fd?.registered_with(self.ring)?;
        self.places[usize::from(place)].users += 1;
        Some(place)
    }

    /// An operation that named the place has ended.
    pub(super) fn used(&mut self, ring: &mut impl Ring, place: u16) {
        self.places[usize::from(place)].users -= 1;
        self.empty_if_unused(ring, place);
    }

    fn empty_if_unused(&mut self, ring: &mut impl Ring, place: u16) {
        let it = &mut self.places[usize::from(place)];
        if it.users > 0 || !it.unwanted {
            return;
        }
        it.unwanted = false;
        match ring.register_file(u32::from(place), -1) {
            Ok(()) => self.free.push(place),
            // The place, and the file in it, are lost until the ring ends.
            Err(error) => tracing::debug!(%error, "a file stays registered with the kernel"),
        }
    }
}
