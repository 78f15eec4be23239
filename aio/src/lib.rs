//! One thread's event loop for disk and network I/O: `io_uring`, with epoll and worker threads as fallback.
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
//!
//! # The model in a page
//!
//! **A context is one thread's loop.** The thread that makes an [`AioContext`] is its *home*. The
//! context never leaves it, and neither do the tasks, requests and callbacks that run there: their
//! types are not `Send`, so the compiler sees to it. What other threads hold is a [`Handle`]: it
//! posts callbacks and futures, and wakes the loop if it sleeps. Nothing runs unless somebody turns
//! the loop: an [`IoThread`], [`run`], an embedder's own calls of [`poll`](AioContext::poll), or
//! [somebody else's loop](#foreign-loops).
//!
//! **One turn** waits if there is nothing to do, and then does these, each once:
//!
//! 1. completions: requests that have ended wake their tasks;
//! 2. what other threads have posted is taken, and what the worker threads have finished;
//! 3. bottom halves, and the callbacks of [`Handle::schedule`]: each of the two in the order in which
//!    they were left. What is scheduled meanwhile runs in the next turn;
//! 4. handlers of descriptors that are ready, reading before writing;
//! 5. tasks that were woken, in the order of their wake-ups, and those that these wake, up to a limit
//!    so that I/O is not kept waiting;
//! 6. timers that are due, in the order of their deadlines by each clock.
//!
//! **Turns nest.** A callback (not a task) may call [`poll`](AioContext::poll) or
//! [`wait_while`](AioContext::wait_while). The inner turn goes on with what the outer one had not come
//! to, so each event is dispatched once; a callback that is running is not entered again, but runs
//! once more afterwards if it was asked for meanwhile. New code had better await instead.
//!
//! **A request owns what it uses.** Reads, receives and the like are `async` methods of the context,
//! which begin when they are first polled. From then on the request has its buffer ([`IoBuf`]) and
//! a clone of its descriptor ([`Fd`]), until the kernel is done with both; with the result the buffer
//! comes back.
//!
//! **Dropping a future is always safe**, and means "not wanted any more". Dropping a request abandons
//! its result and nothing else: what writes to a disk is written, what waits for a peer is cancelled,
//! and memory and descriptor stay until the kernel has let go of them. Dropping a [`Task`] or a
//! [`JoinHandle`] detaches the work, which goes on. Dropping a [`Timer`], a [`BottomHalf`] or an
//! [`FdHandler`] ends it. Dropping what waits in a queue gives up the place in it.
//!
//! **Backends.** One ring for everything, or epoll for readiness with worker threads for the disk;
//! chosen by probing when the context is made, or by [`Config::backend`], or by the environment,
//! `LONGSHORE_AIO=io_uring|epoll`. They behave alike; one conformance suite holds both to it.
//!
//! **Errors and panics.** What a peer, a disk or the kernel can do comes back as `std::io::Error`; a
//! context that cannot be made is an [`AioError`]. Panics are for misuse (another thread, a closed
//! context) and name it. A panic of a callback or a task goes to whoever turns the loop, one of work
//! in the thread pool to whoever waits for it.
//!
//! Lengths, offsets and alignments are bytes, times are nanoseconds; names say so.
//!
//! # Contents
//!
//! - The loop: [`AioContext`], [`Config`], [`run`], [`Blocking`], [`YieldNow`], [`ContextStats`],
//!   [`BackendKind`], [`probe_io_uring`], [`AioError`]
//! - [Threads](#threads): [`IoThread`], [`Hold`], [`InUse`], [`Handle`], [`JoinHandle`], [`Join`],
//!   [`Closed`], [`WaitPoint`]
//! - Tasks: [`Task`], [`reschedule_to`], [`RescheduleTo`]
//! - Callbacks: [`BottomHalf`], [`ReentrancyGuard`], [`FdHandler`], [`FdCallbacks`], [`Drained`],
//!   [`EventNotifier`]
//! - Files: [`AioContext::read`] and what follows it, [`Fd`], [`RegisteredFile`],
//!   [`FallocateMode`], [`sys::FileStatus`]
//! - Sockets: [`AioContext::recv`] and its neighbours, [`Address`], [`Interest`], [`SendPart`]
//! - [Buffers](#buffers): [`IoBuf`], [`BufferPool`], [`Acquire`], [`BUFFER_ALIGN_BYTES`],
//!   [`BUFFER_BYTES_MAX`]
//! - [Time](#timers-and-clocks): [`Timer`], [`Sleep`], [`WakeableSleep`], [`SleepWaker`],
//!   [`Elapsed`], [`Clock`], [`TimerClock`], [`ManualClock`]
//! - [Calls that block](#calls-that-block): [`AioContext::blocking`], [`ThreadPool`],
//!   [`PoolRequest`], [`Cancelled`]
//! - Locks of tasks: [`TaskMutex`], [`TaskRwLock`], [`TaskQueue`], [`ByteSemaphore`], and their
//!   guards
//! - [Busy polling](#busy-polling): [`PollParams`], [`Handle::set_poll_params`],
//!   [`FdCallbacks::on_poll`]
//! - [Foreign loops](#foreign-loops): [`ForeignSource`], [`AioContext::prepare`],
//!   [`AioContext::check`], [`AioContext::dispatch`]
//!
//! # Threads
//!
//! A type is for the home thread only if it is not `Send`: the context itself, [`Task`], requests,
//! [`Sleep`], [`ThreadPool`], [`RegisteredFile`], [`ForeignSource`], [`FdCallbacks`] and
//! [`ReentrancyGuard`]. All others may be used and dropped on any thread; their documentation says
//! what is different there. Callbacks and tasks are always called on the home
//! thread, and whoever awaits a result is woken where it waits.
//!
//! One context can wait for work on another without blocking: it awaits a [`JoinHandle`]. A thread
//! without a loop blocks in [`JoinHandle::wait`]. Code that is not `async`, on the home thread of a
//! context, turns its loop meanwhile: [`AioContext::block_on`] or [`AioContext::wait_while`]. Two
//! threads that wait for each other wait for ever, so only a main thread should wait for others.
//!
//! [`AioContext::current`] is the calling thread's context, for code that cannot be given one, and
//! [`AioContext::of`] leads from a handle to its context on the home thread.
//!
//! # Wake-ups
//!
//! Whoever leaves work for the loop asks whether the home thread sleeps, or is about to, and only then
//! pays for a system call; one is enough for all that comes until it has woken. A wake-up may come
//! for nothing, but none is lost: models of the protocol are checked under every order of its steps.
//! Scheduling a bottom half, waking a task and arming a timer from another thread allocates nothing,
//! and takes no lock.
//!
//! # Buffers
//!
//! [`AioContext::buffers`] is the context's [`BufferPool`]: aligned memory for direct I/O, in huge pages
//! that the kernel knows in advance where the system allows it. It is bounded by
//! [`Config::buffer_bytes_max`]; whoever asks for more than is left waits, first come, first served,
//! which bounds the work in flight as well. Buffers may be dropped on any thread. [`IoBuf::heap`]
//! makes one outside of any pool.
//!
//! # Timers and clocks
//!
//! A context has three clocks ([`TimerClock`]): that of the loop, for sleeps, time limits and most timers;
//! the wall clock; and a virtual one, which its owner moves. Each can be replaced by a [`ManualClock`],
//! which is how tests go without waiting. Sleeps and timers end at their nanosecond or later, never
//! earlier. Any number of them costs the same: they are in a hierarchical wheel.
//!
//! Contexts whose clocks are moved by hand, to [`AioContext::next_timer_ns`] each time, and that make no
//! requests of the kernel, do the same every time. Several of them on one thread are a world in which
//! [`Config::task_order_seed`] decides what happens first.
//!
//! # Busy polling
//!
//! Sleeping and waking costs tens of microseconds. A context with [`Config::poll_max_ns`] above zero looks
//! for work in memory for a while before it sleeps. How long that is adapts itself, for each source of
//! work by itself: it grows while waits are short, shrinks when they are longer than the limit, and
//! is nothing for a source that has been silent for seven seconds. Off by default, and on in
//! [`Config::for_io_thread`].
//!
//! # Calls that block
//!
//! [`AioContext::blocking`] has a worker thread make a call, and [`AioContext::thread_pool`] is there for
//! those who want to cancel. Workers come with the work and leave when there is none
//! ([`Handle::set_thread_pool_limits`]). Without a ring they do the disk I/O too.
//!
//! # Foreign loops
//!
//! A program that has a loop already (tokio, mio, glib, a bare epoll) drives a context from there.
//! [`AioContext::foreign_source`] is one descriptor to watch, and one call to make when it is readable.
//! Tasks of the two await each other's futures. The folder `examples` has one program for each of
//! tokio, mio and epoll, an echo server, and one with [`IoThread`]s.
//!
//! # Fork
//!
//! A context belongs to the process that made it. In a forked child, turning it or beginning a request
//! panics; dropping and closing it do nothing there and leak it, so that the parent's goes on.
//!
//! # Closing
//!
//! [`AioContext::close`] drops the tasks and callbacks, waits until the kernel and the workers are done
//! with every request, and gives everything back. `IoThread` and [`run`] do it by themselves. What is
//! posted to a closed context is dropped, which [`JoinHandle::join`] tells those who wait. Bottom halves
//! that nobody has dropped by then are named in a warning: forgotten ones are bugs.

mod backend;
mod bottom_half;
mod buf;
mod clock;
mod context;
mod current;
mod error;
#[cfg(test)]
#[cfg(loom)]
mod explore;
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
#[cfg(test)]
#[cfg(not(loom))]
mod stress;
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
