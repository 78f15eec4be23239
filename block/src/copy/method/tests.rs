//! The choice: what is tried first, what a refusal means, who wins a comparison, and how large requests become.

use super::*;

const CLONE: Method = Method::Offload(OffloadKind::Clone);
const COPY_BY_KERNEL: Method = Method::Offload(OffloadKind::Copy);
const MIB: u64 = 1 << 20;

/// Methods of a pair that shares no blocks.
fn without_clone() -> Methods {
    let methods = Methods::new();
    methods.attempt().refused(Refusal::Never);
    methods
}

/// Moves some requests of a MiB, one after the other, and says how many of them the kernel copied.
fn run(methods: &Methods, requests: u64, copy_ns: u64, read_write_ns: u64) -> u64 {
    let mut by_kernel = 0;
    for _ in 0..requests {
        let attempt = methods.attempt();
        let copies = attempt.method == COPY_BY_KERNEL;
        by_kernel += u64::from(copies);
        attempt.moved(MIB, if copies { copy_ns } else { read_write_ns });
    }
    by_kernel
}

#[test]
fn blocks_are_shared_for_as_long_as_that_works() {
    let methods = Methods::new();
    for _ in 0..1000 {
        let attempt = methods.attempt();
        assert_eq!(attempt.method, CLONE);
        attempt.moved(MIB, 1_000_000);
    }
    methods.attempt().refused(Refusal::NotNow);
    assert_eq!(methods.attempt().method, CLONE, "that was for once");
    methods.attempt().refused(Refusal::Never);
    assert_eq!(methods.attempt().method, COPY_BY_KERNEL);
}

#[test]
fn requests_that_share_blocks_grow_until_they_take_long() {
    let methods = Methods::new();
    assert_eq!(methods.data_bytes_max(), MIB);
    for _ in 0..100 {
        let most = methods.data_bytes_max();
        methods.attempt().moved(most, 100_000);
    }
    assert_eq!(methods.data_bytes_max(), CLONE_BYTES_MAX);
    methods.attempt().moved(64 * MIB, CLONE_NS + 1);
    assert_eq!(methods.data_bytes_max(), 32 * MIB);
    methods.attempt().moved(4 * MIB, 1);
    assert_eq!(
        methods.data_bytes_max(),
        32 * MIB,
        "a short one says little"
    );
    for _ in 0..100 {
        let most = methods.data_bytes_max();
        methods.attempt().moved(most, 10 * CLONE_NS);
    }
    assert_eq!(methods.data_bytes_max(), MIB);
    methods.attempt().refused(Refusal::Never);
    assert_eq!(methods.data_bytes_max(), MIB);
}

#[test]
fn the_faster_way_wins() {
    assert!(run(&without_clone(), 1000, 100, 200) > 950);
    assert!(run(&without_clone(), 1000, 200, 100) < 50);
    assert!(
        run(&without_clone(), 1000, 99, 100) < 50,
        "a draw is for reading and writing, which bothers no worker"
    );
}

#[test]
fn a_hopeless_copy_is_not_tried_for_long() {
    assert_eq!(run(&without_clone(), 1000, 300, 100), 4);
    // It has to be slow most of the time.
    let methods = without_clone();
    run(&methods, 2, 100, 200);
    run(&methods, 1, 10_000, 200);
    assert_eq!(run(&methods, 1000, 100, 200), 1000 - 16);
}

#[test]
fn an_exception_does_not_decide() {
    let methods = without_clone();
    let mut requests = 0..2 * 16;
    requests.by_ref().for_each(|request| {
        let attempt = methods.attempt();
        let took_ns = match attempt.method {
            // One in four takes a hundred times as long.
            COPY_BY_KERNEL if request % 4 == 0 => 10_000,
            COPY_BY_KERNEL => 100,
            _ => 200,
        };
        attempt.moved(MIB, took_ns);
    });
    assert_eq!(run(&methods, 100, 100, 200), 100);
}

#[test]
fn they_are_compared_again_after_a_while() {
    let methods = without_clone();
    run(&methods, 100, 200, 100);
    assert_eq!(run(&methods, 1000, 200, 100), 0);
    // The kernel is faster from now on.
    run(&methods, TRY_AGAIN_BYTES / MIB, 50, 100);
    assert_eq!(run(&methods, 1000, 50, 100), 1000);
}

#[test]
fn many_in_flight_count_as_many() {
    // The kernel's copies take as long as reading and writing, four at once and one at a time.
    let methods = without_clone();
    for _ in 0..1000 {
        let first = methods.attempt();
        if first.method == COPY_BY_KERNEL {
            let others = [(); 3].map(|()| methods.attempt());
            for attempt in others {
                attempt.moved(MIB, 100_000);
            }
        }
        first.moved(MIB, 100_000);
    }
    assert_eq!(methods.attempt().method, COPY_BY_KERNEL);
}

#[test]
fn requests_beside_those_of_the_other_way_say_nothing() {
    let methods = without_clone();
    let copying = methods.attempt();
    assert_eq!(copying.method, COPY_BY_KERNEL);
    run(&methods, 4, 100, 100);
    // It is the turn of reading and writing, and a copy is still under way.
    let before = methods.attempt();
    assert_eq!((before.method, before.beside), (Method::ReadWrite, None));
    drop((before, copying));
    assert_eq!(methods.attempt().beside, Some(1));
}

#[test]
fn a_pair_that_has_no_files_is_asked_ever_more_seldom() {
    let methods = Methods::new();
    let mut asked = 0;
    for _ in 0..10_000 {
        let attempt = methods.attempt();
        if attempt.method == Method::ReadWrite {
            attempt.moved(MIB, 1);
        } else {
            asked += 1;
            attempt.refused(Refusal::Nowhere);
        }
    }
    assert!((5..25).contains(&asked), "asked {asked} times");
}

#[test]
fn a_kernel_that_can_do_nothing_is_left_alone() {
    let methods = without_clone();
    methods.attempt().refused(Refusal::Never);
    assert_eq!(run(&methods, 1000, 1, 100), 0);
    assert_eq!(run(&Methods::none(), 1000, 1, 100), 0);
}

#[test]
fn the_kernel_is_asked_for_whole_blocks() {
    let of = |start, end| part_for_kernel(ByteRange::between(start, end));
    let whole = |start, end| Some(ByteRange::between(start, end));
    assert_eq!(of(0, 3 * ALIGN_BYTES), whole(0, 3 * ALIGN_BYTES));
    assert_eq!(of(0, ALIGN_BYTES + 7), whole(0, ALIGN_BYTES));
    assert_eq!(of(ALIGN_BYTES, ALIGN_BYTES + 7), None);
    assert_eq!(of(4096, 3 * ALIGN_BYTES), None);
}
