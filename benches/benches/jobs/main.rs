//! Jobs: many short ones, how soon one that copies pauses and ends, and what it leaves to guests.
//!
//! `cargo bench -p benches --bench jobs`

mod copies;
mod copy_side;
mod guest;
mod hosts;
mod latency;
mod many;
mod many_sides;
mod our_backups;
mod process;
mod reference;
mod writers;

use std::env;

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// Each thing once, to see that it runs.
    Try,
    /// A few turns.
    Quick,
    /// What is quoted.
    Full,
}

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    let has = |wanted: &str| args.iter().any(|arg| arg == wanted);
    if let [flag, side, count] = args.as_slice()
        && flag == many_sides::FLAG
    {
        return many_sides::run(side, count.parse().expect("we count in digits"));
    }
    if let [flag, rest @ ..] = args.as_slice()
        && flag == copy_side::FLAG
    {
        return copy_side::run(rest).expect("whoever started this shows why it failed");
    }
    if has("--list") {
        return;
    }
    let extent = match (has("--bench") && !has("--test"), has("--quick")) {
        (false, _) => Extent::Try,
        (true, true) => Extent::Quick,
        (true, false) => Extent::Full,
    };
    let filter = args.iter().find(|arg| !arg.starts_with('-'));
    let wants = |name: &str| {
        filter.is_none_or(|filter| name.starts_with(filter.as_str()) || filter.starts_with(name))
    };
    if wants("jobs/many/") {
        many::run(extent);
    }
    if wants("jobs/latency/") {
        latency::run(extent);
    }
    if wants("jobs/copies/") {
        copies::run(extent, &wants);
    }
    if wants("jobs/writers/") {
        writers::run(extent, &wants);
    }
}
