//! A thread that runs one context.

use std::{
    future::Future,
    sync::{
        Arc,
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

/// A thread of its own that runs one context until it is dropped.
///
/// Dropping it stops the loop, drops the context's tasks, waits for its requests, and joins the
/// thread. That must not happen on the thread itself.
#[derive(Debug)]
pub struct IoThread {
    handle: Handle,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
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
        let builder = thread::Builder::new().name(config.name.clone());
        let run = move || match AioContext::new(config) {
            Ok(context) => {
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
        Ok(Self {
            handle,
            stop,
            thread: Some(thread),
        })
    }

    /// The way to the thread's context.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

fn run_until(stopped: &AtomicBool, context: AioContext) {
    while !stopped.load(Ordering::Acquire) {
        context.poll(Blocking::Yes);
    }
    context.close();
}

impl Drop for IoThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.handle.notify();
        if let Some(thread) = self.thread.take() {
            // A panic on the thread has been told there; in release it ended the process.
            drop(thread.join());
        }
    }
}

/// Makes a context on the calling thread, runs `start`'s future on it to its end, and closes it.
///
/// # Errors
///
/// [`AioError`] when the context cannot be made.
pub fn run<F, T>(config: Config, start: impl FnOnce(AioContext) -> F) -> Result<T, AioError>
where
    F: Future<Output = T>,
{
    let context = AioContext::new(config)?;
    let value = context.block_on(start(context.clone()));
    context.close();
    Ok(value)
}
