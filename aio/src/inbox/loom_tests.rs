//! Models of the inbox: raises, takes and cancels by several threads.

use std::sync::Arc;

use loom::{
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering, fence},
    thread,
};

use super::{Inbox, LISTED, Node};

const WANTED: u32 = 1;
const DELETED: u32 = 2;

fn check(model: impl Fn() + Send + Sync + 'static) {
    crate::explore::explore(3, model);
}

/// What the node's poster wrote before it raised.
struct Work {
    written: AtomicUsize,
}

/// Two threads write and raise; the home thread takes while they do, and once more at the end.
/// Every write is seen by a turn that begins after its raise.
#[test]
fn loom_no_raise_is_lost_and_what_was_written_before_is_seen() {
    check(|| {
        let inbox = Arc::new(Inbox::new());
        let node = Arc::new(Node::new(Work {
            written: AtomicUsize::new(0),
        }));
        let posters: Vec<_> = (0..2)
            .map(|_| {
                let (inbox, node) = (inbox.clone(), node.clone());
                thread::spawn(move || {
                    node.what.written.fetch_add(1, Ordering::Relaxed);
                    inbox.raise(&node, WANTED);
                })
            })
            .collect();
        let mut seen = 0;
        let mut turn = || {
            for listed in inbox.take() {
                let (node, bits) = listed.begin(WANTED);
                assert_eq!(bits, WANTED, "a node comes out only when it is wanted");
                seen = node.what.written.load(Ordering::Relaxed);
            }
        };
        turn();
        for poster in posters {
            poster.join().unwrap();
        }
        turn();
        assert_eq!(seen, 2);
        assert_eq!(
            Arc::strong_count(&node),
            1,
            "each count of the list is given back once"
        );
    });
}

/// Two nodes pushed at once by two threads both come out, once each.
#[test]
fn loom_pushes_at_once_lose_no_node() {
    check(|| {
        let inbox = Arc::new(Inbox::new());
        let nodes = [0usize, 1].map(|at| Arc::new(Node::new(at)));
        let threads = nodes.clone().map(|node| {
            let inbox = inbox.clone();
            thread::spawn(move || assert!(inbox.raise(&node, WANTED)))
        });
        let mut seen = [0, 0];
        for listed in inbox.take() {
            seen[listed.begin(WANTED).0.what] += 1;
        }
        for thread in threads {
            thread.join().unwrap();
        }
        for listed in inbox.take() {
            seen[listed.begin(WANTED).0.what] += 1;
        }
        assert_eq!(seen, [1, 1]);
    });
}

/// A moment at which loom considers running the other thread.
///
/// loom looks for another order only between neighbouring accesses of one variable, and a push
/// looks at the list itself just before it changes it. Relaxed, so that it orders nothing.
fn point(point: &AtomicUsize) {
    point.fetch_add(1, Ordering::Relaxed);
}

/// A cancel that comes before the turn wins, a schedule after it runs, and a delete is final.
#[test]
fn loom_cancel_schedule_and_delete_race_without_losing_the_last_word() {
    check(|| {
        let inbox = Arc::new(Inbox::new());
        let node = Arc::new(Node::new(()));
        let points = Arc::new(AtomicUsize::new(0));
        let canceller = {
            let (inbox, node, points) = (inbox.clone(), node.clone(), points.clone());
            thread::spawn(move || {
                point(&points);
                inbox.raise(&node, WANTED);
                point(&points);
                node.clear(WANTED);
                point(&points);
                inbox.raise(&node, WANTED);
                point(&points);
                node.clear(WANTED);
                inbox.raise(&node, DELETED);
            })
        };
        let (mut runs, mut deleted) = (0, false);
        let mut turn = |last: bool| {
            for listed in inbox.take() {
                point(&points);
                let (_, bits) = listed.begin(WANTED);
                assert!(!deleted || bits & DELETED != 0, "the delete stays visible");
                deleted |= bits & DELETED != 0;
                runs += usize::from(bits & WANTED != 0);
                assert!(!last || bits & WANTED == 0, "a cancel was lost");
            }
        };
        point(&points);
        turn(false);
        point(&points);
        turn(false);
        canceller.join().unwrap();
        turn(true);
        assert!(deleted && runs <= 2);
        assert_eq!(Arc::strong_count(&node), 1);
    });
}

/// A context closes while another thread posts: the node is dropped by one of them, never kept.
fn closing<const FENCED: bool>() {
    struct Shared {
        inbox: Inbox<()>,
        closed: AtomicBool,
    }
    check(|| {
        let shared = Arc::new(Shared {
            inbox: Inbox::new(),
            closed: AtomicBool::new(false),
        });
        let node = Arc::new(Node::new(()));
        let poster = {
            let (shared, node) = (shared.clone(), node.clone());
            thread::spawn(move || {
                shared.inbox.raise(&node, WANTED);
                if FENCED {
                    fence(Ordering::SeqCst);
                }
                if shared.closed.load(Ordering::Relaxed) {
                    drop(shared.inbox.take());
                }
            })
        };
        shared.closed.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        drop(shared.inbox.take());
        poster.join().unwrap();
        assert_eq!(Arc::strong_count(&node), 1, "nobody is left to take it");
    });
}

