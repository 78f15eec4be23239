//! [`Crowd`]: how many background copies of a graph have data on its way, so that they can share the memory for it.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

/// Counts the copies of one graph that have requests in flight, and their bytes. Any thread.
#[derive(Debug, Default)]
pub struct Crowd {
    counts: Arc<Counts>,
}

/// Only counts: nothing is read that others have written before.
#[derive(Debug, Default)]
struct Counts {
    members: AtomicU32,
    bytes: AtomicU64,
}

/// A copy that counts, with what it has in flight, until this is dropped.
#[derive(Debug)]
pub struct CrowdMember {
    counts: Arc<Counts>,
    bytes: u64,
}

impl Crowd {
    /// Counts one more.
    #[must_use]
    pub fn enter(&self) -> CrowdMember {
        self.counts.members.fetch_add(1, Ordering::Relaxed);
        CrowdMember {
            counts: self.counts.clone(),
            bytes: 0,
        }
    }

    /// How many there are.
    #[must_use]
    pub fn members(&self) -> u32 {
        self.counts.members.load(Ordering::Relaxed)
    }

    /// What they have in flight together, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.counts.bytes.load(Ordering::Relaxed)
    }
}

impl CrowdMember {
    /// This one has so many bytes in flight now.
    pub fn set_bytes(&mut self, bytes: u64) {
        self.counts.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.counts.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
    }
}

impl Drop for CrowdMember {
    fn drop(&mut self) {
        self.set_bytes(0);
        self.counts.members.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::Crowd;

    #[test]
    fn a_member_counts_until_it_is_dropped() {
        let crowd = Crowd::default();
        let (mut first, mut second) = (crowd.enter(), crowd.enter());
        first.set_bytes(4);
        second.set_bytes(2);
        first.set_bytes(3);
        assert_eq!((crowd.members(), crowd.bytes()), (2, 5));
        drop(first);
        assert_eq!((crowd.members(), crowd.bytes()), (1, 2));
        drop(second);
        assert_eq!((crowd.members(), crowd.bytes()), (0, 0));
    }
}
