//! Runs a model under every order of events, and tells how many there were.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Checks `model` with at most `preemptions` switches between threads at unwelcome moments. Three
/// show every mistake we know of; more only cost time.
pub(crate) fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    let executions = Arc::new(AtomicU64::new(0));
    let count = executions.clone();
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        model();
    });
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("a model");
    let executions = executions.load(Ordering::Relaxed);
    println!("explored {name}: {executions} executions, {preemptions} preemptions");
}
