//! Timers with a callback, which any thread may arm and cancel.
//!
//! What a timer is armed for is one atomic number, [`TimerPost::wanted_ns`], and that alone decides
//! whether the callback is called. Where the timer is in the wheel only says when to look at it:
//!
//! ```text
//!   arm:    wanted = deadline; at home: move the timer in the wheel
//!                              elsewhere: raise the node, kick if the home thread sleeps past it
//!   cancel: wanted = NEVER;    the same without a kick
//!   expiry: wanted <= now?     wanted = NEVER by compare-and-swap, call the callback
//!           wanted later, or NEVER, or changed meanwhile: look again, move or forget
//! ```

use std::{
    fmt, mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use slab::Slab;

use super::{Expiry, Timers, WheelKey};
use crate::{
    clock::TimerClock,
    context::AioContext,
    home::Home,
    inbox::{Listed, Node},
    shared::{Posted, What},
};

/// What a timer is armed for when it is not armed.
const NEVER: u64 = u64::MAX;

/// The bits of a timer's node: it was armed or cancelled on another thread.
const CHANGED: u32 = 1;
/// Free it.
const DELETED: u32 = 2;

impl AioContext {
    /// A timer: `callback` runs on the home thread when `clock` has come to what the timer is armed for.
    ///
    /// It is not armed yet. The name is for debugging. Code that is `async` had better
    /// [sleep](Self::sleep_ns).
    ///
    /// ```
    /// use std::{cell::Cell, rc::Rc};
    /// use aio::{Blocking, TimerClock};
    ///
    /// # let cx = aio::AioContext::new(aio::Config::default()).unwrap();
    /// let fired = Rc::new(Cell::new(false));
    /// let fire = fired.clone();
    /// let timer = cx.timer("soon", TimerClock::Loop, move |_| fire.set(true));
    /// timer.arm_at_ns(cx.now_ns() + 100_000);
    /// while !fired.get() {
    ///     cx.poll(Blocking::Yes);
    /// }
    /// assert!(!timer.is_armed());
    /// # drop(timer);
    /// # cx.close();
    /// ```
    ///
    /// # Panics
    ///
    /// When the context has 2^32 timers.
    pub fn timer(
        &self,
        name: &'static str,
        clock: TimerClock,
        callback: impl FnMut(&Self) + 'static,
    ) -> Timer {
        let mut table = self.timer_table().borrow_mut();
        let entry = table.slots.vacant_entry();
        let post = TimerPost {
            name,
            clock,
            index: u32::try_from(entry.key()).expect("a context has fewer than 2^32 timers"),
            wanted_ns: AtomicU64::new(NEVER),
            armed: Home::new(None),
        };
        let node = Arc::new(Node::new(Posted {
            shared: self.inner().shared().clone(),
            what: What::Timer(post),
        }));
        entry.insert(Slot {
            node: node.clone(),
            state: State::Idle(Box::new(callback)),
        });
        Timer { node }
    }

    /// Acts on what another thread wants of a timer.
    pub(crate) fn timer_changed(&self, listed: Listed<Posted>) {
        let (node, bits) = listed.begin(CHANGED);
        let post = post_of(&node);
        self.timers().with(|timers| post.settle(timers));
        if bits & DELETED != 0 {
            let callback = self.timer_table().borrow_mut().remove(post.index);
            drop(callback);
        }
    }

    /// Calls the callback of a timer that the wheel has given out, if it is due; returns whether it was.
    pub(super) fn call_timer(&self, index: u32) -> bool {
        let table = self.timer_table();
        let Some((node, mut callback)) = self.start_timer(index) else {
            return false;
        };
        callback(self);
        let after = table.borrow_mut().finish(index, callback);
        match after {
            AfterCall::Nothing => {}
            AfterCall::CatchUp => self.timers().with(|timers| post_of(&node).catch_up(timers)),
            AfterCall::Drop(callback) => drop(callback),
        }
        true
    }

    fn start_timer(&self, index: u32) -> Option<(Arc<Node<Posted>>, Callback)> {
        let mut table = self.timer_table().borrow_mut();
        let slot = table.slots.get_mut(index as usize)?;
        if let State::Running { missed, .. } = &mut slot.state {
            *missed = true;
            post_of(&slot.node).armed.with(|armed| *armed = None);
            return None;
        }
        let claimed = self
            .timers()
            .with(|timers| post_of(&slot.node).claim(timers));
        if !claimed {
            return None;
        }
        let running = State::Running {
            missed: false,
            deleted: false,
        };
        match mem::replace(&mut slot.state, running) {
            State::Idle(callback) => Some((slot.node.clone(), callback)),
            State::Running { .. } => unreachable!("looked at just now"),
        }
    }
}

fn post_of(node: &Node<Posted>) -> &TimerPost {
    match &node.what.what {
        What::Timer(post) => post,
        _ => unreachable!("a timer's node is one of a timer"),
    }
}

/// A timer as all threads see it.
pub(crate) struct TimerPost {
    name: &'static str,
    clock: TimerClock,
    /// Its place in the table; free for others once the timer is deleted, and out of the wheel.
    index: u32,
    /// What it is armed for; [`NEVER`] if it is not.
    pub(super) wanted_ns: AtomicU64,
    /// Where it is in the wheel.
    armed: Home<Option<Armed>>,
}

/// A timer in the wheel.
struct Armed {
    key: WheelKey,
    deadline_ns: u64,
}

impl TimerPost {
    fn wanted_ns(&self) -> u64 {
        self.wanted_ns.load(Ordering::Acquire)
    }

    /// Puts the timer into the wheel anew, or out of it: behind those with the same deadline.
    fn settle(&self, timers: &mut Timers) {
        let deadline_ns = self.wanted_ns();
        let wheel = timers.wheel(self.clock);
        self.armed.with(|armed| {
            if let Some(armed) = armed.take() {
                wheel.remove(armed.key);
            }
            if deadline_ns != NEVER {
                let key = wheel.insert(deadline_ns, Expiry::Call(self.index));
                *armed = Some(Armed { key, deadline_ns });
            }
        });
    }

    /// Moves the timer if the wheel does not have it where it belongs.
    fn catch_up(&self, timers: &mut Timers) {
        let settled_ns = self
            .armed
            .with(|armed| armed.as_ref().map_or(NEVER, |armed| armed.deadline_ns));
        if settled_ns != self.wanted_ns() {
            self.settle(timers);
        }
    }

    /// Takes what the timer, just out of the wheel, is armed for, if that has come; otherwise puts it back.
    fn claim(&self, timers: &mut Timers) -> bool {
        self.armed.with(|armed| *armed = None);
        let now_ns = timers.pass_ns[self.clock.index()];
        let due = |wanted_ns| (wanted_ns != NEVER && wanted_ns <= now_ns).then_some(NEVER);
        // Acquire: what was written before the timer was armed is visible to the callback.
        let claimed = self
            .wanted_ns
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, due)
            .is_ok();
        if !claimed {
            self.settle(timers);
        }
        claimed
    }
}

