//! The pretend guest: writers that never pause, each on a connection of its own, and their log.
//!
//! It speaks just enough NBD to write and to read, and uses nothing but std, so that it shares no fault
//! with what it is to try. Every write is stamped with who wrote it, as which of his writes, and
//! where. Now and then a block is read before it is overwritten: a write that got lost would not show later.
//! The log has the moment at which each was issued and at which its reply had come, as ticks of
//! one counter: if one tick is less than another, the one happened before the other.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::image::{BLOCK_BYTES, Block, Image, bytes_of, fill_with, mix};

/// Writers at once.
pub(crate) const WRITERS: u64 = 4;
/// A server that does not answer for so long never will.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
/// Of so many blocks that are to be overwritten, one is read first.
const READ_EVERY: u64 = 8;
/// What every stamp begins with.
const STAMP: u64 = 0x7374_616d_7065_6421;

/// A clock that only knows before and after.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ticks(Arc<AtomicU64>);

impl Ticks {
    /// A moment later than all that were given out.
    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

/// One write of one writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Logged {
    /// The block that was written.
    pub(crate) block: u64,
    /// Before it was sent.
    pub(crate) issued: u64,
    /// After its reply had come.
    pub(crate) acknowledged: u64,
    /// Time between the two.
    pub(crate) latency: Duration,
}

/// All writes of one writer, in their order. Their index is what their stamps say.
pub(crate) type Log = Vec<Logged>;

/// Whose write a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) writer: u64,
    pub(crate) sequence: u64,
    pub(crate) block: u64,
}

impl Stamp {
    /// The whole block as this writer wrote it.
    pub(crate) fn fill(self, content: &mut Block) {
        let words = [STAMP, self.writer, self.sequence, self.block];
        fill_with(
            mix(mix(self.writer) ^ mix(self.sequence) ^ self.block),
            content,
        );
        for (place, word) in content.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
    }

    /// The stamp that `start`, the first bytes of a block, bears.
    pub(crate) fn read(start: &[u8]) -> Option<Self> {
        let (words, _) = start.as_chunks::<8>();
        let word = |index: usize| words.get(index).map(|bytes| u64::from_le_bytes(*bytes));
        if word(0)? != STAMP {
            return None;
        }
        Some(Self {
            writer: word(1)?,
            sequence: word(2)?,
            block: word(3)?,
        })
    }
}

/// Writers at work. Dropping it stops them.
#[derive(Debug)]
pub(crate) struct Guest {
    threads: Vec<JoinHandle<io::Result<Log>>>,
    is_stopped: Arc<AtomicBool>,
}

impl Guest {
    /// Starts the writers, each on a connection to the export `name` behind `socket`.
    pub(crate) fn start(
        socket: &Path,
        name: &str,
        image: Image,
        ticks: &Ticks,
    ) -> io::Result<Self> {
        let is_stopped = Arc::new(AtomicBool::new(false));
        let mut guest = Self {
            threads: Vec::new(),
            is_stopped: Arc::clone(&is_stopped),
        };
        for number in 0..WRITERS {
            let client = Client::connect(socket, name, image.len_bytes())?;
            let writer = Writer {
                number,
                client,
                image,
                ticks: ticks.clone(),
            };
            let is_stopped = Arc::clone(&is_stopped);
            let builder = thread::Builder::new().name(format!("guest-{number}"));
            let thread = builder.spawn(move || writer.run(&is_stopped))?;
            guest.threads.push(thread);
        }
        Ok(guest)
    }

    /// Lets every writer finish what it is at, and gives their logs.
    pub(crate) fn stop(mut self) -> io::Result<Vec<Log>> {
        self.is_stopped.store(true, Ordering::SeqCst);
        let logs = self.threads.drain(..).map(|thread| {
            let died = |_| io::Error::other("a writer panicked");
            thread.join().map_err(died)?
        });
        logs.collect()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            // Whoever drops the guest does not want its log.
            drop(thread.join());
        }
    }
}

/// One writer: its slots are those whose number leaves `number` when divided by the number of writers.
struct Writer {
    number: u64,
    client: Client,
    image: Image,
    ticks: Ticks,
}

impl Writer {
    fn run(mut self, is_stopped: &AtomicBool) -> io::Result<Log> {
        let mut log = Log::new();
        let mut latest = HashMap::new();
        let mut content = [0; BLOCK_BYTES];
        let slots = self.image.slots() / WRITERS;
        let mut chance = mix(self.number);
        while !is_stopped.load(Ordering::Relaxed) {
            chance = mix(chance);
            let block = Image::slot_block(chance % slots * WRITERS + self.number);
            let sequence = u64::try_from(log.len()).map_err(io::Error::other)?;
            if sequence.is_multiple_of(READ_EVERY) {
                self.check(block, latest.get(&block).copied())?;
            }
            let stamp = Stamp {
                writer: self.number,
                sequence,
                block,
            };
            stamp.fill(&mut content);
            latest.insert(block, stamp);
            let started = Instant::now();
            let issued = self.ticks.next();
            self.client.write(sequence, bytes_of(block), &content)?;
            log.push(Logged {
                block,
                issued,
                acknowledged: self.ticks.next(),
                latency: started.elapsed(),
            });
        }
        self.client.say_goodbye()?;
        Ok(log)
    }

