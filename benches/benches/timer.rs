//! Timers: one cancelled and one set among 100,000, against an ordered map.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    task::{Context, Waker},
};

use aio::Sleep;
use benches::{Loop, Races, RandomBlocks, Side};

const LIVE: usize = 100_000;
/// Deadlines lie up to a minute ahead.
const AHEAD_NS: u64 = 60_000_000_000;

fn main() {
    benches::races(|races| {
        if let Some(context) = Loop::best() {
            churn(races, &context);
        }
    });
}

/// Which timer goes, and when the new one ends.
fn draw(random: &mut RandomBlocks) -> (usize, u64) {
    let bits = random.next_bits();
    let index = usize::try_from(bits % LIVE as u64).expect("an index fits");
    (index, 1_000_000 + (bits >> 24) % AHEAD_NS)
}

fn churn(races: &mut Races, context: &Loop) {
    let set = |ns: u64| -> Sleep {
        let mut sleep = context.sleep_ns(ns);
        // The first poll sets the timer.
        let polled = Pin::new(&mut sleep).poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending(), "it ends later");
        sleep
    };
    let mut random = RandomBlocks::over(u64::MAX);
    let mut sleeps: Vec<Sleep> = (0..LIVE).map(|_| set(draw(&mut random).1)).collect();
    let ours = Side::new("sleep", |rounds| {
        for _ in 0..rounds {
            let (index, ns) = draw(&mut random);
            sleeps[index] = set(ns);
        }
    });

    let mut others = RandomBlocks::over(u64::MAX);
    let mut map = BTreeMap::new();
    let mut number = 0_u64;
    let mut insert = |map: &mut BTreeMap<(u64, u64), Waker>, deadline_ns: u64| {
        number += 1;
        let key = (deadline_ns, number);
        map.insert(key, Waker::noop().clone());
        key
    };
    let mut keys: Vec<(u64, u64)> = (0..LIVE)
        .map(|_| insert(&mut map, draw(&mut others).1))
        .collect();
    let peer = Side::new("btree_map", |rounds| {
        for _ in 0..rounds {
            let (index, ns) = draw(&mut others);
            let new = insert(&mut map, ns);
            let old = std::mem::replace(&mut keys[index], new);
            drop(map.remove(&old));
        }
    });
    races.race("timer/churn_100k", 1, ours, vec![peer]);
}