/// A callback that is called when a clock has come to a deadline; made by [`AioContext::timer`].
///
/// It is armed for one deadline at a time, and every method may be called on any thread, never blocks
/// and allocates nothing there. The callback runs on the home thread only, at the end of a turn of the
/// loop, never early. The timer is not armed any more when its callback is called, which may arm it
/// again. Timers of equal deadlines are called in the order in which they were armed, those armed by
/// other threads in the order in which the home thread learns of it.
///
/// Dropping it deletes the timer: the callback is not called any more once the drop has happened on the
/// home thread, and is freed there, in a later turn. It may be dropped from within its own callback.
pub struct Timer {
    node: Arc<Node<Posted>>,
}

impl Timer {
    pub(super) fn post(&self) -> &TimerPost {
        post_of(&self.node)
    }

    /// Arms it for `deadline_ns`, in nanoseconds of its clock, in place of what it was armed for. What is
    /// past is due at the end of the turn, or of the next one if this is called by a timer's callback.
    ///
    /// The end of time, `u64::MAX`, is the same as the nanosecond before it. What was written before is
    /// visible to the callback. A home thread that sleeps longer than that is woken.
    pub fn arm_at_ns(&self, deadline_ns: u64) {
        let deadline_ns = deadline_ns.min(NEVER - 1);
        self.post().wanted_ns.swap(deadline_ns, Ordering::AcqRel);
        self.changed(deadline_ns);
    }

    /// Arms it for `deadline_ns` if it is not armed, or armed for later than that.
    pub fn arm_earlier_ns(&self, deadline_ns: u64) {
        let deadline_ns = deadline_ns.min(NEVER - 1);
        let post = self.post();
        if deadline_ns < post.wanted_ns.fetch_min(deadline_ns, Ordering::AcqRel) {
            self.changed(deadline_ns);
            return;
        }
        // Whoever armed it for earlier than that may not have come to telling the home thread yet.
        self.tell(deadline_ns, TimerPost::catch_up);
    }

