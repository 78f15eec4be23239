//! Whether the process is a fork of the one that made something.

// UNSAFETY: registers a function with the C library.
#![expect(unsafe_code, reason = "pthread_atfork has no safe wrapper")]

use std::sync::{
    Once,
    atomic::{AtomicU32, Ordering},
};

/// Forks between the first process of this program and the one that looks.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// Remembers in which process it was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ForkMark(u32);

impl ForkMark {
    /// A mark of this process.
    pub(crate) fn new() -> Self {
        static REGISTERED: Once = Once::new();
        REGISTERED.call_once(|| {
            // SAFETY: `in_child` does nothing that a forked child may not do.
            let refused = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
            if refused != 0 {
                tracing::warn!(refused, "forked children will not be noticed");
            }
        });
        Self(FORKS.load(Ordering::Relaxed))
    }

    /// Whether the calling process is a fork of the one that made the mark. One load.
    pub(crate) fn is_in_child(self) -> bool {
        FORKS.load(Ordering::Relaxed) != self.0
    }
}

extern "C" fn in_child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::{
        future::{Future, poll_fn},
        io::Write,
        os::unix::net::UnixStream,
        task::Poll,
    };

    use crate::{AioContext, Config, Fd, IoBuf, backend::tests_on_each::each_backend};

    /// Runs `child` in a forked child; returns whether it came to its end.
    fn in_forked_child(child: impl FnOnce()) -> bool {
        // SAFETY: the child calls nothing that may wait for a lock of another thread, and ends by `_exit`.
        match unsafe { libc::fork() } {
            -1 => panic!("fork failed"),
            0 => {
                child();
                // SAFETY: ends the process at once.
                unsafe { libc::_exit(7) }
            }
            pid => {
                let mut status = 0;
                // SAFETY: `status` is one int, borrowed for the call.
                let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
                assert_eq!(waited, pid);
                libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 7
            }
        }
    }

    #[test]
    fn a_forked_child_knows_that_it_is_one() {
        let mark = super::ForkMark::new();
        assert!(!mark.is_in_child());
        assert!(in_forked_child(|| {
            let again = super::ForkMark::new();
            if !mark.is_in_child() || again.is_in_child() {
                // SAFETY: ends the process at once.
                unsafe { libc::_exit(1) }
            }
        }));
        assert!(!mark.is_in_child());
    }

    #[test]
    fn a_context_that_ends_in_a_forked_child_leaves_the_parents_alone() {
        for backend in each_backend() {
            let Ok(cx) = AioContext::new(Config {
                backend: Some(backend),
                ..Config::default()
            }) else {
                crate::backend::tests_on_each::skipped("forks beside io_uring: needs io_uring");
                continue;
            };
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let (ours, again) = (Fd::from(ours), cx.clone());
            let guard = cx.register_file(&ours);
            let mut receives = Box::pin(again.recv_exact(&ours, IoBuf::heap(3), 0..3));
            cx.block_on(poll_fn(|task| {
                assert!(receives.as_mut().poll(task).is_pending());
                Poll::Ready(())
            }));
            cx.poll(crate::Blocking::No);
            let mut theirs_too = Some((guard, receives));
            assert!(in_forked_child(|| {
                drop(theirs_too.take());
                cx.clone().close();
            }));
            theirs.write_all(b"abc").unwrap();
            let (_, receives) = theirs_too.take().unwrap();
            let (buf, received) = cx.block_on(receives);
            received.unwrap();
            assert_eq!(&buf[..], b"abc");
            cx.close();
        }
    }
}
