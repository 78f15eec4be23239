//! Mutants: each is a copy of a small protocol with one step left out or torn in two, and a model
//! that has to find it. A model that passes its mutants proves nothing.

use std::{
    future::poll_fn,
    mem::ManuallyDrop,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use shuttle::{future::block_on, thread};

use super::{
    ends, moves, pauses,
    stage::{Part, take_time},
};
use crate::{
    BoxFuture, CancelMode, Job, JobContext, JobOutcome, JobRegistry, PauseHold,
    cancel::undo_user_pause,
    record::{Body, Record, Until},
    runtime::{AioContext, Handle},
    state::{Looked, State, Wait},
    transaction::{Phase, spawn_step},
    verb::JobVerb,
};

/// Looks whether a wait is over, and registers the body as waiting in a second step.
fn park_in_two_steps(job: &JobContext) -> BoxFuture<'_, ()> {
    let look = move |cx: &mut Context<'_>| {
        let Job { shared, cell } = job.job();
        let is_over = shared.update(|state| {
            let record = state.record(cell.key);
            let is_over = record.is_over(Until::Woken);
            record.wake_token &= !is_over;
            is_over
        });
        let body = match is_over {
            true => Body::Busy,
            false => Body::Waiting(Until::Woken, cx.waker().clone()),
        };
        shared.update(|state| state.set_body(cell.key, body));
        match is_over {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    };
    Box::pin(poll_fn(look))
}

#[test]
#[should_panic(expected = "deadlock")]
fn shuttle_mutant_wait_that_registers_in_a_second_step_is_found() {
    pauses::a_wait_ends(Part::Own(park_in_two_steps));
}

/// Wakes a sleeping body when its time is up, and only then says that it is.
fn sleep_with_a_late_bell(job: &JobContext) -> BoxFuture<'_, ()> {
    let rung = Arc::<AtomicBool>::default();
    let mut alarm = None;
    let look = move |cx: &mut Context<'_>| {
        let Job { shared, cell } = job.job();
        let here = AioContext::current().expect("a body is polled by a context");
        let wait = Wait {
            until: Until::Woken,
            here: here.handle(),
            is_time_up: rung.load(Ordering::SeqCst),
        };
        let looked = shared.update(|state| state.poll_wait(cell.key, &wait, cx.waker()));
        if matches!(looked, Looked::Over) {
            return Poll::Ready(());
        }
        let (rings, shared, key) = (rung.clone(), shared.clone(), cell.key);
        alarm.get_or_insert_with(|| {
            // On another thread, as a foreign clock would.
            thread::spawn(move || {
                shared.update(|state| state.wake_body(key));
                rings.store(true, Ordering::SeqCst);
            })
        });
        Poll::Pending
    };
    Box::pin(poll_fn(look))
}

#[test]
#[should_panic(expected = "deadlock")]
fn shuttle_mutant_alarm_that_rings_after_it_wakes_is_found() {
    pauses::a_sleep_ends(sleep_with_a_late_bell);
}

/// Looks whether a job stands still, and registers who waits for it in a second step.
fn quiesced_in_two_steps(job: &Job) {
    block_on(poll_fn(|cx| {
        if job.is_quiescent() {
            return Poll::Ready(());
        }
        job.shared.update(|state| {
            if let Some(record) = state.jobs.get_mut(&job.cell.key) {
                record.watch(cx.waker());
            }
        });
        Poll::Pending
    }));
}

#[test]
#[should_panic(expected = "deadlock")]
fn shuttle_mutant_quiesced_that_registers_in_a_second_step_is_found() {
    pauses::a_hold_stills(Part::Park, quiesced_in_two_steps);
}

#[test]
#[should_panic(expected = "is_quiescent")]
fn shuttle_mutant_hold_that_does_not_wait_is_found() {
    pauses::a_hold_stills(Part::Park, |_job| ());
}

/// Wakes the body before the cancel that it is to see.
fn cancel_after_the_wake_up(job: &Job) {
    let key = job.cell.key;
    job.wake();
    job.shared
        .update(|state| state.record(key).cancel = Some(CancelMode::Force));
}

#[test]
#[should_panic(expected = "deadlock")]
fn shuttle_mutant_cancel_after_its_wake_up_is_found() {
    pauses::a_cancel_ends_a_wait(cancel_after_the_wake_up);
}

/// Is accepted when there was a pause to undo, also if somebody else undoes it.
fn resume_without_claim(job: &Job) -> bool {
    let key = job.cell.key;
    let was_paused = job.shared.update(|state| {
        let record = state.jobs.get(&key);
        record.is_some_and(|record| record.user_paused)
    });
    if was_paused {
        undo_user_pause(&job.shared, &job.cell);
    }
    was_paused
}

#[test]
#[should_panic(expected = "assertion")]
fn shuttle_mutant_resume_that_claims_nothing_is_found() {
    pauses::a_resume_meets_a_pause(resume_without_claim);
}

/// Looks whether the job still lives, and lets go of it in a second step.
fn drop_hold_in_two_steps(job: &Job, hold: PauseHold) {
    let _left = ManuallyDrop::new(hold);
    let key = job.cell.key;
    let lives = job.shared.update(|state| state.jobs.contains_key(&key));
    take_time();
    if lives {
        let still_lives = job.shared.update(|state| {
            let let_go = state.jobs.get_mut(&key).map(Record::remove_pause);
            if let_go.is_some() {
                state.wake_body(key);
            }
            let_go.is_some()
        });
        assert!(still_lives, "the job is gone that was to be let go");
    }
}

