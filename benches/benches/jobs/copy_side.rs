//! One copy of ours, in a process of its own; see `jobs/copies`.

use std::{path::Path, sync::mpsc, time::Instant};

use aio::{Config, Handle, IoThread};
use benches::{BLOCK_BYTES, RandomBlocks, cpu_time};
use block::{
    Attachment, ChildRole, Node, Permission, Permissions, RequestFlags, bitmap::BitmapOptions,
    nodes::FileOptions,
};
use drivers::{
    BitmapMode,
    backup::{BackupBitmap, BackupSync},
    mirror::{Mirror, MirrorOptions},
};
use job::{CancelMode, JobEvent, JobStatus};
use longshore::{BackupOptions, Engine, EngineConfig};

use crate::{
    copies::changes,
    process::{print, status_kib},
};

/// What tells the program to make one copy.
pub(crate) const FLAG: &str = "--one-copy";
/// The bitmap of an incremental backup.
const BITMAP: &str = "changed";

/// Copies and prints what it took; `[kind, source, target, contexts]`.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let [kind, source, target, contexts] = args else {
        return Err("four arguments are needed".to_owned());
    };
    let engine = Engine::start(EngineConfig::default()).map_err(|error| error.to_string())?;
    let open = |path: &str| {
        let opened = engine.open_file(None, &FileOptions::new(Path::new(path)));
        opened
            .map(|opened| opened.node)
            .map_err(|error| error.to_string())
    };
    let nodes = (open(source)?, open(target)?);
    let other = IoThread::start(Config::default()).map_err(|error| error.to_string())?;
    let contexts: Vec<Handle> = match contexts.as_str() {
        "2" => vec![engine.handle().clone(), other.handle().clone()],
        _ => Vec::new(),
    };
    if kind == "incremental" {
        change_some(&engine, &nodes.0)?;
    }
    let (start, cpu) = (Instant::now(), cpu_time());
    match kind.as_str() {
        "mirror" => mirror(&engine, nodes, contexts)?,
        _ => back_up(&engine, kind, nodes, contexts)?,
    }
    print("wall_s", start.elapsed().as_secs_f64());
    print("cpu_s", (cpu_time() - cpu).as_secs_f64());
    print("peak_mib", status_kib("self", "VmHWM:") / 1024.0);
    Ok(())
}

fn back_up(
    engine: &Engine,
    kind: &str,
    (source, target): (Node, Node),
    contexts: Vec<Handle>,
) -> Result<(), String> {
    let mut options = BackupOptions::new("copy");
    options.contexts = contexts;
    if kind == "incremental" {
        options.sync = BackupSync::Bitmap;
        options.bitmap = Some(BackupBitmap {
            name: BITMAP.to_owned(),
            mode: BitmapMode::OnSuccess,
        });
    }
    let backup = engine.backup(&source, &target, options);
    let backup = backup.map_err(|error| error.to_string())?;
    let outcome = backup.job().wait_blocking().into_result();
    outcome.map_err(|error| error.to_string())
}

/// Ends as soon as it is ready.
fn mirror(
    engine: &Engine,
    (source, target): (Node, Node),
    contexts: Vec<Handle>,
) -> Result<(), String> {
    let options = MirrorOptions {
        contexts,
        ..MirrorOptions::new("copy")
    };
    // To look now and then would cost a quarter of what the copy does.
    let (tell, statuses) = mpsc::channel();
    let _subscription = engine.jobs().subscribe(move |event| {
        if let JobEvent::StatusChange { status, .. } = event {
            // Whoever measures may have gone.
            let _ = tell.send(*status);
        }
    });
    let job = start_mirror(engine, (&source, &target), options)?
        .job()
        .clone();
    while let Ok(status) = statuses.recv() {
        if matches!(status, JobStatus::Ready | JobStatus::Concluded) {
            break;
        }
    }
    job.cancel(CancelMode::Soft)
        .map_err(|error| error.to_string())?;
    let outcome = job.wait_blocking().into_result();
    outcome.map_err(|error| error.to_string())
}

/// Starts a mirror on the loop of an engine.
pub(crate) fn start_mirror(
    engine: &Engine,
    (source, target): (&Node, &Node),
    options: MirrorOptions,
) -> Result<Mirror, String> {
    let (graph, jobs, home) = (
        engine.graph().clone(),
        engine.jobs().clone(),
        engine.handle().clone(),
    );
    let (source, target) = (source.clone(), target.clone());
    let started = engine.handle().spawn(move |_| async move {
        Mirror::start((&graph, &jobs), &home, (&source, &target), options).await
    });
    started.wait().map_err(|error| error.to_string())
}

/// Has a bitmap record, and writes some blocks.
fn change_some(engine: &Engine, source: &Node) -> Result<(), String> {
    let options = BitmapOptions {
        granularity_bytes: Some(64 << 10),
        ..BitmapOptions::default()
    };
    let added = source.bitmaps().add(BITMAP, options);
    added.map_err(|error| error.to_string())?;
    let writes = Permissions::uses(&[Permission::Write]);
    let user = Attachment::new("guest", ChildRole::Primary, writes);
    let edge = engine.graph().attach(source, user);
    let edge = edge.map_err(|error| error.to_string())?;
    let len_bytes = source.len_bytes();
    let writing = engine.handle().spawn(move |cx| async move {
        let mut blocks = RandomBlocks::over(len_bytes);
        let mut buf = cx.buffers().acquire(BLOCK_BYTES).await;
        for _ in 0..changes(len_bytes) {
            let flags = RequestFlags::default();
            let (back, written) = edge.write(&cx, blocks.next_offset(), buf, flags).await;
            written.map_err(|error| error.to_string())?;
            buf = back;
        }
        Ok(())
    });
    writing.wait()
}
