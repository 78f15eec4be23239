//! One seed from its world's beginning to its end.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use aio::{AioContext, IoBuf, ManualClock};
use block::{Attachment, ByteRange, ChildRole, Graph, Permissions};
use job::JobRegistry;

use crate::{
    chance::Chance,
    check::Look,
    disk::{Disk, SimDisk},
    guest,
    history::{Change, History},
    jobs::{Ends, Jobs},
    plan::{JobKinds, Plan},
    stage::{Line, Stage, Stored, Use},
    trace::{self, Event, Keep, Violation},
    user,
    world::{Step, World},
};

/// Guests and users are let do as they like for so long, in nanoseconds.
const PLAY_MAX_NS: u64 = 100_000_000_000;
/// After the faults are over, everything ends in that time, in nanoseconds.
const END_MAX_NS: u64 = 60_000_000_000;
/// A minute in which nothing is to happen, in nanoseconds.
const IDLE_NS: u64 = 60_000_000_000;
/// Mirrors that say that they are synced are looked at after so many steps.
const SYNC_CHECK_STEPS: u64 = 300;
/// Turns in that minute that are few.
const IDLE_TURNS_MAX: u64 = 200;

/// How a seed went.
#[derive(Debug)]
pub struct Report {
    /// The first invariant that did not hold.
    pub violation: Option<Violation>,
    /// Of all events.
    pub hash: u64,
    /// How many there were.
    pub events: u64,
    /// Virtual time that passed, in nanoseconds.
    pub virtual_ns: u64,
    /// Requests of guests that were answered.
    pub answered: u64,
    /// How the jobs ended.
    pub ends: Ends,
}

/// Runs the world of `seed` to its end, or to the first violation.
#[must_use]
pub fn run_seed(seed: u64, jobs: JobKinds, keep: Keep) -> Report {
    let clock = ManualClock::default();
    trace::begin(seed, &clock, keep);
    let mut chance = Chance::new(seed);
    let plan = Plan::draw(jobs, &mut chance);
    let mut world = World::new(&clock, plan.contexts, plan.lags_one_in, chance.fork());
    let stage = set_up(&mut world, plan, &mut chance);
    for number in 0..stage.plan.guests {
        guest::add(&stage, number, &mut chance);
    }
    stage.spawn(stage.main(), user::act(stage.clone(), chance.fork()));
    let mut run = Run {
        world,
        stage,
        chance,
        steps: 0,
    };
    run.play();
    let ended = trace::end();
    let report = Report {
        violation: ended.violation,
        hash: ended.hash,
        events: ended.events,
        virtual_ns: clock.now_ns(),
        answered: run.stage.answered.get(),
        ends: *run.stage.jobs.ends.borrow(),
    };
    run.world.close();
    report
}

fn set_up(world: &mut World, plan: Plan, chance: &mut Chance) -> Rc<Stage> {
    let contexts = world.contexts();
    let (graph, registry) = (Graph::new(), JobRegistry::new(contexts[0].handle().clone()));
    let (mut lines, mut disks) = (Vec::new(), Vec::new());
    for line in 0..plan.lines {
        let len_bytes = Plan::draw_len(chance);
        for number in 0..=plan.targets_each {
            let options = Plan::draw_disk(len_bytes, chance);
            let disk = Disk::new(disks.len(), options, &world.clock, chance.fork());
            let faults = plan.draw_faults(len_bytes, chance);
            let (name, use_, is_faulty) = match number {
                0 => (format!("disk{line}"), Use::Guests, plan.faults.at_sources),
                number => {
                    let name = format!("target{line}-{number}");
                    (name, Use::Fresh, plan.faults.at_targets)
                }
            };
            let may_fail = is_faulty && faults.can_fail();
            if is_faulty {
                disk.set_faults(faults);
            }
            world.add(&disk);
            let node = graph.add_node(Some(&name), SimDisk(disk.clone()));
            disks.push(Stored {
                node: node.expect("the names differ"),
                disk,
                line,
                use_: RefCell::new(use_),
                may_fail,
            });
        }
        let at = disks.len() - 1 - plan.targets_each;
        let permissions = Attachment::new("probe", ChildRole::Primary, Permissions::IDLE);
        let probe = graph.attach(&disks[at].node, permissions);
        lines.push(Line {
            history: RefCell::new(fill(&disks[at].disk, len_bytes, chance)),
            at: Cell::new(at),
            may_fail: Cell::new(disks[at].may_fail),
            probe: probe.expect("it asks for nothing"),
        });
    }
    let jobs = Jobs::new(&registry);
    Rc::new(Stage {
        plan,
        clock: world.clock.clone(),
        contexts,
        graph,
        registry,
        jobs,
        lines,
        disks,
        chains: RefCell::default(),
        groups: RefCell::default(),
        ticks: Cell::new(10),
        is_closing: Cell::new(false),
        busy: Cell::new(0),
        answered: Cell::new(0),
    })
}

