//! How the user starts jobs: of which kind, between which disks, and with which options.

use std::rc::Rc;

use block::{
    Node,
    copy::TargetContent,
    mirror::{CopyMode, Unmap},
    nodes::copy_before_write::OnCbwError,
};
use blockjob::OnError;
use drivers::{
    backup::{Backup, BackupOptions},
    mirror::{Mirror, MirrorOptions, MirrorSync},
};
use job::Trigger;

use crate::{
    chance::Chance,
    jobs::{Kind, MirrorTrack, Track},
    plan::JobKinds,
    stage::{Stage, Use},
    user::told,
};

const POLICIES: [OnError; 6] = [
    OnError::Report,
    OnError::Report,
    OnError::Ignore,
    OnError::Stop,
    OnError::Enospc,
    OnError::Auto,
];

/// What all jobs are told.
struct Common {
    id: String,
    speed: u64,
    on_source_error: OnError,
    on_target_error: OnError,
    target_content: TargetContent,
    finalize: Trigger,
    dismiss: Trigger,
    max_workers: Option<u32>,
    max_chunk_bytes: Option<u64>,
    buffer_bytes_max: u64,
    contexts: Vec<aio::Handle>,
}

enum Options {
    Backup(BackupOptions),
    Mirror(MirrorOptions),
}

/// Starts a job, if there is a target for it.
pub(crate) fn start(stage: &Rc<Stage>, number: u64, chance: &mut Chance) {
    let is_free = |at: &usize| match &*stage.disks[*at].use_.borrow() {
        Use::Fresh | Use::Free | Use::Complete(_) | Use::Left(_) => true,
        Use::Taken(_) | Use::Guests => false,
    };
    let free: Vec<usize> = (0..stage.disks.len()).filter(is_free).collect();
    if free.is_empty() {
        return;
    }
    let target = *chance.pick(&free);
    let line = stage.disks[target].line;
    let is_mirror = match stage.plan.jobs {
        JobKinds::Backup => false,
        JobKinds::Mirror => true,
        JobKinds::All => chance.one_in(2),
    };
    let common = draw_common(stage, target, format!("j{number}-of-{line}"), chance);
    let options = match is_mirror {
        true => Options::Mirror(draw_mirror(common, chance)),
        false => Options::Backup(draw_backup(common, chance)),
    };
    // Above whatever filters there are, or below them.
    let source = match chance.one_in(4) {
        true => stage.lines[line].probe.node(),
        false => stage.disk_of(line).node.clone(),
    };
    stage.check_targets(crate::check::Look::Now);
    let track = track(stage, (line, target), &options);
    let context = chance.pick(&stage.contexts).handle().clone();
    let patience_ns = chance.one_in(10).then(|| chance.scale(1_000, 10_000_000));
    let held = stage.clone();
    stage.spawn(stage.main(), async move {
        let nodes = (source, held.disks[target].node.clone());
        let starting = begin(&held, &context, nodes, options);
        let started = match patience_ns {
            None => Some(starting.await),
            Some(ns) => held.main().timeout_ns(ns, starting).await.ok(),
        };
        held.has_started(track, started);
    });
}

/// Lists the job, and gives it its target.
fn track(stage: &Stage, (line, target): (usize, usize), options: &Options) -> usize {
    let (source, target_disk) = (stage.disk_of(line), &stage.disks[target]);
    let may_fail = &stage.lines[line].may_fail;
    let has_cause = may_fail.get() || source.may_fail || target_disk.may_fail;
    let (id, has_limit, kind) = match options {
        Options::Backup(options) => {
            told(format!("start {options:?}"));
            let has_limit = options.cbw_timeout_ns.is_some();
            if options.on_cbw_error == OnCbwError::BreakGuestWrite {
                may_fail.set(has_cause || has_limit);
            }
            (&options.job_id, has_limit, Kind::Backup(None))
        }
        Options::Mirror(options) => {
            told(format!("start {options:?}"));
            (&options.job_id, false, Kind::Mirror(MirrorTrack::default()))
        }
    };
    let mut tracks = stage.jobs.tracks.borrow_mut();
    let number = tracks.len();
    *target_disk.use_.borrow_mut() = Use::Taken(number);
    tracks.push(Track {
        id: id.clone(),
        number,
        line,
        target,
        kind,
        called: stage.tick(),
        returned: None,
        status: None,
        has_ended: false,
        may_fail: has_cause || has_limit,
        force_cancelled_ns: None,
    });
    number
}

