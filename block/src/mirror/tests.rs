//! A mirror without its filter: granularity, modes, and what a copy is asked for.

use super::{CopyMode, default_granularity_bytes};
use crate::node_driver::Limits;

fn limits(cluster_bytes: Option<u32>) -> Limits {
    Limits {
        len_bytes: 0,
        request_align_bytes: 1,
        transfer_bytes_max: 1 << 20,
        cluster_bytes,
        read_only: false,
    }
}

#[test]
fn the_granularity_is_the_targets_cluster_within_bounds() {
    for (cluster_bytes, granularity_bytes) in [
        (None, 64 << 10),
        (Some(512), 4 << 10),
        (Some(4096), 4096),
        (Some(32 << 10), 32 << 10),
        (Some(2 << 20), 64 << 10),
    ] {
        let chosen = default_granularity_bytes(&limits(cluster_bytes));
        assert_eq!(chosen, granularity_bytes, "{cluster_bytes:?}");
    }
}

#[test]
fn modes_have_the_names_that_clients_use() {
    for mode in CopyMode::ALL {
        assert_eq!(CopyMode::from_name(mode.as_str()), Some(mode));
    }
    assert_eq!(CopyMode::from_name("active"), None);
}
