//! Each sync mode under guests that write everywhere at once: the target has the bytes of the instant, where the mode
//! says so, and what it had before everywhere else.

use std::{cell::Cell, rc::Rc};

use aio::{AioContext, Task};
use block::{Child, DirtyBitmap, RequestFlags, bitmap::BitmapOptions};
use drivers::{
    BitmapMode,
    backup::{Backup, BackupBitmap, BackupOptions, BackupSync},
};
use job::{CancelMode, JobOutcome};

use super::{
    instant::slow_down,
    oracle::{Chance, seed, stamped},
    overlay::{Own, overlay},
    world::{
        CLUSTER, Disks, World, attach, in_memory, on_each_backend, options, range, until, write,
    },
};

const GUESTS: u64 = 3;
/// What the target has before.
const JUNK: u8 = 0xee;
const LEN: u64 = 9 * CLUSTER + 513;

/// A disk that guests write, and what it takes to know it at an instant.
pub(crate) struct Scene {
    pub(crate) world: World,
    own: Option<Own>,
    go_on: Rc<Cell<bool>>,
    guests: Vec<Task<()>>,
}

/// The bytes of a source at an instant, and which of them its layer had itself.
pub(crate) struct Instant {
    pub(crate) bytes: Vec<u8>,
    own: Option<Own>,
}

impl Scene {
    /// A full disk; with `sync` top, an empty layer above it, which guests write.
    pub(crate) async fn new(cx: &AioContext, sync: BackupSync) -> Self {
        let mut disks = World::full(cx, LEN).await.disks();
        let own = match sync {
            BackupSync::Top => {
                let (layer, own) = overlay(&disks.graph, "layer", &disks.source);
                disks.source = layer;
                Some(own)
            }
            BackupSync::Full | BackupSync::None | BackupSync::Bitmap => None,
        };
        Self::over(cx, disks, own).await
    }

    async fn over(cx: &AioContext, disks: Disks, own: Option<Own>) -> Self {
        let world = World::with_disks(cx, disks);
        let target = attach(&world.graph, &world.target);
        let junk = vec![JUNK; in_memory(world.len_bytes)];
        write(&target, cx, 0, &junk).await.unwrap();
        Self {
            world,
            own,
            go_on: Rc::new(Cell::new(true)),
            guests: Vec::new(),
        }
    }

    /// Guests that write anywhere, across each other, until they are told to stop.
    pub(crate) fn start_guests(&mut self, seed: u64) {
        for number in 0..GUESTS {
            let (guest, cx) = (self.world.guest_above(), self.world.cx.clone());
            let (go_on, len_bytes) = (self.go_on.clone(), self.world.len_bytes);
            let chance = Chance::new(seed ^ (number << 40));
            let writing = async move { write_on(&guest, &cx, (&go_on, len_bytes), chance).await };
            self.guests.push(self.world.cx.spawn(writing));
        }
    }

    pub(crate) async fn stop_guests(&mut self) {
        self.go_on.set(false);
        for guest in self.guests.drain(..) {
            guest.await;
        }
    }

    async fn below(&self, node: &str) -> Vec<u8> {
        let node = self.world.graph.node(node).unwrap();
        self.world.content(&self.world.cx, &node).await
    }

    /// The source now, which is drained.
    async fn instant(&self) -> Instant {
        let mut bytes = self.below("source-memory").await;
        let own = self.own.as_ref().map(Own::now);
        if let Some(own) = &own {
            let layer = self.below("layer-memory").await;
            let is_own = |at: &usize| own.has(u64::try_from(*at).unwrap());
            for at in (0..layer.len()).filter(is_own) {
                bytes[at] = layer[at];
            }
        }
        Instant { bytes, own }
    }

    /// Starts a backup, and looks at the source in the same drained section.
    pub(crate) async fn start(&self, options: BackupOptions) -> (Backup, Instant) {
        let section = self.world.drain(&self.world.source).await;
        let instant = self.instant().await;
        let backup = self.world.start(options).await.unwrap();
        drop(section);
        (backup, instant)
    }
}

