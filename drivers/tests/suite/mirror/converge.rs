//! Guests that write faster than the mirror copies.

use std::{cell::Cell, rc::Rc};

use aio::{AioContext, ManualClock};
use block::Child;
use drivers::{
    ConvergePolicy, Estimate,
    mirror::{Mirror, MirrorOptions},
};
use job::JobStatus;

use super::super::world::{CLUSTER, MIB, World, pattern, range, with_clock, write};
use super::{assert_equal, options, start};

const MS: u64 = 1_000_000;
const LEN: u64 = 16 * MIB;
const SPEED: u64 = 8 * MIB;

/// A step of the clock, in milliseconds.
const STEP_MS: u64 = 10;
const WRITERS: u64 = 8;

/// Writes a block somewhere in the first bytes with each step of the clock, by several hands, until it is stopped.
struct Guest {
    stops: Rc<Cell<bool>>,
    hands: Vec<aio::Task<()>>,
}

impl Guest {
    fn start(world: &World, reach_bytes: u64) -> Self {
        let stops = Rc::new(Cell::new(false));
        let hands = (0..WRITERS).map(|hand| {
            let (guest, cx, stops) = (world.guest_above(), world.cx.clone(), stops.clone());
            let clusters = reach_bytes / CLUSTER;
            world.cx.spawn(write_on((guest, cx), hand, clusters, stops))
        });
        let hands = hands.collect();
        Self { stops, hands }
    }

    /// Stops it, and lets the clock go on until it has.
    async fn stop(self, cx: &AioContext, clock: &ManualClock) {
        self.stops.set(true);
        while !self.hands.iter().all(aio::Task::is_finished) {
            step(cx, clock).await;
        }
    }
}

async fn write_on(
    (guest, cx): (Child, AioContext),
    hand: u64,
    clusters: u64,
    stops: Rc<Cell<bool>>,
) {
    for number in 0_u64.. {
        if stops.get() {
            return;
        }
        let at = (number * WRITERS + hand) * 37 % clusters * CLUSTER;
        let bytes = pattern(range(at, 512), number);
        write(&guest, &cx, at, &bytes).await.unwrap();
        cx.sleep_ns(STEP_MS * MS).await;
    }
}

/// Moves the clock, and lets run what that has woken.
async fn step(cx: &AioContext, clock: &ManualClock) {
    clock.advance_ns(STEP_MS * MS);
    for _ in 0..20 {
        cx.yield_now().await;
    }
}

/// Lets the clock go on until the mirror is ready, but for so many milliseconds at most; returns how many it took.
async fn run(cx: &AioContext, clock: &ManualClock, mirror: &Mirror, max_ms: u64) -> Option<u64> {
    for ms in (0..max_ms).step_by(10) {
        if mirror.job().status() == JobStatus::Ready {
            return Some(ms);
        }
        step(cx, clock).await;
    }
    None
}

fn limited(converge: ConvergePolicy) -> MirrorOptions {
    MirrorOptions {
        speed_bytes_per_s: SPEED,
        converge,
        ..options()
    }
}

#[test]
fn a_mirror_that_does_not_gain_on_its_guests_says_so() {
    with_clock(|cx, clock| async move {
        let world = World::full(&cx, LEN).await;
        let mirror = start(&world, limited(ConvergePolicy::GuestsFirst)).await;
        let guest = Guest::start(&world, LEN);
        assert_eq!(run(&cx, &clock, &mirror, 20_000).await, None);
        let report = mirror.report().converge;
        assert_eq!(
            (report.estimate, report.guest_delay_ns),
            (Estimate::Outrun, 0)
        );
        assert!(report.dirtied_bytes_per_s > 0 && report.copied_bytes_per_s > 0);

        guest.stop(&cx, &clock).await;
        assert!(run(&cx, &clock, &mirror, 20_000).await.is_some());
        assert_eq!(mirror.report().converge.estimate, Estimate::Equal);
        complete_by(&cx, &clock, &mirror).await;
        assert_equal(&world).await;
    });
}

#[test]
fn guests_are_slowed_until_the_mirror_gains_on_them_and_not_while_it_stands() {
    with_clock(|cx, clock| async move {
        let world = World::full(&cx, LEN).await;
        let slow = ConvergePolicy::SlowGuests {
            delay_max_ns: 200 * MS,
        };
        let mirror = start(&world, limited(slow)).await;
        let guest = Guest::start(&world, LEN);
        assert_eq!(run(&cx, &clock, &mirror, 2000).await, None);
        mirror.job().pause().unwrap();
        while mirror.job().status() != JobStatus::Paused {
            step(&cx, &clock).await;
        }
        let paused = mirror.report().converge;
        assert_eq!(
            (paused.estimate, paused.guest_delay_ns),
            (Estimate::Standing, 0)
        );
        mirror.job().resume().unwrap();
        let alone_ms = LEN * 1000 / SPEED;
        let took_ms = run(&cx, &clock, &mirror, 60_000).await;
        assert!(took_ms.is_some_and(|ms| ms < 4 * alone_ms), "{took_ms:?}");

        guest.stop(&cx, &clock).await;
        complete_by(&cx, &clock, &mirror).await;
        assert_equal(&world).await;
    });
}

#[test]
fn a_mirror_that_is_outrun_by_its_guests_completes_all_the_same() {
    with_clock(|cx, clock| async move {
        let world = World::full(&cx, LEN).await;
        let mirror = start(&world, options()).await;
        assert!(run(&cx, &clock, &mirror, 20_000).await.is_some());
        mirror.set_speed(SPEED).unwrap();
        let guest = Guest::start(&world, LEN / 4);
        while mirror.report().converge.estimate != Estimate::Outrun {
            step(&cx, &clock).await;
        }

        mirror.job().complete().unwrap();
        let mut took_ms = 0;
        while mirror.job().outcome().is_none() {
            step(&cx, &clock).await;
            took_ms += STEP_MS;
            assert!(took_ms < 60_000, "guests outrun it for ever");
        }
        mirror.job().wait().await.into_result().unwrap();
        guest.stop(&cx, &clock).await;
    });
}

async fn complete_by(cx: &AioContext, clock: &ManualClock, mirror: &Mirror) {
    mirror.job().complete().unwrap();
    while mirror.job().outcome().is_none() {
        step(cx, clock).await;
    }
    mirror.job().wait().await.into_result().unwrap();
}
