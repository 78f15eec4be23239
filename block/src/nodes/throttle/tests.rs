//! Limits, turns and drains, by clocks that are moved by hand.

use std::{cell::RefCell, rc::Rc};

use aio::{Clock, Config, ManualClock, Task};
use proptest::prelude::*;

use super::{bucket::Buckets, *};
use crate::{
    graph::{
        Graph,
        child::{Attachment, ChildRole},
        permission::{Permission, Permissions},
    },
    node::Node,
    nodes::{MemoryNode, MemoryOptions},
    testing::disk::writer,
};

const SECOND_NS: u64 = 1_000_000_000;
const KIB: u64 = 1 << 10;

fn bytes_per_s(per_s: u64) -> ThrottleLimits {
    ThrottleLimits {
        bytes_total: ThrottleLimit::per_s(per_s),
        ..ThrottleLimits::default()
    }
}

fn read_of(bytes: u64) -> Load {
    Load {
        direction: Direction::Read,
        bytes,
    }
}

fn write_of(bytes: u64) -> Load {
    Load {
        direction: Direction::Write,
        bytes,
    }
}

// The buckets.

#[test]
fn a_tenth_of_a_second_may_come_at_once_and_then_the_rate_holds() {
    let mut buckets = Buckets::new(&bytes_per_s(1000));
    assert_eq!(buckets.pour(0, read_of(100)), 0);
    assert_eq!(buckets.pour(0, write_of(50)), SECOND_NS / 20);
    assert_eq!(buckets.pour(SECOND_NS, read_of(100)), 0);
}

#[test]
fn what_is_larger_than_the_bucket_waits_for_it_to_be_empty_and_no_longer() {
    let mut buckets = Buckets::new(&bytes_per_s(1000));
    assert_eq!(buckets.pour(0, read_of(5000)), 0);
    assert_eq!(buckets.pour(0, read_of(5000)), 5 * SECOND_NS);
    assert_eq!(buckets.pour(10 * SECOND_NS, read_of(5000)), 0);
}

#[test]
fn a_burst_lasts_as_long_as_was_said_at_its_own_rate() {
    let limits = ThrottleLimits {
        bytes_total: ThrottleLimit {
            per_s: 100,
            burst_per_s: 1000,
            burst_s: 5,
        },
        ..ThrottleLimits::default()
    };
    let mut buckets = Buckets::new(&limits);
    let (mut now, mut burst) = (0, 0);
    while now < 5 * SECOND_NS {
        now += buckets.pour(now, read_of(10));
        burst += 10;
    }
    assert!((5000..=5700).contains(&burst), "{burst}");
    let mut later = 0;
    while now < 65 * SECOND_NS {
        now += buckets.pour(now, read_of(10));
        later += 10;
    }
    assert!((5900..=6700).contains(&later), "{later}");
}

#[test]
fn directions_have_limits_of_their_own() {
    let limits = ThrottleLimits {
        bytes_read: ThrottleLimit::per_s(1000),
        requests_write: ThrottleLimit::per_s(10),
        request_bytes: 100,
        ..ThrottleLimits::default()
    };
    let mut buckets = Buckets::new(&limits);
    assert_eq!(buckets.pour(0, read_of(100)), 0);
    assert_eq!(buckets.pour(0, read_of(100)), SECOND_NS / 10);
    assert_eq!(buckets.pour(0, write_of(100)), 0, "one request");
    assert_eq!(buckets.pour(0, write_of(1)), SECOND_NS / 10);
    assert_eq!(buckets.pour(0, write_of(500)), SECOND_NS / 5, "as five");
}