async fn write_on(
    guest: &Child,
    cx: &AioContext,
    (go_on, len_bytes): (&Cell<bool>, u64),
    mut chance: Chance,
) {
    while go_on.get() {
        change(guest, cx, len_bytes, &mut chance).await;
        cx.sleep_ns(chance.below(40_000)).await;
    }
}

async fn change(guest: &Child, cx: &AioContext, len_bytes: u64, chance: &mut Chance) {
    let start = chance.below(len_bytes);
    let longest = [1000, 5000, 200_000][in_memory(chance.below(3))];
    let at = range(start, 1 + chance.below(longest.min(len_bytes - start)));
    match chance.below(10) {
        0 => {
            let flags = RequestFlags::default();
            guest.write_zeroes(cx, at, flags).await.unwrap();
        }
        1 => guest.discard(cx, at).await.unwrap(),
        _ => {
            let bytes = stamped(chance.below(u64::MAX), in_memory(at.len()));
            write(guest, cx, at.start(), &bytes).await.unwrap();
        }
    }
}

/// Where in a disk the bytes of a cluster are.
fn clusters(len_bytes: u64) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..len_bytes.div_ceil(CLUSTER)).map(move |number| {
        let end = ((number + 1) * CLUSTER).min(len_bytes);
        in_memory(number * CLUSTER)..in_memory(end)
    })
}

/// Whether something of this area is in the bitmap.
pub(crate) fn is_touched(bits: &DirtyBitmap, area: &std::ops::Range<usize>) -> bool {
    let from = u64::try_from(area.start).unwrap();
    let next = bits.next_dirty(from);
    next.is_some_and(|at| in_memory(at) < area.end)
}

fn is_junk(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == JUNK)
}

async fn pass_time(cx: &AioContext, chance: &mut Chance) {
    for _ in 0..chance.below(100) {
        cx.yield_now().await;
    }
}

fn of(sync: BackupSync) -> BackupOptions {
    BackupOptions { sync, ..options() }
}

async fn ends_well(backup: &Backup) {
    backup.job().wait().await.into_result().unwrap();
}

/// Rounds of one mode, each with its own chance.
fn rounds<F: Future<Output = ()>>(number: u64, round: impl Fn(AioContext, Chance) -> F) {
    let seed = seed();
    on_each_backend(|cx| {
        let round = &round;
        async move {
            for turn in 0..number {
                let chance = Chance::new(seed.wrapping_add(turn << 20));
                round(cx.clone(), chance).await;
            }
        }
    });
}

#[test]
fn a_full_backup_has_every_byte_of_its_instant() {
    rounds(4, |cx, mut chance| async move {
        let mut scene = Scene::new(&cx, BackupSync::Full).await;
        slow_down(&scene.world, &mut chance);
        scene.start_guests(chance.below(u64::MAX));
        pass_time(&cx, &mut chance).await;
        let (backup, instant) = scene.start(of(BackupSync::Full)).await;
        ends_well(&backup).await;
        scene.stop_guests().await;
        assert!(scene.world.target_bytes().await == instant.bytes);
    });
}

#[test]
fn a_backup_of_the_top_layer_has_what_that_had_at_its_instant_and_no_cluster_more() {
    rounds(4, |cx, mut chance| async move {
        let mut scene = Scene::new(&cx, BackupSync::Top).await;
        slow_down(&scene.world, &mut chance);
        // Something for the layer to have, and something for it not to have.
        scene
            .world
            .guest_writes(range(2 * CLUSTER, 10), 1)
            .await
            .unwrap();
        if chance.below(2) == 0 {
            scene.start_guests(chance.below(u64::MAX));
            let seen = scene.world.source.statistics().writes;
            until(&cx, || scene.world.source.statistics().writes > seen).await;
        }
        let (backup, instant) = scene.start(of(BackupSync::Top)).await;
        if scene.guests.is_empty() {
            scene.start_guests(chance.below(u64::MAX));
        }
        ends_well(&backup).await;
        scene.stop_guests().await;

        let target = scene.world.target_bytes().await;
        let own = instant.own.unwrap();
        for area in clusters(LEN) {
            let has = |at: &usize| own.has(u64::try_from(*at).unwrap());
            if area.clone().any(|at| has(&at)) {
                assert!(
                    target[area.clone()] == instant.bytes[area.clone()],
                    "{area:?}"
                );
            } else {
                assert!(is_junk(&target[area.clone()]), "{area:?}");
            }
        }
        let progress = backup.job().progress().snapshot();
        assert_eq!(progress.current, progress.total);
    });
}

