//! Signals as events: one thread waits for them, the commands read a channel.
//!
//! They are blocked before any other thread starts, so no signal ever interrupts a request.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};

use super::{
    exit::{Exit, Failure},
    output::Output,
};

/// After the first SIGINT or SIGTERM a command has this long to end by itself.
pub(crate) const STOP_TIME_MAX: Duration = Duration::from_millis(4_500);

/// What a command waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The first SIGINT or SIGTERM, as the exit code that it leads to. The second ends the process.
    Stop(Exit),
    /// SIGUSR1: say once how far it is.
    Tell,
    /// What the command itself was waiting for has happened.
    Done,
}

/// The events of one command.
#[derive(Debug)]
pub(crate) struct Events {
    sender: Sender<Event>,
    receiver: Receiver<Event>,
}

/// The signals that are waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocked(SigSet);

impl Blocked {
    /// Blocks the signals on this thread and on all that it starts. Before anything else.
    pub(crate) fn new() -> io::Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGUSR1] {
            set.add(signal);
        }
        set.thread_block()?;
        Ok(Self(set))
    }

    /// Blocks one more.
    pub(crate) fn and(mut self, signal: Signal) -> io::Result<Self> {
        self.0.add(signal);
        self.0.thread_block()?;
        Ok(self)
    }

    /// A descriptor that is readable once a signal has come.
    pub(crate) fn into_descriptor(mut self) -> io::Result<OwnedFd> {
        // It stands for a question that nobody asks here.
        self.0.remove(Signal::SIGUSR1);
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(SignalFd::with_flags(&self.0, flags)?.into())
    }

    /// Starts the thread that waits for the signals.
    pub(crate) fn listen(self, output: &Arc<Output>) -> Result<Events, Failure> {
        let (sender, receiver) = mpsc::channel();
        let (events, output) = (sender.clone(), Arc::clone(output));
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || wait_for_signals(self.0, &events, &output))
            .map_err(|error| Failure::io("cannot start a thread", &error))?;
        Ok(Events { sender, receiver })
    }
}

fn wait_for_signals(set: SigSet, events: &Sender<Event>, output: &Output) {
    let mut is_stopping = false;
    while let Ok(signal) = set.wait() {
        let event = match signal {
            Signal::SIGINT => Event::Stop(Exit::Interrupted),
            Signal::SIGTERM => Event::Stop(Exit::Terminated),
            _ => Event::Tell,
        };
        match event {
            Event::Stop(exit) if is_stopping => {
                let text = "stopped at once, and what was begun is left as it is";
                output.end(&Failure::new(exit, text));
            }
            Event::Stop(_) => is_stopping = true,
            Event::Tell | Event::Done => {}
        }
        // A command that has ended listens no more.
        let _ = events.send(event);
    }
}

impl Events {
    /// Runs `wait` on a thread of its own, which sends [`Event::Done`] when it returns.
    pub(crate) fn tell_when<T: Send + 'static>(
        &self,
        wait: impl FnOnce() -> T + Send + 'static,
    ) -> Result<thread::JoinHandle<T>, Failure> {
        let sender = self.sender.clone();
        let run = move || {
            let value = wait();
            // A command that has ended listens no more.
            let _ = sender.send(Event::Done);
            value
        };
        thread::Builder::new()
            .name("waiter".to_owned())
            .spawn(run)
            .map_err(|error| Failure::io("cannot start a thread", &error))
    }

    /// The next event, or `None` when `time` has passed without one.
    pub(crate) fn next(&self, time: Duration) -> Option<Event> {
        self.receiver.recv_timeout(time).ok()
    }

    /// Waits for at most `time`; an early end means that a signal wants the command to stop.
    pub(crate) fn sleep(&self, time: Duration) -> Result<(), Exit> {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.next(left) {
                Some(Event::Stop(exit)) => return Err(exit),
                Some(Event::Tell | Event::Done) => {}
                None => return Ok(()),
            }
        }
    }

    /// Whether a signal has come that wants the command to stop; takes what else has come.
    pub(crate) fn stop_wanted(&self) -> Option<Exit> {
        self.sleep(Duration::ZERO).err()
    }
}
