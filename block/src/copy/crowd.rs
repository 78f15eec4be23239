//! [`Crowd`]: how many background copies of a graph have data on its way, so that they can share the memory for it.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

/// Counts the copies of one graph that have requests in flight. Any thread.
#[derive(Debug, Default)]
pub struct Crowd {
    members: Arc<AtomicU32>,
}

/// A copy that counts until this is dropped.
#[derive(Debug)]
pub struct CrowdMember {
    members: Arc<AtomicU32>,
}

impl Crowd {
    /// Counts one more.
    #[must_use]
    pub fn enter(&self) -> CrowdMember {
        // Only a count: nothing is read that others have written before.
        self.members.fetch_add(1, Ordering::Relaxed);
        CrowdMember {
            members: self.members.clone(),
        }
    }

    /// How many there are.
    #[must_use]
    pub fn members(&self) -> u32 {
        self.members.load(Ordering::Relaxed)
    }
}

impl Drop for CrowdMember {
    fn drop(&mut self) {
        self.members.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::Crowd;

    #[test]
    fn a_member_counts_until_it_is_dropped() {
        let crowd = Crowd::default();
        let (first, second) = (crowd.enter(), crowd.enter());
        assert_eq!(crowd.members(), 2);
        drop(first);
        assert_eq!(crowd.members(), 1);
        drop(second);
        assert_eq!(crowd.members(), 0);
    }
}
