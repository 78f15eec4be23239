//! Watched descriptors on a ring: one multishot poll each, and a look at those that may have stayed ready.
//!
//! A multishot poll tells of changes only. Whoever leaves data on a descriptor asks for a recheck;
//! all rechecks of a turn are one `poll(2)`, so that together they tell what *is*, as epoll does.

use std::{
    collections::VecDeque,
    io, mem,
    os::fd::{AsRawFd, RawFd},
};

use slab::Slab;

use super::{
    outside::{Outside, Seen},
    ring::{Cqe, MORE},
};
use crate::{
    fd::Fd,
    op::{Key, WatchKey},
    sys,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not in the kernel; queued to be armed.
    Idle,
    /// In the kernel.
    Armed,
    /// Nobody cares any more; the last completion has yet to come.
    Ended,
}

#[derive(Debug)]
struct Watch {
    /// Kept open until the kernel has let go of it.
    fd: Fd,
    events: i16,
    generation: u32,
    state: State,
    /// What holds and was not reported yet.
    holds: i16,
    /// Queued for the next recheck.
    recheck: bool,
    /// It is watched from the outside, and not armed any more.
    seen: Option<Seen>,
}

/// What a completion of a watch was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrived {
    Expected,
    /// Of a watch that has ended.
    Stale,
}

/// The watches of one ring.
#[derive(Debug, Default)]
pub(super) struct Watches {
    watches: Slab<Watch>,
    generation: u32,
    to_arm: VecDeque<Key>,
    rechecks: Vec<Key>,
    /// Those with something to report.
    changed: Vec<Key>,
    /// For the call, kept for its memory.
    polled: Vec<libc::pollfd>,
    /// Where descriptors are watched while somebody else's loop drives the context.
    outside: Option<Outside>,
}

impl Watches {
    /// Watches that may complete at any time.
    pub(super) fn len(&self) -> usize {
        self.watches.len()
    }

    fn get(&mut self, key: Key) -> Option<&mut Watch> {
        self.watches
            .get_mut(key.at())
            .filter(|watch| watch.generation == key.generation)
    }

    /// Takes a watch in, to be armed, or seen from the outside.
    pub(super) fn insert(&mut self, fd: Fd, events: i16) -> io::Result<WatchKey> {
        self.generation = Key::next_generation(self.generation);
        let index = self.watches.insert(Watch {
            fd,
            events,
            generation: self.generation,
            state: State::Idle,
            holds: 0,
            recheck: false,
            seen: None,
        });
        let key = Key {
            index: u32::try_from(index).expect("descriptors are fewer"),
            generation: self.generation,
        };
        match &self.outside {
            None => self.to_arm.push_back(key),
            Some(outside) => {
                let watch = &mut self.watches[index];
                let seen = outside.add(key, &watch.fd, events);
                let seen = seen.inspect_err(|_| drop(self.watches.remove(index)))?;
                self.watches[index].seen = Some(seen);
            }
        }
        Ok(WatchKey(key))
    }

    /// Has descriptors watched from the outside from now on; returns which polls to cancel.
    pub(super) fn go_outside(&mut self, outside: Outside) -> io::Result<Vec<Key>> {
        let mut to_cancel = Vec::new();
        for (index, watch) in &mut self.watches {
            if watch.state == State::Ended {
                continue;
            }
            let key = Key {
                index: u32::try_from(index).expect("descriptors are fewer"),
                generation: watch.generation,
            };
            watch.seen = Some(outside.add(key, &watch.fd, watch.events)?);
            if watch.state == State::Armed {
                to_cancel.push(key);
            }
        }
        self.to_arm.clear();
        self.outside = Some(outside);
        Ok(to_cancel)
    }

    /// Waits outside, and notes what is ready there; returns whether the eventfd is signalled.
    pub(super) fn look_outside(&mut self, timeout_ns: Option<u64>) -> bool {
        let Some(outside) = self.outside.take() else {
            return false;
        };
        let signalled = outside.look(timeout_ns, |key, holds| self.note(key, holds));
        self.outside = Some(outside);
        signalled
    }

    /// What an outside loop waits on, if there is one.
    pub(super) fn outside(&self) -> Option<&Outside> {
        self.outside.as_ref()
    }

