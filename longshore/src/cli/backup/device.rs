//! A block device or an export as a target: marked as incomplete until every other byte is durable.
//!
//! Neither has a name that could be given late. The first bytes of a device tell what it is: a
//! partition table, a file system, a boot sector. A marker stands there, durably, before anything
//! else is written. The copy's true first bytes are held back in memory and written last, after all
//! others have been flushed; so a device whose backup was cut short at any moment begins with the marker.

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use aio::{AioContext, IoBuf};
use block::{
    Access, AllocationStatus, Attachment, BlockError, ByteRange, Child, ChildRole, Extent, Graph,
    Limits, Located, Node, NodeDriver, Permission, Permissions, RequestFlags, RequestFuture,
    Transferred, fixed_length,
};

use longshore::Engine;

use crate::cli::{
    exit::{Exit, Failure},
    units,
};

/// How many bytes are held back.
const HEAD_BYTES: u64 = 4096;
/// What the marker begins with.
const MAGIC: &[u8] = b"longshore: incomplete backup\n";

/// Whether `start`, the first bytes of a device or a file, are those of an incomplete backup.
pub(crate) fn is_marked(start: &[u8]) -> bool {
    start.starts_with(MAGIC)
}

/// The marker, readable by a person who looks at the device with a pager.
fn marker(source: &Path) -> Vec<u8> {
    let mut text = MAGIC.to_vec();
    let rest = format!(
        "begun {}, not completed; what follows is part of the copy only.\nRun it again: longshore backup '{}' DEVICE\n",
        units::timestamp(SystemTime::now()),
        source.display(),
    );
    text.extend_from_slice(rest.as_bytes());
    text.resize(in_memory(HEAD_BYTES), 0);
    text
}

/// A device that nobody else has, or an export, before it is marked.
#[derive(Debug)]
pub(crate) struct Device {
    path: PathBuf,
    place: Place,
    len_bytes: u64,
}

/// How the first bytes are written.
#[derive(Debug)]
enum Place {
    /// A device of this machine.
    Here(File),
    /// An export.
    Far(Engine, Node),
}

impl Place {
    /// Writes the first bytes, durably. `what` is what that is for.
    fn write_head(&self, bytes: &[u8], what: &str) -> Result<(), Failure> {
        match self {
            Self::Here(file) => {
                let written = file.write_all_at(bytes, 0).and_then(|()| file.sync_all());
                written.map_err(|error| Failure::io(what, &error))
            }
            Self::Far(engine, node) => {
                let written = write_far(engine, node, bytes);
                written.map_err(|error| Failure::block(what, &error))
            }
        }
    }
}

fn write_far(engine: &Engine, node: &Node, bytes: &[u8]) -> Result<(), BlockError> {
    let permissions = Permissions::uses(&[Permission::Write]);
    let user = Attachment::new("the marker", ChildRole::Primary, permissions);
    let edge = engine.graph().attach(node, user)?;
    let mut buf = IoBuf::heap(bytes.len());
    buf.copy_from_slice(bytes);
    let written = engine.handle().spawn(|cx| async move {
        edge.write(&cx, 0, buf, RequestFlags::default()).await.1?;
        edge.flush(&cx).await
    });
    written.wait()
}

/// A device that bears the marker.
#[derive(Debug)]
pub(crate) struct Marked {
    place: Place,
    head: Arc<Head>,
    path: PathBuf,
}

impl Device {
    /// Opens the device for this process alone; nothing is written yet.
    pub(crate) fn claim(path: &Path, len_bytes: u64) -> Result<Self, Failure> {
        let shown = path.display();
        let file = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_EXCL)
            .open(path)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::EBUSY) => {
                    let text =
                        format!("the target '{shown}' is mounted, or part of another device");
                    Failure::new(Exit::Locked, text)
                }
                _ => Failure::io(format!("cannot use the target '{shown}'"), &error),
            })?;
        let has = io::Seek::seek(&mut &file, io::SeekFrom::End(0)).map_err(|error| {
            Failure::io(
                format!("cannot ask for the size of the target '{shown}'"),
                &error,
            )
        })?;
        Self::new(path, Place::Here(file), (has, len_bytes))
    }

    /// Takes an export, which cannot be had for this process alone.
    pub(crate) fn of_export(
        path: &Path,
        (engine, node): (&Engine, &Node),
        len_bytes: u64,
    ) -> Result<Self, Failure> {
        if node.is_read_only() {
            let text = format!("the target '{}' is read-only", path.display());
            return Err(Failure::new(Exit::Denied, text));
        }
        let place = Place::Far(engine.clone(), node.clone());
        Self::new(path, place, (node.len_bytes(), len_bytes))
    }

    fn new(path: &Path, place: Place, (has, len_bytes): (u64, u64)) -> Result<Self, Failure> {
        if has < len_bytes {
            let text = format!(
                "the target '{}' is smaller than the source, {has} against {len_bytes} bytes",
                path.display()
            );
            return Err(Failure::new(Exit::Usage, text));
        }
        Ok(Self {
            path: path.to_owned(),
            place,
            len_bytes,
        })
    }

    /// Writes the marker and waits until it is durable.
    pub(crate) fn mark(self, source: &Path) -> Result<Marked, Failure> {
        let marker = marker(source);
        let head = Arc::new(Head::new(marker, self.len_bytes));
        let what = format!("cannot write to '{}'", self.path.display());
        self.place.write_head(head.marker(), &what)?;
        Ok(Marked {
            path: self.path,
            place: self.place,
            head,
        })
    }
}

