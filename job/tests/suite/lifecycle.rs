//! From creation to dismissal, without cancels and pauses.

use job::{JobErrorKind, JobOutcome, JobStatus, Trigger};

use crate::world::{Log, Part, World, draw, lines};

#[test]
fn a_good_job_prepares_commits_and_cleans_before_it_is_completed() {
    let world = World::new();
    let job = world.start("a", Part::EndWell);
    let started = world.log();
    world.settle();

    assert_eq!(started, lines("a", ["created", "running"]));
    let want = [
        ".run",
        "waiting",
        "pending",
        ".prepare",
        ".commit",
        ".clean",
        "COMPLETED",
        "concluded",
        "null",
    ];
    assert_eq!(world.log(), lines("a", want));
    assert!(matches!(job.outcome(), Some(JobOutcome::Completed)));
}

#[test]
fn a_manual_job_waits_for_finalize_and_then_for_dismiss() {
    let world = World::new();
    let job = world.create_as("a", Part::EndWell, |config| {
        config.finalize = Trigger::Manual;
        config.dismiss = Trigger::Manual;
    });
    job.start().unwrap();
    world.settle();
    let pending = world.events();

    job.finalize().unwrap();
    world.settle();
    let concluded = world.events();

    job.dismiss().unwrap();
    let dismissed = world.events();

    assert_eq!(
        pending,
        lines("a", ["created", "running", "waiting", "pending", "PENDING"])
    );
    assert_eq!(concluded, lines("a", ["COMPLETED", "concluded"]));
    assert_eq!(dismissed, lines("a", ["null"]));
}

#[test]
fn a_ready_job_completes_when_asked() {
    let world = World::new();
    let job = world.start("a", Part::Converge);
    world.settle();
    let ready = world.events();

    job.complete().unwrap();
    world.settle();

    assert_eq!(ready, lines("a", ["created", "running", "ready", "READY"]));
    let want = ["waiting", "pending", "COMPLETED", "concluded", "null"];
    assert_eq!(world.events(), lines("a", want));
}

#[test]
fn a_failing_body_aborts_and_completes_with_its_error() {
    let world = World::new();
    let job = world.start("a", Part::Fail);
    world.settle();

    let want = [
        "created",
        "running",
        ".run",
        "aborting",
        ".abort",
        ".clean",
        "COMPLETED boom",
        "concluded",
        "null",
    ];
    assert_eq!(world.log(), lines("a", want));
    assert!(
        matches!(job.outcome(), Some(JobOutcome::Failed(error)) if error.to_string() == "boom")
    );
}

#[test]
fn a_failing_prepare_aborts_late() {
    let world = World::new();
    let job = world.start("a", Part::EndWell);
    job.actor.fails_late.set();
    world.settle();

    let want = [
        "created",
        "running",
        ".run",
        "waiting",
        "pending",
        ".prepare",
        "aborting",
        ".abort",
        ".clean",
        "COMPLETED late",
        "concluded",
        "null",
    ];
    assert_eq!(world.log(), lines("a", want));
}

#[test]
fn a_job_whose_creation_fails_is_seen_only_created_and_null() {
    let world = World::new();
    let job = world.create("a", Part::EndWell);
    job.discard();
    world.settle();

    assert_eq!(world.log(), lines("a", ["created", "null"]));
    assert_eq!(job.start().unwrap_err().kind(), JobErrorKind::Cancelled);
}

#[test]
fn a_job_that_never_starts_stays_created_and_counts_as_paused() {
    let world = World::new();
    let job = world.create("a", Part::EndWell);
    world.settle();

    let info = job.info();
    assert_eq!(info.status, JobStatus::Created);
    assert!(info.is_paused && !info.is_busy);
    assert_eq!(world.log(), lines("a", ["created"]));
}

#[test]
fn an_internal_job_runs_unseen() {
    let world = World::new();
    let (mut config, _actor) = world.config("a", Part::EndWell);
    config.id = None;
    let job = world.registry.create(config).unwrap();
    job.start().unwrap();
    let listed = world.registry.query().len();
    world.settle();

    assert_eq!(listed, 0);
    assert_eq!(world.events(), Vec::<String>::new());
    assert!(matches!(job.outcome(), Some(JobOutcome::Completed)));
}

