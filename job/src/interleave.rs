//! Models: jobs under schedules of shuttle, which switches threads at every lock and hand-over.
//!
//! Each model runs thousands of times, half of them with random switches and half with few switches
//! at random places, from a fresh seed that is printed. docs/testing.md tells how to have the same
//! again. What holds after each run, whatever it did, is checked by [`Stage::finish`].

mod discard;
mod ends;
mod moves;
mod mutants;
mod pauses;
mod stage;

use std::{
    hash::{BuildHasher, RandomState},
    str::FromStr,
};

use shuttle::{
    Config, FailurePersistence, MaxSteps, Runner,
    scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler},
};

/// How many schedules each model is run under, unless `INTERLEAVE_SCHEDULES` says otherwise.
const SCHEDULES: usize = 8000;

/// Switches at moments when nobody has come to wait, in the schedules with few of them.
const FEW: usize = 3;

/// Runs `model` under many schedules, and tells how many there were.
#[expect(
    clippy::print_stdout,
    reason = "CI shows the seeds and adds up the schedules"
)]
fn explore(model: impl Fn() + Send + Sync + Clone + 'static) {
    if let Some(path) = std::env::var_os("INTERLEAVE_REPLAY") {
        let mut replay = ReplayScheduler::new_from_file(path).expect("a schedule lies there");
        // It ends at the failure, and a few steps follow that while the model is taken down.
        replay.set_allow_incomplete();
        run(replay, model);
        return;
    }
    let schedules = variable("INTERLEAVE_SCHEDULES").unwrap_or(SCHEDULES);
    let seed = variable("SHUTTLE_RANDOM_SEED").unwrap_or_else(fresh_seed);
    let name = test_name();
    println!("exploring {name}: seed {seed}");
    let few = PctScheduler::new_from_seed(seed, FEW + 1, schedules / 2);
    let many = RandomScheduler::new_from_seed(seed, schedules - schedules / 2);
    let ran = run(few, model.clone()) + run(many, model);
    println!("explored {name}: {ran} schedules");
}

fn run(scheduler: impl Scheduler + 'static, model: impl Fn() + Send + Sync + 'static) -> usize {
    let mut config = Config::new();
    config.stack_size = 256 << 10;
    if test_name().contains("shuttle_mutant_") {
        // Its failure is what is wanted, and nothing to be had again.
        config.failure_persistence = FailurePersistence::None;
    }
    // Many times what the longest of them takes, unless it turns in circles.
    config.max_steps = MaxSteps::FailAfter(20_000);
    Runner::new(scheduler, config).run(model)
}

fn variable<T: FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    let value = text.parse().ok();
    Some(value.expect("the variables of models are numbers"))
}

/// The test on this thread, which libtest calls after it.
fn test_name() -> String {
    let thread = std::thread::current();
    thread.name().unwrap_or("a model").to_owned()
}

fn fresh_seed() -> u64 {
    RandomState::new().hash_one(std::process::id())
}
