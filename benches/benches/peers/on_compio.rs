//! compio, on a ring, with its settings as they come.

use std::{future::Future, io};

use benches::Scratch;
use compio::{
    BufResult,
    fs::{File, OpenOptions},
    io::AsyncReadAt,
    runtime::Runtime,
};

use super::Peer;
use crate::raw_buffer::Buffer;

pub(crate) struct OnCompio(Runtime);

impl Peer for OnCompio {
    const NAME: &'static str = "compio";
    type File = File;

    fn start() -> io::Result<Self> {
        Runtime::new().map(Self)
    }

    fn run<F: Future>(&self, future: F) -> F::Output {
        self.0.block_on(future)
    }

    fn spawn(
        &self,
        future: impl Future<Output = ()> + 'static,
    ) -> impl Future<Output = ()> + 'static {
        let task = self.0.spawn(future);
        async { task.await.expect("no task panics") }
    }

    fn open(&self, scratch: &Scratch) -> io::Result<Self::File> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(scratch.flags());
        self.run(options.open(scratch.path()))
    }

    fn read(
        file: &Self::File,
        offset_bytes: u64,
        buffer: Buffer,
    ) -> impl Future<Output = Buffer> + 'static {
        let file = file.clone();
        async move {
            let BufResult(result, buffer) = file.read_at(buffer, offset_bytes).await;
            let count = result.expect("a scratch file can be read");
            assert_eq!(count, buffer.len(), "a scratch file can be read");
            buffer
        }
    }
}
