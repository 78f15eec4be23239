//! How far a command is: measured, and shown as a bar, as lines or as records.

use std::time::{Duration, Instant, SystemTime};

use indicatif::{ProgressBar, ProgressStyle};
use longshore::{PaceReason, PaceReport};
use serde_json::json;

use super::{
    output::{Output, Style, fields},
    units,
};

/// How often a command looks where it is.
pub(crate) const TICK: Duration = Duration::from_millis(200);
/// Time between plain lines.
const PLAIN_INTERVAL: Duration = Duration::from_secs(30);
/// Time between records.
const JSON_INTERVAL: Duration = Duration::from_secs(1);
/// After this long without a byte, the rate says nothing about the time left.
const STALLED: Duration = Duration::from_secs(3);
/// Cells of the bar.
const BAR_CELLS: u64 = 24;

/// Where a command is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moment {
    /// What it is doing: `copy`, `verify`.
    pub(crate) phase: &'static str,
    /// Bytes there are.
    pub(crate) total_bytes: u64,
    /// Bytes dealt with, whatever way.
    pub(crate) done_bytes: u64,
    /// Bytes that are data, as far as the file system tells.
    pub(crate) data_bytes: u64,
    /// Bytes of data moved.
    pub(crate) moved_bytes: u64,
    /// Zeroes written as such.
    pub(crate) zero_bytes: u64,
    /// Zeroes that needed nothing.
    pub(crate) skipped_bytes: u64,
    /// Most bytes per second, where that is limited.
    pub(crate) limit_bytes_per_s: Option<u64>,
    /// How fast it goes, and what bounds that.
    pub(crate) pace: PaceReport,
    /// Most that may be added to writes of guests, in nanoseconds, where that is limited.
    pub(crate) guest_latency_ns: Option<u64>,
}

impl Moment {
    /// Data still to move: what is known of it, and never more than is left.
    fn remaining_bytes(&self) -> u64 {
        let left = self.total_bytes.saturating_sub(self.done_bytes);
        self.data_bytes.saturating_sub(self.moved_bytes).min(left)
    }

    /// What slows the copy down for the sake of somebody else.
    fn throttle(&self) -> Option<PaceReason> {
        Some(self.pace.reason).filter(|reason| reason.is_throttle())
    }
}

/// Bytes per second over about the last ten seconds; what is older counts less and less.
#[derive(Debug, Default)]
struct Rate {
    bytes: u128,
    ns: u128,
    seen_bytes: u64,
}

impl Rate {
    const WINDOW_NS: u128 = 10_000_000_000;

    /// `total_bytes` have been moved by now, and `elapsed` has passed since the last call.
    fn add(&mut self, total_bytes: u64, elapsed: Duration) {
        let elapsed = elapsed.as_nanos();
        let faded = |sum: u128| sum * Self::WINDOW_NS / (Self::WINDOW_NS + elapsed);
        let new_bytes = u128::from(total_bytes.saturating_sub(self.seen_bytes));
        self.seen_bytes = total_bytes;
        self.bytes = faded(self.bytes) + new_bytes;
        self.ns = faded(self.ns) + elapsed;
    }

    fn bytes_per_s(&self) -> u64 {
        if self.ns == 0 {
            return 0;
        }
        u64::try_from(self.bytes * 1_000_000_000 / self.ns).unwrap_or(u64::MAX)
    }
}

/// Time left, or why nobody can say.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Eta {
    Seconds(u64),
    Unknown(String),
}

/// Shows one command's progress.
#[derive(Debug)]
pub(crate) struct Progress<'a> {
    output: &'a Output,
    /// The command and what it works on, as in `backup vm1.img → copy.img`.
    title: String,
    /// The job, as records and plain lines call it.
    job: String,
    bar: Option<ProgressBar>,
    rate: Rate,
    started: Instant,
    sampled: Instant,
    /// When `done_bytes` last changed.
    moved: Instant,
    done_bytes: u64,
    told: Option<Instant>,
    phase: &'static str,
}

impl<'a> Progress<'a> {
    /// Starts the clock.
    pub(crate) fn start(output: &'a Output, title: String, job: &str) -> Self {
        let now = Instant::now();
        let bar = (output.style() == Style::Bar).then(|| {
            let bar = output.bars().add(ProgressBar::no_length());
            let style = ProgressStyle::with_template("{msg}").expect("the template is one word");
            bar.set_style(style);
            bar
        });
        Self {
            output,
            title,
            job: job.to_owned(),
            bar,
            rate: Rate::default(),
            started: now,
            sampled: now,
            moved: now,
            done_bytes: 0,
            told: None,
            phase: "",
        }
    }

