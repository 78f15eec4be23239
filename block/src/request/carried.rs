//! Requests that are carried to their end, whether or not anybody still waits for them.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    thread,
};

use aio::AioContext;

/// Runs `request` within the caller's task. If this is dropped before it ends, it goes on as a task of its own.
///
/// So whatever has begun to change a node stays counted there until it has ended. Only the end of the context,
/// which waits for the kernel by itself, ends it sooner.
pub(crate) fn carried<F: Future + 'static>(cx: &AioContext, request: F) -> Carried<F> {
    Carried {
        cx: cx.clone(),
        request: Some(Box::pin(request)),
    }
}

/// See [`carried`].
#[must_use = "futures do nothing unless awaited"]
pub(crate) struct Carried<F: Future + 'static> {
    cx: AioContext,
    request: Option<Pin<Box<F>>>,
}

impl<F: Future + 'static> Future for Carried<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let request = self.request.as_mut();
        let poll = request.expect("not polled again").as_mut().poll(cx);
        if poll.is_ready() {
            self.request = None;
        }
        poll
    }
}

impl<F: Future + 'static> Drop for Carried<F> {
    fn drop(&mut self) {
        // What has panicked cannot go on.
        if let Some(request) = self.request.take().filter(|_| !thread::panicking()) {
            drop(self.cx.spawn(request));
        }
    }
}

impl<F: Future + 'static> fmt::Debug for Carried<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carried").finish_non_exhaustive()
    }
}
