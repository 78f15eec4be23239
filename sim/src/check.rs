//! What jobs promise of their targets: the instant of a backup, the equality of a mirror, what is stable.

use std::rc::Rc;

use block::Node;
use drivers::mirror::NamedBitmaps;

use crate::{
    history::Tick,
    jobs::{Kind, MirrorTrack, Track},
    stage::{Stage, Use},
    trace::{self, Event},
};

/// When to look at a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    Now,
    AfterPowerLoss,
}

impl Stage {
    /// A job that says that it has completed has left what it was for, and it is stable.
    pub(crate) fn check_completed(&self, track: &Track) {
        let returned = track.returned.unwrap_or_else(|| self.ticks.get());
        match &track.kind {
            Kind::Backup(_) => match track.group {
                Some(group) => self.check_cut_of_group(track, group),
                None => drop(self.check_cut(track, (track.called, returned))),
            },
            // That was looked at when it switched.
            Kind::Mirror(mirror) if mirror.has_switched => {}
            Kind::Mirror(mirror) => match mirror.asked_to_stop {
                Some(asked) => drop(self.check_cut(track, (asked, self.ticks.get()))),
                None => {
                    let text = format!("job {} has ended well, and nobody asked for it", track.id);
                    trace::violated("D3", text);
                }
            },
        }
    }

    /// All backups of a transaction are of the same moment.
    fn check_cut_of_group(&self, track: &Track, group: usize) {
        let (from, to) = self.groups.borrow()[group].within;
        let within = (from, to.min(self.ticks.get()));
        if let Some(within) = self.check_cut(track, within) {
            self.groups.borrow_mut()[group].within = within;
        }
    }

    /// The target is its source at one moment of those; returns at which.
    fn check_cut(&self, track: &Track, within: (Tick, Tick)) -> Option<(Tick, Tick)> {
        let target = &self.disks[track.target];
        let (content, durable) = (target.disk.content(), target.disk.durable());
        let history = self.lines[track.line].history.borrow();
        let moments = match history.cut(&content, within) {
            Ok(moments) => Some(moments),
            Err(text) => {
                let text = format!("the target of job {} is no cut: {text}", track.id);
                trace::violated("D2", text);
                None
            }
        };
        if let Err(text) = history.cut(&durable, within) {
            let text = format!("the target of job {} is not stable: {text}", track.id);
            trace::violated("D8", text);
        }
        let left = Rc::from(durable);
        *target.use_.borrow_mut() = match self.chain_goes_on(track) {
            true => Use::Chain(Some(left)),
            false => Use::Complete(left),
        };
        moments
    }

    /// What holds of a mirror at the very step at which it becomes ready or switches. `before` is the moment
    /// before that step.
    pub(crate) fn check_mirror(&self, track: &mut Track, before: Tick) {
        let Kind::Mirror(mirror) = &mut track.kind else {
            return;
        };
        let (line, target) = (&self.lines[track.line], &self.disks[track.target]);
        let is_ready = |mirror: &MirrorTrack| {
            let mirror = mirror.mirror.as_ref();
            mirror.is_some_and(|mirror| mirror.job().status().is_ready())
        };
        if !mirror.was_ready && is_ready(mirror) {
            mirror.was_ready = true;
            let history = line.history.borrow();
            if let Err(text) = history.check_copy(&target.disk.content(), before) {
                let text = format!("job {} is ready, and its target is not: {text}", track.id);
                trace::violated("D3", text);
            }
        }
        if mirror.is_to_switch && !mirror.has_switched {
            let base = self.base_of(track.line);
            if base != Some(track.target) {
                return;
            }
            mirror.has_switched = true;
            let bitmaps = mirror.bitmaps;
            self.switch(track, before);
            let carried = match track.chain {
                Some(_) => NamedBitmaps::Stay,
                None => bitmaps,
            };
            self.drop_chains(track.line, carried);
        }
    }

    /// Guests have moved to the target of a mirror.
    fn switch(&self, track: &Track, before: Tick) {
        let what = format!("{} has switched", track.id);
        trace::note(Event::User { what });
        let line = &self.lines[track.line];
        let (old, new) = (&self.disks[line.at.get()], &self.disks[track.target]);
        let left = old.disk.content();
        let history = line.history.borrow();
        if let Err(text) = history.check_equal((&new.disk.content(), &left), before) {
            trace::violated("D3", format!("job {} has switched: {text}", track.id));
        } else if let Err(text) = history.check_equal((&new.disk.durable(), &left), before) {
            let text = format!(
                "job {} has switched to what is not stable: {text}",
                track.id
            );
            trace::violated("D8", text);
        }
        line.at.set(track.target);
        line.may_fail.set(line.may_fail.get() || new.may_fail);
        *old.use_.borrow_mut() = Use::Left(Rc::from(left));
        *new.use_.borrow_mut() = Use::Guests;
        self.jobs.ends.borrow_mut().switched += 1;
    }

    /// Checks that an actively synced mirror has all that guests were told is written.
    pub(crate) fn check_synced(&self) {
        for track in self.jobs.tracks.borrow().iter() {
            let Kind::Mirror(mirror) = &track.kind else {
                continue;
            };
            let is_synced = mirror.mirror.as_ref().is_some_and(|mirror| {
                let report = mirror.report();
                report.is_actively_synced && !report.guests_wait
            });
            if track.is_over() || track.has_ended || mirror.has_switched || !is_synced {
                continue;
            }
            let history = self.lines[track.line].history.borrow();
            let content = self.disks[track.target].disk.content();
            if let Err(text) = history.check_copy(&content, self.ticks.get() + 1) {
                let text = format!("job {} is synced, and its target is not: {text}", track.id);
                trace::violated("D3", text);
            }
        }
    }

    /// Checks that what completed jobs have left is as they have left it.
    pub(crate) fn check_targets(&self, look: Look) {
        for stored in &self.disks {
            let (left, disk) = (stored.use_.borrow(), &stored.disk);
            let is_as_left = match (&*left, look) {
                (Use::Complete(bytes) | Use::Left(bytes) | Use::Chain(Some(bytes)), Look::Now) => {
                    **bytes == *disk.content()
                }
                (Use::Complete(bytes) | Use::Chain(Some(bytes)), Look::AfterPowerLoss) => {
                    **bytes == *disk.after_power_loss()
                }
                _ => true,
            };
            if !is_as_left {
                let name = stored.node.name();
                let text = format!("{name} has changed after its job had completed");
                trace::violated("D8", text);
            }
        }
    }

    /// The filters that are in the graph.
    pub(crate) fn filters(&self) -> Vec<Node> {
        let mut nodes = self.graph.nodes();
        nodes.retain(|node| node.driver_name() != "sim-disk");
        nodes
    }
}
