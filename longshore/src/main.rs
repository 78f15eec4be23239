//! The `longshore` command: hands its arguments to [`cli`] and ends with the status that comes back.

#![forbid(unsafe_code)]
mod cli;
mod panics;

fn main() -> std::process::ExitCode {
    panics::name_jobs();
    cli::main()
}