#[test]
fn queries_list_the_newest_job_first() {
    let world = World::new();
    for id in ["a", "b", "c"] {
        world.create(id, Part::EndWell);
    }

    let ids: Vec<_> = world
        .registry
        .query()
        .into_iter()
        .filter_map(|info| info.id)
        .collect();
    assert_eq!(
        ids.iter().map(AsRef::as_ref).collect::<Vec<&str>>(),
        ["c", "b", "a"]
    );
}

#[test]
fn an_id_is_taken_until_its_job_is_dismissed() {
    let world = World::new();
    let job = world.create_as("a", Part::EndWell, |config| {
        config.dismiss = Trigger::Manual;
    });
    job.start().unwrap();
    world.settle();
    let refused = world.registry.create(world.config("a", Part::EndWell).0);

    job.dismiss().unwrap();
    let accepted = world.registry.create(world.config("a", Part::EndWell).0);

    assert_eq!(
        refused.unwrap_err().to_string(),
        "Job ID 'a' already in use"
    );
    assert!(accepted.is_ok());
}

#[test]
fn an_id_starts_with_a_letter_and_has_no_strange_characters() {
    let world = World::new();
    let text = |id: &str| {
        let created = world.registry.create(world.config(id, Part::EndWell).0);
        created.err().map(|error| error.to_string())
    };

    assert_eq!(text(""), Some("Invalid job ID ''".to_owned()));
    assert_eq!(text("1a"), Some("Invalid job ID '1a'".to_owned()));
    assert_eq!(text("a b"), Some("Invalid job ID 'a b'".to_owned()));
    assert_eq!(text("ä"), Some("Invalid job ID 'ä'".to_owned()));
    assert_eq!(text("a-1.b_C"), None);
    assert_eq!(text(&"x".repeat(5000)), None);
}

#[test]
fn an_unknown_id_is_not_found() {
    let world = World::new();
    let error = world.registry.find("a").unwrap_err();

    assert_eq!(error.kind(), JobErrorKind::NotFound);
    assert_eq!(error.to_string(), "Job not found");
}

#[test]
fn an_event_made_inside_a_subscriber_comes_after_the_one_at_hand() {
    let world = World::new();
    let registry = world.registry.clone();
    let _dismisses = world.registry.subscribe(move |event| {
        if draw(event) == "a concluded" {
            registry.find("a").unwrap().dismiss().unwrap();
        }
    });
    // Hears each event after the subscriber that makes another one of it.
    let log = world.log.clone();
    let _hears_last = world
        .registry
        .subscribe(move |event| log.add(draw(event).replace("a ", "late ")));
    let job = world.create_as("a", Part::EndWell, |config| {
        config.dismiss = Trigger::Manual;
    });
    job.start().unwrap();
    world.settle();

    let want = ["a concluded", "late concluded", "a null", "late null"];
    assert!(world.events().ends_with(&want.map(str::to_owned)));
}

#[test]
fn a_dropped_subscription_hears_nothing() {
    let world = World::new();
    let log = Log::default();
    let second = log.clone();
    let subscription = world
        .registry
        .subscribe(move |_| second.add("heard".to_owned()));
    drop(subscription);
    world.start("a", Part::EndWell);
    world.settle();

    assert_eq!(format!("{log:?}"), format!("{:?}", Log::default()));
}

#[test]
fn a_result_outlives_its_job() {
    let world = World::new();
    let job = world.start("a", Part::Fail);
    job.progress().set_remaining(10);
    job.progress().work_done(4);
    world.settle();

    let outcome = world.context.block_on(job.wait());
    let info = job.info();

    assert_eq!(outcome.into_result().unwrap_err().to_string(), "boom");
    assert_eq!(info.status, JobStatus::Null);
    assert_eq!((info.progress.current, info.progress.total), (4, 10));
    assert_eq!(info.error.unwrap().to_string(), "boom");
    assert!(world.registry.find("a").is_err());
}
