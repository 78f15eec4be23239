//! The last words of a process that panics: in which job, and in what of it.

use std::{
    io::{Write, stderr},
    panic,
};

/// Has every panic say so, if it comes from within a job, after what it says anyway.
///
/// A release build ends with its first panic, and no destructor runs: only the hook can tell.
pub(crate) fn name_jobs() {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        hook(panic);
        if let Some(current) = job::current_callback() {
            // Nobody is left who could do something about a closed standard error.
            let _ = writeln!(stderr(), "the panic was in {current}");
        }
    }));
}

#[cfg(test)]
mod tests {
    use std::{env, process::Command, sync::Arc};

    use aio::Config;
    use job::{BoxFuture, JobConfig, JobContext, JobDriver, JobError, JobRegistry};

    const CHILD: &str = "LONGSHORE_TEST_PANICS";

    struct Buggy;

    impl JobDriver for Buggy {
        fn kind(&self) -> &'static str {
            "buggy"
        }

        fn run<'a>(&'a self, _job: &'a JobContext) -> BoxFuture<'a, Result<(), JobError>> {
            panic!("the bug");
        }
    }

    #[test]
    fn a_panic_in_a_job_says_in_which_and_in_what() {
        if env::var_os(CHILD).is_some() {
            super::name_jobs();
            let run = |cx: aio::AioContext| async move {
                let jobs = JobRegistry::new(cx.handle().clone());
                let config = JobConfig::new("b1", Arc::new(Buggy), cx.handle().clone());
                let job = jobs.create(config).unwrap();
                job.start().unwrap();
                job.wait().await;
            };
            aio::run(Config::default(), run).unwrap();
            return;
        }
        let name = "panics::tests::a_panic_in_a_job_says_in_which_and_in_what";
        let child = Command::new(env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(CHILD, "")
            .output()
            .unwrap();
        let words = String::from_utf8_lossy(&child.stderr);
        assert!(words.contains("the bug"), "{words}");
        let want = "the panic was in job 'b1' (buggy), in 'run'";
        assert!(words.contains(want), "{words}");
        assert!(!child.status.success());
    }
}
