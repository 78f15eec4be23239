//! Several pieces of memory as the kernel wants them: slices that point to them, and a header that points to slices.

// UNSAFETY: only the claim that addresses may travel between threads.
#![expect(unsafe_code, reason = "sends addresses that only the kernel follows")]

use std::fmt;

use crate::{
    buf::IoBuf,
    op::Message,
    sys::{self, SLICES_MAX},
};

/// Addresses of memory that the owner of this value owns too.
#[derive(Default)]
pub(crate) struct Slices(Vec<libc::iovec>);

// SAFETY: the addresses in it are not followed but by the kernel, on behalf of an operation that
// owns what they point to.
unsafe impl Send for Slices {}
// SAFETY: as above.
unsafe impl Sync for Slices {}

impl Slices {
    /// Points to the buffers, as many as one call takes.
    pub(crate) fn point_to(&mut self, bufs: &mut [IoBuf]) {
        self.0.clear();
        let slices = bufs.iter_mut().take(SLICES_MAX).map(|buf| libc::iovec {
            iov_len: buf.len(),
            iov_base: buf.as_mut_ptr().cast(),
        });
        self.0.extend(slices);
    }

    /// Where they are, and how many.
    pub(super) fn as_raw(&self) -> (*const libc::iovec, u32) {
        let len = u32::try_from(self.0.len()).expect("at most SLICES_MAX");
        (self.0.as_ptr(), len)
    }
}

impl fmt::Debug for Slices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Slices").field(&self.0.len()).finish()
    }
}

/// What `sendmsg` is pointed to; itself points into the message it is part of.
pub(crate) struct MessageHeader {
    header: libc::msghdr,
    slices: Slices,
}

// SAFETY: as for `Slices`.
unsafe impl Send for MessageHeader {}
// SAFETY: as above.
unsafe impl Sync for MessageHeader {}

impl Default for MessageHeader {
    fn default() -> Self {
        Self {
            header: sys::empty_message_header(),
            slices: Slices::default(),
        }
    }
}

impl MessageHeader {
    /// Points to what is left of `message`.
    pub(crate) fn describe(&mut self, message: &Message) {
        // `IoSlice` is an `iovec` by its documentation; the fields are copied all the same.
        let slices = message.slices(SLICES_MAX);
        self.slices.0.clear();
        self.slices.0.extend(slices.map(|slice| libc::iovec {
            iov_base: slice.as_ptr().cast_mut().cast(),
            iov_len: slice.len(),
        }));
        self.header.msg_iov = self.slices.0.as_mut_ptr();
        self.header.msg_iovlen = self.slices.0.len();
    }

    /// Where the header is.
    pub(super) fn as_ptr(&self) -> *const libc::msghdr {
        &raw const self.header
    }
}

impl fmt::Debug for MessageHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageHeader")
            .field("slices", &self.slices)
            .finish_non_exhaustive()
    }
}
