//! Chains of backups: a bitmap that tells what a target lacks, and the backups that bring the target up to date.
//!
//! A chain begins with a full backup and a new bitmap, at one instant. From then on a backup by the bitmap makes the
//! target the source of another instant, however many backups have failed in between: that is what a bitmap is for.

use std::rc::Rc;

use block::bitmap::{BitmapAction, BitmapOptions, BitmapRef};
use drivers::{
    BitmapMode,
    backup::{Action, Backup, BackupBitmap, BackupOptions, BackupSpec, BackupSync, Completion},
    mirror::NamedBitmaps,
};

use crate::{
    chance::Chance,
    history::Tick,
    jobs::{Kind, Track},
    stage::{Stage, Use},
    start, trace,
    user::told,
};

/// Bytes that guests change together, as a length in memory.
const CELL: usize = 64;

/// A bitmap and its target.
pub(crate) struct Chain {
    pub(crate) line: usize,
    pub(crate) target: usize,
    pub(crate) name: String,
    /// The target is what the source was when the bitmap was last empty, and the bitmap has all that differs.
    pub(crate) is_based: bool,
    pub(crate) is_gone: bool,
}

/// Backups that were started at one instant.
pub(crate) struct Group {
    pub(crate) completion: Completion,
    pub(crate) tracks: Vec<usize>,
    /// Where the instant is, as far as is known.
    pub(crate) within: (Tick, Tick),
    pub(crate) has_started: bool,
}

/// One backup of a group, and the bitmap that is to be added for it.
struct Part {
    line: usize,
    target: usize,
    chain: Option<usize>,
    options: BackupOptions,
    adds: Option<(String, BitmapOptions)>,
}

impl Stage {
    /// The chain of a line that waits for its next backup.
    pub(crate) fn idle_chain(&self, line: usize) -> Option<usize> {
        let chains = self.chains.borrow();
        let is_idle = |chain: &Chain| {
            let use_ = self.disks[chain.target].use_.borrow();
            chain.line == line && chain.is_based && matches!(*use_, Use::Chain(_))
        };
        chains
            .iter()
            .position(|chain| !chain.is_gone && is_idle(chain))
    }

    fn has_chain(&self, line: usize) -> bool {
        let chains = self.chains.borrow();
        chains
            .iter()
            .any(|chain| chain.line == line && !chain.is_gone)
    }

    /// What becomes of a target when its job is forgotten.
    pub(crate) fn after_job(&self, track: &Track) -> Use {
        let mut chains = self.chains.borrow_mut();
        let chain = track.chain.map(|number| &mut chains[number]);
        match chain {
            Some(chain) if !chain.is_gone && chain.is_based => Use::Chain(None),
            Some(chain) if !chain.is_gone => {
                chain.is_gone = true;
                // Refused if it was never added.
                let removed = self.disk_of(chain.line).node.bitmaps().remove(&chain.name);
                trace::mix(removed.is_ok());
                Use::Free
            }
            Some(_) | None => Use::Free,
        }
    }

    /// The backup of a chain has completed; returns whether the chain goes on.
    pub(crate) fn chain_goes_on(&self, track: &Track) -> bool {
        let mut chains = self.chains.borrow_mut();
        let chain = track.chain.map(|number| &mut chains[number]);
        chain.is_some_and(|chain| {
            chain.is_based = true;
            !chain.is_gone
        })
    }

    /// The guests of a line have moved. Bitmaps that are not with them tell no more what they do: those of before, if
    /// they were to stay, and those that a transaction adds meanwhile where it was told to.
    pub(crate) fn drop_chains(&self, line: usize, bitmaps: NamedBitmaps) {
        let node = &self.disk_of(line).node;
        for chain in self.chains.borrow_mut().iter_mut() {
            let is_with_them = bitmaps == NamedBitmaps::Carried
                && (chain.is_based || node.bitmaps().find(&chain.name).is_ok());
            if chain.line != line || chain.is_gone || is_with_them {
                continue;
            }
            chain.is_gone = true;
            let mut use_ = self.disks[chain.target].use_.borrow_mut();
            if matches!(*use_, Use::Chain(_)) {
                *use_ = Use::Free;
            }
        }
    }

