//! Several backups and changes of bitmaps: one instant, all or nothing, together or each for itself.

use std::{
    cell::Cell,
    rc::Rc,
    sync::{Arc, Mutex},
};

use aio::AioContext;
use block::{
    Graph, Node,
    bitmap::{BitmapAction, BitmapOptions, BitmapRef},
    nodes::{FaultAction, FaultControl, FaultOp, FaultRule, MemoryOptions},
};
use drivers::{
    BitmapMode,
    backup::{
        Action, Backup, BackupBitmap, BackupError, BackupOptions, BackupSpec, BackupSync,
        Completion,
    },
};
use job::{CancelMode, JobEvent, JobOutcome, JobRegistry, JobStatus, Subscription, Trigger};

use super::{
    oracle::{Chance, seed},
    world::{
        CLUSTER, MIB, attach, cluster, disk, fail, on_each_backend, pattern, range, read, settle,
        until, write,
    },
};

const LEN: u64 = 2 * MIB;

/// Three sources and three targets in one graph.
struct Group {
    cx: AioContext,
    graph: Graph,
    jobs: JobRegistry,
    sources: Vec<(Node, FaultControl)>,
    targets: Vec<(Node, FaultControl)>,
    told: Arc<Mutex<Vec<String>>>,
    _subscription: Subscription,
}

impl Group {
    async fn new(cx: &AioContext) -> Self {
        let (graph, jobs) = (Graph::new(), JobRegistry::new(cx.handle().clone()));
        let options = MemoryOptions::new(LEN);
        let three = |kind: &str| -> Vec<_> {
            (0..3)
                .map(|number| disk(&graph, &format!("{kind}{number}"), options))
                .collect()
        };
        let (sources, targets) = (three("source"), three("target"));
        for (number, (source, _)) in (1..).zip(&sources) {
            let bytes = pattern(range(0, LEN), number);
            write(&attach(&graph, source), cx, 0, &bytes).await.unwrap();
        }
        let told = Arc::<Mutex<Vec<String>>>::default();
        let log = told.clone();
        let subscription = jobs.subscribe(move |event| log.lock().unwrap().extend(text_of(event)));
        Self {
            cx: cx.clone(),
            graph,
            jobs,
            sources,
            targets,
            told,
            _subscription: subscription,
        }
    }

    fn spec(&self, number: usize, options: BackupOptions) -> BackupSpec {
        BackupSpec {
            source: self.sources[number].0.clone(),
            target: self.targets[number].0.clone(),
            context: self.cx.handle().clone(),
            options,
        }
    }

    /// A full backup `j<number>` of the source with that number.
    fn backup(&self, number: usize) -> Action {
        self.backup_with(number, |options| options)
    }

    fn backup_with(
        &self,
        number: usize,
        change: impl FnOnce(BackupOptions) -> BackupOptions,
    ) -> Action {
        let options = change(BackupOptions::new(format!("j{number}")));
        Action::Backup(Box::new(self.spec(number, options)))
    }

    fn bitmap(&self, number: usize, name: &str) -> BitmapRef {
        BitmapRef {
            node: self.sources[number].0.clone(),
            name: name.to_owned(),
        }
    }

    async fn start(
        &self,
        actions: Vec<Action>,
        completion: Completion,
    ) -> Result<Vec<Backup>, BackupError> {
        Backup::start_group((&self.graph, &self.jobs), actions, completion).await
    }

    /// Starts what must be refused; returns the text. Nothing has changed then.
    async fn refused(&self, actions: Vec<Action>, completion: Completion) -> String {
        let shape = self.shape();
        let refused = self.start(actions, completion).await.unwrap_err();
        assert_eq!(self.shape(), shape);
        assert!(self.jobs.list().is_empty());
        refused.to_string()
    }

