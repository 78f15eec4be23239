//! `nbd`: an export of an NBD server, over the network or a Unix socket.
//!
//! A request runs on the context of whoever makes it; a connection lives on the context of the request
//! that it was made for, and serves the others by what they leave there. Where the server says that
//! several connections see one export, each context that uses the node gets its own, up to
//! [`NbdOptions::connections_max`], and a context with much in flight more than one.
//!
//! Data goes between the socket and the buffer of the request. What the server says is believed only as
//! far as it can be checked: whatever makes no sense ends the connection, and the requests on it fail.

mod calls;
mod connection;
mod handshake;
mod inbox;
mod links;
mod receive;
mod terms;

use std::{io, sync::Arc};

use ::nbd::{Command, CommandFlags, Errno, NbdUri, Request, STATE_ZERO, TransmissionFlags};
use aio::{AioContext, IoBuf};

use self::{
    calls::Answer,
    handshake::{HANDSHAKE_MAX_NS, connect},
    links::{CallFailure, Links, Patience},
    terms::Terms,
};
use crate::{
    allocation::{AllocationStatus, ByteRange, Extent},
    error::{BlockError, ErrorKind},
    node_driver::{
        Access, Limits, Located, NodeDriver, RequestFlags, RequestFuture, Transferred, Way,
        fixed_length,
    },
};

/// Connections unless told otherwise, where the server allows several.
const CONNECTIONS: usize = 4;
/// Most connections of a node.
const CONNECTIONS_MAX: usize = 16;
/// The pause between two attempts to open, in nanoseconds.
const OPEN_PAUSE_NS: u64 = 200_000_000;

/// Which export to use, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NbdOptions {
    /// The server and the name of the export.
    pub server: NbdUri,
    /// Refuse changes, even if the server would take them.
    pub read_only: bool,
    /// Most connections at once, from 1 to 16; more than one only if the server allows that.
    pub connections_max: usize,
    /// For how long requests wait for a server that is gone, and are made again when it is back, counted
    /// in nanoseconds from its loss. Then they fail with `EIO`. Zero: they do not wait.
    pub reconnect_delay_ns: u64,
    /// For how long opening tries again when it fails, in nanoseconds.
    pub open_timeout_ns: u64,
}

impl NbdOptions {
    /// A writable node whose requests do not wait for a lost server.
    #[must_use]
    pub fn new(server: NbdUri) -> Self {
        Self {
            server,
            read_only: false,
            connections_max: CONNECTIONS,
            reconnect_delay_ns: 0,
            open_timeout_ns: 0,
        }
    }
}

/// An export of an NBD server as a node.
///
/// A server that is lost is looked for as soon as something is asked of it again. Writes that it had
/// acknowledged and not flushed before it was lost may be gone with its machine: the protocol has no way to
/// tell, so a reconnect delay is for servers that keep what they have acknowledged. For the same
/// reason a request that is made again may be carried out twice.
///
/// There is no limit to the time of one request; [`cancel_in_flight`](NodeDriver::cancel_in_flight) ends
/// the connections and all that is in flight on them. The next request makes a new connection.
///
/// A server without flush is taken to be durable at once, as the protocol has it. Resizing is not
/// supported: the length stays what it was when the node was opened.
#[derive(Debug)]
pub struct NbdNode {
    links: Arc<Links>,
}

impl NbdNode {
    /// Connects to the server. Takes at most ten seconds for each attempt.
    ///
    /// The first request decides on which context the connection will live. Dropping the future closes it.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) for impossible options, or an export that cannot be used;
    /// [`NotFound`](ErrorKind::NotFound) when the server has no such export, or there is no such socket; else
    /// what the system or the server says.
    pub async fn open(cx: &AioContext, options: &NbdOptions) -> Result<Self, BlockError> {
        if !(1..=CONNECTIONS_MAX).contains(&options.connections_max) {
            let what = format!("an NBD node has from 1 to {CONNECTIONS_MAX} connections");
            return Err(BlockError::new(ErrorKind::Invalid, what));
        }
        let server = &options.server;
        let deadline_ns = cx.now_ns().saturating_add(options.open_timeout_ns);
        let opened = loop {
            let place = (&server.address, server.export.as_str());
            match connect(cx, place, HANDSHAKE_MAX_NS).await {
                Ok(opened) => break opened,
                Err(error) if cx.now_ns().saturating_add(OPEN_PAUSE_NS) > deadline_ns => {
                    return Err(error);
                }
                Err(_) => cx.sleep_ns(OPEN_PAUSE_NS).await,
            }
        };
        let mut terms = Terms::of(&opened.session)?;
        terms.read_only |= options.read_only;
        let connections_max = match terms.has(TransmissionFlags::CAN_MULTI_CONN) {
            true => options.connections_max,
            false => 1,
        };
        let patience = Patience {
            connections_max,
            reconnect_delay_ns: options.reconnect_delay_ns,
        };
        Ok(Self {
            links: Links::new((server.clone(), patience), terms, opened),
        })
    }

