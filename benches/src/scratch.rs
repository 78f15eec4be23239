//! Files to read from, and where to read in them.

use std::{
    env,
    fs::{File, OpenOptions},
    io::{self, Write},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::Path,
};

use tempfile::NamedTempFile;

use crate::tell::skipped;

/// Length of the blocks that are read.
pub const BLOCK_BYTES: usize = 4096;

/// Where Linux systems have a memory file system.
const MEMORY: &str = "/dev/shm";
/// Length of the chunks that are copied.
pub const CHUNK_BYTES: usize = 1 << 20;

/// A file full of bytes, gone when this is dropped.
#[derive(Debug)]
pub struct Scratch {
    file: NamedTempFile,
    name: &'static str,
    flags: i32,
    chunks: u64,
}

impl Scratch {
    /// A file of `chunks` MiB in a memory file system; `None`, with a line that says so, without one.
    #[must_use]
    pub fn in_memory(chunks: u64) -> Option<Self> {
        // A ring reads such a file at once only when it may neither cache nor wait.
        let flags = libc::O_DIRECT | libc::O_NONBLOCK;
        told(
            "tmpfs",
            Self::make(Path::new(MEMORY), "tmpfs", flags, chunks),
        )
    }

    /// A file of `chunks` MiB in the directory for temporary files, to be read past the page cache.
    ///
    /// `None`, with a line that says so, where that is a memory file system or has no `O_DIRECT`.
    #[must_use]
    pub fn on_disk(chunks: u64) -> Option<Self> {
        told(
            "disk",
            Self::make(&env::temp_dir(), "disk", libc::O_DIRECT, chunks),
        )
    }

    fn make(directory: &Path, name: &'static str, flags: i32, chunks: u64) -> io::Result<Self> {
        let mut file = NamedTempFile::new_in(directory)?;
        let in_memory = aio::sys::is_tmpfs(file.as_file().as_fd())?;
        if in_memory != (name == "tmpfs") {
            return Err(io::Error::other(
                "the directory is on another kind of file system",
            ));
        }
        let mut bytes = RandomBlocks::over(u64::MAX);
        for _ in 0..chunks {
            // No two chunks are alike, so that nothing below shares or squeezes them.
            let words = (0..CHUNK_BYTES / 8).flat_map(|_| bytes.next_bits().to_le_bytes());
            file.write_all(&words.collect::<Vec<u8>>())?;
        }
        file.as_file().sync_all()?;
        let this = Self {
            file,
            name,
            flags,
            chunks,
        };
        this.open()?;
        Ok(this)
    }

    /// The kind of storage, as results call it: `tmpfs` or `disk`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The flags for opening it that suit its storage best.
    #[must_use]
    pub fn flags(&self) -> i32 {
        self.flags
    }

    /// Length of the file.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.chunks * (CHUNK_BYTES as u64)
    }

    /// Opens the file for reading in the way that suits its storage best.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn open(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(self.flags);
        options.open(self.path())
    }

    /// Opens the file for writing too; see [`open`](Self::open).
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn open_for_writing(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(self.flags);
        options.open(self.path())
    }

    /// Random blocks of the file, in the same order each time.
    #[must_use]
    pub fn blocks(&self) -> RandomBlocks {
        RandomBlocks::over(self.len_bytes())
    }
}

fn told(name: &str, made: io::Result<Scratch>) -> Option<Scratch> {
    made.inspect_err(|error| skipped(format_args!("no file on {name}: {error}")))
        .ok()
}

/// An endless row of random blocks: cheap, and the same each time.
#[derive(Clone, Debug)]
pub struct RandomBlocks {
    state: u64,
    blocks: u64,
}

impl RandomBlocks {
    /// Blocks of the first `len_bytes` bytes of something, which is at least a block long.
    #[must_use]
    pub fn over(len_bytes: u64) -> Self {
        Self {
            state: 0x9e37_79b9_7f4a_7c15,
            blocks: len_bytes / (BLOCK_BYTES as u64),
        }
    }

    /// Sixty-four random bits (xorshift).
    pub fn next_bits(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    /// Offset of the next block in bytes.
    pub fn next_offset(&mut self) -> u64 {
        // The upper bits, spread over the blocks by a multiplication: a division costs more.
        let scaled = (u128::from(self.next_bits()) * u128::from(self.blocks)) >> 64;
        scaled as u64 * (BLOCK_BYTES as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_within_the_file_and_all_over_it() {
        let mut blocks = RandomBlocks::over(1 << 20);
        let mut offsets: Vec<u64> = (0..100_000).map(|_| blocks.next_offset()).collect();
        offsets.sort_unstable();
        offsets.dedup();
        let every: Vec<u64> = (0..256).map(|block| block * 4096).collect();
        assert_eq!(offsets, every);
    }
}
