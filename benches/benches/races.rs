//! All races, in one program: `cargo bench -p benches -- [PART OF A NAME]`.

mod bottom_half;
mod buffer;
mod copy;
mod disk_read;
mod drop_in_flight;
mod idle;
mod nodes;
mod offload;
mod peers;
mod raw_buffer;
mod readiness;
mod send;
mod timer;
mod wakeup;

fn main() {
    benches::races(|races| {
        disk_read::run(races);
        nodes::run(races);
        bottom_half::run(races);
        wakeup::run(races);
        timer::run(races);
        readiness::run(races);
        buffer::run(races);
        copy::run(races);
        offload::run(races);
        send::run(races);
        idle::run(races);
        drop_in_flight::run(races);
    });
}
