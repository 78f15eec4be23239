//! A mirror and its guest as fluids.

use super::*;

const GIB: u64 = 1 << 30;
const MS: u64 = 1_000_000;
const STEP_NS: u64 = 10 * MS;
const GRANULE: u64 = 64 << 10;

/// A mirror and a guest that share one disk, as fluids.
struct World {
    len_bytes: u64,
    /// What the copy does alone, in bytes per second.
    capacity: u64,
    /// Writes of the guest per second that leave the copy next to nothing.
    writes_max: u64,
    /// Writes that the guest keeps in flight, and what one takes at least, in nanoseconds.
    depth: u64,
    write_ns: u64,
    standing: Standing,
    now_ns: u64,
    written: u64,
}

impl World {
    fn new(depth: u64) -> Self {
        Self {
            len_bytes: 4 * GIB,
            capacity: GIB,
            writes_max: 40_000,
            depth,
            write_ns: 400_000,
            standing: Standing {
                differing_bytes: 4 * GIB,
                dirtied_bytes: 0,
                copied_bytes: 0,
            },
            now_ns: 0,
            written: 0,
        }
    }

    fn step(&mut self, converge: &mut Converge) {
        let delay_ns = converge.note(self.standing, self.now_ns);
        let writes_per_s = self.depth * NS_PER_S / (self.write_ns + delay_ns);
        let left = self
            .writes_max
            .saturating_sub(writes_per_s)
            .max(self.writes_max / 10);
        let copies = scaled(
            scaled(self.capacity, left, self.writes_max),
            STEP_NS,
            NS_PER_S,
        );
        let copied = copies.min(self.standing.differing_bytes);
        self.standing.differing_bytes -= copied;
        self.standing.copied_bytes += copied;
        let writes = scaled(writes_per_s, STEP_NS, NS_PER_S);
        let clean = self.len_bytes - self.standing.differing_bytes;
        let dirtied = scaled(writes * GRANULE, clean, self.len_bytes).min(clean);
        self.standing.differing_bytes += dirtied;
        self.standing.dirtied_bytes += dirtied;
        self.written += writes;
        self.now_ns += STEP_NS;
    }

    /// Runs until hardly anything differs; returns how long that took, in milliseconds.
    fn run(&mut self, converge: &mut Converge, max_ms: u64) -> Option<u64> {
        let start_ns = self.now_ns;
        let elapsed_ms = |now_ns: u64| (now_ns - start_ns) / MS;
        while self.standing.differing_bytes >= 8 << 20 {
            if elapsed_ms(self.now_ns) >= max_ms {
                return None;
            }
            self.step(converge);
        }
        Some(elapsed_ms(self.now_ns))
    }
}

const SLOW_GUESTS: ConvergePolicy = ConvergePolicy::SlowGuests {
    delay_max_ns: 20 * MS,
};

#[test]
fn a_guest_that_outruns_the_copy_is_told_and_not_slowed() {
    let (mut world, mut converge) = (World::new(16), Converge::new(ConvergePolicy::GuestsFirst));
    assert_eq!(world.run(&mut converge, 60_000), None);
    let report = converge.report();
    assert_eq!(
        (report.estimate, report.guest_delay_ns),
        (Estimate::Outrun, 0)
    );
    assert!(report.dirtied_bytes_per_s >= report.copied_bytes_per_s / 50 * 49);
}

#[test]
fn a_guest_that_outruns_the_copy_is_slowed_until_it_does_not() {
    for depth in [8, 16, 64] {
        let (mut world, mut converge) = (World::new(depth), Converge::new(SLOW_GUESTS));
        let alone_ms = world.len_bytes * 1000 / world.capacity;
        let took_ms = world.run(&mut converge, 60_000);
        assert!(
            took_ms.is_some_and(|ms| ms <= 3 * alone_ms),
            "{depth}: {took_ms:?}"
        );
        // It goes on, but for the looks at the capacity.
        let least = depth * took_ms.unwrap() / 20;
        assert!(world.written > least, "{depth}: {} writes", world.written);
    }
}

#[test]
fn a_guest_that_does_not_outrun_the_copy_hardly_waits() {
    let mut converge = Converge::new(SLOW_GUESTS);
    let mut world = World {
        write_ns: 2 * MS,
        ..World::new(1)
    };
    let free = world.depth * NS_PER_S / world.write_ns;
    let took_ms = world.run(&mut converge, 60_000).unwrap();
    assert!(took_ms < 6000, "{took_ms}");
    let wanted = free * took_ms / 1000;
    assert!(
        world.written * 10 > wanted * 8,
        "{} of {wanted}",
        world.written
    );
}

#[test]
fn the_delay_goes_when_the_guest_does() {
    let (mut world, mut converge) = (World::new(64), Converge::new(SLOW_GUESTS));
    world.run(&mut converge, 60_000).unwrap();
    world.depth = 0;
    for _ in 0..2000 {
        world.step(&mut converge);
    }
    let report = converge.report();
    assert_eq!(
        (report.estimate, report.guest_delay_ns),
        (Estimate::Equal, 0)
    );
    assert_eq!(converge.delay(), 0);
}

#[test]
fn the_time_left_is_that_of_the_gain() {
    let (mut world, mut converge) = (World::new(1), Converge::new(ConvergePolicy::GuestsFirst));
    world.step(&mut converge);
    assert_eq!(converge.report().estimate, Estimate::Measuring);
    for _ in 0..200 {
        world.step(&mut converge);
    }
    let (told, at_ns) = (converge.report().estimate, world.now_ns);
    world.run(&mut converge, 60_000).unwrap();
    let Estimate::InNs(told_ns) = told else {
        panic!("{told:?}");
    };
    let took_ns = world.now_ns - at_ns;
    assert!(
        told_ns.abs_diff(took_ns) < took_ns / 4,
        "{told_ns} for {took_ns}"
    );
}

#[test]
fn a_mirror_that_stands_says_so_and_lets_guests_go() {
    let (mut world, mut converge) = (World::new(64), Converge::new(SLOW_GUESTS));
    world.run(&mut converge, 1000);
    converge.stand();
    let report = converge.report();
    assert_eq!(
        (report.estimate, report.guest_delay_ns),
        (Estimate::Standing, 0)
    );
    // What happened meanwhile is nobody's rate.
    world.standing.dirtied_bytes += GIB;
    world.now_ns += 60 * NS_PER_S;
    let before = report.dirtied_bytes_per_s;
    converge.note(world.standing, world.now_ns);
    assert_eq!(converge.report().dirtied_bytes_per_s, before);
}