    /// Ends a watch; returns whether the kernel must be told.
    pub(super) fn end(&mut self, key: Key) -> Told {
        let Some(watch) = self.get(key) else {
            return Told::No;
        };
        let seen = watch.seen.take();
        let state = mem::replace(&mut watch.state, State::Ended);
        if let (Some(outside), Some(seen)) = (&self.outside, seen) {
            outside.remove(&seen);
        }
        match state {
            State::Idle => {
                self.watches.remove(key.at());
                Told::No
            }
            State::Armed => Told::Must,
            State::Ended => Told::No,
        }
    }

    /// Queues a look at the descriptor.
    pub(super) fn recheck(&mut self, key: Key) {
        if let Some(watch) = self.get(key)
            && watch.state != State::Ended
            && watch.seen.is_none()
            && !mem::replace(&mut watch.recheck, true)
        {
            self.rechecks.push(key);
        }
    }

    /// The next watch to arm: its key, descriptor and events.
    pub(super) fn next_to_arm(&mut self) -> Option<(Key, RawFd, i16)> {
        while let Some(&key) = self.to_arm.front() {
            if let Some(watch) = self.get(key) {
                return Some((key, watch.fd.as_raw_fd(), watch.events));
            }
            self.to_arm.pop_front();
        }
        None
    }

    /// Whether any watch is to be armed.
    pub(super) fn has_plans(&self) -> bool {
        !self.to_arm.is_empty()
    }

    /// The watch that [`Self::next_to_arm`] gave is in the submission queue.
    pub(super) fn armed(&mut self) {
        let key = self.to_arm.pop_front().expect("it was looked at before");
        self.get(key).expect("it was looked at before").state = State::Armed;
    }

    /// Takes a completion in.
    pub(super) fn arrived(&mut self, key: Key, cqe: Cqe) -> Arrived {
        let Some(watch) = self.get(key) else {
            return Arrived::Stale;
        };
        let last = cqe.flags & MORE == 0;
        if watch.state == State::Ended {
            if last {
                self.watches.remove(key.at());
            }
            return Arrived::Stale;
        }
        let holds = match cqe.result.wrapping_neg() {
            libc::ECANCELED | libc::EAGAIN | libc::EINTR | libc::ENOMEM => 0,
            1.. => libc::POLLERR,
            _ => i16::try_from(cqe.result & i32::from(i16::MAX)).expect("masked to what fits"),
        };
        if last {
            watch.state = State::Idle;
        }
        // What cannot be polled would only fail again.
        if last && holds != libc::POLLERR && watch.seen.is_none() {
            self.to_arm.push_back(key);
        }
        self.note(key, holds);
        Arrived::Expected
    }

    /// Whether there is something to report or to look at.
    pub(super) fn has_news(&self) -> bool {
        !self.changed.is_empty() || !self.rechecks.is_empty()
    }

    /// Looks at all that were queued for it; returns whether any is ready.
    pub(super) fn run_rechecks(&mut self) -> bool {
        if self.rechecks.is_empty() {
            return false;
        }
        let mut rechecks = mem::take(&mut self.rechecks);
        let mut polled = mem::take(&mut self.polled);
        rechecks.retain(|&key| {
            let watch = self.get(key);
            let watch = watch.filter(|watch| watch.state != State::Ended);
            watch.is_some_and(|watch| {
                watch.recheck = false;
                polled.push(libc::pollfd {
                    fd: watch.fd.as_raw_fd(),
                    events: watch.events,
                    revents: 0,
                });
                true
            })
        });
        if let Err(error) = sys::poll_many(&mut polled, Some(0)) {
            tracing::debug!(%error, "poll of {} descriptors", polled.len());
        }
        for (key, polled) in rechecks.drain(..).zip(polled.drain(..)) {
            self.note(key, polled.revents);
        }
        self.rechecks = rechecks;
        self.polled = polled;
        !self.changed.is_empty()
    }

    fn note(&mut self, key: Key, holds: i16) {
        if let Some(watch) = self.get(key)
            && holds != 0
        {
            let first = watch.holds == 0;
            watch.holds |= holds;
            if first {
                self.changed.push(key);
            }
        }
    }

    /// Moves what is to be reported to `ready`.
    pub(super) fn report(&mut self, ready: &mut Vec<(WatchKey, i16)>) {
        let mut changed = mem::take(&mut self.changed);
        for key in changed.drain(..) {
            if let Some(watch) = self.get(key)
                && watch.state != State::Ended
            {
                ready.push((WatchKey(key), mem::take(&mut watch.holds)));
            }
        }
        self.changed = changed;
    }
}

/// Whether the kernel must be told of the end of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Must,
    No,
}
