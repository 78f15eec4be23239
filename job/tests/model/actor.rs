//! A job driver that plays any part and notes each call of a hook.

use std::{
    future::poll_fn,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Poll, Waker},
};

use aio::AioContext;
use job::{BoxFuture, CancelMode, JobContext, JobDriver, JobError, LocalBoxFuture};

use crate::{
    act::{Finish, Part, Slow, Spec, Veto, WORK},
    log::{Entry, Log},
};

/// How long a sleep takes.
const SLEEP_NS: u64 = 5_000_000;

/// The driver of the job in a place.
#[derive(Debug)]
pub(crate) struct Actor {
    place: usize,
    spec: Spec,
    log: Log,
    is_told: AtomicBool,
    is_ready: AtomicBool,
    /// The slow hook may return.
    is_let_go: AtomicBool,
    /// Who waits for the request in flight, or in a slow hook.
    waiters: Mutex<Vec<Waker>>,
}

impl Actor {
    pub(crate) fn new(place: usize, spec: Spec, log: Log) -> Self {
        Self {
            place,
            spec,
            log,
            is_told: AtomicBool::new(false),
            is_ready: AtomicBool::new(false),
            is_let_go: AtomicBool::new(false),
            waiters: Mutex::default(),
        }
    }

    pub(crate) fn place(&self) -> usize {
        self.place
    }

    /// Lets the body end; whoever calls wakes the job as well.
    pub(crate) fn tell(&self) {
        self.raise(&self.is_told);
    }

    /// Lets the slow hook return, at any time from now on.
    pub(crate) fn let_go(&self) {
        self.raise(&self.is_let_go);
    }

    fn raise(&self, flag: &AtomicBool) {
        flag.store(true, Ordering::SeqCst);
        let waiters = std::mem::take(&mut *self.waiters.lock().expect("nobody panics with it"));
        waiters.into_iter().for_each(Waker::wake);
    }

    /// Waits for a flag, and for nothing else.
    async fn raised(&self, flag: &AtomicBool) {
        poll_fn(|cx| {
            let mut waiters = self.waiters.lock().expect("nobody panics with it");
            if flag.load(Ordering::SeqCst) {
                return Poll::Ready(());
            }
            waiters.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    async fn linger(&self, hook: Slow) {
        if self.spec.slow == hook {
            self.raised(&self.is_let_go).await;
        }
    }

    fn is_told(&self) -> bool {
        self.is_told.load(Ordering::SeqCst)
    }

    fn note(&self, hook: &'static str) {
        self.log.add(Entry::Hook(self.place, hook));
    }

    async fn play(&self, job: &JobContext) -> Result<(), JobError> {
        self.note("run");
        job.progress().set_remaining(WORK);
        match self.spec.part {
            Part::EndWell | Part::Fail => {}
            Part::UntilTold | Part::FailWhenTold => self.until_told(job).await?,
            Part::Converge | Part::ConvergeAndFail => self.converge(job).await,
            Part::Sleep => sleep(job).await?,
            Part::Request | Part::BadRequest => {
                self.raised(&self.is_told).await;
                job.pause_point().await;
            }
            Part::RacedRequest => {
                let ended = job.or_cancelled(self.raised(&self.is_told)).await;
                ended.ok_or_else(JobError::cancelled)?;
                job.pause_point().await;
            }
        }
        match self.spec.part {
            Part::Fail | Part::FailWhenTold | Part::ConvergeAndFail | Part::BadRequest => {
                Err(JobError::failed("boom"))
            }
            Part::Request | Part::RacedRequest if job.is_cancelled() => Err(JobError::cancelled()),
            _ => {
                job.progress().work_done(WORK);
                Ok(())
            }
        }
    }

    async fn until_told(&self, job: &JobContext) -> Result<(), JobError> {
        while !self.is_told() {
            check(job)?;
            job.park().await;
        }
        Ok(())
    }

    async fn converge(&self, job: &JobContext) {
        job.become_ready();
        self.is_ready.store(true, Ordering::SeqCst);
        while !self.is_told() && !job.is_cancel_requested() {
            job.park().await;
        }
        self.is_ready.store(false, Ordering::SeqCst);
    }
}

fn check(job: &JobContext) -> Result<(), JobError> {
    if job.is_cancelled() {
        return Err(JobError::cancelled());
    }
    Ok(())
}

async fn sleep(job: &JobContext) -> Result<(), JobError> {
    let end_ns = job.now_ns() + SLEEP_NS;
    while let left_ns @ 1.. = end_ns.saturating_sub(job.now_ns()) {
        check(job)?;
        job.sleep_ns(left_ns).await;
    }
    Ok(())
}

impl JobDriver for Actor {
    fn kind(&self) -> &'static str {
        "part"
    }

    fn run<'a>(&'a self, job: &'a JobContext) -> BoxFuture<'a, Result<(), JobError>> {
        Box::pin(self.play(job))
    }

    fn pause(&self) -> BoxFuture<'_, ()> {
        self.note("pause");
        Box::pin(self.linger(Slow::Pause))
    }

    fn resume(&self) {
        self.note("resume");
    }

    fn user_resume(&self) {
        self.note("user_resume");
    }

    fn cancel(&self, mode: CancelMode) -> CancelMode {
        self.note(match mode {
            CancelMode::Soft => "cancel soft",
            CancelMode::Force => "cancel force",
        });
        match self.spec.veto {
            Veto::Always => CancelMode::Soft,
            Veto::WhileReady if self.is_ready.load(Ordering::SeqCst) => mode,
            Veto::WhileReady | Veto::Never => CancelMode::Force,
        }
    }

    fn can_complete(&self) -> bool {
        self.spec.finish != Finish::Lacks
    }

    fn complete(&self) -> Result<(), JobError> {
        self.note("complete");
        if self.spec.finish == Finish::Refuses {
            return Err(JobError::failed("not now"));
        }
        self.is_told.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn prepare<'a>(&'a self, _main: &'a AioContext) -> LocalBoxFuture<'a, Result<(), JobError>> {
        self.note("prepare");
        Box::pin(async {
            self.linger(Slow::Prepare).await;
            match self.spec.fails_late {
                true => Err(JobError::failed("late")),
                false => Ok(()),
            }
        })
    }

    fn commit<'a>(&'a self, _main: &'a AioContext) -> LocalBoxFuture<'a, ()> {
        self.note("commit");
        Box::pin(self.linger(Slow::End))
    }

    fn abort<'a>(&'a self, _main: &'a AioContext) -> LocalBoxFuture<'a, ()> {
        self.note("abort");
        Box::pin(self.linger(Slow::End))
    }

    fn clean<'a>(&'a self, _main: &'a AioContext) -> LocalBoxFuture<'a, ()> {
        self.note("clean");
        Box::pin(std::future::ready(()))
    }
}