    /// Another backup of each source, which takes its time to stand still when the source is drained.
    async fn slow_backups_beside(&self, seed: u64) -> Vec<Backup> {
        let (mut backups, mut chance) = (Vec::new(), Chance::new(seed));
        for (number, (source, _)) in self.sources.iter().enumerate() {
            let name = format!("beside{number}");
            let (target, at_target) = disk(&self.graph, &name, MemoryOptions::new(LEN));
            let ns = chance.below(3_000_000);
            at_target.add(FaultRule::every(FaultOp::Write, FaultAction::Delay { ns }));
            let options = BackupOptions {
                max_workers: Some(1),
                max_chunk_bytes: Some(CLUSTER),
                ..BackupOptions::new(name)
            };
            let registry = (&self.graph, &self.jobs);
            let started = Backup::start(registry, self.cx.handle(), (source, &target), options);
            backups.push(started.await.unwrap());
        }
        backups
    }

    fn shape(&self) -> (Vec<String>, Vec<block::EdgeInfo>, bool) {
        let nodes = self.graph.nodes();
        let names = nodes.iter().map(|node| node.name().to_owned()).collect();
        let is_drained = nodes.iter().any(Node::is_quiesced);
        (names, self.graph.edges(), is_drained)
    }

    async fn content(&self, node: &Node) -> Vec<u8> {
        read(&attach(&self.graph, node), &self.cx, range(0, LEN)).await
    }

    fn told(&self) -> Vec<String> {
        self.told.lock().unwrap().clone()
    }
}

fn text_of(event: &JobEvent) -> Option<String> {
    Some(match event {
        JobEvent::StatusChange { job, status } => format!("{} {status}", job.id),
        JobEvent::Completed { job, error: None } => format!("{} COMPLETED", job.id),
        JobEvent::Completed { job, .. } => format!("{} FAILED", job.id),
        JobEvent::Cancelled(job) => format!("{} CANCELLED", job.id),
        _ => return None,
    })
}

fn slow(options: BackupOptions) -> BackupOptions {
    BackupOptions {
        speed_bytes_per_s: 1,
        ..options
    }
}

async fn all_end_well(backups: &[Backup]) {
    for backup in backups {
        backup.job().wait().await.into_result().unwrap();
    }
}

#[test]
fn three_backups_that_end_together_all_end_well() {
    on_each_backend(|cx| async move {
        let group = Group::new(&cx).await;
        let actions = (0..3).map(|number| group.backup(number)).collect();
        let backups = group.start(actions, Completion::Grouped).await.unwrap();
        let ids: Vec<_> = backups.iter().map(|backup| backup.job().id()).collect();
        assert_eq!(ids, [Some("j0"), Some("j1"), Some("j2")]);
        all_end_well(&backups).await;
        for (source, target) in group.sources.iter().zip(&group.targets) {
            assert!(group.content(&target.0).await == group.content(&source.0).await);
        }
    });
}

#[test]
fn jobs_are_created_in_order_and_start_newest_first() {
    on_each_backend(|cx| async move {
        let group = Group::new(&cx).await;
        let actions = (0..3).map(|number| group.backup(number)).collect();
        let backups = group.start(actions, Completion::Individual).await.unwrap();
        let want = [
            "j0 created",
            "j1 created",
            "j2 created",
            "j2 running",
            "j1 running",
            "j0 running",
        ];
        assert_eq!(group.told()[..6], want);
        all_end_well(&backups).await;
    });
}

#[test]
fn jobs_that_end_each_for_itself_do_not_wait_for_each_other() {
    on_each_backend(|cx| async move {
        let group = Group::new(&cx).await;
        let actions = vec![group.backup(0), group.backup_with(1, slow)];
        let backups = group.start(actions, Completion::Individual).await.unwrap();
        backups[0].job().wait().await.into_result().unwrap();
        assert_eq!(backups[1].job().status(), JobStatus::Running);
        // The end of one by force is no concern of the other's either.
        backups[1].job().cancel(CancelMode::Force).unwrap();
        let outcome = backups[1].job().wait().await;
        assert!(matches!(outcome, JobOutcome::Cancelled(_)));
        assert!(backups[0].job().outcome().unwrap().into_result().is_ok());
    });
}

