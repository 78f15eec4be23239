//! The pace against devices that are a few lines of arithmetic.

mod world;

use std::num::NonZeroU32;

use block::LatencyHistogram;

use super::{
    BYTES_MAX, CHUNK_ALONE_BYTES, CHUNK_SHARED_BYTES, CHUNK_START_BYTES, Pace, PaceLimits,
    PaceReason, Plan, Seen, Tuning, WINDOW_SHARED_MAX,
};
use world::{Device, World};

fn unlimited() -> Pace {
    let mut pace = Pace::new(PaceLimits::default());
    see(&mut pace, 0, 0);
    pace
}

/// The guest has made so many requests.
fn see(pace: &mut Pace, requests: u64, now_ns: u64) -> Plan {
    let seen = Seen {
        requests,
        writes: LatencyHistogram::default,
        in_flight: 0,
    };
    pace.guest(seen, now_ns);
    pace.plan(now_ns)
}

/// Runs a copy against a device that works on `parallel` requests at once, `alone_ns` each.
fn settle(pace: &mut Pace, parallel: u64, alone_ns: u64) -> u32 {
    for _ in 0..2000 {
        let window = u64::from(pace.plan(0).window);
        pace.learn(
            CHUNK_ALONE_BYTES,
            alone_ns * window.max(parallel) / parallel,
            0,
        );
    }
    pace.probing.unwrap_or(pace.window)
}

#[test]
fn the_window_ends_a_little_above_what_the_device_works_on_at_once() {
    for parallel in [1, 2, 4, 8] {
        let window = u64::from(settle(&mut unlimited(), parallel, 700_000));
        assert!(
            (parallel..=parallel + 3).contains(&window),
            "{window} in flight for {parallel} at once"
        );
    }
}

#[test]
fn a_device_that_becomes_slower_gets_a_new_estimate() {
    let mut pace = unlimited();
    for alone_ns in [100_000, 5_000_000] {
        let window = settle(&mut pace, 4, alone_ns);
        assert!((4..=7).contains(&window), "{window} at {alone_ns} ns");
    }
}

#[test]
fn the_window_is_bounded_however_parallel_the_device_is() {
    let window = settle(&mut unlimited(), 1000, 50_000);
    assert_eq!(u64::from(window) * CHUNK_ALONE_BYTES, BYTES_MAX);
}

#[test]
fn a_parallel_device_gets_all_requests_within_a_few_dozen() {
    let mut pace = unlimited();
    for _ in 0..60 {
        pace.learn(CHUNK_ALONE_BYTES, 50_000, 0);
    }
    let plan = pace.plan(0);
    assert_eq!(u64::from(plan.window) * plan.chunk_bytes, BYTES_MAX);
}

#[test]
fn a_guest_makes_requests_small_until_it_has_gone() {
    let mut pace = unlimited();
    assert_eq!(see(&mut pace, 0, 1000).chunk_bytes, CHUNK_START_BYTES);
    see(&mut pace, 1, 2000);
    let plan = pace.plan(50_000_000);
    assert!(plan.reason == PaceReason::Guest && plan.window <= WINDOW_SHARED_MAX);
    assert_eq!(plan.chunk_bytes, CHUNK_SHARED_BYTES);
    let gone = see(&mut pace, 1, 300_000_000);
    assert_eq!(gone.chunk_bytes, CHUNK_START_BYTES);
}

#[test]
fn requests_grow_once_the_device_is_known_and_as_many_bytes_are_in_flight() {
    let mut pace = unlimited();
    assert_eq!(pace.plan(0).chunk_bytes, CHUNK_START_BYTES);
    settle(&mut pace, 2, 700_000);
    assert_eq!(pace.plan(0).chunk_bytes, CHUNK_ALONE_BYTES);
    let bytes = u64::from(settle(&mut pace, 2, 700_000)) * CHUNK_ALONE_BYTES;
    assert!(bytes <= 3 * CHUNK_ALONE_BYTES, "{bytes}");
}

#[test]
fn short_pieces_teach_nothing() {
    let mut pace = unlimited();
    let before = pace.plan(0);
    for _ in 0..100 {
        pace.learn(4096, 1, 0);
    }
    assert_eq!(pace.plan(0), before);
}

