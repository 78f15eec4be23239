//! What tests of this crate share: running a future on the current thread, std's or loom's.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

pub(crate) mod disk;

#[cfg(loom)]
use loom::thread;
#[cfg(not(loom))]
use std::thread;

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future that needs no event loop.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

/// Checks that a model fails, which a model that proves anything does with a mutant.
///
/// It runs in a process of its own, since a deadlock found by loom cannot always be unwound. `test`
/// is the path of the calling test, without the crate.
#[cfg(loom)]
pub(crate) fn must_fail(test: &str, model: impl FnOnce()) {
    const INSIDE: &str = "LONGSHORE_LOOM_MUTANT";
    if std::env::var_os(INSIDE).is_some() {
        return model();
    }
    let program = std::env::current_exe().expect("the test program has a path");
    let outcome = std::process::Command::new(program)
        .args(["--exact", test])
        .env(INSIDE, "1")
        .env("RUST_BACKTRACE", "0")
        .output()
        .expect("the test program starts");
    assert!(
        !outcome.status.success(),
        "{test}: the model does not notice"
    );
}
