//! Nodes without children: files, devices, NBD exports, and nodes that store nothing.

use std::{io, path::PathBuf};

use ::nbd::{NbdAddress, NbdUri};
use block::{
    BlockError, ErrorKind, NodeDriver,
    nodes::{
        FileNode, FileOptions, NbdNode, NbdOptions, NullNode, NullOptions, OnOffAuto as Tristate,
        Sharing,
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
    if file.aio == Some(BlockdevAioOptions::Native) && !common.direct {
        let text =
            "aio=native was specified, but it requires cache.direct=on, which was not specified.";
        return Err(QmpError::generic(text));
    }
    let builder = opening.build()?;
    let options = file_options(&file, &common);
    let auto_read_only = common.auto_read_only;
    let cx = &opening.daemon.context;
    let opened = cx.blocking(move || match open(&options) {
        Err(error) if auto_read_only && forbids_writes(&error) => open(&FileOptions {
            read_only: true,
            ..options
        }),
        result => result,
    });
    let name = &file.filename;
    let driver = opened.await.map_err(|error| explain(error, name, kind))?;
    match (kind, driver.is_block_device()) {
        (Kind::File, true) => Err(wrong_kind(name, kind)),
        (Kind::HostDevice, false) => Err(wrong_kind(name, kind)),
        _ => Ok(Opened {
            node: builder.finish(driver),
            filename: Some(file.filename),
        }),
    }
}

fn open(options: &FileOptions) -> Result<FileNode, BlockError> {
    FileNode::open(options)
}

fn file_options(file: &BlockdevOptionsFile, common: &Common) -> FileOptions {
    FileOptions {
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
    }
}

fn forbids_writes(error: &BlockError) -> bool {
    matches!(
        error.errno(),
        Some(libc::EACCES | libc::EROFS | libc::EPERM)
    )
}

/// What clients are used to hear of a file that cannot be opened.
fn explain(error: BlockError, name: &str, kind: Kind) -> QmpError {
    match error.kind() {
        ErrorKind::Invalid => wrong_kind(name, kind),
        ErrorKind::Locked => QmpError::generic(format!("Failed to get \"write\" lock: {error}")),
        _ => match error.errno() {
            Some(errno) => {
                let what = format!("Could not open '{name}'");
                error::system(what, &io::Error::from_raw_os_error(errno))
            }
            None => error.into_qmp(),
        },
    }
}

fn wrong_kind(name: &str, kind: Kind) -> QmpError {
    QmpError::generic(match kind {
        Kind::File => format!("'file' driver requires '{name}' to be a regular file"),
        Kind::HostDevice => {
            format!(
                "'host_device' driver requires '{name}' to be either a character or block device"
            )
        }
    })
}

pub(super) fn null(
    opening: &Opening<'_>,
    null: BlockdevOptionsNull,
    filename: &str,
) -> Result<Opened, QmpError> {
    let len_bytes = null.size.unwrap_or(NULL_BYTES);
    let len_bytes = u64::try_from(len_bytes)
        .map_err(|_| QmpError::generic("Parameter 'size' expects a non-negative value"))?;
    let driver = NullNode::new(NullOptions {
        len_bytes,
        latency_ns: null.latency_ns.unwrap_or(0),
        read_zeroes: null.read_zeroes.unwrap_or(false),
    });
    Ok(Opened {
        node: opening.build()?.finish(driver),
        filename: Some(filename.to_owned()),
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
    let filename = server.to_string();
    let ns = |seconds: Option<u32>| u64::from(seconds.unwrap_or(0)) * 1_000_000_000;
    let options = NbdOptions {
        read_only: opening.common.node.read_only,
        reconnect_delay_ns: ns(nbd.reconnect_delay),
        open_timeout_ns: ns(nbd.open_timeout),
        ..NbdOptions::new(server)
    };
    let driver = NbdNode::open(&opening.daemon.context, &options).await;
    let driver = driver.map_err(IntoQmp::into_qmp)?;
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
