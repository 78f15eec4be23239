//! Jobs that succeed or fail together.

use job::{CancelMode, JobOutcome, JobStatus, Trigger};

use crate::world::{Part, TestJob, World, lines};

/// Two started members of one transaction; the second is the newer.
fn pair(world: &World, parts: [Part; 2], finalize: [Trigger; 2]) -> [TestJob; 2] {
    let transaction = world.registry.transaction();
    let member = |index: usize| {
        let job = world.create_as(["old", "new"][index], parts[index], |config| {
            config.transaction = Some(transaction.clone());
            config.finalize = finalize[index];
        });
        job.start().expect("nobody cancelled it");
        job
    };
    let pair = [member(0), member(1)];
    world.settle();
    world.log();
    pair
}

const AUTO: [Trigger; 2] = [Trigger::Auto; 2];

#[test]
fn members_wait_for_each_other_and_end_newest_first() {
    let world = World::new();
    let [old, new] = pair(&world, [Part::UntilTold; 2], AUTO);

    old.tell();
    world.settle();
    let first = world.log();
    new.tell();
    world.settle();

    assert_eq!(first, ["old waiting"]);
    let want = [
        "new waiting",
        "new pending",
        "old pending",
        "new.prepare",
        "old.prepare",
        "new.commit",
        "new.clean",
        "new COMPLETED",
        "new concluded",
        "new null",
        "old.commit",
        "old.clean",
        "old COMPLETED",
        "old concluded",
        "old null",
    ];
    assert_eq!(world.log(), want);
}

#[test]
fn one_manual_member_makes_all_wait_and_any_finalize_releases_all() {
    let world = World::new();
    let manual_old = [Trigger::Manual, Trigger::Auto];
    let [old, new] = pair(&world, [Part::UntilTold; 2], manual_old);
    old.tell();
    new.tell();
    world.settle();
    let pending = world.events();

    new.finalize().unwrap();
    new.finalize().unwrap();
    world.settle();

    assert_eq!(pending[2..], ["new pending", "old pending", "old PENDING"]);
    let want = [
        lines("new", ["COMPLETED", "concluded", "null"]),
        lines("old", ["COMPLETED", "concluded", "null"]),
    ];
    assert_eq!(world.events(), want.concat());
}

#[test]
fn the_failure_of_one_cancels_the_other() {
    let world = World::new();
    let [old, _new] = pair(&world, [Part::FailWhenTold, Part::UntilTold], AUTO);

    old.tell();
    world.settle();

    let want = [
        lines("old", ["aborting"]),
        lines("new", [".cancel Force", "aborting", ".abort", ".clean"]),
        lines("new", ["CANCELLED", "concluded", "null"]),
        lines(
            "old",
            [".abort", ".clean", "COMPLETED boom", "concluded", "null"],
        ),
    ];
    assert_eq!(world.log(), want.concat());
}

#[test]
fn a_waiting_member_is_cancelled_too() {
    let world = World::new();
    let [old, new] = pair(&world, [Part::UntilTold, Part::FailWhenTold], AUTO);
    old.tell();
    world.settle();
    world.log();

    new.tell();
    world.settle();

    let want = [
        lines("new", ["aborting", "COMPLETED boom", "concluded", "null"]),
        lines("old", ["aborting", "CANCELLED", "concluded", "null"]),
    ];
    assert_eq!(world.events(), want.concat());
}

#[test]
fn a_late_failure_aborts_all() {
    let world = World::new();
    let [old, new] = pair(&world, [Part::UntilTold; 2], AUTO);
    old.actor.fails_late.set();
    old.tell();
    new.tell();
    world.settle();

    let log = world.log();
    let end = log.iter().position(|line| line == "old.prepare").unwrap();
    let want = [
        lines("old", [".prepare", "aborting"]),
        lines("new", [".cancel Force", "aborting", ".abort", ".clean"]),
        lines("new", ["CANCELLED", "concluded", "null"]),
        lines(
            "old",
            [".abort", ".clean", "COMPLETED late", "concluded", "null"],
        ),
    ];
    assert_eq!(log[end..], want.concat());
}