    /// Where the bitmap of a chain is clean, its target has what the source has, and has it for good: the next
    /// backup of the chain passes that over. Nobody may be writing.
    pub(crate) fn check_chains(&self) {
        for chain in self.chains.borrow().iter() {
            if !chain.is_based || chain.is_gone {
                continue;
            }
            let source = self.disk_of(chain.line);
            let bitmap = source.node.bitmaps().find(&chain.name);
            let Ok(dirty) = bitmap.and_then(|bitmap| bitmap.snapshot()) else {
                trace::violated("D2", format!("bitmap {} is lost", chain.name));
                continue;
            };
            let (content, copied) = (
                source.disk.content(),
                self.disks[chain.target].disk.durable(),
            );
            let cells = content.chunks(CELL).zip(copied.chunks(CELL)).enumerate();
            let mut lost = cells.filter_map(|(number, (content, copied))| {
                let at_bytes = u64::try_from(number * CELL).expect("a disk in memory");
                (content != copied && !dirty.is_dirty(at_bytes)).then_some(at_bytes)
            });
            if let Some(at_bytes) = lost.next() {
                let text = format!(
                    "bitmap {} is clean at {at_bytes}, where its target has not what the source has",
                    chain.name
                );
                trace::violated("D2", text);
            }
        }
    }

    /// Members of a transaction that end together have all ended well, or none has.
    pub(crate) fn check_groups(&self) {
        let tracks = self.jobs.tracks.borrow();
        for group in self.groups.borrow().iter() {
            let well = group.tracks.iter().filter(|at| tracks[**at].has_completed);
            let well = well.count();
            let is_grouped = group.completion == Completion::Grouped && group.has_started;
            if is_grouped && well > 0 && well < group.tracks.len() {
                let ids: Vec<_> = group.tracks.iter().map(|at| &tracks[*at].id).collect();
                let text =
                    format!("{well} of the jobs {ids:?} have completed, the others have not");
                trace::violated("D5", text);
            }
        }
    }
}

/// Starts backups of some lines at one instant.
pub(crate) fn start_group(stage: &Rc<Stage>, number: u64, chance: &mut Chance) {
    let mut parts = Vec::new();
    for line in 0..stage.lines.len() {
        if chance.one_in(3) && !parts.is_empty() {
            continue;
        }
        parts.extend(draw_part(stage, line, number, chance));
    }
    if parts.is_empty() {
        return;
    }
    stage.check_targets(crate::check::Look::Now);
    let has_actions = parts.iter().any(|part| part.adds.is_some());
    let completion = match has_actions || chance.one_in(3) {
        true => Completion::Individual,
        false => Completion::Grouped,
    };
    let is_aborted = completion == Completion::Individual && chance.one_in(8);
    let tracks: Vec<usize> = parts.iter().map(|part| track(stage, part)).collect();
    let actions = actions_of(stage, parts, chance);
    let mut groups = stage.groups.borrow_mut();
    let group = groups.len();
    groups.push(Group {
        completion,
        tracks: tracks.clone(),
        within: (stage.tick(), Tick::MAX),
        has_started: false,
    });
    drop(groups);
    told(format!("start a group, {completion:?}, {is_aborted}"));
    for at in &tracks {
        stage.jobs.tracks.borrow_mut()[*at].group = Some(group);
    }
    let actions = actions
        .into_iter()
        .chain(is_aborted.then_some(Action::Abort));
    let actions = actions.collect();
    let patience_ns = chance.one_in(10).then(|| chance.scale(1_000, 10_000_000));
    let held = stage.clone();
    stage.spawn(stage.main(), async move {
        let world = (&held.graph, &held.registry);
        let starting = Backup::start_group(world, actions, completion);
        let started = match patience_ns {
            None => Some(starting.await),
            Some(ns) => held.main().timeout_ns(ns, starting).await.ok(),
        };
        group_has_started(
            &held,
            group,
            started.map(|started| started.map_err(|it| it.to_string())),
        );
    });
}

