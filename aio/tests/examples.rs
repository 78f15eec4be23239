//! Every example comes to its end on both backends, and says what it should have done.
//!
//! A wake-up that is lost leaves an example asleep, so each is given a time that a slow machine keeps
//! by far, and that one which sleeps for good does not.

#![expect(clippy::unwrap_used, reason = "in a test, an error is a failure")]

use std::{
    env,
    io::Read,
    process::{Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use aio::BackendKind;

// The examples are parts of this program, so that they are never older than it.
#[path = "../examples/echo.rs"]
mod echo;
#[path = "../examples/embed_epoll.rs"]
mod embed_epoll;
#[path = "../examples/embed_mio.rs"]
mod embed_mio;
#[path = "../examples/embed_tokio.rs"]
mod embed_tokio;
#[path = "../examples/io_threads.rs"]
mod io_threads;

const PATIENCE: Duration = Duration::from_secs(120);

/// What this program is when it runs itself: the example of that name.
const EXAMPLE: &str = "AIO_EXAMPLE";

#[test]
fn is_an_example_when_asked_to_be() {
    let Ok(example) = env::var(EXAMPLE) else {
        return;
    };
    let main = match example.as_str() {
        "echo" => echo::main,
        "embed_epoll" => embed_epoll::main,
        "embed_mio" => embed_mio::main,
        "embed_tokio" => embed_tokio::main,
        _ => io_threads::main,
    };
    main().unwrap();
}

/// Runs an example on each backend that this machine has, and looks for `expected` in what it prints.
fn runs_on_each_backend(example: &str, expected: &[&str]) {
    for backend in [BackendKind::IoUring, BackendKind::Epoll] {
        if backend == BackendKind::IoUring && aio::probe_io_uring().is_err() {
            skipped("needs a kernel that allows io_uring");
            continue;
        }
        let output = output_of(example, backend);
        for expected in expected {
            let found = output.contains(expected);
            assert!(
                found,
                "no {expected:?} of {example} on {backend}:\n{output}"
            );
        }
        let other = if backend == BackendKind::Epoll {
            "io_uring ("
        } else {
            "epoll,"
        };
        assert!(
            !output.contains(other),
            "{example} is not on {backend}:\n{output}"
        );
    }
}

fn output_of(example: &str, backend: BackendKind) -> String {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "is_an_example_when_asked_to_be", "--nocapture"])
        .env(EXAMPLE, example)
        .env("LONGSHORE_AIO", backend.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let (ended, end) = mpsc::channel::<()>();
    let reader = thread::spawn(move || {
        let mut output = String::new();
        let read = stdout.read_to_string(&mut output);
        // Its output ends with the example: there is nothing to send but the end.
        drop(ended);
        read.map(|_| output)
    });
    let in_time = end.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Disconnected);
    if !in_time {
        child.kill().unwrap();
    }
    let status = child.wait().unwrap();
    let output = reader.join().unwrap().unwrap();
    assert!(
        in_time,
        "{example} sleeps for good on {backend}, after:\n{output}"
    );
    assert!(
        status.success(),
        "{example} on {backend}: {status}\n{output}"
    );
    output
}

/// Tells the test command of something that could not be tested here.
#[expect(clippy::print_stderr, reason = "docs/testing.md asks for it")]
fn skipped(what: &str) {
    use std::io::Write;
    let thread = thread::current();
    let line = format!("SKIPPED {}: {what}\n", thread.name().unwrap_or("a test"));
    let Some(log) = env::var_os("LONGSHORE_SKIP_LOG") else {
        eprint!("{line}");
        return;
    };
    let log = std::fs::File::options().append(true).create(true).open(log);
    log.unwrap().write_all(line.as_bytes()).unwrap();
}

#[test]
fn a_context_is_driven_from_tokio() {
    let copied = "copied 16777216 bytes, checked 16777216";
    let expected = [
        copied,
        "100 posts of another thread",
        "an answer through tokio",
    ];
    runs_on_each_backend("embed_tokio", &expected);
}

#[test]
fn a_context_is_driven_from_mio() {
    let expected = ["served 200 requests, 200 answers were right"];
    runs_on_each_backend("embed_mio", &expected);
}

#[test]
fn a_context_is_driven_from_a_bare_epoll() {
    let expected = [
        "500 posts of another thread",
        "409600 bytes read and checked",
        "10 ticks of a timer",
        "100 lines sent back",
        "a command on the loop's own socket",
    ];
    runs_on_each_backend("embed_epoll", &expected);
}

#[test]
fn a_context_serves_echoes() {
    let expected = ["echoed 9605000 bytes to 100 clients, who got 2000 right answers"];
    runs_on_each_backend("echo", &expected);
}

#[test]
fn threads_of_their_own_run_contexts() {
    let expected = [
        "sum 1065353216, expected 1065353216",
        "a task was on io0, then on io1, then on io0",
        "is in use by the example",
    ];
    runs_on_each_backend("io_threads", &expected);
}
