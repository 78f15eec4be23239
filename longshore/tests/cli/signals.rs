//! Backups that are cut short: what is called like the target is complete, or is not there.

use std::{fs, time::Duration};

use nix::sys::signal::Signal;

use super::world::{Running, World};

/// A backup that takes seconds, and is in the middle of it.
fn under_way(world: &World) -> Running {
    world.random("a.img", 16 << 20);
    let args = ["backup", "--json", "--limit", "2M", "a.img", "b.img"];
    let mut running = world.start(&args);
    running.read_until("progress");
    running
}

fn stops_cleanly(signal: Signal, code: i32) {
    let world = World::new();
    let running = under_way(&world);
    running.signal(signal);
    let (run, took) = running.wait();
    assert_eq!(run.code, code, "{run:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(run.result()["exit_code"], code);
    assert!(run.stderr.contains("stopped by a signal"), "{run:?}");
    assert!(
        run.stderr.contains("'") && run.stderr.contains("was not made"),
        "{run:?}"
    );
    assert!(run.stderr.contains("run the same command again"), "{run:?}");
    assert_eq!(fs::read_dir(world.folder()).unwrap().count(), 1);
}

#[test]
fn sigint_leaves_nothing() {
    stops_cleanly(Signal::SIGINT, 130);
}

#[test]
fn sigterm_leaves_nothing() {
    stops_cleanly(Signal::SIGTERM, 143);
}

#[test]
fn an_old_copy_survives_a_signal() {
    let world = World::new();
    let old = world.random("b.img", 17 << 20);
    let running = under_way(&world);
    running.signal(Signal::SIGINT);
    let (run, _) = running.wait();
    assert_eq!(run.code, 130, "{run:?}");
    assert!(run.stderr.contains("is as it was"), "{run:?}");
    assert!(world.read("b.img") == old);
    assert!(!world.exists("b.img.partial"));
}

#[test]
fn what_sigkill_leaves_says_by_its_name_what_it_is_and_the_next_run_replaces_it() {
    let world = World::new();
    let running = under_way(&world);
    running.signal(Signal::SIGKILL);
    let (run, _) = running.wait();
    assert_eq!(run.code, -1, "{run:?}");
    assert!(!world.exists("b.img"));
    assert!(world.exists("b.img.partial"));
    let info = world.run_ok(&["info", "--json", "b.img.partial"]).result();
    assert_eq!(info["incomplete"], true);

    world.run_ok(&["backup", "a.img", "b.img"]);
    assert!(world.read("a.img") == world.read("b.img"));
    assert!(!world.exists("b.img.partial"));
}

#[test]
fn a_second_signal_ends_at_once_with_one_result() {
    let world = World::new();
    let running = under_way(&world);
    running.signal(Signal::SIGINT);
    running.signal(Signal::SIGTERM);
    let (run, took) = running.wait();
    assert!([130, 143].contains(&run.code), "{run:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(run.result()["exit_code"], run.code);
    assert!(!world.exists("b.img"));
}

#[test]
fn sigusr1_tells_once_and_the_backup_goes_on() {
    let world = World::new();
    world.random("a.img", 4 << 20);
    let args = ["backup", "-p", "none", "--limit", "2M", "a.img", "b.img"];
    let running = world.start(&args);
    super::world::until(|| world.exists("b.img.partial"));
    running.signal(Signal::SIGUSR1);
    let (run, _) = running.wait();
    assert_eq!(run.code, 0, "{run:?}");
    let told = run.stderr.lines().filter(|line| line.contains("eta="));
    assert_eq!(told.count(), 1, "{run:?}");
}

#[test]
fn an_interrupted_comparison_is_no_mismatch() {
    let world = World::new();
    world.sparse("a.img", 1 << 40, &[]);
    let mut running = world.start(&["verify", "--json", "a.img", "--against", "a.img"]);
    running.read_until("progress");
    running.signal(Signal::SIGINT);
    let (run, took) = running.wait();
    assert_eq!(run.code, 130, "{run:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}
