//! Models of a member that is given up before its start, while others of its transaction end.

use shuttle::thread;

use super::{
    explore,
    stage::{Part, Stage},
};
use crate::{CancelMode, JobOutcome};

/// The transaction may be about to abort the member, or wait for it; it does without it.
#[test]
fn shuttle_a_discard_meets_the_end_of_its_transaction() {
    explore(|| {
        let stage = Stage::new();
        let transaction = stage.registry.transaction();
        let [running, created] = ["a", "b"].map(|id| {
            let transaction = transaction.clone();
            stage.create(id, Part::Steps(0), |config| {
                config.transaction = Some(transaction);
            })
        });
        running.job.start().expect("nobody has cancelled it");
        let gives_up = created.clone();
        let users = [
            thread::spawn(move || gives_up.job.discard()),
            // May come before the start of the body, after its end, or when all is over.
            thread::spawn(move || drop(running.job.cancel(CancelMode::Force))),
        ];
        for user in users {
            user.join().expect("it has ended");
        }
        assert!(matches!(created.outcome(), JobOutcome::Cancelled(_)));
        stage.finish();
    });
}
