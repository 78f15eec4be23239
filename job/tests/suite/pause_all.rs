//! Holds on all jobs at once.

use job::{CancelMode, JobStatus};

use crate::world::{Part, TestJob, World, lines};

#[test]
fn every_job_stands_still_and_goes_on_afterwards() {
    let world = World::new();
    let jobs = ["a", "b", "c"].map(|id| world.start(id, Part::UntilTold));
    world.settle();

    let all = world.registry.pause_all();
    let asked = jobs.each_ref().map(|job| job.is_quiescent());
    world.context.block_on(all.quiesced());
    let held = jobs.each_ref().map(|job| job.is_quiescent());
    drop(all);
    jobs.iter().for_each(TestJob::tell);
    world.settle();

    assert_eq!((asked, held), ([false; 3], [true; 3]));
    assert!(world.registry.list().is_empty());
}

#[test]
fn a_job_that_is_created_meanwhile_does_not_begin() {
    let world = World::new();
    let all = world.registry.pause_all();
    let job = world.start("a", Part::EndWell);
    world.settle();
    let held = world.log();
    let was_paused = job.info().is_paused;

    drop(all);
    world.settle();

    assert!(was_paused && !held.contains(&"a.run".to_owned()));
    assert!(world.log().contains(&"a.run".to_owned()));
    assert!(job.outcome().is_some());
}

#[test]
fn a_job_that_is_created_after_it_is_not_held() {
    let world = World::new();
    drop(world.registry.pause_all());
    world.start("a", Part::EndWell);
    world.settle();

    assert!(world.registry.list().is_empty());
}

#[test]
fn internal_jobs_are_held_too() {
    let world = World::new();
    let (mut config, _actor) = world.config("a", Part::EndWell);
    config.id = None;
    let job = world.registry.create(config).unwrap();
    let all = world.registry.pause_all();
    job.start().unwrap();
    world.context.block_on(all.quiesced());
    world.settle();
    let held = job.outcome().is_none();

    drop(all);
    world.settle();

    assert!(held && job.outcome().is_some());
}

#[test]
fn all_is_held_until_the_last_hold_is_gone() {
    let world = World::new();
    let job = world.start("a", Part::UntilTold);
    let (outer, inner) = (world.registry.pause_all(), world.registry.pause_all());
    world.settle();

    drop(outer);
    world.settle();
    let held = job.is_quiescent();
    drop(inner);
    world.settle();

    assert!(held && !job.info().is_paused);
}

#[test]
fn the_users_pause_outlives_a_hold_on_all() {
    let world = World::new();
    let job = world.start("a", Part::UntilTold);
    job.pause().unwrap();
    let all = world.registry.pause_all();
    world.settle();
    world.log();

    let second = job.pause().unwrap_err();
    drop(all);
    world.settle();
    let paused = job.status();
    job.resume().unwrap();
    world.settle();

    assert_eq!(second.to_string(), "Job is already paused");
    assert_eq!(paused, JobStatus::Paused);
    assert_eq!(world.events(), lines("a", ["running"]));
}

#[test]
fn a_hold_on_all_is_not_the_users_to_resume() {
    let world = World::new();
    let job = world.start("a", Part::UntilTold);
    let _all = world.registry.pause_all();
    world.settle();

    let error = job.resume().unwrap_err();

    assert_eq!(error.to_string(), "Can't resume a job that was not paused");
}

#[test]
fn jobs_that_end_under_a_hold_on_all_leave_nothing_behind() {
    let world = World::new();
    let cancelled = world.start("cancelled", Part::UntilTold);
    world.create("discarded", Part::EndWell).discard();
    let all = world.registry.pause_all();
    let discarded = world.create("late", Part::EndWell);
    discarded.discard();
    cancelled.cancel(CancelMode::Force).unwrap();
    world.settle();
    drop(all);
    let next = world.start("next", Part::EndWell);
    world.settle();

    assert!(cancelled.outcome().is_some() && next.outcome().is_some());
    assert!(world.registry.list().is_empty());
}
