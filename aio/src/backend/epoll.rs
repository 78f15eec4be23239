//! epoll: readiness for sockets and other descriptors. Disk operations go to the context's workers.

use std::{
    collections::HashMap,
    io, mem,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    sync::Arc,
};

use nix::sys::epoll::{Epoll as EpollFd, EpollCreateFlags, EpollEvent, EpollFlags};
use slab::Slab;

use crate::{
    backend::{Backend, BackendKind, BackendStats, Closed, Events, Submitted, Wait},
    fd::Fd,
    op::{Connecting, Key, Op, Outcome, Value, WatchKey},
    request::{RequestTable, Slot},
    shared::Shared,
    sys::{self, Blocking},
};

/// What an event carries when it is the context's own kick; no place in a table has this number.
const KICK: u64 = u64::MAX;

/// Longest read that is tried on the home thread: a larger copy is worth another thread.
const READ_NOW_BYTES_MAX: usize = 16 << 10;

/// Events taken from the kernel at once.
const EVENTS: usize = 256;

/// Waits for readiness, then tries the operation again.
#[derive(Debug)]
pub(crate) struct Epoll {
    epoll: EpollFd,
    shared: Arc<Shared>,
    /// Descriptors that somebody waits for. Events carry the place here.
    descriptors: Slab<Descriptor>,
    /// The place of each of them, by number.
    places: HashMap<RawFd, usize>,
    watches: Slab<Watch>,
    generation: u32,
    /// Completions that the next wait delivers.
    done: Vec<(Key, Outcome)>,
    /// An outside loop waits on the epoll instance.
    foreign: bool,
    stats: BackendStats,
}

/// One descriptor that the kernel watches.
#[derive(Debug)]
struct Descriptor {
    /// Keeps the number from being used for anything else.
    fd: Fd,
    /// Operations that wait, and for what, in the order of their submission.
    ops: Vec<(Key, EpollFlags)>,
    watches: Vec<WatchKey>,
    /// What the kernel has been asked to watch for, once it has been.
    asked: Option<EpollFlags>,
}

#[derive(Debug)]
struct Watch {
    generation: u32,
    events: EpollFlags,
    descriptor: usize,
}

impl Epoll {
    pub(crate) fn new(shared: Arc<Shared>) -> io::Result<Self> {
        let epoll = EpollFd::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        // Better told now than by a loop that cannot sleep.
        let mut none = [libc::epoll_event { events: 0, u64: 0 }];
        if let Err(error) = sys::epoll_wait(epoll.0.as_fd(), &mut none, Some(0))
            && error.raw_os_error() == Some(libc::ENOSYS)
        {
            return Err(error);
        }
        epoll.add(shared.event(), EpollEvent::new(EpollFlags::EPOLLIN, KICK))?;
        Ok(Self {
            epoll,
            shared,
            descriptors: Slab::new(),
            places: HashMap::new(),
            watches: Slab::new(),
            generation: 0,
            done: Vec::new(),
            foreign: false,
            stats: BackendStats::default(),
        })
    }

    /// The place of the descriptor, made if there is none.
    fn place(&mut self, fd: &Fd) -> usize {
        *self.places.entry(fd.as_raw_fd()).or_insert_with(|| {
            self.descriptors.insert(Descriptor {
                fd: fd.clone(),
                ops: Vec::new(),
                watches: Vec::new(),
                asked: None,
            })
        })
    }

    /// Tells the kernel what is waited for on the descriptor now, or forgets it if nothing is.
    fn update(&mut self, place: usize) -> io::Result<()> {
        let descriptor = &mut self.descriptors[place];
        let waits = descriptor.ops.iter().map(|(_, interest)| *interest);
        let watched = descriptor.watches.iter();
        let watched = watched.map(|watch| self.watches[watch.0.at()].events);
        let interest = waits.chain(watched).reduce(|all, one| all | one);
        let data = u64::try_from(place).expect("an index fits 64 bits");
        match (descriptor.asked, interest) {
            (asked, interest) if asked == interest && asked.is_some() => {}
            (None, Some(interest)) => {
                let event = EpollEvent::new(interest, data);
                self.epoll.add(&descriptor.fd, event)?;
            }
            (Some(_), Some(interest)) => {
                let mut event = EpollEvent::new(interest, data);
                self.epoll.modify(&descriptor.fd, &mut event)?;
            }
            (asked, None) => {
                let gone = self.descriptors.remove(place);
                self.places.remove(&gone.fd.as_raw_fd());
                if asked.is_some() {
                    self.epoll.delete(&gone.fd)?;
                }
                return Ok(());
            }
        }
        descriptor.asked = interest;
        Ok(())
    }