    /// How many connections there are now. Any thread.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.links.count()
    }

    fn has(&self, flag: TransmissionFlags) -> bool {
        self.links.terms().has(flag)
    }

    /// Asks the server.
    async fn ask(
        &self,
        cx: &AioContext,
        (command, flags): (Command, CommandFlags),
        range: ByteRange,
        buf: Option<IoBuf>,
    ) -> (Option<IoBuf>, Result<Answer, BlockError>) {
        let request = Request {
            cookie: 0,
            command,
            flags,
            offset_bytes: range.start(),
            len_bytes: range.len(),
        };
        let (buf, result) = self.links.exchange(cx, request, buf).await;
        (buf, result.map_err(|failure| error_of(failure, &request)))
    }

    /// Asks for reading or writing the bytes of `buf`.
    async fn transfer(
        &self,
        cx: &AioContext,
        command: (Command, CommandFlags),
        offset_bytes: u64,
        buf: IoBuf,
    ) -> Transferred {
        let len = u64::try_from(buf.len()).expect("a length of memory");
        let range = ByteRange::between(offset_bytes, offset_bytes + len);
        let (buf, result) = self.ask(cx, command, range, Some(buf)).await;
        let buf = buf.expect("a buffer comes back where one was given");
        let way = result.map(|answer| match answer.is_bounced {
            true => Way::Bounced,
            false => Way::Buffered,
        });
        (buf, way)
    }

    /// Asks for something without data, in pieces that fit the header of a request.
    async fn each_span(
        &self,
        cx: &AioContext,
        command: (Command, CommandFlags),
        range: ByteRange,
    ) -> Result<(), BlockError> {
        let mut at = range.start();
        while at < range.end() {
            let end = range.end().min(at + self.links.terms().span_bytes_max());
            let piece = ByteRange::between(at, end);
            self.ask(cx, command, piece, None).await.1?;
            at = end;
        }
        Ok(())
    }

    /// What must be asked for besides the flag that goes with a request, for it to be durable at its end.
    fn durability(&self, flags: RequestFlags) -> (CommandFlags, Flush) {
        match (flags.fua, self.has(TransmissionFlags::SEND_FUA)) {
            (false, _) => (CommandFlags::NONE, Flush::No),
            (true, true) => (CommandFlags::FUA, Flush::No),
            (true, false) => (CommandFlags::NONE, Flush::After),
        }
    }
}

/// Whether a request needs a flush behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flush {
    No,
    After,
}

/// Tells a failure as nodes do.
fn error_of(failure: CallFailure, request: &Request) -> BlockError {
    let (errno, text) = match failure {
        CallFailure::Unreachable(error) => return error,
        CallFailure::Refused { errno, text } => (errno, text),
    };
    let number = match errno {
        // Only who asked for fast zeroes may take this for "do it in another way".
        Errno::NotSup if !request.flags.contains(CommandFlags::FAST_ZERO) => libc::EIO,
        errno => i32::try_from(errno.to_wire()).expect("a small number"),
    };
    let mut what = format!("the NBD server failed the {}", name_of(request.command));
    if !text.is_empty() {
        what.push_str(&format!(" ('{text}')"));
    }
    BlockError::io(what, io::Error::from_raw_os_error(number))
}

fn name_of(command: Command) -> &'static str {
    match command {
        Command::Read => "read",
        Command::Write => "write",
        Command::Flush => "flush",
        Command::Trim => "discard",
        Command::WriteZeroes => "write of zeroes",
        Command::BlockStatus => "block status",
        Command::Disc | Command::Cache | Command::Unknown(_) => "request",
    }
}

impl Drop for NbdNode {
    fn drop(&mut self) {
        self.links.leave();
    }
}

