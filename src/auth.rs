//! Pure authentication: request facts in, verdict out.

pub mod jwt;