#[test]
fn limits_that_make_no_sense_are_refused_with_the_reason() {
    let limit = |per_s, burst_per_s, burst_s| ThrottleLimit {
        per_s,
        burst_per_s,
        burst_s,
    };
    let one = |bytes_total| ThrottleLimits {
        bytes_total,
        ..ThrottleLimits::default()
    };
    let both = ThrottleLimits {
        bytes_read: ThrottleLimit::per_s(1),
        ..bytes_per_s(1)
    };
    let size = ThrottleLimits {
        request_bytes: 512,
        ..bytes_per_s(1)
    };
    for (limits, why) in [
        (both, "at the same time"),
        (one(limit(RATE_MAX + 1, 0, 0)), "must be within"),
        (one(limit(0, 5, 0)), "require corresponding"),
        (one(limit(6, 5, 0)), "cannot be lower than bps/iops"),
        (one(limit(6, 0, 2)), "burst length set without burst rate"),
        (one(limit(1, RATE_MAX, 2)), "too high"),
        (size, "iops size requires"),
    ] {
        let error = ThrottleGroup::new(limits).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
    ThrottleGroup::new(ThrottleLimits::default()).unwrap();
}

// The turns.

/// A request that was let go.
#[derive(Clone, Copy, Debug)]
struct Gone {
    at_ns: u64,
    member: u64,
    load: Load,
}

/// Lets all of `requests` go that may, in a world where everybody looks whenever something happens.
fn play(turns: &mut Turns, mut requests: Vec<(u64, u64, Load)>, end_ns: u64) -> Vec<Gone> {
    requests.sort_by_key(|(at_ns, ..)| *at_ns);
    let (mut now_ns, mut gone, mut waiting) = (0, Vec::new(), Vec::new());
    let mut requests = requests.into_iter().peekable();
    while now_ns <= end_ns {
        while let Some((_, member, load)) = requests.next_if(|(at_ns, ..)| *at_ns <= now_ns) {
            waiting.push((turns.join(Member(member), load), member, load));
        }
        let mut next_ns = requests.peek().map_or(end_ns + 1, |(at_ns, ..)| *at_ns);
        let mut has_moved = false;
        waiting.retain(|(ticket, member, load)| match turns.look(now_ns, *ticket) {
            Place::Go => {
                turns.leave(*ticket).wake();
                let (member, load) = (*member, *load);
                gone.push(Gone {
                    at_ns: now_ns,
                    member,
                    load,
                });
                has_moved = true;
                false
            }
            Place::At(at_ns) => {
                next_ns = next_ns.min(at_ns);
                true
            }
            Place::Queued | Place::Turn => true,
        });
        if !has_moved {
            now_ns = next_ns;
        }
    }
    gone
}

fn limit() -> impl Strategy<Value = ThrottleLimit> {
    let burst = (1_u64..20, 1_u64..8);
    (1_u64..5000, proptest::option::of(burst)).prop_map(|(per_s, burst)| {
        let (times, burst_s) = burst.unwrap_or((0, 0));
        ThrottleLimit {
            per_s,
            burst_per_s: per_s * times,
            burst_s: if times > 0 { burst_s } else { 0 },
        }
    })
}

fn limits() -> impl Strategy<Value = ThrottleLimits> {
    let some = || proptest::option::of(limit()).prop_map(Option::unwrap_or_default);
    let of_total = (some(), some()).prop_map(|(bytes_total, requests_total)| ThrottleLimits {
        bytes_total,
        requests_total,
        ..ThrottleLimits::default()
    });
    let of_each = [some(), some(), some(), some()].prop_map(|[a, b, c, d]| ThrottleLimits {
        bytes_read: a,
        bytes_write: b,
        requests_read: c,
        requests_write: d,
        ..ThrottleLimits::default()
    });
    prop_oneof![of_total, of_each]
}

fn request() -> impl Strategy<Value = (u64, u64, Load)> {
    let direction = prop_oneof![Just(Direction::Read), Just(Direction::Write)];
    (0..20 * SECOND_NS, 0_u64..3, direction, 1_u64..2000)
        .prop_map(|(at_ns, member, direction, bytes)| (at_ns, member, Load { direction, bytes }))
}

/// Between any two moments, no more than the limit allows and one burst (or one request, if that is more).
fn holds(limit: ThrottleLimit, gone: &[(u64, u64)]) -> Result<(), TestCaseError> {
    if limit.per_s == 0 {
        return Ok(());
    }
    let burst = match limit.burst_per_s {
        0 => limit.per_s.div_ceil(10),
        rate => rate * limit.burst_s,
    };
    let largest = gone.iter().map(|(_, units)| *units).max().unwrap_or(0);
    for (index, (from_ns, _)) in gone.iter().enumerate() {
        let mut sum = 0_u128;
        for (at_ns, units) in &gone[index..] {
            sum += u128::from(*units);
            let passed = u128::from(at_ns - from_ns) * u128::from(limit.per_s);
            let most = passed.div_ceil(u128::from(SECOND_NS)) + u128::from(burst.max(largest));
            prop_assert!(sum <= most, "{sum} > {most} after {from_ns} at {at_ns}");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn never_more_than_the_limit_and_a_burst(
        limits in limits(),
        requests in proptest::collection::vec(request(), 1..60),
    ) {
        limits.check().unwrap();
        let mut turns = Turns::new(&limits);
        let count = requests.len();
        let gone = play(&mut turns, requests, 4000 * 1000 * SECOND_NS);
        prop_assert_eq!(gone.len(), count, "everybody gets his turn");
        prop_assert_eq!(turns.len(), 0);
        let of = |only: Option<Direction>, one: bool| -> Vec<(u64, u64)> {
            gone.iter()
                .filter(|it| only.is_none_or(|only| only == it.load.direction))
                .map(|it| (it.at_ns, if one { 1 } else { it.load.bytes }))
                .collect()
        };
        let (read, write) = (Some(Direction::Read), Some(Direction::Write));
        holds(limits.bytes_total, &of(None, false))?;
        holds(limits.bytes_read, &of(read, false))?;
        holds(limits.bytes_write, &of(write, false))?;
        holds(limits.requests_total, &of(None, true))?;
        holds(limits.requests_read, &of(read, true))?;
        holds(limits.requests_write, &of(write, true))?;
    }
}

#[test]
fn members_take_turns_however_many_requests_one_has() {
    let mut turns = Turns::new(&bytes_per_s(1000));
    let mut requests = vec![(0, 0, read_of(100)); 50];
    requests.extend([(1, 1, read_of(100)); 10]);
    requests.extend([(1, 2, read_of(100)); 10]);
    let gone = play(&mut turns, requests, 3 * SECOND_NS);
    let count = |member| gone.iter().filter(|it| it.member == member).count();
    assert!(count(1) >= 9 && count(2) >= 9, "{gone:?}");
    assert!(count(0) >= 9, "{gone:?}");
}

#[test]
fn neither_reads_nor_writes_starve_the_others() {
    let mut turns = Turns::new(&bytes_per_s(1000));
    let mut requests = vec![(0, 0, read_of(100)); 50];
    requests.extend(vec![(0, 0, write_of(100)); 50]);
    let gone = play(&mut turns, requests, 4 * SECOND_NS);
    let writes = gone
        .iter()
        .filter(|it| it.load.direction == Direction::Write)
        .count();
    assert!((gone.len() / 3..=gone.len() * 2 / 3).contains(&writes));
}

// The node.

struct World {
    cx: AioContext,
    clock: ManualClock,
    graph: Graph,
    group: ThrottleGroup,
    nodes: Vec<Node>,
    edges: Vec<Rc<Child>>,
    order: Rc<RefCell<Vec<usize>>>,
}

fn world<F: Future<Output = ()>>(limits: ThrottleLimits, test: impl Fn(World) -> F) {
    let (clock, hand) = Clock::manual();
    let config = Config {
        clock,
        ..Config::default()
    };
    aio::run(config, |cx| test(World::new(cx, hand, limits))).unwrap();
}

impl World {
    fn new(cx: AioContext, clock: ManualClock, limits: ThrottleLimits) -> Self {
        let graph = Graph::new();
        let group = ThrottleGroup::new(limits).unwrap();
        let (mut nodes, mut edges) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let memory = MemoryNode::new(MemoryOptions::new(1 << 20)).unwrap();
            let memory = graph.add_node(None, memory).unwrap();
            let builder = graph.build_node(None).unwrap();
            let uses = Permissions::uses(&[Permission::ConsistentRead]);
            let child = builder
                .attach(&memory, "file", ChildRole::Filtered, uses)
                .unwrap();
            let node = builder.finish(ThrottleNode::new(child, &group));
            let attachment = Attachment::new("test", ChildRole::Primary, writer());
            edges.push(Rc::new(graph.attach(&node, attachment).unwrap()));
            nodes.push(node);
        }
        Self {
            cx,
            clock,
            graph,
            group,
            nodes,
            edges,
            order: Rc::default(),
        }
    }

    fn read(&self, member: usize, bytes: u64) -> Task<()> {
        let (edge, cx) = (self.edges[member].clone(), self.cx.clone());
        let order = self.order.clone();
        self.cx.spawn(async move {
            let buf = IoBuf::heap(usize::try_from(bytes).unwrap());
            edge.read(&cx, 0, buf).await.1.unwrap();
            order.borrow_mut().push(member);
        })
    }

    async fn settle(&self) {
        for _ in 0..200 {
            self.cx.yield_now().await;
        }
    }

    async fn pass(&self, ns: u64) {
        for _ in 0..10 {
            self.clock.advance_ns(ns / 10);
            self.settle().await;
        }
    }
}

#[test]
fn requests_begin_as_fast_as_the_limit_allows_and_members_take_turns() {
    world(bytes_per_s(100 * KIB), |world| async move {
        let tasks: Vec<_> = (0..10).map(|_| world.read(0, 10 * KIB)).collect();
        world.settle().await;
        let more: Vec<_> = (0..10).map(|_| world.read(1, 10 * KIB)).collect();
        world.settle().await;
        assert_eq!(world.order.borrow().len(), 1, "a tenth of a second's worth");
        assert_eq!(world.group.waiting(), 19);
        world.pass(SECOND_NS).await;
        let done = world.order.borrow().clone();
        assert!((10..=12).contains(&done.len()), "{done:?}");
        let theirs = done.iter().filter(|member| **member == 1).count();
        assert!((4..=7).contains(&theirs), "{done:?}");
        world.pass(SECOND_NS).await;
        for task in tasks.into_iter().chain(more) {
            task.await;
        }
    });
}

#[test]
fn a_new_limit_holds_for_what_waits_already() {
    world(bytes_per_s(1), |world| async move {
        let tasks: Vec<_> = (0..5).map(|_| world.read(0, 10 * KIB)).collect();
        world.pass(SECOND_NS).await;
        assert_eq!(world.order.borrow().len(), 1);
        let fast = bytes_per_s(1 << 40);
        world.group.set_limits(fast).unwrap();
        assert_eq!(world.group.limits(), fast);
        for task in tasks {
            task.await;
        }
        let wrong = ThrottleLimits {
            request_bytes: 5,
            ..fast
        };
        world.group.set_limits(wrong).unwrap_err();
        assert_eq!(world.group.limits(), fast);
    });
}

#[test]
fn a_drain_of_one_member_lets_its_requests_go_and_no_others() {
    world(bytes_per_s(1), |world| async move {
        let ours: Vec<_> = (0..5).map(|_| world.read(0, 10 * KIB)).collect();
        let theirs: Vec<_> = (0..5).map(|_| world.read(1, 10 * KIB)).collect();
        world.settle().await;
        assert_eq!(world.group.waiting(), 9);

        let section = world.graph.drain(&world.nodes[..1]).await;
        for task in ours {
            assert!(task.is_finished());
            task.await;
        }
        assert_eq!(world.group.waiting(), 5);
        drop(section);

        let after = world.read(0, 10 * KIB);
        world.settle().await;
        assert!(!after.is_finished(), "what went early counts");
        world.group.set_limits(ThrottleLimits::default()).unwrap();
        after.await;
        for task in theirs {
            task.await;
        }
    });
}

#[test]
fn a_dropped_request_gives_its_turn_and_its_bytes_back() {
    world(bytes_per_s(10 * KIB), |world| async move {
        world.read(0, 10 * KIB).await;
        let (edge, cx) = (world.edges[0].clone(), world.cx.clone());
        {
            let mut dropped = Box::pin(edge.read(&cx, 0, IoBuf::heap(1 << 20)));
            let once = poll_fn(|task| Poll::Ready(dropped.as_mut().poll(task).is_pending()));
            assert!(once.await, "it waits for two seconds");
        }
        let next = world.read(1, KIB);
        world.pass(SECOND_NS).await;
        assert!(next.is_finished());
    });
}

#[test]
fn flushes_and_queries_pass() {
    world(bytes_per_s(1), |world| async move {
        world.read(0, 10 * KIB).await;
        let edge = &world.edges[0];
        edge.flush(&world.cx).await.unwrap();
        edge.extent(&world.cx, ByteRange::between(0, 10))
            .await
            .unwrap();
    });
}

#[test]
fn members_on_different_threads_share_the_limit() {
    let thread = || aio::IoThread::start(Config::default()).unwrap();
    let threads = [thread(), thread()];
    aio::run(Config::default(), |cx| async move {
        let (_, hand) = Clock::manual();
        let world = World::new(cx, hand, bytes_per_s(1 << 30));
        let edges: Vec<_> = world
            .edges
            .into_iter()
            .map(|edge| Rc::try_unwrap(edge).unwrap())
            .collect();
        let running: Vec<_> = threads
            .iter()
            .zip(edges)
            .map(|(thread, edge)| thread.handle().spawn(|cx| read_often(cx, edge)))
            .collect();
        for running in running {
            running.await;
        }
        assert_eq!(world.group.waiting(), 0);
    })
    .unwrap();
}

async fn read_often(cx: AioContext, edge: Child) {
    for _ in 0..500 {
        let buf = IoBuf::heap(64 << 10);
        edge.read(&cx, 0, buf).await.1.unwrap();
    }
}
