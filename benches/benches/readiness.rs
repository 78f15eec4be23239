//! Readiness of descriptors: a few of many have become readable.

use std::{cell::Cell, io, os::fd::AsFd, rc::Rc, time::Duration};

use aio::{Blocking, Drained, Fd, FdCallbacks, FdHandler};
use benches::{Loop, Races, Side, raw_poll::RawPoll, skipped, thread_cpu_time};
use nix::{
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        eventfd::{EfdFlags, EventFd},
    },
    unistd,
};

pub(crate) fn run(races: &mut Races) {
    for (ready, all) in [(1, 1), (10, 100)] {
        let name = format!("readiness/{ready}_of_{all}");
        if races.wants(&name) {
            race(races, &name, Crowd { ready, all });
        }
    }
}

/// How many descriptors there are, and how many of them become readable in a round.
#[derive(Clone, Copy)]
struct Crowd {
    ready: usize,
    all: usize,
}

fn race(races: &mut Races, name: &str, crowd: Crowd) {
    let Some(context) = Loop::best() else { return };
    let mut peers = vec![
        handlers("handlers_that_look_again", &context, crowd, Drained::Maybe),
        epoll("epoll_edge", crowd, EpollFlags::EPOLLET),
        epoll("epoll_level", crowd, EpollFlags::empty()),
    ];
    match raw_ring(crowd) {
        Ok(side) => peers.push(side),
        Err(error) => skipped(format_args!("readiness with a raw ring: {error}")),
    }
    let ours = handlers("handlers", &context, crowd, Drained::Yes);
    races.race(name, crowd.ready as u64, ours, peers);
}

/// Handlers that empty their descriptor, and say to the loop what `drained` says.
fn handlers<'a>(name: &'static str, context: &'a Loop, crowd: Crowd, drained: Drained) -> Side<'a> {
    let events = Events::new(crowd);
    let left = Rc::new(Cell::new(0));
    let handler = |fd: &Fd| {
        let (left, taken) = (left.clone(), fd.clone());
        let callbacks = FdCallbacks::new(name).on_readable(move |_| {
            take(&taken);
            left.set(left.get() - 1);
            drained
        });
        let handler = context.add_fd_handler(fd, callbacks);
        handler.expect("an eventfd can be waited for")
    };
    let handlers: Vec<FdHandler> = events.fds.iter().map(handler).collect();
    events.side(name, move |ready| {
        left.set(ready);
        while left.get() > 0 {
            context.poll(Blocking::Yes);
        }
        debug_assert!(!handlers.is_empty(), "they live as long as the side");
    })
}

fn raw_ring(crowd: Crowd) -> io::Result<Side<'static>> {
    let events = Events::new(crowd);
    let fds = events.fds.clone();
    let mut poll = RawPoll::new(&events.eventfds)?;
    let side = events.side("raw_ring", move |mut left| {
        while left > 0 {
            poll.wait(|number| {
                take(&fds[usize::try_from(number).expect("a number of ours")]);
                left -= 1;
            });
        }
    });
    Ok(side)
}

fn epoll(name: &'static str, crowd: Crowd, flags: EpollFlags) -> Side<'static> {
    let events = Events::new(crowd);
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("there is room for one more");
    for (number, fd) in (0..).zip(&events.fds) {
        let event = EpollEvent::new(EpollFlags::EPOLLIN | flags, number);
        epoll.add(fd, event).expect("an eventfd can be waited for");
    }
    let fds = events.fds.clone();
    let mut ready = vec![EpollEvent::empty(); 256];
    events.side(name, move |mut left| {
        while left > 0 {
            let count = epoll.wait(&mut ready, EpollTimeout::NONE).unwrap_or(0);
            for event in &ready[..count] {
                take(&fds[usize::try_from(event.data()).expect("a number of ours")]);
                left -= 1;
            }
        }
    })
}

/// Empties an eventfd.
fn take(fd: &Fd) {
    let mut count = [0; 8];
    let read = unistd::read(fd, &mut count);
    assert_eq!(read, Ok(8), "it was told that there is something");
}

/// Eventfds, of which a few are written to in each round.
struct Events {
    crowd: Crowd,
    eventfds: Vec<EventFd>,
    /// The same again.
    fds: Vec<Fd>,
    /// The next to be written to.
    next: usize,
}

impl Events {
    fn new(crowd: Crowd) -> Self {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let eventfd = |_| EventFd::from_flags(flags).expect("there is room for one more");
        let eventfds: Vec<EventFd> = (0..crowd.all).map(eventfd).collect();
        let again = |fd: &EventFd| {
            let fd = fd.as_fd().try_clone_to_owned();
            Fd::from(fd.expect("there is room for one more"))
        };
        Self {
            crowd,
            fds: eventfds.iter().map(again).collect(),
            eventfds,
            next: 0,
        }
    }

    /// Writes to those whose turn it is, which are spread over all.
    fn write(&mut self) -> impl Iterator<Item = &Fd> {
        let Crowd { ready, all } = self.crowd;
        let first = self.next;
        self.next = (first + 1) % all;
        let numbers = (0..ready).map(move |at| (first + at * all / ready) % all);
        for number in numbers.clone() {
            let written = self.eventfds[number].write(1);
            written.expect("an eventfd takes a one");
        }
        numbers.map(|number| &self.fds[number])
    }

    /// A side that writes, and has `dispatch` wait for so many descriptors and empty them.
    ///
    /// What counts is the thread's processor time, without that of the same writes and reads by
    /// themselves: nothing here ever waits, and a difference does not bear what others do to the clock.
    fn side<'a>(mut self, name: &'static str, mut dispatch: impl FnMut(usize) + 'a) -> Side<'a> {
        let mut bare = Self::new(self.crowd);
        Side::timed(name, move |rounds| {
            let start = thread_cpu_time();
            for _ in 0..rounds {
                let ready = self.write().count();
                dispatch(ready);
            }
            let middle = thread_cpu_time();
            for _ in 0..rounds {
                bare.write().for_each(take);
            }
            let bare = thread_cpu_time() - middle;
            // A clock may show nothing where there is next to nothing.
            (middle - start)
                .saturating_sub(bare)
                .max(Duration::from_nanos(1))
        })
    }
}
