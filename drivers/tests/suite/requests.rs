//! What is refused of requests of clients, word for word, and what the others come to.

use block::{
    Graph, Node,
    copy::SourceAfter,
    nodes::{MemoryNode, MemoryOptions, copy_before_write::OnCbwError},
};
use blockjob::OnError;
use drivers::{
    BitmapMode,
    backup::{BackupBitmap, BackupError, BackupRequest, BackupSpec, BackupSync, RequestedSync},
};
use job::Trigger;

use super::world::{MIB, World, on_each_backend};

fn nodes() -> (Graph, Node) {
    let graph = Graph::new();
    let add = |name, len| {
        let memory = MemoryNode::new(MemoryOptions::new(len)).unwrap();
        graph.add_node(Some(name), memory).unwrap()
    };
    let source = add("src", MIB);
    add("dst", MIB);
    add("small", MIB - 1);
    (graph, source)
}

fn named(sync: &str) -> BackupRequest {
    BackupRequest {
        job_id: Some("j".to_owned()),
        ..BackupRequest::new("src", "dst", RequestedSync::from_name(sync).unwrap())
    }
}

fn with_bitmap(sync: &str, bitmap: Option<&str>, mode: Option<BitmapMode>) -> BackupRequest {
    BackupRequest {
        bitmap: bitmap.map(str::to_owned),
        bitmap_mode: mode,
        ..named(sync)
    }
}

fn resolve(cx: &aio::AioContext, request: BackupRequest) -> Result<BackupSpec, BackupError> {
    request.resolve(&nodes().0, cx.handle())
}

fn text(cx: &aio::AioContext, request: BackupRequest) -> String {
    resolve(cx, request).unwrap_err().to_string()
}

#[test]
fn nodes_that_cannot_be_are_refused_in_the_words_of_the_protocol() {
    on_each_backend(|cx| async move {
        let of = |device: &str, target: &str| BackupRequest {
            device: device.to_owned(),
            target: target.to_owned(),
            ..named("full")
        };
        let unknown = "Cannot find device='nope' nor node-name='nope'";
        assert_eq!(text(&cx, of("nope", "dst")), unknown);
        assert_eq!(text(&cx, of("src", "nope")), unknown);
        let same = "Source and target cannot be the same";
        assert_eq!(text(&cx, of("src", "src")), same);
        let sizes = "Source and target image have different sizes";
        assert_eq!(text(&cx, of("src", "small")), sizes);
        assert_eq!(text(&cx, of("small", "dst")), sizes);
    });
}

#[test]
fn bitmaps_and_modes_that_do_not_go_together_are_refused_in_the_words_of_the_protocol() {
    on_each_backend(|cx| async move {
        let (on_success, never, always) = (
            Some(BitmapMode::OnSuccess),
            Some(BitmapMode::Never),
            Some(BitmapMode::Always),
        );
        for sync in ["bitmap", "incremental"] {
            for mode in [None, on_success, always] {
                let want = format!("must provide a valid bitmap name for '{sync}' sync mode");
                assert_eq!(text(&cx, with_bitmap(sync, None, mode)), want);
            }
        }
        for mode in [never, always] {
            assert_eq!(
                text(&cx, with_bitmap("incremental", Some("b"), mode)),
                "Bitmap sync mode must be 'on-success' when using sync mode 'incremental'"
            );
        }
        for sync in ["full", "top", "bitmap"] {
            assert_eq!(
                text(&cx, with_bitmap(sync, Some("b"), None)),
                "Bitmap sync mode must be given when providing a bitmap"
            );
        }
        for sync in ["full", "top", "none"] {
            assert_eq!(
                text(&cx, with_bitmap(sync, None, on_success)),
                "Cannot specify bitmap sync mode without a bitmap"
            );
        }
        for mode in [on_success, never, always] {
            assert_eq!(
                text(&cx, with_bitmap("none", Some("b"), mode)),
                "sync mode 'none' does not produce meaningful bitmap outputs"
            );
        }
        for sync in ["full", "top"] {
            let want = format!(
                "Bitmap sync mode 'never' has no meaningful effect when combined with sync mode '{sync}'"
            );
            assert_eq!(text(&cx, with_bitmap(sync, Some("b"), never)), want);
        }
    });
}

