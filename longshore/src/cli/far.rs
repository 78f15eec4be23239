//! NBD exports named on the command line: what stands there for a path is an address.

use std::path::Path;

use block::{Node, nodes::nbd::NbdOptions};
use longshore::{
    Engine,
    export::{NbdUri, UriError},
};

use super::{
    engine,
    exit::{Exit, Failure},
};

/// The address, if `path` is written as one of an NBD server.
pub(crate) fn uri(path: &Path) -> Result<Option<NbdUri>, Failure> {
    let text = path.to_string_lossy();
    if !text.starts_with("nbd") || !text.contains("://") {
        return Ok(None);
    }
    let parsed = text.parse();
    let usage = |error: UriError| Failure::new(Exit::Usage, error.to_string());
    parsed.map(Some).map_err(usage)
}

/// Connects to an export, which becomes the node `name`.
pub(crate) fn open(engine: &Engine, name: &str, options: &NbdOptions) -> Result<Node, Failure> {
    engine
        .open_nbd(Some(name), options)
        .map_err(|error| engine::failure(name, &error))
}

/// Connects to an export for reading only.
pub(crate) fn open_reader(engine: &Engine, name: &str, uri: NbdUri) -> Result<Node, Failure> {
    let options = NbdOptions {
        read_only: true,
        ..NbdOptions::new(uri)
    };
    open(engine, name, &options)
}
