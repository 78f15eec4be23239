//! A context as one source among others of a mio loop: `cargo run -p aio --example embed_mio`.
//!
//! The loop serves requests that come over a socket of its own, "checksum of block N", and has the
//! context read the blocks. It is told of the end by mio's own waker.

#![expect(clippy::print_stdout, reason = "an example shows what it did")]

use std::{
    cell::Cell,
    error::Error,
    io::{self, Read, Write},
    os::{
        fd::AsRawFd,
        unix::{fs::FileExt, net},
    },
    rc::Rc,
    sync::Arc,
    thread,
};

use aio::{AioContext, Config, Fd};
use mio::{Events, Interest, Poll, Token, Waker, net::UnixStream, unix::SourceFd};

const BLOCK_BYTES: usize = 4096;
const BLOCKS: u8 = 200;

const CONTEXT: Token = Token(0);
const SOCKET: Token = Token(1);
const STOP: Token = Token(2);

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let cx = AioContext::new(Config::default())?;
    let mut poll = Poll::new()?;

    // mio borrows the descriptor by its number: `source` must live until it is deregistered.
    let source = cx.foreign_source()?;
    let descriptor = source.as_raw_fd();
    poll.registry()
        .register(&mut SourceFd(&descriptor), CONTEXT, Interest::READABLE)?;
    // Kept here as well: a waker that is dropped takes back what it has not told yet.
    let stop = Arc::new(Waker::new(poll.registry(), STOP)?);
    let (ours, theirs) = UnixStream::pair()?;
    let stopper = stop.clone();
    let client = thread::spawn(move || client(theirs.into(), &stopper));

    let mut server = Server::new(&cx, ours)?;
    let registry = poll.registry();
    registry.register(&mut server.socket, SOCKET, Interest::READABLE)?;
    let mut events = Events::with_capacity(16);
    let mut stopped = false;
    while !stopped {
        // No timeout: whatever the context waits for, timers too, makes its descriptor readable.
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            match event.token() {
                CONTEXT => {
                    source.turn();
                }
                SOCKET => server.read_requests()?,
                _ => stopped = true,
            }
        }
    }
    poll.registry().deregister(&mut SourceFd(&descriptor))?;
    let checked = client.join().expect("the client has not panicked")?;

    println!("backend: {}", cx.describe());
    println!(
        "served {} requests, {checked} answers were right",
        server.served.get()
    );
    drop(source);
    cx.close();
    Ok(())
}

struct Server {
    cx: AioContext,
    socket: UnixStream,
    /// The same socket as requests of the context see it.
    answers: Fd,
    file: Fd,
    served: Rc<Cell<u64>>,
}

impl Server {
    fn new(cx: &AioContext, socket: UnixStream) -> io::Result<Self> {
        let file = tempfile::tempfile()?;
        for block in 0..BLOCKS {
            let offset_bytes = u64::from(block) * BLOCK_BYTES as u64;
            file.write_all_at(&[block; BLOCK_BYTES], offset_bytes)?;
        }
        // A duplicate: mio's side and ours close theirs when they like.
        let answers = Fd::from(socket_of(&socket)?);
        Ok(Self {
            cx: cx.clone(),
            socket,
            answers,
            file: Fd::from(file),
            served: Rc::default(),
        })
    }

    /// Starts a task for each request that has come. mio reports edges: all there is must be read.
    fn read_requests(&mut self) -> io::Result<()> {
        let mut blocks = [0; 64];
        loop {
            let count = match self.socket.read(&mut blocks) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            for &block in &blocks[..count] {
                drop(self.cx.spawn(self.answer(block)));
            }
        }
    }

    /// Reads a block, and answers with its number and the sum of its bytes.
    fn answer(&self, block: u8) -> impl Future<Output = ()> + use<> {
        let (cx, file) = (self.cx.clone(), self.file.clone());
        let (answers, served) = (self.answers.clone(), self.served.clone());
        async move {
            let buf = cx.buffers().acquire(BLOCK_BYTES).await;
            let offset_bytes = u64::from(block) * BLOCK_BYTES as u64;
            let (buf, read) = cx.read_exact(&file, offset_bytes, buf).await;
            read.expect("the file has this block");
            let sum: u32 = buf.iter().map(|&byte| u32::from(byte)).sum();
            let mut answer = vec![block];
            answer.extend(sum.to_be_bytes());
            // Some answers wait for a timer, as one that keeps to a rate would.
            if block.is_multiple_of(32) {
                cx.sleep_ns(500_000).await;
            }
            let parts = vec![aio::SendPart::header(&answer)];
            cx.send(&answers, parts)
                .await
                .1
                .expect("the client listens");
            served.set(served.get() + 1);
        }
    }
}

fn socket_of(socket: &UnixStream) -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::AsFd;
    socket.as_fd().try_clone_to_owned()
}

/// Asks for every block, checks the answers, and stops the loop. Returns how many were right.
fn client(socket: net::UnixStream, stop: &Waker) -> io::Result<usize> {
    let mut socket = socket;
    socket.set_nonblocking(false)?;
    let mut right = 0;
    for asked in (0..BLOCKS).collect::<Vec<_>>().chunks(10) {
        socket.write_all(asked)?;
        for _ in asked {
            let mut answer = [0; 5];
            socket.read_exact(&mut answer)?;
            let [block, sum @ ..] = answer;
            // The block is made of its number.
            let expected = u32::from(block) * 4096;
            right += usize::from(u32::from_be_bytes(sum) == expected);
        }
    }
    stop.wake()?;
    Ok(right)
}
