//! The product against a model of the reference text, under random acts.
//!
//! Both know up to four jobs at a time, in up to three transactions and alone, over two contexts.
//! After each act both come to rest, and everything that a client or a driver can see is compared:
//! the reply, events and hooks with their order, queries, the list. What the text leaves open (the
//! order in which bodies go on) the product chooses, and the model follows.

mod act;
mod actor;
mod burst;
mod log;
mod reference;
mod run;
mod search;
mod world;
