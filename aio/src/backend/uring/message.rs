//! A message as `sendmsg` wants it: a header that points to slices that point into the operation's parts.

use crate::{
    op::Message,
    sys::{self, SLICES_MAX},
};

/// What `sendmsg` is pointed to; itself points into the operation's message.
pub(super) struct MessageHeader {
    header: libc::msghdr,
    slices: Vec<libc::iovec>,
}

impl MessageHeader {
    /// The header of what is left of `message`. It stays valid while neither is moved out of its box.
    pub(super) fn new(message: &Message) -> Box<Self> {
        // `IoSlice` is an `iovec` by its documentation; the fields are copied all the same.
        let slices = message.slices(SLICES_MAX);
        let slices = slices.map(|slice| libc::iovec {
            iov_base: slice.as_ptr().cast_mut().cast(),
            iov_len: slice.len(),
        });
        let mut this = Box::new(Self {
            header: sys::empty_message_header(),
            slices: slices.collect(),
        });
        this.header.msg_iov = this.slices.as_mut_ptr();
        this.header.msg_iovlen = this.slices.len();
        this
    }

    /// Where the header is.
    pub(super) fn as_ptr(&self) -> *const libc::msghdr {
        &raw const self.header
    }
}
