//! `Home`: data of the home thread that is reached through what all threads share.

// UNSAFETY: promises that data without locks may lie in what threads share; each access checks the thread.
#![expect(unsafe_code, reason = "shares a cell that one thread alone opens")]

use std::{cell::RefCell, fmt};

use crate::sys;

/// A value that only the thread that made it may touch, however many hold it.
pub(crate) struct Home<T> {
    thread: u64,
    value: RefCell<T>,
}

// SAFETY: `with` and `try_with` are the only ways to the value, and both refuse every thread but the
// one that made it. Dropping may happen on any thread, which is why `T` must be `Send`.
unsafe impl<T: Send> Sync for Home<T> {}

impl<T> Home<T> {
    /// A value whose home is the calling thread.
    pub(crate) fn new(value: T) -> Self {
        Self {
            thread: sys::thread_token(),
            value: RefCell::new(value),
        }
    }

    /// Whether the calling thread is the home.
    #[inline]
    pub(crate) fn is_home(&self) -> bool {
        sys::thread_token() == self.thread
    }

    /// Calls `visit` with the value on its home thread, and not at all on others.
    ///
    /// `visit` must not come back here.
    #[inline]
    pub(crate) fn try_with<R>(&self, visit: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.is_home().then(|| visit(&mut self.value.borrow_mut()))
    }

    /// Calls `visit` with the value. Home thread only.
    #[inline]
    pub(crate) fn with<R>(&self, visit: impl FnOnce(&mut T) -> R) -> R {
        self.try_with(visit)
            .expect("only the home thread comes here")
    }
}

impl<T> fmt::Debug for Home<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Home").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::Home;

    #[test]
    fn another_thread_is_kept_out() {
        let home = Arc::new(Home::new(7));
        let other = home.clone();
        let seen = thread::spawn(move || other.try_with(|value| *value))
            .join()
            .unwrap();

        assert_eq!(seen, None);
        assert_eq!(home.with(|value| *value), 7);
    }
}
