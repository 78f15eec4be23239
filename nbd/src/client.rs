//! [`ClientNegotiation`]: the client's side of the handshake.
//!
//! ```text
//!                   Greeting
//!           goal Go │      │ goal List
//!                   ▼      ▼
//!   StructuredReply        List ──── ACK ──▶ Ended(Listed), sends ABORT
//!      │ ACK or error       │
//!      │                    └─── error ──▶ Ended(Refused), sends ABORT
//!      ├── contexts wanted, replies structured ──▶ MetaContext
//!      │                                            │ ACK or error
//!      ▼                                            ▼
//!     Go ◀──────────────────────────────────────────┘
//!      │ ACK ──▶ Ended(Transmission)
//!      │ error "not supported" ──▶ ExportName ── 10 bytes ──▶ Ended(Transmission)
//!      └ other error ──▶ Ended(Refused), sends ABORT
//!
//!   A message that breaks the protocol leads from everywhere to Failed.
//! ```
//!
//! A server that knows neither structured replies nor contexts is taken as it
//! is: the [`ClientSession`] says what was agreed on.

mod message;

use self::message::{
    OptionReply, block_sizes, listed_export, meta_query, reply_data_bytes, unexpected,
};
use crate::error::ProtocolError;
use crate::export::{BlockSizes, ExportLimits, MetaContext};
use crate::flags::TransmissionFlags;
use crate::option::{
    INFO_BLOCK_SIZE, INFO_DESCRIPTION, INFO_EXPORT, INFO_NAME, OPT_ABORT, OPT_EXPORT_NAME, OPT_GO,
    OPT_LIST, OPT_SET_META_CONTEXT, OPT_STRUCTURED_REPLY, OPTION_REPLY_HEADER_BYTES, OptionRefusal,
    REP_ACK, REP_INFO, REP_META_CONTEXT, REP_SERVER, put_option,
};
use crate::reply::ReplyStyle;
use crate::request::HeaderMode;
use crate::wire::{
    EXPORT_NAME_ZEROES, FIXED_NEWSTYLE, Fields, GREETING_MAGIC, MAX_STRING_BYTES, NO_ZEROES,
    OPTION_MAGIC, display_text, gather, put_counted,
};

/// Most exports a list may have; a server with more is taken for broken.
pub const MAX_LISTED_EXPORTS: usize = 4096;

/// Most information replies to one `GO`.
const MAX_INFOS: u32 = 64;

/// What a client wants of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientGoal {
    /// Use an export.
    Go {
        /// Its name; empty means the server's default.
        export: String,
        /// Metadata contexts to ask for, by full name; those the server lacks
        /// are left out of the session.
        contexts: Vec<String>,
    },
    /// Learn which exports there are.
    List,
}

/// How the negotiation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientOutcome {
    /// Requests come next.
    Transmission(ClientSession),
    /// The list; send the output (a goodbye) and close.
    Listed(Vec<ListedExport>),
    /// The server said no; send the output (a goodbye) and close.
    Refused {
        /// Why.
        refusal: OptionRefusal,
        /// The server's words, as one printable line; may be empty.
        text: String,
    },
}

/// An export in a server's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedExport {
    /// The name to ask for.
    pub name: String,
    /// For people, as one printable line; may be empty.
    pub description: String,
}

/// What client and server agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientSession {
    /// What the server said of the export: check requests against it before
    /// sending. Block sizes are the default if the server told none.
    pub limits: ExportLimits,
    /// The export's canonical name, as one printable line, if told.
    pub name: Option<String>,
    /// For people, as one printable line; empty if not told.
    pub description: String,
    /// How replies look.
    pub replies: ReplyStyle,
    /// How request headers look.
    pub headers: HeaderMode,
    /// The contexts that block status replies will report.
    pub contexts: Vec<MetaContext>,
}

