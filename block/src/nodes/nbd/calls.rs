//! [`Calls`]: what one connection was asked for and has not answered, without any I/O.
//!
//! ```text
//!              sender takes it        the whole reply is here
//!    Unsent ─────────────────▶ Sent ───────────────────────▶ ended
//!       │                       │                              │
//!       └───── connection ends ─┴──────────────────────────────┤
//!                                                              ▼
//!                          taken by who waits, or dropped if nobody does
//! ```
//!
//! A call whose buffer the kernel has is taken only when that is back.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    task::{Poll, Waker},
};

use aio::IoBuf;
use nbd::{Command, Errno, ProtocolError, Request, StatusExtent};

use crate::allocation::ByteRange;

/// Most pieces of a read that may be missing between others, so that no server makes us keep long lists.
const GAPS_MAX: usize = 4096;

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The server or the network is gone.
    Lost(String),
    /// The server broke the protocol; to ask it again would bring no better answer.
    Broken(ProtocolError),
    /// Somebody has given up waiting.
    Cancelled,
    /// The context where the connection lived was closed.
    Homeless,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(why) => f.write_str(why),
            Self::Broken(error) => write!(f, "{error}"),
            Self::Cancelled => f.write_str("given up"),
            Self::Homeless => f.write_str("the context it was on is closed"),
        }
    }
}

/// The server's answer to a request that succeeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// The first extent of a block status.
    pub(super) extent: Option<StatusExtent>,
    /// Data was received elsewhere first.
    pub(super) is_bounced: bool,
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CallError {
    /// The server refuses it.
    Refused {
        /// The reason.
        errno: Errno,
        /// The server's words; may be empty.
        text: String,
    },
    /// The connection ended first.
    Ended(Ending),
}

/// What comes back of a call.
#[derive(Debug)]
pub(super) struct Returned {
    /// The buffer; absent if there was none, or if it went down with a context.
    pub(super) buf: Option<IoBuf>,
    pub(super) result: Result<Answer, CallError>,
}

/// One request.
#[derive(Debug)]
pub(super) struct Call {
    request: Request,
    buf: Option<IoBuf>,
    is_sent: bool,
    /// The kernel has the buffer.
    is_lent: bool,
    /// What of a read has not come.
    missing: Vec<ByteRange>,
    answer: Answer,
    refusal: Option<CallError>,
    result: Option<Result<Answer, CallError>>,
    waker: Option<Waker>,
    is_wanted: bool,
}

/// What a change of a call leaves to be done without the lock.
#[derive(Debug, Default)]
#[must_use = "whoever waits must be woken"]
pub(super) struct Aftermath {
    waker: Option<Waker>,
    /// The last waker of a task drops what the task holds.
    unused: Option<Waker>,
    dropped: Option<Call>,
}

impl Aftermath {
    /// Wakes who waits, and drops what nobody waits for.
    pub(super) fn settle(self) {
        drop((self.unused, self.dropped));
        if let Some(waker) = self.waker {
            waker.wake();
        }
    }
}

/// What a connection has been told to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// To serve.
    Open,
    /// To say good-bye.
    Leaving,
    /// It has ended.
    Over(Ending),
}

/// The requests of one connection.
#[derive(Debug)]
pub(super) struct Calls {
    life: Life,
    next_cookie: u64,
    calls: BTreeMap<u64, Call>,
    unsent: VecDeque<u64>,
}

impl Calls {
    pub(super) fn new() -> Self {
        Self {
            life: Life::Open,
            next_cookie: 0,
            calls: BTreeMap::new(),
            unsent: VecDeque::new(),
        }
    }

    pub(super) fn life(&self) -> &Life {
        &self.life
    }

    /// Requests that have not been answered.
    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    /// Whether the sender has something to do.
    pub(super) fn needs_sender(&self) -> bool {
        !self.unsent.is_empty() || self.life != Life::Open
    }

    /// Takes a request in and gives it its cookie.
    ///
    /// # Errors
    ///
    /// The buffer comes back when the connection serves no more.
    pub(super) fn add(
        &mut self,
        mut request: Request,
        buf: Option<IoBuf>,
    ) -> Result<u64, Returned> {
        if self.life != Life::Open {
            let ending = self.ending();
            let result = Err(CallError::Ended(ending));
            return Err(Returned { buf, result });
        }
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        request.cookie = cookie;
        let missing = match request.command {
            Command::Read => ByteRange::new(request.offset_bytes, request.len_bytes),
            _ => None,
        };
        let call = Call {
            request,
            buf,
            is_sent: false,
            is_lent: false,
            missing: missing.into_iter().collect(),
            answer: Answer::default(),
            refusal: None,
            result: None,
            waker: None,
            is_wanted: true,
        };
        self.calls.insert(cookie, call);
        self.unsent.push_back(cookie);
        Ok(cookie)
    }

