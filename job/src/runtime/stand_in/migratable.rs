//! Migratable tasks: futures that move between contexts, and are polled on one thread at a time.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Wake, Waker},
};

use super::{AioContext, Going, Handle, Runnable, switch_point};

pub(super) type SendFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A task that may be polled by several contexts, one after the other.
pub(super) struct Migratable {
    state: Mutex<State>,
}

struct State {
    home: Handle,
    /// Its name among the guests of its home.
    seat: u64,
    /// Absent while it is polled, and once it has ended.
    future: Option<SendFuture>,
    is_queued: bool,
    is_polled: bool,
}

/// Runs `future` as a task that begins on `home`. Any thread.
pub(super) fn spawn(home: &Handle, future: SendFuture) {
    let state = State {
        home: home.clone(),
        seat: 0,
        future: Some(future),
        is_queued: false,
        is_polled: false,
    };
    let state = Mutex::new(state);
    Arc::new(Migratable { state }).enter(home);
}

impl Migratable {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics under this lock")
    }

    /// Takes a seat at `home` and waits for its turn there; a closed home drops it.
    fn enter(self: Arc<Self>, home: &Handle) {
        let mut state = self.lock();
        state.home = home.clone();
        state.is_queued = true;
        let refused = home.shared.leave(self.clone(), |at_home, task| {
            at_home.last_key += 1;
            state.seat = at_home.last_key;
            at_home.guests.insert(state.seat, task.clone());
            at_home.runnable.push_back(Runnable::Migratable(task));
        });
        drop(state);
        if let Some(task) = refused {
            task.close();
        }
    }

    fn leave(&self) {
        let (home, seat) = {
            let state = self.lock();
            (state.home.clone(), state.seat)
        };
        home.shared.lock().guests.remove(&seat);
    }

    /// Polls it. On the thread of `context`, which took it out of its queue.
    pub(super) fn poll(self: Arc<Self>, context: &AioContext) {
        let mut state = self.lock();
        state.is_queued = false;
        let Some(mut future) = state.future.take() else {
            return;
        };
        assert!(!state.is_polled, "a task is polled on one thread at a time");
        assert!(state.home.is_same(context.handle()), "it is polled at home");
        state.is_polled = true;
        drop(state);

        let waker = Waker::from(self.clone());
        let going = &context.inner.going;
        let outer = going.replace(Some(Going::Nowhere));
        let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
        let target = going.replace(outer);

        // From here to the end nobody else runs.
        switch_point();
        let is_closed = context.handle().shared.lock().is_closed;
        let mut state = self.lock();
        state.is_polled = false;
        if polled.is_ready() || is_closed {
            drop(state);
            self.leave();
            drop(future);
            return;
        }
        state.future = Some(future);
        // It was woken while it was polled: it has its place in the queue already, at the old home.
        if let Some(Going::To(target)) = target {
            let was_queued = std::mem::take(&mut state.is_queued);
            drop(state);
            self.leave();
            if was_queued {
                self.unqueue(context);
            }
            self.enter(&target);
        }
    }

    /// Takes it out of the queue of `context`.
    fn unqueue(self: &Arc<Self>, context: &AioContext) {
        let is_this =
            |it: &Runnable| matches!(it, Runnable::Migratable(task) if Arc::ptr_eq(task, self));
        let mut state = context.handle().shared.lock();
        state.runnable.retain(|it| !is_this(it));
    }

    /// Drops its future, unless somebody polls it, who then does so.
    pub(super) fn close(&self) {
        let future = self.lock().future.take();
        drop(future);
    }
}

impl Wake for Migratable {
    fn wake(self: Arc<Self>) {
        switch_point();
        let mut state = self.lock();
        let has_ended = state.future.is_none() && !state.is_polled;
        if has_ended || std::mem::replace(&mut state.is_queued, true) {
            return;
        }
        let home = state.home.clone();
        // Under the lock of the task, so that it cannot move meanwhile.
        let refused = home.shared.leave(self.clone(), |at_home, task| {
            at_home.runnable.push_back(Runnable::Migratable(task));
        });
        drop(state);
        drop(refused);
    }
}

/// See `aio::reschedule_to`.
pub(crate) fn reschedule_to(target: &Handle) -> RescheduleTo<'_> {
    RescheduleTo { target }
}

pub(crate) struct RescheduleTo<'a> {
    target: &'a Handle,
}

impl Future for RescheduleTo<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<()> {
        let here = AioContext::current().expect("a task is polled by a context");
        if here.handle().is_same(self.target) {
            return Poll::Ready(());
        }
        let mut going = here.inner.going.borrow_mut();
        assert!(going.is_some(), "only a migratable task can be moved");
        *going = Some(Going::To(self.target.clone()));
        Poll::Pending
    }
}
