//! A message as `sendmsg` wants it: a header that points to slices that point into the message's parts.

// UNSAFETY: only the claim that addresses may travel between threads.
#![expect(unsafe_code, reason = "sends addresses that only the kernel follows")]

use std::fmt;

use crate::{
    op::Message,
    sys::{self, SLICES_MAX},
};

/// What `sendmsg` is pointed to; itself points into the message it is part of.
pub(crate) struct MessageHeader {
    header: libc::msghdr,
    slices: Vec<libc::iovec>,
}

// SAFETY: the addresses in it are not followed but by the kernel, on behalf of an operation that
// owns what they point to.
unsafe impl Send for MessageHeader {}
// SAFETY: as above.
unsafe impl Sync for MessageHeader {}

impl Default for MessageHeader {
    fn default() -> Self {
        Self {
            header: sys::empty_message_header(),
            slices: Vec::new(),
        }
    }
}

impl MessageHeader {
    /// Points to what is left of `message`.
    pub(crate) fn describe(&mut self, message: &Message) {
        // `IoSlice` is an `iovec` by its documentation; the fields are copied all the same.
        let slices = message.slices(SLICES_MAX);
        self.slices.clear();
        self.slices.extend(slices.map(|slice| libc::iovec {
            iov_base: slice.as_ptr().cast_mut().cast(),
            iov_len: slice.len(),
        }));
        self.header.msg_iov = self.slices.as_mut_ptr();
        self.header.msg_iovlen = self.slices.len();
    }

    /// Where the header is.
    pub(super) fn as_ptr(&self) -> *const libc::msghdr {
        &raw const self.header
    }
}

impl fmt::Debug for MessageHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageHeader")
            .field("slices", &self.slices.len())
            .finish_non_exhaustive()
    }
}