impl Marked {
    /// The node to copy to: the first `len_bytes` of `below`, the first of them held back.
    pub(crate) fn add_node(&self, graph: &Graph, below: &Node) -> Result<Node, BlockError> {
        let builder = graph.build_node(Some("target-device"))?;
        let permissions = Permissions::uses(&[Permission::ConsistentRead, Permission::Write]);
        let child = builder.attach(below, "file", ChildRole::Data, permissions)?;
        let limits = Limits {
            len_bytes: self.head.len_bytes,
            ..child.limits()
        };
        let head = Arc::clone(&self.head);
        Ok(builder.finish(HeldHead {
            child,
            limits,
            head,
        }))
    }

    /// Where the copy is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the true first bytes in the marker's place. Everything else is durable already.
    pub(crate) fn publish(self) -> Result<(), Failure> {
        let head = self.head.lock().clone();
        let what = format!("cannot finish '{}'", self.path.display());
        self.place.write_head(&head, &what)
    }
}

/// The first bytes of the copy, which the device does not have yet.
#[derive(Debug)]
struct Head {
    marker: Vec<u8>,
    len_bytes: u64,
    bytes: Mutex<Vec<u8>>,
}

impl Head {
    fn new(mut marker: Vec<u8>, len_bytes: u64) -> Self {
        marker.truncate(in_memory(len_bytes.min(HEAD_BYTES)));
        let bytes = Mutex::new(vec![0; marker.len()]);
        Self {
            marker,
            len_bytes,
            bytes,
        }
    }

    fn marker(&self) -> &[u8] {
        &self.marker
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many of the bytes from `offset_bytes` on belong to the head.
    fn overlap(&self, offset_bytes: u64, len: usize) -> usize {
        let start = usize::try_from(offset_bytes).unwrap_or(usize::MAX);
        self.marker.len().saturating_sub(start).min(len)
    }

    /// Keeps what of `buf` belongs here, and puts the marker in its place.
    fn hold_back(&self, offset_bytes: u64, buf: &mut [u8]) {
        let count = self.overlap(offset_bytes, buf.len());
        if count > 0 {
            let start = in_memory(offset_bytes);
            self.lock()[start..start + count].copy_from_slice(&buf[..count]);
            buf[..count].copy_from_slice(&self.marker[start..start + count]);
        }
    }

    /// Puts what is kept here into `buf`.
    fn fill_in(&self, offset_bytes: u64, buf: &mut [u8]) {
        let count = self.overlap(offset_bytes, buf.len());
        if count > 0 {
            let start = in_memory(offset_bytes);
            buf[..count].copy_from_slice(&self.lock()[start..start + count]);
        }
    }

    /// Zeroes what of `range` belongs here; gives back the rest of it.
    fn zero(&self, range: ByteRange) -> ByteRange {
        let count = self.overlap(
            range.start(),
            usize::try_from(range.len()).unwrap_or(usize::MAX),
        );
        if count > 0 {
            let start = in_memory(range.start());
            self.lock()[start..start + count].fill(0);
        }
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        ByteRange::between(range.start() + count, range.end())
    }
}

fn in_memory(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a few KiB fit memory")
}

/// The start of a child, but for its first bytes, which are kept in memory.
#[derive(Debug)]
struct HeldHead {
    child: Child,
    limits: Limits,
    head: Arc<Head>,
}

impl NodeDriver for HeldHead {
    fn driver_name(&self) -> &'static str {
        "held-head"
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn read<'a>(
        &'a self,
        cx: &'a AioContext,
        offset_bytes: u64,
        buf: IoBuf,
    ) -> RequestFuture<'a, Transferred> {
        Box::pin(async move {
            let (mut buf, result) = self.child.read(cx, offset_bytes, buf).await;
            self.head.fill_in(offset_bytes, &mut buf);
            (buf, result)
        })
    }

    fn write<'a>(
        &'a self,
        cx: &'a AioContext,
        offset_bytes: u64,
        mut buf: IoBuf,
        flags: RequestFlags,
    ) -> RequestFuture<'a, Transferred> {
        Box::pin(async move {
            self.head.hold_back(offset_bytes, &mut buf);
            let (mut buf, result) = self.child.write(cx, offset_bytes, buf, flags).await;
            self.head.fill_in(offset_bytes, &mut buf);
            (buf, result)
        })
    }

    fn write_zeroes<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
        flags: RequestFlags,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(async move {
            let rest = self.head.zero(range);
            self.child.write_zeroes(cx, rest, flags).await
        })
    }

    fn discard<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(async move {
            let rest = self.head.zero(range);
            self.child.discard(cx, rest).await
        })
    }

    fn flush<'a>(&'a self, cx: &'a AioContext) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(self.child.flush(cx))
    }

    fn truncate<'a>(
        &'a self,
        _cx: &'a AioContext,
        _len_bytes: u64,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        fixed_length("the device keeps its length")
    }

    fn extent<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
    ) -> RequestFuture<'a, Result<Extent, BlockError>> {
        Box::pin(async move {
            if self.head.overlap(range.start(), 1) == 0 {
                return self.child.extent(cx, range).await;
            }
            let held = HEAD_BYTES.min(range.end()) - range.start();
            Ok(Extent {
                len_bytes: held,
                status: AllocationStatus::Data,
            })
        })
    }

    /// Nowhere: what belongs in the head must be held back.
    fn locate(&self, _range: ByteRange, _access: Access) -> Located<'_> {
        Located::Nowhere
    }

    fn cancel_in_flight(&self) {
        self.child.node().cancel_in_flight();
    }
}

