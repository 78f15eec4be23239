//! What the streams of a stress do, each operation seeing to it itself that it went well.

mod callbacks;
mod data;
mod tasks;

use std::{future::Future, pin::Pin};

use super::world::Stream;

/// One kind of operation.
pub(super) type Operation = for<'a> fn(&'a mut Stream) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

pub(super) const OPERATIONS: [(&str, Operation); 21] = [
    ("posts", |it| Box::pin(callbacks::posts(it))),
    ("bottom half", |it| Box::pin(callbacks::bottom_half(it))),
    ("timer", |it| Box::pin(callbacks::timer(it))),
    ("virtual timer", |it| Box::pin(callbacks::virtual_timer(it))),
    ("cancelled timer", |it| {
        Box::pin(callbacks::cancelled_timer(it))
    }),
    ("event", |it| Box::pin(callbacks::event(it))),
    ("burst", |it| Box::pin(callbacks::burst(it))),
    ("readable", |it| Box::pin(callbacks::readable(it))),
    ("writable", |it| Box::pin(callbacks::writable(it))),
    ("migration", |it| Box::pin(tasks::migration(it))),
    ("spawn", |it| Box::pin(tasks::spawn(it))),
    ("abort", |it| Box::pin(tasks::abort(it))),
    ("sleep", |it| Box::pin(tasks::sleep(it))),
    ("pool work", |it| Box::pin(tasks::pool_work(it))),
    ("mutex", |it| Box::pin(tasks::mutex(it))),
    ("rw lock", |it| Box::pin(tasks::rw_lock(it))),
    ("budget", |it| Box::pin(tasks::budget(it))),
    ("file", |it| Box::pin(data::file(it))),
    ("open", |it| Box::pin(data::open(it))),
    ("socket", |it| Box::pin(data::socket(it))),
    ("drops", |it| Box::pin(data::drops(it))),
];
