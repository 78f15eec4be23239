//! The user: starts jobs, uses every verb, drains nodes and moves them, at random and then to an end.

use std::rc::Rc;

use block::{Node, mirror::CopyMode};
use job::{CancelMode, Job, JobError, JobStatus};

use crate::{
    chance::Chance,
    jobs::{Kind, Track},
    stage::Stage,
    start,
    trace::{self, Event},
};

/// How often the user looks what is left to do, when all is to come to an end, in nanoseconds.
const LOOK_NS: u64 = 50_000_000;
/// After that time, jobs at disks that are broken for good are cancelled.
const PATIENCE_NS: u64 = 20_000_000_000;

/// Does what the plan has for the user, then ends.
pub(crate) async fn act(stage: Rc<Stage>, mut chance: Chance) {
    for number in 0..stage.plan.acts {
        let wait_ns = chance.below(stage.plan.act_ns * 2);
        stage.main().sleep_ns(wait_ns).await;
        if stage.is_closing.get() {
            return;
        }
        let jobs = stage.registry.list();
        if jobs.is_empty() || chance.one_in(4) {
            start::start(&stage, number, &mut chance);
        } else if stage.plan.is_about_chains && chance.one_in(4) {
            cancel_one(&stage, chance.pick(&jobs));
        } else {
            use_verb(&stage, chance.pick(&jobs), &mut chance);
        }
        if stage.plan.verbs.drains && chance.one_in(4) {
            drain(&stage, &mut chance);
        }
        if stage.plan.verbs.moves && chance.one_in(6) {
            move_node(&stage, &mut chance);
        }
    }
}

pub(crate) fn told(what: String) {
    trace::note(Event::User { what });
}

fn any_node(stage: &Stage, chance: &mut Chance) -> Node {
    chance.pick(&stage.graph.nodes()).clone()
}

/// Keeps nodes quiet for a while.
fn drain(stage: &Rc<Stage>, chance: &mut Chance) {
    let mut nodes = vec![any_node(stage, chance)];
    if chance.one_in(3) {
        nodes.push(any_node(stage, chance));
    }
    let names: Vec<_> = nodes.iter().map(|node| node.name().to_owned()).collect();
    told(format!("drain {names:?}"));
    let held_ns = chance.scale(1_000, 1_000_000_000);
    let cx = chance.pick(&stage.contexts).clone();
    let gives_up = chance.one_in(8);
    let (home, held) = (cx.clone(), stage.clone());
    stage.spawn(&home, async move {
        let draining = held.graph.drain(&nodes);
        let section = match gives_up {
            true => cx.timeout_ns(held_ns, draining).await.ok(),
            false => Some(draining.await),
        };
        let Some(section) = section else { return };
        if let Some(node) = nodes.iter().find(|node| !node.is_quiesced()) {
            let text = format!("{} has requests inside a drained section", node.name());
            trace::violated("D9", text);
        }
        cx.sleep_ns(held_ns).await;
        if let Some(node) = nodes.iter().find(|node| node.in_flight() > 0) {
            let text = format!("{} let a request in while it was drained", node.name());
            trace::violated("D9", text);
        }
        drop(section);
    });
}

fn move_node(stage: &Rc<Stage>, chance: &mut Chance) {
    let node = any_node(stage, chance);
    let to = chance.pick(&stage.contexts).handle().clone();
    told(format!("move {} to {}", node.name(), to.name()));
    let held = stage.clone();
    stage.spawn(stage.main(), async move {
        // Refused when the node has gone meanwhile.
        let moved = held.graph.set_context(&node, &to).await;
        trace::mix(moved.is_ok());
    });
}

