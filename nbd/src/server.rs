//! [`Negotiation`]: the server's side of the handshake.
//!
//! ```text
//!                 greeting is in the output from the start
//!                                  │
//!                                  ▼
//!   unknown flags ◀────────── ClientFlags
//!        │                         │ 4 bytes
//!        │                         ▼
//!        │    bad magic ◀──── OptionHeader ◀──────────────────────┐
//!        │    too many        │          │                        │
//!        │    too long        │ data is  │ data is not needed,    │ reply,
//!        │                    │ needed   │ or too much            │ drained
//!        │                    ▼          ▼                        │
//!        │               OptionData   SkippedData                 │
//!        │                    │          │                        │
//!        │                    └──────────┴─────── answer ─────────┤
//!        ▼                                          │
//!     Failed ◀───── EXPORT_NAME of no export ───────┤
//!                                                   ▼
//!                        GO, EXPORT_NAME, ABORT: Ended(Outcome)
//! ```
//!
//! One option is answered at a time, and no further byte is taken before its
//! answer was fetched: what waits to be sent is never more than the reply to
//! a single option, whatever the peer does.

mod answer;

use self::answer::{bounded, carries_data, find, lists, offered_flags, refusal_text, text_info};
use crate::error::ProtocolError;
use crate::export::{ExportInfo, ExportLimits, MetaContext};
use crate::option::{
    INFO_BLOCK_SIZE, INFO_DESCRIPTION, INFO_EXPORT, INFO_NAME, InfoQuery, MAX_OPTION_BYTES,
    MAX_SKIPPED_OPTION_BYTES, MetaQuery, OPT_ABORT, OPT_EXPORT_NAME, OPT_EXTENDED_HEADERS, OPT_GO,
    OPT_INFO, OPT_LIST, OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT, OPT_STARTTLS,
    OPT_STRUCTURED_REPLY, OPTION_HEADER_BYTES, OptionRefusal, REP_ACK, REP_INFO, REP_META_CONTEXT,
    REP_SERVER, put_reply,
};
use crate::reply::ReplyStyle;
use crate::request::HeaderMode;
use crate::wire::{
    EXPORT_NAME_ZEROES, FIXED_NEWSTYLE, Fields, GREETING_MAGIC, MAX_STRING_BYTES, NO_ZEROES,
    OPTION_MAGIC, gather, put_counted,
};

/// Most options one client may send.
///
/// A client that lists a server asks a few questions about each export, so
/// this leaves room for some hundred exports.
pub const MAX_OPTIONS: u32 = 1024;

/// How a negotiation ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Requests come next.
    Transmission(Session),
    /// The client said goodbye; send the output and close.
    Aborted,
}

/// What server and client agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Index of the export in the slice given to the call of
    /// [`Negotiation::input`] that ended the negotiation.
    pub export: usize,
    /// What the client was told, to check its requests against.
    pub limits: ExportLimits,
    /// How replies look.
    pub replies: ReplyStyle,
    /// How request headers look.
    pub headers: HeaderMode,
    /// Contexts to report in each block status reply, one chunk each.
    ///
    /// The names were the export's when the client chose them; an export that
    /// was replaced meanwhile may not have them any more.
    pub contexts: Vec<MetaContext>,
}

/// One client's negotiation, from the greeting to an [`Outcome`].
///
/// Call in turn: [`take_output`](Self::take_output) and send it all;
/// [`outcome`](Self::outcome), which ends it; [`input`](Self::input) with
/// what was received. The caller limits the time.
#[derive(Debug)]
pub struct Negotiation {
    state: State,
    /// The part of the current message that has arrived.
    gathered: Vec<u8>,
    output: Vec<u8>,
    client_flags: u16,
    replies: ReplyStyle,
    headers: HeaderMode,
    /// The last successful choice of contexts, and for which export name.
    selected: Option<Selection>,
    options_seen: u32,
}

#[derive(Debug)]
struct Selection {
    export_name: Vec<u8>,
    contexts: Vec<MetaContext>,
}

#[derive(Debug)]
enum State {
    ClientFlags,
    OptionHeader,
    OptionData {
        option: u32,
        len_bytes: usize,
    },
    SkippedData {
        option: u32,
        len_bytes: u32,
        left_bytes: usize,
    },
    Ended(Outcome),
    Failed(ProtocolError),
}

impl Default for Negotiation {
    fn default() -> Self {
        Self::new()
    }
}

