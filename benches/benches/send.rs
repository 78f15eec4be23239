//! Sends over sockets of one machine, with a copy by the kernel and without.

use std::{
    io::{self, Read},
    net::{TcpListener, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixStream},
    thread,
};

use aio::{Fd, SendPart};
use benches::{
    Loop, Races, Side,
    raw_send::{How, RawSender},
    skipped,
};

/// Lengths of what is sent, and what results call them.
const LENGTHS: [(&str, u32); 5] = [
    ("4k", 4 << 10),
    ("16k", 16 << 10),
    ("64k", 64 << 10),
    ("256k", 256 << 10),
    ("1m", 1 << 20),
];
/// Bytes of a round.
const ROUND_BYTES: u64 = 16 << 20;
/// As much as an export reads ahead, so that a peer that reads slowly is felt.
const READ_BYTES: usize = 256 << 10;

pub(crate) fn run(races: &mut Races) {
    for (socket, connect) in [
        ("unix", unix as fn() -> io::Result<OwnedFd>),
        ("tcp", tcp as fn() -> io::Result<OwnedFd>),
    ] {
        for (name, len) in LENGTHS {
            let name = format!("send/{socket}/{name}");
            if races.wants(&name) {
                race(races, &name, connect, len);
            }
        }
    }
}

fn race(races: &mut Races, name: &str, connect: fn() -> io::Result<OwnedFd>, len: u32) {
    let count = ROUND_BYTES / u64::from(len);
    let Some(context) = Loop::best() else {
        return;
    };
    let raw = || RawSender::new(connect()?, 1 << 20);
    let (Ok(ours), Ok(mut copying), Ok(mut zero_copy)) = (connect(), raw(), raw()) else {
        return skipped(format_args!("{name}: no ring, or no sockets"));
    };
    let ours = Fd::from(ours);
    let ours = Side::new("aio", |rounds| {
        for _ in 0..rounds {
            context.block_on(send_all(&context, &ours, len, count));
        }
    });
    let mut peers = Vec::new();
    peers.push(Side::new("send", move |rounds| {
        let sent = copying.send(How::Copy, len, rounds * count);
        sent.expect("a socket takes what is sent");
    }));
    match zero_copy.send(How::ZeroCopy, len, count) {
        Ok(()) => peers.push(Side::new("send_zc", |rounds| {
            let sent = zero_copy.send(How::ZeroCopy, len, rounds * count);
            sent.expect("a socket takes what is sent");
        })),
        Err(error) => skipped(format_args!("{name}/send_zc: {error}")),
    }
    races.race(name, count, ours, peers);
    races.figure(
        &format!("{name}/copied"),
        "of a hundred sends without a copy",
        || {
            zero_copy.send(How::ZeroCopy, len, 100).ok()?;
            let before = zero_copy.copied();
            zero_copy.send(How::ZeroCopy, len, 100).ok()?;
            let copied = u32::try_from(zero_copy.copied() - before).ok()?;
            Some(copied.into())
        },
    );
}

async fn send_all(context: &Loop, socket: &Fd, len: u32, count: u64) {
    let mut buf = context.buffers().acquire(1 << 20).await;
    buf.set_len(usize::try_from(len).expect("a MiB fits memory"));
    let mut parts = vec![SendPart::whole(buf)];
    for _ in 0..count {
        let sent;
        (parts, sent) = context.send(socket, parts).await;
        sent.expect("a socket takes what is sent");
    }
}

/// One end of a pair; a thread reads at the other until this one is closed.
fn unix() -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    thread::spawn(move || read_all(theirs));
    Ok(ours.into())
}

fn tcp() -> io::Result<OwnedFd> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let ours = TcpStream::connect(listener.local_addr()?)?;
    ours.set_nodelay(true)?;
    let (theirs, _) = listener.accept()?;
    thread::spawn(move || read_all(theirs));
    Ok(ours.into())
}

fn read_all(mut socket: impl Read) {
    let mut buf = vec![0; READ_BYTES];
    while socket.read(&mut buf).is_ok_and(|count| count > 0) {}
}