#[test]
fn a_prepare_that_fails_spares_the_rest_theirs() {
    let world = World::new();
    let [old, new] = pair(&world, [Part::UntilTold; 2], AUTO);
    new.actor.fails_late.set();
    old.tell();
    new.tell();
    world.settle();

    let log = world.log();
    let end = log.iter().position(|line| line == "new.prepare").unwrap();
    let want = [
        lines("new", [".prepare", "aborting"]),
        lines("old", [".cancel Force"]),
        lines(
            "new",
            [".abort", ".clean", "COMPLETED late", "concluded", "null"],
        ),
        lines("old", ["aborting", ".abort", ".clean"]),
        lines("old", ["CANCELLED", "concluded", "null"]),
    ];
    assert_eq!(log[end..], want.concat());
}

#[test]
fn three_members_are_cancelled_and_end_newest_first() {
    let world = World::new();
    let transaction = world.registry.transaction();
    let parts = [
        ("a", Part::UntilTold),
        ("b", Part::FailWhenTold),
        ("c", Part::UntilTold),
    ];
    let [a, b, c] = parts.map(|(id, part)| {
        let job = world.create_as(id, part, |config| {
            config.transaction = Some(transaction.clone());
        });
        job.start().expect("nobody cancelled it");
        job
    });
    world.settle();
    world.log();

    b.tell();
    world.settle();

    let cancelled = ["CANCELLED", "concluded", "null"];
    let want = [
        vec!["b aborting".to_owned()],
        vec!["c.cancel Force".to_owned(), "a.cancel Force".to_owned()],
        lines("c", ["aborting", ".abort", ".clean"]),
        lines("c", cancelled),
        lines(
            "b",
            [".abort", ".clean", "COMPLETED boom", "concluded", "null"],
        ),
        lines("a", ["aborting", ".abort", ".clean"]),
        lines("a", cancelled),
    ];
    assert_eq!(world.log(), want.concat());
    let text = |job: &TestJob| job.info().error.map(|error| error.to_string());
    assert_eq!(text(&b).as_deref(), Some("boom"));
    for other in [a, c] {
        assert!(matches!(other.outcome(), Some(JobOutcome::Cancelled(_))));
        assert_eq!(text(&other).as_deref(), Some("Operation canceled"));
    }
}

#[test]
fn an_abort_waits_for_a_body_that_does_not_notice() {
    let world = World::new();
    let [old, new] = pair(&world, [Part::FailWhenTold, Part::Deaf], AUTO);

    old.tell();
    world.settle();
    let meanwhile = world.log();
    new.tell();
    world.settle();

    assert_eq!(meanwhile, ["old aborting", "new.cancel Force"]);
    let want = [
        lines("new", ["aborting", ".abort", ".clean"]),
        lines("new", ["CANCELLED", "concluded", "null"]),
        lines(
            "old",
            [".abort", ".clean", "COMPLETED boom", "concluded", "null"],
        ),
    ];
    assert_eq!(world.log(), want.concat());
}

#[test]
fn members_that_are_pending_all_abort_at_a_cancel_of_one() {
    let world = World::new();
    let manual = [Trigger::Manual; 2];
    let [_old, new] = pair(&world, [Part::EndWell; 2], manual);

    new.cancel(CancelMode::Force).unwrap();
    world.settle();

    let want = [
        lines("new", ["aborting", "CANCELLED", "concluded", "null"]),
        lines("old", ["aborting", "CANCELLED", "concluded", "null"]),
    ];
    assert_eq!(world.events(), want.concat());
}

#[test]
fn the_failure_of_a_job_leaves_other_transactions_alone() {
    let world = World::new();
    let other = world.start("other", Part::UntilTold);
    world.start("a", Part::Fail);
    world.settle();
    let was_cancelled = other.is_cancel_requested();
    other.tell();
    world.settle();

    assert!(!was_cancelled);
    assert!(matches!(other.outcome(), Some(JobOutcome::Completed)));
}

#[test]
fn a_member_that_never_started_is_aborted_silently_and_forgotten() {
    let world = World::new();
    let transaction = world.registry.transaction();
    let join = |config: &mut job::JobConfig| {
        config.transaction = Some(transaction.clone());
        config.dismiss = Trigger::Manual;
    };
    let old = world.create_as("old", Part::Fail, join);
    let new = world.create_as("new", Part::EndWell, join);
    old.start().unwrap();
    world.settle();

    let want = [
        lines("old", ["created"]),
        lines("new", ["created"]),
        lines("old", ["running", ".run", "aborting"]),
        lines("new", [".cancel Force", "aborting", ".abort", ".clean"]),
        lines("new", ["concluded", "null"]),
        lines("old", [".abort", ".clean", "COMPLETED boom", "concluded"]),
    ];
    assert_eq!(world.log(), want.concat());
    assert!(new.start().is_err());
}

