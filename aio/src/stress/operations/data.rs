//! Reading and writing, checked byte for byte, and requests that nobody waits for to their end.

use std::os::{fd::AsRawFd, unix::net::UnixStream};

use crate::{
    Fd, IoBuf, SendPart,
    stress::world::{REGION_BYTES, Stream},
};

/// The byte at `at` of what `salt` names.
pub(super) fn pattern(salt: u64, at: u64) -> u8 {
    let mixed = (at ^ salt.rotate_left(17)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed.to_be_bytes()[0]
}

fn fill(buf: &mut IoBuf, salt: u64, start: u64) {
    for (at, byte) in (start..).zip(&mut **buf) {
        *byte = pattern(salt, at);
    }
}

fn check(bytes: &[u8], salt: u64, start: u64) {
    for (at, &byte) in (start..).zip(bytes) {
        assert_eq!(byte, pattern(salt, at), "another byte at {at}");
    }
}

/// What is written is read back, in one piece or several.
pub(super) async fn file(stream: &mut Stream) {
    let (cx, file) = (stream.cx.clone(), stream.scratch.clone());
    let _registered = stream.random.once_in(3).then(|| cx.register_file(&file));
    for _ in 0..stream.random.below(4) + 1 {
        let salt = stream.random.next();
        let len = stream.random.size(64 << 10) + 1;
        let start = stream.region_bytes() + stream.random.below((REGION_BYTES / 2 - len) as u64);
        stream.step("acquiring");
        let mut buf = cx.buffers().acquire(len).await;
        fill(&mut buf, salt, start);
        stream.step("writing");
        let (mut buf, written) = if stream.random.once_in(2) {
            let (mut bufs, count) = cx.write_vectored(&file, start, vec![buf]).await;
            assert_eq!(count.unwrap(), len);
            (bufs.pop().unwrap(), Ok(()))
        } else {
            cx.write_all(&file, start, buf).await
        };
        written.unwrap();
        if stream.random.once_in(8) {
            stream.step("syncing");
            cx.fdatasync(&file).await.unwrap();
        }
        stream.step("reading");
        buf.fill(0);
        if stream.random.once_in(2) {
            let (buf, read) = cx.read_exact(&file, start, buf).await;
            read.unwrap();
            check(&buf, salt, start);
        } else {
            let (mut bufs, mut left) = (vec![buf], len);
            bufs[0].set_len(left.min(1 + len / 3));
            left -= bufs[0].len();
            while left > 0 {
                let part = left.min(1 + stream.random.size(len));
                bufs.push(IoBuf::heap(part));
                left -= part;
            }
            let (bufs, read) = cx.read_vectored(&file, start, bufs).await;
            assert_eq!(read.unwrap(), len);
            let bytes: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
            check(&bytes, salt, start);
        }
    }
}

/// Files are opened and closed, whoever takes the result.
pub(super) async fn open(stream: &mut Stream) {
    let (cx, world) = (stream.cx.clone(), stream.world.clone());
    for _ in 0..stream.random.below(4) + 1 {
        let opened = cx.open_at(None, world.scratch_path(), libc::O_RDONLY, 0);
        if stream.random.once_in(3) {
            drop(cx.timeout_ns(stream.random.below(20_000), opened).await);
            continue;
        }
        let file = opened.await.unwrap();
        assert!(file.as_raw_fd() >= 0);
        let status = cx.file_status(&file).await.unwrap();
        assert!(format!("{status:?}").len() > 1);
    }
    let missing = world.scratch_path().join("missing");
    let refused = cx.open_at(None, &missing, libc::O_RDONLY, 0).await;
    assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::ENOTDIR));
}

/// All bytes arrive in their order, however they are cut.
pub(super) async fn socket(stream: &mut Stream) {
    let cx = stream.cx.clone();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (ours, theirs) = (Fd::from(ours), Fd::from(theirs));
    let (salt, total) = (stream.random.next(), stream.random.below(400_000) + 1);
    let (sender, mut random) = (cx.clone(), stream.random.clone());
    let send = cx.spawn(async move {
        let mut sent = 0;
        while sent < total {
            let len = random
                .size(100_000)
                .min(usize::try_from(total - sent).unwrap() - 1)
                + 1;
            let mut parts = Vec::new();
            let mut start = sent;
            for len in [len / 3, len - len / 3] {
                let mut buf = IoBuf::heap(len);
                fill(&mut buf, salt, start);
                start += len as u64;
                parts.push(SendPart::whole(buf));
            }
            sender.send(&ours, parts).await.1.unwrap();
            sent = start;
        }
    });
    let mut received = 0;
    while received < total {
        let left = usize::try_from(total - received).unwrap();
        let len = (stream.random.size(100_000) + 1).min(left);
        stream.step("receiving");
        let buf = cx.buffers().acquire(len).await;
        let (buf, count) = if stream.random.once_in(2) {
            let (buf, result) = cx.recv_exact(&theirs, buf, 0..len).await;
            result.unwrap();
            (buf, len)
        } else {
            let (buf, result) = cx.recv(&theirs, buf, 0..len).await;
            (buf, result.unwrap())
        };
        assert!(count > 0, "the sender stopped before the end");
        check(&buf[..count], salt, received);
        received += count as u64;
    }
    send.await;
}

/// Requests that are dropped in the middle keep nothing, and disturb nobody.
pub(super) async fn drops(stream: &mut Stream) {
    let (cx, file) = (stream.cx.clone(), stream.scratch.clone());
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (ours, theirs) = (Fd::from(ours), Fd::from(theirs));
    // The second half of the region is for writes that may come at any time.
    let start = stream.region_bytes() + (REGION_BYTES / 2) as u64;
    for _ in 0..stream.random.below(6) + 1 {
        let len = stream.random.size(32 << 10) + 1;
        let wait_ns = stream.random.below(4) * 10_000;
        stream.step("acquiring");
        let buf = cx.buffers().acquire(len).await;
        stream.step("dropping");
        match stream.random.below(6) {
            0 => drop(cx.timeout_ns(wait_ns, cx.read(&file, start, buf)).await),
            1 => drop(cx.timeout_ns(wait_ns, cx.write(&file, start, buf)).await),
            2 => drop(cx.timeout_ns(wait_ns, cx.recv(&ours, buf, 0..len)).await),
            3 => {
                let parts = vec![SendPart::whole(buf)];
                drop(cx.timeout_ns(wait_ns, cx.send(&theirs, parts)).await);
            }
            4 => {
                let ready = cx.ready(&ours, crate::Interest::Readable);
                drop(cx.timeout_ns(wait_ns, ready).await);
            }
            _ => drop(cx.timeout_ns(wait_ns, cx.blocking(move || drop(buf))).await),
        }
    }
}
