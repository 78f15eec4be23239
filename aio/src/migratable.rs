//! Migratable tasks: futures that move between contexts, and are polled on one thread at a time.
//!
//! A migratable task belongs to the context that polled it last, or that it is on its way to. There
//! it has a seat among the *guests* of that context, so that closing the context drops it. Its waker
//! queues it there, from any thread; [`custody`] sees to it that this happens once, and that a task
//! that moves is queued at its target only when it has yielded.

mod custody;

use std::{
    cell::RefCell,
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

use slab::Slab;

use crate::{
    context::AioContext,
    handle::Handle,
    shared::{Runnable, Shared},
};
use custody::Custody;

/// A task that may be polled by several contexts, one after the other.
struct Migratable {
    custody: Custody<Arc<Shared>, Work>,
}

/// What is polled.
struct Work {
    future: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Its seat among the guests of its home, once it has been polled there.
    seat: Option<usize>,
}

impl Wake for Migratable {
    fn wake(self: Arc<Self>) {
        if let Some(home) = self.custody.wake() {
            DueTask(Some(self)).queue(&home);
        }
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(home) = self.custody.wake() {
            DueTask(Some(self.clone())).queue(&home);
        }
    }
}

/// A migratable task that is to be polled: there is one of these at a time, in one queue.
///
/// Dropping it, as a closed context does, drops the task's future.
pub(crate) struct DueTask(Option<Arc<Migratable>>);

/// Runs `future` as a migratable task that begins on the context of `home`. Any thread.
pub(crate) fn spawn(home: &Arc<Shared>, future: impl Future<Output = ()> + Send + 'static) {
    let work = Work {
        future: Box::pin(future),
        seat: None,
    };
    let custody = Custody::new(home.clone(), work);
    DueTask(Some(Arc::new(Migratable { custody }))).queue(home);
}

impl DueTask {
    /// Has it polled on `home`, which is its home. Any thread.
    fn queue(self, home: &Shared) {
        if !home.is_home() {
            home.post_migrant(self);
        } else if !home.is_closed() {
            let due = Runnable::Migratable(self);
            home.at_home(|local| local.runnable.push_back(due));
        }
    }

    /// Polls it. On the home thread of `context`, which took it out of its queue.
    pub(crate) fn run(mut self, context: &AioContext) {
        let task = self.0.take().expect("only its end takes it");
        let (guests, here) = (context.guests(), context.inner().shared());
        let mut work = task.custody.begin();
        let seat = work.seat.unwrap_or_else(|| guests.enter(task.clone()));
        work.seat = Some(seat);

        let waker = Waker::from(task.clone());
        let outer = guests.going.replace(Some(Going::Nowhere));
        let polled = work.future.as_mut().poll(&mut Context::from_waker(&waker));
        let going = guests.going.replace(outer);

        if let (Poll::Pending, Some(Going::To(target))) = (polled, going) {
            guests.leave(seat);
            work.seat = None;
            task.custody.move_to(target.clone(), work);
            // Not before it has yielded: from here on the target may poll it.
            Self(Some(task)).queue(&target);
        } else if polled.is_pending() && !here.is_closed() {
            if task.custody.put_back(work) {
                Self(Some(task)).queue(here);
            }
        } else {
            guests.leave(seat);
            task.custody.end();
            drop(work);
        }
    }
}

impl Drop for DueTask {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            let work = task.custody.begin();
            task.custody.end();
            drop(work);
        }
    }
}

/// Where the task that is being polled goes when it yields.
enum Going {
    Nowhere,
    To(Arc<Shared>),
}

/// The migratable tasks of one context: those that it polled last. Home thread only.
#[derive(Default)]
pub(crate) struct Guests {
    seats: RefCell<Slab<Arc<Migratable>>>,
    /// Absent unless a migratable task is being polled.
    going: RefCell<Option<Going>>,
}

impl Guests {
    fn enter(&self, task: Arc<Migratable>) -> usize {
        self.seats.borrow_mut().insert(task)
    }

    fn leave(&self, seat: usize) {
        // All seats are gone if the task has closed the context that polls it.
        let task = self.seats.borrow_mut().try_remove(seat);
        drop(task);
    }

    /// Tasks that have not ended.
    pub(crate) fn len(&self) -> usize {
        self.seats.borrow().len()
    }

    /// Drops the tasks that wait for something. Those that are due are dropped with their queues.
    pub(crate) fn close(&self) {
        let seats = mem::take(&mut *self.seats.borrow_mut());
        for (_, task) in seats {
            let work = task.custody.begin_if_idle();
            if work.is_some() {
                task.custody.end();
            }
            drop(work);
        }
    }
}

impl fmt::Debug for Guests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guests")
            .field("tasks", &self.len())
            .finish_non_exhaustive()
    }
}

/// Moves the calling [migratable task](Handle::spawn_migratable) to the context of `target`.
///
/// Nothing happens if it is there already. Otherwise the task yields, and what follows the `.await`
/// runs on the home thread of `target`. If that context is closed, or is closed before the task has
/// its turn there, the task is dropped.
///
/// ```
/// # let threads = ["one", "two"].map(|name| {
/// #     let name = name.to_owned();
/// #     aio::IoThread::start(aio::Config { name, ..Default::default() }).unwrap()
/// # });
/// # let [one, two] = [threads[0].handle().clone(), threads[1].handle().clone()];
/// let target = two.clone();
/// let task = one.spawn_migratable(async move {
///     aio::reschedule_to(&target).await;
///     aio::AioContext::current().map(|context| context.handle().name().to_owned())
/// });
/// assert_eq!(task.wait().as_deref(), Some("two"));
/// ```
///
/// # Panics
///
/// When it is polled by anything but a migratable task, unless that is there already.
pub fn reschedule_to(target: &Handle) -> RescheduleTo<'_> {
    RescheduleTo { target }
}

/// Moves a task; see [`reschedule_to`].
///
/// Dropping it does not take a move back that has begun.
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct RescheduleTo<'a> {
    target: &'a Handle,
}

impl Future for RescheduleTo<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let here = AioContext::current();
        if let Some(here) = &here
            && here.handle().is_same(self.target)
        {
            return Poll::Ready(());
        }
        let is_going = here.is_some_and(|here| {
            let mut going = here.guests().going.borrow_mut();
            let is_migratable = going.is_some();
            if is_migratable {
                *going = Some(Going::To(self.target.shared().clone()));
            }
            is_migratable
        });
        assert!(is_going, "only a migratable task can be moved");
        // For those that poll only what was woken, such as sets of futures within one task.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
