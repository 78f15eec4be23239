//! The user: starts jobs, uses every verb, drains nodes and moves them, at random and then to an end.

use std::rc::Rc;

use block::{Node, copy::TargetContent, nodes::copy_before_write::OnCbwError};
use blockjob::OnError;
use drivers::backup::{Backup, BackupOptions};
use job::{CancelMode, Job, JobStatus, Trigger};

use crate::{
    chance::Chance,
    jobs::Track,
    stage::{Stage, Use},
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
            start(&stage, number, &mut chance);
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

fn told(what: String) {
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
    let (verb, done) = match chance.below(12) {
        0..3 if verbs.pauses => ("pause", job.pause()),
        3..6 if verbs.pauses => ("resume", job.resume()),
        6..8 if verbs.speeds => {
            let speed = *chance.pick(&[0, 1 << 16, 1 << 20, 1 << 24]);
            let backup = track.and_then(|track| track.backup.clone());
            let done = backup.map_or(Ok(()), |backup| backup.set_speed(speed));
            ("set-speed", done)
        }
        8 if verbs.cancels => ("cancel", job.cancel(CancelMode::Soft)),
        9 if verbs.cancels => ("cancel by force", force_cancel(stage, job, track)),
        10 => ("finalize", job.finalize()),
        11 => ("dismiss", job.dismiss()),
        _ => return,
    };
    drop(tracks);
    let how = if done.is_ok() { "done" } else { "refused" };
    told(format!("{verb} {id}: {how}"));
}

fn force_cancel(stage: &Stage, job: &Job, track: Option<&mut Track>) -> Result<(), job::JobError> {
    let done = job.cancel(CancelMode::Force);
    // A drained section may hold the job up, however long it takes.
    if let (Ok(()), Some(track), false) = (&done, track, stage.plan.verbs.drains) {
        let now_ns = stage.clock.now_ns();
        track.force_cancelled_ns.get_or_insert(now_ns);
    }
    done
}

/// Starts a backup, if there is a target for it.
fn start(stage: &Rc<Stage>, number: u64, chance: &mut Chance) {
    let free = |at: &usize| match &*stage.targets[*at].use_.borrow() {
        Use::Fresh | Use::Free | Use::Complete(_) => true,
        Use::Taken(_) => false,
    };
    let free: Vec<usize> = (0..stage.targets.len()).filter(free).collect();
    if free.is_empty() {
        return;
    }
    let target = *chance.pick(&free);
    let source = stage.targets[target].source;
    let options = draw_options(stage, (source, target), number, chance);
    told(format!("start {options:?}"));
    if options.on_cbw_error == OnCbwError::BreakGuestWrite {
        let fails = stage.targets[target].may_fail.get() || options.cbw_timeout_ns.is_some();
        let may_fail = &stage.sources[source].may_fail;
        may_fail.set(may_fail.get() || fails);
    }
    let has_cause = stage.sources[source].may_fail.get() || stage.targets[target].may_fail.get();
    stage.check_targets(|disk| disk.content());
    let mut tracks = stage.jobs.tracks.borrow_mut();
    let number = tracks.len();
    *stage.targets[target].use_.borrow_mut() = Use::Taken(number);
    tracks.push(Track {
        id: options.job_id.clone(),
        number,
        source,
        target,
        called: stage.tick(),
        returned: None,
        backup: None,
        status: None,
        has_ended: false,
        may_fail: has_cause || options.cbw_timeout_ns.is_some(),
        force_cancelled_ns: None,
    });
    drop(tracks);
    let context = chance.pick(&stage.contexts).handle().clone();
    let patience_ns = chance.one_in(10).then(|| chance.scale(1_000, 10_000_000));
    let held = stage.clone();
    stage.spawn(stage.main(), async move {
        let nodes = (&held.sources[source].node, &held.targets[target].node);
        let id = options.job_id.clone();
        let world = (&held.graph, &held.registry);
        let starting = Backup::start(world, &context, nodes, options);
        let started = match patience_ns {
            None => Some(starting.await),
            Some(ns) => held.main().timeout_ns(ns, starting).await.ok(),
        };
        let returned = held.tick();
        let how = match &started {
            Some(Ok(_)) => "started".to_owned(),
            Some(Err(error)) => format!("refused: {error:?}"),
            None => "given up".to_owned(),
        };
        told(format!("{id} is {how}"));
        let mut tracks = held.jobs.tracks.borrow_mut();
        let track = &mut tracks[number];
        match started {
            Some(Ok(backup)) => {
                track.returned = Some(returned);
                track.backup = Some(backup);
            }
            Some(Err(_)) | None => held.release(track),
        }
    });
}

fn draw_options(
    stage: &Stage,
    (source, target): (usize, usize),
    number: u64,
    chance: &mut Chance,
) -> BackupOptions {
    let policies = [
        OnError::Report,
        OnError::Report,
        OnError::Ignore,
        OnError::Stop,
        OnError::Enospc,
        OnError::Auto,
    ];
    let is_fresh = matches!(*stage.targets[target].use_.borrow(), Use::Fresh);
    let verbs = stage.plan.verbs;
    let mut by_hand = || match verbs.by_hand && chance.one_in(2) {
        true => Trigger::Manual,
        false => Trigger::Auto,
    };
    let (finalize, dismiss) = (by_hand(), by_hand());
    BackupOptions {
        speed_bytes_per_s: match verbs.speeds && chance.one_in(2) {
            true => chance.scale(1 << 16, 1 << 26),
            false => 0,
        },
        on_source_error: *chance.pick(&policies),
        on_target_error: *chance.pick(&policies),
        on_cbw_error: match chance.one_in(4) {
            true => OnCbwError::BreakGuestWrite,
            false => OnCbwError::BreakSnapshot,
        },
        cbw_timeout_ns: chance
            .one_in(6)
            .then(|| chance.scale(100_000, 1_000_000_000)),
        target_content: match is_fresh && chance.one_in(2) {
            true => TargetContent::Zero,
            false => TargetContent::Unknown,
        },
        finalize,
        dismiss,
        ..BackupOptions::new(format!("b{number}-of-{source}"))
    }
}

/// Brings every job to its end, and ends then. Faults are over.
pub(crate) async fn close(stage: Rc<Stage>) {
    let began_ns = stage.clock.now_ns();
    loop {
        let jobs = stage.registry.list();
        if jobs.is_empty() && stage.busy.get() == 1 {
            return;
        }
        for job in jobs {
            finish(&stage, &job, began_ns);
        }
        stage.main().sleep_ns(LOOK_NS).await;
    }
}

fn finish(stage: &Stage, job: &Job, began_ns: u64) {
    let id = job.id().unwrap_or_default().to_owned();
    let tracks = stage.jobs.tracks.borrow();
    let track = tracks.iter().rev().find(|track| track.id == id);
    let track = track.expect("all jobs are tracked");
    if let Some(backup) = &track.backup {
        // Refused when the job is done copying.
        let set = backup.set_speed(0);
        trace::mix(set.is_ok());
    }
    let is_broken = stage.targets[track.target].disk.is_broken();
    let is_late = stage.clock.now_ns() > began_ns + PATIENCE_NS;
    if is_broken && is_late && !job.is_cancelled() {
        told(format!("cancel {id}, whose target is broken"));
        let done = job.cancel(CancelMode::Force);
        trace::mix(done.is_ok());
        return;
    }
    let done = match job.status() {
        JobStatus::Pending => job.finalize(),
        JobStatus::Concluded => job.dismiss(),
        JobStatus::Ready => job.complete(),
        _ => job.resume(),
    };
    trace::mix(done.is_ok());
}