#[test]
fn one_that_fails_cancels_those_that_are_to_end_with_it() {
    on_each_backend(|cx| async move {
        let group = Group::new(&cx).await;
        let broken = FaultRule::every(FaultOp::Write, fail(libc::EIO));
        group.targets[1].1.add(broken);
        let actions = vec![group.backup(0), group.backup(1), group.backup_with(2, slow)];
        let backups = group.start(actions, Completion::Grouped).await.unwrap();
        for (backup, fails) in backups.iter().zip([false, true, false]) {
            match backup.job().wait().await {
                JobOutcome::Failed(_) if fails => {}
                JobOutcome::Cancelled(_) if !fails => {}
                outcome => unreachable!("{outcome:?}"),
            }
        }
    });
}

#[test]
fn one_that_fails_by_itself_is_no_concern_of_the_others() {
    on_each_backend(|cx| async move {
        let group = Group::new(&cx).await;
        let broken = FaultRule::every(FaultOp::Write, fail(libc::EIO));
        group.targets[0].1.add(broken);
        let actions = vec![group.backup(0), group.backup(1)];
        let backups = group.start(actions, Completion::Individual).await.unwrap();
        let outcome = backups[0].job().wait().await;
        assert!(matches!(outcome, JobOutcome::Failed(_)), "{outcome:?}");
        backups[1].job().wait().await.into_result().unwrap();
        let (source, target) = (&group.sources[1].0, &group.targets[1].0);
        assert!(group.content(target).await == group.content(source).await);
    });
}

#[test]
fn a_cancel_of_one_that_waits_or_pauses_cancels_the_rest() {
    on_each_backend(|cx| async move {
        for is_paused in [false, true] {
            let group = Group::new(&cx).await;
            let actions = vec![group.backup(0), group.backup_with(1, slow)];
            let backups = group.start(actions, Completion::Grouped).await.unwrap();
            if is_paused {
                backups[1].job().pause().unwrap();
                let job = backups[1].job();
                until(&cx, || job.status() == JobStatus::Paused).await;
            }
            until(&cx, || backups[0].job().status() == JobStatus::Waiting).await;
            backups[0].job().cancel(CancelMode::Force).unwrap();
            for backup in &backups {
                let outcome = backup.job().wait().await;
                assert!(matches!(outcome, JobOutcome::Cancelled(_)), "{outcome:?}");
            }
        }
    });
}

#[test]
fn one_finalize_ends_all_also_those_that_would_end_by_themselves() {
    on_each_backend(|cx| async move {
        for both in [true, false] {
            let group = Group::new(&cx).await;
            let manual = |options| BackupOptions {
                finalize: Trigger::Manual,
                ..options
            };
            let first = group.backup_with(0, manual);
            let second = match both {
                true => group.backup_with(1, manual),
                false => group.backup(1),
            };
            let started = group.start(vec![first, second], Completion::Grouped).await;
            let backups = started.unwrap();
            for backup in &backups {
                until(&cx, || backup.job().status() == JobStatus::Pending).await;
            }
            settle(&cx).await;
            assert_eq!(backups[1].job().status(), JobStatus::Pending);
            backups[0].job().finalize().unwrap();
            all_end_well(&backups).await;
        }
    });
}

