//! `raw`: a window of bytes on a child.

use aio::{AioContext, IoBuf};

use crate::{
    allocation::{ByteRange, Extent},
    error::{BlockError, ErrorKind},
    graph::child::Child,
    node_driver::{Access, Limits, Located, NodeDriver, RequestFlags, RequestFuture, Transferred},
};

/// Which bytes of the child a [`RawNode`] shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawOptions {
    /// First byte of the child that is shown; a multiple of the child's request alignment.
    pub offset_bytes: u64,
    /// Length of the window; `None` means up to the child's end.
    pub len_bytes: Option<u64>,
}

/// A node that shows a window of its child, or the whole child.
#[derive(Debug)]
pub struct RawNode {
    child: Child,
    offset_bytes: u64,
    /// Length of the window; `None` means up to the child's end, wherever that is.
    window_bytes: Option<u64>,
}

impl RawNode {
    /// The window of `child` that `options` describe.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) when the window ends past the child, or its offset or its end
    /// (unless that is the child's own) is no multiple of the child's request alignment.
    pub fn new(child: Child, options: RawOptions) -> Result<Self, BlockError> {
        let below = child.limits();
        let invalid = |text: String| BlockError::new(ErrorKind::Invalid, text);
        let offset_bytes = options.offset_bytes;
        let rest = below.len_bytes.checked_sub(offset_bytes).ok_or_else(|| {
            invalid(format!(
                "offset {offset_bytes} lies past the child's end at {}",
                below.len_bytes
            ))
        })?;
        let len_bytes = options.len_bytes.unwrap_or(rest);
        if len_bytes > rest {
            return Err(invalid(format!(
                "a window of {len_bytes} bytes at {offset_bytes} ends past the child's end at {}",
                below.len_bytes
            )));
        }
        let align = u64::from(below.request_align_bytes);
        if !offset_bytes.is_multiple_of(align)
            || !(len_bytes.is_multiple_of(align) || len_bytes == rest)
        {
            return Err(invalid(format!(
                "offset and length of the window must be multiples of {align} bytes"
            )));
        }
        Ok(Self {
            child,
            offset_bytes,
            window_bytes: options.len_bytes,
        })
    }

    /// Where a range of the window lies in the child. It fits: the window ends within the child.
    fn below(&self, range: ByteRange) -> ByteRange {
        ByteRange::between(
            range.start() + self.offset_bytes,
            range.end() + self.offset_bytes,
        )
    }
}

impl NodeDriver for RawNode {
    fn driver_name(&self) -> &'static str {
        "raw"
    }

    fn limits(&self) -> Limits {
        let below = self.child.limits();
        let rest = below.len_bytes.saturating_sub(self.offset_bytes);
        let window = self.window_bytes.unwrap_or(rest);
        Limits {
            len_bytes: window.min(rest),
            ..below
        }
    }

    fn read<'a>(
        &'a self,
        cx: &'a AioContext,
        offset_bytes: u64,
        buf: IoBuf,
    ) -> RequestFuture<'a, Transferred> {
        Box::pin(self.child.read(cx, offset_bytes + self.offset_bytes, buf))
    }

    fn write<'a>(
        &'a self,
        cx: &'a AioContext,
        offset_bytes: u64,
        buf: IoBuf,
        flags: RequestFlags,
    ) -> RequestFuture<'a, Transferred> {
        Box::pin(
            self.child
                .write(cx, offset_bytes + self.offset_bytes, buf, flags),
        )
    }

    fn write_zeroes<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
        flags: RequestFlags,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(self.child.write_zeroes(cx, self.below(range), flags))
    }

    fn discard<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(self.child.discard(cx, self.below(range)))
    }

    fn flush<'a>(&'a self, cx: &'a AioContext) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(self.child.flush(cx))
    }

    fn truncate<'a>(
        &'a self,
        cx: &'a AioContext,
        len_bytes: u64,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(async move {
            if self.window_bytes.is_some() {
                let text = "the node shows a window of fixed length";
                return Err(BlockError::new(ErrorKind::Unsupported, text));
            }
            let below = self.offset_bytes.checked_add(len_bytes).ok_or_else(|| {
                BlockError::new(ErrorKind::OutOfRange, "the new length is out of range")
            })?;
            self.child.truncate(cx, below).await
        })
    }

    fn extent<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
    ) -> RequestFuture<'a, Result<Extent, BlockError>> {
        Box::pin(self.child.extent(cx, self.below(range)))
    }

    fn locate(&self, range: ByteRange, _access: Access) -> Located<'_> {
        Located::Child {
            child: &self.child,
            offset_bytes: self.below(range).start(),
        }
    }

    fn cancel_in_flight(&self) {
        self.child.node().cancel_in_flight();
    }
}