    /// Time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Takes a measurement, and shows it if it is time to.
    pub(crate) fn tick(&mut self, moment: &Moment) {
        let now = Instant::now();
        if std::mem::replace(&mut self.done_bytes, moment.done_bytes) != moment.done_bytes {
            self.moved = now;
        }
        self.rate.add(moment.moved_bytes, now - self.sampled);
        self.sampled = now;
        let is_new_phase = std::mem::replace(&mut self.phase, moment.phase) != moment.phase;
        let is_due = |interval| self.told.is_none_or(|told| now - told >= interval);
        match self.output.style() {
            Style::Bar => self.draw(moment),
            Style::Plain if is_new_phase || is_due(PLAIN_INTERVAL) => {
                self.told = Some(now);
                self.output.note(&self.plain_line(moment));
            }
            Style::Json if is_new_phase || is_due(JSON_INTERVAL) => {
                self.told = Some(now);
                self.output.record("progress", self.json_fields(moment));
            }
            Style::Plain | Style::Json | Style::None => {}
        }
    }

    /// Says once where it is, on standard error, whatever the style.
    pub(crate) fn tell(&self, moment: &Moment) {
        self.output.say(&self.plain_line(moment));
    }

    /// Takes the bar away.
    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn eta(&self, moment: &Moment) -> Eta {
        let still = self.moved.elapsed();
        let rate = self.rate.bytes_per_s();
        if moment.remaining_bytes() == 0 {
            return Eta::Seconds(0);
        }
        if still >= STALLED {
            return Eta::Unknown(format!("stalled {}s", still.as_secs()));
        }
        if rate == 0 || self.started.elapsed() < Duration::from_millis(500) {
            return Eta::Unknown("measuring".to_owned());
        }
        Eta::Seconds(moment.remaining_bytes().div_ceil(rate))
    }

    fn draw(&self, moment: &Moment) {
        let Some(bar) = &self.bar else { return };
        let eta = self.eta(moment);
        bar.set_message(lines(&self.title, moment, self.rate.bytes_per_s(), &eta).join("\n"));
        bar.tick();
    }

    fn plain_line(&self, moment: &Moment) -> String {
        let eta = match self.eta(moment) {
            Eta::Seconds(seconds) => format!("{seconds}s"),
            Eta::Unknown(why) => format!("? ({why})"),
        };
        format!(
            "{} {} {} {} {}% {}/{} B {} eta={eta} throttle={}",
            units::timestamp(SystemTime::now()),
            self.output.command(),
            self.job,
            moment.phase,
            units::percent(moment.done_bytes, moment.total_bytes),
            moment.done_bytes,
            moment.total_bytes,
            units::rate(self.rate.bytes_per_s()),
            moment.throttle().map_or("none", PaceReason::as_str),
        )
    }

    fn json_fields(&self, moment: &Moment) -> super::output::Fields {
        let (eta, reason) = match self.eta(moment) {
            Eta::Seconds(seconds) => (Some(seconds), None),
            Eta::Unknown(why) => (None, Some(why)),
        };
        fields(json!({
            "job": self.job,
            "ts": units::timestamp(SystemTime::now()),
            "phase": moment.phase,
            "bytes_total": moment.total_bytes,
            "bytes_done": moment.done_bytes,
            "bytes_to_copy": moment.data_bytes,
            "bytes_copied": moment.moved_bytes,
            "bytes_skipped_hole": moment.skipped_bytes,
            "bytes_zero": moment.zero_bytes,
            "rate_bytes_per_second": self.rate.bytes_per_s(),
            "eta_seconds": eta,
            "eta_reason": reason,
            "limit_bytes_per_second": moment.limit_bytes_per_s,
            "applied_bytes_per_second": moment.throttle().map(|_| moment.pace.applied_bytes_per_s),
            "throttle_reason": moment.throttle().map(PaceReason::as_str),
            "guest_write_added_p99_us": moment.pace.guest_added_p99_ns.map(|ns| ns / 1000),
        }))
    }
}

/// What a bar looks like; the cursor never leaves these lines.
fn lines(title: &str, moment: &Moment, bytes_per_s: u64, eta: &Eta) -> Vec<String> {
    let eta = match eta {
        Eta::Seconds(seconds) => units::duration(Duration::from_secs(*seconds)),
        Eta::Unknown(why) => format!("? ({why})"),
    };
    let percent = units::percent(moment.done_bytes, moment.total_bytes);
    let copy = format!(
        "  {:<7} {} {percent:>3}%   {}   {}   eta {eta}",
        moment.phase,
        bar_cells(moment.done_bytes, moment.total_bytes),
        units::bytes_of(moment.done_bytes, moment.total_bytes),
        units::rate(bytes_per_s),
    );
    let skipped = format!(
        "          skipped {} holes, {} zero   limit {}",
        units::bytes(moment.skipped_bytes),
        units::bytes(moment.zero_bytes),
        limit_text(moment),
    );
    let mut lines = vec![title.to_owned(), copy, skipped];
    lines.extend(guest_text(moment));
    lines
}

