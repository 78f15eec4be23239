//! A backup as a block job: found, queried, changed and moved by what all block jobs have.

use aio::{Config, IoThread};
use blockjob::{BlockJob, JobChange, block_jobs, find_block_job};
use drivers::backup::BackupOptions;
use job::JobStatus;

use super::world::{MIB, World, on_each_backend, options};

/// Slow enough to be under way for as long as a test likes.
fn slow() -> BackupOptions {
    BackupOptions {
        speed_bytes_per_s: 1,
        ..options()
    }
}

#[test]
fn a_backup_is_found_queried_and_set_as_a_block_job() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, 3 * MIB).await;
        let backup = world.start(slow()).await.unwrap();
        let id = backup.job().id().unwrap().to_owned();

        let (_, block_job) = find_block_job(&world.jobs, &id).unwrap();
        assert_eq!(
            block_job.nodes(),
            [world.source.clone(), world.target.clone()]
        );
        block_job.set_speed_from_client(2).unwrap();
        let infos = block_jobs(&world.jobs);
        assert_eq!(infos.len(), 1);
        assert_eq!(infos[0].job.kind, "backup");
        assert_eq!(
            (infos[0].speed_bytes_per_s, infos[0].actively_synced),
            (2, None)
        );
        let refused = block_job.change(&JobChange::new("backup", ())).unwrap_err();
        assert_eq!(refused.to_string(), "Job type does not support change");
        let refused = block_job.change(&JobChange::new("mirror", ())).unwrap_err();
        let text = format!("Job '{id}' is of type 'backup', not 'mirror'");
        assert_eq!(refused.to_string(), text);

        block_job.set_speed_from_client(0).unwrap();
        backup.job().wait().await.into_result().unwrap();
        assert!(BlockJob::of(backup.job()).unwrap().nodes().is_empty());
    });
}

#[test]
fn a_backup_moves_with_all_its_nodes_and_ends_well_elsewhere() {
    on_each_backend(|cx| async move {
        let away = IoThread::start(Config::default()).unwrap();
        let world = World::full(&cx, 3 * MIB).await;
        let backup = world.start(slow()).await.unwrap();

        let moving = world.graph.set_context(&world.target, away.handle());
        moving.await.unwrap();

        assert_eq!(world.filters(), 1);
        for node in world.graph.nodes() {
            // Below source and target there are disks of memory, which go along.
            let home = node.context().unwrap();
            assert!(home.is_same(away.handle()), "{}", node.name());
        }
        assert!(backup.job().context().is_same(away.handle()));
        assert_eq!(backup.job().status(), JobStatus::Running);
        backup.set_speed(0).unwrap();
        backup.job().wait().await.into_result().unwrap();
        assert!(world.target_bytes().await == world.source_bytes().await);
    });
}
