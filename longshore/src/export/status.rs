//! Block status: what a client is told of each metadata context it has chosen.

use std::rc::Rc;

use aio::IoBuf;
use block::{AllocationStatus, Bitmap, ByteRange, Run, bitmap::BusyGuard};
use nbd::{
    ALLOCATION_DEPTH, BASE_ALLOCATION, ChunkEnd, Command, CommandFlags, DIRTY_BITMAP, Errno,
    HeaderMode, MAX_STATUS_EXTENTS, MetaContext, Request, STATE_DIRTY, STATE_HOLE, STATE_ZERO,
    StatusExtent, StatusQuery, block_status_chunk, extended_status_chunk,
};

use super::{
    ExportOptions, connection::Connection, error::Asked, exported::Link, inbox::Inbox, outbox::Slot,
};

/// A metadata context that a client has chosen, and what it is about.
#[derive(Debug)]
pub(super) struct Context {
    id: u32,
    subject: Subject,
}

#[derive(Clone, Copy, Debug)]
enum Subject {
    Allocation,
    Depth,
    /// One of the export's bitmaps, by its place.
    Bitmap(usize),
}

/// The names of the contexts of an export with these options.
pub(super) fn context_names(options: &ExportOptions) -> Vec<String> {
    let depth = options.allocation_depth.then_some(ALLOCATION_DEPTH);
    let fixed = [BASE_ALLOCATION].into_iter().chain(depth);
    let bitmaps = options.bitmaps.iter().map(context_name);
    fixed.map(str::to_owned).chain(bitmaps).collect()
}

fn context_name(bitmap: &Bitmap) -> String {
    format!("{DIRTY_BITMAP}{}", bitmap.name())
}

/// What the contexts are about that a client has chosen; `None` if it chose them from an export that was replaced
/// before it came to use it.
pub(super) fn chosen_contexts(link: &Link, chosen: &[MetaContext]) -> Option<Vec<Context>> {
    let subject = |name: &str| match name {
        BASE_ALLOCATION => Some(Subject::Allocation),
        ALLOCATION_DEPTH => Some(Subject::Depth),
        _ => {
            let mut bitmaps = link.bitmaps().iter();
            let index = bitmaps.position(|bitmap| context_name(bitmap.bitmap()) == name);
            index.map(Subject::Bitmap)
        }
    };
    let context = |chosen: &MetaContext| {
        let (id, subject) = (chosen.id, subject(&chosen.name)?);
        Some(Context { id, subject })
    };
    chosen.iter().map(context).collect()
}

impl Connection {
    /// Takes the data of a block status off the socket and has the rest done by a task; `None` ends the connection.
    pub(super) async fn begin_query(
        self: &Rc<Self>,
        request: Request,
        slot: Slot,
        inbox: &mut Inbox,
    ) -> Option<()> {
        let Some(query) = self.receive_query(&request, inbox).await? else {
            self.answer(&request, Err(Errno::Inval), slot);
            return Some(());
        };
        let request = Request {
            flags: request.flags.without(CommandFlags::PAYLOAD_LEN),
            len_bytes: query.len_bytes,
            ..request
        };
        if let Err(errno) = request.check(&self.session.limits) {
            self.answer(&request, Err(errno), slot);
            return Some(());
        }
        let connection = self.clone();
        let ids = Some(query.context_ids);
        drop(
            self.cx
                .spawn(async move { connection.tell_status(request, ids, slot).await }),
        );
        Some(())
    }

    /// What a block status asks with its data; nothing if that makes no sense.
    async fn receive_query(
        &self,
        request: &Request,
        inbox: &mut Inbox,
    ) -> Option<Option<StatusQuery>> {
        debug_assert_eq!(request.command, Command::BlockStatus, "the only one");
        let len_bytes = request.payload_bytes(self.session.headers);
        if len_bytes > StatusQuery::max_bytes(self.contexts.len()) {
            inbox.skip(&self.cx, &self.line, len_bytes).await?;
            return Some(None);
        }
        let len = usize::try_from(len_bytes).expect("some words of memory");
        let buf = IoBuf::heap(len);
        let (buf, _) = inbox.receive(&self.cx, &self.line, buf).await?;
        let is_known = |id: &u32| self.contexts.iter().any(|context| context.id == *id);
        let query = StatusQuery::decode(&buf);
        Some(query.filter(|query| query.context_ids.iter().all(is_known)))
    }