fn use_verb(stage: &Rc<Stage>, job: &Job, chance: &mut Chance) {
    let verbs = stage.plan.verbs;
    let mut tracks = stage.jobs.tracks.borrow_mut();
    let id = job.id().unwrap_or_default().to_owned();
    let track = tracks.iter_mut().rev().find(|track| track.id == id);
    let track = track.expect("all jobs are tracked");
    let (verb, done) = match chance.below(16) {
        0..3 if verbs.pauses => ("pause", job.pause()),
        3..6 if verbs.pauses => ("resume", job.resume()),
        6..8 if verbs.speeds => {
            let speed = *chance.pick(&[0, 1 << 16, 1 << 20, 1 << 24]);
            ("set-speed", track.set_speed(speed))
        }
        8 if verbs.cancels => ("cancel", soft_cancel(stage, job, track)),
        9 if verbs.cancels => ("cancel by force", force_cancel(stage, job, track)),
        10 => ("finalize", job.finalize()),
        11 => ("dismiss", job.dismiss()),
        12..14 => ("complete", complete(job, track)),
        14.. if verbs.changes => ("change", change(track, chance)),
        _ => return,
    };
    drop(tracks);
    let how = if done.is_ok() { "done" } else { "refused" };
    told(format!("{verb} {id}: {how}"));
}

fn cancel_one(stage: &Stage, job: &Job) {
    let id = job.id().unwrap_or_default().to_owned();
    let mut tracks = stage.jobs.tracks.borrow_mut();
    let track = tracks.iter_mut().rev().find(|track| track.id == id);
    let done = force_cancel(stage, job, track.expect("all jobs are tracked"));
    told(format!("cancel {id}: {}", done.is_ok()));
}

fn soft_cancel(stage: &Stage, job: &Job, track: &mut Track) -> Result<(), JobError> {
    let asked = stage.tick();
    let done = job.cancel(CancelMode::Soft);
    if let (Ok(()), Kind::Mirror(mirror)) = (&done, &mut track.kind) {
        mirror.asked_to_stop.get_or_insert(asked);
    }
    done
}

fn complete(job: &Job, track: &mut Track) -> Result<(), JobError> {
    let done = job.complete();
    if let (Ok(()), Kind::Mirror(mirror)) = (&done, &mut track.kind) {
        mirror.is_to_switch = true;
    }
    done
}

fn change(track: &Track, chance: &mut Chance) -> Result<(), JobError> {
    let mode = *chance.pick(&CopyMode::ALL);
    match &track.kind {
        Kind::Mirror(mirror) => {
            let mirror = mirror.mirror.as_ref();
            mirror.map_or(Ok(()), |mirror| mirror.set_copy_mode(mode))
        }
        Kind::Backup(_) => Ok(()),
    }
}

fn force_cancel(stage: &Stage, job: &Job, track: &mut Track) -> Result<(), JobError> {
    let done = job.cancel(CancelMode::Force);
    // A drained section may hold the job up, however long it takes.
    if done.is_ok() && !stage.plan.verbs.drains {
        let now_ns = stage.clock.now_ns();
        track.force_cancelled_ns.get_or_insert(now_ns);
    }
    done
}

/// Brings every job to its end, and ends then. Faults are over.
pub(crate) async fn close(stage: Rc<Stage>, mut chance: Chance) {
    let began_ns = stage.clock.now_ns();
    loop {
        let jobs = stage.registry.list();
        if jobs.is_empty() && stage.busy.get() == 1 {
            return;
        }
        for job in jobs {
            finish(&stage, &job, began_ns, &mut chance);
        }
        stage.main().sleep_ns(LOOK_NS).await;
    }
}

fn finish(stage: &Stage, job: &Job, began_ns: u64, chance: &mut Chance) {
    let id = job.id().unwrap_or_default().to_owned();
    let mut tracks = stage.jobs.tracks.borrow_mut();
    let track = tracks.iter_mut().rev().find(|track| track.id == id);
    let track = track.expect("all jobs are tracked");
    // Refused when the job is done copying.
    let is_set = track.set_speed(0).is_ok();
    let is_broken = stage.disks[track.target].disk.is_broken();
    let is_late = stage.clock.now_ns() > began_ns + PATIENCE_NS;
    let done = match job.status() {
        _ if is_broken && is_late && !job.is_cancelled() => {
            told(format!("cancel {id}, whose target is broken"));
            job.cancel(CancelMode::Force)
        }
        JobStatus::Pending => job.finalize(),
        JobStatus::Concluded => job.dismiss(),
        JobStatus::Ready if chance.one_in(4) => soft_cancel(stage, job, track),
        JobStatus::Ready => complete(job, track),
        _ => job.resume(),
    };
    trace::mix((is_set, done.is_ok()));
}
