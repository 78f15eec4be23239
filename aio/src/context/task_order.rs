//! Tasks in an order that is drawn from a seed, for those who test what must not depend on it.

use std::cell::Cell;

use super::AioContext;
use crate::shared::{Local, Runnable};

/// Most tasks polled in one turn: few, so that the turns of several contexts mix.
const TASKS_PER_TURN: u64 = 8;

/// A source of chance; the same seed gives the same draws.
#[derive(Debug)]
pub(super) struct TaskOrder(Cell<u64>);

impl TaskOrder {
    pub(super) fn new(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    /// A number below `limit`, which is not zero. (Steele, Lea and Flood, "Fast splittable pseudorandom
    /// number generators", 2014.)
    fn below(&self, limit: u64) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn take(&self, local: &mut Local) -> Option<Runnable> {
        let due = u64::try_from(local.runnable.len()).ok()?;
        let chosen = if due > 1 { self.below(due) } else { 0 };
        local
            .runnable
            .swap_remove_back(usize::try_from(chosen).ok()?)
    }
}

impl AioContext {
    /// Polls some of the tasks that are due, whichever `order` picks; returns whether there were any.
    pub(super) fn run_tasks_in(&self, order: &TaskOrder) -> bool {
        let shared = self.inner.shared.clone();
        let mut progress = false;
        for _ in 0..=order.below(TASKS_PER_TURN) {
            if shared.has_inbox() {
                self.take_inbox();
            }
            let Some(next) = shared.local.with(|local| order.take(local)) else {
                break;
            };
            self.inner.in_task.set(true);
            self.run_task(next);
            self.inner.in_task.set(false);
            progress = true;
        }
        progress
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use crate::{AioContext, Blocking, Config};

    /// The order in which twenty tasks that were spawned at once run, and after how many turns.
    fn order_of(task_order_seed: Option<u64>) -> (Vec<u32>, u64) {
        let config = Config {
            task_order_seed,
            ..Config::default()
        };
        let cx = AioContext::new(config).unwrap();
        let order = Rc::<RefCell<Vec<u32>>>::default();
        for number in 0..20 {
            let order = order.clone();
            drop(cx.spawn(async move { order.borrow_mut().push(number) }));
        }
        while cx.poll(Blocking::No) {}
        let turns = cx.stats().turns;
        cx.close();
        (order.take(), turns)
    }

    #[test]
    fn a_seed_decides_which_task_runs_next_and_how_many_in_a_turn() {
        let in_order: Vec<u32> = (0..20).collect();
        assert_eq!(order_of(None).0, in_order);

        let (drawn, turns) = order_of(Some(7));
        assert_eq!(order_of(Some(7)), (drawn.clone(), turns));
        assert_ne!(order_of(Some(8)).0, drawn);
        let mut sorted = drawn.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, in_order, "each runs once");
        assert_ne!(drawn, in_order);
        assert!(turns > 2, "{turns} turns");
    }
}
