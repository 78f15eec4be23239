//! A guest that does nothing but write: through an NBD export, on a thread of its own, or as others have it.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use benches::{BLOCK_BYTES, RandomBlocks};

use crate::latency::TIMEOUT;

/// The client has no use for zeroes after the answer to its choice.
const NO_ZEROES: u32 = 1 << 1;
const FIXED_NEWSTYLE: u32 = 1;
const OPTION_MAGIC: &[u8] = b"IHAVEOPT";
const EXPORT_NAME: u32 = 1;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
const WRITE: u16 = 1;

/// What each write took, in milliseconds, since the last look. Any thread.
#[derive(Default)]
pub(crate) struct Samples(Mutex<Vec<f64>>);

impl Samples {
    pub(crate) fn note(&self, took: Duration) {
        self.lock().push(took.as_secs_f64() * 1e3);
    }

    fn take(&self) -> Vec<f64> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<f64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has a guest stop, and says how it went.
pub(crate) type Stop = Box<dyn FnOnce() -> Result<(), String>>;

/// Somebody who keeps so many writes in flight until this is dropped.
pub(crate) struct Guest {
    samples: Arc<Samples>,
    stop: Option<Stop>,
}

/// What a guest found in some time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writes {
    pub(crate) per_s: f64,
    /// 50th and 99th of a hundred, and 999th of a thousand, in milliseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
}

impl Guest {
    pub(crate) fn start(write: impl FnOnce(&Arc<Samples>) -> Stop) -> Self {
        let samples = Arc::new(Samples::default());
        let stop = Some(write(&samples));
        Self { samples, stop }
    }

    /// Writes to the export `name` behind a Unix socket, all over it.
    pub(crate) fn over_nbd(socket: &Path, name: &str, depth: usize) -> Result<Self, String> {
        let mut connection = Connection::open(socket, name).map_err(|error| error.to_string())?;
        Ok(Self::start(|samples| {
            let is_over = Arc::new(AtomicBool::new(false));
            let (samples, stop) = (samples.clone(), is_over.clone());
            let thread = thread::spawn(move || connection.write(depth, &stop, &samples));
            Box::new(move || {
                is_over.store(true, Ordering::Release);
                let result = thread.join().map_err(|_| "the guest panicked".to_owned())?;
                result.map_err(|error| format!("the guest: {error}"))
            })
        }))
    }

    /// Forgets what was found so far.
    pub(crate) fn begin(&self) -> Instant {
        self.samples.take();
        Instant::now()
    }

    /// What was found since [`begin`](Self::begin) returned `start`; `None` if nothing was written at all.
    pub(crate) fn found(&self, start: Instant) -> Option<Writes> {
        let (mut millis, elapsed) = (self.samples.take(), start.elapsed());
        millis.sort_by(f64::total_cmp);
        let at = |per_mille: usize| {
            let rank = (millis.len() * per_mille).div_ceil(1000);
            millis.get(rank.checked_sub(1)?).copied()
        };
        Some(Writes {
            per_s: millis.len() as f64 / elapsed.as_secs_f64(),
            p50: at(500)?,
            p99: at(990)?,
            p999: at(999)?,
        })
    }

    /// Ends it, and says why it ended before, if it did.
    pub(crate) fn end(mut self) -> Result<(), String> {
        self.stop.take().map_or(Ok(()), |stop| stop())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Whoever wants to know how it went has called `end`.
        self.stop.take().map(|stop| stop());
    }
}

/// Writes one block after the other, `count` of them.
pub(crate) fn touch(socket: &Path, name: &str, count: u64) -> Result<(), String> {
    let touching = || {
        let mut connection = Connection::open(socket, name)?;
        for _ in 0..count {
            connection.send(0)?;
            connection.receive()?;
        }
        io::Result::Ok(())
    };
    touching().map_err(|error| error.to_string())
}

struct Connection {
    stream: UnixStream,
    blocks: RandomBlocks,
    /// Header and data of the next request.
    request: Vec<u8>,
}

impl Connection {
    fn open(socket: &Path, name: &str) -> io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting)?;
        let length = u32::try_from(name.len()).map_err(io::Error::other)?;
        let mut answer = Vec::new();
        answer.extend((FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
        answer.extend(OPTION_MAGIC);
        answer.extend(EXPORT_NAME.to_be_bytes());
        answer.extend(length.to_be_bytes());
        answer.extend(name.as_bytes());
        stream.write_all(&answer)?;
        let mut export = [0; 10];
        stream.read_exact(&mut export)?;
        let (len_bytes, _flags) = export.split_at(8);
        let len_bytes = u64::from_be_bytes(len_bytes.try_into().map_err(io::Error::other)?);
        let mut blocks = RandomBlocks::over(len_bytes);
        let header = REQUEST_MAGIC.to_be_bytes().into_iter();
        let header = header.chain([0; 24]);
        let data = (0..BLOCK_BYTES / 8).flat_map(|_| blocks.next_bits().to_be_bytes());
        let request: Vec<u8> = header.chain(data.collect::<Vec<_>>()).collect();
        Ok(Self {
            stream,
            blocks,
            request,
        })
    }

    /// Keeps `depth` writes in flight until it is to stop, then waits for them.
    fn write(&mut self, depth: usize, is_over: &AtomicBool, samples: &Samples) -> io::Result<()> {
        let mut started = vec![Instant::now(); depth];
        for (slot, since) in started.iter_mut().enumerate() {
            *since = Instant::now();
            self.send(slot)?;
        }
        let mut in_flight = depth;
        while in_flight > 0 {
            let slot = self.receive()?;
            let since = started
                .get_mut(slot)
                .ok_or_else(|| io::Error::other("a reply to nothing"))?;
            samples.note(since.elapsed());
            if is_over.load(Ordering::Acquire) {
                in_flight -= 1;
            } else {
                *since = Instant::now();
                self.send(slot)?;
            }
        }
        Ok(())
    }

    fn send(&mut self, slot: usize) -> io::Result<()> {
        let length = u32::try_from(BLOCK_BYTES).map_err(io::Error::other)?;
        let header = &mut self.request[4..28];
        header[0..2].copy_from_slice(&0_u16.to_be_bytes());
        header[2..4].copy_from_slice(&WRITE.to_be_bytes());
        header[4..12].copy_from_slice(&(slot as u64).to_be_bytes());
        header[12..20].copy_from_slice(&self.blocks.next_offset().to_be_bytes());
        header[20..24].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&self.request)
    }

    /// Which request has ended.
    fn receive(&mut self) -> io::Result<usize> {
        let mut reply = [0; 16];
        self.stream.read_exact(&mut reply)?;
        let word = |at: usize| {
            u32::from_be_bytes([reply[at], reply[at + 1], reply[at + 2], reply[at + 3]])
        };
        if word(0) != REPLY_MAGIC || word(4) != 0 {
            return Err(io::Error::other(format!(
                "a write failed: {:?}",
                &reply[..8]
            )));
        }
        usize::try_from(word(12)).map_err(io::Error::other)
    }
}
