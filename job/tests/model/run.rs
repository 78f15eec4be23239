//! The runs: how many steps, from which seed.

use std::{
    cell::Cell,
    fmt::{self, Debug},
    io::{self, Write},
    panic,
    sync::Once,
    time::{SystemTime, UNIX_EPOCH},
};

use proptest::{
    prop_assert,
    strategy::{Just, Strategy},
    test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner},
};

use crate::{
    act::{Act, PLACES, Verb, runs},
    burst::{check, turns},
    reference::Model,
    search::follow,
    world::World,
};

/// How many acts a test run does unless told otherwise.
const STEPS: u64 = 5_000;
/// How many worlds a seed is good for.
const BATCH: u32 = 64;

/// Has the product and the model do the same; how many acts meant anything.
fn compare(acts: &[(Act, ())]) -> Result<u64, TestCaseError> {
    let mut world = World::new();
    let mut model = Model::new();
    let mut steps = 0;
    for (at, &(act, ())) in acts.iter().enumerate() {
        if !model.can(act) {
            continue;
        }
        steps += 1;
        if let Act::Create(_, spec) = act {
            let group = spec.group.filter(|&group| model.needs_group(group));
            group.into_iter().for_each(|group| world.renew(group));
        }
        let mut next = model.clone();
        let want = next.act(act);
        let said = world.act(act);
        let waits = matches!(act, Act::Do(_, Verb::CancelSync | Verb::CompleteSync));
        if let (Act::Do(place, _), false) = (act, waits) {
            let statuses = [world.status(place), next.status(place)];
            let is_same = statuses[0] == statuses[1];
            prop_assert!(is_same, "act {at} leads to {statuses:?} at once");
        }
        world.settle();
        world.check_ids();
        if let Err(text) = follow(&mut next, &world.log.take(), &world.look()) {
            return Err(TestCaseError::fail(format!("act {at}: {text}")));
        }
        let want = match act {
            Act::Do(place, _) if waits && want.is_ok() => {
                next.waited(place).expect("it was tried before")
            }
            _ => want,
        };
        if said != want {
            let text = format!("act {at}: the product says {said:?}, the model {want:?}");
            return Err(TestCaseError::fail(text));
        }
        for place in 0..PLACES {
            let ((must, may), idles) = (next.idles(place), world.take_idles(place));
            if idles == 0 && must || idles > 0 && !may {
                let text = format!("act {at}: the job in place {place} was idle {idles} times");
                return Err(TestCaseError::fail(text));
            }
        }
        model = next;
    }
    Ok(steps)
}

thread_local! {
    /// That of the batch at hand, until it was told.
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Has the first panic of a batch say how to have it again: it may be the last word of the process.
fn tell_the_seed_of_a_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if let Some(seed) = SEED.take() {
                say(format_args!("model: seed {seed} finds this:"));
            }
            usual(info);
        }));
    });
}

/// Runs `check` on random acts until it has done so many steps.
///
/// Batch after batch has a seed of its own, so the one that fails is found again at once.
fn run<T: Strategy>(
    beside: fn() -> T,
    check: impl Fn(&[(Act, T::Value)]) -> Result<u64, TestCaseError>,
) {
    let strategy = runs(beside);
    let (steps, first) = (wanted_steps(), seed());
    say(format_args!("model: seed {first}, {steps} steps"));
    tell_the_seed_of_a_panic();
    let done = Cell::new(0_u64);
    for seed in first.. {
        SEED.set(Some(seed));
        if done.get() >= steps {
            break;
        }
        // What is done after that only makes the failure shorter.
        let has_failed = Cell::new(false);
        let ran = runner(seed).run(&strategy, |acts| {
            let checked = check(&acts);
            has_failed.set(has_failed.get() || checked.is_err());
            if !has_failed.get() {
                done.set(done.get() + checked.as_ref().map_or(0, |steps| *steps));
            }
            checked.map(drop)
        });
        let failed = ran.as_ref().err().map(draw);
        let step = done.get();
        assert!(
            ran.is_ok(),
            "seed {seed}, before step {step}: {}",
            failed.unwrap_or_default()
        );
    }
    say(format_args!("model: {} steps done", done.get()));
}

/// Also if the test passes, or ends the process.
fn say(line: fmt::Arguments<'_>) {
    // Nothing depends on it.
    let _ = writeln!(io::stderr(), "{line}");
}

fn runner(seed: u64) -> TestRunner {
    let config = Config {
        cases: BATCH,
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    TestRunner::new_with_rng(config, rng)
}

/// What went wrong, and the shortest run that shows it, one act in a line.
fn draw<T: Debug>(failure: &TestError<Vec<T>>) -> String {
    match failure {
        TestError::Fail(reason, acts) => {
            let lines = acts.iter().map(|act| format!("  {act:?}\n"));
            format!("{reason}\n{}", lines.collect::<String>())
        }
        TestError::Abort(reason) => reason.to_string(),
    }
}

fn wanted_steps() -> u64 {
    let wanted = std::env::var("LONGSHORE_MODEL_STEPS").ok();
    wanted.map_or(STEPS, |text| text.parse().expect("a number of steps"))
}

/// The seed that was asked for, else a fresh one.
fn seed() -> u64 {
    if let Ok(text) = std::env::var("LONGSHORE_MODEL_SEED") {
        return text.parse().expect("a seed is a number");
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let since = since.expect("the clock stands after 1970");
    since.as_secs() << 30 ^ u64::from(since.subsec_nanos())
}

#[test]
fn jobs_that_are_given_time_do_what_the_reference_says() {
    run(|| Just(()), compare);
}

#[test]
fn jobs_in_a_hurry_still_follow_the_tables_and_end_once() {
    run(turns, check);
}
