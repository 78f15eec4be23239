//! `longshore demo`: an image of its own is backed up while a guest writes to it, and the copy is proven.

mod guest;
mod image;
mod kill;
mod proof;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use block::{
    Node,
    copy::{CopyCounters, TargetContent},
    nodes::file::FileOptions,
};
use longshore::{
    BackupOptions, Engine, OpenedFile,
    export::{ExportOptions, NbdAddress, NbdServer, NbdServerOptions},
};
use serde_json::json;

use self::{
    guest::{Guest, Log, Ticks, WRITERS},
    image::Image,
    proof::{Flaw, Proven, Taken},
};
use super::{
    Done, Session, args,
    backup::{self, counter_fields, moved_bytes},
    engine,
    exit::{Exit, Failure},
    export::refused,
    output::{Output, fields},
    progress::{Moment, Progress},
    scratch::Scratch,
    units,
};

/// Name of the export.
const EXPORT: &str = "disk";
/// How long the guest goes on after the backup.
const AFTERWARDS: Duration = Duration::from_millis(300);
/// Smallest image that has a slot for every writer, and something to copy.
const LEN_BYTES_MIN: u64 = 4 << 20;

/// Runs the command.
pub(crate) fn run(args: &args::Demo, session: &Session) -> Result<Done, Failure> {
    if args.size < LEN_BYTES_MIN {
        let text = format!(
            "an image for the demo has {} at least",
            units::bytes(LEN_BYTES_MIN)
        );
        return Err(Failure::new(Exit::Usage, text));
    }
    let mut scratch = Scratch::make("longshore-demo")?;
    if args.keep {
        scratch.keep();
    }
    let demo = Demo {
        session,
        bounds: &args.bounds,
        disk: scratch.path().join("disk.img"),
        copy: scratch.path().join("copy.img"),
        image: Image::up_to(args.size),
        folder: scratch.path(),
    };
    let started = Instant::now();
    demo.output().print(&format!(
        "longshore demo — everything happens in {}, nothing else is touched",
        scratch.path().display()
    ));
    demo.output().record(
        "start",
        fields(json!({
            "kind": "demo",
            "folder": scratch.path().to_string_lossy(),
            "bytes_total": demo.image.len_bytes(),
            "bytes_data": demo.image.data_bytes(),
        })),
    );
    let steps = if args.kill { "1/3" } else { "1/4" };
    demo.make_image(steps)?;
    let mut done = if args.kill {
        kill::run(&demo)?
    } else {
        demo.run(Duration::from_secs(args.seconds))?
    };
    let seconds = started.elapsed();
    done.fields
        .insert("seconds".to_owned(), json!(seconds.as_secs_f64()));
    demo.output()
        .print(&format!("done in {}", units::duration(seconds)));
    Ok(done)
}

/// One demonstration in one folder.
struct Demo<'a> {
    session: &'a Session,
    bounds: &'a args::Bounds,
    folder: &'a Path,
    disk: PathBuf,
    copy: PathBuf,
    image: Image,
}

/// What was measured and logged while the backup ran.
struct Ran {
    logs: Vec<Log>,
    taken: Taken,
    /// The tick at the backup's end.
    ended: u64,
    /// Time that the guest had to itself, and that the backup took.
    alone: Duration,
    elapsed: Duration,
    counters: CopyCounters,
    /// Longest time that a guest write waited for its old data to be saved.
    added_max: Duration,
}

