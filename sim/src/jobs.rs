//! The jobs of a world, as their events tell of them, and what must hold of every life.

use std::{
    cell::RefCell,
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use drivers::{
    backup::Backup,
    mirror::{Mirror, NamedBitmaps},
};
use job::{JobEvent, JobRegistry, JobStatus, Subscription};

use crate::{
    history::Tick,
    stage::{Stage, Use},
    trace::{self, Event},
};

/// Longest time in nanoseconds that a job takes to end once it is cancelled by force.
const CANCEL_MAX_NS: u64 = 10_000_000_000;

/// What is known of one job.
pub(crate) struct Track {
    pub(crate) id: String,
    /// Its place in the list.
    pub(crate) number: usize,
    pub(crate) line: usize,
    /// The target's place among the disks.
    pub(crate) target: usize,
    pub(crate) kind: Kind,
    /// The chain that it is part of.
    pub(crate) chain: Option<usize>,
    /// The transaction that it was started by.
    pub(crate) group: Option<usize>,
    /// Between these two moments is the instant that a backup is of.
    pub(crate) called: Tick,
    pub(crate) returned: Option<Tick>,
    pub(crate) status: Option<JobStatus>,
    /// Its end was told.
    pub(crate) has_ended: bool,
    pub(crate) has_completed: bool,
    pub(crate) may_fail: bool,
    pub(crate) force_cancelled_ns: Option<u64>,
}

/// What a job is.
pub(crate) enum Kind {
    Backup(Option<Backup>),
    Mirror(MirrorTrack),
}

/// What is known of a mirror.
#[derive(Default)]
pub(crate) struct MirrorTrack {
    pub(crate) mirror: Option<Mirror>,
    /// When the user first asked for an end that leaves guests where they are.
    pub(crate) asked_to_stop: Option<Tick>,
    /// The user has asked for the switch.
    pub(crate) is_to_switch: bool,
    pub(crate) was_ready: bool,
    pub(crate) has_switched: bool,
    /// What becomes of named bitmaps when the guests move.
    pub(crate) bitmaps: NamedBitmaps,
}

impl Track {
    /// Whether a client would not hear of it any more.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.status, None | Some(JobStatus::Null))
    }

    pub(crate) fn set_speed(&self, speed: u64) -> Result<(), job::JobError> {
        match &self.kind {
            Kind::Backup(Some(backup)) => backup.set_speed(speed),
            Kind::Mirror(MirrorTrack {
                mirror: Some(mirror),
                ..
            }) => mirror.set_speed(speed),
            Kind::Backup(None) | Kind::Mirror(_) => Ok(()),
        }
    }
}

/// How many jobs ended how.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ends {
    /// Well.
    pub completed: u64,
    /// With an error.
    pub failed: u64,
    /// By a cancel.
    pub cancelled: u64,
    /// Well, and guests have moved to the target.
    pub switched: u64,
    /// Well, and at one instant with others.
    pub grouped: u64,
    /// Well, and the target goes on to be brought up to date by a bitmap.
    pub chained: u64,
}

/// The jobs of a world.
pub(crate) struct Jobs {
    pub(crate) tracks: RefCell<Vec<Track>>,
    pub(crate) ends: RefCell<Ends>,
    heard: Arc<Mutex<Vec<JobEvent>>>,
    _subscription: Subscription,
}

impl Jobs {
    pub(crate) fn new(registry: &JobRegistry) -> Self {
        let heard = Arc::<Mutex<Vec<JobEvent>>>::default();
        let hear = heard.clone();
        let subscription = registry.subscribe(move |event| {
            let mut heard = hear.lock().unwrap_or_else(PoisonError::into_inner);
            heard.push(event.clone());
        });
        Self {
            tracks: RefCell::default(),
            ends: RefCell::default(),
            heard,
            _subscription: subscription,
        }
    }

    fn take_heard(&self) -> Vec<JobEvent> {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        mem::take(&mut *heard)
    }
}

