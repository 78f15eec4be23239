//! What no mirror does, and in which words it says so; a refused start leaves nothing behind.

use block::{
    Attachment, ChildRole, Node, Permissions,
    nodes::{FaultControl, FaultNode, MemoryNode, MemoryOptions},
};
use drivers::{
    BitmapMode,
    mirror::{
        MirrorError, MirrorOptions, MirrorRequest, MirrorSync, NamedBitmaps, RequestedMirrorSync,
    },
};

use super::{between, complete, keep, options, ready, start, try_start};
use crate::world::{MIB, World, on_each_backend};

const LEN: u64 = MIB;

fn request() -> MirrorRequest {
    MirrorRequest {
        job_id: Some("m".to_owned()),
        ..MirrorRequest::new("source", "target", RequestedMirrorSync::Full)
    }
}

/// The error with its causes.
fn text(error: &MirrorError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn add_memory(world: &World, name: &str, len_bytes: u64) -> Node {
    let memory = MemoryNode::new(MemoryOptions::new(len_bytes)).unwrap();
    world.graph.add_node(Some(name), memory).unwrap()
}

/// A request that differs from a good one, and what is said about it.
type Case = (fn(&mut MirrorRequest), &'static str);

const WRONG_NODES: [Case; 7] = [
    (
        |request| request.device = "nope".to_owned(),
        "Cannot find device='nope' nor node-name='nope'",
    ),
    (
        |request| request.target = "nope".to_owned(),
        "Cannot find device='nope' nor node-name='nope'",
    ),
    (
        |request| request.device = "source-memory".to_owned(),
        "Need a root block node",
    ),
    (
        |request| request.target = "source".to_owned(),
        "Can't mirror node into itself",
    ),
    (
        |request| request.replaces = Some("nope".to_owned()),
        "Failed to find node with node-name='nope'",
    ),
    (
        |request| request.replaces = Some("target-memory".to_owned()),
        "Cannot replace 'target-memory' by a node mirrored from 'source', because it cannot be \
         guaranteed that doing so would not lead to an abrupt change of visible data",
    ),
    (
        |request| request.replaces = Some("short".to_owned()),
        "Replaced node and target image have different sizes",
    ),
];

const WRONG_NUMBERS: [Case; 5] = [
    (
        |request| request.granularity = Some(256),
        "Parameter 'granularity' expects a value in range [512B, 64MB]",
    ),
    (
        |request| request.granularity = Some(128 << 20),
        "Parameter 'granularity' expects a value in range [512B, 64MB]",
    ),
    (
        |request| request.granularity = Some(1000),
        "Parameter 'granularity' expects a power of 2",
    ),
    (
        |request| request.buf_size = Some(-1),
        "Invalid parameter 'buf-size'",
    ),
    (
        |request| request.speed = -1,
        "Parameter 'speed' expects a non-negative value",
    ),
];

const WRONG_SYNCS: [Case; 5] = [
    (
        |request| request.sync = RequestedMirrorSync::Incremental,
        "Sync mode 'incremental' not supported",
    ),
    (
        |request| request.sync = RequestedMirrorSync::Bitmap,
        "must provide a valid bitmap name for 'bitmap' sync mode",
    ),
    (
        |request| {
            request.sync = RequestedMirrorSync::Bitmap;
            request.bitmap = Some("b".to_owned());
        },
        "Bitmap sync mode must be given when providing a bitmap",
    ),
    (
        |request| request.bitmap_mode = Some(BitmapMode::Always),
        "Cannot specify bitmap sync mode without a bitmap",
    ),
    (
        |request| request.bitmap = Some("b".to_owned()),
        "sync mode 'full' does not produce meaningful bitmap outputs",
    ),
];

#[test]
fn requests_are_refused_in_the_words_of_the_protocol() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        add_memory(&world, "short", LEN / 2);
        let shape = world.shape();
        let cases = WRONG_NODES.iter().chain(&WRONG_NUMBERS).chain(&WRONG_SYNCS);
        for (change, wanted) in cases {
            let mut request = request();
            change(&mut request);
            let error = request.resolve(&world.graph).unwrap_err();
            assert_eq!(text(&error), *wanted);
        }
        assert_eq!(world.shape(), shape);
        for sync in RequestedMirrorSync::ALL {
            assert_eq!(RequestedMirrorSync::from_name(sync.as_str()), Some(sync));
        }
    });
}

#[test]
fn a_request_without_wishes_gets_the_defaults_and_runs() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let spec = MirrorRequest {
            granularity: Some(4096),
            buf_size: Some(0),
            ..request()
        };
        let spec = spec.resolve(&world.graph).unwrap();
        assert_eq!(spec.options.buffer_bytes_max, 16 << 20);
        assert!(matches!(spec.options.sync, MirrorSync::Full));
        let mirror = between(&world, (&spec.source, &spec.target), spec.options)
            .await
            .unwrap();
        until_ready_and_keep(&world, mirror).await;
    });
}

async fn until_ready_and_keep(world: &World, mirror: drivers::mirror::Mirror) {
    super::until_status(world, &mirror, job::JobStatus::Ready).await;
    keep(&mirror).await;
}

