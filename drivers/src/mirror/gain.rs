//! Whether a mirror gains on its guests, and how long they wait for that.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block::mirror::MirrorCopy;

use crate::converge::{Converge, ConvergePolicy, ConvergeReport, Standing};

/// What a mirror's body, its hooks and its reports share about that. Any thread.
#[derive(Debug)]
pub(super) struct Gain {
    copy: Arc<MirrorCopy>,
    converge: Mutex<Converge>,
}

impl Gain {
    pub(super) fn new(copy: Arc<MirrorCopy>, policy: ConvergePolicy) -> Self {
        let converge = Mutex::new(Converge::new(policy));
        Self { copy, converge }
    }

    /// The copy is at work: looks how far it is, and has guests wait as that asks for.
    pub(super) fn note(&self, now_ns: u64) {
        let load = self.copy.load();
        let standing = Standing {
            differing_bytes: load.dirty_bytes + load.in_flight_bytes,
            dirtied_bytes: load.dirtied_bytes,
            copied_bytes: load.copied_bytes,
        };
        let delay_ns = self.lock().note(standing, now_ns);
        self.copy.set_guest_delay_ns(delay_ns);
    }

    /// Nothing is copied for now, or any more: guests do not wait.
    pub(super) fn stand(&self) {
        self.lock().stand();
        self.copy.set_guest_delay_ns(0);
    }

    pub(super) fn report(&self) -> ConvergeReport {
        self.lock().report()
    }

    fn lock(&self) -> MutexGuard<'_, Converge> {
        self.converge.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
