//! Guests: they write stamps, read them back, zero, discard and flush, and check every reply.

use std::rc::Rc;

use aio::{AioContext, Elapsed, IoBuf};
use block::{AllocationStatus, BlockError, ByteRange, Child, RequestFlags};

use crate::{
    chance::Chance,
    disk::Op,
    history::{CELL_BYTES, Change, History},
    stage::{Line, Stage},
    trace::{self, Event},
};

/// Most bytes of one request.
const REQUEST_BYTES_MAX: u64 = 256 << 10;

/// A guest, with one of the requests that it has in flight at a time.
pub(crate) struct Guest {
    stage: Rc<Stage>,
    number: usize,
    line: usize,
    cx: AioContext,
    edge: Rc<Child>,
    chance: Chance,
}

/// Adds a guest, which begins at once.
pub(crate) fn add(stage: &Rc<Stage>, number: usize, chance: &mut Chance) {
    let line = chance.index(stage.lines.len());
    let cx = chance.pick(&stage.contexts).clone();
    let edge = Rc::new(stage.attach(line));
    let depth = stage.plan.depth;
    for _ in 0..depth {
        let guest = Guest {
            stage: stage.clone(),
            number,
            line,
            cx: cx.clone(),
            edge: edge.clone(),
            chance: chance.fork(),
        };
        let requests = stage.plan.requests.div_ceil(depth);
        stage.spawn(&cx, guest.work(requests));
    }
}

impl Guest {
    async fn work(mut self, requests: u64) {
        for _ in 0..requests {
            if self.stage.is_closing.get() {
                return;
            }
            let think_ns = self.chance.below(self.stage.plan.think_ns * 2);
            self.cx.sleep_ns(think_ns).await;
            match self.chance.below(100) {
                0..30 => self.read().await,
                30..75 => self.write().await,
                75..83 => self.change_to_nothing(Change::Zero).await,
                83..88 => self.change_to_nothing(Change::Discard).await,
                88..95 => self.flush().await,
                _ => self.look().await,
            }
            self.stage.answered.set(self.stage.answered.get() + 1);
        }
    }

    fn stage(&self) -> &Stage {
        &self.stage
    }

    fn line(&self) -> &Line {
        &self.stage.lines[self.line]
    }

    /// Some cells, now and then a lot of them, often near the beginning.
    fn draw_range(&mut self) -> ByteRange {
        let cells = self.line().history.borrow().len_bytes() / CELL_BYTES;
        let most = (REQUEST_BYTES_MAX / CELL_BYTES).min(cells);
        let len = self.chance.scale(1, most);
        let near = match self.chance.one_in(2) {
            true => cells,
            false => (cells / 8).max(1),
        };
        let start = self.chance.below(near).min(cells - len);
        let (start, len) = match self.chance.one_in(2) {
            // What fits the disk's blocks needs no second buffer.
            true if start / 64 * 64 + len.next_multiple_of(64) <= cells => {
                (start / 64 * 64, len.next_multiple_of(64))
            }
            _ => (start, len),
        };
        ByteRange::between(start * CELL_BYTES, (start + len) * CELL_BYTES)
    }

    fn issue(&self, request: u32, op: Op, range: ByteRange) {
        let (guest, at) = (self.number, (range.start(), range.len()));
        trace::note(Event::Issue {
            guest,
            request,
            op,
            at,
        });
    }

    fn ack(&self, request: u32, result: &Result<(), BlockError>, op: Op) {
        let (guest, ok) = (self.number, result.is_ok());
        trace::note(Event::Ack { guest, request, ok });
        if let Err(error) = result
            && !self.line().may_fail.get()
        {
            let text =
                format!("guest {guest} was told without a cause that {op:?} failed: {error}");
            trace::violated("D1", text);
        }
    }

    async fn buffer(&mut self, range: ByteRange) -> IoBuf {
        let len = usize::try_from(range.len()).expect("a request fits memory");
        match self.chance.one_in(2) {
            true => self.cx.buffers().acquire(len).await,
            false => IoBuf::heap(len),
        }
    }

    /// Waits for a request, unless this guest loses its patience.
    async fn wait<T>(&mut self, request: impl Future<Output = T>) -> Result<T, Elapsed> {
        if self.stage.plan.impatient && self.chance.one_in(8) {
            let patience_ns = self.chance.scale(1_000, 10_000_000);
            return self.cx.timeout_ns(patience_ns, request).await;
        }
        Ok(request.await)
    }

