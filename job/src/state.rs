//! [`State`]: all that the registry's lock guards, and [`Shared`], the lock itself.
//!
//! The rule of the lock: a change is made under it, in one call of [`Shared::update`]; what follows
//! from the change (wake-ups, events, the end of a job driver) is gathered meanwhile and carried
//! out after the unlock. No hook, waker or subscriber ever runs under the lock.
//!
//! Events are queued under the lock, so their order is that of the changes. They are delivered on
//! the main context only, one at a time: at once where the change was made there, else by a bottom
//! half. A change made inside a subscriber is delivered after the event at hand.
//! Moments of single jobs go the same way.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::Arc,
    task::{Poll, Waker},
};

use crate::{
    callback::{self, Callback, CurrentCallback},
    event::{EventJob, JobEvent},
    history::{History, JobHistoryEntry},
    job::Job,
    main_end::MainWatch,
    moment::{JobMoment, Notifier, NotifierKey},
    record::{Body, Key, Record, Until},
    runtime::{Handle, Mutex, MutexGuard},
    status::JobStatus,
    transaction::Group,
};

pub(crate) type Subscriber = Arc<dyn Fn(&JobEvent) + Send + Sync>;

/// Something that the main context is to tell.
#[derive(Debug)]
pub(crate) enum Word {
    /// To all subscribers.
    Event(JobEvent),
    /// To one who waits for it.
    Moment(NotifierKey),
    /// Nothing more of this job.
    Forgotten(Key),
}

/// How far the delivery of queued events is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Delivery {
    #[default]
    Idle,
    /// A bottom half will deliver.
    Scheduled,
    /// The main context is delivering, further out on its stack.
    Running,
}

/// A wait of a body, as one poll of it sees it.
#[derive(Debug)]
pub(crate) struct Wait<'a> {
    pub(crate) until: Until,
    /// The context that polls.
    pub(crate) here: &'a Handle,
    /// The wait was for a limited time, which is over.
    pub(crate) is_time_up: bool,
}

/// What a look at a wait came to.
#[derive(Debug)]
pub(crate) enum Looked {
    /// The body goes on.
    Over,
    /// It waits on.
    Stay,
    /// It waits on, on this context.
    Leave(Handle),
}

/// All that the registry's lock guards.
#[derive(Default)]
pub(crate) struct State {
    /// Live jobs; the newest has the greatest key.
    pub(crate) jobs: BTreeMap<Key, Record>,
    /// The live jobs that have an id.
    pub(crate) ids: BTreeMap<Arc<str>, Key>,
    pub(crate) history: History,
    /// Reasons to pause that every job has, those that are yet to come included.
    pub(crate) holds_on_all: u32,
    /// Transactions with members.
    pub(crate) groups: BTreeMap<Key, Group>,
    pub(crate) subscribers: Vec<(Key, Subscriber)>,
    /// Those who wait for moments of jobs.
    pub(crate) notifiers: BTreeMap<NotifierKey, Notifier>,
    /// What is still to be told, oldest first.
    pub(crate) words: VecDeque<Word>,
    /// No job can end any more.
    pub(crate) is_main_closed: bool,
    last_key: Key,
    delivery: Delivery,
    /// To be woken after the unlock.
    wakers: Vec<Waker>,
    /// To be dropped after the unlock: the last handle of a job driver runs its destructor, and the
    /// entry that leaves the history may have the last handle of the error behind a failure.
    forgotten: Vec<(Record, Option<JobHistoryEntry>)>,
}

impl State {
    pub(crate) fn next_key(&mut self) -> Key {
        self.last_key += 1;
        self.last_key
    }

    /// The record of a job that is known to live.
    pub(crate) fn record(&mut self, key: Key) -> &mut Record {
        self.jobs
            .get_mut(&key)
            .expect("a job lives until its transaction and its body are done with it")
    }

    /// The one door through which every change of status goes.
    pub(crate) fn move_to(&mut self, key: Key, to: JobStatus) {
        let record = self.record(key);
        if record.status == to && to == JobStatus::Aborting {
            return;
        }
        record.status.advance(to);
        self.emit(key, |job| JobEvent::StatusChange { job, status: to });
        self.wake_watchers(key);
    }

