//! A client of the NBD protocol that knows five requests and waits for each: nothing of ours is in it.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

const SERVER_MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;

/// Fixed newstyle, no padding.
const CLIENT_FLAGS: u32 = 0b11;
const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const FIRST_REPLY_ERROR: u32 = 1 << 31;

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const WRITE_ZEROES: u16 = 6;

/// A request that takes longer hangs.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// One connection.
pub(crate) struct Guest {
    stream: UnixStream,
    requests: u64,
}

impl Guest {
    pub(crate) fn connect(socket: &Path, export: &str) -> io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        let magic = (take_u64(&mut stream)?, take_u64(&mut stream)?);
        if magic != (SERVER_MAGIC, OPTION_MAGIC) {
            return Err(io::Error::other("no server of NBD"));
        }
        take::<2>(&mut stream)?;

        let name_len = u32::try_from(export.len()).map_err(io::Error::other)?;
        let mut hello = CLIENT_FLAGS.to_be_bytes().to_vec();
        hello.extend(OPTION_MAGIC.to_be_bytes());
        hello.extend(OPTION_GO.to_be_bytes());
        hello.extend((4 + name_len + 2).to_be_bytes());
        hello.extend(name_len.to_be_bytes());
        hello.extend(export.as_bytes());
        hello.extend([0, 0]);
        stream.write_all(&hello)?;
        loop {
            let magic = take_u64(&mut stream)?;
            let (_option, reply) = (take_u32(&mut stream)?, take_u32(&mut stream)?);
            let mut text = vec![0; take_u32(&mut stream)? as usize];
            stream.read_exact(&mut text)?;
            match (magic, reply) {
                (OPTION_REPLY_MAGIC, REPLY_ACK) => break,
                (OPTION_REPLY_MAGIC, REPLY_INFO) => {}
                (OPTION_REPLY_MAGIC, FIRST_REPLY_ERROR..) => {
                    return Err(io::Error::other(String::from_utf8_lossy(&text)));
                }
                _ => return Err(io::Error::other("an odd reply to an option")),
            }
        }
        Ok(Self {
            stream,
            requests: 0,
        })
    }

    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        self.send(WRITE, (offset, bytes.len()), bytes)?;
        self.answer()
    }

    pub(crate) fn write_zeroes(&mut self, offset: usize, len: usize) -> io::Result<()> {
        self.send(WRITE_ZEROES, (offset, len), &[])?;
        self.answer()
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.send(FLUSH, (0, 0), &[])?;
        self.answer()
    }

    pub(crate) fn read(&mut self, offset: usize, len: usize) -> io::Result<Vec<u8>> {
        self.send(READ, (offset, len), &[])?;
        self.answer()?;
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    pub(crate) fn disconnect(mut self) -> io::Result<()> {
        self.send(DISCONNECT, (0, 0), &[])
    }

    fn send(&mut self, command: u16, (offset, len): (usize, usize), data: &[u8]) -> io::Result<()> {
        self.requests += 1;
        let len = u32::try_from(len).map_err(io::Error::other)?;
        let mut request = REQUEST_MAGIC.to_be_bytes().to_vec();
        request.extend([0, 0]);
        request.extend(command.to_be_bytes());
        request.extend(self.requests.to_be_bytes());
        request.extend((offset as u64).to_be_bytes());
        request.extend(len.to_be_bytes());
        request.extend(data);
        self.stream.write_all(&request)
    }

    fn answer(&mut self) -> io::Result<()> {
        let magic = take_u32(&mut self.stream)?;
        let (errno, cookie) = (take_u32(&mut self.stream)?, take_u64(&mut self.stream)?);
        if (magic, cookie) != (REPLY_MAGIC, self.requests) {
            return Err(io::Error::other("a reply to another request"));
        }
        match i32::try_from(errno).map_err(io::Error::other)? {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

fn take<const LEN: usize>(stream: &mut UnixStream) -> io::Result<[u8; LEN]> {
    let mut bytes = [0; LEN];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn take_u32(stream: &mut UnixStream) -> io::Result<u32> {
    take(stream).map(u32::from_be_bytes)
}

fn take_u64(stream: &mut UnixStream) -> io::Result<u64> {
    take(stream).map(u64::from_be_bytes)
}