#[test]
fn a_snapshot_without_background_copy_has_the_old_bytes_of_what_guests_changed() {
    rounds(4, |cx, mut chance| async move {
        let mut scene = Scene::new(&cx, BackupSync::None).await;
        slow_down(&scene.world, &mut chance);
        scene.start_guests(chance.below(u64::MAX));
        pass_time(&cx, &mut chance).await;
        let (backup, instant) = scene.start(of(BackupSync::None)).await;
        pass_time(&cx, &mut chance).await;
        scene.stop_guests().await;
        let now = scene.world.source_bytes().await;
        let done_bytes = backup.report().done_bytes;
        backup.job().cancel(CancelMode::Force).unwrap();
        let outcome = backup.job().wait().await;
        assert!(matches!(outcome, JobOutcome::Cancelled(_)), "{outcome:?}");

        let target = scene.world.target_bytes().await;
        let mut saved = 0;
        for area in clusters(LEN) {
            if target[area.clone()] == instant.bytes[area.clone()] {
                saved += area.len();
                continue;
            }
            assert!(is_junk(&target[area.clone()]), "part of {area:?} is saved");
            assert!(
                now[area.clone()] == instant.bytes[area.clone()],
                "{area:?} is not saved"
            );
        }
        assert_eq!(u64::try_from(saved).unwrap(), done_bytes);
    });
}

/// What is dirty in the source's bitmap `b`.
pub(crate) fn bits_of(world: &World) -> DirtyBitmap {
    let bitmap = world.source.bitmaps().find("b").unwrap();
    bitmap.snapshot().unwrap()
}

fn with_bitmap(mode: BitmapMode) -> BackupOptions {
    BackupOptions {
        bitmap: Some(BackupBitmap {
            name: "b".to_owned(),
            mode,
        }),
        ..of(BackupSync::Bitmap)
    }
}

#[test]
fn a_backup_of_a_bitmap_has_its_granules_at_the_instant_and_no_cluster_more() {
    rounds(6, |cx, mut chance| async move {
        let mut scene = Scene::new(&cx, BackupSync::Bitmap).await;
        let granularity_bytes = 512 << (chance.below(4) * 4);
        let bitmap = BitmapOptions {
            granularity_bytes: Some(granularity_bytes),
            ..BitmapOptions::default()
        };
        scene.world.source.bitmaps().add("b", bitmap).unwrap();
        slow_down(&scene.world, &mut chance);
        for _ in 0..chance.below(4) {
            let at = chance.below(LEN - 10);
            scene.world.guest_writes(range(at, 10), 3).await.unwrap();
        }
        let mode = BitmapMode::ALL[in_memory(chance.below(3))];
        let section = scene.world.drain(&scene.world.source).await;
        scene.start_guests(chance.below(u64::MAX));
        let bits = bits_of(&scene.world);
        let (backup, instant) = scene.start(with_bitmap(mode)).await;
        drop(section);
        ends_well(&backup).await;
        scene.stop_guests().await;

        let target = scene.world.target_bytes().await;
        for area in clusters(LEN) {
            if is_touched(&bits, &area) {
                assert!(
                    target[area.clone()] == instant.bytes[area.clone()],
                    "{area:?}"
                );
            } else {
                assert!(is_junk(&target[area.clone()]), "{area:?}");
            }
        }
        // What has changed since is in the bitmap, whatever its mode; with never, what was there is, too.
        let (now, after) = (scene.world.source_bytes().await, bits_of(&scene.world));
        let changed = (0..now.len()).filter(|at| now[*at] != instant.bytes[*at]);
        for at in changed {
            assert!(
                after.is_dirty(u64::try_from(at).unwrap()),
                "{at} is forgotten"
            );
        }
        if mode == BitmapMode::Never {
            let mut both = after.clone();
            both.merge(&bits).unwrap();
            assert_eq!(both, after);
        }
    });
}
