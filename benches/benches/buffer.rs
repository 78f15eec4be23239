//! Buffers: taken from the pool and given back, against fresh zeroed memory and a plain list of buffers.

use std::hint::black_box;

use benches::{Loop, Races, Side};

pub(crate) fn run(races: &mut Races) {
    if !races.wants("buffer/") {
        return;
    }
    let Some(context) = Loop::best() else { return };
    for (name, len) in [("4k", 4 << 10), ("64k", 64 << 10), ("1m", 1 << 20)] {
        buffers(races, &context, &format!("{name}_alone"), len);
        // With a neighbour in use there is nothing to split and to join again.
        let neighbour = context.buffers().try_acquire(len);
        buffers(races, &context, name, len);
        drop(neighbour);
    }
}

fn buffers(races: &mut Races, context: &Loop, name: &str, len: usize) {
    let pool = context.buffers();
    let ours = Side::new("pool", |rounds| {
        for _ in 0..rounds {
            let buf = pool.try_acquire(len).expect("the pool is all ours");
            drop(black_box(buf));
        }
    });
    let fresh = Side::new("malloc_zeroed", |rounds| {
        for _ in 0..rounds {
            // Not `vec![0; len]`: that may be memory which the kernel has yet to find.
            let mut bytes: Vec<u8> = Vec::with_capacity(len);
            black_box(&mut bytes).resize(len, 0);
            drop(black_box(bytes));
        }
    });
    let mut free: Vec<Vec<u8>> = vec![vec![0; len]];
    let list = Side::new("vec_pool", |rounds| {
        for _ in 0..rounds {
            let bytes = black_box(&mut free).pop().expect("it was put back");
            free.push(black_box(bytes));
        }
    });
    races.race(&format!("buffer/{name}"), 1, ours, vec![fresh, list]);
}
