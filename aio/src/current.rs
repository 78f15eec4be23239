//! Which context the calling thread belongs to.

use std::{
    cell::RefCell,
    rc::{Rc, Weak},
    sync::Arc,
};

use crate::{
    context::{AioContext, Inner},
    handle::Handle,
};

thread_local! {
    static CURRENT: RefCell<Current> = const {
        RefCell::new(Current { turning: None, home: None, made: Vec::new() })
    };
}

/// What the calling thread knows of contexts.
struct Current {
    /// The context that a turn is being made of, the innermost if they nest.
    turning: Option<AioContext>,
    /// The context that the thread belongs to.
    home: Option<Weak<Inner>>,
    /// The contexts that were made on the thread, also some that are gone.
    made: Vec<Weak<Inner>>,
}

/// While it lives, the thread is in a turn of a context.
pub(crate) struct Turning {
    outer: Option<AioContext>,
}

impl Turning {
    pub(crate) fn begin(context: &AioContext) -> Self {
        let turning = Some(context.clone());
        let outer =
            CURRENT.with_borrow_mut(|current| std::mem::replace(&mut current.turning, turning));
        Self { outer }
    }
}

impl Drop for Turning {
    fn drop(&mut self) {
        let outer = self.outer.take();
        let inner =
            CURRENT.with_borrow_mut(|current| std::mem::replace(&mut current.turning, outer));
        // Perhaps the last clone: not under the borrow.
        drop(inner);
    }
}

impl AioContext {
    /// The context of the calling thread: the one whose turn calls this, else the one that the
    /// thread was given to by [`make_current`](Self::make_current), else none.
    ///
    /// For embedders; code that can be given its context explicitly is easier to follow.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.with_borrow(|current| {
            let home = || current.home.as_ref().and_then(Weak::upgrade);
            current
                .turning
                .clone()
                .or_else(|| home().map(Self::from_inner))
        })
    }

    /// The context behind `handle`, if the calling thread is its home and it has not been closed.
    ///
    /// For code that keeps handles, since those may be on any thread, and that has to turn the loop
    /// or to read the clock where it turns out to be at home.
    #[must_use]
    pub fn of(handle: &Handle) -> Option<Self> {
        let shared = handle.shared();
        if !shared.is_home() || shared.is_closed() {
            return None;
        }
        let found = CURRENT.with_borrow(|current| {
            let mut made = current.made.iter().filter_map(Weak::upgrade);
            made.find(|inner| Arc::ptr_eq(inner.shared(), shared))
        });
        found.map(Self::from_inner)
    }

    /// Has the calling thread find this context again, which was made on it.
    pub(crate) fn remember(&self) {
        CURRENT.with_borrow_mut(|current| {
            current.made.retain(|inner| inner.strong_count() > 0);
            current.made.push(Rc::downgrade(self.inner()));
        });
    }

    /// Makes this the calling thread's [current](Self::current) context until it is closed.
    /// [`IoThread`](crate::IoThread) and [`run`](crate::run) do so by themselves.
    ///
    /// # Panics
    ///
    /// When the thread is another than the context's home, or has a context already.
    pub fn make_current(&self) {
        assert!(
            self.inner().shared().is_home(),
            "a context belongs to its home thread only"
        );
        CURRENT.with_borrow_mut(|current| {
            let taken = current
                .home
                .as_ref()
                .is_some_and(|home| home.strong_count() > 0);
            assert!(!taken, "a thread has one context of its own");
            current.home = Some(Rc::downgrade(self.inner()));
        });
    }

    /// Undoes [`make_current`](Self::make_current), if that was done.
    pub(crate) fn leave_current(&self) {
        CURRENT.with_borrow_mut(|current| {
            let this = Rc::downgrade(self.inner());
            current.home.take_if(|home| home.ptr_eq(&this));
        });
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::{cell::Cell, rc::Rc, thread};

    use crate::{AioContext, Blocking, Config, IoThread};

    fn context(name: &str) -> AioContext {
        let config = Config {
            name: name.to_owned(),
            ..Config::default()
        };
        AioContext::new(config).unwrap()
    }

    fn current_name() -> Option<String> {
        AioContext::current().map(|context| context.handle().name().to_owned())
    }

    #[test]
    fn the_current_context_is_the_one_that_turns_else_the_threads_own() {
        let (own, other) = (context("own"), context("other"));
        assert_eq!(current_name(), None);
        own.make_current();
        let seen = Rc::new(Cell::new(None));
        let see = seen.clone();
        let bottom_half = other.bottom_half("look", move |_| see.set(current_name()));
        bottom_half.schedule();

        assert_eq!(current_name().as_deref(), Some("own"));
        other.poll(Blocking::No);
        assert_eq!(seen.take().as_deref(), Some("other"));
        assert_eq!(current_name().as_deref(), Some("own"));

        own.close();
        assert_eq!(current_name(), None);
        drop(bottom_half);
        other.close();
    }

    #[test]
    #[should_panic(expected = "a thread has one context of its own")]
    fn a_second_context_of_a_thread_is_refused() {
        let (first, second) = (context("first"), context("second"));
        first.make_current();
        second.make_current();
    }

    #[test]
    fn a_handle_leads_to_its_context_on_the_home_thread_until_it_is_closed() {
        let (one, other) = (context("one"), context("other"));
        let (handle, lost) = (one.handle().clone(), other.handle().clone());
        let name = |found: Option<AioContext>| found.map(|cx| cx.handle().name().to_owned());

        assert_eq!(name(AioContext::of(&handle)).as_deref(), Some("one"));
        assert_eq!(name(AioContext::of(&lost)).as_deref(), Some("other"));
        let elsewhere = handle.clone();
        let found = thread::spawn(move || AioContext::of(&elsewhere).is_some());
        assert!(!found.join().unwrap());

        let kept = one.clone();
        one.close();
        drop(other);
        assert_eq!(name(AioContext::of(&handle)), None);
        assert_eq!(name(AioContext::of(&lost)), None);
        drop(kept);
    }

    #[test]
    fn the_thread_of_an_io_thread_has_its_context() {
        let thread = IoThread::start(Config {
            name: "mine".to_owned(),
            ..Config::default()
        })
        .unwrap();
        let seen = thread.handle().call(|_| current_name()).wait();

        assert_eq!(seen.as_deref(), Some("mine"));
    }
}
