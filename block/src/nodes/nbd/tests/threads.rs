//! Requests of several contexts, and contexts that close.

use aio::IoThread;
use std::sync::Arc;

use super::*;

fn thread() -> IoThread {
    IoThread::start(Config::default()).unwrap()
}

/// `count` reads on the thread's context, all at once.
fn reads(thread: &IoThread, edge: &Arc<Child>, count: u64) -> aio::JoinHandle<()> {
    let edge = edge.clone();
    thread.handle().spawn(move |cx| async move {
        let tasks: Vec<_> = (0..count)
            .map(|at| {
                let (edge, cx) = (edge.clone(), cx.clone());
                let home = cx.clone();
                home.spawn(async move { read(&edge, &cx, at * 4096, 4096).await })
            })
            .collect();
        for task in tasks {
            assert_eq!(task.await, [0; 4096]);
        }
    })
}

#[test]
fn each_context_gets_a_connection_of_its_own_where_the_server_allows_several() {
    on_each_backend(|cx| async move {
        let server = TestServer::start();
        let edge = Arc::new(opened(&cx, &options(&server)).await);
        let (one, two) = (thread(), thread());
        reads(&one, &edge, 4).await;
        assert_eq!(server.accepted(), 1);
        reads(&two, &edge, 4).await;
        until(&cx, || server.accepted() == 2).await;
        reads(&one, &edge, 4).await;
        reads(&two, &edge, 4).await;
        assert_eq!(server.accepted(), 2);
    });
}

#[test]
fn a_context_with_much_in_flight_gets_more_connections_but_not_too_many() {
    on_each_backend(|cx| async move {
        let server = TestServer::start();
        let three = NbdOptions {
            connections_max: 3,
            ..options(&server)
        };
        let edge = Arc::new(opened(&cx, &three).await);
        let one = thread();
        for _ in 0..5 {
            reads(&one, &edge, 200).await;
        }
        until(&cx, || server.accepted() == 3).await;
        reads(&one, &edge, 200).await;
        assert_eq!(server.accepted(), 3);
    });
}

#[test]
fn without_leave_of_the_server_one_connection_serves_all_contexts() {
    on_each_backend(|cx| async move {
        let alone = everything().without(TransmissionFlags::CAN_MULTI_CONN);
        let server = TestServer::with(|info| info.flags = alone);
        let edge = Arc::new(opened(&cx, &options(&server)).await);
        let (one, two) = (thread(), thread());
        let both = [reads(&one, &edge, 200), reads(&two, &edge, 200)];
        for reads in both {
            reads.await;
        }
        assert_eq!(server.accepted(), 1);
    });
}

#[test]
fn a_closed_context_takes_its_connection_along_and_nothing_of_others() {
    on_each_backend(|cx| async move {
        let alone = everything().without(TransmissionFlags::CAN_MULTI_CONN);
        let server = TestServer::with(|info| info.flags = alone);
        let edge = Arc::new(opened(&cx, &options(&server)).await);
        let (one, two) = (thread(), thread());
        reads(&one, &edge, 1).await;
        server.behave(|_| Act::Ignore);
        let waiting = reads(&two, &edge, 8);
        until(&cx, || server.seen().len() == 9).await;
        server.behave(|_| Act::Serve);
        drop(one);
        waiting.await;
        assert_eq!(server.accepted(), 2);
    });
}

#[test]
fn a_server_that_takes_one_client_only_is_content_with_one() {
    on_each_backend(|cx| async move {
        let server = TestServer::start();
        let edge = Arc::new(opened(&cx, &options(&server)).await);
        let one = thread();
        reads(&one, &edge, 1).await;
        // Whoever comes now is told that there is nothing here.
        server.change(|info| info.name = "gone".to_owned());
        reads(&one, &edge, 200).await;
        reads(&one, &edge, 200).await;
    });
}