    async fn read(&mut self) {
        let range = self.draw_range();
        let buf = self.buffer(range).await;
        let began = self.stage().tick();
        self.issue(0, Op::Read, range);
        let (edge, cx) = (self.edge.clone(), self.cx.clone());
        let Ok((buf, result)) = self.wait(edge.read(&cx, range.start(), buf)).await else {
            return;
        };
        let now = self.stage().tick();
        let result = result.map(drop);
        self.ack(0, &result, Op::Read);
        if result.is_ok() {
            let mut history = self.line().history.borrow_mut();
            let checked = history.check_read((range.start(), &buf), (began, now));
            if let Err(text) = checked {
                trace::violated("D1", format!("guest {}: {text}", self.number));
            }
        }
    }

    async fn write(&mut self) {
        let range = self.draw_range();
        let mut buf = self.buffer(range).await;
        let fua = self.chance.one_in(10);
        let now = self.stage().tick();
        let number = self.begin(Change::Stamp, range, now);
        buf.copy_from_slice(&History::stamp(number, range));
        self.issue(number, Op::Write, range);
        let flags = RequestFlags {
            fua,
            ..RequestFlags::default()
        };
        let (edge, cx) = (self.edge.clone(), self.cx.clone());
        let written = self.wait(edge.write(&cx, range.start(), buf, flags)).await;
        let Ok((_, result)) = written else { return };
        self.settle(number, result.map(drop), Op::Write);
        if fua {
            self.stabilise(number);
        }
    }

    async fn change_to_nothing(&mut self, change: Change) {
        let range = self.draw_range();
        let now = self.stage().tick();
        let number = self.begin(change, range, now);
        let (edge, cx) = (self.edge.clone(), self.cx.clone());
        let (op, ended) = match change {
            Change::Discard => {
                self.issue(number, Op::Discard, range);
                (Op::Discard, self.wait(edge.discard(&cx, range)).await)
            }
            Change::Zero | Change::Stamp => {
                self.issue(number, Op::Zeroes, range);
                let flags = RequestFlags {
                    may_unmap: self.chance.one_in(2),
                    ..RequestFlags::default()
                };
                let zeroing = edge.write_zeroes(&cx, range, flags);
                (Op::Zeroes, self.wait(zeroing).await)
            }
        };
        if let Ok(result) = ended {
            self.settle(number, result, op);
        }
    }

    async fn flush(&mut self) {
        let began = self.stage().tick();
        self.issue(0, Op::Flush, ByteRange::between(0, 0));
        let (edge, cx) = (self.edge.clone(), self.cx.clone());
        let Ok(result) = self.wait(edge.flush(&cx)).await else {
            return;
        };
        self.ack(0, &result, Op::Flush);
        if result.is_ok() {
            let now = self.stage().tick();
            self.line().history.borrow_mut().flushed(began, now);
        }
    }

    async fn look(&mut self) {
        let range = self.draw_range();
        let began = self.stage().tick();
        self.issue(0, Op::Extent, range);
        let (edge, cx) = (self.edge.clone(), self.cx.clone());
        let Ok(result) = self.wait(edge.extent(&cx, range)).await else {
            return;
        };
        let now = self.stage().tick();
        if let Ok(extent) = &result
            && extent.status == AllocationStatus::Zero
        {
            let end = range.start() + extent.len_bytes / CELL_BYTES * CELL_BYTES;
            let run = ByteRange::between(range.start(), end);
            let history = self.line().history.borrow();
            if let Err(text) = history.check_zero(run, (began, now)) {
                trace::violated("D1", format!("guest {}: {text}", self.number));
            }
        }
        self.ack(0, &result.map(drop), Op::Extent);
    }

    fn begin(&self, change: Change, range: ByteRange, now: u64) -> u32 {
        let mut history = self.line().history.borrow_mut();
        history.issue(change, range, now)
    }

    fn settle(&self, number: u32, result: Result<(), BlockError>, op: Op) {
        let now = self.stage().tick();
        self.ack(number, &result, op);
        let mut history = self.line().history.borrow_mut();
        match result {
            Ok(()) => history.succeed(number, now),
            Err(_) => history.fail(number, now),
        }
    }

    fn stabilise(&self, number: u32) {
        let now = self.stage().tick();
        let mut history = self.line().history.borrow_mut();
        history.stabilise(number, now);
    }
}