    /// The next request to send, with the data of a write, which [comes back](Self::give_back).
    pub(super) fn next_unsent(&mut self) -> Option<(Request, Option<IoBuf>)> {
        loop {
            let cookie = self.unsent.pop_front()?;
            // One that was dropped before it was sent is gone.
            let Some(call) = self.calls.get_mut(&cookie) else {
                continue;
            };
            call.is_sent = true;
            let is_write = call.request.command == Command::Write;
            let data = if is_write { call.buf.take() } else { None };
            call.is_lent = data.is_some();
            return Some((call.request, data));
        }
    }

    /// The request that a reply is to.
    ///
    /// # Errors
    ///
    /// There is none, so the server cannot be trusted.
    pub(super) fn request(&mut self, cookie: u64) -> Result<Request, ProtocolError> {
        self.call(cookie).map(|call| call.request)
    }

    fn call(&mut self, cookie: u64) -> Result<&mut Call, ProtocolError> {
        let call = self.calls.get_mut(&cookie);
        call.filter(|call| call.is_sent && call.result.is_none())
            .ok_or(ProtocolError::BadReply("a reply that nobody waits for"))
    }

    /// Notes that the bytes of `range` of a read are coming, and lends the buffer for them.
    ///
    /// # Errors
    ///
    /// They were not asked for, or have come already.
    pub(super) fn lend(&mut self, cookie: u64, range: ByteRange) -> Result<IoBuf, ProtocolError> {
        let call = self.call(cookie)?;
        if call.request.command != Command::Read {
            return Err(ProtocolError::BadReply("data that nobody asked for"));
        }
        let gap = call.missing.iter().position(|gap| gap.contains(range));
        let at = gap.ok_or(ProtocolError::BadReply(
            "data that nobody asked for, or twice",
        ))?;
        let gap = call.missing.swap_remove(at);
        let before = ByteRange::between(gap.start(), range.start());
        let after = ByteRange::between(range.end(), gap.end());
        let left = [before, after].into_iter().filter(|gap| !gap.is_empty());
        call.missing.extend(left);
        if call.missing.len() > GAPS_MAX {
            return Err(ProtocolError::BadReply("a read in far too many pieces"));
        }
        let buf = call.buf.take();
        let buf = buf.ok_or(ProtocolError::BadReply("data before it was asked for"))?;
        call.is_lent = true;
        Ok(buf)
    }

    /// Takes a lent buffer back.
    pub(super) fn give_back(&mut self, cookie: u64, buf: IoBuf, bounced: usize) -> Aftermath {
        if let Some(call) = self.calls.get_mut(&cookie) {
            call.buf = Some(buf);
            call.is_lent = false;
            call.answer.is_bounced |= bounced > 0;
        }
        self.look_at(cookie)
    }

    /// Notes an error; the first one counts.
    pub(super) fn refuse(
        &mut self,
        cookie: u64,
        errno: Errno,
        text: String,
    ) -> Result<(), ProtocolError> {
        let call = self.call(cookie)?;
        call.refusal
            .get_or_insert(CallError::Refused { errno, text });
        Ok(())
    }

    /// Notes the first extent of a block status.
    pub(super) fn tell_extent(
        &mut self,
        cookie: u64,
        extent: StatusExtent,
    ) -> Result<(), ProtocolError> {
        let call = self.call(cookie)?;
        call.answer.extent.get_or_insert(extent);
        Ok(())
    }

    /// Ends a call whose reply is whole.
    ///
    /// # Errors
    ///
    /// The reply claims success and leaves out what was asked for.
    pub(super) fn end(&mut self, cookie: u64) -> Result<Aftermath, ProtocolError> {
        let call = self.call(cookie)?;
        let result = match call.refusal.take() {
            Some(refusal) => Err(refusal),
            None if !call.missing.is_empty() => {
                return Err(ProtocolError::BadReply("less than was asked for"));
            }
            None if call.request.command == Command::BlockStatus
                && call.answer.extent.is_none() =>
            {
                return Err(ProtocolError::BadReply("a block status without extents"));
            }
            None => Ok(call.answer),
        };
        call.result = Some(result);
        Ok(self.look_at(cookie))
    }

    /// What follows from the state of a call.
    fn look_at(&mut self, cookie: u64) -> Aftermath {
        let mut aftermath = Aftermath::default();
        let Some(call) = self.calls.get_mut(&cookie) else {
            return aftermath;
        };
        if call.is_lent || call.result.is_none() {
            return aftermath;
        }
        if call.is_wanted {
            aftermath.waker = call.waker.take();
        } else {
            aftermath.dropped = self.calls.remove(&cookie);
        }
        aftermath
    }

    /// The end of a call, if it has come; `waker` is called when it does.
    ///
    /// The second half is a waker that is not needed any more, to be dropped without the lock.
    pub(super) fn poll(&mut self, cookie: u64, waker: &Waker) -> (Poll<Returned>, Option<Waker>) {
        let call = self.calls.get_mut(&cookie);
        let call = call.expect("it stays until it was taken here");
        if call.is_lent || call.result.is_none() {
            return (Poll::Pending, call.waker.replace(waker.clone()));
        }
        let call = self.calls.remove(&cookie).expect("it was here just now");
        let result = call.result.expect("it has one, as was seen just now");
        let returned = Returned {
            buf: call.buf,
            result,
        };
        (Poll::Ready(returned), call.waker)
    }