/// What guests feel of the copy, where that is limited.
fn guest_text(moment: &Moment) -> Option<String> {
    let budget = units::millis(moment.guest_latency_ns?);
    let added = moment.pace.guest_added_p99_ns;
    let added = added.map_or_else(|| "?".to_owned(), |ns| format!("+{}", units::millis(ns)));
    Some(format!(
        "          guest writes {added} p99 (budget {budget})"
    ))
}

fn limit_text(moment: &Moment) -> String {
    moment
        .limit_bytes_per_s
        .map_or_else(|| "none".to_owned(), units::rate)
}

fn bar_cells(done: u64, total: u64) -> String {
    let scaled = |cells: u64| u128::from(done) * u128::from(cells) / u128::from(total.max(1));
    let halves = if total == 0 {
        BAR_CELLS * 2
    } else {
        u64::try_from(scaled(BAR_CELLS * 2))
            .unwrap_or(u64::MAX)
            .min(BAR_CELLS * 2)
    };
    let mut cells = String::new();
    for cell in 0..BAR_CELLS {
        cells.push(match halves.saturating_sub(cell * 2) {
            0 => '·',
            1 => '▌',
            _ => '█',
        });
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    fn half_way() -> Moment {
        Moment {
            phase: "copy",
            total_bytes: 200 << 30,
            done_bytes: 124 << 30,
            data_bytes: 130 << 30,
            moved_bytes: 54 << 30,
            zero_bytes: 9 << 30,
            skipped_bytes: 61 << 30,
            limit_bytes_per_s: None,
            pace: PaceReport::default(),
            guest_latency_ns: None,
        }
    }

    #[test]
    fn a_budget_for_guests_has_a_line_of_its_own() {
        let mut moment = Moment {
            guest_latency_ns: Some(2_000_000),
            ..half_way()
        };
        let line = |moment: &Moment| lines("", moment, 0, &Eta::Seconds(1))[3].clone();
        let unknown = "          guest writes ? p99 (budget 2 ms)";
        assert_eq!(line(&moment), unknown);
        moment.pace.guest_added_p99_ns = Some(80_000);
        let known = "          guest writes +0.08 ms p99 (budget 2 ms)";
        assert_eq!(line(&moment), known);
    }

    #[test]
    fn a_bar_has_three_lines() {
        let drawn = lines("backup a → b", &half_way(), 1 << 30, &Eta::Seconds(76));
        let want = [
            "backup a → b",
            "  copy    ██████████████▌·········  62%   124.0/200.0 GiB   1.00 GiB/s   eta 76 s",
            "          skipped 61.0 GiB holes, 9.00 GiB zero   limit none",
        ];
        assert_eq!(drawn, want);
    }

    #[test]
    fn an_unknown_time_has_a_reason() {
        let eta = Eta::Unknown("stalled 12s".to_owned());
        let drawn = lines("", &half_way(), 0, &eta);
        assert!(drawn[1].ends_with("eta ? (stalled 12s)"), "{}", drawn[1]);
    }

    #[test]
    fn the_time_left_is_that_of_the_data_not_of_the_holes() {
        let moment = half_way();
        assert_eq!(moment.remaining_bytes(), 76 << 30);
        let mostly_holes = Moment {
            data_bytes: 60 << 30,
            ..moment
        };
        assert_eq!(mostly_holes.remaining_bytes(), 6 << 30);
    }

    #[test]
    fn the_rate_follows_the_last_ten_seconds() {
        let mut rate = Rate::default();
        let second = Duration::from_secs(1);
        rate.add(100, second);
        assert_eq!(rate.bytes_per_s(), 100);
        for step in 0..100 {
            rate.add(100 + (step + 1) * 500, second);
        }
        let settled = rate.bytes_per_s();
        assert!((498..=500).contains(&settled), "{settled}");
    }

    #[test]
    fn a_bar_is_full_only_at_the_end() {
        assert_eq!(bar_cells(0, 100), "·".repeat(24));
        assert!(bar_cells(99, 100).ends_with('▌') || bar_cells(99, 100).ends_with('·'));
        assert_eq!(bar_cells(100, 100), "█".repeat(24));
        assert_eq!(bar_cells(0, 0), "█".repeat(24));
    }
}
