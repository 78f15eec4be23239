//! Records for programs: every line is one, and exactly one of them is the result.

use std::fs;

use super::world::{Run, World};

/// Each record has a version and a type; there is one result, it is last, and it has the exit code.
#[track_caller]
fn check(run: &Run) {
    let records = run.records();
    for record in &records {
        assert_eq!(record["v"], 1, "{record}");
        assert!(record["type"].is_string(), "{record}");
    }
    let result = run.result();
    assert_eq!(records.last(), Some(&result));
    assert_eq!(result["exit_code"], run.code);
    assert_eq!(result["ok"], run.code == 0);
    let errors = records.iter().filter(|record| record["type"] == "error");
    assert_eq!(errors.count(), usize::from(run.code != 0), "{run:?}");
}

#[test]
fn a_backup_tells_start_progress_and_result() {
    let world = World::new();
    world.random("a.img", 3 << 20);
    let run = world.run_ok(&["backup", "--json", "--limit", "2M", "a.img", "b.img"]);
    check(&run);
    let types: Vec<_> = run
        .records()
        .iter()
        .map(|it| it["type"].to_string())
        .collect();
    assert_eq!(types.first().unwrap(), "\"start\"");
    assert!(types.contains(&"\"progress\"".to_owned()), "{types:?}");
    assert_eq!(run.stderr, "");
    let result = run.result();
    assert_eq!(result["bytes_copied"], 3 << 20);
    assert_eq!(result["job"], "a.img");
    assert_eq!(result["verified"], "none");
    let start = &run.records()[0];
    assert_eq!(start["bytes_total"], 3 << 20);
    assert_eq!(start["kind"], "backup");
}

#[test]
fn what_bounds_a_copy_is_in_the_records() {
    let world = World::new();
    world.random("a.img", 3 << 20);
    let args = ["backup", "--json", "--limit", "2M", "--chunk", "64K"];
    let bounded = world.run_ok(&[&args[..], &["--workers", "1", "a.img", "b.img"]].concat());
    let records = bounded.records();
    let mut told = records.iter().filter(|record| record["type"] == "progress");
    let slowed = told.any(|record| {
        record["throttle_reason"] == "speed-limit" && record["applied_bytes_per_second"].is_u64()
    });
    assert!(slowed, "{records:?}");
    for args in [
        ["--chunk", "4K"],
        ["--workers", "0"],
        ["--guest-latency", "0"],
    ] {
        let run = world.run(&[&["backup"][..], &args, &["a.img", "c.img"]].concat());
        assert_eq!(run.code, 2, "{run:?}");
    }
}

#[test]
fn every_command_has_one_result() {
    let world = World::new();
    world.random("a.img", 5000);
    world.run_ok(&["backup", "a.img", "b.img"]);
    for args in [
        &["info", "--json", "a.img"][..],
        &["--json", "doctor"],
        &["verify", "--json", "b.img", "--against", "a.img"],
        &["export", "--json", "--run", "true", "a.img"],
        &["backup", "-q", "--json", "a.img", "b.img"],
        &["backup", "-p", "json", "a.img", "b.img"],
    ] {
        check(&world.run_ok(args));
    }
}

#[test]
fn every_failure_has_one_result_and_one_error() {
    let world = World::new();
    world.random("a.img", 5000);
    world.random("b.img", 5000);
    fs::write(world.path("c.img"), [1; 5000]).unwrap();
    for (args, code) in [
        (&["backup", "--json"][..], 2),
        (&["--json", "frobnicate"], 2),
        (&["--json"], 2),
        (&["backup", "--json", "--limit", "x", "a.img", "d.img"], 2),
        (&["backup", "--json", "a.img", "a.img"], 2),
        (&["backup", "--json", "none.img", "d.img"], 1),
        (&["info", "--json", "none.img"], 1),
        (&["verify", "--json", "c.img", "--against", "a.img"], 5),
        (&["export", "--json", "--nbd", "x", "a.img"], 2),
        (&["demo", "--json", "--size", "1"], 2),
        (&["doctor", "--json", "none"], 1),
    ] {
        let run = world.run(args);
        assert_eq!(run.code, code, "{args:?}: {run:?}");
        check(&run);
    }
}

#[test]
fn an_error_names_its_code_and_the_systems() {
    let run = World::new().run(&["backup", "--json", "none.img", "b.img"]);
    let records = run.records();
    let error = records.iter().find(|it| it["type"] == "error").unwrap();
    assert_eq!(error["code"], "failed");
    assert_eq!(error["errno"], "ENOENT");
    assert_eq!(run.result()["disposition"], "operator");
}

#[test]
fn quiet_records_are_the_result_alone() {
    let world = World::new();
    world.random("a.img", 5000);
    let run = world.run_ok(&["backup", "-q", "--json", "a.img", "b.img"]);
    assert_eq!(run.records().len(), 1);
}

#[test]
fn help_and_version_are_text_and_end_well() {
    let world = World::new();
    for args in [&["--help"][..], &["backup", "--help"], &["--version"]] {
        let run = world.run_ok(args);
        assert!(!run.stdout.is_empty() && run.stderr.is_empty(), "{run:?}");
    }
    let help = world.run_ok(&["--help"]).stdout;
    for line in ["   11  locked", "    5  mismatch", "  130  interrupted"] {
        assert!(help.contains(line), "{help}");
    }
}

#[test]
fn a_way_to_show_progress_that_is_none_is_refused() {
    let world = World::new();
    let run = super::world::run(world.command(&["doctor"]).env("LONGSHORE_PROGRESS", "loud"));
    assert_eq!(run.code, 2, "{run:?}");
}
