//! smol, on one thread, with its pool of blocking threads for files.

use std::{fs::File, future::Future, io, os::unix::fs::FileExt, sync::Arc};

use benches::Scratch;
use smol::{LocalExecutor, unblock};

use super::Peer;
use crate::raw_buffer::Buffer;

pub(crate) struct OnSmol(LocalExecutor<'static>);

impl Peer for OnSmol {
    const NAME: &'static str = "smol";
    type File = Arc<File>;

    fn start() -> io::Result<Self> {
        Ok(Self(LocalExecutor::new()))
    }

    fn run<F: Future>(&self, future: F) -> F::Output {
        smol::block_on(self.0.run(future))
    }

    fn spawn(
        &self,
        future: impl Future<Output = ()> + 'static,
    ) -> impl Future<Output = ()> + 'static {
        self.0.spawn(future)
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
        unblock(move || {
            let result = file.read_exact_at(&mut buffer, offset_bytes);
            result.expect("a scratch file can be read");
            buffer
        })
    }
}