    /// As [`Self::update`], for operations: if the kernel refuses, those that wait there fail.
    fn update_for_ops(&mut self, place: usize) {
        let Err(error) = self.update(place) else {
            return;
        };
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        let Some(descriptor) = self.descriptors.get_mut(place) else {
            tracing::debug!(%error, "cannot stop watching a descriptor");
            return;
        };
        let failed = mem::take(&mut descriptor.ops).into_iter();
        self.done.extend(failed.map(|(key, _)| (key, Err(errno))));
        if let Err(error) = self.update(place) {
            tracing::debug!(%error, "cannot stop watching a descriptor");
        }
    }

    /// Tries the operations on a descriptor again, in order, and watches for what is left.
    fn retry(&mut self, place: usize, requests: &mut RequestTable) {
        let descriptor = &mut self.descriptors[place];
        if descriptor.ops.is_empty() {
            return;
        }
        let done = &mut self.done;
        // One that must wait holds back those behind it in its direction, so bytes stay in order.
        let mut blocked = EpollFlags::empty();
        descriptor.ops.retain(|&(key, interest)| {
            let Some(slot) = requests.in_flight(key) else {
                return false;
            };
            let outcome = if blocked.intersects(interest) {
                None
            } else {
                attempt(slot.op())
            };
            match outcome {
                Some(outcome) => {
                    done.push((key, outcome));
                    false
                }
                None => {
                    blocked |= interest;
                    true
                }
            }
        });
        self.update_for_ops(place);
    }

    /// Waits for events, tries operations and reports watches they are for.
    fn take_events(
        &mut self,
        timeout_ns: Option<u64>,
        requests: &mut RequestTable,
        ready: &mut Vec<(WatchKey, i16)>,
    ) {
        self.stats.enters += 1;
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        let count = sys::epoll_wait(self.epoll.0.as_fd(), &mut events, timeout_ns).unwrap_or_else(
            |error| {
                tracing::trace!(%error, "epoll_wait came back early");
                0
            },
        );
        for event in &events[..count] {
            let holds = EpollFlags::from_bits_truncate(event.events.cast_signed());
            match event.u64 {
                KICK => self.shared.event().take(),
                place => {
                    let place = usize::try_from(place).expect("made from an index");
                    self.report(place, holds, ready);
                    self.retry(place, requests);
                }
            }
        }
    }

    /// Reports the watches of a descriptor for which an event holds.
    fn report(&self, place: usize, holds: EpollFlags, ready: &mut Vec<(WatchKey, i16)>) {
        let always = EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP;
        for &key in &self.descriptors[place].watches {
            let holds = holds & (self.watches[key.0.at()].events | always);
            if !holds.is_empty() {
                ready.push((key, poll_events(holds)));
            }
        }
    }

    /// Takes in an operation that may block a thread: it does not where memory has all that is asked for.
    fn submit_blocking(&mut self, key: Key, op: &mut Op) -> Submitted {
        let Op::Read {
            file,
            offset_bytes,
            buf,
            range,
        } = op
        else {
            return Submitted::ForWorker;
        };
        // Going around the page cache would wait for the device.
        if range.len() > READ_NOW_BYTES_MAX || file.is_direct() {
            return Submitted::ForWorker;
        }
        match sys::read_now(file.as_fd(), *offset_bytes, &mut buf[range.clone()]) {
            Ok(len) => {
                self.done.push((key, Ok(count(len))));
                Submitted::Taken
            }
            Err(_) => Submitted::ForWorker,
        }
    }

