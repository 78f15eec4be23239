//! Numbers on the command line of a task.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

/// Sets each number whose option is among the arguments; there may be no others.
pub(crate) fn read_numbers(args: &[&str], options: &mut [(&str, &mut u64)]) -> Result<()> {
    let mut args = args;
    while let [name, value, rest @ ..] = args {
        let Some((_, number)) = options.iter_mut().find(|(option, _)| option == name) else {
            break;
        };
        let not_a_number = || format!("{name} takes a number");
        **number = value.parse().with_context(not_a_number)?;
        args = rest;
    }
    if !args.is_empty() {
        bail!("unknown options: {}", args.join(" "));
    }
    Ok(())
}

/// A seed that no run before had.
pub(crate) fn fresh_seed() -> Result<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let since = since.context("the clock stands before 1970")?;
    Ok(since.as_secs() << 30 ^ u64::from(since.subsec_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_set_by_name_and_nothing_else_is_taken() {
        let (mut steps, mut seed) = (1, 2);
        let mut read = |args: &[&str]| {
            let options = &mut [("--steps", &mut steps), ("--seed", &mut seed)];
            read_numbers(args, options).map_err(|error| error.to_string())
        };

        let outcomes = [
            read(&["--seed", "7"]),
            read(&["--steps", "many"]),
            read(&["--steps"]),
            read(&["--speed", "3"]),
        ];

        let want = [
            Ok(()),
            Err("--steps takes a number".to_owned()),
            Err("unknown options: --steps".to_owned()),
            Err("unknown options: --speed 3".to_owned()),
        ];
        assert_eq!(outcomes, want);
        assert_eq!((steps, seed), (1, 7));
    }
}
