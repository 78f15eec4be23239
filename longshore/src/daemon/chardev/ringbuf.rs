//! [`RingBuffer`]: a chardev that keeps the last bytes written to it; `ringbuf-write` and `ringbuf-read`.

use std::{cell::RefCell, collections::VecDeque, rc::Rc};

use qmp::{QmpError, qapi_enum, qapi_struct};

use super::{Chardev, Way};
use crate::daemon::{Daemon, base64, command::Command};

/// Bytes that are kept unless told otherwise.
const KEPT_BYTES: u64 = 64 << 10;
/// Most bytes that can be kept: clients pay for what they have the daemon remember.
const KEPT_BYTES_MAX: u64 = 64 << 20;

pub(super) fn commands() -> Vec<Command> {
    vec![
        Command::new("ringbuf-write", write),
        Command::new("ringbuf-read", read),
    ]
}

qapi_enum! {
    /// How bytes are written in a text.
    pub enum DataFormat {
        /// As they are.
        Utf8,
        /// In base64.
        Base64,
    }
}

qapi_struct! {
    /// Arguments of `ringbuf-write`.
    pub struct RingbufWrite {
        /// The chardev.
        device: String,
        /// What to add.
        data: String,
        /// How that is written.
        format: Option<DataFormat>,
    }
}

qapi_struct! {
    /// Arguments of `ringbuf-read`.
    pub struct RingbufRead {
        /// The chardev.
        device: String,
        /// Most bytes to take.
        size: i64,
        /// How to write them.
        format: Option<DataFormat>,
    }
}

/// The last bytes that were written and have not been read.
#[derive(Debug)]
pub(super) struct RingBuffer {
    kept: RefCell<VecDeque<u8>>,
    len_max: usize,
}

impl RingBuffer {
    /// An empty one for so many bytes.
    pub(super) fn new(bytes: Option<u64>) -> Result<Self, QmpError> {
        let bytes = bytes.filter(|bytes| *bytes > 0).unwrap_or(KEPT_BYTES);
        if !bytes.is_power_of_two() {
            let text = "size of ringbuf chardev must be power of two";
            return Err(QmpError::generic(text));
        }
        let len_max = usize::try_from(bytes).ok();
        let len_max = len_max.filter(|_| bytes <= KEPT_BYTES_MAX);
        let len_max = len_max.ok_or_else(|| {
            let text = format!("size of ringbuf chardev must be at most {KEPT_BYTES_MAX}");
            QmpError::generic(text)
        })?;
        Ok(Self {
            kept: RefCell::default(),
            len_max,
        })
    }

    /// Adds bytes; the oldest go where there is no room.
    fn push(&self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(self.len_max)..];
        let mut kept = self.kept.borrow_mut();
        let excess = (kept.len() + bytes.len()).saturating_sub(self.len_max);
        kept.drain(..excess);
        kept.extend(bytes);
    }

    /// Takes the oldest bytes, `count` at most.
    fn take(&self, count: u64) -> Vec<u8> {
        let mut kept = self.kept.borrow_mut();
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(kept.len());
        kept.drain(..count).collect()
    }
}

async fn write(daemon: &Rc<Daemon>, args: RingbufWrite) -> Result<(), QmpError> {
    let device = find(daemon, &args.device)?;
    let buffer = buffer(&device)?;
    match args.format {
        None | Some(DataFormat::Utf8) => buffer.push(args.data.as_bytes()),
        Some(DataFormat::Base64) => buffer.push(&base64::decode(args.data.as_bytes())?),
    }
    Ok(())
}

async fn read(daemon: &Rc<Daemon>, args: RingbufRead) -> Result<String, QmpError> {
    let device = find(daemon, &args.device)?;
    let buffer = buffer(&device)?;
    let size = u64::try_from(args.size).ok().filter(|size| *size > 0);
    let size = size.ok_or_else(|| QmpError::generic("size must be greater than zero"))?;
    let bytes = buffer.take(size);
    Ok(match args.format {
        None | Some(DataFormat::Utf8) => String::from_utf8_lossy(&bytes).into_owned(),
        Some(DataFormat::Base64) => base64::encode(&bytes),
    })
}

fn find(daemon: &Daemon, id: &str) -> Result<Rc<Chardev>, QmpError> {
    let found = daemon.chardevs.find(id);
    found.ok_or_else(|| QmpError::generic(format!("Device '{id}' not found")))
}

fn buffer(device: &Chardev) -> Result<&RingBuffer, QmpError> {
    match &device.way {
        Way::Remember(buffer) => Ok(buffer),
        _ => {
            let text = format!("{} is not a ringbuf device", device.id);
            Err(QmpError::generic(text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::RingBuffer;

    #[test]
    fn the_last_bytes_are_kept_and_are_read_once() {
        let buffer = RingBuffer::new(Some(4)).unwrap();
        buffer.push(b"ab");
        buffer.push(b"cde");
        assert_eq!(buffer.take(3), b"bcd");
        buffer.push(b"0123456789");
        assert_eq!(buffer.take(u64::MAX), b"6789");
        assert_eq!(buffer.take(1), b"");
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for bytes in [3, 1 << 40, u64::MAX] {
            let error = RingBuffer::new(Some(bytes)).unwrap_err();
            assert!(error.desc.starts_with("size of ringbuf chardev must be"));
        }
        for bytes in [None, Some(0), Some(1)] {
            RingBuffer::new(bytes).unwrap();
        }
    }
}