    /// Reads a block that nobody else writes to; it must be as this writer left it.
    fn check(&mut self, block: u64, latest: Option<Stamp>) -> io::Result<()> {
        let (mut has, mut wants) = ([0; BLOCK_BYTES], [0; BLOCK_BYTES]);
        match latest {
            Some(stamp) => stamp.fill(&mut wants),
            None => Image::fill(block, &mut wants),
        }
        self.client.read(block, bytes_of(block), &mut has)?;
        if has == wants {
            return Ok(());
        }
        let text = format!("block {block} is not what was written there last");
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    }
}

/// One connection of an NBD client that can write and read blocks.
struct Client(UnixStream);

impl Client {
    /// Connects and asks for the export `name`, which should have `len_bytes`.
    fn connect(socket: &Path, name: &str, len_bytes: u64) -> io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(ANSWER_TIME_MAX))?;
        stream.set_write_timeout(Some(ANSWER_TIME_MAX))?;
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting)?;
        expect(&greeting[..16], b"NBDMAGICIHAVEOPT", "no NBD server")?;
        // Fixed newstyle, and no zeroes behind the answer.
        stream.write_all(&3u32.to_be_bytes())?;
        let mut ask = b"IHAVEOPT".to_vec();
        ask.extend(1u32.to_be_bytes());
        ask.extend(
            u32::try_from(name.len())
                .map_err(io::Error::other)?
                .to_be_bytes(),
        );
        ask.extend(name.as_bytes());
        stream.write_all(&ask)?;
        let mut answer = [0; 10];
        stream.read_exact(&mut answer)?;
        expect(
            &answer[..8],
            &len_bytes.to_be_bytes(),
            "an export of another length",
        )?;
        expect(answer[9] & 2, 0, "a read-only export")?;
        Ok(Self(stream))
    }

    /// Writes a block and waits for the reply.
    fn write(&mut self, cookie: u64, offset_bytes: u64, content: &Block) -> io::Result<()> {
        let mut request = [0; 28 + BLOCK_BYTES];
        request[..28].copy_from_slice(&header(1, cookie, offset_bytes, 4096));
        request[28..].copy_from_slice(content);
        self.0.write_all(&request)?;
        self.receive(cookie)
    }

    /// Reads a block.
    fn read(&mut self, cookie: u64, offset_bytes: u64, content: &mut Block) -> io::Result<()> {
        self.0.write_all(&header(0, cookie, offset_bytes, 4096))?;
        self.receive(cookie)?;
        self.0.read_exact(content)
    }

    /// Waits for the reply to the one request that is under way.
    fn receive(&mut self, cookie: u64) -> io::Result<()> {
        let mut reply = [0; 16];
        self.0.read_exact(&mut reply)?;
        expect(
            &reply[..4],
            &0x6744_6698u32.to_be_bytes(),
            "a reply of another kind",
        )?;
        expect(
            &reply[8..],
            &cookie.to_be_bytes(),
            "a reply to another request",
        )?;
        expect(&reply[4..8], &[0; 4], "a request that failed")
    }

    fn say_goodbye(&mut self) -> io::Result<()> {
        self.0.write_all(&header(2, 0, 0, 0))
    }
}

fn header(command: u16, cookie: u64, offset_bytes: u64, len_bytes: u32) -> [u8; 28] {
    let mut header = [0; 28];
    header[..4].copy_from_slice(&0x2560_9513u32.to_be_bytes());
    header[6..8].copy_from_slice(&command.to_be_bytes());
    header[8..16].copy_from_slice(&cookie.to_be_bytes());
    header[16..24].copy_from_slice(&offset_bytes.to_be_bytes());
    header[24..].copy_from_slice(&len_bytes.to_be_bytes());
    header
}

/// An error unless the two are equal.
fn expect<T: PartialEq>(has: T, wants: T, otherwise: &str) -> io::Result<()> {
    if has == wants {
        return Ok(());
    }
    Err(io::Error::other(format!("the guest got {otherwise}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_as_it_was_written() {
        let stamp = Stamp {
            writer: 3,
            sequence: 77,
            block: 12,
        };
        let mut content = [0; BLOCK_BYTES];
        stamp.fill(&mut content);
        assert_eq!(Stamp::read(&content), Some(stamp));
        Image::fill(0, &mut content);
        assert_eq!(Stamp::read(&content), None);
        assert_eq!(Stamp::read(&content[..7]), None);
    }

    #[test]
    fn two_writes_differ_everywhere() {
        let at = |sequence| {
            let mut content = [0; BLOCK_BYTES];
            let (writer, block) = (1, 5);
            Stamp {
                writer,
                sequence,
                block,
            }
            .fill(&mut content);
            content
        };
        let (one, other) = (at(1), at(2));
        let equal = one[4000..]
            .iter()
            .zip(&other[4000..])
            .filter(|(a, b)| a == b);
        assert!(equal.count() < 10);
    }
}