#[test]
fn what_a_user_bounds_is_told_as_the_reason() {
    let bounded = |limits| {
        let plan = see(&mut Pace::new(limits), 0, 0);
        (plan.window, plan.chunk_bytes, plan.reason)
    };
    let none = PaceLimits::default();
    let workers = PaceLimits {
        workers_max: 1,
        ..none
    };
    assert_eq!(bounded(workers), (1, 1 << 20, PaceReason::MaxWorkers));
    let chunk = PaceLimits {
        chunk_bytes_max: 65536,
        ..none
    };
    assert_eq!(bounded(chunk), (4, 65536, PaceReason::Device));
    let memory = PaceLimits {
        buffer_bytes_max: 3 << 20,
        ..none
    };
    assert_eq!(bounded(memory), (3, 1 << 20, PaceReason::Memory));
    let one_goes_all_the_same = PaceLimits {
        buffer_bytes_max: 1,
        ..none
    };
    assert_eq!(bounded(one_goes_all_the_same).0, 1);
}

#[test]
fn many_copies_share_the_memory_for_data_on_its_way() {
    let among = |members, others_bytes| {
        let mut pace = unlimited();
        pace.crowd(members, others_bytes);
        let plan = see(&mut pace, 0, 0);
        (plan.window, plan.chunk_bytes, plan.reason)
    };
    for few in [0, 1, 4] {
        assert_eq!(among(few, 0), (4, 1 << 20, PaceReason::Device), "{few}");
    }
    assert_eq!(among(5, 0), (3, 1 << 20, PaceReason::Memory));
    assert_eq!(among(16, 0), (2, 512 << 10, PaceReason::Memory));
    assert_eq!(among(200, 0), (1, 128 << 10, PaceReason::Memory));
    assert_eq!(among(2, 14 << 20), (2, 1 << 20, PaceReason::Memory));
    assert_eq!(among(2, 99 << 20), (1, 128 << 10, PaceReason::Memory));
}

#[test]
fn what_a_user_bounds_can_be_changed_under_way() {
    let mut pace = unlimited();
    let reason = |pace: &mut Pace| see(pace, 0, 0).reason;
    assert_eq!(reason(&mut pace), PaceReason::Device);

    pace.tune(Tuning {
        max_workers: Some(NonZeroU32::new(1)),
        ..Tuning::default()
    });
    assert_eq!(reason(&mut pace), PaceReason::MaxWorkers);
    pace.tune(Tuning {
        guest_latency_ns: Some(Some(1)),
        ..Tuning::default()
    });
    assert_eq!(pace.limits.workers_max, 1, "what is not given stays");
    assert!(pace.budget.is_some());
    pace.tune(Tuning {
        max_workers: Some(None),
        guest_latency_ns: Some(None),
    });
    assert_eq!(reason(&mut pace), PaceReason::Device);
}

#[test]
fn small_requests_are_more_but_of_no_more_bytes() {
    let plan = see(&mut unlimited(), 0, 0);
    assert!(plan.has_room(3, 3 << 20) && !plan.has_room(4, 4 << 20));
    assert!(plan.has_room(15, 15 * 65536) && !plan.has_room(16, 16 * 65536));
    assert!(!plan.has_room(7, (3 << 20) + 65536));
    let workers = PaceLimits {
        workers_max: 2,
        ..PaceLimits::default()
    };
    let plan = see(&mut Pace::new(workers), 0, 0);
    assert!(plan.has_room(1, 65536) && !plan.has_room(2, 2 * 65536));
    let mut guest = unlimited();
    see(&mut guest, 1, 1);
    let plan = guest.plan(1);
    assert!(plan.has_room(8, 8 * 65536) && !plan.has_room(9, 9 * 65536));
}

/// A virtio disk, a shared one on the network, a slow one.
const DEVICES: [Device; 3] = [
    Device {
        mib_per_s: 2000,
        each_ns: 30_000,
    },
    Device {
        mib_per_s: 300,
        each_ns: 300_000,
    },
    Device {
        mib_per_s: 100,
        each_ns: 1_000_000,
    },
];
const MS: u64 = 1_000_000;
const S: u64 = 1000 * MS;

