//! A panic in a callback ends the process, and says in which one of which job.
//!
//! Each test runs this program again as a child that plays the bug.

#![expect(clippy::unwrap_used, reason = "in a test, an error is a failure")]

use std::{
    env,
    os::unix::process::ExitStatusExt,
    process::{Command, Stdio},
    sync::Arc,
};

use aio::{AioContext, Config, IoThread};
use job::{
    BoxFuture, CancelMode, JobConfig, JobContext, JobDriver, JobError, JobMoment, JobRegistry,
    LocalBoxFuture, current_callback,
};

/// What this program is when it runs itself: where the bug is, and what a panic does.
const PLACE: &str = "JOB_PANICS_IN";
const HOW: &str = "JOB_PANICS_HOW";

const SIGABRT: i32 = 6;

/// Has one bug.
struct Buggy {
    place: String,
}

impl Buggy {
    fn come_to(&self, place: &str) {
        assert!(self.place != place, "the bug");
    }
}

impl JobDriver for Buggy {
    fn kind(&self) -> &'static str {
        "buggy"
    }

    fn run<'a>(&'a self, job: &'a JobContext) -> BoxFuture<'a, Result<(), JobError>> {
        Box::pin(async {
            // Not in the first poll.
            job.yield_now().await;
            self.come_to("run");
            let place = self.place.clone();
            job.on_context(|_| async move { assert!(place != "task", "the bug") })
                .await;
            let place = self.place.clone();
            job.blocking(move || assert!(place != "blocking", "the bug"))
                .await;
            job.become_ready();
            while !job.is_cancelled() && self.place != "prepare" && self.place != "commit" {
                job.park().await;
            }
            Ok(())
        })
    }

    fn pause(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.come_to("pause") })
    }

    fn resume(&self) {
        self.come_to("resume");
    }

    fn user_resume(&self) {
        self.come_to("user_resume");
    }

    fn cancel(&self, _mode: CancelMode) -> CancelMode {
        self.come_to("cancel");
        CancelMode::Force
    }

    fn can_complete(&self) -> bool {
        true
    }

    fn complete(&self) -> Result<(), JobError> {
        self.come_to("complete");
        Ok(())
    }

    fn prepare<'a>(&'a self, _main: &'a AioContext) -> LocalBoxFuture<'a, Result<(), JobError>> {
        Box::pin(async {
            self.come_to("prepare");
            Ok(())
        })
    }

    fn commit<'a>(&'a self, _main: &'a AioContext) -> LocalBoxFuture<'a, ()> {
        Box::pin(async { self.come_to("commit") })
    }

    fn abort<'a>(&'a self, _main: &'a AioContext) -> LocalBoxFuture<'a, ()> {
        Box::pin(async { self.come_to("abort") })
    }

    fn clean<'a>(&'a self, _main: &'a AioContext) -> LocalBoxFuture<'a, ()> {
        Box::pin(async { self.come_to("clean") })
    }
}

/// Runs a job through all its callbacks; its body is on a thread of its own.
fn live(place: String) {
    let thread = IoThread::start(Config::default()).unwrap();
    let on_main = |cx: AioContext| async move {
        let registry = JobRegistry::new(cx.handle().clone());
        let (at_events, place_of_moment) = (place.clone(), place.clone());
        let _subscription = registry.subscribe(move |_| {
            assert!(at_events != "subscriber", "the bug");
        });
        let driver = Arc::new(Buggy { place });
        let config = JobConfig::new("b1", driver, thread.handle().clone());
        let job = registry.create(config).unwrap();
        let at_moments = place_of_moment;
        let _guard = job.notify_on(JobMoment::Ready, move |_| {
            assert!(at_moments != "moment", "the bug");
        });
        job.start().unwrap();
        while !job.status().is_ready() && job.outcome().is_none() {
            cx.yield_now().await;
        }
        if job.outcome().is_some() {
            return;
        }
        job.pause().unwrap();
        job.quiesced().await;
        job.resume().unwrap();
        while job.is_quiescent() {
            cx.yield_now().await;
        }
        job.complete().unwrap();
        job.cancel(CancelMode::Force).unwrap();
        job.wait().await;
    };
    aio::run(Config::default(), on_main).unwrap();
}

#[test]
fn is_a_process_with_a_bug_when_asked_to_be() {
    let (Ok(place), Ok(how)) = (env::var(PLACE), env::var(HOW)) else {
        return;
    };
    if how == "abort" {
        // What `panic = "abort"` does: the hook, and no destructor after it.
        std::panic::set_hook(Box::new(|_| {
            if let Some(current) = current_callback() {
                eprintln!("the hook sees {current}");
            }
            std::process::abort();
        }));
    }
    live(place);
}

/// What such a process says, and by which signal it ends.
fn last_words(place: &str, how: &str) -> (String, Option<i32>) {
    let arguments = [
        "--exact",
        "is_a_process_with_a_bug_when_asked_to_be",
        "--nocapture",
    ];
    let child = Command::new(env::current_exe().unwrap())
        .args(arguments)
        .env(PLACE, place)
        .env(HOW, how)
        .stdout(Stdio::null())
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&child.stderr).into_owned();
    (words, child.status.signal())
}

const PLACES: [(&str, &str); 14] = [
    ("run", "run"),
    ("task", "run"),
    ("blocking", "run"),
    ("pause", "pause"),
    ("resume", "resume"),
    ("user_resume", "user_resume"),
    ("cancel", "cancel"),
    ("complete", "complete"),
    ("prepare", "prepare"),
    ("commit", "commit"),
    ("abort", "abort"),
    ("clean", "clean"),
    ("subscriber", "subscriber"),
    ("moment", "moment"),
];

#[test]
fn a_panic_that_would_unwind_ends_the_process_and_names_job_and_callback() {
    for (place, callback) in PLACES {
        let (words, signal) = last_words(place, "unwind");
        let want = format!("job 'b1' (buggy), in '{callback}': a panic there ends the process");
        assert!(words.contains(&want), "{place}: {words}");
        assert_eq!(signal, Some(SIGABRT), "{place}: {words}");
    }
}

#[test]
fn a_panic_hook_learns_job_and_callback_before_an_abort() {
    for (place, callback) in PLACES {
        let (words, signal) = last_words(place, "abort");
        let want = format!("the hook sees job 'b1' (buggy), in '{callback}'");
        assert!(words.contains(&want), "{place}: {words}");
        assert_eq!(signal, Some(SIGABRT), "{place}: {words}");
    }
}

#[test]
fn without_a_bug_nothing_is_said() {
    let (words, signal) = last_words("nowhere", "unwind");
    assert!(!words.contains("panic"), "{words}");
    assert_eq!(signal, None, "{words}");
}

#[test]
fn outside_of_callbacks_there_is_none() {
    assert!(current_callback().is_none());
}