#[cfg(test)]
mod tests {
    use block::nodes::memory::{MemoryNode, MemoryOptions};
    use longshore::{Engine, EngineConfig};

    use super::*;

    const LEN_BYTES: u64 = 100_000;

    /// A memory node under a node that holds the head back.
    fn world(len_bytes: u64) -> (Engine, Node, Node, Arc<Head>) {
        let engine = Engine::start(EngineConfig::default()).unwrap();
        let graph = engine.graph();
        let memory = MemoryNode::new(MemoryOptions::new(1 << 20)).unwrap();
        let below = graph.add_node(Some("below"), memory).unwrap();
        let marked = Marked {
            path: PathBuf::from("device"),
            place: Place::Here(tempfile::tempfile().unwrap()),
            head: Arc::new(Head::new(marker(Path::new("a.img")), len_bytes)),
        };
        let node = marked.add_node(graph, &below).unwrap();
        (engine, below, node, marked.head)
    }

    fn user(graph: &Graph, node: &Node) -> Child {
        let permissions = Permissions::uses(&[Permission::ConsistentRead, Permission::Write]);
        let attachment = Attachment::new("test", ChildRole::Primary, permissions);
        graph.attach(node, attachment).unwrap()
    }

    fn read(engine: &Engine, node: &Node) -> Vec<u8> {
        let (child, len) = (user(engine.graph(), node), in_memory(LEN_BYTES));
        let read = engine.handle().spawn(move |cx| async move {
            let (buf, result) = child.read(&cx, 0, IoBuf::heap(len)).await;
            result.map(|_| buf.to_vec())
        });
        read.wait().unwrap()
    }

    #[test]
    fn the_device_begins_with_the_marker_while_the_copy_reads_as_written() {
        let (engine, below, node, head) = world(LEN_BYTES);
        let child = user(engine.graph(), &node);
        let back = engine.handle().spawn(move |cx| async move {
            let mut buf = IoBuf::heap(in_memory(LEN_BYTES));
            buf.fill(7);
            let (buf, result) = child.write(&cx, 0, buf, RequestFlags::default()).await;
            result.map(|_| buf.to_vec())
        });
        assert!(back.wait().unwrap().iter().all(|byte| *byte == 7));
        let stored = read(&engine, &below);
        assert!(is_marked(&stored));
        assert!(stored[4096..].iter().all(|byte| *byte == 7));
        assert!(read(&engine, &node).iter().all(|byte| *byte == 7));
        assert_eq!(*head.lock(), vec![7; 4096]);
    }

    #[test]
    fn zeroes_are_held_back_too() {
        let (engine, below, node, _) = world(LEN_BYTES);
        let child = user(engine.graph(), &node);
        let zeroed = engine.handle().spawn(move |cx| async move {
            let mut buf = IoBuf::heap(in_memory(LEN_BYTES));
            buf.fill(7);
            let (_, written) = child.write(&cx, 0, buf, RequestFlags::default()).await;
            written?;
            let range = ByteRange::between(0, 65536);
            child
                .write_zeroes(&cx, range, RequestFlags::default())
                .await
        });
        zeroed.wait().unwrap();
        assert!(is_marked(&read(&engine, &below)));
        let copy = read(&engine, &node);
        assert!(copy[..65536].iter().all(|byte| *byte == 0));
        assert!(copy[65536..].iter().all(|byte| *byte == 7));
    }

    #[test]
    fn a_short_copy_leaves_what_is_behind_it_alone() {
        let head = Head::new(marker(Path::new("a.img")), 100);
        assert_eq!((head.marker().len(), head.lock().len()), (100, 100));
        assert_eq!(head.overlap(0, 4096), 100);
        assert_eq!(head.overlap(99, 4096), 1);
        assert_eq!(head.overlap(100, 4096), 0);
        assert_eq!(head.overlap(u64::MAX, 1), 0);
    }
}