/// A client's negotiation with one server.
///
/// Call in turn: [`take_output`](Self::take_output) and send it;
/// [`outcome`](Self::outcome), which ends it; [`input`](Self::input) with
/// what was received. The caller limits the time.
#[derive(Debug)]
pub struct ClientNegotiation {
    state: State,
    /// The part of the current message that has arrived.
    gathered: Vec<u8>,
    output: Vec<u8>,
    export: String,
    wanted_contexts: Vec<String>,
    no_zeroes: u16,
    session: ClientSession,
}

#[derive(Debug)]
enum State {
    Greeting { first: u32 },
    StructuredReply,
    MetaContext,
    Go { infos: u32, export: InfoSeen },
    ExportName,
    List { exports: Vec<ListedExport> },
    Ended(ClientOutcome),
    Failed(ProtocolError),
}

/// Whether the one mandatory information has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InfoSeen {
    No,
    Yes,
}

impl ClientNegotiation {
    /// Starts a negotiation; the server speaks first.
    ///
    /// Names over [`MAX_STRING_BYTES`](crate::MAX_STRING_BYTES) are cut, and
    /// contexts beyond what one option holds are not asked for.
    pub fn new(goal: ClientGoal) -> Self {
        let (first, export, wanted_contexts) = match goal {
            ClientGoal::Go { export, contexts } => (OPT_STRUCTURED_REPLY, export, contexts),
            ClientGoal::List => (OPT_LIST, String::new(), Vec::new()),
        };
        Self {
            state: State::Greeting { first },
            gathered: Vec::new(),
            output: Vec::new(),
            export,
            wanted_contexts,
            no_zeroes: 0,
            session: ClientSession {
                limits: ExportLimits {
                    size_bytes: 0,
                    flags: TransmissionFlags::NONE,
                    block_sizes: BlockSizes::default(),
                    has_contexts: false,
                },
                name: None,
                description: String::new(),
                replies: ReplyStyle::Simple,
                headers: HeaderMode::Compact,
                contexts: Vec::new(),
            },
        }
    }

    /// Takes bytes from the server and says how many were taken.
    ///
    /// Takes nothing after the end: bytes left over then are replies.
    ///
    /// # Errors
    ///
    /// A [`ProtocolError`] means: drop the connection. Every further call
    /// returns it again.
    pub fn input(&mut self, bytes: &[u8]) -> Result<usize, ProtocolError> {
        let mut rest = bytes;
        loop {
            match self.advance(&mut rest) {
                Ok(true) => {}
                Ok(false) => return Ok(bytes.len() - rest.len()),
                Err(error) => {
                    self.state = State::Failed(error);
                    return Err(error);
                }
            }
        }
    }

