//! Local tasks: futures that a context runs on its home thread.

use std::{
    cell::RefCell,
    fmt,
    future::Future,
    mem,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use slab::Slab;

use crate::handle::{Post, Shared};

type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;

/// Names a task: its place in the table, and the generation that tells it from earlier ones there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TaskKey {
    index: usize,
    generation: u64,
}

/// Wakes one task, from any thread.
struct TaskWaker {
    shared: Arc<Shared>,
    key: TaskKey,
    /// The task is in the inbox or the run queue already.
    queued: AtomicBool,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.shared.post(Post::Task(self.key));
        }
    }
}

struct Entry {
    generation: u64,
    /// Absent while the task is being polled.
    future: Option<LocalFuture>,
    /// A nested turn of the loop found the task woken while it was being polled further out.
    missed: bool,
    waker: Arc<TaskWaker>,
}

/// The tasks of one context.
#[derive(Default)]
pub(crate) struct TaskTable {
    entries: Slab<Entry>,
    generation: u64,
}

impl TaskTable {
    /// Takes `future` in; the caller queues the returned key for its first poll.
    pub(crate) fn insert(&mut self, shared: &Arc<Shared>, future: LocalFuture) -> TaskKey {
        self.generation += 1;
        let slot = self.entries.vacant_entry();
        let key = TaskKey {
            index: slot.key(),
            generation: self.generation,
        };
        let waker = Arc::new(TaskWaker {
            shared: shared.clone(),
            key,
            queued: AtomicBool::new(true),
        });
        slot.insert(Entry {
            generation: self.generation,
            future: Some(future),
            missed: false,
            waker,
        });
        key
    }

    /// Takes the future of a woken task out to be polled; `None` if the task is gone, or being polled further out.
    pub(crate) fn take(&mut self, key: TaskKey) -> Option<(LocalFuture, Waker)> {
        let entry = self
            .entries
            .get_mut(key.index)
            .filter(|entry| entry.generation == key.generation)?;
        // From here on a wake-up queues the task again.
        entry.waker.queued.store(false, Ordering::Release);
        let Some(future) = entry.future.take() else {
            entry.missed = true;
            return None;
        };
        Some((future, Waker::from(entry.waker.clone())))
    }

    /// Puts a future that is not ready back; returns its waker if it was woken unseen meanwhile.
    pub(crate) fn put_back(&mut self, key: TaskKey, future: LocalFuture) -> Option<Waker> {
        let entry = self
            .entries
            .get_mut(key.index)
            .filter(|entry| entry.generation == key.generation);
        let entry = entry.expect("a task that is being polled keeps its slot");
        entry.future = Some(future);
        mem::take(&mut entry.missed).then(|| Waker::from(entry.waker.clone()))
    }

    /// Forgets a task whose future is done.
    pub(crate) fn remove(&mut self, key: TaskKey) {
        self.entries.remove(key.index);
    }

    /// Takes every future out, for the caller to drop.
    pub(crate) fn take_all(&mut self) -> Vec<LocalFuture> {
        mem::take(&mut self.entries)
            .into_iter()
            .filter_map(|(_, entry)| entry.future)
            .collect()
    }

    /// Tasks that have not ended.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

impl fmt::Debug for TaskTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskTable")
            .field("tasks", &self.entries.len())
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
enum JoinState<T> {
    Running(Option<Waker>),
    Done(T),
    Taken,
}

/// The result of a task on the same context, once it has one.
///
/// Dropping it detaches the task, which runs on.
pub struct Task<T> {
    state: Rc<RefCell<JoinState<T>>>,
}

/// Wraps `future` so that its result reaches the returned [`Task`].
pub(crate) fn joinable<T: 'static>(
    future: impl Future<Output = T> + 'static,
) -> (LocalFuture, Task<T>) {
    let state = Rc::new(RefCell::new(JoinState::Running(None)));
    let task = Task {
        state: state.clone(),
    };
    let run = async move {
        let value = future.await;
        let before = state.replace(JoinState::Done(value));
        if let JoinState::Running(Some(waker)) = before {
            waker.wake();
        }
    };
    (Box::pin(run), task)
}

impl<T> Task<T> {
    /// Whether the task has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        !matches!(*self.state.borrow(), JoinState::Running(_))
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut state = self.state.borrow_mut();
        match mem::replace(&mut *state, JoinState::Taken) {
            JoinState::Done(value) => Poll::Ready(value),
            JoinState::Running(_) => {
                *state = JoinState::Running(Some(cx.waker().clone()));
                Poll::Pending
            }
            JoinState::Taken => unreachable!("a task is not polled after it was ready"),
        }
    }
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("finished", &self.is_finished())
            .finish()
    }
}
