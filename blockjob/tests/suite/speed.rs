//! The speed limit: who may set it, whom it wakes, and how a body waits for it.

use job::{CancelMode, JobErrorKind};

use super::world::{Body, World, run, with_clock};

const MIB: u64 = 1 << 20;
const MS: u64 = 1_000_000;

#[test]
fn only_a_faster_speed_wakes_the_job() {
    run(|cx| async move {
        let w = World::new(&cx);
        let j = w.job("j", Body::Park, &[]);
        j.block_job.set_speed(1000);
        j.job.start().unwrap();
        w.settle().await;
        for (speed, wakes) in [(500, 0), (501, 1), (501, 0), (0, 1)] {
            let before = j.driver.rounds();
            j.block_job.set_speed(speed);
            w.settle().await;
            assert_eq!(j.driver.rounds() - before, wakes, "{speed}");
            assert_eq!(j.block_job.speed_bytes_per_s(), speed);
        }
        let heard = [
            "speed 1000",
            "speed 500",
            "speed 501",
            "speed 501",
            "speed 0",
        ];
        assert_eq!(j.driver.heard(), heard);
        j.end().await;
    });
}

#[test]
fn what_is_accounted_delays_the_next_request() {
    run(|cx| async move {
        let w = World::new(&cx);
        let j = w.job("j", Body::Park, &[]);
        j.block_job.set_speed(MIB);
        assert_eq!(j.block_job.delay_ns(0), 0);
        j.block_job.account(MIB, 0);
        assert_eq!(j.block_job.delay_ns(0), 1000 * MS);
        j.block_job.refund(MIB / 2);
        assert_eq!(j.block_job.delay_ns(400 * MS), 100 * MS);
        j.end().await;
    });
}

#[test]
fn a_users_speed_is_refused_by_status_first_and_by_value_second() {
    run(|cx| async move {
        let w = World::new(&cx);
        let mut j = w.job("j", Body::Park, &[]);
        let set = |speed| j.block_job.set_speed_from_client(speed);
        set(7).unwrap();
        let negative = set(-1).unwrap_err();
        assert_eq!(negative.kind(), JobErrorKind::Refused);
        let text = "Parameter 'speed' expects a non-negative value";
        assert_eq!(negative.to_string(), text);
        assert_eq!(j.block_job.speed_bytes_per_s(), 7);

        let config = job::JobConfig {
            dismiss: job::Trigger::Manual,
            ..job::JobConfig::new("k", w.driver("k", Body::Park), cx.handle().clone())
        };
        let driver = w.driver("k", Body::Park);
        let config = job::JobConfig {
            driver: driver.clone(),
            ..config
        };
        let k = w.job_as(config, &driver, &[]);
        k.job.start().unwrap();
        k.job.cancel(CancelMode::Force).unwrap();
        k.job.wait().await;
        k.block_job.release();
        let late = k.block_job.set_speed_from_client(-1).unwrap_err();
        let text = "Job 'k' in state 'concluded' cannot accept command verb 'set-speed'";
        assert_eq!(late.to_string(), text);
        k.job.dismiss().unwrap();
        k.block_job.set_speed_from_client(1).unwrap_err();
        j.edges.clear();
        j.end().await;
    });
}

#[test]
fn the_speed_can_be_set_in_every_status_before_the_end() {
    run(|cx| async move {
        let w = World::new(&cx);
        let j = w.job("j", Body::ReadyThenPark, &[]);
        let set = |speed| j.block_job.set_speed_from_client(speed).unwrap();
        set(1);
        j.job.pause().unwrap();
        j.job.start().unwrap();
        w.settle().await;
        set(2);
        j.job.resume().unwrap();
        w.settle().await;
        set(3);
        j.job.pause().unwrap();
        w.settle().await;
        set(4);
        assert_eq!(j.block_job.speed_bytes_per_s(), 4);
        w.events();
        j.job.cancel(CancelMode::Force).unwrap();
        j.job.wait().await;
        assert_eq!(
            w.events(),
            [
                "j ready",
                "j aborting",
                "j cancelled at speed 4",
                "j concluded",
                "j null"
            ]
        );
    });
}

#[test]
fn the_first_request_goes_at_once_and_the_next_when_it_is_paid_for() {
    with_clock(|cx, hand| async move {
        let w = World::new(&cx);
        let j = w.job("j", Body::Move(MIB), &[]);
        j.block_job.set_speed(2 * MIB);
        j.job.start().unwrap();
        for round in 1..5 {
            w.settle().await;
            assert_eq!(j.driver.rounds(), round);
            hand.advance_ns(499 * MS);
            w.settle().await;
            assert_eq!(j.driver.rounds(), round);
            hand.advance_ns(MS);
        }
        j.end().await;
    });
}

#[test]
fn each_wake_up_of_a_sleeping_body_computes_the_delay_anew() {
    with_clock(|cx, hand| async move {
        let w = World::new(&cx);
        let j = w.job("j", Body::Move(MIB), &[]);
        j.block_job.set_speed(MIB / 4);
        j.job.start().unwrap();
        w.settle().await;
        j.job.wake();
        hand.advance_ns(999 * MS);
        w.settle().await;
        assert_eq!(j.driver.rounds(), 1, "four seconds are due");
        j.block_job.set_speed(MIB);
        w.settle().await;
        assert_eq!(j.driver.rounds(), 1, "and now one");
        hand.advance_ns(MS);
        w.settle().await;
        assert_eq!(j.driver.rounds(), 2);

        hand.advance_ns(500 * MS);
        j.block_job.set_speed(MIB / 2);
        hand.advance_ns(2499 * MS);
        w.settle().await;
        assert_eq!(j.driver.rounds(), 2, "two MiB take four seconds now");
        hand.advance_ns(MS);
        w.settle().await;
        assert_eq!(j.driver.rounds(), 3);
        j.end().await;
    });
}

#[test]
fn a_cancel_ends_the_wait_for_the_speed_limit() {
    with_clock(|cx, _hand| async move {
        let w = World::new(&cx);
        let j = w.job("j", Body::Move(MIB), &[]);
        j.block_job.set_speed(1);
        j.job.start().unwrap();
        w.settle().await;
        j.end().await;
    });
}

#[test]
fn a_body_without_a_limit_lets_others_run() {
    run(|cx| async move {
        let w = World::new(&cx);
        let j = w.job("j", Body::Move(MIB), &[]);
        j.job.start().unwrap();
        w.settle().await;
        assert!(j.driver.rounds() > 1);
        j.job.pause().unwrap();
        w.settle().await;
        assert!(j.job.is_quiescent());
        j.end().await;
    });
}
