//! tokio, on one thread, with its pool of blocking threads for files.

use std::{fs::File, future::Future, io, os::unix::fs::FileExt, sync::Arc};

use benches::Scratch;
use tokio::{
    runtime::{Builder, Runtime},
    task::{LocalSet, spawn_blocking, spawn_local},
};

use super::Peer;
use crate::raw_buffer::Buffer;

pub(crate) struct OnTokio {
    // Dropped first: its tasks may use the runtime.
    tasks: LocalSet,
    runtime: Runtime,
}

impl Peer for OnTokio {
    const NAME: &'static str = "tokio";
    type File = Arc<File>;

    fn start() -> io::Result<Self> {
        Ok(Self {
            tasks: LocalSet::new(),
            runtime: Builder::new_current_thread().enable_time().build()?,
        })
    }

    fn run<F: Future>(&self, future: F) -> F::Output {
        self.tasks.block_on(&self.runtime, future)
    }

    fn spawn(
        &self,
        future: impl Future<Output = ()> + 'static,
    ) -> impl Future<Output = ()> + 'static {
        let task = spawn_local(future);
        async { task.await.expect("no task panics") }
    }

    fn open(&self, scratch: &Scratch) -> io::Result<Self::File> {
        scratch.open().map(Arc::new)
    }

    fn read(
        file: &Self::File,
        offset_bytes: u64,
        mut buffer: Buffer,
    ) -> impl Future<Output = Buffer> + 'static {
        let file = file.clone();
        async move {
            let read = spawn_blocking(move || {
                let result = file.read_exact_at(&mut buffer, offset_bytes);
                result.expect("a scratch file can be read");
                buffer
            });
            read.await.expect("reading does not panic")
        }
    }
}