#[test]
fn loom_a_post_to_a_closing_context_is_dropped_by_one_side() {
    closing::<true>();
}

#[test]
#[should_panic]
fn loom_mutant_looking_whether_it_is_closed_without_a_fence_is_found() {
    closing::<false>();
}

/// The list with one known mistake; its models must fail.
struct Broken<const WHICH: u8> {
    bits: AtomicU32,
    written: AtomicUsize,
    head: AtomicPtr<u8>,
}

const BITS_AFTER_PUSH: u8 = 0;
const CLEAR_AFTER_CALL: u8 = 1;
const RELAXED_RAISE: u8 = 2;
const READ_THEN_CLEAR: u8 = 3;

impl<const WHICH: u8> Broken<WHICH> {
    fn raise(&self) {
        let order = if WHICH == RELAXED_RAISE {
            Ordering::Relaxed
        } else {
            Ordering::AcqRel
        };
        let node: *mut u8 = std::ptr::dangling_mut();
        if WHICH == BITS_AFTER_PUSH {
            self.head.store(node, Ordering::Release);
            self.bits.fetch_or(WANTED, Ordering::AcqRel);
            return;
        }
        if self.bits.fetch_or(WANTED | LISTED, order) & LISTED == 0 {
            let order = if WHICH == RELAXED_RAISE {
                Ordering::Relaxed
            } else {
                Ordering::Release
            };
            self.head.store(node, order);
        }
    }

    /// One turn; what the callback saw, if it was called.
    fn turn(&self) -> Option<usize> {
        let order = if WHICH == RELAXED_RAISE {
            Ordering::Relaxed
        } else {
            Ordering::Acquire
        };
        if self.head.swap(std::ptr::null_mut(), order).is_null() {
            return None;
        }
        if WHICH == CLEAR_AFTER_CALL {
            let seen = self.written.load(Ordering::Relaxed);
            self.bits.fetch_and(!(WANTED | LISTED), Ordering::AcqRel);
            return Some(seen);
        }
        if WHICH == READ_THEN_CLEAR {
            let before = self.bits.load(Ordering::Acquire);
            self.bits.store(0, Ordering::Release);
            return (before & WANTED != 0).then(|| self.written.load(Ordering::Relaxed));
        }
        let order = if WHICH == RELAXED_RAISE {
            Ordering::Relaxed
        } else {
            Ordering::AcqRel
        };
        let before = self.bits.fetch_and(!(WANTED | LISTED), order);
        (before & WANTED != 0).then(|| self.written.load(Ordering::Relaxed))
    }
}

/// The first model above on a broken list of one node.
fn broken<const WHICH: u8>() {
    check(|| {
        let list = Arc::new(Broken::<WHICH> {
            bits: AtomicU32::new(0),
            written: AtomicUsize::new(0),
            head: AtomicPtr::new(std::ptr::null_mut()),
        });
        let poster = {
            let list = list.clone();
            thread::spawn(move || {
                for _ in 0..2 {
                    // A load and a store, so that a missing edge shows as a stale value.
                    let written = list.written.load(Ordering::Relaxed);
                    list.written.store(written + 1, Ordering::Relaxed);
                    list.raise();
                }
            })
        };
        let first = list.turn();
        // A turn that was called for must see at least one write.
        assert!(first != Some(0), "called before anything was written");
        poster.join().unwrap();
        let seen = list.turn().or(first);
        assert_eq!(seen, Some(2), "the last raise was lost");
    });
}

#[test]
#[should_panic]
fn loom_mutant_push_before_the_bits_is_found() {
    broken::<BITS_AFTER_PUSH>();
}

#[test]
#[should_panic]
fn loom_mutant_clearing_after_the_callback_is_found() {
    broken::<CLEAR_AFTER_CALL>();
}

#[test]
#[should_panic]
fn loom_mutant_relaxed_raise_is_found() {
    broken::<RELAXED_RAISE>();
}

#[test]
#[should_panic]
fn loom_mutant_reading_the_bits_before_clearing_them_is_found() {
    broken::<READ_THEN_CLEAR>();
}

/// A push that reads the list's head once and stores: another's node is lost.
#[test]
#[should_panic]
fn loom_mutant_push_without_compare_is_found() {
    check(|| {
        let head = Arc::new(AtomicUsize::new(0));
        let next = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let threads = [1usize, 2].map(|node| {
            let (head, next) = (head.clone(), next.clone());
            thread::spawn(move || {
                next[node - 1].store(head.load(Ordering::Relaxed), Ordering::Relaxed);
                head.store(node, Ordering::Release);
            })
        });
        for thread in threads {
            thread.join().unwrap();
        }
        let mut count = 0;
        let mut node = head.load(Ordering::Acquire);
        while node != 0 {
            count += 1;
            node = next[node - 1].load(Ordering::Relaxed);
        }
        assert_eq!(count, 2);
    });
}
