//! A thread that runs one context.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
};

use crate::{
    context::{AioContext, Blocking, Config},
    error::AioError,
    handle::Handle,
};

/// Bytes of stack of such a thread.
///
/// What it runs may walk over values as deeply as they are nested: futures poll futures, and each node that is
/// defined within another one takes some 25 KiB where nothing is optimised. The two megabytes that threads get by
/// default hold what a client may nest, but little more. What is not touched costs addresses and no memory.
const STACK_BYTES: usize = 8 << 20;

/// A thread of its own that runs one context.
///
/// The thread lives as long as this value or a [`Hold`] of it. When the last of them is dropped the
/// loop stops, the context's tasks are dropped, its requests waited for, and the thread is joined
/// (unless it is the thread itself that drops it). It may be used and dropped on any thread; a thread
/// that has a context had better not drop it while the other waits for it.
///
/// Parameters are set while it runs, through its [handle](Self::handle):
///
/// ```
/// use aio::{Config, IoThread, PollParams};
///
/// let thread = IoThread::start(Config::for_io_thread("io0"))?;
/// let sum = thread.handle().spawn(|cx| async move {
///     cx.sleep_ns(1_000).await;
///     40 + 2
/// });
/// thread.handle().set_poll_params(PollParams { max_ns: 16_384, grow: 0, shrink: 2 });
/// thread.handle().set_thread_pool_limits(1, 8)?;
/// assert_eq!(sum.wait(), 42);
/// # Ok::<(), aio::AioError>(())
/// ```
#[derive(Debug)]
pub struct IoThread {
    thread: Arc<Thread>,
}

impl IoThread {
    /// Starts a thread and makes a context there.
    ///
    /// # Errors
    ///
    /// [`AioError`] when the thread or the context cannot be made.
    ///
    /// # Panics
    ///
    /// When making the context panicked on the new thread, which is a bug of ours.
    pub fn start(config: Config) -> Result<Self, AioError> {
        let (made, result) = mpsc::sync_channel(1);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let builder = thread::Builder::new()
            .name(config.name.clone())
            .stack_size(STACK_BYTES);
        let run = move || match AioContext::new(config) {
            Ok(context) => {
                context.make_current();
                // The maker waits for this message, so it is there to take it.
                drop(made.send(Ok(context.handle().clone())));
                run_until(&stopped, context);
            }
            Err(error) => drop(made.send(Err(error))),
        };
        let thread = builder.spawn(run).map_err(|source| AioError::Resource {
            what: "a thread",
            source,
        })?;
        let handle = result.recv().expect("the new thread says how it went")?;
        let thread = Thread {
            handle,
            stop,
            users: Mutex::default(),
            thread: Mutex::new(Some(thread)),
        };
        Ok(Self {
            thread: Arc::new(thread),
        })
    }

    /// The way to the thread's context.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.thread.handle
    }

    /// Keeps the thread alive on behalf of `user`, a name for messages, until the hold is dropped.
    /// What uses the thread's context takes one, so that nobody ends the thread under it.
    #[must_use]
    pub fn hold(&self, user: &str) -> Hold {
        let mut users = self.thread.users();
        users.next += 1;
        let id = users.next;
        users.names.insert(id, user.to_owned());
        Hold {
            id,
            thread: self.thread.clone(),
        }
    }

    /// Ends the thread, as dropping it does, unless somebody [holds](Self::hold) it.
    ///
    /// # Errors
    ///
    /// [`InUse`], with the thread, which goes on, and the names of those who hold it.
    pub fn delete(self) -> Result<(), InUse> {
        let users: Vec<String> = self.thread.users().names.values().cloned().collect();
        if users.is_empty() {
            return Ok(());
        }
        Err(InUse {
            thread: self,
            users,
        })
    }
}

/// A thread cannot be deleted while it is held.
#[derive(Debug)]
pub struct InUse {
    /// The thread, which goes on.
    pub thread: IoThread,
    /// The names of those who hold it.
    pub users: Vec<String>,
}

impl fmt::Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, users) = (self.thread.handle().name(), self.users.join(", "));
        write!(f, "iothread '{name}' is in use by {users}")
    }
}

impl std::error::Error for InUse {}

/// Keeps an [`IoThread`] alive; made by [`IoThread::hold`]. May be dropped on any thread.
#[derive(Debug)]
pub struct Hold {
    id: u64,
    thread: Arc<Thread>,
}

impl Hold {
    /// The way to the thread's context.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.thread.handle
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let name = self.thread.users().names.remove(&self.id);
        drop(name);
    }
}

/// The thread, until nobody wants it any more.
#[derive(Debug)]
struct Thread {
    handle: Handle,
    stop: Arc<AtomicBool>,
    users: Mutex<Users>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Users {
    names: BTreeMap<u64, String>,
    next: u64,
}

impl Thread {
    fn users(&self) -> MutexGuard<'_, Users> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.handle.notify();
        let thread = self.thread.get_mut();
        let thread = thread.unwrap_or_else(PoisonError::into_inner).take();
        // The thread that drops its own last hold ends when it comes back to its loop.
        if let Some(thread) = thread
            && !self.handle.is_home()
        {
            // A panic on the thread has been told there; in release it ended the process.
            drop(thread.join());
        }
    }
}

fn run_until(stopped: &AtomicBool, context: AioContext) {
    while !stopped.load(Ordering::Acquire) {
        context.poll(Blocking::Yes);
    }
    context.close();
}

/// Makes a context on the calling thread, runs `start`'s future on it to its end, and closes it.
///
/// It is the thread's [current](AioContext::current) context meanwhile, unless the thread has one already.
///
/// # Errors
///
/// [`AioError`] when the context cannot be made.
///
/// # Panics
///
/// With the panic of the future, or of whatever else runs on the context, if one does.
pub fn run<F, T>(config: Config, start: impl FnOnce(AioContext) -> F) -> Result<T, AioError>
where
    F: Future<Output = T>,
{
    let outermost = AioContext::current().is_none();
    let context = AioContext::new(config)?;
    if outermost {
        context.make_current();
    }
    let value = context.block_on(start(context.clone()));
    context.close();
    Ok(value)
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::IoThread;
    use crate::Config;

    #[test]
    fn a_thread_in_use_is_not_deleted_and_says_who_uses_it() {
        let config = Config {
            name: "io0".to_owned(),
            ..Config::default()
        };
        let thread = IoThread::start(config).unwrap();
        let (disk, export) = (thread.hold("node 'disk'"), thread.hold("export 'e'"));

        let refused = thread.delete().unwrap_err();
        assert_eq!(
            refused.to_string(),
            "iothread 'io0' is in use by node 'disk', export 'e'"
        );
        drop(disk);
        let refused = refused.thread.delete().unwrap_err();
        drop(export);
        refused.thread.delete().unwrap();
    }

    #[test]
    fn a_hold_keeps_the_thread_running_after_its_owner_has_gone() {
        let thread = IoThread::start(Config::default()).unwrap();
        let hold = thread.hold("a job");
        drop(thread);

        assert_eq!(hold.handle().call(|_| 7).wait(), 7);
    }

    #[test]
    fn the_last_hold_may_be_dropped_on_the_thread_itself() {
        let thread = IoThread::start(Config::default()).unwrap();
        let hold = thread.hold("itself");
        let handle = thread.handle().clone();
        drop(thread);

        handle.call(move |_| drop(hold)).wait();
    }
}
