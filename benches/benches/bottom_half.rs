//! Callbacks and yields on one thread: bottom halves and tasks against runtimes and a plain queue.

use std::{cell::Cell, collections::VecDeque, hint::black_box, rc::Rc};

use aio::{AioContext, Blocking};
use benches::{Loop, Races, Side};

use crate::peers;

pub(crate) fn run(races: &mut Races) {
    let Some(context) = Loop::best() else { return };
    for count in [1, 100] {
        bottom_halves(races, &context, count.into());
        yields(races, &context, count);
    }
    one_shots(races, &context, 100);
}

/// The least that calls callbacks in turn: each is taken out, called and put back.
fn plain_queue(count: u64) -> Side<'static> {
    let called = Rc::new(Cell::new(0_u64));
    let callback = |_| -> Box<dyn FnMut()> {
        let called = called.clone();
        Box::new(move || called.set(called.get() + 1))
    };
    let mut queue: VecDeque<_> = (0..count).map(callback).collect();
    Side::new("plain_queue", move |rounds| {
        for _ in 0..rounds * count {
            let Some(mut callback) = black_box(&mut queue).pop_front() else {
                return;
            };
            callback();
            queue.push_back(callback);
        }
    })
}

/// Each round schedules all bottom halves and turns the loop once.
fn bottom_halves(races: &mut Races, context: &Loop, count: u64) {
    let name = format!("bottom_half/{count}");
    if !races.wants(&name) {
        return;
    }
    let called = Rc::new(Cell::new(0_u64));
    let bottom_half = |_| {
        let called = called.clone();
        context.bottom_half("count", move |_| called.set(called.get() + 1))
    };
    let bottom_halves: Vec<_> = (0..count).map(bottom_half).collect();
    let ours = Side::new("bottom_half", |rounds| {
        let before = called.get();
        for _ in 0..rounds {
            for bottom_half in &bottom_halves {
                bottom_half.schedule();
            }
            context.poll(Blocking::No);
        }
        assert_eq!(
            called.get() - before,
            rounds * count,
            "each ran once a turn"
        );
    });
    races.race(&name, count, ours, vec![plain_queue(count)]);
}

async fn yield_often(context: AioContext, times: u64) {
    for _ in 0..times {
        context.yield_now().await;
    }
}

/// Each round is one yield of each task.
fn yields(races: &mut Races, context: &Loop, count: u32) {
    let name = format!("yield/{count}");
    if !races.wants(&name) {
        return;
    }
    let ours = Side::new("task", |rounds| {
        context.block_on(async {
            let spawn = |_| context.spawn(yield_often((*context).clone(), rounds));
            let tasks: Vec<_> = (0..count).map(spawn).collect();
            for task in tasks {
                task.await;
            }
        });
    });
    let mut peers = peers::yields(count);
    peers.push(plain_queue(count.into()));
    races.race(&name, count.into(), ours, peers);
}

/// What a one-shot callback does: too little to count, but its box must hold something.
fn do_little(number: u64) {
    black_box(number);
}

/// Each round leaves new closures and calls them.
fn one_shots(races: &mut Races, context: &Loop, count: u64) {
    let ours = Side::new("schedule", |rounds| {
        for _ in 0..rounds {
            for number in 0..count {
                context.handle().schedule(move |_| do_little(number));
            }
            context.poll(Blocking::No);
        }
    });
    let mut queue: VecDeque<Box<dyn FnOnce()>> = VecDeque::new();
    let peer = Side::new("plain_queue", |rounds| {
        for _ in 0..rounds {
            for number in 0..count {
                queue.push_back(Box::new(move || do_little(number)));
            }
            while let Some(callback) = queue.pop_front() {
                callback();
            }
        }
    });
    races.race(&format!("one_shot/{count}"), count, ours, vec![peer]);
}
