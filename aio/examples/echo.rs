//! An echo server on a context: `cargo run -p aio --example echo`.
//!
//! It serves a hundred clients of its own and ends. With an address in the environment, such as
//! `ECHO_ADDRESS=127.0.0.1:7007`, it serves whoever comes until it is interrupted.

#![expect(clippy::print_stdout, reason = "an example shows what it did")]

use std::{
    env,
    error::Error,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use aio::{AioContext, Config, Fd, SendPart, Task};

const CLIENTS: usize = 100;
const ROUNDS: u8 = 20;

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let address = env::var("ECHO_ADDRESS").ok();
    let listener = TcpListener::bind(address.as_deref().unwrap_or("127.0.0.1:0"))?;
    // Accepting must never wait: a client that has gone meanwhile would hold up everybody.
    listener.set_nonblocking(true)?;
    let at = listener.local_addr()?;
    if address.is_some() {
        println!("listening on {at}");
        return Ok(aio::run(Config::default(), |cx| async move {
            serve(&cx, &Fd::from(listener), usize::MAX).await.map(drop)
        })??);
    }
    let clients = thread::spawn(move || clients(at));
    let echoed_bytes = aio::run(Config::default(), |cx| async move {
        println!("backend: {}", cx.describe());
        let connections = serve(&cx, &Fd::from(listener), CLIENTS).await?;
        let mut echoed_bytes = 0;
        for connection in connections {
            echoed_bytes += connection.await?;
        }
        io::Result::Ok(echoed_bytes)
    })??;
    let right = clients.join().expect("the clients have not panicked")?;
    println!("echoed {echoed_bytes} bytes to {CLIENTS} clients, who got {right} right answers");
    Ok(())
}

/// Accepts so many connections, and gives each a task.
async fn serve(
    cx: &AioContext,
    listener: &Fd,
    connections: usize,
) -> io::Result<Vec<Task<io::Result<usize>>>> {
    let mut tasks: Vec<Task<_>> = Vec::new();
    for _ in 0..connections {
        let socket = cx.accept(listener).await?;
        tasks.retain(|task| connections != usize::MAX || !task.is_finished());
        tasks.push(cx.spawn(echo(cx.clone(), socket)));
    }
    Ok(tasks)
}

/// Sends back what comes until the peer has nothing more to say; returns how many bytes that was.
async fn echo(cx: AioContext, socket: Fd) -> io::Result<usize> {
    let mut echoed_bytes = 0;
    // The pool is bounded: with too many clients, the next one waits here for a buffer.
    let mut buf = cx.buffers().acquire(64 << 10).await;
    loop {
        let all = 0..buf.len();
        // The buffer goes with each request, and comes back with its result.
        let (back, received) = cx.recv(&socket, buf, all).await;
        let count = received?;
        if count == 0 {
            return Ok(echoed_bytes);
        }
        let range = 0..count;
        let parts = vec![SendPart::Buf { buf: back, range }];
        let (mut parts, sent) = cx.send(&socket, parts).await;
        sent?;
        echoed_bytes += count;
        buf = match parts.pop() {
            Some(SendPart::Buf { buf, .. }) => buf,
            _ => unreachable!("the parts come back"),
        };
    }
}

/// A hundred clients on ten threads; returns how many answers were right.
fn clients(server: SocketAddr) -> io::Result<usize> {
    let talk = move |client: usize| -> io::Result<usize> {
        let mut socket = TcpStream::connect(server)?;
        let mut right = 0;
        for round in 0..ROUNDS {
            let byte = b'a' + round;
            let message = vec![byte; 1 + client * 97];
            socket.write_all(&message)?;
            let mut answer = vec![0; message.len()];
            socket.read_exact(&mut answer)?;
            right += usize::from(answer == message);
        }
        Ok(right)
    };
    let threads = (0..10).map(|first| {
        thread::spawn(move || {
            (first..CLIENTS)
                .step_by(10)
                .map(talk)
                .sum::<io::Result<usize>>()
        })
    });
    let threads: Vec<_> = threads.collect();
    let results = threads
        .into_iter()
        .map(|thread| thread.join().expect("no client panics"));
    results.sum()
}
