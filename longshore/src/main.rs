//! The `longshore` command: hands its arguments to [`cli`] and ends with the status that comes back.

#![forbid(unsafe_code)]
mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