#[test]
fn a_cancel_of_a_waiting_member_aborts_all() {
    let world = World::new();
    let [old, _new] = pair(&world, [Part::UntilTold; 2], AUTO);
    old.tell();
    world.settle();
    world.log();

    old.cancel(CancelMode::Force).unwrap();
    world.settle();

    let want = [
        lines("new", ["aborting", "CANCELLED", "concluded", "null"]),
        lines("old", ["aborting", "CANCELLED", "concluded", "null"]),
    ];
    assert_eq!(world.events(), want.concat());
}

#[test]
fn a_cancel_of_one_during_the_prepare_of_another_aborts_all() {
    let world = World::new();
    let [old, new] = pair(&world, [Part::UntilTold; 2], AUTO);
    old.actor.slow_prepare.set();
    old.tell();
    new.tell();
    world.settle();
    world.log();

    new.cancel(CancelMode::Force).unwrap();
    old.actor.may_prepare.set();
    world.settle();

    let want = [
        lines("new", [".cancel Force"]),
        lines("old", [".cancel Force"]),
        lines(
            "new",
            [
                "aborting",
                ".abort",
                ".clean",
                "CANCELLED",
                "concluded",
                "null",
            ],
        ),
        lines(
            "old",
            [
                "aborting",
                ".abort",
                ".clean",
                "CANCELLED",
                "concluded",
                "null",
            ],
        ),
    ];
    assert_eq!(world.log(), want.concat());
}

#[test]
fn a_transaction_that_ends_takes_no_more_members() {
    let world = World::new();
    let transaction = world.registry.transaction();
    let slow = world.create_as("slow", Part::Fail, |config| {
        config.transaction = Some(transaction.clone());
    });
    slow.actor.slow_abort.set();
    slow.start().unwrap();
    world.settle();

    let (mut config, _actor) = world.config("late", Part::EndWell);
    config.transaction = Some(transaction);
    let error = world.registry.create(config).unwrap_err();
    slow.actor.may_abort.set();
    world.settle();

    assert_eq!(error.to_string(), "the transaction has already ended");
    assert!(slow.outcome().is_some());
}

#[test]
fn a_transaction_whose_members_await_a_finalize_takes_no_more_members() {
    let world = World::new();
    let transaction = world.registry.transaction();
    let manual = world.create_as("manual", Part::EndWell, |config| {
        config.transaction = Some(transaction.clone());
        config.finalize = Trigger::Manual;
    });
    manual.start().unwrap();
    world.settle();
    assert_eq!(manual.status(), JobStatus::Pending);

    let (mut config, _actor) = world.config("late", Part::EndWell);
    config.transaction = Some(transaction);
    let error = world.registry.create(config).unwrap_err();
    manual.finalize().unwrap();
    world.settle();

    assert_eq!(error.to_string(), "the transaction has already ended");
    assert!(matches!(manual.outcome(), Some(JobOutcome::Completed)));
}

#[test]
fn members_do_not_wait_for_one_that_was_discarded() {
    let world = World::new();
    let transaction = world.registry.transaction();
    let create = |id| {
        world.create_as(id, Part::EndWell, |config| {
            config.transaction = Some(transaction.clone());
        })
    };
    let (old, given_up) = (create("old"), create("given_up"));
    old.start().unwrap();
    world.settle();
    assert_eq!(old.status(), JobStatus::Waiting);

    given_up.discard();
    world.settle();

    assert!(matches!(old.outcome(), Some(JobOutcome::Completed)));
}

#[test]
fn a_transaction_that_has_ended_takes_no_more_members() {
    let world = World::new();
    let transaction = world.registry.transaction();
    let only = world.create_as("only", Part::EndWell, |config| {
        config.transaction = Some(transaction.clone());
    });
    only.start().unwrap();
    world.settle();
    assert!(matches!(only.outcome(), Some(JobOutcome::Completed)));

    let (mut config, _actor) = world.config("late", Part::EndWell);
    config.transaction = Some(transaction);
    let error = world.registry.create(config).unwrap_err();

    assert_eq!(error.to_string(), "the transaction has already ended");
    assert!(world.registry.list().is_empty());
}
