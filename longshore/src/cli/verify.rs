//! `longshore verify`: whether two images have the same bytes.

use std::{path::Path, sync::Arc, time::Instant};

use block::Node;
use longshore::Engine;
use serde_json::json;

use super::{
    Done, Session, args,
    compare::{Checksum, Comparison, Verdict, Watch},
    engine::{self, Image},
    exit::{Exit, Failure},
    output::fields,
    progress::{Moment, Progress, TICK},
    signals::{Event, STOP_TIME_MAX},
    units,
};

/// What is compared with what.
pub(crate) struct Sides<'a> {
    /// The image to check, and what it should be equal to.
    pub(crate) nodes: [&'a Node; 2],
    /// What messages call them.
    pub(crate) names: [&'static str; 2],
    /// So many bytes from the start on.
    pub(crate) len_bytes: u64,
    /// Whether the content is summed up.
    pub(crate) checksum: Checksum,
    /// What progress calls it, and in one word.
    pub(crate) title: String,
    pub(crate) job: String,
}

/// Runs the command.
pub(crate) fn run(args: &args::Verify, session: &Session) -> Result<Done, Failure> {
    let engine = engine::start()?;
    let open =
        |name: &str, path: &Path| engine::open_reader(&engine, name, path, args.direct.into());
    let image = open("image", &args.image)?;
    let against = open("source", &args.against)?;
    let len_bytes = common_length(args, &image, &against)?;
    let sides = Sides {
        nodes: [&image.node, &against.node],
        names: ["image", "source"],
        len_bytes,
        checksum: if args.no_checksum {
            Checksum::No
        } else {
            Checksum::Blake3
        },
        title: format!(
            "verify {} against {}",
            args.image.display(),
            args.against.display()
        ),
        job: super::backup::job_id(&args.image),
    };
    let started = Instant::now();
    let blake3 = match compare(&engine, session, &sides) {
        Err(failure) if failure.exit.is_by_signal() => {
            // What may hang in the kernel is left to it.
            session.output.end(&failure)
        }
        compared => compared?,
    };
    let output = &session.output;
    output.print(&format!(
        "ok   '{}' equals '{}': {} compared in {}",
        args.image.display(),
        args.against.display(),
        units::bytes(len_bytes),
        units::duration(started.elapsed()),
    ));
    if let Some(digits) = &blake3 {
        output.print(&format!("     blake3 {digits}"));
    }
    Ok(Done::with(fields(json!({
        "bytes_compared": len_bytes,
        "seconds": started.elapsed().as_secs_f64(),
        "verified": "compared",
        "checksum": blake3.map(|digits| format!("blake3:{digits}")),
    }))))
}

/// How much to compare: a device or an export may go on behind its copy, a file may not.
fn common_length(args: &args::Verify, image: &Image, against: &Image) -> Result<u64, Failure> {
    let (has, wants) = (image.len_bytes, against.len_bytes);
    if has == wants || (image.is_given && has > wants) {
        return Ok(wants);
    }
    let text = format!(
        "'{}' and '{}' differ in length, {has} against {wants} bytes",
        args.image.display(),
        args.against.display()
    );
    Err(Failure::new(Exit::Mismatch, text))
}

/// Compares while it shows progress and listens to signals; gives the checksum if one was wanted.
pub(crate) fn compare(
    engine: &Engine,
    session: &Session,
    sides: &Sides<'_>,
) -> Result<Option<String>, Failure> {
    let watch = Arc::new(Watch::default());
    let what = (sides.len_bytes, sides.checksum);
    let comparison = Comparison::new(engine.graph(), sides.nodes, sides.names, what, &watch)
        .map_err(|error| Failure::block("cannot compare", &error))?;
    let running = engine
        .handle()
        .spawn(move |cx| async move { comparison.run(&cx).await });
    let waiter = session.events.tell_when(move || running.wait())?;
    let mut progress = Progress::start(&session.output, sides.title.clone(), &sides.job);
    let mut stopped: Option<(Exit, Instant)> = None;
    while !waiter.is_finished() {
        let event = session.events.next(TICK);
        let moment = Moment {
            phase: "verify",
            total_bytes: sides.len_bytes,
            done_bytes: watch.done_bytes(),
            data_bytes: sides.len_bytes,
            moved_bytes: watch.read_bytes(),
            ..Moment::default()
        };
        match event {
            Some(Event::Stop(exit)) => {
                stopped.get_or_insert((exit, Instant::now()));
                watch.stop();
            }
            Some(Event::Tell) => progress.tell(&moment),
            Some(Event::Done) | None => {}
        }
        progress.tick(&moment);
        if let Some((exit, since)) = stopped
            && since.elapsed() > STOP_TIME_MAX
        {
            return Err(interrupted(exit));
        }
    }
    progress.end();
    let verdict = waiter
        .join()
        .map_err(|_| Failure::new(Exit::Failed, "a thread died"))?;
    let verdict = verdict.map_err(|error| {
        Failure::block(format!("cannot compare the {}", error.side), &error.error)
    })?;
    match (verdict, stopped) {
        (Verdict::Equal { blake3 }, _) => Ok(blake3),
        (Verdict::DiffersAt(offset_bytes), _) => {
            let names = sides.names;
            let text = format!(
                "the {} differs from the {}, first at byte {offset_bytes}",
                names[0], names[1]
            );
            Err(Failure::new(Exit::Mismatch, text))
        }
        (Verdict::Stopped, stopped) => {
            let exit = stopped.map_or(Exit::Cancelled, |(exit, _)| exit);
            Err(interrupted(exit))
        }
    }
}

fn interrupted(exit: Exit) -> Failure {
    Failure::new(exit, "stopped by a signal before all was compared")
}
