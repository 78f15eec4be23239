//! One copy of ours, in a process of its own; see `jobs/copies`.

use std::{path::Path, time::Instant};

use aio::{Config, IoThread};
use benches::cpu_time;
use block::nodes::FileOptions;
use longshore::{BackupOptions, Engine, EngineConfig};

use crate::process::{print, status_kib};

/// What tells the program to make one copy.
pub(crate) const FLAG: &str = "--one-copy";

/// Copies and prints what it took; `[source, target, contexts]`.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let [source, target, contexts] = args else {
        return Err("three arguments are needed".to_owned());
    };
    let engine = Engine::start(EngineConfig::default()).map_err(|error| error.to_string())?;
    let open = |path: &str| {
        let opened = engine.open_file(None, &FileOptions::new(Path::new(path)));
        opened
            .map(|opened| opened.node)
            .map_err(|error| error.to_string())
    };
    let (source, target) = (open(source)?, open(target)?);
    let mut options = BackupOptions::new("copy");
    let other = IoThread::start(Config::default()).map_err(|error| error.to_string())?;
    if contexts == "2" {
        options.contexts = vec![engine.handle().clone(), other.handle().clone()];
    }
    let (start, cpu) = (Instant::now(), cpu_time());
    let backup = engine.backup(&source, &target, options);
    let backup = backup.map_err(|error| error.to_string())?;
    let outcome = backup.job().wait_blocking().into_result();
    outcome.map_err(|error| error.to_string())?;
    print("wall_s", start.elapsed().as_secs_f64());
    print("cpu_s", (cpu_time() - cpu).as_secs_f64());
    print("peak_mib", status_kib("self", "VmHWM:") / 1024.0);
    Ok(())
}
