//! Connections to backends.
