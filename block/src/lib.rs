//! Block nodes and requests; no jobs.
