//! A context in a bare epoll loop, by its parts: `cargo run -p aio --example embed_epoll`.
//!
//! This is what a loop looks like that asks each of its sources how long it may sleep: it prepares
//! the context before it sleeps, and checks it afterwards. Loops that only watch descriptors take
//! `foreign_source` instead, as the examples for mio and tokio do.

#![expect(clippy::print_stdout, reason = "an example shows what it did")]

use std::{
    cell::{Cell, RefCell},
    error::Error,
    io::{self, Read, Write},
    os::{
        fd::OwnedFd,
        unix::{fs::FileExt, net::UnixStream},
    },
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use aio::{AioContext, Config, Fd, FdCallbacks, Handle, TimerClock};
use nix::{
    errno::Errno,
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};

const BLOCK_BYTES: usize = 4096;
const BLOCKS: u8 = 100;

/// What the epoll says of a descriptor: whose it is.
const CONTEXT: u64 = 0;
const COMMANDS: u64 = 1;

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let cx = AioContext::new(Config::default())?;
    let (commands, mut operator) = UnixStream::pair()?;
    let the_loop = Loop::new(&cx, commands)?;
    println!("backend: {}", cx.describe());

    // No timer is armed and no command comes: only the posts themselves end the loop's sleep.
    let posts = the_loop.run_beside(|handle| {
        let post = |number| handle.call(move |_| number).wait();
        (0..500).filter(|&number| post(number) == number).count()
    })?;
    println!("{posts} posts of another thread");

    let right_bytes = read_a_file(&the_loop)?;
    println!("{right_bytes} bytes read and checked");

    let ticks = Rc::new(Cell::new(0));
    let count = ticks.clone();
    let timer = cx.timer("tick", TimerClock::Loop, move |_| {
        count.set(count.get() + 1);
    });
    for tick in 1..=10 {
        timer.arm_at_ns(cx.now_ns() + 300_000);
        the_loop.run_until(|| ticks.get() == tick)?;
    }
    println!("{} ticks of a timer of the context's", ticks.get());

    let lines = echo(&the_loop)?;
    println!("{lines} lines sent back by a handler");

    operator.write_all(b"stop")?;
    the_loop.run_until(|| the_loop.seen.borrow().ends_with(b"stop"))?;
    let turns = the_loop.turns.get();
    println!("a command on the loop's own socket, after {turns} turns");
    drop((timer, the_loop));
    cx.close();
    Ok(())
}

/// The loop, which is not ours: one epoll for the context and for what else the program does.
struct Loop {
    cx: AioContext,
    epoll: Epoll,
    /// A duplicate of the context's: it is watched until this is dropped.
    _context_fd: OwnedFd,
    commands: UnixStream,
    seen: RefCell<Vec<u8>>,
    turns: Cell<u64>,
}