impl Demo<'_> {
    fn output(&self) -> &Output {
        &self.session.output
    }

    /// A signal is looked at between steps; what was begun is taken down on the way out.
    fn check_stop(&self) -> Result<(), Failure> {
        self.session
            .events
            .stop_wanted()
            .map_or(Ok(()), |exit| Err(stopped(exit)))
    }

    fn make_image(&self, step: &str) -> Result<(), Failure> {
        let made = self.image.make(&self.disk);
        made.map_err(|error| {
            Failure::io(format!("cannot make '{}'", self.disk.display()), &error)
        })?;
        let (len, data) = (self.image.len_bytes(), self.image.data_bytes());
        self.output().print(&format!(
            "{step} made disk.img         {} virtual, {} data, {} holes",
            units::bytes(len),
            units::bytes(data),
            units::bytes(len - data)
        ));
        self.output().record(
            "event",
            fields(json!({ "name": "made", "bytes_data": data })),
        );
        self.check_stop()
    }

    fn run(&self, alone: Duration) -> Result<Done, Failure> {
        let engine = engine::start()?;
        let disk = engine::open(&engine, "disk", &FileOptions::new(&self.disk))?;
        let copy = self.make_copy(&engine)?;
        let server = self.serve(&engine, &disk.node)?;
        let ran = self.back_up(&engine, [&disk.node, &copy.node], alone)?;
        server.stop();
        self.check_stop()?;
        self.tell_backup(&ran);
        let done = self.check(&ran)?;
        let how = if disk.is_direct {
            "O_DIRECT"
        } else {
            "page cache"
        };
        let align = disk.node.limits().request_align_bytes;
        self.output().print(&format!(
            "engine {}, {how}, alignment {align}",
            engine.describe()
        ));
        self.output().print("");
        self.output().print("Try it on your own image:");
        self.output()
            .print("  longshore backup disk.img copy.img      while nobody writes to it");
        self.output()
            .print("  longshore export disk.img --writable    to serve it to those who write");
        self.output()
            .print("  longshore doctor                        what this machine supports");
        Ok(done)
    }

    fn make_copy(&self, engine: &Engine) -> Result<OpenedFile, Failure> {
        let made =
            File::create_new(&self.copy).and_then(|file| file.set_len(self.image.len_bytes()));
        made.map_err(|error| {
            Failure::io(format!("cannot make '{}'", self.copy.display()), &error)
        })?;
        engine::open(engine, "copy", &FileOptions::new(&self.copy))
    }

    fn serve(&self, engine: &Engine, disk: &Node) -> Result<NbdServer, Failure> {
        let address = NbdAddress::Unix(self.socket());
        let options = NbdServerOptions::default();
        let server = NbdServer::start(engine.handle(), engine.graph(), &address, options)
            .map_err(|error| refused(&error))?;
        let export = ExportOptions {
            writable: true,
            ..ExportOptions::new(EXPORT, disk)
        };
        server.add_export(export).map_err(|error| refused(&error))?;
        let uri = server.uri(EXPORT).to_string();
        self.output()
            .print(&format!("2/4 serving it at         {uri}"));
        self.output()
            .record("event", fields(json!({ "name": "serving", "uri": uri })));
        Ok(server)
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("disk.sock")
    }

    /// Lets the guest write, takes a backup in the middle, and lets it write on.
    fn back_up(&self, engine: &Engine, nodes: [&Node; 2], alone: Duration) -> Result<Ran, Failure> {
        let events = &self.session.events;
        let ticks = Ticks::default();
        let started = Instant::now();
        let guest = Guest::start(&self.socket(), EXPORT, self.image, &ticks)
            .map_err(|error| guest_failure(&error))?;
        events.sleep(alone).map_err(stopped)?;
        let alone = started.elapsed();
        let title = "3/4 full backup while it writes".to_owned();
        let mut progress = Progress::start(self.output(), title, "demo");
        let options = BackupOptions {
            target_content: TargetContent::Zero,
            ..self.bounds.bound(BackupOptions::new("demo"))
        };
        let asked = ticks.next();
        let backup = engine
            .backup(nodes[0], nodes[1], options)
            .map_err(|error| backup::start_failure(&error))?;
        let taken = Taken {
            asked,
            begun: ticks.next(),
        };
        let moment = || {
            let report = backup.report();
            Moment {
                phase: "copy",
                total_bytes: report.len_bytes,
                done_bytes: report.done_bytes,
                data_bytes: self.image.data_bytes(),
                moved_bytes: moved_bytes(&report.counters),
                zero_bytes: report.counters.zero_bytes,
                skipped_bytes: report.counters.skipped_bytes,
                limit_bytes_per_s: None,
                pace: report.pace,
                guest_latency_ns: self.bounds.guest_latency,
            }
        };
        let outcome = backup::wait(self.session, backup.job(), &mut progress, &moment);
        let (ended, elapsed) = (ticks.next(), progress.elapsed());
        progress.end();
        outcome?;
        events.sleep(AFTERWARDS).map_err(stopped)?;
        let logs = guest.stop().map_err(|error| guest_failure(&error))?;
        let report = backup.report();
        Ok(Ran {
            logs,
            taken,
            ended,
            alone,
            elapsed,
            counters: report.counters,
            added_max: Duration::from_nanos(report.guest.max_ns),
        })
    }

    /// What the guest and the copy cost each other.
    fn tell_backup(&self, ran: &Ran) {
        let before = Latencies::of(&ran.logs, 0, ran.taken.asked, ran.alone);
        let during = Latencies::of(&ran.logs, ran.taken.asked, ran.ended, ran.elapsed);
        let output = self.output();
        output.print(&format!(
            "    a pretend guest writes 4 KiB blocks over {WRITERS} connections: {}",
            before.text()
        ));
        output.print("3/4 full backup while it writes");
        let moved = moved_bytes(&ran.counters);
        let rate = units::per_second(moved, ran.elapsed);
        output.print(&format!(
            "    copy  {} in {}, {}, skipped {} holes",
            units::bytes(moved),
            units::duration(ran.elapsed),
            units::rate(rate),
            units::bytes(ran.counters.skipped_bytes),
        ));
        output.print(&format!("    guest {}", during.text()));
        output.print(&format!(
            "          longest wait for old data to be saved {}",
            milliseconds(ran.added_max)
        ));
        let mut record = fields(json!({
            "name": "backup",
            "milliseconds": ran.elapsed.as_millis(),
            "rate_bytes_per_second": rate,
            "guest_before": before.fields(),
            "guest_during": during.fields(),
            "guest_added_max_us": ran.added_max.as_micros(),
        }));
        record.extend(counter_fields(&ran.counters));
        output.record("event", record);
    }

    /// Proves the copy, and that the guest lost nothing.
    fn check(&self, ran: &Ran) -> Result<Done, Failure> {
        let output = self.output();
        output.print("4/4 check");
        let flawed = |what: &str| {
            let text = format!("FAILED: {what} is not what it should be");
            move |flaw: Flaw| Failure::new(Exit::Mismatch, format!("{text}: {flaw}"))
        };
        let proven = proof::prove_copy(&self.copy, self.image, &ran.logs, ran.taken)
            .map_err(flawed("copy.img"))?;
        let Proven { included, blake3 } = &proven;
        let before: usize = included.iter().sum();
        let all: usize = ran.logs.iter().map(Vec::len).sum();
        output.print(&format!(
            "    ok   copy.img equals the disk at the instant the backup began   blake3 {}… ({} compared)",
            &blake3[..16],
            units::bytes(self.image.len_bytes())
        ));
        output.print(&format!(
            "         {before} writes came before that instant, {} after it",
            all - before
        ));
        let live =
            proof::prove_live(&self.disk, self.image, &ran.logs).map_err(flawed("disk.img"))?;
        output.print(&format!(
            "    ok   disk.img has every write that the guest was told is done   blake3 {}…",
            &live[..16]
        ));
        Ok(Done::with(fields(json!({
            "job": "demo",
            "verified": "proven",
            "checksum": format!("blake3:{blake3}"),
            "live_checksum": format!("blake3:{live}"),
            "writes_before": before,
            "writes_after": all - before,
        }))))
    }
}