#[test]
fn numbers_out_of_bounds_and_compression_are_refused_in_the_words_of_the_protocol() {
    on_each_backend(|cx| async move {
        let compress = BackupRequest {
            compress: true,
            ..named("full")
        };
        let want = "Compression is not supported for this drive ";
        assert_eq!(text(&cx, compress), want);
        for workers in [0, -1, 1 << 31, 1 << 40, i64::MIN] {
            let request = BackupRequest {
                max_workers: Some(workers),
                ..named("full")
            };
            let want = "max-workers must be between 1 and 2147483647";
            assert_eq!(text(&cx, request), want);
        }
        let chunk = |bytes| BackupRequest {
            max_chunk: Some(bytes),
            ..named("full")
        };
        let want = "max-chunk must be zero (which means no limit) or positive";
        assert_eq!(text(&cx, chunk(-1)), want);
        let want = "Required max-chunk (4096) is less than backup cluster size (65536)";
        assert_eq!(text(&cx, chunk(4096)), want);
        let clusters = BackupRequest {
            min_cluster_size: Some(128 << 10),
            ..chunk(64 << 10)
        };
        let want = "Required max-chunk (65536) is less than backup cluster size (131072)";
        assert_eq!(text(&cx, clusters), want);
        let odd = BackupRequest {
            min_cluster_size: Some(96 << 10),
            ..named("full")
        };
        let want = "min-cluster-size needs to be a power of 2";
        assert_eq!(text(&cx, odd), want);
        let speed = BackupRequest {
            speed: -1,
            ..named("full")
        };
        let want = "Parameter 'speed' expects a non-negative value";
        assert_eq!(text(&cx, speed), want);
    });
}

#[test]
fn a_request_with_nothing_but_names_has_the_defaults() {
    on_each_backend(|cx| async move {
        let BackupSpec {
            source,
            target,
            options,
            ..
        } = resolve(&cx, named("full")).unwrap();
        assert_eq!((source.name(), target.name()), ("src", "dst"));
        assert_eq!(options.job_id, "j");
        assert_eq!((options.sync, options.bitmap), (BackupSync::Full, None));
        assert_eq!(options.speed_bytes_per_s, 0);
        assert_eq!(options.on_source_error, OnError::Report);
        assert_eq!(options.on_target_error, OnError::Report);
        // The guest does not suffer for a target that is broken, which is not what the reference does.
        assert_eq!(options.on_cbw_error, OnCbwError::BreakSnapshot);
        assert_eq!(options.cbw_timeout_ns, None);
        assert_eq!(options.source_after, SourceAfter::Kept);
        assert_eq!((options.max_workers, options.max_chunk_bytes), (None, None));
        assert_eq!(options.min_cluster_bytes, 0);
        assert_eq!(options.buffer_bytes_max, 64 << 20);
        assert_eq!(options.filter_name, None);
        let ends = (options.finalize, options.dismiss);
        assert_eq!(ends, (Trigger::Auto, Trigger::Auto));
    });
}

