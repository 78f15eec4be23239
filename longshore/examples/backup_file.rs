//! Backs up one raw image to another of the same length: `cargo run --release --example backup_file -- SRC DST`.

#![expect(clippy::print_stdout, reason = "an example shows what it did")]

use std::{env, error::Error, fs::File};

use block::nodes::file::FileOptions;
use longshore::{BackupOptions, Engine, EngineConfig};

fn main() -> Result<(), Box<dyn Error>> {
    let (Some(source), Some(target)) = (env::args().nth(1), env::args().nth(2)) else {
        return Err("usage: backup_file SRC DST".into());
    };
    let len_bytes = File::open(&source)?.metadata()?.len();
    File::create(&target)?.set_len(len_bytes)?;

    let engine = Engine::start(EngineConfig::default())?;
    let read_only = FileOptions {
        read_only: true,
        ..FileOptions::new(source)
    };
    let source = engine.open_file(Some("source"), &read_only)?;
    let target = engine.open_file(Some("target"), &FileOptions::new(target))?;
    let options = BackupOptions {
        target_content: block::copy::TargetContent::Zero,
        ..BackupOptions::new("backup")
    };
    let backup = engine.backup(&source.node, &target.node, options)?;
    backup.job().wait_blocking().into_result()?;

    println!("{}: {:?}", engine.describe(), backup.report());
    Ok(())
}