    /// Hands out what must be sent to the server; empty if nothing waits.
    #[must_use]
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// How the negotiation ended, once it has; output may still wait.
    pub fn outcome(&self) -> Option<&ClientOutcome> {
        match &self.state {
            State::Ended(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// Takes one message and acts on it: the one place where the state moves.
    /// Says whether to go on.
    fn advance(&mut self, rest: &mut &[u8]) -> Result<bool, ProtocolError> {
        let need = self.need()?;
        if need == 0 || !gather(&mut self.gathered, need, rest) {
            return Ok(false);
        }
        // A reply's header says how much data belongs to it.
        let whole = self.need()?;
        if whole > need {
            return Ok(true);
        }
        let message = std::mem::take(&mut self.gathered);
        let placeholder = State::Failed(unexpected());
        self.state = match std::mem::replace(&mut self.state, placeholder) {
            State::Greeting { first } => self.greeting(first, &message)?,
            State::ExportName => self.export_name(&message)?,
            state => self.option_reply(state, &message)?,
        };
        Ok(true)
    }

    /// Bytes the current message needs, as far as known; zero at the end.
    fn need(&self) -> Result<usize, ProtocolError> {
        let option = match &self.state {
            State::Greeting { .. } => return Ok(18),
            State::ExportName if self.no_zeroes == 0 => return Ok(10 + EXPORT_NAME_ZEROES),
            State::ExportName => return Ok(10),
            State::Ended(_) => return Ok(0),
            State::Failed(error) => return Err(*error),
            State::StructuredReply => OPT_STRUCTURED_REPLY,
            State::MetaContext => OPT_SET_META_CONTEXT,
            State::Go { .. } => OPT_GO,
            State::List { .. } => OPT_LIST,
        };
        Ok(OPTION_REPLY_HEADER_BYTES + reply_data_bytes(option, &self.gathered)?)
    }

    fn greeting(&mut self, first: u32, message: &[u8]) -> Result<State, ProtocolError> {
        let mut fields = Fields::new(message);
        let magic = fields.u64().unwrap_or(0);
        if magic != GREETING_MAGIC {
            return Err(ProtocolError::BadMagic {
                expected: "greeting",
                found: magic,
            });
        }
        let flags = match (fields.u64(), fields.u16()) {
            (Some(OPTION_MAGIC), Some(flags)) if flags & FIXED_NEWSTYLE != 0 => flags,
            _ => return Err(ProtocolError::NotFixedNewstyle),
        };
        self.no_zeroes = flags & NO_ZEROES;
        let echoed = u32::from(FIXED_NEWSTYLE | self.no_zeroes);
        self.output.extend_from_slice(&echoed.to_be_bytes());
        put_option(&mut self.output, first, &[]);
        Ok(if first == OPT_LIST {
            State::List {
                exports: Vec::new(),
            }
        } else {
            State::StructuredReply
        })
    }

    fn export_name(&mut self, message: &[u8]) -> Result<State, ProtocolError> {
        self.export_fields(message.get(..10).unwrap_or_default())?;
        Ok(self.transmission())
    }

    fn option_reply(&mut self, state: State, message: &[u8]) -> Result<State, ProtocolError> {
        let mut fields = Fields::new(message);
        let kind = fields.bytes(12).and_then(|_| fields.u32()).unwrap_or(0);
        let data = message.get(OPTION_REPLY_HEADER_BYTES..).unwrap_or_default();
        let reply = OptionReply { kind, data };
        match state {
            State::StructuredReply => self.structured_reply(&reply),
            State::MetaContext => self.meta_context(&reply),
            State::Go { infos, export } => self.go(&reply, infos, export),
            State::List { exports } => self.list(&reply, exports),
            other => Ok(other),
        }
    }

    fn structured_reply(&mut self, reply: &OptionReply<'_>) -> Result<State, ProtocolError> {
        if reply.kind == REP_ACK {
            self.session.replies = ReplyStyle::Structured;
        } else if !reply.is_error() {
            return Err(unexpected());
        }
        if self.session.replies == ReplyStyle::Structured && !self.wanted_contexts.is_empty() {
            let data = meta_query(&self.export, &mut self.wanted_contexts);
            put_option(&mut self.output, OPT_SET_META_CONTEXT, &data);
            return Ok(State::MetaContext);
        }
        Ok(self.send_go())
    }

    fn meta_context(&mut self, reply: &OptionReply<'_>) -> Result<State, ProtocolError> {
        match reply.kind {
            REP_META_CONTEXT => {
                let context = self.new_context(reply.data).ok_or_else(unexpected)?;
                self.session.contexts.push(context);
                Ok(State::MetaContext)
            }
            REP_ACK => Ok(self.send_go()),
            _ if reply.is_error() => {
                self.session.contexts.clear();
                Ok(self.send_go())
            }
            _ => Err(unexpected()),
        }
    }

    /// A context we asked for and do not have yet, so their number is bounded.
    fn new_context(&self, data: &[u8]) -> Option<MetaContext> {
        let mut fields = Fields::new(data);
        let id = fields.u32()?;
        let asked = |name: &&String| name.as_bytes() == fields.rest();
        let name = self.wanted_contexts.iter().find(asked)?.clone();
        let known = &self.session.contexts;
        let fresh = known.iter().all(|had| had.id != id && had.name != name);
        fresh.then_some(MetaContext { id, name })
    }

    fn send_go(&mut self) -> State {
        let mut data = Vec::new();
        put_counted(&mut data, self.export.as_bytes());
        let infos = [INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE];
        data.extend_from_slice(&3_u16.to_be_bytes());
        data.extend(infos.iter().flat_map(|info| info.to_be_bytes()));
        put_option(&mut self.output, OPT_GO, &data);
        State::Go {
            infos: 0,
            export: InfoSeen::No,
        }
    }

    fn go(
        &mut self,
        reply: &OptionReply<'_>,
        infos: u32,
        export: InfoSeen,
    ) -> Result<State, ProtocolError> {
        match reply.kind {
            REP_ACK if export == InfoSeen::Yes => Ok(self.transmission()),
            REP_INFO if infos < MAX_INFOS => {
                let seen = self.info(reply.data)?;
                Ok(State::Go {
                    infos: infos + 1,
                    export: seen.unwrap_or(export),
                })
            }
            kind if OptionRefusal::from_wire(kind) == OptionRefusal::Unsupported
                && reply.is_error() =>
            {
                let name = self.export.as_bytes();
                let name = &name[..name.len().min(MAX_STRING_BYTES)];
                put_option(&mut self.output, OPT_EXPORT_NAME, name);
                Ok(State::ExportName)
            }
            _ if reply.is_error() => Ok(self.goodbye(reply.refused())),
            _ => Err(unexpected()),
        }
    }

    fn info(&mut self, data: &[u8]) -> Result<Option<InfoSeen>, ProtocolError> {
        let mut fields = Fields::new(data);
        match fields.u16().ok_or_else(unexpected)? {
            INFO_EXPORT => {
                self.export_fields(fields.rest())?;
                return Ok(Some(InfoSeen::Yes));
            }
            INFO_NAME => self.session.name = Some(display_text(fields.rest())),
            INFO_DESCRIPTION => self.session.description = display_text(fields.rest()),
            INFO_BLOCK_SIZE => self.session.limits.block_sizes = block_sizes(fields)?,
            _ => {}
        }
        Ok(None)
    }

    fn export_fields(&mut self, data: &[u8]) -> Result<(), ProtocolError> {
        let mut fields = Fields::new(data);
        let (Some(size_bytes), Some(bits), []) = (fields.u64(), fields.u16(), fields.rest()) else {
            return Err(unexpected());
        };
        let flags = TransmissionFlags::from_bits(bits);
        if !flags.contains(TransmissionFlags::HAS_FLAGS) {
            return Err(ProtocolError::BadReply("transmission flags without flags"));
        }
        self.session.limits.size_bytes = size_bytes;
        self.session.limits.flags = flags;
        Ok(())
    }

    fn list(
        &mut self,
        reply: &OptionReply<'_>,
        mut exports: Vec<ListedExport>,
    ) -> Result<State, ProtocolError> {
        match reply.kind {
            REP_SERVER if exports.len() < MAX_LISTED_EXPORTS => {
                exports.push(listed_export(reply.data).ok_or_else(unexpected)?);
                Ok(State::List { exports })
            }
            REP_ACK => Ok(self.goodbye(ClientOutcome::Listed(exports))),
            _ if reply.is_error() => Ok(self.goodbye(reply.refused())),
            _ => Err(unexpected()),
        }
    }

    fn transmission(&mut self) -> State {
        self.session.limits.has_contexts = !self.session.contexts.is_empty();
        State::Ended(ClientOutcome::Transmission(self.session.clone()))
    }

    fn goodbye(&mut self, outcome: ClientOutcome) -> State {
        put_option(&mut self.output, OPT_ABORT, &[]);
        State::Ended(outcome)
    }
}

#[cfg(test)]
mod tests;
