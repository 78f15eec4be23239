//! What a layer above finds of its own in a job.

use std::{any::Any, sync::Arc};

use job::{BoxFuture, JobConfig, JobContext, JobDriver, JobError};

use crate::world::{Part, World};

struct Extended(String);

impl JobDriver for Extended {
    fn kind(&self) -> &'static str {
        "extended"
    }

    fn extension(&self) -> Option<&(dyn Any + Send + Sync)> {
        Some(&self.0)
    }

    fn run<'a>(&'a self, _job: &'a JobContext) -> BoxFuture<'a, Result<(), JobError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

#[test]
fn a_layer_above_finds_its_part_of_its_own_jobs_only() {
    let world = World::new();
    let driver = Arc::new(Extended("mine".to_owned()));
    let config = JobConfig::new("a", driver, world.context.handle().clone());
    let own = world.registry.create(config).unwrap();
    let other = world.create("b", Part::EndWell);

    assert_eq!(own.extension::<String>().unwrap(), "mine");
    assert!(own.extension::<u32>().is_none());
    assert!(other.extension::<String>().is_none());
}
