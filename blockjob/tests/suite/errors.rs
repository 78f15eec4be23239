//! Errors: what is decided, told and shown.

use block::{BlockError, ErrorKind};
use blockjob::{ErrorAction, ErrorSide, IoStatus, OnError};
use job::{CancelMode, JobConfig, JobStatus};

use super::world::{Body, TestJob, World, run};

fn decide(j: &TestJob, policy: OnError, side: ErrorSide, errno: i32) -> ErrorAction {
    let error = BlockError::io("injected", std::io::Error::from_raw_os_error(errno));
    j.block_job.decide(policy, side, &error)
}

#[test]
fn an_error_that_stops_pauses_once_and_shows_until_the_user_resumes() {
    run(|cx| async move {
        let w = World::new(&cx);
        let j = w.job("j", Body::Park, &[]);
        j.job.start().unwrap();
        w.settle().await;
        w.events();

        for _ in 0..3 {
            decide(&j, OnError::Stop, ErrorSide::Write, libc::EIO);
        }
        w.settle().await;
        assert_eq!(j.block_job.io_status(), IoStatus::Failed);
        let told = w.events();
        let stop = "j error write stop";
        assert_eq!(told, [stop, stop, stop, "j paused"]);

        j.job.resume().unwrap();
        w.settle().await;
        assert_eq!(j.job.status(), JobStatus::Running);
        assert_eq!(j.block_job.io_status(), IoStatus::Ok);
        j.end().await;
    });
}

#[test]
fn the_first_error_that_stops_the_job_is_the_one_that_shows() {
    run(|cx| async move {
        let w = World::new(&cx);
        let j = w.job("j", Body::Park, &[]);
        j.job.start().unwrap();

        decide(&j, OnError::Enospc, ErrorSide::Write, libc::ENOSPC);
        decide(&j, OnError::Stop, ErrorSide::Read, libc::EIO);

        assert_eq!(j.block_job.io_status(), IoStatus::NoSpace);
        j.end().await;
    });
}

#[test]
fn what_is_ignored_or_reported_is_told_and_leaves_the_job_as_it_is() {
    run(|cx| async move {
        let w = World::new(&cx);
        let j = w.job("j", Body::Park, &[]);
        j.job.start().unwrap();
        w.settle().await;
        w.events();

        let ignored = decide(&j, OnError::Ignore, ErrorSide::Read, libc::EIO);
        let reported = decide(&j, OnError::Report, ErrorSide::Write, libc::ENOSPC);
        w.settle().await;

        assert_eq!(
            [ignored, reported],
            [ErrorAction::Ignore, ErrorAction::Report]
        );
        assert_eq!(w.events(), ["j error read ignore", "j error write report"]);
        assert_eq!(j.block_job.io_status(), IoStatus::Ok);
        assert_eq!(j.job.status(), JobStatus::Running);
        j.end().await;
    });
}

#[test]
fn a_cancel_of_a_job_that_an_error_stopped_makes_its_io_status_well() {
    run(|cx| async move {
        let w = World::new(&cx);
        let j = w.job("j", Body::Park, &[]);
        j.job.start().unwrap();
        decide(&j, OnError::Stop, ErrorSide::Read, libc::EIO);
        assert_eq!(j.block_job.io_status(), IoStatus::Failed);

        j.job.cancel(CancelMode::Force).unwrap();

        assert_eq!(j.block_job.io_status(), IoStatus::Ok);
        j.job.wait().await;
    });
}

#[test]
fn an_error_without_a_number_counts_as_eio() {
    run(|cx| async move {
        let w = World::new(&cx);
        let j = w.job("j", Body::Park, &[]);
        let error = BlockError::new(ErrorKind::Io, "odd");
        let side = ErrorSide::Read;

        let action = j.block_job.decide(OnError::Enospc, side, &error);
        j.block_job.decide(OnError::Stop, side, &error);

        assert_eq!(action, ErrorAction::Report);
        assert_eq!(j.block_job.io_status(), IoStatus::Failed);
        j.end().await;
    });
}

#[test]
fn an_internal_job_is_stopped_by_an_error_and_tells_nobody() {
    run(|cx| async move {
        let w = World::new(&cx);
        let driver = w.driver("j", Body::Park);
        let config = JobConfig::internal(driver.clone(), cx.handle().clone());
        let j = w.job_as(config, &driver, &[]);
        j.job.start().unwrap();

        decide(&j, OnError::Stop, ErrorSide::Read, libc::EIO);
        w.settle().await;

        assert_eq!(j.job.status(), JobStatus::Paused);
        assert!(w.events().is_empty());
        j.end().await;
    });
}

#[test]
fn after_release_nobody_is_told_of_errors() {
    run(|cx| async move {
        let w = World::new(&cx);
        let j = w.job("j", Body::Park, &[]);
        j.job.start().unwrap();
        w.settle().await;
        w.events();

        j.block_job.release();
        decide(&j, OnError::Stop, ErrorSide::Read, libc::EIO);
        w.settle().await;

        assert!(w.events().is_empty());
        j.end().await;
    });
}
