//! Starting an engine for one command, and saying plainly what is missing when it cannot start.

use std::path::Path;

use block::BlockError;
use block::nodes::file::{FileOptions, OnOffAuto};
use longshore::{Engine, EngineConfig, OpenedFile};

use super::exit::{self, Exit, Failure};

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

/// Opens an image for reading only.
pub(crate) fn open_reader(
    engine: &Engine,
    name: &str,
    path: &Path,
    direct: OnOffAuto,
) -> Result<OpenedFile, Failure> {
    let options = FileOptions {
        read_only: true,
        direct,
        ..FileOptions::new(path)
    };
    open(engine, name, &options)
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
