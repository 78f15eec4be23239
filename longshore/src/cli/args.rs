//! The command line: what can be written there.

#![expect(
    clippy::doc_markdown,
    reason = "these comments are the help text, which has no markdown"
)]

use std::path::PathBuf;

use block::copy::Offload;
use clap::{Args, Parser, Subcommand, ValueEnum};

use longshore::BackupOptions;

use super::ctl::Ctl;
use super::units::{parse_bytes, parse_chunk, parse_millis, parse_rate};

/// Live block jobs on Linux: point-in-time backups of disk images, while they are written to.
#[derive(Debug, Parser)]
#[command(name = "longshore", version, max_term_width = 100, after_help = super::exit::Exit::table())]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) voice: Voice,
}

/// What longshore can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Backup(Backup),
    Verify(Verify),
    Info(Info),
    Export(Export),
    Doctor(Doctor),
    Demo(Demo),
    Daemon(Daemon),
    Ctl(Ctl),
}

impl Command {
    /// The command's name, as records call it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Backup(_) => "backup",
            Self::Verify(_) => "verify",
            Self::Info(_) => "info",
            Self::Export(_) => "export",
            Self::Doctor(_) => "doctor",
            Self::Demo(_) => "demo",
            Self::Daemon(_) => "daemon",
            Self::Ctl(_) => "ctl",
        }
    }
}

/// A storage daemon that takes qemu-storage-daemon's command line: `longshore daemon --help`
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Daemon {
    /// What `longshore daemon --help` tells
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "OPTION"
    )]
    options: Vec<String>,
}

/// How much is said, and in which form.
#[derive(Debug, Args)]
pub(crate) struct Voice {
    /// NDJSON on standard output, with exactly one record of type "result"
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// How progress is shown; LONGSHORE_PROGRESS says it too, and auto is the default
    #[arg(short, long, global = true, value_name = "HOW")]
    pub(crate) progress: Option<ProgressArg>,
    /// Errors only
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Log more, twice for all; LONGSHORE_LOG gives a filter
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressArg {
    /// A bar on a terminal, plain lines elsewhere, records with --json
    Auto,
    /// A bar
    Bar,
    /// A line every 30 seconds
    Plain,
    /// A record every second, on standard output
    Json,
    /// Nothing
    None,
}

/// Whether to use something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Use {
    /// Where it works
    Auto,
    /// Or fail
    On,
    /// Not at all
    Off,
}

impl From<Use> for block::nodes::OnOffAuto {
    fn from(value: Use) -> Self {
        match value {
            Use::Auto => Self::Auto,
            Use::On => Self::On,
            Use::Off => Self::Off,
        }
    }
}

/// How a copy is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum VerifyArg {
    /// Not at all
    None,
    /// The target is read again and compared with the source before the target appears
    Read,
}

/// Copy an image as it is at one instant.
///
/// The copy is consistent only if nobody writes to SRC meanwhile, or if all who write go through
/// longshore. So SRC is locked against writers; if somebody has it open for writing, the backup is
/// refused. To back up an image in use, serve it with `longshore export`; `longshore demo` shows it.
///
/// A DST that is a file is written beside its final place, as DST.partial, and appears when it is
/// complete. A DST that is a block device or an export of an NBD server is marked as incomplete until then.
///
/// An export is written as nbd://HOST:PORT/NAME or nbd+unix:///NAME?socket=PATH. Its server cannot keep
/// writers out, so an SRC there needs --offline.
#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// The image: a raw file, a block device, or the address of an NBD export
    #[arg(value_name = "SRC")]
    pub(crate) source: PathBuf,
    /// Where the copy goes: a file, or a block device or an NBD export, which is overwritten
    #[arg(value_name = "DST")]
    pub(crate) target: PathBuf,
    /// I assert that nobody writes to SRC meanwhile, although longshore cannot make sure
    #[arg(long)]
    pub(crate) offline: bool,
    /// Bytes per second at most, such as 200M
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    pub(crate) limit: Option<u64>,
    #[command(flatten)]
    pub(crate) bounds: Bounds,
    /// Bypass the page cache (O_DIRECT)
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(crate) direct: Use,
    /// Check the copy at the end
    #[arg(long, value_name = "HOW", default_value = "none")]
    pub(crate) verify: VerifyArg,
}

