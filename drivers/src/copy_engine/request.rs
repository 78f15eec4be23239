//! [`Request`]: one request in flight of an engine, until its end or that of its context.

use std::sync::{Arc, Mutex};

use block::copy::{CopyClass, CopyError, Outcome};
use blockjob::BlockJob;
use job::Job;

use super::{
    State,
    lanes::{Lane, LaneEnd},
    lock,
};

/// A request in flight. It counts until it is dropped, which the end of its context does, too.
pub(super) struct Request {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) block_job: BlockJob,
    pub(super) job: Job,
    pub(super) counted_bytes: u64,
    pub(super) lane: Lane,
    pub(super) is_over: bool,
}

impl Request {
    /// It has come to this, in `took_ns`.
    pub(super) fn end(mut self, result: Result<Outcome, CopyError>, took_ns: u64) {
        let moved = moved_bytes(&result);
        self.block_job
            .refund(self.counted_bytes.saturating_sub(moved));
        lock(&self.state).note(result, took_ns);
        self.is_over = true;
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if !self.is_over {
            self.block_job.refund(self.counted_bytes);
        }
        let waker = {
            let mut state = lock(&self.state);
            state.finish(self.counted_bytes);
            let end = if self.is_over {
                LaneEnd::Done
            } else {
                LaneEnd::Closed
            };
            state.lanes.give_back(self.lane, end);
            match state.in_flight {
                0 => state.idle_waker.take(),
                _ => None,
            }
        };
        self.job.wake();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Bytes that were read and written: what a speed limit is about.
fn moved_bytes(result: &Result<Outcome, CopyError>) -> u64 {
    match result {
        Ok(Outcome {
            range,
            class: CopyClass::Copied(_),
        }) => range.len(),
        Ok(_) | Err(_) => 0,
    }
}
