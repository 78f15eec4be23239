//! `cargo xtask sanitize`: the tests of `aio` where they are watched: sanitizers and valgrind.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::test::{self, Summary};
use crate::workspace::{Workspace, cargo_program};

/// The crate with `unsafe` in it.
const PACKAGE: &str = "aio";
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// A run takes minutes at most, also where everything has to be built.
const SANITIZER_S: u32 = 20 * 60;
const VALGRIND_S: u32 = 30 * 60;

/// The ways to watch, by the names of the command line.
const WATCHES: [(&str, Watch); 3] = [
    ("address", address),
    ("thread", thread),
    ("valgrind", valgrind),
];

type Watch = fn(&Workspace) -> Result<Watched>;

/// How it went.
pub(crate) enum Watched {
    Ran(Summary),
    /// Could not be done here, and why.
    Skipped(String),
}

/// Runs the tests in the ways that `args` name, or in all; the last lines say how each went.
///
/// # Errors
///
/// Fails for a name that is none, and if cargo cannot be started.
pub(crate) fn run(workspace: &Workspace, args: &[&str]) -> Result<ExitCode> {
    let names = || WATCHES.iter().map(|(name, _)| *name);
    if let Some(unknown) = args.iter().find(|arg| names().all(|name| name != **arg)) {
        bail!(
            "`{unknown}` is none of {}",
            names().collect::<Vec<_>>().join(", ")
        );
    }
    let mut has_failed = false;
    let mut lines = Vec::new();
    for (name, watch) in WATCHES {
        if !args.is_empty() && !args.contains(&name) {
            continue;
        }
        println!("\n==> {name}");
        let line = match watch(workspace)? {
            Watched::Ran(summary) => {
                print!("{summary}");
                has_failed |= summary.failed() > 0 || summary.passed() == 0;
                summary.counts()
            }
            Watched::Skipped(reason) => format!("SKIPPED: {reason}"),
        };
        lines.push(format!("{name:<10} {line}"));
    }
    println!("\n{}", lines.join("\n"));
    Ok(ExitCode::from(u8::from(has_failed)))
}

/// Memory that is used after it was freed, or past its end, or never freed.
///
/// Blind where the kernel writes: what a ring does after a buffer is gone shows only if the memory
/// belongs to another by then. Dropping requests in flight has tests of its own.
pub(crate) fn address(workspace: &Workspace) -> Result<Watched> {
    let Some(_) = nightly_sysroot()? else {
        return Ok(Watched::Skipped(NO_NIGHTLY.to_owned()));
    };
    let mut command = nightly_tests(workspace, "address");
    command.env(
        "ASAN_OPTIONS",
        "detect_leaks=1:detect_stack_use_after_return=1:strict_init_order=1",
    );
    test::run_cargo(&mut command).map(Watched::Ran)
}

/// Races. The standard library is built along, since its locks count as well.
///
/// It does not understand fences: what only they order looks like a race if plain memory is
/// involved. Ours order atomics only, so it may stay blind to a missing fence, which loom is for,
/// but it tells no tales.
fn thread(workspace: &Workspace) -> Result<Watched> {
    let Some(sysroot) = nightly_sysroot()? else {
        return Ok(Watched::Skipped(NO_NIGHTLY.to_owned()));
    };
    if !sysroot.join("lib/rustlib/src/rust/library").exists() {
        let reason = "the standard library's source is not installed \
                      (`rustup component add rust-src --toolchain nightly`)";
        return Ok(Watched::Skipped(reason.to_owned()));
    }
    let mut command = nightly_tests(workspace, "thread");
    command.arg("-Zbuild-std");
    test::run_cargo(&mut command).map(Watched::Ran)
}

/// Memory that is used before it was written, too, on the epoll backend.
///
/// Valgrind runs one thread at a time, and takes `io_uring_enter` for a call that never waits: who
/// waits there keeps the others from running, for ever.
fn valgrind(workspace: &Workspace) -> Result<Watched> {
    if !is_there("valgrind") {
        let reason = "valgrind is not installed (Debian package valgrind)";
        return Ok(Watched::Skipped(reason.to_owned()));
    }
    let mut command = within(VALGRIND_S, &cargo_program());
    command.current_dir(&workspace.root);
    command.args([
        "test", "--locked", "--lib", "-p", PACKAGE, "--target", TARGET, "--",
    ]);
    for name in FLOODS {
        command.args(["--skip", name]);
    }
    command
        .env("LONGSHORE_AIO", "epoll")
        // A hundred times slower.
        .env("PROPTEST_CASES", "8")
        .env(
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER",
            "valgrind -q --fair-sched=yes --error-exitcode=99",
        )
        .env("CARGO_TARGET_DIR", workspace.target_dir.join("sanitize"));
    test::run_cargo(&mut command).map(Watched::Ran)
}

/// Tests in which threads post without end until another has had enough: one at a time they take for ever.
const FLOODS: [&str; 3] = [
    "nobody_starves_beside_a_callback_that_reschedules_itself",
    "a_task_hops_ten_thousand_times_while_others_wake_it",
    "a_stress_of_random_operations_loses_nothing_and_leaks_nothing",
];

const NO_NIGHTLY: &str =
    "there is no nightly toolchain (`rustup toolchain install nightly --profile minimal`)";

/// `cargo test` of the nightly toolchain, with the sanitizer `name`.
fn nightly_tests(workspace: &Workspace, name: &str) -> Command {
    let mut command = within(SANITIZER_S, "rustup");
    command
        .current_dir(&workspace.root)
        .args(["run", "nightly", "cargo", "test", "--locked"])
        .args(["--lib", "--tests", "-p", PACKAGE, "--target", TARGET])
        // Those of the toolchain that runs us.
        .env_remove("CARGO")
        .env_remove("RUSTC")
        .env_remove("RUSTDOC")
        .env("RUSTFLAGS", format!("-Zsanitizer={name}"))
        .env("RUST_BACKTRACE", "0")
        // Each has an ABI of its own.
        .env(
            "CARGO_TARGET_DIR",
            workspace.target_dir.join(format!("sanitize-{name}")),
        );
    command
}

/// Runs `program`, and ends it if that takes longer than `seconds`: what is watched may hang.
fn within(seconds: u32, program: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", &seconds.to_string(), program]);
    command
}

/// Where the nightly toolchain is, if there is one.
fn nightly_sysroot() -> Result<Option<PathBuf>> {
    if !is_there("rustup") {
        return Ok(None);
    }
    let output = Command::new("rustup")
        .args(["run", "nightly", "rustc", "--print", "sysroot"])
        .env_remove("RUSTUP_TOOLCHAIN")
        .stderr(Stdio::null())
        .output()
        .context("cannot start rustup")?;
    let path = String::from_utf8_lossy(&output.stdout);
    Ok(output
        .status
        .success()
        .then(|| Path::new(path.trim()).to_owned()))
}

fn is_there(program: &str) -> bool {
    let version = Command::new(program).arg("--version").output();
    version.is_ok_and(|output| output.status.success())
}
