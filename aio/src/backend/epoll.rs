//! epoll: readiness for sockets and other descriptors. Disk operations go to the context's workers.

use std::{
    collections::{HashMap, VecDeque},
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
    sync::Arc,
};

use nix::sys::epoll::{Epoll as EpollFd, EpollCreateFlags, EpollEvent, EpollFlags};

use crate::{
    backend::{Backend, BackendKind, Wait},
    op::{Completion, Key, Op, Value},
    shared::Shared,
    sys::{self, Blocking},
};

/// What an event carries when it is the context's own kick; no descriptor has this number.
const KICK: u64 = u64::MAX;

/// Events taken from the kernel at once.
const EVENTS: usize = 256;

/// Waits for readiness, then tries the operation again.
#[derive(Debug)]
pub(crate) struct Epoll {
    epoll: EpollFd,
    shared: Arc<Shared>,
    /// Operations that wait, by descriptor, in the order of their submission.
    waiting: HashMap<RawFd, Waiting>,
    /// Completions that the next wait delivers.
    done: VecDeque<Completion>,
}

#[derive(Debug)]
struct Waiting {
    ops: Vec<(Key, Op)>,
    /// What the kernel has been asked to watch for.
    interest: EpollFlags,
}

impl Waiting {
    fn new() -> Self {
        Self {
            ops: Vec::new(),
            interest: EpollFlags::empty(),
        }
    }
}

impl Epoll {
    pub(crate) fn new(shared: Arc<Shared>) -> io::Result<Self> {
        let epoll = EpollFd::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(shared.event(), EpollEvent::new(EpollFlags::EPOLLIN, KICK))?;
        Ok(Self {
            epoll,
            shared,
            waiting: HashMap::new(),
            done: VecDeque::new(),
        })
    }

    /// Tells the kernel what is waited for on `fd` now.
    fn watch(&mut self, fd: RawFd) {
        let Some(waiting) = self.waiting.get_mut(&fd) else {
            return;
        };
        let interest = waiting
            .ops
            .iter()
            .map(|(_, op)| interest_of(op))
            .fold(EpollFlags::empty(), |all, one| all | one);
        if interest == waiting.interest {
            return;
        }
        let Some((_, op)) = waiting.ops.first() else {
            return;
        };
        let data = u64::try_from(fd).expect("an open descriptor is not negative");
        let mut event = EpollEvent::new(interest, data);
        let asked = if waiting.interest.is_empty() {
            self.epoll.add(op.fd(), event)
        } else {
            self.epoll.modify(op.fd(), &mut event)
        };
        match asked {
            Ok(()) => waiting.interest = interest,
            // Regular files have no readiness: whoever waits for it is told.
            Err(error) => {
                let errno = error as i32;
                let ops = self
                    .waiting
                    .remove(&fd)
                    .map_or_else(Vec::new, |waiting| waiting.ops);
                self.done
                    .extend(ops.into_iter().map(|(key, op)| Completion {
                        key,
                        op,
                        result: Err(errno),
                    }));
            }
        }
    }

    /// Tries the operations on `fd` again, in order, and watches for what is left.
    fn retry(&mut self, fd: RawFd) {
        let Some(waiting) = self.waiting.get_mut(&fd) else {
            return;
        };
        let mut left = Vec::new();
        // One that must wait holds back those behind it in its direction, so bytes stay in order.
        let mut blocked = EpollFlags::empty();
        let mut last = None;
        for (key, mut op) in waiting.ops.drain(..) {
            let direction = interest_of(&op);
            let result = if blocked.intersects(direction) {
                None
            } else {
                attempt(&mut op)
            };
            match result {
                Some(result) => {
                    last = Some(op.fd().clone());
                    self.done.push_back(Completion { key, op, result });
                }
                None => {
                    blocked |= direction;
                    left.push((key, op));
                }
            }
        }
        waiting.ops = left;
        self.forget_if_idle(fd, last.as_ref());
        self.watch(fd);
    }