#[test]
#[should_panic(expected = "the job is gone")]
fn shuttle_mutant_drop_of_a_hold_in_two_steps_is_found() {
    pauses::a_hold_is_dropped_while_the_job_ends(drop_hold_in_two_steps);
}

/// Holds the jobs that there are, and says in a second step that more are to be held.
fn hold_all_in_two_steps(registry: &JobRegistry, meanwhile: &dyn Fn()) {
    let shared = &registry.shared;
    let all = |state: &State| state.jobs.keys().copied().collect::<Vec<_>>();
    shared.update(|state| {
        for key in all(state) {
            state.record(key).add_pause();
            state.wake_body(key);
        }
    });
    take_time();
    shared.update(|state| state.holds_on_all += 1);
    for job in registry.jobs() {
        block_on(job.quiesced());
    }
    meanwhile();
    let were_held = shared.update(|state| {
        state.holds_on_all -= 1;
        all(state).into_iter().all(|key| {
            let is_held = state.record(key).pause_count > 0;
            if is_held {
                state.record(key).remove_pause();
            }
            state.wake_body(key);
            is_held
        })
    });
    assert!(were_held, "a job is let go that was not held");
}

#[test]
#[should_panic(expected = "was not held")]
fn shuttle_mutant_hold_on_all_in_two_steps_is_found() {
    pauses::a_hold_on_all_meets_a_creation(hold_all_in_two_steps);
}

/// Gives the job another context while its body runs.
fn set_context_at_once(job: &Job, context: &Handle) {
    job.shared.update(|state| {
        if let Some(record) = state.jobs.get_mut(&job.cell.key) {
            record.context = context.clone();
        }
    });
}

#[test]
#[should_panic(expected = "a body runs on its job's context")]
fn shuttle_mutant_move_of_a_running_body_is_found() {
    moves::a_move_meets_a_wake_up(Part::Steps(3), set_context_at_once);
}

/// Does not look again whether it is too late, after the hook of the job driver.
fn cancel_without_second_look(job: &Job) {
    let (shared, key) = (&job.shared, job.cell.key);
    if !shared.update(|state| state.can_cancel(key)) {
        return;
    }
    job.cell.driver.cancel(CancelMode::Force);
    let step = shared.update(|state| {
        if let Some(record) = state.jobs.get_mut(&key) {
            record.cancel = Some(CancelMode::Force);
            state.leave_wake_token(key);
        }
        state.start_abort(key)
    });
    if let Some(step) = step {
        spawn_step(shared, step);
    }
}

#[test]
#[should_panic(expected = "all commit or none")]
fn shuttle_mutant_cancel_that_looks_once_is_found() {
    ends::a_finalize_meets_a_cancel(0, cancel_without_second_look);
}

/// Prepares all members also when the transaction is being finalized already.
fn finalize_whatever_the_phase(job: &Job) -> bool {
    let is_first = job.shared.update(|state| {
        let record = state.jobs.get(&job.cell.key);
        let group = record.and_then(|record| state.groups.get(&record.transaction));
        group.is_some_and(|group| group.phase == Phase::Open)
    });
    if is_first {
        return job.finalize().is_ok();
    }
    let is_accepted = job.check_verb(JobVerb::Finalize).is_ok();
    if is_accepted {
        let cell = job.cell.clone();
        let main = &job.shared.main;
        drop(main.spawn(move |main| async move { cell.driver.prepare(&main).await }));
    }
    is_accepted
}

#[test]
#[should_panic(expected = "prepared once")]
fn shuttle_mutant_finalize_in_any_phase_is_found() {
    ends::two_finalizes_prepare_once(finalize_whatever_the_phase);
}

/// Looks whether the verb is accepted, and forgets the job in a second step.
fn dismiss_in_two_steps(job: &Job) -> bool {
    let is_accepted = job.check_verb(JobVerb::Dismiss).is_ok();
    if is_accepted {
        job.shared.update(|state| {
            if state.jobs.contains_key(&job.cell.key) {
                state.forget(job.cell.key);
            }
        });
    }
    is_accepted
}

#[test]
#[should_panic(expected = "one of them dismisses it")]
fn shuttle_mutant_dismiss_in_two_steps_is_found() {
    ends::a_dismiss_meets_queries(dismiss_in_two_steps);
}

/// Waits for a change of the job, which comes before its outcome is there.
fn wait_for_the_last_change(job: &Job) -> JobOutcome {
    block_on(poll_fn(|cx| {
        if let Some(outcome) = job.outcome() {
            return Poll::Ready(outcome);
        }
        job.shared.update(|state| {
            if let Some(record) = state.jobs.get_mut(&job.cell.key) {
                record.watch(cx.waker());
            }
        });
        Poll::Pending
    }))
}

#[test]
#[should_panic(expected = "deadlock")]
fn shuttle_mutant_wait_for_the_last_change_is_found() {
    ends::waits_meet_the_conclusion(wait_for_the_last_change);
}

/// Events are delivered wherever a change is made.
#[test]
#[should_panic(expected = "events are heard on the main context")]
fn shuttle_mutant_delivery_on_any_thread_is_found() {
    ends::events_of_two_threads_keep_their_order(|main| JobRegistry::new(main.at_home_anywhere()));
}
