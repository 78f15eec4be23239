//! Our event loop as measurements use it.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    ops::Deref,
    rc::Rc,
};

use aio::{AioContext, BackendKind, Config, Fd, IoBuf};

use crate::{
    race::Side,
    scratch::{BLOCK_BYTES, RandomBlocks, Scratch},
    tell::skipped,
};

/// A context that closes itself when it is dropped.
#[derive(Debug)]
pub struct Loop(AioContext);

impl Loop {
    /// A context as `config` says, or `None`, with a line that tells why, where it cannot be had.
    #[must_use]
    pub fn with(config: Config) -> Option<Self> {
        let context = AioContext::new(config).inspect_err(|error| skipped(error));
        context.ok().map(Self)
    }

    /// A context with the given backend; see [`Loop::with`].
    #[must_use]
    pub fn on(backend: BackendKind) -> Option<Self> {
        Self::with(Config {
            backend: Some(backend),
            ..Config::default()
        })
    }

    /// A context with the best backend there is; see [`Loop::with`].
    #[must_use]
    pub fn best() -> Option<Self> {
        Self::with(Config::default())
    }
}

impl Deref for Loop {
    type Target = AioContext;

    fn deref(&self) -> &AioContext {
        &self.0
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.0.clone().close();
    }
}

/// Requests that [`random_reads`] keeps in flight.
pub const DEPTH: u32 = 64;

/// A side that reads random blocks of `scratch`, [`DEPTH`] at a time and `units` in a round.
///
/// `read` reads one block at the offset it is given, and gives the buffer back.
pub fn random_reads<'a, F, R>(
    name: &'static str,
    context: &'a Loop,
    scratch: &Scratch,
    units: u64,
    read: R,
) -> Side<'a>
where
    F: Future<Output = IoBuf> + 'static,
    R: Fn(AioContext, u64, IoBuf) -> F + Clone + 'static,
{
    let work = Rc::new(Work {
        left: Cell::new(0),
        blocks: RefCell::new(scratch.blocks()),
    });
    Side::new(name, move |rounds| {
        work.left.set(rounds * units);
        context.block_on(async {
            let spawn =
                |_| context.spawn(read_often((*context).clone(), work.clone(), read.clone()));
            let tasks: Vec<_> = (0..DEPTH).map(spawn).collect();
            for task in tasks {
                task.await;
            }
        });
    })
}

/// A side that reads random blocks of `scratch` as [`random_reads`] does, by the loop's own reads and nothing else.
///
/// The file is registered, as that of the bare ring is.
///
/// # Panics
///
/// When the scratch file cannot be opened or read.
pub fn direct_reads<'a>(
    name: &'static str,
    context: &'a Loop,
    scratch: &Scratch,
    units: u64,
) -> Side<'a> {
    let file = Fd::from(scratch.open().expect("a scratch file opens"));
    let registered = context.register_file(&file);
    let work = Rc::new(Work {
        left: Cell::new(0),
        blocks: RefCell::new(scratch.blocks()),
    });
    Side::new(name, move |rounds| {
        // The file is registered for as long as this closure lives.
        let _kept = &registered;
        work.left.set(rounds * units);
        context.block_on(async {
            let read = |_| {
                context.spawn(read_directly(
                    (*context).clone(),
                    file.clone(),
                    work.clone(),
                ))
            };
            let tasks: Vec<_> = (0..DEPTH).map(read).collect();
            for task in tasks {
                task.await;
            }
        });
    })
}

async fn read_directly(context: AioContext, file: Fd, work: Rc<Work>) {
    let mut buf = context.buffers().acquire(BLOCK_BYTES).await;
    while let Some(offset_bytes) = work.next_offset() {
        let (back, count) = context.read(&file, offset_bytes, buf).await;
        assert_eq!(count.ok(), Some(BLOCK_BYTES), "a scratch file can be read");
        buf = back;
    }
}

/// Reads of one call that are still to be made.
struct Work {
    left: Cell<u64>,
    blocks: RefCell<RandomBlocks>,
}

impl Work {
    fn next_offset(&self) -> Option<u64> {
        self.left.set(self.left.get().checked_sub(1)?);
        Some(self.blocks.borrow_mut().next_offset())
    }
}

async fn read_often<F>(
    context: AioContext,
    work: Rc<Work>,
    read: impl Fn(AioContext, u64, IoBuf) -> F,
) where
    F: Future<Output = IoBuf>,
{
    let mut buf = context.buffers().acquire(BLOCK_BYTES).await;
    while let Some(offset_bytes) = work.next_offset() {
        buf = read(context.clone(), offset_bytes, buf).await;
    }
}
