//! Rings for tests, instead of the one that `AioContext::new` would make.

use std::sync::Arc;

use super::{
    Backend,
    uring::{
        Entries, KernelRing, Uring,
        fake::{FakeKernel, Injecting},
    },
};
use crate::{buf::PoolShared, shared::Shared};

/// A ring for tests.
#[derive(Clone, Debug)]
pub(crate) enum TestRing {
    /// To a kernel that the test plays.
    Fake(FakeKernel),
    /// The kernel's, with so many entries, and failing to enter `fails` in a thousand times.
    Injecting {
        entries: Entries,
        fails: u64,
        seed: u64,
    },
}

impl TestRing {
    pub(super) fn backend(&self, shared: &Arc<Shared>, pool: &Arc<PoolShared>) -> Box<dyn Backend> {
        let (shared, pool) = (shared.clone(), pool.clone());
        match self {
            Self::Fake(kernel) => Box::new(Uring::new(kernel.ring(), shared, pool).unwrap()),
            Self::Injecting {
                entries,
                fails,
                seed,
            } => {
                let ring = KernelRing::new(*entries).unwrap();
                let ring = Injecting::new(ring, *fails, *seed);
                Box::new(Uring::new(ring, shared, pool).unwrap())
            }
        }
    }
}