    /// Notes that nobody waits for a call any more. It is answered all the same if it was sent.
    pub(super) fn abandon(&mut self, cookie: u64) -> Aftermath {
        let Some(call) = self.calls.get_mut(&cookie) else {
            return Aftermath::default();
        };
        call.is_wanted = false;
        let unused = call.waker.take();
        let left = if call.is_sent {
            self.look_at(cookie)
        } else {
            Aftermath {
                dropped: self.calls.remove(&cookie),
                ..Aftermath::default()
            }
        };
        Aftermath { unused, ..left }
    }

    /// Serves no more, and says good-bye if nothing is in flight.
    pub(super) fn leave(&mut self) {
        match self.life {
            Life::Open if self.calls.is_empty() => self.life = Life::Leaving,
            Life::Open => self.life = Life::Over(Ending::Cancelled),
            Life::Leaving | Life::Over(_) => {}
        }
    }

    /// Serves no more; the first reason counts.
    pub(super) fn end_life(&mut self, ending: Ending) {
        if !matches!(self.life, Life::Over(_)) {
            self.life = Life::Over(ending);
        }
    }

    /// Ends all calls. What was lent and has not come back by now does not.
    pub(super) fn end_all(&mut self) -> Vec<Aftermath> {
        let ending = self.ending();
        self.unsent.clear();
        let cookies: Vec<u64> = self.calls.keys().copied().collect();
        let mut all = Vec::new();
        for cookie in cookies {
            if let Some(call) = self.calls.get_mut(&cookie) {
                call.is_lent = false;
                call.result
                    .get_or_insert(Err(CallError::Ended(ending.clone())));
            }
            all.push(self.look_at(cookie));
        }
        all
    }

    fn ending(&self) -> Ending {
        match &self.life {
            Life::Over(ending) => ending.clone(),
            Life::Open | Life::Leaving => Ending::Lost("it was closed".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use ::nbd::CommandFlags;

    use super::*;

    fn request(command: Command) -> Request {
        Request {
            cookie: 0,
            command,
            flags: CommandFlags::NONE,
            offset_bytes: 0,
            len_bytes: 512,
        }
    }

    fn is_pending(calls: &mut Calls, cookie: u64) -> bool {
        calls.poll(cookie, Waker::noop()).0.is_pending()
    }

    #[test]
    fn a_call_is_answered_once_and_not_before_it_was_sent() {
        let mut calls = Calls::new();
        let flush = calls.add(request(Command::Flush), None).unwrap();
        calls.request(flush).unwrap_err();
        calls.next_unsent().unwrap();
        calls.end(flush).unwrap().settle();
        calls.request(flush).unwrap_err();
        assert!(!is_pending(&mut calls, flush));
        assert_eq!(calls.len(), 0);
    }

    #[test]
    fn a_write_that_is_answered_early_ends_when_its_buffer_is_back() {
        let mut calls = Calls::new();
        let write = calls.add(request(Command::Write), Some(IoBuf::heap(512)));
        let write = write.unwrap();
        let (_, data) = calls.next_unsent().unwrap();
        calls.end(write).unwrap().settle();
        assert!(is_pending(&mut calls, write));
        calls.give_back(write, data.unwrap(), 0).settle();
        assert!(!is_pending(&mut calls, write));
    }

    #[test]
    fn what_nobody_waits_for_is_kept_until_it_is_answered_if_it_was_sent() {
        let mut calls = Calls::new();
        let [sent, unsent] = [(); 2].map(|()| calls.add(request(Command::Flush), None).unwrap());
        calls.next_unsent().unwrap();
        calls.abandon(sent).settle();
        calls.abandon(unsent).settle();
        assert_eq!(calls.len(), 1);
        assert!(calls.next_unsent().is_none());
        calls.end(sent).unwrap().settle();
        assert_eq!(calls.len(), 0);
    }

    #[test]
    fn the_end_of_a_connection_is_that_of_its_calls_and_the_first_reason_counts() {
        let mut calls = Calls::new();
        let read = calls.add(request(Command::Read), Some(IoBuf::heap(512)));
        let read = read.unwrap();
        calls.end_life(Ending::Cancelled);
        calls.end_life(Ending::Homeless);
        for aftermath in calls.end_all() {
            aftermath.settle();
        }
        let (Poll::Ready(returned), _) = calls.poll(read, Waker::noop()) else {
            panic!("it has ended");
        };
        assert!(returned.buf.is_some());
        let ended = CallError::Ended(Ending::Cancelled);
        assert_eq!(returned.result.unwrap_err(), ended);
        calls.add(request(Command::Flush), None).unwrap_err();
    }
}