/// Starts it; errors are told as text.
async fn begin(
    stage: &Stage,
    context: &aio::Handle,
    (source, target): (Node, Node),
    options: Options,
) -> Result<Kind, String> {
    let (world, nodes) = ((&stage.graph, &stage.registry), (&source, &target));
    match options {
        Options::Backup(options) => {
            let started = Backup::start(world, context, nodes, options).await;
            let started = started.map(|backup| Kind::Backup(Some(backup)));
            started.map_err(|error| format!("{error:?}"))
        }
        Options::Mirror(options) => {
            let started = Mirror::start(world, context, nodes, options).await;
            let track = |mirror| MirrorTrack {
                mirror: Some(mirror),
                ..MirrorTrack::default()
            };
            let started = started.map(|mirror| Kind::Mirror(track(mirror)));
            started.map_err(|error| format!("{error:?}"))
        }
    }
}

impl Stage {
    fn has_started(&self, number: usize, started: Option<Result<Kind, String>>) {
        let returned = self.tick();
        let mut tracks = self.jobs.tracks.borrow_mut();
        let track = &mut tracks[number];
        let how = match &started {
            Some(Ok(_)) => "started".to_owned(),
            Some(Err(error)) => format!("refused: {error}"),
            None => "given up".to_owned(),
        };
        told(format!("{} is {how}", track.id));
        match started {
            Some(Ok(kind)) => {
                track.returned = Some(returned);
                track.kind = kind;
            }
            Some(Err(_)) | None => self.release(track),
        }
    }
}

fn draw_common(stage: &Stage, target: usize, id: String, chance: &mut Chance) -> Common {
    let is_fresh = matches!(*stage.disks[target].use_.borrow(), Use::Fresh);
    let verbs = stage.plan.verbs;
    let mut by_hand = || match verbs.by_hand && chance.one_in(2) {
        true => Trigger::Manual,
        false => Trigger::Auto,
    };
    let (finalize, dismiss) = (by_hand(), by_hand());
    let contexts = match chance.one_in(3) {
        true => stage
            .contexts
            .iter()
            .map(|cx| cx.handle().clone())
            .collect(),
        false => Vec::new(),
    };
    Common {
        id,
        speed: match verbs.speeds && chance.one_in(2) {
            true => chance.scale(1 << 16, 1 << 26),
            false => 0,
        },
        on_source_error: *chance.pick(&POLICIES),
        on_target_error: *chance.pick(&POLICIES),
        target_content: match is_fresh && chance.one_in(2) {
            true => TargetContent::Zero,
            false => TargetContent::Unknown,
        },
        finalize,
        dismiss,
        max_workers: *chance.pick(&[None, None, Some(1), Some(2), Some(64)]),
        max_chunk_bytes: *chance.pick(&[None, None, Some(64 << 10), Some(192 << 10)]),
        buffer_bytes_max: *chance.pick(&[1 << 16, 1 << 20, 64 << 20]),
        contexts,
    }
}

fn draw_backup(common: Common, chance: &mut Chance) -> BackupOptions {
    BackupOptions {
        speed_bytes_per_s: common.speed,
        on_source_error: common.on_source_error,
        on_target_error: common.on_target_error,
        on_cbw_error: match chance.one_in(4) {
            true => OnCbwError::BreakGuestWrite,
            false => OnCbwError::BreakSnapshot,
        },
        cbw_timeout_ns: chance
            .one_in(6)
            .then(|| chance.scale(100_000, 1_000_000_000)),
        target_content: common.target_content,
        max_workers: common.max_workers,
        max_chunk_bytes: common.max_chunk_bytes,
        buffer_bytes_max: common.buffer_bytes_max,
        guest_latency_ns: chance.one_in(6).then(|| chance.scale(10_000, 10_000_000)),
        contexts: common.contexts,
        finalize: common.finalize,
        dismiss: common.dismiss,
        ..BackupOptions::new(common.id)
    }
}

fn draw_mirror(common: Common, chance: &mut Chance) -> MirrorOptions {
    MirrorOptions {
        sync: match chance.one_in(3) {
            true => MirrorSync::Top,
            false => MirrorSync::Full,
        },
        copy_mode: *chance.pick(&CopyMode::ALL),
        granularity_bytes: *chance.pick(&[None, None, Some(512), Some(4096), Some(1 << 18)]),
        buffer_bytes_max: common.buffer_bytes_max,
        unmap: *chance.pick(&[Unmap::Allowed, Unmap::Forbidden]),
        target_content: common.target_content,
        speed_bytes_per_s: common.speed,
        on_source_error: common.on_source_error,
        on_target_error: common.on_target_error,
        max_workers: common.max_workers,
        max_chunk_bytes: common.max_chunk_bytes,
        guest_latency_ns: chance.one_in(6).then(|| chance.scale(10_000, 10_000_000)),
        contexts: common.contexts,
        finalize: common.finalize,
        dismiss: common.dismiss,
        ..MirrorOptions::new(common.id)
    }
}
