//! The same with the main context, the job and every guest on a thread of its own.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use aio::{BackendKind, Config, Handle, IoThread};
use drivers::backup::{Backup, BackupOptions};
use job::{CancelMode, JobOutcome, JobRegistry};

use super::{
    instant::carry_out,
    oracle::{Chance, Ticks, Writer, check_cut, replay, seed},
    world::{CLUSTER, Disks, MIB, Side, Watch, backends, in_memory, options, pattern, write},
};

const GUESTS: u64 = 3;

fn thread(name: &str, backend: BackendKind) -> IoThread {
    let config = Config {
        name: name.to_owned(),
        backend: Some(backend),
        buffer_bytes_max: 8 << 20,
        ..Config::default()
    };
    IoThread::start(config).unwrap()
}

struct Threads {
    main: IoThread,
    job: IoThread,
    guests: Vec<IoThread>,
}

impl Threads {
    fn start(backend: BackendKind) -> Self {
        Self {
            main: thread("main", backend),
            job: thread("job", backend),
            guests: (0..GUESTS).map(|_| thread("guest", backend)).collect(),
        }
    }
}

/// A full source, written on the loop behind `home`.
fn filled(home: &Handle, len_bytes: u64) -> Disks {
    let disks = Disks::new(len_bytes);
    let same = disks.clone();
    let bytes = pattern(disks.whole(), 1);
    let filling = home.spawn(move |cx| async move {
        write(&same.guest(), &cx, 0, &bytes).await.unwrap();
    });
    filling.wait();
    disks
}

fn content(home: &Handle, disks: &Disks, side: Side) -> Vec<u8> {
    let disks = disks.clone();
    let reading = home.spawn(move |cx| async move { disks.content(&cx, disks.node(side)).await });
    reading.wait()
}

fn start(threads: &Threads, disks: &Disks, jobs: &JobRegistry, options: BackupOptions) -> Backup {
    let (disks, jobs, home) = (disks.clone(), jobs.clone(), threads.job.handle().clone());
    let starting = threads.main.handle().spawn(move |_| async move {
        let nodes = (&disks.source, &disks.target);
        Backup::start((&disks.graph, &jobs), &home, nodes, options).await
    });
    starting.wait().unwrap()
}

/// Guests that write until `go_on` is false, each on its thread.
fn start_guests(
    threads: &Threads,
    disks: &Disks,
    ticks: &Arc<Ticks>,
    (go_on, seed): (&Arc<AtomicBool>, u64),
) -> Vec<aio::JoinHandle<Writer>> {
    let guests = threads.guests.iter().zip(0..);
    let tasks = guests.map(|(thread, number)| {
        let mut writer = Writer::new(number, GUESTS, disks.len_bytes, seed);
        let (guest, ticks, go_on) = (disks.guest(), ticks.clone(), go_on.clone());
        thread.handle().spawn(move |cx| async move {
            while go_on.load(Ordering::SeqCst) {
                let entry = writer.issue(ticks.tick());
                carry_out(&guest, &cx, entry).await;
                writer.acknowledge(ticks.tick());
                cx.yield_now().await;
            }
            writer
        })
    });
    tasks.collect()
}

#[test]
fn guests_on_other_threads_meet_the_same_instant() {
    let seed = seed();
    let watch = Watch::start();
    for backend in backends() {
        let threads = Threads::start(backend);
        let jobs = JobRegistry::new(threads.main.handle().clone());
        let mut chance = Chance::new(seed);
        for number in 0..9 {
            let len = [MIB + 513, 3 * MIB, 9 * CLUSTER - 1][number % 3];
            let disks = filled(threads.main.handle(), len);
            let first = content(threads.main.handle(), &disks, Side::Source);
            let (ticks, go_on) = (Arc::new(Ticks::default()), Arc::new(AtomicBool::new(true)));
            let seed = chance.below(u64::MAX);
            let guests = start_guests(&threads, &disks, &ticks, (&go_on, seed));
            let called = ticks.tick();
            let backup = start(&threads, &disks, &jobs, options());
            let returned = ticks.tick();
            let outcome = backup.job().wait_blocking();
            go_on.store(false, Ordering::SeqCst);
            let logs: Vec<_> = guests.into_iter().map(aio::JoinHandle::wait).collect();

            outcome.into_result().unwrap();
            let copy = content(threads.main.handle(), &disks, Side::Target);
            check_cut(&logs, &first, &copy, (called, returned));
            let source = content(threads.main.handle(), &disks, Side::Source);
            assert!(source == replay(&logs, &first));
            assert_eq!(disks.filters(), 0);
        }
    }
    watch.end();
}

