//! [`JobContext`]: what the body of a job sees of its job; pause points and interruptible sleep.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll},
};

use crate::{
    alarm::Alarm,
    callback::{self, Callback},
    event::JobEvent,
    job::Job,
    job_driver::JobDriver,
    moment::JobMoment,
    progress::ProgressMeter,
    record::{JobCell, Record, Until},
    runtime::{self, AioContext, Closed, Handle, Join, JoinHandle},
    state::{Looked, Wait},
    status::JobStatus,
};

/// What the body of a job sees of its job.
///
/// The waits here (`pause_point`, `sleep_ns`, `park`, `yield_now`) belong to the one future that
/// [`JobDriver::run`] returned: only one of them is awaited at a time. Others who work for the job
/// hold a [`Job`].
///
/// A job may be moved to another context while it stands at a pause point, and its body then goes on
/// there. So the body never holds a context across an await: what needs one, such as a request, it
/// has done [on the context](Self::on_context) where the job is.
pub struct JobContext {
    job: Job,
}

impl JobContext {
    pub(crate) fn new(job: Job) -> Self {
        Self { job }
    }

    /// The context that the body runs on, until its next wait.
    pub fn handle(&self) -> Handle {
        self.job.context()
    }

    /// Nanoseconds on the clock of that context.
    ///
    /// # Panics
    ///
    /// When it is not the body, or one of its tasks, that asks.
    pub fn now_ns(&self) -> u64 {
        here().now_ns()
    }

    /// A handle of the job, for those who work for it.
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// How far the job has come.
    pub fn progress(&self) -> &ProgressMeter {
        self.job.progress()
    }

    /// Whether the job was cancelled by force: the body should return soon, with any result.
    pub fn is_cancelled(&self) -> bool {
        self.job.is_cancelled()
    }

    /// Whether any cancel came, also a soft one that asks a ready job to finish as it is.
    pub fn is_cancel_requested(&self) -> bool {
        self.job.is_cancel_requested()
    }

    /// The body has converged: the job becomes ready, and `complete` is accepted from now on.
    ///
    /// # Panics
    ///
    /// When the job is ready already, which is our own bug.
    pub fn become_ready(&self) {
        let key = self.job.cell.key;
        self.job.shared.update(|state| {
            state.move_to(key, JobStatus::Ready);
            state.emit(key, JobEvent::Ready);
            state.note_moment(key, JobMoment::Ready);
        });
    }