    /// Queues an event, unless the job is internal.
    pub(crate) fn emit(&mut self, key: Key, event: impl FnOnce(EventJob) -> JobEvent) {
        if let Some(job) = self.record(key).cell.event_job() {
            self.words.push_back(Word::Event(event(job)));
        }
    }

    /// Has a body that waits look whether its wait is over.
    pub(crate) fn wake_body(&mut self, key: Key) {
        let record = self.jobs.get(&key);
        if let Some(Body::Waiting(_, waker)) = record.map(|record| &record.body) {
            self.wakers.push(waker.clone());
        }
    }

    /// Leaves a wake-up for the body: ends its sleep or park, or the next one.
    pub(crate) fn leave_wake_token(&mut self, key: Key) {
        self.record(key).wake_token = true;
        self.wake_body(key);
    }

    /// Looks whether a wait of the body, which is being polled on `here`, is over; the body is busy
    /// again then, and registered as waiting otherwise.
    ///
    /// Looking and registering are one step under the lock, so no wake-up falls between them.
    pub(crate) fn poll_wait(&mut self, key: Key, wait: &Wait<'_>, waker: &Waker) -> Looked {
        let record = self.record(key);
        let is_here = record.context.is_same(wait.here);
        if is_here {
            record.whereabouts = wait.here.clone();
        }
        if is_here && (record.is_over(wait.until) || wait.is_time_up) {
            record.wake_token &= wait.until != Until::Woken;
            self.end_wait(key, wait.until);
            return Looked::Over;
        }
        // Before anything else it goes to where it belongs, and it stands still meanwhile.
        let (context, was_busy) = (record.context.clone(), record.is_busy());
        record.body = Body::Waiting(wait.until, waker.clone());
        self.show_pause(key);
        self.wake_watchers(key);
        if was_busy {
            self.note_moment(key, JobMoment::Idle);
        }
        match is_here {
            true => Looked::Stay,
            false => Looked::Leave(context),
        }
    }

    /// The body goes on: its wait is over, or was given up.
    fn end_wait(&mut self, key: Key, until: Until) {
        self.set_body(key, Body::Busy);
        if until == Until::Resumed {
            // In the same step, so that nobody sees a busy job in Paused.
            self.leave_pause(key);
        }
    }

    /// The future in which the body waited was dropped.
    pub(crate) fn abandon_wait(&mut self, key: Key) {
        if let Body::Waiting(until, _) = self.record(key).body {
            self.end_wait(key, until);
        }
    }

    /// Lets the status tell a pause of the user, once the body stands at its pause point.
    ///
    /// What only holds want is no pause of the job in this sense, and stays quiet.
    fn show_pause(&mut self, key: Key) {
        let record = self.record(key);
        if !(record.is_standing() && record.user_paused && record.wants_pause()) {
            return;
        }
        match record.status {
            JobStatus::Running => self.move_to(key, JobStatus::Paused),
            JobStatus::Ready => self.move_to(key, JobStatus::Standby),
            _ => {}
        }
    }

