//! A budget of bytes that tasks share.

use std::sync::Arc;

use super::permits::Permits;

/// A budget of bytes that tasks share: whoever wants more than is left waits.
///
/// First come, first served: a small request waits behind a large one, which therefore does not
/// starve. Clones share one budget.
///
/// Every method may be called on any thread.
///
/// ```
/// # aio::run(aio::Config::default(), |cx| async move {
/// let budget = aio::ByteSemaphore::new(1 << 20);
/// let guard = budget.acquire(4096).await?;
/// assert_eq!(budget.free_bytes(), (1 << 20) - 4096);
/// drop(guard);
/// assert!(budget.acquire(2 << 20).await.is_err());
/// # Ok::<(), aio::OverBudget>(()) }).unwrap().unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct ByteSemaphore {
    budget: Arc<Budget>,
}

#[derive(Debug)]
struct Budget {
    total_bytes: u64,
    permits: Permits,
}

impl ByteSemaphore {
    /// A budget of `total_bytes`, all of them free.
    ///
    /// # Panics
    ///
    /// When that is 2^63 or more.
    #[must_use]
    pub fn new(total_bytes: u64) -> Self {
        let permits = Permits::new(total_bytes);
        Self {
            budget: Arc::new(Budget {
                total_bytes,
                permits,
            }),
        }
    }

    /// Takes `bytes` from the budget, when those that came before have had theirs.
    ///
    /// Dropping the future gives up the place in the queue.
    ///
    /// # Errors
    ///
    /// [`OverBudget`] when there will never be as many.
    pub async fn acquire(&self, bytes: u64) -> Result<BytesGuard, OverBudget> {
        let total_bytes = self.budget.total_bytes;
        if bytes > total_bytes {
            return Err(OverBudget { bytes, total_bytes });
        }
        self.budget.permits.take(bytes).await;
        Ok(self.guard(bytes))
    }

    /// Takes `bytes` from the budget if they are free and nobody waits.
    #[must_use]
    pub fn try_acquire(&self, bytes: u64) -> Option<BytesGuard> {
        let taken = self.budget.permits.try_take(bytes);
        taken.then(|| self.guard(bytes))
    }

    /// The bytes that are free; others may take them at any time.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.budget.permits.free()
    }

    /// The bytes that there are, free or not.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.budget.total_bytes
    }

    fn guard(&self, bytes: u64) -> BytesGuard {
        let budget = self.budget.clone();
        BytesGuard { budget, bytes }
    }
}

/// Bytes taken from a [`ByteSemaphore`]; dropping it, on any thread, gives them back.
#[derive(Debug)]
#[must_use = "the bytes go back when the guard is dropped"]
pub struct BytesGuard {
    budget: Arc<Budget>,
    bytes: u64,
}

impl BytesGuard {
    /// How many there are.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for BytesGuard {
    fn drop(&mut self) {
        self.budget.permits.give_back(self.bytes);
    }
}

/// A request for more bytes than the budget has in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes were asked for of a budget of {total_bytes}")]
pub struct OverBudget {
    /// What was asked for.
    pub bytes: u64,
    /// What there is.
    pub total_bytes: u64,
}
