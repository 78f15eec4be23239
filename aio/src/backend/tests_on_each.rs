//! Runs one test on a context of each backend.

use crate::{AioContext, BackendKind, Config};

/// Runs `test` on a context of each backend that this machine has.
pub(crate) fn on_each(test: impl Fn(&AioContext)) {
    on_each_with(Config::default(), test);
}

/// The same, with contexts made by `config` but for the backend.
pub(crate) fn on_each_with(config: Config, test: impl Fn(&AioContext)) {
    for backend in each_backend() {
        let context = AioContext::new(Config {
            backend: Some(backend),
            ..config.clone()
        })
        .unwrap();
        test(&context);
        context.close();
    }
}

/// The backends that this machine has; only one if `LONGSHORE_AIO` asks for it.
pub(crate) fn each_backend() -> impl Iterator<Item = BackendKind> {
    let wanted = BackendKind::from_env().expect("LONGSHORE_AIO names a backend");
    let is_here = move |backend: &BackendKind| {
        if wanted.is_some_and(|wanted| wanted != *backend) {
            return false;
        }
        let is_here = *backend == BackendKind::Epoll || super::probe_io_uring().is_ok();
        if !is_here {
            skipped("io_uring half of the conformance suite: needs a kernel that allows io_uring");
        }
        is_here
    };
    [BackendKind::IoUring, BackendKind::Epoll]
        .into_iter()
        .filter(is_here)
}

/// Tells the test command of something that could not be tested here.
pub(crate) fn skipped(what: &str) {
    use std::io::Write;
    let line = format!("SKIPPED {what}\n");
    match std::env::var_os("LONGSHORE_SKIP_LOG") {
        Some(path) => std::fs::File::options()
            .append(true)
            .create(true)
            .open(path)
            .unwrap()
            .write_all(line.as_bytes())
            .unwrap(),
        None => eprint!("{line}"),
    }
}