impl NodeDriver for NbdNode {
    fn driver_name(&self) -> &'static str {
        "nbd"
    }

    fn limits(&self) -> Limits {
        self.links.terms().node_limits()
    }

    fn read<'a>(
        &'a self,
        cx: &'a AioContext,
        offset_bytes: u64,
        buf: IoBuf,
    ) -> RequestFuture<'a, Transferred> {
        let command = (Command::Read, CommandFlags::NONE);
        Box::pin(self.transfer(cx, command, offset_bytes, buf))
    }

    fn write<'a>(
        &'a self,
        cx: &'a AioContext,
        offset_bytes: u64,
        buf: IoBuf,
        flags: RequestFlags,
    ) -> RequestFuture<'a, Transferred> {
        Box::pin(async move {
            let (fua, flush) = self.durability(flags);
            let command = (Command::Write, fua);
            let (buf, result) = self.transfer(cx, command, offset_bytes, buf).await;
            if flush == Flush::After
                && result.is_ok()
                && let Err(error) = self.flush(cx).await
            {
                return (buf, Err(error));
            }
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
            let can_be_fast = self.has(TransmissionFlags::SEND_FAST_ZERO);
            if !self.has(TransmissionFlags::SEND_WRITE_ZEROES)
                || (flags.no_fallback && !can_be_fast)
            {
                let what = "the NBD server has no way to zero that is sure to be fast";
                return Err(BlockError::new(ErrorKind::Unsupported, what));
            }
            let (mut bits, flush) = self.durability(flags);
            if !flags.may_unmap {
                bits = bits | CommandFlags::NO_HOLE;
            }
            if flags.no_fallback {
                bits = bits | CommandFlags::FAST_ZERO;
            }
            self.each_span(cx, (Command::WriteZeroes, bits), range)
                .await?;
            match flush {
                Flush::No => Ok(()),
                Flush::After => self.flush(cx).await,
            }
        })
    }

    fn discard<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(async move {
            if !self.has(TransmissionFlags::SEND_TRIM) {
                return Ok(());
            }
            let command = (Command::Trim, CommandFlags::NONE);
            self.each_span(cx, command, range).await
        })
    }

    fn flush<'a>(&'a self, cx: &'a AioContext) -> RequestFuture<'a, Result<(), BlockError>> {
        Box::pin(async move {
            if !self.has(TransmissionFlags::SEND_FLUSH) {
                return Ok(());
            }
            let command = (Command::Flush, CommandFlags::NONE);
            let nothing = ByteRange::between(0, 0);
            self.ask(cx, command, nothing, None).await.1.map(drop)
        })
    }

    fn extent<'a>(
        &'a self,
        cx: &'a AioContext,
        range: ByteRange,
    ) -> RequestFuture<'a, Result<Extent, BlockError>> {
        Box::pin(async move {
            let terms = self.links.terms();
            let len_bytes = range.len().min(terms.span_bytes_max());
            if !terms.knows_extents {
                return Ok(Extent {
                    len_bytes,
                    status: AllocationStatus::Data,
                });
            }
            let asked = ByteRange::between(range.start(), range.start() + len_bytes);
            let command = (Command::BlockStatus, CommandFlags::REQ_ONE);
            let answer = self.ask(cx, command, asked, None).await.1?;
            let told = answer.extent.expect("an answer without one is an error");
            let align = u64::from(terms.limits.block_sizes.minimum_bytes);
            let len_bytes = told.len_bytes.min(len_bytes) / align * align;
            let is_zero = told.flags & STATE_ZERO != 0;
            Ok(Extent {
                // Less than a block: what is in the rest of it must be read to be known.
                len_bytes: len_bytes.max(align),
                status: if is_zero && len_bytes > 0 {
                    AllocationStatus::Zero
                } else {
                    AllocationStatus::Data
                },
            })
        })
    }

    /// Nowhere: the bytes are the server's.
    fn truncate<'a>(
        &'a self,
        _cx: &'a AioContext,
        _len_bytes: u64,
    ) -> RequestFuture<'a, Result<(), BlockError>> {
        fixed_length("the server decides about the length")
    }

    fn locate(&self, _range: ByteRange, _access: Access) -> Located<'_> {
        Located::Nowhere
    }

    fn cancel_in_flight(&self) {
        self.links.cancel();
    }
}

#[cfg(test)]
mod tests;
