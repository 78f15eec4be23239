//! Live block jobs.
