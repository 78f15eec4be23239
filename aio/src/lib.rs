//! One thread's event loop for disk and network I/O: `io_uring`, with epoll and worker threads as fallback.
//!
//! # The model in a page
//!
//! An [`AioContext`] is one thread's event loop. The thread that makes it is its *home*; the
//! context never leaves it, and neither do the tasks and requests that run there. What other
//! threads may hold is a [`Handle`]: it posts callbacks and futures to the home thread and wakes it
//! if it sleeps, which costs a system call only then.
//!
//! One turn of the loop ([`AioContext::poll`]) waits if there is nothing to do, and then runs, in
//! this order: completions of requests, bottom halves, handlers of descriptors, woken tasks, due timers.
//!
//! A *request* (a read, a receive, …) is an `async` method of the context. It owns its buffer
//! ([`IoBuf`]) and a clone of its descriptor ([`Fd`]) from submission to completion, so dropping its
//! future is always safe: it abandons the result, never the memory. Buffers come from the context's
//! bounded [`BufferPool`], on huge pages and registered with the kernel where the system allows it.
//!
//! Two backends do the work, chosen by probing when the context is made, or by
//! `LONGSHORE_AIO=io_uring|epoll`: one ring for everything, or epoll for readiness with worker
//! threads for the disk. They behave alike; one conformance suite holds both to it.
//!
//! ```
//! use aio::{Config, Fd};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let file = Fd::from(std::fs::File::open("Cargo.toml")?);
//! let text = aio::run(Config::default(), |cx| async move {
//!     let buf = cx.buffers().acquire(4096).await;
//!     let (buf, count) = cx.read(&file, 0, buf).await;
//!     count.map(|count| buf[..count].to_vec())
//! })??;
//! assert!(text.starts_with(b"[package]"));
//! # Ok(())
//! # }
//! ```

mod backend;
mod bottom_half;
mod buf;
mod clock;
mod context;
mod current;
mod error;
mod fd;
mod fd_handler;
mod handle;
mod home;
mod inbox;
mod io;
mod io_thread;
mod join;
mod migratable;
mod op;
mod polling;
mod request;
mod shared;
pub mod sync;
pub mod sys;
mod task;
mod task_lock;
mod thread_pool;
mod timer;
mod wait_point;
mod wake;
mod workers;

pub use backend::{BackendKind, probe_io_uring};
pub use bottom_half::{BottomHalf, ReentrancyGuard};
pub use buf::{Acquire, BUFFER_ALIGN_BYTES, BUFFER_BYTES_MAX, BufferPool, IoBuf};
pub use clock::{Clock, ManualClock, TimerClock};
pub use context::{AioContext, Blocking, Config, ContextStats, ForeignSource, YieldNow};
pub use error::AioError;
pub use fd::Fd;
pub use fd_handler::{Drained, EventNotifier, FdCallbacks, FdHandler};
pub use handle::Handle;
pub use io::{Address, FallocateMode, Interest, RegisteredFile, ZERO_COPY_BYTES_MIN};
pub use io_thread::{Hold, InUse, IoThread, run};
pub use join::{Closed, Join, JoinHandle};
pub use migratable::{RescheduleTo, reschedule_to};
pub use op::{HEADER_BYTES_MAX, SendPart};
pub use polling::PollParams;
pub use task::Task;
pub use task_lock::{
    ByteSemaphore, BytesGuard, OverBudget, TaskMutex, TaskMutexGuard, TaskQueue, TaskReadGuard,
    TaskRwLock, TaskWriteGuard,
};
pub use thread_pool::{Cancelled, PoolRequest, ThreadPool};
pub use timer::{Elapsed, Sleep, SleepWaker, Timer, WakeableSleep};
pub use wait_point::WaitPoint;