/// A guest that reads something else than it wrote is the worst that can happen.
fn guest_failure(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::InvalidData {
        return Failure::new(
            Exit::Mismatch,
            format!("FAILED: the guest lost a write: {error}"),
        );
    }
    Failure::io("the guest failed", error)
}

fn stopped(exit: Exit) -> Failure {
    Failure::new(exit, "stopped by a signal before anything was proven")
}

/// How fast a guest's writes were in one stretch of time.
struct Latencies {
    writes_per_s: u64,
    p50: Duration,
    p99: Duration,
}

impl Latencies {
    /// Of the writes issued between two ticks, which are `elapsed` apart.
    fn of(logs: &[Log], from: u64, to: u64, elapsed: Duration) -> Self {
        let within = logs
            .iter()
            .flatten()
            .filter(|write| (from..to).contains(&write.issued));
        let mut sorted: Vec<Duration> = within.map(|write| write.latency).collect();
        sorted.sort_unstable();
        let at = |percent: usize| {
            let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
            sorted.get(index).copied().unwrap_or_default()
        };
        let count = u64::try_from(sorted.len()).unwrap_or(u64::MAX);
        Self {
            writes_per_s: units::per_second(count, elapsed),
            p50: at(50),
            p99: at(99),
        }
    }

    fn text(&self) -> String {
        format!(
            "{} writes/s, p50 {}, p99 {}",
            self.writes_per_s,
            milliseconds(self.p50),
            milliseconds(self.p99)
        )
    }

    fn fields(&self) -> serde_json::Value {
        json!({
            "writes_per_second": self.writes_per_s,
            "p50_us": self.p50.as_micros(),
            "p99_us": self.p99.as_micros(),
        })
    }
}

fn milliseconds(time: Duration) -> String {
    let us = time.as_micros();
    format!("{}.{:02} ms", us / 1000, us % 1000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::guest::Logged;

    #[test]
    fn latencies_are_those_of_the_stretch() {
        let log: Log = (0..100u32)
            .map(|number| Logged {
                block: 0,
                issued: u64::from(number),
                acknowledged: u64::from(number),
                latency: Duration::from_micros(u64::from(number)),
            })
            .collect();
        let all = Latencies::of(std::slice::from_ref(&log), 0, 100, Duration::from_secs(2));
        assert_eq!(all.text(), "50 writes/s, p50 0.05 ms, p99 0.09 ms");
        let none = Latencies::of(&[log], 100, 200, Duration::from_secs(1));
        assert_eq!(none.text(), "0 writes/s, p50 0.00 ms, p99 0.00 ms");
    }
}
