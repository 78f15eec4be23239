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
    BitmapMode,
    backup::{Backup, BackupOptions},
    mirror::{Mirror, MirrorBitmap, MirrorOptions, MirrorSync, NamedBitmaps},
};
use job::Trigger;

use crate::{
    chain,
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

/// What a job is told.
pub(crate) enum Options {
    Backup(BackupOptions),
    Mirror(MirrorOptions),
}

/// Starts a job, if there is a target for it.
pub(crate) fn start(stage: &Rc<Stage>, number: u64, chance: &mut Chance) {
    let by_bitmaps = stage.plan.is_about_chains;
    if by_bitmaps || (stage.plan.jobs != JobKinds::Mirror && chance.one_in(3)) {
        chain::start_group(stage, number, chance);
        return;
    }
    let free = stage.free_targets();
    if free.is_empty() {
        return;
    }
    let mut target = *chance.pick(&free);
    let line = stage.disks[target].line;
    let is_mirror = match stage.plan.jobs {
        JobKinds::Backup => false,
        JobKinds::Mirror => true,
        JobKinds::All => chance.one_in(2),
    };
    let chain = stage
        .idle_chain(line)
        .filter(|_| is_mirror && chance.one_in(2));
    if let Some(chain) = chain {
        target = stage.chains.borrow()[chain].target;
    }
    let common = draw_common(stage, target, format!("j{number}-of-{line}"), chance);
    let options = match is_mirror {
        true => Options::Mirror(draw_mirror(stage, chain, common, chance)),
        false => Options::Backup(draw_backup(common, chance)),
    };
    // Above whatever filters there are, or below them.
    let source = match chain.is_none() && chance.one_in(4) {
        true => stage.lines[line].probe.node(),
        false => stage.disk_of(line).node.clone(),
    };
    stage.check_targets(crate::check::Look::Now);
    let track = track(stage, (line, target, chain), &options);
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
pub(crate) fn track(
    stage: &Stage,
    (line, target, chain): (usize, usize, Option<usize>),
    options: &Options,
) -> usize {
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
            // Bitmaps that somebody uses cannot be carried over.
            let kind = Kind::Mirror(MirrorTrack {
                bitmaps: options.bitmaps,
                ..MirrorTrack::default()
            });
            let carries = options.bitmaps == NamedBitmaps::Carried;
            (&options.job_id, carries, kind)
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
        chain,
        group: None,
        called: stage.tick(),
        returned: None,
        status: None,
        has_ended: false,
        has_completed: false,
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
            let bitmaps = options.bitmaps;
            let started = Mirror::start(world, context, nodes, options).await;
            let track = |mirror| MirrorTrack {
                mirror: Some(mirror),
                bitmaps,
                ..MirrorTrack::default()
            };
            let started = started.map(|mirror| Kind::Mirror(track(mirror)));
            started.map_err(|error| format!("{error:?}"))
        }
    }
}

impl Stage {
    pub(crate) fn has_started(&self, number: usize, started: Option<Result<Kind, String>>) {
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

/// A backup of everything.
pub(crate) fn draw_backup_to(
    stage: &Stage,
    target: usize,
    id: String,
    chance: &mut Chance,
) -> BackupOptions {
    let common = draw_common(stage, target, id, chance);
    draw_backup(common, chance)
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

fn draw_mirror(
    stage: &Stage,
    chain: Option<usize>,
    common: Common,
    chance: &mut Chance,
) -> MirrorOptions {
    let bitmap = chain.map(|chain| MirrorBitmap {
        name: stage.chains.borrow()[chain].name.clone(),
        mode: *chance.pick(&BitmapMode::ALL),
    });
    MirrorOptions {
        bitmaps: match chance.one_in(2) {
            true => NamedBitmaps::Carried,
            false => NamedBitmaps::Stay,
        },
        sync: match bitmap {
            Some(bitmap) => MirrorSync::Bitmap(bitmap),
            None if chance.one_in(3) => MirrorSync::Top,
            None => MirrorSync::Full,
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
