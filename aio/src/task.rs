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

use crate::{
    inbox::Node,
    shared::{Local, Posted, Runnable, Shared, What},
};

type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;

/// Names a task: its place in the table, and the generation that tells it from earlier ones there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TaskKey {
    index: usize,
    generation: u64,
}

/// A task as wakers post it.
pub(crate) struct TaskPost {
    key: TaskKey,
    /// The home thread has the task in its run queue. That thread alone reads and writes it, so plain
    /// loads and stores do; wake-ups from other threads are counted by the node itself.
    queued: AtomicBool,
}

impl TaskPost {
    fn queue(&self, local: &mut Local) {
        if !self.queued.load(Ordering::Relaxed) {
            self.queued.store(true, Ordering::Relaxed);
            local.runnable.push_back(Runnable::Task(self.key));
        }
    }
}

/// The one bit of a task's node: it was woken.
pub(crate) const WOKEN: u32 = 1;

/// Puts a task that another thread has woken into the run queue. Home thread only.
pub(crate) fn queue(node: &Node<Posted>, local: &mut Local) {
    task_of(node).queue(local);
}

fn task_of(node: &Node<Posted>) -> &TaskPost {
    match &node.what.what {
        What::Task(task) => task,
        _ => unreachable!("a task's node is one of a task"),
    }
}

impl Wake for Node<Posted> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let (shared, task) = (&self.what.shared, task_of(self));
        let at_home = shared.at_home(|local| task.queue(local));
        if at_home.is_none() {
            shared.raise(self, WOKEN);
        }
    }
}

/// A task as its home thread keeps it.
pub(crate) struct LocalTask {
    /// Lent to whoever polls; a task is not polled from within itself.
    future: RefCell<LocalFuture>,
    waker: Waker,
    node: Arc<Node<Posted>>,
}

impl LocalTask {
    /// Polls the future once.
    pub(crate) fn poll(&self) -> Poll<()> {
        // From here on a wake-up queues the task again.
        task_of(&self.node).queued.store(false, Ordering::Relaxed);
        let mut future = self.future.borrow_mut();
        future.as_mut().poll(&mut Context::from_waker(&self.waker))
    }
}

struct Entry {
    generation: u64,
    task: Rc<LocalTask>,
}

/// The tasks of one context.
#[derive(Default)]
pub(crate) struct TaskTable {
    entries: Slab<Entry>,
    generation: u64,
}

impl TaskTable {
    /// Takes `future` in and queues it for its first poll.
    pub(crate) fn insert(&mut self, shared: &Arc<Shared>, future: LocalFuture) {
        self.generation += 1;
        let slot = self.entries.vacant_entry();
        let key = TaskKey {
            index: slot.key(),
            generation: self.generation,
        };
        let post = TaskPost {
            key,
            queued: AtomicBool::new(false),
        };
        shared.at_home(|local| post.queue(local));
        let node = Arc::new(Node::new(Posted {
            shared: shared.clone(),
            what: What::Task(post),
        }));
        let task = LocalTask {
            future: RefCell::new(future),
            waker: Waker::from(node.clone()),
            node,
        };
        slot.insert(Entry {
            generation: self.generation,
            task: Rc::new(task),
        });
    }

    /// A woken task; `None` if it is gone.
    pub(crate) fn get(&self, key: TaskKey) -> Option<Rc<LocalTask>> {
        let entry = self.entries.get(key.index)?;
        (entry.generation == key.generation).then(|| entry.task.clone())
    }

    /// Forgets a task whose future is done; the caller has it still, and drops it.
    pub(crate) fn remove(&mut self, key: TaskKey) {
        // Otherwise the context was closed from within the task.
        if self.get(key).is_some() {
            self.entries.remove(key.index);
        }
    }

    /// Takes every task out, for the caller to drop.
    pub(crate) fn take_all(&mut self) -> Vec<Rc<LocalTask>> {
        let entries = mem::take(&mut self.entries).into_iter();
        entries.map(|(_, entry)| entry.task).collect()
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

/// The result of a task of the same thread, once it has one; made by [`AioContext::spawn`](crate::AioContext::spawn).
///
/// It may be awaited in any task of the thread, another runtime's included. Dropping it detaches the
/// task, which runs on. It is never ready if the context is closed before the task has ended.
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
