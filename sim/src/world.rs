//! The scheduler: contexts and disks on one thread, and whose turn it is, as the seed says.

use std::{rc::Rc, sync::Arc};

use aio::{AioContext, BackendKind, Blocking, Clock, Config, ManualClock, TimerClock};

use crate::{chance::Chance, disk::Disk, trace};

/// Turns without time passing that are more than anybody needs.
const TURNS_AT_ONCE_MAX: u64 = 200_000;

/// Everything that takes turns.
pub(crate) struct World {
    pub(crate) clock: ManualClock,
    contexts: Vec<Turning>,
    disks: Vec<Arc<Disk>>,
    chance: Chance,
    /// One turn of so many is followed by some time in which the context gets none.
    lags_one_in: Option<u64>,
    turns_at_once: u64,
    turns: u64,
}

struct Turning {
    cx: AioContext,
    may_have_work: bool,
    /// It has no processor until then.
    lags_until_ns: u64,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Something may have happened.
    Turned,
    /// Nothing will ever happen again by itself.
    Still,
}

impl World {
    pub(crate) fn new(
        clock: &ManualClock,
        contexts: usize,
        lags_one_in: Option<u64>,
        mut chance: Chance,
    ) -> Self {
        let context = |number: usize| {
            let config = Config {
                name: format!("context {number}"),
                // Nothing here is asked of the kernel; this backend does not even enter it then.
                backend: Some(BackendKind::Epoll),
                clock: Clock::Manual(clock.clone()),
                wall_clock: Clock::Manual(ManualClock::default()),
                task_order_seed: Some(chance.draw()),
                ..Config::default()
            };
            let cx = AioContext::new(config).expect("the system has descriptors left");
            Turning {
                cx,
                may_have_work: true,
                lags_until_ns: 0,
            }
        };
        Self {
            clock: clock.clone(),
            contexts: (0..contexts).map(context).collect(),
            disks: Vec::new(),
            chance: chance.fork(),
            lags_one_in,
            turns_at_once: 0,
            turns: 0,
        }
    }

    pub(crate) fn contexts(&self) -> Rc<[AioContext]> {
        self.contexts
            .iter()
            .map(|turning| turning.cx.clone())
            .collect()
    }

    pub(crate) fn add(&mut self, disk: &Arc<Disk>) {
        self.disks.push(disk.clone());
    }

    /// Turns of contexts so far.
    pub(crate) fn turns(&self) -> u64 {
        self.turns
    }

    /// Contexts run smoothly from now on.
    pub(crate) fn stop_lagging(&mut self) {
        self.lags_one_in = None;
        for turning in &mut self.contexts {
            turning.lags_until_ns = 0;
        }
    }

    /// One thing happens: a context has a turn, a request of a disk ends, or time passes.
    pub(crate) fn step(&mut self) -> Step {
        let now_ns = self.clock.now_ns();
        let ready: Vec<usize> = (0..self.contexts.len())
            .filter(|&at| self.contexts[at].is_ready(now_ns))
            .collect();
        let due: Vec<usize> = (0..self.disks.len())
            .filter(|&at| self.disks[at].next_due_ns().is_some_and(|ns| ns <= now_ns))
            .collect();
        let ways = ready.len() + due.len();
        if ways == 0 {
            return self.pass_time(now_ns);
        }
        let way = self.chance.index(ways);
        match ready.get(way) {
            Some(&at) => self.turn(at, now_ns),
            None => {
                let disk = &self.disks[due[way - ready.len()]];
                disk.complete_one();
                self.everybody_may_have_work();
            }
        }
        Step::Turned
    }

    fn turn(&mut self, at: usize, now_ns: u64) {
        self.turns += 1;
        self.turns_at_once += 1;
        if self.turns_at_once == TURNS_AT_ONCE_MAX {
            trace::violated("D7", "something spins: time does not pass any more");
        }
        let progress = self.contexts[at].cx.poll(Blocking::No);
        trace::mix((at, progress));
        if progress {
            // What it has left for another context does not show.
            self.everybody_may_have_work();
        } else {
            self.contexts[at].may_have_work = false;
        }
        if let Some(one_in) = self.lags_one_in
            && self.chance.one_in(one_in)
        {
            self.contexts[at].lags_until_ns = now_ns + self.chance.scale(1_000, 20_000_000);
        }
    }

    /// Something was left for the contexts from outside.
    pub(crate) fn everybody_may_have_work(&mut self) {
        for turning in &mut self.contexts {
            turning.may_have_work = true;
        }
    }

    fn pass_time(&mut self, now_ns: u64) -> Step {
        let timers = self.contexts.iter().filter_map(|turning| {
            let timer_ns = turning.cx.next_timer_ns(TimerClock::Loop);
            let lag_ns = turning.may_have_work.then_some(turning.lags_until_ns);
            match (timer_ns, lag_ns) {
                (Some(timer_ns), None) => Some(timer_ns.max(turning.lags_until_ns)),
                (_, lag_ns) => lag_ns,
            }
        });
        let due = self.disks.iter().filter_map(|disk| disk.next_due_ns());
        let Some(next_ns) = timers.chain(due).min() else {
            return Step::Still;
        };
        // A little later, more than one thing may be due.
        let late_ns = match self.chance.one_in(2) {
            true => self.chance.scale(1, 100_000),
            false => 0,
        };
        self.clock.set_ns(next_ns.max(now_ns) + late_ns);
        self.turns_at_once = 0;
        self.everybody_may_have_work();
        Step::Turned
    }

    /// Ends the contexts; what is left on them goes with them.
    pub(crate) fn close(self) {
        for turning in self.contexts {
            turning.cx.close();
        }
    }
}

impl Turning {
    fn is_ready(&self, now_ns: u64) -> bool {
        self.may_have_work && self.lags_until_ns <= now_ns
    }
}
