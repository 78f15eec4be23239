//! How a test says that it cannot run here.

use std::{env, fs::OpenOptions, io::Write, thread};

/// Says that the test on this thread cannot run here, because it needs `what`.
pub(crate) fn skip(what: &str) {
    let thread = thread::current();
    let line = format!(
        "SKIPPED {}: needs {what}\n",
        thread.name().unwrap_or("a test")
    );
    let Some(log) = env::var_os("LONGSHORE_SKIP_LOG") else {
        eprint!("{line}");
        return;
    };
    let log = OpenOptions::new().append(true).create(true).open(log);
    log.and_then(|mut log| log.write_all(line.as_bytes()))
        .expect("the skip log can be written");
}