#[test]
fn everything_that_is_asked_for_is_passed_on() {
    on_each_backend(|cx| async move {
        let request = BackupRequest {
            bitmap: Some("b".to_owned()),
            bitmap_mode: Some(BitmapMode::Always),
            discard_source: SourceAfter::Discarded,
            speed: 17,
            on_source_error: OnError::Stop,
            on_target_error: OnError::Enospc,
            on_cbw_error: Some(OnCbwError::BreakGuestWrite),
            max_workers: Some(2_147_483_647),
            max_chunk: Some(1 << 20),
            min_cluster_size: Some(1 << 20),
            filter_node_name: Some("f".to_owned()),
            finalize: Trigger::Manual,
            dismiss: Trigger::Manual,
            ..named("bitmap")
        };
        let options = resolve(&cx, request).unwrap().options;
        let bitmap = BackupBitmap {
            name: "b".to_owned(),
            mode: BitmapMode::Always,
        };
        assert_eq!(options.sync, BackupSync::Bitmap);
        assert_eq!(options.bitmap, Some(bitmap));
        assert_eq!(options.source_after, SourceAfter::Discarded);
        assert_eq!(options.speed_bytes_per_s, 17);
        assert_eq!(options.on_source_error, OnError::Stop);
        assert_eq!(options.on_target_error, OnError::Enospc);
        assert_eq!(options.on_cbw_error, OnCbwError::BreakGuestWrite);
        assert_eq!(options.max_workers, Some(i32::MAX.unsigned_abs()));
        assert_eq!(options.max_chunk_bytes, Some(1 << 20));
        assert_eq!(options.min_cluster_bytes, 1 << 20);
        assert_eq!(options.filter_name.as_deref(), Some("f"));
        let ends = (options.finalize, options.dismiss);
        assert_eq!(ends, (Trigger::Manual, Trigger::Manual));
        let no_limit = BackupRequest {
            max_chunk: Some(0),
            ..named("full")
        };
        let options = resolve(&cx, no_limit).unwrap().options;
        assert_eq!(options.max_chunk_bytes, None);
    });
}

#[test]
fn incremental_is_bitmap_with_on_success_whether_it_says_so_or_not() {
    on_each_backend(|cx| async move {
        for mode in [None, Some(BitmapMode::OnSuccess)] {
            let request = with_bitmap("incremental", Some("b"), mode);
            let options = resolve(&cx, request).unwrap().options;
            assert_eq!(options.sync, BackupSync::Bitmap);
            assert_eq!(options.bitmap.unwrap().mode, BitmapMode::OnSuccess);
        }
    });
}

#[test]
fn names_of_modes_are_those_of_the_protocol() {
    for name in ["full", "top", "none", "bitmap", "incremental"] {
        assert_eq!(RequestedSync::from_name(name).unwrap().as_str(), name);
    }
    for name in ["on-success", "never", "always"] {
        assert_eq!(BitmapMode::from_name(name).unwrap().as_str(), name);
    }
    assert_eq!(RequestedSync::from_name("nothing"), None);
    assert_eq!(BitmapMode::from_name(""), None);
}

/// Starts what nodes `source` and `target` of a world are asked for; returns the text of the refusal.
async fn start_refused(world: &World, request: BackupRequest) -> String {
    let shape = world.shape();
    let request = BackupRequest {
        device: "source".to_owned(),
        target: "target".to_owned(),
        ..request
    };
    let spec = request.resolve(&world.graph, world.cx.handle()).unwrap();
    let refused = world.start(spec.options).await.unwrap_err();
    assert_eq!(world.shape(), shape);
    assert!(world.jobs.list().is_empty());
    refused.to_string()
}

#[test]
fn a_bitmap_that_is_unknown_or_in_use_is_refused_in_the_words_of_the_protocol() {
    on_each_backend(|cx| async move {
        let world = World::new(&cx, MIB);
        let request = || with_bitmap("incremental", Some("b"), None);
        let want = "Bitmap 'b' could not be found";
        assert_eq!(start_refused(&world, request()).await, want);

        let bitmaps = world.source.bitmaps();
        let bitmap = bitmaps.add("b", Default::default()).unwrap();
        let exported = bitmap.mark_busy().unwrap();
        let want = "Bitmap 'b' is currently in use by another operation and cannot be used";
        assert_eq!(start_refused(&world, request()).await, want);
        drop(exported);
        bitmaps.remove("b").unwrap();

        let stored = block::bitmap::StoredBitmap::Inconsistent {
            granularity_bytes: 65536,
        };
        bitmaps.load("b", stored).unwrap();
        let want = "Bitmap 'b' is inconsistent and cannot be used";
        assert_eq!(start_refused(&world, request()).await, want);
    });
}

#[test]
fn a_job_needs_an_id() {
    on_each_backend(|cx| async move {
        let world = World::new(&cx, MIB);
        let without = BackupRequest {
            job_id: None,
            ..named("full")
        };
        assert_eq!(start_refused(&world, without).await, "Invalid job ID ''");
    });
}