#[test]
fn the_latency_budget_is_kept_and_most_of_it_is_used() {
    for (seed, device) in (1..).zip(DEVICES) {
        for depth in [1, 16] {
            // A few times what a small request takes is the least that can be kept.
            let budget_ns = 4 * device.takes_ns(65536);
            let mut alone = World::without_copy(device, depth, seed);
            alone.run(10 * S);
            let mut world = World::new(device, depth, seed, Some(budget_ns));
            world.run(5 * S);
            world.forget();
            world.run(20 * S);

            let (p99_ns, alone_ns) = (world.p99_ns(), alone.p99_ns());
            let case = format!("{device:?} at {depth}: {alone_ns} + {budget_ns}, {p99_ns} ns");
            // As exactly as a histogram tells.
            assert!(p99_ns <= (alone_ns + budget_ns) / 8 * 9, "{case}");
            assert!(p99_ns >= alone_ns + budget_ns / 2, "{case}");
            let (least, mean) = world.copied_each_s();
            assert!(least * 4 >= mean, "{case}: {least} to {mean} bytes/s");
        }
    }
}

#[test]
fn without_a_budget_the_guest_waits_longer_and_the_copy_is_faster() {
    let measured = |budget_ns| {
        let mut world = World::new(DEVICES[1], 1, 7, budget_ns);
        world.run(30 * S);
        (world.p99_ns(), world.copied_each_s().1)
    };
    let (with, without) = (measured(Some(MS)), measured(None));
    assert!(with.0 * 2 < without.0, "{with:?} {without:?}");
    assert!(with.1 < without.1, "{with:?} {without:?}");
}

#[test]
fn a_budget_that_cannot_be_kept_leaves_the_copy_a_little() {
    let device = DEVICES[2];
    let mut world = World::new(device, 1, 3, Some(1));
    world.run(20 * S);
    world.forget();
    world.run(20 * S);
    assert!(world.copied_each_s().0 > 0, "it starves");
    let plan = world.pace.plan(world.now_ns);
    assert_eq!(plan.reason, PaceReason::LatencyBudget);
    assert!(world.pace.guest_added_p99_ns().unwrap() > 1);
}

#[test]
fn a_device_that_becomes_slower_gets_less_to_do() {
    let mut world = World::new(DEVICES[0], 1, 5, Some(MS));
    world.run(20 * S);
    world.device = DEVICES[1];
    world.run(10 * S);
    world.forget();
    world.run(30 * S);
    let mut alone = World::without_copy(DEVICES[1], 1, 5);
    alone.run(20 * S);
    let added_ns = world.p99_ns().saturating_sub(alone.p99_ns());
    assert!(added_ns <= MS + MS / 10, "{added_ns}");
    // What the device takes more is not taken for the copy's doing.
    let mean = world.copied_each_s().1;
    assert!(mean > 10 << 20, "{mean} bytes/s");
}

#[test]
fn what_guests_wait_for_without_the_copy_leaves_the_copy_its_share() {
    for seed in [1, 4] {
        let mut world = World::new(DEVICES[0], 16, seed, Some(MS));
        world.stall_ns = 10 * MS;
        world.run(8 * S);
        world.forget();
        world.run(8 * S);
        let mean = world.copied_each_s().1;
        // One small request at a time is a third of that.
        assert!(mean > 150 << 20, "{mean} bytes/s");
    }
}

#[test]
fn a_budget_that_cannot_be_kept_with_the_least_does_not_starve_the_copy() {
    for seed in [1, 4] {
        let mut world = World::new(DEVICES[1], 16, seed, Some(MS));
        world.beside_ns = 3 * MS;
        world.run(20 * S);
        world.forget();
        world.run(10 * S);
        let beside = world.copied_each_s();
        // Where it can be kept, it is as before.
        world.beside_ns = 0;
        world.run(20 * S);
        world.forget();
        world.run(10 * S);
        eprintln!(
            "MEAN {beside:?} {} {:?}",
            world.p99_ns(),
            world.copied_each_s()
        );
    }
}

#[test]
fn a_guest_that_has_gone_leaves_the_device_to_the_copy_and_finds_room_when_it_is_back() {
    let mut world = World::new(DEVICES[1], 1, 9, Some(2 * MS));
    world.run(10 * S);
    let beside = world.copied_each_s().1;
    world.pause_guest();
    world.run(5 * S);
    world.forget();
    world.run(5 * S);
    let alone = world.copied_each_s().1;
    assert!(alone > beside * 3 / 2, "{beside} then {alone} bytes/s");
    world.resume_guest();
    world.run(3 * S);
    world.forget();
    world.run(20 * S);
    assert!(world.p99_ns() < 4 * MS, "{}", world.p99_ns());
}
