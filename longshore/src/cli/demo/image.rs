//! The demo's image: what every block of it holds before anybody writes to it. Only std.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt, path::Path};

/// Bytes of a block, the unit in which the guest writes.
pub(crate) const BLOCK_BYTES: usize = 4096;
/// Blocks in a run that is all data or all hole.
const RUN_BLOCKS: u64 = 256;
/// Blocks of a cluster; where the guest writes at all, it writes to one of each.
const CLUSTER_BLOCKS: u64 = 16;
/// Clusters of a run.
const RUN_CLUSTERS: u64 = RUN_BLOCKS / CLUSTER_BLOCKS;
/// Runs after which everything repeats.
const PERIOD_RUNS: u64 = 16;
/// Of each period, the runs that are data.
const DATA_RUNS: [u64; 3] = [0, 6, 11];
/// Of each period, the runs that the guest writes to: those with data, and one that is a hole.
const GUEST_RUNS: [u64; 4] = [0, 3, 6, 11];
const GUEST_RUNS_COUNT: u64 = 4;

/// One block's content.
pub(crate) type Block = [u8; BLOCK_BYTES];

/// An image of whole runs, three of sixteen of which are data; the rest is holes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    runs: u64,
}

impl Image {
    /// The largest image that is no longer than `len_bytes`, and has at least one run.
    pub(crate) fn up_to(len_bytes: u64) -> Self {
        let run_bytes = RUN_BLOCKS * bytes_of(1);
        Self {
            runs: (len_bytes / run_bytes).max(1),
        }
    }

    /// Its length in bytes.
    pub(crate) fn len_bytes(self) -> u64 {
        bytes_of(self.blocks())
    }

    /// Its length in blocks.
    pub(crate) fn blocks(self) -> u64 {
        self.runs * RUN_BLOCKS
    }

    /// How much of it is data.
    pub(crate) fn data_bytes(self) -> u64 {
        let runs = (0..self.runs).filter(|run| is_data(*run)).count();
        bytes_of(u64::try_from(runs).unwrap_or(u64::MAX) * RUN_BLOCKS)
    }

    /// How many blocks the guest writes to.
    pub(crate) fn slots(self) -> u64 {
        let rest = GUEST_RUNS
            .iter()
            .filter(|run| **run < self.runs % PERIOD_RUNS)
            .count();
        let runs = self.runs / PERIOD_RUNS * GUEST_RUNS_COUNT + u64::try_from(rest).unwrap_or(0);
        runs * RUN_CLUSTERS
    }

    /// The block of slot `slot`; where in its cluster looks like chance.
    pub(crate) fn slot_block(slot: u64) -> u64 {
        let (number, cluster) = (slot / RUN_CLUSTERS, slot % RUN_CLUSTERS);
        let (period, place) = (number / GUEST_RUNS_COUNT, number % GUEST_RUNS_COUNT);
        let place = usize::try_from(place).unwrap_or(0);
        let run = period * PERIOD_RUNS + GUEST_RUNS[place];
        run * RUN_BLOCKS + cluster * CLUSTER_BLOCKS + mix(slot) % CLUSTER_BLOCKS
    }

    /// The slot that `block` is, if it is one.
    pub(crate) fn slot_of(block: u64) -> Option<u64> {
        let run = block / RUN_BLOCKS;
        let place = (0..)
            .zip(GUEST_RUNS)
            .find(|(_, it)| *it == run % PERIOD_RUNS)?
            .0;
        let number = run / PERIOD_RUNS * GUEST_RUNS_COUNT + place;
        let slot = number * RUN_CLUSTERS + block % RUN_BLOCKS / CLUSTER_BLOCKS;
        (Self::slot_block(slot) == block).then_some(slot)
    }

    /// What `block` holds at first.
    pub(crate) fn fill(block: u64, content: &mut Block) {
        if is_data(block / RUN_BLOCKS) {
            fill_with(mix(block ^ 0x6c6f_6e67), content);
        } else {
            content.fill(0);
        }
    }

    /// Writes the image to a new file; holes stay holes.
    pub(crate) fn make(self, path: &Path) -> io::Result<()> {
        let file = File::options().write(true).create_new(true).open(path)?;
        file.set_len(self.len_bytes())?;
        let mut run_bytes = vec![0; usize::try_from(bytes_of(RUN_BLOCKS)).unwrap_or(BLOCK_BYTES)];
        for run in (0..self.runs).filter(|run| is_data(*run)) {
            let first = run * RUN_BLOCKS;
            fill_blocks(first..first + RUN_BLOCKS, &mut run_bytes);
            file.write_all_at(&run_bytes, bytes_of(first))?;
        }
        file.sync_all()
    }
}

/// Fills `bytes` with the blocks of `range` as they are at first.
fn fill_blocks(range: Range<u64>, bytes: &mut [u8]) {
    let (blocks, _) = bytes.as_chunks_mut::<BLOCK_BYTES>();
    for (number, block) in range.zip(blocks) {
        Image::fill(number, block);
    }
}

/// The length of `blocks` blocks.
pub(crate) fn bytes_of(blocks: u64) -> u64 {
    blocks * 4096
}

fn is_data(run: u64) -> bool {
    DATA_RUNS.contains(&(run % PERIOD_RUNS))
}

/// Scrambles a number.
pub(crate) fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Fills a block with what looks like noise and follows from `seed`.
pub(crate) fn fill_with(seed: u64, content: &mut Block) {
    let mut state = seed | 1;
    let (words, _) = content.as_chunks_mut::<8>();
    for word in words {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *word = state.to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn three_of_sixteen_runs_are_data() {
        let image = Image::up_to(1 << 30);
        assert_eq!(image.len_bytes(), 1 << 30);
        assert_eq!(image.data_bytes(), 192 << 20);
        assert_eq!(Image::up_to(5).len_bytes(), 1 << 20);
    }

    #[test]
    fn the_file_is_what_fill_says_and_sparse() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.img");
        let image = Image::up_to(16 << 20);
        image.make(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let (blocks, rest) = bytes.as_chunks::<BLOCK_BYTES>();
        assert!(rest.is_empty());
        for (number, block) in (0u64..).zip(blocks) {
            let mut want = [0; BLOCK_BYTES];
            Image::fill(number, &mut want);
            assert!(*block == want, "block {number}");
        }
        let taken = std::fs::metadata(&path).unwrap().blocks() * 512;
        assert!(taken <= image.data_bytes() + (1 << 20), "{taken}");
    }

    #[test]
    fn a_slot_is_one_block_and_every_run_of_the_guest_has_sixteen() {
        for mib in [1, 4, 11, 16, 40] {
            let image = Image::up_to(mib << 20);
            let slots: Vec<u64> = (0..image.blocks()).filter_map(Image::slot_of).collect();
            assert_eq!(slots, (0..image.slots()).collect::<Vec<_>>(), "{mib} MiB");
        }
        assert_eq!(Image::up_to(1 << 30).slots(), 4096);
    }

    #[test]
    fn the_guest_writes_to_data_and_to_a_hole() {
        let runs: Vec<u64> = (0..64)
            .map(|slot| Image::slot_block(slot) / RUN_BLOCKS)
            .collect();
        assert!(runs.iter().any(|run| is_data(*run)) && runs.iter().any(|run| !is_data(*run)));
    }
}