    /// Answers a block status: one chunk for each context that was chosen, or of those only the ones in `ids`.
    pub(super) async fn tell_status(&self, request: Request, ids: Option<Vec<u32>>, slot: Slot) {
        match self.block_status(&request, ids.as_deref()).await {
            Ok(bytes) => self.answer_with(bytes, slot),
            Err(errno) => self.answer(&request, Err(errno), slot),
        }
    }

    async fn block_status(&self, request: &Request, ids: Option<&[u32]>) -> Result<Vec<u8>, Errno> {
        let is_asked = |context: &&Context| ids.is_none_or(|ids| ids.contains(&context.id));
        let mut contexts = self.contexts.iter().filter(is_asked).peekable();
        let mut bytes = Vec::new();
        while let Some(context) = contexts.next() {
            let extents = self.extents(request, context.subject).await?;
            let end = match contexts.peek() {
                Some(_) => ChunkEnd::More,
                None => ChunkEnd::Done,
            };
            match self.session.headers {
                HeaderMode::Extended => {
                    extended_status_chunk(&mut bytes, request, context.id, &extents, end);
                }
                _ => block_status_chunk(&mut bytes, request, context.id, &extents, end),
            }
        }
        Ok(bytes)
    }

    async fn extents(
        &self,
        request: &Request,
        subject: Subject,
    ) -> Result<Vec<StatusExtent>, Errno> {
        match subject {
            Subject::Allocation => self.node_extents(request, state_of).await,
            Subject::Depth => self.node_extents(request, depth_of).await,
            Subject::Bitmap(index) => Ok(dirty_extents(&self.using.bitmaps()[index], request)),
        }
    }

    /// What lies at the start of the request's range: as many extents as a reply holds, neighbours
    /// of one kind made one.
    async fn node_extents(
        &self,
        request: &Request,
        flags_of: fn(AllocationStatus) -> u32,
    ) -> Result<Vec<StatusExtent>, Errno> {
        let mut extents: Vec<StatusExtent> = Vec::new();
        let mut at = request.offset_bytes;
        let end = request.offset_bytes + request.len_bytes;
        for _ in 0..MAX_STATUS_EXTENTS {
            let _inside = self.enter().await?;
            let range = ByteRange::between(at, end);
            let extent = match self.using.child().extent(&self.cx, range).await {
                Ok(extent) => extent,
                // What is known so far is an answer.
                Err(_) if !extents.is_empty() => break,
                Err(error) => return Err(self.failed(&error, Asked::Plainly)),
            };
            let flags = flags_of(extent.status);
            match extents.last_mut() {
                Some(last) if last.flags == flags => last.len_bytes += extent.len_bytes,
                Some(_) if request.flags.contains(CommandFlags::REQ_ONE) => break,
                _ => extents.push(StatusExtent {
                    len_bytes: extent.len_bytes,
                    flags,
                }),
            }
            at += extent.len_bytes;
            if at >= end {
                break;
            }
        }
        Ok(extents)
    }
}

/// A status in the words of `base:allocation`, in which "data" is always right.
fn state_of(status: AllocationStatus) -> u32 {
    match status {
        AllocationStatus::Zero => STATE_HOLE | STATE_ZERO,
        AllocationStatus::Data | AllocationStatus::Unallocated => 0,
    }
}

/// In which layer the bytes are: the node itself, or none that is known.
fn depth_of(status: AllocationStatus) -> u32 {
    match status {
        AllocationStatus::Data | AllocationStatus::Zero => 1,
        AllocationStatus::Unallocated => 0,
    }
}

/// What a bitmap has of the request's range. Behind its end nothing is known, so that is dirty.
fn dirty_extents(bitmap: &BusyGuard, request: &Request) -> Vec<StatusExtent> {
    let end = request.offset_bytes + request.len_bytes;
    let range = ByteRange::between(request.offset_bytes, end);
    let extent = |run: &Run| StatusExtent {
        len_bytes: run.range.len(),
        flags: if run.is_dirty { STATE_DIRTY } else { 0 },
    };
    let runs = bitmap.runs(range, MAX_STATUS_EXTENTS);
    if runs.is_empty() {
        return vec![StatusExtent {
            len_bytes: request.len_bytes,
            flags: STATE_DIRTY,
        }];
    }
    runs.iter().map(extent).collect()
}
