//! What a context does that has nothing to do.

use std::time::Duration;

use aio::{BackendKind, Config, IoThread};
use benches::{Races, rest, skipped, thread_cpu_time};

/// How long nothing happens.
const IDLE: Duration = Duration::from_secs(1);
const SHORT: Duration = Duration::from_millis(100);

pub(crate) fn run(races: &mut Races) {
    for backend in [BackendKind::IoUring, BackendKind::Epoll] {
        let turns = format!("idle/{backend}/turns");
        races.figure(&turns, "turns in a second", || Some(idle(backend)?.turns));
        let cpu = format!("idle/{backend}/cpu");
        races.figure(&cpu, "µs in a second", || Some(idle(backend)?.cpu_us));
    }
}

struct Idle {
    turns: f64,
    cpu_us: f64,
}

/// What the context did in a second, besides answering how it is.
fn idle(backend: BackendKind) -> Option<Idle> {
    let config = Config {
        backend: Some(backend),
        ..Config::default()
    };
    let thread = IoThread::start(config);
    let thread = thread.inspect_err(|error| skipped(error)).ok()?;
    let look = || {
        let look = |cx: aio::AioContext| async move { (cx.stats().turns, thread_cpu_time()) };
        thread.handle().spawn(look).wait()
    };
    // A far timer must not wake anybody either.
    let sleep = |cx: aio::AioContext| async move {
        let far = cx.sleep_ns(3_600_000_000_000);
        drop(cx.spawn(far));
    };
    thread.handle().spawn(sleep).wait();
    // Looking costs something by itself, which the difference of two spells does not have.
    let spell = |time| {
        let before = look();
        rest(time);
        let after = look();
        let cpu = after.1.saturating_sub(before.1);
        (after.0.saturating_sub(before.0), cpu)
    };
    let (short, long) = (spell(SHORT), spell(SHORT + IDLE));
    let turns = long.0.saturating_sub(short.0);
    let cpu = long.1.saturating_sub(short.1);
    Some(Idle {
        turns: turns as f64,
        cpu_us: cpu.as_secs_f64() * 1e6,
    })
}