    /// Ready once the job stands still; registers `waker` otherwise.
    pub(crate) fn poll_quiesced(&mut self, key: Key, waker: &Waker) -> Poll<()> {
        match self.jobs.get_mut(&key) {
            Some(record) if !record.is_quiescent() => {
                record.watch(waker);
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// Goes back to the status from before a pause, if the job is in one.
    pub(crate) fn leave_pause(&mut self, key: Key) {
        match self.record(key).status {
            JobStatus::Paused => self.move_to(key, JobStatus::Running),
            JobStatus::Standby => self.move_to(key, JobStatus::Ready),
            _ => {}
        }
    }

    /// Adds the user's reason to pause, which the caller knows to be absent.
    pub(crate) fn add_user_pause(&mut self, key: Key) {
        let record = self.record(key);
        record.user_paused = true;
        record.add_pause();
        self.show_pause(key);
        self.wake_body(key);
    }

    /// The body has come to another point of its life.
    pub(crate) fn set_body(&mut self, key: Key, body: Body) {
        let record = self.record(key);
        let was_busy = record.is_busy();
        record.body = body;
        if was_busy && !record.is_busy() {
            self.note_moment(key, JobMoment::Idle);
        }
        self.wake_watchers(key);
    }

    /// Takes a job that has become null out of the list.
    pub(crate) fn forget(&mut self, key: Key) {
        self.move_to(key, JobStatus::Null);
        let record = self.jobs.remove(&key).expect("a job is forgotten once");
        if let Some(id) = &record.cell.id {
            self.ids.remove(id);
        }
        let evicted = self.history.note(&record);
        self.end_moments(key);
        self.forgotten.push((record, evicted));
    }

    /// Has those look again who wait for a change of the job.
    pub(crate) fn wake_watchers(&mut self, key: Key) {
        let watchers = std::mem::take(&mut self.record(key).watchers);
        self.wakers.extend(watchers);
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("jobs", &self.jobs)
            .field("groups", &self.groups)
            .finish_non_exhaustive()
    }
}

/// What the handles of one registry share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Where jobs complete and events are delivered.
    pub(crate) main: Handle,
    pub(crate) watch: MainWatch,
    state: Mutex<State>,
}

impl Shared {
    pub(crate) fn new(main: Handle, history: History) -> Arc<Self> {
        let state = State {
            history,
            ..State::default()
        };
        let shared = Arc::new(Self {
            main,
            watch: MainWatch::default(),
            state: Mutex::new(state),
        });
        shared.watch.begin(&shared.main, Arc::downgrade(&shared));
        shared
    }

    /// Makes one change under the lock, then carries out what follows from it.
    pub(crate) fn update<R>(self: &Arc<Self>, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let out = change(&mut state);
        let wakers = std::mem::take(&mut state.wakers);
        let forgotten = std::mem::take(&mut state.forgotten);
        let undelivered = !state.words.is_empty();
        drop(state);

        drop(forgotten);
        for waker in wakers {
            waker.wake();
        }
        if undelivered {
            self.deliver_or_schedule();
        }
        out
    }

    fn deliver_or_schedule(self: &Arc<Self>) {
        if self.main.is_home() {
            return self.deliver();
        }
        let mut state = self.lock();
        if state.delivery != Delivery::Idle {
            return;
        }
        state.delivery = Delivery::Scheduled;
        drop(state);
        let shared = self.clone();
        self.main.schedule(move |_main| shared.deliver());
    }

    /// Tells what is queued to those who want to hear it, oldest first. Main context only.
    fn deliver(self: &Arc<Self>) {
        {
            let mut state = self.lock();
            if state.delivery == Delivery::Running {
                return;
            }
            state.delivery = Delivery::Running;
        }
        while let Some(word) = self.next_word() {
            match word {
                Word::Event(event) => self.tell(&event),
                Word::Moment(key) => self.tell_moment(key),
                Word::Forgotten(job) => {
                    let notifiers = self.lock().take_notifiers(job);
                    // Outside of the lock, since what a callback holds may be a job.
                    drop(notifiers);
                }
            }
        }
    }

    /// The oldest word; `None` ends the delivery.
    fn next_word(&self) -> Option<Word> {
        let mut state = self.lock();
        let word = state.words.pop_front();
        if word.is_none() {
            state.delivery = Delivery::Idle;
        }
        word
    }

    fn tell(&self, event: &JobEvent) {
        let all = |state: &State| state.subscribers.iter().map(|(_, s)| s.clone()).collect();
        let subscribers: Vec<Subscriber> = all(&self.lock());
        let current = CurrentCallback::subscriber(event.job());
        for subscriber in subscribers {
            callback::named(current.clone(), || subscriber(event));
        }
    }

    fn tell_moment(self: &Arc<Self>, key: NotifierKey) {
        let called = self.lock().take_moment(key);
        if let Some((cell, notifier)) = called {
            let current = cell.current(Callback::Moment);
            let shared = self.clone();
            callback::named(current, || notifier(&Job { shared, cell }));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("a broken rule of the job table ends the process")
    }
}
