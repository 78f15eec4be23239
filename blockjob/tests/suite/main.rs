//! Block jobs as their drivers and users see them: memory nodes, and a body that does next to nothing.

#![expect(clippy::unwrap_used, reason = "in a test, an error is a failure")]

mod drain;
mod errors;
mod moves;
mod nodes;
mod queries;
mod speed;
mod storm;
mod world;