#[test]
fn an_abort_undoes_the_backups_before_it_and_guests_notice_nothing() {
    on_each_backend(|cx| async move {
        let group = Group::new(&cx).await;
        let guest = attach(&group.graph, &group.sources[0].0);
        let (writer, home) = (attach(&group.graph, &group.sources[0].0), cx.clone());
        let section = group.graph.drain(&[group.sources[0].0.clone()]).await;
        // It waits in the drained section, and goes on into a filter that is about to go.
        let writing = cx.spawn(async move { write(&writer, &home, 0, &[7; 100]).await });
        settle(&cx).await;
        let actions = vec![group.backup(0), group.backup(1), Action::Abort];
        let started = group.start(actions, Completion::Individual);
        let letting_go = async {
            settle(&cx).await;
            drop(section);
        };
        let (refused, ()) = both(started, letting_go).await;
        let want = "Transaction aborted using Abort action";
        assert_eq!(refused.unwrap_err().to_string(), want);
        writing.await.unwrap();
        assert_eq!(read(&guest, &cx, range(0, 100)).await, [7; 100]);
        for (target, at_target) in &group.targets[..2] {
            assert_eq!(at_target.seen(), []);
            assert!(group.content(target).await == vec![0; 2 << 20]);
        }
        let lives: Vec<_> = ["j1", "j0"]
            .into_iter()
            .flat_map(|job| {
                let states = ["created", "aborting", "concluded", "null"];
                states.map(|state| format!("{job} {state}"))
            })
            .collect();
        let mut told = group.told();
        told.sort();
        let mut want = lives;
        want.sort();
        assert_eq!(told, want);
        // And everything is free for the next.
        drop(guest);
        let again = (0..2).map(|number| group.backup(number)).collect();
        let backups = group.start(again, Completion::Grouped).await.unwrap();
        all_end_well(&backups).await;
    });
}

