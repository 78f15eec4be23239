//! Background jobs of any kind.