    /// Disarms it. On another thread than the home thread it does not wait for a callback that runs.
    pub fn cancel(&self) {
        if self.post().wanted_ns.swap(NEVER, Ordering::AcqRel) != NEVER {
            // Nobody needs to wake up for this.
            self.changed(NEVER);
        }
    }

    /// Whether it is armed; not any more while its callback runs for what it was armed for.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.deadline_ns().is_some()
    }

    /// What it is armed for, in nanoseconds of its clock.
    #[must_use]
    pub fn deadline_ns(&self) -> Option<u64> {
        let wanted_ns = self.post().wanted_ns();
        (wanted_ns != NEVER).then_some(wanted_ns)
    }

    /// The clock that it goes by.
    #[must_use]
    pub fn clock(&self) -> TimerClock {
        self.post().clock
    }

    /// The name given at its making.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.post().name
    }

    /// Has the home thread move the timer, in time for `deadline_ns`.
    fn changed(&self, deadline_ns: u64) {
        self.tell(deadline_ns, TimerPost::settle);
    }

    fn tell(&self, deadline_ns: u64, at_home: impl FnOnce(&TimerPost, &mut Timers)) {
        let (shared, post) = (&self.node.what.shared, self.post());
        let told = shared.timers.try_with(|timers| at_home(post, timers));
        if told.is_some() {
            shared.touched_before(post.clock, deadline_ns);
        } else {
            shared.raise_timer(&self.node, CHANGED, post.clock, deadline_ns);
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.post().wanted_ns.swap(NEVER, Ordering::AcqRel);
        let shared = &self.node.what.shared;
        shared.timers.try_with(|timers| self.post().settle(timers));
        shared.raise_timer(&self.node, DELETED, self.post().clock, NEVER);
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer")
            .field("name", &self.name())
            .field("clock", &self.clock())
            .field("deadline_ns", &self.deadline_ns())
            .finish()
    }
}

type Callback = Box<dyn FnMut(&AioContext)>;

/// One timer as its home thread keeps it.
pub(crate) struct Slot {
    node: Arc<Node<Posted>>,
    state: State,
}

enum State {
    Idle(Callback),
    /// The callback is being called; a nested turn of the loop may ask for more meanwhile.
    Running {
        /// It came due, and is out of the wheel.
        missed: bool,
        deleted: bool,
    },
}

/// What is left to do when a callback has returned.
enum AfterCall {
    Nothing,
    /// It came due in a nested turn: put it back to the wheel.
    CatchUp,
    /// It was deleted: drop it.
    Drop(Callback),
}

/// The callbacks of a context's timers.
#[derive(Default)]
pub(crate) struct TimerTable {
    slots: Slab<Slot>,
}

impl TimerTable {
    /// Puts a callback back that has returned.
    fn finish(&mut self, index: u32, callback: Callback) -> AfterCall {
        let Some(slot) = self.slots.get_mut(index as usize) else {
            // The context was closed from within the callback.
            return AfterCall::Drop(callback);
        };
        match mem::replace(&mut slot.state, State::Idle(callback)) {
            State::Running { deleted: true, .. } => match self.slots.remove(index as usize).state {
                State::Idle(callback) => AfterCall::Drop(callback),
                State::Running { .. } => unreachable!("made idle just now"),
            },
            State::Running { missed: true, .. } => AfterCall::CatchUp,
            State::Running { .. } | State::Idle(_) => AfterCall::Nothing,
        }
    }

    /// Removes a deleted timer; the caller drops the callback.
    fn remove(&mut self, index: u32) -> Option<Callback> {
        let slot = self.slots.get_mut(index as usize)?;
        if let State::Running { deleted, .. } = &mut slot.state {
            *deleted = true;
            return None;
        }
        match self.slots.remove(index as usize).state {
            State::Idle(callback) => Some(callback),
            State::Running { .. } => unreachable!("looked at just now"),
        }
    }

    /// Takes every timer out, for the caller to drop.
    pub(crate) fn take_all(&mut self) -> Slab<Slot> {
        mem::take(&mut self.slots)
    }
}

impl fmt::Debug for TimerTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.slots.iter().map(|(_, slot)| post_of(&slot.node).name);
        f.debug_list().entries(names).finish()
    }
}
