//! `Engine`: one loop thread, one graph, one list of jobs.

use std::{fmt, sync::Arc};

use aio::{AioError, BackendKind, Config, Handle, IoThread};
use block::{
    BlockError, Graph, Node, NodeDriver,
    nodes::{
        file::{FileIdentity, FileNode, FileOptions},
        nbd::{NbdNode, NbdOptions},
    },
};
use drivers::{
    backup::{Action as BackupAction, Backup, BackupError, BackupOptions, Completion},
    mirror::{Mirror, MirrorError, MirrorOptions},
};
use job::JobRegistry;

/// How an engine is made.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The backend to use; by default what `LONGSHORE_AIO` says, else the best there is.
    pub backend: Option<BackendKind>,
    /// Most bytes that the buffers of the loop may take.
    pub buffer_bytes_max: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            backend: None,
            buffer_bytes_max: 64 << 20,
        }
    }
}

/// Everything that block jobs need, on a loop thread of its own. Cheap to clone; any thread.
///
/// The loop ends with the last clone: jobs that still run are dropped where they are then, so
/// whoever needs their results waits for them first. The last clone must not be dropped on the loop thread.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    graph: Graph,
    jobs: JobRegistry,
    backend: BackendKind,
    description: String,
    /// Last, so that graph and jobs go first.
    thread: IoThread,
}

/// A file that was opened as a node, and what is known of it.
#[derive(Clone, Debug)]
pub struct OpenedFile {
    /// The node.
    pub node: Node,
    /// What the path led to.
    pub identity: FileIdentity,
    /// Whether that is a block device.
    pub is_block_device: bool,
    /// Whether requests bypass the page cache.
    pub is_direct: bool,
    /// Length in bytes.
    pub len_bytes: u64,
}

impl Engine {
    /// Starts the loop thread.
    ///
    /// # Errors
    ///
    /// [`AioError`] when no backend can be had, or not the one that was asked for.
    pub fn start(config: EngineConfig) -> Result<Self, AioError> {
        let thread = IoThread::start(Config {
            name: "longshore-0".to_owned(),
            backend: config.backend,
            buffer_bytes_max: config.buffer_bytes_max,
            poll_max_ns: 32_000,
            ..Config::default()
        })?;
        let handle = thread.handle();
        let (backend, description) = handle
            .spawn(|cx| async move { (cx.backend(), cx.describe()) })
            .wait();
        let jobs = JobRegistry::new(handle.clone());
        let inner = Inner {
            graph: Graph::new(),
            jobs,
            backend,
            description,
            thread,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The way to the loop.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        self.inner.thread.handle()
    }

    /// The nodes.
    #[must_use]
    pub fn graph(&self) -> &Graph {
        &self.inner.graph
    }

    /// The jobs.
    #[must_use]
    pub fn jobs(&self) -> &JobRegistry {
        &self.inner.jobs
    }

    /// The backend and what it makes use of, in words for an operator.
    #[must_use]
    pub fn describe(&self) -> &str {
        &self.inner.description
    }

    /// Which backend the loop uses.
    #[must_use]
    pub fn backend(&self) -> BackendKind {
        self.inner.backend
    }

    /// Opens a regular file or a block device as a node. Blocks the calling thread.
    ///
    /// # Errors
    ///
    /// As [`FileNode::open`] and [`Graph::add_node`].
    pub fn open_file(
        &self,
        name: Option<&str>,
        options: &FileOptions,
    ) -> Result<OpenedFile, BlockError> {
        let file = FileNode::open(options)?;
        let (identity, is_block_device, is_direct) =
            (file.identity(), file.is_block_device(), file.is_direct());
        let len_bytes = file.limits().len_bytes;
        let node = self.graph().add_node(name, file)?;
        Ok(OpenedFile {
            node,
            identity,
            is_block_device,
            is_direct,
            len_bytes,
        })
    }

    /// Connects to an NBD server and adds its export as a node. Blocks the calling thread, which must
    /// not be the loop's.
    ///
    /// # Errors
    ///
    /// As [`NbdNode::open`] and [`Graph::add_node`].
    pub fn open_nbd(&self, name: Option<&str>, options: &NbdOptions) -> Result<Node, BlockError> {
        let options = options.clone();
        let opened = self
            .handle()
            .spawn(|cx| async move { NbdNode::open(&cx, &options).await });
        self.graph().add_node(name, opened.wait()?)
    }

    /// Starts a point-in-time backup of `source` to `target`, nodes of this engine's graph.
    ///
    /// When this returns the instant has been taken, and guests may write on. Blocks the calling
    /// thread until then, so it must not be the loop's.
    ///
    /// # Errors
    ///
    /// [`BackupError`]; nothing has changed then.
    pub fn backup(
        &self,
        source: &Node,
        target: &Node,
        options: BackupOptions,
    ) -> Result<Backup, BackupError> {
        let (graph, jobs, context) = (
            self.graph().clone(),
            self.jobs().clone(),
            self.handle().clone(),
        );
        let (source, target) = (source.clone(), target.clone());
        let started = self.handle().spawn(move |_| async move {
            Backup::start((&graph, &jobs), &context, (&source, &target), options).await
        });
        started.wait()
    }

    /// Starts backups and changes bitmaps of this engine's graph, all at one instant and all or nothing.
    ///
    /// As [`Backup::start_group`]. Blocks the calling thread, which must not be the loop's.
    ///
    /// # Errors
    ///
    /// [`BackupError`] of the first action that fails; nothing has changed then.
    pub fn backup_group(
        &self,
        actions: Vec<BackupAction>,
        completion: Completion,
    ) -> Result<Vec<Backup>, BackupError> {
        let (graph, jobs) = (self.graph().clone(), self.jobs().clone());
        let started = self.handle().spawn(move |_| async move {
            Backup::start_group((&graph, &jobs), actions, completion).await
        });
        started.wait()
    }

    /// Starts to mirror `source` to `target`, nodes of this engine's graph.
    ///
    /// When this returns every change of the source is noticed. Blocks the calling thread until then, so it must
    /// not be the loop's.
    ///
    /// # Errors
    ///
    /// [`MirrorError`]; nothing has changed then.
    pub fn mirror(
        &self,
        source: &Node,
        target: &Node,
        options: MirrorOptions,
    ) -> Result<Mirror, MirrorError> {
        let (graph, jobs, context) = (
            self.graph().clone(),
            self.jobs().clone(),
            self.handle().clone(),
        );
        let (source, target) = (source.clone(), target.clone());
        let started = self.handle().spawn(move |_| async move {
            Mirror::start((&graph, &jobs), &context, (&source, &target), options).await
        });
        started.wait()
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("backend", &self.inner.backend)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
