//! What an engine leaves behind, and what of it goes on beside a request that never returns.

use std::{fs::File, path::Path, sync::Arc};

use block::{
    ChildRole, Node, Permissions,
    nodes::{
        FaultAction, FaultControl, FaultNode, FaultOp, FaultRule, MemoryNode, MemoryOptions,
        file::FileOptions,
    },
};
use drivers::backup::{Action as BackupAction, BackupOptions, BackupSpec, Completion};
use job::{CancelMode, JobOutcome};

use super::{Engine, EngineConfig};

const LEN: u64 = 4 << 20;

fn file(folder: &Path, name: &str) -> std::path::PathBuf {
    let path = folder.join(name);
    File::create(&path).unwrap().set_len(LEN).unwrap();
    path
}

/// How many descriptors of this process are of files in the folder.
fn open_files(folder: &Path) -> usize {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = descriptors.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    targets.filter(|target| target.starts_with(folder)).count()
}

#[test]
fn an_engine_that_is_dropped_with_a_running_job_leaks_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().canonicalize().unwrap();
    let engine = Engine::start(EngineConfig::default()).unwrap();
    let [source, target] = ["source", "target"].map(|name| {
        let options = FileOptions::new(file(&place, name));
        let opened = engine.open_file(Some(name), &options);
        opened.unwrap().node
    });
    let options = BackupOptions {
        speed_bytes_per_s: 1,
        ..BackupOptions::new("slow")
    };
    let backup = engine.backup(&source, &target, options).unwrap();
    drop((source, target));
    assert!(open_files(&place) >= 2);
    let inner = Arc::downgrade(&engine.inner);

    drop(engine);

    assert!(inner.upgrade().is_none());
    let outcome = backup.job().wait_blocking();
    assert!(matches!(outcome, JobOutcome::Failed(_)), "{outcome:?}");
    drop(backup);
    assert_eq!(open_files(&place), 0);
}

fn memory(engine: &Engine, name: &str) -> Node {
    let memory = MemoryNode::new(MemoryOptions::new(LEN)).unwrap();
    engine.graph().add_node(Some(name), memory).unwrap()
}

/// A disk that takes no write and never says so.
fn dead_end(engine: &Engine) -> (Node, FaultControl) {
    let below = memory(engine, "below");
    let builder = engine.graph().build_node(Some("dead-end")).unwrap();
    let child = builder.attach(&below, "file", ChildRole::Filtered, Permissions::IDLE);
    let control = FaultControl::new();
    for op in [FaultOp::Write, FaultOp::WriteZeroes] {
        control.add(FaultRule::every(op, FaultAction::Hold));
    }
    let node = builder.finish(FaultNode::new(child.unwrap(), control.clone()));
    (node, control)
}

#[test]
fn other_jobs_of_an_engine_go_on_beside_one_whose_target_never_answers() {
    let engine = Engine::start(EngineConfig::default()).unwrap();
    let (source, (target, control)) = (memory(&engine, "source"), dead_end(&engine));
    let stuck = engine
        .backup(&source, &target, BackupOptions::new("stuck"))
        .unwrap();
    let held = control.clone();
    let waiting = engine.handle().spawn(|_| async move {
        held.wait_held(1).await;
    });
    waiting.wait();

    let (from, to) = (memory(&engine, "from"), memory(&engine, "to"));
    let other = engine.backup(&from, &to, BackupOptions::new("other"));
    other.unwrap().job().wait_blocking().into_result().unwrap();
    assert_eq!(engine.jobs().query().len(), 1);
    assert!(stuck.job().outcome().is_none());

    stuck.job().cancel(CancelMode::Force).unwrap();
    let outcome = stuck.job().wait_blocking();
    assert!(matches!(outcome, JobOutcome::Cancelled(_)), "{outcome:?}");
    let elsewhere = engine.backup(&source, &to, BackupOptions::new("elsewhere"));
    elsewhere
        .unwrap()
        .job()
        .wait_blocking()
        .into_result()
        .unwrap();
    let refused = engine.backup(&source, &target, BackupOptions::new("again"));
    assert!(refused.is_err() && stuck.report().target_may_change);

    // The loop does not wait for what only we hold.
    let inner = Arc::downgrade(&engine.inner);
    drop(engine);
    assert!(inner.upgrade().is_none() && control.held().is_empty());
}

#[test]
fn backups_of_a_group_begin_at_one_instant_or_not_at_all() {
    let engine = Engine::start(EngineConfig::default()).unwrap();
    let backup = |number: usize| {
        let [source, target] =
            ["source", "target"].map(|side| memory(&engine, &format!("{side}{number}")));
        BackupAction::Backup(Box::new(BackupSpec {
            source,
            target,
            context: engine.handle().clone(),
            options: BackupOptions::new(format!("b{number}")),
        }))
    };
    let refused = engine.backup_group(vec![backup(0), BackupAction::Abort], Completion::Individual);
    assert!(refused.is_err() && engine.jobs().query().is_empty());
    let started = engine.backup_group(vec![backup(1), backup(2)], Completion::Grouped);
    for backup in started.unwrap() {
        backup.job().wait_blocking().into_result().unwrap();
    }
}
