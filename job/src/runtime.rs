//! What jobs run on: the contexts of `aio`, and locks. Tests under `--cfg shuttle` get stand-ins.
//!
//! The crate takes both from here, so that the code that ships is the code whose every lock and
//! every hand-over between threads a scheduler of shuttle may order as it likes. The lock of a
//! progress meter is not among them: nothing ever waits for it or is decided by it.

#[cfg(not(all(test, shuttle)))]
pub(crate) use aio::{
    AioContext, Closed, Handle, Join, JoinHandle, Timer, TimerClock, reschedule_to,
};
#[cfg(not(all(test, shuttle)))]
pub(crate) use std::{
    sync::{Condvar, Mutex, MutexGuard},
    thread::panicking,
};

#[cfg(all(test, shuttle))]
pub(crate) mod stand_in;

#[cfg(all(test, shuttle))]
pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard};
#[cfg(all(test, shuttle))]
pub(crate) use stand_in::{
    AioContext, Closed, Handle, Join, JoinHandle, Timer, TimerClock, panicking, reschedule_to,
};