    fn watch_of(&self, key: WatchKey) -> Option<&Watch> {
        let watch = self.watches.get(key.0.at());
        watch.filter(|watch| watch.generation == key.0.generation)
    }
}

/// `poll(2)` events as epoll names them: by the same bits.
fn flags(events: i16) -> EpollFlags {
    EpollFlags::from_bits_truncate(i32::from(events))
}

/// The other way round. What does not fit `poll(2)` is not asked for.
fn poll_events(flags: EpollFlags) -> i16 {
    i16::try_from(flags.bits() & i32::from(i16::MAX)).expect("masked to what fits")
}

/// Does an operation if it need not wait.
fn attempt(op: &mut Op) -> Option<Outcome> {
    let result = match op {
        Op::Poll { fd, events } => match sys::poll(fd.as_fd(), *events) {
            Ok(0) => return None,
            Ok(events) => Ok(Value::Count(u32::from(events.cast_unsigned()))),
            Err(error) => Err(error),
        },
        Op::Accept { listener } => {
            let accepted = sys::set_blocking(listener.as_fd(), Blocking::No)
                .and_then(|()| sys::accept(listener.as_fd()));
            accepted.map(Value::Fd)
        }
        Op::Recv { socket, buf, range } => {
            sys::recv_now(socket.as_fd(), &mut buf[range.clone()]).map(count)
        }
        Op::Send { socket, message } => sys::send_now(socket.as_fd(), message).map(count),
        Op::Connect { socket, connecting } => connect(socket, connecting),
        Op::Read { .. }
        | Op::Write { .. }
        | Op::Sync { .. }
        | Op::Fallocate { .. }
        | Op::Call(_) => {
            unreachable!("what blocks is the workers'")
        }
    };
    match result {
        Ok(value) => Some(Ok(value)),
        Err(error) => match error.raw_os_error().unwrap_or(libc::EIO) {
            libc::EAGAIN | libc::EINTR => None,
            errno => Some(Err(errno)),
        },
    }
}

fn is_local_connect(op: &Op) -> bool {
    matches!(op, Op::Connect { connecting, .. } if connecting.address.is_unix())
}

/// Connects as far as that goes without waiting.
fn connect(socket: &Fd, connecting: &mut Connecting) -> io::Result<Value> {
    let begun = mem::replace(&mut connecting.begun, true);
    sys::set_blocking(socket.as_fd(), Blocking::No)?;
    let connected = sys::connect_now(socket.as_fd(), &connecting.address);
    let errno = connected.err().and_then(|error| error.raw_os_error());
    let outcome = match errno {
        Some(libc::EINPROGRESS | libc::EALREADY) => {
            return Err(io::Error::from_raw_os_error(libc::EAGAIN));
        }
        None => Ok(count(0)),
        Some(libc::EISCONN) if begun => Ok(count(0)),
        Some(errno) => Err(io::Error::from_raw_os_error(errno)),
    };
    sys::set_blocking(socket.as_fd(), Blocking::Yes)?;
    outcome
}

fn count(len: usize) -> Value {
    Value::Count(u32::try_from(len).expect("one call moves less than 4 GiB"))
}

impl Backend for Epoll {
    fn kind(&self) -> BackendKind {
        BackendKind::Epoll
    }

    fn describe(&self) -> String {
        "epoll, worker threads for disk I/O".to_owned()
    }

    fn stats(&self) -> BackendStats {
        self.stats
    }

    fn submit(&mut self, key: Key, request: &mut Slot) -> Submitted {
        let op = request.op();
        let interest = flags(op.waits_for());
        let Some(fd) = op.fd().filter(|_| !interest.is_empty()).cloned() else {
            return self.submit_blocking(key, op);
        };
        let place = self.places.get(&fd.as_raw_fd());
        let ahead = place.is_some_and(|&place| {
            let mut ops = self.descriptors[place].ops.iter();
            ops.any(|(_, waits)| waits.intersects(interest))
        });
        match if ahead { None } else { attempt(op) } {
            // Nothing tells when the listener's queue has room again; a worker can wait for that.
            None if is_local_connect(op) => return Submitted::ForWorker,
            Some(outcome) => self.done.push((key, outcome)),
            None => {
                let place = self.place(&fd);
                self.descriptors[place].ops.push((key, interest));
                self.update_for_ops(place);
            }
        }
        Submitted::Taken
    }

