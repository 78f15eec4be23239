//! Nodes without children: files, devices, NBD exports, and nodes that store nothing.

use std::{
    fs, io,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use ::nbd::{NbdAddress, NbdUri};
use block::{
    BlockError, NodeDriver,
    nodes::{
        FileNode, FileOptions, LockTerm, NbdNode, NbdOptions, NullNode, NullOptions,
        OnOffAuto as Tristate, Sharing,
    },
};
use qmp::QmpError;

use super::{
    open::{Common, Opened, Opening},
    options::{
        BlockdevAioOptions, BlockdevOptionsFile, BlockdevOptionsNbd, BlockdevOptionsNull,
        OnOffAuto, SocketAddress, SocketAddressKind,
    },
};
use crate::daemon::error::{self, IntoQmp};

/// Length of a null node unless told otherwise.
const NULL_BYTES: i64 = 1 << 30;
/// Longest null node: what clients know of lengths ends a gibibyte before the numbers do.
const NULL_BYTES_MAX: u64 = 0x7fff_ffff_c000_0000;

/// What a path has to lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A regular file.
    File,
    /// A device.
    HostDevice,
}

pub(super) async fn file(
    opening: &Opening<'_>,
    file: BlockdevOptionsFile,
    kind: Kind,
) -> Result<Opened, QmpError> {
    let common = opening.common;
    let options = file_options(&file, &common)?;
    let builder = opening.build()?;
    let auto_read_only = common.auto_read_only;
    let cx = &opening.daemon.context;
    let opened = cx.blocking(move || {
        check_kind(&options.path, kind)?;
        let driver = match FileNode::open(&options) {
            Err(error) if auto_read_only && forbids_writes(&error) => {
                FileNode::open(&FileOptions {
                    read_only: true,
                    ..options.clone()
                })
            }
            result => result,
        };
        driver.map_err(|error| explain(error, &options.path))
    });
    let driver = opened.await?;
    Ok(Opened {
        node: builder.finish(driver),
        filename: Some(file.filename),
    })
}

/// Refuses a path to something of another kind; what cannot be looked at is left to whoever opens it.
fn check_kind(path: &Path, kind: Kind) -> Result<(), QmpError> {
    let Ok(facts) = fs::metadata(path) else {
        return Ok(());
    };
    let name = path.display();
    match kind {
        Kind::File if facts.is_dir() => {
            let what = format!("Could not open '{name}'");
            Err(error::system(
                what,
                &io::Error::from_raw_os_error(libc::EISDIR),
            ))
        }
        Kind::File if !facts.is_file() => {
            let text = format!("'file' driver requires '{name}' to be a regular file");
            Err(QmpError::generic(text))
        }
        Kind::HostDevice if !facts.file_type().is_block_device() => {
            let device = "either a character or block device";
            let text = format!("'host_device' driver requires '{name}' to be {device}");
            Err(QmpError::generic(text))
        }
        Kind::File | Kind::HostDevice => Ok(()),
    }
}

/// What the options of a node mean for its file.
pub(super) fn file_options(
    file: &BlockdevOptionsFile,
    common: &Common,
) -> Result<FileOptions, QmpError> {
    if file.aio == Some(BlockdevAioOptions::Native) && !common.direct {
        let text =
            "aio=native was specified, but it requires cache.direct=on, which was not specified.";
        return Err(QmpError::generic(text));
    }
    Ok(FileOptions {
        path: PathBuf::from(&file.filename),
        read_only: common.node.read_only,
        direct: if common.direct {
            Tristate::On
        } else {
            Tristate::Off
        },
        locking: match file.locking {
            None | Some(OnOffAuto::Auto) => Tristate::Auto,
            Some(OnOffAuto::On) => Tristate::On,
            Some(OnOffAuto::Off) => Tristate::Off,
        },
        sharing: if common.force_share {
            Sharing::Everyone
        } else {
            Sharing::Readers
        },
        lock_term: LockTerm::WhileUsed,
    })
}

pub(super) fn forbids_writes(error: &BlockError) -> bool {
    matches!(
        error.errno(),
        Some(libc::EACCES | libc::EROFS | libc::EPERM)
    )
}

/// What clients are used to hear of a file that cannot be opened.
pub(super) fn explain(error: BlockError, path: &Path) -> QmpError {
    match error.errno() {
        Some(errno) => {
            let what = format!("Could not open '{}'", path.display());
            error::system(what, &io::Error::from_raw_os_error(errno))
        }
        None => error.into_qmp(),
    }
}

pub(super) fn null(
    opening: &Opening<'_>,
    null: BlockdevOptionsNull,
    filename: &str,
) -> Result<Opened, QmpError> {
    let is_plain = null.size.is_none() && null.latency_ns.is_none() && null.read_zeroes.is_none();
    let len_bytes = null.size.unwrap_or(NULL_BYTES);
    let len_bytes = u64::try_from(len_bytes)
        .map_err(|_| QmpError::generic("Parameter 'size' expects a non-negative value"))?;
    if len_bytes > NULL_BYTES_MAX {
        let text = "Could not refresh total sector count: File too large";
        return Err(QmpError::generic(text));
    }
    let driver = NullNode::new(NullOptions {
        len_bytes,
        latency_ns: null.latency_ns.unwrap_or(0),
        read_zeroes: null.read_zeroes.unwrap_or(false),
    });
    Ok(Opened {
        node: opening.build()?.finish(driver),
        filename: is_plain.then(|| filename.to_owned()),
    })
}

pub(super) async fn nbd(
    opening: &Opening<'_>,
    nbd: BlockdevOptionsNbd,
) -> Result<Opened, QmpError> {
    if nbd.tls_creds.is_some() {
        return Err(QmpError::generic("TLS is not supported"));
    }
    let builder = opening.build()?;
    let server = NbdUri {
        address: address(&nbd.server)?,
        export: nbd.export.unwrap_or_default(),
    };
    let (filename, place) = (server.to_string(), server.address.to_string());
    let ns = |seconds: Option<u32>| u64::from(seconds.unwrap_or(0)) * 1_000_000_000;
    let options = NbdOptions {
        read_only: opening.common.node.read_only,
        reconnect_delay_ns: ns(nbd.reconnect_delay),
        open_timeout_ns: ns(nbd.open_timeout),
        ..NbdOptions::new(server)
    };
    let driver = NbdNode::open(&opening.daemon.context, &options).await;
    let driver = driver.map_err(|error| match error.errno() {
        Some(errno) if error.to_string().starts_with("cannot connect") => {
            let what = format!("Failed to connect to '{place}'");
            error::system(what, &io::Error::from_raw_os_error(errno))
        }
        _ => error.into_qmp(),
    })?;
    if driver.limits().read_only && !options.read_only && !opening.common.auto_read_only {
        let text = "request on write denied without write permission";
        return Err(QmpError::generic(text));
    }
    Ok(Opened {
        node: builder.finish(driver),
        filename: Some(filename),
    })
}

fn address(server: &SocketAddress) -> Result<NbdAddress, QmpError> {
    match &server.r#type {
        SocketAddressKind::Unix(unix) => Ok(NbdAddress::Unix(PathBuf::from(&unix.path))),
        SocketAddressKind::Inet(inet) => {
            let port = inet.port.parse::<u16>();
            let port = port
                .map_err(|_| QmpError::generic(format!("invalid port number '{}'", inet.port)))?;
            Ok(match inet.host.parse() {
                Ok(ip) => NbdAddress::Tcp(std::net::SocketAddr::new(ip, port)),
                Err(_) => NbdAddress::Host {
                    name: inet.host.clone(),
                    port,
                },
            })
        }
    }
}