/// What a copy may take.
#[derive(Debug, Args)]
pub(crate) struct Bounds {
    /// Most that the copy may add to writes of guests, 99 of 100, in milliseconds: it backs off to stay below
    #[arg(long, value_name = "MS", value_parser = parse_millis)]
    pub(crate) guest_latency: Option<u64>,
    /// Most requests of the copy in flight; as many as the devices work on by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) workers: Option<u32>,
    /// Most bytes in a request of the copy, 64K or more
    #[arg(long, value_name = "SIZE", value_parser = parse_chunk)]
    pub(crate) chunk: Option<u64>,
    /// Let the file system share blocks, or the kernel copy; off for a copy that has nothing in common with its image
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(crate) offload: OffloadArg,
}

/// Whether the kernel may move the data of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OffloadArg {
    /// Where that works and is not slower
    Auto,
    /// Never
    Off,
}

impl Bounds {
    /// `options` within these bounds.
    pub(crate) fn bound(&self, options: BackupOptions) -> BackupOptions {
        BackupOptions {
            guest_latency_ns: self.guest_latency,
            max_workers: self.workers,
            max_chunk_bytes: self.chunk,
            offload: match self.offload {
                OffloadArg::Auto => Offload::Auto,
                OffloadArg::Off => Offload::Off,
            },
            ..options
        }
    }
}

/// Compare two images byte by byte.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The image to check, or the address of an NBD export
    #[arg(value_name = "IMG")]
    pub(crate) image: PathBuf,
    /// What it should be equal to, an address, too
    #[arg(long, value_name = "SRC")]
    pub(crate) against: PathBuf,
    /// No checksum of the content, which takes its time on images that are mostly holes
    #[arg(long)]
    pub(crate) no_checksum: bool,
    /// Bypass the page cache (O_DIRECT)
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(crate) direct: Use,
}

/// Show what an image is.
#[derive(Debug, Args)]
pub(crate) struct Info {
    /// A raw file or a block device
    #[arg(value_name = "IMG")]
    pub(crate) image: PathBuf,
}

/// Serve an image over NBD, until SIGINT or SIGTERM or until CMD ends.
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// A raw file or a block device
    #[arg(value_name = "IMG")]
    pub(crate) image: PathBuf,
    /// Where to listen: nbd://HOST:PORT/NAME or nbd+unix:///NAME?socket=PATH; a socket of its own by default
    #[arg(long, value_name = "URI")]
    pub(crate) nbd: Option<String>,
    /// Name of the export; wins over the name in the URI
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Let clients write
    #[arg(long, conflicts_with = "read_only")]
    pub(crate) writable: bool,
    /// Let clients read only, which is the default
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Run CMD by the shell with the address in $uri, and end with its exit status
    #[arg(long, value_name = "CMD")]
    pub(crate) run: Option<String>,
    /// Bypass the page cache (O_DIRECT)
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(crate) direct: Use,
}

/// Say what this machine supports.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// A file or folder whose direct I/O is looked at
    #[arg(value_name = "PATH", default_value = ".")]
    pub(crate) path: PathBuf,
}

/// Back up a self-made image while it is written to, and prove the copy.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Length of the image
    #[arg(long, default_value = "1G", value_parser = parse_bytes)]
    pub(crate) size: u64,
    /// How long the guest writes before the backup
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(0..=60))]
    pub(crate) seconds: u64,
    #[command(flatten)]
    pub(crate) bounds: Bounds,
    /// Keep the folder with image and copy
    #[arg(long)]
    pub(crate) keep: bool,
    /// Instead, kill a backup half way and show that nothing passes for complete
    #[arg(long)]
    pub(crate) kill: bool,
}
