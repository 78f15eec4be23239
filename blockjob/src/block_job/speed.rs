//! How fast a block job may be, and its waits for that.

use job::{JobContext, JobError, JobVerb};

use super::BlockJob;
use crate::rate_limit::speed_from_client;

impl BlockJob {
    /// The speed limit in bytes per second; zero is none.
    #[must_use]
    pub fn speed_bytes_per_s(&self) -> u64 {
        self.lock().limit.speed_bytes_per_s()
    }

    /// Sets the speed limit in bytes per second; zero is none. It counts at once.
    ///
    /// A job that sleeps is woken if the limit is higher now, or none.
    pub fn set_speed(&self, speed_bytes_per_s: u64) {
        let wakes = self.lock().limit.set_speed(speed_bytes_per_s);
        if let Some(binding) = self.shared.binding() {
            binding.call("set_speed", |driver| driver.set_speed(speed_bytes_per_s));
        }
        if let (true, Some(job)) = (wakes, self.shared.job()) {
            job.wake();
        }
    }

    /// A user sets the speed limit, in bytes per second as clients give it.
    ///
    /// # Errors
    ///
    /// Nothing has changed then. First `InvalidVerb` by the verb table, or `NotFound` when the job is forgotten; then
    /// `Refused` for a speed below zero.
    pub fn set_speed_from_client(&self, speed_bytes_per_s: i64) -> Result<(), JobError> {
        self.accepting(JobVerb::SetSpeed)?;
        let speed_bytes_per_s = speed_from_client(speed_bytes_per_s)
            .map_err(|negative| JobError::refused(negative.to_string()))?;
        self.set_speed(speed_bytes_per_s);
        Ok(())
    }

    /// Counts `len_bytes` as moved at `now_ns`. The next request waits for [`delay_ns`](Self::delay_ns).
    pub fn account(&self, len_bytes: u64, now_ns: u64) {
        self.lock().limit.account(len_bytes, now_ns);
    }

    /// Takes back `len_bytes` that were counted and needed no moving after all.
    pub fn refund(&self, len_bytes: u64) {
        self.lock().limit.refund(len_bytes);
    }

    /// How long the next request must wait for the speed limit, in nanoseconds.
    #[must_use]
    pub fn delay_ns(&self, now_ns: u64) -> u64 {
        self.lock().limit.delay_ns(now_ns)
    }

    /// Waits, in the body of the job, until the speed limit lets the next request go.
    ///
    /// Lets everything else run and passes a pause point at least once, also without a limit. After each wake-up it
    /// computes anew how long it still has to wait. Returns soon if the job is cancelled by force.
    pub async fn throttle(&self, job: &JobContext) {
        // Yields first if there is nothing to wait for.
        let mut delay_ns = self.delay_ns(job.now_ns());
        loop {
            job.sleep_ns(delay_ns).await;
            delay_ns = self.delay_ns(job.now_ns());
            if delay_ns == 0 || job.is_cancelled() {
                return;
            }
        }
    }
}