impl Loop {
    fn new(cx: &AioContext, commands: UnixStream) -> io::Result<Self> {
        let context_fd = cx.foreign_fd()?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&context_fd, EpollEvent::new(EpollFlags::EPOLLIN, CONTEXT))?;
        epoll.add(&commands, EpollEvent::new(EpollFlags::EPOLLIN, COMMANDS))?;
        Ok(Self {
            cx: cx.clone(),
            epoll,
            _context_fd: context_fd,
            commands,
            seen: RefCell::default(),
            turns: Cell::new(0),
        })
    }

    fn turn(&self) -> io::Result<()> {
        self.turns.set(self.turns.get() + 1);
        // A loop with more sources takes the least of what all of them say.
        let timeout = as_timeout(self.cx.prepare());
        let mut events = [EpollEvent::empty(); 8];
        let count = match self.epoll.wait(&mut events, timeout) {
            Err(Errno::EINTR) => 0,
            count => count?,
        };
        // Whether its descriptor is among them or not: perhaps the time of a timer has come. This
        // also makes the descriptor unreadable again; nobody reads from it.
        if self.cx.check() {
            self.cx.dispatch();
        }
        if events[..count].iter().any(|event| event.data() == COMMANDS) {
            let mut command = [0; 64];
            let count = (&self.commands).read(&mut command)?;
            self.seen.borrow_mut().extend_from_slice(&command[..count]);
        }
        Ok(())
    }

    fn run_until(&self, mut done: impl FnMut() -> bool) -> io::Result<()> {
        while !done() {
            self.turn()?;
        }
        Ok(())
    }

    /// Runs the loop while `work` runs on a thread of its own; returns its result.
    fn run_beside<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Handle) -> T + Send + 'static,
    ) -> io::Result<T> {
        let (handle, done) = (self.cx.handle().clone(), Arc::new(AtomicBool::new(false)));
        let is_done = done.clone();
        let thread = thread::spawn(move || {
            let result = work(&handle);
            // Not from here: the loop looks at it after a turn, and this makes one.
            handle.schedule(move |_| done.store(true, Ordering::Relaxed));
            result
        });
        self.run_until(|| is_done.load(Ordering::Relaxed))?;
        Ok(thread.join().expect("the other thread has not panicked"))
    }
}

/// A timeout in milliseconds, rounded up: rounded down, the loop would spin through the last one.
fn as_timeout(ns: Option<u64>) -> EpollTimeout {
    let Some(ns) = ns else {
        return EpollTimeout::NONE;
    };
    let ms = ns.div_ceil(1_000_000);
    EpollTimeout::try_from(ms).unwrap_or(EpollTimeout::MAX)
}

/// Has tasks read a file, all its blocks at once; returns how many bytes were as they should be.
fn read_a_file(the_loop: &Loop) -> io::Result<usize> {
    let file = tempfile::tempfile()?;
    for block in 0..BLOCKS {
        file.write_all_at(&[block; BLOCK_BYTES], offset_bytes(block))?;
    }
    let (cx, file) = (&the_loop.cx, Fd::from(file));
    let read = |block| {
        let (cx, file) = (cx.clone(), file.clone());
        async move {
            let buf = cx.buffers().acquire(BLOCK_BYTES).await;
            let (buf, read) = cx.read_exact(&file, offset_bytes(block), buf).await;
            read.map(|()| buf.iter().filter(|&&byte| byte == block).count())
        }
    };
    let tasks: Vec<_> = (0..BLOCKS).map(|block| cx.spawn(read(block))).collect();
    the_loop.run_until(|| tasks.iter().all(aio::Task::is_finished))?;
    // They are finished, so this does not turn the context.
    let results = tasks.into_iter().map(|task| cx.block_on(task));
    results.sum()
}

fn offset_bytes(block: u8) -> u64 {
    u64::from(block) * BLOCK_BYTES as u64
}

/// A handler that sends back what comes; returns how many lines a client got back.
fn echo(the_loop: &Loop) -> io::Result<usize> {
    let (ours, mut theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let watched = Fd::from(ours.try_clone()?);
    let callbacks = FdCallbacks::new("echo").on_readable(move |_| {
        let mut line = [0; 64];
        // It is called again for as long as something is left, so one read is enough.
        if let Ok(count) = (&ours).read(&mut line) {
            let sent = (&ours).write_all(&line[..count]);
            sent.expect("there is room: the client waits for each answer");
        }
    });
    let handler = the_loop.cx.add_fd_handler(&watched, callbacks)?;
    let came_back = the_loop.run_beside(move |_| -> io::Result<usize> {
        let mut came_back = 0;
        for number in 0..100 {
            let line = format!("line {number:>4}");
            theirs.write_all(line.as_bytes())?;
            let mut back = vec![0; line.len()];
            theirs.read_exact(&mut back)?;
            came_back += usize::from(back == line.as_bytes());
        }
        Ok(came_back)
    })??;
    drop(handler);
    Ok(came_back)
}