    /// Runs a task on the job's context: `start` is called there, and what it returns stays there.
    ///
    /// The task does not move with the job, so [`JobDriver::pause`] must not end before it does.
    /// Dropping the returned handle detaches the task. Closing the context drops it.
    pub fn spawn<F, Fut, T>(&self, start: F) -> JoinHandle<T>
    where
        F: FnOnce(AioContext) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        self.spawn_on(&self.handle(), start)
    }

    /// The same on any context, for a job that works on several.
    pub fn spawn_on<F, Fut, T>(&self, context: &Handle, start: F) -> JoinHandle<T>
    where
        F: FnOnce(AioContext) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let current = self.job.cell.current(Callback::Run);
        context.spawn(move |context| {
            let task = callback::named(current.clone(), || start(context));
            callback::named_future(current, task)
        })
    }

    /// Runs a task on the job's context and waits for the result. The job is busy meanwhile.
    ///
    /// Dropping the future drops the task, soon, on its own thread. If the context is closed first,
    /// this never ends, since the body is dropped as well.
    pub async fn on_context<F, Fut, T>(&self, start: F) -> T
    where
        F: FnOnce(AioContext) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let mut task = OwnTask(self.spawn(start).join());
        match poll_fn(|cx| Pin::new(&mut task.0).poll(cx)).await {
            Ok(result) => result,
            Err(Closed) => std::future::pending().await,
        }
    }

    /// Runs `call`, which may block, on a worker thread of the context. The job is busy meanwhile.
    ///
    /// Dropping the future does not stop a call that has begun.
    pub async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let current = self.job.cell.current(Callback::Run);
        let call = || callback::named(current, call);
        self.on_context(|cx| async move { cx.blocking(call).await })
            .await
    }

    /// Waits for `future`, but only until the job is cancelled by force: drops it then, and is `None`.
    ///
    /// For requests that may never return. Dropping their futures is safe: what the kernel works on
    /// stays its own until it is done.
    pub async fn or_cancelled<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if self.look(|record| record.poll_cancelled(cx.waker())) {
                return Poll::Ready(None);
            }
            future.as_mut().poll(cx).map(Some)
        })
        .await
    }

    /// Stays here while anybody wants the job to pause; returns at once if nobody does, or if the
    /// job is cancelled by force. A pause that comes while one ends is for the next pause point.
    ///
    /// The job driver's `pause` hook ends all requests first, so a job that stands here has none in
    /// flight. If the job is moved to another context meanwhile, this returns there.
    pub async fn pause_point(&self) {
        if self.look(|record| record.wants_pause()) {
            let cell = &*self.job.cell;
            // Called before the cancel is looked for: there is a pause for each resume.
            let pause = cell.call_async(Callback::Pause, JobDriver::pause);
            let _resume = Resume(cell);
            self.or_cancelled(pause).await;
            self.wait(Until::Resumed, None).await;
        }
    }

    /// Sleeps for `ns` nanoseconds of the context's clock, then passes a pause point.
    ///
    /// A pause, a cancel and [`Job::wake`] end the sleep early, also one that came since the last
    /// sleep: who needs the whole delay computes again how much is left, and loops. Returns at once
    /// if the job is cancelled by force. Zero is [`Self::yield_now`].
    pub async fn sleep_ns(&self, ns: u64) {
        if ns == 0 {
            return self.yield_now().await;
        }
        if !self.is_cancelled() {
            let deadline_ns = self.now_ns().saturating_add(ns);
            self.wait(Until::Woken, Some(deadline_ns)).await;
            self.pause_point().await;
        }
    }

    /// Waits for [`Job::wake`], a pause or a cancel, then passes a pause point.
    ///
    /// A wake-up that came since the last wait counts, so none is lost between a check and the wait.
    /// May end for no reason. Returns at once if the job is cancelled by force.
    pub async fn park(&self) {
        if !self.is_cancelled() {
            self.wait(Until::Woken, None).await;
            self.pause_point().await;
        }
    }

    /// Lets everything else on the context run once, then passes a pause point.
    ///
    /// Returns at once if the job is cancelled by force.
    pub async fn yield_now(&self) {
        if !self.is_cancelled() {
            let yielded = here().yield_now();
            yielded.await;
            self.pause_point().await;
        }
    }

    /// Waits until the job's state or the deadline ends the wait; the job is not busy meanwhile.
    ///
    /// Goes to the job's context first, if that has changed.
    async fn wait(&self, until: Until, deadline_ns: Option<u64>) {
        let Job { shared, cell } = &self.job;
        let _busy_again = BusyAgain(&self.job);
        let mut alarm = None;
        poll_fn(|cx| {
            let context = here();
            let wait = Wait {
                until,
                here: context.handle(),
                is_time_up: alarm.as_ref().is_some_and(Alarm::has_rung),
            };
            match shared.update(|state| state.poll_wait(cell.key, &wait, cx.waker())) {
                Looked::Over => return Poll::Ready(()),
                Looked::Stay => {
                    let set = |deadline_ns| Alarm::set(&self.job, &context, deadline_ns);
                    alarm = alarm.take().or_else(|| deadline_ns.map(set));
                }
                // Only a body that stands is sent away, and no alarm is set for such a wait.
                Looked::Leave(target) => return leave_for(&target, cx),
            }
            Poll::Pending
        })
        .await;
    }

    fn look<R>(&self, look: impl FnOnce(&mut Record) -> R) -> R {
        let key = self.job.cell.key;
        self.job.shared.update(|state| look(state.record(key)))
    }
}

impl fmt::Debug for JobContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobContext")
            .field("job", &self.job)
            .finish_non_exhaustive()
    }
}

/// The context that polls the body. Not to be kept: the body may be on another one next time.
fn here() -> AioContext {
    AioContext::current().expect("the body of a job is polled by a context")
}

/// Has the body be polled on `target` next.
fn leave_for(target: &Handle, cx: &mut Context<'_>) -> Poll<()> {
    Pin::new(&mut runtime::reschedule_to(target)).poll(cx)
}

/// A task that nobody else waits for; goes when this is dropped.
struct OwnTask<T>(Join<T>);

impl<T> Drop for OwnTask<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Tells the job driver that a pause is over, however it ended.
struct Resume<'a>(&'a JobCell);

impl Drop for Resume<'_> {
    fn drop(&mut self) {
        self.0.call(Callback::Resume, JobDriver::resume);
    }
}

/// Makes a body that waited busy again when the waiting future was dropped.
struct BusyAgain<'a>(&'a Job);

impl Drop for BusyAgain<'_> {
    fn drop(&mut self) {
        let key = self.0.cell.key;
        self.0.shared.update(|state| state.abandon_wait(key));
    }
}