/// What is on a disk before anything happens.
fn fill(disk: &Disk, len_bytes: u64, chance: &mut Chance) -> History {
    let mut history = History::new(len_bytes);
    for _ in 0..chance.below(4) {
        let unit = 4096.min(len_bytes);
        let start = chance.below(len_bytes / unit) * unit;
        let end = (start + chance.scale(unit, len_bytes) / unit * unit).min(len_bytes);
        let range = ByteRange::between(start, end);
        let number = history.issue(Change::Stamp, range, 1);
        history.succeed(number, 1);
        history.stabilise(number, 1);
        disk.fill(range, &History::stamp(number, range));
    }
    history
}

struct Run {
    world: World,
    stage: Rc<Stage>,
    chance: Chance,
    steps: u64,
}

impl Run {
    fn play(&mut self) {
        let power_fails_after = self.stage.plan.power_fails_after;
        let mut left = power_fails_after.unwrap_or(u64::MAX);
        let stage = self.stage.clone();
        self.until(PLAY_MAX_NS, || {
            left -= 1;
            stage.busy.get() == 0 || left == 0
        });
        if trace::is_violated() {
            return;
        }
        if left == 0 {
            self.power_fails();
            return;
        }
        self.come_to_an_end();
        if !trace::is_violated() {
            self.check_the_end();
        }
    }

    /// Goes on until something holds, something is violated, or time is up; returns whether it holds.
    fn until(&mut self, most_ns: u64, mut holds: impl FnMut() -> bool) -> bool {
        let end_ns = self.world.clock.now_ns().saturating_add(most_ns);
        self.world.everybody_may_have_work();
        loop {
            if trace::is_violated() {
                return false;
            }
            if holds() {
                return true;
            }
            let before = self.stage.tick();
            if self.world.clock.now_ns() > end_ns || self.world.step() == Step::Still {
                return false;
            }
            // In this order: a switch is seen before the job tells that it has completed.
            self.stage.check_now(before);
            self.stage.hear();
            self.steps += 1;
            if self.steps.is_multiple_of(SYNC_CHECK_STEPS) {
                self.stage.check_synced();
            }
        }
    }

    fn power_fails(&mut self) {
        trace::note(Event::World {
            what: "power fails",
        });
        let now = self.stage.ticks.get();
        for (number, line) in self.stage.lines.iter().enumerate() {
            let stored = self.stage.disk_of(number);
            let left = stored.disk.after_power_loss();
            if let Err(text) = line.history.borrow().check_left(&left, now) {
                trace::violated("D8", format!("{}: {text}", stored.node.name()));
            }
        }
        self.stage.check_targets(Look::AfterPowerLoss);
    }

