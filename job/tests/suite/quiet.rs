//! Holds are quiet: they stop the body, and leave the status to the user.

use job::{CancelMode, JobErrorKind, JobStatus, PauseHold};

use crate::world::{Part, TestJob, World, lines};

/// What keeps a job at its pause point, and goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    User,
    Hold,
}

/// A job that two reasons stop, one after the other, until they go.
struct Stopped {
    world: World,
    job: TestJob,
    hold: Option<PauseHold>,
}

impl Stopped {
    fn new(part: Part) -> Self {
        let world = World::new();
        let job = world.start("a", part);
        world.settle();
        world.log();
        Self {
            world,
            job,
            hold: None,
        }
    }

    fn come(&mut self, reason: Reason) {
        match reason {
            Reason::User => self.job.pause().expect("the user has not paused it"),
            Reason::Hold => self.hold = Some(self.job.hold_paused()),
        }
        self.world.settle();
        assert!(self.job.is_quiescent());
        let info = self.job.info();
        assert!(info.is_paused && !info.is_busy);
    }

    fn go(&mut self, reason: Reason) {
        match reason {
            Reason::User => self.job.resume().expect("the user has paused it"),
            Reason::Hold => drop(self.hold.take()),
        }
        self.world.settle();
    }
}

const ORDERS: [[Reason; 2]; 2] = [[Reason::User, Reason::Hold], [Reason::Hold, Reason::User]];

/// In every order of coming and going, the status tells of the user's pause once, and goes back when
/// both are gone.
fn in_every_order(part: Part, paused: &str, running: &str) {
    for come in ORDERS {
        for go in ORDERS {
            let mut stopped = Stopped::new(part);
            stopped.come(come[0]);
            let first = stopped.world.events();
            stopped.come(come[1]);
            let second = stopped.world.events();
            stopped.go(go[0]);
            let third = stopped.world.events();
            assert!(stopped.job.info().is_paused && stopped.job.is_quiescent());
            stopped.go(go[1]);
            let last = stopped.world.events();

            let pause = lines("a", [paused]);
            let want = match come[0] {
                Reason::User => [pause, vec![]],
                Reason::Hold => [vec![], pause],
            };
            assert_eq!([first, second], want, "{come:?} {go:?}");
            assert_eq!(third, Vec::<String>::new(), "{come:?} {go:?}");
            assert_eq!(last, lines("a", [running]), "{come:?} {go:?}");
            assert!(!stopped.job.info().is_paused);
        }
    }
}

#[test]
fn a_pause_of_the_user_shows_once_in_every_order_with_a_hold() {
    in_every_order(Part::UntilTold, "paused", "running");
}

#[test]
fn a_ready_job_shows_it_as_standby() {
    in_every_order(Part::Converge, "standby", "ready");
}

#[test]
fn a_hold_alone_calls_the_hooks_and_tells_nobody() {
    for (part, status) in [
        (Part::UntilTold, JobStatus::Running),
        (Part::Converge, JobStatus::Ready),
    ] {
        let mut stopped = Stopped::new(part);
        stopped.come(Reason::Hold);
        let held = (stopped.world.log(), stopped.job.status());
        stopped.go(Reason::Hold);

        assert_eq!(held, (lines("a", [".pause"]), status));
        assert_eq!(stopped.world.log(), lines("a", [".resume"]));
        assert!(!stopped.job.is_quiescent());
    }
}

#[test]
fn a_pause_of_a_held_job_shows_at_once() {
    let mut stopped = Stopped::new(Part::UntilTold);
    stopped.come(Reason::Hold);
    stopped.world.log();

    // The loop does not turn in between.
    stopped.job.pause().unwrap();

    assert_eq!(stopped.job.status(), JobStatus::Paused);
    assert_eq!(stopped.world.log(), lines("a", ["paused"]));
}

#[test]
fn an_error_that_stops_a_held_job_shows_at_once() {
    let mut stopped = Stopped::new(Part::UntilTold);
    stopped.come(Reason::Hold);

    stopped.job.stop_on_error();

    assert_eq!(stopped.job.status(), JobStatus::Paused);
}

#[test]
fn a_resumed_job_that_is_held_can_be_paused_again_and_shows_nothing_new() {
    let mut stopped = Stopped::new(Part::UntilTold);
    stopped.come(Reason::User);
    stopped.come(Reason::Hold);
    stopped.go(Reason::User);
    let refused = stopped.job.resume().unwrap_err();
    stopped.world.log();

    stopped.come(Reason::User);
    let again = stopped.world.events();
    stopped.go(Reason::Hold);
    let still = stopped.job.status();
    stopped.go(Reason::User);

    assert_eq!(refused.kind(), JobErrorKind::NotPaused);
    assert_eq!((again, still), (vec![], JobStatus::Paused));
    assert_eq!(stopped.world.events(), lines("a", ["running"]));
}

#[test]
fn a_pause_that_comes_as_the_hold_goes_finds_the_job_standing() {
    let mut stopped = Stopped::new(Part::UntilTold);
    stopped.come(Reason::Hold);
    stopped.world.log();

    // The body has been woken, and has not looked yet.
    drop(stopped.hold.take());
    stopped.job.pause().unwrap();
    stopped.world.settle();

    // It never left its pause point.
    assert_eq!(stopped.world.log(), lines("a", ["paused"]));
}

#[test]
fn a_job_that_both_stop_is_seen_to_run_before_it_aborts() {
    let mut stopped = Stopped::new(Part::UntilTold);
    stopped.come(Reason::Hold);
    stopped.come(Reason::User);
    stopped.world.log();

    stopped.job.cancel(CancelMode::Force).unwrap();
    stopped.world.settle();

    let want = ["running", "aborting", "CANCELLED", "concluded", "null"];
    assert_eq!(stopped.world.events(), lines("a", want));
}

#[test]
fn a_pause_of_a_held_job_that_is_cancelled_does_not_show() {
    let mut stopped = Stopped::new(Part::UntilTold);
    stopped.come(Reason::Hold);
    stopped.world.log();

    // The body has been told, and has not looked yet.
    stopped.job.cancel(CancelMode::Force).unwrap();
    stopped.job.pause().unwrap();
    stopped.world.settle();

    let want = ["aborting", "CANCELLED", "concluded", "null"];
    assert_eq!(stopped.world.events(), lines("a", want));
}

#[test]
fn a_job_that_is_held_from_its_start_is_created_and_running_and_nothing_more() {
    let world = World::new();
    let job = world.create("a", Part::EndWell);
    let hold = job.hold_paused();
    job.start().unwrap();
    world.settle();
    let held = (world.events(), job.is_quiescent());
    drop(hold);
    world.settle();

    assert_eq!(held, (lines("a", ["created", "running"]), true));
    let want = ["waiting", "pending", "COMPLETED", "concluded", "null"];
    assert_eq!(world.events(), lines("a", want));
}