#[test]
fn verbs_from_other_threads_at_any_time_lose_nothing() {
    let seed = seed();
    let watch = Watch::start();
    for backend in backends() {
        let threads = Threads::start(backend);
        let jobs = JobRegistry::new(threads.main.handle().clone());
        let mut chance = Chance::new(seed);
        for number in 0..9 {
            let disks = filled(threads.main.handle(), 2 * MIB);
            let shape = disks.shape();
            let first = content(threads.main.handle(), &disks, Side::Source);
            let (ticks, go_on) = (Arc::new(Ticks::default()), Arc::new(AtomicBool::new(true)));
            let seed = chance.below(u64::MAX);
            let guests = start_guests(&threads, &disks, &ticks, (&go_on, seed));
            let called = ticks.tick();
            // Requests now where the job is, now on two threads that it may be on or not.
            let contexts = [&threads.job, &threads.guests[1]].map(|thread| thread.handle().clone());
            let contexts = contexts[..number % 2 * 2].to_vec();
            let options = BackupOptions {
                contexts,
                ..options()
            };
            let backup = start(&threads, &disks, &jobs, options);
            let returned = ticks.tick();
            let cancel_after = (number % 3 == 0).then(|| chance.below(20));
            play_with(&threads, &disks, &backup, (&mut chance, cancel_after));
            let outcome = backup.job().wait_blocking();
            go_on.store(false, Ordering::SeqCst);
            let logs: Vec<_> = guests.into_iter().map(aio::JoinHandle::wait).collect();

            match outcome {
                JobOutcome::Completed => {
                    let copy = content(threads.main.handle(), &disks, Side::Target);
                    check_cut(&logs, &first, &copy, (called, returned));
                }
                JobOutcome::Cancelled(_) => assert!(cancel_after.is_some()),
                JobOutcome::Failed(error) => panic!("{error}"),
            }
            let source = content(threads.main.handle(), &disks, Side::Source);
            assert!(source == replay(&logs, &first));
            drop(backup);
            assert_eq!(disks.shape(), shape);
        }
    }
    watch.end();
}

/// Pauses, resumes, drains, moves, changes speed, and may cancel in the end.
fn play_with(
    threads: &Threads,
    disks: &Disks,
    backup: &Backup,
    (chance, cancel_after): (&mut Chance, Option<u64>),
) {
    // Verbs of a job that has ended meanwhile are refused, which is as it should be.
    for step in 0..30_u64 {
        if cancel_after == Some(step) {
            let _ = backup.job().cancel(CancelMode::Force);
        }
        match chance.below(5) {
            0 => {
                let _ = backup.job().pause();
            }
            1 => {
                let _ = backup.set_speed((8 + chance.below(100)) * MIB);
            }
            2 => {
                let _ = backup.job().resume();
            }
            3 => {
                let places = [&threads.main, &threads.job, &threads.guests[0]];
                let place = places[in_memory(chance.below(3))].handle().clone();
                let job = backup.job().clone();
                let moving = threads.main.handle().spawn(move |_| async move {
                    job.set_context(&place).await.expect("no thread ends here");
                    assert!(job.context().is_same(&place) || job.outcome().is_some());
                });
                moving.wait();
            }
            _ => {
                let (disks, side) = (disks.clone(), Side::BOTH[usize::from(step % 2 == 0)]);
                let draining = threads.main.handle().spawn(move |cx| async move {
                    let section = disks.drain(disks.node(side)).await;
                    cx.yield_now().await;
                    drop(section);
                });
                draining.wait();
            }
        }
    }
    let _ = backup.job().resume();
    let _ = backup.set_speed(0);
}