    /// Faults stop, and everything that is under way is to end.
    fn come_to_an_end(&mut self) {
        trace::note(Event::World {
            what: "faults are over",
        });
        let stage = self.stage.clone();
        stage.is_closing.set(true);
        self.world.stop_lagging();
        for stored in &stage.disks {
            stored.disk.heal();
        }
        let closing = user::close(stage.clone(), self.chance.fork());
        stage.spawn(stage.main(), closing);
        let busy = stage.clone();
        if !self.until(END_MAX_NS, || busy.busy.get() == 0) && !trace::is_violated() {
            let jobs: Vec<_> = stage
                .registry
                .list()
                .iter()
                .map(|job| format!("{} {}", job.id().unwrap_or_default(), job.status()))
                .collect();
            let in_flight: Vec<_> = stage
                .graph
                .nodes()
                .iter()
                .map(|node| format!("{} {}", node.name(), node.in_flight()))
                .collect();
            let text = format!(
                "{} guests and acts of users have not ended, nor have jobs {jobs:?}; nodes {in_flight:?}",
                stage.busy.get()
            );
            trace::violated("D7", text);
        }
    }

    fn check_the_end(&mut self) {
        // Filters that could not be taken out are tried again now and then.
        let stage = self.stage.clone();
        let alone = stage.clone();
        if !self.until(IDLE_NS, || alone.filters().is_empty()) && !trace::is_violated() {
            let text = format!("{:?} are left in the graph", stage.filters());
            trace::violated("D11", text);
        }
        let before = self.world.turns();
        self.until(IDLE_NS, || false);
        let turns = self.world.turns() - before;
        if turns > IDLE_TURNS_MAX {
            let text = format!("{turns} turns in a minute in which nothing happens");
            trace::violated("D7", text);
        }
        for line in 0..stage.lines.len() {
            let reading = read_all(stage.clone(), line);
            stage.spawn(stage.main(), reading);
        }
        let busy = stage.clone();
        if !self.until(END_MAX_NS, || busy.busy.get() == 0) && !trace::is_violated() {
            trace::violated("D7", "the last look at the disks does not end");
        }
        stage.check_targets(Look::Now);
        stage.check_chains();
        stage.check_groups();
        self.check_leaks();
    }

    fn check_leaks(&self) {
        for cx in self.stage.contexts.iter() {
            let (tasks, used) = (cx.stats().tasks, cx.buffers().bytes_in_use());
            // The registry has one, which notices the end of the main context.
            let is_main = cx.handle().is_same(self.stage.main().handle());
            if tasks > usize::from(is_main) || used > 0 {
                let name = cx.handle().name();
                let text = format!("{name} has {tasks} tasks and {used} bytes of buffers left");
                trace::violated("D11", text);
            }
        }
        for node in self.stage.graph.nodes() {
            if node.in_flight() > 0 {
                let text = format!("{} has requests that nobody made", node.name());
                trace::violated("D11", text);
            }
        }
    }
}

/// Reads a whole disk when everything has ended, and makes it stable.
async fn read_all(stage: Rc<Stage>, number: usize) {
    let line = &stage.lines[number];
    let (edge, disk) = (stage.attach(number), &stage.disk_of(number).disk);
    let cx: AioContext = stage.main().clone();
    let began = stage.tick();
    let buf = IoBuf::heap(disk.content().len());
    let (buf, result) = edge.read(&cx, 0, buf).await;
    if let Err(error) = result {
        trace::violated("D1", format!("a healed disk cannot be read: {error}"));
        return;
    }
    let times = (began, stage.tick());
    let checked = line.history.borrow_mut().check_read((0, &buf), times);
    if let Err(text) = checked {
        trace::violated("D1", format!("at the end: {text}"));
    }
    let began = stage.tick();
    if edge.flush(&cx).await.is_ok() {
        let now = stage.tick();
        let mut history = line.history.borrow_mut();
        history.flushed(began, now);
        if let Err(text) = history.check_left(&disk.durable(), now) {
            trace::violated("D8", format!("at the end: {text}"));
        }
    }
}
