//! A job that holds nodes.
