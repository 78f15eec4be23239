//! Jobs as their users see them: verbs in, events and hook calls out.

mod cancel;
mod corners;
mod extension;
mod finish;
mod history;
mod lifecycle;
mod moment;
mod pause;
mod pause_all;
mod quiet;
mod refusal;
mod relocate;
mod threads;
mod transaction;
mod verbs;
mod work;
mod world;
