//! Connections to backends.

pub mod jwks;
