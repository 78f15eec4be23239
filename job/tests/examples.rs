//! Every example comes to its end, and says what it should have done.

#![expect(clippy::unwrap_used, reason = "in a test, an error is a failure")]

use std::{
    env, fs,
    process::{Command, Stdio},
};

// The examples are parts of this program, so that they are never older than it.
#[path = "../examples/hash_file.rs"]
mod hash_file;
#[path = "../examples/transaction.rs"]
mod transaction;

/// What this program is when it runs itself: the example of that name.
const EXAMPLE: &str = "JOB_EXAMPLE";

#[test]
fn is_an_example_when_asked_to_be() {
    match env::var(EXAMPLE).as_deref() {
        Ok("hash_file") => hash_file::main().unwrap(),
        Ok("transaction") => transaction::main().unwrap(),
        _ => {}
    }
}

/// The lines that an example prints, without those of the test around it.
fn lines_of(example: &str) -> Vec<String> {
    let child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "is_an_example_when_asked_to_be", "--nocapture"])
        .env(EXAMPLE, example)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let output = String::from_utf8(child.stdout).unwrap();
    assert!(
        child.status.success(),
        "{example}: {}\n{output}",
        child.status
    );
    let lines = output.lines().map(str::trim);
    let is_libtest = |line: &&str| line.starts_with("running ") || line.starts_with("test ");
    let of_example = lines.filter(|line| !line.is_empty() && !is_libtest(line));
    of_example.map(str::to_owned).collect()
}

#[test]
fn a_file_is_hashed_with_progress_a_pause_and_a_cancel() {
    // It hashes its own program, which is this one.
    let bytes = fs::read(env::current_exe().unwrap()).unwrap();
    let fnv1a = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, fnv1a);
    let lines = lines_of("hash_file");

    let half = |line: &String| {
        let words = line.strip_prefix("first: ")?.strip_suffix(" bytes")?;
        let (current, total) = words.split_once(" of ")?;
        Some((current.parse::<usize>().ok()?, total.parse::<usize>().ok()?))
    };
    let (current, total) = lines.iter().find_map(half).expect("it tells the middle");
    assert_eq!(total, bytes.len());
    assert!(
        current >= total / 2 && current < total,
        "{current} of {total}"
    );

    let told = |line: &&String| !line.starts_with("first: ");
    let want = [
        "first created",
        "first running",
        "first paused",
        "stands still: true",
        "first running",
        "first waiting",
        "first pending",
        "first COMPLETED",
        "first concluded",
        "first null",
        &format!("{hash:016x}  {}", env::current_exe().unwrap().display()),
        "second created",
        "second running",
        "second aborting",
        "second CANCELLED",
        "second concluded",
        "second null",
        "second: Operation canceled",
    ];
    assert_eq!(lines.iter().filter(told).collect::<Vec<_>>(), want);
}

#[test]
fn of_three_files_all_are_published_or_none() {
    let lines = lines_of("transaction");
    let wait = |line: &&String| !line.ends_with(" waiting");
    // In which order bodies end is theirs to decide.
    let (bodies, rest) = lines.split_at(9);
    let mut bodies = bodies.to_vec();
    bodies.sort();
    let mut started = Vec::new();
    for name in ["one", "three", "two"] {
        started.extend(["created", "running", "waiting"].map(|word| format!("{name} {word}")));
    }
    assert_eq!(bodies, started);

    let failed = [
        "three pending",
        "two pending",
        "one pending",
        "three.prepare",
        "two.prepare: fails",
        "two aborting",
        "three.cancel",
        "one.cancel",
        "three aborting",
        "three.abort",
        "three.clean",
        "three CANCELLED",
        "three concluded",
        "three null",
        "two.abort",
        "two.clean",
        "two COMPLETED: the name is taken",
        "two concluded",
        "two null",
        "one aborting",
        "one.abort",
        "one.clean",
        "one CANCELLED",
        "one concluded",
        "one null",
        "one: cancelled, Operation canceled",
        "two: failed, the name is taken",
        "three: cancelled, Operation canceled",
        "in the folder: two",
        "once more, with the name free",
    ];
    let (once, again) = rest.split_at(failed.len());
    assert_eq!(once, failed);

    let again: Vec<_> = again[6..].iter().filter(wait).collect();
    let published = |name: &str| {
        let steps = [".commit", ".clean", " COMPLETED", " concluded", " null"];
        steps.map(|step| format!("{name}{step}"))
    };
    let mut want = ["three pending", "two pending", "one pending"]
        .map(str::to_owned)
        .to_vec();
    want.extend(["three", "two", "one"].map(|name| format!("{name}.prepare")));
    want.extend(["three", "two", "one"].into_iter().flat_map(published));
    want.extend(["one", "two", "three"].map(|name| format!("{name}: published")));
    want.push("in the folder: one, three, two".to_owned());
    assert_eq!(again, want.iter().collect::<Vec<_>>());
}
