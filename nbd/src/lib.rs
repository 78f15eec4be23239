//! The NBD protocol, as bytes in and bytes out; no I/O.
