//! Starting an engine for one command, and saying plainly what is missing when it cannot start.

use std::path::Path;

use block::nodes::file::{FileOptions, OnOffAuto};
use block::{BlockError, Node};
use longshore::{Engine, EngineConfig, OpenedFile};

use super::{
    backup::refuse_address,
    exit::{self, Exit, Failure},
    far,
};

const DOCTOR: &str = "`longshore doctor` says what this machine supports.";

/// The engine of one command.
pub(crate) fn start() -> Result<Engine, Failure> {
    Engine::start(EngineConfig::default()).map_err(|error| {
        let mut text = format!("cannot start: {error}");
        let mut errno = None;
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            if let Some(error) = error.downcast_ref::<std::io::Error>() {
                errno = error.raw_os_error();
            }
            cause = error.source();
        }
        let advice = exit::advice_for(errno).unwrap_or_else(|| DOCTOR.to_owned());
        Failure {
            errno,
            ..Failure::new(Exit::Unsupported, text).advise(advice)
        }
    })
}

/// An image that was opened for reading.
pub(crate) struct Image {
    /// Its node.
    pub(crate) node: Node,
    /// Its length.
    pub(crate) len_bytes: u64,
    /// Whether a copy in it may be shorter than it is: its length is given by others.
    pub(crate) is_given: bool,
}

/// Opens an image, here or at an NBD server, for reading only.
pub(crate) fn open_reader(
    engine: &Engine,
    name: &str,
    path: &Path,
    direct: OnOffAuto,
) -> Result<Image, Failure> {
    if let Some(uri) = far::uri(path)? {
        let node = far::open_reader(engine, name, uri)?;
        return Ok(Image {
            len_bytes: node.len_bytes(),
            node,
            is_given: true,
        });
    }
    refuse_address(path)?;
    let options = FileOptions {
        read_only: true,
        direct,
        ..FileOptions::new(path)
    };
    let opened = open(engine, name, &options)?;
    Ok(Image {
        len_bytes: opened.len_bytes,
        is_given: opened.is_block_device,
        node: opened.node,
    })
}

/// Opens an image as the node `name`.
pub(crate) fn open(
    engine: &Engine,
    name: &str,
    options: &FileOptions,
) -> Result<OpenedFile, Failure> {
    engine
        .open_file(Some(name), options)
        .map_err(|error| failure(name, &error))
}

/// Why the image that is to be the node `name` cannot be used.
pub(crate) fn failure(name: &str, error: &BlockError) -> Failure {
    Failure::block(format!("cannot use the {name}"), error)
}
