//! `longshore doctor`: what this machine supports, and what is missing.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::Path,
};

use aio::sys;
use longshore::{Engine, EngineConfig};
use serde_json::{Value, json};

use super::{
    Done, Session, args,
    exit::{Exit, Failure},
    output::fields,
    units,
};

/// Memory that may be locked, below which older kernels refuse our registered buffers.
const LOCKED_BYTES_WANTED: u64 = 64 << 20;
/// Open files below which the fallback with its worker threads gets short of descriptors.
const OPEN_FILES_WANTED: u64 = 256;

/// One thing that was looked at.
struct Finding {
    name: &'static str,
    /// Name of the field in the record.
    key: &'static str,
    /// For people.
    text: String,
    /// For programs.
    value: Value,
}

impl Finding {
    fn new(
        (name, key): (&'static str, &'static str),
        text: impl Into<String>,
        value: Value,
    ) -> Self {
        Self {
            name,
            key,
            text: text.into(),
            value,
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: &args::Doctor, session: &Session) -> Result<Done, Failure> {
    let engine = Engine::start(EngineConfig::default());
    let works = engine.is_ok();
    let findings = [
        kernel(),
        io_uring(),
        engine_used(&engine),
        locked_memory(),
        open_files(),
        huge_pages(),
        direct_io(&args.path)?,
        restrictions(),
    ];
    let mut record = fields(json!({ "works": works }));
    for finding in findings {
        session
            .output
            .print(&format!("{:<14} {}", finding.name, finding.text));
        record.insert(finding.key.to_owned(), finding.value);
    }
    if works {
        return Ok(Done::with(record));
    }
    let failure = Failure::new(
        Exit::Unsupported,
        "no way of doing I/O works on this machine",
    );
    session.output.failure(&failure);
    Ok(Done::ending(Exit::Unsupported, record))
}

fn kernel() -> Finding {
    let release = line("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".to_owned());
    Finding::new(("kernel", "kernel"), release.clone(), json!(release))
}

fn io_uring() -> Finding {
    let switch = line("/proc/sys/kernel/io_uring_disabled");
    match aio::probe_io_uring() {
        Ok(()) => Finding::new(
            ("io_uring", "io_uring"),
            "yes",
            json!({ "available": true, "why": null, "io_uring_disabled": switch }),
        ),
        Err((why, error)) => Finding::new(
            ("io_uring", "io_uring"),
            format!("no: {why} ({error})"),
            json!({ "available": false, "why": why, "io_uring_disabled": switch }),
        ),
    }
}

fn engine_used(engine: &Result<Engine, aio::AioError>) -> Finding {
    match engine {
        Ok(engine) => Finding::new(
            ("engine", "engine"),
            engine.describe(),
            json!({ "backend": engine.backend().to_string(), "features": engine.describe() }),
        ),
        Err(error) => Finding::new(("engine", "engine"), format!("none: {error}"), Value::Null),
    }
}

fn locked_memory() -> Finding {
    let limit = limit("Max locked memory");
    let text = match limit {
        Some(bytes) if bytes < LOCKED_BYTES_WANTED => format!(
            "{}, which kernels before 5.12 count against buffers: raise ulimit -l there",
            units::bytes(bytes)
        ),
        Some(bytes) => units::bytes(bytes),
        None => "unlimited".to_owned(),
    };
    Finding::new(("locked memory", "locked_memory_bytes"), text, json!(limit))
}

fn open_files() -> Finding {
    let limit = limit("Max open files");
    let text = match limit {
        Some(count) if count < OPEN_FILES_WANTED => {
            format!("{count}, which is few: raise ulimit -n")
        }
        Some(count) => count.to_string(),
        None => "unlimited".to_owned(),
    };
    Finding::new(("open files", "open_files"), text, json!(limit))
}

fn huge_pages() -> Finding {
    let text = line("/sys/kernel/mm/transparent_hugepage/enabled");
    let chosen = text.as_deref().and_then(|text| {
        let (_, rest) = text.split_once('[')?;
        Some(rest.split_once(']')?.0.to_owned())
    });
    let text = match chosen.as_deref() {
        Some("never") => "never, so buffers are in small pages, which costs CPU time".to_owned(),
        Some(chosen) => chosen.to_owned(),
        None => "unknown".to_owned(),
    };
    Finding::new(("huge pages", "huge_pages"), text, json!(chosen))
}

/// Direct I/O on the file itself, or on a nameless file in the folder.
fn direct_io(path: &Path) -> Result<Finding, Failure> {
    let shown = path.display();
    let failed = |error: io::Error| Failure::io(format!("cannot look at '{shown}'"), &error);
    let file = if fs::metadata(path).map_err(failed)?.is_dir() {
        File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_TMPFILE)
            .open(path)
    } else {
        File::open(path)
    };
    let unknown = |why: String| {
        Finding::new(
            ("direct I/O", "direct_io"),
            format!("unknown on {shown}: {why}"),
            Value::Null,
        )
    };
    let file = match file {
        Ok(file) => file,
        Err(error) => return Ok(unknown(error.to_string())),
    };
    Ok(match sys::direct_alignment(file.as_fd()) {
        Ok(Some(align)) => Finding::new(
            ("direct I/O", "direct_io"),
            format!(
                "yes on {shown}, offsets in multiples of {} bytes, memory of {}",
                align.offset_bytes, align.memory_bytes
            ),
            json!({ "offset_alignment_bytes": align.offset_bytes, "memory_alignment_bytes": align.memory_bytes }),
        ),
        Ok(None) => unknown("its file system does not say".to_owned()),
        Err(error) => unknown(error.to_string()),
    })
}

/// What a container keeps from us.
fn restrictions() -> Finding {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let mut lines = status.lines().filter_map(|line| line.split_once(':'));
        lines
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.trim().to_owned())
    };
    let has_seccomp = field("Seccomp").is_some_and(|mode| mode != "0");
    let marks = ["/.dockerenv", "/run/.containerenv"];
    let is_container = marks.iter().any(|mark| Path::new(mark).exists());
    let bytes = line("/sys/fs/cgroup/memory.max").and_then(|limit| limit.parse().ok());
    let mut found = Vec::new();
    if is_container {
        found.push("in a container".to_owned());
    }
    if has_seccomp {
        found.push("system calls are filtered (seccomp)".to_owned());
    }
    if let Some(bytes) = bytes {
        found.push(format!("memory limited to {}", units::bytes(bytes)));
    }
    let text = if found.is_empty() {
        "none seen".to_owned()
    } else {
        found.join(", ")
    };
    let value =
        json!({ "container": is_container, "seccomp": has_seccomp, "memory_max_bytes": bytes });
    Finding::new(("restrictions", "restrictions"), text, value)
}

/// The soft limit of this process that the system calls `name`; `None` if it has none.
fn limit(name: &str) -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let row = limits.lines().find_map(|row| row.strip_prefix(name))?;
    row.split_whitespace().next()?.parse().ok()
}

fn line(path: &str) -> Option<String> {
    fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}