/// Waits for both, which run side by side.
async fn both<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    let (mut a, mut b) = (std::pin::pin!(a), std::pin::pin!(b));
    let (mut of_a, mut of_b) = (None, None);
    std::future::poll_fn(|cx| {
        if of_a.is_none()
            && let std::task::Poll::Ready(value) = a.as_mut().poll(cx)
        {
            of_a = Some(value);
        }
        if of_b.is_none()
            && let std::task::Poll::Ready(value) = b.as_mut().poll(cx)
        {
            of_b = Some(value);
        }
        match of_a.is_some() && of_b.is_some() {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    (of_a.unwrap(), of_b.unwrap())
}

#[test]
fn a_dropped_start_of_a_group_leaves_nothing() {
    on_each_backend(|cx| async move {
        let group = Group::new(&cx).await;
        let hold = FaultRule::nth(FaultOp::Write, 1, FaultAction::Hold);
        group.sources[1].1.add(hold);
        let (writer, home) = (attach(&group.graph, &group.sources[1].0), cx.clone());
        let writing = cx.spawn(async move { write(&writer, &home, 0, &[7; 100]).await });
        group.sources[1].1.wait_held(1).await;
        let shape = group.shape();
        {
            let add = BitmapAction::Add(group.bitmap(0, "b"), BitmapOptions::default());
            let actions = vec![Action::Bitmap(add), group.backup(0), group.backup(1)];
            let mut starting = Box::pin(group.start(actions, Completion::Individual));
            let poll = std::future::poll_fn(|cx| {
                std::task::Poll::Ready(starting.as_mut().poll(cx).is_pending())
            });
            assert!(poll.await, "it waits for the write");
        }
        settle(&cx).await;
        assert_eq!(group.shape(), shape);
        assert!(group.sources[0].0.bitmaps().list().is_empty());
        group.sources[1].1.release_all();
        writing.await.unwrap();
    });
}

#[test]
fn the_first_action_that_fails_has_the_say_and_those_before_it_are_undone() {
    on_each_backend(|cx| async move {
        let group = Group::new(&cx).await;
        let abort = "Transaction aborted using Abort action";
        let actions = vec![Action::Abort, group.backup(0)];
        assert_eq!(group.refused(actions, Completion::Individual).await, abort);

        let taken = |options| BackupOptions {
            filter_name: Some("target0".to_owned()),
            ..options
        };
        let unknown = BackupError::Refused("Cannot find device='x' nor node-name='x'".to_owned());
        let actions = vec![group.backup(0), Action::Refused(unknown), Action::Abort];
        let text = group.refused(actions, Completion::Individual).await;
        assert_eq!(text, "Cannot find device='x' nor node-name='x'");

        for completion in [Completion::Individual, Completion::Grouped] {
            let actions = vec![
                group.backup(0),
                group.backup(1),
                group.backup_with(2, taken),
            ];
            let text = group.refused(actions, completion).await;
            assert_eq!(text, "cannot back up 'source2' to 'target2'");
        }
        // One target for two, and one id for two.
        let mut second = group.spec(1, BackupOptions::new("j1"));
        second.target = group.targets[0].0.clone();
        let actions = vec![group.backup(0), Action::Backup(Box::new(second))];
        let text = group.refused(actions, Completion::Individual).await;
        assert_eq!(text, "cannot back up 'source1' to 'target0'");
        let twice = group.spec(1, BackupOptions::new("j0"));
        let actions = vec![group.backup(0), Action::Backup(Box::new(twice))];
        let text = group.refused(actions, Completion::Grouped).await;
        assert!(text.contains("j0"), "{text}");
    });
}

#[test]
fn jobs_end_together_only_where_all_actions_are_backups_which_is_checked_first() {
    on_each_backend(|cx| async move {
        let group = Group::new(&cx).await;
        let reference = || group.bitmap(0, "b");
        let cases = [
            (Action::Abort, "abort"),
            (
                Action::Bitmap(BitmapAction::Add(reference(), BitmapOptions::default())),
                "block-dirty-bitmap-add",
            ),
            (
                Action::Bitmap(BitmapAction::Remove(reference())),
                "block-dirty-bitmap-remove",
            ),
            (
                Action::Bitmap(BitmapAction::Clear(reference())),
                "block-dirty-bitmap-clear",
            ),
            (
                Action::Bitmap(BitmapAction::Enable(reference())),
                "block-dirty-bitmap-enable",
            ),
            (
                Action::Bitmap(BitmapAction::Disable(reference())),
                "block-dirty-bitmap-disable",
            ),
            (
                Action::Bitmap(BitmapAction::Merge {
                    target: reference(),
                    sources: Vec::new(),
                }),
                "block-dirty-bitmap-merge",
            ),
        ];
        for (action, name) in cases {
            let text = group
                .refused(vec![group.backup(0), action], Completion::Grouped)
                .await;
            let want = format!(
                "Action '{name}' does not support transaction property completion-mode = grouped"
            );
            assert_eq!(text, want);
            assert!(group.told().is_empty(), "nothing was begun");
        }
        for completion in [Completion::Individual, Completion::Grouped] {
            let started = group.start(Vec::new(), completion).await.unwrap();
            assert!(started.is_empty());
        }
    });
}

#[test]
fn changes_of_bitmaps_are_undone_with_the_backups_around_them() {
    on_each_backend(|cx| async move {
        let group = Group::new(&cx).await;
        let source = &group.sources[0].0;
        let bitmap = source.bitmaps().add("b", BitmapOptions::default()).unwrap();
        let guest = attach(&group.graph, source);
        write(&guest, &cx, 5 * CLUSTER, &[1; 10]).await.unwrap();
        drop(guest);
        let before = bitmap.info();
        let working_on_it = |sync| {
            move |options| BackupOptions {
                sync,
                bitmap: Some(BackupBitmap {
                    name: "b".to_owned(),
                    mode: BitmapMode::Always,
                }),
                ..options
            }
        };
        for sync in [BackupSync::Bitmap, BackupSync::Full] {
            let actions = vec![
                Action::Bitmap(BitmapAction::Add(
                    group.bitmap(0, "new"),
                    BitmapOptions::default(),
                )),
                group.backup_with(0, working_on_it(sync)),
                group.backup(1),
                Action::Bitmap(BitmapAction::Add(
                    group.bitmap(2, "new"),
                    BitmapOptions::default(),
                )),
                Action::Abort,
            ];
            group.refused(actions, Completion::Individual).await;
            assert_eq!(bitmap.info(), before);
            let names: Vec<_> = source
                .bitmaps()
                .list()
                .iter()
                .map(|b| b.name().to_owned())
                .collect();
            assert_eq!(names, ["b"]);
            assert!(group.sources[2].0.bitmaps().list().is_empty());
        }
        // A bitmap that is in use by an earlier action cannot be removed by a later one.
        let actions = vec![
            group.backup_with(0, working_on_it(BackupSync::Bitmap)),
            Action::Bitmap(BitmapAction::Remove(group.bitmap(0, "b"))),
        ];
        let text = group.refused(actions, Completion::Individual).await;
        assert_eq!(
            text,
            "Bitmap 'b' is currently in use by another operation and cannot be used"
        );
        assert_eq!(bitmap.info(), before);
    });
}

#[test]
fn a_backup_may_use_a_bitmap_that_the_same_transaction_adds() {
    on_each_backend(|cx| async move {
        let group = Group::new(&cx).await;
        let full = |options| BackupOptions {
            bitmap: Some(BackupBitmap {
                name: "b".to_owned(),
                mode: BitmapMode::OnSuccess,
            }),
            ..options
        };
        let add = BitmapAction::Add(group.bitmap(0, "b"), BitmapOptions::default());
        let guest = attach(&group.graph, &group.sources[0].0);
        let actions = vec![Action::Bitmap(add), group.backup_with(0, full)];
        let backups = group.start(actions, Completion::Individual).await.unwrap();
        all_end_well(&backups).await;
        write(&guest, &cx, 3 * CLUSTER, &[1; 10]).await.unwrap();
        let bitmap = group.sources[0].0.bitmaps().find("b").unwrap();
        assert_eq!(bitmap.info().count_bytes, CLUSTER);
    });
}

#[test]
fn a_failure_of_one_keeps_the_bitmaps_of_all() {
    on_each_backend(|cx| async move {
        let group = Group::new(&cx).await;
        for (source, _) in &group.sources[..2] {
            source.bitmaps().add("b", BitmapOptions::default()).unwrap();
            let guest = attach(&group.graph, source);
            write(&guest, &cx, 5 * CLUSTER, &[1; 10]).await.unwrap();
        }
        let incremental = |options| BackupOptions {
            sync: BackupSync::Bitmap,
            bitmap: Some(BackupBitmap {
                name: "b".to_owned(),
                mode: BitmapMode::OnSuccess,
            }),
            ..options
        };
        let actions = || {
            let both = [0, 1].map(|number| group.backup_with(number, incremental));
            Vec::from(both)
        };
        let hold = FaultRule::every(FaultOp::Write, FaultAction::Hold);
        group.targets[1].1.add(hold);
        let guest = attach(&group.graph, &group.sources[0].0);
        let backups = group.start(actions(), Completion::Grouped).await.unwrap();
        until(&cx, || backups[0].job().status() == JobStatus::Waiting).await;
        group.targets[1].1.wait_held(1).await;
        write(&guest, &cx, 9 * CLUSTER, &[1; 10]).await.unwrap();
        backups[1].job().cancel(CancelMode::Force).unwrap();
        settle(&cx).await;
        group.targets[1].1.clear();
        group.targets[1].1.release_all();
        for backup in &backups {
            assert!(backup.job().wait().await.into_result().is_err());
        }
        let count = |number: usize| {
            let bitmap = group.sources[number].0.bitmaps().find("b").unwrap();
            bitmap.info().count_bytes
        };
        assert_eq!((count(0), count(1)), (2 * CLUSTER, CLUSTER));

        let backups = group.start(actions(), Completion::Grouped).await.unwrap();
        all_end_well(&backups).await;
        assert_eq!((count(0), count(1)), (0, 0));
        for (source, target) in group.sources.iter().zip(&group.targets).take(2) {
            let (source, target) = (
                group.content(&source.0).await,
                group.content(&target.0).await,
            );
            let at = usize::try_from(cluster(5).start()).unwrap();
            assert!(target[at..][..65536] == source[at..][..65536]);
        }
    });
}

#[test]
fn museum_26_a_member_that_fails_at_once_leaves_no_trace_of_itself() {
    on_each_backend(|cx| async move {
        for failing in 0..3 {
            let group = Group::new(&cx).await;
            let shape = group.shape();
            // Its very first read fails, before the others have begun.
            let broken = FaultRule::every(FaultOp::Read, fail(libc::EIO));
            group.sources[failing].1.add(broken);
            let actions = (0..3).map(|number| group.backup(number)).collect();
            let backups = group.start(actions, Completion::Grouped).await.unwrap();
            for backup in &backups {
                assert!(backup.job().wait().await.into_result().is_err());
            }
            drop(backups);
            settle(&cx).await;
            assert!(group.jobs.list().is_empty());
            assert_eq!(group.shape(), shape);
            // The transaction is over: its members are free for another.
            group.sources[failing].1.clear();
            let actions = (0..3).map(|number| group.backup(number)).collect();
            let backups = group.start(actions, Completion::Grouped).await.unwrap();
            all_end_well(&backups).await;
        }
    });
}

/// A guest that writes one number after the other, each to its disks in turn, at a place of its own.
async fn count_up(
    cx: &AioContext,
    guests: &[block::Child],
    (place, go_on): (u64, &Cell<bool>),
    mut chance: Chance,
) {
    let mut number = 0_u64;
    while go_on.get() {
        number += 1;
        for guest in guests {
            write(guest, cx, place, &number.to_le_bytes())
                .await
                .unwrap();
        }
        cx.sleep_ns(chance.below(20_000)).await;
    }
}

fn number_at(disk: &[u8], place: u64) -> u64 {
    let at = usize::try_from(place).unwrap();
    u64::from_le_bytes(disk[at..][..8].try_into().unwrap())
}

/// Guests that count on several disks, and backups of all in the middle; `order` is that of the actions. A guest that
/// is held up on one disk changes no other, so that some guests leave out each of them.
async fn round(cx: &AioContext, order: [usize; 3], mut chance: Chance) {
    let group = Group::new(cx).await;
    let counters: [(u64, &[usize]); 4] = [
        (0, &[0, 1, 2]),
        (380_000, &[0, 1]),
        (760_000, &[1, 2]),
        (1_140_000, &[0, 2]),
    ];
    for (place, _) in counters {
        for (source, _) in &group.sources {
            let guest = attach(&group.graph, source);
            write(&guest, cx, place, &[0; 8]).await.unwrap();
        }
    }
    for (_, at_source) in &group.sources {
        let delay = |ns| FaultAction::Delay { ns };
        let rule = FaultRule::every(FaultOp::Write, delay(chance.below(50_000)));
        at_source.add(rule);
    }
    let go_on = Rc::new(Cell::new(true));
    let tasks = counters.map(|(place, disks)| {
        let sources = disks.iter().map(|disk| &group.sources[*disk].0);
        let guests = sources.map(|source| attach(&group.graph, source));
        let (guests, home): (Vec<_>, _) = (guests.collect(), cx.clone());
        let go_on = go_on.clone();
        let chance = Chance::new(chance.below(u64::MAX));
        cx.spawn(async move { count_up(&home, &guests, (place, &go_on), chance).await })
    });
    let beside = group.slow_backups_beside(chance.below(u64::MAX)).await;
    for _ in 0..chance.below(200) {
        cx.yield_now().await;
    }
    let actions = order.map(|number| group.backup(number));
    let backups = group
        .start(actions.into(), Completion::Grouped)
        .await
        .unwrap();
    all_end_well(&backups).await;
    all_end_well(&beside).await;
    go_on.set(false);
    for task in tasks {
        task.await;
    }
    let mut disks = Vec::new();
    for (target, _) in &group.targets {
        disks.push(group.content(target).await);
    }
    for (place, on) in counters {
        let numbers: Vec<_> = on
            .iter()
            .map(|disk| number_at(&disks[*disk], place))
            .collect();
        let (most, least) = (numbers[0], numbers[numbers.len() - 1]);
        let is_cut = numbers.is_sorted_by(|a, b| a >= b) && most - least <= 1;
        assert!(is_cut, "disks of different times: {numbers:?}");
    }
}

#[test]
fn museum_38_disks_of_one_transaction_are_all_of_one_instant() {
    let seed = seed();
    on_each_backend(|cx| async move {
        let mut chance = Chance::new(seed);
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            for _ in 0..4 {
                let chance = Chance::new(chance.below(u64::MAX));
                round(&cx, order, chance).await;
            }
        }
    });
}