#[test]
fn starts_that_cannot_be_are_refused_and_leave_nothing() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let short = add_memory(&world, "short", LEN / 2);
        let read_only = MemoryOptions {
            read_only: true,
            ..MemoryOptions::new(LEN)
        };
        let read_only = MemoryNode::new(read_only).unwrap();
        let read_only = world.graph.add_node(Some("ro"), read_only).unwrap();
        let shape = world.shape();
        for _ in 0..20 {
            let cases = [
                (
                    &short,
                    options(),
                    "Source and target image have different sizes",
                ),
                (&world.source, options(), "Can't mirror node into itself"),
                (&read_only, options(), "node is read-only"),
                (
                    &world.target,
                    MirrorOptions {
                        granularity_bytes: Some(1000),
                        ..options()
                    },
                    "Granularity must be power of 2",
                ),
                (
                    &world.target,
                    MirrorOptions {
                        filter_name: Some("1st".to_owned()),
                        ..options()
                    },
                    "Invalid node-name: '1st'",
                ),
                (
                    &world.target,
                    MirrorOptions {
                        job_id: "1st".to_owned(),
                        ..options()
                    },
                    "Invalid job ID '1st'",
                ),
            ];
            for (target, options, wanted) in cases {
                let error = between(&world, (&world.source, target), options)
                    .await
                    .unwrap_err();
                assert!(text(&error).contains(wanted), "{}", text(&error));
            }
            assert_eq!(world.shape(), shape);
        }
        let mirror = ready(&world, options()).await;
        complete(&mirror).await;
        world.graph.remove_node(&world.source).unwrap();
    });
}

#[test]
fn a_second_job_on_either_node_is_refused() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let mirror = start(&world, options()).await;
        let second = || MirrorOptions {
            job_id: "second".to_owned(),
            ..options()
        };
        let other = add_memory(&world, "other", LEN);
        for nodes in [
            (&world.source, &other),
            (&other, &world.target),
            (&other, &world.source),
            (&world.target, &other),
        ] {
            let error = between(&world, nodes, second()).await.unwrap_err();
            let wanted = "is busy: block device is in use by block job: mirror";
            assert!(text(&error).contains(wanted), "{}", text(&error));
        }
        try_start(&world, options()).await.unwrap_err();
        drop(mirror);
    });
}

#[test]
fn a_target_that_is_a_filter_of_the_source_is_refused() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let builder = world.graph.build_node(Some("above")).unwrap();
        let memory = world.graph.node("source-memory").unwrap();
        let idle = Permissions::IDLE;
        let child = builder
            .attach(&memory, "file", ChildRole::Filtered, idle)
            .unwrap();
        let above = builder.finish(FaultNode::new(child, FaultControl::new()));
        let error = between(&world, (&memory, &above), options())
            .await
            .unwrap_err();
        assert!(
            text(&error).contains("Need a root block node"),
            "{}",
            text(&error)
        );
        // Not the source itself, but what it reads.
        let error = between(&world, (&world.source, &above), options())
            .await
            .unwrap_err();
        assert!(
            text(&error).contains("Permission conflict"),
            "{}",
            text(&error)
        );
    });
}

#[test]
fn bitmaps_that_cannot_serve_are_refused() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let with = |name: &str, mode, bitmaps| MirrorOptions {
            sync: MirrorSync::Bitmap(drivers::mirror::MirrorBitmap {
                name: name.to_owned(),
                mode,
            }),
            bitmaps,
            ..options()
        };
        let shape = world.shape();
        let error = try_start(&world, with("b", BitmapMode::Always, NamedBitmaps::Stay)).await;
        assert_eq!(text(&error.unwrap_err()), "Bitmap 'b' could not be found");
        let bitmap = world.source.bitmaps().add("b", Default::default()).unwrap();
        let busy = bitmap.mark_busy().unwrap();
        let error = try_start(&world, with("b", BitmapMode::Always, NamedBitmaps::Stay)).await;
        assert!(
            text(&error.unwrap_err()).contains("is currently in use"),
            "busy"
        );
        drop(busy);
        let error = try_start(&world, with("b", BitmapMode::Never, NamedBitmaps::Carried)).await;
        assert!(text(&error.unwrap_err()).contains("cannot be carried over"));
        assert_eq!(world.shape(), shape);
        assert!(!bitmap.info().is_busy);
    });
}

#[test]
fn a_user_of_the_target_that_minds_is_named() {
    on_each_backend(|cx| async move {
        let world = World::full(&cx, LEN).await;
        let reads = Permissions::uses(&[block::Permission::ConsistentRead]);
        let user = Attachment::new("export 'e'", ChildRole::Primary, reads);
        let edge = world.graph.attach(&world.target, user).unwrap();
        let error = try_start(&world, options()).await.unwrap_err();
        assert!(text(&error).contains("export 'e'"), "{}", text(&error));
        drop(edge);
        let mirror = ready(&world, options()).await;
        keep(&mirror).await;
    });
}