fn group_has_started(stage: &Stage, group: usize, started: Option<Result<Vec<Backup>, String>>) {
    let mut groups = stage.groups.borrow_mut();
    let group = &mut groups[group];
    let backups = match started {
        Some(Ok(backups)) => {
            group.within.1 = group.within.1.min(stage.tick());
            group.has_started = true;
            backups.into_iter().map(Some).collect()
        }
        Some(Err(error)) => {
            told(format!("the group is refused: {error}"));
            stage.check_undone(&group.tracks);
            vec![None; group.tracks.len()]
        }
        None => {
            told("the group is given up".to_owned());
            vec![None; group.tracks.len()]
        }
    };
    for (at, backup) in group.tracks.iter().zip(backups) {
        let started = backup.map(|backup| Ok(Kind::Backup(Some(backup))));
        stage.has_started(*at, started);
    }
}

impl Stage {
    /// A transaction that has failed has left no bitmap.
    fn check_undone(&self, group: &[usize]) {
        let (tracks, chains) = (self.jobs.tracks.borrow(), self.chains.borrow());
        let begun = group.iter().filter_map(|at| tracks[*at].chain);
        for chain in begun
            .map(|number| &chains[number])
            .filter(|it| !it.is_based)
        {
            if self
                .disk_of(chain.line)
                .node
                .bitmaps()
                .find(&chain.name)
                .is_ok()
            {
                let text = format!(
                    "bitmap {} is there although its transaction failed",
                    chain.name
                );
                trace::violated("D5", text);
            }
        }
    }
}

fn draw_part(stage: &Rc<Stage>, line: usize, number: u64, chance: &mut Chance) -> Option<Part> {
    let id = format!("g{number}-of-{line}");
    if let Some(chain) = stage.idle_chain(line).filter(|_| !chance.one_in(6)) {
        let (target, name) = {
            let chains = stage.chains.borrow();
            (chains[chain].target, chains[chain].name.clone())
        };
        let is_whole = chance.one_in(6);
        let mode = match is_whole {
            true => *chance.pick(&[BitmapMode::OnSuccess, BitmapMode::Always]),
            false => *chance.pick(&BitmapMode::ALL),
        };
        let options = start::draw_backup_to(stage, target, id, chance);
        let options = BackupOptions {
            sync: match is_whole {
                true => BackupSync::Full,
                false => BackupSync::Bitmap,
            },
            bitmap: Some(BackupBitmap { name, mode }),
            ..options
        };
        return Some(Part {
            line,
            target,
            chain: Some(chain),
            options,
            adds: None,
        });
    }
    let free: Vec<usize> = stage
        .free_targets()
        .into_iter()
        .filter(|at| stage.disks[*at].line == line)
        .collect();
    if free.is_empty() {
        return None;
    }
    let target = *chance.pick(&free);
    let options = start::draw_backup_to(stage, target, id, chance);
    let (mut chain, mut adds) = (None, None);
    if !stage.has_chain(line) && (stage.plan.is_about_chains || chance.one_in(2)) {
        let name = format!("bitmap{number}");
        let mut chains = stage.chains.borrow_mut();
        chain = Some(chains.len());
        chains.push(Chain {
            line,
            target,
            name: name.clone(),
            is_based: false,
            is_gone: false,
        });
        let granularity_bytes = *chance.pick(&[None, Some(512), Some(4096), Some(1 << 18)]);
        let options = BitmapOptions {
            granularity_bytes,
            ..BitmapOptions::default()
        };
        adds = Some((name, options));
    }
    Some(Part {
        line,
        target,
        chain,
        options,
        adds,
    })
}

fn track(stage: &Stage, part: &Part) -> usize {
    let options = start::Options::Backup(part.options.clone());
    start::track(stage, (part.line, part.target, part.chain), &options)
}

fn actions_of(stage: &Stage, parts: Vec<Part>, chance: &mut Chance) -> Vec<Action> {
    let mut actions = Vec::new();
    for part in parts {
        let source = stage.disk_of(part.line).node.clone();
        let adding = part.adds.map(|(name, options)| {
            let node = source.clone();
            Action::Bitmap(BitmapAction::Add(BitmapRef { node, name }, options))
        });
        let spec = BackupSpec {
            source,
            target: stage.disks[part.target].node.clone(),
            context: chance.pick(&stage.contexts).handle().clone(),
            options: part.options,
        };
        let backup = Action::Backup(Box::new(spec));
        let at = actions.len() + chance.index(2).min(usize::from(adding.is_some()));
        actions.extend(adding);
        actions.insert(at, backup);
    }
    actions
}
