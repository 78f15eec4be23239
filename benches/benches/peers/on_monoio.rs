//! monoio, on a ring.

use std::{cell::RefCell, future::Future, io, rc::Rc};

use benches::Scratch;
use monoio::{IoUringDriver, Runtime, RuntimeBuilder, fs::File, time::TimeDriver};

use super::Peer;
use crate::raw_buffer::Buffer;

pub(crate) struct OnMonoio(RefCell<Runtime<TimeDriver<IoUringDriver>>>);

impl Peer for OnMonoio {
    const NAME: &'static str = "monoio";
    type File = Rc<File>;

    fn start() -> io::Result<Self> {
        let builder = RuntimeBuilder::<IoUringDriver>::new();
        let runtime = builder.with_entries(256).enable_timer().build()?;
        Ok(Self(RefCell::new(runtime)))
    }

    fn run<F: Future>(&self, future: F) -> F::Output {
        self.0.borrow_mut().block_on(future)
    }

    fn spawn(
        &self,
        future: impl Future<Output = ()> + 'static,
    ) -> impl Future<Output = ()> + 'static {
        monoio::spawn(future)
    }

    fn open(&self, scratch: &Scratch) -> io::Result<Self::File> {
        let file = scratch.open()?;
        self.run(async { File::from_std(file) }).map(Rc::new)
    }

    fn read(
        file: &Self::File,
        offset_bytes: u64,
        buffer: Buffer,
    ) -> impl Future<Output = Buffer> + 'static {
        let file = file.clone();
        async move {
            let (result, buffer) = file.read_at(buffer, offset_bytes).await;
            let count = result.expect("a scratch file can be read");
            assert_eq!(count, buffer.len(), "a scratch file can be read");
            buffer
        }
    }
}
