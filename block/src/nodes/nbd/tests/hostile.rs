//! Servers that break the protocol: an error, never a panic, and no trust in what else they say.

use ::nbd::{
    ChunkEnd, Command, Errno, ReplyStyle, Request, StatusExtent, block_status_chunk, data_chunk,
    error_at_chunk, hole_chunk, none_chunk, simple_reply,
};

use super::*;

fn bytes(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

fn status(request: &Request, context: u32) -> Vec<u8> {
    let extent = StatusExtent {
        len_bytes: 512,
        flags: 0,
    };
    let asked = Request {
        len_bytes: 4096,
        ..*request
    };
    let mut out = Vec::new();
    block_status_chunk(&mut out, &asked, context, &[extent], ChunkEnd::Done);
    out
}

/// A read of 4 KiB at 8 KiB is answered like this; it must fail, and the next request work.
async fn refuses(cx: &AioContext, name: &str, lie: impl Fn(&Request) -> Vec<u8> + Send + 'static) {
    let server = TestServer::start();
    let edge = opened(cx, &options(&server)).await;
    let mut is_first = true;
    server.behave(move |request| match std::mem::take(&mut is_first) {
        true => Act::Say(lie(request)),
        false => Act::Serve,
    });
    let (buf, result) = edge.read(cx, 8192, IoBuf::heap(4096)).await;
    assert_eq!(buf.len(), 4096);
    let error = result.expect_err(name);
    assert_eq!(error.errno(), Some(libc::EIO), "{name}: {error}");
    assert_eq!(read(&edge, cx, 8192, 512).await, [0; 512], "{name}");
    assert_eq!(server.accepted(), 2, "{name}: a new connection");
}

#[test]
fn a_server_that_lies_is_left() {
    on_each_backend(|cx| async move {
        let (more, done) = (ChunkEnd::More, ChunkEnd::Done);
        let data = [7; 4096];
        refuses(&cx, "garbage", |_| vec![0x55; 64]).await;
        refuses(&cx, "unknown cookie", |it| {
            none_chunk(it.cookie + 77).to_vec()
        })
        .await;
        refuses(&cx, "no data", |it| none_chunk(it.cookie).to_vec()).await;
        refuses(&cx, "half of the data", move |it| {
            bytes(&[&data_chunk(it.cookie, 8192, 2048, done), &data[..2048]])
        })
        .await;
        refuses(&cx, "the same data twice", move |it| {
            let chunk = data_chunk(it.cookie, 8192, 2048, more);
            let again = data_chunk(it.cookie, 8192, 2048, done);
            bytes(&[&chunk, &data[..2048], &again, &data[..2048]])
        })
        .await;
        refuses(&cx, "data before the range", move |it| {
            bytes(&[&data_chunk(it.cookie, 4096, 4096, done), &data])
        })
        .await;
        refuses(&cx, "data past the range", move |it| {
            bytes(&[&data_chunk(it.cookie, 8193, 4096, done), &data])
        })
        .await;
        refuses(&cx, "data at the end of the world", move |it| {
            bytes(&[&data_chunk(it.cookie, u64::MAX, 4096, done), &data])
        })
        .await;
        refuses(&cx, "a hole past the range", move |it| {
            hole_chunk(it.cookie, 8192, u32::MAX, done).to_vec()
        })
        .await;
        refuses(&cx, "a simple reply to a read", move |it| {
            bytes(&[&simple_reply(it.cookie, Ok(())), &data])
        })
        .await;
        refuses(&cx, "a block status for a read", |it| status(it, 0)).await;
        refuses(&cx, "an error without a number", |it| {
            let mut error = ReplyStyle::Structured
                .error(it.cookie, Errno::Io, "")
                .to_vec();
            error[20..24].fill(0);
            error
        })
        .await;
        refuses(&cx, "a chunk of 4 GiB", |it| {
            let mut chunk = data_chunk(it.cookie, 8192, 4096, ChunkEnd::Done).to_vec();
            chunk[16..20].fill(0xff);
            chunk
        })
        .await;
    });
}

#[test]
fn a_reply_to_what_was_answered_ends_the_connection() {
    on_each_backend(|cx| async move {
        let server = TestServer::start();
        let edge = opened(&cx, &options(&server)).await;
        let mut is_first = true;
        server.behave(move |request| match std::mem::take(&mut is_first) {
            true => {
                let done = none_chunk(request.cookie);
                Act::Say(bytes(&[&done, &done]))
            }
            false => Act::Serve,
        });
        edge.flush(&cx).await.unwrap();
        // The next one may still be lost with the connection.
        while server.accepted() == 1 {
            let _ = edge.flush(&cx).await;
        }
        edge.flush(&cx).await.unwrap();
    });
}

#[test]
fn a_block_status_of_something_else_is_an_error() {
    on_each_backend(|cx| async move {
        let whole = range(0, DISK_BYTES);
        let lies: [fn(&Request) -> Vec<u8>; 3] = [
            |it| status(it, 4711),
            |it| none_chunk(it.cookie).to_vec(),
            |it| simple_reply(it.cookie, Ok(())).to_vec(),
        ];
        for lie in lies {
            let server = TestServer::start();
            let edge = opened(&cx, &options(&server)).await;
            server.behave(move |request| Act::Say(lie(request)));
            edge.extent(&cx, whole).await.unwrap_err();
        }
    });
}

#[test]
fn pieces_of_a_read_come_in_any_order() {
    on_each_backend(|cx| async move {
        let server = TestServer::start();
        let edge = opened(&cx, &options(&server)).await;
        server.behave(|request| {
            let (id, more) = (request.cookie, ChunkEnd::More);
            Act::Say(bytes(&[
                &data_chunk(id, 2048, 2048, more),
                &[3; 2048],
                &hole_chunk(id, 1024, 1024, more),
                &data_chunk(id, 0, 1024, more),
                &[1; 1024],
                &none_chunk(id),
            ]))
        });
        let found = read(&edge, &cx, 0, 4096).await;
        assert_eq!(found, [[1; 1024], [0; 1024], [3; 1024], [3; 1024]].concat());
        assert_eq!(server.accepted(), 1);
    });
}

#[test]
fn a_read_that_fails_half_way_fails() {
    on_each_backend(|cx| async move {
        let server = TestServer::start();
        let edge = opened(&cx, &options(&server)).await;
        server.behave(|request| {
            let id = request.cookie;
            Act::Say(bytes(&[
                &data_chunk(id, 0, 512, ChunkEnd::More),
                &[3; 512],
                &error_at_chunk(id, Errno::Io, 512, "bad sector", ChunkEnd::More),
                &none_chunk(id),
            ]))
        });
        let (_, result) = edge.read(&cx, 0, IoBuf::heap(4096)).await;
        let error = result.unwrap_err();
        assert!(error.to_string().contains("bad sector"), "{error}");
        server.behave(|_| Act::Serve);
        read(&edge, &cx, 0, 512).await;
        assert_eq!(server.accepted(), 1, "an error ends no connection");
    });
}

#[test]
fn a_server_that_sends_a_read_in_endless_crumbs_is_left() {
    on_each_backend(|cx| async move {
        let server = TestServer::start();
        let edge = opened(&cx, &options(&server)).await;
        server.behave(|request| {
            let crumbs = (0..100_000).map(|at| {
                let chunk = data_chunk(request.cookie, 2 * at, 1, ChunkEnd::More);
                bytes(&[&chunk, &[1]])
            });
            Act::Say(crumbs.flatten().collect())
        });
        let (_, result) = edge.read(&cx, 0, IoBuf::heap(1 << 20)).await;
        let error = result.unwrap_err();
        assert!(error.to_string().contains("too many pieces"), "{error}");
    });
}

#[test]
fn an_impossible_export_is_refused() {
    on_each_backend(|cx| async move {
        for (size_bytes, why) in [(u64::MAX, "bytes"), (1000, "no multiple")] {
            let server = TestServer::with(|info| {
                info.size_bytes = size_bytes;
                info.block_sizes.minimum_bytes = 512;
            });
            let error = NbdNode::open(&cx, &options(&server)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(why), "{error}");
        }
    });
}

/// Random replies, some of them nearly right: every request ends, and nothing else happens.
#[test]
fn no_reply_makes_the_client_panic_or_hang() {
    on_each_backend(|cx| async move {
        let server = TestServer::start();
        let mut state = 0x0123_4567_89ab_cdef_u64;
        server.behave(move |request| {
            let mut random = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state
            };
            let mut reply = match request.command {
                Command::Read => {
                    let len = u32::try_from(request.len_bytes).unwrap();
                    let end = [ChunkEnd::More, ChunkEnd::Done][usize::from(random() % 2 == 0)];
                    let data = vec![1; usize::try_from(len).unwrap()];
                    bytes(&[
                        &data_chunk(request.cookie, request.offset_bytes, len, end),
                        &data,
                    ])
                }
                Command::BlockStatus => status(request, 1),
                _ => none_chunk(request.cookie).to_vec(),
            };
            let flips = random() % 4;
            for _ in 0..flips {
                let at = random() % 32;
                let at = usize::try_from(at).unwrap().min(reply.len() - 1);
                reply[at] ^= 1 << (random() % 8);
            }
            reply.extend_from_slice(&none_chunk(request.cookie));
            // Whoever waits for more after nonsense waits for ever, which is for those who cancel.
            match random() % 3 {
                0 => Act::HangUp,
                _ => Act::Say(reply),
            }
        });
        let edge = opened(&cx, &options(&server)).await;
        for turn in 0..200_u64 {
            let cancelling = async {
                cx.sleep_ns(20_000_000).await;
                edge.node().cancel_in_flight();
                std::future::pending::<()>().await;
            };
            let asking = async {
                match turn % 3 {
                    0 => drop(edge.read(&cx, turn * 512, IoBuf::heap(512)).await),
                    1 => drop(edge.extent(&cx, range(0, DISK_BYTES)).await),
                    _ => drop(edge.flush(&cx).await),
                }
            };
            super::super::links::unless(cancelling, asking).await;
        }
    });
}
