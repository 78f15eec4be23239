//! [`Running`]: a process that we started, what it uses, and its end; and what others did meanwhile.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// In which Linux tells processor time.
const TICK: Duration = Duration::from_millis(10);
/// How often a process that should end is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Nothing that we start takes longer than this unless it hangs.
const PATIENCE: Duration = Duration::from_secs(180);
/// More of a processor than this, used by others, disturbs a turn.
const DISTURBED: f64 = 0.1;

/// Does nothing for so long.
pub(super) fn pause(time: Duration) {
    let (kept, silent) = mpsc::channel::<()>();
    // Nobody sends, so it is the time that ends this.
    let _ = silent.recv_timeout(time);
    drop(kept);
}

/// A process. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    what: String,
    /// Where it says what is wrong.
    errors: PathBuf,
    peak_kib: u64,
}

impl Running {
    /// Starts it; what it says on its standard error goes to a file in `folder`.
    pub(super) fn start(command: &mut Command, folder: &Path) -> Result<Self> {
        let what = command.get_program().to_string_lossy().into_owned();
        let name = Path::new(command.get_program()).file_name();
        let name = name.unwrap_or_default().to_string_lossy();
        let errors = folder.join(format!("{name}.stderr"));
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&errors)?)
            .spawn();
        Ok(Self {
            child: child.with_context(|| format!("cannot start {what}"))?,
            what,
            errors,
            peak_kib: 0,
        })
    }

    /// Its number, as the system calls it.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fails if it has ended.
    pub(super) fn demand_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => Err(self.complaint(status)),
            None => Ok(()),
        }
    }

    fn complaint(&self, status: ExitStatus) -> anyhow::Error {
        let said = fs::read_to_string(&self.errors).unwrap_or_default();
        anyhow::anyhow!("{} ended with {status}: {}", self.what, said.trim())
    }

    /// Processor time that it has used, all its threads and the kernel's work for them.
    pub(super) fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id()));
        ticks(&stat.unwrap_or_default(), &[11, 12])
    }

    /// A line of its status that is in KiB, such as `VmHWM:`.
    pub(super) fn status_kib(&self, line: &str) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).ok()?;
        status_kib(&status, line)
    }

    /// The most that has been resident so far, as far as it was looked at.
    pub(super) fn peak_kib(&mut self) -> u64 {
        let seen = self.status_kib("VmHWM:").unwrap_or(0);
        self.peak_kib = self.peak_kib.max(seen);
        self.peak_kib
    }

    /// Waits until it has ended well, and tells how long that took.
    pub(super) fn wait(&mut self) -> Result<Duration> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            // Before the end is seen, since there is nothing to look at behind it.
            self.peak_kib();
            if let Some(status) = self.child.try_wait()? {
                return match status.success() {
                    true => Ok(start.elapsed()),
                    false => Err(self.complaint(status)),
                };
            }
            pause(LOOK_EVERY);
        }
        bail!("{} does not end", self.what)
    }

    /// Asks it to end, as control-C does, and waits until it has.
    pub(super) fn interrupt(&mut self) -> Result<()> {
        let mut kill = Command::new("kill");
        kill.args(["-INT", &self.id().to_string()]).status()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Not kindly: it may hang. Both fail if it has ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Processor time of those that we started and that have ended.
pub(super) fn ended_children_cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    ticks(&stat, &[13, 14])
}

/// The sum of these fields of a process's `stat`, counted behind its name.
fn ticks(stat: &str, fields: &[usize]) -> Duration {
    // The name, in brackets, may have blanks.
    let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
    let all: Vec<&str> = behind.split_whitespace().collect();
    let values = fields.iter().filter_map(|at| all.get(*at));
    let sum: u32 = values.filter_map(|field| field.parse::<u32>().ok()).sum();
    TICK * sum
}

fn status_kib(status: &str, line: &str) -> Option<u64> {
    let value = status.lines().find_map(|it| it.strip_prefix(line));
    value?.split_whitespace().next()?.parse().ok()
}

/// A moment, to tell later what others did since then.
#[derive(Debug)]
pub(super) struct Moment {
    at: Instant,
    all: Duration,
    ours: Duration,
}

impl Moment {
    /// To be taken when none of our processes runs but this one.
    pub(super) fn now() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self {
            at: Instant::now(),
            all: busy(&read("/proc/stat")),
            // Those of its children that have ended are in it.
            ours: ticks(&read("/proc/self/stat"), &[11, 13]),
        }
    }

    /// Whether others used more than a tenth of a processor since then.
    pub(super) fn is_disturbed(&self) -> bool {
        let now = Self::now();
        let others = (now.all - self.all).saturating_sub(now.ours - self.ours);
        others.as_secs_f64() > DISTURBED * (now.at - self.at).as_secs_f64()
    }
}

/// Time that all processors spent in programs, nice ones too, and that the host kept for others. The kernel's own is
/// not in it, since much of it is work for us.
fn busy(stat: &str) -> Duration {
    let first = stat.lines().next().unwrap_or_default();
    let fields: Vec<u32> = first
        .split_whitespace()
        .skip(1)
        .map(|field| field.parse().unwrap_or(0))
        .collect();
    let (user, nice, stolen) = (fields.first(), fields.get(1), fields.get(7));
    let sum: u32 = [user, nice, stolen].into_iter().flatten().sum();
    TICK * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_names_with_blanks_and_brackets() {
        let stat = "42 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 25 7 8 20";
        assert_eq!(ticks(stat, &[11, 12]), TICK * 175);
        assert_eq!(ticks("", &[11, 12]), Duration::ZERO);
    }

    #[test]
    fn lines_of_the_status_are_found() {
        let status = "Name:\tx\nVmHWM:\t  1234 kB\nVmRSS:\t 99 kB\n";
        assert_eq!(status_kib(status, "VmHWM:"), Some(1234));
        assert_eq!(status_kib(status, "VmSwap:"), None);
    }

    #[test]
    fn busy_processors_are_those_in_programs_and_those_taken_away() {
        let stat = "cpu  100 10 5000 70000 80 0 9 3 0 0\ncpu0 1 1 1 1\n";
        assert_eq!(busy(stat), TICK * 113);
    }

    #[test]
    fn a_process_that_fails_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such luck >&2; exit 3"]);
        let mut running = Running::start(&mut command, folder.path()).unwrap();

        let error = running.wait().unwrap_err().to_string();

        assert!(error.contains("no such luck"), "{error}");
    }
}
