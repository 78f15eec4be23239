//! Descriptors' handlers in a turn: registering, removing, dispatching.

use std::io;

use super::AioContext;
use crate::{
    fd::Fd,
    fd_handler::{
        Callbacks, Dispatch, Drained, EventNotifier, FdCallbacks, FdHandler, FdHandlerKey,
    },
};

/// Events that call the callback for reading.
const READ_EVENTS: i16 = libc::POLLIN | libc::POLLHUP | libc::POLLERR | libc::POLLNVAL;

/// Events that call the callback for writing.
const WRITE_EVENTS: i16 = libc::POLLOUT | libc::POLLERR | libc::POLLNVAL;

impl AioContext {
    /// Calls `callbacks` when `fd` is ready, until the returned value is dropped.
    ///
    /// ```
    /// use std::{cell::RefCell, io::{Read, Write}, os::unix::net::UnixStream, rc::Rc};
    /// use aio::{Blocking, Drained, Fd, FdCallbacks};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// # let cx = aio::AioContext::new(aio::Config::default()).unwrap();
    /// let (ours, mut theirs) = UnixStream::pair()?;
    /// ours.set_nonblocking(true)?;
    /// let heard = Rc::new(RefCell::new(Vec::new()));
    /// let (words, fd) = (heard.clone(), Fd::from(ours.try_clone()?));
    /// let callbacks = FdCallbacks::new("listen").on_readable(move |_| {
    ///     let mut bytes = [0; 64];
    ///     // Whatever is left after one read, or fails, has the callback called again.
    ///     if let Ok(count) = (&ours).read(&mut bytes) {
    ///         words.borrow_mut().extend_from_slice(&bytes[..count]);
    ///     }
    /// });
    /// let handler = cx.add_fd_handler(&fd, callbacks)?;
    /// theirs.write_all(b"hello")?;
    /// while heard.borrow().len() < 5 {
    ///     cx.poll(Blocking::Yes);
    /// }
    /// drop(handler);
    /// # cx.close();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Readiness is level-triggered: for as long as the descriptor stays ready, the callback is
    /// called in each turn of the loop. Other threads register handlers through
    /// [`Handle::call`](crate::Handle::call). To change the callbacks of a descriptor, register the
    /// new ones and drop the old.
    ///
    /// The descriptor stays open until the handler is removed and the kernel has let go of it.
    ///
    /// # Errors
    ///
    /// The system's; `EPERM` for regular files, which have no readiness.
    ///
    /// # Panics
    ///
    /// When the context has been closed.
    pub fn add_fd_handler(&self, fd: &Fd, callbacks: FdCallbacks) -> io::Result<FdHandler> {
        self.remove_dropped_handlers();
        let events = callbacks.events();
        let watch = if events == 0 {
            None
        } else {
            Some(self.inner.requests.borrow_mut().watch(fd, events)?)
        };
        let mut handlers = self.inner.handlers.borrow_mut();
        let handler = handlers.insert(&self.inner.shared, callbacks);
        if let Some(watch) = watch {
            handlers.set_watch(handler.key(), watch);
        }
        drop(handlers);
        self.inner.shared.touched();
        Ok(handler)
    }

    /// Calls `callback` after each [`EventNotifier::set`], until the returned value is dropped. The event has
    /// been taken then, and several sets may be one call.
    ///
    /// # Errors
    ///
    /// The system's.
    ///
    /// # Panics
    ///
    /// When the context has been closed.
    ///
    /// ```
    /// # let cx = aio::AioContext::new(aio::Config::default()).unwrap();
    /// let kick = aio::EventNotifier::new()?;
    /// let (sender, kicked) = std::sync::mpsc::channel();
    /// let handler = cx.add_event_notifier(&kick, "kick", move |_| sender.send(()).unwrap())?;
    /// std::thread::spawn(move || kick.set());
    /// while kicked.try_recv().is_err() {
    ///     cx.poll(aio::Blocking::Yes);
    /// }
    /// # drop(handler);
    /// # cx.close();
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn add_event_notifier(
        &self,
        notifier: &EventNotifier,
        name: &'static str,
        mut callback: impl FnMut(&Self) + 'static,
    ) -> io::Result<FdHandler> {
        let event = notifier.clone();
        let callbacks = FdCallbacks::new(name).on_readable(move |context| {
            if event.test_and_clear() {
                callback(context);
            }
            Drained::Yes
        });
        self.add_fd_handler(notifier.fd(), callbacks)
    }

    /// Removes handlers that were dropped on this thread since the last look.
    pub(super) fn remove_dropped_handlers(&self) {
        loop {
            let dropped = self
                .inner
                .shared
                .local
                .with(|local| local.dropped_handlers.pop());
            let Some(key) = dropped else { return };
            self.remove_handler(key);
        }
    }

    pub(super) fn remove_handler(&self, key: FdHandlerKey) {
        let removed = self.inner.handlers.borrow_mut().remove(key);
        if let Some(removed) = removed {
            if let Some(watch) = removed.watch {
                self.inner.requests.borrow_mut().unwatch(watch);
            }
            // Dropping callbacks may drop other handlers: not under a borrow.
            drop(removed);
        }
    }

    /// Calls the handlers that were ready when this began; returns whether there were any.
    pub(super) fn dispatch_handlers(&self) -> bool {
        self.remove_dropped_handlers();
        let slice = self.inner.handlers.borrow().ready();
        let mut progress = false;
        for _ in 0..slice {
            // A nested turn may have taken the rest of the slice.
            let next = self.inner.handlers.borrow_mut().next_ready();
            let Some((key, dispatch)) = next else { break };
            progress |= self.call_handler(key, dispatch);
        }
        progress
    }

    fn call_handler(&self, key: FdHandlerKey, dispatch: Dispatch) -> bool {
        let Dispatch {
            mut callbacks,
            events,
            poll_ready,
        } = dispatch;
        let mut drained = Drained::Yes;
        let mut progress = false;
        if poll_ready && let Some(ready) = &mut callbacks.poll_ready {
            ready(self);
            progress = true;
        }
        let Callbacks { read, write, .. } = &mut callbacks;
        for (wanted, callback) in [(READ_EVENTS, read), (WRITE_EVENTS, write)] {
            if events & wanted != 0
                && let Some(callback) = callback
                && self.has_handler(key)
            {
                drained = drained.and(callback(self));
                progress = true;
            }
        }
        self.remove_dropped_handlers();
        let back = self.inner.handlers.borrow_mut().put_back(key, callbacks);
        match back {
            Ok(Some(watch)) if drained == Drained::Maybe => {
                self.inner.requests.borrow_mut().recheck(watch);
            }
            Ok(_) => {}
            // Removed by itself or by a nested turn; its callbacks may drop others.
            Err(callbacks) => drop(callbacks),
        }
        progress
    }

    fn has_handler(&self, key: FdHandlerKey) -> bool {
        self.remove_dropped_handlers();
        self.inner.handlers.borrow_mut().handler(key).is_some()
    }
}
