//! The QEMU Machine Protocol, as bytes in and bytes out; no I/O.
//!
//! Whoever owns the socket feeds bytes and sends what comes out.
//!
//! ```text
//!  bytes ──▶ Session ──▶ Input::Command(Request) ──▶ T::from_json(arguments) ──▶ the command
//!               │                                                                   │
//!               └──────▶ Input::Reply(line) ──▶ socket ◀── reply(id, result) ◀──────┘
//!                                                      ◀── event(name, data, time)
//! ```
//!
//! # Types
//!
//! One definition of a type gives its reading, with the protocol's errors,
//! its writing, and its part of the schema ([`types::Qapi`]).
//! Names get hyphens (`job_id` and `JobId` are `job-id`); `name = "Name"`
//! gives one that does not follow that rule.
//! Members have the visibility of their type; `Debug`, `Clone` and `PartialEq`
//! are derived, other derives may stand above the type.
//! A member that may be missing is an [`Option`]; sizes in bytes are [`Size`].
//!
//! ```
//! use qmp::types::{Null, Qapi};
//! use qmp::{Size, Value, keyval, qapi_alternate, qapi_enum, qapi_struct, qapi_union};
//! use serde_json::json;
//!
//! qapi_enum! {
//!     /// When guests wait for a mirror.
//!     pub enum CopyMode { Background, WriteBlocking, Other = "OTHER_one" }
//! }
//!
//! qapi_struct! {
//!     /// Arguments of a command.
//!     pub struct Start {
//!         /// Name of the job.
//!         job_id: Option<String>,
//!         copy_mode: CopyMode,
//!         r#type: Option<String>,
//!         max_size = "max_size": Option<Size>,
//!     }
//! }
//!
//! let start = Start::from_json(&json!({"job-id": "j", "copy-mode": "write-blocking"}));
//! let start = start.unwrap();
//! assert_eq!(start.copy_mode, CopyMode::WriteBlocking);
//! assert_eq!(start.write(), json!({"job-id": "j", "copy-mode": "write-blocking"}));
//! let error = Start::from_json(&json!({"copy-mode": "fast"})).unwrap_err();
//! assert_eq!(error.desc, "Parameter 'copy-mode' does not accept value 'fast'");
//!
//! // A flat union: common members, and others by the value of one of them, the
//! // tag. This defines three types: `Node` with its members `node_name` and
//! // `driver`; `Driver`, which has a variant with the other members for each
//! // value of the tag; and `DriverKind`, the tag as a plain enumeration.
//! // What a branch has is a `qapi_struct` of its own, or `()`.
//! qapi_union! {
//!     /// A node.
//!     pub struct Node {
//!         node_name: Option<String>,
//!     }
//!     /// What is particular to a driver.
//!     tag driver: DriverKind, pub enum Driver {
//!         NullCo(NullOptions),
//!         Raw(RawOptions),
//!         Nothing(()) = "NOTHING",
//!     }
//! }
//!
//! qapi_struct! {
//!     pub struct NullOptions { size: Option<Size>, read_zeroes: Option<bool> }
//! }
//!
//! qapi_struct! {
//!     pub struct RawOptions { file: NodeRef }
//! }
//!
//! // What is told apart by its type in JSON.
//! qapi_alternate! {
//!     /// A node, or its name.
//!     pub enum NodeRef { Reference(String), Definition(Box<Node>) }
//! }
//!
//! qapi_alternate! {
//!     pub enum StrOrNull { Str(String), Null(Null) }
//! }
//!
//! // The same type, from the text of an option.
//! let text = "raw,node-name=r,file.driver=null-co,file.size=1M,file.read-zeroes=on";
//! let node: Node = keyval::parse(text, Some("driver")).unwrap().read().unwrap();
//! let Driver::Raw(RawOptions { file: NodeRef::Definition(file) }) = &node.driver else {
//!     unreachable!()
//! };
//! let null = NullOptions { size: Some(Size(1 << 20)), read_zeroes: Some(true) };
//! assert_eq!(file.driver, Driver::NullCo(null));
//! assert_eq!(node.driver.tag(), DriverKind::Raw);
//! assert_eq!(DriverKind::NullCo.as_str(), "null-co");
//! let error = Node::from_json(&json!({"driver": "raw", "file": {"driver": "raw"}}));
//! assert_eq!(error.unwrap_err().desc, "Parameter 'file.file' is missing");
//! ```
//!
//! Events are an enumeration of what can be told, so that nothing is sent that
//! the schema does not have.
//!
//! ```
//! use qmp::{Schema, qapi_events, qapi_struct};
//!
//! qapi_struct! {
//!     pub struct ExportDeleted { id: String }
//! }
//!
//! qapi_events! {
//!     /// What clients are told of.
//!     pub enum Event { ExportDeleted(ExportDeleted) = "BLOCK_EXPORT_DELETED" }
//! }
//!
//! let event = Event::ExportDeleted(ExportDeleted { id: "e".to_owned() });
//! assert_eq!(event.name(), "BLOCK_EXPORT_DELETED");
//! assert_eq!(event.data(), serde_json::json!({"id": "e"}));
//! let mut schema = Schema::new();
//! Event::describe(&mut schema);
//! ```
//!
//! Missing on purpose: TLS and sockets (the caller's), and commands; this
//! crate knows `qmp_capabilities` and no other.

#![forbid(unsafe_code)]

mod error;
pub mod keyval;
mod message;
mod parser;
pub mod schema;
mod session;
pub mod types;

pub use error::{ErrorClass, QmpError};
pub use message::{Version, event, greeting, reply};
pub use parser::{Limits, Parser};
pub use schema::Schema;
pub use serde_json::Value;
pub use session::{Capabilities, Capability, Input, NEGOTIATE, Request, Session};
pub use types::{Null, Qapi, Size};

/// The members of a JSON object.
pub type Map<K = String, V = Value> = serde_json::Map<K, V>;
