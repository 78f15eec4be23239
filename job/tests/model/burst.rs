//! What holds whatever the order: acts come in bursts here and meet jobs between two rests.

mod life;

use job::JobStatus;
use proptest::{prelude::*, test_runner::TestCaseError};

use crate::{
    act::{Act, GROUPS, PLACES, Spec, Verb},
    log::Entry,
    reference::{Reply, letters},
    world::World,
};

/// An act, and how often each loop turns before the next one.
pub(crate) type Hurried = (Act, [usize; 2]);

/// Few turns, or none.
pub(crate) fn turns() -> impl Strategy<Value = [usize; 2]> {
    let turns = || prop_oneof![3 => Just(0_usize), 1 => 1..4_usize];
    [turns(), turns()]
}

/// What is known of the job in a place; each place is used once.
#[derive(Clone, Copy, Debug)]
struct Known {
    spec: Spec,
    /// Which transaction, of all that there ever were.
    transaction: usize,
    is_started: bool,
}

/// The product without a model.
struct Burst {
    world: World,
    jobs: [Option<Known>; PLACES],
    /// Which transaction is in use for each number.
    transactions: [usize; GROUPS],
    /// How many transactions there were.
    count: usize,
    log: Vec<Entry>,
}

/// Does the acts, brings all jobs home, and looks at their lives; how many acts meant anything.
pub(crate) fn check(acts: &[Hurried]) -> Result<u64, TestCaseError> {
    let mut burst = Burst {
        world: World::new(),
        jobs: [None; PLACES],
        transactions: std::array::from_fn(|number| number),
        count: GROUPS,
        log: Vec::new(),
    };
    let mut steps = 0;
    for &(act, turns) in acts {
        if burst.can(act) {
            steps += 1;
            burst.act(act)?;
        }
        for (context, turns) in turns.into_iter().enumerate() {
            for _ in 0..turns {
                burst.world.turn(context);
            }
        }
    }
    burst.world.bring_home();
    burst.log = burst.world.log.take();
    for place in 0..PLACES {
        if let Some(known) = burst.jobs[place] {
            burst.check_life(place, known)?;
        }
    }
    burst.check_transactions()?;
    burst.check_history()?;
    Ok(steps)
}

impl Burst {
    fn can(&self, act: Act) -> bool {
        match act {
            Act::Create(place, _) => self.jobs[place].is_none(),
            Act::Do(place, Verb::Start) => self.jobs[place].is_some_and(|job| !job.is_started),
            Act::Do(place, Verb::Release) => self.world.is_held(place),
            // It might wait for ever.
            Act::Do(_, Verb::CancelSync | Verb::CompleteSync) => false,
            Act::Do(place, _) => self.jobs[place].is_some(),
            Act::ResumeAll => self.world.is_all_held(),
            Act::CancelAll => !self.world.cancels_all(),
            Act::PauseAll | Act::Pass(_) => true,
        }
    }

    fn act(&mut self, act: Act) -> Result<(), TestCaseError> {
        match act {
            Act::Create(place, spec) => self.create(place, spec)?,
            Act::Do(place, verb) => {
                let status = self.world.status(place);
                let said = self.world.act(act);
                check_reply(status, verb, &said)?;
                if let (Verb::Start, Some(job)) = (verb, &mut self.jobs[place]) {
                    job.is_started = true;
                }
            }
            _ => self.world.act(act).expect("it has no reply"),
        }
        Ok(())
    }

    fn create(&mut self, place: usize, spec: Spec) -> Result<(), TestCaseError> {
        let mut transaction = self.count;
        if let Some(number) = spec.group {
            transaction = self.transactions[number];
            if self.is_over(transaction) {
                transaction = self.count;
                self.transactions[number] = transaction;
                self.world.renew(number);
            }
        }
        self.count += 1;
        match self.world.act(Act::Create(place, spec)) {
            Ok(()) => {
                self.jobs[place] = Some(Known {
                    spec,
                    transaction,
                    is_started: false,
                });
            }
            Err(text) => {
                let ended = "the transaction has already ended";
                prop_assert!(
                    text.starts_with("Invalid job ID") || text == ended,
                    "{text}"
                );
            }
        }
        Ok(())
    }

    /// Whether all jobs of a transaction have ended, if there are any.
    fn is_over(&self, transaction: usize) -> bool {
        let places = 0..PLACES;
        let mut members = places
            .filter(|&place| self.jobs[place].is_some_and(|job| job.transaction == transaction))
            .peekable();
        members.peek().is_some()
            && members.all(|place| {
                matches!(
                    self.world.status(place),
                    JobStatus::Concluded | JobStatus::Null
                )
            })
    }
}

/// Whether the reply is what the verb table has for the status.
fn check_reply(status: JobStatus, verb: Verb, said: &Reply) -> Result<(), TestCaseError> {
    let Some((name, letters)) = letters::of_verb(verb) else {
        return Ok(());
    };
    let is_refused = match said {
        Ok(()) => false,
        Err(text) => {
            let table = format!("in state '{status}' cannot accept command verb '{name}'");
            text.ends_with(&table) || text == "Job not found"
        }
    };
    let is_accepted = letters.contains(letters::of(status));
    // Other refusals come first, or behind the table.
    let is_right = said.is_err() && is_refused != is_accepted
        || said.is_ok() && is_accepted
        || matches!(verb, Verb::Resume | Verb::SoftCancel) && said.is_err();
    prop_assert!(is_right, "{verb:?} in {status}: {said:?}");
    Ok(())
}
