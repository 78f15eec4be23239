//! Job drivers.
