//! `longshore info`: what an image is, in the words of `qemu-img info` where both know the same thing.

use std::{
    fs::{File, Metadata},
    io::{self, Read, Seek, SeekFrom},
    os::{
        fd::AsFd,
        unix::fs::{FileTypeExt, MetadataExt},
    },
};

use aio::sys;
use serde_json::json;

use super::{
    Done, Session, args,
    backup::{device, refuse_address},
    exit::{Exit, Failure},
    output::fields,
    units,
};

/// What the numbers of image locks stand for.
const PERMISSIONS: [&str; 4] = ["consistent-read", "write", "write-unchanged", "resize"];
/// First byte on which users say what they do.
const USED_BASE: u64 = 100;
/// First byte on which users say what they let nobody else do.
const UNSHARED_BASE: u64 = 200;

/// Runs the command.
pub(crate) fn run(args: &args::Info, session: &Session) -> Result<Done, Failure> {
    refuse_address(&args.image)?;
    let shown = args.image.display();
    let failed = |error: io::Error| Failure::io(format!("cannot open '{shown}'"), &error);
    check_kind(&std::fs::metadata(&args.image).map_err(failed)?, args)?;
    let mut file = File::open(&args.image).map_err(failed)?;
    let facts = file.metadata().map_err(failed)?;
    check_kind(&facts, args)?;
    let len_bytes = file.seek(SeekFrom::End(0)).map_err(failed)?;
    let actual_bytes = if facts.is_file() {
        facts.blocks().saturating_mul(512)
    } else {
        len_bytes
    };
    let is_incomplete = begins_with_marker(&mut file).map_err(failed)? || is_partial(args);
    let direct = sys::direct_alignment(file.as_fd()).ok().flatten();
    let (used, unshared) = (locked(&file, USED_BASE), locked(&file, UNSHARED_BASE));
    let output = &session.output;
    output.print(&format!("image: {shown}"));
    output.print("file format: raw");
    output.print(&format!(
        "virtual size: {} ({len_bytes} bytes)",
        units::bytes(len_bytes)
    ));
    output.print(&format!("disk size: {}", units::bytes(actual_bytes)));
    output.print(&match direct {
        Some(align) => format!(
            "direct I/O: yes, offsets in multiples of {} bytes, memory of {}",
            align.offset_bytes, align.memory_bytes
        ),
        None => "direct I/O: the file system does not say".to_owned(),
    });
    output.print(&format!("used by others for: {}", words(&used)));
    output.print(&format!("kept from others: {}", words(&unshared)));
    if is_incomplete {
        output.print(
            "incomplete: this is what an interrupted backup left; it is no copy of anything",
        );
    }
    Ok(Done::with(fields(json!({
        "filename": args.image.to_string_lossy(),
        "format": "raw",
        "virtual-size": len_bytes,
        "actual-size": actual_bytes,
        "dirty-flag": false,
        "incomplete": is_incomplete,
        "direct-io": direct.map(|align| json!({
            "offset-alignment-bytes": align.offset_bytes,
            "memory-alignment-bytes": align.memory_bytes,
        })),
        "locked-by-others": { "used": used, "not-shared": unshared },
    }))))
}

fn check_kind(facts: &Metadata, args: &args::Info) -> Result<(), Failure> {
    if facts.is_file() || facts.file_type().is_block_device() {
        return Ok(());
    }
    let text = format!(
        "'{}' is neither a regular file nor a block device",
        args.image.display()
    );
    Err(Failure::new(Exit::Usage, text))
}

fn begins_with_marker(file: &mut File) -> io::Result<bool> {
    let mut start = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(64).read_to_end(&mut start)?;
    Ok(device::is_marked(&start))
}

/// Whether the name is one that only an incomplete copy has.
fn is_partial(args: &args::Info) -> bool {
    args.image.extension().is_some_and(|end| end == "partial")
}

/// The permissions on whose bytes, from `base` on, somebody else has a lock; `None` where nobody can tell.
fn locked(file: &File, base: u64) -> Option<Vec<&'static str>> {
    let mut found = Vec::new();
    for (number, name) in (base..).zip(PERMISSIONS) {
        if sys::byte_locked_by_other(file.as_fd(), number).ok()? {
            found.push(name);
        }
    }
    Some(found)
}

fn words(found: &Option<Vec<&'static str>>) -> String {
    match found {
        None => "unknown, the file system has no such locks".to_owned(),
        Some(found) if found.is_empty() => "nothing".to_owned(),
        Some(found) => found.join(", "),
    }
}
