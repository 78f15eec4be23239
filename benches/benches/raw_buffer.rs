//! Buffers for the peers that want one of their own, in memory that is never given back.

// UNSAFETY: the peers write through pointers, and the traits by which they ask for them are unsafe
// to implement. A buffer that was dropped must stay readable, since a peer's kernel may write on.
#![expect(
    unsafe_code,
    reason = "hands pointers to peers, and looks at memory that they may still write to"
)]

use std::{
    mem::MaybeUninit,
    ops::{Deref, DerefMut},
    ptr::NonNull,
    slice,
    sync::atomic::{AtomicBool, Ordering},
};

use benches::raw_memory::Memory;

/// Memory for buffers: on huge pages if there are some, and there until the program ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Region {
    start: NonNull<u8>,
    len: usize,
}

/// What a marked buffer is filled with when it is dropped.
const MARK: u64 = 0xdead_10cc_dead_10cc;

impl Region {
    /// At least `len` bytes.
    pub(crate) fn leak(len: usize) -> Self {
        let memory: &Memory = Box::leak(Box::new(Memory::new(len)));
        Self {
            start: memory.start(),
            len: memory.len_bytes(),
        }
    }

    /// Cuts all of it into buffers of `len` bytes.
    pub(crate) fn cut(self, len: usize) -> Vec<Buffer> {
        let buffer = |index: usize| {
            // SAFETY: the buffer lies within the region, because of the count below.
            let start = unsafe { self.start.add(index * len) };
            Buffer {
                start,
                len,
                is_dropped: None,
            }
        };
        (0..self.len / len).map(buffer).collect()
    }

    fn words(self) -> impl Iterator<Item = *mut u64> {
        let start = self.start.cast::<u64>().as_ptr();
        (0..self.len / 8).map(move |index| start.wrapping_add(index))
    }
}

/// Buffers that are overwritten with a mark when they are dropped, so that later writes show.
pub(crate) struct Marks {
    region: Region,
    len: usize,
    /// For each buffer, whether it has been dropped.
    are_dropped: &'static [AtomicBool],
}

impl Marks {
    /// Divides `region` into buffers of `len` bytes.
    pub(crate) fn new(region: Region, len: usize) -> Self {
        let flags = (0..region.len / len).map(|_| AtomicBool::new(false));
        Self {
            region,
            len,
            are_dropped: Vec::leak(flags.collect()),
        }
    }

    /// All buffers; they are asked for once.
    pub(crate) fn buffers(&self) -> impl Iterator<Item = Buffer> {
        let buffers = self.region.cut(self.len).into_iter();
        buffers.zip(self.are_dropped).map(|(mut buffer, flag)| {
            buffer.is_dropped = Some(flag);
            buffer
        })
    }

    /// Bytes that somebody has written to buffers after these were dropped, in whole words.
    pub(crate) fn written_bytes(&self) -> u64 {
        let words = self.region.words().enumerate();
        let is_written = |&(index, word): &(usize, *mut u64)| {
            let flag = &self.are_dropped[index * 8 / self.len];
            if !flag.load(Ordering::Acquire) {
                return false;
            }
            // SAFETY: within the region and aligned; the buffer that was here is gone. The kernel
            // may write at the same time, which a volatile read allows for.
            let value = unsafe { word.read_volatile() };
            value != MARK
        };
        words.filter(is_written).count() as u64 * 8
    }
}

/// A piece of a [`Region`].
#[derive(Debug)]
pub(crate) struct Buffer {
    start: NonNull<u8>,
    len: usize,
    /// Set when it is dropped, after its bytes have been marked; `None` leaves them as they are.
    is_dropped: Option<&'static AtomicBool>,
}

// SAFETY: a buffer is the only way to its bytes, which belong to no thread.
unsafe impl Send for Buffer {}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the bytes are initialized, never unmapped, and only this buffer leads to them.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the bytes are initialized, never unmapped, and only this buffer leads to them.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(is_dropped) = self.is_dropped else {
            return;
        };
        let start = self.start.cast::<u64>();
        for index in 0..self.len / 8 {
            // SAFETY: within the buffer, whose length is a multiple of eight.
            let word = unsafe { start.add(index) };
            // SAFETY: the bytes are this buffer's and stay mapped. A peer that gives a buffer back
            // too early lets the kernel write at the same time, which a volatile write allows for.
            unsafe { word.write_volatile(MARK) };
        }
        is_dropped.store(true, Ordering::Release);
    }
}

// SAFETY: the address is the same until the buffer is dropped, and its memory lives longer.
unsafe impl monoio::buf::IoBufMut for Buffer {
    fn write_ptr(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }

    fn bytes_total(&mut self) -> usize {
        self.len
    }

    unsafe fn set_init(&mut self, _pos: usize) {
        // All of it is initialized from the beginning.
    }
}

impl compio::buf::IoBuf for Buffer {
    fn as_init(&self) -> &[u8] {
        self
    }
}

impl compio::buf::SetLen for Buffer {
    unsafe fn set_len(&mut self, _len: usize) {
        // All of it is initialized from the beginning, and it has one length.
    }
}

impl compio::buf::IoBufMut for Buffer {
    fn as_uninit(&mut self) -> &mut [MaybeUninit<u8>] {
        let start = self.start.as_ptr().cast();
        // SAFETY: as for `deref_mut`. Compio writes only what has been read.
        unsafe { slice::from_raw_parts_mut(start, self.len) }
    }
}
