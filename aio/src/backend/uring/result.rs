//! What the kernel's results mean: the end of an operation, or another try.

// UNSAFETY: takes descriptors that completions bring.
#![expect(
    unsafe_code,
    reason = "adopts descriptors that the kernel has just made"
)]

use super::{
    Uring,
    ring::{COPIED, Cqe, MORE, NOTIFICATION, Ring},
    room::Sort,
};
use crate::{
    backend::Events,
    op::{Key, Op, Value, ZeroCopy},
    request::{Place, RequestTable, Slot},
    sys,
};

impl<R: Ring> Uring<R> {
    /// Takes in a completion of an operation.
    pub(super) fn finish(
        &mut self,
        key: Key,
        cqe: Cqe,
        requests: &mut RequestTable,
        events: &mut Events,
    ) {
        let request = requests.in_flight(key);
        let in_kernel = |slot: &&mut Slot| matches!(slot.place, Place::Kernel | Place::Polled);
        let Some(request) = request.filter(in_kernel) else {
            self.stats.stale_completions += 1;
            return;
        };
        let Some(result) = final_result(request, cqe) else {
            return;
        };
        let sort = Sort::of(request.op());
        self.room.leave(sort, completions_of(request));
        if let Some(place) = request.fixed_file.take() {
            self.files.used(&mut self.ring, place);
        }
        if let Some(again) = tries_again(request, result) {
            request.place = again;
            self.room.wait(sort, key);
            return;
        }
        let result = match u32::try_from(result) {
            // SAFETY: such a completion brings a descriptor that nobody else owns.
            Ok(_) if request.op().brings_fd() => Ok(Value::Fd(unsafe { sys::adopt(result) })),
            Ok(count) => Ok(Value::Count(count)),
            Err(_) => Err(result.wrapping_neg()),
        };
        if matches!(request.op(), Op::Poll { .. }) {
            self.signal_spent = self.watches.outside().is_some();
        }
        request.place = Place::Ended;
        events.completions.push((key, result));
    }
}

/// How many completions an operation in the kernel may have at most.
pub(super) fn completions_of(request: &mut Slot) -> usize {
    let polls = request.place == Place::Polled;
    match request.op() {
        Op::Send { message, .. } if !polls && message.zero_copy != ZeroCopy::No => 2,
        _ => 1,
    }
}

/// The result of an operation, unless more completions of it follow: a zero-copy send has its result
/// before the kernel is done with the bytes.
fn final_result(request: &mut Slot, cqe: Cqe) -> Option<i32> {
    let Op::Send { socket, message } = request.op() else {
        return Some(cqe.result);
    };
    if cqe.flags & MORE != 0 {
        message.zero_copy = ZeroCopy::Sent(cqe.result);
        return None;
    }
    match message.zero_copy {
        ZeroCopy::Sent(result) => {
            let copied = cqe.result.cast_unsigned() & COPIED != 0;
            if cqe.flags & NOTIFICATION != 0 && copied {
                socket.set_no_zero_copy();
            }
            message.zero_copy = ZeroCopy::Wanted;
            Some(result)
        }
        ZeroCopy::No | ZeroCopy::Wanted => Some(cqe.result),
    }
}

/// What follows if a result only means that the operation must be tried again.
fn tries_again(request: &mut Slot, result: i32) -> Option<Place> {
    if request.is_orphan() {
        return None;
    }
    match (request.place, result.wrapping_neg()) {
        (Place::Polled, libc::EINTR | libc::EAGAIN) => Some(Place::ToPoll),
        (Place::Polled, errno) if errno <= 0 => Some(Place::Queued),
        (Place::Polled, _) => None,
        (_, libc::EINTR) => Some(Place::Queued),
        (_, libc::EOPNOTSUPP) => send_plainly(request.op()),
        // A socket that is non-blocking by flag would come back at once for ever. EAGAIN from
        // storage is for the context to deal with, on a thread that may block.
        (_, libc::EAGAIN) if request.op().waits_for() != 0 => Some(Place::ToPoll),
        _ => None,
    }
}

/// Has a message that could not be sent without a copy be sent with one.
fn send_plainly(op: &mut Op) -> Option<Place> {
    match op {
        Op::Send { socket, message } if message.zero_copy == ZeroCopy::Wanted => {
            socket.set_no_zero_copy();
            message.zero_copy = ZeroCopy::No;
            Some(Place::Queued)
        }
        _ => None,
    }
}