    fn cancel(&mut self, key: Key, request: &mut Slot) {
        let fd = request.op().fd().map(AsRawFd::as_raw_fd);
        let Some(&place) = fd.and_then(|fd| self.places.get(&fd)) else {
            return;
        };
        let ops = &mut self.descriptors[place].ops;
        let Some(at) = ops.iter().position(|(waits, _)| *waits == key) else {
            return;
        };
        ops.remove(at);
        self.done.push((key, Err(libc::ECANCELED)));
        self.update_for_ops(place);
    }

    fn register_file(&mut self, _fd: &Fd) -> Option<u16> {
        None
    }

    fn unregister_file(&mut self, _fd: &Fd, _place: u16) {}

    fn set_max_batch(&mut self, _requests: u32) {
        // Every request is a system call of its own.
    }

    fn watch(&mut self, fd: &Fd, events: i16) -> io::Result<WatchKey> {
        let descriptor = self.place(fd);
        self.generation = Key::next_generation(self.generation);
        let index = self.watches.insert(Watch {
            generation: self.generation,
            events: flags(events),
            descriptor,
        });
        let key = WatchKey(Key {
            index: u32::try_from(index).expect("descriptors are fewer"),
            generation: self.generation,
        });
        self.descriptors[descriptor].watches.push(key);
        let updated = self.update(descriptor);
        if updated.is_err() {
            self.unwatch(key);
        }
        updated.map(|()| key)
    }

    fn unwatch(&mut self, key: WatchKey) {
        let Some(place) = self.watch_of(key).map(|watch| watch.descriptor) else {
            return;
        };
        let watches = &mut self.descriptors[place].watches;
        watches.retain(|other| *other != key);
        self.watches.remove(key.0.at());
        self.update_for_ops(place);
    }

    fn recheck(&mut self, _key: WatchKey) {
        // The kernel reports anew, in each wait, what is ready.
    }

    fn foreign_fd(&mut self) -> io::Result<OwnedFd> {
        let epoll = self.epoll.0.as_fd().try_clone_to_owned()?;
        self.foreign = true;
        Ok(epoll)
    }

    fn has_news(&mut self) -> bool {
        // Readiness does not show in memory, and must not wait until polling for other things ends.
        let is_ready =
            || sys::poll(self.epoll.0.as_fd(), libc::POLLIN).is_ok_and(|holds| holds != 0);
        !self.done.is_empty() || (!self.descriptors.is_empty() && is_ready())
    }

    fn is_busy(&mut self) -> bool {
        // A kick alone need not be taken before the loop sleeps, unless somebody else does so for it.
        !self.done.is_empty() || !self.descriptors.is_empty() || self.foreign
    }

    fn wait(&mut self, wait: Wait, requests: &mut RequestTable, events: &mut Events) {
        let timeout = match wait {
            _ if !self.done.is_empty() => Some(0),
            Wait::No => Some(0),
            Wait::Ns(ns) => Some(ns),
            Wait::Forever => None,
        };
        self.take_events(timeout, requests, &mut events.ready);
        events.completions.append(&mut self.done);
    }

    fn close(&mut self, requests: &mut RequestTable, events: &mut Events) -> Closed {
        // What waits here has not begun: nothing is in the kernel.
        for (_, descriptor) in &mut self.descriptors {
            let ops = mem::take(&mut descriptor.ops).into_iter();
            self.done
                .extend(ops.map(|(key, _)| (key, Err(libc::ECANCELED))));
        }
        self.done
            .retain(|(key, _)| requests.in_flight(*key).is_some());
        events.completions.append(&mut self.done);
        Closed::Clean
    }
}