impl Negotiation {
    /// Starts a negotiation; the greeting is in the output.
    pub fn new() -> Self {
        let mut output = Vec::with_capacity(18);
        output.extend_from_slice(&GREETING_MAGIC.to_be_bytes());
        output.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        output.extend_from_slice(&(FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
        Self {
            state: State::ClientFlags,
            gathered: Vec::new(),
            output,
            client_flags: 0,
            replies: ReplyStyle::Simple,
            headers: HeaderMode::Compact,
            selected: None,
            options_seen: 0,
        }
    }

    /// Takes bytes from the client and says how many were taken.
    ///
    /// Takes nothing while output waits to be fetched, and nothing after the
    /// end: bytes left over then are requests. `exports` is what the client
    /// may see now; it can differ from call to call.
    ///
    /// # Errors
    ///
    /// A [`ProtocolError`] means: drop the connection. Every further call
    /// returns it again.
    pub fn input(&mut self, bytes: &[u8], exports: &[ExportInfo]) -> Result<usize, ProtocolError> {
        let mut rest = bytes;
        while self.output.is_empty() && self.gather_message(&mut rest)? {
            if let Err(error) = self.step(exports) {
                self.state = State::Failed(error);
                return Err(error);
            }
        }
        Ok(bytes.len() - rest.len())
    }

    /// Hands out what must be sent to the client before anything else; empty
    /// if nothing waits.
    #[must_use]
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// How the negotiation ended, once it has; output may still wait.
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.state {
            State::Ended(outcome) => Some(outcome),
            State::ClientFlags
            | State::OptionHeader
            | State::OptionData { .. }
            | State::SkippedData { .. }
            | State::Failed(_) => None,
        }
    }

    /// Collects the current message; says whether it is whole.
    fn gather_message(&mut self, rest: &mut &[u8]) -> Result<bool, ProtocolError> {
        let need = match &mut self.state {
            State::ClientFlags => 4,
            State::OptionHeader => OPTION_HEADER_BYTES,
            State::OptionData { len_bytes, .. } => *len_bytes,
            State::SkippedData { left_bytes, .. } => {
                let skipped = rest.len().min(*left_bytes);
                *rest = &rest[skipped..];
                *left_bytes -= skipped;
                return Ok(*left_bytes == 0);
            }
            State::Ended(_) => return Ok(false),
            State::Failed(error) => return Err(*error),
        };
        Ok(gather(&mut self.gathered, need, rest))
    }

    /// Acts on a whole message: the one place where the state moves.
    fn step(&mut self, exports: &[ExportInfo]) -> Result<(), ProtocolError> {
        let message = std::mem::take(&mut self.gathered);
        let next = match self.state {
            State::ClientFlags => self.client_flags(&message)?,
            State::OptionHeader => self.option_header(&message)?,
            State::OptionData { option, .. } => self.option_data(option, &message, exports)?,
            State::SkippedData {
                option, len_bytes, ..
            } => self.skipped_data(option, len_bytes, exports),
            State::Ended(_) | State::Failed(_) => return Ok(()),
        };
        self.state = next;
        Ok(())
    }

    fn client_flags(&mut self, message: &[u8]) -> Result<State, ProtocolError> {
        let flags = Fields::new(message).u32().unwrap_or(0);
        match u16::try_from(flags) {
            Ok(known) if known & !(FIXED_NEWSTYLE | NO_ZEROES) == 0 => {
                self.client_flags = known;
                Ok(State::OptionHeader)
            }
            _ => Err(ProtocolError::UnknownClientFlags(flags)),
        }
    }

    fn option_header(&mut self, message: &[u8]) -> Result<State, ProtocolError> {
        let mut fields = Fields::new(message);
        let (magic, option, len_bytes) = (fields.u64(), fields.u32(), fields.u32());
        let (magic, option, len_bytes) = (
            magic.unwrap_or(0),
            option.unwrap_or(0),
            len_bytes.unwrap_or(0),
        );
        if magic != OPTION_MAGIC {
            return Err(ProtocolError::BadMagic {
                expected: "option",
                found: magic,
            });
        }
        self.options_seen += 1;
        if self.options_seen > MAX_OPTIONS {
            return Err(ProtocolError::TooManyOptions);
        }
        if self.client_flags & FIXED_NEWSTYLE == 0 && option != OPT_EXPORT_NAME {
            return Err(ProtocolError::NotFixedNewstyle);
        }
        if len_bytes > MAX_SKIPPED_OPTION_BYTES {
            return Err(ProtocolError::OptionTooLong(len_bytes));
        }
        let len =
            usize::try_from(len_bytes).map_err(|_| ProtocolError::OptionTooLong(len_bytes))?;
        if option == OPT_EXPORT_NAME && len > MAX_STRING_BYTES {
            return Err(ProtocolError::NameTooLong);
        }
        Ok(if carries_data(option) && len <= MAX_OPTION_BYTES {
            State::OptionData {
                option,
                len_bytes: len,
            }
        } else {
            State::SkippedData {
                option,
                len_bytes,
                left_bytes: len,
            }
        })
    }

    /// Answers an option whose data was not looked at.
    fn skipped_data(&mut self, option: u32, len_bytes: u32, exports: &[ExportInfo]) -> State {
        match option {
            OPT_ABORT => {
                self.reply(option, REP_ACK, &[]);
                return State::Ended(Outcome::Aborted);
            }
            OPT_LIST | OPT_STRUCTURED_REPLY | OPT_EXTENDED_HEADERS | OPT_STARTTLS
                if len_bytes != 0 =>
            {
                self.refuse(option, OptionRefusal::Invalid, "option takes no data");
            }
            OPT_STRUCTURED_REPLY | OPT_EXTENDED_HEADERS if self.headers == HeaderMode::Extended => {
                let refusal = match option {
                    OPT_EXTENDED_HEADERS => OptionRefusal::Invalid,
                    _ => OptionRefusal::ExtendedHeaders,
                };
                self.refuse(option, refusal, "extended headers are in use");
            }
            OPT_LIST => self.list(exports),
            OPT_STRUCTURED_REPLY => {
                self.replies = ReplyStyle::Structured;
                self.reply(option, REP_ACK, &[]);
            }
            OPT_STARTTLS => {
                self.refuse(option, OptionRefusal::Unsupported, "TLS is not supported");
            }
            OPT_EXTENDED_HEADERS => {
                // They bring chunks along.
                self.replies = ReplyStyle::Structured;
                self.headers = HeaderMode::Extended;
                self.reply(option, REP_ACK, &[]);
            }
            _ if carries_data(option) => {
                if option == OPT_SET_META_CONTEXT {
                    self.selected = None;
                }
                self.refuse(option, OptionRefusal::TooBig, "option data is too long");
            }
            _ => self.refuse(option, OptionRefusal::Unsupported, "unknown option"),
        }
        State::OptionHeader
    }

    /// Answers an option together with its data.
    fn option_data(
        &mut self,
        option: u32,
        data: &[u8],
        exports: &[ExportInfo],
    ) -> Result<State, ProtocolError> {
        if option == OPT_EXPORT_NAME {
            let index = find(exports, data).ok_or(ProtocolError::UnknownExport)?;
            return Ok(self.export_name(index, &exports[index]));
        }
        let answered = match option {
            OPT_INFO | OPT_GO => self.info(option, data, exports),
            OPT_LIST_META_CONTEXT => self.list_meta_context(data, exports),
            _ => self.set_meta_context(data, exports),
        };
        Ok(answered.unwrap_or_else(|refusal| {
            self.refuse(option, refusal, refusal_text(refusal));
            State::OptionHeader
        }))
    }

    fn export_name(&mut self, index: usize, export: &ExportInfo) -> State {
        let session = self.session(index, export);
        let flags = session.limits.flags.bits();
        self.output
            .extend_from_slice(&export.size_bytes.to_be_bytes());
        self.output.extend_from_slice(&flags.to_be_bytes());
        if self.client_flags & NO_ZEROES == 0 {
            self.output.extend_from_slice(&[0; EXPORT_NAME_ZEROES]);
        }
        State::Ended(Outcome::Transmission(session))
    }

    fn info(
        &mut self,
        option: u32,
        data: &[u8],
        exports: &[ExportInfo],
    ) -> Result<State, OptionRefusal> {
        let query = InfoQuery::parse(data)?;
        let index = find(exports, query.name).ok_or(OptionRefusal::UnknownExport)?;
        let export = &exports[index];
        let session = self.session(index, export);

        let mut info = INFO_EXPORT.to_be_bytes().to_vec();
        info.extend_from_slice(&export.size_bytes.to_be_bytes());
        info.extend_from_slice(&session.limits.flags.bits().to_be_bytes());
        self.reply(option, REP_INFO, &info);
        if query.asks_for(INFO_NAME) {
            self.reply(option, REP_INFO, &text_info(INFO_NAME, &export.name));
        }
        if query.asks_for(INFO_DESCRIPTION) && !export.description.is_empty() {
            let info = text_info(INFO_DESCRIPTION, &export.description);
            self.reply(option, REP_INFO, &info);
        }
        if query.asks_for(INFO_BLOCK_SIZE) {
            let sizes = export.block_sizes;
            let mut info = INFO_BLOCK_SIZE.to_be_bytes().to_vec();
            info.extend_from_slice(&sizes.minimum_bytes.to_be_bytes());
            info.extend_from_slice(&sizes.preferred_bytes.to_be_bytes());
            info.extend_from_slice(&sizes.maximum_bytes.to_be_bytes());
            self.reply(option, REP_INFO, &info);
        }
        self.reply(option, REP_ACK, &[]);
        Ok(if option == OPT_GO {
            State::Ended(Outcome::Transmission(session))
        } else {
            State::OptionHeader
        })
    }

    fn list(&mut self, exports: &[ExportInfo]) {
        for export in exports {
            let mut data = Vec::new();
            put_counted(&mut data, export.name.as_bytes());
            data.extend_from_slice(bounded(&export.description));
            self.reply(OPT_LIST, REP_SERVER, &data);
        }
        self.reply(OPT_LIST, REP_ACK, &[]);
    }

    fn list_meta_context(
        &mut self,
        data: &[u8],
        exports: &[ExportInfo],
    ) -> Result<State, OptionRefusal> {
        let (query, export) = self.meta_query(data, exports)?;
        for name in &export.contexts {
            let listed =
                query.queries.is_empty() || query.queries.iter().any(|asked| lists(asked, name));
            if listed {
                self.reply_context(OPT_LIST_META_CONTEXT, 0, name);
            }
        }
        self.reply(OPT_LIST_META_CONTEXT, REP_ACK, &[]);
        Ok(State::OptionHeader)
    }

    fn set_meta_context(
        &mut self,
        data: &[u8],
        exports: &[ExportInfo],
    ) -> Result<State, OptionRefusal> {
        // A failed attempt also ends what was selected before.
        self.selected = None;
        let (query, export) = self.meta_query(data, exports)?;
        let mut contexts = Vec::new();
        for (id, name) in (0..).zip(&export.contexts) {
            if query.queries.contains(&name.as_bytes()) {
                self.reply_context(OPT_SET_META_CONTEXT, id, name);
                contexts.push(MetaContext {
                    id,
                    name: name.clone(),
                });
            }
        }
        self.reply(OPT_SET_META_CONTEXT, REP_ACK, &[]);
        self.selected = Some(Selection {
            export_name: query.name.to_vec(),
            contexts,
        });
        Ok(State::OptionHeader)
    }

    fn meta_query<'data, 'exports>(
        &self,
        data: &'data [u8],
        exports: &'exports [ExportInfo],
    ) -> Result<(MetaQuery<'data>, &'exports ExportInfo), OptionRefusal> {
        if self.replies != ReplyStyle::Structured {
            return Err(OptionRefusal::Invalid);
        }
        let query = MetaQuery::parse(data)?;
        let index = find(exports, query.name).ok_or(OptionRefusal::UnknownExport)?;
        Ok((query, &exports[index]))
    }

    /// What transmission would look like if it began now.
    fn session(&self, index: usize, export: &ExportInfo) -> Session {
        let contexts = match &self.selected {
            Some(selection) if selection.export_name == export.name.as_bytes() => {
                selection.contexts.clone()
            }
            _ => Vec::new(),
        };
        Session {
            export: index,
            limits: ExportLimits {
                size_bytes: export.size_bytes,
                flags: offered_flags(export.flags, self.replies, self.headers),
                block_sizes: export.block_sizes,
                has_contexts: !contexts.is_empty(),
            },
            replies: self.replies,
            headers: self.headers,
            contexts,
        }
    }

    fn reply_context(&mut self, option: u32, id: u32, name: &str) {
        let mut data = id.to_be_bytes().to_vec();
        data.extend_from_slice(bounded(name));
        self.reply(option, REP_META_CONTEXT, &data);
    }

    /// Texts are ours and fixed: nothing a client sent is ever echoed.
    fn refuse(&mut self, option: u32, refusal: OptionRefusal, text: &'static str) {
        self.reply(option, refusal.to_wire(), text.as_bytes());
    }

    fn reply(&mut self, option: u32, reply_type: u32, data: &[u8]) {
        put_reply(&mut self.output, option, reply_type, data);
    }
}

#[cfg(test)]
mod tests;
