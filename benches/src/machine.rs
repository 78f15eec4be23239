//! What the machine did meanwhile: processor time of this process, and of everything else.

use std::{
    fs,
    sync::mpsc,
    time::{Duration, Instant},
};

use nix::{
    sys::resource::{UsageWho, getrusage},
    time::ClockId,
    unistd::{SysconfVar, sysconf},
};

/// Processor time that the process has used: all its threads, programs that it has started and
/// that have ended, and the kernel's work for them.
///
/// # Panics
///
/// Never on Linux, which has this clock for every process.
#[must_use]
pub fn cpu_time() -> Duration {
    let own = ClockId::CLOCK_PROCESS_CPUTIME_ID.now();
    let own = Duration::from(own.expect("Linux has this clock for every process"));
    let children = getrusage(UsageWho::RUSAGE_CHILDREN).map_or(Duration::ZERO, |usage| {
        let duration = |seconds: i64, micros: i64| {
            let seconds = Duration::from_secs(seconds.unsigned_abs());
            seconds + Duration::from_micros(micros.unsigned_abs())
        };
        let (user, system) = (usage.user_time(), usage.system_time());
        duration(user.tv_sec(), user.tv_usec()) + duration(system.tv_sec(), system.tv_usec())
    });
    own + children
}

/// Processor time that the calling thread has used.
///
/// # Panics
///
/// Never on Linux, which has a clock for every thread.
#[must_use]
pub fn thread_cpu_time() -> Duration {
    let clock = ClockId::CLOCK_THREAD_CPUTIME_ID.now();
    Duration::from(clock.expect("Linux has this clock for every thread"))
}

/// Puts the calling thread to sleep for `time`, as a program without an event loop would.
pub fn rest(time: Duration) {
    let (kept, silent) = mpsc::channel::<()>();
    // Nobody sends, so it is the time that ends this.
    let _ = silent.recv_timeout(time);
    drop(kept);
}

/// A moment, to tell later what others did since then.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    at: Instant,
    own: Duration,
    /// `None` where the system does not tell.
    all: Option<Duration>,
}

impl Moment {
    /// The present one.
    #[must_use]
    pub fn now() -> Self {
        Self {
            at: Instant::now(),
            own: cpu_time(),
            all: all_cpu_time(),
        }
    }

    /// Whether others have used more than a tenth of a processor since then.
    #[must_use]
    pub fn is_disturbed(&self) -> bool {
        let now = Self::now();
        let (Some(before), Some(after)) = (self.all, now.all) else {
            return false;
        };
        let own = now.own.saturating_sub(self.own);
        let others = after.saturating_sub(before).saturating_sub(own);
        disturbs(others, now.at - self.at)
    }
}

/// Whether it counts that others worked for `others` in the time `elapsed`.
fn disturbs(others: Duration, elapsed: Duration) -> bool {
    others > (elapsed / 10).max(RESOLUTION)
}

/// The system counts in ticks of 10 ms, for each processor by itself; less than this says nothing.
const RESOLUTION: Duration = Duration::from_millis(30);

/// Processor time that everybody has used since the machine started, and that the machine's host
/// has kept for others; not what interrupts have cost.
fn all_cpu_time() -> Option<Duration> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let ticks = busy_ticks(&text)?;
    let per_second = sysconf(SysconfVar::CLK_TCK).ok()??;
    Some(Duration::from_millis(
        ticks * 1000 / per_second.unsigned_abs(),
    ))
}

/// The sum of `user`, `nice`, `system` and `steal` in the line over all processors.
fn busy_ticks(text: &str) -> Option<u64> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = line
        .split_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    [0, 1, 2, 7].iter().map(|&at| fields.get(at)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_neither_idle_nor_interrupts_is_busy() {
        let text = "cpu  1 20 300 9 9 9 9 4000 9 9\ncpu0 5 5 5 5\n";
        assert_eq!(busy_ticks(text), Some(4321));
        assert_eq!(busy_ticks("cpu  1 20\n"), None);
        assert_eq!(busy_ticks("intr 1\n"), None);
    }

    #[test]
    fn a_tenth_of_a_processor_is_too_much_if_it_can_be_told() {
        let millis = Duration::from_millis;
        assert!(disturbs(millis(101), millis(1000)));
        assert!(!disturbs(millis(99), millis(1000)));
        assert!(!disturbs(millis(20), millis(50)));
    }
}
