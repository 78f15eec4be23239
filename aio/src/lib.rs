//! One thread's event loop.
