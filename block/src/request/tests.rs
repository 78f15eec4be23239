//! The range lock, move by move, against what may overlap.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use proptest::prelude::{Strategy, prop, proptest};

use super::{Kind, Passage, RangeLock};
use crate::allocation::ByteRange;

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

enum Stage<'a> {
    Waiting(Pin<Box<dyn Future<Output = Passage<'a>> + 'a>>),
    Inside { _passage: Passage<'a> },
    Gone,
}

/// One request of the game, polled only when it was woken.
struct Player<'a> {
    range: ByteRange,
    kind: Kind,
    woken: Arc<Flag>,
    stage: Stage<'a>,
}

impl<'a> Player<'a> {
    fn start(lock: &'a RangeLock, range: ByteRange, kind: Kind) -> Self {
        let stage: Stage<'_> = match kind {
            Kind::Plain => Stage::Waiting(Box::pin(lock.pass(range))),
            Kind::Serialising => Stage::Waiting(Box::pin(lock.serialise(range))),
        };
        let woken = Arc::new(Flag(AtomicBool::new(true)));
        let mut player = Self {
            range,
            kind,
            woken,
            stage,
        };
        player.poll();
        player
    }

    fn poll(&mut self) {
        let Stage::Waiting(future) = &mut self.stage else {
            return;
        };
        if !self.woken.0.swap(false, Ordering::Relaxed) {
            return;
        }
        let waker = Waker::from(self.woken.clone());
        if let Poll::Ready(passage) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            self.stage = Stage::Inside { _passage: passage };
        }
    }

    fn is_inside(&self) -> bool {
        matches!(self.stage, Stage::Inside { .. })
    }

    fn excludes(&self, other: &Self) -> bool {
        let serialising = self.kind == Kind::Serialising || other.kind == Kind::Serialising;
        serialising && self.range.overlaps(other.range)
    }
}

fn check(players: &[Player<'_>]) {
    for (index, player) in players.iter().enumerate() {
        let mut earlier = players[..index].iter();
        let clash = earlier.find(|other| other.is_inside() && player.excludes(other));
        assert!(!(player.is_inside() && clash.is_some()), "two inside");
    }
}

fn poll_all(players: &mut [Player<'_>]) {
    while let Some(player) = players
        .iter_mut()
        .find(|p| matches!(p.stage, Stage::Waiting(_)) && p.woken.0.load(Ordering::Relaxed))
    {
        player.poll();
    }
    check(players);
}

fn requests() -> impl Strategy<Value = Vec<(u64, u64, bool)>> {
    prop::collection::vec((0..8_u64, 1..5_u64, prop::bool::ANY), 1..9)
}

proptest! {
    /// Starting, finishing and abandoning in any order never lets two overlap that must not, and
    /// whoever is left at the end gets in by wakers alone.
    #[test]
    fn requests_exclude_each_other_and_all_get_in(
        requests in requests(),
        moves in prop::collection::vec((0..16_usize, prop::bool::ANY), 0..40),
    ) {
        let lock = RangeLock::default();
        let mut players: Vec<Player<'_>> = Vec::new();
        let mut waiting = requests.into_iter();
        for (pick, start) in moves {
            if let Some((offset, len, serialising)) = start.then(|| waiting.next()).flatten() {
                let kind = if serialising { Kind::Serialising } else { Kind::Plain };
                let range = ByteRange::new(offset, len).unwrap();
                players.push(Player::start(&lock, range, kind));
            } else if let Some(player) = players.get_mut(pick) {
                player.stage = Stage::Gone;
            }
            poll_all(&mut players);
        }
        while let Some(inside) = players.iter_mut().find(|player| player.is_inside()) {
            inside.stage = Stage::Gone;
            poll_all(&mut players);
        }
        assert!(players.iter().all(|player| matches!(player.stage, Stage::Gone)), "somebody starves");
        assert!(lock.lock().requests.is_empty());
        assert!(!lock.unlisted.is_closed());
        assert_eq!(lock.unlisted.inside(), 0);
    }
}

#[test]
fn plain_requests_do_not_meet() {
    let lock = RangeLock::default();
    let range = ByteRange::between(0, 10);
    let players = [(); 2].map(|()| Player::start(&lock, range, Kind::Plain));
    assert!(players.iter().all(Player::is_inside));
    assert!(lock.lock().requests.is_empty(), "nobody needs the list");
}

#[test]
fn a_later_request_does_not_overtake_one_that_waits() {
    let lock = RangeLock::default();
    let mut players = vec![
        Player::start(&lock, ByteRange::between(0, 4), Kind::Serialising),
        Player::start(&lock, ByteRange::between(0, 8), Kind::Serialising),
        Player::start(&lock, ByteRange::between(6, 8), Kind::Plain),
        Player::start(&lock, ByteRange::between(8, 9), Kind::Plain),
    ];
    let inside: Vec<_> = players.iter().map(Player::is_inside).collect();
    assert_eq!(inside, [true, false, false, true]);

    players[0].stage = Stage::Gone;
    poll_all(&mut players);

    assert!(players[1].is_inside() && !players[2].is_inside());
}