    /// Waits for events and tries what they are for.
    fn take_events(&mut self, timeout_ns: Option<u64>) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        let count = sys::epoll_wait(self.epoll.0.as_fd(), &mut events, timeout_ns).unwrap_or_else(
            |error| {
                tracing::trace!(%error, "epoll_wait came back early");
                0
            },
        );
        for event in &events[..count] {
            match event.u64 {
                KICK => self.shared.event().take(),
                fd => self.retry(RawFd::try_from(fd).expect("made from a descriptor")),
            }
        }
    }

    /// Stops watching a descriptor that nobody waits for, while it is surely still open.
    fn forget_if_idle(&mut self, fd: RawFd, open: Option<&crate::fd::Fd>) {
        let idle = self
            .waiting
            .get(&fd)
            .is_some_and(|waiting| waiting.ops.is_empty());
        if let (true, Some(open)) = (idle, open) {
            let watched = self
                .waiting
                .remove(&fd)
                .is_some_and(|waiting| !waiting.interest.is_empty());
            if watched && let Err(error) = self.epoll.delete(open) {
                tracing::debug!(%error, fd, "cannot stop watching a descriptor");
            }
        }
    }
}

/// What an operation waits for.
fn interest_of(op: &Op) -> EpollFlags {
    match op {
        Op::Poll { events, .. } => {
            let mut flags = EpollFlags::empty();
            flags.set(EpollFlags::EPOLLIN, events & libc::POLLIN != 0);
            flags.set(EpollFlags::EPOLLOUT, events & libc::POLLOUT != 0);
            flags
        }
        Op::Accept { .. } | Op::Recv { .. } => EpollFlags::EPOLLIN,
        Op::Send { .. } => EpollFlags::EPOLLOUT,
        Op::Read { .. } | Op::Write { .. } | Op::Sync { .. } | Op::Fallocate { .. } => {
            unreachable!("disk operations are the workers'")
        }
    }
}

/// Does an operation if it need not wait.
fn attempt(op: &mut Op) -> Option<Result<Value, i32>> {
    let result = match op {
        Op::Poll { fd, events } => match sys::poll(fd.as_fd(), *events) {
            Ok(0) => return None,
            Ok(events) => Ok(Value::Count(u32::from(events.cast_unsigned()))),
            Err(error) => Err(error),
        },
        Op::Accept { listener } => {
            let accepted = sys::set_blocking(listener.as_fd(), Blocking::No)
                .and_then(|()| sys::accept(listener.as_fd()));
            accepted.map(Value::Accepted)
        }
        Op::Recv { socket, buf, range } => {
            sys::recv_now(socket.as_fd(), &mut buf[range.clone()]).map(count)
        }
        Op::Send { socket, message } => sys::send_now(socket.as_fd(), message).map(count),
        Op::Read { .. } | Op::Write { .. } | Op::Sync { .. } | Op::Fallocate { .. } => {
            unreachable!("disk operations are the workers'")
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

    fn runs_disk(&self) -> bool {
        false
    }

    fn submit(&mut self, key: Key, op: Op) {
        let fd = op.fd().as_raw_fd();
        self.waiting
            .entry(fd)
            .or_insert_with(Waiting::new)
            .ops
            .push((key, op));
        self.retry(fd);
    }

    fn cancel(&mut self, key: Key) {
        let place = self.waiting.iter().find_map(|(&fd, waiting)| {
            waiting
                .ops
                .iter()
                .position(|(waits, _)| *waits == key)
                .map(|at| (fd, at))
        });
        let Some((fd, at)) = place else { return };
        let Some(waiting) = self.waiting.get_mut(&fd) else {
            return;
        };
        let (key, op) = waiting.ops.remove(at);
        let open = op.fd().clone();
        self.done.push_back(Completion {
            key,
            op,
            result: Err(libc::ECANCELED),
        });
        self.forget_if_idle(fd, Some(&open));
        self.watch(fd);
    }

    fn has_news(&mut self) -> bool {
        !self.done.is_empty()
    }

    fn wait(&mut self, wait: Wait, completions: &mut Vec<Completion>) {
        let timeout = match wait {
            _ if !self.done.is_empty() => Some(0),
            Wait::No if self.waiting.is_empty() => None,
            Wait::No => Some(0),
            Wait::Ns(ns) => Some(ns),
            Wait::Forever => None,
        };
        if wait != Wait::No || timeout.is_some() {
            self.take_events(timeout);
        }
        completions.extend(self.done.drain(..));
    }
}