impl Stage {
    /// Takes in what the events since the last time have told.
    pub(crate) fn hear(&self) {
        for event in self.jobs.take_heard() {
            let id = event.job().id.to_string();
            let mut tracks = self.jobs.tracks.borrow_mut();
            let Some(track) = tracks.iter_mut().rev().find(|track| track.id == id) else {
                trace::violated("D6", format!("an event of job {id}, which nobody made"));
                continue;
            };
            self.take_in(track, &event);
        }
    }

    fn take_in(&self, track: &mut Track, event: &JobEvent) {
        let id = &track.id;
        if track.status == Some(JobStatus::Null) {
            trace::violated(
                "D6",
                format!("job {id} is told of after its end: {event:?}"),
            );
        }
        match event {
            JobEvent::StatusChange { status, .. } => self.change(track, *status),
            JobEvent::Completed { error: None, .. } => {
                told(track, "completed".to_owned());
                let mut ends = self.jobs.ends.borrow_mut();
                ends.completed += 1;
                let is_grouped = track.group.is_some_and(|group| {
                    let groups = self.groups.borrow();
                    groups[group].tracks.len() > 1
                });
                ends.grouped += u64::from(is_grouped);
                ends.chained += u64::from(track.chain.is_some());
                drop(ends);
                self.check_completed(track);
                track.has_completed = true;
                end(track);
            }
            JobEvent::Completed {
                error: Some(error), ..
            } => {
                told(track, format!("failed: {error}"));
                if !track.may_fail {
                    let text = format!("job {} failed without a cause: {error}", track.id);
                    trace::violated("D6", text);
                }
                self.jobs.ends.borrow_mut().failed += 1;
                end(track);
            }
            JobEvent::Cancelled(_) => {
                told(track, "cancelled".to_owned());
                self.jobs.ends.borrow_mut().cancelled += 1;
                end(track);
            }
            other => told(track, kind_of(other)),
        }
    }

    fn change(&self, track: &mut Track, status: JobStatus) {
        let job = track.id.clone();
        trace::note(Event::Job { job, status });
        let follows = match track.status {
            None => status == JobStatus::Created,
            Some(before) => before.can_become(status),
        };
        if !follows {
            let before = track.status;
            let text = format!("job {} went from {before:?} to {status}", track.id);
            trace::violated("D6", text);
        }
        if status == JobStatus::Concluded && !track.has_ended && track.returned.is_some() {
            let text = format!("job {} is concluded, and nobody was told how", track.id);
            trace::violated("D6", text);
        }
        track.status = Some(status);
        if status == JobStatus::Null {
            self.release(track);
        }
    }

    /// A job that is forgotten, or never was, has no claim to its target any more.
    pub(crate) fn release(&self, track: &Track) {
        let mut use_ = self.disks[track.target].use_.borrow_mut();
        if matches!(*use_, Use::Taken(number) if number == track.number) {
            *use_ = self.after_job(track);
        }
    }

    /// Whatever is to hold all the time.
    pub(crate) fn check_now(&self, before: Tick) {
        let now_ns = self.clock.now_ns();
        for track in self.jobs.tracks.borrow_mut().iter_mut() {
            if track.is_over() {
                continue;
            }
            let since_ns = track.force_cancelled_ns.filter(|_| !track.has_ended);
            let is_late = since_ns.is_some_and(|since_ns| now_ns > since_ns + CANCEL_MAX_NS);
            if is_late && track.returned.is_some() {
                let text = format!("job {} was cancelled by force and does not end", track.id);
                trace::violated("D7", text);
            }
            self.check_mirror(track, before);
        }
    }
}

fn told(track: &Track, what: String) {
    let job = track.id.clone();
    trace::note(Event::Told { job, what });
}

fn end(track: &mut Track) {
    if mem::replace(&mut track.has_ended, true) {
        trace::violated("D6", format!("job {} has ended twice", track.id));
    }
}

fn kind_of(event: &JobEvent) -> String {
    match event {
        JobEvent::Ready(_) => "ready".to_owned(),
        JobEvent::Pending(_) => "pending".to_owned(),
        JobEvent::Error {
            operation, action, ..
        } => format!("{operation} error, {action}"),
        _ => "something else".to_owned(),
    }
}
