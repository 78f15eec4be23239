//! Models of the gate and its mutants: `RUSTFLAGS="--cfg loom" cargo test -p block --release loom_`.

use loom::{
    cell::UnsafeCell,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{CLOSED_ONCE, Gate, INSIDE};
use crate::testing::{block_on, must_fail};

/// The steps that a mutant may get wrong; the defaults are what ships.
trait Steps: 'static {
    async fn enter(gate: &Gate) {
        loop {
            if gate.try_enter() {
                return;
            }
            gate.outside.until(|| !gate.is_closed()).await;
        }
    }
    fn leave(gate: &Gate) {
        gate.leave();
    }
    fn open(gate: &Gate) {
        gate.open();
    }
}

struct Shipped;
impl Steps for Shipped {}

/// Looks first and counts second: a request is born between the two.
struct CountsAfterLooking;
impl Steps for CountsAfterLooking {
    async fn enter(gate: &Gate) {
        gate.outside.until(|| !gate.is_closed()).await;
        gate.state.fetch_add(1, Ordering::AcqRel);
    }
}

/// Leaves without telling the one who waits for emptiness.
struct LeavesInSilence;
impl Steps for LeavesInSilence {
    fn leave(gate: &Gate) {
        gate.state.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Opens, and wakes one of those outside instead of all.
struct WakesOne;
impl Steps for WakesOne {
    fn open(gate: &Gate) {
        gate.state.fetch_sub(CLOSED_ONCE, Ordering::AcqRel);
        gate.outside.wake_one();
    }
}

/// Takes the first open for the last.
struct OpensAtOnce;
impl Steps for OpensAtOnce {
    fn open(gate: &Gate) {
        let before = gate.state.load(Ordering::Acquire);
        gate.state.fetch_and(INSIDE, Ordering::AcqRel);
        if before >= CLOSED_ONCE {
            gate.outside.wake_all();
        }
    }
}

struct World {
    gate: Gate,
    /// Read by requests inside, written by whoever has closed and emptied the gate: loom reports
    /// any overlap of the two.
    structure: UnsafeCell<u32>,
    served: AtomicUsize,
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            gate: Gate::default(),
            structure: UnsafeCell::new(0),
            served: AtomicUsize::new(0),
        })
    }

    fn request<S: Steps>(&self) {
        block_on(S::enter(&self.gate));
        self.structure.with(|_| ());
        self.served.fetch_add(1, Ordering::Relaxed);
        S::leave(&self.gate);
    }

    fn close(&self) {
        self.gate.close();
        block_on(self.gate.wait_empty());
    }
}

/// Two requests against one drained section, or two nested ones.
fn model<S: Steps>(sections: usize) {
    loom::model(move || {
        let world = World::new();
        let requests: Vec<_> = (0..2)
            .map(|_| {
                let world = world.clone();
                thread::spawn(move || world.request::<S>())
            })
            .collect();
        for _ in 0..sections {
            world.close();
        }
        world.structure.with_mut(|_| ());
        for left in (0..sections).rev() {
            S::open(&world.gate);
            if left > 0 {
                world.structure.with_mut(|_| ());
            }
        }
        for request in requests {
            request.join().unwrap();
        }
        assert_eq!(world.served.load(Ordering::Relaxed), 2);
        assert_eq!(world.gate.state.load(Ordering::Relaxed), 0);
    });
}

/// Two independent sections on two threads, one request between them.
fn model_two_drains<S: Steps>() {
    loom::model(|| {
        let world = World::new();
        let request = {
            let world = world.clone();
            thread::spawn(move || world.request::<S>())
        };
        let other = {
            let world = world.clone();
            thread::spawn(move || {
                world.close();
                world.structure.with(|_| ());
                S::open(&world.gate);
            })
        };
        world.close();
        world.structure.with(|_| ());
        S::open(&world.gate);
        request.join().unwrap();
        other.join().unwrap();
        assert_eq!(world.gate.state.load(Ordering::Relaxed), 0);
    });
}

/// The protocol of an edge: enter where the edge points, look again, and go elsewhere if it moved.
fn model_switch(looks_again: fn(&AtomicUsize) -> bool) {
    loom::model(move || {
        let worlds = [World::new(), World::new()];
        let edge = Arc::new(AtomicUsize::new(0));
        let request = {
            let (worlds, edge) = (worlds.clone(), edge.clone());
            thread::spawn(move || {
                block_on(async {
                    loop {
                        let at = edge.load(Ordering::Acquire);
                        let wanted = || at == 1 || !looks_again(&edge);
                        let gate = &worlds[at].gate;
                        if let Some(_inside) = super::RequestGuard::enter_if(gate, wanted).await {
                            worlds[at].structure.with(|_| ());
                            worlds[at].served.fetch_add(1, Ordering::Relaxed);
                            break at;
                        }
                    }
                })
            })
        };
        worlds[0].close();
        let before = worlds[0].served.load(Ordering::Relaxed);
        worlds[0].structure.with_mut(|_| ());
        edge.store(1, Ordering::Release);
        worlds[0].gate.ask_again();
        worlds[0].gate.open();
        let at = request.join().unwrap();
        let after = worlds[0].served.load(Ordering::Relaxed);
        assert_eq!(before, after, "served by the old node after the switch");
        assert_eq!(after, usize::from(at == 0));
    });
}

#[test]
fn loom_after_close_nobody_is_inside_and_nobody_is_forgotten() {
    model::<Shipped>(1);
}

#[test]
fn loom_sections_nest() {
    model::<Shipped>(2);
}

#[test]
fn loom_two_drains_at_once() {
    model_two_drains::<Shipped>();
}

#[test]
fn loom_a_request_never_enters_the_node_its_edge_has_left() {
    model_switch(|edge| edge.load(Ordering::Acquire) != 0);
}

#[test]
fn loom_mutant_counting_after_looking_is_noticed() {
    must_fail(
        "gate::models::loom_mutant_counting_after_looking_is_noticed",
        || model::<CountsAfterLooking>(1),
    );
}

#[test]
fn loom_mutant_leaving_in_silence_is_noticed() {
    must_fail(
        "gate::models::loom_mutant_leaving_in_silence_is_noticed",
        || model::<LeavesInSilence>(1),
    );
}

#[test]
fn loom_mutant_waking_one_is_noticed() {
    must_fail("gate::models::loom_mutant_waking_one_is_noticed", || {
        model::<WakesOne>(1)
    });
}

#[test]
fn loom_mutant_opening_at_once_is_noticed() {
    must_fail(
        "gate::models::loom_mutant_opening_at_once_is_noticed",
        || model::<OpensAtOnce>(2),
    );
}

#[test]
fn loom_mutant_not_looking_again_is_noticed() {
    must_fail(
        "gate::models::loom_mutant_not_looking_again_is_noticed",
        || model_switch(|_| false),
    );
}
