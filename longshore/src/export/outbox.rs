//! [`Outbox`]: replies on their way to a client, and the slots that bound their number.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    sync::Arc,
};

use aio::{HEADER_BYTES_MAX, IoBuf, SendPart};
use nbd::{HeaderBytes, Request};

use super::{
    line::Line,
    memory::Charge,
    signal::{Signal, until},
};

/// Most requests of one client between the arrival of their header and the sending of their reply.
pub(super) const REQUESTS_MAX: usize = 64;

/// Counts the requests of one connection.
#[derive(Debug)]
pub(super) struct Slots {
    taken: Cell<usize>,
    line: Arc<Line>,
}

/// One request of a connection; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Slot(Rc<Slots>);

impl Slots {
    pub(super) fn new(line: &Arc<Line>) -> Rc<Self> {
        Rc::new(Self {
            taken: Cell::new(0),
            line: line.clone(),
        })
    }

    /// A slot if one is free.
    pub(super) fn try_take(self: &Rc<Self>) -> Option<Slot> {
        if self.taken.get() == REQUESTS_MAX {
            return None;
        }
        self.taken.set(self.taken.get() + 1);
        Some(Slot(self.clone()))
    }

    /// Waits until every request has ended.
    pub(super) async fn all_free(&self) {
        until([self.line.changed()], || {
            (self.taken.get() == 0).then_some(())
        })
        .await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let before = self.0.taken.get();
        self.0.taken.set(before - 1);
        // Nobody waits for anything in between.
        if before == REQUESTS_MAX || before == 1 {
            self.0.line.changed().raise();
        }
    }
}

/// Something for the sender to do.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// A header, with the data of a read behind it.
    Reply {
        /// The header.
        header: HeaderBytes,
        /// The data, and the memory it is charged to.
        data: Option<(IoBuf, Charge)>,
        /// The request that is answered.
        slot: Slot,
    },
    /// Whole messages.
    Messages {
        /// Their bytes.
        bytes: Vec<u8>,
        /// The request that is answered.
        slot: Slot,
    },
    /// A read that is longer than its buffer: it is done piece by piece while it is sent.
    LongRead {
        /// The request.
        request: Request,
        /// What each piece goes through.
        buf: IoBuf,
        /// The memory that the buffer is charged to.
        charge: Charge,
        /// The request that is answered.
        slot: Slot,
    },
}

/// Replies that are ready, in the order in which they are sent.
#[derive(Debug)]
pub(super) struct Outbox {
    line: Arc<Line>,
    queue: RefCell<VecDeque<Outgoing>>,
    is_complete: Cell<bool>,
    changed: Signal,
}

impl Outbox {
    pub(super) fn new(line: &Arc<Line>) -> Self {
        Self {
            line: line.clone(),
            queue: RefCell::default(),
            is_complete: Cell::new(false),
            changed: Signal::default(),
        }
    }

    /// Leaves something for the sender; it is dropped if the connection is closed.
    pub(super) fn push(&self, outgoing: Outgoing) {
        if self.line.is_closed() {
            return;
        }
        self.queue.borrow_mut().push_back(outgoing);
        self.changed.raise();
    }

    /// Says that nothing more will come.
    pub(super) fn complete(&self) {
        self.is_complete.set(true);
        self.changed.raise();
    }

    /// Waits for something to send and takes all there is; `None` at the end.
    pub(super) async fn take(&self) -> Option<VecDeque<Outgoing>> {
        until([&self.changed, self.line.changed()], || {
            let queue = std::mem::take(&mut *self.queue.borrow_mut());
            if self.line.is_closed() {
                return Some(None);
            }
            let over = queue.is_empty() && self.is_complete.get();
            (over || !queue.is_empty()).then_some((!over).then_some(queue))
        })
        .await
    }
}

/// Appends `bytes` to a message as parts that are kept in place.
pub(super) fn put_bytes(parts: &mut Vec<SendPart>, bytes: &[u8]) {
    if bytes.len() <= 4 * HEADER_BYTES_MAX {
        parts.extend(bytes.chunks(HEADER_BYTES_MAX).map(SendPart::header));
        return;
    }
    let mut buf = IoBuf::heap(bytes.len());
    buf.copy_from_slice(bytes);
    parts.push(SendPart::whole(buf));
}
